//! Whether the store knows a new Site's id from backups: then the Site was lost, most likely, and
//! GitOps has made it anew. To begin anew with an empty one would be taken for the site that people
//! miss, so it waits for a Restore, or for somebody who says that it shall begin anew.

use std::sync::Arc;
use std::time::Duration;

use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::Semaphore;

use super::observe::NamespaceFacts;
use crate::api::{Reason, Site, Time, names};
use crate::store::Store;

/// How long the store may take. A Site that waits for it keeps others from being looked at.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sites that ask the store at the same time: a slow store must not stop those that live.
const ASKING: usize = 4;

/// What the store says of a Site's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was not asked: the Site lives, or is another's business.
    NotAsked,
    /// There is no backup of it.
    No,
    /// There are backups of it.
    Backups {
        /// The name that the site had.
        name: String,
        /// The newest Backup.
        backup: String,
        /// When it was made.
        time: Time,
        /// How many objects it has.
        objects: u64,
        /// The DeletionRequest by which that site was purged, if one did.
        purged_by: Option<String>,
    },
    /// There is something of it that cannot be taken; why, in words.
    Unclear(String),
    /// Nobody can tell now; why, in words.
    Unanswered(String),
    /// Others are asking: it is asked in a moment.
    InTurn,
}

/// The way to ask. Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    store: Store,
    asking: Arc<Semaphore>,
}

impl Asker {
    /// Asks this store.
    pub fn new(store: Store) -> Self {
        Self { store, asking: Arc::new(Semaphore::new(ASKING)) }
    }

    /// What the store says of the id of this Site, if that matters.
    pub async fn ask(&self, site: &Site, namespaces: &[NamespaceFacts]) -> Known {
        if !is_new(site, namespaces) {
            return Known::NotAsked;
        }
        let Ok(_turn) = self.asking.try_acquire() else {
            return Known::InTurn;
        };
        tokio::time::timeout(PATIENCE, self.look(site)).await.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Known::Unanswered(format!("the store does not answer: nothing came for {seconds} s"))
        })
    }

    async fn look(&self, site: &Site) -> Known {
        let id = &site.spec.id;
        let listing = match self.store.listing_of(id).await {
            Ok(listing) => listing,
            Err(error) => return Known::Unanswered(error.to_string()),
        };
        // A backup of this very Site tells of nothing that was lost.
        let uid = site.uid().unwrap_or_default();
        let Some(newest) = listing.entries.iter().rfind(|entry| entry.site.uid != uid) else {
            return match listing.refused.first() {
                Some(error) => Known::Unclear(error.to_string()),
                None => Known::No,
            };
        };
        let purges = self.store.purges_of(id).await;
        let purges = purges.map(|found| found.good).unwrap_or_default();
        let purge = purges.into_iter().find(|purge| purge.uid == newest.site.uid);
        Known::Backups {
            name: newest.site.name.clone(),
            backup: newest.backup.clone(),
            time: newest.time,
            objects: newest.objects,
            purged_by: purge.map(|purge| purge.request),
        }
    }
}

/// Whether a Site has never had anything here: no namespace of it was ever recorded, and nobody
/// else is at work on it.
fn is_new(site: &Site, namespaces: &[NamespaceFacts]) -> bool {
    let annotations = site.annotations();
    let marked = [names::ANNOTATION_RESTORE, names::ANNOTATION_RECREATE]
        .iter()
        .any(|mark| annotations.contains_key(*mark));
    let status = site.status.as_ref();
    let lived = status.is_some_and(|s| !s.namespaces.is_empty() || s.deletion.is_some());
    // Where all its namespaces are there, and the operator once made them its own, nothing is lost:
    // the Site alone was deleted past the guard.
    let own = |n: &NamespaceFacts| {
        n.live
            .as_ref()
            .is_some_and(|live| live.site.as_deref() == Some(&site.name_any()) && !live.terminating)
    };
    !marked
        && !lived
        && site.meta().deletion_timestamp.is_none()
        && !begins_anew(site)
        && !namespaces.iter().all(own)
}

/// Whether somebody has said that the Site shall begin anew.
fn begins_anew(site: &Site) -> bool {
    site.annotations().get(names::ANNOTATION_START_EMPTY).is_some_and(|value| value == "true")
}

impl Known {
    /// Why the Site must wait, if it must, and whether it waits for people.
    pub fn waits(&self, site: &Site) -> Option<(Reason, String)> {
        let name = site.name_any();
        let anew = format!(
            "to begin anew with an empty site: kubectl annotate site {name} {}=true",
            names::ANNOTATION_START_EMPTY
        );
        let restore = || {
            let restore = json!({
                "apiVersion": names::API_VERSION, "kind": "Restore",
                "metadata": { "generateName": format!("{name}-") },
                "spec": { "source": { "sites": { "ids": [site.spec.id] } } },
            });
            format!("echo '{restore}' | kubectl create -f -")
        };
        match self {
            Self::NotAsked | Self::No | Self::InTurn => None,
            Self::Unanswered(why) => Some((
                Reason::StoreUnavailable,
                format!(
                    "whether the store has backups of the id {:?} cannot be told, so nothing is set up: {why}; {anew}",
                    site.spec.id
                ),
            )),
            Self::Unclear(why) => Some((
                Reason::AwaitingRestore,
                format!(
                    "the store has something of the id {:?} that cannot be taken: {why}; {anew}",
                    site.spec.id
                ),
            )),
            Self::Backups { name: old, backup, time, objects, purged_by } => {
                let purged = purged_by.as_ref().map_or_else(String::new, |request| {
                    format!(", and the DeletionRequest {request} purged it")
                });
                let renamed = if *old == name {
                    String::new()
                } else {
                    format!(
                        " The site was named {old} then, and comes back under that name only once no other Site has the id."
                    )
                };
                Some((
                    Reason::AwaitingRestore,
                    format!(
                        "the store has backups of the id {:?}, the newest of {time} (Backup {backup}, {objects} objects){purged}: nothing is set up until one of these is done. To restore it: {}; {anew}.{renamed}",
                        site.spec.id,
                        restore()
                    ),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Account, NamespaceRow};
    use super::*;
    use serde_json::Value;

    fn site(metadata: Value, status: Value) -> Site {
        let mut all = json!({"name": "acme", "uid": "u"});
        all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "Site", "metadata": all,
            "spec": {"id": "site-1", "tenant": {"name": "Acme"}}, "status": status,
        }))
        .unwrap()
    }

    fn namespace(owner: Option<&str>) -> NamespaceFacts {
        let row = |owner: &str| NamespaceRow {
            uid: "n".into(),
            site: (!owner.is_empty()).then(|| owner.to_owned()),
            adopt: None,
            terminating: false,
        };
        NamespaceFacts { name: "acme".into(), live: owner.map(row), account: Account::Missing }
    }

    #[test]
    fn only_a_site_that_never_had_anything_is_asked_about() {
        let none = || json!({});
        let marked = |mark: &str, value: &str| site(json!({"annotations": {mark: value}}), none());
        let lived = json!({"namespaces": [{"name": "acme", "uid": "n"}]});
        let held =
            json!({"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": "Held"}});
        let rows = [
            (site(none(), none()), None, true),
            (site(none(), json!({"state": "AwaitingRestore"})), None, true),
            (site(none(), none()), Some(""), true),
            (site(none(), none()), Some("other"), true),
            (site(none(), none()), Some("acme"), false),
            (site(none(), lived), None, false),
            (site(none(), held), None, false),
            (site(json!({"deletionTimestamp": "2026-11-22T17:00:00Z"}), none()), None, false),
            (marked(names::ANNOTATION_RESTORE, "r"), None, false),
            (marked(names::ANNOTATION_RECREATE, "u0"), None, false),
            (marked(names::ANNOTATION_START_EMPTY, "true"), None, false),
            (marked(names::ANNOTATION_START_EMPTY, "yes"), None, true),
        ];
        for (site, owner, expected) in rows {
            assert_eq!(is_new(&site, &[namespace(owner)]), expected, "{site:?}, {owner:?}");
        }
    }
}
