//! What the manifests of an App ask for, and what is wrong with each. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use serde_json::{Value, json};

use super::object::short_digest;
use crate::api::{App, ManifestFailure, Reason, names};
use crate::cluster::discover::Kind;

/// One object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct ToApply {
    /// Its place in `spec.manifests`.
    pub index: usize,
    /// `apiVersion/kind`, the key into the facts' kinds.
    pub kind_key: String,
    /// API group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The object, labelled and with its namespace.
    pub object: Value,
    /// Digest of the object.
    pub digest: String,
}

impl ToApply {
    /// Says what is wrong with it.
    pub fn failure(&self, reason: Reason, message: impl Into<String>) -> ManifestFailure {
        failure(self.index, &self.kind, &self.name, reason, message)
    }

    /// Place in the order: a binding needs its role, and what begins to run needs the rest.
    pub fn rank(&self) -> u8 {
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, self.kind.as_str()) {
            (_, "RoleBinding") => 1,
            ("apps" | "batch", _) | ("", "Pod" | "ReplicationController") => 2,
            // Custom resources: their controllers begin as well.
            (group, _) if group.contains('.') && !group.ends_with(".k8s.io") => 2,
            _ => 0,
        }
    }
}

/// Says what is wrong with a manifest.
pub fn failure(
    index: usize,
    kind: &str,
    name: &str,
    reason: Reason,
    message: impl Into<String>,
) -> ManifestFailure {
    ManifestFailure {
        index: index.try_into().unwrap_or(i64::MAX),
        kind: kind.to_owned(),
        name: name.to_owned(),
        reason: reason.to_string(),
        message: message.into(),
    }
}

/// The objects of the manifests, and what is wrong with those that cannot be applied.
pub fn objects(app: &App, kinds: &BTreeMap<String, Kind>) -> (Vec<ToApply>, Vec<ManifestFailure>) {
    let (mut good, mut bad) = (vec![], vec![]);
    let mut seen = BTreeSet::new();
    for (index, manifest) in app.spec.manifests.iter().enumerate() {
        match object(app, kinds, index, manifest, &mut seen) {
            Ok(object) => good.push(object),
            Err(failure) => bad.push(failure),
        }
    }
    (good, bad)
}

fn object(
    app: &App,
    kinds: &BTreeMap<String, Kind>,
    index: usize,
    manifest: &Value,
    seen: &mut BTreeSet<(String, String, String)>,
) -> Result<ToApply, ManifestFailure> {
    let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let (version, kind, name) = (
        text(&manifest["apiVersion"]),
        text(&manifest["kind"]),
        text(&manifest["metadata"]["name"]),
    );
    let wrong = |what: String| {
        let (kind, name) = (kind.as_deref().unwrap_or(""), name.as_deref().unwrap_or(""));
        Err(failure(index, kind, name, Reason::InvalidManifest, what))
    };
    let Some(api_version) = &version else { return wrong("has no apiVersion".into()) };
    let Some(kind_word) = &kind else { return wrong("has no kind".into()) };
    let Some(name_word) = &name else {
        return wrong(format!("{kind_word} has no metadata.name"));
    };
    let what = format!("{kind_word} {name_word}");
    let group = format!("{}/", names::GROUP);
    if api_version.starts_with(&group) {
        return wrong(format!("{what} is of {}, which an App cannot hold", names::GROUP));
    }
    let kind_key = format!("{api_version}/{kind_word}");
    let Some(known) = kinds.get(&kind_key) else {
        return wrong(format!("the cluster does not know the kind {kind_word} of {api_version}"));
    };
    if !known.namespaced {
        return wrong(format!("{what} is cluster-scoped, which an App cannot hold"));
    }
    let namespace = app.namespace().unwrap_or_default();
    if let Some(other) = text(&manifest["metadata"]["namespace"]).filter(|n| *n != namespace) {
        return wrong(format!("{what} is in namespace {other}, not in the App's, {namespace}"));
    }
    if !(manifest["metadata"]["labels"].is_null() || manifest["metadata"]["labels"].is_object()) {
        return wrong(format!("{what}: metadata.labels is no map"));
    }
    if !seen.insert((known.resource.group.clone(), kind_word.clone(), name_word.clone())) {
        return wrong(format!("{what} is there twice"));
    }
    let mut object = manifest.clone();
    object["metadata"]["namespace"] = json!(namespace);
    object["metadata"]["labels"][names::LABEL_APP] = json!(app.name_any());
    let digest = short_digest(&object);
    Ok(ToApply {
        index,
        kind_key,
        api_version: api_version.clone(),
        kind: kind_word.clone(),
        name: name_word.clone(),
        object,
        digest,
    })
}
