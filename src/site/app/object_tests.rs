//! Whose an object is, and what has changed in it.

use super::*;

fn metadata(value: Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

fn entry(manager: &str, operation: &str, time: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": operation, "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields, "apiVersion": "v1"})
}

#[test]
fn whose_an_object_is() {
    let record = AppliedObject { uid: "u1".into(), ..Default::default() };
    let by = |manager: &str| json!([entry(manager, "Update", "2026-01-01T00:00:00Z", json!({}))]);
    let own = |app: &str| json!({ (names::LABEL_APP): app });
    let rows = [
        (json!({"uid": "u1"}), true, "its UID was recorded"),
        (json!({"uid": "u2"}), false, "another of the same name"),
        (json!({"uid": "u2", "managedFields": by("kubectl-create")}), false, "somebody's"),
        (
            json!({"uid": "u2", "labels": own("shop"), "managedFields": by("reprieve-app")}),
            true,
            "applied, and the record lost",
        ),
        (
            json!({"uid": "u2", "labels": own("shop"), "managedFields": by("reprieve")}),
            true,
            "restored",
        ),
        (
            json!({"uid": "u2", "labels": own("shop"), "managedFields": by("kubectl-create")}),
            false,
            "labelled by somebody else",
        ),
        (
            json!({"uid": "u1", "labels": own("wiki"), "managedFields": by("reprieve-app")}),
            false,
            "another App's",
        ),
        (json!({"uid": "u2", "annotations": {"reprieve.dev/adopt": "shop"}}), true, "it consents"),
        (
            json!({"uid": "u2", "annotations": {"reprieve.dev/adopt": "wiki"}}),
            false,
            "it consents to another",
        ),
    ];
    for (value, expected, what) in rows {
        let found = standing(&metadata(value), "shop", Some(&record));
        assert_eq!(found == Standing::Own, expected, "{what}: {found:?}");
    }
    let going = metadata(json!({"uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
    assert_eq!(standing(&going, "shop", Some(&record)), Standing::Going);
    let Standing::Foreign(why) = standing(
        &metadata(json!({"uid": "u2", "managedFields": by("helm")})),
        "shop",
        Some(&record),
    ) else {
        panic!("expected it to be foreign");
    };
    assert!(why.contains("helm") && why.contains("reprieve.dev/adopt: shop"), "{why}");
}

#[test]
fn only_a_change_of_what_the_app_owns_is_a_change() {
    let apps =
        entry("reprieve-app", "Apply", "2026-01-01T00:00:00Z", json!({"f:data": {"f:a": {}}}));
    let seen = |entries: Value| fields(&metadata(json!({ "managedFields": entries })));
    let before = seen(json!([apps]));
    let other = entry("kubectl", "Update", "2026-01-02T00:00:00Z", json!({"f:data": {"f:b": {}}}));
    assert_eq!(seen(json!([apps, other])), before, "a field was added");
    let less = entry("reprieve-app", "Apply", "2026-01-01T00:00:00Z", json!({}));
    assert_ne!(seen(json!([less, other])), before, "a field was taken");
    let again =
        entry("reprieve-app", "Apply", "2026-01-03T00:00:00Z", json!({"f:data": {"f:a": {}}}));
    assert_ne!(seen(json!([again])), before, "applied by another under the App's name");
    let all = metadata(json!({ "managedFields": [apps, other] }));
    assert_eq!(last_writer(&all).as_deref(), Some("kubectl"));
}

#[test]
fn what_was_created_counts_as_applied() {
    let at = "2026-01-01T00:00:00Z";
    let created = entry("reprieve-app", "Update", at, json!({"f:data": {}}));
    let other = entry("kubectl", "Update", at, json!({}));
    let new = as_applied(&metadata(json!({ "managedFields": [created, other] }))).unwrap();
    assert_eq!(new[0].operation.as_deref(), Some("Apply"));
    assert_eq!(new[1].operation.as_deref(), Some("Update"), "another's");
    assert_eq!(as_applied(&metadata(json!({ "managedFields": new }))), None);
}

#[test]
fn differing_fields_are_named() {
    let object = |replicas: i32| json!({"kind": "Deployment", "metadata": {"name": "web", "resourceVersion": replicas.to_string()}, "spec": {"replicas": replicas}, "status": {"x": replicas}});
    assert_eq!(differing(object(1), object(2)).as_deref(), Some("spec.replicas"));
    assert_eq!(differing(object(1), object(1)), None);
}
