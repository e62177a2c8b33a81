//! The steps of the purge of one App. Pure.
//!
//! Its own DELETE comes first: it is held by our finalizer while its objects go, and it tells the
//! point of no return in a way that nobody else can bring about. Then its objects, by the UIDs
//! that it recorded when it applied them; what merely bears its label stays. Then the App.

use kube::{Resource, ResourceExt};

use super::live::Live;
use super::observe::{AppFacts, OwnObject};
use super::purge::{Next, Step, mark, without_ours};
use crate::api::{DeletionPhase, names};
use crate::cluster::Exact;

/// What comes next.
pub(super) fn next(
    live: Live<'_>,
    app: &AppFacts,
    unretained: Option<String>,
    request: &str,
    request_uid: &str,
) -> Next {
    let namespace = app.app.namespace().unwrap_or_default();
    let exact = Exact::of(&app.app);
    let deletion = live.deletion_by(request_uid);
    if !deletion.is_some_and(|d| d.phase == DeletionPhase::Purging) {
        let purging = mark(request, request_uid, DeletionPhase::Purging);
        return Next::Steps(vec![Step::MarkApp(namespace, exact, purging)]);
    }
    if let Some(why) = unretained {
        return Next::Stalled(why);
    }
    if app.app.meta().deletion_timestamp.is_none() {
        // Without it nothing would hold the App, nor know its objects, once it is deleted.
        if without_ours(app.app.finalizers()).is_none() {
            return Next::Stalled(format!(
                "App {namespace}/{} lacks the finalizer {}: cancel the request, and it is put back",
                exact.name,
                names::FINALIZER
            ));
        }
        return Next::Steps(vec![Step::DeleteApp(namespace, exact)]);
    }
    // The garbage collector would delete with a StatefulSet the claims that have it for an owner.
    // Its controller takes itself off those of living Pods, now that they are to be retained; not
    // off the others.
    let owned = |o: &&OwnObject| o.kind == "StatefulSet" && !o.deleting;
    let sets: Vec<&OwnObject> = app.objects.iter().filter(owned).collect();
    let is_set = |uid: &str| sets.iter().any(|o| o.exact.uid == uid);
    let mut steps = vec![];
    for claim in live.claims().filter(|c| c.owners.iter().any(|o| is_set(&o.uid))) {
        let left = claim.owners.iter().filter(|o| !is_set(&o.uid)).cloned().collect();
        steps.push(Step::Disown(namespace.clone(), claim.exact.clone(), left));
    }
    if !steps.is_empty() {
        return Next::Steps(steps);
    }
    let user = format!(
        "{}{namespace}:{}",
        names::SERVICE_ACCOUNT_PREFIX,
        app.app.spec.service_account_name
    );
    let left = app.objects.iter().filter(|o| !o.deleting);
    let steps: Vec<Step> = left.map(|o| Step::DeleteObject(o.clone(), user.clone())).collect();
    if !steps.is_empty() {
        return Next::Steps(steps);
    }
    if let Some(object) = app.objects.first() {
        let finalizers = match object.finalizers.as_slice() {
            [] => String::new(),
            all => format!(" (finalizers {})", all.join(", ")),
        };
        return Next::Wait(format!(
            "{} {namespace}/{} is being deleted{finalizers}",
            object.kind, object.exact.name
        ));
    }
    match without_ours(app.app.finalizers()) {
        Some(left) => Next::Steps(vec![Step::FinishApp(namespace, exact, left)]),
        None => Next::Wait(format!("the finalizers {}", app.app.finalizers().join(", "))),
    }
}

#[cfg(test)]
#[path = "apps_tests.rs"]
mod tests;
