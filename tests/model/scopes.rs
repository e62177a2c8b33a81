//! The worlds that are explored. Each is small and explored to its end: every order of everything
//! that can happen in it, within its bounds.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::actions::Fault;
use crate::checker::{explore, tell};
use crate::invariants::names_of;
use crate::objects::{Policy, Source};
use crate::state::Scope;
use crate::world::Model;

/// How long one exploration may take until it is given up.
const LIMIT: Duration = Duration::from_secs(1200);

/// What people do to a request.
pub const PEOPLE: &[Fault] = &[
    Fault::Cancel,
    Fault::Delete,
    Fault::Reject,
    Fault::Wipe,
    Fault::OwnVote,
    Fault::Forge,
    Fault::Requester,
];
/// What becomes of the guard, the policy, the source of alerts and the store.
pub const AROUND: &[Fault] = &[
    Fault::GuardOff,
    Fault::GuardOn,
    Fault::Alert(Source::Fires),
    Fault::Alert(Source::Down),
    Fault::Alert(Source::Stale),
    Fault::Store(false),
    Fault::Policy(Policy::Stricter),
    Fault::Policy(Policy::Weaker),
    Fault::Policy(Policy::Gone),
];
/// What clocks do: a little, and ten years.
pub const CLOCKS: &[Fault] = &[
    Fault::Clock(45),
    Fault::Clock(-45),
    Fault::Clock(315_360_000),
    Fault::Clock(-315_360_000),
];
/// What becomes of a Site meanwhile.
pub const SITE: &[Fault] =
    &[Fault::Recreate, Fault::Write, Fault::App, Fault::Scale, Fault::Reclaim];

/// One request for one Site, two operators, nothing goes wrong but that they die, and that the API
/// server refuses what they write.
pub fn one_site() -> Scope {
    Scope {
        name: "one Site",
        requests: vec![vec![0]],
        operators: 2,
        torn: false,
        ticks: 4,
        faults: 0,
        kinds: &[],
        policy: json!({}),
        begin: (true, Source::Clear),
        ends: true,
        mutant: None,
    }
}

/// Explores a scope, and fails with the shortest way to a broken invariant.
fn holds(scope: Scope) {
    let name = scope.name;
    let model = Model::new(scope);
    let begun = Instant::now();
    let found = explore(&model, u16::MAX, LIMIT);
    println!(
        "{name}: {} states, {} steps, depth {}, {} decisions, {} states with a Site gone, {:.1?}",
        found.states,
        found.steps,
        found.depth,
        found.decisions,
        found.purged,
        begun.elapsed()
    );
    if let Some((broken, way)) = found.broken {
        panic!("{name}: {:?} broken after\n{}", names_of(broken), tell(&model, &way));
    }
}

/// How much more is explored than by default: `MODEL_FAULTS=2`.
fn faults() -> u8 {
    std::env::var("MODEL_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[test]
fn one_site_whatever_order() {
    holds(one_site());
}

#[test]
fn one_operator_and_people() {
    let kinds = PEOPLE;
    holds(Scope { name: "people", operators: 1, kinds, faults: faults(), ..one_site() });
}

#[test]
fn one_operator_and_what_is_around() {
    let kinds = AROUND;
    holds(Scope { name: "around", operators: 1, kinds, faults: faults(), ..one_site() });
}

#[test]
fn one_operator_and_clocks() {
    let kinds = CLOCKS;
    holds(Scope { name: "clocks", operators: 1, kinds, faults: faults(), ..one_site() });
}

#[test]
fn one_operator_and_the_site() {
    let kinds = SITE;
    holds(Scope { name: "site", operators: 1, kinds, faults: faults(), ..one_site() });
}
