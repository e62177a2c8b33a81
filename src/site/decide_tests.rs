//! Table tests of the decisions about a Site.

use serde_json::{Value, json};

use super::*;
use crate::api::{Site, TargetKind};
use crate::cluster::Holder;
use crate::cluster::fixtures::merge;
use crate::site::awaiting::Known;

fn site(extra: Value) -> Site {
    let mut site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site",
        "metadata": { "name": "acme", "uid": "u1", "generation": 1, "finalizers": [names::FINALIZER] },
        "spec": { "id": "site-1", "tenant": { "name": "Acme" } }
    });
    merge(&mut site, extra);
    serde_json::from_value(site).unwrap()
}

fn namespace(extra: Value) -> NamespaceFacts {
    let mut live = json!({ "name": "acme", "uid": "n1" });
    merge(&mut live, extra.get("metadata").cloned().unwrap_or(json!({})));
    let live = super::super::fleet::row_of(&serde_json::from_value(live).unwrap());
    NamespaceFacts { name: "acme".to_owned(), live: Some(live), account: Account::There(None) }
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
        role_exists: true,
        newest_backup: None,
        known: Known::NotAsked,
        hooks: super::super::hooks::Tried::No,
        count: Count::Fits,
        repaired: vec![],
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
    let absent = NamespaceFacts { name: "acme".into(), live: None, account: Account::Missing };
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
    let adopt = [Effect::AdoptNamespace("acme".into()), Effect::CreateAccount("acme".into())];
    assert_eq!(decision.effects, adopt);
    let other =
        namespace(json!({ "metadata": { "annotations": { "reprieve.dev/adopt": "other" } } }));
    assert_eq!(
        ready_reason(&decide(&facts(site(json!({})), other), at(0))),
        "NamespaceNotAdoptable"
    );
}

#[test]
fn a_duplicate_id_names_the_other_holder_and_makes_nothing() {
    let absent = NamespaceFacts { name: "acme".into(), live: None, account: Account::Missing };
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

    // Without our finalizer the guard lets it be deleted, as long as it never had a namespace.
    facts.site.metadata.finalizers = None;
    assert_eq!(decide(&facts, at(0)).effects, []);
    let had = json!({ "namespaces": [{ "name": "acme", "uid": "n1" }] });
    facts.site.status = serde_json::from_value(had).unwrap();
    assert_eq!(decide(&facts, at(0)).effects, [Effect::AddFinalizer]);
}

#[test]
fn what_is_held_purged_restored_or_deleted_past_the_gates_is_left_alone() {
    let deletion = |phase: &str| json!({ "status": { "deletion": { "requestRef": { "name": "r" }, "requestUid": "ru", "phase": phase } } });
    let restore = |stage: &str| {
        json!({
            "metadata": { "annotations": { "reprieve.dev/restore": "back" } },
            "status": { "restore": { "restoreRef": { "name": "back" }, "stage": stage, "objectsDone": 3, "objectsTotal": 9 } },
        })
    };
    let cases = [
        (deletion("Held"), SiteState::PendingDeletion),
        (deletion("Purging"), SiteState::Purging),
        (restore("Queued"), SiteState::Restoring),
        // That Restore has ended, and half of a site must not go into service.
        (restore("Stopped"), SiteState::AwaitingRestore),
        (
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
            SiteState::PendingDeletion,
        ),
    ];
    for (extra, state) in cases {
        let absent = NamespaceFacts { name: "acme".into(), live: None, account: Account::Missing };
        let decision = decide(&facts(site(extra), absent), at(0));
        assert_eq!(decision.effects, [], "{state:?}");
        assert_eq!(decision.status.state, Some(state));
    }
}

#[test]
fn what_a_restore_says_of_a_site() {
    let mark = json!({ "metadata": { "annotations": { "reprieve.dev/restore": "back" } } });
    // One that was just created: the Restore is about to say where it stands, in one write.
    let fresh = facts(site(mark.clone()), ours());
    let decision = decide(&fresh, at(0));
    assert_eq!(decision.status, fresh.site.status.clone().unwrap_or_default());
    let told = |restore: Value| {
        let mut site = site(mark.clone());
        site.status = serde_json::from_value(json!({ "restore": restore })).unwrap();
        let decision = decide(&facts(site, ours()), at(0));
        (ready_reason(&decision).to_owned(), message(&decision).to_owned())
    };
    let (reason, said) = told(
        json!({ "restoreRef": { "name": "back" }, "stage": "Queued", "objectsDone": 0, "objectsTotal": 9, "place": 17, "places": 400 }),
    );
    assert_eq!(
        (&*reason, &*said),
        ("Restoring", "being restored by Restore back, place 17 of 400")
    );
    let (reason, said) = told(
        json!({ "restoreRef": { "name": "back" }, "stage": "Stopped", "objectsDone": 3, "objectsTotal": 9, "message": "cancelled; go on so" }),
    );
    assert_eq!(reason, "RestoreStopped");
    assert!(said.contains("with 3 of 9 objects: cancelled; go on so"), "{said}");
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

/// A Site that has recorded its namespace as n1.
fn recorded() -> Site {
    site(json!({ "status": { "namespaces": [{ "name": "acme", "uid": "n1" }] } }))
}

fn message(decision: &Decision) -> &str {
    &decision.status.conditions.get(ConditionType::Ready).unwrap().message
}

#[test]
fn a_namespace_that_was_there_is_never_made_anew() {
    let absent = NamespaceFacts { name: "acme".into(), live: None, account: Account::Missing };
    let other = namespace(json!({ "metadata": { "uid": "n2" } }));
    let mut labelled = ours();
    labelled.live.as_mut().unwrap().uid = "n3".into();
    let going = namespace(
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": { "reprieve.dev/site": "acme" } } }),
    );
    for (lost, reason) in [
        (absent, "NamespaceLost"),
        (other, "NamespaceLost"),
        (labelled, "NamespaceLost"),
        (going, "NamespaceTerminating"),
    ] {
        let mut facts = facts(recorded(), lost);
        facts.newest_backup = Some("b1".into());
        let decision = decide(&facts, at(0));
        assert_eq!(decision.effects, [], "{reason}");
        assert_eq!(ready_reason(&decision), reason);
        let words = r#""spec":{"source":{"backupRefs":[{"name":"b1"}]}}}' | kubectl create -f -"#;
        assert!(message(&decision).contains(words), "{}", message(&decision));
        assert!(decision.notes[0].warning);
        assert_eq!(decision.status.namespaces[0].uid, "n1", "what was lost stays known");
        facts.newest_backup = None;
        assert!(message(&decide(&facts, at(0))).contains("no verified Backup"));
    }
}

#[test]
fn a_lost_namespace_is_begun_anew_only_if_somebody_says_so() {
    let anew = namespace(
        json!({ "metadata": { "uid": "n2", "annotations": { "reprieve.dev/adopt": "acme" } } }),
    );
    let decision = decide(&facts(recorded(), anew), at(0));
    assert_eq!(decision.effects[0], Effect::AdoptNamespace("acme".into()));
    let mut done = ours();
    done.live.as_mut().unwrap().uid = "n2".into();
    done.live.as_mut().unwrap().adopt = Some("acme".into());
    let decision = decide(&facts(recorded(), done), at(0));
    assert_eq!(ready_reason(&decision), "Ready");
    assert_eq!(decision.status.namespaces[0].uid, "n2");
}

#[test]
fn what_a_restore_brings_back_is_recorded_by_the_restore() {
    let mut restoring = recorded();
    let mark = (names::ANNOTATION_RESTORE.to_owned(), "back".to_owned());
    restoring.metadata.annotations = Some([mark].into());
    let mut made = ours();
    made.live.as_mut().unwrap().uid = "n2".into();
    let decision = decide(&facts(restoring, made), at(0));
    assert_eq!(decision.effects, []);
    assert_eq!(decision.status.namespaces[0].uid, "n1");
}

#[test]
fn an_account_that_lost_its_rights_is_told_or_repaired() {
    let with = |account: Account| facts(recorded(), NamespaceFacts { account, ..ours() });
    let missing = decide(&with(Account::Missing), at(0));
    assert_eq!(missing.effects, [Effect::CreateAccount("acme".into())]);
    let unbound = decide(&with(Account::Unbound), at(0));
    assert_eq!(unbound.effects, [Effect::BindAccount("acme".into())]);
    let wrong = decide(&with(Account::WrongRole("Role view".into())), at(0));
    assert_eq!(ready_reason(&wrong), "AccountChanged");
    assert!(message(&wrong).contains("kubectl delete rolebinding reprieve-app -n acme"));
    let mut repaired = facts(recorded(), ours());
    repaired.repaired = vec!["in namespace acme, the RoleBinding".into()];
    assert_eq!(decide(&repaired, at(0)).notes[0].reason, Reason::AccountRestored);
    let mut no_role = facts(recorded(), ours());
    no_role.role_exists = false;
    assert_eq!(ready_reason(&decide(&no_role, at(0))), "AccountChanged");
}

#[test]
fn a_new_site_that_the_store_knows_sets_nothing_up() {
    let backups = || Known::Backups {
        name: "acme".into(),
        backup: "nightly".into(),
        time: at(0),
        objects: 7,
        purged_by: None,
    };
    let unclear = || Known::Unclear("it is not signed".into());
    let unanswered = || Known::Unanswered("no route".into());
    let (awaiting, degraded) = (Some(SiteState::AwaitingRestore), Some(SiteState::Degraded));
    let rows = [
        (backups(), awaiting, "AwaitingRestore", false),
        (unclear(), awaiting, "AwaitingRestore", false),
        (unanswered(), degraded, "StoreUnavailable", true),
    ];
    for (known, state, reason, working) in rows {
        for finalizers in [json!([]), json!([names::FINALIZER])] {
            let absent =
                NamespaceFacts { name: "acme".into(), live: None, account: Account::Missing };
            let fenced = finalizers != json!([]);
            let mut facts =
                facts(site(json!({ "metadata": { "finalizers": finalizers } })), absent);
            facts.known = known.clone();
            let decision = decide(&facts, at(0));
            let fence: &[Effect] = if fenced { &[] } else { &[Effect::AddFinalizer] };
            assert_eq!(decision.effects, fence, "nothing but the fence");
            assert_eq!((decision.status.state, ready_reason(&decision)), (state, reason));
            let conditions = &decision.status.conditions;
            assert_eq!(conditions.is_true(ConditionType::Reconciling), working);
            assert!(!conditions.is_true(ConditionType::Stalled));
            assert!(decision.requeue.is_some());
            let said = &conditions.get(ConditionType::Ready).unwrap().message;
            assert!(said.contains("kubectl annotate site acme reprieve.dev/start-empty=true"));
            assert_eq!(said.contains("{\"sites\":{\"ids\":[\"site-1\"]}}"), known == backups());
        }
    }
    for known in [Known::No, Known::NotAsked] {
        let absent = NamespaceFacts { name: "acme".into(), live: None, account: Account::Missing };
        let mut facts = facts(site(json!({})), absent);
        facts.known = known;
        assert!(decide(&facts, at(0)).effects.contains(&Effect::CreateNamespace("acme".into())));
    }
}

#[test]
fn a_site_says_whether_its_hooks_can_be_created() {
    use crate::cluster::hooks::Checked;
    use crate::site::hooks::Tried;
    let hooks = json!({ "beforeBackup": [{ "name": "dump", "template": { "spec": {} } }] });
    let wrong = || {
        let one = Checked { hook: "beforeBackup/dump".into(), why: "no containers".into() };
        Tried::Wrong(vec![one])
    };
    let with = |status: Value, tried: Tried| {
        let site = site(json!({ "spec": { "hooks": hooks }, "status": status }));
        decide(&Facts { hooks: tried, ..facts(site, ours()) }, at(0))
    };
    let said = |decision: &Decision| {
        let conditions = &decision.status.conditions;
        conditions.get(ConditionType::HooksValid).map(|c| (c.status, c.message.clone()))
    };
    // Not tried yet: looked at again soon.
    let decision = with(json!({}), Tried::No);
    assert_eq!((said(&decision), decision.requeue), (None, Some(Duration::from_secs(2))));
    let decision = with(json!({}), wrong());
    let message = "spec.hooks.beforeBackup/dump: no containers".to_owned();
    assert_eq!(said(&decision), Some((ConditionStatus::False, message)));
    assert_eq!(decision.requeue, Some(WAITING));
    // In service all the same, and told once.
    assert_eq!(decision.status.state, Some(SiteState::Active));
    assert_eq!(decision.notes.iter().filter(|n| n.reason == Reason::InvalidHook).count(), 1);
    let again = with(json!(decision.status), wrong());
    assert_eq!(again.notes, []);
    let good = with(json!(decision.status), Tried::Wrong(vec![]));
    assert_eq!(said(&good).map(|(status, _)| status), Some(ConditionStatus::True));
    assert_eq!(good.requeue, None);
    // What it says is of the spec as it was.
    let site = site(json!({ "status": good.status }));
    assert_eq!(said(&decide(&facts(site, ours()), at(0))), None, "it has no hooks any more");
}
