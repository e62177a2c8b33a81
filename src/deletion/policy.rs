//! DeletionPolicies: their status says whether they are in force.

use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use crate::api::{
    ConditionStatus, ConditionType, Conditions, DeletionPolicy, DeletionPolicyStatus, Environment,
    Reason, Time,
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
    let message = match policy.spec.environment {
        Environment::Production => {
            "in force; nothing is purged under it, because this version cannot ask a source of alerts"
        }
        Environment::Development => "in force",
    };
    let holds = ConditionStatus::True;
    status.conditions.set(ConditionType::Ready, holds, Reason::Ready, message, generation, now);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DeletionPolicySpec;

    #[test]
    fn a_production_policy_says_that_it_purges_nothing_yet() {
        let policy = DeletionPolicy::new("default", DeletionPolicySpec::built_in());
        let now = chrono::DateTime::from_timestamp(0, 0).unwrap().into();
        let status = status(&policy, now);
        assert!(status.conditions.is_true(ConditionType::Ready));
        assert!(status.conditions[0].message.contains("nothing is purged"));
    }
}
