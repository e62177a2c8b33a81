//! What is remembered of the sites of one Restore between two looks. All of it can be lost, and is
//! then read from the cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::decide::{Job, Phase, Standing};
use super::estimate::Sample;
use super::plan::failure;
use super::prepare::Prepared;
use super::site::{Attempt, Progress};
use crate::api::{Reason, RestoreFailure, VerifiedSite};

/// How long a site's workloads may take to become ready again, and what is being deleted to go.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at a site that waits: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Between two looks at a hook, at most.
const HOOK_PAUSE: Duration = Duration::from_secs(3);

/// What is remembered of a site.
#[derive(Debug, Default)]
pub struct Memory {
    /// The Site, once it is there and marked.
    pub prepared: Option<Prepared>,
    /// What saves the next look at it some work.
    pub progress: Progress,
    /// Objects that are there.
    pub done: Arc<AtomicI64>,
    /// What it waits for.
    pub waiting: Option<(Reason, String)>,
    /// Since when it waits for that, where the wait has a limit.
    pub waiting_since: Option<(Reason, Instant)>,
    /// When to look again, and how long the pause after that.
    pub again: Option<(Instant, Duration)>,
    /// What is not as it was, and may be so.
    pub notices: Vec<RestoreFailure>,
    /// How it ended: verified, or with what is wrong.
    pub ended: Option<Result<VerifiedSite, Vec<RestoreFailure>>>,
    /// When its first attempt began.
    pub begun: Option<Instant>,
    /// What it has taken, once it is verified.
    pub took: Option<Sample>,
    /// The stage that its Site says.
    pub stage_told: Option<&'static str>,
}

impl Memory {
    /// How the site stands.
    fn standing(&self, name: &str) -> Standing {
        let phase = match &self.ended {
            Some(Ok(verified)) => Phase::Verified(verified.clone()),
            Some(Err(failures)) => Phase::Failed(failures.clone()),
            None if self.begun.is_some() || self.waiting.is_some() => {
                Phase::Restoring(self.waiting.clone())
            }
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

    /// Objects that are there, of how many.
    pub fn objects(&self) -> (i64, i64) {
        let total = self.prepared.as_ref().map_or(0, |prepared| prepared.total);
        (self.done.load(Ordering::Relaxed), total)
    }

    /// Takes in how an attempt ended.
    pub fn take(&mut self, settled: Settled) {
        self.waiting = None;
        match settled {
            Settled::Verified(verified) => self.ended = Some(Ok(verified)),
            Settled::Failed(failures) => self.ended = Some(Err(failures)),
            Settled::Waiting(reason, why) => {
                let pause = self.again.map_or(PAUSE.0, |(_, pause)| pause);
                // A hook is one small read, and what waits for it is out of service.
                let most = if reason == Reason::HookRunning { HOOK_PAUSE } else { PAUSE.1 };
                let pause = pause.min(most);
                self.again = Some((Instant::now() + pause, (pause * 2).min(most)));
                self.waiting = Some((reason, why));
            }
        }
    }

    /// What waits for longer than it may has failed.
    pub fn limit(&mut self, site: &str, attempt: Attempt) -> Attempt {
        let Attempt::Waiting(reason, why) = attempt else { return attempt };
        let Some(doing) = limited(reason) else { return Attempt::Waiting(reason, why) };
        let since = self.waiting_since.filter(|(of, _)| *of == reason);
        let (_, since) = *self.waiting_since.insert(since.unwrap_or((reason, Instant::now())));
        if since.elapsed() <= PATIENCE {
            return Attempt::Waiting(reason, why);
        }
        let seconds = PATIENCE.as_secs();
        let why = format!("{doing} after {seconds} s: {why}; make another Restore to go on");
        Attempt::Failed(vec![failure(site, None, reason, why)])
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

/// How an attempt ended, once that is written down on the Site.
pub enum Settled {
    /// Every object was read back equal, and the Site was given back.
    Verified(VerifiedSite),
    /// It cannot be restored.
    Failed(Vec<RestoreFailure>),
    /// Not yet.
    Waiting(Reason, String),
}
