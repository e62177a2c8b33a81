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
use crate::cluster::{Context, During, Result, Shutdown, drive, write_status};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps the status of every policy until shutdown.
pub(super) async fn run(ctx: Context, down: Shutdown) {
    let policies: Api<DeserializeGuard<DeletionPolicy>> = Api::all(ctx.client.clone());
    let controller = Controller::new(policies, watcher::Config::default());
    let context = ctx.clone();
    drive("policy", controller, ctx, TIMEOUT, down, move |policy| {
        reconcile(context.clone(), policy)
    })
    .await;
}

async fn reconcile(ctx: Context, policy: Arc<DeletionPolicy>) -> Result<Action> {
    let api: Api<DeletionPolicy> = Api::all(ctx.client.clone());
    let name = policy.name_any();
    let doing = format!("read DeletionPolicy {name}");
    if let Some(policy) = api.get_opt(&name).await.during(doing)? {
        let status = status(&policy, ctx.now());
        write_status(&api, &policy, policy.status.as_ref(), &status, false).await?;
    }
    Ok(Action::await_change())
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
