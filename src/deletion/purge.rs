//! The steps of the purge of one entity, in the order that the API server's own controllers need.
//! Those of a Site are here, those of an App in `apps`. Pure: each look at what lives gives the next steps, so that any crash is gone on from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::live::Live;
use super::observe::{AppFacts, OwnObject, SiteFacts};
use crate::api::{Deletion, DeletionPhase, ObjectRef, PlanEntity, names};
use crate::cluster::Exact;
use crate::cluster::readiness::waits_for;

/// One step. Each carries UID and resourceVersion of what it was decided on.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The Site tells that it is being purged: without that the guard lets no delete pass.
    MarkSite(Exact, Deletion),
    /// An App tells that it is being purged.
    MarkApp(String, Exact, Deletion),
    /// DELETE of an App, in this namespace.
    DeleteApp(String, Exact),
    /// Our finalizer off an App that is being deleted; these are left.
    FinishApp(String, Exact, Vec<String>),
    /// The owners that are left of a claim, in this namespace, that stays.
    Disown(String, Exact, Vec<OwnerReference>),
    /// DELETE of an object of an App, as this user, in the App's own right.
    DeleteObject(OwnObject, String),
    /// A namespace tells for which request it is being purged.
    MarkNamespace(Exact, String),
    /// DELETE of a namespace.
    DeleteNamespace(Exact),
    /// DELETE of the Site.
    DeleteSite(Exact),
    /// Our finalizer off the Site that is being deleted; these are left.
    FinishSite(Exact, Vec<String>),
}

/// What comes next in the purge of an entity.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// These steps, in this order.
    Steps(Vec<Step>),
    /// Nothing; in words, what is waited for.
    Wait(String),
    /// Nothing, and waiting will not help; in words, what holds it.
    Stalled(String),
}

/// The mark of a request on what it holds or purges.
pub fn mark(request: &str, request_uid: &str, phase: DeletionPhase) -> Deletion {
    Deletion {
        request_ref: ObjectRef { name: request.to_owned() },
        request_uid: request_uid.to_owned(),
        phase,
        retention_end_time: None,
    }
}

/// What comes next. Of a Site: Apps first, one by one, by us (the namespace controller may not delete them,
/// and would leave the namespace Terminating for ever); then the claims' disks are looked at once
/// more; then the namespaces; then the Site.
pub fn next(entity: &PlanEntity, live: Live<'_>, request: &str, request_uid: &str) -> Next {
    if let Live::App(AppFacts { unread: Some(why), .. }, _) = live {
        return Next::Stalled(why.clone());
    }
    // Before anything goes, and again each time: a claim can appear at any moment.
    let unretained = live.unretained();
    match live {
        Live::Site(site) => of_site(entity, site, unretained, request, request_uid),
        Live::App(app, _) => super::apps::next(live, app, unretained, request, request_uid),
    }
}

fn of_site(
    entity: &PlanEntity,
    live: &SiteFacts,
    unretained: Option<String>,
    request: &str,
    request_uid: &str,
) -> Next {
    let purging = mark(request, request_uid, DeletionPhase::Purging);
    let is_purging = |d: Option<&Deletion>| {
        d.is_some_and(|d| d.phase == DeletionPhase::Purging && d.request_uid == request_uid)
    };
    if !is_purging(live.deletion()) {
        return Next::Steps(vec![Step::MarkSite(Exact::of(&live.site), purging)]);
    }
    for app in &live.apps {
        if !entity.apps.iter().any(|a| Some(&a.uid) == app.uid().as_ref()) {
            return Next::Stalled(format!("App {} is not in the plan", app.name_any()));
        }
    }
    for namespace in &live.namespaces {
        if !entity.namespaces.iter().any(|n| Some(&n.uid) == namespace.uid().as_ref()) {
            return Next::Stalled(format!("namespace {} is not in the plan", namespace.name_any()));
        }
        if namespace.labels().get(names::LABEL_SITE) != Some(&entity.name) {
            return Next::Stalled(format!("namespace {} is not the Site's", namespace.name_any()));
        }
    }
    if let Some(why) = unretained {
        return Next::Stalled(why);
    }
    let mut steps = vec![];
    for app in &live.apps {
        let (namespace, exact) = (app.namespace().unwrap_or_default(), Exact::of(app));
        let marked = is_purging(app.status.as_ref().and_then(|s| s.deletion.as_ref()));
        if app.meta().deletion_timestamp.is_some() {
            if let Some(left) = without_ours(app.finalizers()) {
                steps.push(Step::FinishApp(namespace, exact, left));
            }
        } else if marked {
            steps.push(Step::DeleteApp(namespace, exact));
        } else {
            steps.push(Step::MarkApp(namespace, exact, purging.clone()));
        }
    }
    if !steps.is_empty() {
        return Next::Steps(steps);
    }
    if let Some(app) = live.apps.first() {
        return Next::Wait(format!(
            "App {} waits for the finalizers {}",
            app.name_any(),
            app.finalizers().join(", ")
        ));
    }
    for namespace in &live.namespaces {
        let exact = Exact::of(namespace);
        let marked = namespace.annotations().get(names::ANNOTATION_PURGE);
        if namespace.meta().deletion_timestamp.is_some() {
            continue;
        } else if marked.map(String::as_str) == Some(request_uid) {
            steps.push(Step::DeleteNamespace(exact));
        } else {
            steps.push(Step::MarkNamespace(exact, request_uid.to_owned()));
        }
    }
    if !steps.is_empty() {
        return Next::Steps(steps);
    }
    if let Some(namespace) = live.namespaces.first() {
        return Next::Wait(format!(
            "namespace {} is being emptied: {}",
            namespace.name_any(),
            waits_for(namespace)
        ));
    }
    let exact = Exact::of(&live.site);
    if live.site.meta().deletion_timestamp.is_none() {
        return Next::Steps(vec![Step::DeleteSite(exact)]);
    }
    match without_ours(live.site.finalizers()) {
        Some(left) => Next::Steps(vec![Step::FinishSite(exact, left)]),
        None => Next::Wait(format!("the finalizers {}", live.site.finalizers().join(", "))),
    }
}

/// The finalizers without ours; none when ours is not among them.
pub(super) fn without_ours(finalizers: &[String]) -> Option<Vec<String>> {
    let left: Vec<String> = finalizers.iter().filter(|f| *f != names::FINALIZER).cloned().collect();
    (left.len() < finalizers.len()).then_some(left)
}

impl Step {
    /// Whether this step destroys something.
    pub fn is_delete(&self) -> bool {
        matches!(
            self,
            Self::DeleteApp(..)
                | Self::DeleteObject(..)
                | Self::DeleteNamespace(..)
                | Self::DeleteSite(..)
                | Self::FinishApp(..)
                | Self::FinishSite(..)
        )
    }

    /// Whether this step takes what tells last of the entity of this UID: a Site, or the App that
    /// the request is for, not one that goes with its Site. The DELETE of such an App is not the last:
    /// our finalizer holds it until its objects are gone.
    pub fn is_last_of(&self, entity_uid: &str) -> bool {
        match self {
            Self::DeleteSite(_) | Self::FinishSite(..) => true,
            Self::FinishApp(_, exact, _) => exact.uid == entity_uid,
            _ => false,
        }
    }

    /// The merge patch of a step that is a patch of metadata.
    pub fn metadata_patch(&self) -> Option<serde_json::Value> {
        match self {
            Self::MarkNamespace(_, request_uid) => Some(
                json!({ "metadata": { "annotations": { (names::ANNOTATION_PURGE): request_uid } } }),
            ),
            Self::Disown(_, _, left) => Some(json!({ "metadata": { "ownerReferences": left } })),
            Self::FinishApp(_, _, left) | Self::FinishSite(_, left) => {
                Some(json!({ "metadata": { "finalizers": left } }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "purge_tests.rs"]
mod tests;
