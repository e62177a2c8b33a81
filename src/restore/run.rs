//! The course of one Restore through its sites: who is next, who waits, who is done. It remembers
//! between two looks what it would otherwise have to find out again; all of it can be lost, and is
//! then read from the cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::act::Work;
use super::decide::{Job, Phase, Standing, order};
use super::plan::failure;
use super::prepare::{Preparation, Prepared};
use super::site::{Attempt, Progress};
use crate::api::{Reason, RestoreFailure, VerifiedSite};

/// How long a site's workloads may take to become ready again, and what is being deleted to go.
const PATIENCE: Duration = Duration::from_secs(600);
/// Archives that are read at the same time before the first site is created.
const PREPARING: usize = 4;

/// What is remembered of a site.
#[derive(Debug, Default)]
pub struct Memory {
    prepared: Option<Prepared>,
    progress: Progress,
    done: Arc<AtomicI64>,
    waiting: Option<(Reason, String)>,
    waiting_since: Option<(Reason, Instant)>,
    notices: Vec<RestoreFailure>,
    ended: Option<Result<VerifiedSite, Vec<RestoreFailure>>>,
    begun: bool,
}

impl Memory {
    fn standing(&self, name: &str) -> Standing {
        let phase = match &self.ended {
            Some(Ok(verified)) => Phase::Verified(verified.clone()),
            Some(Err(failures)) => Phase::Failed(failures.clone()),
            None if self.begun || self.waiting.is_some() => Phase::Restoring(self.waiting.clone()),
            None => Phase::Queued,
        };
        let (mut total, mut done) = (0, self.done.load(Ordering::Relaxed));
        if let Some(prepared) = &self.prepared {
            total = prepared.total;
        }
        if let Some(Ok(verified)) = &self.ended {
            (total, done) = (verified.objects, verified.objects);
        }
        Standing { name: name.to_owned(), phase, total, done, notices: self.notices.clone() }
    }

    fn take(&mut self, site: &str, attempt: Attempt) {
        self.waiting = None;
        match attempt {
            Attempt::Verified(verified) => self.ended = Some(Ok(verified)),
            Attempt::Failed(failures) => self.ended = Some(Err(failures)),
            Attempt::Waiting(reason, why) => {
                if let Some(doing) = limited(reason) {
                    let since = self.waiting_since.filter(|(of, _)| *of == reason);
                    let (_, since) =
                        *self.waiting_since.insert(since.unwrap_or((reason, Instant::now())));
                    if since.elapsed() > PATIENCE {
                        let seconds = PATIENCE.as_secs();
                        let why = format!(
                            "{doing} after {seconds} s: {why}; make another Restore to go on"
                        );
                        self.ended = Some(Err(vec![failure(site, None, reason, why)]));
                        return;
                    }
                }
                self.waiting = Some((reason, why));
            }
        }
    }
}

/// What is waited for with a limit, and what to say when it has passed. Everything else is waited
/// for until it passes by itself: a store or an API server that is away.
fn limited(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::WaitingForReady => Some("every object is back and equal, but not ready"),
        Reason::StillTerminating => Some("what is being deleted is still there"),
        _ => None,
    }
}

/// What is remembered of a Restore, by name of the Site.
pub type Memories = HashMap<String, Memory>;

/// How every site stands, in the order of the jobs.
pub fn standings(jobs: &[Job], memories: &Memories) -> Vec<Standing> {
    let fresh = Memory::default();
    jobs.iter().map(|job| memories.get(&job.name).unwrap_or(&fresh).standing(&job.name)).collect()
}

/// Creates every Site that is not there yet: everyone can see from then on where they stand.
pub async fn prepare(work: &Work, jobs: &[Job], memories: &mut Memories) {
    for job in jobs {
        memories.entry(job.name.clone()).or_default();
    }
    let todo = jobs.iter().filter(|job| {
        memories.get(&job.name).is_none_or(|m| m.prepared.is_none() && m.ended.is_none())
    });
    let todo: Vec<_> = todo.map(|job| async move { (job, work.prepare(job).await) }).collect();
    let mut prepared = stream::iter(todo).buffer_unordered(PREPARING);
    while let Some((job, preparation)) = prepared.next().await {
        let memory = memories.entry(job.name.clone()).or_default();
        match preparation {
            Preparation::Ready(mut prepared) => {
                memory.waiting = None;
                memory.progress.index = prepared.index.take();
                memory.prepared = Some(prepared);
            }
            Preparation::Verified(verified) => memory.ended = Some(Ok(verified)),
            Preparation::Ended(attempt) => memory.take(&job.name, attempt),
        }
    }
}

/// One attempt at each site that is prepared and has not ended, in order of priority, so many at
/// a time. `told` gets how all sites stand, at most once a second. No site is begun once `enough`
/// has passed.
pub async fn attempt_all(
    work: &Work,
    jobs: &[Job],
    memories: &mut Memories,
    parallelism: usize,
    enough: Duration,
    told: watch::Sender<Vec<Standing>>,
) {
    let begun = Instant::now();
    let mut names: Vec<(i32, String)> = vec![];
    for job in jobs {
        if let Some(memory) = memories.get(&job.name)
            && memory.ended.is_none()
            && let Some(prepared) = &memory.prepared
        {
            names.push((prepared.priority, job.name.clone()));
        }
    }
    order(&mut names);
    let by_name: HashMap<&str, &Job> = jobs.iter().map(|job| (job.name.as_str(), job)).collect();
    let mut running = FuturesUnordered::new();
    let mut queue = names.into_iter();
    let mut last = Instant::now();
    loop {
        while running.len() < parallelism.max(1) && begun.elapsed() < enough {
            let Some((_, name)) = queue.next() else { break };
            let Some(job) = by_name.get(name.as_str()).copied() else { continue };
            let Some(memory) = memories.get_mut(&name) else { continue };
            memory.begun = true;
            let Some(prepared) = memory.prepared.clone() else { continue };
            let (mut progress, done) = (memory.progress.clone(), memory.done.clone());
            running.push(async move {
                let (attempt, notices) = work.attempt(job, &prepared, &mut progress, &done).await;
                (job, attempt, notices, progress)
            });
        }
        if running.is_empty() {
            return;
        }
        let tick = tokio::time::timeout(Duration::from_secs(1), running.next()).await;
        if let Ok(Some((job, attempt, notices, progress))) = tick {
            let memory = memories.entry(job.name.clone()).or_default();
            memory.progress = progress;
            if !notices.is_empty() {
                memory.notices = notices;
            }
            memory.take(&job.name, attempt);
            if memory.ended.is_some() {
                memory.progress = Progress::default();
            }
            // An attempt that failed half way may have created something.
            if let Some(prepared) = &mut memory.prepared {
                prepared.fresh = false;
            }
        }
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            told.send_replace(standings(jobs, memories));
        }
    }
}
