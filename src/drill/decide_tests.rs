//! A run step by step, and what may come between.

use serde_json::{Value, json};

use super::*;

fn time(text: &str) -> Time {
    serde_json::from_value(json!(text)).unwrap()
}

const NOW: &str = "2026-12-01T04:00:10Z";

fn drill(spec: Value, status: Value) -> RestoreDrill {
    serde_json::from_value(json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "RestoreDrill",
        "metadata": {"name": "monthly", "uid": "d-1", "generation": 1, "creationTimestamp": "2026-11-02T00:00:00Z"},
        "spec": spec, "status": status,
    }))
    .unwrap()
}

fn facts(drill: RestoreDrill) -> Facts {
    Facts { drill, restore: None, scratch: vec![], others: vec![], candidates: None }
}

fn archive(site: &str) -> DrilledArchive {
    serde_json::from_value(json!({
        "site": site, "siteUid": "s", "siteId": site, "backup": format!("{site}-1"),
        "location": format!("sites/{site}/{site}-1.jsonl.zst"), "digest": "d", "objects": 9,
    }))
    .unwrap()
}

fn candidates(sites: &[&str]) -> Option<Result<Vec<Candidate>, Unchosen>> {
    let candidate = |site: &&str| Candidate { archive: archive(site), bytes: 1, drilled: None };
    Some(Ok(sites.iter().map(candidate).collect()))
}

fn scratch(name: &str, going: bool) -> Scratch {
    Scratch {
        namespace: NamespaceRef { name: name.into(), uid: format!("u-{name}") },
        going: going.then(|| "its objects are being deleted".to_owned()),
    }
}

/// Goes on with what was decided.
fn carry(facts: &mut Facts, decision: &Decision) {
    facts.drill.status = Some(decision.status.clone());
    for effect in &decision.effects {
        match effect {
            Effect::Hold(present) => {
                let finalizers = present.then(|| vec![names::FINALIZER.to_owned()]);
                facts.drill.metadata.finalizers = finalizers;
            }
            Effect::Begin(restore) => facts.restore = Some((**restore).clone()),
            Effect::Cancel(_) => facts.restore.as_mut().unwrap().spec.cancel = true,
            Effect::Delete(all) => facts.scratch.retain(|s| !all.contains(&s.namespace)),
            Effect::Forget(_) => facts.restore = None,
            Effect::Record(_) | Effect::Mark(_) => {}
        }
    }
}

fn stage(decision: &Decision) -> Option<DrillStage> {
    decision.status.run.as_ref().map(|run| run.stage)
}

fn ready(decision: &Decision) -> String {
    let said = decision.status.conditions.get(ConditionType::Ready).unwrap();
    format!("{:?} {} {}", said.status, said.reason, said.message)
}

fn every(schedule: &str) -> Value {
    json!({"schedule": schedule, "sample": {"sites": 2}, "timeoutSeconds": 600})
}

/// What a Restore says once it has ended: these sites verified, and those failed.
fn ended(restore: &mut Restore, verified: &[&str], failed: &[&str]) {
    let site = |name: &&str| {
        json!({"name": name, "uid": "", "objects": 7, "drill": {
        "createMilliseconds": 300, "verifyMilliseconds": 100,
        "notProved": [{"what": "Ingress.networking.k8s.io", "objects": 2, "why": "traffic"}]}})
    };
    let failure = |name: &&str| json!({"site": name, "object": format!("v1 ConfigMap {name}/c"), "reason": "VerifyFailed", "message": "what was read back differs in data"});
    let holds = if failed.is_empty() { "True" } else { "False" };
    restore.status = serde_json::from_value(json!({
        "conditions": [{"type": "Succeeded", "status": holds, "reason": "X", "message": "said", "lastTransitionTime": NOW}],
        "verifiedSites": verified.iter().map(site).collect::<Vec<_>>(),
        "failures": failed.iter().map(failure).collect::<Vec<_>>(),
        "startTime": "2026-12-01T04:00:11Z", "completionTime": "2026-12-01T04:00:18Z",
    }))
    .unwrap();
}

/// A run until its Restore has begun.
fn begun(spec: Value) -> Facts {
    let mut facts = facts(drill(spec, json!(null)));
    let first = decide(&facts, time(NOW));
    assert_eq!(
        (stage(&first), first.effects.clone()),
        (Some(DrillStage::Choosing), vec![Effect::Hold(true)])
    );
    carry(&mut facts, &first);
    facts.candidates = candidates(&["a", "b", "c"]);
    let second = decide(&facts, time(NOW));
    assert_eq!(stage(&second), Some(DrillStage::Restoring));
    carry(&mut facts, &second);
    facts.candidates = None;
    facts
}

/// On to the end of a run whose Restore has ended.
fn to_the_end(mut facts: Facts) -> Vec<Decision> {
    let mut all = vec![];
    for _ in 0..20 {
        let decision = decide(&facts, time(NOW));
        carry(&mut facts, &decision);
        let done = decision.ended.is_some();
        all.push(decision);
        if done {
            return all;
        }
    }
    panic!("it does not end: {all:?}");
}

#[test]
fn a_run_from_its_slot_to_its_evidence() {
    let mut facts = begun(every("0 4 1 * *"));
    let restore = facts.restore.as_mut().unwrap();
    assert_eq!(restore.name_any(), facts.drill.status.as_ref().unwrap().run.as_ref().unwrap().name);
    let source = restore.spec.source.drill.clone().unwrap();
    assert_eq!((source.drill_uid.as_str(), source.archives.len()), ("d-1", 2));
    let sites: Vec<String> = source.archives.iter().map(|a| a.site.clone()).collect();
    let sites: Vec<&str> = sites.iter().map(String::as_str).collect();
    facts.scratch = vec![scratch("one", false), scratch("two", false)];
    let waits = decide(&facts, time(NOW));
    assert_eq!((stage(&waits), waits.effects.len()), (Some(DrillStage::Restoring), 0));
    ended(facts.restore.as_mut().unwrap(), &sites, &[]);

    let all = to_the_end(facts);
    // Namespaces are written down before they go, and the evidence comes when they are gone.
    let deletes = all.iter().position(|d| d.effects.iter().any(|e| matches!(e, Effect::Delete(_))));
    let written = all.iter().position(|d| d.status.scratch_namespaces.len() == 2);
    let records = all.iter().position(|d| d.effects.iter().any(|e| matches!(e, Effect::Record(_))));
    assert!(written < deletes && deletes < records && written.is_some(), "{all:#?}");
    let last = all.last().unwrap();
    assert_eq!(last.ended, Some(DrillOutcome::Succeeded));
    let run = &last.status.runs[0];
    assert_eq!((run.sites, run.verified, run.objects), (2, 2, 14));
    assert_eq!((run.recovery_seconds, run.objects_per_second), (Some(7), Some(2)));
    assert_eq!((run.create_milliseconds, run.slowest_site_milliseconds), (Some(300), Some(400)));
    assert_eq!(run.not_proved[0].objects, 4);
    assert_eq!(last.status.last_success_time, Some(time(NOW)));
    assert!(last.status.conditions.is_true(ConditionType::Drilled));
    let marks: Vec<_> =
        last.effects.iter().filter(|e| matches!(e, Effect::Mark(m) if m.verified)).collect();
    assert_eq!(marks.len(), 2);
    assert!(
        matches!(last.effects.last(), Some(Effect::Forget(_))),
        "the last, or nobody could tell"
    );
    assert!(matches!(last.effects.first(), Some(Effect::Record(_))));
}

#[test]
fn what_failed_says_so_on_its_backup_alone() {
    let mut facts = begun(every("0 4 1 * *"));
    let source = facts.restore.as_ref().unwrap().spec.source.drill.clone().unwrap();
    let (good, bad) = (source.archives[0].site.clone(), source.archives[1].site.clone());
    ended(facts.restore.as_mut().unwrap(), &[&good], &[&bad]);
    let all = to_the_end(facts);
    let last = all.last().unwrap();
    assert_eq!(last.ended, Some(DrillOutcome::Failed));
    let said = last.status.conditions.get(ConditionType::Drilled).unwrap();
    assert_eq!((said.status, said.reason.as_str()), (ConditionStatus::False, "DrillFailed"));
    assert!(
        said.message.contains("1 of 2") && said.message.contains("differs in data"),
        "{}",
        said.message
    );
    let marks: Vec<(String, bool)> = last
        .effects
        .iter()
        .filter_map(|e| match e {
            Effect::Mark(mark) => Some((mark.backup.clone(), mark.verified)),
            _ => None,
        })
        .collect();
    assert_eq!(marks, [(format!("{good}-1"), true), (format!("{bad}-1"), false)]);
    assert_eq!(last.status.last_success_time, None);
    assert!(last.notes.iter().any(|note| note.warning && note.reason == Reason::DrillFailed));
}

#[test]
fn a_run_that_takes_too_long_is_stopped_and_cleaned_up() {
    let mut facts = begun(every("0 4 1 * *"));
    facts.scratch = vec![scratch("one", false)];
    let late = time("2026-12-01T04:10:10Z");
    let stops = decide(&facts, late);
    assert!(matches!(stops.effects[..], [Effect::Cancel(_)]), "{:?}", stops.effects);
    carry(&mut facts, &stops);
    let again = decide(&facts, late);
    assert_eq!(
        (stage(&again), again.effects.len()),
        (Some(DrillStage::Restoring), 0),
        "until it has ended"
    );
    // By then everything was verified: it was too late all the same.
    let source = facts.restore.as_ref().unwrap().spec.source.drill.clone().unwrap();
    let sites: Vec<&str> = source.archives.iter().map(|a| a.site.as_str()).collect();
    ended(facts.restore.as_mut().unwrap(), &sites, &[]);
    let last = to_the_end(facts).pop().unwrap();
    assert_eq!(last.status.runs[0].reason.as_deref(), Some("DrillTimeout"));
    assert_eq!(last.ended, Some(DrillOutcome::Failed));
}

#[test]
fn whatever_is_deleted_meanwhile_it_cleans_up() {
    // Its Restore.
    let mut facts = begun(every("0 4 1 * *"));
    facts.restore = None;
    facts.scratch = vec![scratch("one", false)];
    let all = to_the_end(facts);
    assert!(all.iter().any(|d| d.effects.iter().any(|e| matches!(e, Effect::Delete(_)))));
    assert_eq!(all.last().unwrap().status.runs[0].reason.as_deref(), Some("DrillStopped"));
    // The drill: it is held until everything is gone, and then let go.
    let mut facts = begun(every("0 4 1 * *"));
    facts.drill.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-12-01T04:00:12Z")).unwrap();
    facts.scratch = vec![scratch("one", false)];
    let stops = decide(&facts, time(NOW));
    assert!(matches!(stops.effects[..], [Effect::Cancel(_)]));
    carry(&mut facts, &stops);
    ended(facts.restore.as_mut().unwrap(), &[], &[]);
    let last = to_the_end(facts.clone()).pop().unwrap();
    facts.scratch.clear();
    facts.restore = None;
    facts.drill.status = Some(last.status);
    let release = decide(&facts, time(NOW));
    assert_eq!(
        (release.effects.as_slice(), release.requeue),
        ([Effect::Hold(false)].as_slice(), None)
    );
}

#[test]
fn nothing_is_taken_away_under_a_restore_that_runs() {
    let mut facts = begun(every("0 4 1 * *"));
    facts.scratch = vec![scratch("one", false)];
    facts.drill.status.as_mut().unwrap().run.as_mut().unwrap().stage = DrillStage::CleaningUp;
    facts.drill.status.as_mut().unwrap().scratch_namespaces = vec![scratch("one", false).namespace];
    let decision = decide(&facts, time(NOW));
    assert!(matches!(decision.effects[..], [Effect::Cancel(_)]), "{:?}", decision.effects);
    // And nothing twice.
    ended(facts.restore.as_mut().unwrap(), &[], &[]);
    facts.scratch = vec![scratch("one", true)];
    let decision = decide(&facts, time(NOW));
    assert_eq!(decision.effects, []);
    assert!(ready(&decision).contains("namespace one: its objects are being deleted"));
}

#[test]
fn when_it_runs() {
    let nothing = |spec: Value, status: Value| decide(&facts(drill(spec, status)), time(NOW));
    // Not before its slot, and not twice for one.
    let early =
        decide(&facts(drill(every("0 4 1 * *"), json!(null))), time("2026-12-01T03:59:59Z"));
    assert_eq!(stage(&early), None);
    assert_eq!(early.status.next_run_time, Some(time("2026-12-01T04:00:00Z")));
    let slot = json!({"lastScheduleTime": "2026-12-01T04:00:00Z"});
    assert_eq!(stage(&nothing(every("0 4 1 * *"), slot)), None);
    // Suspended: only when it is asked to.
    let mut suspended = every("0 4 1 * *");
    suspended["suspend"] = json!(true);
    let decision = nothing(suspended.clone(), json!(null));
    assert_eq!((stage(&decision), decision.status.state), (None, Some(DrillState::Suspended)));
    let mut asked = drill(suspended, json!(null));
    asked.metadata.annotations =
        Some([(names::ANNOTATION_RUN_NOW.to_owned(), "1".to_owned())].into());
    let decision = decide(&facts(asked.clone()), time(NOW));
    assert_eq!(decision.status.run.as_ref().unwrap().trigger, crate::api::DrillTrigger::Asked);
    assert_eq!(decision.status.last_run_now.as_deref(), Some("1"));
    asked.status = Some(RestoreDrillStatus { run: None, ..decision.status });
    assert_eq!(stage(&decide(&facts(asked), time(NOW))), None, "once for each value");
    // Without a schedule: once.
    let once = json!({"sample": {"sites": 1}});
    let decision = nothing(once.clone(), json!(null));
    let mut run = json!(decision.status.run.unwrap());
    assert_eq!(run["trigger"], "Created");
    run["stage"] = json!("Ended");
    let decision = nothing(once, json!({"runs": [run]}));
    assert_eq!((stage(&decision), decision.status.state), (None, Some(DrillState::Idle)));
}

#[test]
fn what_is_no_schedule_is_told_and_nothing_runs() {
    for (spec, words) in [
        (json!({"schedule": "0 4 1 *"}), "spec.schedule \"0 4 1 *\" is no schedule of 5 fields"),
        (json!({"schedule": "0 4 31 2 *"}), "it never comes"),
        (
            json!({"schedule": "@monthly", "timeZone": "Mars/Olympus"}),
            "spec.timeZone \"Mars/Olympus\" is no name",
        ),
        (json!({"timeZone": "Mars/Olympus"}), "spec.timeZone"),
    ] {
        let decision = decide(&facts(drill(spec, json!(null))), time(NOW));
        let said = ready(&decision);
        assert!(said.starts_with("False InvalidSchedule") && said.contains(words), "{said}");
        assert_eq!((stage(&decision), decision.status.state), (None, Some(DrillState::Invalid)));
        assert_eq!(decision.notes.len(), 1);
    }
}

#[test]
fn the_second_of_two_waits_and_says_so() {
    let mut facts = facts(drill(every("0 4 1 * *"), json!(null)));
    facts.others = vec!["weekly".to_owned()];
    let decision = decide(&facts, time(NOW));
    assert_eq!((stage(&decision), decision.status.state), (None, Some(DrillState::Waiting)));
    assert!(ready(&decision).contains("OtherDrillRuns") && ready(&decision).contains("weekly"));
    assert_eq!(decision.status.last_schedule_time, None, "its slot is still to come");
    facts.drill.status = Some(decision.status);
    assert_eq!(decide(&facts, time(NOW)).notes, [], "told once");
    facts.others.clear();
    assert_eq!(stage(&decide(&facts, time(NOW))), Some(DrillStage::Choosing));
}

#[test]
fn a_store_that_is_away_is_waited_for_until_the_time_is_up() {
    let mut facts = facts(drill(every("0 4 1 * *"), json!(null)));
    let first = decide(&facts, time(NOW));
    carry(&mut facts, &first);
    facts.candidates =
        Some(Err(Unchosen::Waits(Reason::StoreUnavailable, "the store is away".into())));
    assert_eq!(stage(&decide(&facts, time(NOW))), Some(DrillStage::Choosing));
    let late = decide(&facts, time("2026-12-01T04:10:10Z"));
    let run = late.status.run.unwrap();
    assert_eq!((run.stage, run.reason.as_deref()), (DrillStage::CleaningUp, Some("DrillTimeout")));
    assert!(run.message.unwrap().contains("the store is away"));
    facts.candidates = candidates(&[]);
    let none = decide(&facts, time(NOW)).status.run.unwrap();
    assert_eq!(none.reason.as_deref(), Some("NothingToRestore"));
}

#[test]
fn when_it_is_overdue() {
    let at = |success: Option<&str>, now: &str| {
        let status = json!({"lastSuccessTime": success});
        timing::is_overdue(&drill(every("0 4 1 * *"), status), time(now))
    };
    let rows = [
        // Created in November: the first slot is in December.
        (None, "2026-11-30T00:00:00Z", false),
        (None, "2026-12-01T04:30:00Z", false),
        (None, "2026-12-01T05:00:00Z", true),
        (Some("2026-12-01T04:01:00Z"), "2026-12-20T00:00:00Z", false),
        (Some("2026-12-01T04:01:00Z"), "2027-01-01T04:30:00Z", false),
        (Some("2026-12-01T04:01:00Z"), "2027-01-01T05:00:00Z", true),
    ];
    for (success, now, expected) in rows {
        assert_eq!(at(success, now), expected, "{success:?} {now}");
    }
}
