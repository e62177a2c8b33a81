//! DeletionRequests: plan, gates, hold, purge, release.
//!
//! This is the only room that deletes, and it deletes only with a token that the gates make. It
//! must not decide on a cache: every fact behind an irreversible step is a live read.

mod act;
mod alertmanager;
pub mod alerts;
mod backups;
#[cfg(test)]
mod cancel_tests;
pub mod decide;
pub mod digest;
pub mod drilled;
#[cfg(test)]
mod fixtures;
pub mod gates;
mod hold;
mod ledger;
mod observe;
#[cfg(test)]
mod past_guard_tests;
pub mod plan;
mod policy;
#[cfg(test)]
mod production_tests;
pub mod purge;
#[cfg(test)]
mod random_tests;
pub mod rolling;
mod rolling_ledger;
#[cfg(test)]
mod world;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use self::alertmanager::Sources;
use crate::api::{
    Backup, ConditionStatus, ConditionType, Conditions, DeletionRequest, DeletionRequestStatus,
    RequestState,
};
use crate::cluster::metrics::{Ended, RequestCounts};
use crate::cluster::{Context, Error, Result, Shutdown, drive, watch_guard, write_status};
use crate::store::Store;

pub use observe::{Claim, Facts, OpenRequest, PolicyFacts, SiteFacts};

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

async fn run_requests(ctx: Context, ledger: Store, down: Shutdown) {
    let requests: Api<DeserializeGuard<DeletionRequest>> = Api::all(ctx.client.clone());
    let backups: Api<PartialObjectMeta<Backup>> = Api::all(ctx.client.clone());
    let controller = Controller::new(requests, watcher::Config::default());
    let store = controller.store();
    let counted = store.clone();
    let ours = watcher::Config::default().labels(observe::LABEL_REQUEST_UID);
    let controller = controller.watches_with(backups, (), ours, move |backup| {
        let uid = backup.labels().get(observe::LABEL_REQUEST_UID).cloned();
        let request = store.find(|request| request.uid() == uid);
        request.map(|request| ObjectRef::new(&request.name_any()))
    });
    let controller = controller.reconcile_all_on(ctx.guard.changes());
    ctx.metrics.count_requests(move || count(&counted.state()));
    let context = ctx.clone();
    let sources = Arc::<Sources>::default();
    drive("deletion", controller, ctx, TIMEOUT, down, move |request| {
        reconcile(context.clone(), ledger.clone(), sources.clone(), request)
    })
    .await;
}

async fn reconcile(
    ctx: Context,
    ledger: Store,
    sources: Arc<Sources>,
    request: Arc<DeletionRequest>,
) -> Result<Action> {
    let Some(facts) = observe::observe(&ctx, &sources, &request.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let decision = decide::decide(&facts, ctx.now());
    let written = async {
        act::act(&ctx, &ledger, &facts, &decision.effects).await?;
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
        Ok(true) => told_of_its_end(&ctx, facts.request.status.as_ref(), &decision.status),
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

/// Counts a request that has just ended.
fn told_of_its_end(
    ctx: &Context,
    before: Option<&DeletionRequestStatus>,
    now: &DeletionRequestStatus,
) {
    let ended = |status: &DeletionRequestStatus| status.state.is_some_and(RequestState::is_final);
    if ended(now) && !before.is_some_and(ended) {
        let state = now.state.map_or_else(String::new, |state| format!("{state:?}"));
        let reason = now.conditions.get(ConditionType::Succeeded);
        let reason = reason.map_or_else(String::new, |c| c.reason.clone());
        ctx.metrics.requests_ended.get_or_create(&Ended { state, reason }).inc();
    }
}

/// Requests by state, and what keeps the open ones, from the watch.
fn count(requests: &[Arc<DeserializeGuard<DeletionRequest>>]) -> RequestCounts {
    let mut counts = RequestCounts::default();
    for request in requests.iter().filter_map(|request| request.0.as_ref().ok()) {
        let status = request.status.clone().unwrap_or_default();
        let state = status.state.unwrap_or(RequestState::Planning);
        *counts.states.entry(format!("{state:?}")).or_default() += 1;
        if state.is_final() {
            continue;
        }
        for (type_, _) in gates::GATES {
            if let Some(gate) = status.conditions.get(type_)
                && gate.status != ConditionStatus::True
            {
                let key = (type_.as_str().to_owned(), gate.reason.clone());
                *counts.gates.entry(key).or_default() += 1;
            }
        }
    }
    counts
}
