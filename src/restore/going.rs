//! Namespaces of a site that are being deleted past the gates. Their Apps hold them, by our
//! finalizer and by the guard; everything else in them is gone or going already. An App that the
//! archive has as it is can be let go: the restore brings it back once the namespace is gone. One that
//! was changed or made after the backup is recorded first, see [`super::late`].

use kube::ResourceExt;

use super::act::Work;
use super::decide::Job;
use super::living::{self, Place, Places};
use super::object::Maker;
use super::plan::{Plan, failure};
use super::site::Attempt;
use crate::api::{NamespaceRef, Reason, names};
use crate::cluster::collect::{Freshness, ObjectState, list};
use crate::cluster::describe;
use crate::cluster::form::{ObjectKey, archived_form, field_owners, object_digest};
use crate::cluster::readiness::waits_for;
use crate::store::Entry;

/// Lets go of what holds the namespaces that are being deleted, and waits until they are gone. Ok:
/// none is being deleted.
///
/// This is the one place of this room that takes our finalizer off: off an App in a namespace that
/// is being deleted and is this site's, where the verified archive that is being restored from, or
/// a record that was read back, has the App as it is. The namespace controller may delete it then,
/// and nobody else. A person has asked for that by the Restore.
pub async fn let_go(
    work: &Work,
    maker: &Maker<'_>,
    job: &Job,
    plan: &Plan,
    places: &Places,
) -> Result<(), Attempt> {
    let mut failures = vec![];
    let mut waiting = vec![];
    for (name, place) in places {
        let Place::Going(namespace) = place else { continue };
        if !living::belongs_to(namespace, &job.name) {
            let why = format!("the namespace {name} is being deleted, and is not of this Site");
            failures.push(failure(&job.name, None, Reason::Conflict, why));
            continue;
        }
        let waits_for = waits_for(namespace);
        waiting.push(format!("the namespace {name} is being deleted: {waits_for}"));
        let namespace =
            NamespaceRef { name: name.clone(), uid: namespace.uid().unwrap_or_default() };
        apps_of(work, maker, job, plan, &namespace).await?;
    }
    match (failures.is_empty(), waiting.is_empty()) {
        (false, _) => Err(Attempt::Failed(failures)),
        (true, false) => Err(Attempt::Waiting(Reason::StillTerminating, waiting.join("; "))),
        (true, true) => Ok(()),
    }
}

async fn apps_of(
    work: &Work,
    maker: &Maker<'_>,
    job: &Job,
    plan: &Plan,
    namespace: &NamespaceRef,
) -> Result<(), Attempt> {
    let waiting = |why: String| Attempt::Waiting(Reason::Progressing, why);
    let Some(kind) = maker.kinds.find(names::API_VERSION, "App") else {
        return Err(waiting("this cluster does not serve Apps".to_owned()));
    };
    let apps = list(maker.client, kind, Some(&namespace.name), Freshness::Live).await;
    let mut late = vec![];
    let mut failures = vec![];
    for app in apps.map_err(|error| waiting(error.to_string()))? {
        let held = app["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|all| all.iter().any(|f| f == names::FINALIZER));
        let Some(key) = ObjectKey::of(&app).filter(|_| held) else { continue };
        if plan.is_equal(&key, app.clone(), true) {
            maker.let_go(kind, &key, &app).await.map_err(|error| waiting(describe(&error)))?;
        } else if plan.recorded(namespace) {
            let owners = field_owners(&app);
            let object = archived_form(app);
            let digest = object_digest(&object);
            late.push(Entry { key, digest, state: ObjectState::NotReady, object, owners });
        } else {
            let why = "its namespace is being deleted, and it is not in the backup as it is now: it is kept, because nothing else has it";
            failures.push(failure(&job.name, Some(&app), Reason::Conflict, why.to_owned()));
        }
    }
    if !failures.is_empty() {
        return Err(Attempt::Failed(failures));
    }
    // The next look finds them in the plan as they are.
    if !late.is_empty() {
        work.record_late(job, namespace, late).await?;
    }
    Ok(())
}
