//! Whether what lives is what was archived, and if not, whose doing it is. Pure.

use std::fmt;

use serde_json::Value;

use super::rewrite::is_ours;
use crate::api::names;
use crate::cluster::form::archived_form;

/// A field that is not as it was archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field, as in `spec.replicas`.
    pub path: String,
    /// The steps to the field: a key of a label or of data can hold a dot.
    steps: Vec<String>,
    /// How it comes.
    pub cause: Cause,
}

/// How a difference comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another manager of fields has written it since.
    Manager(String),
    /// The cluster has assigned another address or volume.
    Reassigned,
    /// A policy or a webhook of the cluster changes every such object when it is created.
    Admission,
    /// Nobody can tell: the object is not equal.
    Unexplained,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Manager(manager) => write!(f, "{} (by {manager})", self.path),
            Cause::Admission => write!(f, "{} (by a policy of the cluster)", self.path),
            Cause::Reassigned | Cause::Unexplained => f.write_str(&self.path),
        }
    }
}

/// Where the live object differs from what is expected of it. Empty: they are equal.
pub fn differences(expected: &Value, live: &Value) -> Vec<Difference> {
    let form = archived_form(live.clone());
    let mut paths = vec![];
    walk(expected, &form, &mut vec![], &mut paths);
    let explain = |path: Vec<String>| {
        let cause = if is_reassigned(expected, &form, &path) {
            Cause::Reassigned
        } else {
            other_manager(live, &path).map_or(Cause::Unexplained, Cause::Manager)
        };
        Difference { path: path.join("."), steps: path, cause }
    };
    paths.into_iter().map(explain).collect()
}

/// Explains what nobody could explain by what the cluster makes of such an object when it is
/// created now.
pub fn explain_by_admission(found: &mut [Difference], live: &Value, created_now: &Value) {
    let (live, now) = (archived_form(live.clone()), archived_form(created_now.clone()));
    for difference in found.iter_mut().filter(|d| d.cause == Cause::Unexplained) {
        if at(&live, &difference.steps) == at(&now, &difference.steps) {
            difference.cause = Cause::Admission;
        }
    }
}

fn at<'a>(object: &'a Value, steps: &[String]) -> Option<&'a Value> {
    steps.iter().try_fold(object, |place, step| place.get(step))
}

/// Lists are one field: who changes one item of them has changed the list.
fn walk(expected: &Value, live: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if expected == live {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (expected, live) else {
        found.push(path.clone());
        return;
    };
    let absent = Value::Null;
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        path.push(key.clone());
        walk(old.get(key).unwrap_or(&absent), new.get(key).unwrap_or(&absent), path, found);
        path.pop();
    }
}

/// The manager, other than this operator, that has written the field or something around it since
/// the object was created. An entry without a time was put back by a restore, and nobody has written
/// as that manager since: the API server gives every write a time, but for those through `/scale`
/// (tried), whose entries are not put back.
fn other_manager(live: &Value, path: &[String]) -> Option<String> {
    let entries = live["metadata"]["managedFields"].as_array()?;
    entries
        .iter()
        .filter(|entry| {
            entry["manager"] != names::FIELD_MANAGER
                && entry["subresource"] != "status"
                && !was_put_back(entry)
        })
        .find(|entry| owns(&entry["fieldsV1"], path))
        .and_then(|entry| entry["manager"].as_str().map(str::to_owned))
}

fn owns(fields: &Value, path: &[String]) -> bool {
    let mut fields = fields;
    for step in path {
        match fields.get(format!("f:{step}")) {
            Some(inner) => fields = inner,
            None => return false,
        }
        // A leaf owns all that is below it.
        if fields.as_object().is_some_and(serde_json::Map::is_empty) {
            return true;
        }
    }
    true
}

/// Whether this operator has created the object at that time or later, so that what is different
/// in it came after. `since` is an RFC 3339 time in UTC, as the API server writes it.
pub fn created_by_us(live: &Value, since: &str) -> bool {
    let made = live["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    made >= since && entries(live).any(|entry| is_ours(entry) || was_put_back(entry))
}

/// Whether this operator has created the object, and its field owners are still to be put back.
pub fn lacks_field_owners(live: &Value) -> bool {
    entries(live).any(is_ours) && !entries(live).any(was_put_back)
}

/// Whether a restore has put this field owner back, see [`super::rewrite::field_owners`].
fn was_put_back(entry: &Value) -> bool {
    entry["time"].is_null() && entry["subresource"].is_null()
}

fn entries(live: &Value) -> impl Iterator<Item = &Value> {
    live["metadata"]["managedFields"].as_array().into_iter().flatten()
}

/// Whether there is nothing in the object but its name: what a controller makes by itself.
pub fn is_bare(live: &Value) -> bool {
    let form = archived_form(live.clone());
    form.as_object().is_some_and(|root| {
        root.iter().all(|(field, value)| match field.as_str() {
            "apiVersion" | "kind" => true,
            "metadata" => value.as_object().is_some_and(|metadata| {
                metadata.keys().all(|field| field == "name" || field == "namespace")
            }),
            _ => false,
        })
    })
}

/// A copy of a Service without the addresses that the cluster gave it; None when it has none.
pub fn without_addresses(service: &Value) -> Option<Value> {
    let mut without = service.clone();
    let spec = without.get_mut("spec")?.as_object_mut()?;
    // A headless Service has no address, and says so.
    if spec.get("clusterIP").is_some_and(|ip| ip != "None") {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    spec.remove("healthCheckNodePort");
    if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
    (without != *service).then_some(without)
}

/// The short list of what a restore may get anew from the cluster.
fn is_reassigned(expected: &Value, live: &Value, path: &[String]) -> bool {
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    match (expected["kind"].as_str(), steps.as_slice()) {
        (
            Some("Service"),
            ["spec", "clusterIP" | "clusterIPs" | "healthCheckNodePort" | "ports", ..],
        ) => {
            let field = &steps[1];
            let strip = |service: &Value| {
                without_addresses(service).unwrap_or_else(|| service.clone())["spec"][field].clone()
            };
            strip(expected) == strip(live)
        }
        // Immutable once the claim is there: another one is what the restore has chosen.
        (
            Some("PersistentVolumeClaim"),
            ["spec", "volumeName" | "dataSource" | "dataSourceRef", ..],
        ) => true,
        (
            Some("VolumeSnapshot"),
            ["spec", "source", "persistentVolumeClaimName" | "volumeSnapshotContentName"],
        ) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn live(spec: Value, managed: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "uid": "u", "managedFields": managed, "creationTimestamp": "2026-11-22T17:00:00Z"}, "spec": spec, "status": {}})
    }

    fn expected(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
    }

    #[test]
    fn whose_doing_a_difference_is() {
        let scaled = json!([{"manager": "hpa", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        let put_back = json!([{"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        let own = json!([{"manager": "reprieve", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        let (two, three) = (json!({"replicas": 2}), json!({"replicas": 3}));
        let rows = [
            (two.clone(), json!([]), None),
            (three.clone(), scaled, Some(Cause::Manager("hpa".into()))),
            (three.clone(), own, Some(Cause::Unexplained)),
            (three.clone(), put_back, Some(Cause::Unexplained)),
            (three, json!([]), Some(Cause::Unexplained)),
            (json!({"replicas": 2, "more": 1}), json!([]), Some(Cause::Unexplained)),
            (json!({}), json!([]), Some(Cause::Unexplained)),
        ];
        for (spec, managed, cause) in rows {
            let found = differences(&expected(two.clone()), &live(spec, managed));
            assert_eq!(found.into_iter().next().map(|d| d.cause), cause);
        }
    }

    #[test]
    fn what_the_cluster_adds_to_all_such_objects() {
        let of = |labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": labels}});
        let (plain, injected) = (of(json!({"a": "b"})), of(json!({"a": "b", "x.y/z": "1"})));
        let cause = |live: &Value, now: &Value| {
            let mut found = differences(&plain, live);
            explain_by_admission(&mut found, live, now);
            found.into_iter().map(|d| d.cause).collect::<Vec<_>>()
        };
        assert_eq!(cause(&injected, &injected), [Cause::Admission]);
        assert_eq!(cause(&injected, &plain), [Cause::Unexplained]);
        assert_eq!(cause(&of(json!({})), &plain), [Cause::Unexplained]);
    }

    #[test]
    fn other_addresses_are_no_damage() {
        let service = |ip: &str, port: i32, node: i32| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": port, "nodePort": node}]}});
        let found = differences(&service("10.0.0.1", 80, 30001), &service("10.0.0.2", 80, 30002));
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|d| d.cause == Cause::Reassigned), "{found:?}");
        let found = differences(&service("10.0.0.1", 80, 30001), &service("10.0.0.1", 81, 30001));
        assert_eq!(found[0].cause, Cause::Unexplained);
        let found = differences(&service("None", 80, 1), &service("10.0.0.1", 80, 1));
        assert!(found.iter().any(|d| d.cause == Cause::Unexplained), "{found:?}");
    }

    #[test]
    fn who_made_it() {
        let own = json!([{"manager": "reprieve", "operation": "Update", "time": "t"}]);
        let object = live(json!({}), own);
        assert!(created_by_us(&object, "2026-11-22T16:00:00Z"));
        assert!(!created_by_us(&object, "2026-11-22T18:00:00Z"));
        assert!(lacks_field_owners(&object));
        let applied = json!([{"manager": "reprieve", "operation": "Apply", "time": "t"}]);
        assert!(!created_by_us(&live(json!({}), applied), "2026-11-22T16:00:00Z"));
        // Whose field owners were put back was made by a restore as well.
        let put_back = live(json!({}), json!([{"manager": "flux", "operation": "Apply"}]));
        assert!(created_by_us(&put_back, "2026-11-22T16:00:00Z"));
        assert!(!lacks_field_owners(&put_back));
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "a", "uid": "u"}});
        assert!(is_bare(&account));
        let mut kept = account;
        kept["metadata"]["labels"] = json!({"a": "b"});
        assert!(!is_bare(&kept));
    }
}
