//! When a schedule is due, in CronJob's words. Pure.

use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use sha2::{Digest as _, Sha256};

use crate::api::Time;

/// What is spread begins within this part of the schedule's period.
const SPREAD: i64 = 10;
/// And within this at most, in seconds.
const SPREAD_MOST: i64 = 1800;
/// How many slots are looked at to know a schedule's period: the shortest time between two.
const SLOTS: usize = 8;

/// The slots of a schedule.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
    jitter: TimeDelta,
}

impl Timetable {
    /// Of this schedule of five fields, in this IANA time zone or in UTC. With `spread`, everything
    /// begins a little later than its slot, by always the same time for the same word: a tenth of
    /// the shortest time between two slots at most, and 30 minutes.
    ///
    /// # Errors
    /// What is wrong with it, in words; `fields` is where it stands, `spec.backup` for example.
    pub fn new(
        fields: &str,
        schedule: &str,
        time_zone: Option<&str>,
        spread: Option<&str>,
    ) -> Result<Self, String> {
        let zone = time_zone.unwrap_or("Etc/UTC");
        let zone = Tz::from_str(zone).map_err(|_| {
            format!("{fields}.timeZone {zone:?} is no name of an IANA time zone, as Europe/Berlin")
        })?;
        let bad = |why: String| {
            let why = why.trim_end_matches('.');
            format!(
                "{fields}.schedule {schedule:?} is no schedule of 5 fields, as 0 3 * * *: {why}"
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
        let bound = (period / SPREAD).clamp(1, SPREAD_MOST).unsigned_abs();
        let jitter = spread.map_or(0, |word| i64::try_from(hash(word) % bound).unwrap_or(0));
        Ok(Self { cron, zone, jitter: TimeDelta::seconds(jitter) })
    }

    /// By how much everything begins later than its slot, in seconds.
    pub fn jitter_seconds(&self) -> i64 {
        self.jitter.num_seconds()
    }

    /// The latest slot that should have begun by now.
    pub fn latest(&self, now: Time) -> Option<Time> {
        let begun = (now.utc() - self.jitter).with_timezone(&self.zone);
        let slot = self.cron.find_previous_occurrence(&begun, true).ok()?;
        Some(slot.with_timezone(&Utc).into())
    }

    /// When the next one begins.
    pub fn next(&self, now: Time) -> Option<Time> {
        let begun = (now.utc() - self.jitter).with_timezone(&self.zone);
        let slot = self.cron.find_next_occurrence(&begun, false).ok()?;
        Some((slot.with_timezone(&Utc) + self.jitter).into())
    }
}

/// A number that is always the same for the same text.
pub fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}
