//! The worlds that are explored. Each is small and explored to its end: every order of everything
//! that can happen in it, within its bounds.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::actions::Fault;
use crate::checker::{Found, explore, tell};
use crate::invariants::{I1, I2, I3, I4, I5, I6, I7, I8, I12, names_of};
use crate::mutants::Mutant;
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
pub const CLOCKS: &[Fault] =
    &[Fault::Clock(45), Fault::Clock(-45), Fault::Clock(315_360_000), Fault::Clock(-315_360_000)];
/// What the API server's clock does, while those of the operators are right.
pub const API_CLOCK: &[Fault] = &[Fault::ApiClock(45), Fault::ApiClock(315_360_000)];
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
        voters: &[0, 1],
        late: false,
        ticks: 4,
        faults: 0,
        kinds: &[],
        policy: json!({}),
        begin: (true, Source::Clear),
        ends: true,
        mutant: None,
    }
}

/// One request, one Site, one operator, one fault of these.
fn faulty(name: &'static str, kinds: &'static [Fault]) -> Scope {
    let faults = faults();
    Scope { name, operators: 1, ticks: 2, kinds, faults, ..one_site() }
}

/// Two requests for a Site each, both held, of which one may go in the span of the rolling limit.
pub fn two_requests() -> Scope {
    let policy = json!({ "blastRadius": { "rolling": { "maxEntities": 1 } } });
    let requests = vec![vec![0], vec![1]];
    Scope { name: "two requests", requests, late: true, ticks: 1, policy, ..one_site() }
}

/// Explores a scope, and fails with the shortest way to a broken invariant.
fn explored(scope: Scope) -> Found {
    let name = scope.name;
    let bounds = format!(
        "{} operators, {} ticks, {} faults of {}",
        scope.operators,
        scope.ticks,
        scope.faults,
        scope.kinds.len()
    );
    let model = Model::new(scope);
    let begun = Instant::now();
    let found = explore(&model, u16::MAX, LIMIT);
    println!(
        "{name} ({bounds}): {} states, {} steps, depth {}, {} decisions; {} with DELETEs, {:.1?}",
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
    found
}

/// Explores a scope in which something is purged on some ways.
fn holds(scope: Scope) {
    assert!(explored(scope).purged > 0, "nothing is ever purged: nothing is proved");
}

/// How many faults happen on one path; 1, or what is asked for: `MODEL_FAULTS=2`.
fn faults() -> u8 {
    std::env::var("MODEL_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[test]
fn two_operators_that_die_at_any_point_come_to_the_same_end() {
    holds(Scope { ticks: 2, ..one_site() });
}

/// Two operators at a purge that is about to begin.
fn two_operators(kinds: &'static [Fault]) -> Scope {
    let late = Scope { late: true, ticks: 1, faults: faults(), ..one_site() };
    Scope { name: "two operators", kinds, ..late }
}

#[test]
fn two_operators_with_a_fault() {
    const KINDS: &[Fault] =
        &[Fault::Cancel, Fault::Alert(Source::Fires), Fault::Recreate, Fault::GuardOff];
    holds(two_operators(KINDS));
    // One puts an entity back to held while the other deletes: it is held or gone, never half.
    holds(two_operators(&[Fault::GuardOff]));
}

#[test]
fn what_people_do() {
    holds(faulty("people", PEOPLE));
}

#[test]
fn what_becomes_of_all_around() {
    holds(Scope { ticks: 3, ..faulty("around", AROUND) });
}

#[test]
fn what_clocks_do() {
    holds(faulty("clocks", CLOCKS));
    holds(faulty("the API server's clock", API_CLOCK));
}

#[test]
fn what_becomes_of_the_site() {
    holds(faulty("site", SITE));
}

#[test]
fn reads_at_three_moments() {
    const KINDS: &[Fault] = &[
        Fault::Cancel,
        Fault::Alert(Source::Fires),
        Fault::Recreate,
        Fault::Write,
        Fault::Clock(315_360_000),
    ];
    holds(Scope { torn: true, ..faulty("torn reads", KINDS) });
}

#[test]
fn two_sites_of_one_request() {
    const KINDS: &[Fault] = &[Fault::Cancel, Fault::Alert(Source::Fires)];
    let requests = vec![vec![0, 1]];
    holds(Scope { requests, late: true, ..faulty("two Sites", KINDS) });
}

#[test]
fn two_requests_and_the_rolling_limit() {
    holds(two_requests());
}

#[test]
fn a_requester_who_is_replaced_while_the_guard_is_away() {
    // Ann and Rita are no quorum, whoever the annotation says has asked.
    let scope = Scope { voters: &[0, 3], ..faulty("requester", &[Fault::Requester]) };
    assert_eq!(explored(scope).purged, 0);
}

#[test]
fn without_a_store_or_a_source_nothing_goes() {
    const FEW: &[Fault] = &[Fault::Cancel, Fault::GuardOn];
    let nothing = |scope: Scope| assert_eq!(explored(scope).purged, 0);
    nothing(Scope { begin: (false, Source::Clear), ..faulty("no store", FEW) });
    nothing(Scope { begin: (true, Source::Down), ..faulty("a dead source", FEW) });
    let policy = json!({ "alerts": null });
    nothing(Scope { policy, ..faulty("no source", FEW) });
}

#[test]
fn a_store_that_goes_away_before_the_purge() {
    const KINDS: &[Fault] = &[Fault::Store(false), Fault::Store(true)];
    holds(Scope { late: true, faults: 2, ..faulty("store", KINDS) });
}

/// Explores a scope in which a gate is taken out, and expects a broken invariant.
fn breaks(mutant: Mutant, invariant: u16, scope: Scope) {
    let model = Model::new(Scope { mutant: Some(mutant), ..scope });
    let begun = Instant::now();
    let found = explore(&model, invariant, LIMIT);
    let name = names_of(invariant).concat();
    let Some((_, way)) = found.broken else {
        panic!("{name} holds without its gate, {mutant:?}: {} states", found.states);
    };
    let (steps, took) = (way.len(), begun.elapsed());
    println!("{name}, {mutant:?}: {} states, broken after {steps} steps, {took:.1?}", found.states);
    if std::env::var_os("MODEL_WAYS").is_some() {
        println!("{}", tell(&model, &way));
    }
}

/// A scope for a mutant: no ends, since what is broken is seen on the way.
fn quick(kinds: &'static [Fault]) -> Scope {
    let faults = u8::from(!kinds.is_empty());
    Scope { operators: 1, ticks: 2, kinds, faults, ends: false, ..one_site() }
}

#[test]
fn i1_needs_its_gates() {
    let late = Scope { late: true, faults: 2, ..quick(&[Fault::GuardOff, Fault::Recreate]) };
    breaks(Mutant::NoPreconditions, I1, late);
    breaks(Mutant::KnownByName, I1, quick(&[Fault::Recreate]));
}

#[test]
fn i2_needs_its_gates() {
    breaks(Mutant::ApprovalsMadeUp, I2, quick(&[]));
    breaks(Mutant::GuardUnwatched, I2, quick(&[Fault::Forge]));
}

#[test]
fn i3_needs_its_gates() {
    breaks(Mutant::WindowSkipped, I3, quick(&[]));
    breaks(Mutant::OneClock, I3, quick(&[Fault::Clock(315_360_000)]));
}

#[test]
fn i4_needs_its_gates() {
    breaks(Mutant::AlertsUnheard, I4, quick(&[Fault::Alert(Source::Fires)]));
    breaks(Mutant::SourceBelieved, I4, quick(&[Fault::Alert(Source::Down)]));
}

#[test]
fn i5_needs_its_gates() {
    let ends = false;
    let two = Scope { ends, ..two_requests() };
    breaks(Mutant::LedgerOwnOnly, I5, Scope { operators: 1, ..two.clone() });
    breaks(Mutant::LedgerOverwritten, I5, two);
    let policy = json!({ "blastRadius": { "maxEntities": 1 } });
    let requests = vec![vec![0, 1]];
    breaks(Mutant::LimitUnseen, I5, Scope { policy, requests, ..quick(&[]) });
}

#[test]
fn i6_needs_its_gates() {
    breaks(Mutant::BackupBelieved, I6, quick(&[]));
    breaks(Mutant::Uncompared, I6, quick(&[Fault::Write]));
    breaks(Mutant::DiskBelieved, I6, quick(&[]));
    let stricter = Scope { ticks: 3, ..quick(&[Fault::Policy(Policy::Stricter)]) };
    breaks(Mutant::KeptForEver, I6, stricter);
}

#[test]
fn i7_needs_its_gates() {
    breaks(Mutant::CancelUnseen, I7, quick(&[Fault::Cancel]));
    breaks(Mutant::RecordLost, I7, Scope { ends: true, ..quick(&[Fault::Cancel]) });
}

#[test]
fn i8_needs_its_gates() {
    let two = Scope { operators: 2, ..quick(&[Fault::Cancel]) };
    breaks(Mutant::StatusOverwritten, I8, two);
}

#[test]
fn i12_needs_its_gates() {
    breaks(Mutant::StoreBelieved, I12, Scope { begin: (false, Source::Clear), ..quick(&[]) });
    breaks(Mutant::Development, I12, Scope { policy: json!({ "alerts": null }), ..quick(&[]) });
}
