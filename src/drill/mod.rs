//! Drills: restores that are tried on schedule. A drill chooses a sample of backups, has the room of
//! restores bring it back into scratch namespaces, takes these away again, and writes down what was
//! proved and what was not.
//!
//! What comes here must have no effect outside of the scratch namespaces but on our own kinds. The
//! only namespaces that it may delete carry the label of the drill, which nobody can put on one that
//! is there already, and are written down by name and UID in its status before.

mod act;
mod asked;
mod choose;
pub mod decide;
mod observe;
mod outcome;
mod timing;

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::api::{DrillOutcome, RestoreDrill};
use crate::cluster::drill_metrics::{DrillGauges, Outcome};
use crate::cluster::{Context, Result, Shutdown, drive, write_status};
use crate::store::Store;

/// The limit of one look at a drill: the whole catalogue may be read in it.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Runs the room until shutdown.
pub async fn run(mut ctx: Context, store: Store, down: Shutdown) {
    // One after the other: that is what keeps two drills from beginning at once. Whatever takes long
    // is done by the room of restores.
    ctx.concurrency = 1;
    let drills: Api<DeserializeGuard<RestoreDrill>> = Api::all(ctx.client.clone());
    let controller = Controller::new(drills, watcher::Config::default());
    let (known, clock) = (controller.store(), ctx.clone());
    ctx.metrics.drills.count(move || {
        let all = known.state();
        all.iter().filter_map(|drill| gauges(drill.0.as_ref().ok()?, &clock)).collect()
    });
    let context = ctx.clone();
    let asked = asked::run(ctx.clone(), down.clone());
    let drills = drive("drill", controller, ctx, TIMEOUT, down, move |drill| {
        reconcile(context.clone(), store.clone(), drill)
    });
    tokio::join!(drills, asked);
}

fn gauges(drill: &RestoreDrill, ctx: &Context) -> Option<DrillGauges> {
    let status = drill.status.as_ref()?;
    Some(DrillGauges {
        drill: drill.name_any(),
        last_success: status.last_success_time.map(|time| time.utc().timestamp()),
        last_failed: status.runs.first().map(|run| run.outcome == Some(DrillOutcome::Failed)),
        recovery_seconds: status.runs.iter().find_map(|run| run.recovery_seconds),
        overdue: timing::is_overdue(drill, ctx.now()),
    })
}

async fn reconcile(ctx: Context, store: Store, drill: Arc<RestoreDrill>) -> Result<Action> {
    let Some(facts) = observe::observe(&ctx, &store, &drill.name_any(), ctx.now()).await? else {
        return Ok(Action::await_change());
    };
    let decision = decide::decide(&facts, ctx.now());
    let live = act::act(&ctx, &store, &facts.drill, &decision.effects).await?;
    let api: Api<RestoreDrill> = Api::all(ctx.client.clone());
    // Strict: what was decided on an old look must not be written over a newer one.
    write_status(&api, &live, facts.drill.status.as_ref(), &decision.status, true).await?;
    for note in &decision.notes {
        ctx.tell(&facts.drill, note).await;
    }
    if let Some(ended) = decision.ended {
        let outcome = match ended {
            DrillOutcome::Succeeded => "succeeded",
            DrillOutcome::Failed => "failed",
        };
        ctx.metrics.drills.runs.get_or_create(&Outcome { outcome }).inc();
    }
    Ok(decision.requeue.map_or_else(Action::await_change, Action::requeue))
}
