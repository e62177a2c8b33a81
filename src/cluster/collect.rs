//! Everything that a site holds, listed live, in its archived form.

use futures::stream::{self, StreamExt, TryStreamExt};
use http::Request;
use kube::Client;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::discover::{Kind, Kinds};
use super::error::describe;
use super::form::{ObjectKey, archived_form, group_of, object_digest, root_digest};
use super::readiness::{is_finished, readiness};
use crate::api::names;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Lists in flight at a time.
const CONCURRENCY: usize = 16;
/// How often a list is begun anew when the API server has forgotten where it was.
const RESTARTS: usize = 3;

/// Why a site could not be collected. There is no partial collection.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A kind cannot be listed.
    #[error("failed to list {kind} in {}: {}", namespace.as_deref().unwrap_or("the cluster"), describe(source))]
    List {
        /// Kind, with its API version.
        kind: String,
        /// Namespace. None: the whole cluster.
        namespace: Option<String>,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// An object cannot be read.
    #[error("failed to read {kind} {name}: {}", describe(source))]
    Get {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// A namespace of the site is on its way out: what is left in it is not the site.
    #[error("the namespace {0} is being deleted")]
    NamespaceTerminating(String),
    /// What the API server gave is no object.
    #[error("a listed {0} has no name")]
    Nameless(String),
}

/// How an object stood when it was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ObjectState {
    /// It did what its spec says.
    Ready,
    /// It did not.
    NotReady,
    /// It had run to its end: a Job or a Pod that must not run again.
    Finished,
}

impl ObjectState {
    /// How this live object stands.
    pub fn of(live: &Value) -> Self {
        if is_finished(live) {
            Self::Finished
        } else if readiness(live).is_ready() {
            Self::Ready
        } else {
            Self::NotReady
        }
    }
}

/// One object of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// Which object.
    pub key: ObjectKey,
    /// UID of the live object.
    pub uid: String,
    /// How it stood.
    pub state: ObjectState,
    /// The object in its archived form.
    pub form: Value,
    /// Digest of the form.
    pub digest: String,
}

/// Everything that a site holds, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collection {
    /// The objects.
    pub objects: Vec<Collected>,
}

impl Collection {
    /// The digest over all objects: equal content has an equal digest.
    pub fn root_digest(&self) -> String {
        root_digest(self.objects.iter().map(|o| (&o.key, o.digest.as_str())))
    }

    /// Size of all objects as JSON, in bytes.
    pub fn bytes(&self) -> usize {
        self.objects.iter().map(|o| o.form.to_string().len()).sum()
    }
}

/// How fresh a list must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As the storage has it now. For backups and everything before an irreversible step.
    Live,
    /// As the API server's cache has it: faster, and may be a moment old. For counting.
    Cached,
}

/// Lists everything in these namespaces, and reads the namespaces themselves and the Site.
///
/// What controllers derive is left out, by the table in this file.
///
/// # Errors
/// Any kind that cannot be listed, and any namespace that is not there or on its way out: half a
/// site is no collection.
pub async fn collect(
    client: &Client,
    kinds: &Kinds,
    site: &str,
    namespaces: &[String],
    freshness: Freshness,
) -> Result<Collection, CollectError> {
    let mut objects = vec![];
    let site_path = format!("/apis/{}/sites/{site}", names::API_VERSION);
    take(&mut objects, get(client, "Site", site, site_path).await?)?;
    for namespace in namespaces {
        let path = format!("/api/v1/namespaces/{namespace}");
        let live = get(client, "Namespace", namespace, path).await?;
        if !live["metadata"]["deletionTimestamp"].is_null() {
            return Err(CollectError::NamespaceTerminating(namespace.clone()));
        }
        take(&mut objects, live)?;
    }
    let lists = namespaces.iter().flat_map(|namespace| {
        kinds.of_a_site().map(move |kind| list(client, kind, Some(namespace), freshness))
    });
    let mut lists = stream::iter(lists.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY);
    while let Some(items) = lists.try_next().await? {
        for live in items {
            if !is_derived(&live) {
                take(&mut objects, live)?;
            }
        }
    }
    objects.sort_by_cached_key(|o: &Collected| o.key.to_string());
    Ok(Collection { objects })
}

/// Puts a live object into the collection, in its archived form.
fn take(objects: &mut Vec<Collected>, live: Value) -> Result<(), CollectError> {
    let Some(key) = ObjectKey::of(&live) else {
        return Err(CollectError::Nameless(live["kind"].to_string()));
    };
    let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let state = ObjectState::of(&live);
    let form = archived_form(live);
    let digest = object_digest(&form);
    objects.push(Collected { key, uid, state, form, digest });
    Ok(())
}

async fn get(
    client: &Client,
    kind: &'static str,
    name: &str,
    path: String,
) -> Result<Value, CollectError> {
    let error =
        |source| CollectError::Get { kind, name: name.to_owned(), source: Box::new(source) };
    let request = Request::get(path).body(vec![]).map_err(kube::Error::HttpError);
    client.request(request.map_err(error)?).await.map_err(error)
}

/// Every object of this kind in this namespace, or in the cluster, as the API server has it, page
/// by page.
///
/// # Errors
/// What the API server said.
pub async fn list(
    client: &Client,
    kind: &Kind,
    namespace: Option<&str>,
    freshness: Freshness,
) -> Result<Vec<Value>, CollectError> {
    let mut restarts = 0;
    loop {
        match list_once(client, kind, namespace, freshness).await {
            // The continue token was too old: a slow page, or a compaction in between.
            Err(kube::Error::Api(status)) if status.code == 410 && restarts < RESTARTS => {
                restarts += 1;
            }
            result => {
                return result.map_err(|source| CollectError::List {
                    kind: format!("{} {}", kind.resource.api_version, kind.resource.kind),
                    namespace: namespace.map(str::to_owned),
                    source: Box::new(source),
                });
            }
        }
    }
}

async fn list_once(
    client: &Client,
    kind: &Kind,
    namespace: Option<&str>,
    freshness: Freshness,
) -> kube::Result<Vec<Value>> {
    let mut found = vec![];
    pages(client, kind, namespace, freshness, &mut |item| found.push(item)).await?;
    Ok(found)
}

/// Hands every object of this kind to `take`, one page in memory at a time. For counting: what was
/// taken before an error is not taken back.
///
/// # Errors
/// What the API server said.
pub async fn for_each(
    client: &Client,
    kind: &Kind,
    namespace: Option<&str>,
    freshness: Freshness,
    take: &mut (dyn FnMut(Value) + Send),
) -> Result<(), CollectError> {
    pages(client, kind, namespace, freshness, take).await.map_err(|source| CollectError::List {
        kind: format!("{} {}", kind.resource.api_version, kind.resource.kind),
        namespace: namespace.map(str::to_owned),
        source: Box::new(source),
    })
}

async fn pages(
    client: &Client,
    kind: &Kind,
    namespace: Option<&str>,
    freshness: Freshness,
    take: &mut (dyn FnMut(Value) + Send),
) -> kube::Result<()> {
    let requests = kube::core::Request::new(kind.path(namespace));
    let mut params = match freshness {
        Freshness::Live => ListParams::default().limit(PAGE),
        Freshness::Cached => ListParams::default().match_any(),
    };
    loop {
        let request = requests.list(&params).map_err(kube::Error::BuildRequest)?;
        let mut page: Value = client.request(request).await?;
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            for mut item in items {
                // Items of a list of a built-in kind don't say what they are.
                item["apiVersion"] = json!(kind.resource.api_version);
                item["kind"] = json!(kind.resource.kind);
                take(item);
            }
        }
        match page["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => params = params.continue_token(token),
            _ => return Ok(()),
        }
    }
}

/// The table: what a controller derives from other objects, and would make anew. Everything else
/// is somebody's data.
pub fn is_derived(live: &Value) -> bool {
    let labels = &live["metadata"]["labels"];
    match (group_of(live), live["kind"].as_str().unwrap_or_default()) {
        // Made by a workload's controller; those that stand alone are data.
        ("", "Pod") | ("apps", "ReplicaSet" | "ControllerRevision") => controller(live).is_some(),
        ("batch", "Job") => controller(live) == Some("CronJob"),
        // Made with a Pod, and named after it: generic ephemeral volumes.
        ("", "PersistentVolumeClaim") | ("resource.k8s.io", "ResourceClaim") => {
            controller(live) == Some("Pod")
        }
        // By a Service with a selector; those of a Service without one are data.
        ("", "Endpoints") => !labels["endpoints.kubernetes.io/managed-by"].is_null(),
        ("discovery.k8s.io", "EndpointSlice") => {
            let by = labels["endpointslice.kubernetes.io/managed-by"].as_str().unwrap_or_default();
            by.ends_with("-controller.k8s.io")
        }
        ("", "Secret") => live["type"] == "kubernetes.io/service-account-token",
        ("", "ConfigMap") => live["metadata"]["name"] == "kube-root-ca.crt",
        _ => false,
    }
}

/// The kind of the object that controls this one.
fn controller(live: &Value) -> Option<&str> {
    let owners = live["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["kind"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controllers_derive() {
        let owned = |api_version: &str, kind: &str, owner: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "ownerReferences": [{"kind": owner, "controller": true}]}});
        let plain = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        let slice = |by: &str| json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": by}}});
        let rows = [
            (owned("v1", "Pod", "ReplicaSet"), true),
            (plain("v1", "Pod"), false),
            (owned("apps/v1", "ReplicaSet", "Deployment"), true),
            (plain("apps/v1", "ReplicaSet"), false),
            (owned("apps/v1", "ControllerRevision", "StatefulSet"), true),
            (owned("batch/v1", "Job", "CronJob"), true),
            (owned("batch/v1", "Job", "Pipeline"), false),
            (plain("batch/v1", "Job"), false),
            (owned("v1", "PersistentVolumeClaim", "Pod"), true),
            (owned("v1", "PersistentVolumeClaim", "StatefulSet"), false),
            (owned("v1", "ConfigMap", "Database"), false),
            (slice("endpointslice-controller.k8s.io"), true),
            (slice("endpointslicemirroring-controller.k8s.io"), true),
            (slice("somebody"), false),
            (
                json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token"}),
                true,
            ),
            (json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque"}), false),
            (
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}}),
                true,
            ),
        ];
        for (live, expected) in rows {
            assert_eq!(is_derived(&live), expected, "{live}");
        }
    }
}
