//! How large the waves are, and when they begin.

use crate::api::{EntityPhase, RequestState};
use crate::deletion::fixtures::policy;
use crate::deletion::world::{Crash, World};

/// When each entity's first DELETE was sent, in seconds, with its wave.
fn walk(sites: usize, first: i64, percent: i64, pause: i64) -> Vec<(i64, i64)> {
    let names: Vec<String> = (0..sites).map(|n| format!("s{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new(&names);
    let spec = &mut world.policies.get_mut("default").unwrap().spec;
    spec.waves = crate::api::Waves { first, max_percent: percent, pause_seconds: pause };
    spec.blast_radius.max_entities = 100;
    policy(&mut world.facts).waves = spec.waves.clone();
    let mut begun: Vec<(i64, i64)> = vec![];
    for _ in 0..8000 {
        if world.state() == RequestState::AwaitingApproval {
            world.vote("ann");
            world.vote("bob");
        }
        let before = world.deletes.len();
        world.step(Crash::Never);
        world.others_act();
        let status = world.facts.request.status.clone().unwrap_or_default();
        if let Some((site, _)) = world.deletes.get(before)
            && world.deletes[..before].iter().all(|(s, _)| s != site)
        {
            let entities = status.plan.unwrap().entities;
            let wave = entities.iter().find(|e| e.name == *site).unwrap().wave.unwrap();
            begun.push((world.time, wave));
        }
        world.time += 1;
        if world.state() == RequestState::Completed {
            let entities = world.facts.request.status.unwrap().plan.unwrap().entities;
            assert!(entities.iter().all(|e| e.phase == EntityPhase::Purged));
            return begun;
        }
    }
    panic!("never ends: {:?}", world.facts.request.status.map(|s| s.message));
}

#[test]
fn first_one_then_a_share_with_a_pause_in_between() {
    let sizes = |begun: &[(i64, i64)]| {
        let waves = begun.last().unwrap().1;
        (1..=waves).map(|w| begun.iter().filter(|(_, n)| *n == w).count()).collect::<Vec<_>>()
    };
    let begun = walk(11, 1, 30, 60);
    assert_eq!(sizes(&begun), [1, 3, 3, 3, 1]);
    for pair in begun.windows(2) {
        let pause = pair[1].0 - pair[0].0;
        assert_eq!(pair[0].1 != pair[1].1, pause >= 60, "{pair:?}");
    }
    assert_eq!(sizes(&walk(3, 1, 10, 0)), [1, 1, 1], "at least one");
    assert_eq!(sizes(&walk(7, 2, 50, 5)), [2, 3, 2]);
    assert_eq!(sizes(&walk(3, 100, 100, 5)), [3]);
}

#[test]
fn a_stricter_policy_holds_for_the_waves_to_come() {
    let mut world = World::new(&["a", "b", "c"]);
    let mut waves = 0;
    for _ in 0..800 {
        if world.state() == RequestState::AwaitingApproval {
            world.vote("ann");
            world.vote("bob");
        }
        if world.deletes.len() == 1 {
            world.policies.get_mut("default").unwrap().spec.waves.pause_seconds = 1000;
        }
        world.step(Crash::Never);
        world.others_act();
        world.time += 1;
        let status = world.facts.request.status.clone().unwrap_or_default();
        waves = status.wave.map_or(0, |w| w.number);
    }
    assert_eq!(waves, 1, "the pause is longer now");
}
