//! Namespaces that somebody made anew while the site was lost. One that consents, or that holds
//! nothing but what GitOps has put there of the site itself, is taken in; no other is touched.

use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;

use super::act::Work;
use super::compare::is_bare;
use super::decide::Job;
use super::index::app_id;
use super::living::{Place, Places};
use super::object::Maker;
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
    maker: &Maker<'_>,
    job: &Job,
    plan: &mut Plan,
    places: &Places,
) -> Result<(), Attempt> {
    let lost: Vec<String> =
        places.iter().filter(|(_, p)| **p == Place::Lost).map(|(name, _)| name.clone()).collect();
    for live in work.namespaces(&lost).await?.into_iter().flatten() {
        let name = live.name_any();
        if let Some(owner) = live.labels().get(names::LABEL_SITE) {
            // Taken in by this restore before it was interrupted.
            if plan.before.is_empty() && *owner == job.name {
                maker.is_own(&name);
            }
            continue;
        }
        if live.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let consents = live.annotations().get(names::ANNOTATION_ADOPT) == Some(&job.name);
        if !consents && let Some(what) = holds(work, maker.kinds, job, plan, &name).await? {
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
        maker.is_own(&name);
    }
    Ok(())
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
    let id = app_id(&object.form);
    id.is_some() && plan.item(key).is_some_and(|item| item.id == id)
}
