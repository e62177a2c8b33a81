//! What to do about a drill, and what to say of it. Pure.

use std::time::Duration;

use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::choose::{self, Candidate, Unchosen};
use super::outcome::{self, Mark};
use super::timing::{self, Due};
use crate::api::{
    ConditionStatus, ConditionType, Conditions, DrillOutcome, DrillRun, DrillSource, DrillStage,
    DrillState, DrilledArchive, NamespaceRef, ObjectRef, OnConflict, Reason, Restore, RestoreDrill,
    RestoreDrillStatus, RestoreSource, RestoreSpec, Time, names,
};
use crate::cluster::Note;
use crate::store::{DrillEvidence, layout};

/// What a decision about a drill is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The drill.
    pub drill: RestoreDrill,
    /// The Restore with the name of the run that is under way, if there is one.
    pub restore: Option<Restore>,
    /// The scratch namespaces that are there.
    pub scratch: Vec<Scratch>,
    /// Other drills of which a run is under way; asked for when this one is due.
    pub others: Vec<String>,
    /// What can be tried; asked for while the run chooses its sample.
    pub candidates: Option<Result<Vec<Candidate>, Unchosen>>,
}

/// A scratch namespace that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Which.
    pub namespace: NamespaceRef,
    /// What it waits for, while it is being deleted.
    pub going: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put our finalizer on the drill, or take it off: one that runs is not gone before it has
    /// cleaned up.
    Hold(bool),
    /// Create the Restore of the run.
    Begin(Box<Restore>),
    /// Stop the Restore of the run.
    Cancel(Box<Restore>),
    /// Delete these scratch namespaces. They are in the status already.
    Delete(Vec<NamespaceRef>),
    /// Write the evidence of the run to the store, and what was drilled.
    Record(Box<DrillEvidence>),
    /// Say it on a Backup, and on its Site.
    Mark(Mark),
    /// Delete the Restore of the run.
    Forget(Box<Restore>),
}

/// What to do, to write down, and when to look again. The effects come before the status.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// In this order.
    pub effects: Vec<Effect>,
    /// The drill's status.
    pub status: RestoreDrillStatus,
    /// Events.
    pub notes: Vec<Note>,
    /// When to look again. None: when it changes.
    pub requeue: Option<Duration>,
    /// A run has ended by this decision, so.
    pub ended: Option<DrillOutcome>,
}

/// How many runs a status keeps.
const RUNS: usize = 10;
/// How many sites of a drill are restored at the same time.
const PARALLELISM: i32 = 4;
/// Right after something was written.
const SOON: Duration = Duration::from_millis(100);
/// Between two looks at what is under way.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Between two looks at what may pass.
const WAITING: Duration = Duration::from_secs(5);
/// The longest pause.
const LONG: i64 = 600;

/// What to do about this drill.
pub fn decide(facts: &Facts, now: Time) -> Decision {
    let status = facts.drill.status.clone().unwrap_or_default();
    match status.run.clone() {
        Some(run) => under_way(facts, status, run, now),
        None => idle(facts, status, now),
    }
}

impl Decision {
    fn new(status: RestoreDrillStatus) -> Self {
        Self { effects: vec![], status, notes: vec![], requeue: None, ended: None }
    }

    /// What the drill says of itself.
    fn say(
        &mut self,
        facts: &Facts,
        now: Time,
        state: DrillState,
        reason: Reason,
        message: impl Into<String>,
    ) {
        let generation = facts.drill.metadata.generation;
        let status = &mut self.status;
        status.observed_generation = generation;
        status.state = Some(state);
        let bad = state == DrillState::Invalid;
        let (message, holds) = (
            message.into(),
            match bad {
                true => ConditionStatus::False,
                false => ConditionStatus::True,
            },
        );
        let all = &mut status.conditions;
        all.set(ConditionType::Ready, holds, reason, message.clone(), generation, now);
        let why = bad.then_some((reason, message.as_str()));
        all.set_abnormal(ConditionType::Stalled, why, generation, now);
        if all.get(ConditionType::Drilled).is_none() {
            let none = "no run has ended yet";
            let unknown = ConditionStatus::Unknown;
            all.set(ConditionType::Drilled, unknown, Reason::NotDrilled, none, generation, now);
        }
    }
}

/// No run is under way.
fn idle(facts: &Facts, status: RestoreDrillStatus, now: Time) -> Decision {
    let drill = &facts.drill;
    let mut decision = Decision::new(status);
    // What a run has left behind that was forgotten about, its status wiped by hand for example.
    if !facts.scratch.is_empty() {
        clear(facts, &mut decision);
        let message = left(facts);
        decision.say(facts, now, DrillState::Running, Reason::Progressing, message);
        return decision;
    }
    decision.status.scratch_namespaces.clear();
    let held = drill.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER);
    if held {
        decision.effects.push(Effect::Hold(false));
    }
    if drill.metadata.deletion_timestamp.is_some() {
        return decision;
    }
    let (table, wrong) = match timing::timetable(drill) {
        Ok(table) => (table, None),
        Err(why) => (None, Some(why)),
    };
    decision.status.next_run_time =
        table.as_ref().filter(|_| !drill.spec.suspend).and_then(|table| table.next(now));
    let due = timing::due(drill, table.as_ref(), now);
    // What cannot be understood is no schedule, and not the absence of one.
    let due = due.filter(|due| wrong.is_none() || matches!(due, Due::Asked(_)));
    if let Some(due) = due {
        if let Some(other) = facts.others.first() {
            let message = format!(
                "its time has come; it begins when the RestoreDrill {other} has ended its run"
            );
            let told = drill.status.as_ref().and_then(|status| status.state);
            if told != Some(DrillState::Waiting) {
                decision.notes.push(Note::normal(Reason::OtherDrillRuns, message.clone()));
            }
            decision.say(facts, now, DrillState::Waiting, Reason::OtherDrillRuns, message);
            decision.requeue = Some(WAITING);
            return decision;
        }
        begin(facts, &mut decision, &due, now);
        return decision;
    }
    let (state, reason, message) = match (&wrong, drill.spec.words()) {
        (Some(why), _) => {
            let message = format!("{why}: it does not run by itself until that is corrected");
            (DrillState::Invalid, Reason::InvalidSchedule, message)
        }
        (None, _) if drill.spec.suspend => {
            let message = "spec.suspend is true: it does not run by itself".to_owned();
            (DrillState::Suspended, Reason::Suspended, message)
        }
        (None, Some(words)) => {
            (DrillState::Scheduled, Reason::Scheduled, format!("runs at {words}"))
        }
        (None, None) => {
            let message = format!(
                "it has no schedule; to run it again: {}",
                RestoreDrill::how_to_run(&drill.name_any())
            );
            (DrillState::Idle, Reason::Ready, message)
        }
    };
    let told = drill.status.as_ref().and_then(|status| status.conditions.get(ConditionType::Ready));
    if wrong.is_some() && told.is_none_or(|said| said.message != message) {
        decision.notes.push(Note::warning(reason, message.clone()));
    }
    decision.say(facts, now, state, reason, message);
    let wait = decision.status.next_run_time.map_or(LONG, |next| next.seconds_since(now));
    let wait = u64::try_from(wait.clamp(1, LONG)).unwrap_or(1);
    decision.requeue = Some(Duration::from_secs(wait));
    decision
}

/// A run begins: first it is written down.
fn begin(facts: &Facts, decision: &mut Decision, due: &Due, now: Time) {
    let drill = &facts.drill;
    let name = timing::name(drill, due, now);
    match due {
        Due::Slot(slot) => decision.status.last_schedule_time = Some(*slot),
        Due::Asked(value) => decision.status.last_run_now = Some(value.clone()),
        Due::Created => {}
    }
    decision.effects = vec![Effect::Hold(true)];
    decision.status.run = Some(DrillRun {
        trigger: due.trigger(),
        stage: DrillStage::Choosing,
        seed: timing::seed(drill, &name),
        start_time: now,
        completion_time: None,
        outcome: None,
        reason: None,
        message: None,
        sites: 0,
        verified: 0,
        objects: 0,
        recovery_seconds: None,
        objects_per_second: None,
        create_milliseconds: None,
        verify_milliseconds: None,
        slowest_site_milliseconds: None,
        not_proved: vec![],
        failures: vec![],
        evidence: None,
        name: name.clone(),
    });
    let note = format!("run {name} has begun");
    decision.notes.push(Note::normal(Reason::DrillStarted, note));
    let message = format!("run {name}: chooses its sample");
    decision.say(facts, now, DrillState::Running, Reason::Progressing, message);
    decision.requeue = Some(SOON);
}

/// A run is under way.
fn under_way(facts: &Facts, status: RestoreDrillStatus, mut run: DrillRun, now: Time) -> Decision {
    let mut decision = Decision::new(status);
    let message = match run.stage {
        DrillStage::Choosing => choosing(facts, &mut decision, &mut run, now),
        DrillStage::Restoring => restoring(facts, &mut decision, &mut run, now),
        DrillStage::CleaningUp => cleaning_up(facts, &mut decision, &mut run),
        DrillStage::Recording | DrillStage::Ended => {
            record(facts, &mut decision, run, now);
            return decision;
        }
    };
    let message = format!("run {}: {message}", run.name);
    decision.status.run = Some(run);
    decision.say(facts, now, DrillState::Running, Reason::Progressing, message);
    decision
}

/// Why a run is to end before its Restore has.
fn stops(facts: &Facts, run: &DrillRun, now: Time) -> Option<(Reason, String)> {
    if facts.drill.metadata.deletion_timestamp.is_some() {
        return Some((Reason::DrillStopped, "the RestoreDrill was deleted".to_owned()));
    }
    let limit = facts.drill.spec.timeout_seconds;
    (now.seconds_since(run.start_time) >= limit).then(|| {
        let message = format!("it took longer than timeoutSeconds, {limit} s");
        (Reason::DrillTimeout, message)
    })
}

/// It has failed, whatever its Restore comes to.
fn fail(run: &mut DrillRun, reason: Reason, message: String) {
    run.outcome = Some(DrillOutcome::Failed);
    run.reason = Some(reason.to_string());
    run.message = Some(message);
}

fn fail_and_clean_up(
    decision: &mut Decision,
    run: &mut DrillRun,
    reason: Reason,
    message: String,
) -> String {
    let said = format!("failed, {message}; cleans up");
    fail(run, reason, message);
    run.stage = DrillStage::CleaningUp;
    decision.requeue = Some(SOON);
    said
}

/// The Restore of this run, and not somebody else's of that name.
fn own(facts: &Facts) -> Option<&Restore> {
    let restore = facts.restore.as_ref()?;
    let uid = facts.drill.uid();
    let drill = restore.spec.source.drill.as_ref()?;
    (Some(&drill.drill_uid) == uid.as_ref()).then_some(restore)
}

fn choosing(facts: &Facts, decision: &mut Decision, run: &mut DrillRun, now: Time) -> String {
    if own(facts).is_some() {
        // It was created, and that was not written down.
        run.stage = DrillStage::Restoring;
        decision.requeue = Some(SOON);
        return "its Restore was created".to_owned();
    }
    if facts.restore.is_some() {
        let why = format!("somebody has made a Restore {}", run.name);
        return fail_and_clean_up(decision, run, Reason::Conflict, why);
    }
    if let Some((reason, why)) = stops(facts, run, now) {
        let waited = match &facts.candidates {
            Some(Err(Unchosen::Waits(_, waited))) => format!("{why}: {waited}"),
            _ => why,
        };
        return fail_and_clean_up(decision, run, reason, waited);
    }
    let all = match &facts.candidates {
        Some(Ok(all)) => all.clone(),
        Some(Err(Unchosen::Refused(reason, why))) => {
            return fail_and_clean_up(decision, run, *reason, why.clone());
        }
        Some(Err(Unchosen::Waits(_, why))) => {
            decision.requeue = Some(WAITING);
            return format!("cannot choose its sample yet: {why}");
        }
        None => {
            decision.requeue = Some(SOON);
            return "chooses its sample".to_owned();
        }
    };
    let sample = &facts.drill.spec.sample;
    let archives: Vec<DrilledArchive> = match sample.backup_refs {
        Some(_) => all.into_iter().map(|candidate| candidate.archive).collect(),
        None => choose::sample(all, sample.sites, sample.strategy, run.seed),
    };
    if archives.is_empty() {
        let why = "the store has no backup that could be tried".to_owned();
        return fail_and_clean_up(decision, run, Reason::NothingToRestore, why);
    }
    run.sites = i64::try_from(archives.len()).unwrap_or(i64::MAX);
    run.stage = DrillStage::Restoring;
    decision.effects.push(Effect::Begin(Box::new(restore(facts, &run.name, archives))));
    decision.requeue = Some(SOON);
    format!("restores {} sites into scratch namespaces", run.sites)
}

fn restore(facts: &Facts, name: &str, archives: Vec<DrilledArchive>) -> Restore {
    let drill = DrillSource {
        drill_ref: ObjectRef { name: facts.drill.name_any() },
        drill_uid: facts.drill.uid().unwrap_or_default(),
        archives,
    };
    Restore {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: RestoreSpec {
            source: RestoreSource { drill: Some(drill), ..RestoreSource::default() },
            parallelism: PARALLELISM,
            on_conflict: OnConflict::Fail,
            cancel: false,
        },
        status: None,
    }
}

fn restoring(facts: &Facts, decision: &mut Decision, run: &mut DrillRun, now: Time) -> String {
    let Some(restore) = own(facts) else {
        let why = format!("its Restore {} was deleted", run.name);
        return fail_and_clean_up(decision, run, Reason::DrillStopped, why);
    };
    if restore.has_ended() {
        outcome::judge(run, restore);
        run.stage = DrillStage::CleaningUp;
        decision.requeue = Some(SOON);
        return format!("{}; cleans up", run.message.clone().unwrap_or_default());
    }
    decision.requeue = Some(UNDER_WAY);
    if let Some((reason, why)) = stops(facts, run, now) {
        // What it waited for says why it took so long.
        let said = restore.status.as_ref().and_then(|s| s.conditions.get(ConditionType::Succeeded));
        let said = said.map(|said| format!(": {}", said.message)).unwrap_or_default();
        if run.reason.is_none() {
            fail(run, reason, format!("{why}{said}"));
        }
        if !restore.spec.cancel {
            decision.effects.push(Effect::Cancel(Box::new(restore.clone())));
        }
        return format!("{why}: stops its Restore");
    }
    if restore.spec.cancel && run.reason.is_none() {
        fail(run, Reason::DrillStopped, format!("its Restore {} was cancelled", run.name));
    }
    format!("restores {} sites into scratch namespaces", run.sites)
}

/// What is left to be taken away, in words.
fn left(facts: &Facts) -> String {
    let number = facts.scratch.len();
    match facts.scratch.iter().find_map(|s| s.going.as_ref().map(|why| (&s.namespace.name, why))) {
        Some((name, why)) => {
            format!("takes {number} scratch namespaces away; namespace {name}: {why}")
        }
        None => format!("takes {number} scratch namespaces away"),
    }
}

/// Deletes the scratch namespaces that are written down, and writes down those that are not.
fn clear(facts: &Facts, decision: &mut Decision) {
    let written = facts.drill.status.as_ref().map(|status| &status.scratch_namespaces);
    let written = |namespace: &NamespaceRef| written.is_some_and(|all| all.contains(namespace));
    let open = facts.scratch.iter().filter(|scratch| scratch.going.is_none());
    let to_delete: Vec<NamespaceRef> =
        open.map(|scratch| scratch.namespace.clone()).filter(|n| written(n)).collect();
    if !to_delete.is_empty() {
        decision.effects.push(Effect::Delete(to_delete));
    }
    decision.status.scratch_namespaces =
        facts.scratch.iter().map(|scratch| scratch.namespace.clone()).collect();
    decision.requeue = Some(UNDER_WAY);
}

fn cleaning_up(facts: &Facts, decision: &mut Decision, run: &mut DrillRun) -> String {
    // Nothing is taken away under a Restore that still makes some.
    if let Some(restore) = own(facts).filter(|restore| !restore.has_ended()) {
        if !restore.spec.cancel {
            decision.effects.push(Effect::Cancel(Box::new(restore.clone())));
        }
        decision.requeue = Some(UNDER_WAY);
        return "stops its Restore".to_owned();
    }
    if facts.scratch.is_empty() {
        decision.status.scratch_namespaces.clear();
        run.stage = DrillStage::Recording;
        decision.requeue = Some(SOON);
        return "has cleaned up; records what was found".to_owned();
    }
    clear(facts, decision);
    left(facts)
}

/// The run has ended: everything that is to be known of it is written to the store, on the Backups
/// and here.
fn record(facts: &Facts, decision: &mut Decision, mut run: DrillRun, now: Time) {
    let drill = &facts.drill;
    run.stage = DrillStage::Ended;
    run.completion_time = Some(now);
    let place = layout::drill_run(&drill.name_any(), &drill.uid().unwrap_or_default(), &run.name);
    run.evidence = Some(place);
    let outcome = *run.outcome.get_or_insert(DrillOutcome::Failed);
    let evidence = outcome::evidence(facts, &run, now);
    let marks = outcome::marks(&evidence);
    decision.effects.push(Effect::Record(Box::new(evidence)));
    decision.effects.extend(marks.into_iter().map(Effect::Mark));
    if let Some(restore) = own(facts) {
        decision.effects.push(Effect::Forget(Box::new(restore.clone())));
    }
    let reason = outcome::reason(&run).unwrap_or(Reason::DrillFailed);
    let message = format!("run {}: {}", run.name, run.message.clone().unwrap_or_default());
    let (good, holds) = match outcome {
        DrillOutcome::Succeeded => (true, ConditionStatus::True),
        DrillOutcome::Failed => (false, ConditionStatus::False),
    };
    let generation = drill.metadata.generation;
    let status = &mut decision.status;
    status.conditions.set(ConditionType::Drilled, holds, reason, message.clone(), generation, now);
    if good {
        status.last_success_time = Some(now);
    }
    status.run = None;
    status.scratch_namespaces.clear();
    status.runs.insert(0, run);
    status.runs.truncate(RUNS);
    decision.notes.push(Note { warning: !good, reason, note: message });
    decision.requeue = Some(SOON);
    decision.ended = Some(outcome);
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
