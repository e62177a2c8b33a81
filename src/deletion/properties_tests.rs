//! Properties over requests, policies and times (QuickCheck, Claessen and Hughes 2000): each case
//! is made of arbitrary values within the schemas' bounds, and compared with the rules of the
//! design written down once more. A case that fails is made smaller before it is shown.

use std::collections::BTreeSet;

use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::decide::decide;
use super::fixtures::*;
use super::gates::{GATES, permit};
use crate::api::{
    Approval, Conditions, DeletionPolicySpec, Override, Reason, RequestState, RetentionWindow,
    names,
};

/// Everybody who may have said something: people, the one who asks, and who is no person.
const USERS: [&str; 7] =
    ["ann", "bob", "eve", "rita", "system:serviceaccount:ci:robot", "system:admin", ""];
/// Who asks; nobody is who came past the guard.
const REQUESTERS: [&str; 4] = ["rita", "ann", "system:serviceaccount:ci:robot", ""];
const STATES: [RequestState; 8] = [
    RequestState::Planning,
    RequestState::AwaitingApproval,
    RequestState::Held,
    RequestState::Purging,
    RequestState::Completed,
    RequestState::Refused,
    RequestState::Expired,
    RequestState::Cancelled,
];

prop_compose! {
    /// What a policy can ask for, near to where the cases lie.
    fn policies()(
        retention in [10..300_i64, 0..300_i64, 0..300_i64],
        soft in 1..8_i64,
        hard in 0..6_i64,
        quorum in 1..4_i64,
        overridden in 0..3_i64,
        keep_days in 30..70_i64,
    ) -> DeletionPolicySpec {
        let mut spec = development();
        spec.retention.minimum_seconds = retention[0];
        spec.retention.default_seconds = retention[0] + retention[1];
        spec.retention.maximum_seconds = retention[0] + retention[1] + retention[2];
        spec.blast_radius.max_entities = soft;
        spec.blast_radius.hard_max_entities = soft + hard;
        spec.quorum.approvals = quorum;
        spec.quorum.override_approvals = quorum + overridden;
        spec.backup.keep_seconds = keep_days * 86_400;
        spec
    }
}

prop_compose! {
    /// A request whose Sites are backed up and held, in the state in which they go.
    fn requests()(
        sites in 1..9_usize,
        planned in policies(),
        now_in_force in option::weighted(0.9, policies()),
        requester in select(&REQUESTERS[..]),
        with_override in any::<bool>(),
        max_entities in option::of(1..10_i64),
        retention in 5..700_i64,
        votes in proptest::collection::vec((select(&USERS[..]), prop::bool::weighted(0.9)), 0..8),
        window in option::weighted(0.95, 50..150_i64),
        after_end in -100..200_i64,
        skew in -80..80_i64,
        // Mostly all but one or two of the rules are kept, so that each of them decides often.
        kept in [prop::bool::weighted(0.8), prop::bool::weighted(0.8), prop::bool::weighted(0.8)],
        guard in prop::bool::weighted(0.95),
        same_guard in prop::bool::weighted(0.95),
    ) -> Gated {
        let all: Vec<String> = (0..sites).map(|n| format!("s{n}")).collect();
        let mut gated = Gated::new(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let annotations = gated.facts.request.metadata.annotations.get_or_insert_default();
        annotations.insert(names::ANNOTATION_REQUESTED_BY.to_owned(), requester.to_owned());
        let [within, window_fits, all_vote] = kept;
        let (mut planned, mut now_in_force) = (planned, now_in_force);
        if within {
            for policy in now_in_force.iter_mut().chain([&mut planned]) {
                policy.blast_radius.max_entities = 9;
                policy.blast_radius.hard_max_entities = 9;
            }
        }
        let bounds = planned.retention.minimum_seconds..=planned.retention.maximum_seconds;
        let retention =
            if window_fits { retention.clamp(*bounds.start(), *bounds.end()) } else { retention };
        let max_entities = max_entities.filter(|_| !within);
        let with_override = with_override && !all_vote;
        let spec = &mut gated.facts.request.spec;
        spec.r#override = with_override.then(|| Override { justification: "x".to_owned() });
        spec.max_entities = max_entities;
        let by = (!requester.is_empty()).then(|| requester.to_owned());
        let status = gated.facts.request.status.as_mut().and_then(|s| s.plan.as_mut()?.head.as_mut());
        status.expect("a plan").requested_by = by.clone();
        gated.head.requested_by = by;
        gated.head.retention_seconds = retention;
        gated.head.policy = planned;
        match now_in_force {
            Some(spec) => *policy(&mut gated.facts) = spec,
            None => gated.facts.policies.clear(),
        }
        gated.retention = window.map(|start| RetentionWindow {
            start_time: at(start),
            end_time: at(start + retention),
        });
        let now = window.unwrap_or(100) + retention + after_end;
        (gated.now, gated.facts.api_time) = (at(now), at(now + skew));
        if !guard {
            gated.facts.guard.problems.push("gone".to_owned());
        }
        if !same_guard {
            gated.facts.guard.fingerprint = "another".to_owned();
        }
        gated.approved_by(&[]);
        let digest = gated.plan.digest.clone().unwrap_or_default();
        let vote = |(user, right): (&str, bool)| Approval {
            user: user.to_owned(),
            digest: if right { digest.clone() } else { "sha256:other".to_owned() },
            time: at(1),
        };
        let all = ["ann", "bob", "eve"].map(|user| (user, true)).into_iter().filter(|_| all_vote);
        gated.approvals = votes.into_iter().chain(all).map(vote).collect();
        gated
    }
}

/// What was drawn; all of it would be pages.
impl std::fmt::Debug for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gated")
            .field("sites", &self.plan.entities.len())
            .field("spec", &self.facts.request.spec)
            .field("annotations", &self.facts.request.metadata.annotations)
            .field("retention_seconds", &self.head.retention_seconds)
            .field("planned", &self.head.policy)
            .field("now_in_force", &self.facts.policies.get("default").map(|p| &p.spec))
            .field("guard", &(&self.facts.guard, &self.head.guard))
            .field("approvals", &self.approvals)
            .field("window", &self.retention)
            .field("clocks", &(self.now, self.facts.api_time))
            .finish_non_exhaustive()
    }
}

/// The policies that bind: the one that was planned under, and the one that is there now or, if
/// that is gone, the built-in one.
fn binding(gated: &Gated) -> [DeletionPolicySpec; 2] {
    let now = gated.facts.policies.get("default").map(|p| p.spec.clone());
    [gated.head.policy.clone(), now.unwrap_or_else(DeletionPolicySpec::built_in)]
}

/// The rules of the design, section 3, once more, each by itself.
fn may_go(gated: &Gated) -> bool {
    let spec = &gated.facts.request.spec;
    let policies = binding(gated);
    let count = gated.plan.entities.len() as i64;
    let all = |rule: &dyn Fn(&DeletionPolicySpec) -> bool| policies.iter().all(rule);
    let within = all(&|p| count <= p.blast_radius.hard_max_entities)
        && all(&|p| count <= p.blast_radius.max_entities || spec.r#override.is_some())
        && spec
            .max_entities
            .map_or_else(|| all(&|p| count <= p.blast_radius.max_entities), |own| count <= own);
    let asked = gated.head.retention_seconds;
    let bounds = &gated.head.policy.retention;
    let window_asked = bounds.minimum_seconds <= asked && asked <= bounds.maximum_seconds;
    let guarded =
        gated.facts.guard.problems.is_empty() && gated.facts.guard.fingerprint == gated.head.guard;
    let requester = gated
        .facts
        .request
        .metadata
        .annotations
        .as_ref()
        .map_or("", |annotations| annotations[names::ANNOTATION_REQUESTED_BY].as_str());
    let people: BTreeSet<&str> = gated
        .approvals
        .iter()
        .filter(|vote| Some(&vote.digest) == gated.plan.digest.as_ref())
        .map(|vote| vote.user.as_str())
        .filter(|user| ["ann", "bob", "eve", "rita"].contains(user) && *user != requester)
        .collect();
    let no_person = requester.is_empty() || requester.starts_with("system:serviceaccount:");
    let have = people.len() as i64 - i64::from(no_person);
    let quorum = all(&|p| match spec.r#override {
        Some(_) => have >= p.quorum.override_approvals,
        None => have >= p.quorum.approvals,
    });
    // The backups of the fixtures are kept for sixty days.
    let kept = all(&|p| gated.now.seconds_since(at(0)) + p.backup.keep_seconds <= 60 * 86_400);
    let clocks = gated.now.seconds_since(gated.facts.api_time).abs() <= 60;
    let over = gated.retention.as_ref().is_some_and(|window| {
        [gated.now, gated.facts.api_time].into_iter().all(|clock| {
            clock >= window.end_time
                && all(&|p| clock.seconds_since(window.start_time) >= p.retention.minimum_seconds)
        })
    });
    // Production purges nothing without a source of alerts, and the built-in policy is for it.
    let alerts = gated.facts.policies.contains_key("default");
    within && window_asked && guarded && quorum && kept && clocks && over && alerts
}

/// A policy that is at least as strict as both.
fn stricter_of(a: &DeletionPolicySpec, b: &DeletionPolicySpec) -> DeletionPolicySpec {
    let mut spec = a.clone();
    spec.retention.minimum_seconds = a.retention.minimum_seconds.max(b.retention.minimum_seconds);
    let (mine, other) = (&mut spec.blast_radius, &b.blast_radius);
    mine.max_entities = mine.max_entities.min(other.max_entities);
    mine.hard_max_entities = mine.hard_max_entities.min(other.hard_max_entities);
    let (mine, other) = (&mut spec.quorum, &b.quorum);
    mine.approvals = mine.approvals.max(other.approvals);
    mine.override_approvals = mine.override_approvals.max(other.override_approvals);
    spec.backup.keep_seconds = spec.backup.keep_seconds.max(b.backup.keep_seconds);
    spec
}

fn open(gated: &Gated) -> Vec<&'static str> {
    let case = gated.case();
    let open = GATES.into_iter().filter(|(_, gate)| gate(&case).is_open());
    open.map(|(type_, _)| type_.as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// There is a token exactly when every rule allows it: never without, and not more seldom.
    #[test]
    fn an_entity_may_go_exactly_when_the_rules_say_so(gated in requests()) {
        let token = permit(&gated.case(), &gated.plan.entities[0]);
        let closed: Vec<_> = GATES.into_iter().map(|(_, gate)| gate(&gated.case())).collect();
        prop_assert_eq!(token.is_some(), may_go(&gated), "{:#?}", closed);
    }

    /// What makes it safer never opens anything: a stricter policy, fewer approvals, less time.
    #[test]
    fn nothing_opens_by_being_stricter(
        gated in requests(),
        other in policies(),
        fewer in subsequence((0..8_usize).collect::<Vec<_>>(), 0..8),
        earlier in 0..900_i64,
    ) {
        let before = open(&gated);
        let mut strict = gated.clone();
        if let Some(policy) = strict.facts.policies.get_mut("default") {
            policy.spec = stricter_of(&policy.spec, &other);
        }
        let votes = std::mem::take(&mut strict.approvals);
        let kept = |(n, vote)| (!fewer.contains(&n)).then_some(vote);
        strict.approvals = votes.into_iter().enumerate().filter_map(kept).collect();
        for clock in [&mut strict.now, &mut strict.facts.api_time] {
            *clock = clock.plus_seconds(-earlier);
        }
        // With less time a backup is kept for long enough.
        let opened: Vec<_> = open(&strict).into_iter().filter(|gate| {
            !before.contains(gate) && (*gate != "BackedUp" || earlier == 0)
        }).collect();
        prop_assert!(opened.is_empty(), "{:?} opened", opened);
    }

    /// Whatever the status says that it was: a decision comes, each condition has a reason that
    /// there is, what has ended stays so, and no state is reached but by the one before it.
    #[test]
    fn a_decision_always_comes_and_goes_one_step(
        gated in requests(),
        state in select(&STATES[..]),
    ) {
        let mut gated = gated;
        gated.state = state;
        let now = gated.now;
        let facts = gated.into_facts();
        let decision = decide(&facts, now);
        for condition in &decision.status.conditions {
            let known = Reason::ALL.iter().any(|reason| reason.as_str() == condition.reason);
            prop_assert!(known, "{:?}", condition);
            prop_assert!(!condition.message.is_empty() && condition.message.len() <= 32_768);
        }
        let after = decision.status.state.unwrap_or(state);
        use RequestState as S;
        let next: &[S] = match state {
            S::Planning | S::AwaitingApproval => {
                &[S::AwaitingApproval, S::Held, S::Refused, S::Expired, S::Cancelled]
            }
            S::Held => &[S::Held, S::Purging, S::Refused, S::Cancelled],
            S::Purging => &[S::Purging, S::Completed, S::Refused, S::Cancelled],
            ended => &[ended],
        };
        prop_assert!(next.contains(&after), "{:?} to {:?}", state, after);
        if after == S::Held && state != S::Held {
            let approved = decision.status.conditions.is_true(crate::api::ConditionType::Approved);
            prop_assert!(approved, "held without approvals");
        }
    }
}
