//! Backups: a site's objects, found by discovery, written to the store and read back.
//!
//! Beside them: the schedules of Sites, which make Backups, what expires, and the disks that were
//! kept for it.
//!
//! This room must not change anything of a Site but what its status says of backups, must delete
//! nothing but Backups and archives that nobody needs, and must give no kept disk back to its former
//! reclaim policy that a backup, a claim or a request may still need.

mod act;
pub mod decide;
pub mod disks;
pub mod expire;
mod hooks;
mod observe;
pub mod schedule;
pub mod sweep;
mod timetable;
pub mod trim;

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::api::Backup;
use crate::cluster::{Context, Error, Result, Shutdown, drive, write_status};
use crate::store::Store;
use decide::{Decision, Step};

/// Backups that are made at the same time: each has pages of its site in memory.
const AT_ONCE: u16 = 8;
/// The limit of one reconciliation. A site is read, written and read back within it.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Runs the room until shutdown.
pub async fn run(mut ctx: Context, store: Store, down: Shutdown) {
    ctx.concurrency = ctx.concurrency.min(AT_ONCE);
    let backups: Api<DeserializeGuard<Backup>> = Api::all(ctx.client.clone());
    let controller = Controller::new(backups, watcher::Config::default());
    let (context, known) = (ctx.clone(), controller.store());
    let scheduled = timetable::run(ctx.clone(), down.clone());
    let swept = sweep::run(ctx.clone(), store.clone(), down.clone());
    let made = drive("backup", controller, ctx, TIMEOUT, down, move |backup| {
        reconcile(context.clone(), store.clone(), known.clone(), backup)
    });
    tokio::join!(made, scheduled, swept);
}

/// The Backups that the watch has told of.
type Known = kube::runtime::reflector::Store<DeserializeGuard<Backup>>;

async fn reconcile(
    ctx: Context,
    store: Store,
    known: Known,
    backup: Arc<Backup>,
) -> Result<Action> {
    let Some(mut facts) = observe::observe(&ctx, &backup.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let decision = match decide::decide(&facts, ctx.now()) {
        Step::Report(decision) => decision,
        Step::Back(job) => match hooks::before(&ctx, &store, &mut facts).await? {
            Some(decision) => decision,
            None => {
                let outcome = act::back_up(&ctx, &store, &job).await;
                decide::report(&facts, &outcome, ctx.now())
            }
        },
    };
    let verified = decision.last_backup.is_some();
    // The watch has not told of it yet.
    let own = Backup { status: Some(decision.status.clone()), ..facts.backup.clone() };
    let action = finish(&ctx, &facts, decision).await?;
    if verified {
        let site = &own.spec.site_ref.name;
        let others = |b: &Arc<DeserializeGuard<Backup>>| {
            let other = b.0.as_ref().ok().filter(|b| b.uid() != own.uid());
            other.filter(|b| b.spec.site_ref.name == *site).cloned()
        };
        let mut known: Vec<Backup> = known.state().iter().filter_map(others).collect();
        known.push(own.clone());
        // The backup is made: one object too many is no reason to do anything again.
        if let Err(error) = sweep::trim(&ctx, &store, known).await {
            tracing::warn!(site, "older Backups stay for now: {error}");
        }
    }
    Ok(action)
}

async fn finish(ctx: &Context, facts: &decide::Facts, decision: Decision) -> Result<Action> {
    if let Some(last) = &decision.last_backup {
        act::record_last_backup(ctx, facts, last).await?;
    }
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let old = facts.backup.status.as_ref();
    write_status(&api, &facts.backup, old, &decision.status, false).await?;
    for note in &decision.notes {
        ctx.tell(&facts.backup, note).await;
    }
    match decision.next {
        decide::Next::Done => Ok(Action::await_change()),
        decide::Next::Wait(wait) => Ok(Action::requeue(wait)),
        // An error, so that the driver waits longer each time.
        decide::Next::Retry(why) => {
            let doing = format!("back up the site {}", facts.backup.spec.site_ref.name);
            Err(Error::Answer { doing, what: why })
        }
    }
}
