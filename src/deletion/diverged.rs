//! At every start, what the store's ledger has as purged is compared with what lives: an etcd that
//! was restored from an old snapshot brings back what was purged, under its old UIDs. Nothing is
//! done about it but telling; [`super::ledger::executed`] keeps a request from running twice.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::api::{App, Deletion, DeletionPhase, Reason, Site, TargetKind};
use crate::cluster::{Context, During, EntityRow, Error, Note, Result, Shutdown, list_entities};
use crate::store::{Purge, Store};

/// Between two tries while the store or the API server does not answer.
const RETRY: Duration = Duration::from_secs(30);

/// Compares once, as soon as that can be done.
pub(super) async fn run(ctx: Context, store: Store, down: Shutdown) {
    let work = async {
        while let Err(error) = compare(&ctx, &store).await {
            tracing::warn!(%error, "cannot compare the ledger of what was purged with what lives");
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = down.wait() => {}
    }
}

async fn compare(ctx: &Context, store: &Store) -> Result<()> {
    let unread = |error| Error::answer("read the ledger of what was purged".to_owned(), error);
    let found = store.purges().await.map_err(unread)?;
    for refused in &found.refused {
        tracing::warn!(%refused, "a line of the ledger of what was purged cannot be taken");
    }
    let by_uid: HashMap<&str, &Purge> = found.good.iter().map(|p| (p.uid.as_str(), p)).collect();
    let mut alive = 0;
    if !by_uid.is_empty() {
        for kind in [TargetKind::Site, TargetKind::App] {
            let keep = |row: &EntityRow| by_uid.contains_key(row.holder.uid.as_str());
            for row in list_entities(&ctx.client, kind, keep).await? {
                let purge = by_uid[row.holder.uid.as_str()];
                alive += i64::from(tell(ctx, store, &row, purge).await?);
            }
        }
    }
    ctx.metrics.purged_yet_alive.set(alive);
    Ok(())
}

/// Tells of an entity that lives though it was purged. False: it is as it should be.
async fn tell(ctx: &Context, store: &Store, row: &EntityRow, purge: &Purge) -> Result<bool> {
    let holder = &row.holder;
    let note = Note::warning(
        Reason::PurgedBefore,
        format!(
            "the ledger in the store has it that the DeletionRequest {} purged this {} (UID {}) at {}, and it lives: the cluster was set back to an earlier state. It is left alone; if it is to go, ask for its deletion anew",
            purge.request, holder.kind, holder.uid, purge.time
        ),
    );
    if let Some(namespace) = &holder.namespace {
        let api: Api<App> = Api::namespaced(ctx.client.clone(), namespace);
        let of = |app: &App| app.status.as_ref().and_then(|status| status.deletion.clone());
        let Some(live) = staying(api, row, purge, of).await? else { return Ok(false) };
        ctx.tell(&live, &note).await;
        return Ok(true);
    }
    let of = |site: &Site| site.status.as_ref().and_then(|status| status.deletion.clone());
    let Some(live) = staying(Api::all(ctx.client.clone()), row, purge, of).await? else {
        return Ok(false);
    };
    // A backup of its own, made since, says that it is meant to live.
    let listing = store.listing_of(&purge.id).await;
    let listing =
        listing.map_err(|error| Error::answer(format!("list its backups: {}", purge.id), error))?;
    if listing.entries.iter().any(|e| e.site.uid == purge.uid && e.time > purge.time) {
        return Ok(false);
    }
    ctx.tell(&live, &note).await;
    Ok(true)
}

/// The entity of this row, if it is there and is not on its way out by that very purge.
async fn staying<K>(
    api: Api<K>,
    row: &EntityRow,
    purge: &Purge,
    deletion: impl Fn(&K) -> Option<Deletion>,
) -> Result<Option<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let holder = &row.holder;
    let doing = format!("read {}", holder.describe());
    let live = api.get_opt(&holder.name).await.during(doing)?;
    let live = live.filter(|live| live.meta().uid.as_ref() == Some(&holder.uid));
    // The note comes before the last DELETE: who was stopped in between goes on with it.
    let goes =
        |d: Deletion| d.phase == DeletionPhase::Purging && d.request_uid == purge.request_uid;
    Ok(live.filter(|live| !deletion(live).is_some_and(goes)))
}
