//! The writes of a drill. The only namespaces that are deleted here are scratch namespaces: by the
//! label of this drill, read live, and with the UID that its status has.

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::decide::Effect;
use super::outcome::Mark;
use crate::api::{
    Backup, ConditionStatus, ConditionType, Conditions, DrillOutcome, LastDrill, NamespaceRef,
    Restore, RestoreDrill, Site, names,
};
use crate::cluster::{
    Context, During, Error, Exact, Result, create_if_absent, delete_exact, patch_exact,
    patch_status_exact, set_finalizer, tell_site,
};
use crate::store::{DrillEvidence, DrilledBackup, Store, drills, layout};

/// Namespaces that are deleted at the same time.
const DELETING: usize = 8;

/// Carries the effects out, in order. Gives the drill as it is then.
///
/// # Errors
/// The first that fails; those before it are done, and all of them can be done again.
pub async fn act(
    ctx: &Context,
    store: &Store,
    drill: &RestoreDrill,
    effects: &[Effect],
) -> Result<RestoreDrill> {
    let drills: Api<RestoreDrill> = Api::all(ctx.client.clone());
    let restores: Api<Restore> = Api::all(ctx.client.clone());
    let mut live = drill.clone();
    for effect in effects {
        match effect {
            Effect::Hold(present) => {
                if let Some(now) = set_finalizer(&drills, &live, *present).await? {
                    live = now;
                }
            }
            Effect::Begin(restore) => {
                create_if_absent(&restores, &**restore).await?;
            }
            Effect::Cancel(restore) => {
                let cancel = json!({ "spec": { "cancel": true } });
                patch_exact(&restores, &Exact::of(&**restore), cancel).await?;
            }
            Effect::Delete(namespaces) => {
                let deletes = namespaces.iter().map(|namespace| delete(ctx, drill, namespace));
                let deletes: Vec<_> = deletes.collect();
                stream::iter(deletes)
                    .buffer_unordered(DELETING)
                    .try_for_each(|()| async { Ok(()) })
                    .await?;
            }
            Effect::Record(evidence) => record(store, evidence).await?,
            Effect::Mark(mark) => {
                say(ctx, mark).await?;
                tell(ctx, mark).await?;
            }
            Effect::Forget(restore) => {
                delete_exact(&restores, &Exact::of(&**restore)).await?;
            }
        }
    }
    Ok(live)
}

/// Deletes a scratch namespace, if it is the one that the status has, and is this drill's.
async fn delete(ctx: &Context, drill: &RestoreDrill, of: &NamespaceRef) -> Result<()> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let live = api.get_opt(&of.name).await.during(format!("read the namespace {}", of.name))?;
    let Some(live) = live else { return Ok(()) };
    let own =
        live.labels().get(names::LABEL_DRILL).is_some_and(|uid| Some(uid) == drill.uid().as_ref());
    let site = live.labels().contains_key(names::LABEL_SITE);
    if !own || site || live.uid().as_ref() != Some(&of.uid) || of.uid.is_empty() {
        return Ok(());
    }
    if live.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    delete_exact(&api, &Exact::of(&live)).await.map(|_| ())
}

/// What auditors read; the first that was written counts.
async fn record(store: &Store, evidence: &DrillEvidence) -> Result<()> {
    let unwritten = |error| Error::answer("write the evidence of a drill", error);
    let written = store.note_drill(evidence).await.map_err(unwritten)?;
    for site in written.sites.iter().filter(|site| site.verified) {
        let drilled = DrilledBackup {
            format: drills::DRILLED_FORMAT.to_owned(),
            site: site.site.clone(),
            backup: site.backup.clone(),
            location: site.location.clone(),
            digest: site.digest.clone(),
            time: written.time,
            evidence: layout::drill_run(&written.drill, &written.drill_uid, &written.run.name),
        };
        store.note_drilled(&drilled).await.map_err(unwritten)?;
    }
    Ok(())
}

/// Says on a Backup that it was drilled, and how that ended. One that is gone is told by the store.
async fn say(ctx: &Context, mark: &Mark) -> Result<()> {
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let doing = || format!("say on the Backup {} that it was drilled", mark.backup);
    let Some(backup) = api.get_opt(&mark.backup).await.during(doing())? else { return Ok(()) };
    let status = backup.status.clone().unwrap_or_default();
    if status.location.as_ref() != Some(&mark.location) {
        return Ok(());
    }
    let mut conditions = status.conditions;
    let holds = if mark.verified { ConditionStatus::True } else { ConditionStatus::False };
    let generation = backup.metadata.generation;
    let (reason, message) = (mark.reason, mark.message.clone());
    conditions.set(ConditionType::Drilled, holds, reason, message, generation, mark.time);
    let mut status = json!({ "conditions": conditions });
    if mark.verified {
        status["drilledTime"] = json!(mark.time);
    }
    let exact = Exact::of(&backup);
    match patch_status_exact(&api, &exact, status, doing()).await {
        Ok(_) => Ok(()),
        Err(error) => match error.status().map(|status| status.code) {
            Some(404) => Ok(()),
            Some(409) => Err(Error::answer(doing(), "it was changed meanwhile")),
            _ => Err(error),
        },
    }
}

/// Tells the Site of its last drill, if it lives: under its name and with its id.
async fn tell(ctx: &Context, mark: &Mark) -> Result<()> {
    let api: Api<Site> = Api::all(ctx.client.clone());
    let name = &mark.site.name;
    let site = api.get_opt(name).await.during(format!("read the Site {name}"))?;
    let Some(site) = site.filter(|site| site.spec.id == mark.site.id) else { return Ok(()) };
    let last = LastDrill {
        name: mark.drill.clone(),
        backup: mark.backup.clone(),
        time: mark.time,
        outcome: match mark.verified {
            true => DrillOutcome::Succeeded,
            false => DrillOutcome::Failed,
        },
    };
    let uid = site.uid().unwrap_or_default();
    tell_site(&ctx.client, name, &uid, json!({ "lastDrill": last })).await
}
