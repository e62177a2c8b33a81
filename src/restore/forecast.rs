//! The estimates of one Restore: made from what its sites have taken so far and what the store
//! knows of earlier runs, and checked at its end against what came of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decide::Job;
use super::estimate::{Estimate, Known, Left, Pending, Promise, Sample, Stage, estimate};
use super::mark::Stages;
use super::memory::{Memories, Memory, PATIENCE};
use crate::api::{Reason, Restore, Time};
use crate::cluster::Metrics;
use crate::store::timings::FORMAT;
use crate::store::{CheckedEstimate, RunTimings, SiteTiming, Store};

/// Earlier runs that are looked at.
const RUNS: usize = 20;
/// Sites of a run that are kept.
const MOST_SITES: usize = 200;
/// How often an estimate is made.
const EVERY: Duration = Duration::from_secs(5);
/// How often one site is told another estimate, at most.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Sites that are told a new estimate at a time, at most: each is a write.
const TELL_AT_A_TIME: usize = 10;
/// When this much of the objects is back, in percent, the estimate is noted, to be checked.
const CHECKED: [u8; 3] = [10, 50, 90];
/// What is shorter says nothing of how good estimates are.
const WORTH_CHECKING: Duration = Duration::from_secs(6);

/// The estimates of one Restore.
#[derive(Debug)]
pub struct Forecast {
    drill: bool,
    /// What is known; of this run and of errors, as of the latest estimate.
    known: Known,
    /// What runs of this kind took of what the model said, when this much was back, in percent.
    errors: Vec<(u8, f64)>,
    made: Option<Instant>,
    latest: Option<Arc<Estimate>>,
    /// The sites of the latest estimate.
    names: Vec<String>,
    /// What each Site says.
    told: HashMap<String, (Promise, Instant)>,
    noted: Vec<Noted>,
}

/// An estimate that is to be checked.
#[derive(Debug)]
struct Noted {
    at_percent: u8,
    at: Instant,
    left: Left,
    model: Duration,
    earlier: usize,
}

impl Forecast {
    /// From what the store knows of earlier runs. A store that does not answer is no reason to wait:
    /// then this run alone counts.
    pub async fn begin(store: &Store, drill: bool) -> Self {
        let runs = match store.last_timings(RUNS).await {
            Ok(found) => {
                for refused in &found.refused {
                    tracing::warn!(%refused, "timings that cannot be taken");
                }
                found.good
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read how long earlier restores took");
                vec![]
            }
        };
        Self::from(&runs, drill)
    }

    fn from(runs: &[RunTimings], drill: bool) -> Self {
        // A drill runs other hooks of a site than a restore does.
        let hooks = |run: &RunTimings, site: &SiteTiming| {
            site.hooks_milliseconds.filter(|_| run.drill == drill).map(Duration::from_millis)
        };
        let of = |run: &RunTimings, site: &SiteTiming| Sample {
            objects: site.objects,
            create: Duration::from_millis(site.create_milliseconds),
            ready: site.ready_milliseconds.map(Duration::from_millis),
            verify: Duration::from_millis(site.verify_milliseconds),
            hooks: hooks(run, site),
        };
        let sites = |run: &RunTimings| -> Vec<Sample> {
            run.sites.iter().map(|site| of(run, site)).collect()
        };
        // Drills have nothing to wait for: what their estimates were worth says nothing of others.
        let alike = runs.iter().filter(|run| run.drill == drill).flat_map(|run| &run.estimates);
        let alike = alike.filter(|estimate| estimate.earlier_sites > 0);
        let ratio = |estimate: &CheckedEstimate| {
            let ratio =
                estimate.actual_milliseconds as f64 / estimate.model_milliseconds.max(1) as f64;
            (estimate.at_percent, ratio)
        };
        Self {
            drill,
            known: Known {
                earlier: runs.iter().flat_map(sites).collect(),
                patience: (!drill).then_some(PATIENCE),
                ..Known::default()
            },
            errors: alike.map(ratio).collect(),
            made: None,
            latest: None,
            names: vec![],
            told: HashMap::new(),
            noted: vec![],
        }
    }

    /// The latest estimate.
    pub fn latest(&self) -> Option<Arc<Estimate>> {
        self.latest.clone()
    }

    /// Makes an estimate now.
    pub fn look_again(&mut self, jobs: &[Job], memories: &Memories, stages: &Stages, slots: usize) {
        self.made = None;
        self.look(jobs, memories, stages, slots);
    }

    /// Makes an estimate, if it is time for one.
    pub fn look(&mut self, jobs: &[Job], memories: &Memories, stages: &Stages, slots: usize) {
        let first = || self.latest.is_none() && memories.values().any(|m| m.took.is_some());
        if self.made.is_some_and(|made| made.elapsed() < EVERY) && !first() {
            return;
        }
        self.made = Some(Instant::now());
        let fresh = Memory::default();
        let mut open: Vec<(&Job, &Memory)> = jobs
            .iter()
            .map(|job| (job, memories.get(&job.name).unwrap_or(&fresh)))
            .filter(|(_, memory)| memory.ended.is_none())
            .collect();
        // Who has no place yet comes last.
        let place = |memory: &Memory| memory.prepared.as_ref().and_then(|p| p.place);
        open.sort_by_key(|(_, memory)| (place(memory).is_none(), place(memory)));
        let pending: Vec<Pending> =
            open.iter().map(|(job, memory)| pending(job, memory, stages.get(&job.name))).collect();
        let percent = percent(jobs, memories);
        self.known.this_run = memories.values().filter_map(|m| m.took).collect();
        self.known.errors = self.errors_at(percent);
        self.latest = estimate(&self.known, &pending, slots).map(Arc::new);
        self.names = open.into_iter().map(|(job, _)| job.name.clone()).collect();
        self.note(percent);
    }

    /// How wrong the model was in runs like this one when about so much was back.
    fn errors_at(&self, percent: i64) -> Vec<f64> {
        let nearest = CHECKED.into_iter().min_by_key(|at| (i64::from(*at) - percent).abs());
        let all = self.errors.iter().filter(|(at, _)| Some(*at) == nearest);
        all.map(|(_, error)| *error).collect()
    }

    /// Notes the estimate, made when so much was back, where it is to be checked.
    fn note(&mut self, percent: i64) {
        let Some(latest) = self.latest.as_ref() else { return };
        let Some(end) = latest.end.as_ref() else { return };
        let Some(left) = end.all else { return };
        let earlier = latest.earlier;
        let reached = CHECKED.iter().filter(|at| i64::from(**at) <= percent).max().copied();
        if let Some(at_percent) = reached
            && self.noted.iter().all(|noted| noted.at_percent < at_percent)
        {
            let model = end.model;
            self.noted.push(Noted { at_percent, at: Instant::now(), left, model, earlier });
        }
    }

    /// What each of these Sites is to say now, before it is told anything.
    pub fn first(&mut self, sites: &[&str], now: Time) -> Vec<Option<Promise>> {
        let end = self.latest.as_ref().and_then(|latest| latest.end.as_ref());
        let left: HashMap<&str, Left> = end.map_or_else(HashMap::new, |end| {
            let sites = self.names.iter().map(String::as_str).zip(&end.sites);
            sites.filter_map(|(name, left)| Some((name, (*left)?))).collect()
        });
        let promise = |site: &&str| Some(Promise::of(*left.get(site)?, None, now));
        let promises: Vec<Option<Promise>> = sites.iter().map(promise).collect();
        for (site, promise) in sites.iter().zip(&promises) {
            if let Some(promise) = promise {
                self.told.insert((*site).to_owned(), (*promise, Instant::now()));
            }
        }
        promises
    }

    /// The Sites that are to say something else than they do, the first in the queue first.
    pub fn news(&mut self, now: Time) -> Vec<(String, Promise)> {
        let Some(end) = self.latest.as_ref().and_then(|latest| latest.end.as_ref()) else {
            return vec![];
        };
        let mut all = vec![];
        for (name, left) in self.names.iter().zip(&end.sites) {
            let Some(left) = left else { continue };
            let told = self.told.get(name);
            let recent = told.is_some_and(|(_, at)| at.elapsed() < TELL_EVERY);
            let promise = Promise::of(*left, told.map(|(promise, _)| *promise), now);
            if !recent && told.is_none_or(|(old, _)| *old != promise) {
                all.push((name.clone(), promise));
            }
            if all.len() == TELL_AT_A_TIME {
                break;
            }
        }
        for (name, promise) in &all {
            self.told.insert(name.clone(), (*promise, Instant::now()));
        }
        all
    }

    /// What is worth keeping of a Restore that has just ended. None: nothing was measured.
    pub fn end(&self, restore: &Restore, uid: &str, memories: &Memories) -> Option<RunTimings> {
        let milliseconds = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let mut took: Vec<(&String, Sample)> =
            memories.iter().filter_map(|(name, memory)| Some((name, memory.took?))).collect();
        if took.is_empty() {
            return None;
        }
        took.sort_by_key(|(name, _)| *name);
        let step = took.len().div_ceil(MOST_SITES);
        let sites = took.into_iter().step_by(step).map(|(_, sample)| SiteTiming {
            objects: sample.objects,
            create_milliseconds: milliseconds(sample.create),
            ready_milliseconds: sample.ready.map(milliseconds),
            verify_milliseconds: milliseconds(sample.verify),
            hooks_milliseconds: sample.hooks.map(milliseconds),
        });
        let estimates = self.noted.iter().map(|Noted { at_percent, at, left, model, earlier }| {
            CheckedEstimate {
                at_percent: *at_percent,
                earlier_sites: u64::try_from(*earlier).unwrap_or(u64::MAX),
                model_milliseconds: milliseconds(*model),
                expected_milliseconds: milliseconds(left.p50),
                no_later_milliseconds: milliseconds(left.p90),
                actual_milliseconds: milliseconds(at.elapsed()),
            }
        });
        let worth = WORTH_CHECKING.as_millis() as u64;
        let estimates = estimates
            .filter(|e| e.expected_milliseconds.max(e.actual_milliseconds) >= worth)
            .collect();
        Some(RunTimings {
            format: FORMAT.to_owned(),
            restore: restore.metadata.name.clone().unwrap_or_default(),
            restore_uid: uid.to_owned(),
            drill: self.drill,
            start_time: restore.status.as_ref().and_then(|status| status.start_time)?,
            parallelism: restore.spec.parallelism,
            sites: sites.collect(),
            estimates,
        })
    }
}

/// Tells Prometheus what came of a run's estimates.
pub fn check(metrics: &Metrics, run: &RunTimings) {
    for estimate in &run.estimates {
        metrics.restores.check(
            estimate.at_percent,
            Duration::from_millis(estimate.expected_milliseconds),
            Duration::from_millis(estimate.no_later_milliseconds),
            Duration::from_millis(estimate.actual_milliseconds),
        );
    }
}

/// How much of all objects is back.
fn percent(jobs: &[Job], memories: &Memories) -> i64 {
    let objects = jobs.iter().map(|job| {
        let (done, total) = memories.get(&job.name).map_or((0, 0), Memory::objects);
        (done.min(total), total.max(job.backup.objects))
    });
    let (done, total) = objects.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    if total > 0 { done * 100 / total } else { 0 }
}

/// How a site stands, for an estimate.
fn pending(job: &Job, memory: &Memory, stage: Option<&'static str>) -> Pending {
    let (done, total) = memory.objects();
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let objects = count(if total > 0 { total } else { job.backup.objects });
    let waits = memory.waiting.as_ref().map(|(reason, _)| *reason);
    let since = memory.progress.created.as_ref().and_then(|created| created.at);
    let begun = memory.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    let (stage, stuck) = match (memory.begun, waits, stage) {
        (None, ..) => (Stage::Queued, Duration::ZERO),
        (_, _, Some("RunningHooks")) => {
            let begun = memory.progress.hooks_begun;
            let runs = begun.map_or(Duration::ZERO, |begun| begun.elapsed());
            (Stage::RunningHooks(runs), Duration::ZERO)
        }
        (_, Some(Reason::WaitingForReady), _) | (_, _, Some("WaitingForReady")) => {
            let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
            (Stage::WaitingForReady(waited), Duration::ZERO)
        }
        (_, Some(_), _) => (Stage::Creating(count(done)), begun),
        (_, None, Some("Verifying")) => (Stage::Verifying, Duration::ZERO),
        _ => (Stage::Creating(count(done)), Duration::ZERO),
    };
    let hooks = memory.prepared.as_ref().is_some_and(|prepared| prepared.hooks)
        || matches!(stage, Stage::RunningHooks(_));
    Pending { objects, stage, stuck, hooks }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
