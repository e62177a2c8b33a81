//! What is changed in objects on their way back: the short table of rewrites. Everything else goes
//! to the API server as the bytes that the archive holds. Pure.
//!
//! | object | rewrite |
//! |---|---|
//! | Namespace | the site's label, by which the guard knows it |
//! | Site, App | the finalizer; a Site the mark of the restore |
//! | claim | its volume, where that is not there any more (`volume.rs`), and then its source |
//! | VolumeSnapshot | its source: the content that was kept (`snapshot.rs`) |
//! | Service | its addresses, where they are taken (`object.rs`) |
//! | with owners | created without them; a second pass adds them with their new UIDs |
//! | applied by server-side apply | a patch puts its field owners back |
//! | in a drill | made inert, by the table in `inert.rs` |
//!
//! Selectors of Jobs are left out of the archived form already.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::api::names;
use crate::cluster::form::ObjectKey;
use crate::store::RawEntry;

/// The keys that an owner named by an object of this namespace can have. An owner is in the
/// object's own namespace, or in none.
pub fn owner_keys(namespace: Option<&str>, reference: &Value) -> [Option<ObjectKey>; 2] {
    [namespace, None].map(|namespace| {
        let metadata = json!({ "name": reference["name"], "namespace": namespace });
        ObjectKey::of(&json!({
            "apiVersion": reference["apiVersion"], "kind": reference["kind"], "metadata": metadata,
        }))
    })
}

/// Gives a namespace the label of its site. One of a drill is no site's.
pub fn mark_namespace(object: &mut Value, site: &str) {
    let drill = !object["metadata"]["labels"][names::LABEL_DRILL].is_null();
    if is(object, "", "Namespace") && !drill {
        object["metadata"]["labels"][names::LABEL_SITE] = json!(site);
    }
}

/// What an object of the archive is to be once it is restored, with these owners of it.
pub fn expected(entry: &RawEntry, site: &str, owners: &[Value]) -> Value {
    let mut object = entry.object();
    mark_namespace(&mut object, site);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("ownerReferences");
        if !owners.is_empty() {
            metadata.insert("ownerReferences".to_owned(), json!(owners));
        }
    }
    object
}

/// What is sent to create an object: without owners, which the second pass adds. A child whose
/// owner is not there yet would be collected at once.
pub fn body(mut object: Value, restore: &str) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("ownerReferences");
    }
    let (site, app) = (is(&object, names::GROUP, "Site"), is(&object, names::GROUP, "App"));
    if site || app {
        let finalizers = &mut object["metadata"]["finalizers"];
        match finalizers.as_array_mut() {
            Some(finalizers) => finalizers.push(json!(names::FINALIZER)),
            None => *finalizers = json!([names::FINALIZER]),
        }
    }
    if site {
        object["metadata"]["annotations"][names::ANNOTATION_RESTORE] = json!(restore);
    }
    object
}

/// The owner references of an object, with the UIDs that the owners have now. None: it has none,
/// or an owner is not there.
pub fn owner_references(
    key: &ObjectKey,
    owners: &[Value],
    uids: &HashMap<ObjectKey, String>,
) -> Option<Vec<Value>> {
    if owners.is_empty() {
        return None;
    }
    let with_uid = |owner: &Value| {
        let keys = owner_keys(key.namespace.as_deref(), owner).into_iter().flatten();
        let uid = keys.into_iter().find_map(|key| uids.get(&key))?;
        let mut owner = owner.clone();
        owner["uid"] = json!(uid);
        Some(owner)
    };
    owners.iter().map(with_uid).collect()
}

/// The field owners of an archived object that are put back: the archive has them where somebody
/// applies the object server-side. The next apply of a changed object would else meet this operator,
/// which has created it, as the owner of every field. Without times: by that they are known for what
/// was put back, see [`super::compare`].
pub fn field_owners(entry: &RawEntry) -> Option<Vec<Value>> {
    let mut all: Vec<Value> = serde_json::from_str(entry.owners.as_ref()?.get()).ok()?;
    // An autoscaler that owns the replicas takes them again when it scales.
    all.retain(|owner| owner["subresource"].is_null());
    for owner in all.iter_mut().filter_map(Value::as_object_mut) {
        owner.remove("time");
    }
    Some(all).filter(|all| !all.is_empty())
}

/// The archived field owners of an object, and those that have written into it since it was created.
pub fn with_later_writers(archived: &[Value], live: &Value) -> Vec<Value> {
    let mut all = archived.to_vec();
    for entry in live["metadata"]["managedFields"].as_array().into_iter().flatten() {
        if is_ours(entry) {
            continue;
        }
        let same = |o: &&mut Value| {
            ["manager", "operation", "subresource"].iter().all(|f| o[f] == entry[f])
        };
        match all.iter_mut().find(same) {
            Some(known) => {
                let mut fields = known["fieldsV1"].take();
                merge(&mut fields, &entry["fieldsV1"]);
                known.clone_from(entry);
                known["fieldsV1"] = fields;
            }
            None => all.push(entry.clone()),
        }
    }
    all
}

fn merge(into: &mut Value, other: &Value) {
    let Some(other) = other.as_object() else { return };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (field, inner) in other {
        merge(&mut into[field], inner);
    }
}

/// Whether an entry of `managedFields` is what this operator has created.
pub fn is_ours(entry: &Value) -> bool {
    entry["manager"] == names::FIELD_MANAGER
        && entry["operation"] == "Update"
        && entry["subresource"].is_null()
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

    fn entry(object: &Value, owners: Value) -> RawEntry {
        let line = json!({
            "key": ObjectKey::of(object).unwrap(), "digest": "", "state": "Ready",
            "object": object, "owners": owners,
        });
        serde_json::from_str(&line.to_string()).unwrap()
    }

    #[test]
    fn owners_get_their_new_uids() {
        let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "controller": true});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "a", "ownerReferences": [{"name": "gone"}, web]}});
        let owners = [web];
        let expected = expected(&entry(&object, Value::Null), "a", &owners);
        assert_eq!(expected["metadata"]["ownerReferences"], json!(owners));
        assert!(body(expected, "r")["metadata"]["ownerReferences"].is_null());
        let of = key("ConfigMap/a/c");
        let uids = HashMap::from([(key("Deployment.apps/a/web"), "u1".to_owned())]);
        assert_eq!(
            owner_references(&of, &owners, &uids).unwrap(),
            [
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "controller": true, "uid": "u1"})
            ]
        );
        assert_eq!(owner_references(&of, &owners, &HashMap::new()), None);
        assert_eq!(owner_references(&of, &[], &uids), None);
    }

    #[test]
    fn what_is_added_on_the_way() {
        let site = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "a"}});
        let sent = body(site, "r");
        assert_eq!(sent["metadata"]["annotations"]["reprieve.dev/restore"], "r");
        assert_eq!(sent["metadata"]["finalizers"], json!(["reprieve.dev/retention"]));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        let expected = expected(&entry(&namespace, Value::Null), "acme", &[]);
        assert_eq!(expected["metadata"]["labels"]["reprieve.dev/site"], "acme");
    }

    #[test]
    fn whose_field_owners_are_put_back() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
        let of = |owners: Value| field_owners(&entry(&object, owners));
        assert_eq!(of(Value::Null), None);
        let applied = json!({"manager": "flux", "operation": "Apply", "time": "t"});
        let status = json!({"manager": "flux", "operation": "Apply", "subresource": "status"});
        let scale = json!({"manager": "hpa", "operation": "Update", "subresource": "scale"});
        let put_back = json!([{"manager": "flux", "operation": "Apply"}]);
        assert_eq!(json!(of(json!([applied, status, scale])).unwrap()), put_back);
        assert_eq!(of(json!([status])), None);
    }

    #[test]
    fn who_has_written_since_is_kept() {
        let archived =
            [json!({"manager": "flux", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}}}})];
        let live = json!({"metadata": {"managedFields": [
            {"manager": "reprieve", "operation": "Update", "fieldsV1": {"f:data": {}}},
            {"manager": "hpa", "operation": "Update", "subresource": "scale", "fieldsV1": {}, "time": "t"},
            {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:data": {"f:b": {}}}, "time": "t"},
        ]}});
        let expected = json!([
            {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}}, "time": "t"},
            {"manager": "hpa", "operation": "Update", "subresource": "scale", "fieldsV1": {}, "time": "t"},
        ]);
        assert_eq!(json!(with_later_writers(&archived, &live)), expected);
    }
}
