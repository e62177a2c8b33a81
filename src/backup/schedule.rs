//! When a Site's scheduled backup is due, in CronJob's words. Pure.

use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use kube::ResourceExt;
use sha2::{Digest as _, Sha256};

use crate::api::{
    Backup, BackupPurpose, BackupSchedule, BackupSpec, ConditionStatus, Reason, Site, SiteRef,
    SiteState, Time, names,
};

/// Backups of one slot begin within this part of the schedule's period, so that a fleet does not
/// begin at once.
const SPREAD: i64 = 10;
/// And within this at most, in seconds.
const SPREAD_MOST: i64 = 1800;
/// How many slots are looked at to know a schedule's period: the shortest time between two.
const SLOTS: usize = 8;
/// The longest name of a Backup that begins with the Site's.
const LONGEST_SITE: usize = 200;

/// What is to be done about a Site's schedule, and what its status is to say of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The slot that is due, and its Backup.
    pub due: Option<(Time, Backup)>,
    /// The condition `BackupScheduled`; none: the Site has no schedule.
    pub condition: Option<(ConditionStatus, Reason, String)>,
    /// When the next backup begins.
    pub next: Option<Time>,
}

/// What is to be done about this Site's schedule.
pub fn decide(site: &Site, now: Time) -> Decision {
    let Some(spec) = &site.spec.backup else {
        return Decision { due: None, condition: None, next: None };
    };
    let waits = |holds, reason, message: String, next| Decision {
        due: None,
        condition: Some((holds, reason, message)),
        next,
    };
    let table = match Timetable::new(spec, &site.uid().unwrap_or_default()) {
        Ok(table) => table,
        Err(why) => {
            let message =
                format!("{why}: no backup is made by this schedule until it is corrected");
            return waits(ConditionStatus::False, Reason::InvalidSchedule, message, None);
        }
    };
    if spec.suspend {
        let message = "spec.backup.suspend is true".to_owned();
        return waits(ConditionStatus::False, Reason::Suspended, message, None);
    }
    let status = site.status.as_ref();
    let since = status
        .and_then(|s| s.last_schedule_time)
        .or_else(|| site.metadata.creation_timestamp.as_ref().map(Time::from))
        // One that a wrong clock has written must not stop the schedule until then.
        .map_or(now, |since| since.min(now));
    let Some(slot) = table.latest(now).filter(|slot| *slot > since) else {
        let message = format!("backups are made at {}", spec.words());
        return waits(ConditionStatus::True, Reason::Scheduled, message, table.next(now));
    };
    // Missed ones are made up for once, by the latest.
    if let Some(why) = not_active(site) {
        let message = format!("paused: the Site {why}; the backup of {slot} is made up for then");
        return waits(ConditionStatus::False, Reason::EntityNotActive, message, None);
    }
    Decision {
        due: Some((slot, backup(site, spec, slot, now))),
        condition: Some((
            ConditionStatus::True,
            Reason::Scheduled,
            format!("backups are made at {}", spec.words()),
        )),
        next: table.next(now),
    }
}

/// Name of the Backup of a slot: the same, whoever makes it and however often.
pub fn name(site: &Site, slot: Time) -> String {
    let mut of: String = site.name_any();
    of.truncate(LONGEST_SITE);
    let uid = site.uid().unwrap_or_default();
    let time = slot.utc().format("%Y%m%dt%H%M");
    format!("{of}-{time}-{:06x}", hash(&uid) & 0xff_ffff)
}

fn backup(site: &Site, spec: &BackupSchedule, slot: Time, now: Time) -> Backup {
    Backup::new(
        &name(site, slot),
        BackupSpec {
            site_ref: SiteRef {
                name: site.name_any(),
                uid: site.uid(),
                id: Some(site.spec.id.clone()),
            },
            purpose: BackupPurpose::Scheduled,
            keep_until_time: Some(now.plus_seconds(spec.keep_seconds)),
        },
    )
}

/// Why a Site is not backed up by its schedule now, to be read after "the Site".
fn not_active(site: &Site) -> Option<String> {
    let restore = site.annotations().get(names::ANNOTATION_RESTORE);
    if let Some(restore) = restore {
        return Some(format!("is being restored by Restore {restore}"));
    }
    if site.metadata.deletion_timestamp.is_some()
        || site.annotations().contains_key(names::ANNOTATION_RECREATE)
    {
        return Some("is being deleted or created anew".to_owned());
    }
    let status = site.status.as_ref();
    if let Some(deletion) = status.and_then(|s| s.deletion.as_ref()) {
        return Some(format!("is held by DeletionRequest {}", deletion.request_ref.name));
    }
    match status.and_then(|s| s.state) {
        Some(SiteState::Active) => None,
        Some(state) => Some(format!("is {state:?}")),
        None => Some("was not looked at yet".to_owned()),
    }
}

/// When slots come, and by how much this Site's backups begin later.
struct Timetable {
    cron: Cron,
    zone: Tz,
    jitter: TimeDelta,
}

impl Timetable {
    fn new(spec: &BackupSchedule, uid: &str) -> Result<Self, String> {
        let zone = spec.time_zone.as_deref().unwrap_or("Etc/UTC");
        let zone = Tz::from_str(zone).map_err(|_| {
            format!(
                "spec.backup.timeZone {zone:?} is no name of an IANA time zone, as Europe/Berlin"
            )
        })?;
        let schedule = &spec.schedule;
        let bad = |why: String| {
            let why = why.trim_end_matches('.');
            format!(
                "spec.backup.schedule {schedule:?} is no schedule of 5 fields, as 0 3 * * *: {why}"
            )
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let cron = parser.build().parse(schedule).map_err(|error| bad(error.to_string()))?;
        // Seen from one time for ever, so that it does not move from slot to slot.
        let mut at = zone
            .with_ymd_and_hms(2024, 1, 1, 0, 0, 0)
            .earliest()
            .unwrap_or_else(|| zone.from_utc_datetime(&DateTime::<Utc>::UNIX_EPOCH.naive_utc()));
        let mut period = i64::MAX;
        for slot in 0..SLOTS {
            let next = cron.find_next_occurrence(&at, false);
            let next = next.map_err(|_| bad("it never comes".to_owned()))?;
            if slot > 0 {
                period = period.min((next - at).num_seconds());
            }
            at = next;
        }
        let bound = (period / SPREAD).clamp(1, SPREAD_MOST);
        let jitter = i64::try_from(hash(uid) % bound.unsigned_abs()).unwrap_or(0);
        Ok(Self { cron, zone, jitter: TimeDelta::seconds(jitter) })
    }

    /// The latest slot whose backup should have begun by now.
    fn latest(&self, now: Time) -> Option<Time> {
        let begun = (now.utc() - self.jitter).with_timezone(&self.zone);
        let slot = self.cron.find_previous_occurrence(&begun, true).ok()?;
        Some(slot.with_timezone(&Utc).into())
    }

    /// When the next backup begins.
    fn next(&self, now: Time) -> Option<Time> {
        let begun = (now.utc() - self.jitter).with_timezone(&self.zone);
        let slot = self.cron.find_next_occurrence(&begun, false).ok()?;
        Some((slot.with_timezone(&Utc) + self.jitter).into())
    }
}

fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
