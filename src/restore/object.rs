//! One object: created, or found as it should be. Nothing that lives is overwritten.

use http::{Method, Request};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::compare::{Cause, created_by_us, differences, is_bare, without_addresses};
use super::rewrite;
use crate::api::{Reason, names};
use crate::cluster::discover::{Kind, Kinds};
use crate::cluster::form::ObjectKey;
use crate::cluster::{Exact, describe, is_conflict, is_not_found};

/// What became of one object.
#[derive(Debug)]
pub enum Made {
    /// It is there, as it was.
    There(Value),
    /// It is there, and something may differ: which, and why.
    Differently(Value, Reason, String),
    /// Another one lives in its place, and is not touched: which, and where they differ.
    Conflict(Value, String),
    /// It cannot be restored.
    Failed(Reason, String),
    /// Not now: the API server or what is in the way may pass.
    Later(Reason, String),
}

/// Where objects are created, and for whom.
pub struct Maker<'a> {
    /// The way to the cluster.
    pub client: &'a Client,
    /// What it serves.
    pub kinds: &'a Kinds,
    /// Name of the Restore.
    pub restore: &'a str,
    /// Since when what this operator has created is this restore's.
    pub since: &'a str,
}

/// An API error that may pass by itself.
pub fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            // 404 on a create: the namespace has gone under it. 409 without "already exists" and
            // 403 of that kind: the namespace is on its way out.
            matches!(status.code, 404 | 408 | 409 | 429) || status.code >= 500 || {
                status.code == 403 && status.message.contains("because it is being terminated")
            }
        }
        // No answer, or a broken one.
        _ => true,
    }
}

impl Maker<'_> {
    /// The kind of an object. Err: this cluster does not serve it.
    pub fn kind(&self, object: &Value) -> Result<&Kind, Made> {
        let word = |field: &str| object[field].as_str().unwrap_or_default();
        self.kinds.find(word("apiVersion"), word("kind")).ok_or_else(|| {
            let kind = format!("{} {}", word("apiVersion"), word("kind"));
            Made::Failed(Reason::KindMissing, format!("this cluster does not serve {kind}"))
        })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> kube::Result<Value> {
        let mut request = Request::builder().method(&method).uri(path);
        if let Some(_body) = body {
            let patch = method == Method::PATCH;
            let type_ = if patch { "application/merge-patch+json" } else { "application/json" };
            request = request.header(http::header::CONTENT_TYPE, type_);
        }
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }

    fn path(&self, kind: &Kind, key: &ObjectKey) -> String {
        format!("{}/{}", kind.path(key.namespace.as_deref()), key.name)
    }

    /// Makes this object be there.
    pub async fn make(&self, key: &ObjectKey, expected: &Value) -> Made {
        let kind = match self.kind(expected) {
            Ok(kind) => kind,
            Err(made) => return made,
        };
        let mut body = rewrite::body(expected, self.restore);
        let mut notice = None;
        if key.is("", "PersistentVolumeClaim")
            && let Err(made) = self.free_volume(key, &mut body, &mut notice).await
        {
            return made;
        }
        let path = format!(
            "{}?fieldManager={}",
            kind.path(key.namespace.as_deref()),
            names::FIELD_MANAGER
        );
        let mut result = self.send(Method::POST, &path, Some(&body)).await;
        // An address that somebody has taken is given up, rather than the Service.
        if let Err(kube::Error::Api(status)) = &result
            && status.code == 422
            && key.is("", "Service")
            && let Some(without) = without_addresses(&body)
        {
            notice = Some(format!("got other addresses: {}", status.message));
            result = self.send(Method::POST, &path, Some(&without)).await;
        }
        match result {
            Ok(live) => match notice {
                Some(notice) => Made::Differently(live, Reason::Reassigned, notice),
                None => Made::There(live),
            },
            Err(error) if is_conflict(&error) => match self.read(kind, key).await {
                Ok(Some(live)) => self.found(kind, key, expected, live).await,
                Ok(None) => later(Reason::Progressing, &error),
                Err(error) => later(Reason::Progressing, &error),
            },
            Err(error) if may_pass(&error) => later(Reason::Progressing, &error),
            Err(error) => Made::Failed(Reason::CreateFailed, describe(&error)),
        }
    }

    /// The live object.
    pub async fn read(&self, kind: &Kind, key: &ObjectKey) -> kube::Result<Option<Value>> {
        match self.send(Method::GET, &self.path(kind, key), None).await {
            Ok(live) => Ok(Some(live)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What to say of an object that is there already.
    pub async fn found(&self, kind: &Kind, key: &ObjectKey, expected: &Value, live: Value) -> Made {
        if !live["metadata"]["deletionTimestamp"].is_null() {
            let what = format!("{key} of old is still being deleted");
            return Made::Later(Reason::StillTerminating, what);
        }
        let ours = created_by_us(&live, self.since);
        let found: Vec<_> = differences(expected, &live)
            .into_iter()
            // The second pass adds them.
            .filter(|d| !d.path.starts_with("metadata.ownerReferences"))
            .filter(|d| !ours || d.cause == Cause::Unexplained)
            .collect();
        if found.is_empty() {
            return Made::There(live);
        }
        // A controller makes an empty account in each new namespace, and is often faster.
        let account = key.is("", "ServiceAccount") && key.name == "default";
        let young =
            live["metadata"]["creationTimestamp"].as_str().unwrap_or_default() >= self.since;
        if account && young && is_bare(&live) {
            return self.replace(kind, key, expected, &live).await;
        }
        let fields: Vec<String> = found.iter().take(5).map(ToString::to_string).collect();
        let fields = fields.join(", ");
        Made::Conflict(live, format!("it lives and is different in {fields}"))
    }

    /// Gives an empty object of a controller its content, if it is still the one that was read.
    async fn replace(&self, kind: &Kind, key: &ObjectKey, expected: &Value, live: &Value) -> Made {
        let mut body = rewrite::body(expected, self.restore);
        for field in ["uid", "resourceVersion"] {
            body["metadata"][field] = live["metadata"][field].clone();
        }
        let path = format!("{}?fieldManager={}", self.path(kind, key), names::FIELD_MANAGER);
        // A merge into an empty object is the whole content, and needs no right to update.
        match self.send(Method::PATCH, &path, Some(&body)).await {
            Ok(live) => Made::There(live),
            Err(error) if may_pass(&error) => later(Reason::Progressing, &error),
            Err(error) => Made::Failed(Reason::CreateFailed, describe(&error)),
        }
    }

    /// Takes our finalizer off an object, if it is still the one that was read.
    pub async fn let_go(&self, kind: &Kind, key: &ObjectKey, live: &Value) -> kube::Result<()> {
        let finalizers = live["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let rest: Vec<Value> = finalizers.into_iter().filter(|f| f != names::FINALIZER).collect();
        let metadata = json!({
            "uid": live["metadata"]["uid"],
            "resourceVersion": live["metadata"]["resourceVersion"],
            "finalizers": rest,
        });
        let path = format!("{}?fieldManager={}", self.path(kind, key), names::FIELD_MANAGER);
        let patch = json!({ "metadata": metadata });
        self.send(Method::PATCH, &path, Some(&patch)).await.map(|_| ())
    }

    /// Points a kept disk at the claim that is about to come back. The volume keeps the claim's
    /// name and loses its UID: with the whole reference cleared, any other claim could take it.
    async fn free_volume(
        &self,
        key: &ObjectKey,
        body: &mut Value,
        notice: &mut Option<String>,
    ) -> Result<(), Made> {
        let Some(name) = body["spec"]["volumeName"].as_str().map(str::to_owned) else {
            return Ok(());
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = api.get_opt(&name).await.map_err(|e| later(Reason::Progressing, &e))?;
        let reference = volume.as_ref().and_then(|v| v.spec.as_ref()?.claim_ref.clone());
        let own = reference.as_ref().is_some_and(|r| {
            r.namespace == key.namespace && r.name.as_deref() == Some(key.name.as_str())
        });
        let (Some(volume), true) = (volume, own) else {
            *notice =
                Some(format!("its disk {name} is not there: the claim gets a new, empty one"));
            if let Some(spec) = body["spec"].as_object_mut() {
                spec.remove("volumeName");
            }
            return Ok(());
        };
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase != Some("Released") {
            return Ok(());
        }
        let patch = json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } });
        match crate::cluster::patch_exact(&api, &Exact::of(&volume), patch).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Made::Later(Reason::Progressing, error.to_string())),
        }
    }

    /// Sets the owner references of a live object, if it is still the one that was read.
    pub async fn set_owners(
        &self,
        key: &ObjectKey,
        live: &Value,
        owners: &[Value],
    ) -> Result<Value, Made> {
        let kind = self.kind(live)?;
        let metadata = json!({
            "uid": live["metadata"]["uid"],
            "resourceVersion": live["metadata"]["resourceVersion"],
            "ownerReferences": owners,
        });
        let path = format!("{}?fieldManager={}", self.path(kind, key), names::FIELD_MANAGER);
        let patch = json!({ "metadata": metadata });
        self.send(Method::PATCH, &path, Some(&patch)).await.map_err(|error| {
            if may_pass(&error) {
                later(Reason::Progressing, &error)
            } else {
                Made::Failed(Reason::CreateFailed, format!("its owners: {}", describe(&error)))
            }
        })
    }
}

fn later(reason: Reason, error: &kube::Error) -> Made {
    Made::Later(reason, describe(error))
}
