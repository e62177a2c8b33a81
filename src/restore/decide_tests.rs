//! The table tests of `decide`.

use super::*;
use serde_json::{Value, json};

fn now() -> Time {
    serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap()
}

fn facts(status: Option<Value>) -> Facts {
    let restore = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "r"},
        "spec": {"source": {"deletionRequestRef": {"name": "d"}}},
    });
    let request = status.map(|status| {
        json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest", "metadata": {"name": "d"},
            "spec": {"target": {"kind": "Site", "ids": ["i"]}, "reason": "x"}, "status": status,
        })
    });
    Facts {
        restore: serde_json::from_value(restore).unwrap(),
        request: request.map(|request| serde_json::from_value(request).unwrap()),
    }
}

fn request(state: &str, phases: &[&str]) -> Option<Value> {
    let entity = |(i, phase): (usize, &&str)| {
        json!({
            "kind": "Site", "id": format!("id-{i}"), "name": format!("s{i}"), "uid": "u", "tenant": "t", "phase": phase,
            "backup": {"name": "b", "location": "l", "digest": "d", "objects": 1},
        })
    };
    let entities: Vec<Value> = phases.iter().enumerate().map(entity).collect();
    Some(json!({"state": state, "plan": {"entities": entities}}))
}

#[test]
fn what_there_is_to_do() {
    let rows = [
        (None, Some((Reason::NothingToRestore, true))),
        (request("Completed", &[]), Some((Reason::NothingToRestore, true))),
        (request("Cancelled", &["Released"]), Some((Reason::NothingToRestore, true))),
        (request("Held", &["Held"]), Some((Reason::RequestStillOpen, false))),
        (request("Purging", &["Purged"]), Some((Reason::RequestStillOpen, false))),
        (request("Completed", &["Purged"]), None),
        // What was purged before a cancel can be brought back.
        (request("Cancelled", &["Purged", "Released"]), None),
    ];
    for (status, expected) in rows {
        match (decide(&facts(status.clone()), now()), expected) {
            (Step::Work(jobs), None) => assert_eq!(jobs.len(), 1),
            (Step::Report(decision), Some((reason, ended))) => {
                let found = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
                assert_eq!(found.reason, reason.as_str());
                assert_eq!(found.status, ConditionStatus::False);
                assert_eq!(decision.requeue.is_none(), ended);
                assert_eq!(has_ended(Some(&decision.status)), ended);
            }
            (step, expected) => panic!("{status:?}: {step:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn the_important_first() {
    let mut sites = vec![(100, "b".to_owned()), (100, "a".to_owned()), (900, "z".to_owned())];
    order(&mut sites);
    assert_eq!(sites.map_names(), ["z", "a", "b"]);
}

trait Names {
    fn map_names(&self) -> Vec<&str>;
}

impl Names for Vec<(i32, String)> {
    fn map_names(&self) -> Vec<&str> {
        self.iter().map(|(_, name)| name.as_str()).collect()
    }
}

fn standing(name: &str, phase: Phase) -> Standing {
    Standing { name: name.into(), phase, total: 4, done: 4, notices: vec![] }
}

fn verified(name: &str) -> Phase {
    Phase::Verified(VerifiedSite { name: name.into(), uid: "n".into(), objects: 4 })
}

fn failure() -> RestoreFailure {
    RestoreFailure {
        site: "b".into(),
        object: None,
        reason: Reason::SiteLives.as_str().into(),
        message: "lives".into(),
    }
}

#[test]
fn never_done_before_every_site_is_verified() {
    let facts = facts(request("Completed", &["Purged", "Purged"]));
    let waits = Phase::Restoring(Some((Reason::WaitingForReady, "Deployment web".into())));
    for other in [Phase::Queued, waits, Phase::Restoring(None)] {
        let sites = [standing("a", verified("a")), standing("b", other)];
        let decision = report(&facts, &sites, now());
        assert!(!decision.status.conditions.is_true(ConditionType::Succeeded));
        assert!(decision.requeue.is_some() && decision.status.completion_time.is_none());
        assert_eq!(decision.status.verified_sites.len(), 1);
    }
    let sites = [standing("a", verified("a")), standing("b", verified("b"))];
    let decision = report(&facts, &sites, now());
    assert!(decision.status.conditions.is_true(ConditionType::Succeeded));
    assert!(decision.status.conditions.is_true(ConditionType::Verified));
    assert_eq!(decision.status.objects, Some(ObjectCounts { total: 8, done: 8 }));
    assert!(decision.requeue.is_none());
}

#[test]
fn one_bad_site_is_told_and_the_others_go_on() {
    let mut facts = facts(request("Completed", &["Purged", "Purged"]));
    let bad = standing("b", Phase::Failed(vec![failure(); 150]));
    let decision = report(&facts, &[standing("a", Phase::Restoring(None)), bad.clone()], now());
    assert!(decision.requeue.is_some());
    assert_eq!(decision.status.failures.len(), 100);
    assert_eq!(decision.notes.len(), 2, "one for the start, one for the kind of failure");
    facts.restore.status = Some(decision.status);
    let decision = report(&facts, &[standing("a", verified("a")), bad], now());
    let conditions = &decision.status.conditions;
    assert!(conditions.is_true(ConditionType::Stalled));
    assert_eq!(conditions.get(ConditionType::Succeeded).unwrap().reason, "PartiallyFailed");
    assert_eq!(decision.notes.len(), 1, "the end");
}
