//! Table tests of the decisions about a Site.

use serde_json::{Value, json};

use super::*;
use crate::api::{Site, TargetKind};
use crate::cluster::Holder;

fn site(extra: Value) -> Site {
    let mut site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site",
        "metadata": { "name": "acme", "uid": "u1", "generation": 1, "finalizers": [names::FINALIZER] },
        "spec": { "id": "site-1", "tenant": { "name": "Acme" } }
    });
    merge(&mut site, extra);
    serde_json::from_value(site).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn namespace(extra: Value) -> NamespaceFacts {
    let mut live = json!({ "metadata": { "name": "acme", "uid": "n1" } });
    merge(&mut live, extra);
    let live = serde_json::from_value(live).unwrap();
    NamespaceFacts { name: "acme".to_owned(), live: Some(live), has_account: true }
}

fn ours() -> NamespaceFacts {
    namespace(json!({ "metadata": { "labels": { "reprieve.dev/site": "acme" } } }))
}

fn facts(site: Site, namespace: NamespaceFacts) -> Facts {
    let own =
        Holder { kind: TargetKind::Site, name: "acme".into(), namespace: None, uid: "u1".into() };
    Facts {
        site,
        namespaces: vec![namespace],
        holders: vec![own],
        policy_exists: true,
        apps: vec![],
        count: Count::Fits,
    }
}

fn at(seconds: i64) -> Time {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap().into()
}

fn ready_reason(decision: &Decision) -> &str {
    &decision.status.conditions.get(ConditionType::Ready).unwrap().reason
}

#[test]
fn a_new_site_gets_finalizer_namespace_and_account_in_this_order() {
    let absent = NamespaceFacts { name: "acme".into(), live: None, has_account: false };
    let decision = decide(&facts(site(json!({ "metadata": { "finalizers": [] } })), absent), at(0));
    assert_eq!(
        decision.effects,
        [
            Effect::AddFinalizer,
            Effect::CreateNamespace("acme".into()),
            Effect::CreateAccount("acme".into())
        ]
    );
    assert!(decision.status.conditions.is_true(ConditionType::Reconciling));
    assert!(!decision.status.conditions.is_true(ConditionType::Ready));
}

#[test]
fn a_site_with_everything_is_active_and_ready() {
    let decision = decide(&facts(site(json!({})), ours()), at(0));
    assert_eq!(decision.effects, []);
    assert_eq!(decision.status.state, Some(SiteState::Active));
    assert!(decision.status.conditions.is_true(ConditionType::Ready));
    assert_eq!(
        decision.status.namespaces,
        [NamespaceRef { name: "acme".into(), uid: "n1".into() }]
    );
}

#[test]
fn namespaces_of_others_are_refused() {
    let cases = [
        (namespace(json!({})), "did not consent"),
        (
            namespace(json!({ "metadata": { "labels": { "reprieve.dev/site": "other" } } })),
            "belongs to Site other",
        ),
        (
            NamespaceFacts { name: "kube-system".into(), ..namespace(json!({})) },
            "belongs to the system",
        ),
        (
            NamespaceFacts { name: "default".into(), ..namespace(json!({})) },
            "belongs to the system",
        ),
        (
            NamespaceFacts { name: names::OPERATOR_NAMESPACE.into(), ..namespace(json!({})) },
            "belongs to the system",
        ),
    ];
    for (namespace, expected) in cases {
        let decision = decide(&facts(site(json!({})), namespace), at(0));
        assert_eq!(decision.effects, [], "{expected}");
        assert_eq!(ready_reason(&decision), "NamespaceNotAdoptable");
        let message = &decision.status.conditions.get(ConditionType::Ready).unwrap().message;
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_namespace_that_consents_is_adopted() {
    let consents =
        namespace(json!({ "metadata": { "annotations": { "reprieve.dev/adopt": "acme" } } }));
    let decision = decide(&facts(site(json!({})), consents), at(0));
    assert_eq!(decision.effects, [Effect::AdoptNamespace("acme".into())]);
    let other =
        namespace(json!({ "metadata": { "annotations": { "reprieve.dev/adopt": "other" } } }));
    assert_eq!(
        ready_reason(&decide(&facts(site(json!({})), other), at(0))),
        "NamespaceNotAdoptable"
    );
}

#[test]
fn a_duplicate_id_names_the_other_holder_and_makes_nothing() {
    let absent = NamespaceFacts { name: "acme".into(), live: None, has_account: false };
    let mut facts = facts(site(json!({})), absent);
    let app = Holder {
        kind: TargetKind::App,
        name: "wiki".into(),
        namespace: Some("beta".into()),
        uid: "u2".into(),
    };
    facts.holders.push(app);
    let decision = decide(&facts, at(0));
    assert_eq!(decision.effects, []);
    assert_eq!(ready_reason(&decision), "DuplicateId");
    let message = &decision.status.conditions.get(ConditionType::Ready).unwrap().message;
    assert!(message.contains("App beta/wiki"), "{message}");
}

#[test]
fn what_is_held_purged_restored_or_deleted_past_the_gates_is_left_alone() {
    let deletion = |phase: &str| json!({ "status": { "deletion": { "requestRef": { "name": "r" }, "requestUid": "ru", "phase": phase } } });
    let cases = [
        (deletion("Held"), SiteState::PendingDeletion),
        (deletion("Purging"), SiteState::Purging),
        (
            json!({ "metadata": { "annotations": { "reprieve.dev/restore": "back" } } }),
            SiteState::Restoring,
        ),
        (
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
            SiteState::PendingDeletion,
        ),
    ];
    for (extra, state) in cases {
        let absent = NamespaceFacts { name: "acme".into(), live: None, has_account: false };
        let decision = decide(&facts(site(extra), absent), at(0));
        assert_eq!(decision.effects, [], "{state:?}");
        assert_eq!(decision.status.state, Some(state));
    }
}

#[test]
fn deciding_twice_on_the_same_facts_changes_nothing_more() {
    let first = decide(&facts(site(json!({})), ours()), at(0));
    let mut again = facts(site(json!({})), ours());
    again.site.status = Some(first.status.clone());
    let second = decide(&again, at(99));
    assert_eq!(second.status, first.status);
    assert_eq!(second.notes, []);
}
