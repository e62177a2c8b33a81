//! Reads the store's catalogue for a Restore, once: what it chose is written into the store, and
//! stays the same whatever becomes of the catalogue, and however often the operator starts anew.

use std::collections::HashMap;
use std::time::Duration;

use kube::ResourceExt;

use super::choose::{self, Choice, Chosen};
use crate::api::{
    DeletionRequest, EntityPhase, PlanEntity, Reason, Restore, RestoreFailure, RestoreIds,
    TargetKind, Time,
};
use crate::cluster::{Context, lookup};
use crate::store::{CataloguedApp, Listing, Store, StoreError};

/// How old the list of kinds may be by which missing ones are told.
const KINDS_MAX_AGE: Duration = Duration::from_secs(5);
/// By how much a person's clock may be ahead of the API server's, in seconds.
const AHEAD: i64 = 60;

/// Why nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchosen {
    /// It can never be.
    Refused(Reason, String),
    /// Not yet.
    Waits(Reason, String),
}

/// What a Restore is of that takes its backups from the catalogue. None: it does not.
pub async fn chosen(
    ctx: &Context,
    store: &Store,
    restore: &Restore,
    request: Option<&DeletionRequest>,
) -> Option<Result<Choice, Unchosen>> {
    if let Some(apps) = request.map(purged_apps).filter(|apps| !apps.is_empty()) {
        return Some(once(store, restore, of_request(store, &apps)).await);
    }
    let source = &restore.spec.source;
    if source.sites.is_none() && source.apps.is_none() && source.store.is_none() {
        return None;
    }
    Some(once(store, restore, choose(ctx, store, restore)).await)
}

fn stopped(error: &StoreError) -> Unchosen {
    if error.may_pass() {
        Unchosen::Waits(Reason::StoreUnavailable, error.to_string())
    } else {
        Unchosen::Refused(Reason::ArchiveInvalid, error.to_string())
    }
}

/// What was chosen before; or what is chosen now, written down.
async fn once(
    store: &Store,
    restore: &Restore,
    choice: impl Future<Output = Result<Choice, Unchosen>>,
) -> Result<Choice, Unchosen> {
    let uid = restore.uid().unwrap_or_default();
    match store.choice(&uid).await {
        Ok(Some(choice)) => return Ok(choice),
        Ok(None) => {}
        Err(error) => return Err(stopped(&error)),
    }
    let choice = choice.await?;
    if choice.chosen.is_empty() && choice.failures.is_empty() {
        let mut why = "the store has no backup of a site that could be restored".to_owned();
        for notice in &choice.notices {
            why.push_str(&format!("; {}", notice.message));
        }
        return Err(Unchosen::Refused(Reason::NothingToRestore, why));
    }
    store.choose(&uid, &choice).await.map_err(|error| stopped(&error))
}

async fn choose(ctx: &Context, store: &Store, restore: &Restore) -> Result<Choice, Unchosen> {
    let stopped = |error| stopped(&error);
    let source = &restore.spec.source;
    let named = source.sites.as_ref().or(source.apps.as_ref());
    if let Some(why) = named.and_then(|named| not_come(named, restore)) {
        return Err(Unchosen::Refused(Reason::TimeNotCome, why));
    }
    let mut listing;
    let mut choice = if let Some(RestoreIds { ids, at_time }) = &source.sites {
        listing = Listing::default();
        for id in ids {
            let mut more = store.listing_of(id).await.map_err(stopped)?;
            listing.entries.append(&mut more.entries);
            listing.refused.append(&mut more.refused);
        }
        let known = |id: &&String| listing.entries.iter().any(|e| e.site.id == **id);
        let unknown: Vec<String> = ids.iter().filter(|id| !known(id)).cloned().collect();
        let really = what_they_are(ctx, store, &unknown, TargetKind::App).await?;
        choose::sites(ids, *at_time, &listing, &really)
    } else if let Some(RestoreIds { ids, at_time }) = &source.apps {
        listing = store.catalogue().await.map_err(stopped)?;
        let really = what_they_are_here(ctx, ids, TargetKind::Site).await?;
        choose::apps(ids, *at_time, &listing, &really)
    } else {
        listing = store.catalogue().await.map_err(stopped)?;
        let purges = store.purges().await.map_err(stopped)?;
        let mut choice = choose::all(&listing, &purges.good);
        choice.failures.extend(choose::refused(&purges.refused));
        choice
    };
    let kinds = ctx.kinds(KINDS_MAX_AGE).await;
    let kinds = kinds.map_err(|e| Unchosen::Waits(Reason::DiscoveryFailed, e.to_string()))?;
    choice.note_missing_kinds(&listing, |version, kind| kinds.find(version, kind).is_some());
    Ok(choice)
}

/// Why no backup can be as old as that.
fn not_come(named: &RestoreIds, restore: &Restore) -> Option<String> {
    let at = named.at_time?;
    let now = Time::from(restore.metadata.creation_timestamp.as_ref()?);
    (at.seconds_since(now) > AHEAD).then(|| {
        format!("atTime {at} had not come when the Restore was made, at {now}: both are in UTC, which Z says")
    })
}

/// Of ids that no site in the catalogue has: what they are instead, in words.
async fn what_they_are(
    ctx: &Context,
    store: &Store,
    ids: &[String],
    kind: TargetKind,
) -> Result<HashMap<String, String>, Unchosen> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut really = what_they_are_here(ctx, ids, kind).await?;
    let listing = store.catalogue().await.map_err(|error| stopped(&error))?;
    for entry in &listing.entries {
        for app in entry.contents.iter().flat_map(|contents| &contents.apps) {
            if ids.contains(&app.id) {
                let CataloguedApp { id, namespace, name } = app;
                let what = format!(
                    "it is the id of the App {namespace}/{name} of the Site {}; to restore that, name it in source.apps.ids",
                    entry.site.name
                );
                really.insert(id.clone(), what);
            }
        }
    }
    Ok(really)
}

/// The same by what lives in the cluster: entities of this kind.
async fn what_they_are_here(
    ctx: &Context,
    ids: &[String],
    kind: TargetKind,
) -> Result<HashMap<String, String>, Unchosen> {
    let holders = lookup(&ctx.client, ids).await;
    let holders = holders.map_err(|e| Unchosen::Waits(Reason::Progressing, e.to_string()))?;
    let mut really = HashMap::new();
    for (id, holders) in holders {
        if let Some(holder) = holders.iter().find(|holder| holder.kind == kind) {
            really.insert(id, format!("it is the id of the {}, which lives", holder.describe()));
        }
    }
    Ok(really)
}

/// The Apps that a request has purged, once it has ended.
fn purged_apps(request: &DeletionRequest) -> Vec<&PlanEntity> {
    let status = request.status.as_ref().filter(|status| status.has_ended());
    let entities = status.and_then(|s| s.plan.as_ref()).into_iter().flat_map(|p| &p.entities);
    let purged = |e: &&PlanEntity| e.kind == TargetKind::App && e.phase == EntityPhase::Purged;
    entities.filter(purged).collect()
}

/// The Apps that a request has purged, from the backups that it recorded.
async fn of_request(store: &Store, apps: &[&PlanEntity]) -> Result<Choice, Unchosen> {
    let mut choice = Choice::default();
    for entity in apps {
        let app = CataloguedApp {
            id: entity.id.clone(),
            namespace: entity.namespaces.first().map(|n| n.name.clone()).unwrap_or_default(),
            name: entity.name.clone(),
        };
        let mut fail = |why: String| {
            choice.failures.push(RestoreFailure {
                site: String::new(),
                object: Some(format!("id {}", entity.id)),
                reason: Reason::BackupNotFound.to_string(),
                message: why,
            });
        };
        let Some(backup) = &entity.backup else {
            fail("the DeletionRequest recorded no backup of it".to_owned());
            continue;
        };
        match store.entry_of(&backup.location).await {
            Ok(Some(entry)) => choice.chosen.push(Chosen {
                site: entry.site,
                backup: backup.clone(),
                time: entry.time,
                app: Some(app),
            }),
            Ok(None) => fail(format!("the Backup {} is not in the store any more", backup.name)),
            Err(error) if error.may_pass() => return Err(stopped(&error)),
            Err(error) => fail(error.to_string()),
        }
    }
    Ok(choice)
}
