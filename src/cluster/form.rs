//! The archived form of an object, and digests over it: what Reprieve means by *equal*.
//!
//! Two objects are equal when their archived forms are. The form has no `status`, nothing that
//! only the cluster writes, and owner references by name. What the cluster assigns *into the spec*
//! stays where a restore gives it back (cluster IPs, node ports, a claim's volume); what it would
//! only assign anew goes, by the short table in [`assigned_by_the_cluster`].
//!
//! Pure: no client and no clock.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::former::without_hold;
use crate::api::names;

/// Which object of a site: kind, namespace and name. Not the version, which may change with an
/// upgrade of the cluster while the object stays the same one.
///
/// Written as `Deployment.apps/acme/web`, `ConfigMap/acme/settings`, `Namespace/acme`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace. None: cluster-scoped.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// The API group of an object; empty for the core group.
pub fn group_of(object: &Value) -> &str {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl ObjectKey {
    /// The key of this object. None when it lacks `apiVersion`, `kind` or a name.
    pub fn of(object: &Value) -> Option<Self> {
        object["apiVersion"].as_str()?;
        let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        Some(Self {
            group: group_of(object).to_owned(),
            kind: text(&object["kind"])?,
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"])?,
        })
    }

    /// Whether this is the key of an object of this group and kind.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, "/{namespace}")?;
        }
        write!(f, "/{}", self.name)
    }
}

impl FromStr for ObjectKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, name] => (*kind, None, *name),
            [kind, namespace, name] => (*kind, Some(*namespace), *name),
            _ => return Err(format!("{text:?} is not the key of an object")),
        };
        if [kind, name, namespace.unwrap_or("x")].iter().any(|part| part.is_empty()) {
            return Err(format!("{text:?} is not the key of an object"));
        }
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        Ok(Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

/// In the order of the written form, so that a sorted list reads as sorted.
impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Metadata that only the cluster writes.
const CLUSTER_METADATA: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// Annotations that the operator, or a controller, writes anew.
const DERIVED_ANNOTATIONS: [&str; 11] = [
    names::ANNOTATION_PURGE,
    names::ANNOTATION_RESTORE,
    names::ANNOTATION_RECORD,
    names::ANNOTATION_RECREATE,
    "deployment.kubernetes.io/revision",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-resizer",
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// Finalizers that tell of a deletion under way, or that the operator puts on by itself.
const DERIVED_FINALIZERS: [&str; 3] = [names::FINALIZER, "foregroundDeletion", "orphan"];

/// Labels of a Job's Pods that carry the Job's UID or repeat its name.
const JOB_LABELS: [&str; 4] = [
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "job-name",
    "batch.kubernetes.io/job-name",
];

/// Who owns which field of a live object, where server-side apply depends on it: all entries of its
/// `managedFields` but those of its status and of a hold, if anybody has applied it. It is not part of the
/// archived form: objects are equal whoever owns their fields.
pub fn field_owners(live: &Value) -> Option<Vec<Value>> {
    let entries = live["metadata"]["managedFields"].as_array()?;
    // What an App has created becomes applied by it at the first drift.
    let applied = |e: &Value| e["operation"] == "Apply" || e["manager"] == names::APP_MANAGER;
    if !entries.iter().any(applied) {
        return None;
    }
    // What a hold has changed is nobody's wish, and goes with it.
    let lasts = |e: &&Value| e["subresource"] != "status" && e["manager"] != names::HOLD_MANAGER;
    let mut owners: Vec<Value> = entries.iter().filter(lasts).cloned().collect();
    for owner in owners.iter_mut().filter_map(Value::as_object_mut) {
        owner.remove("time");
    }
    Some(owners).filter(|owners| !owners.is_empty())
}

/// An object in its archived form. Applying it again changes nothing.
pub fn archived_form(mut object: Value) -> Value {
    without_hold(&mut object);
    let Some(root) = object.as_object_mut() else { return object };
    root.remove("status");
    if let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in CLUSTER_METADATA {
            metadata.remove(field);
        }
        remove_entries(metadata, "annotations", &DERIVED_ANNOTATIONS);
        retain_items(metadata, "finalizers", |item| {
            !item.as_str().is_some_and(|name| DERIVED_FINALIZERS.contains(&name))
        });
        if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
            for owner in owners.iter_mut().filter_map(Value::as_object_mut) {
                owner.remove("uid");
            }
        }
        for field in ["annotations", "labels", "finalizers", "ownerReferences"] {
            remove_if_empty(metadata, field);
        }
    }
    assigned_by_the_cluster(&mut object);
    object
}

/// The table: what the cluster assigns outside `status` and metadata, and would assign anew.
/// Everything else that it assigns (cluster IPs, node ports, a claim's volume) is kept, because a
/// restore sends it along.
fn assigned_by_the_cluster(object: &mut Value) {
    let kind = object["kind"].as_str().unwrap_or_default();
    match (group_of(object), kind) {
        ("", "Namespace") => {
            // Namespaces are finalized through a subresource of their own.
            remove_at(object, &["spec"], "finalizers");
            if let Some(root) = object.as_object_mut() {
                remove_if_empty(root, "spec");
            }
            remove_at(object, &["metadata", "labels"], "kubernetes.io/metadata.name");
            if let Some(metadata) = object["metadata"].as_object_mut() {
                remove_if_empty(metadata, "labels");
            }
        }
        // Which node a Pod got.
        ("", "Pod") => remove_at(object, &["spec"], "nodeName"),
        // By the StatefulSet's controller, as its persistentVolumeClaimRetentionPolicy says.
        ("", "PersistentVolumeClaim") => {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                retain_items(metadata, "ownerReferences", |owner| {
                    owner["kind"] != "StatefulSet"
                        || !owner["apiVersion"].as_str().is_some_and(|v| v.starts_with("apps/"))
                });
                remove_if_empty(metadata, "ownerReferences");
            }
        }
        // The selector and the labels that tell this Job's Pods from those of any other: by UID.
        ("batch", "Job") if object["spec"]["manualSelector"] != true => {
            remove_at(object, &["spec"], "selector");
            let template = object.pointer_mut("/spec/template/metadata");
            if let Some(metadata) = template.and_then(Value::as_object_mut) {
                remove_entries(metadata, "labels", &JOB_LABELS);
                remove_if_empty(metadata, "labels");
                metadata.remove("creationTimestamp");
            }
            let own = object.get_mut("metadata").and_then(Value::as_object_mut);
            if let Some(metadata) = own {
                remove_entries(metadata, "labels", &JOB_LABELS);
                remove_if_empty(metadata, "labels");
            }
        }
        // Token Secrets are not archived, so an account must not name them.
        ("", "ServiceAccount") => {
            let prefix =
                format!("{}-token-", object["metadata"]["name"].as_str().unwrap_or_default());
            if let Some(root) = object.as_object_mut() {
                retain_items(root, "secrets", |item| {
                    !item["name"].as_str().is_some_and(|name| name.starts_with(&prefix))
                });
                remove_if_empty(root, "secrets");
            }
        }
        _ => {}
    }
}

fn remove_at(object: &mut Value, path: &[&str], field: &str) {
    let mut place = object;
    for step in path {
        match place.get_mut(*step) {
            Some(inner) => place = inner,
            None => return,
        }
    }
    if let Some(map) = place.as_object_mut() {
        map.remove(field);
    }
}

fn remove_entries(map: &mut Map<String, Value>, field: &str, names: &[&str]) {
    if let Some(entries) = map.get_mut(field).and_then(Value::as_object_mut) {
        for name in names {
            entries.remove(*name);
        }
    }
}

fn retain_items(map: &mut Map<String, Value>, field: &str, keep: impl Fn(&Value) -> bool) {
    if let Some(items) = map.get_mut(field).and_then(Value::as_array_mut) {
        items.retain(keep);
    }
}

fn remove_if_empty(map: &mut Map<String, Value>, field: &str) {
    let empty = match map.get(field) {
        Some(Value::Object(inner)) => inner.is_empty(),
        Some(Value::Array(inner)) => inner.is_empty(),
        Some(Value::Null) => true,
        _ => false,
    };
    if empty {
        map.remove(field);
    }
}

/// A digest as it is written: `sha256:` and 64 hexadecimal digits.
pub fn digest_text(hash: Sha256) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hash.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The digest of an object in its archived form: SHA-256 over its canonical JSON, which is
/// compact and has sorted keys. `serde_json` sorts the keys of its maps by itself as long as no
/// crate of the build switches its feature `preserve_order` on; a test here would notice.
pub fn object_digest(form: &Value) -> String {
    digest_of(form.to_string().as_bytes())
}

/// The digest of these bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    digest_text(hash)
}

/// One digest over many objects, the same in whatever order they come.
#[derive(Clone, Debug, Default)]
pub struct RootDigest {
    leaves: Vec<(String, String)>,
}

impl RootDigest {
    /// Takes an object in.
    pub fn add(&mut self, key: &ObjectKey, digest: &str) {
        self.leaves.push((key.to_string(), digest.to_owned()));
    }

    /// The digest over all that was taken in.
    pub fn finish(mut self) -> String {
        self.leaves.sort();
        let mut hash = Sha256::new();
        for (key, digest) in self.leaves {
            // Neither a key nor a digest can hold a line break or a space.
            hash.update(format!("{key} {digest}\n"));
        }
        digest_text(hash)
    }
}

/// The root digest over these objects, whatever their order.
pub fn root_digest<'a>(leaves: impl IntoIterator<Item = (&'a ObjectKey, &'a str)>) -> String {
    let mut root = RootDigest::default();
    for (key, digest) in leaves {
        root.add(key, digest);
    }
    root.finish()
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
