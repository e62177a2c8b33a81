//! Namespaces of a site that are being deleted past the gates. Their Apps hold them, by our
//! finalizer and by the guard; everything else in them is gone or going already. An App that the
//! archive has as it is can be let go: the restore brings it back once the namespace is gone.

use super::compare::differences;
use super::decide::Job;
use super::living::{self, Place, Places};
use super::object::Maker;
use super::site::{Attempt, Plan, failure};
use crate::api::{Reason, names};
use crate::cluster::collect::{Freshness, list};
use crate::cluster::form::ObjectKey;

/// Lets go of what holds the namespaces that are being deleted, and waits until they are gone. Ok:
/// none is being deleted.
///
/// This is the one place of this room that takes our finalizer off: off an App in a namespace that
/// is being deleted and is this site's, where the verified archive that is being restored from has
/// the App as it is. The namespace controller may delete it then, and nobody else. A person has
/// asked for that by the Restore.
pub async fn let_go(
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
        waiting.push(format!(
            "the namespace {name} is being deleted: {}",
            living::waits_for(namespace)
        ));
        apps_of(maker, job, plan, name, &mut failures).await?;
    }
    match (failures.is_empty(), waiting.is_empty()) {
        (false, _) => Err(Attempt::Failed(failures)),
        (true, false) => Err(Attempt::Waiting(Reason::StillTerminating, waiting.join("; "))),
        (true, true) => Ok(()),
    }
}

async fn apps_of(
    maker: &Maker<'_>,
    job: &Job,
    plan: &Plan,
    namespace: &str,
    failures: &mut Vec<crate::api::RestoreFailure>,
) -> Result<(), Attempt> {
    let waiting = |why: String| Attempt::Waiting(Reason::Progressing, why);
    let Some(kind) = maker.kinds.find(names::API_VERSION, "App") else {
        return Err(waiting("this cluster does not serve Apps".to_owned()));
    };
    let apps = list(maker.client, kind, Some(namespace), Freshness::Live).await;
    for app in apps.map_err(|error| waiting(error.to_string()))? {
        let metadata = &app["metadata"];
        let held = metadata["finalizers"]
            .as_array()
            .is_some_and(|all| all.iter().any(|f| f == names::FINALIZER));
        if !held {
            continue;
        }
        let Some(key) = ObjectKey::of(&app) else { continue };
        let archived = plan.objects.iter().find(|wanted| wanted.key == key);
        let why = match archived {
            None => "it is not in the backup".to_owned(),
            Some(wanted) => {
                let found = differences(&wanted.expected, &app);
                if found.is_empty() {
                    maker.let_go(kind, &key, &app).await.map_err(|e| waiting(e.to_string()))?;
                    continue;
                }
                let fields: Vec<String> = found.iter().take(5).map(|d| d.path.clone()).collect();
                format!("it differs from the backup in {}", fields.join(", "))
            }
        };
        let why = format!(
            "its namespace is being deleted, and {why}: it is kept, because nothing else has it"
        );
        failures.push(failure(&job.name, Some(&app), Reason::Conflict, why));
    }
    Ok(())
}
