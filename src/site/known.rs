//! Asks the store whether it knows a new Site's id from backups.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Semaphore;

use super::awaiting::{Known, is_new};
use super::observe::NamespaceFacts;
use crate::api::Site;
use crate::store::Store;

/// How long the store may take. A Site that waits for it keeps others from being looked at.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sites that ask the store at the same time: a slow store must not stop those that live.
const ASKING: usize = 4;

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
