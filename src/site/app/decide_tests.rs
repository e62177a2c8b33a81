//! Table tests of the decisions about an App.

use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::super::object::Seen;
use super::*;
use crate::api::{App, Site, TargetKind};
use crate::cluster::Holder;
use crate::cluster::discover::Kind;
use crate::site::rows::NamespaceRow;

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

pub(in crate::site::app) fn facts(manifests: Value) -> Facts {
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
    let namespace = NamespaceRow {
        uid: "n1".into(),
        site: Some("acme".into()),
        adopt: None,
        terminating: false,
    };
    Facts {
        app,
        namespace: Some(namespace),
        site: Some(site()),
        awaiting: None,
        holders: vec![own],
        account: Account::There(None),
        own_account: None,
        kinds: kinds.into(),
        complete: ["v1/ConfigMap".to_owned()].into(),
        seen: Default::default(),
        contested: Default::default(),
    }
}

pub(in crate::site::app) fn config(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

fn steps(facts: &Facts) -> Steps {
    match plan(facts) {
        Plan::Apply(steps) => steps,
        other => panic!("expected it to be applied: {other:?}"),
    }
}

fn refusal(facts: &Facts) -> (Reason, String) {
    match plan(facts) {
        Plan::Refuse { reason, message } => (reason, message),
        other => panic!("expected it to be refused: {other:?}"),
    }
}

#[test]
fn a_good_app_is_applied_with_label_and_namespace() {
    let steps = steps(&facts(json!([config("a")])));
    assert!(!steps.add_finalizer);
    let (object, todo) = &steps.steps[0];
    assert_eq!(object.object["metadata"]["namespace"], "acme");
    assert_eq!(object.object["metadata"]["labels"][names::LABEL_APP], "wiki");
    assert_eq!(*todo, Todo::Create { was_there: false });
}

#[test]
fn every_bad_manifest_is_named_by_its_index_and_the_good_ones_are_applied() {
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
        (
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b", "labels": "x" } }),
            "metadata.labels",
        ),
    ];
    let mut manifests = vec![config("a")];
    manifests.extend(cases.iter().map(|(bad, _)| bad.clone()));
    let steps = steps(&facts(json!(manifests)));
    assert_eq!(steps.steps.len(), 1, "the good one");
    assert_eq!(steps.failures.len(), cases.len());
    for (index, (failure, (_, expected))) in steps.failures.iter().zip(cases).enumerate() {
        assert_eq!(failure.index, index as i64 + 1);
        assert_eq!(failure.reason, "InvalidManifest");
        assert!(failure.message.contains(expected), "{failure:?}");
    }
}

#[test]
fn an_app_outside_a_site_or_of_a_lost_namespace_is_refused() {
    let mut outside = facts(json!([config("a")]));
    outside.site = None;
    let (reason, message) = refusal(&outside);
    assert_eq!(reason, Reason::NoSite);
    assert!(message.contains("create a Site with spec.namespaces [acme]"), "{message}");

    let mut twice = facts(json!([config("a")]));
    for (name, uid) in [("beta", "s2"), ("gamma", "s3")] {
        twice.holders.push(Holder {
            kind: TargetKind::Site,
            name: name.into(),
            namespace: None,
            uid: uid.into(),
        });
    }
    let (reason, message) = refusal(&twice);
    assert_eq!(reason, Reason::DuplicateId);
    assert!(message.contains("Site beta, Site gamma"), "{message}");

    let mut lost = facts(json!([config("a")]));
    let status = json!({ "namespaces": [{ "name": "acme", "uid": "n0" }] });
    lost.site.as_mut().unwrap().status = serde_json::from_value(status).unwrap();
    assert_eq!(refusal(&lost).0, Reason::NamespaceLost);

    let mut going = facts(json!([config("a")]));
    going.namespace.as_mut().unwrap().terminating = true;
    assert_eq!(refusal(&going).0, Reason::NamespaceTerminating);

    let mut account = facts(json!([config("a")]));
    account.own_account = Some(false);
    assert_eq!(refusal(&account).0, Reason::AccountMissing);
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
    assert!(!plan.writes());
}

/// An App that has applied its one object, and what is seen of that.
fn applied() -> Facts {
    let mut facts = facts(json!([config("a")]));
    let digest = steps(&facts).steps[0].0.digest.clone();
    let record = AppliedObject {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: "a".into(),
        uid: "u1".into(),
        manifest: Some(digest),
        fields: Some("f1".into()),
        ..Default::default()
    };
    let status = crate::api::AppStatus { objects: vec![record], ..Default::default() };
    facts.app.status = Some(status);
    let seen = Seen {
        app: "wiki".into(),
        uid: "u1".into(),
        version: 1,
        fields: "f1".into(),
        waiting_for: None,
        deleting: false,
    };
    facts.seen.insert(key(), seen);
    facts
}

fn key() -> (String, String) {
    ("v1/ConfigMap".to_owned(), "a".to_owned())
}

#[test]
fn what_is_as_it_was_applied_costs_nothing() {
    let facts = applied();
    assert!(matches!(&steps(&facts).steps[0].1, Todo::Keep(_)));
    assert!(!plan(&facts).writes());
}

#[test]
fn what_was_changed_deleted_or_replaced_is_put_back() {
    let todo = |change: &dyn Fn(&mut Facts)| {
        let mut facts = applied();
        change(&mut facts);
        steps(&facts).steps.remove(0).1
    };
    let seen = |f: &mut Facts, change: &dyn Fn(&mut Seen)| change(f.seen.get_mut(&key()).unwrap());
    let changed = todo(&|f| seen(f, &|s| s.fields = "f2".into()));
    assert!(matches!(changed, Todo::Apply { drifted: true, .. }), "{changed:?}");
    let gone = todo(&|f| f.seen.clear());
    assert_eq!(gone, Todo::Create { was_there: true });
    let replaced = todo(&|f| seen(f, &|s| s.uid = "u2".into()));
    assert!(matches!(replaced, Todo::Apply { drifted: false, .. }), "{replaced:?}");
    let going = todo(&|f| seen(f, &|s| s.deleting = true));
    assert!(matches!(going, Todo::Wait(_)), "{going:?}");
    let spec = todo(&|f| f.app.spec.manifests[0]["data"] = json!({ "a": "b" }));
    assert!(matches!(spec, Todo::Apply { drifted: false, .. }), "{spec:?}");
    let contested = todo(&|f| {
        seen(f, &|s| s.fields = "f2".into());
        let until = chrono::DateTime::from_timestamp(99, 0).unwrap().into();
        f.contested.insert(key(), (until, "data by x".into()));
    });
    assert!(matches!(contested, Todo::LeaveAlone { .. }), "{contested:?}");
    // Before the watch has told all, an absent object means nothing.
    let unknown = todo(&|f| {
        f.complete.clear();
        f.seen.clear();
    });
    assert!(matches!(unknown, Todo::Keep(_)), "{unknown:?}");
    // A foreign object of the name, with the App's label: whose it is must be asked.
    let labelled = todo(&|f| f.app.status = None);
    assert!(matches!(labelled, Todo::Apply { record: None, .. }), "{labelled:?}");
}

#[test]
fn what_leaves_the_manifests_is_an_orphan_while_it_lives() {
    let mut facts = applied();
    facts.app.spec.manifests = vec![config("b")];
    let left = steps(&facts).orphans;
    assert_eq!(left.len(), 1);
    assert!(left[0].orphaned);
    // Its manifest has become bad, which is no leaving.
    let mut bad = applied();
    bad.app.spec.manifests[0]["metadata"]["namespace"] = json!("elsewhere");
    assert_eq!(steps(&bad).orphans, []);
    // Deleted by hand, or its label taken off.
    facts.seen.clear();
    assert_eq!(steps(&facts).orphans, []);
    facts.complete.clear();
    assert_eq!(steps(&facts).orphans.len(), 1, "unknown yet");
}
