//! Whether what lives is what was archived, and if not, whose doing it is. Pure.

use std::fmt;

use serde_json::Value;

use crate::api::names;
use crate::cluster::form::archived_form;

/// A field that is not as it was archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field, as in `spec.replicas`.
    pub path: String,
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
    /// Nobody can tell: the object is not equal.
    Unexplained,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Manager(manager) => write!(f, "{} (by {manager})", self.path),
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
        Difference { path: path.join("."), cause }
    };
    paths.into_iter().map(explain).collect()
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

/// The manager, other than this operator, that owns the field or something around it.
fn other_manager(live: &Value, path: &[String]) -> Option<String> {
    let entries = live["metadata"]["managedFields"].as_array()?;
    entries
        .iter()
        .filter(|entry| {
            entry["manager"] != names::FIELD_MANAGER && entry["subresource"] != "status"
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
    let entries = live["metadata"]["managedFields"].as_array();
    made >= since
        && entries.into_iter().flatten().any(|entry| {
            entry["manager"] == names::FIELD_MANAGER
                && entry["operation"] == "Update"
                && entry["subresource"].is_null()
        })
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
        (Some("PersistentVolumeClaim"), ["spec", "volumeName"]) => true,
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
        let own = json!([{"manager": "reprieve", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        let (two, three) = (json!({"replicas": 2}), json!({"replicas": 3}));
        let rows = [
            (two.clone(), json!([]), None),
            (three.clone(), scaled, Some(Cause::Manager("hpa".into()))),
            (three.clone(), own, Some(Cause::Unexplained)),
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
        let own = json!([{"manager": "reprieve", "operation": "Update"}]);
        let object = live(json!({}), own);
        assert!(created_by_us(&object, "2026-11-22T16:00:00Z"));
        assert!(!created_by_us(&object, "2026-11-22T18:00:00Z"));
        let applied = json!([{"manager": "reprieve", "operation": "Apply"}]);
        assert!(!created_by_us(&live(json!({}), applied), "2026-11-22T16:00:00Z"));
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "a", "uid": "u"}});
        assert!(is_bare(&account));
        let mut kept = account;
        kept["metadata"]["labels"] = json!({"a": "b"});
        assert!(!is_bare(&kept));
    }
}
