//! What a hold changes in an object, recorded on the object itself, and how it is put back. Pure.
//!
//! The record is one annotation of known fields, never a patch: whoever may annotate an object must
//! not be able to have the operator write what he likes. It names the object by UID, because
//! controllers copy annotations (a Deployment's to its ReplicaSets).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::{Time, names};

/// The reclaim and retention policy under which no disk goes.
pub const RETAIN: &str = "Retain";

/// What fields were before the hold. A field that the hold did not touch is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Former {
    /// UID of the object.
    pub uid: String,
    /// UIDs of the DeletionRequests that it is held for. A disk may be kept for several: it gets
    /// its former policy back with the last of them.
    pub requests: Vec<String>,
    /// `spec.replicas`; the hold has set 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// `spec.suspend`; the hold has set true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// `spec.persistentVolumeClaimRetentionPolicy.whenScaled`; the hold has set `Retain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_scaled: Option<String>,
    /// `spec.persistentVolumeClaimRetentionPolicy.whenDeleted`; the hold has set `Retain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<String>,
    /// `spec.persistentVolumeReclaimPolicy` of a volume, `spec.deletionPolicy` of the content of a
    /// snapshot; the hold has set `Retain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<String>,
    /// How often somebody undid it and it was done again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub again: u32,
    /// When a kept disk is to get its former policy back: this was announced. Absent: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_time: Option<Time>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What it takes to put an object back, and what is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutBack {
    /// A JSON merge patch of the fields; an empty object where nothing is to be changed.
    pub fields: Value,
    /// Fields that somebody has changed meanwhile, as in `spec.replicas is 5`: their change wins.
    pub changed: Vec<String>,
}

impl Former {
    /// The record of this live object; none when it has none, or one that was copied from another.
    pub fn of(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let text = metadata["annotations"][names::ANNOTATION_FORMER].as_str()?;
        let former: Self = serde_json::from_str(text).ok()?;
        (metadata["uid"] == former.uid.as_str()).then_some(former)
    }

    /// The record, as the annotation has it.
    pub fn to_text(&self) -> String {
        json!(self).to_string()
    }

    /// What puts the object back to what it was. Only what still is as the hold has set it is put
    /// back.
    pub fn put_back(&self, object: &Value) -> PutBack {
        // Without `..`: a new field must be put back.
        let Self {
            uid: _,
            requests: _,
            again: _,
            release_time: _,
            replicas,
            suspend,
            when_scaled,
            when_deleted,
            reclaim_policy,
        } = self;
        let retention = "persistentVolumeClaimRetentionPolicy";
        let reclaim = if object["kind"] == "PersistentVolume" {
            "persistentVolumeReclaimPolicy"
        } else {
            "deletionPolicy"
        };
        let fields: [(&[&str], Value, Value); 5] = [
            (&["replicas"], json!(replicas), json!(0)),
            (&["suspend"], json!(suspend), json!(true)),
            (&[retention, "whenScaled"], json!(when_scaled), json!(RETAIN)),
            (&[retention, "whenDeleted"], json!(when_deleted), json!(RETAIN)),
            (&[reclaim], json!(reclaim_policy), json!(RETAIN)),
        ];
        let mut spec = Map::new();
        let mut changed = vec![];
        for (path, was, set) in fields {
            if was.is_null() {
                continue;
            }
            let live = path.iter().fold(&object["spec"], |place, step| &place[*step]);
            if *live == was {
                continue;
            }
            if *live != set {
                changed.push(format!("spec.{} is {live}, and was {was}", path.join(".")));
                continue;
            }
            match path {
                [outer, inner] => {
                    let place = spec.entry((*outer).to_owned()).or_insert(json!({}));
                    place[*inner] = was;
                }
                [field] => drop(spec.insert((*field).to_owned(), was)),
                _ => {}
            }
        }
        let fields = if spec.is_empty() { json!({}) } else { json!({ "spec": spec }) };
        PutBack { fields, changed }
    }
}

/// Takes the hold's own edits out of an object, as its release would. What a backup holds and what
/// lives is compared in this form.
pub fn without_hold(object: &mut Value) {
    if object["metadata"]["annotations"][names::ANNOTATION_FORMER].is_null() {
        return;
    }
    if let Some(former) = Former::of(object) {
        json_patch_merge(object, &former.put_back(object).fields);
        if let Some(all) = object["metadata"]["annotations"].as_object_mut() {
            all.remove(names::ANNOTATION_FORMER);
        }
    }
}

/// Merges a patch that removes nothing.
fn json_patch_merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                json_patch_merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stateful_set(spec: Value, former: &Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "spec": spec,
            "metadata": { "name": "db", "uid": "u", "annotations": {
                "a": "b", (names::ANNOTATION_FORMER): former.to_string(),
            } },
        })
    }

    fn held(when_scaled: &str, replicas: i64) -> Value {
        json!({ "replicas": replicas, "persistentVolumeClaimRetentionPolicy": {
            "whenScaled": when_scaled, "whenDeleted": "Retain",
        } })
    }

    #[test]
    fn what_is_still_as_the_hold_set_it_is_put_back_and_nothing_else() {
        let former =
            json!({ "uid": "u", "requests": ["r"], "replicas": 3, "whenScaled": "Delete" });
        let rows = [
            (held("Retain", 0), held("Delete", 3), 0),
            // A user's change wins.
            (held("Retain", 5), held("Delete", 5), 1),
            (held("Delete", 0), held("Delete", 3), 0),
            (held("Delete", 3), held("Delete", 3), 0),
        ];
        for (live, expected, changed) in rows {
            let mut object = stateful_set(live, &former);
            let put_back = Former::of(&object).unwrap().put_back(&object);
            assert_eq!(put_back.changed.len(), changed, "{put_back:?}");
            without_hold(&mut object);
            assert_eq!(object["spec"], expected);
            assert_eq!(object["metadata"]["annotations"], json!({ "a": "b" }));
        }
    }

    #[test]
    fn a_record_that_was_copied_or_made_up_puts_nothing_back() {
        let copied = json!({ "uid": "other", "requests": ["r"], "replicas": 3 });
        let more = json!({ "uid": "u", "requests": ["r"], "template": { "spec": {} } });
        for former in [copied, more, json!("text"), json!({ "uid": "u", "replicas": "3" })] {
            let mut object = stateful_set(held("Retain", 0), &former);
            let before = object.clone();
            assert_eq!(Former::of(&object), None, "{former}");
            without_hold(&mut object);
            assert_eq!(object, before, "{former}");
        }
    }

    #[test]
    fn a_record_survives_being_written() {
        let former = Former {
            uid: "u".into(),
            requests: vec!["r".into()],
            suspend: Some(false),
            reclaim_policy: Some("Delete".into()),
            again: 2,
            ..Former::default()
        };
        assert_eq!(serde_json::from_str::<Former>(&former.to_text()).unwrap(), former);
    }
}
