//! Which backups a Restore takes from the store's catalogue. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::api::{PlanBackup, Reason, RestoreFailure, TargetKind, Time};
use crate::store::{CatalogueEntry, CataloguedApp, Identity, Listing, Purge, StoreError, layout};

/// So many ids are named in one message.
const NAMED: usize = 50;

/// What a Restore is of, once and for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// What is restored, from what.
    pub chosen: Vec<Chosen>,
    /// What was asked for and cannot be restored.
    pub failures: Vec<RestoreFailure>,
    /// What is to be known of it.
    pub notices: Vec<RestoreFailure>,
}

/// One site, or one App of a site, and the backup that it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chosen {
    /// Whose archive it is.
    pub site: Identity,
    /// The archive.
    pub backup: PlanBackup,
    /// When it was made.
    pub time: Time,
    /// Only this App of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<CataloguedApp>,
}

impl Chosen {
    fn of(entry: &CatalogueEntry, app: Option<&CataloguedApp>) -> Self {
        Self {
            site: entry.site.clone(),
            backup: PlanBackup {
                name: entry.backup.clone(),
                location: entry.location.clone(),
                digest: entry.digest.clone(),
                objects: entry.objects.try_into().unwrap_or(i64::MAX),
                keep_until_time: entry.keep_until_time,
            },
            time: entry.time,
            app: app.cloned(),
        }
    }

    /// What is restored, by the name under which it lives: a Site's, or `namespace/name` of an App.
    pub fn name(&self) -> String {
        match &self.app {
            Some(app) => format!("{}/{}", app.namespace, app.name),
            None => self.site.name.clone(),
        }
    }

    fn id(&self) -> &str {
        self.app.as_ref().map_or(&self.site.id, |app| &app.id)
    }
}

/// Something that was asked for by its id.
fn failure(site: &str, id: &str, reason: Reason, message: String) -> RestoreFailure {
    RestoreFailure {
        site: site.to_owned(),
        object: Some(format!("id {id}")),
        reason: reason.to_string(),
        message,
    }
}

/// Entries of the catalogue that cannot be taken, one failure each: a backup that is hidden by one
/// must not be missed in silence.
pub fn refused(errors: &[StoreError]) -> Vec<RestoreFailure> {
    let told = |error: &StoreError| RestoreFailure {
        site: String::new(),
        object: match error {
            StoreError::Entry { location, .. } | StoreError::Document { location, .. } => {
                Some(location.clone())
            }
            _ => None,
        },
        reason: Reason::CatalogueEntryRefused.to_string(),
        message: error.to_string(),
    };
    errors.iter().map(told).collect()
}

/// The backups of each id, oldest first.
fn by_id(listing: &Listing) -> BTreeMap<&str, Vec<&CatalogueEntry>> {
    let mut all: BTreeMap<&str, Vec<&CatalogueEntry>> = BTreeMap::new();
    for entry in &listing.entries {
        all.entry(&entry.site.id).or_default().push(entry);
    }
    all
}

/// The newest of these that is not later than `at`; or, in words, why there is none.
fn newest<'a>(
    entries: &[&'a CatalogueEntry],
    at: Option<Time>,
) -> Result<&'a CatalogueEntry, String> {
    let fits = |entry: &&&CatalogueEntry| at.is_none_or(|at| entry.time <= at);
    let oldest = entries.first().map_or_else(String::new, |oldest| {
        format!("the oldest backup that there is was made at {} ({})", oldest.time, oldest.backup)
    });
    entries.iter().rev().find(fits).copied().ok_or(oldest)
}

/// The sites with these ids. `really` says of ids that are no site's what they are, in words.
pub fn sites(
    ids: &[String],
    at: Option<Time>,
    listing: &Listing,
    really: &HashMap<String, String>,
) -> Choice {
    let known = by_id(listing);
    let mut choice = Choice { failures: refused(&listing.refused), ..Choice::default() };
    for id in ids {
        let Some(entries) = known.get(id.as_str()) else {
            let (reason, message) = unknown(id, really, "a site");
            choice.failures.push(failure("", id, reason, message));
            continue;
        };
        choice.take(id, entries, at, None);
    }
    choice.one_of_each_name();
    choice
}

/// The Apps with these ids, each from the newest backup that has it.
pub fn apps(
    ids: &[String],
    at: Option<Time>,
    listing: &Listing,
    really: &HashMap<String, String>,
) -> Choice {
    let mut having: HashMap<&str, Vec<(&CatalogueEntry, &CataloguedApp)>> = HashMap::new();
    for entry in &listing.entries {
        for app in entry.contents.iter().flat_map(|contents| &contents.apps) {
            having.entry(&app.id).or_default().push((entry, app));
        }
    }
    let known = by_id(listing);
    let mut choice = Choice::default();
    for id in ids {
        let Some(found) = having.get(id.as_str()) else {
            let (reason, message) = match known.get(id.as_str()).and_then(|all| all.last()) {
                Some(entry) => (
                    Reason::EntityTypeMismatch,
                    format!(
                        "it is the id of the Site {}: name it in source.sites.ids to restore that",
                        entry.site.name
                    ),
                ),
                None => unknown(id, really, "an App"),
            };
            choice.failures.push(failure("", id, reason, message));
            continue;
        };
        let entries: Vec<&CatalogueEntry> = found.iter().map(|(entry, _)| *entry).collect();
        let app = |of: &CatalogueEntry| {
            found.iter().find(|(entry, _)| entry.location == of.location).map(|(_, app)| *app)
        };
        choice.take(id, &entries, at, Some(&app));
    }
    // Only what may hide a backup of one of these is this restore's business.
    let all = choice.chosen.len() < ids.len();
    let folders: Vec<String> =
        choice.chosen.iter().map(|c| format!("{}/", layout::site_folder(&c.site.id))).collect();
    let concerns = |failure: &RestoreFailure| {
        let place = failure.object.as_deref().unwrap_or_default();
        all || folders.iter().any(|folder| place.starts_with(folder))
    };
    choice.failures.extend(refused(&listing.refused).into_iter().filter(concerns));
    choice.one_of_each_name();
    choice
}

/// Every site, but for those that were purged because people wanted it so.
pub fn all(listing: &Listing, purges: &[Purge]) -> Choice {
    let mut choice = Choice { failures: refused(&listing.refused), ..Choice::default() };
    let purged: HashMap<&str, &Purge> = purges.iter().map(|p| (p.uid.as_str(), p)).collect();
    let mut left_out = vec![];
    for (id, entries) in by_id(listing) {
        // Whoever was restored after it was purged has another UID, and backups of its own.
        match entries.last().and_then(|newest| purged.get(newest.site.uid.as_str())) {
            Some(purge) => left_out.push(*purge),
            None => choice.take(id, &entries, None, None),
        }
    }
    if !left_out.is_empty() {
        choice.notices.push(left_out_in_words(&left_out));
    }
    choice.one_of_each_name();
    choice.notices.extend(apps_that_come_along(&choice.chosen, listing, purges));
    choice
}

/// Apps that were purged after the last backup of their site was made: they are in it.
fn apps_that_come_along(
    chosen: &[Chosen],
    listing: &Listing,
    purges: &[Purge],
) -> Option<RestoreFailure> {
    let archives: HashMap<&str, Time> =
        chosen.iter().map(|c| (c.backup.location.as_str(), c.time)).collect();
    let mut having: HashMap<&str, Time> = HashMap::new();
    for entry in &listing.entries {
        let Some(time) = archives.get(entry.location.as_str()) else { continue };
        let apps = entry.contents.iter().flat_map(|contents| &contents.apps);
        having.extend(apps.map(|app| (app.id.as_str(), *time)));
    }
    let comes = |p: &&Purge| {
        let archived = having.get(p.id.as_str());
        p.kind == TargetKind::App && archived.is_some_and(|archived| *archived < p.time)
    };
    let along: Vec<&Purge> = purges.iter().filter(comes).collect();
    (!along.is_empty()).then(|| RestoreFailure {
        site: String::new(),
        object: None,
        reason: Reason::PurgedOnPurpose.to_string(),
        message: format!(
            "Apps that a DeletionRequest purged come back with their sites, whose last backups were made before that: {}. Ask for their deletion again",
            named(&along)
        ),
    })
}

/// The first of these, in words.
fn named(purges: &[&Purge]) -> String {
    let named: Vec<String> = purges
        .iter()
        .take(NAMED)
        .map(|p| format!("{} (id {}, {} at {})", p.name, p.id, p.request, p.time))
        .collect();
    let more = match purges.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more, see ledger/purged in the store"),
    };
    format!("{}{more}", named.join(", "))
}

fn left_out_in_words(left_out: &[&Purge]) -> RestoreFailure {
    RestoreFailure {
        site: String::new(),
        object: None,
        reason: Reason::PurgedOnPurpose.to_string(),
        message: format!(
            "left out, because a DeletionRequest purged them: {}. To bring one back, make a Restore with the source {{\"sites\":{{\"ids\":[\"<id>\"]}}}}",
            named(left_out)
        ),
    }
}

fn unknown(id: &str, really: &HashMap<String, String>, wanted: &str) -> (Reason, String) {
    match really.get(id) {
        Some(what) => (Reason::EntityTypeMismatch, format!("it is not the id of {wanted}: {what}")),
        None => (
            Reason::UnknownId,
            format!("the store has no verified backup of {wanted} with this id"),
        ),
    }
}

/// Gives the App of an entry.
type AppOf<'a> = &'a dyn Fn(&CatalogueEntry) -> Option<&'a CataloguedApp>;

impl Choice {
    /// Takes the newest of these backups.
    fn take(
        &mut self,
        id: &str,
        entries: &[&CatalogueEntry],
        at: Option<Time>,
        app: Option<AppOf<'_>>,
    ) {
        match newest(entries, at) {
            Ok(entry) => {
                let chosen = Chosen::of(entry, app.and_then(|app| app(entry)));
                let others: BTreeSet<&str> = entries
                    .iter()
                    .map(|e| e.site.name.as_str())
                    .filter(|name| *name != entry.site.name)
                    .collect();
                if !others.is_empty() {
                    let others: Vec<&str> = others.into_iter().collect();
                    let message = format!(
                        "there are backups of it under other names, {}, too: the newest, {}, is restored",
                        others.join(", "),
                        entry.backup
                    );
                    let site = &entry.site.name;
                    self.notices.push(failure(site, id, Reason::AmbiguousId, message));
                }
                self.chosen.push(chosen);
            }
            Err(oldest) => {
                let site = entries.first().map_or("", |entry| &entry.site.name);
                let at = at.map_or_else(String::new, |at| format!(" at {at} or before"));
                let message = format!("no backup of it was made{at}: {oldest}");
                self.failures.push(failure(site, id, Reason::NoBackupSoEarly, message));
            }
        }
    }

    /// Of two that would live under one name, the one with the newer backup is restored: both would
    /// be written into one place.
    fn one_of_each_name(&mut self) {
        let mut best: HashMap<String, (Time, String)> = HashMap::new();
        for chosen in &self.chosen {
            let this = (chosen.time, chosen.id().to_owned());
            let old = best.entry(chosen.name()).or_insert_with(|| this.clone());
            if *old < this {
                *old = this;
            }
        }
        let (kept, taken): (Vec<_>, Vec<_>) = std::mem::take(&mut self.chosen)
            .into_iter()
            .partition(|c| best.get(&c.name()).is_some_and(|(_, id)| id == c.id()));
        self.chosen = kept;
        for other in taken {
            let (_, winner) = &best[&other.name()];
            let message = format!(
                "the id {winner} has a newer backup under the name {}, and only one can have it: its newest is {} of {}",
                other.name(),
                other.backup.name,
                other.time
            );
            self.failures.push(failure(&other.site.name, other.id(), Reason::NameTaken, message));
        }
    }

    /// Notes the kinds that are in the archives and that the cluster does not serve.
    pub fn note_missing_kinds(&mut self, listing: &Listing, serves: impl Fn(&str, &str) -> bool) {
        let chosen: BTreeSet<&str> =
            self.chosen.iter().map(|c| c.backup.location.as_str()).collect();
        let mut missing = BTreeMap::new();
        for entry in listing.entries.iter().filter(|e| chosen.contains(e.location.as_str())) {
            for kind in entry.contents.iter().flat_map(|contents| &contents.kinds) {
                if !serves(&kind.api_version, &kind.kind) {
                    *missing.entry(kind).or_insert(0_usize) += 1;
                }
            }
        }
        let told = missing.into_iter().map(|(kind, sites)| RestoreFailure {
            site: String::new(),
            object: Some(format!("{} {}", kind.api_version, kind.kind)),
            reason: Reason::KindMissing.to_string(),
            message: format!(
                "this cluster does not serve it, and {sites} of the archives have objects of it, which fail while the rest comes back: install the CustomResourceDefinition {} and make another Restore",
                kind.crd
            ),
        });
        self.notices.splice(0..0, told);
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
