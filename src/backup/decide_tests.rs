//! Decisions about Backups.

use super::*;
use serde_json::{Value, json};

fn now() -> Time {
    serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap()
}

fn facts(site_ref: Value, site: Option<Value>) -> Facts {
    let backup = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup",
        "metadata": {"name": "b", "uid": "bu"}, "spec": {"siteRef": site_ref},
    });
    Facts {
        backup: serde_json::from_value(backup).unwrap(),
        site: site.map(|site| serde_json::from_value(site).unwrap()),
        follows: false,
        attempt: "0f".to_owned(),
    }
}

fn site(metadata: Value, status: Value) -> Value {
    let mut all = json!({"name": "acme", "uid": "su"});
    all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": all,
        "spec": {"id": "site-1", "tenant": {"name": "Acme"}}, "status": status,
    })
}

fn reported(step: Step) -> Decision {
    match step {
        Step::Report(decision) => decision,
        Step::Back(job) => panic!("{job:?}"),
    }
}

#[test]
fn who_is_not_backed_up() {
    let plain = || Some(site(json!({}), json!({})));
    let purging =
        json!({"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": "Purging"}});
    let rows = [
        (facts(json!({"name": "acme"}), None), Reason::SiteNotFound),
        (facts(json!({"name": "acme", "uid": "other"}), plain()), Reason::SiteNotFound),
        (facts(json!({"name": "acme", "id": "other"}), plain()), Reason::SiteNotFound),
        (facts(json!({"name": "acme"}), Some(site(json!({}), purging))), Reason::EntityNotActive),
    ];
    for (facts, reason) in rows {
        let decision = reported(decide(&facts, now()));
        let succeeded = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
        assert_eq!(succeeded.reason, reason.as_str());
        assert!(decision.status.conditions.is_true(ConditionType::Stalled));
        assert_eq!(decision.next, Next::Done);
    }
}

#[test]
fn a_site_under_restore_is_waited_for() {
    let site = site(json!({"annotations": {"reprieve.dev/restore": "r"}}), json!({}));
    let decision = reported(decide(&facts(json!({"name": "acme"}), Some(site)), now()));
    assert_eq!(decision.next, Next::Wait(RESTORING));
    assert!(!decision.status.conditions.is_true(ConditionType::Stalled));
}

#[test]
fn a_namespace_made_anew_is_not_the_site() {
    let of = |uid: &str| NamespaceRef { name: "acme".into(), uid: uid.into() };
    assert_eq!(lost(&[of("a")], &[of("a")]), None);
    assert_eq!(lost(&[], &[of("a")]), None);
    assert!(lost(&[of("a")], &[of("b")]).unwrap().contains("the namespace acme"));
}

#[test]
fn made_once_and_never_again() {
    let mut facts = facts(
        json!({"name": "acme", "uid": "su", "id": "site-1"}),
        Some(site(json!({}), json!({}))),
    );
    let Step::Back(job) = decide(&facts, now()) else { panic!("not made") };
    assert_eq!(job.location, "sites/site-1/b.bu.0f.jsonl.zst");
    let result = Result {
        location: job.location,
        digest: "sha256:00".into(),
        objects: 3,
        bytes: 9,
        volumes: vec![],
        lost_disks: vec![],
        versions: ReadVersions::default(),
        changed: ChangedObjects::default(),
        recipients: 0,
    };

    let failed = Outcome::Failed(Reason::StoreUnavailable, "no".into());
    let decision = report(&facts, &failed, now());
    assert_eq!(decision.next, Next::Retry("no".into()));
    facts.backup.status = Some(decision.status);
    assert!(matches!(decide(&facts, now()), Step::Back(_)));

    let decision = report(&facts, &Outcome::NotVerified(result.clone(), "bad".into()), now());
    assert!(decision.status.conditions.is_true(ConditionType::Succeeded));
    assert!(!decision.status.conditions.is_true(ConditionType::Verified));
    assert_eq!(decision.last_backup, None);
    facts.backup.status = Some(decision.status);
    assert!(matches!(decide(&facts, now()), Step::Back(_)));

    let decision = report(&facts, &Outcome::Verified(result), now());
    assert!(decision.status.conditions.is_true(ConditionType::Verified));
    assert!(decision.status.conditions.get(ConditionType::Reconciling).is_none());
    assert_eq!(decision.last_backup.as_ref().unwrap().objects, 3);
    let site = json!({"name": "acme", "uid": "su", "id": "site-1"});
    assert_eq!(json!(decision.status.site), site);
    facts.backup.status = Some(decision.status);
    let again = reported(decide(&facts, now().plus_seconds(60)));
    assert_eq!((again.next, Some(again.status)), (Next::Done, facts.backup.status));
}

#[test]
fn hooks_of_what_is_held_are_run_by_the_first_backup_of_the_request_alone() {
    let deletion = |phase: &str, end: Option<&str>| json!({"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": phase, "retentionEndTime": end}});
    let of = |purpose: &str, follows: bool, status: Value| {
        let mut facts = facts(json!({"name": "acme"}), Some(site(json!({}), status)));
        facts.backup.spec.purpose = serde_json::from_value(json!(purpose)).unwrap();
        facts.follows = follows;
        hooks_rest(&facts).is_none()
    };
    let held = || deletion("Held", None);
    let window = || deletion("Held", Some("2026-11-23T17:00:00Z"));
    for (purpose, follows, status, runs) in [
        ("Manual", false, json!({}), true),
        ("Scheduled", false, json!({}), true),
        ("Manual", false, held(), false),
        ("Scheduled", false, window(), false),
        ("BeforeDeletion", false, held(), true),
        ("BeforeDeletion", true, held(), false),
        ("BeforeDeletion", false, window(), false),
        // Of a request for Apps the Site is not held, and the App's workloads are.
        ("BeforeDeletion", false, json!({}), true),
        ("BeforeDeletion", true, json!({}), false),
    ] {
        assert_eq!(of(purpose, follows, status.clone()), runs, "{purpose} {follows} {status}");
    }
}

#[test]
fn a_backup_says_how_its_hooks_stand() {
    let mut facts = facts(json!({"name": "acme"}), Some(site(json!({}), json!({}))));
    let decision = hook_runs(&facts, "waits for the hook dump", now());
    let succeeded = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
    // Not `False`: a request would take the backup for one that failed.
    assert_eq!((succeeded.status, &*succeeded.reason), (ConditionStatus::Unknown, "HookRunning"));
    assert_eq!(decision.next, Next::Wait(HOOK_LOOKS.0));
    let hook = json!([{"name": "dump", "state": "Running", "startTime": now()}]);
    let status = json!({"conditions": [], "hooks": hook});
    facts.backup.status = serde_json::from_value(status).unwrap();
    let later = |seconds| hook_runs(&facts, "", now().plus_seconds(seconds)).next;
    assert_eq!(later(20), Next::Wait(Duration::from_secs(2)));
    assert_eq!(later(3600), Next::Wait(HOOK_LOOKS.1));

    let decision = hook_failed(&facts, Reason::HookFailed, "hook dump (Failed)", now());
    assert!(has_ended(&decision.status.conditions));
    assert_eq!(decision.status.hooks.len(), 1);
    let said = &decision.status.conditions.get(ConditionType::Succeeded).unwrap().message;
    assert!(said.ends_with("then make another Backup"), "{said}");
}
