//! What to do about a request: pure, from facts and the time. This file has the way up to the
//! quorum and what every state shares; `hold` and `purge` have the rest.

use std::time::Duration;

use kube::{Resource, ResourceExt};

use super::digest::digest;
use super::gates::{Case, GATES, Verdict, approvals_required, first_requester, may_count};
use super::held::Edit;
use super::observe::Facts;
use super::plan::{Refused, Scope, scope, totals};
use super::purge::Step;
use super::{gates, hold};
use crate::api::{
    Approval, ConditionStatus, ConditionType, Conditions, Deletion, DeletionRequestStatus, Plan,
    PlanEntity, PlanHead, Progress, Reason, Rejection, RequestState, TargetKind, Time, names,
};
use crate::cluster::{Exact, Note};

/// What to do about a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to write, in this order, before the status.
    pub effects: Vec<Effect>,
    /// The status as it should be.
    pub status: DeletionRequestStatus,
    /// What to tell.
    pub notes: Vec<Note>,
    /// When to look again if nothing changes before; none when the request has ended.
    pub requeue: Option<Duration>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put our finalizer on the request, so that its DELETE is a cancel.
    AddFinalizer,
    /// Let the request go: it has ended.
    RemoveFinalizer,
    /// Ask for a backup of a Site.
    CreateBackup {
        /// Name of the Backup: the same after a crash.
        name: String,
        /// Name of the Site.
        site: String,
        /// Until when to keep it at least.
        keep_until: Time,
    },
    /// Keep a backup longer.
    KeepLonger {
        /// The Backup.
        backup: Exact,
        /// Until when.
        until: Time,
    },
    /// Mark an entity as held.
    Hold(Entity, Deletion),
    /// Change an object that is held, or put it back. One that fails stops no other.
    Edit(Edit),
    /// Take every mark of this request off an entity: off a Site's namespaces and Apps too.
    Release(Entity),
    /// Write the ledger of purges, with a place for an entity that was not in it.
    Reserve {
        /// The ledger as it was read; none: there is none yet.
        ledger: Option<Exact>,
        /// All of it.
        text: String,
    },
    /// One step of a purge, with the permission that the gates gave.
    Purge(gates::PurgeToken, Step),
}

/// An entity, and what a write to its status is decided on.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Its namespace; none for a Site.
    pub namespace: Option<String>,
    /// What it was when it was read.
    pub exact: Exact,
}

/// How a request comes to an end before its time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ending {
    pub state: RequestState,
    pub reason: Reason,
    pub message: String,
}

/// How often an open request is looked at: the guard and the alerts can change any time.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Decides about a request.
pub fn decide(facts: &Facts, now: Time) -> Decision {
    let mut status = facts.request.status.clone().unwrap_or_default();
    status.observed_generation = facts.request.metadata.generation;
    match status.state.unwrap_or(RequestState::Planning) {
        RequestState::Planning | RequestState::AwaitingApproval => {
            before_quorum(facts, status, now)
        }
        RequestState::Held | RequestState::Purging if lost_finalizer(facts) => {
            let effects = vec![Effect::AddFinalizer];
            Decision { effects, status, notes: vec![], requeue: Some(Duration::ZERO) }
        }
        RequestState::Held | RequestState::Purging => hold::decide(facts, status, now),
        RequestState::Completed
        | RequestState::Refused
        | RequestState::Expired
        | RequestState::Cancelled => {
            let held = facts.request.finalizers().iter().any(|f| f == names::FINALIZER);
            let effects = if held { vec![Effect::RemoveFinalizer] } else { vec![] };
            Decision { effects, status, notes: vec![], requeue: None }
        }
    }
}

/// Whether a DELETE of the request would leave what it holds without anybody to release it.
fn lost_finalizer(facts: &Facts) -> bool {
    facts.request.meta().deletion_timestamp.is_none()
        && !facts.request.finalizers().iter().any(|f| f == names::FINALIZER)
}

fn before_quorum(facts: &Facts, mut status: DeletionRequestStatus, now: Time) -> Decision {
    if let Some(ending) = asked_to_end(facts, &status) {
        return end(facts, status, ending, now);
    }
    let mut effects = vec![];
    if !facts.request.finalizers().iter().any(|f| f == names::FINALIZER) {
        effects.push(Effect::AddFinalizer);
    }
    let scope = match scope(facts) {
        Ok(scope) => scope,
        Err(refused) => return refuse(facts, status, refused, now),
    };
    let before = status.plan.as_ref().and_then(|p| p.digest.clone());
    let mut notes = vec![];
    let plan = plan(facts, &scope, status.plan.as_ref(), now);
    let digest = plan.digest.clone().unwrap_or_default();
    if before.as_deref() != Some(&digest) {
        let totals = totals(&plan.entities);
        notes.push(Note::normal(
            if before.is_some() { Reason::PlanChanged } else { Reason::Planned },
            format!(
                "would delete {} {}s with {}{} objects: {digest}{}",
                totals.entities,
                facts.request.spec.target.kind,
                match facts.request.spec.target.kind {
                    TargetKind::Site =>
                        format!("{} namespaces, {} Apps and ", totals.namespaces, totals.apps),
                    TargetKind::App => String::new(),
                },
                totals.objects,
                if before.is_some() { "; approvals of the former plan are void" } else { "" }
            ),
        ));
    }
    status.plan = Some(plan.clone());
    let Some(head) = plan.head.clone() else { unreachable!("a plan of `plan` has a head") };
    let (approvals, remarks) = count_approvals(facts, &status, &digest, now);
    notes.extend(tell_approvals(&status.approvals, &approvals));
    status.approvals = approvals;
    let approvals = status.approvals.clone();
    let case = Case {
        facts,
        plan: &plan,
        head: &head,
        state: match before {
            Some(_) => RequestState::AwaitingApproval,
            None => RequestState::Planning,
        },
        approvals: &approvals,
        remarks: &remarks,
        retention: None,
        now,
    };
    status.approvals_required = Some(approvals_required(&case));
    notes.extend(judge(&case, &mut status));

    // A limit that is exceeded will not get better by waiting.
    if let Some(limit) = closed(&status, ConditionType::WithinBlastRadius) {
        let ending = Ending { state: RequestState::Refused, reason: limit.0, message: limit.1 };
        return end(facts, status, ending, now);
    }
    let planned = plan.planned_time.unwrap_or(now);
    if now.seconds_since(planned) >= head.policy.quorum.expires_after_seconds {
        let message = format!("not approved within {} s", head.policy.quorum.expires_after_seconds);
        let ending = Ending { state: RequestState::Expired, reason: Reason::Expired, message };
        return end(facts, status, ending, now);
    }
    let waits_for = [ConditionType::GuardInPlace, ConditionType::Approved];
    let missing = waits_for.into_iter().find_map(|type_| closed(&status, type_));
    let mut requeue = LOOK_AGAIN;
    match missing {
        Some((_, message)) => {
            status.state = Some(RequestState::AwaitingApproval);
            status.message = Some(short(&message));
        }
        None => {
            status.state = Some(RequestState::Held);
            status.message = Some("approved; backing up".to_owned());
            status.progress = Some(Progress {
                total: i64::try_from(plan.entities.len()).unwrap_or(i64::MAX),
                ..Default::default()
            });
            requeue = Duration::ZERO;
        }
    }
    Decision { effects, status, notes, requeue: Some(requeue) }
}

/// The plan of this scope. What was planned when and under which policy stays while the digest
/// does.
fn plan(facts: &Facts, scope: &Scope, before: Option<&Plan>, now: Time) -> Plan {
    let spec = &facts.request.spec;
    let mut expected_alerts = spec.expected_alerts.clone();
    expected_alerts.sort();
    let policy = &scope.policy;
    let mut head = PlanHead {
        request_uid: facts.request_uid(),
        requested_by: first_requester(facts),
        retention_seconds: spec.retention_seconds.unwrap_or(policy.spec.retention.default_seconds),
        max_entities: spec.max_entities.unwrap_or(policy.spec.blast_radius.max_entities),
        expected_alerts,
        policy_name: policy.name.clone(),
        policy_uid: policy.uid.clone(),
        policy: policy.spec.clone(),
        guard: facts.guard.fingerprint.clone(),
        round: before.and_then(|b| b.head.as_ref()).and_then(|h| h.round),
    };
    let mut digest = digest(&head, &scope.entities);
    let mut planned_time = now;
    match before.filter(|b| b.digest.as_deref() == Some(&digest)) {
        Some(before) => planned_time = before.planned_time.unwrap_or(now),
        None => digest = seal(facts, &mut head, &scope.entities),
    }
    Plan {
        digest: Some(digest),
        planned_time: Some(planned_time),
        head: Some(head),
        totals: Some(totals(&scope.entities)),
        entities: scope.entities.clone(),
        refusals: vec![],
        refusal_counts: vec![],
    }
}

/// The digest of a new plan, in a round in which no annotation names it yet. Everything else in a
/// head can be known beforehand: who takes the guard away could leave approvals of the digest that
/// will be there when it is back.
pub(super) fn seal(facts: &Facts, head: &mut PlanHead, entities: &[PlanEntity]) -> String {
    head.round = None;
    loop {
        let digest = digest(head, entities);
        let mut approvals = facts
            .request
            .annotations()
            .iter()
            .filter(|(k, _)| k.starts_with(names::APPROVAL_PREFIX));
        if !approvals.any(|(_, value)| value.split(' ').next() == Some(&digest)) {
            return digest;
        }
        head.round = Some(head.round.unwrap_or(0) + 1);
    }
}

/// Whether somebody wants the request to end: by cancel, by DELETE, or by a rejection.
pub(super) fn asked_to_end(facts: &Facts, status: &DeletionRequestStatus) -> Option<Ending> {
    if facts.request.spec.cancel {
        return Some(Ending {
            state: RequestState::Cancelled,
            reason: Reason::CancelledByUser,
            message: "cancelled by spec.cancel".to_owned(),
        });
    }
    if facts.request.meta().deletion_timestamp.is_some() {
        return Some(Ending {
            state: RequestState::Cancelled,
            reason: Reason::RequestDeleted,
            message: "the request was deleted, which cancels it".to_owned(),
        });
    }
    let rejection = status.rejections.first().cloned().or_else(|| rejections(facts).pop());
    rejection.map(|rejection| Ending {
        state: RequestState::Refused,
        reason: Reason::Rejected,
        message: match &rejection.reason {
            Some(why) => format!("rejected by {}: {why}", rejection.user),
            None => format!("rejected by {}", rejection.user),
        },
    })
}

/// The rejections in the annotations. Whose name they bear was checked by admission; a rejection
/// is heard even if the guard is not in place, because it only keeps things as they are.
fn rejections(facts: &Facts) -> Vec<Rejection> {
    let reason = facts.request.annotations().get(names::ANNOTATION_REJECTION_REASON);
    facts
        .request
        .annotations()
        .iter()
        .filter(|(key, _)| key.starts_with(names::REJECTION_PREFIX))
        .map(|(_, value)| Rejection {
            user: value.split_once(' ').map_or(value.as_str(), |(_, user)| user).to_owned(),
            reason: reason.cloned(),
            time: facts.api_time,
        })
        .collect()
}

/// Copies the rejections into the status, where no GitOps tool can wipe them.
pub(super) fn record_rejections(facts: &Facts, status: &mut DeletionRequestStatus) {
    if status.rejections.is_empty() {
        status.rejections = rejections(facts);
    }
}

/// The approvals that count for this digest: those that the status has, and those annotations that
/// are new. With them, in words, what does not count. Nothing new counts while the guard is not in
/// force: nobody can tell who wrote it.
pub(super) fn count_approvals(
    facts: &Facts,
    status: &DeletionRequestStatus,
    digest: &str,
    now: Time,
) -> (Vec<Approval>, String) {
    let mut all: Vec<Approval> =
        status.approvals.iter().filter(|a| a.digest == digest).cloned().collect();
    let mut remarks = vec![];
    let annotations = facts.request.annotations().iter();
    for (_, value) in annotations.filter(|(key, _)| key.starts_with(names::APPROVAL_PREFIX)) {
        let (of, user) = value.split_once(' ').unwrap_or((value, ""));
        if all.iter().any(|a| a.user == user && of == digest) {
            continue;
        }
        if of != digest {
            remarks.push(format!("{user} approved another digest, {of}"));
        } else if let Err(why) = may_count(user, facts) {
            remarks.push(format!("the approval by {user:?} does not count: {why}"));
        } else if !facts.guard.problems.is_empty() {
            remarks.push(format!(
                "the approval by {user} does not count while the guard is not in force"
            ));
        } else {
            all.push(Approval { user: user.to_owned(), digest: digest.to_owned(), time: now });
        }
    }
    (all, remarks.join("; "))
}

/// An event for each approval that is new.
pub(super) fn tell_approvals(before: &[Approval], now: &[Approval]) -> Vec<Note> {
    now.iter()
        .filter(|a| !before.iter().any(|b| b.user == a.user && b.digest == a.digest))
        .map(|a| Note::normal(Reason::Approved, format!("approved by {}: {}", a.user, a.digest)))
        .collect()
}

/// Asks every gate, writes the conditions, and answers with what is worth telling.
pub(super) fn judge(case: &Case<'_>, status: &mut DeletionRequestStatus) -> Vec<Note> {
    let generation = case.facts.request.metadata.generation;
    let mut notes = vec![];
    for (type_, gate) in GATES {
        let Verdict { status: holds, reason, message } = gate(case);
        let before = status.conditions.get(type_).map(|c| (c.reason.clone(), c.message.clone()));
        let same_reason = before.as_ref().is_some_and(|(old, _)| old == reason.as_str());
        let warns = holds == ConditionStatus::False
            && !matches!(
                reason,
                Reason::AwaitingApprovals
                    | Reason::BackingUp
                    | Reason::VolumeNotRetained
                    | Reason::WindowNotBegun
                    | Reason::WindowRunning
            );
        let news = !matches!(
            reason,
            Reason::WaitingForEarlierGate
                | Reason::ScopeValid
                | Reason::WithinLimits
                | Reason::AwaitingApprovals
                | Reason::BackingUp
                | Reason::VolumeNotRetained
                | Reason::WindowNotBegun
                | Reason::NotConfigured
        ) && (reason != Reason::GuardInPlace || before.is_some());
        if news && !same_reason {
            let text = message.clone();
            notes.push(if warns {
                Note::warning(reason, text)
            } else {
                Note::normal(reason, text)
            });
        }
        let ignored = type_ == ConditionType::Approved && !case.remarks.is_empty();
        if ignored && before.is_none_or(|(_, old)| !old.contains(case.remarks)) {
            notes.push(Note::warning(Reason::ApprovalIgnored, case.remarks));
        }
        status.conditions.set(type_, holds, reason, message, generation, case.now);
    }
    notes
}

/// Reason and message of a condition that is False.
pub(super) fn closed(
    status: &DeletionRequestStatus,
    type_: ConditionType,
) -> Option<(Reason, String)> {
    let condition = status.conditions.get(type_)?;
    let reason = Reason::ALL.iter().find(|r| r.as_str() == condition.reason)?;
    (condition.status != ConditionStatus::True).then(|| (*reason, condition.message.clone()))
}

/// A message for the printer column: without the command, which the condition has.
pub(super) fn short(message: &str) -> String {
    message.split(": kubectl ").next().unwrap_or(message).to_owned()
}

/// Tells of writes that the API server refused: somebody must look at it.
pub(super) fn tell_refused(facts: &Facts, decision: &mut Decision, refused: &[String], now: Time) {
    let Some(first) = refused.first() else { return };
    let why = format!("{first} ({} writes were refused)", refused.len());
    let generation = facts.request.metadata.generation;
    let status = &mut decision.status;
    let told = status.message.take().unwrap_or_default();
    status.message = Some(format!("{told}: {why}"));
    let conditions = &mut status.conditions;
    conditions.unset(ConditionType::Reconciling);
    let stalled = Some((Reason::WriteRefused, why.as_str()));
    conditions.set_abnormal(ConditionType::Stalled, stalled, generation, now);
    decision.requeue = Some(LOOK_AGAIN);
}

/// Refuses a request for its scope.
fn refuse(
    facts: &Facts,
    mut status: DeletionRequestStatus,
    refused: Refused,
    now: Time,
) -> Decision {
    let generation = facts.request.metadata.generation;
    let Refused { reason, message, refusals, counts } = refused;
    let plan = Plan { refusals, refusal_counts: counts, ..Default::default() };
    status.plan = Some(plan);
    status.approvals.clear();
    status.conditions.set(
        ConditionType::ScopeValid,
        ConditionStatus::False,
        reason,
        message.clone(),
        generation,
        now,
    );
    end(facts, status, Ending { state: RequestState::Refused, reason, message }, now)
}

/// Ends a request of which nothing is held any more.
pub(super) fn end(
    facts: &Facts,
    mut status: DeletionRequestStatus,
    ending: Ending,
    now: Time,
) -> Decision {
    let generation = facts.request.metadata.generation;
    let Ending { state, reason, message } = ending;
    record_rejections(facts, &mut status);
    let done = state == RequestState::Completed;
    let succeeded = if done { ConditionStatus::True } else { ConditionStatus::False };
    let conditions = &mut status.conditions;
    conditions.set(ConditionType::Succeeded, succeeded, reason, message.clone(), generation, now);
    conditions.unset(ConditionType::Reconciling);
    // kstatus takes this for failed, as it should: somebody must look at it.
    let failed = matches!(state, RequestState::Refused | RequestState::Expired);
    let why = failed.then_some((reason, message.as_str()));
    conditions.set_abnormal(ConditionType::Stalled, why, generation, now);
    status.state = Some(state);
    status.message = Some(message.clone());
    status.completion_time = Some(now);
    let note = if done { Note::normal(reason, message) } else { Note::warning(reason, message) };
    Decision { effects: vec![], status, notes: vec![note], requeue: Some(Duration::ZERO) }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
