//! DeletionRequests: plan, gates, hold, purge, release.
//!
//! This is the only room that deletes, and it deletes only with a token that the gates make. It
//! must not decide on a cache: every fact behind an irreversible step is a live read.

mod act;
mod alertmanager;
pub mod alerts;
mod app_objects;
mod apps;
mod backups;
#[cfg(test)]
mod cancel_tests;
pub mod decide;
pub mod digest;
pub mod diverged;
mod drilled;
#[cfg(test)]
mod fixtures;
pub mod gates;
pub mod held;
mod held_objects;
mod hold;
#[cfg(test)]
mod ids_tests;
mod ledger;
pub mod live;
mod named;
mod observe;
#[cfg(test)]
mod past_guard_tests;
pub mod plan;
mod policy;
#[cfg(test)]
mod production_tests;
#[cfg(test)]
mod properties_tests;
pub mod purge;
#[cfg(test)]
mod random_tests;
mod release;
pub mod rolling;
mod rolling_ledger;
mod survey;
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

use self::alertmanager::Sources;
use crate::api::{Backup, ConditionStatus, Conditions, DeletionRequest, RequestState, names};
use crate::cluster::metrics::{Kind, RequestCounts};
use crate::cluster::request_metrics::note_state;
use crate::cluster::{Context, Error, Result, Shutdown, drive, watch_guard, write_status};
use crate::store::Store;

pub use observe::{AppFacts, Executed, Facts, OpenRequest, PolicyFacts, SiteFacts};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How soon to decide again when what was decided on has changed meanwhile.
const CHANGED: Duration = Duration::from_millis(200);

/// Runs the room until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    tokio::join!(
        run_requests(ctx.clone(), store.clone(), down.clone()),
        policy::run(ctx.clone(), store.clone(), down.clone()),
        diverged::run(ctx.clone(), store, down.clone()),
        watch_guard(ctx, down),
    );
}

async fn run_requests(ctx: Context, store: Store, down: Shutdown) {
    let requests: Api<DeserializeGuard<DeletionRequest>> = Api::all(ctx.client.clone());
    let backups: Api<PartialObjectMeta<Backup>> = Api::all(ctx.client.clone());
    let controller = Controller::new(requests, watcher::Config::default());
    let known = controller.store();
    let counted = known.clone();
    let ours = watcher::Config::default().labels(names::LABEL_REQUEST_UID);
    let controller = controller.watches_with(backups, (), ours, move |backup| {
        let uid = backup.labels().get(names::LABEL_REQUEST_UID).cloned();
        let request = known.find(|request| request.uid() == uid);
        request.map(|request| ObjectRef::new(&request.name_any()))
    });
    let controller = controller.reconcile_all_on(ctx.guard.changes());
    ctx.metrics.count_requests(move || count(&counted.state()));
    let context = ctx.clone();
    let sources = Arc::<Sources>::default();
    drive("deletion", controller, ctx, TIMEOUT, down, move |request| {
        reconcile(context.clone(), store.clone(), sources.clone(), request)
    })
    .await;
}

async fn reconcile(
    ctx: Context,
    store: Store,
    sources: Arc<Sources>,
    request: Arc<DeletionRequest>,
) -> Result<Action> {
    let Some(facts) = observe::observe(&ctx, &store, &sources, &request.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let mut decision = decide::decide(&facts, ctx.now());
    let written = async {
        let done = act::act(&ctx, &store, &facts, &decision.effects).await?;
        if decision.effects.contains(&decide::Effect::RemoveFinalizer) {
            // It may be gone by now.
            return Ok(false);
        }
        decide::tell_refused(&facts, &mut decision, &done.refused, ctx.now());
        note_state(facts.request.status.as_ref(), &mut decision.status, ctx.now());
        let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
        // Strict: a status that was decided on an older request, one without the cancel of this
        // very moment for example, must not be written.
        let request = done.request.as_ref().unwrap_or(&facts.request);
        write_status(&api, request, facts.request.status.as_ref(), &decision.status, true).await?;
        if facts.request.status.is_none() {
            let target = &facts.request.spec.target;
            let kind = Kind { kind: target.kind.to_string() };
            let count = u64::try_from(target.ids.len()).unwrap_or(u64::MAX);
            ctx.metrics.requested_entities.get_or_create(&kind).inc_by(count);
        }
        Ok::<_, Error>(true)
    };
    match written.await {
        Ok(true) => {
            ctx.metrics.told_requests.tell(facts.request.status.as_ref(), &decision.status);
        }
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
        counts.open += 1;
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
