//! DeletionRequests: plan, gates, hold, purge, release.
//!
//! This is the only room that deletes, and it deletes only with a token that the gates make. It
//! must not decide on a cache: every fact behind an irreversible step is a live read.

mod act;
mod app_objects;
mod apps;
mod backups;
pub mod decide;
pub mod digest;
mod entities;
#[cfg(test)]
mod fixtures;
pub mod gates;
pub mod held;
mod hold;
mod ledger;
pub mod live;
mod observe;
#[cfg(test)]
mod past_guard_tests;
pub mod plan;
mod policy;
pub mod purge;
#[cfg(test)]
mod random_tests;
mod release;
mod waves;
#[cfg(test)]
mod world;
#[cfg(test)]
mod world_checks;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use crate::api::{Backup, DeletionRequest};
use crate::cluster::{Context, Error, Result, Shutdown, drive, watch_guard, write_status};
use crate::store::Store;

pub use observe::{AppFacts, Facts, OpenRequest, PolicyFacts, SiteFacts};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How soon to decide again when what was decided on has changed meanwhile.
const CHANGED: Duration = Duration::from_millis(200);

/// Runs the room until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    tokio::join!(
        run_requests(ctx.clone(), store.clone(), down.clone()),
        policy::run(ctx.clone(), store, down.clone()),
        watch_guard(ctx, down),
    );
}

async fn run_requests(ctx: Context, store: Store, down: Shutdown) {
    let requests: Api<DeserializeGuard<DeletionRequest>> = Api::all(ctx.client.clone());
    let backups: Api<PartialObjectMeta<Backup>> = Api::all(ctx.client.clone());
    let controller = Controller::new(requests, watcher::Config::default());
    let known = controller.store();
    let ours = watcher::Config::default().labels(observe::LABEL_REQUEST_UID);
    let controller = controller.watches_with(backups, (), ours, move |backup| {
        let uid = backup.labels().get(observe::LABEL_REQUEST_UID).cloned();
        let request = known.find(|request| request.uid() == uid);
        request.map(|request| ObjectRef::new(&request.name_any()))
    });
    let controller = controller.reconcile_all_on(ctx.guard.changes());
    let context = ctx.clone();
    drive("deletion", controller, ctx, TIMEOUT, down, move |request| {
        reconcile(context.clone(), store.clone(), request)
    })
    .await;
}

async fn reconcile(ctx: Context, store: Store, request: Arc<DeletionRequest>) -> Result<Action> {
    let Some(facts) = observe::observe(&ctx, &store, &request.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let mut decision = decide::decide(&facts, ctx.now());
    let written = async {
        let refused = act::act(&ctx, &store, &facts, &decision.effects).await?;
        decide::tell_refused(&facts, &mut decision, &refused, ctx.now());
        let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
        // Strict: a status that was decided on an older request, one without the cancel of this
        // very moment for example, must not be written.
        let added_finalizer = decision.effects.contains(&decide::Effect::AddFinalizer);
        if added_finalizer || decision.effects.contains(&decide::Effect::RemoveFinalizer) {
            // The finalizer has changed the request; decide again on what is so now.
            return Ok(false);
        }
        let old = facts.request.status.as_ref();
        write_status(&api, &facts.request, old, &decision.status, true).await?;
        Ok::<_, Error>(true)
    };
    match written.await {
        Ok(true) => {}
        Ok(false) => return Ok(Action::requeue(Duration::ZERO)),
        Err(error) if error.status().is_some_and(|s| s.code == 409) => {
            tracing::debug!(request = request.name_any(), %error, "changed meanwhile");
            return Ok(Action::requeue(CHANGED));
        }
        Err(error) => return Err(error),
    }
    for note in &decision.notes {
        ctx.tell(&facts.request, note).await;
    }
    Ok(decision.requeue.map_or_else(Action::await_change, Action::requeue))
}
