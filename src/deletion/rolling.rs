//! The rolling limit: how many entities go in a span of time, over all requests. Pure.
//!
//! One ledger has an entry for each entity whose purge may begin: it is written, by compare and
//! swap, before anything of the entity goes. So that two requests, or two operators, that look at
//! the same time never take the same place: one of them meets a conflict, and looks again.

use std::fmt::Write as _;

use super::decide::Effect;
use super::gates::{Case, stricter};
use crate::api::{DeletionRequest, EntityPhase, PlanEntity, Reason, Rolling, TargetKind, Time};
use crate::cluster::Exact;

/// How old an entry may be when the first DELETE is sent, in seconds: more than one look at a
/// request takes. An older one is written anew. By so much longer than the policy's window each
/// entry counts, so that the limit holds for the DELETEs and not only for the entries.
const FRESH_SECONDS: i64 = 120;
/// How long entries are kept, in seconds: the longest window that a policy can have.
const KEPT_SECONDS: i64 = 604_800;
/// How many entries are kept at most; of more, those go first that count for nobody who asks.
const MOST_ENTRIES: usize = 5000;

/// What is known of the ledger, and what its limits are measured by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RollingFacts {
    /// The ledger.
    pub ledger: Ledger,
    /// How many entities of the request's kind there are.
    pub fleet: i64,
}

/// What is known of the ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Ledger {
    /// It was not asked for: nothing is to be purged yet.
    #[default]
    NotRead,
    /// It is not there; with the purge that was seen all the same, if one was.
    Missing(Option<Trace>),
    /// It is there and cannot be read: why.
    Unreadable(String),
    /// It is there.
    Read(Exact, Vec<Entry>),
}

/// A purge that left its trace in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The request.
    pub request: String,
    /// The entity.
    pub entity: String,
    /// When it was gone; none: it is being purged.
    pub time: Option<Time>,
}

/// One entity whose purge may begin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When the entry was written, by the API server's clock.
    pub time: Time,
    /// What it is.
    pub kind: TargetKind,
    /// UID of the entity.
    pub entity_uid: String,
    /// UID of the request.
    pub request_uid: String,
    /// Name of the request, for people.
    pub request: String,
}

/// The ledger as text: a line for each entry, oldest first.
pub fn write(entries: &[Entry]) -> String {
    let mut entries = entries.to_vec();
    entries.sort();
    let mut text = String::new();
    for e in entries {
        let _ = writeln!(
            text,
            "{} {} {} {} {}",
            e.time, e.kind, e.entity_uid, e.request_uid, e.request
        );
    }
    text
}

/// The entries of a ledger.
///
/// # Errors
/// The first line that is none, in words.
pub fn read(text: &str) -> Result<Vec<Entry>, String> {
    text.lines()
        .enumerate()
        .map(|(i, line)| {
            entry(line).ok_or_else(|| format!("line {} of it is no entry: {line:?}", i + 1))
        })
        .collect()
}

fn entry(line: &str) -> Option<Entry> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [time, kind, entity_uid, request_uid, request] = parts[..] else { return None };
    let kind = [TargetKind::Site, TargetKind::App].into_iter().find(|k| k.to_string() == kind)?;
    let time = serde_json::from_value(time.into()).ok()?;
    let full = [entity_uid, request_uid, request].iter().all(|part| !part.is_empty());
    let [entity_uid, request_uid, request] = [entity_uid, request_uid, request].map(str::to_owned);
    full.then_some(Entry { time, kind, entity_uid, request_uid, request })
}

/// The latest purge of which a request tells, in the time for which the ledger is kept.
pub fn trace<'a>(requests: impl Iterator<Item = &'a DeletionRequest>, now: Time) -> Option<Trace> {
    let mut all: Vec<Trace> = requests
        .flat_map(|request| {
            let plan = request.status.as_ref().and_then(|s| s.plan.as_ref());
            let entities = plan.map_or(&[][..], |plan| &plan.entities);
            entities.iter().map(move |entity| (request, entity))
        })
        .filter(|(_, e)| matches!(e.phase, EntityPhase::Purging | EntityPhase::Purged))
        .filter(|(_, e)| e.purged_time.is_none_or(|t| now.seconds_since(t) < KEPT_SECONDS))
        .map(|(request, e)| Trace {
            request: request.metadata.name.clone().unwrap_or_default(),
            entity: e.name.clone(),
            time: e.purged_time,
        })
        .collect();
    all.sort_by_key(|t| (t.time.is_none(), t.time));
    all.pop()
}

/// The place of an entity in the ledger.
enum Place {
    /// It has one.
    Taken,
    /// It can have one.
    Free,
}

/// Whether the purge of this entity may begin by the ledger as it was read.
pub(super) fn is_reserved(case: &Case<'_>, entity: &PlanEntity) -> bool {
    matches!(place(case, entity), Ok(Place::Taken))
}

/// Why no place can be had for an entity now.
pub(super) fn full(case: &Case<'_>, entity: &PlanEntity) -> Option<(Reason, String)> {
    place(case, entity).err()
}

fn place(case: &Case<'_>, entity: &PlanEntity) -> Result<Place, (Reason, String)> {
    let unavailable = |why: String| Err((Reason::LedgerUnavailable, why));
    let entries = match &case.facts.rolling.ledger {
        Ledger::NotRead => return unavailable("the ledger of purges was not read".to_owned()),
        Ledger::Unreadable(why) => {
            return unavailable(format!(
                "the ledger of purges cannot be read ({why}): nothing is purged"
            ));
        }
        Ledger::Missing(Some(trace)) => return unavailable(lost(trace)),
        Ledger::Missing(None) => &[][..],
        Ledger::Read(_, entries) => entries,
    };
    let now = case.facts.api_time;
    let own = entries.iter().find(|e| is_for(e, case, entity));
    if own.is_some_and(|e| now.seconds_since(e.time) < FRESH_SECONDS) {
        return Ok(Place::Taken);
    }
    for policy in stricter(case) {
        let used = used(case, &policy.blast_radius.rolling, entries, Some(entity));
        if used.count() >= used.most {
            return Err((Reason::RollingLimitReached, used.describe(case)));
        }
    }
    Ok(Place::Free)
}

fn is_for(entry: &Entry, case: &Case<'_>, entity: &PlanEntity) -> bool {
    entry.entity_uid == entity.uid && entry.request_uid == case.facts.request_uid()
}

fn lost(trace: &Trace) -> String {
    let Trace { request, entity, time } = trace;
    let again = match time {
        Some(time) => format!("on {}", time.plus_seconds(KEPT_SECONDS)),
        None => format!("{KEPT_SECONDS} s after that purge has ended"),
    };
    format!(
        "the ledger of purges is gone, though {entity} was purged for DeletionRequest {request}: \
         nothing is purged until a new one is begun, {again}"
    )
}

/// What counts by one policy.
struct Used<'a> {
    entries: Vec<&'a Entry>,
    most: i64,
    rolling: Rolling,
    /// Entities that there are, and those that count.
    fleet: i64,
}

/// What counts by a policy, but for the entry of `apart` itself.
fn used<'a>(
    case: &Case<'_>,
    rolling: &Rolling,
    entries: &'a [Entry],
    apart: Option<&PlanEntity>,
) -> Used<'a> {
    let now = case.facts.api_time;
    let kind = case.facts.request.spec.target.kind;
    let entries = entries
        .iter()
        .filter(|e| e.kind == kind)
        .filter(|e| apart.is_none_or(|entity| !is_for(e, case, entity)))
        .filter(|e| now < frees(e, rolling))
        .collect::<Vec<_>>();
    // The fleet as it was: a share of what is left would shrink with each that goes, and 100 %
    // would not mean all.
    let gone = i64::try_from(entries.len()).unwrap_or(i64::MAX);
    let fleet = case.facts.rolling.fleet.saturating_add(gone);
    // Rounded up: the smallest number that is not less than the share.
    let share = fleet.saturating_mul(rolling.max_percent).saturating_add(99) / 100;
    Used { entries, most: rolling.max_entities.min(share), rolling: rolling.clone(), fleet }
}

/// When an entry does not count any more.
fn frees(entry: &Entry, rolling: &Rolling) -> Time {
    entry.time.plus_seconds(rolling.window_seconds).plus_seconds(FRESH_SECONDS)
}

impl Used<'_> {
    fn count(&self) -> i64 {
        i64::try_from(self.entries.len()).unwrap_or(i64::MAX)
    }

    /// How much is used, by which requests, and when the next place is free.
    fn describe(&self, case: &Case<'_>) -> String {
        let kind = case.facts.request.spec.target.kind;
        let Rolling { window_seconds, max_entities, max_percent } = &self.rolling;
        let mut text = format!(
            "{} of {} {kind}s purged in {window_seconds} s, over all requests \
             (policy {}: {max_entities}, and {max_percent} % of {})",
            self.count(),
            self.most,
            case.head.policy_name,
            self.fleet,
        );
        let mut requests: Vec<&str> = self.entries.iter().map(|e| e.request.as_str()).collect();
        requests.sort_unstable();
        requests.dedup();
        if !requests.is_empty() {
            let more = requests.len().saturating_sub(5);
            let tail = if more > 0 { format!(" and {more} others") } else { String::new() };
            let _ = write!(text, ", by {}{tail}", requests[..requests.len() - more].join(", "));
        }
        // As many must fall out as are too many, and one more.
        let mut times: Vec<Time> = self.entries.iter().map(|e| frees(e, &self.rolling)).collect();
        times.sort();
        let over = usize::try_from(self.count() - self.most).unwrap_or(0);
        match times.get(over) {
            Some(time) => {
                let _ = write!(text, "; the next place is free at {time}");
            }
            None => text.push_str("; no place is ever free: raise blastRadius.rolling"),
        }
        text
    }
}

/// How much of the rolling limit is used, for the gate that is open.
pub(super) fn usage(case: &Case<'_>) -> Option<String> {
    let entries = match &case.facts.rolling.ledger {
        Ledger::Read(_, entries) => entries.as_slice(),
        Ledger::Missing(None) => &[],
        Ledger::NotRead | Ledger::Missing(_) | Ledger::Unreadable(_) => return None,
    };
    let policies = stricter(case);
    let all = policies.iter().map(|p| used(case, &p.blast_radius.rolling, entries, None));
    let tightest = all.min_by_key(|used| used.most - used.count())?;
    let kind = case.facts.request.spec.target.kind;
    Some(format!(
        "{} of {} {kind}s in {} s over all requests",
        tightest.count(),
        tightest.most,
        tightest.rolling.window_seconds
    ))
}

/// The write that gives an entity its place, where it has none and can have one.
pub(super) fn reserve(case: &Case<'_>, entity: &PlanEntity) -> Option<Effect> {
    let Ok(Place::Free) = place(case, entity) else { return None };
    let now = case.facts.api_time;
    let (ledger, entries) = match &case.facts.rolling.ledger {
        Ledger::Read(exact, entries) => (Some(exact.clone()), entries.clone()),
        Ledger::Missing(None) => (None, vec![]),
        Ledger::NotRead | Ledger::Missing(_) | Ledger::Unreadable(_) => return None,
    };
    let mut kept: Vec<Entry> = entries
        .into_iter()
        .filter(|e| !is_for(e, case, entity))
        .filter(|e| now.seconds_since(e.time) < KEPT_SECONDS + FRESH_SECONDS)
        .collect();
    kept.sort();
    let policies = stricter(case);
    let counts = |e: &Entry| policies.iter().any(|p| now < frees(e, &p.blast_radius.rolling));
    while kept.len() >= MOST_ENTRIES && kept.first().is_some_and(|e| !counts(e)) {
        kept.remove(0);
    }
    kept.push(Entry {
        time: now,
        kind: entity.kind,
        entity_uid: entity.uid.clone(),
        request_uid: case.facts.request_uid(),
        request: case.facts.request.metadata.name.clone().unwrap_or_default(),
    });
    Some(Effect::Reserve { ledger, text: write(&kept) })
}

#[cfg(test)]
#[path = "rolling_tests.rs"]
mod tests;
