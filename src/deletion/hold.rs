//! A request from its quorum to its end: backups, hold, window, purge, release. Pure.

use std::time::Duration;

use kube::ResourceExt;

use super::alerts::cancels;
use super::backups::{backup_is_outdated, backup_of, is_verified, keep_until};
use super::decide::{
    Decision, Effect, Ending, LOOK_AGAIN, asked_to_end, closed, count_approvals, end, judge,
    record_rejections, seal, short, tell_approvals,
};
use super::gates::{
    Case, GATES, approvals_required, clocks_disagree, finish, has_started, permit, reserve,
    undecided, window_end,
};
use super::observe::{Facts, SiteFacts, next_entity};
use super::purge::{Next, mark, next};
use crate::api::{
    ConditionStatus, ConditionType, Conditions, Deletion, DeletionPhase, DeletionRequestStatus,
    EntityPhase, Plan, PlanBackup, PlanEntity, Progress, Reason, RequestState, RetentionWindow,
    Time, names,
};
use crate::cluster::form::digest_of;
use crate::cluster::{Exact, Note};

/// How soon to look again while something is waited for.
const SOON: Duration = Duration::from_millis(500);
/// How soon to look again when a gate holds a purge that has begun.
const BLOCKED: Duration = Duration::from_secs(2);
/// How soon to take the step after one that was just taken.
const NEXT: Duration = Duration::from_millis(20);
/// By how much longer than needed a backup is kept, so that it need not be prolonged for each
/// purge: one day, in seconds.
const KEEP_MARGIN_SECONDS: i64 = 86_400;

/// Decides about a request that was approved.
pub(super) fn decide(facts: &Facts, mut status: DeletionRequestStatus, now: Time) -> Decision {
    let Some((mut plan, mut head)) =
        status.plan.clone().and_then(|p| p.head.clone().map(|h| (p, h)))
    else {
        let message = "the status lost its plan: nothing can be decided".to_owned();
        let ending =
            Ending { state: RequestState::Cancelled, reason: Reason::PlanChanged, message };
        return end(facts, status, ending, now);
    };
    let mut notes = vec![];
    // A guard that was changed meanwhile: whoever approved must do it again, on a new digest, so
    // that no approval that was forged in between can count. The hold goes on.
    if facts.guard.problems.is_empty() && facts.guard.fingerprint != head.guard {
        head.guard.clone_from(&facts.guard.fingerprint);
        let new = seal(facts, &mut head, &plan.entities);
        plan.head = Some(head.clone());
        notes.push(Note::warning(
            Reason::GuardChanged,
            format!("the guard was changed while the request was open: its approvals are void; the digest is {new} now"),
        ));
        plan.digest = Some(new);
    }
    let digest = plan.digest.clone().unwrap_or_default();
    let (approvals, remarks) = count_approvals(facts, &status, &digest, now);
    notes.extend(tell_approvals(&status.approvals, &approvals));
    status.approvals = approvals.clone();
    follow(facts, &mut plan, now, &mut notes);
    let state = status.state.unwrap_or(RequestState::Held);
    let case = Case {
        facts,
        plan: &plan,
        head: &head,
        state,
        approvals: &approvals,
        remarks: &remarks,
        retention: status.retention.clone(),
        now,
    };
    status.approvals_required = Some(approvals_required(&case));
    status.plan = Some(plan.clone());
    status.progress = Some(progress(&plan));
    notes.extend(judge(&case, &mut status));
    let changed = closed(&status, ConditionType::ScopeValid).map(|(reason, message)| Ending {
        state: RequestState::Cancelled,
        reason,
        message,
    });
    // What is past its point of no return is finished, alert or not.
    let alert = cancels(&case).filter(|_| undecided(&case).next().is_some());
    let alert = alert.map(|message| Ending {
        state: RequestState::Cancelled,
        reason: Reason::CancelledByAlert,
        message: format!("cancelled, because {message}"),
    });
    let ending = begun(&status).or_else(|| asked_to_end(facts, &status)).or(changed).or(alert);
    let mut decision = match ending {
        Some(ending) => release(&case, status, ending),
        None if state == RequestState::Held => hold(&case, status),
        None => purge(&case, status),
    };
    notes.append(&mut decision.notes);
    decision.notes = notes;
    decision
}

/// Brings the plan's own record up to what is seen: backups, and entities that are gone.
fn follow(facts: &Facts, plan: &mut Plan, now: Time, notes: &mut Vec<Note>) {
    for entity in &mut plan.entities {
        if entity.phase == EntityPhase::Purging && facts.live(entity).is_none() {
            entity.phase = EntityPhase::Purged;
            entity.purged_time = Some(now);
            notes.push(Note::normal(Reason::Purged, format!("Site {} is gone", entity.name)));
        }
        if let Some(live) = facts.live(entity) {
            if let Some(backup) = record(live) {
                entity.backup = Some(backup);
            }
            let held = live.deletion_by(&facts.request_uid()).is_some();
            if entity.phase == EntityPhase::Planned && held {
                entity.phase = EntityPhase::Held;
            }
        }
    }
}

fn record(live: &SiteFacts) -> Option<PlanBackup> {
    let backup = backup_of(live).filter(|b| is_verified(b))?;
    let status = backup.status.as_ref()?;
    Some(PlanBackup {
        name: backup.name_any(),
        location: status.location.clone()?,
        digest: status.digest.clone()?,
        objects: status.objects.unwrap_or_default(),
        keep_until_time: backup.spec.keep_until_time,
    })
}

fn progress(plan: &Plan) -> Progress {
    let count = |phase| {
        let all = plan.entities.iter().filter(|e| e.phase == phase).count();
        i64::try_from(all).unwrap_or(i64::MAX)
    };
    Progress {
        total: i64::try_from(plan.entities.len()).unwrap_or(i64::MAX),
        purged: count(EntityPhase::Purged),
        released: count(EntityPhase::Released),
    }
}

/// Backs up, then holds, then lets the window pass.
fn hold(case: &Case<'_>, mut status: DeletionRequestStatus) -> Decision {
    let mut effects = backups(case);
    let uid = case.facts.request_uid();
    let backed_up = status.conditions.is_true(ConditionType::BackedUp);
    let mut all_held = true;
    if backed_up {
        for live in case.plan.entities.iter().filter_map(|e| case.facts.live(e)) {
            let wanted = held(case);
            let marked = live.deletion_by(&uid);
            all_held &= marked.is_some();
            if marked != Some(&wanted) {
                effects.push(Effect::Hold { site: Exact::of(&live.site), deletion: wanted });
            }
        }
    }
    let mut requeue = LOOK_AGAIN;
    if backed_up && all_held && status.retention.is_none() && clocks_disagree(case).is_none() {
        // The window counts from when every entity was backed up and seen held, not before; and
        // by a clock that is right: one that goes behind would have begun it too early.
        let start_time = case.now.max(case.facts.api_time);
        let end_time = start_time.plus_seconds(case.head.retention_seconds);
        status.retention = Some(RetentionWindow { start_time, end_time });
        requeue = Duration::ZERO;
    }
    let missing = first_closed(&status);
    match &missing {
        None => {
            status.state = Some(RequestState::Purging);
            requeue = Duration::ZERO;
        }
        Some(_) if !effects.is_empty() || !backed_up => requeue = SOON,
        Some(_) => {
            if let Some(window) = &status.retention {
                let left = window_end(case, window).seconds_since(case.now).max(1);
                requeue = requeue.min(Duration::from_secs(left.unsigned_abs()));
            }
        }
    }
    status.message = Some(match missing {
        Some((_, message)) => short(&message),
        None => "every gate is open; the purge begins".to_owned(),
    });
    working(case, &mut status, !effects.is_empty() || !backed_up, None);
    Decision { effects, status, notes: vec![], requeue: Some(requeue) }
}

/// The mark of a Site that is held.
fn held(case: &Case<'_>) -> Deletion {
    let request = &case.facts.request;
    let mut mark = mark(&request.name_any(), &case.facts.request_uid(), DeletionPhase::Held);
    mark.retention_end_time = case.retention.as_ref().map(|window| window_end(case, window));
    mark
}

/// What is missing of the backups.
fn backups(case: &Case<'_>) -> Vec<Effect> {
    let mut effects = vec![];
    for entity in &case.plan.entities {
        if matches!(entity.phase, EntityPhase::Purged | EntityPhase::Released) {
            continue;
        }
        let Some(live) = case.facts.live(entity).filter(|live| !has_started(entity, live)) else {
            continue;
        };
        let keep = keep_until(case);
        match backup_of(live) {
            Some(backup) if !backup_is_outdated(live) => {
                if is_verified(backup) && backup.spec.keep_until_time.is_none_or(|t| t < keep) {
                    let until = keep.plus_seconds(KEEP_MARGIN_SECONDS);
                    effects.push(Effect::KeepLonger { backup: Exact::of(backup), until });
                }
            }
            _ => effects.push(Effect::CreateBackup {
                name: backup_name(entity, &case.facts.request_uid(), live.backups.len() + 1),
                site: entity.name.clone(),
                keep_until: keep
                    .plus_seconds(case.head.retention_seconds)
                    .plus_seconds(KEEP_MARGIN_SECONDS),
            }),
        }
    }
    effects
}

/// The name of the n-th backup of an entity for a request: the same after a crash, so that no
/// second one is made.
fn backup_name(entity: &PlanEntity, request_uid: &str, n: usize) -> String {
    let digest = digest_of(format!("{request_uid}/{}", entity.uid).as_bytes());
    let short = digest.trim_start_matches("sha256:").get(..10).unwrap_or_default();
    format!("{}-{short}-{n}", entity.name)
}

/// Purges the next entity, or goes on with the one that was begun.
fn purge(case: &Case<'_>, mut status: DeletionRequestStatus) -> Decision {
    let Some(entity) = next_entity(&case.plan.entities) else {
        let purged = status.progress.as_ref().map_or(0, |p| p.purged);
        let message = format!(
            "{purged} Sites deleted; to bring them back, create a Restore with spec.source.deletionRequestRef.name: {}",
            case.facts.request.name_any()
        );
        let ending = Ending { state: RequestState::Completed, reason: Reason::Purged, message };
        return end(case.facts, status, ending, case.now);
    };
    let mut effects = vec![];
    let mut stalled = None;
    let mut message = None;
    let mut wait = SOON;
    if let Some(live) = case.facts.live(entity) {
        if has_started(entity, live) {
            (effects, message, stalled) = go_on(case, entity, live);
        } else {
            effects = backups(case);
            match permit(case, entity) {
                Some(token) => match step_after(case, entity, live) {
                    Next::Steps(steps) => {
                        // What begins is recorded before anything goes: a Site that is gone and
                        // was never recorded as begun was taken by somebody else.
                        let recorded = entity.phase == EntityPhase::Purging;
                        let steps = steps.into_iter().filter(|s| recorded || !s.is_delete());
                        effects.extend(steps.map(|step| Effect::Purge(token.clone(), step)));
                        set_phase(&mut status, entity, EntityPhase::Purging);
                    }
                    Next::Wait(why) => message = Some(why),
                    Next::Stalled(why) => stalled = Some(why),
                },
                None if let Some(place) = reserve(case, entity) => effects.push(place),
                None => {
                    let closed = first_closed(&status);
                    wait = if matches!(closed, Some((Reason::RollingLimitReached, _))) {
                        LOOK_AGAIN
                    } else {
                        BLOCKED
                    };
                    message = closed.map(|(_, why)| why);
                    let uid = case.facts.request_uid();
                    let begun =
                        live.deletion_by(&uid).is_some_and(|d| d.phase == DeletionPhase::Purging);
                    if begun {
                        // A gate closed before the point of no return: back to held, as which the
                        // site can also be backed up anew.
                        let deletion = held(case);
                        effects = vec![Effect::Hold { site: Exact::of(&live.site), deletion }];
                        set_phase(&mut status, entity, EntityPhase::Held);
                    }
                }
            }
        }
    }
    let progress = status.progress.clone().unwrap_or_default();
    let doing =
        format!("{} of {} Sites purged; Site {}", progress.purged, progress.total, entity.name);
    status.message = Some(match stalled.as_ref().or(message.as_ref()) {
        Some(why) => format!("{doing}: {}", short(why)),
        None => doing,
    });
    working(case, &mut status, true, stalled);
    let requeue = if effects.is_empty() { wait } else { NEXT };
    Decision { effects, status, notes: vec![], requeue: Some(requeue) }
}

fn step_after(case: &Case<'_>, entity: &PlanEntity, live: &SiteFacts) -> Next {
    next(entity, live, &case.facts.request.name_any(), &case.facts.request_uid())
}

type Progressed = (Vec<Effect>, Option<String>, Option<String>);

/// The next steps of an entity past its point of no return: effects, what is waited for, and what
/// holds it.
fn go_on(case: &Case<'_>, entity: &PlanEntity, live: &SiteFacts) -> Progressed {
    let Some(token) = finish(case, entity) else {
        let why =
            format!("something of Site {} is being deleted, and not by this request", entity.name);
        return (vec![], None, Some(why));
    };
    match step_after(case, entity, live) {
        Next::Steps(steps) => {
            let effects = steps.into_iter().map(|step| Effect::Purge(token.clone(), step));
            (effects.collect(), None, None)
        }
        Next::Wait(why) => (vec![], Some(why), None),
        Next::Stalled(why) => (vec![], None, Some(why)),
    }
}

fn set_phase(status: &mut DeletionRequestStatus, entity: &PlanEntity, phase: EntityPhase) {
    let entities = status.plan.iter_mut().flat_map(|plan| &mut plan.entities);
    for found in entities.filter(|e| e.uid == entity.uid) {
        found.phase = phase;
    }
}

/// The ending that the status has recorded: once begun it is gone through with, whatever becomes
/// of its cause. A rejection's annotation can be wiped, and a plan that had changed can fit again.
fn begun(status: &DeletionRequestStatus) -> Option<Ending> {
    let (reason, message) = closed(status, ConditionType::Succeeded)?;
    let rejected = reason == Reason::Rejected;
    let state = if rejected { RequestState::Refused } else { RequestState::Cancelled };
    Some(Ending { state, reason, message })
}

/// Releases what still exists, finishes what was begun, and then ends the request.
fn release(case: &Case<'_>, mut status: DeletionRequestStatus, ending: Ending) -> Decision {
    let uid = case.facts.request_uid();
    let mut effects = vec![];
    let mut left = 0;
    let mut stalled = None;
    for entity in &case.plan.entities {
        let Some(live) = case.facts.live(entity) else { continue };
        if entity.phase == EntityPhase::Purging && has_started(entity, live) {
            let (more, _, held) = go_on(case, entity, live);
            effects.extend(more);
            stalled = stalled.or(held);
            left += 1;
        } else if is_marked(live, &uid) {
            effects.push(Effect::Release { site: entity.name.clone(), uid: entity.uid.clone() });
            left += 1;
        } else if entity.phase != EntityPhase::Purged {
            set_phase(&mut status, entity, EntityPhase::Released);
        }
    }
    if left == 0 {
        status.progress = status.plan.as_ref().map(progress);
        let p = status.progress.clone().unwrap_or_default();
        let tail = if p.purged == 0 {
            "nothing was deleted".to_owned()
        } else {
            format!("{} Sites had been deleted, which a Restore brings back", p.purged)
        };
        let message = format!("{}; {} Sites released, {tail}", ending.message, p.released);
        // Refused says that nothing was deleted.
        let state = if p.purged == 0 { ending.state } else { RequestState::Cancelled };
        return end(case.facts, status, Ending { state, message, ..ending }, case.now);
    }
    status.message = Some(format!("{}; {left} Sites still to release or finish", ending.message));
    working(case, &mut status, true, stalled);
    let mut requeue = SOON;
    if begun(&status).is_none() {
        // The ending is recorded before the first release, so that nothing is held again.
        let generation = case.facts.request.metadata.generation;
        let Ending { reason, message, .. } = ending;
        let fails = ConditionStatus::False;
        let type_ = ConditionType::Succeeded;
        status.conditions.set(type_, fails, reason, message, generation, case.now);
        record_rejections(case.facts, &mut status);
        effects.clear();
        requeue = Duration::ZERO;
    }
    Decision { effects, status, notes: vec![], requeue: Some(requeue) }
}

/// Whether the Site, a namespace or an App bears a mark of this request.
fn is_marked(live: &SiteFacts, request_uid: &str) -> bool {
    let purge = names::ANNOTATION_PURGE;
    live.deletion_by(request_uid).is_some()
        || live
            .namespaces
            .iter()
            .any(|n| n.annotations().get(purge).is_some_and(|u| u == request_uid))
        || live.apps.iter().any(|a| {
            let deletion = a.status.as_ref().and_then(|s| s.deletion.as_ref());
            deletion.is_some_and(|d| d.request_uid == request_uid)
        })
}

/// Reason and message of the first gate that is not open.
fn first_closed(status: &DeletionRequestStatus) -> Option<(Reason, String)> {
    GATES.iter().find_map(|(type_, _)| closed(status, *type_))
}

/// `Reconciling` while something is done, absent while people or the window are waited for (or
/// GitOps tools would wait for days); `Stalled` with what holds a purge.
fn working(
    case: &Case<'_>,
    status: &mut DeletionRequestStatus,
    busy: bool,
    stalled: Option<String>,
) {
    let generation = case.facts.request.metadata.generation;
    let message = status.message.clone().unwrap_or_default();
    let working = (busy && stalled.is_none()).then_some((Reason::Progressing, message.as_str()));
    let stalled = stalled.as_deref().map(|why| (Reason::Stalled, why));
    let conditions = &mut status.conditions;
    conditions.set_abnormal(ConditionType::Reconciling, working, generation, case.now);
    conditions.set_abnormal(ConditionType::Stalled, stalled, generation, case.now);
}
