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
        backups: vec![],
        choice: None,
        policies: vec![],
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

/// After a restart nobody remembers what the create of a claim has shown.
#[test]
fn disks_that_are_gone_are_told_of_after_a_restart() {
    let lost = json!({"site": "s0", "object": "v1 PersistentVolumeClaim s0/data", "reason": "DiskMissing", "message": "its disk is gone"});
    let other = json!({"site": "s0", "object": "v1 Service s0/web", "reason": "Reassigned", "message": "another port"});
    let mut facts = facts(request("Completed", &["Purged"]));
    let status = json!({ "notices": [lost, other] });
    facts.restore.status = serde_json::from_value(status).unwrap();
    let Step::Work { .. } = decide(&facts, now()) else { panic!("there is work") };
    let standing = Standing {
        name: "s0".into(),
        phase: Phase::Restoring(None),
        total: 4,
        done: 4,
        notices: vec![],
    };
    let decision = report(&facts, &[standing], None, now());
    let reasons: Vec<&str> = decision.status.notices.iter().map(|n| &*n.reason).collect();
    assert_eq!(reasons, ["DiskMissing"], "{:?}", decision.status.notices);
    let said = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
    assert!(said.message.contains("1 claims came back without their disk"), "{}", said.message);
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
            (Step::Work { jobs, .. }, None) => assert_eq!(jobs.len(), 1),
            (Step::Report(decision), Some((reason, ended))) => {
                let found = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
                assert_eq!(found.reason, reason.as_str());
                assert_eq!(found.status, ConditionStatus::False);
                assert_eq!(decision.requeue.is_none(), ended);
                assert_eq!(decision.status.completion_time.is_some(), ended);
            }
            (step, expected) => panic!("{status:?}: {step:?}, expected {expected:?}"),
        }
    }
}

fn standing(name: &str, phase: Phase) -> Standing {
    Standing { name: name.into(), phase, total: 4, done: 4, notices: vec![] }
}

fn verified(name: &str) -> Phase {
    Phase::Verified(VerifiedSite {
        name: name.into(),
        uid: "n".into(),
        namespaces: vec![],
        objects: 4,
        drill: None,
    })
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
        let decision = report(&facts, &sites, None, now());
        assert!(!decision.status.conditions.is_true(ConditionType::Succeeded));
        assert!(decision.requeue.is_some() && decision.status.completion_time.is_none());
        assert_eq!(decision.status.verified_sites.len(), 1);
    }
    let sites = [standing("a", verified("a")), standing("b", verified("b"))];
    let decision = report(&facts, &sites, None, now());
    assert!(decision.status.conditions.is_true(ConditionType::Succeeded));
    assert!(decision.status.conditions.is_true(ConditionType::Verified));
    assert_eq!(decision.status.objects, Some(ObjectCounts { total: 8, done: 8 }));
    assert!(decision.requeue.is_none());
}

#[test]
fn one_bad_site_is_told_and_the_others_go_on() {
    let mut facts = facts(request("Completed", &["Purged", "Purged"]));
    let bad = standing("b", Phase::Failed(vec![failure(); 150]));
    let decision =
        report(&facts, &[standing("a", Phase::Restoring(None)), bad.clone()], None, now());
    assert!(decision.requeue.is_some());
    assert_eq!(decision.status.failures.len(), 100);
    assert_eq!(decision.notes.len(), 2, "one for the start, one for the kind of failure");
    facts.restore.status = Some(decision.status);
    let decision = report(&facts, &[standing("a", verified("a")), bad], None, now());
    let conditions = &decision.status.conditions;
    assert!(conditions.is_true(ConditionType::Stalled));
    assert_eq!(conditions.get(ConditionType::Succeeded).unwrap().reason, "PartiallyFailed");
    assert_eq!(decision.notes.len(), 1, "the end");
}

fn backup(name: &str, verified: &str, site: Value) -> (String, Option<Backup>) {
    let backup = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": name},
        "spec": {"siteRef": {"name": site["name"]}},
        "status": {"site": site, "location": "l", "digest": "d", "objects": 3, "conditions": [
            {"type": "Verified", "status": verified, "reason": "X", "message": "", "lastTransitionTime": "2026-11-22T17:00:00Z"},
            {"type": "Succeeded", "status": verified, "reason": "X", "message": "the store is full", "lastTransitionTime": "2026-11-22T17:00:00Z"},
        ]},
    });
    (name.to_owned(), Some(serde_json::from_value(backup).unwrap()))
}

fn of_backups(backups: Vec<(String, Option<Backup>)>) -> Facts {
    let mut facts = facts(None);
    let refs: Vec<Value> = backups.iter().map(|(name, _)| json!({ "name": name })).collect();
    facts.restore.spec.source = serde_json::from_value(json!({ "backupRefs": refs })).unwrap();
    facts.backups = backups;
    facts
}

fn site(name: &str) -> Value {
    json!({"name": name, "uid": format!("{name}-uid"), "id": format!("{name}-id")})
}

#[test]
fn a_backup_that_cannot_be_used_does_not_stop_the_others() {
    let facts = of_backups(vec![
        backup("good", "True", site("a")),
        backup("unread", "False", site("b")),
        ("absent".to_owned(), None),
        backup("nameless", "True", json!({"name": "c"})),
    ]);
    let Step::Work { jobs, failed } = decide(&facts, now()) else { panic!("no work") };
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].name.as_str(), jobs[0].id.as_str()), ("a", "a-id"));
    assert_eq!((jobs[0].old_uid.as_str(), jobs[0].backup.objects), ("a-uid", 3));
    let said: Vec<_> = failed
        .iter()
        .map(|standing| match &standing.phase {
            Phase::Failed(failures) => (failures[0].site.as_str(), failures[0].reason.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [("b", "BackupNotVerified"), ("", "BackupNotFound"), ("c", "BackupNotVerified")];
    assert_eq!(said, expected);
    let mut all = vec![standing("a", verified("a"))];
    all.extend(failed);
    let decision = report(&facts, &all, None, now());
    assert!(decision.requeue.is_none());
    let said = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
    for words in ["1 of 4 sites verified, 3 failed", "site b", "Backup unread", "the store is full"]
    {
        assert!(said.message.contains(words), "{words}: {}", said.message);
    }
}

#[test]
fn two_backups_of_one_site_are_refused() {
    let same_id = json!({"name": "z", "uid": "z", "id": "a-id"});
    for other in [site("a"), same_id] {
        let facts =
            of_backups(vec![backup("one", "True", site("a")), backup("two", "True", other)]);
        let Step::Report(decision) = decide(&facts, now()) else { panic!("work") };
        let said = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
        assert_eq!(said.reason, "SeveralBackups");
        assert!(said.message.contains("one and two"), "{}", said.message);
        assert!(decision.status.completion_time.is_some());
    }
}
