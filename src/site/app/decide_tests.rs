//! Table tests of the decisions about an App.

use kube::discovery::ApiResource;

use super::*;
use crate::api::{App, Site, TargetKind};
use crate::cluster::Holder;
use crate::cluster::discover::Kind;

fn kind(version: &str, kind: &str, namespaced: bool) -> (String, Kind) {
    let (group, v) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource {
        group: group.into(),
        version: v.into(),
        api_version: version.into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    (format!("{version}/{kind}"), Kind { resource, namespaced })
}

fn site() -> Site {
    serde_json::from_value(json!({
        "metadata": { "name": "acme", "uid": "s1" },
        "spec": { "id": "site-1", "tenant": { "name": "Acme" } }
    }))
    .unwrap()
}

fn facts(manifests: Value) -> Facts {
    let app: App = serde_json::from_value(json!({
        "metadata": { "name": "wiki", "namespace": "acme", "uid": "a1", "finalizers": [names::FINALIZER] },
        "spec": { "id": "app-1", "product": "wiki", "manifests": manifests }
    }))
    .unwrap();
    let own = Holder {
        kind: TargetKind::App,
        name: "wiki".into(),
        namespace: Some("acme".into()),
        uid: "a1".into(),
    };
    let kinds = [
        kind("v1", "ConfigMap", true),
        kind("v1", "Namespace", false),
        kind("apps/v1", "Deployment", true),
    ];
    Facts { app, site: Some(site()), holders: vec![own], kinds: kinds.into() }
}

fn config(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

#[test]
fn a_good_app_is_applied_with_label_and_namespace() {
    let Plan::Apply { add_finalizer, objects, .. } = plan(&facts(json!([config("a")]))) else {
        panic!("not applied")
    };
    assert!(!add_finalizer);
    assert_eq!(objects[0].object["metadata"]["namespace"], "acme");
    assert_eq!(objects[0].object["metadata"]["labels"][names::LABEL_APP], "wiki");
    assert_eq!(objects[0].known, None);
}

#[test]
fn a_bad_manifest_is_named_by_its_index_and_nothing_is_applied() {
    let mut elsewhere = config("b");
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    let cases = [
        (json!({ "kind": "ConfigMap", "metadata": { "name": "b" } }), "has no apiVersion"),
        (json!({ "apiVersion": "v1", "metadata": { "name": "b" } }), "has no kind"),
        (json!({ "apiVersion": "v1", "kind": "ConfigMap" }), "has no metadata.name"),
        (
            json!({ "apiVersion": "v1", "kind": "Cofnigmap", "metadata": { "name": "b" } }),
            "does not know the kind Cofnigmap",
        ),
        (
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "b" } }),
            "cluster-scoped",
        ),
        (
            json!({ "apiVersion": "reprieve.dev/v1alpha1", "kind": "App", "metadata": { "name": "b" } }),
            "an App cannot hold",
        ),
        (elsewhere, "in namespace kube-system"),
        (config("a"), "is there twice"),
    ];
    for (bad, expected) in cases {
        let Plan::Refuse { reason, message } = plan(&facts(json!([config("a"), bad]))) else {
            panic!("{expected}: not refused")
        };
        assert_eq!(reason, Reason::InvalidManifest);
        assert!(message.starts_with("manifests[1]: "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_app_outside_a_site_and_a_duplicate_id_are_refused() {
    let mut outside = facts(json!([config("a")]));
    outside.site = None;
    assert!(matches!(plan(&outside), Plan::Refuse { reason: Reason::NoSite, .. }));
    let mut twice = facts(json!([config("a")]));
    twice.holders.push(Holder {
        kind: TargetKind::Site,
        name: "beta".into(),
        namespace: None,
        uid: "s2".into(),
    });
    let Plan::Refuse { reason: Reason::DuplicateId, message } = plan(&twice) else { panic!() };
    assert!(message.contains("Site beta"), "{message}");
}

#[test]
fn an_app_of_a_held_site_is_left_alone() {
    let mut held = facts(json!([config("a")]));
    held.site.as_mut().unwrap().status = serde_json::from_value(json!({
        "deletion": { "requestRef": { "name": "r" }, "requestUid": "ru", "phase": "Held" }
    }))
    .unwrap();
    let plan = plan(&held);
    assert!(matches!(plan, Plan::StandStill { state: AppState::PendingDeletion, .. }), "{plan:?}");
}

fn done(name: &str, waiting_for: Option<&str>) -> Applied {
    Applied::Done {
        object: AppliedObject {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            waiting_for: waiting_for.map(str::to_owned),
        },
    }
}

#[test]
fn ready_follows_the_objects() {
    let facts = facts(json!([config("a"), config("b")]));
    let plan = plan(&facts);
    let now = chrono::DateTime::from_timestamp(0, 0).unwrap().into();
    let cases = [
        (vec![done("a", None), done("b", None)], "Ready", true),
        (vec![done("a", None), done("b", Some("1 of 2 replicas"))], "ObjectsNotReady", false),
        (
            vec![done("a", None), Applied::Failed { index: 1, message: "no".into() }],
            "ApplyFailed",
            false,
        ),
    ];
    for (applied, reason, ready) in cases {
        let decision = conclude(&facts, &plan, &applied, now);
        let condition = decision.status.conditions.get(ConditionType::Ready).unwrap();
        assert_eq!(condition.reason, reason);
        assert_eq!(condition.status == ConditionStatus::True, ready);
    }
}

#[test]
fn an_object_that_could_not_be_applied_is_still_the_apps() {
    let before = match done("b", None) {
        Applied::Done { object } => vec![object],
        Applied::Failed { .. } => vec![],
    };
    let applied = [done("a", None), Applied::Failed { index: 1, message: "no".into() }];
    let names: Vec<String> = record(&before, &applied).into_iter().map(|o| o.name).collect();
    assert_eq!(names, ["a", "b"]);
}
