//! The course of one Restore through its sites: who is next, who waits, who is done.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::act::Work;
use super::decide::{Job, Standing};
use super::estimate::Estimate;
use super::forecast::Forecast;
use super::gate::Gate;
use super::living;
use super::memory::{Memories, Memory, Settled, standings};
use super::plan::failure;
use super::prepare::{Preparation, Prepared};
use super::queue::{self, Waiting};
use super::site::{Attempt, Progress};
use crate::api::Reason;
use crate::cluster::{During, Result};

/// Sites that are prepared at the same time: their archives are read, page by page.
const PREPARING: usize = 16;
/// Sites whose index is kept from its preparing until its turn; that of the others is read again,
/// so that memory does not grow with the number of sites.
const INDICES: usize = 64;
/// How long the preparing of one site is waited for before the first object: the store may hang.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);
/// How long after its begin no new site is begun while some are not prepared.
const UNPREPARED: Duration = Duration::from_secs(15);
/// How long a site is under way before it says at which stage.
const TELL_STAGE_AFTER: Duration = Duration::from_secs(10);
/// How often the world is looked at: whether to stop, what to tell.
const TICK: Duration = Duration::from_millis(250);
/// Between two writes of the progress.
const TELL: Duration = Duration::from_secs(1);

/// A site's place, and of how many.
type Place = (i64, i64);

/// Gives back what is verified, and what lived and cannot be restored. Only then it has ended: a
/// crash in between must find it open.
async fn settle(work: &Work, job: &Job, attempt: Attempt, objects: (i64, i64)) -> Settled {
    let (written, settled) = match attempt {
        Attempt::Waiting(reason, why) => return Settled::Waiting(reason, why),
        Attempt::Verified(verified) => {
            (work.release(job, &verified).await, Settled::Verified(verified))
        }
        Attempt::Failed(failures) => {
            (work.give_up(job, &failures, objects).await, Settled::Failed(failures))
        }
    };
    match written {
        Ok(()) => settled,
        Err(error) => {
            let why = format!("release the Site: {}", crate::cluster::describe(&error));
            Settled::Waiting(Reason::Progressing, why)
        }
    }
}

/// How the sites of a Restore stand, and when they will be back.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Each site, in the order of the jobs.
    pub standings: Vec<Standing>,
    /// What is expected of those that are not done.
    pub estimate: Option<Arc<Estimate>>,
}

impl Told {
    /// As it is now.
    pub fn of(jobs: &[Job], memories: &Memories, forecast: &Forecast) -> Self {
        Self { standings: standings(jobs, memories), estimate: forecast.latest() }
    }
}

/// What the sites of a Restore share while it runs.
pub struct Course<'a> {
    /// What it is done with.
    pub work: &'a Work,
    /// The same, for what must stop when the Restore does.
    pub gated: &'a Work,
    /// Which sites.
    pub jobs: &'a [Job],
    /// What is remembered of them.
    pub memories: &'a mut Memories,
    /// Closed when the Restore is to stop.
    pub gate: &'a Gate,
    /// Whether it is to stop, and what happened to the Restore.
    pub stop: &'a (dyn Fn() -> Option<&'static str> + Send + Sync),
    /// When they will be back.
    pub forecast: &'a mut Forecast,
    /// Gets how all sites stand, at most once a second.
    pub told: watch::Sender<Told>,
    /// When it was told last.
    pub last: Instant,
    /// Sites that are worked on at the same time.
    pub slots: usize,
}

impl Course<'_> {
    /// One attempt at every site that has not ended; or the end of all of them, if the Restore is
    /// to stop.
    ///
    /// # Errors
    /// The Sites cannot be read.
    pub async fn run(&mut self, enough: Duration) -> Result<()> {
        self.tick();
        if !self.gate.is_closed() {
            let prepared = self.prepare().await;
            // A gate that closes meanwhile fails what is on its way, too.
            if !self.gate.is_closed() {
                prepared?;
                self.attempt_all(enough).await;
            }
        }
        if self.gate.is_closed() {
            self.recognize().await?;
            self.stop().await;
        }
        Ok(())
    }

    /// Looks at the world: whether to stop, and what to tell.
    fn tick(&mut self) {
        if !self.gate.is_closed() && (self.stop)().is_some() {
            self.gate.close();
        }
        if self.last.elapsed() >= TELL {
            self.last = Instant::now();
            self.forecast.look(self.jobs, self.memories, &self.work.stages, self.slots);
            self.told.send_replace(Told::of(self.jobs, self.memories, self.forecast));
        }
    }

    /// Creates every Site that is not there yet, and tells each its place: everyone can see from
    /// then on where they stand.
    ///
    /// # Errors
    /// The Sites cannot be read.
    pub async fn prepare(&mut self) -> Result<()> {
        for job in self.jobs {
            self.memories.entry(job.name.clone()).or_default();
        }
        let todo: Vec<&Job> = self.jobs.iter().filter(|job| self.unprepared(&job.name)).collect();
        if todo.is_empty() {
            return Ok(());
        }
        let mut census = self.gated.census(&todo).await?;
        let mut live = std::mem::take(&mut census.sites);
        let (work, gated, census) = (self.work, self.gated, &census);
        let all: Vec<_> = todo
            .into_iter()
            .map(|job| (job, live.remove(&job.name)))
            .map(|(job, live)| async move {
                let marked = live.as_ref().is_some_and(living::is_marked);
                let preparation =
                    tokio::time::timeout(PREPARE_LIMIT, gated.prepare(job, live, census)).await;
                let preparation = preparation.unwrap_or_else(|_| {
                    let why = format!("its archive was not read in {} s", PREPARE_LIMIT.as_secs());
                    Preparation::Ended(Attempt::Waiting(Reason::StoreUnavailable, why))
                });
                match preparation {
                    Preparation::Ready(prepared) => (job, Ok(prepared)),
                    Preparation::Verified(verified) => {
                        let given = if marked { work.unmark_released(job).await } else { Ok(()) };
                        let settled = match given {
                            Ok(()) => Settled::Verified(verified),
                            Err(error) => Settled::Waiting(
                                Reason::Progressing,
                                format!("release the Site: {}", crate::cluster::describe(&error)),
                            ),
                        };
                        (job, Err(settled))
                    }
                    Preparation::Ended(attempt) => {
                        (job, Err(settle(work, job, attempt, (0, 0)).await))
                    }
                }
            })
            .collect();
        let mut all = stream::iter(all).buffer_unordered(PREPARING);
        let mut kept = 0;
        loop {
            match tokio::time::timeout(TICK, all.next()).await {
                Ok(None) => break,
                Ok(Some((job, prepared))) => {
                    let memory = self.memories.entry(job.name.clone()).or_default();
                    match prepared {
                        Ok(mut prepared) => {
                            memory.waiting = None;
                            memory.progress.index =
                                prepared.index.take().filter(|_| kept < INDICES);
                            kept += usize::from(memory.progress.index.is_some());
                            memory.prepared = Some(prepared);
                        }
                        Err(settled) => memory.take(settled),
                    }
                }
                Err(_) => {}
            }
            self.tick();
        }
        drop(all);
        self.tell_places().await;
        Ok(())
    }

    /// Finds out which sites this Restore has verified before, and does nothing else.
    async fn recognize(&mut self) -> Result<()> {
        let todo: Vec<&Job> = self.jobs.iter().filter(|job| self.unprepared(&job.name)).collect();
        if todo.is_empty() {
            return Ok(());
        }
        let census = self.work.census(&todo).await?;
        for job in todo {
            let Some(live) = census.sites.get(&job.name) else { continue };
            let memory = self.memories.entry(job.name.clone()).or_default();
            if let Some(verified) = self.work.verified_before(live) {
                if living::is_marked(live) {
                    let released = self.work.unmark_released(job).await;
                    released.during(format!("release the Site {}", job.name))?;
                }
                memory.ended = Some(Ok(verified));
            } else if let Some(prepared) = self.work.prepared_before(live) {
                memory.prepared = Some(prepared);
            }
        }
        Ok(())
    }

    fn unprepared(&self, name: &str) -> bool {
        self.memories.get(name).is_none_or(|m| m.prepared.is_none() && m.ended.is_none())
    }

    /// Gives a place to each site that has none yet, and writes it down on the Site.
    async fn tell_places(&mut self) {
        let verified = |memory: &&Memory| memory.ended.as_ref().is_some_and(Result::is_ok);
        let verified = self.memories.values().filter(verified).count();
        let placed = self.memories.values().filter_map(|m| m.prepared.as_ref()?.place);
        let last = placed.map(|(place, _)| place).max().unwrap_or_default();
        let before = usize::try_from(last).unwrap_or_default().max(verified);
        let new = self.memories.iter().filter(|(_, memory)| memory.ended.is_none());
        let new = new.filter_map(|(name, memory)| {
            let prepared = memory.prepared.as_ref().filter(|prepared| prepared.place.is_none())?;
            let Prepared { priority, since, .. } = *prepared;
            Some(Waiting { name: name.clone(), priority, since })
        });
        let ordered = queue::order(new.collect(), before);
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let places = number(before + ordered.len());
        for (at, site) in ordered.iter().enumerate() {
            if let Some(prepared) =
                self.memories.get_mut(&site.name).and_then(|m| m.prepared.as_mut())
            {
                prepared.place = Some((number(before + at + 1), places));
            }
        }
        let new: HashSet<&str> = ordered.iter().map(|site| site.name.as_str()).collect();
        // With their places the estimates are others.
        self.forecast.look_again(self.jobs, self.memories, &self.work.stages, self.slots);
        let (gated, now) = (self.gated, self.work.ctx.now());
        let jobs: Vec<&Job> =
            self.jobs.iter().filter(|job| new.contains(job.name.as_str())).collect();
        let sites: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        let mut all = vec![];
        for (job, promise) in jobs.into_iter().zip(self.forecast.first(&sites, now)) {
            let prepared = self.memories.get(&job.name).and_then(|m| m.prepared.clone());
            let Some(prepared) = prepared else { continue };
            all.push(async move { (job, gated.tell_place(job, &prepared, promise).await) });
        }
        let mut all = stream::iter(all).buffer_unordered(PREPARING);
        loop {
            match tokio::time::timeout(TICK, all.next()).await {
                Ok(None) => break,
                // It is for people: the restore goes on without it.
                Ok(Some((job, Err(error)))) => {
                    tracing::warn!(site = job.name, %error, "cannot tell a Site its place");
                }
                Ok(Some((_, Ok(())))) | Err(_) => {}
            }
            self.tick();
        }
    }

    /// Attempts at each site that is prepared and has not ended, in the order of their places, so
    /// many at a time. One that waits holds up none of the others: it is put aside and looked at
    /// again. No site is begun once `enough` has passed.
    pub async fn attempt_all(&mut self, enough: Duration) {
        let parallelism = self.slots;
        let jobs: HashMap<&str, &Job> = self.jobs.iter().map(|job| (&*job.name, job)).collect();
        let unprepared = self.jobs.iter().any(|job| self.unprepared(&job.name));
        let enough = if unprepared { enough.min(UNPREPARED) } else { enough };
        let begun = Instant::now();
        let mut looked = begun;
        // Those that wait, and those that were not looked at yet; both in the order of their places.
        let waits = |name: &String| self.memories.get(name).is_some_and(|m| m.again.is_some());
        let (again, fresh): (Vec<_>, Vec<_>) =
            self.queue().into_iter().partition(|(_, name)| waits(name));
        let mut again: BTreeSet<(Place, String)> = again.into_iter().collect();
        let mut fresh: VecDeque<(Place, String)> = fresh.into();
        let mut looking = HashSet::new();
        let mut running = FuturesUnordered::new();
        let mut telling = FuturesUnordered::new();
        loop {
            while !self.gate.is_closed() && begun.elapsed() < enough && running.len() < parallelism
            {
                // Sites that wait take a quarter of the slots while others have not been begun.
                let may_look = fresh.is_empty() || looking.len() < parallelism.div_ceil(4);
                let now = Instant::now();
                let due = again.iter().filter(|_| may_look).find(|(_, name)| {
                    let due = self.memories.get(name).and_then(|m| m.again);
                    due.is_none_or(|(at, _)| at <= now)
                });
                let due = due.cloned();
                if let Some(due) = &due {
                    again.remove(due);
                    looking.insert(due.1.clone());
                }
                let Some((place, name)) = due.or_else(|| fresh.pop_front()) else { break };
                let Some(job) = jobs.get(name.as_str()).copied() else { continue };
                let Some(memory) = self.memories.get_mut(&name) else { continue };
                let Some(prepared) = memory.prepared.clone() else { continue };
                memory.begun.get_or_insert_with(Instant::now);
                let (mut progress, done) = (memory.progress.clone(), memory.done.clone());
                let (waiting_since, gated, work) = (memory.waiting_since, self.gated, self.work);
                running.push(async move {
                    let (attempt, notices) =
                        gated.attempt(job, &prepared, &mut progress, &done).await;
                    let mut limits = Memory { waiting_since, ..Memory::default() };
                    let attempt = limits.limit(&job.name, attempt);
                    let objects = (done.load(Ordering::Relaxed), prepared.total);
                    let settled = settle(work, job, attempt, objects).await;
                    (place, job, settled, notices, progress, limits.waiting_since)
                });
            }
            if running.is_empty() {
                let over = self.gate.is_closed() || begun.elapsed() >= enough || again.is_empty();
                if over && telling.is_empty() {
                    return;
                }
            }
            tokio::select! {
                Some(ended) = running.next() => {
                    let (place, job, settled, notices, progress, waiting_since) = ended;
                    looking.remove(&job.name);
                    if matches!(settled, Settled::Waiting(..)) {
                        again.insert((place, job.name.clone()));
                    } else {
                        self.work.stages.remove(&job.name);
                    }
                    let memory = self.memories.entry(job.name.clone()).or_default();
                    memory.progress = progress;
                    // Of many that wait, the index is read again rather than kept.
                    if again.len() > INDICES {
                        memory.progress.index = None;
                    }
                    memory.waiting_since = waiting_since;
                    if !notices.is_empty() {
                        memory.notices = notices;
                    }
                    memory.take(settled);
                    if memory.ended.is_some() {
                        memory.took = memory.progress.took;
                        memory.progress = Progress::default();
                    }
                    // An attempt that failed half way may have created something.
                    if let Some(prepared) = &mut memory.prepared {
                        prepared.fresh = false;
                    }
                }
                Some(()) = telling.next() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            if !self.gate.is_closed() && looked.elapsed() >= TELL {
                looked = Instant::now();
                for (name, stage, done) in self.stages_to_tell() {
                    if let Some(job) = jobs.get(name.as_str()).copied() {
                        telling.push(self.gated.tell_stage(job, stage, done).boxed());
                    }
                }
                for (name, promise) in self.forecast.news(self.work.ctx.now()) {
                    if let Some(job) = jobs.get(name.as_str()).copied() {
                        telling.push(self.gated.tell_estimate(job, promise).boxed());
                    }
                }
            }
            self.tick();
        }
    }

    /// The sites that have not ended, in the order of their places.
    fn queue(&self) -> Vec<(Place, String)> {
        let open = self.memories.iter().filter(|(_, memory)| memory.ended.is_none());
        let mut open: Vec<(Place, String)> = open
            .filter_map(|(name, m)| Some((m.prepared.as_ref()?.place?, name.clone())))
            .collect();
        open.sort();
        open
    }

    /// Stages that have lasted, and are not written down.
    fn stages_to_tell(&mut self) -> Vec<(String, &'static str, i64)> {
        let mut all = vec![];
        for (name, memory) in self.memories.iter_mut() {
            let lasts = memory.begun.is_some_and(|begun| begun.elapsed() >= TELL_STAGE_AFTER);
            if memory.ended.is_some() || !lasts {
                continue;
            }
            let stage = self.work.stages.get(name);
            if let Some(stage) = stage.filter(|stage| memory.stage_told != Some(*stage)) {
                memory.stage_told = Some(stage);
                all.push((name.clone(), stage, memory.objects().0));
            }
        }
        all
    }

    /// Ends every site that has not ended, because the Restore is to stop: what is there stays, and
    /// each says how far it is.
    pub async fn stop(&mut self) {
        let work = self.work;
        let what = (self.stop)().unwrap_or("stopped");
        let open = self
            .jobs
            .iter()
            .filter(|job| self.memories.get(&job.name).is_none_or(|memory| memory.ended.is_none()));
        let all: Vec<_> = open
            .map(|job| {
                let memory = self.memories.get(&job.name);
                let (done, total) = memory.map_or((0, 0), Memory::objects);
                // Of one that was prepared before a restart, nobody remembers whether it was begun.
                let begun = memory.is_some_and(|memory| {
                    memory.begun.is_some() || memory.prepared.as_ref().is_some_and(|p| !p.fresh)
                });
                let why = match (begun, total) {
                    (true, _) => format!(
                        "the Restore was {what} while the site was restored: at least {done} of {total} objects are there"
                    ),
                    (false, 0) => format!("the Restore was {what} before anything was done"),
                    (false, _) => format!(
                        "the Restore was {what} before the site was begun: of its objects, the Site alone is there"
                    ),
                };
                let failures = vec![failure(&job.name, None, Reason::CancelledByUser, why)];
                async move {
                    (job, settle(work, job, Attempt::Failed(failures), (done, total)).await)
                }
            })
            .collect();
        let mut all = stream::iter(all).buffer_unordered(PREPARING);
        while let Some((job, settled)) = all.next().await {
            self.memories.entry(job.name.clone()).or_default().take(settled);
        }
    }
}
