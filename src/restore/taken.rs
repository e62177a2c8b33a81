//! Namespaces that somebody made anew while the site was lost. One that consents, or that holds
//! nothing but what GitOps has put there of the site itself, is taken in; no other is touched.

use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;

use super::act::Work;
use super::compare::is_bare;
use super::decide::Job;
use super::living::{Place, Places};
use super::plan::{Plan, failure};
use super::site::Attempt;
use crate::api::{Reason, names};
use crate::cluster::collect::{Collected, Freshness, collect};
use crate::cluster::discover::Kinds;
use crate::cluster::{Exact, patch_exact};
use k8s_openapi::api::core::v1::Namespace;

/// Takes in what may be taken in, by the label that only the operator sets.
pub async fn take_in(
    work: &Work,
    kinds: &Kinds,
    job: &Job,
    plan: &mut Plan,
    places: &Places,
) -> Result<(), Attempt> {
    let lost: Vec<String> =
        places.iter().filter(|(_, p)| **p == Place::Lost).map(|(name, _)| name.clone()).collect();
    for live in work.namespaces(&lost).await?.into_iter().flatten() {
        if live.labels().contains_key(names::LABEL_SITE)
            || live.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        let name = live.name_any();
        let consents = live.annotations().get(names::ANNOTATION_ADOPT) == Some(&job.name);
        if !consents && let Some(what) = holds(work, kinds, job, plan, &name).await? {
            let why = format!(
                "it was made anew by somebody and holds {what}, which is not in the backup: if all of it is the site's, kubectl annotate namespace {name} {}={}, and make another Restore",
                names::ANNOTATION_ADOPT,
                job.name
            );
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            plan.notices.push(failure(&job.name, Some(&object), Reason::Conflict, why));
            continue;
        }
        let api: Api<Namespace> = Api::all(work.ctx.client.clone());
        let patch = json!({ "metadata": { "labels": { (names::LABEL_SITE): job.name } } });
        let labelled = patch_exact(&api, &Exact::of(&live), patch).await;
        labelled.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
    }
    Ok(())
}

/// The time from which on what lives in the namespaces came after the loss.
pub async fn oldest(work: &Work, since: String, places: &Places) -> Result<String, Attempt> {
    let names: Vec<String> = places.keys().cloned().collect();
    let live = work.namespaces(&names).await?;
    let made = live.into_iter().flatten().map(|n| json!(n.metadata.creation_timestamp));
    let made = made.filter_map(|time| time.as_str().map(str::to_owned));
    Ok(made.chain([since]).min().unwrap_or_default())
}

/// Something in a namespace that is not the site's, nor of the cluster's own making.
async fn holds(
    work: &Work,
    kinds: &Kinds,
    job: &Job,
    plan: &Plan,
    namespace: &str,
) -> Result<Option<String>, Attempt> {
    let namespaces = [namespace.to_owned()];
    let all = collect(&work.ctx.client, kinds, &job.name, &namespaces, Freshness::Live).await;
    let all = all.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
    let foreign = all.objects.iter().find(|object| !is_expected(object, plan));
    Ok(foreign.map(|object| object.key.to_string()))
}

fn is_expected(object: &Collected, plan: &Plan) -> bool {
    let key = &object.key;
    if key.namespace.is_none() {
        return true;
    }
    if key.is("", "ServiceAccount") && key.name == "default" && is_bare(&object.form) {
        return true;
    }
    let id = &object.form["spec"]["id"];
    key.is(names::GROUP, "App")
        && plan.objects.iter().any(|o| o.key == *key && o.expected["spec"]["id"] == *id)
}
