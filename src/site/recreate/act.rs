//! What is written for an entity that was deleted past the guard. Nothing of a tenant is deleted
//! here: our finalizer lets the entity itself go, and only when its record was read back.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMetaExt;
use serde_json::{Value, json};

use super::decide::{Closing, Step, reason, stands_still};
use super::observe::{Facts, Key, Live, entities};
use crate::api::{
    App, DeletionRequest, DeletionRequestSpec, Reason, Site, Target, TargetKind, UnexpectedDelete,
    names,
};
use crate::cluster::metrics::Kind;
use crate::cluster::{
    Context, During, Error, Exact, Note, Result, create_if_absent, is_conflict, patch_exact,
};
use crate::store::{Record, Store};

/// Carries a step out.
///
/// # Errors
/// Any write that fails; a conflict when what was decided on has changed since.
pub async fn act(ctx: &Context, store: &Store, facts: &Facts, step: &Step) -> Result<()> {
    let key = &facts.key;
    let live = facts.live.as_ref();
    match step {
        Step::OpenRequest(name) => match live {
            Some(live) => open_request(ctx, key, live, name).await,
            None => Ok(()),
        },
        Step::Tell(told) => match live {
            Some(live) => tell_delete(ctx, key, live, told).await,
            None => Ok(()),
        },
        Step::Record(record) => put(store, key, record).await,
        Step::Annotate(namespaces, record) => {
            annotate(ctx, namespaces, &json!(record.seal())).await
        }
        Step::Release(exact, left, record) => {
            // Once more, and at the last moment: what is let go now is nowhere else.
            put(store, key, record).await?;
            let patch = json!({ "metadata": { "finalizers": left } });
            patch_exact(&entities(ctx, key), exact, patch).await?;
            tracing::warn!(entity = %key, uid = exact.uid, "let go, to be created anew");
            Ok(())
        }
        Step::Create(record) => create(ctx, key, record).await,
        Step::PutBack(exact, status) => write_status(ctx, key, exact, status).await,
        Step::ClearNamespaces(namespaces) => annotate(ctx, namespaces, &Value::Null).await,
        Step::Close(record, closing) => {
            tell_end(ctx, key, live, record, *closing).await;
            store
                .close_record(&record.uid)
                .await
                .map_err(|error| Error::answer(format!("close the record of {key}"), error))
        }
        Step::Unmark(exact) => {
            let patch =
                json!({ "metadata": { "annotations": { (names::ANNOTATION_RECREATE): null } } });
            patch_exact(&entities(ctx, key), exact, patch).await.map(drop)
        }
        Step::Wait(_) | Step::Forget => Ok(()),
    }
}

async fn put(store: &Store, key: &Key, record: &Record) -> Result<()> {
    let doing = format!("record {key} in the store");
    store.put_record(record).await.map_err(|error| Error::answer(doing, error))
}

async fn open_request(ctx: &Context, key: &Key, live: &Live, name: &str) -> Result<()> {
    let Some(terminating) = live.terminating else { return Ok(()) };
    let spec = DeletionRequestSpec {
        target: Target { kind: key.kind, ids: vec![live.id.clone()] },
        reason: reason(key.kind, &key.name, terminating),
        ticket: None,
        max_entities: None,
        retention_seconds: None,
        r#override: None,
        expected_alerts: vec![],
        cancel: false,
    };
    let mut request = DeletionRequest::new(name, spec);
    let label = (names::LABEL_UNEXPECTED_DELETE.to_owned(), "true".to_owned());
    // The guard would fill it in, and may be absent now.
    let by = (names::ANNOTATION_REQUESTED_BY.to_owned(), names::OPERATOR_USER.to_owned());
    request.metadata = ObjectMeta {
        labels: Some([label].into()),
        annotations: Some([by].into()),
        ..request.metadata
    };
    create_if_absent(&Api::all(ctx.client.clone()), &request).await.map(drop)
}

/// First the alarm, then the status by which it is known to have been given: a crash in between
/// repeats it.
async fn tell_delete(ctx: &Context, key: &Key, live: &Live, told: &UnexpectedDelete) -> Result<()> {
    let message = stands_still(key.kind, &key.name, false, true, Some(told));
    if let Some((reason, message)) = message {
        tell(ctx, key, &live.exact, &Note::warning(reason, message)).await;
    }
    let kind = Kind { kind: key.kind.to_string() };
    ctx.metrics.unexpected_deletes.get_or_create(&kind).inc();
    write_status(ctx, key, &live.exact, &json!({ "unexpectedDelete": told })).await
}

async fn write_status(ctx: &Context, key: &Key, exact: &Exact, status: &Value) -> Result<()> {
    let body = json!({ "metadata": { "uid": exact.uid }, "status": status });
    entities(ctx, key)
        .patch_status(&exact.name, &PatchParams::default(), &Patch::Merge(&body))
        .await
        .during(format!("write the status of {key}"))
        .map(drop)
}

async fn annotate(ctx: &Context, namespaces: &[Exact], record: &Value) -> Result<()> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    for namespace in namespaces {
        let patch =
            json!({ "metadata": { "annotations": { (names::ANNOTATION_RECORD): record } } });
        patch_exact(&api, namespace, patch).await?;
    }
    Ok(())
}

/// Creates it with our finalizer, so that it is never without, and with the mark that keeps its
/// reconciler still until its status is put back: a POST drops that.
async fn create(ctx: &Context, key: &Key, record: &Record) -> Result<()> {
    let mut body = record.object.clone();
    let metadata = &mut body["metadata"];
    match metadata["finalizers"].as_array_mut() {
        Some(finalizers) => finalizers.push(json!(names::FINALIZER)),
        None => metadata["finalizers"] = json!([names::FINALIZER]),
    }
    metadata["annotations"][names::ANNOTATION_RECREATE] = json!(record.uid);
    let object: DynamicObject = serde_json::from_value(body)
        .map_err(|error| Error::answer(format!("create {key} anew"), error))?;
    let api = entities(ctx, key);
    let params =
        PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
    let created = match api.create(&params, &object).await {
        Ok(created) => created,
        // Somebody was faster: the next look tells.
        Err(error) if is_conflict(&error) => return Ok(()),
        Err(error) => return Err(error).during(format!("create {key} anew")),
    };
    // Whoever applied it before can go on without a conflict. A POST drops this as well.
    let patch = json!({ "metadata": { "managedFields": record.managed_fields } });
    if !record.managed_fields.is_empty()
        && let Err(error) = patch_exact(&api, &Exact::of(&created), patch).await
    {
        tracing::warn!(entity = %key, %error, "cannot put field owners back");
    }
    Ok(())
}

async fn tell_end(
    ctx: &Context,
    key: &Key,
    live: Option<&Live>,
    record: &Record,
    closing: Closing,
) {
    let message = match closing {
        Closing::Recreated => format!(
            "created anew after a delete past the gates; its UID was {}; nothing of the tenant was touched",
            record.uid
        ),
        Closing::Exists => format!(
            "{key} was deleted past the gates, and somebody else has created one of that name before the operator did; its record stays in the store, UID {}",
            record.uid
        ),
        Closing::NamespaceGone => format!(
            "{key} is not created anew after a delete past the gates: its namespace is gone. A Restore of its Site brings both back"
        ),
    };
    match (live, closing) {
        (Some(live), Closing::Recreated) => {
            tell(ctx, key, &live.exact, &Note::normal(Reason::Recreated, message)).await;
        }
        (Some(live), _) => {
            tell(ctx, key, &live.exact, &Note::warning(Reason::Recreated, message)).await;
        }
        (None, _) => tracing::error!(entity = %key, "{message}"),
    }
}

async fn tell(ctx: &Context, key: &Key, of: &Exact, note: &Note) {
    let metadata = ObjectMeta {
        name: Some(key.name.clone()),
        namespace: key.namespace.clone(),
        uid: Some(of.uid.clone()),
        resource_version: Some(of.resource_version.clone()),
        ..Default::default()
    };
    match key.kind {
        TargetKind::Site => ctx.tell(&metadata.into_response_partial::<Site>(), note).await,
        TargetKind::App => ctx.tell(&metadata.into_response_partial::<App>(), note).await,
    }
}
