//! Sites and Apps: namespaces, labels, finalizers, inventory; manifests applied, readiness told.
//!
//! This room must not delete anything of a tenant, ever. It stands still while an entity is held,
//! purged or restored. What was deleted past the guard is `recreate`'s.

mod act;
pub mod app;
mod awaiting;
pub mod decide;
mod fleet;
mod hooks;
mod inventory;
mod known;
mod observe;
pub mod recreate;
mod rows;
mod table;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::Action;

use self::awaiting::Known;
use self::fleet::Fleet;
use self::hooks::Checker;
use self::inventory::Inventories;
use self::known::Asker;
use crate::api::Site;
use crate::cluster::{Context, During, Result, Shutdown, Written, drive, write_status};
use crate::store::Store;

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for one's own write to be seen.
const OWN_WRITE: Duration = Duration::from_secs(2);
/// How soon a new Site that waits for its turn to ask the store is looked at again.
const TURN: Duration = Duration::from_millis(500);
/// How often what was written is decided again at once.
const ROUNDS: usize = 3;

/// Runs the room until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    let (fleet, controllers) = Fleet::start(&ctx, &down);
    let inventories = Inventories::default();
    let room = Room {
        ctx: ctx.clone(),
        fleet: fleet.clone(),
        inventories: inventories.clone(),
        written: Written::default(),
        asker: Asker::new(store),
        checker: Checker::default(),
    };
    let sites = drive("site", controllers.sites, ctx.clone(), TIMEOUT, down.clone(), move |site| {
        reconcile(room.clone(), site)
    });
    let apps = app::run(ctx.clone(), fleet.clone(), controllers.apps, down.clone());
    tokio::join!(sites, apps, inventory::run(ctx, fleet, inventories, down));
}

#[derive(Clone)]
struct Room {
    ctx: Context,
    fleet: Fleet,
    inventories: Inventories,
    written: Written,
    asker: Asker,
    checker: Checker,
}

async fn reconcile(room: Room, site: Arc<Site>) -> Result<Action> {
    let ctx = &room.ctx;
    room.fleet.complete().await;
    if room.written.is_newer_than(site.as_ref()) {
        // The event of that write is on its way.
        return Ok(Action::requeue(OWN_WRITE));
    }
    let api: Api<Site> = Api::all(ctx.client.clone());
    let mut facts =
        observe::observe(ctx, &room.fleet, &room.inventories, Site::clone(&site)).await?;
    facts.known = room.asker.ask(&facts.site, &facts.namespaces).await;
    if facts.known == Known::InTurn {
        return Ok(Action::requeue(TURN));
    }
    if decide::site_stands_still(&facts.site).is_none() {
        facts.hooks = room.checker.look(ctx, &facts).await;
    }
    let mut decision = decide::decide(&facts, ctx.now());
    for round in 0..ROUNDS {
        if decision.effects.is_empty() {
            break;
        }
        let fresh = decision.effects.first() == Some(&decide::Effect::AddFinalizer);
        if round == 0 && !fresh {
            // Whether the site is held or restored must not come from a watch that may be late.
            let name = site.name_any();
            let live = api.get_opt(&name).await.during(format!("read Site {name}"))?;
            let Some(live) = live else { return Ok(Action::await_change()) };
            facts.site = live;
            decision = decide::decide(&facts, ctx.now());
            if decision.effects.is_empty() {
                break;
            }
        }
        // The answer to the first write is the Site as it is now: whether the rest is still to be
        // done is decided on that.
        let now: &[decide::Effect] = if fresh { &decision.effects[..1] } else { &decision.effects };
        act::act(ctx, &mut facts, now).await?;
        decision = decide::decide(&facts, ctx.now());
    }
    let old = facts.site.status.as_ref();
    if let Some(live) = write_status(&api, &facts.site, old, &decision.status, false).await? {
        room.written.note(&live);
    }
    for note in &decision.notes {
        ctx.tell(&facts.site, note).await;
    }
    if !decision.effects.is_empty() {
        return Ok(Action::requeue(OWN_WRITE));
    }
    Ok(decision.requeue.map_or_else(Action::await_change, Action::requeue))
}
