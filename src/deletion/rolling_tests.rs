//! The rolling limit: what counts, for how long, and what a ledger that is lost does.

use serde_json::json;

use super::*;
use crate::api::ConditionType;
use crate::deletion::decide::decide;
use crate::deletion::fixtures::*;
use crate::deletion::gates::{Verdict, permit};

const DAY: i64 = 86_400;

fn entry(n: usize, time: i64) -> Entry {
    Entry {
        time: at(time),
        kind: TargetKind::Site,
        entity_uid: format!("e{n}"),
        request_uid: format!("r{}", n / 10),
        request: format!("request-{}", n / 10),
    }
}

/// A request for the Site `a` that lacks nothing but its place; so much is in the ledger.
fn gated(entries: Vec<Entry>, most: i64, percent: i64, fleet: i64) -> Gated {
    let mut gated = Gated::new(&["a"]);
    let rolling = Rolling { window_seconds: DAY, max_entities: most, max_percent: percent };
    gated.head.policy.blast_radius.rolling = rolling.clone();
    policy(&mut gated.facts).blast_radius.rolling = rolling;
    gated.approved_by(&["ann", "bob"]);
    // The fleet is as it was before those went.
    let gone = entries.iter().filter(|e| e.kind == TargetKind::Site).count() as i64;
    let fleet = fleet - gone;
    gated.facts.rolling = RollingFacts { ledger: Ledger::Read(ledger(1), entries), fleet };
    gated
}

fn gate(gated: &Gated) -> Verdict {
    gated.gate(ConditionType::WithinBlastRadius)
}

fn place(gated: &Gated) -> Option<Vec<Entry>> {
    let case = gated.case();
    match reserve(&case, &gated.plan.entities[0]) {
        Some(Effect::Reserve { text, .. }) => Some(read(&text).expect("it can be read again")),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[test]
fn so_many_and_not_one_more() {
    let full = |n: usize| (0..n).map(|i| entry(i, 500)).collect::<Vec<_>>();
    for (entries, most, percent, fleet, open) in [
        (0, 1, 100, 100, true),
        (1, 1, 100, 100, false),
        (49, 50, 100, 1000, true),
        (50, 50, 100, 1000, false),
        // In percent, rounded up.
        (4, 50, 5, 100, true),
        (5, 50, 5, 100, false),
        (5, 50, 5, 101, true),
        (6, 50, 5, 101, false),
        (0, 50, 5, 1, true),
        (1, 50, 5, 1, false),
        (0, 50, 5, 0, false),
        // All of it.
        (3, 50, 100, 4, true),
        (3, 50, 75, 4, false),
    ] {
        let what = format!("{entries} of {most}, {percent} % of {fleet}");
        let gated = gated(full(entries), most, percent, fleet);
        assert_eq!(gate(&gated).is_open(), open, "{what}: {}", gate(&gated).message);
        assert_eq!(place(&gated).map(|e| e.len()), open.then_some(entries + 1), "{what}");
    }
}

#[test]
fn it_says_how_much_is_used_by_whom_and_when_it_frees() {
    let gated = gated((0..50).map(|n| entry(n, 100 + n as i64)).collect(), 50, 100, 1000);
    let verdict = gate(&gated);
    assert_eq!(verdict.reason, Reason::RollingLimitReached);
    for words in [
        "50 of 50 Sites purged in 86400 s, over all requests",
        "by request-0, request-1, request-2, request-3, request-4",
        &format!("the next place is free at {}", at(100 + DAY + FRESH_SECONDS)),
    ] {
        assert!(verdict.message.contains(words), "{words:?}: {}", verdict.message);
    }
    let gated = self::gated(vec![entry(0, 900)], 50, 100, 1000);
    assert!(gate(&gated).message.contains("1 of 50 Sites in 86400 s"), "{}", gate(&gated).message);
}

/// Each counts for the window, and for as long more as its DELETE may come after it.
#[test]
fn what_is_older_than_the_window_falls_out() {
    for (age, open) in [(0, false), (DAY, false), (DAY + 119, false), (DAY + 120, true)] {
        let mut gated = gated(vec![entry(0, 1000 - age)], 1, 100, 100);
        gated.facts.api_time = at(1000);
        assert_eq!(gate(&gated).is_open(), open, "{age}");
    }
    // An entry from the future: a clock went back. It counts.
    assert!(!gate(&gated(vec![entry(0, 99_999)], 1, 100, 100)).is_open());
}

#[test]
fn other_kinds_do_not_count() {
    let app = Entry { kind: TargetKind::App, ..entry(0, 900) };
    assert!(gate(&gated(vec![app], 1, 100, 100)).is_open());
}

#[test]
fn a_place_is_had_once_and_is_fresh_when_it_is_used() {
    let own = |time| Entry {
        entity_uid: "su-a".into(),
        request_uid: "ru".into(),
        request: "r".into(),
        ..entry(0, time)
    };
    for (entries, permitted, writes) in [
        (vec![], false, Some(1)),
        (vec![own(990)], true, None),
        // The limit is one, and the one is its own: it is written anew, not counted twice.
        (vec![own(800)], false, Some(1)),
        (vec![own(1000 - 3 * DAY)], false, Some(1)),
        (vec![Entry { request_uid: "other".into(), ..own(990) }], false, None),
        (vec![Entry { entity_uid: "other".into(), ..own(990) }], false, None),
    ] {
        let gated = gated(entries.clone(), 1, 100, 100);
        let token = permit(&gated.case(), &gated.plan.entities[0]);
        assert_eq!(token.is_some(), permitted, "{entries:?}");
        let place = place(&gated);
        assert_eq!(place.as_ref().map(Vec::len), writes, "{entries:?}");
        if let Some(written) = place {
            assert_eq!(written, [own(1000)]);
        }
    }
}

/// Stricter at once, weaker never.
#[test]
fn the_stricter_of_then_and_now_binds() {
    let used = || vec![entry(0, 500), entry(1, 1000 - 2 * DAY)];
    type Change = fn(&mut Rolling);
    let stricter: [Change; 3] =
        [|r| r.max_entities = 1, |r| r.max_percent = 1, |r| r.window_seconds = 3 * DAY];
    for change in stricter {
        let open = gated(used(), 2, 100, 100);
        assert!(gate(&open).is_open(), "{}", gate(&open).message);
        let mut now = open.clone();
        change(&mut policy(&mut now.facts).blast_radius.rolling);
        assert_eq!(gate(&now).reason, Reason::RollingLimitReached);
        let mut then = open;
        change(&mut then.head.policy.blast_radius.rolling);
        then.approved_by(&["ann", "bob"]);
        assert_eq!(gate(&then).reason, Reason::RollingLimitReached);
    }
}

#[test]
fn without_a_ledger_nothing_is_purged_but_a_first_one_is_begun() {
    let first = {
        let mut gated = gated(vec![], 5, 100, 100);
        gated.facts.rolling.ledger = Ledger::Missing(None);
        gated
    };
    assert!(gate(&first).is_open());
    assert!(permit(&first.case(), &first.plan.entities[0]).is_none());
    match reserve(&first.case(), &first.plan.entities[0]) {
        Some(Effect::Reserve { ledger: None, text }) => assert_eq!(read(&text).unwrap().len(), 1),
        other => panic!("{other:?}"),
    }
    let trace = |time| Trace { request: "before".into(), entity: "b".into(), time };
    let gone = |time| Ledger::Missing(Some(trace(time)));
    for (ledger, words) in [
        (gone(Some(at(5))), "is gone, though b was purged for DeletionRequest before"),
        (gone(None), "after that purge has ended"),
        (Ledger::Unreadable("line 3 of it is no entry".into()), "line 3"),
        (Ledger::NotRead, "was not read"),
    ] {
        let mut gated = first.clone();
        gated.facts.rolling.ledger = ledger;
        let verdict = gate(&gated);
        assert_eq!(verdict.reason, Reason::LedgerUnavailable);
        assert!(verdict.message.contains(words), "{}", verdict.message);
        let decision = decide(&gated.into_facts(), at(1000));
        // What is held is kept out of service.
        let acts = |e: &Effect| !matches!(e, Effect::KeepLonger { .. } | Effect::Edit(_));
        assert!(!decision.effects.iter().any(acts), "{:?}", decision.effects);
    }
}

#[test]
fn the_latest_purge_that_a_request_tells_of_is_its_trace() {
    let request = |name: &str, phase: &str, time: Option<i64>| -> DeletionRequest {
        let entity = json!({
            "kind": "Site", "id": "i", "name": format!("{name}-site"), "uid": "u", "tenant": "t",
            "phase": phase, "purgedTime": time.map(at),
        });
        serde_json::from_value(json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest",
            "metadata": {"name": name},
            "spec": {"target": {"kind": "Site", "ids": ["i"]}, "reason": "r"},
            "status": {"plan": {"entities": [entity]}},
        }))
        .unwrap()
    };
    let now = at(KEPT_SECONDS);
    let all = [
        request("held", "Held", None),
        request("old", "Purged", Some(0)),
        request("early", "Purged", Some(5)),
        request("late", "Purged", Some(9)),
        request("released", "Released", None),
    ];
    assert_eq!(trace(all[..2].iter(), now), None);
    assert_eq!(trace(all.iter(), now).unwrap().request, "late");
    let going = [&all[..], &[request("going", "Purging", None)]].concat();
    assert_eq!(trace(going.iter(), now).unwrap().request, "going");
}

#[test]
fn a_ledger_is_read_as_it_was_written_and_else_not_at_all() {
    let entries = vec![entry(1, 5), Entry { kind: TargetKind::App, ..entry(11, 7) }];
    let text = write(&entries);
    assert_eq!(
        text,
        "2022-04-15T05:20:05Z Site e1 r0 request-0\n2022-04-15T05:20:07Z App e11 r1 request-1\n"
    );
    assert_eq!(read(&text), Ok(entries));
    assert_eq!(read(""), Ok(vec![]));
    for bad in [
        "x",
        "\n",
        "2022-04-15T05:20:05Z Site e1 r0",
        "2022-04-15T05:20:05Z Site e1 r0 request more",
        "2022-04-15T05:20:05Z Tenant e1 r0 request",
        "2022-04-15 Site e1 r0 request",
        "2022-04-15T05:20:05Z Site  r0 request",
    ] {
        let error = read(bad).expect_err(bad);
        assert!(error.starts_with("line 1 of it is no entry"), "{error}");
    }
}

#[test]
fn it_stays_small_and_keeps_what_counts() {
    let old = (0..MOST_ENTRIES).map(|n| entry(n, 1000 - 2 * DAY)).collect::<Vec<_>>();
    let gated = gated([old, vec![entry(9999, 900)]].concat(), 50, 100, 100_000);
    let kept = place(&gated).expect("a place");
    assert_eq!(kept.len(), MOST_ENTRIES);
    assert!(kept.iter().any(|e| e.entity_uid == "e9999"));
    assert!(write(&kept).len() < 1 << 20);
    let ancient = self::gated(vec![entry(0, 1000 - KEPT_SECONDS - 121)], 50, 100, 100);
    assert_eq!(place(&ancient).expect("a place").len(), 1, "what is past every window is dropped");
}

/// T13: many requests, two operators each, that look, and write later, in any order: never more
/// than the limit in any window.
#[test]
fn in_whatever_order_they_look_and_write_the_limit_holds() {
    const REQUESTS: usize = 12;
    const MOST: usize = 5;
    const WINDOW: i64 = 1800;
    let mut seed = 7_u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % n
    };
    let gated: Vec<Gated> = (0..REQUESTS)
        .map(|n| {
            let mut gated = gated(vec![], i64::try_from(MOST).unwrap(), 100, 1000);
            gated.facts.request.metadata.uid = Some(format!("r{n}"));
            gated.head.policy.blast_radius.rolling.window_seconds = WINDOW;
            policy(&mut gated.facts).blast_radius.rolling.window_seconds = WINDOW;
            gated.approved_by(&["ann", "bob"]);
            gated
        })
        .collect();
    let (mut version, mut text) = (0, None::<String>);
    let (mut conflicts, mut most_seen) = (0, 0);
    let mut begun: Vec<(usize, i64)> = vec![];
    let mut under_way: Vec<(usize, i64, Option<Effect>)> = vec![];
    let mut time = 1000;
    for _ in 0..4000 {
        time += i64::try_from(below(20)).unwrap();
        // One of two operators looks at one of the requests.
        let n = below(REQUESTS);
        let mut look = gated[n].clone();
        (look.now, look.facts.api_time) = (at(time), at(time));
        look.facts.rolling.ledger = match &text {
            None => Ledger::Missing(None),
            Some(text) => Ledger::Read(ledger(version), read(text).unwrap()),
        };
        let case = look.case();
        let entity = &look.plan.entities[0];
        if is_reserved(&case, entity) {
            if !begun.iter().any(|(of, at)| *of == n && time - at < WINDOW) {
                begun.push((n, time));
            }
        } else {
            under_way.push((n, time, reserve(&case, entity)));
        }
        // Some write that was decided on earlier arrives.
        if under_way.len() > below(4) {
            let (_, _, effect) = under_way.swap_remove(below(under_way.len()));
            if let Some(Effect::Reserve { ledger: read, text: new }) = effect {
                if read == text.as_ref().map(|_| ledger(version)) {
                    version += 1;
                    text = Some(new);
                } else {
                    conflicts += 1;
                }
            }
        }
        let in_window = begun.iter().filter(|(_, at)| time - at < WINDOW).count();
        most_seen = most_seen.max(in_window);
        assert!(in_window <= MOST, "{in_window} in a window");
    }
    // A run that never meets the limit or a conflict proves nothing.
    println!("{} begun, {conflicts} conflicts", begun.len());
    assert!(begun.len() > 20 && conflicts > 100 && most_seen == MOST, "{most_seen}");
}
