//! When a drill is due, and when it is overdue. Pure.

use kube::ResourceExt;

use crate::api::{DrillTrigger, RestoreDrill, Time, names};
use crate::cluster::cron::{Timetable, hash};

/// How much later than its time limit a run may end, cleaned up and recorded, before it is overdue,
/// in seconds.
const GRACE: i64 = 1800;
/// The longest name of a run that begins with the drill's.
const LONGEST: usize = 200;

/// Why a run is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// The time of the schedule has come.
    Slot(Time),
    /// Somebody asked for it, by this value.
    Asked(String),
    /// It was created, and has no schedule.
    Created,
}

impl Due {
    /// What the run says of it.
    pub fn trigger(&self) -> DrillTrigger {
        match self {
            Due::Slot(_) => DrillTrigger::Schedule,
            Due::Asked(_) => DrillTrigger::Asked,
            Due::Created => DrillTrigger::Created,
        }
    }
}

/// The slots of a drill. None: it has no schedule.
///
/// # Errors
/// What is wrong with it, in words.
pub fn timetable(drill: &RestoreDrill) -> Result<Option<Timetable>, String> {
    let zone = drill.spec.time_zone.as_deref();
    match &drill.spec.schedule {
        Some(schedule) => Timetable::new("spec", schedule, zone, None).map(Some),
        // A time zone that is none is told even where it counts for nothing.
        None => Timetable::new("spec", "@monthly", zone, None).map(|_| None),
    }
}

/// What the drill is to run for now. Missed slots are made up for once, by the latest.
pub fn due(drill: &RestoreDrill, table: Option<&Timetable>, now: Time) -> Option<Due> {
    let status = drill.status.clone().unwrap_or_default();
    if let Some(asked) = drill.annotations().get(names::ANNOTATION_RUN_NOW)
        && status.last_run_now.as_ref() != Some(asked)
    {
        return Some(Due::Asked(asked.clone()));
    }
    if drill.spec.suspend {
        return None;
    }
    match table {
        Some(table) => {
            let slot = table.latest(now)?;
            (slot > since(drill, now)?).then_some(Due::Slot(slot))
        }
        None => status.runs.is_empty().then_some(Due::Created),
    }
}

/// Slots up to this time are done, or were before the drill was made.
fn since(drill: &RestoreDrill, now: Time) -> Option<Time> {
    let created = drill.metadata.creation_timestamp.as_ref().map(Time::from);
    let last = drill.status.as_ref().and_then(|status| status.last_schedule_time);
    // One that a wrong clock has written must not stop the schedule until then.
    last.or(created).map(|since| since.min(now))
}

/// Whether the schedule asked for a run that should have succeeded by now, and none has.
pub fn is_overdue(drill: &RestoreDrill, now: Time) -> bool {
    if drill.spec.suspend {
        return false;
    }
    let Ok(Some(table)) = timetable(drill) else { return false };
    let enough = drill.spec.timeout_seconds + GRACE;
    let Some(slot) = table.latest(now.plus_seconds(-enough)) else { return false };
    let created = drill.metadata.creation_timestamp.as_ref().map(Time::from);
    let success = drill.status.as_ref().and_then(|status| status.last_success_time);
    created.is_none_or(|created| created <= slot) && success.is_none_or(|success| success < slot)
}

/// The name of a run: the same, however often it is decided on.
pub fn name(drill: &RestoreDrill, due: &Due, now: Time) -> String {
    let mut of = drill.name_any();
    of.truncate(LONGEST);
    let uid = drill.uid().unwrap_or_default();
    let time = match due {
        Due::Slot(slot) => slot.utc().format("%Y%m%dt%H%M").to_string(),
        Due::Asked(_) | Due::Created => now.utc().format("%Y%m%dt%H%M%S").to_string(),
    };
    format!("drill-{of}-{time}-{:06x}", hash(&uid) & 0xff_ffff)
}

/// The seed of a run of this name: recorded, so that anybody can draw the sample again.
pub fn seed(drill: &RestoreDrill, run: &str) -> i64 {
    let text = format!("{}/{run}", drill.uid().unwrap_or_default());
    // As large as a number in JSON can be without losing anything.
    i64::try_from(hash(&text) >> 11).unwrap_or_default()
}
