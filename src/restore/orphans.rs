//! Sites whose Restore was deleted before it had ended: nobody works on them any more, and each says
//! how to go on.

use std::collections::HashMap;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::Room;
use super::mark::give_up;
use crate::api::{RESTORE_STOPPED, Restore, Site, names};
use crate::cluster::{During, Pages, Result, Shutdown};

/// How often to look whether a Restore was deleted under way.
const LOOK: Duration = Duration::from_secs(2);
/// Between two tries when the Sites cannot be read.
const RETRY: Duration = Duration::from_secs(10);
/// Sites of one page of a list.
const PAGE: u32 = 500;

/// Looks once at all Sites, for Restores that were deleted while no operator was there; then at
/// each Restore that is deleted while it is under way. Until shutdown.
pub async fn run(room: Room, down: Shutdown) {
    let work = async {
        room.seen.wait_until_ready().await.ok();
        loop {
            while let Err(error) = sweep(&room).await {
                tracing::warn!("cannot look for Sites whose Restore was deleted: {error}");
                tokio::time::sleep(RETRY).await;
            }
            wait_for_loss(&room).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = down.wait() => {}
    }
}

/// Ends once a Restore that was under way is gone and nothing of it runs any more.
async fn wait_for_loss(room: &Room) {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut lost = false;
        room.remembered.lock().await.retain(|uid, kept| {
            let live = room.seen.get(&ObjectRef::new(&kept.name));
            let there = live.is_some_and(|live| live.uid().as_deref() == Some(uid));
            // While it is locked, somebody is still at work on it.
            let gone = !there && kept.memories.try_lock().is_ok();
            lost |= gone;
            !gone
        });
        if lost {
            room.count().await;
            return;
        }
    }
}

async fn sweep(room: &Room) -> Result<()> {
    let sites: Api<Site> = Api::all(room.ctx.bulk.clone());
    let restores: Api<Restore> = Api::all(room.ctx.client.clone());
    let mut there: HashMap<String, bool> = HashMap::new();
    let mut pages = Pages::of(PAGE);
    while let Some(params) = pages.next() {
        let list = sites.list_metadata(params).await.during("list the Sites")?;
        pages.turn(&list.metadata);
        for site in list {
            let Some(by) = site.annotations().get(names::ANNOTATION_RESTORE) else { continue };
            if !there.contains_key(by) {
                let found = restores.get_metadata_opt(by).await;
                let found = found.during(format!("read the Restore {by}"))?.is_some();
                there.insert(by.clone(), found);
            }
            if there.get(by) == Some(&false) {
                let_be(&sites, &site.name_any(), by).await?;
            }
        }
    }
    Ok(())
}

async fn let_be(sites: &Api<Site>, name: &str, restore: &str) -> Result<()> {
    let doing = format!("give up the Site {name}");
    let Some(live) = sites.get_opt(name).await.during(doing.clone())? else { return Ok(()) };
    let said = live.status.and_then(|status| status.restore).map(|restore| restore.stage);
    if said.as_deref() == Some(RESTORE_STOPPED) {
        return Ok(());
    }
    let why = format!("the Restore {restore} was deleted before the site was whole");
    give_up(sites, name, restore, &why, None).await.during(doing)
}
