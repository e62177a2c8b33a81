//! What is written for a request: the only place of the project that deletes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::decide::Effect;
use super::drilled;
use super::gates::PurgeToken;
use super::ledger;
use super::observe::{Facts, LABEL_REQUEST_UID, SiteFacts};
use super::purge::Step;
use super::rolling_ledger;
use crate::api::{
    App, Backup, BackupPurpose, BackupSpec, Deletion, DeletionRequest, Site, SiteRef, names,
};
use crate::cluster::metrics::Kind;
use crate::cluster::{
    Context, During, Error, Exact, Result, create_if_absent, delete_exact, patch_exact,
    set_finalizer,
};
use crate::store::Store;

/// Carries the effects out, in order. The first that fails ends it; the rest is decided again, on
/// what then is so.
///
/// # Errors
/// Any write that fails; a conflict when what was decided on has changed since.
pub async fn act(ctx: &Context, store: &Store, facts: &Facts, effects: &[Effect]) -> Result<()> {
    for effect in effects {
        match effect {
            Effect::AddFinalizer => finalizer(ctx, facts, true).await?,
            Effect::RemoveFinalizer => finalizer(ctx, facts, false).await?,
            Effect::CreateBackup { name, site, keep_until } => {
                let Some(live) = facts.sites.get(site) else { continue };
                create_backup(ctx, facts, live, name, *keep_until).await?;
            }
            Effect::KeepLonger { backup, until } => {
                let api: Api<Backup> = Api::all(ctx.client.clone());
                let patch = json!({ "spec": { "keepUntilTime": until } });
                patch_exact(&api, backup, patch).await?;
            }
            Effect::Hold { site, deletion } => mark_site(ctx, site, Some(deletion)).await?,
            Effect::Release { site, uid } => {
                let Some(live) = facts.sites.get(site).filter(|s| s.uid() == *uid) else {
                    continue;
                };
                release(ctx, live, &facts.request_uid()).await?;
            }
            Effect::Reserve { ledger, text } => {
                rolling_ledger::write(ctx, ledger.as_ref(), text).await?;
            }
            Effect::Purge(token, step) => {
                if matches!(step, Step::DeleteSite(_) | Step::FinishSite(..)) {
                    // The last that tells of it goes: the store must know that it was wanted.
                    ledger::note(ctx, store, facts, token.entity_uid()).await?;
                }
                purge(ctx, token, step).await?;
            }
        }
    }
    Ok(())
}

async fn finalizer(ctx: &Context, facts: &Facts, present: bool) -> Result<()> {
    let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
    set_finalizer(&api, &facts.request, present).await.map(drop)
}

async fn create_backup(
    ctx: &Context,
    facts: &Facts,
    live: &SiteFacts,
    name: &str,
    keep_until: crate::api::Time,
) -> Result<()> {
    let mut labels = BTreeMap::from([
        (LABEL_REQUEST_UID.to_owned(), facts.request_uid()),
        (names::LABEL_SITE.to_owned(), live.site.name_any()),
    ]);
    let plan = facts.request.status.as_ref().and_then(|status| status.plan.as_ref());
    let planned = plan.and_then(|plan| plan.head.as_ref()).map(|head| &head.policy);
    if drilled::asks(planned.into_iter().chain(facts.policies.values().map(|p| &p.spec))) {
        labels.insert(names::LABEL_DRILL_ASKED.to_owned(), "true".to_owned());
    }
    let spec = BackupSpec {
        site_ref: SiteRef {
            name: live.site.name_any(),
            uid: Some(live.uid()),
            id: Some(live.site.spec.id.clone()),
        },
        purpose: BackupPurpose::BeforeDeletion,
        keep_until_time: Some(keep_until),
    };
    let mut backup = Backup::new(name, spec);
    backup.metadata = ObjectMeta { labels: Some(labels), ..backup.metadata };
    create_if_absent(&Api::all(ctx.client.clone()), &backup).await.map(drop)
}

/// Writes the mark of a deletion on a Site that is still the one that was read; none takes it off.
async fn mark_site(ctx: &Context, site: &Exact, deletion: Option<&Deletion>) -> Result<()> {
    mark::<Site>(&Api::all(ctx.client.clone()), site, deletion).await
}

async fn mark<K>(api: &Api<K>, exact: &Exact, deletion: Option<&Deletion>) -> Result<()>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    // A merge patch takes away only what it names: the mark of before must not shine through.
    let mut value = json!(deletion);
    if let Some(fields) = value.as_object_mut() {
        fields.entry("retentionEndTime").or_insert(serde_json::Value::Null);
    }
    let body = json!({
        "metadata": { "uid": exact.uid, "resourceVersion": exact.resource_version },
        "status": { "deletion": value },
    });
    api.patch_status(&exact.name, &PatchParams::default(), &Patch::Merge(&body))
        .await
        .during(format!("mark {}", exact.name))
        .map(drop)
}

/// Takes every mark of the request off a Site: Apps and namespaces first, the Site last, so that a
/// crash in between is seen and gone on from.
async fn release(ctx: &Context, live: &SiteFacts, request_uid: &str) -> Result<()> {
    for app in &live.apps {
        let deletion = app.status.as_ref().and_then(|s| s.deletion.as_ref());
        if deletion.is_some_and(|d| d.request_uid == request_uid) {
            let api: Api<App> =
                Api::namespaced(ctx.client.clone(), &app.namespace().unwrap_or_default());
            mark(&api, &Exact::of(app), None).await?;
        }
    }
    for namespace in &live.namespaces {
        let marked = namespace.annotations().get(names::ANNOTATION_PURGE);
        if marked.is_some_and(|uid| uid == request_uid) {
            let api: Api<Namespace> = Api::all(ctx.client.clone());
            let patch =
                json!({ "metadata": { "annotations": { (names::ANNOTATION_PURGE): null } } });
            patch_exact(&api, &Exact::of(namespace), patch).await?;
        }
    }
    if live.deletion_by(request_uid).is_some() {
        mark_site(ctx, &Exact::of(&live.site), None).await?;
    }
    Ok(())
}

/// One step of a purge. The token says that the gates allowed it, for this entity.
async fn purge(ctx: &Context, token: &PurgeToken, step: &Step) -> Result<()> {
    tracing::info!(entity = token.entity_uid(), ?step, "purge");
    let client = ctx.client.clone();
    let apps = |namespace: &str| Api::<App>::namespaced(client.clone(), namespace);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let sites: Api<Site> = Api::all(client.clone());
    let belongs = |exact: &Exact| {
        if exact.uid == token.entity_uid() {
            return Ok(());
        }
        let what = format!("the permission is for {}, not for {}", token.entity_uid(), exact.uid);
        Err(Error::answer(format!("purge Site {}", exact.name), what))
    };
    match step {
        Step::MarkSite(exact, deletion) => {
            belongs(exact)?;
            mark_site(ctx, exact, Some(deletion)).await
        }
        Step::MarkApp(namespace, exact, deletion) => {
            mark(&apps(namespace), exact, Some(deletion)).await
        }
        Step::DeleteApp(namespace, exact) => delete_exact(&apps(namespace), exact).await.map(drop),
        Step::FinishApp(namespace, exact, _) => {
            patch_exact(&apps(namespace), exact, step.metadata_patch().unwrap_or_default())
                .await
                .map(drop)
        }
        Step::MarkNamespace(exact, _) => {
            patch_exact(&namespaces, exact, step.metadata_patch().unwrap_or_default())
                .await
                .map(drop)
        }
        Step::DeleteNamespace(exact) => delete_exact(&namespaces, exact).await.map(drop),
        Step::DeleteSite(exact) => {
            belongs(exact)?;
            delete_exact(&sites, exact).await.map(drop)
        }
        Step::FinishSite(exact, _) => {
            belongs(exact)?;
            patch_exact(&sites, exact, step.metadata_patch().unwrap_or_default()).await?;
            ctx.metrics.purged.get_or_create(&Kind { kind: "Site".to_owned() }).inc();
            Ok(())
        }
    }
}
