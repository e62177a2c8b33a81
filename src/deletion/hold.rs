//! A request from its quorum to the end of its window: disks, backups, quarantine. Pure. `waves`
//! has the purge, `release` the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt;

use super::alerts::cancels;
use super::backups::{backup_is_outdated, backup_of, is_verified, keep_until};
use super::decide::{
    Decision, Effect, Ending, Entity, LOOK_AGAIN, asked_to_end, closed, count_approvals, end,
    judge, seal, short, tell_approvals,
};
use super::gates::{
    Case, GATES, approvals_required, clocks_disagree, stricter, undecided, window_end,
};
use super::held::Edit;
use super::live::{Live, words};
use super::observe::{Facts, SiteFacts};
use super::purge::mark;
use super::{release, waves};
use crate::api::{
    ConditionType, Conditions, Deletion, DeletionPhase, DeletionRequestStatus, EntityPhase, Plan,
    PlanBackup, Progress, Quarantine, Reason, RequestState, RetentionWindow, Time,
};
use crate::cluster::form::digest_of;
use crate::cluster::{Exact, Note};

/// How soon to look again while something is waited for.
pub(super) const SOON: Duration = Duration::from_millis(500);
/// How soon to look again when a gate holds a purge that has begun.
pub(super) const BLOCKED: Duration = Duration::from_secs(2);
/// How soon to take the step after one that was just taken.
pub(super) const NEXT: Duration = Duration::from_millis(20);
/// By how much longer than needed a backup is kept, so that it need not be prolonged for each
/// purge: one day, in seconds.
const KEEP_MARGIN_SECONDS: i64 = 86_400;
/// How many held objects are changed at one look.
const EDITS_MOST: usize = 500;

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
    let ending = release::begun(&status).or_else(|| asked_to_end(facts, &status)).or(changed);
    let ending = ending.or(alert);
    let mut decision = match ending {
        Some(ending) => release::release(&case, status, ending),
        None if state == RequestState::Held => hold(&case, status),
        None => waves::purge(&case, status),
    };
    notes.append(&mut decision.notes);
    decision.notes = notes;
    decision
}

/// Brings the plan's own record up to what is seen: backups, and entities that are gone.
fn follow(facts: &Facts, plan: &mut Plan, now: Time, notes: &mut Vec<Note>) {
    for entity in &mut plan.entities {
        if entity.phase == EntityPhase::Purging && facts.is_gone(entity) {
            entity.phase = EntityPhase::Purged;
            entity.purged_time = Some(now);
            notes.push(Note::normal(Reason::Purged, format!("{} is gone", words(entity))));
        }
        if let Some(live) = facts.live(entity) {
            if let Some(backup) = record(live.site()) {
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

pub(super) fn progress(plan: &Plan) -> Progress {
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

/// Marks, so that reconcilers stand still; keeps the disks; backs up; takes out of service; then
/// lets the window pass.
fn hold(case: &Case<'_>, mut status: DeletionRequestStatus) -> Decision {
    let uid = case.facts.request_uid();
    let (mut effects, mut notes) = (vec![], vec![]);
    let mut all_held = true;
    for live in case.plan.entities.iter().filter_map(|e| case.facts.live(e)) {
        let wanted = held(case);
        let marked = live.deletion_by(&uid);
        all_held &= marked.is_some();
        if marked != Some(&wanted) {
            effects.push(Effect::Hold(target(live), wanted));
        }
    }
    let backed_up = status.conditions.is_true(ConditionType::BackedUp);
    effects.extend(out_of_service(case, backed_up, &mut notes));
    effects.extend(backups(case));
    let mut requeue = LOOK_AGAIN;
    if backed_up && all_held && status.retention.is_none() && clocks_disagree(case).is_none() {
        // The window counts from when every entity was backed up and seen held, not before; and
        // by a clock that is right: one that goes behind would have begun it too early.
        let start_time = case.now.max(case.facts.api_time);
        let end_time = start_time.plus_seconds(case.head.retention_seconds);
        notes.push(Note::normal(Reason::Held, format!("backed up, and held until {end_time}")));
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
    Decision { effects, status, notes, requeue: Some(requeue) }
}

/// What a write to an entity's status is decided on.
pub(super) fn target(live: Live<'_>) -> Entity {
    Entity { namespace: live.namespace(), exact: live.exact() }
}

/// Keeps the disks of what is held and not begun; then, once everything is backed up, takes it out
/// of service. What somebody undoes is done again a few times, which is told.
pub(super) fn out_of_service(
    case: &Case<'_>,
    backed_up: bool,
    notes: &mut Vec<Note>,
) -> Vec<Effect> {
    let uid = case.facts.request_uid();
    let stops = stricter(case).iter().any(|p| p.quarantine == Quarantine::ScaleDown);
    let mut edits: BTreeMap<String, Edit> = BTreeMap::new();
    for (_, live) in undecided(case) {
        // Reconcilers would put back what is changed before they know.
        let Some(live) = live.filter(|live| live.deletion_by(&uid).is_some()) else { continue };
        let site = live.site().site.name_any();
        for held in live.held() {
            let keep = held.keep(&uid, &site).map(|edit| (edit, None));
            let stop = || held.stop(&uid).filter(|_| backed_up && stops);
            if let Some((edit, note)) = keep.or_else(stop) {
                edits.entry(held.exact.uid.clone()).or_insert(edit);
                notes.extend(note);
            }
        }
    }
    edits.into_values().take(EDITS_MOST).map(Effect::Edit).collect()
}

/// The mark of what is held.
pub(super) fn held(case: &Case<'_>) -> Deletion {
    let request = &case.facts.request;
    let mut mark = mark(&request.name_any(), &case.facts.request_uid(), DeletionPhase::Held);
    mark.retention_end_time = case.retention.as_ref().map(|window| window_end(case, window));
    mark
}

/// What is missing of the backups.
pub(super) fn backups(case: &Case<'_>) -> Vec<Effect> {
    let uid = case.facts.request_uid();
    let mut effects: Vec<Effect> = vec![];
    for entity in &case.plan.entities {
        if matches!(entity.phase, EntityPhase::Purged | EntityPhase::Released) {
            continue;
        }
        let Some(live) = case.facts.live(entity).filter(|live| !live.has_started(entity)) else {
            continue;
        };
        // Disks first: the backup is to show them kept.
        if live.held().any(|h| h.keep(&uid, &entity.name).is_some()) {
            continue;
        }
        let keep = keep_until(case);
        let site = live.site();
        match backup_of(site) {
            Some(backup) if !backup_is_outdated(live) => {
                if is_verified(backup) && backup.spec.keep_until_time.is_none_or(|t| t < keep) {
                    let until = keep.plus_seconds(KEEP_MARGIN_SECONDS);
                    effects.push(Effect::KeepLonger { backup: Exact::of(backup), until });
                }
            }
            _ => effects.push(Effect::CreateBackup {
                name: backup_name(site, &uid),
                site: site.site.name_any(),
                keep_until: keep
                    .plus_seconds(case.head.retention_seconds)
                    .plus_seconds(KEEP_MARGIN_SECONDS),
            }),
        }
    }
    // Apps of one Site share its backup.
    let mut seen = BTreeSet::new();
    effects.retain(|effect| match effect {
        Effect::CreateBackup { name, .. } => seen.insert(name.clone()),
        Effect::KeepLonger { backup, .. } => seen.insert(backup.name.clone()),
        _ => true,
    });
    effects
}

/// The name of the next backup of a Site for a request: the same after a crash, so that no second
/// one is made.
fn backup_name(site: &SiteFacts, request_uid: &str) -> String {
    let digest = digest_of(format!("{request_uid}/{}", site.uid()).as_bytes());
    let short = digest.trim_start_matches("sha256:").get(..10).unwrap_or_default();
    format!("{}-{short}-{}", site.site.name_any(), site.backups.len() + 1)
}

/// Reason and message of the first gate that is not open.
pub(super) fn first_closed(status: &DeletionRequestStatus) -> Option<(Reason, String)> {
    GATES.iter().find_map(|(type_, _)| closed(status, *type_))
}

/// `Reconciling` while something is done, absent while people or the window are waited for (or
/// GitOps tools would wait for days); `Stalled` with what holds a purge.
pub(super) fn working(
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
