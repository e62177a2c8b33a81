//! What to do about a Restore, and what to say of it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::{
    Backup, Condition, ConditionStatus, ConditionType, Conditions, DeletionRequest, EstimateBasis,
    ObjectCounts, PlanBackup, Reason, Restore, RestoreFailure, RestoreStatus, SiteCounts,
    StageEstimate, Time, VerifiedSite,
};
use crate::cluster::Note;

use super::catalogue::Unchosen;
use super::choose::Choice;
use super::estimate::{Estimate, Promise};
use super::part::{AppPart, DrillPart};
use super::source::{self, Source};

/// What a decision about a Restore is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The Restore.
    pub restore: Restore,
    /// The DeletionRequest that it names, if it is there.
    pub request: Option<DeletionRequest>,
    /// The Backups that it names, in that order; None: it is not there.
    pub backups: Vec<(String, Option<Backup>)>,
    /// What it takes from the store's catalogue, if it does.
    pub choice: Option<Result<Choice, Unchosen>>,
    /// What came of the DeletionPolicies, where they are restored too.
    pub policies: Vec<RestoreFailure>,
}

impl Facts {
    /// Of a Restore that names nothing else.
    pub fn of(restore: Restore) -> Self {
        Self { restore, request: None, backups: vec![], choice: None, policies: vec![] }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing but to say how it stands.
    Report(Box<Decision>),
    /// Sites are to be restored.
    Work {
        /// Which.
        jobs: Vec<Job>,
        /// What is named and cannot be restored, whatever becomes of the others.
        failed: Vec<Standing>,
    },
}

/// A site that is to be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Name of the Site.
    pub name: String,
    /// UID that the Site had.
    pub old_uid: String,
    /// The platform's id of the Site.
    pub id: String,
    /// From where.
    pub backup: PlanBackup,
    /// What was verified before, in this very Restore, and does not say so itself.
    pub verified: Option<VerifiedSite>,
    /// Only this App of the site, which lives; then `name` is the App's, as `namespace/name`.
    pub app: Option<AppPart>,
    /// It is restored into scratch namespaces, for a drill; no Site is created, marked or told.
    pub drill: Option<DrillPart>,
}

impl Job {
    /// Name of the Site whose archive it is.
    pub fn site(&self) -> &str {
        let app = self.app.as_ref().map(|part| &part.site);
        app.or(self.drill.as_ref().map(|part| &part.site)).unwrap_or(&self.name)
    }

    /// Whether it is a whole site in its own place, which says itself how it stands.
    pub fn is_site(&self) -> bool {
        self.app.is_none() && self.drill.is_none()
    }
}

/// How a site of a Restore stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Name of the Site.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// Objects that are to be restored.
    pub total: i64,
    /// Objects that are there again.
    pub done: i64,
    /// What is not as it was, and may be so.
    pub notices: Vec<RestoreFailure>,
}

/// How far a site of a Restore is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    Queued,
    /// Begun; it waits for this, if it waits.
    Restoring(Option<(Reason, String)>),
    /// Read back and equal, and given back.
    Verified(VerifiedSite),
    /// It cannot be restored by this Restore.
    Failed(Vec<RestoreFailure>),
}

/// What to write down and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The Restore's status.
    pub status: RestoreStatus,
    /// Events.
    pub notes: Vec<Note>,
    /// When to look again. None: the Restore has ended.
    pub requeue: Option<Duration>,
}

/// How long to wait for a request that still deletes.
const OPEN_REQUEST: Duration = Duration::from_secs(10);
/// How long to wait before looking again at sites that are not ready yet.
const NOT_READY: Duration = Duration::from_secs(2);
/// At most this many failures and notices are written down.
const MOST: usize = 100;

/// What to do about this Restore.
pub fn decide(facts: &Facts, now: Time) -> Step {
    let old = facts.restore.status.clone().unwrap_or_default();
    if facts.restore.has_ended() {
        return Step::Report(Box::new(Decision { status: old, notes: vec![], requeue: None }));
    }
    match source::of(facts) {
        Source::Refused(reason, message) => {
            Step::Report(Box::new(refused(facts, reason, message, now)))
        }
        Source::Waits(reason, message) => {
            Step::Report(Box::new(waits(facts, reason, message, now)))
        }
        Source::Sites { jobs, failed } => Step::Work { jobs, failed },
    }
}

/// What to say of a Restore whose sites stand so.
pub fn report(
    facts: &Facts,
    sites: &[Standing],
    estimate: Option<&Estimate>,
    now: Time,
) -> Decision {
    let old = facts.restore.status.clone().unwrap_or_default();
    let mut status = RestoreStatus {
        observed_generation: facts.restore.metadata.generation,
        conditions: old.conditions.clone(),
        start_time: old.start_time.or(Some(now)),
        verified_sites: old.verified_sites.clone(),
        drill_hooks: old.drill_hooks.clone(),
        notices: source::notices(facts),
        ..Default::default()
    };
    let mut counts = SiteCounts { total: len(sites), ..Default::default() };
    let mut objects = ObjectCounts::default();
    let mut waiting = None;
    for site in sites {
        objects.total += site.total;
        objects.done += site.done.min(site.total);
        status.notices.extend(site.notices.iter().cloned());
        match &site.phase {
            Phase::Queued => counts.queued += 1,
            Phase::Restoring(why) => {
                counts.restoring += 1;
                waiting = waiting.or(why
                    .as_ref()
                    .map(|(reason, why)| (*reason, format!("site {}: {why}", site.name))));
            }
            Phase::Verified(verified) => {
                counts.verified += 1;
                // A Site says itself which Restore has verified it; it has namespaces.
                let says_so = !verified.namespaces.is_empty();
                let known = status.verified_sites.iter().any(|v| v.name == verified.name);
                if !says_so && !known {
                    status.verified_sites.push(verified.clone());
                }
            }
            Phase::Failed(failures) => {
                counts.failed += 1;
                status.failures.extend(failures.iter().cloned());
            }
        }
    }
    let is_disk = |notice: &&RestoreFailure| notice.reason == Reason::DiskMissing.as_str();
    // Only the create of a claim shows that its disk is gone: what was told before a restart stays.
    for told in old.notices.iter().filter(is_disk) {
        if !status.notices.contains(told) {
            status.notices.push(told.clone());
        }
    }
    let notices = status.notices.len();
    let disks = match status.notices.iter().filter(is_disk).count() {
        0 => String::new(),
        n => format!("; {n} claims came back without their disk: see status.notices"),
    };
    status.failures.truncate(MOST);
    status.notices.truncate(MOST);
    let mut notes = vec![];
    if old.start_time.is_none() {
        let note = format!("sites: {}, objects: {}", counts.total, objects.total);
        notes.push(Note::normal(Reason::Restoring, note));
        notes.extend(source::notes(facts));
    }
    notes.extend(new_failures(&old, &status));
    let lost: Vec<String> = status.notices.iter().filter(is_disk).map(in_words).collect();
    if !lost.is_empty() && !old.notices.iter().any(|notice| is_disk(&notice)) {
        let first: Vec<String> = lost.into_iter().take(5).collect();
        notes.push(Note::warning(Reason::DiskMissing, first.join("; ")));
    }
    let progress = format!("{} of {} sites verified{disks}", counts.verified, counts.total);
    let cancelled = facts.restore.spec.cancel;
    let ended = counts.queued == 0 && counts.restoring == 0;
    let conditions = &mut status.conditions;
    let generation = facts.restore.metadata.generation;
    if ended {
        let (reason, message) = if counts.failed == 0 {
            (Reason::Verified, format!("{progress}, {} objects; {notices} notices", objects.done))
        } else {
            let first = status.failures.first().map(in_words).unwrap_or_default();
            let message =
                format!("{progress}, {} failed: see status.failures; {first}", counts.failed);
            let reason = if cancelled { Reason::CancelledByUser } else { Reason::PartiallyFailed };
            (reason, message)
        };
        end(conditions, counts.failed == 0, reason, &message, generation, now);
        status.completion_time = old.completion_time.or(Some(now));
        if old.completion_time.is_none() {
            notes.push(Note { warning: counts.failed > 0, reason, note: message });
        }
    } else {
        let (reason, message) = match waiting {
            Some((reason, why)) => (reason, format!("{progress}; {why}")),
            None => (Reason::Progressing, progress),
        };
        let unknown = ConditionStatus::Unknown;
        conditions.unset(ConditionType::Stalled);
        for (type_, status) in [
            (ConditionType::Reconciling, ConditionStatus::True),
            (ConditionType::Succeeded, unknown),
            (ConditionType::Verified, unknown),
        ] {
            conditions.set(type_, status, reason, message.clone(), generation, now);
        }
    }
    if !ended {
        foresee(&mut status, &old, estimate, now);
    }
    status.sites = Some(counts);
    status.objects = Some(objects);
    Decision { status, notes, requeue: (!ended).then_some(NOT_READY) }
}

/// Says when it will end, or why nobody can tell.
fn foresee(
    status: &mut RestoreStatus,
    old: &RestoreStatus,
    estimate: Option<&Estimate>,
    now: Time,
) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let Some(estimate) = estimate else {
        let message = "no estimate yet: no site of this run is done, and the store knows of no earlier restore or drill";
        status.estimate_basis =
            Some(EstimateBasis { message: message.to_owned(), ..Default::default() });
        return;
    };
    let end = estimate.end.as_ref();
    let stages = [
        ("Queue", Some(estimate.queue)),
        ("Create", Some(estimate.create)),
        ("WaitForReady", end.map(|end| end.ready)),
        ("Verify", end.and_then(|end| end.all)),
    ];
    for (stage, left) in stages {
        let Some(left) = left else { continue };
        let told = old.stages.iter().find(|told| told.stage == stage);
        let told = told.map(|told| Promise {
            expected: told.estimated_completion_time,
            no_later: told.no_later_than_time,
        });
        let Promise { expected, no_later } = Promise::of(left, told, now);
        status.stages.push(StageEstimate {
            stage: stage.to_owned(),
            estimated_completion_time: expected,
            no_later_than_time: no_later,
        });
    }
    let verify = status.stages.iter().find(|told| told.stage == "Verify");
    status.estimated_completion_time = verify.map(|told| told.estimated_completion_time);
    status.no_later_than_time = verify.map(|told| told.no_later_than_time);
    let (this_run, earlier) = (count(estimate.this_run), count(estimate.earlier));
    let mut message =
        format!("sites of this run: {this_run}, of earlier runs and drills: {earlier}");
    let unknown = match end {
        None => Some("workloads take to become ready"),
        Some(end) if end.all.is_none() => Some("afterRestore hooks take"),
        Some(_) => None,
    };
    if let Some(unknown) = unknown {
        message.push_str("; no estimate of the end yet: no run has shown how long ");
        message.push_str(unknown);
    }
    status.estimate_basis = Some(EstimateBasis {
        sites_of_this_run: this_run,
        sites_of_earlier_runs: earlier,
        message,
    });
}

fn len<T>(all: &[T]) -> i64 {
    all.len().try_into().unwrap_or(i64::MAX)
}

/// One event for each reason that was not there before, with its first example.
fn new_failures(old: &RestoreStatus, new: &RestoreStatus) -> Vec<Note> {
    let mut told: BTreeSet<&str> = old.failures.iter().map(|f| f.reason.as_str()).collect();
    let mut notes = vec![];
    for failure in &new.failures {
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == failure.reason);
        if let Some(reason) = reason
            && told.insert(&failure.reason)
        {
            notes.push(Note::warning(*reason, in_words(failure)));
        }
    }
    notes
}

fn in_words(failure: &RestoreFailure) -> String {
    let RestoreFailure { site, object, message, .. } = failure;
    match (site.as_str(), object) {
        (site, None) => format!("site {site}: {message}"),
        ("", Some(object)) => format!("{object}: {message}"),
        (site, Some(object)) => format!("site {site}, {object}: {message}"),
    }
}

fn end(
    conditions: &mut Vec<Condition>,
    good: bool,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: Time,
) {
    let status = if good { ConditionStatus::True } else { ConditionStatus::False };
    conditions.unset(ConditionType::Reconciling);
    conditions.set(ConditionType::Succeeded, status, reason, message, generation, now);
    conditions.set(ConditionType::Verified, status, reason, message, generation, now);
    let why = (!good).then_some((reason, message));
    conditions.set_abnormal(ConditionType::Stalled, why, generation, now);
}

/// It can never be done.
fn refused(facts: &Facts, reason: Reason, message: String, now: Time) -> Decision {
    let mut status = facts.restore.status.clone().unwrap_or_default();
    let generation = facts.restore.metadata.generation;
    status.observed_generation = generation;
    status.completion_time = Some(now);
    end(&mut status.conditions, false, reason, &message, generation, now);
    Decision { status, notes: vec![Note::warning(reason, message)], requeue: None }
}

/// It cannot begin yet.
fn waits(facts: &Facts, reason: Reason, message: String, now: Time) -> Decision {
    let mut status = facts.restore.status.clone().unwrap_or_default();
    let generation = facts.restore.metadata.generation;
    status.observed_generation = generation;
    let already = status
        .conditions
        .get(ConditionType::Succeeded)
        .is_some_and(|c| c.reason == reason.as_str());
    for (type_, value) in [
        (ConditionType::Reconciling, ConditionStatus::True),
        (ConditionType::Succeeded, ConditionStatus::False),
    ] {
        status.conditions.set(type_, value, reason, message.clone(), generation, now);
    }
    let notes = if already { vec![] } else { vec![Note::normal(reason, message)] };
    Decision { status, notes, requeue: Some(OPEN_REQUEST) }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
