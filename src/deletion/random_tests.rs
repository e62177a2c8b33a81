//! Random walks: whatever happens in whatever order, what is destroyed was allowed. The world
//! checks I1, I2, I3, I6 and I7 at each step that destroys; this file makes things happen.

use kube::ResourceExt;

use super::fixtures::{app, claim, namespace, reclaim, site};
use super::world::{Crash, World};
use crate::api::{EntityPhase, RequestState};

/// Small, and the same everywhere: splitmix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const PEOPLE: [&str; 3] = ["ann", "bob", "eve"];

fn disturb(world: &mut World, random: &mut Random, generation: &mut u64) {
    let person = PEOPLE[random.below(3) as usize];
    let target = ["a", "b", "c"][random.below(3) as usize];
    match random.below(22) {
        // The guard is taken away, approvals forged, the guard put back, seen or unseen; also
        // approvals of the digest that will be there when it is back.
        0 => {
            *generation += 1;
            world.set_guard(false, *generation);
            for user in PEOPLE {
                let digest = world.digest().unwrap_or_default();
                world.forge(user, &digest);
            }
            if let Some(mut plan) = world.facts.request.status.as_ref().and_then(|s| s.plan.clone())
                && let Some(head) = plan.head.as_mut()
            {
                head.guard = format!("g{}", *generation + 1);
                for round in [None, Some(1)] {
                    head.round = round;
                    let predicted = super::digest::digest(head, &plan.entities);
                    world.forge("dan", &predicted);
                    world.forge("fay", &predicted);
                }
            }
            if random.one_in(2) {
                world.step(Crash::Never);
            }
            *generation += 1;
            world.set_guard(true, *generation);
        }
        1 => {
            *generation += 1;
            world.set_guard(true, *generation);
        }
        2 => world.forge("rita", &world.digest().unwrap_or_default()),
        3 => world.forge("system:serviceaccount:a:b", &world.digest().unwrap_or_default()),
        4 => world.forge(person, "sha256:other"),
        5 => world.skew = random.below(400_000) as i64 - 200_000,
        6 | 7 => world.skew = random.below(80) as i64 - 40,
        8 => world.skew = 0,
        9 => world.time += random.below(100) as i64,
        10 => {
            let spec = &mut world.policies.get_mut("default").unwrap().spec;
            spec.quorum.approvals = 1 + random.below(3) as i64;
            spec.retention.minimum_seconds = 10 + random.below(90) as i64;
            spec.backup.keep_seconds = 2_592_000 + random.below(200_000) as i64;
        }
        11 if random.one_in(6) => world.cancel(),
        12 if random.one_in(6) => world.reject(),
        13 => world.facts.request.annotations_mut().retain(|k, _| k == "reprieve.dev/requested-by"),
        14 => drop(world.content.insert(target.into(), format!("c{}", random.below(3)))),
        15 => world.store_works = random.one_in(2),
        16 => {
            if let Some(live) = world.facts.sites.get_mut(target) {
                // The guard is away, and somebody sets it back.
                reclaim(live, "Delete");
            }
            // To zero is what the hold does as well: nobody could tell.
            world.scale(target, 1 + random.below(4) as i64);
        }
        17 if random.one_in(8) => {
            if let Some(live) = world.facts.sites.get_mut(target) {
                live.namespaces.push(namespace(target, "appeared"));
            }
        }
        18 if random.one_in(8) => {
            if let Some(live) = world.facts.sites.get_mut(target) {
                live.apps.push(app(target, "appeared"));
            }
        }
        19 if random.one_in(8) => {
            if let Some(live) = world.facts.sites.get_mut(target) {
                let mut later = site(target);
                later.site.metadata.uid = Some("later".into());
                later.claims = vec![claim(target, "data", "Delete")];
                *live = later;
                world.replicas.remove(target);
            }
        }
        _ => world.vote(person),
    }
    world.version += 1;
}

/// The end of one walk, and how many Sites it purged.
fn walk(seed: u64) -> (RequestState, usize) {
    let mut random = Random(seed);
    let mut world = World::new(&["a", "b", "c"]);
    let mut generation = 1;
    for _ in 0..250 {
        if random.one_in(5) {
            disturb(&mut world, &mut random, &mut generation);
        } else if random.one_in(2) {
            world.vote(PEOPLE[random.below(3) as usize]);
        }
        let crash = match random.below(10) {
            0 => Crash::BeforeStatus,
            1 => Crash::BeforeEffect(random.below(3) as usize),
            _ => Crash::Never,
        };
        let before = world.state();
        world.step(crash);
        world.others_act();
        world.time += random.below(10) as i64;
        let after = world.state();
        assert!(!before.is_final() || before == after, "what has ended stays so");
        // I2, of what the status says: nobody is in it who did not vote.
        let status = world.facts.request.status.clone().unwrap_or_default();
        for approval in &status.approvals {
            let vote = (approval.user.clone(), approval.digest.clone());
            assert!(world.votes.contains(&vote), "forged: {approval:?}");
        }
        if after.is_final() {
            break;
        }
    }
    // What did not end by itself ends by a cancel, unless others hold what was begun.
    if !world.state().is_final() {
        world.skew = 0;
        world.cancel();
        for site in world.facts.sites.values_mut() {
            site.claims.clear();
            site.apps.retain(|a| a.metadata.name.as_deref() != Some("appeared"));
            site.namespaces.retain(|n| n.metadata.name.as_deref() != Some("appeared"));
        }
        world.run(100);
        assert!(world.state().is_final(), "stuck: {:?}", world.facts.request.status);
    }
    let ended = world.state();
    let mut purged = 0;
    for name in ["a", "b", "c"] {
        let began = world.deletes.iter().any(|(of, _)| of == name);
        if began {
            purged += 1;
        } else {
            // I7: whatever was not begun is as it was.
            assert!(world.is_untouched(name), "{name} after {ended:?}");
        }
    }
    if ended == RequestState::Completed {
        let plan = world.facts.request.status.unwrap().plan.unwrap();
        assert!(plan.entities.iter().all(|e| e.phase == EntityPhase::Purged));
    }
    (ended, purged)
}

#[test]
fn whatever_happens_what_is_destroyed_was_allowed() {
    let mut completed = 0;
    let mut ended_early = 0;
    let mut partly = 0;
    for seed in 0..300 {
        let result = std::panic::catch_unwind(|| walk(seed));
        let (state, purged) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        match state {
            RequestState::Completed => completed += 1,
            _ if purged > 0 => partly += 1,
            _ => ended_early += 1,
        }
    }
    // A walk that reaches nothing proves nothing.
    println!("{completed} completed, {partly} partly, {ended_early} ended early");
    assert!(completed > 20 && ended_early > 20 && partly > 2, "{completed} {partly} {ended_early}");
}
