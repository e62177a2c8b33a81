//! Table tests of the gates, and of the token that only they can make.

use serde_json::json;

use super::super::backups::keep_until;
use super::*;
use crate::api::{Conditions, Environment, Override, RequestState};
use crate::deletion::fixtures::*;
use crate::deletion::held::Disk;
use crate::deletion::rolling::Ledger;

const ALL: [ConditionType; 7] = [
    ConditionType::ScopeValid,
    ConditionType::WithinBlastRadius,
    ConditionType::GuardInPlace,
    ConditionType::Approved,
    ConditionType::BackedUp,
    ConditionType::RetentionElapsed,
    ConditionType::AlertsClear,
];

fn many(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("s{i:03}")).collect()
}

fn gated(n: usize) -> Gated {
    let names = many(n);
    Gated::new(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn token(gated: &Gated) -> Option<PurgeToken> {
    permit(&gated.case(), &gated.plan.entities[0])
}

fn overridden() -> Option<Override> {
    Some(Override { justification: "region closes".into() })
}

#[test]
fn with_everything_open_there_is_a_token() {
    let gated = gated(2);
    for type_ in ALL {
        assert!(gated.gate(type_).is_open(), "{type_:?}: {}", gated.gate(type_).message);
    }
    assert_eq!(token(&gated).unwrap().entity_uid(), "su-s000");
}

/// Each gate closed in turn, and everything else that a token depends on.
#[test]
fn with_anything_missing_there_is_no_token() {
    type Change = fn(&mut Gated);
    let table: &[(Option<ConditionType>, Reason, Change)] = &[
        (Some(ALL[0]), Reason::PlanChanged, |g| g.live("s001").apps.clear()),
        (Some(ALL[0]), Reason::PlanChanged, |g| drop(g.facts.sites.remove("s001"))),
        (Some(ALL[0]), Reason::PlanChanged, |g| {
            g.live("s001").site.metadata.uid = Some("later".into());
        }),
        (Some(ALL[0]), Reason::PlanChanged, |g| {
            g.live("s000").namespaces.push(namespace("s000", "s000-new"));
        }),
        (Some(ALL[0]), Reason::PlanChanged, |g| {
            g.live("s000").site.spec.tenant.name = "another".into();
        }),
        // T11: the cluster was set back, and the store knows of it.
        (Some(ALL[0]), Reason::PurgedBefore, |g| {
            g.facts.executed = Executed::Yes("purged".into());
        }),
        (Some(ALL[4]), Reason::StoreUnavailable, |g| {
            g.facts.executed = Executed::Unknown("away".into());
        }),
        (Some(ALL[4]), Reason::ComparisonFailed, |g| {
            g.live("s000").unread = Some("away".into());
        }),
        (Some(ALL[0]), Reason::EntityNotActive, |g| hold(g.live("s001"), "other", "Held")),
        (Some(ALL[0]), Reason::EntityNotActive, |g| {
            g.live("s001").site.spec.namespaces = Some(vec!["s001".into(), "more".into()]);
        }),
        (Some(ALL[0]), Reason::EntityNotActive, |g| {
            g.live("s001").namespaces[0].labels_mut().clear();
        }),
        (Some(ALL[1]), Reason::BlastRadiusExceeded, |g| {
            policy(&mut g.facts).blast_radius.hard_max_entities = 1;
        }),
        (Some(ALL[1]), Reason::OverrideRequired, |g| {
            policy(&mut g.facts).blast_radius.max_entities = 1;
        }),
        (Some(ALL[2]), Reason::GuardMissing, |g| g.facts.guard.problems.push("gone".into())),
        (Some(ALL[2]), Reason::GuardChanged, |g| g.facts.guard.fingerprint = "g2".into()),
        (Some(ALL[3]), Reason::AwaitingApprovals, |g| drop(g.approvals.pop())),
        (Some(ALL[3]), Reason::AwaitingApprovals, |g| {
            policy(&mut g.facts).quorum.approvals = 3;
        }),
        (Some(ALL[4]), Reason::BackingUp, |g| g.live("s001").backups.clear()),
        (Some(ALL[4]), Reason::BackupOutdated, |g| {
            g.live("s001").live_digest = Some("sha256:newer".into());
        }),
        (Some(ALL[4]), Reason::VolumeNotRetained, |g| reclaim(g.live("s001"), "Delete")),
        (Some(ALL[4]), Reason::VolumeNotRetained, |g| {
            let content = workload(
                "VolumeSnapshotContent",
                "s001",
                "snap",
                json!({ "deletionPolicy": "Delete" }),
            );
            g.live("s001").held.push(content);
        }),
        // A disk that went during the hold, and a snapshot of which nothing is left.
        (Some(ALL[1]), Reason::OverrideRequired, |g| {
            g.live("s001").claims[0].disk = Disk::Lost;
        }),
        (Some(ALL[1]), Reason::OverrideRequired, |g| {
            g.live("s001").claims[0].disk = Disk::Lost;
            g.live("s001").claims[0].snapshot = ClaimSnapshot::NotReady("s".into());
        }),
        (Some(ALL[4]), Reason::BackingUp, |g| {
            policy(&mut g.facts).backup.keep_seconds = 70 * 86_400;
        }),
        (Some(ALL[4]), Reason::DrillPending, |g| {
            policy(&mut g.facts).backup.drill_before_purge = true;
        }),
        (Some(ALL[4]), Reason::DrillFailed, |g| {
            policy(&mut g.facts).backup.drill_before_purge = true;
            drilled(g.live("s000"), ConditionStatus::True);
            drilled(g.live("s001"), ConditionStatus::False);
        }),
        (Some(ALL[4]), Reason::DrillOverdue, |g| {
            policy(&mut g.facts).backup.drilled_within_seconds = Some(3600);
            g.facts.last_drill = Some(g.now.plus_seconds(-3601));
        }),
        (Some(ALL[5]), Reason::WindowRunning, |g| g.now = at(159)),
        (Some(ALL[5]), Reason::WindowRunning, |g| {
            g.now = at(170);
            g.facts.api_time = at(159);
        }),
        (Some(ALL[5]), Reason::ClocksDisagree, |g| g.facts.api_time = at(939)),
        (Some(ALL[5]), Reason::WindowNotBegun, |g| g.retention = None),
        (Some(ALL[6]), Reason::NotConfigured, |g| {
            policy(&mut g.facts).environment = Environment::Production;
        }),
        (Some(ALL[6]), Reason::NotConfigured, |g| {
            g.head.policy.environment = Environment::Production;
            g.approved_by(&["ann", "bob"]);
        }),
        (Some(ALL[6]), Reason::AlertSourceDown, |g| {
            policy(&mut g.facts).alerts = Some(alerts(json!({})));
        }),
        (Some(ALL[1]), Reason::LedgerUnavailable, |g| {
            g.facts.rolling.ledger = Ledger::Unreadable("line 1".into());
        }),
        (Some(ALL[1]), Reason::RollingLimitReached, |g| {
            g.reserved(&["s001"], 990);
            policy(&mut g.facts).blast_radius.rolling.max_entities = 1;
        }),
        // Not a gate, and not less needed.
        (None, Reason::WithinLimits, |g| g.reserved(&["s001"], 990)),
        (None, Reason::WithinLimits, |g| g.reserved(&["s000"], 800)),
        (None, Reason::WithinLimits, |g| g.facts.rolling.ledger = Ledger::Missing(None)),
        (None, Reason::Held, |g| g.live("s000").site.status = None),
        (None, Reason::Held, |g| g.live("s000").live_digest = None),
        (None, Reason::Held, |g| g.state = RequestState::Held),
    ];
    for (i, (type_, reason, change)) in table.iter().enumerate() {
        let mut gated = gated(2);
        change(&mut gated);
        if gated.now == at(159) {
            gated.facts.api_time = at(159);
        }
        assert_eq!(token(&gated), None, "row {i}, {type_:?} {reason}");
        if let Some(type_) = type_ {
            let verdict = gated.gate(*type_);
            assert_eq!((verdict.is_open(), verdict.reason), (false, *reason), "row {i}");
            let others = ALL.iter().filter(|t| *t != type_);
            if !matches!(reason, Reason::PlanChanged) {
                for other in others {
                    assert!(gated.gate(*other).is_open(), "row {i} closes {other:?} too");
                }
            }
        }
    }
}

#[test]
fn a_disk_that_is_lost_and_has_a_snapshot_needs_no_override() {
    let mut gated = gated(2);
    gated.live("s001").claims[0].disk = Disk::Lost;
    assert_eq!(token(&gated), None);
    let snapshot = ClaimSnapshot::Ready { name: "s".into(), kept: true };
    gated.live("s001").claims[0].snapshot = snapshot;
    assert!(token(&gated).is_some());
}

/// What a drill says on the newest backup.
fn drilled(site: &mut crate::deletion::observe::SiteFacts, holds: ConditionStatus) {
    let status = site.backups.last_mut().unwrap().status.as_mut().unwrap();
    let said = &mut status.conditions;
    said.set(ConditionType::Drilled, holds, Reason::Drilled, "said", None, at(0));
}

#[test]
fn what_was_drilled_as_the_policy_asks_is_let_through() {
    let mut gated = gated(2);
    policy(&mut gated.facts).backup.drill_before_purge = true;
    policy(&mut gated.facts).backup.drilled_within_seconds = Some(3600);
    gated.facts.last_drill = Some(gated.now.plus_seconds(-3600));
    for site in ["s000", "s001"] {
        assert_eq!(token(&gated), None, "before {site} was drilled");
        drilled(gated.live(site), ConditionStatus::True);
    }
    assert!(token(&gated).is_some());
}

#[test]
fn the_token_is_for_what_is_planned() {
    let gated = gated(1);
    let mut foreign = gated.plan.entities[0].clone();
    foreign.uid = "su-other".into();
    assert_eq!(permit(&gated.case(), &foreign), None);
}

#[test]
fn what_was_begun_is_finished_whatever_the_gates_say() {
    let mut gated = gated(2);
    gated.plan.entities[0].phase = EntityPhase::Purging;
    hold(gated.live("s000"), "ru", "Purging");
    let entity = gated.plan.entities[0].clone();
    assert_eq!(finish(&gated.case(), &entity), None, "nothing was deleted yet");
    gated.live("s000").apps.clear();
    gated.facts.guard.problems.push("gone".into());
    assert_eq!(permit(&gated.case(), &entity), None);
    assert_eq!(finish(&gated.case(), &entity).unwrap().entity_uid(), "su-s000");

    // Not recorded, another request's, not marked as purging, another Site of that name.
    let planned = PlanEntity { phase: EntityPhase::Held, ..entity.clone() };
    assert_eq!(finish(&gated.case(), &planned), None);
    for (uid, phase) in [("other", "Purging"), ("ru", "Held")] {
        let mut gated = gated.clone();
        hold(gated.live("s000"), uid, phase);
        assert_eq!(finish(&gated.case(), &entity), None, "{uid} {phase}");
    }
    gated.live("s000").site.metadata.uid = Some("later".into());
    assert_eq!(finish(&gated.case(), &entity), None);
}

#[test]
fn blast_radius() {
    let justified = overridden;
    // Entities, override, maxEntities, and what the gate says.
    let table = [
        (10, None, None, Reason::WithinLimits),
        (11, None, None, Reason::OverrideRequired),
        (11, None, Some(11), Reason::OverrideRequired),
        (11, justified(), Some(11), Reason::WithinLimits),
        (11, justified(), None, Reason::BlastRadiusExceeded),
        (12, justified(), Some(11), Reason::BlastRadiusExceeded),
        (100, justified(), Some(100), Reason::WithinLimits),
        (101, justified(), Some(1000), Reason::BlastRadiusExceeded),
        (5, None, Some(4), Reason::BlastRadiusExceeded),
        (4, None, Some(4), Reason::WithinLimits),
    ];
    for (n, justification, own, expected) in table {
        let mut gated = gated(n);
        gated.facts.request.spec.r#override = justification;
        gated.facts.request.spec.max_entities = own;
        let verdict = gated.gate(ConditionType::WithinBlastRadius);
        assert_eq!(verdict.reason, expected, "{n} {own:?}: {}", verdict.message);
        assert_eq!(verdict.is_open(), expected == Reason::WithinLimits);
    }
}

#[test]
fn an_override_without_need_is_refused_when_it_is_asked_for() {
    let table = [
        (10, RequestState::Planning, Reason::OverrideNotNeeded),
        (11, RequestState::Planning, Reason::WithinLimits),
        // Who asked could not know what a later plan needs.
        (10, RequestState::AwaitingApproval, Reason::WithinLimits),
        (10, RequestState::Purging, Reason::WithinLimits),
    ];
    for (n, state, expected) in table {
        let mut gated = gated(n);
        gated.state = state;
        gated.facts.request.spec.r#override = overridden();
        gated.facts.request.spec.max_entities = Some(11);
        let verdict = gated.gate(ConditionType::WithinBlastRadius);
        assert_eq!(verdict.reason, expected, "{n} {state:?}: {}", verdict.message);
    }
}

#[test]
fn the_window_asked_for_is_within_the_policys_bounds() {
    for (seconds, open) in [(9, false), (10, true), (1000, true), (1001, false), (-1, false)] {
        let mut gated = gated(1);
        gated.head.retention_seconds = seconds;
        let verdict = gated.gate(ConditionType::WithinBlastRadius);
        assert_eq!(verdict.is_open(), open, "{seconds}: {}", verdict.message);
    }
}

#[test]
fn a_policy_that_became_weaker_changes_nothing() {
    let mut gated = gated(2);
    for type_ in ALL {
        let before = gated.gate(type_);
        let now = policy(&mut gated.facts);
        now.quorum.approvals = 1;
        now.retention.minimum_seconds = 1;
        now.blast_radius.max_entities = 1000;
        now.blast_radius.hard_max_entities = 1000;
        now.backup.keep_seconds = 1;
        assert_eq!(gated.gate(type_), before);
    }
    gated.approvals.pop();
    assert!(!gated.gate(ConditionType::Approved).is_open());
    let now = gated.case();
    assert_eq!(approvals_required(&now), 2);
    assert_eq!(keep_until(&now), at(1000 + 2_592_000));
}

#[test]
fn a_policy_that_is_gone_leaves_the_stricter_of_then_and_the_built_in_one() {
    let mut gated = gated(1);
    gated.facts.policies.clear();
    let limits = gated.gate(ConditionType::WithinBlastRadius);
    assert_eq!(limits.reason, Reason::PolicyNotFound);
    assert!(limits.message.contains("does not exist any more"), "{}", limits.message);
    assert!(!gated.gate(ConditionType::AlertsClear).is_open(), "the built-in one is Production");
    gated.now = at(100 + 86_399);
    gated.facts.api_time = gated.now;
    assert_eq!(gated.gate(ConditionType::RetentionElapsed).reason, Reason::WindowRunning);
}

/// Requester, whether with override, who approved, how many are needed, whether it is enough.
type Vote<'a> = (Option<&'a str>, bool, &'a [&'a str], i64, bool);

#[test]
fn quorum() {
    let robot = "system:serviceaccount:ci:robot";
    let table: &[Vote<'_>] = &[
        (Some("rita"), false, &["ann", "bob"], 2, true),
        (Some("rita"), false, &["ann"], 2, false),
        (Some("rita"), false, &[], 2, false),
        (Some("rita"), false, &["ann", "ann", "ann"], 2, false),
        (Some("rita"), false, &["ann", "rita"], 2, false),
        (Some("rita"), false, &["ann", robot], 2, false),
        (Some("rita"), false, &["ann", ""], 2, false),
        (Some("rita"), true, &["ann", "bob"], 3, false),
        (Some("rita"), true, &["ann", "bob", "eve"], 3, true),
        (None, false, &["ann", "bob"], 3, false),
        (None, false, &["ann", "bob", "eve"], 3, true),
        (Some(""), false, &["ann", "bob"], 3, false),
        (Some(robot), false, &["ann", "bob"], 3, false),
        (Some(robot), false, &["ann", "bob", "eve"], 3, true),
        (Some(robot), true, &["ann", "bob", "eve"], 4, false),
    ];
    for (requester, with_override, people, required, enough) in table {
        let mut gated = gated(1);
        match requester {
            Some(user) => annotate(&mut gated.facts, names::ANNOTATION_REQUESTED_BY, *user),
            None => gated.facts.request.annotations_mut().clear(),
        }
        gated.facts.request.spec.r#override = if *with_override { overridden() } else { None };
        gated.approved_by(people);
        let what = format!("{requester:?} {with_override} {people:?}");
        assert_eq!(approvals_required(&gated.case()), *required, "{what}");
        assert_eq!(gated.gate(ConditionType::Approved).is_open(), *enough, "{what}");
    }
}

#[test]
fn approvals_of_another_digest_or_of_none_do_not_count() {
    let mut gated = gated(1);
    gated.approvals[1].digest = "sha256:other".into();
    assert!(!gated.gate(ConditionType::Approved).is_open());
    gated.plan.digest = None;
    for approval in &mut gated.approvals {
        approval.digest = String::new();
    }
    assert!(!gated.gate(ConditionType::Approved).is_open());
}

#[test]
fn the_message_says_who_can_do_what() {
    let mut gated = gated(1);
    gated.approvals.clear();
    let verdict = gated.gate(ConditionType::Approved);
    let digest = gated.plan.digest.unwrap();
    assert!(verdict.message.contains("0 of 2 approvals"), "{}", verdict.message);
    assert!(
        verdict
            .message
            .contains(&format!("approval.reprieve.dev/$USER=\"{digest} $(kubectl auth whoami"))
    );
}

#[test]
fn retention_by_both_clocks() {
    let begun = |seconds| RetentionWindow { start_time: at(100), end_time: at(seconds) };
    // Operator's clock, API server's, end of the window.
    let table = [
        (160, 160, 160, Reason::WindowPassed),
        (159, 160, 160, Reason::WindowRunning),
        (160, 159, 160, Reason::WindowRunning),
        (220, 160, 160, Reason::WindowPassed),
        (221, 160, 160, Reason::ClocksDisagree),
        (160, 220, 160, Reason::WindowPassed),
        (160, 221, 160, Reason::ClocksDisagree),
        (10 * 365 * 86_400, 120, 160, Reason::ClocksDisagree),
        (160, -10 * 365 * 86_400, 160, Reason::ClocksDisagree),
        (109, 109, 105, Reason::WindowRunning),
        (110, 110, 105, Reason::WindowPassed),
    ];
    for (own, api, end, expected) in table {
        let mut gated = gated(1);
        (gated.now, gated.facts.api_time) = (at(own), at(api));
        gated.retention = Some(begun(end));
        let verdict = gated.gate(ConditionType::RetentionElapsed);
        assert_eq!(verdict.reason, expected, "{own} {api} {end}: {}", verdict.message);
    }
}

#[test]
fn a_policy_that_asks_for_more_extends_the_window_and_nothing_overflows() {
    let mut gated = gated(1);
    let window = gated.retention.clone().unwrap();
    policy(&mut gated.facts).retention.minimum_seconds = 901;
    assert_eq!(window_end(&gated.case(), &window), at(1001));
    assert_eq!(gated.gate(ConditionType::RetentionElapsed).reason, Reason::WindowRunning);
    policy(&mut gated.facts).retention.minimum_seconds = i64::MAX;
    assert!(window_end(&gated.case(), &window) > at(i64::from(i32::MAX)));
    assert_eq!(gated.gate(ConditionType::RetentionElapsed).reason, Reason::WindowRunning);
    policy(&mut gated.facts).backup.keep_seconds = i64::MAX;
    assert!(!gated.gate(ConditionType::BackedUp).is_open());
}

#[test]
fn backups() {
    let unverified = json!({ "status": { "conditions": [condition("Succeeded", "True", "")] } });
    let failed = json!({ "status": { "conditions": [condition("Verified", "False", "bit rot")] } });
    let of_another = json!({ "spec": { "siteRef": { "uid": "former" } } });
    let nowhere = json!({ "status": { "location": null } });
    let no_digest = json!({ "status": { "digest": null } });
    let for_ever_short = json!({ "spec": { "keepUntilTime": null } });
    let enough = at(1000 + 2_592_000);
    let short = json!({ "spec": { "keepUntilTime": at(1000 + 2_592_000 - 1) } });
    let exact = json!({ "spec": { "keepUntilTime": enough } });
    let table = [
        (unverified, Reason::BackingUp, "is being made"),
        (failed, Reason::BackupFailed, "bit rot"),
        (of_another, Reason::BackingUp, "no backup yet"),
        (nowhere, Reason::BackingUp, "is being made"),
        (no_digest, Reason::BackingUp, "is being made"),
        (for_ever_short, Reason::BackingUp, "kept longer"),
        (short, Reason::BackingUp, "kept longer"),
        (exact, Reason::BackupsVerified, "verified"),
    ];
    for (extra, reason, words) in table {
        let mut gated = gated(1);
        let what = extra.to_string();
        gated.live("s000").backups = vec![backup("s000", 1, extra)];
        let verdict = gated.gate(ConditionType::BackedUp);
        assert_eq!(verdict.reason, reason, "{what}: {}", verdict.message);
        assert!(verdict.message.contains(words), "{what}: {}", verdict.message);
        assert_eq!(token(&gated).is_some(), reason == Reason::BackupsVerified);
    }
}

#[test]
fn the_newest_backup_counts() {
    let mut gated = gated(1);
    let newer = backup("s000", 2, json!({ "status": { "conditions": [] } }));
    gated.live("s000").backups.push(newer);
    assert!(!gated.gate(ConditionType::BackedUp).is_open());
}

#[test]
fn production_never_purges_without_a_source_of_alerts() {
    let mut gated = gated(1);
    *policy(&mut gated.facts) = production();
    gated.head.policy = production();
    gated.approved_by(&["ann", "bob", "eve", "dan"]);
    gated.now = at(100 * 86_400);
    gated.facts.api_time = gated.now;
    assert!(!gated.gate(ConditionType::AlertsClear).is_open());
    assert_eq!(token(&gated), None);
}

#[test]
fn who_asked_at_first_cannot_approve_under_another_requester() {
    let mut g = gated(1);
    assert_eq!(g.head.requested_by.as_deref(), Some("rita"));
    // The guard is away for a moment: Rita names Mallory, and approves what she has asked for.
    annotate(&mut g.facts, names::ANNOTATION_REQUESTED_BY, "mallory");
    g.approved_by(&["ann", "rita"]);
    assert_eq!(g.gate(ConditionType::Approved).reason, Reason::AwaitingApprovals);
    g.approved_by(&["ann", "mallory"]);
    assert_eq!(g.gate(ConditionType::Approved).reason, Reason::AwaitingApprovals);
    g.approved_by(&["ann", "bob"]);
    assert_eq!(g.gate(ConditionType::Approved).reason, Reason::QuorumReached);
    // A plan that is made again keeps who asked at first.
    let before = g.plan.head.clone();
    g.facts.request.status.as_mut().unwrap().state = Some(RequestState::AwaitingApproval);
    let again = step(&mut g.facts, at(1));
    assert_eq!(again.status.plan.unwrap().head.unwrap().requested_by, before.unwrap().requested_by);
}
