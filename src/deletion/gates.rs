//! The gates: small pure functions with constant reasons, each also a condition. Only when all of
//! them are open can the token be made without which nothing is purged.

use kube::ResourceExt;

use super::alerts::alerts_clear;
use super::backups::{backed_up, backup_is_current};
use super::decide::Effect;
use super::digest::leaf_digest;
use super::held::Claim;
use super::live::{Live, words};
use super::observe::{Executed, Facts, next_entity};
use super::rolling;
use crate::api::{
    Approval, ConditionStatus, ConditionType, DeletionPhase, DeletionPolicySpec, DeletionRequest,
    EntityPhase, Plan, PlanEntity, PlanHead, Reason, RequestState, RetentionWindow, Time, names,
};
use crate::cluster::clock_skew;
use crate::cluster::snapshots::ClaimSnapshot;

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is open.
    pub status: ConditionStatus,
    /// Why.
    pub reason: Reason,
    /// Why, in words; for a closed gate what is missing, and who can give it.
    pub message: String,
}

impl Verdict {
    pub(super) fn open(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::True, reason, message: message.into() }
    }

    pub(super) fn closed(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::False, reason, message: message.into() }
    }

    pub(super) fn later() -> Self {
        Self {
            status: ConditionStatus::Unknown,
            reason: Reason::WaitingForEarlierGate,
            message: "asked after the gates before it".to_owned(),
        }
    }

    /// Whether the gate is open.
    pub fn is_open(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// A request at its gates.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// What is so.
    pub facts: &'a Facts,
    /// The plan, as its digest has it.
    pub plan: &'a Plan,
    /// The head of the plan.
    pub head: &'a PlanHead,
    /// The state of the request.
    pub state: RequestState,
    /// The approvals of the plan's digest.
    pub approvals: &'a [Approval],
    /// What else is to be said of approvals: those that do not count, and why.
    pub remarks: &'a str,
    /// The window, where it has begun.
    pub retention: Option<RetentionWindow>,
    /// The time by the operator's clock.
    pub now: Time,
}

/// A gate.
pub type Gate = (ConditionType, fn(&Case<'_>) -> Verdict);

/// Every gate, in the order of the conditions.
pub const GATES: [Gate; 7] = [
    (ConditionType::ScopeValid, scope_valid),
    (ConditionType::WithinBlastRadius, within_blast_radius),
    (ConditionType::GuardInPlace, guard_in_place),
    (ConditionType::Approved, approved),
    (ConditionType::BackedUp, backed_up),
    (ConditionType::RetentionElapsed, retention_elapsed),
    (ConditionType::AlertsClear, alerts_clear),
];

/// The permission to destroy one entity. Only this file can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeToken {
    entity_uid: String,
}

impl PurgeToken {
    /// UID of the entity.
    pub fn entity_uid(&self) -> &str {
        &self.entity_uid
    }
}

/// The permission to begin with an entity: every gate is open, the entity is planned and held by
/// this request, a wave has taken it, its backup shows what lives, and it has a place in the ledger
/// of purges.
pub fn permit(case: &Case<'_>, entity: &PlanEntity) -> Option<PurgeToken> {
    (may_begin(case, entity) && rolling::is_reserved(case, entity))
        .then(|| PurgeToken { entity_uid: entity.uid.clone() })
}

/// The write without which there is no permission: a place in the ledger of purges, for an entity
/// that lacks nothing else.
pub(super) fn reserve(case: &Case<'_>, entity: &PlanEntity) -> Option<Effect> {
    may_begin(case, entity).then(|| rolling::reserve(case, entity)).flatten()
}

fn may_begin(case: &Case<'_>, entity: &PlanEntity) -> bool {
    let Some(live) = case.facts.live(entity) else { return false };
    let planned = case.plan.entities.iter().any(|e| e.uid == entity.uid);
    let held = live.deletion_by(&case.facts.request_uid()).is_some();
    let open = GATES.iter().all(|(_, gate)| gate(case).is_open());
    let taken = entity.wave.is_some();
    let current = backup_is_current(live);
    case.state == RequestState::Purging && planned && held && taken && current && open
}

/// The permission to finish an entity whose first DELETE was sent: there is no way back, and half
/// a site helps nobody. The Site itself and the persisted plan must both say that this request had
/// begun with it.
pub fn finish(case: &Case<'_>, entity: &PlanEntity) -> Option<PurgeToken> {
    let live = case.facts.live(entity)?;
    let deletion = live.deletion_by(&case.facts.request_uid())?;
    let begun = deletion.phase == DeletionPhase::Purging && entity.phase == EntityPhase::Purging;
    (begun && case.state == RequestState::Purging && live.has_started(entity))
        .then(|| PurgeToken { entity_uid: entity.uid.clone() })
}

/// The entities that are still to be judged: neither gone, nor released, nor past the point of no
/// return.
pub(super) fn undecided<'a>(
    case: &Case<'a>,
) -> impl Iterator<Item = (&'a PlanEntity, Option<Live<'a>>)> {
    let facts = case.facts;
    case.plan.entities.iter().filter_map(move |entity| match entity.phase {
        EntityPhase::Purged | EntityPhase::Released => None,
        EntityPhase::Purging => {
            let live = facts.live(entity)?;
            (!live.has_started(entity)).then_some((entity, Some(live)))
        }
        EntityPhase::Planned | EntityPhase::Held => Some((entity, facts.live(entity))),
    })
}

/// Gate 1: what is not gone yet is still what was planned.
fn scope_valid(case: &Case<'_>) -> Verdict {
    if let Executed::Yes(why) = &case.facts.executed {
        return Verdict::closed(Reason::PurgedBefore, why.clone());
    }
    for (entity, live) in undecided(case) {
        let Some(live) = live else {
            return Verdict::closed(
                Reason::PlanChanged,
                format!("{} of the plan (UID {}) is not there any more", words(entity), entity.uid),
            );
        };
        if leaf_digest(&live.planned()) != leaf_digest(entity) {
            return Verdict::closed(
                Reason::PlanChanged,
                format!(
                    "{} is not what was planned: {}",
                    words(entity),
                    difference(entity, &live.planned())
                ),
            );
        }
        if let Some(why) = live.not_active(&case.facts.request_uid()) {
            let message = format!("{} {why}", words(entity));
            return Verdict::closed(Reason::EntityNotActive, message);
        }
    }
    Verdict::open(
        Reason::ScopeValid,
        format!("{} entities, each as planned", case.plan.entities.len()),
    )
}

/// The first field of a plan's leaf that differs, in words.
fn difference(planned: &PlanEntity, live: &PlanEntity) -> String {
    if planned.id != live.id {
        format!("its id is {:?}, planned was {:?}", live.id, planned.id)
    } else if planned.tenant != live.tenant {
        format!("its tenant is {:?}, planned was {:?}", live.tenant, planned.tenant)
    } else if planned.namespaces != live.namespaces {
        let names = |e: &PlanEntity| {
            e.namespaces.iter().map(|n| n.name.clone()).collect::<Vec<_>>().join(", ")
        };
        format!(
            "its namespaces are {}, planned were {}, or their UIDs differ",
            names(live),
            names(planned)
        )
    } else if planned.site != live.site {
        "it is in another Site".to_owned()
    } else if planned.applied != live.applied {
        let count = |e: &PlanEntity| e.applied.as_ref().map_or(0, |a| a.count);
        format!(
            "it has {} objects, planned were {}, or their UIDs differ",
            count(live),
            count(planned)
        )
    } else {
        let count = |e: &PlanEntity| e.apps.len();
        format!(
            "it has {} Apps, planned were {}, or their UIDs differ",
            count(live),
            count(planned)
        )
    }
}

/// Gate 2: no more entities than the request, the policy and the hard limit allow, by the stricter
/// of the policy as planned and as it is now.
fn within_blast_radius(case: &Case<'_>) -> Verdict {
    let spec = &case.facts.request.spec;
    let kind = spec.target.kind;
    let count = i64::try_from(case.plan.entities.len()).unwrap_or(i64::MAX);
    if let Some(gone) = policy_gone(case) {
        return Verdict::closed(Reason::PolicyNotFound, gone);
    }
    let policies = stricter(case);
    let hard = policies.iter().map(|p| p.blast_radius.hard_max_entities).min().unwrap_or(0);
    let soft = policies.iter().map(|p| p.blast_radius.max_entities).min().unwrap_or(0);
    if count > hard {
        return Verdict::closed(
            Reason::BlastRadiusExceeded,
            format!(
                "{count} {kind}s, and policy {} never allows more than {hard} in one request",
                case.head.policy_name
            ),
        );
    }
    if count > soft && spec.r#override.is_none() {
        return Verdict::closed(
            Reason::OverrideRequired,
            format!(
                "{count} {kind}s, and policy {} allows {soft} without override: split the request, or ask for more with spec.maxEntities and spec.override.justification",
                case.head.policy_name
            ),
        );
    }
    if spec.r#override.is_none()
        && let Some((entity, claim)) = first_bare(case)
    {
        let snapshot = match &claim.snapshot {
            ClaimSnapshot::NotReady(name) => format!("its snapshot {name} is not ready"),
            _ => "it has no snapshot".to_owned(),
        };
        let claim = &claim.name;
        return Verdict::closed(
            Reason::OverrideRequired,
            format!(
                "nothing protects the disk of claim {claim} of {}: its volume is not there, or is another claim's, and {snapshot}; to delete it all the same, ask for it with spec.override.justification",
                words(entity)
            ),
        );
    }
    // A new plan of the same request may need none any more; who asked could not know.
    if spec.r#override.is_some()
        && case.state == RequestState::Planning
        && count <= soft
        && first_bare(case).is_none()
    {
        return Verdict::closed(
            Reason::OverrideNotNeeded,
            format!(
                "spec.override is for more than {soft} {kind}s, or for a disk that nothing protects, and this request needs none: make it again without"
            ),
        );
    }
    let own = spec.max_entities.unwrap_or(soft);
    if count > own {
        return Verdict::closed(
            Reason::BlastRadiusExceeded,
            format!("{count} {kind}s, and the request itself allows {own}: see spec.maxEntities"),
        );
    }
    let asked = case.head.retention_seconds;
    let (least, most) =
        (case.head.policy.retention.minimum_seconds, case.head.policy.retention.maximum_seconds);
    if !(least..=most).contains(&asked) {
        return Verdict::closed(
            Reason::RetentionOutOfBounds,
            format!(
                "a window of {asked} s, and policy {} allows {least} to {most} s: see spec.retentionSeconds",
                case.head.policy_name
            ),
        );
    }
    // The rolling limit gets better by waiting, and is asked when something is to go.
    let next = next_entity(&case.plan.entities).filter(|_| case.state == RequestState::Purging);
    if let Some(entity) = next.filter(|e| undecided(case).any(|(u, _)| u.uid == e.uid))
        && let Some((reason, message)) = rolling::full(case, entity)
    {
        return Verdict::closed(reason, message);
    }
    let message = format!("{count} of at most {own} {kind}s in this request");
    Verdict::open(
        Reason::WithinLimits,
        match rolling::usage(case) {
            Some(usage) => format!("{message}; {usage}"),
            None => message,
        },
    )
}

/// What to do about a policy that was deleted since the plan was made, in words.
fn policy_gone(case: &Case<'_>) -> Option<String> {
    let name = &case.head.policy_name;
    (!case.facts.policies.contains_key(name)).then(|| {
        format!(
            "DeletionPolicy {name}, under which the plan was made, does not exist any more: nothing goes until it is there again; to keep the entities, cancel: {}",
            DeletionRequest::how_to_cancel(&case.facts.request.name_any())
        )
    })
}

/// The first claim of what is not gone yet whose disk cannot be kept.
fn first_bare<'a>(case: &Case<'a>) -> Option<(&'a PlanEntity, &'a Claim)> {
    undecided(case).find_map(|(entity, live)| Some((entity, live?.claims().find(|c| c.is_bare())?)))
}

/// Gate 3: the guard is in force, and is the one that the plan was made under.
fn guard_in_place(case: &Case<'_>) -> Verdict {
    let guard = &case.facts.guard;
    if let Some(first) = guard.problems.first() {
        return Verdict::closed(
            Reason::GuardMissing,
            format!(
                "{first} ({} problems): kubectl apply --server-side -f deploy/admission/",
                guard.problems.len()
            ),
        );
    }
    if guard.fingerprint != case.head.guard {
        return Verdict::closed(
            Reason::GuardChanged,
            "the guard was changed since the plan was made",
        );
    }
    Verdict::open(Reason::GuardInPlace, "every admission policy is in force")
}

/// Prints the name by which the API server knows who asks, which is not that of the shell.
const WHO_AM_I: &str = "kubectl auth whoami -o jsonpath={.status.userInfo.username}";

/// Gate 4: a quorum of distinct people approved this digest.
fn approved(case: &Case<'_>) -> Verdict {
    let required = approvals_required(case);
    let digest = case.plan.digest.as_deref().unwrap_or_default();
    let mut people: Vec<&str> = case
        .approvals
        .iter()
        .filter(|a| a.digest == digest)
        .map(|a| a.user.as_str())
        .filter(|user| may_count(user, case.facts).is_ok())
        .collect();
    people.sort_unstable();
    people.dedup();
    let have = i64::try_from(people.len()).unwrap_or(0);
    if have >= required && !digest.is_empty() {
        return Verdict::open(Reason::QuorumReached, format!("approved by {}", people.join(", ")));
    }
    let name = case.facts.request.name_any();
    let mut message = format!(
        "{have} of {required} approvals; needs {} more with verb {} on deletionrequests: kubectl annotate dreq {name} {}$USER=\"{digest} $({WHO_AM_I})\"",
        required - have,
        names::VERB_APPROVE,
        names::APPROVAL_PREFIX,
    );
    if !case.remarks.is_empty() {
        message = format!("{message}; {}", case.remarks);
    }
    Verdict::closed(Reason::AwaitingApprovals, message)
}

/// Who created the request, as admission saw them.
pub fn requester(facts: &Facts) -> Option<&str> {
    let by = facts.request.annotations().get(names::ANNOTATION_REQUESTED_BY);
    by.map(String::as_str).filter(|user| !user.is_empty())
}

/// Who created the request, as the first plan recorded it.
fn recorded_requester(facts: &Facts) -> Option<&str> {
    let plan = facts.request.status.as_ref()?.plan.as_ref()?;
    plan.head.as_ref()?.requested_by.as_deref()
}

/// Who asked at first, as far as that is known: the annotation can be changed while the guard is away.
pub(super) fn first_requester(facts: &Facts) -> Option<String> {
    recorded_requester(facts).or(requester(facts)).map(str::to_owned)
}

/// Both, which differ when somebody has changed the annotation while the guard was away.
fn requesters(facts: &Facts) -> impl Iterator<Item = &str> {
    requester(facts).into_iter().chain(recorded_requester(facts))
}

/// Whether an approval by this user may count.
///
/// # Errors
/// Why not, in words.
pub fn may_count(user: &str, facts: &Facts) -> Result<(), &'static str> {
    if user.is_empty() {
        Err("it names nobody")
    } else if user.starts_with(names::SERVICE_ACCOUNT_PREFIX) {
        Err("a service account is not a person")
    } else if user.starts_with(names::SYSTEM_PREFIX) {
        Err("a user of the system is not a person")
    } else if requesters(facts).any(|requester| requester == user) {
        Err("the requester cannot approve")
    } else {
        Ok(())
    }
}

/// How many people must approve: by the stricter of the policy as planned and as it is now; one
/// more when the requester is a service account, or unknown, because its author may be among them.
pub fn approvals_required(case: &Case<'_>) -> i64 {
    let overridden = case.facts.request.spec.r#override.is_some();
    let base = stricter(case)
        .iter()
        .map(|p| if overridden { p.quorum.override_approvals } else { p.quorum.approvals })
        .max()
        .unwrap_or(i64::MAX - 1);
    let anonymous = requester(case.facts).is_none()
        || requesters(case.facts).any(|user| user.starts_with(names::SERVICE_ACCOUNT_PREFIX));
    base + i64::from(anonymous)
}

/// The policy as planned, and as it is now. A policy that is gone leaves what was planned, and the
/// built-in one beside it.
pub(super) fn stricter<'a>(case: &Case<'a>) -> Vec<DeletionPolicySpec> {
    let now = case.facts.policies.get(&case.head.policy_name).map(|p| p.spec.clone());
    vec![case.head.policy.clone(), now.unwrap_or_else(DeletionPolicySpec::built_in)]
}

/// Gate 6: the window has passed, by the operator's clock and by the API server's, which agree.
fn retention_elapsed(case: &Case<'_>) -> Verdict {
    let Some(window) = &case.retention else {
        return match case.state {
            RequestState::Held | RequestState::Purging if clocks_disagree(case).is_some() => {
                Verdict::closed(Reason::ClocksDisagree, clocks_disagree(case).unwrap_or_default())
            }
            RequestState::Held | RequestState::Purging => Verdict::closed(
                Reason::WindowNotBegun,
                "the window begins when every entity is backed up and held",
            ),
            _ => Verdict::later(),
        };
    };
    if let Some(skew) = clocks_disagree(case) {
        return Verdict::closed(Reason::ClocksDisagree, skew);
    }
    let end = window_end(case, window);
    if case.now < end || case.facts.api_time < end {
        return Verdict::closed(
            Reason::WindowRunning,
            format!(
                "held until {end}; to keep the sites, cancel: {}",
                DeletionRequest::how_to_cancel(&case.facts.request.name_any())
            ),
        );
    }
    Verdict::open(Reason::WindowPassed, format!("held from {} to {end}", window.start_time))
}

/// By how much the operator's clock and the API server's disagree, in words, if they do.
pub fn clocks_disagree(case: &Case<'_>) -> Option<String> {
    clock_skew(case.now, case.facts.api_time).map(|skew| {
        format!("the operator's clock and the API server's differ by {skew} s: set them right")
    })
}

/// The end of the window: a policy that asks for more now extends it.
pub fn window_end(case: &Case<'_>, window: &RetentionWindow) -> Time {
    let least =
        stricter(case).iter().map(|p| p.retention.minimum_seconds).max().unwrap_or(i64::MAX);
    window.end_time.max(window.start_time.plus_seconds(least))
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
