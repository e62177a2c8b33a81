//! C4: a cancel at every moment of a deletion, with a decision that was made before it and arrives
//! after it, whole or cut off by a crash. The world checks each step that destroys.

use std::collections::BTreeSet;

use super::decide::{Decision, decide};
use super::observe::Facts;
use super::world::{Crash, World};
use crate::api::{EntityPhase, RequestState};

const SITES: [&str; 3] = ["a", "b", "c"];

fn look(world: &World) -> (Facts, Decision) {
    let facts = world.observe();
    let decision = decide(&facts, world.now());
    (facts, decision)
}

/// The Sites of which something was deleted.
fn begun(world: &World) -> BTreeSet<String> {
    world.deletes.iter().map(|(site, _)| site.clone()).collect()
}

/// A cancel comes, then a decision arrives that was made before it. How many Sites went.
fn race(
    mut world: World,
    (facts, decision): &(Facts, Decision),
    crash: Crash,
    what: &str,
) -> usize {
    let before = begun(&world);
    world.cancel();
    world.carry_out(facts, decision, crash);
    let state = world.run(200);
    assert_eq!(state, RequestState::Cancelled, "{what}");
    let after = begun(&world);
    assert!(after.len() <= before.len() + 1, "{what}: {before:?}, then {after:?}");
    let plan = world.facts.request.status.as_ref().and_then(|s| s.plan.clone());
    for site in SITES {
        let gone = after.contains(site);
        assert_eq!(gone, !world.facts.sites.contains_key(site), "{what}: {site} half gone");
        // I7.
        assert!(gone || world.is_untouched(site), "{what}: {site}");
        let planned = plan.iter().flat_map(|p| &p.entities).find(|e| e.name == site);
        let recorded = planned.is_some_and(|e| e.phase == EntityPhase::Purged);
        assert_eq!(gone, recorded, "{what}: what is gone is recorded, {site}");
    }
    after.len()
}

#[test]
fn whenever_a_cancel_comes_a_site_is_as_it_was_or_gone_and_recorded() {
    let mut ends = [0; SITES.len() + 1];
    let mut world = World::new(&SITES);
    let mut made = vec![];
    while !world.state().is_final() {
        let looks = made.len();
        made.push(look(&world));
        // The last decision, and one that a process which stood still made before.
        for behind in [0, 3] {
            let Some(late) = made.iter().rev().nth(behind) else { continue };
            for crash in [Crash::Never, Crash::BeforeStatus, Crash::BeforeEffect(1)] {
                let what = format!("after {looks} looks, {behind} behind, {crash:?}");
                ends[race(world.clone(), late, crash, &what)] += 1;
            }
        }
        let (facts, decision) = made.last().expect("a decision");
        world.carry_out(facts, decision, Crash::Never);
        world.others_act();
        for person in ["ann", "bob"] {
            world.vote(person);
        }
        world.time += 4;
        assert!(looks < 500, "it never ends");
    }
    println!("races by Sites gone: {ends:?}");
    assert!(ends.iter().sum::<i32>() > 200 && ends.iter().all(|n| *n > 10), "{ends:?}");
}
