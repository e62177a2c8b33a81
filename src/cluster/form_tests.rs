//! The table tests of `form`.

use super::*;
use serde_json::json;

#[test]
fn maps_are_sorted_whoever_builds_them() {
    let text = r#"{"b":{"d":1,"c":2},"a":[{"z":1,"y":2}]}"#;
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(value.to_string(), r#"{"a":[{"y":2,"z":1}],"b":{"c":2,"d":1}}"#);
}

#[test]
fn what_the_cluster_owns_is_no_part_of_the_form() {
    let live = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web", "namespace": "acme", "uid": "u", "resourceVersion": "5", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}],
            "annotations": {"deployment.kubernetes.io/revision": "3", "reprieve.dev/restore": "r"},
            "finalizers": ["reprieve.dev/retention"],
            "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "root", "uid": "x", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {"replicas": 2},
        "status": {"replicas": 2},
    });
    let form = archived_form(live);
    assert_eq!(
        form,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "acme", "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "root", "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {"replicas": 2},
        })
    );
    assert_eq!(archived_form(form.clone()), form, "applying it twice changes nothing");
}

#[test]
fn what_the_cluster_assigns_anew() {
    let rows = [
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}}, "spec": {"finalizers": ["kubernetes"]}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        ),
        (
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"selector": {}, "template": {"metadata": {"labels": {"job-name": "j", "controller-uid": "u", "mine": "1"}}}}}),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"metadata": {"labels": {"mine": "1"}}}}}),
        ),
        (
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"manualSelector": true, "selector": {"a": 1}}}),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"manualSelector": true, "selector": {"a": 1}}}),
        ),
        (
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}, "secrets": [{"name": "s-token-x1"}]}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}}),
        ),
        (
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}, "secrets": [{"name": "pull"}]}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}, "secrets": [{"name": "pull"}]}),
        ),
        (
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "pv1"}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {"volumeName": "pv1"}}),
        ),
    ];
    for (live, form) in rows {
        assert_eq!(archived_form(live), form);
    }
}

#[test]
fn equal_content_has_an_equal_digest_in_any_order() {
    let key = |name: &str| -> ObjectKey { format!("ConfigMap/acme/{name}").parse().unwrap() };
    let (a, b) = (key("a"), key("b"));
    assert_eq!(root_digest([(&a, "1"), (&b, "2")]), root_digest([(&b, "2"), (&a, "1")]));
    assert_ne!(root_digest([(&a, "1"), (&b, "2")]), root_digest([(&a, "2"), (&b, "1")]));
    assert!(root_digest([]).starts_with("sha256:"));
}

#[test]
fn keys_can_be_read_back() {
    for text in ["Deployment.apps/acme/web", "ConfigMap/acme/system:x", "Namespace/acme"] {
        assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
    }
    for text in ["", "ConfigMap", "A/b/c/d", "A//c", "/a/b"] {
        assert!(text.parse::<ObjectKey>().is_err(), "{text}");
    }
}

#[test]
fn owners_are_kept_where_somebody_applies() {
    let entry = |manager: &str, operation: &str, subresource: &str| {
        let mut entry = json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": "2026-11-22T17:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}});
        if !subresource.is_empty() {
            entry["subresource"] = json!(subresource);
        }
        entry
    };
    let of = |entries: Value| field_owners(&json!({"metadata": {"managedFields": entries}}));
    let without_time = |mut entry: Value| {
        entry.as_object_mut().unwrap().remove("time");
        entry
    };
    assert_eq!(of(json!(null)), None);
    assert_eq!(of(json!([])), None);
    assert_eq!(of(json!([entry("kubectl-create", "Update", "")])), None);
    // An apply to the status alone leaves nothing to put back.
    assert_eq!(of(json!([entry("x", "Apply", "status")])), None);
    let (apply, edit) = (entry("flux", "Apply", ""), entry("kubectl-edit", "Update", ""));
    let scale = entry("hpa", "Update", "scale");
    let all = json!([apply, edit, scale, entry("kcm", "Update", "status")]);
    let expected = [apply, edit, scale].map(without_time).to_vec();
    assert_eq!(of(all), Some(expected));
}
