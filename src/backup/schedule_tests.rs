//! Tables of times: slots, clock changes, missed ones, jitter.

use serde_json::{Value, json};

use super::*;

fn time(text: &str) -> Time {
    serde_json::from_value(json!(text)).unwrap()
}

fn site_of(uid: &str, backup: Value, status: Value) -> Site {
    serde_json::from_value(json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site",
        "metadata": {"name": "acme", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"id": "site-1", "tenant": {"name": "Acme"}, "backup": backup},
        "status": status,
    }))
    .unwrap()
}

fn site(schedule: &str, zone: Option<&str>, last: &str) -> Site {
    let backup = json!({"schedule": schedule, "timeZone": zone, "keepSeconds": 86400});
    site_of("u", backup, json!({"state": "Active", "lastScheduleTime": last}))
}

fn jitter(site: &Site) -> i64 {
    let table = timetable(site.spec.backup.as_ref().unwrap(), &site.uid().unwrap()).unwrap();
    table.jitter_seconds()
}

fn reason(decision: &Decision) -> &'static str {
    decision.condition.as_ref().unwrap().1.as_str()
}

/// The slots of a schedule between two times, walked as the operator does.
fn slots(schedule: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let (mut now, end) = (time(from), time(to));
    let mut site = site(schedule, Some(zone), from);
    let jitter = jitter(&site);
    let mut found = vec![];
    while now <= end.plus_seconds(jitter) {
        let decision = decide(&site, now);
        if let Some((slot, _)) = decision.due {
            found.push(slot.to_string());
            site.status.as_mut().unwrap().last_schedule_time = Some(slot);
        }
        now = now.plus_seconds(600);
    }
    found
}

#[test]
fn slots_come_in_the_time_of_the_zone_whatever_its_clock_does() {
    let rows: [(&str, &str, &str, &str, &[&str]); 8] = [
        (
            "0 3 * * *",
            "Etc/UTC",
            "2026-06-01T00:00:00Z",
            "2026-06-02T12:00:00Z",
            &["2026-06-01T03:00:00Z", "2026-06-02T03:00:00Z"],
        ),
        (
            "@daily",
            "Asia/Tokyo",
            "2026-06-01T00:00:00Z",
            "2026-06-02T00:00:00Z",
            &["2026-06-01T15:00:00Z"],
        ),
        (
            "30 4 * * mon",
            "America/New_York",
            "2026-06-01T00:00:00Z",
            "2026-06-02T00:00:00Z",
            &["2026-06-01T08:30:00Z"],
        ),
        // Europe's clocks go forward on 29 March at 01:00 UTC: 02:30 is not there on that day.
        (
            "0 12 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            "2026-03-29T23:00:00Z",
            &["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"],
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T20:00:00Z",
            "2026-03-30T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        // And back on 25 October at 01:00 UTC: 02:30 is there twice, and one backup is enough.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T20:00:00Z",
            "2026-10-26T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        // What comes every hour comes in both.
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:30:00Z",
            "2026-10-25T02:30:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        ),
        (
            "0 0 29 2 *",
            "Etc/UTC",
            "2028-02-28T00:00:00Z",
            "2028-03-01T12:00:00Z",
            &["2028-02-29T00:00:00Z"],
        ),
    ];
    for (schedule, zone, from, to, expected) in rows {
        assert_eq!(slots(schedule, zone, from, to), expected, "{schedule} {zone} from {from}");
    }
}

#[test]
fn missed_ones_are_made_up_for_once() {
    let mut site = site("0 * * * *", None, "2026-06-01T03:00:00Z");
    let now = time("2026-06-01T09:40:00Z");
    let (slot, backup) = decide(&site, now).due.unwrap();
    assert_eq!(slot, time("2026-06-01T09:00:00Z"), "the latest of six");
    assert_eq!(backup.spec.keep_until_time, Some(now.plus_seconds(86400)));
    assert_eq!(backup.spec.site_ref.uid.as_deref(), Some("u"));
    site.status.as_mut().unwrap().last_schedule_time = Some(slot);
    let decision = decide(&site, now);
    assert_eq!((&decision.due, reason(&decision)), (&None, "Scheduled"));
    let begins = time("2026-06-01T10:00:00Z").plus_seconds(jitter(&site));
    assert_eq!(decision.next, Some(begins));
    // One that was never made by its schedule counts from when the Site was created.
    let new = site_of("u", json!({"schedule": "@yearly"}), json!({"state": "Active"}));
    assert_eq!(decide(&new, now).due, None);
    let old = site_of("u", json!({"schedule": "@monthly"}), json!({"state": "Active"}));
    assert_eq!(decide(&old, now).due.unwrap().0, time("2026-06-01T00:00:00Z"));
    // A clock that was set back makes no slot come twice.
    assert_eq!(decide(&site, time("2026-05-01T09:40:00Z")).due, None);
}

#[test]
fn a_slot_begins_later_by_what_is_the_sites_own() {
    let site = site("0 * * * *", None, "2026-06-01T08:00:00Z");
    let begins = time("2026-06-01T09:00:00Z").plus_seconds(jitter(&site));
    assert!(jitter(&site) > 1);
    let before = decide(&site, begins.plus_seconds(-1));
    assert_eq!((before.due, before.next), (None, Some(begins)));
    assert_eq!(decide(&site, begins).due.unwrap().0, time("2026-06-01T09:00:00Z"));
}

#[test]
fn one_slot_has_one_name() {
    let site = site("0 * * * *", None, "2026-06-01T03:00:00Z");
    let (slot, backup) = decide(&site, time("2026-06-01T09:40:00Z")).due.unwrap();
    let (_, again) = decide(&site, time("2026-06-01T09:59:00Z")).due.unwrap();
    assert_eq!(backup.name_any(), again.name_any());
    assert!(backup.name_any().starts_with("acme-20260601t0900-"), "{}", backup.name_any());
    let other = site_of("u2", json!({"schedule": "@hourly"}), json!({}));
    assert_ne!(name(&other, slot), name(&site, slot), "a later Site of that name");
}

#[test]
fn what_is_no_schedule_is_told_and_does_no_harm() {
    let rows = [
        ("", None, "spec.backup.schedule"),
        ("* * * *", None, "5 fields"),
        ("0 0 3 * * *", None, "5 fields"),
        ("0 3 * * * 2027", None, "5 fields"),
        ("61 * * * *", None, "5 fields"),
        ("every day", None, "5 fields"),
        ("@often", None, "5 fields"),
        ("0 0 31 2 *", None, "never comes"),
        ("0 3 * * *", Some("Mars/Olympus"), "Mars/Olympus"),
        ("0 3 * * *", Some(""), "spec.backup.timeZone"),
    ];
    for (schedule, zone, words) in rows {
        let decision =
            decide(&site(schedule, zone, "2026-01-01T00:00:00Z"), time("2026-06-01T09:40:00Z"));
        assert_eq!(
            (&decision.due, decision.next, reason(&decision)),
            (&None, None, "InvalidSchedule"),
            "{schedule}"
        );
        let message = decision.condition.unwrap().2;
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn paused_while_the_site_is_not_active() {
    let now = time("2026-06-01T09:40:00Z");
    let schedule = json!({"schedule": "@hourly"});
    let deletion = json!({"requestRef": {"name": "r"}, "requestUid": "x", "phase": "Held"});
    for (status, words) in [
        (json!({"state": "PendingDeletion", "deletion": deletion}), "held by DeletionRequest r"),
        (json!({"state": "Degraded"}), "is Degraded"),
        (json!({"state": "AwaitingRestore"}), "is AwaitingRestore"),
        (json!({}), "not looked at yet"),
    ] {
        let decision = decide(&site_of("u", schedule.clone(), status), now);
        assert_eq!((&decision.due, reason(&decision)), (&None, "EntityNotActive"));
        let message = decision.condition.unwrap().2;
        assert!(message.contains(words), "{message}");
    }
    let mut restored = site_of("u", schedule, json!({"state": "Active"}));
    restored.metadata.annotations = Some([(names::ANNOTATION_RESTORE.into(), "x".into())].into());
    assert_eq!(reason(&decide(&restored, now)), "EntityNotActive");
    let suspended =
        site_of("u", json!({"schedule": "@hourly", "suspend": true}), json!({"state": "Active"}));
    assert_eq!(reason(&decide(&suspended, now)), "Suspended");
    let mut none = suspended;
    none.spec.backup = None;
    assert_eq!(decide(&none, now), Decision { due: None, condition: None, next: None });
}

#[test]
fn a_fleet_does_not_begin_at_once() {
    for (schedule, bound) in
        [("@daily", 1800), ("@hourly", 360), ("*/5 * * * *", 30), ("* * * * *", 6)]
    {
        let backup = json!({ "schedule": schedule });
        let all: Vec<i64> = (0..500)
            .map(|i| jitter(&site_of(&format!("uid-{i}"), backup.clone(), json!({}))))
            .collect();
        assert!(all.iter().all(|jitter| (0..bound).contains(jitter)), "{schedule}");
        // In each fifth of the time begins about a fifth of them.
        for fifth in 0..5 {
            let range = fifth * bound / 5..(fifth + 1) * bound / 5;
            let share = all.iter().filter(|jitter| range.contains(jitter)).count();
            assert!((40..=180).contains(&share), "{schedule}: {share} of 500 in {range:?}");
        }
    }
}
