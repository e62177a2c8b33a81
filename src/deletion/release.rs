//! The way back: everything that still exists is released, as it was. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decide::{Decision, Effect, Ending, closed, end, record_rejections};
use super::gates::Case;
use super::held::Edit;
use super::hold::{SOON, held, progress, target, working};
use super::live::Live;
use super::waves::{go_on, set_phase};
use crate::api::{
    ConditionStatus, ConditionType, Conditions, DeletionPhase, DeletionRequestStatus, EntityPhase,
    Reason, RequestState,
};
use crate::cluster::Note;

/// The ending that the status has recorded: once begun it is gone through with, whatever becomes
/// of its cause. A rejection's annotation can be wiped, and a plan that had changed can fit again.
pub(super) fn begun(status: &DeletionRequestStatus) -> Option<Ending> {
    let (reason, message) = closed(status, ConditionType::Succeeded)?;
    let rejected = reason == Reason::Rejected;
    let state = if rejected { RequestState::Refused } else { RequestState::Cancelled };
    Some(Ending { state, reason, message })
}

/// Releases what still exists, finishes what was begun, and then ends the request.
pub(super) fn release(
    case: &Case<'_>,
    mut status: DeletionRequestStatus,
    ending: Ending,
) -> Decision {
    let uid = case.facts.request_uid();
    let kind = case.facts.request.spec.target.kind;
    let (mut effects, mut notes) = (vec![], vec![]);
    let mut left = 0;
    let mut stalled = None;
    for entity in &case.plan.entities {
        let Some(live) = case.facts.live(entity) else { continue };
        if entity.phase == EntityPhase::Purging && live.has_started(entity) {
            let (more, _, held) = go_on(case, entity, live);
            effects.extend(more);
            stalled = stalled.or(held);
            left += 1;
            continue;
        }
        // Back to held first: a DELETE of it that is still on its way must meet a conflict before a
        // disk gets back the policy under which it would go.
        if live.deletion_by(&uid).is_some_and(|d| d.phase == DeletionPhase::Purging) {
            effects.push(Effect::Hold(target(live), held(case)));
            // Not before it is done: see below.
            if begun(&status).is_some() {
                set_phase(&mut status, entity, EntityPhase::Held);
            }
            left += 1;
            continue;
        }
        // What it was comes first and the marks last: until then reconcilers stand still, and a
        // crash in between is seen.
        let edits = put_back(live, &uid, &mut notes);
        if !edits.is_empty() {
            effects.extend(edits);
            left += 1;
        } else if live.is_marked(&uid) {
            effects.push(Effect::Release(target(live)));
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
            format!("{} {kind}s had been deleted, which a Restore brings back", p.purged)
        };
        let message = format!("{}; {} {kind}s released, {tail}", ending.message, p.released);
        // Refused says that nothing was deleted.
        let state = if p.purged == 0 { ending.state } else { RequestState::Cancelled };
        return end(case.facts, status, Ending { state, message, ..ending }, case.now);
    }
    status.message = Some(format!("{}; {left} {kind}s still to release or finish", ending.message));
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
        notes.clear();
        requeue = Duration::ZERO;
    }
    Decision { effects, status, notes, requeue: Some(requeue) }
}

/// What takes the hold's own edits out of an entity. Copies of records go once no record is left
/// from which a controller could copy again.
fn put_back(live: Live<'_>, request_uid: &str, notes: &mut Vec<Note>) -> Vec<Effect> {
    let mut edits: BTreeMap<&str, Edit> = BTreeMap::new();
    for held in live.held() {
        if let Some((edit, note)) = held.let_go(request_uid) {
            edits.insert(&held.exact.uid, edit);
            notes.extend(note);
        }
    }
    if edits.is_empty() {
        let copies = live.copies().filter_map(|c| Some((&*c.exact.uid, c.let_go(request_uid)?.0)));
        edits.extend(copies);
    }
    edits.into_values().map(Effect::Edit).collect()
}
