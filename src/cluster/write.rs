//! Writes that say what they were decided on: UID and resourceVersion go with each.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{During, Result, is_conflict, is_not_found};
use crate::api::{Site, names};

/// The object that a write was decided on: its name, and what tells it from a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exact {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The resourceVersion at which the decision was made.
    pub resource_version: String,
}

impl Exact {
    /// What this object was when it was read.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self {
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
        }
    }

    fn metadata(&self) -> Value {
        json!({ "uid": self.uid, "resourceVersion": self.resource_version })
    }
}

/// The JSON merge patch (RFC 7396) that makes `new` of `old`; none when they are equal.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) => {
                if let Some(diff) = merge_diff(before, value) {
                    patch.insert(key.clone(), diff);
                }
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

/// Writes what differs between two statuses of one object, if anything does. Rooms that share a
/// status do not touch each other's fields. Carries the UID always, and the resourceVersion when
/// `strict`: then a write decided on an old object answers with a conflict.
///
/// # Errors
/// Any answer but success.
pub async fn write_status<K, S>(
    api: &Api<K>,
    object: &K,
    old: Option<&S>,
    new: &S,
    strict: bool,
) -> Result<Option<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    S: Serialize + Default,
{
    let new = json!(new);
    // A write of nothing would take away what another room has said meanwhile: its lists are empty.
    if old.is_none() && new == json!(S::default()) {
        return Ok(None);
    }
    let Some(patch) = merge_diff(&old.map_or(json!({}), |s| json!(s)), &new) else {
        return Ok(None);
    };
    let exact = Exact::of(object);
    let mut metadata = json!({ "uid": exact.uid });
    if strict {
        metadata = exact.metadata();
    }
    let body = json!({ "metadata": metadata, "status": patch });
    api.patch_status(&exact.name, &PatchParams::default(), &Patch::Merge(&body))
        .await
        .during(format!("write the status of {}", exact.name))
        .map(Some)
}

/// What was written last of each object, by UID: a watch that has not told of it yet shows an older
/// one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Written(Arc<Mutex<HashMap<String, u64>>>);

impl Written {
    /// Remembers the answer to a write.
    pub fn note<K: Resource>(&self, object: &K) {
        if let (Some(uid), Some(version)) = (object.uid(), version(object)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, version);
        }
    }

    /// Whether this object is older than what was written. Answers true only until a newer one
    /// was shown, so that what it keeps is small.
    pub fn is_newer_than<K: Resource>(&self, object: &K) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = object.uid().unwrap_or_default();
        match (all.get(&uid), version(object)) {
            (Some(written), Some(shown)) if shown < *written => true,
            (Some(_), _) => {
                all.remove(&uid);
                false
            }
            (None, _) => false,
        }
    }
}

/// A resourceVersion as a number. They are numbers that grow in every API server that is backed by
/// etcd, and comparable by contract from Kubernetes 1.35.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

/// Merges `patch` into the object, if it is still the one that was read.
///
/// # Errors
/// Any answer but success; a conflict when the object has changed since.
pub async fn patch_exact<K>(api: &Api<K>, exact: &Exact, mut patch: Value) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let metadata = &mut patch["metadata"];
    metadata["uid"] = json!(exact.uid);
    metadata["resourceVersion"] = json!(exact.resource_version);
    let params =
        PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
    api.patch(&exact.name, &params, &Patch::Merge(&patch))
        .await
        .during(format!("change {}", exact.name))
}

/// Merges `status` into the status of the object, if it is still the one that was read. `doing` is
/// what this is for, in words.
///
/// # Errors
/// Any answer but success; a conflict when the object has changed since.
pub async fn patch_status_exact<K>(
    api: &Api<K>,
    exact: &Exact,
    status: Value,
    doing: impl Into<String>,
) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let patch = json!({ "metadata": exact.metadata(), "status": status });
    api.patch_status(&exact.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .during(doing)
}

/// Merges `status` into the status of a Site, whatever else was written there meanwhile: for what
/// one room alone writes. One that is gone, or another of that name, is left as it is.
///
/// # Errors
/// Any other answer than success.
pub async fn tell_site(client: &Client, name: &str, uid: &str, status: Value) -> Result<()> {
    let api: Api<Site> = Api::all(client.clone());
    let patch = json!({ "metadata": { "uid": uid }, "status": status });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        said => said.map(drop).during(format!("write the status of the Site {name}")),
    }
}

/// Adds our finalizer to the object, or removes it, if the object is still the one that was read.
/// Answers the object as it is now; none when there was nothing to do.
///
/// # Errors
/// Any answer but success; a conflict when the object has changed since.
pub async fn set_finalizer<K>(api: &Api<K>, object: &K, present: bool) -> Result<Option<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|f| f == names::FINALIZER) == present {
        return Ok(None);
    }
    if present {
        finalizers.push(names::FINALIZER.to_owned());
    } else {
        finalizers.retain(|f| f != names::FINALIZER);
    }
    let patch = json!({ "metadata": { "finalizers": finalizers } });
    patch_exact(api, &Exact::of(object), patch).await.map(Some)
}

/// Creates an object; one that is there already is left as it is. Answers whether it was created.
///
/// # Errors
/// Any answer but success or "already exists".
pub async fn create_if_absent<K>(api: &Api<K>, object: &K) -> Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug + Serialize,
{
    let params =
        PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
    match api.create(&params, object).await {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) => Err(error).during(format!("create {}", object.name_any())),
    }
}

/// Deletes exactly the object that the decision was made on, in the background. Answers false when
/// it is gone already.
///
/// # Errors
/// Any answer but success or "not found"; a conflict when the object has changed since.
pub async fn delete_exact<K>(api: &Api<K>, exact: &Exact) -> Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(exact.uid.clone()),
            resource_version: Some(exact.resource_version.clone()),
        }),
        ..DeleteParams::background()
    };
    match api.delete(&exact.name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(error).during(format!("delete {}", exact.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_newer_until_it_is_shown() {
        let object = |version: &str| {
            let mut object = k8s_openapi::api::core::v1::ConfigMap::default();
            object.metadata.uid = Some("u".to_owned());
            object.metadata.resource_version = Some(version.to_owned());
            object
        };
        let written = Written::default();
        assert!(!written.is_newer_than(&object("9")));
        written.note(&object("10"));
        assert!(written.is_newer_than(&object("9")));
        assert!(!written.is_newer_than(&object("10")));
        assert!(!written.is_newer_than(&object("9")), "it was shown");
    }

    #[test]
    fn the_patch_has_what_differs_and_nothing_else() {
        let old = json!({ "a": 1, "b": { "c": 1, "d": 2 }, "gone": true, "list": [1, 2] });
        let new = json!({ "a": 1, "b": { "c": 1, "d": 3 }, "new": "x", "list": [1] });
        assert_eq!(
            merge_diff(&old, &new),
            Some(json!({ "b": { "d": 3 }, "new": "x", "gone": null, "list": [1] }))
        );
        assert_eq!(merge_diff(&old, &old), None);
    }
}
