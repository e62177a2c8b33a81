//! Table tests of the way up to the quorum, of approvals, and of how a request is made to end.

use serde_json::json;

use super::*;
use crate::deletion::fixtures::*;

fn awaiting(sites: &[&str]) -> Facts {
    let mut facts = facts(sites);
    let decision = step(&mut facts, at(0));
    assert_eq!(state(&decision), RequestState::AwaitingApproval);
    assert_eq!(decision.effects, []);
    facts
}

fn users(decision: &Decision) -> Vec<&str> {
    decision.status.approvals.iter().map(|a| a.user.as_str()).collect()
}

/// Awaiting approval, held, and at its purge: approvals are heard alike in all of them.
fn at_each_state() -> Vec<Facts> {
    let mut all = vec![awaiting(&["a"])];
    for state in [RequestState::Held, RequestState::Purging] {
        let mut gated = Gated::new(&["a"]);
        gated.state = state;
        gated.approvals.clear();
        all.push(gated.into_facts());
    }
    all
}

#[test]
fn the_finalizer_comes_first() {
    let mut facts = facts(&["a"]);
    facts.request.metadata.finalizers = None;
    assert_eq!(decide(&facts, at(0)).effects, [Effect::AddFinalizer]);
    // And again when somebody took it away: nothing else is done before.
    let mut facts = Gated::new(&["a"]).into_facts();
    facts.request.metadata.finalizers = None;
    let decision = decide(&facts, at(1000));
    assert_eq!(decision.effects, [Effect::AddFinalizer]);
    assert_eq!(Some(decision.status), facts.request.status);
}

#[test]
fn the_dry_run_does_nothing_and_says_what_it_would_do() {
    let mut facts = facts(&["a", "b"]);
    let decision = step(&mut facts, at(0));
    assert_eq!(decision.effects, []);
    let status = &decision.status;
    assert_eq!(status.plan.as_ref().unwrap().entities.len(), 2);
    assert_eq!(status.approvals_required, Some(2));
    assert_eq!(reason(status, ConditionType::Approved), "AwaitingApprovals");
    assert!(decision.notes[0].note.starts_with("would delete 2 Sites with 2 namespaces, 2 Apps"));
    assert!(step(&mut facts, at(10)).notes.is_empty(), "told once");
}

#[test]
fn a_quorum_leads_to_the_hold() {
    let mut facts = awaiting(&["a"]);
    let digest = plan_digest(&facts);
    approve(&mut facts, "ann", &digest);
    let decision = step(&mut facts, at(10));
    assert_eq!(state(&decision), RequestState::AwaitingApproval);
    approve(&mut facts, "bob", &digest);
    let decision = step(&mut facts, at(20));
    assert_eq!(state(&decision), RequestState::Held);
    assert_eq!(users(&decision), ["ann", "bob"]);
    assert_eq!(decision.effects, []);
}

#[test]
fn what_is_wiped_after_it_was_counted_still_counts() {
    let mut facts = awaiting(&["a"]);
    let digest = plan_digest(&facts);
    for user in ["ann", "bob"] {
        approve(&mut facts, user, &digest);
        step(&mut facts, at(10));
        let approval = |key: &String| key.starts_with(names::APPROVAL_PREFIX);
        facts.request.annotations_mut().retain(|key, _| !approval(key));
    }
    assert_eq!(state(&step(&mut facts, at(20))), RequestState::Held);
}

#[test]
fn approvals_that_do_not_count() {
    for facts in at_each_state() {
        let digest = plan_digest(&facts);
        let good = format!("{digest} ann");
        let table = [
            (good.as_str(), vec!["ann"]),
            (&format!("{digest} rita"), vec![]),
            (&format!("{digest} system:serviceaccount:a:b"), vec![]),
            (&format!("{digest} "), vec![]),
            (&digest, vec![]),
            ("sha256:0123 ann", vec![]),
            ("ann", vec![]),
            ("", vec![]),
            (&format!(" {digest} ann"), vec![]),
            (&format!("{digest}x ann"), vec![]),
        ];
        for (value, expected) in table {
            let mut facts = facts.clone();
            annotate(&mut facts, "approval.reprieve.dev/x", value);
            assert_eq!(users(&decide(&facts, facts.api_time)), expected, "{value:?}");
        }
        let mut twice = facts.clone();
        annotate(&mut twice, "approval.reprieve.dev/x", &good);
        annotate(&mut twice, "approval.reprieve.dev/y", &good);
        assert_eq!(users(&decide(&twice, twice.api_time)), ["ann"]);
    }
}

#[test]
fn an_approval_of_another_request_is_none_of_this_one() {
    let mut facts = awaiting(&["a"]);
    let mut other = facts.clone();
    other.request.metadata.uid = Some("other".into());
    other.request.status = None;
    step(&mut other, at(0));
    assert_ne!(plan_digest(&other), plan_digest(&facts), "the same Sites, and another digest");
    for user in ["ann", "bob"] {
        approve(&mut facts, user, &plan_digest(&other));
    }
    let decision = step(&mut facts, at(1));
    assert_eq!(users(&decision), [""; 0]);
    assert!(decision.notes.iter().any(|n| n.reason == Reason::ApprovalIgnored));
}

#[test]
fn while_the_guard_is_not_in_force_nothing_new_counts() {
    for mut facts in at_each_state() {
        let digest = plan_digest(&facts);
        facts.guard.problems.push("reprieve-approvals is not installed".into());
        approve(&mut facts, "ann", &digest);
        approve(&mut facts, "bob", &digest);
        let decision = decide(&facts, facts.api_time);
        assert_eq!(users(&decision), [""; 0]);
        assert_ne!(state(&decision), RequestState::Planning);
    }
}

#[test]
fn with_a_quorum_and_a_broken_guard_nothing_is_held() {
    let mut facts = awaiting(&["a"]);
    let digest = plan_digest(&facts);
    approve(&mut facts, "ann", &digest);
    step(&mut facts, at(1));
    approve(&mut facts, "bob", &digest);
    facts.guard.problems.push("gone".into());
    let decision = step(&mut facts, at(2));
    assert_eq!(state(&decision), RequestState::AwaitingApproval);
    assert_eq!(reason(&decision.status, ConditionType::GuardInPlace), "GuardMissing");
}

#[test]
fn a_changed_guard_voids_approvals_and_the_hold_goes_on() {
    for mut facts in at_each_state() {
        let before = plan_digest(&facts);
        let was = facts.request.status.as_ref().unwrap().state;
        approve(&mut facts, "ann", &before);
        let now = facts.api_time;
        assert_eq!(users(&step(&mut facts, now)), ["ann"]);
        facts.guard.fingerprint = "g2".into();
        let decision = step(&mut facts, now);
        let after = plan_digest(&facts);
        assert_ne!(before, after);
        assert_eq!(users(&decision), [""; 0], "{was:?}");
        assert_eq!(decision.status.state, was);
        assert!(decision.effects.iter().all(|e| !matches!(e, Effect::Release { .. })));
        assert!(!matches!(decision.effects[..], [Effect::Purge(..), ..]));
        approve(&mut facts, "ann", &after);
        assert_eq!(users(&step(&mut facts, now)), ["ann"], "given again");
    }
}

/// Who takes the guard away knows what its fingerprint will be when it is back, and so the digest.
#[test]
fn approvals_of_a_digest_that_was_not_published_yet_do_not_count() {
    for mut facts in at_each_state() {
        let now = facts.api_time;
        let mut future = facts.clone();
        future.guard.fingerprint = "g3".into();
        step(&mut future, now);
        let predicted = plan_digest(&future);
        for user in ["ann", "bob", "eve"] {
            approve(&mut facts, user, &predicted);
        }
        facts.guard.fingerprint = "g3".into();
        for _ in 0..3 {
            let decision = step(&mut facts, now);
            assert_eq!(users(&decision), [""; 0]);
        }
        let digest = plan_digest(&facts);
        assert_ne!(digest, predicted);
        approve(&mut facts, "ann", &digest);
        assert_eq!(users(&step(&mut facts, now)), ["ann"], "an honest one does");
        assert_eq!(plan_digest(&facts), digest);
    }
}

#[test]
fn a_changed_plan_is_planned_again_and_an_unchanged_one_keeps_its_approvals() {
    let mut facts = awaiting(&["a"]);
    let digest = plan_digest(&facts);
    approve(&mut facts, "ann", &digest);
    step(&mut facts, at(1));
    facts.sites.get_mut("a").unwrap().claims.clear();
    let decision = step(&mut facts, at(2));
    assert_eq!((plan_digest(&facts), users(&decision)), (digest.clone(), vec!["ann"]));
    facts.sites.get_mut("a").unwrap().apps.push(app("a", "mail"));
    let decision = step(&mut facts, at(3));
    assert_ne!(plan_digest(&facts), digest);
    assert_eq!(users(&decision), [""; 0]);
    assert_eq!(decision.notes[0].reason, Reason::PlanChanged);
    // As it was before: what was approved then must be approved again.
    facts.sites.get_mut("a").unwrap().apps.pop();
    assert_eq!(users(&step(&mut facts, at(4))), [""; 0]);
}

#[test]
fn a_policy_that_changes_before_the_quorum_gives_a_new_plan() {
    let mut facts = awaiting(&["a"]);
    let digest = plan_digest(&facts);
    policy(&mut facts).quorum.approvals = 3;
    let decision = step(&mut facts, at(1));
    assert_ne!(plan_digest(&facts), digest);
    assert_eq!(decision.status.approvals_required, Some(3));
}

#[test]
fn expiry_counts_from_the_plan_to_the_quorum() {
    let mut facts = awaiting(&["a"]);
    assert_eq!(state(&step(&mut facts, at(86_399))), RequestState::AwaitingApproval);
    facts.sites.get_mut("a").unwrap().apps.clear();
    step(&mut facts, at(86_399));
    assert_eq!(state(&step(&mut facts, at(86_400))), RequestState::AwaitingApproval);
    let decision = step(&mut facts, at(86_399 + 86_400));
    assert_eq!(state(&decision), RequestState::Expired);
    assert_eq!(reason(&decision.status, ConditionType::Succeeded), "Expired");
    assert!(decision.status.conditions.is_true(ConditionType::Stalled));
}

#[test]
fn an_exceeded_limit_refuses_at_once() {
    let names: Vec<String> = (0..11).map(|i| format!("s{i}")).collect();
    let mut facts = facts(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let decision = step(&mut facts, at(0));
    assert_eq!(state(&decision), RequestState::Refused);
    assert_eq!(reason(&decision.status, ConditionType::Succeeded), "OverrideRequired");
}

/// Cancel, DELETE and rejection, in every state before anything is held.
#[test]
fn ends_that_are_asked_for_before_anything_is_held() {
    type Change = fn(&mut Facts);
    let table: &[(Change, RequestState, &str)] = &[
        (|f| f.request.spec.cancel = true, RequestState::Cancelled, "CancelledByUser"),
        (
            |f| {
                f.request.metadata.deletion_timestamp =
                    serde_json::from_value(json!(at(0))).unwrap()
            },
            RequestState::Cancelled,
            "RequestDeleted",
        ),
        (
            |f| annotate(f, "rejection.reprieve.dev/eve", "sha256:any eve"),
            RequestState::Refused,
            "Rejected",
        ),
    ];
    for (change, expected, why) in table {
        for planned in [false, true] {
            let mut facts = facts(&["a"]);
            if planned {
                step(&mut facts, at(0));
                let digest = plan_digest(&facts);
                approve(&mut facts, "ann", &digest);
                approve(&mut facts, "bob", &digest);
            }
            change(&mut facts);
            annotate(&mut facts, names::ANNOTATION_REJECTION_REASON, "not this one");
            let decision = step(&mut facts, at(1));
            assert_eq!(state(&decision), *expected, "{why}");
            assert_eq!(reason(&decision.status, ConditionType::Succeeded), *why);
            assert_eq!(decision.effects, [], "{why}");
            assert_eq!(decision.status.completion_time, Some(at(1)));
            if *why == "Rejected" {
                let rejection = &decision.status.rejections[0];
                assert_eq!(rejection.user, "eve");
                assert_eq!(rejection.reason.as_deref(), Some("not this one"));
            }
            // And lets the request go, once, and does nothing more.
            assert_eq!(step(&mut facts, at(2)).effects, [Effect::RemoveFinalizer]);
            facts.request.metadata.finalizers = None;
            let end = step(&mut facts, at(3));
            assert_eq!((end.effects, end.requeue, end.notes), (vec![], None, vec![]));
        }
    }
}

#[test]
fn an_ended_request_does_nothing_whatever_happens() {
    for ended in [
        RequestState::Completed,
        RequestState::Refused,
        RequestState::Expired,
        RequestState::Cancelled,
    ] {
        let mut facts = Gated::new(&["a"]).into_facts();
        facts.request.status.as_mut().unwrap().state = Some(ended);
        facts.request.spec.cancel = true;
        let decision = decide(&facts, at(1000));
        assert_eq!(decision.effects, [Effect::RemoveFinalizer]);
        assert_eq!(state(&decision), ended);
    }
}
