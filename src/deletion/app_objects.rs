//! Reads Apps with their own objects. Live reads, every one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::backups::{backup_of, is_verified};
use super::observe::{AppFacts, OwnObject, SiteFacts};
use super::survey::CONCURRENCY;
use crate::api::{App, DeletionRequest, TargetKind, names};
use crate::cluster::discover::Kinds;
use crate::cluster::form::{ObjectKey, RootDigest, archived_form, object_digest};
use crate::cluster::unexpected::asks_for;
use crate::cluster::{Context, During, Error, Exact, Result, is_not_found};
use crate::store::{Expected, Identity, Store};

/// The Apps of these namespaces and names that exist.
pub(super) async fn observe_apps(
    ctx: &Context,
    keys: BTreeSet<(String, String)>,
    request: &DeletionRequest,
) -> Result<BTreeMap<(String, String), AppFacts>> {
    stream::iter(keys)
        .map(|(namespace, name)| async move {
            let api: Api<App> = Api::namespaced(ctx.client.clone(), &namespace);
            let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
            let doing = format!("read App {namespace}/{name}");
            let Some(app) = api.get_opt(&name).await.during(doing)? else { return Ok(None) };
            let doing = format!("read namespace {namespace}");
            let found = namespaces.get_opt(&namespace).await.during(doing)?;
            let site = found.and_then(|n| n.labels().get(names::LABEL_SITE).cloned());
            let uid = app.uid().unwrap_or_default();
            let past_guard = app.meta().deletion_timestamp.is_some()
                && asks_for(request, TargetKind::App, &app.spec.id, &name, &uid);
            let facts = AppFacts {
                app,
                site: site.unwrap_or_default(),
                objects: vec![],
                live_digest: None,
                archived_digest: None,
                unread: None,
                past_guard,
            };
            Ok(Some(((namespace, name), facts)))
        })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|app| async { Ok(app) })
        .try_collect()
        .await
}

/// Reads the objects of an App, by the UIDs that it has recorded, and compares them with the
/// archive of its Site: the rest of the Site lives on and changes.
pub(super) async fn read_app(
    ctx: &Context,
    store: &Store,
    app: &mut AppFacts,
    site: &SiteFacts,
) -> Result<()> {
    let (namespace, name) = (app.app.namespace().unwrap_or_default(), app.app.name_any());
    let doing = format!("compare App {namespace}/{name} with its backup");
    let kinds = ctx.kinds(Duration::ZERO).await?;
    let mut keys = BTreeSet::new();
    let mut root = RootDigest::default();
    let mut take = |key: ObjectKey, live: Option<Value>| {
        if let Some(live) = live {
            root.add(&key, &object_digest(&archived_form(live)));
        }
        keys.insert(key);
    };
    // As the API server has it, which is how the archive has it.
    let path = format!("{}/{name}", App::url_path(&(), Some(&namespace)));
    if let Some(live) = get(ctx, &path, &doing).await?
        && let Some(key) = ObjectKey::of(&live)
    {
        take(key, Some(live));
    }
    for Object { key, live, own } in read_objects(ctx, &kinds, app, &namespace).await? {
        take(key, live);
        app.objects.extend(own);
    }
    if app.app.meta().deletion_timestamp.is_some() && !app.past_guard {
        // Past its point of no return nothing is compared any more.
        return Ok(());
    }
    let backup = backup_of(site).filter(|b| is_verified(b)).and_then(|b| b.status.as_ref());
    let Some((location, digest)) =
        backup.and_then(|s| Some((s.location.as_ref()?, s.digest.clone()?)))
    else {
        return Ok(());
    };
    let identity =
        Identity { name: site.site.name_any(), uid: site.uid(), id: site.site.spec.id.clone() };
    let failed = |error| Error::answer(&doing, error);
    let expected = Expected { site: identity, digest: Some(digest) };
    let mut reader = store.read(location, expected).await.map_err(failed)?;
    let mut archived = RootDigest::default();
    while let Some(entry) = reader.next().await.map_err(failed)? {
        if keys.contains(&entry.key) {
            archived.add(&entry.key, &entry.digest);
        }
    }
    reader.into_manifest().map_err(failed)?;
    // Both or none: one alone would look like a difference.
    app.live_digest = Some(root.finish());
    app.archived_digest = Some(archived.finish());
    Ok(())
}

/// One recorded object of an App.
struct Object {
    key: ObjectKey,
    /// None: it is gone.
    live: Option<Value>,
    /// What a purge needs of it.
    own: Option<OwnObject>,
}

/// What lives of an App's objects. One of another UID is somebody else's, and not in it.
async fn read_objects(
    ctx: &Context,
    kinds: &Kinds,
    app: &AppFacts,
    namespace: &str,
) -> Result<Vec<Object>> {
    let mut all = vec![];
    for applied in app.applied() {
        let doing = format!("read {} {namespace}/{}", applied.kind, applied.name);
        let Some(kind) = kinds.find(&applied.api_version, &applied.kind) else {
            let why = format!("the cluster does not serve {} any more", applied.api_version);
            return Err(Error::answer(doing, why));
        };
        let path = kind.path(Some(namespace));
        let live = get(ctx, &format!("{path}/{}", applied.name), &doing).await?;
        if live.as_ref().is_some_and(|l| l["metadata"]["uid"] != applied.uid.as_str()) {
            continue;
        }
        let key = ObjectKey {
            group: kind.resource.group.clone(),
            kind: applied.kind.clone(),
            namespace: Some(namespace.to_owned()),
            name: applied.name.clone(),
        };
        let own = live.as_ref().map(|live| own_object(live, &applied.kind, path));
        all.push(Object { key, live, own });
    }
    Ok(all)
}

fn own_object(live: &Value, kind: &str, path: String) -> OwnObject {
    let metadata = &live["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    OwnObject {
        kind: kind.to_owned(),
        path,
        exact: Exact {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            resource_version: text(&metadata["resourceVersion"]),
        },
        deleting: !metadata["deletionTimestamp"].is_null(),
        finalizers: metadata["finalizers"].as_array().into_iter().flatten().map(text).collect(),
    }
}

/// The object at this path; none when it is gone.
async fn get(ctx: &Context, path: &str, doing: &str) -> Result<Option<Value>> {
    let request = http::Request::get(path).body(vec![]);
    let request = request.map_err(|error| Error::answer(doing, error))?;
    match ctx.client.request::<Value>(request).await {
        Ok(live) => Ok(Some(live)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).during(doing),
    }
}
