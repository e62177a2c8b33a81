//! The DeletionPolicies of a fleet that is rebuilt from its store: those that are missing are made
//! again before the Sites that name them. One that lives is never changed.

use std::collections::BTreeMap;

use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::act::Work;
use super::choose;
use crate::api::{DeletionPolicy, Reason, RestoreFailure, names};
use crate::cluster::{During, Error, Note, Result, describe, is_conflict};
use crate::store::StoredPolicy;

/// Makes the policies that are missing. Gives what could not be made and what is different.
///
/// # Errors
/// A store that cannot be read, and what the API server said.
pub async fn bring_back(work: &Work) -> Result<Vec<RestoreFailure>> {
    let doing = "read the DeletionPolicies in the store";
    let stored = work.store.policies().await.map_err(|error| Error::answer(doing, error))?;
    let mut told = choose::refused(&stored.refused);
    let mut newest: BTreeMap<&str, Vec<&StoredPolicy>> = BTreeMap::new();
    for policy in &stored.good {
        newest.entry(&policy.name).or_default().push(policy);
    }
    let api: Api<DeletionPolicy> = Api::all(work.ctx.client.clone());
    for (name, mut all) in newest {
        all.sort_by_key(|policy| (policy.time, &policy.uid));
        let doing = format!("read the DeletionPolicy {name}");
        match api.get_opt(name).await.during(doing)? {
            Some(live) => {
                // What it says itself was written down too, and is no news.
                let uid = live.uid();
                let before = all.iter().rfind(|policy| Some(&policy.uid) != uid.as_ref());
                if let Some(before) = before.filter(|before| before.spec != live.spec) {
                    told.push(differs(before));
                }
            }
            None => {
                let Some(policy) = all.last() else { continue };
                told.extend(create(work, &api, policy).await?);
            }
        }
    }
    Ok(told)
}

async fn create(
    work: &Work,
    api: &Api<DeletionPolicy>,
    policy: &StoredPolicy,
) -> Result<Option<RestoreFailure>> {
    let object = DeletionPolicy::new(&policy.name, policy.spec.clone());
    let params =
        PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
    match api.create(&params, &object).await {
        Ok(live) => {
            let note = format!("brought back from the store, as it was at {}", policy.time);
            work.ctx.tell(&live, &Note::normal(Reason::Restored, note)).await;
            Ok(None)
        }
        Err(error) if is_conflict(&error) => Ok(None),
        // The guard: a policy `default` that is weaker than the built-in one is for people alone.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
            let why = format!(
                "it is not made again: {}; who may do it: {}",
                status.message,
                command(policy)
            );
            Ok(Some(notice(policy, why)))
        }
        Err(error) => {
            let doing = format!("create the DeletionPolicy {}", policy.name);
            Err(Error::answer(doing, describe(&error)))
        }
    }
}

fn differs(before: &StoredPolicy) -> RestoreFailure {
    let why = format!(
        "one of that name lives, and is not changed; the store has another one, of {}: {}",
        before.time,
        json!(before.spec)
    );
    notice(before, why)
}

fn command(policy: &StoredPolicy) -> String {
    let object = json!({
        "apiVersion": names::API_VERSION, "kind": DeletionPolicy::kind(&()),
        "metadata": { "name": policy.name }, "spec": policy.spec,
    });
    format!("echo '{object}' | kubectl create -f -")
}

fn notice(policy: &StoredPolicy, message: String) -> RestoreFailure {
    RestoreFailure {
        site: String::new(),
        object: Some(format!("{} DeletionPolicy {}", names::API_VERSION, policy.name)),
        reason: Reason::PolicyNotRestored.to_string(),
        message,
    }
}
