//! DeletionPolicies: their status says whether they are in force.

use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use super::alerts::matchers;
use crate::api::{
    ConditionStatus, ConditionType, Conditions, DeletionPolicy, DeletionPolicySpec,
    DeletionPolicyStatus, Environment, Reason, Time,
};
use crate::cluster::{Context, During, Error, Result, Shutdown, drive, write_status};
use crate::store::{Store, StoredPolicy, policies};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps the status of every policy until shutdown.
pub(super) async fn run(ctx: Context, store: Store, down: Shutdown) {
    let policies: Api<DeserializeGuard<DeletionPolicy>> = Api::all(ctx.client.clone());
    let controller = Controller::new(policies, watcher::Config::default());
    let context = ctx.clone();
    drive("policy", controller, ctx, TIMEOUT, down, move |policy| {
        reconcile(context.clone(), store.clone(), policy)
    })
    .await;
}

async fn reconcile(ctx: Context, store: Store, policy: Arc<DeletionPolicy>) -> Result<Action> {
    let api: Api<DeletionPolicy> = Api::all(ctx.client.clone());
    let name = policy.name_any();
    let doing = format!("read DeletionPolicy {name}");
    if let Some(policy) = api.get_opt(&name).await.during(doing)? {
        let status = status(&policy, ctx.now());
        write_status(&api, &policy, policy.status.as_ref(), &status, false).await?;
        write_down(&store, &policy, ctx.now()).await?;
    }
    Ok(Action::await_change())
}

/// The store alone must have the rules of the fleet, for the day on which the cluster is gone.
async fn write_down(store: &Store, policy: &DeletionPolicy, now: Time) -> Result<()> {
    let name = policy.name_any();
    let stored = StoredPolicy {
        format: policies::FORMAT.to_owned(),
        name: name.clone(),
        uid: policy.uid().unwrap_or_default(),
        time: now,
        spec: policy.spec.clone(),
    };
    let noted = store.note_policy(&stored).await;
    noted.map_err(|error| Error::answer(format!("write the DeletionPolicy {name} down"), error))
}

/// What is to be said of a policy. It is in force as soon as it is there: requests read it live.
fn status(policy: &DeletionPolicy, now: Time) -> DeletionPolicyStatus {
    let mut status = policy.status.clone().unwrap_or_default();
    let generation = policy.meta().generation;
    status.observed_generation = generation;
    let (holds, reason, message) = match &policy.spec {
        DeletionPolicySpec { alerts: Some(alerts), .. } => match matchers(&alerts.matchers) {
            Ok(_) => (ConditionStatus::True, Reason::Ready, "in force".to_owned()),
            Err(why) => (
                ConditionStatus::False,
                Reason::InvalidMatcher,
                format!("nothing is purged under it: {why}"),
            ),
        },
        DeletionPolicySpec { environment: Environment::Production, .. } => (
            ConditionStatus::True,
            Reason::NotConfigured,
            "in force; nothing is purged under it, because spec.alerts names no source of alerts"
                .to_owned(),
        ),
        DeletionPolicySpec { .. } => (ConditionStatus::True, Reason::Ready, "in force".to_owned()),
    };
    status.conditions.set(ConditionType::Ready, holds, reason, message, generation, now);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_says_what_keeps_purges_back() {
        let alerts = |matcher: &str| json!({ "alertmanager": { "url": "http://am" }, "matchers": [matcher] });
        for (spec, holds, reason, words) in [
            (json!({ "environment": "Production" }), true, "NotConfigured", "spec.alerts"),
            (json!({ "environment": "Development" }), true, "Ready", "in force"),
            (
                json!({ "environment": "Production", "alerts": alerts("a=~\"b|c\"") }),
                true,
                "Ready",
                "in force",
            ),
            (
                json!({ "environment": "Development", "alerts": alerts("a=~\"(\"") }),
                false,
                "InvalidMatcher",
                "no regular expression",
            ),
        ] {
            let policy = DeletionPolicy::new("default", serde_json::from_value(spec).unwrap());
            let status = status(&policy, chrono::DateTime::from_timestamp(0, 0).unwrap().into());
            let ready = &status.conditions[0];
            assert_eq!(
                (status.conditions.is_true(ConditionType::Ready), &*ready.reason),
                (holds, reason)
            );
            assert!(ready.message.contains(words), "{}", ready.message);
        }
    }
}
