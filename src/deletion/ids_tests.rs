//! Whatever a list of ids looks like, it means what it says to the letter, or nothing: T14 of the
//! fault list.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::fixtures::*;
use super::plan::{can_fit, scope};
use super::random_tests::Random;
use crate::api::{RequestState, TargetKind};
use crate::cluster::{EntityRow, Holder, by_id};

/// The limit of a status, in bytes.
const LARGEST: usize = 256 << 10;

/// The entities that there are: eight Sites, an App in each, and two entities with one id.
fn world() -> Vec<EntityRow> {
    let row = |id: String, kind: TargetKind, name: &str, namespace: Option<&str>, uid: String| {
        let namespace = namespace.map(str::to_owned);
        EntityRow {
            id,
            holder: Holder { kind, name: name.to_owned(), namespace, uid },
            terminating: false,
        }
    };
    let mut all = vec![];
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        all.push(row(format!("site-{name}"), TargetKind::Site, name, None, format!("su-{name}")));
        let id = format!("app-{name}-wiki");
        all.push(row(id, TargetKind::App, "wiki", Some(name), format!("au-{name}-wiki")));
    }
    all.push(row("twice".to_owned(), TargetKind::Site, "t", None, "su-t".to_owned()));
    all.push(row("twice".to_owned(), TargetKind::App, "wiki", Some("t"), "au-t".to_owned()));
    all
}

/// An id of somebody, or what somebody may take for it.
fn an_id(world: &[EntityRow], random: &mut Random) -> String {
    let index = usize::try_from(random.below(world.len() as u64)).expect("small");
    let id = world[index].id.clone();
    match random.below(24) {
        0 => String::new(),
        1 => format!(" {id}"),
        2 => format!("{id} "),
        3 => id.to_uppercase(),
        4 => id.replace('-', "\u{2010}"),
        5 => id.replace('a', "\u{430}"),
        6 => format!("{id}\u{200b}"),
        7 => format!("{id}\0"),
        8 => id[..id.len() - 1].to_owned(),
        9 => format!("{id}{id}"),
        10 => format!("{id},site-a"),
        11 => "*".to_owned(),
        12 => format!("{}*", &id[..2]),
        13 => id.repeat(60),
        14 => format!("{id}\n"),
        15 => "\u{202e}a-etis".to_owned(),
        16 => format!("{:x}", random.below(u64::MAX)),
        // An honest one, and most of the time one that names a Site.
        17 => id,
        n => world[usize::try_from(n - 18).expect("small") * 2].id.clone(),
    }
}

#[test]
fn a_list_of_ids_means_what_it_says_or_nothing() {
    let world = world();
    let (mut planned, mut refused) = (0, 0);
    for seed in 0..4000 {
        let mut random = Random(seed);
        let count = [0, 1, 2, 3, 8, 40][usize::try_from(random.below(6)).expect("small")];
        let honest = random.one_in(3);
        let ids: Vec<String> = (0..count)
            .map(|_| match honest {
                true => world[usize::try_from(random.below(8)).expect("small") * 2].id.clone(),
                false => an_id(&world, &mut random),
            })
            .collect();
        let kind = if random.one_in(4) { TargetKind::App } else { TargetKind::Site };
        let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut facts = asking(kind, &asked, json!({}));
        for name in ["a", "b", "c", "d", "e", "f", "g", "h", "t"] {
            add(&mut facts, site(name));
        }
        let distinct: BTreeSet<&str> = asked.iter().copied().collect();
        let found = world.iter().filter(|row| distinct.contains(row.id.as_str()));
        facts.holders = by_id(found.cloned());

        // What an id means, by itself: no other id of the list matters.
        let mut means = BTreeMap::new();
        for id in &distinct {
            let all: Vec<&EntityRow> = world.iter().filter(|row| row.id == *id).collect();
            if let [one] = all[..]
                && one.holder.kind == kind
            {
                means.insert(*id, &one.holder);
            }
        }
        match scope(&facts) {
            Ok(scope) => {
                planned += 1;
                assert!(!distinct.is_empty(), "{seed}: nothing became something");
                let uids: BTreeSet<&str> = scope.entities.iter().map(|e| e.uid.as_str()).collect();
                let meant: BTreeSet<&str> = means.values().map(|h| h.uid.as_str()).collect();
                assert_eq!(means.len(), distinct.len(), "{seed}: {ids:?} are not all of {kind}s");
                assert_eq!(uids, meant, "{seed}: {ids:?}");
                assert_eq!(scope.entities.len(), uids.len(), "{seed}: one of them twice");
            }
            Err(refusal) => {
                refused += 1;
                let known = kind == TargetKind::Site;
                let bad = distinct.len() - means.len();
                assert!(bad > 0 || distinct.is_empty() || !known, "{seed}: {ids:?}: {refusal:?}");
                let counted: i64 = refusal.counts.iter().map(|c| c.count).sum();
                if known && !distinct.is_empty() {
                    assert_eq!(usize::try_from(counted), Ok(bad), "{seed}: {ids:?}");
                }
                assert!(refusal.refusals.len() <= 20, "{seed}");
                for shown in &refusal.refusals {
                    assert!(distinct.contains(shown.id.as_str()), "{seed}: {shown:?}");
                    assert!(!known || !means.contains_key(shown.id.as_str()), "{seed}: {shown:?}");
                }
                let decision = step(&mut facts, at(0));
                assert_eq!(state(&decision), RequestState::Refused, "{seed}");
                assert_eq!(decision.effects, [], "{seed}");
                assert!(json!(decision.status).to_string().len() < LARGEST, "{seed}");
            }
        }
    }
    assert!(planned > 400 && refused > 400, "{planned} planned, {refused} refused");
}

/// As many as the schema allows, of the worst sort: the status stays small.
#[test]
fn the_status_of_the_largest_refusal_stays_small() {
    let ids: Vec<String> = (0..1000).map(|n| format!("{n:~>253}")).collect();
    let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut facts = asking(TargetKind::Site, &asked, json!({}));
    // Each is the id of many entities with the longest names that there are.
    for id in &ids {
        let holder = |n: usize| Holder {
            kind: TargetKind::App,
            name: format!("{n:a>63}"),
            namespace: Some(format!("{n:b>63}")),
            uid: n.to_string(),
        };
        facts.holders.insert(id.clone(), (0..300).map(holder).collect());
    }
    let refusal = scope(&facts).expect_err("not refused");
    assert!(refusal.message.contains("and of 295 more"), "{}", refusal.message);
    let decision = step(&mut facts, at(0));
    let size = json!(decision.status).to_string().len();
    assert!(size < LARGEST, "{size}");
}

/// A plan that grew out of its status could never be written: the request would hang for ever.
#[test]
fn a_plan_that_does_not_fit_is_refused_and_one_that_fits_has_room_for_its_backups() {
    let names: Vec<String> = (0..300).map(|n| format!("tenant-{n:05}")).collect();
    let mut fitted = 0;
    for count in [2, 100, 150, 200, 300] {
        let names: Vec<&str> = names[..count].iter().map(String::as_str).collect();
        let mut facts = facts(&names);
        for live in facts.sites.values_mut() {
            let name = live.site.metadata.name.clone().unwrap_or_default();
            live.apps.extend([app(&name, "mail"), app(&name, "chat")]);
        }
        match scope(&facts) {
            Ok(scope) => {
                fitted = count;
                let grown = json!(scope.entities).to_string().len() + count * 500;
                assert!(grown < LARGEST - (32 << 10), "{count}: {grown}");
            }
            Err(refusal) => {
                assert_eq!(refusal.reason, crate::api::Reason::PlanTooLarge, "{count}");
                assert!(refusal.message.contains("split"), "{}", refusal.message);
                assert!(count > 100, "as many as a Production policy allows must fit: {refusal:?}");
            }
        }
    }
    assert!((100..300).contains(&fitted), "{fitted}");
    // Of so many that none can fit, what is inside is not read.
    let most = (1..1000).rev().find(|count| can_fit(*count)).expect("some fit");
    assert!((250..1000).contains(&most), "{most}");
    let names: Vec<String> = (0..=most).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut many = facts(&names);
    let whole = std::mem::take(&mut many.sites);
    let refusal = scope(&many).expect_err("it cannot fit");
    assert_eq!(refusal.reason, crate::api::Reason::PlanTooLarge);
    let least = whole.values().map(|live| json!(live.planned()).to_string().len()).min();
    assert!(least >= Some(200), "it would have fitted: {least:?}");
    // An id of another kind is told all the same.
    many.holders.values_mut().next().expect("a holder")[0].kind = TargetKind::App;
    let refusal = scope(&many).expect_err("an id of another kind");
    assert_eq!(refusal.counts.iter().map(|count| count.reason.as_str()).max(), Some("UnknownId"));
    assert_eq!(refusal.reason, crate::api::Reason::EntityTypeMismatch);
    // One cannot be split: it must become smaller.
    let mut facts = facts(&["a"]);
    let live = facts.sites.get_mut("a").expect("it is there");
    live.apps = (0..3000).map(|n| app("a", &format!("app-{n}"))).collect();
    let refusal = scope(&facts).expect_err("no status has room for it");
    assert_eq!(refusal.reason, crate::api::Reason::PlanTooLarge);
    assert!(refusal.message.contains("delete Apps of it first"), "{}", refusal.message);
    let live = facts.sites.get_mut("a").expect("it is there");
    live.apps.truncate(1000);
    let scope = scope(&facts).expect("it fits");
    assert!(json!(scope.entities).to_string().len() < LARGEST);
}
