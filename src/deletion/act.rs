//! What is written for a request: the only place of the project that deletes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::decide::{Effect, Entity};
use super::drilled;
use super::gates::PurgeToken;
use super::held::Edit;
use super::ledger;
use super::observe::{Facts, OwnObject, SiteFacts};
use super::purge::Step;
use super::rolling_ledger;
use crate::api::{
    App, Backup, BackupPurpose, BackupSpec, Deletion, DeletionRequest, Site, SiteRef, names,
};
use crate::cluster::metrics::Kind;
use crate::cluster::{
    Context, During, Error, Exact, Result, chain, create_if_absent, delete_exact, patch_exact,
    patch_status_exact, set_finalizer,
};
use crate::store::Store;

/// What came of the effects.
#[derive(Default)]
pub struct Done {
    /// In words, the writes that stand alone and that the API server refused.
    pub refused: Vec<String>,
    /// The request with its finalizer, where that was added: nothing else of it is otherwise than
    /// it was observed, or the write would have been a conflict.
    pub request: Option<DeletionRequest>,
}

/// Carries the effects out, in order. The first that fails ends it; the rest is decided again, on
/// what then is so. Not so changes of what is held and deletes of an App's objects, each of which
/// stands alone.
///
/// # Errors
/// Any write that fails; a conflict when what was decided on has changed since.
pub async fn act(ctx: &Context, store: &Store, facts: &Facts, effects: &[Effect]) -> Result<Done> {
    let mut done = Done::default();
    for effect in effects {
        match effect {
            Effect::AddFinalizer => done.request = finalizer(ctx, facts, true).await?,
            Effect::RemoveFinalizer => finalizer(ctx, facts, false).await.map(drop)?,
            Effect::CreateBackup { name, site, keep_until } => {
                let Some(live) = facts.sites.get(site) else { continue };
                create_backup(ctx, facts, live, name, *keep_until).await?;
            }
            Effect::KeepLonger { backup, until } => {
                let api: Api<Backup> = Api::all(ctx.client.clone());
                let patch = json!({ "spec": { "keepUntilTime": until } });
                patch_exact(&api, backup, patch).await?;
            }
            Effect::Hold(entity, deletion) => {
                // One that goes back to held: a DELETE that is still on its way must meet a
                // conflict, and one that was quicker must be met by one here.
                unmark_parts(ctx, facts, entity).await?;
                mark_entity(ctx, entity, Some(deletion)).await?;
            }
            Effect::Edit(edit) => alone(change(ctx, edit).await, &mut done.refused)?,
            Effect::Release(entity) => release(ctx, facts, entity).await?,
            Effect::Purge(token, step @ Step::DeleteObject(..)) => {
                alone(purge(ctx, token, step).await, &mut done.refused)?;
            }
            Effect::Reserve { ledger, text } => {
                rolling_ledger::write(ctx, ledger.as_ref(), text).await?;
            }
            Effect::Purge(token, step) => {
                if step.is_last_of(token.entity_uid()) {
                    // The last that tells of it goes: the store must know that it was wanted.
                    ledger::note(ctx, store, facts, token.entity_uid()).await?;
                }
                purge(ctx, token, step).await?;
            }
        }
    }
    Ok(done)
}

/// What became of a write that stands alone. What the API server refuses is told; an object that
/// has changed, or is gone, is looked at again; no answer ends it all.
fn alone(result: Result<()>, refused: &mut Vec<String>) -> Result<()> {
    match result.as_ref().err().and_then(Error::status).map(|s| s.code) {
        Some(404 | 409) => Ok(()),
        Some(400..=499) => {
            refused.extend(result.err().map(|error| chain(&error)));
            Ok(())
        }
        _ => result,
    }
}

/// Changes an object that is held.
async fn change(ctx: &Context, edit: &Edit) -> Result<()> {
    let (root, plural) = edit.kind.path();
    let namespace = edit.namespace.as_ref().filter(|_| edit.kind.is_namespaced());
    let path = match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}/{}", edit.exact.name),
        None => format!("{root}/{plural}/{}", edit.exact.name),
    };
    let doing = format!("change {plural} {}", edit.exact.name);
    let send = |patch: Value, version: Value| {
        let (path, doing, mut patch) = (&path, &doing, patch);
        patch["metadata"]["uid"] = json!(edit.exact.uid);
        patch["metadata"]["resourceVersion"] = version;
        async move {
            let request =
                http::Request::patch(format!("{path}?fieldManager={}", names::HOLD_MANAGER))
                    .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
                    .body(patch.to_string().into_bytes())
                    .map_err(|error| Error::answer(doing, error))?;
            ctx.client.request::<Value>(request).await.during(doing)
        }
    };
    let live = send(edit.patch.clone(), json!(edit.exact.resource_version)).await?;
    let managers = live["metadata"]["managedFields"].as_array().filter(|_| edit.last);
    let Some(managers) = managers else { return Ok(()) };
    // Who applies the object later must not find a field that a hold still owns.
    let others: Vec<&Value> =
        managers.iter().filter(|entry| entry["manager"] != names::HOLD_MANAGER).collect();
    if others.len() == managers.len() || others.is_empty() {
        return Ok(());
    }
    let patch = json!({ "metadata": { "managedFields": others } });
    match send(patch, live["metadata"]["resourceVersion"].clone()).await {
        // It has changed since: then that is how it stays.
        Err(error) if error.status().is_some_and(|s| matches!(s.code, 404 | 409)) => Ok(()),
        result => result.map(drop),
    }
}

async fn finalizer(ctx: &Context, facts: &Facts, present: bool) -> Result<Option<DeletionRequest>> {
    let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
    set_finalizer(&api, &facts.request, present).await
}

async fn create_backup(
    ctx: &Context,
    facts: &Facts,
    live: &SiteFacts,
    name: &str,
    keep_until: crate::api::Time,
) -> Result<()> {
    let mut labels = BTreeMap::from([
        (names::LABEL_REQUEST_UID.to_owned(), facts.request_uid()),
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

/// Writes the mark of a deletion on an entity that is still the one that was read; none takes it
/// off.
async fn mark_entity(ctx: &Context, entity: &Entity, deletion: Option<&Deletion>) -> Result<()> {
    match &entity.namespace {
        None => mark::<Site>(&Api::all(ctx.client.clone()), &entity.exact, deletion).await,
        Some(namespace) => {
            let api: Api<App> = Api::namespaced(ctx.client.clone(), namespace);
            mark(&api, &entity.exact, deletion).await
        }
    }
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
    let doing = format!("mark {}", exact.name);
    patch_status_exact(api, exact, json!({ "deletion": value }), doing).await.map(drop)
}

/// Takes every mark of the request off an entity. Of a Site, Apps and namespaces first and the Site
/// last, so that a crash in between is seen and gone on from.
async fn release(ctx: &Context, facts: &Facts, entity: &Entity) -> Result<()> {
    unmark_parts(ctx, facts, entity).await?;
    let live = facts.sites.get(&entity.exact.name).filter(|s| s.uid() == entity.exact.uid);
    let marked = live.is_some_and(|s| s.deletion_by(&facts.request_uid()).is_some());
    if entity.namespace.is_some() || marked {
        mark_entity(ctx, entity, None).await?;
    }
    Ok(())
}

/// Takes the marks of the request off the Apps and namespaces of a Site; an App has no parts that
/// bear one.
async fn unmark_parts(ctx: &Context, facts: &Facts, entity: &Entity) -> Result<()> {
    let request_uid = &facts.request_uid();
    if entity.namespace.is_some() {
        return Ok(());
    }
    let live = facts.sites.get(&entity.exact.name).filter(|s| s.uid() == entity.exact.uid);
    let Some(live) = live else { return Ok(()) };
    for app in &live.apps {
        let deletion = app.status.as_ref().and_then(|s| s.deletion.as_ref());
        if deletion.is_some_and(|d| d.request_uid == *request_uid) {
            let api: Api<App> =
                Api::namespaced(ctx.client.clone(), &app.namespace().unwrap_or_default());
            mark(&api, &Exact::of(app), None).await?;
        }
    }
    for namespace in &live.namespaces {
        let marked = namespace.annotations().get(names::ANNOTATION_PURGE);
        if marked == Some(request_uid) {
            let api: Api<Namespace> = Api::all(ctx.client.clone());
            let patch =
                json!({ "metadata": { "annotations": { (names::ANNOTATION_PURGE): null } } });
            patch_exact(&api, &Exact::of(namespace), patch).await?;
        }
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
        Err(Error::answer(format!("purge {}", exact.name), what))
    };
    match step {
        Step::MarkSite(exact, deletion) => {
            belongs(exact)?;
            mark::<Site>(&sites, exact, Some(deletion)).await
        }
        Step::MarkApp(namespace, exact, deletion) => {
            mark(&apps(namespace), exact, Some(deletion)).await
        }
        Step::DeleteApp(namespace, exact) => delete_exact(&apps(namespace), exact).await.map(drop),
        Step::FinishApp(namespace, exact, _) => {
            patch_exact(&apps(namespace), exact, step.metadata_patch().unwrap_or_default()).await?;
            if exact.uid == token.entity_uid() {
                ctx.metrics.purged.get_or_create(&Kind { kind: "App".to_owned() }).inc();
            }
            Ok(())
        }
        Step::Disown(namespace, exact, _) => {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
            patch_exact(&claims, exact, step.metadata_patch().unwrap_or_default()).await.map(drop)
        }
        Step::DeleteObject(object, user) => delete_object(ctx, object, user).await,
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

/// DELETE of an object of an App, exactly as it was read, as the App's own account: nobody can have
/// deleted through an App what that may not.
async fn delete_object(ctx: &Context, object: &OwnObject, user: &str) -> Result<()> {
    let Exact { name, uid, resource_version } = &object.exact;
    let doing = format!("delete {} {name}", object.kind);
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
        "preconditions": { "uid": uid, "resourceVersion": resource_version },
    });
    let request = http::Request::delete(format!("{}/{name}", object.path))
        .header(http::header::CONTENT_TYPE, "application/json")
        .header("Impersonate-User", user)
        .body(options.to_string().into_bytes())
        .map_err(|error| Error::answer(&doing, error))?;
    ctx.client.request::<Value>(request).await.during(doing).map(drop)
}
