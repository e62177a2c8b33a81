//! What is changed in objects on their way back: the short table of rewrites. Pure.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::api::names;
use crate::cluster::form::ObjectKey;

/// The keys of the owners that this object names. An owner is in the object's own namespace, or
/// in none.
pub(super) fn owner_keys(object: &Value, reference: &Value) -> [Option<ObjectKey>; 2] {
    let namespace = object["metadata"]["namespace"].as_str();
    [namespace, None].map(|namespace| {
        let metadata = json!({ "name": reference["name"], "namespace": namespace });
        ObjectKey::of(&json!({
            "apiVersion": reference["apiVersion"], "kind": reference["kind"], "metadata": metadata,
        }))
    })
}

/// What an object of the archive is expected to be once it is restored, and the owners that were
/// dropped because they are in no archive, in words.
pub fn expected(
    object: &Value,
    site: &str,
    archived: impl Fn(&ObjectKey) -> bool,
) -> (Value, Vec<String>) {
    let mut expected = object.clone();
    let mut dropped = vec![];
    if let Some(owners) = expected["metadata"]["ownerReferences"].as_array_mut() {
        owners.retain(|owner| {
            let known = owner_keys(object, owner).into_iter().flatten().any(|key| archived(&key));
            if !known {
                let word = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
                dropped.push(format!("{} {}", word("kind"), word("name")));
            }
            known
        });
        if owners.is_empty()
            && let Some(metadata) = expected["metadata"].as_object_mut()
        {
            metadata.remove("ownerReferences");
        }
    }
    if is(object, "", "Namespace") {
        // The guard knows a site's namespace by it.
        expected["metadata"]["labels"][names::LABEL_SITE] = json!(site);
    }
    (expected, dropped)
}

/// What is sent to create an object: without owners, which the second pass adds. A child whose
/// owner is not there yet would be collected at once.
pub fn body(expected: &Value, restore: &str) -> Value {
    let mut body = expected.clone();
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("ownerReferences");
    }
    let (site, app) = (is(expected, names::GROUP, "Site"), is(expected, names::GROUP, "App"));
    if site || app {
        let finalizers = &mut body["metadata"]["finalizers"];
        match finalizers.as_array_mut() {
            Some(finalizers) => finalizers.push(json!(names::FINALIZER)),
            None => *finalizers = json!([names::FINALIZER]),
        }
    }
    if site {
        body["metadata"]["annotations"][names::ANNOTATION_RESTORE] = json!(restore);
    }
    body
}

/// The owner references of an object, with the UIDs that the owners have now. None: it has none,
/// or an owner is not there.
pub fn owner_references(expected: &Value, uids: &HashMap<ObjectKey, String>) -> Option<Vec<Value>> {
    let owners = expected["metadata"]["ownerReferences"].as_array()?;
    let with_uid = |owner: &Value| {
        let keys = owner_keys(expected, owner).into_iter().flatten();
        let uid = keys.into_iter().find_map(|key| uids.get(&key))?;
        let mut owner = owner.clone();
        owner["uid"] = json!(uid);
        Some(owner)
    };
    owners.iter().map(with_uid).collect()
}

/// Whether an object is of this group and kind.
pub fn is(object: &Value, group: &str, kind: &str) -> bool {
    ObjectKey::of(object).is_some_and(|key| key.is(group, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    #[test]
    fn owners_get_their_new_uids_or_are_dropped() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "a", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "controller": true},
            {"apiVersion": "v1", "kind": "Secret", "name": "gone"},
        ]}});
        let web = key("Deployment.apps/a/web");
        let (expected, dropped) = expected(&object, "a", |key| *key == web);
        assert_eq!(dropped, ["Secret gone"]);
        assert!(body(&expected, "r")["metadata"]["ownerReferences"].is_null());
        let uids = HashMap::from([(web, "u1".to_owned())]);
        assert_eq!(
            owner_references(&expected, &uids).unwrap(),
            [
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "controller": true, "uid": "u1"})
            ]
        );
        assert_eq!(owner_references(&expected, &HashMap::new()), None);
    }

    #[test]
    fn what_is_added_on_the_way() {
        let site = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "a"}});
        let sent = body(&site, "r");
        assert_eq!(sent["metadata"]["annotations"]["reprieve.dev/restore"], "r");
        assert_eq!(sent["metadata"]["finalizers"], json!(["reprieve.dev/retention"]));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        let (expected, _) = expected(&namespace, "acme", |_| false);
        assert_eq!(expected["metadata"]["labels"]["reprieve.dev/site"], "acme");
    }
}
