//! What to say of what became of an App: pure.

use std::time::Duration;

use super::contest;
use super::decide::Plan;
use super::observe::Facts;
use crate::api::{
    AppState, AppStatus, AppliedObject, ConditionStatus, ConditionType, Conditions,
    ManifestFailure, Reason, Time,
};
use crate::cluster::Note;

/// Failures that the status has.
const FAILURES: usize = 50;
/// Failures, and objects that are waited for, that a condition names.
const NAMED: usize = 3;
/// Seconds until what failed is tried again.
const RETRY: u64 = 15;

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// It is there; whether it is ready, by its own status.
    Done {
        /// What to record.
        object: AppliedObject,
        /// What somebody had changed, and was put back, in words.
        put_back: Option<String>,
    },
    /// It was refused.
    Failed(ManifestFailure),
    /// It is left alone, because somebody changes it again and again.
    LeftAlone {
        /// What to record.
        object: AppliedObject,
        /// Until when.
        until: Time,
        /// What is changed, and by whom.
        what: String,
    },
}

/// What to say of what was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status as it should be.
    pub status: AppStatus,
    /// What to tell.
    pub notes: Vec<Note>,
    /// When to look again, if nothing changes before. None: not at all.
    pub requeue: Option<Duration>,
}

struct Verdict {
    state: AppState,
    reason: Reason,
    message: String,
    requeue: Option<u64>,
}

/// Says what became of the App.
pub fn conclude(facts: &Facts, plan: &Plan, applied: &[Applied], now: Time) -> Decision {
    let mut status = facts.app.status.clone().unwrap_or_default();
    let generation = facts.app.metadata.generation;
    status.observed_generation = generation;
    let mut notes = vec![];
    let verdict = match plan {
        Plan::StandStill { state, reason, message } => {
            Verdict { state: *state, reason: *reason, message: message.clone(), requeue: Some(60) }
        }
        Plan::Refuse { reason, message } => {
            status.failures = vec![];
            Verdict {
                state: AppState::Degraded,
                reason: *reason,
                message: message.clone(),
                requeue: Some(60),
            }
        }
        Plan::Apply(steps) => {
            let mut failures = steps.failures.clone();
            failures.extend(applied.iter().filter_map(|a| match a {
                Applied::Failed(failure) => Some(failure.clone()),
                Applied::Done { .. } | Applied::LeftAlone { .. } => None,
            }));
            failures.sort_by_key(|f| f.index);
            notes.extend(put_back(applied));
            notes.extend(orphaned(&status.objects, &steps.orphans));
            status.objects = record(&status.objects, applied, &steps.failures, &steps.orphans);
            let verdict = judge(applied, &failures, &steps.orphans, now);
            failures.truncate(FAILURES);
            status.failures = failures;
            verdict
        }
    };
    let Verdict { state, reason, message, requeue } = verdict;
    status.state = Some(state);
    let ready = state == AppState::Active && reason == Reason::Ready;
    let ready = if ready { ConditionStatus::True } else { ConditionStatus::False };
    let conditions = &mut status.conditions;
    let old = conditions.get(ConditionType::Ready).map(|c| (c.reason.clone(), c.message.clone()));
    conditions.set(ConditionType::Ready, ready, reason, message.clone(), generation, now);
    let why = |present: bool| present.then_some((reason, message.as_str()));
    let waiting = matches!(reason, Reason::ObjectsNotReady | Reason::Progressing);
    let still = matches!(plan, Plan::StandStill { .. });
    let stalled = !(waiting || still || reason == Reason::Ready);
    conditions.set_abnormal(ConditionType::Stalled, why(stalled), generation, now);
    conditions.set_abnormal(ConditionType::Reconciling, why(waiting), generation, now);
    let changed = old.as_ref().is_none_or(|(r, _)| r != reason.as_str());
    // The alarm of a delete past the guard is given by `recreate`, which no crash keeps from it.
    if changed && stalled {
        notes.push(Note::warning(reason, message));
    } else if changed && reason == Reason::Ready && was_wrong(old.as_ref().map(|(r, _)| r.as_str()))
    {
        notes.push(Note::normal(reason, message));
    }
    Decision { status, notes, requeue: requeue.map(Duration::from_secs) }
}

/// Whether this reason was worth an event: that it is over is then worth one as well. That a new
/// App became ready its conditions tell; an event for each of a fleet is noise.
fn was_wrong(reason: Option<&str>) -> bool {
    let ordinary = [Reason::ObjectsNotReady, Reason::Progressing, Reason::NoSite];
    reason.is_some_and(|reason| !ordinary.iter().any(|r| r.as_str() == reason))
}

fn put_back(applied: &[Applied]) -> Vec<Note> {
    applied
        .iter()
        .filter_map(|a| match a {
            Applied::Done { object, put_back: Some(what) } => {
                let note = format!("{} {}: {what}; it was put back", object.kind, object.name);
                Some(Note::warning(Reason::DriftCorrected, note))
            }
            _ => None,
        })
        .collect()
}

/// Tells what left the manifests now.
fn orphaned(before: &[AppliedObject], orphans: &[AppliedObject]) -> Option<Note> {
    let known = |o: &&AppliedObject| before.iter().any(|b| b.orphaned && b.uid == o.uid);
    let new: Vec<&AppliedObject> = orphans.iter().filter(|o| !known(o)).collect();
    (!new.is_empty()).then(|| {
        let note = format!(
            "{} left spec.manifests and stay as they are: {}; delete them by hand if they are not needed",
            count(new.len(), "object"),
            names(new.iter().copied())
        );
        Note::normal(Reason::Orphaned, note)
    })
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn names<'a>(objects: impl Iterator<Item = &'a AppliedObject>) -> String {
    let all: Vec<String> = objects.map(|o| format!("{} {}", o.kind, o.name)).collect();
    some(&all, ", ")
}

/// The first few of these, and how many more there are.
fn some(all: &[String], between: &str) -> String {
    let first = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(between);
    match all.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first}{between}and {more} more"),
    }
}

/// What the App owns: what was applied now, and what was applied before and could not be this
/// time: that is still the App's.
fn record(
    before: &[AppliedObject],
    applied: &[Applied],
    invalid: &[ManifestFailure],
    orphans: &[AppliedObject],
) -> Vec<AppliedObject> {
    let still = |failure: &ManifestFailure| {
        let same = |o: &&AppliedObject| o.kind == failure.kind && o.name == failure.name;
        // Not that in whose place somebody else's is.
        let own = failure.reason != Reason::NotOwned.as_str();
        before.iter().filter(|_| own).find(same).cloned()
    };
    let mut all: Vec<AppliedObject> = applied
        .iter()
        .filter_map(|a| match a {
            Applied::Done { object, .. } | Applied::LeftAlone { object, .. } => {
                Some(object.clone())
            }
            Applied::Failed(failure) => still(failure),
        })
        .collect();
    for object in invalid.iter().filter_map(still).chain(orphans.iter().cloned()) {
        if !all.iter().any(|known| known.uid == object.uid) {
            all.push(object);
        }
    }
    all
}

fn judge(
    applied: &[Applied],
    failures: &[ManifestFailure],
    orphans: &[AppliedObject],
    now: Time,
) -> Verdict {
    let degraded =
        |reason, message, requeue| Verdict { state: AppState::Degraded, reason, message, requeue };
    let invalid = |f: &ManifestFailure| f.reason == Reason::InvalidManifest.as_str();
    let total = applied.len() + failures.iter().filter(|f| invalid(f)).count();
    if let Some(first) = failures.first() {
        let all: Vec<String> =
            failures.iter().map(|f| format!("manifests[{}]: {}", f.index, f.message)).collect();
        let message = format!("{} of {total} objects not applied; {}", all.len(), some(&all, "; "));
        let reason = Reason::ALL.iter().find(|r| r.as_str() == first.reason);
        return degraded(reason.copied().unwrap_or(Reason::ApplyFailed), message, Some(RETRY));
    }
    let contested = applied.iter().filter_map(|a| match a {
        Applied::LeftAlone { object, until, what } => Some((object, *until, what)),
        _ => None,
    });
    if let Some((object, until, what)) = contested.min_by_key(|(_, until, _)| *until) {
        let message = format!(
            "{} {}: {what}, {} times in {} minutes; it is left alone until {until}. If somebody else decides on it, leave it out of spec.manifests",
            object.kind,
            object.name,
            contest::LIMIT,
            contest::WINDOW / 60
        );
        let seconds = until.seconds_since(now).max(1).unsigned_abs();
        return degraded(Reason::FieldContested, message, Some(seconds));
    }
    let waiting: Vec<String> = applied
        .iter()
        .filter_map(|a| match a {
            Applied::Done { object, .. } => object
                .waiting_for
                .as_ref()
                .map(|why| format!("{} {}: {why}", object.kind, object.name)),
            _ => None,
        })
        .collect();
    if !waiting.is_empty() {
        let message =
            format!("{} of {total} objects not ready; {}", waiting.len(), some(&waiting, "; "));
        return degraded(Reason::ObjectsNotReady, message, None);
    }
    let left = if orphans.is_empty() {
        String::new()
    } else {
        format!("; left spec.manifests and stay: {}", names(orphans.iter()))
    };
    Verdict {
        state: AppState::Active,
        reason: Reason::Ready,
        message: format!("{} applied and ready{left}", count(total, "object")),
        requeue: None,
    }
}

#[cfg(test)]
#[path = "conclude_tests.rs"]
mod tests;
