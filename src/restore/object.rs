//! One object: created, or found as it should be. Nothing that lives is overwritten.

use std::collections::HashSet;
use std::sync::Mutex;

use http::{Method, Request, header::CONTENT_TYPE};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::compare::{
    Cause, Difference, created_by_us, differences, explain_by_admission, is_bare,
    lacks_field_owners, without_addresses,
};
use super::index::{Item, app_id};
use super::rewrite;
use super::snapshot::Snapshot;
use crate::api::{Reason, names};
use crate::cluster::discover::{Kind, Kinds};
use crate::cluster::form::ObjectKey;
use crate::cluster::snapshots::{Content, GROUP, SNAPSHOT};
use crate::cluster::{describe, is_conflict, is_not_found};
use crate::store::RawEntry;

/// The name under which is tried what the cluster makes of an object. Nothing is ever stored.
const DRY_RUN_NAME: &str = "reprieve-dry-run";

/// An object that is to be there.
pub struct Wanted<'a> {
    /// What it is to be, in short.
    pub item: &'a Item,
    /// The object, as the archive has it.
    pub entry: RawEntry,
    /// Name of the Site.
    pub site: &'a str,
}

impl Wanted<'_> {
    /// Which object.
    pub fn key(&self) -> &ObjectKey {
        &self.entry.key
    }

    /// What it is to be.
    pub fn expected(&self) -> Value {
        rewrite::expected(&self.entry, self.site, &self.item.owners)
    }
}

/// What is remembered of an object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its UID.
    pub uid: String,
    /// The resourceVersion at which it was seen.
    pub resource_version: String,
    /// Whether its owner references are still to be set, if it is to have any.
    pub lacks_owners: bool,
    /// Whether its field owners are still to be put back, if they are to be.
    pub lacks_fields: bool,
    /// The Site whose namespace it says that it is.
    pub site: Option<String>,
    /// The platform's id, of an App.
    pub id: Option<Box<str>>,
}

impl Live {
    /// What is to be remembered of this object; `since` as in [`Maker`].
    pub fn of(live: &Value, item: &Item, since: &str) -> Self {
        let metadata = &live["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let form = crate::cluster::form::archived_form(json!({
            "metadata": { "ownerReferences": metadata["ownerReferences"] },
        }));
        let owners = form["metadata"]["ownerReferences"].as_array();
        Self {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            lacks_owners: owners.map_or(&[][..], Vec::as_slice) != item.owners,
            lacks_fields: created_by_us(live, since) && lacks_field_owners(live),
            site: metadata["labels"][names::LABEL_SITE].as_str().map(str::to_owned),
            id: app_id(live),
        }
    }
}

/// As much of an answer to a write as is needed later.
#[derive(Debug, Deserialize)]
struct Answer {
    metadata: AnswerMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerMetadata {
    uid: String,
    resource_version: String,
}

impl Answer {
    /// Of an object that was just created.
    fn created(self) -> Live {
        Live {
            uid: self.metadata.uid,
            resource_version: self.metadata.resource_version,
            lacks_owners: true,
            lacks_fields: true,
            site: None,
            id: None,
        }
    }
}

/// What became of one object.
#[derive(Debug)]
pub enum Made {
    /// It is there, as it was.
    There(Live),
    /// It is there, and something may differ: which, and why.
    Differently(Live, Reason, String),
    /// Another one lives in its place, and is not touched: which, and where they differ.
    Conflict(Live, String),
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
    /// The namespaces that this restore has created.
    pub own: Mutex<HashSet<String>>,
    /// The contents of snapshots that there are, once they were asked for.
    pub contents: OnceCell<Option<Vec<Content>>>,
}

impl<'a> Maker<'a> {
    /// For this Restore; what this operator has created since then is its own.
    pub fn new(client: &'a Client, kinds: &'a Kinds, restore: &'a str, since: &'a str) -> Self {
        let (own, contents) = (Mutex::default(), OnceCell::new());
        Self { client, kinds, restore, since, own, contents }
    }
}

/// An API error that may pass by itself.
pub fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            // 404 on a create: the namespace has gone under it. 409 without "already exists" and
            // 403 of that kind: the namespace is on its way out.
            // 403 for want of a right: an API server that has just started does not know its roles
            // yet; and a right that is really missing can be given, the status names it.
            let says = |words: &str| status.message.contains(words);
            let passes = says("because it is being terminated")
                || (says("is forbidden: User ") && says(" cannot "));
            matches!(status.code, 404 | 408 | 409 | 429)
                || status.code >= 500
                || (status.code == 403 && passes)
        }
        // No answer, or a broken one.
        _ => true,
    }
}

impl Maker<'_> {
    /// The kind of an object. Err: this cluster does not serve it.
    pub fn kind(&self, api_version: &str, key: &ObjectKey) -> Result<&Kind, Made> {
        self.kinds.find(api_version, &key.kind).ok_or_else(|| {
            let kind = format!("{api_version} {}", key.kind);
            Made::Failed(Reason::KindMissing, format!("this cluster does not serve {kind}"))
        })
    }

    /// Sends a request of this room. The one door, for all but the Site itself and volumes.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> kube::Result<T> {
        let mut request = Request::builder().method(&method).uri(path);
        if !body.is_empty() {
            let patch = method == Method::PATCH;
            let type_ = if patch { "application/merge-patch+json" } else { "application/json" };
            request = request.header(CONTENT_TYPE, type_);
        }
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }

    /// The URL path of an object, for writing.
    pub fn path(&self, kind: &Kind, key: &ObjectKey) -> String {
        let path = kind.path(key.namespace.as_deref());
        format!("{path}/{}?fieldManager={}", key.name, names::FIELD_MANAGER)
    }

    /// Makes this object be there.
    pub async fn make(&self, wanted: &Wanted<'_>) -> Made {
        self.make_claim(wanted, &[]).await
    }

    /// Makes this object be there; of a claim, these are its snapshots in the archive.
    pub async fn make_claim(&self, wanted: &Wanted<'_>, snapshots: &[Snapshot]) -> Made {
        let (key, entry) = (wanted.key(), &wanted.entry);
        let kind = match self.kind(&wanted.item.api_version, key) {
            Ok(kind) => kind,
            Err(made) => return made,
        };
        let mut notice = None;
        let body = if wanted.item.rewritten {
            let mut body = rewrite::body(wanted.expected(), self.restore);
            if key.is("", "PersistentVolumeClaim")
                && let Err(made) = self.free_volume(key, snapshots, &mut body, &mut notice).await
            {
                return made;
            }
            if key.is(GROUP, SNAPSHOT)
                && let Err(made) = self.bind_snapshot(key, &mut body, &mut notice).await
            {
                return made;
            }
            body.to_string().into_bytes()
        } else {
            entry.object.get().as_bytes().to_vec()
        };
        let path = kind.path(key.namespace.as_deref());
        let path = format!("{path}?fieldManager={}", names::FIELD_MANAGER);
        let mut result: kube::Result<Answer> = self.send(Method::POST, &path, body).await;
        // An address that somebody has taken is given up, rather than the Service.
        if let Err(kube::Error::Api(status)) = &result
            && status.code == 422
            && key.is("", "Service")
            && let Some(without) = without_addresses(&rewrite::body(wanted.expected(), ""))
        {
            notice = Some(format!("got other addresses: {}", status.message));
            result = self.send(Method::POST, &path, without.to_string().into_bytes()).await;
        }
        match result {
            Ok(answer) => {
                if key.is("", "Namespace") {
                    self.is_own(&key.name);
                }
                match notice {
                    Some(notice) => {
                        let claim = key.is("", "PersistentVolumeClaim");
                        let reason = if claim { Reason::DiskMissing } else { Reason::Reassigned };
                        Made::Differently(answer.created(), reason, notice)
                    }
                    None => Made::There(answer.created()),
                }
            }
            Err(error) if is_conflict(&error) => self.look(kind, wanted).await,
            Err(error) if may_pass(&error) => later(Reason::Progressing, &error),
            Err(error) => Made::Failed(Reason::CreateFailed, describe(&error)),
        }
    }

    /// What to say of an object that seems to be there.
    pub async fn look(&self, kind: &Kind, wanted: &Wanted<'_>) -> Made {
        match self.read(kind, wanted.key()).await {
            Ok(Some(live)) => self.found(kind, wanted, live).await,
            Ok(None) => Made::Later(Reason::Progressing, "it has just gone".to_owned()),
            Err(error) => later(Reason::Progressing, &error),
        }
    }

    /// The live object.
    pub async fn read(&self, kind: &Kind, key: &ObjectKey) -> kube::Result<Option<Value>> {
        let path = format!("{}/{}", kind.path(key.namespace.as_deref()), key.name);
        match self.send(Method::GET, &path, vec![]).await {
            Ok(live) => Ok(Some(live)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What to say of an object that is there already.
    async fn found(&self, kind: &Kind, wanted: &Wanted<'_>, live: Value) -> Made {
        let key = wanted.key();
        if !live["metadata"]["deletionTimestamp"].is_null() {
            let what = format!("{key} of old is still being deleted");
            return Made::Later(Reason::StillTerminating, what);
        }
        let ours = created_by_us(&live, self.since);
        let mut found = differences(&wanted.expected(), &live);
        // The second pass adds them.
        found.retain(|d| !d.path.starts_with("metadata.ownerReferences"));
        if ours {
            found.retain(|d| d.cause == Cause::Unexplained);
            self.explain(kind, wanted, &live, &mut found).await;
            found.retain(|d| d.cause == Cause::Unexplained);
        }
        let seen = Live::of(&live, wanted.item, self.since);
        if found.is_empty() {
            if ours && key.is("", "Namespace") {
                self.is_own(&key.name);
            }
            return Made::There(seen);
        }
        // A controller makes an empty account in each new namespace, and is often faster. In a
        // namespace that this restore has created, nobody can have had it before.
        let account = key.is("", "ServiceAccount") && key.name == "default";
        let new = key.namespace.as_ref().is_some_and(|name| self.has_made(name));
        if account && new && is_bare(&live) {
            return self.replace(kind, wanted, &live).await;
        }
        let fields: Vec<String> = found.iter().take(5).map(ToString::to_string).collect();
        Made::Conflict(seen, format!("it lives and is different in {}", fields.join(", ")))
    }

    /// Notes that everything in this namespace came after this restore, or after the loss.
    pub fn is_own(&self, namespace: &str) {
        if let Ok(mut own) = self.own.lock() {
            own.insert(namespace.to_owned());
        }
    }

    fn has_made(&self, namespace: &str) -> bool {
        self.own.lock().is_ok_and(|own| own.contains(namespace))
    }

    /// Explains differences by what the cluster's policies and webhooks make of such an object when
    /// it is created: it is tried, without storing it. Only asked for when nothing else explains
    /// them.
    pub async fn explain(
        &self,
        kind: &Kind,
        wanted: &Wanted<'_>,
        live: &Value,
        found: &mut [Difference],
    ) {
        let unexplained = found.iter().any(|d| d.cause == Cause::Unexplained);
        if !unexplained || wanted.key().group == names::GROUP {
            return;
        }
        let mut body = rewrite::body(wanted.expected(), self.restore);
        body = without_addresses(&body).unwrap_or(body);
        body["metadata"]["name"] = json!(DRY_RUN_NAME);
        let path = kind.path(wanted.key().namespace.as_deref());
        let path = format!("{path}?dryRun=All&fieldManager={}", names::FIELD_MANAGER);
        let body = body.to_string().into_bytes();
        // Whatever it answers but success explains nothing.
        if let Ok(now) = self.send::<Value>(Method::POST, &path, body).await {
            explain_by_admission(found, live, &now);
        }
    }

    /// Gives an empty object of a controller its content, if it is still the one that was read.
    async fn replace(&self, kind: &Kind, wanted: &Wanted<'_>, live: &Value) -> Made {
        let mut body = rewrite::body(wanted.expected(), self.restore);
        for field in ["uid", "resourceVersion"] {
            body["metadata"][field] = live["metadata"][field].clone();
        }
        let (path, body) = (self.path(kind, wanted.key()), body.to_string().into_bytes());
        // A merge into an empty object is the whole content, and needs no right to update.
        match self.send::<Answer>(Method::PATCH, &path, body).await {
            Ok(answer) => Made::There(answer.created()),
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
        let patch = json!({ "metadata": metadata }).to_string().into_bytes();
        self.send::<Answer>(Method::PATCH, &self.path(kind, key), patch).await.map(|_| ())
    }
}

/// Not now.
pub fn later(reason: Reason, error: &kube::Error) -> Made {
    Made::Later(reason, describe(error))
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
