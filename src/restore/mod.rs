//! Restores: deleted sites, and lost namespaces of sites that live, brought back from their
//! archives, read back and compared.
//!
//! This room must not overwrite or delete anything that lives.

mod act;
mod apps;
mod budget;
mod catalogue;
mod choose;
mod compare;
mod create;
pub mod decide;
mod drill;
mod estimate;
#[cfg(test)]
mod fixtures;
mod forecast;
mod gate;
mod going;
mod hooks;
mod index;
mod inert;
mod late;
mod living;
mod mark;
mod memory;
mod object;
mod observe;
mod orphans;
mod owners;
mod part;
mod plan;
mod policies;
mod prepare;
mod queue;
mod rewrite;
mod run;
mod site;
mod snapshot;
mod source;
mod statistics;
mod taken;
mod unbound;
mod volume;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store as Seen};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::{Mutex, watch};

use crate::api::{Restore, Time};
use crate::cluster::restore_metrics::{AtStage, State};
use crate::cluster::{Context, Result, Shutdown, drive, write_status};
use crate::store::Store;
use act::Work;
use decide::{Decision, Facts, Job, Phase, Standing, Step};
use forecast::Forecast;
use gate::Gate;
use memory::Memories;
use run::{Course, Told};

/// How long one look at a Restore may begin new sites.
const SLICE: Duration = Duration::from_secs(300);
/// The limit of one look: [`SLICE`], and what the last sites of it take.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// What is remembered of each Restore, by UID. It saves work and is never relied on.
type Remembered = Arc<Mutex<HashMap<String, Kept>>>;

/// What is remembered of one Restore.
#[derive(Clone, Default)]
struct Kept {
    name: String,
    memories: Arc<Mutex<Memories>>,
    standings: Arc<std::sync::Mutex<Vec<Standing>>>,
    /// None: nothing was read yet of how long earlier runs took.
    forecast: Arc<Mutex<Option<Forecast>>>,
}

/// What the reconciliations share.
#[derive(Clone)]
struct Room {
    ctx: Context,
    store: Store,
    remembered: Remembered,
    /// The Restores as the watch shows them.
    seen: Seen<DeserializeGuard<Restore>>,
}

/// Runs the room until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    let restores: Api<DeserializeGuard<Restore>> = Api::all(ctx.client.clone());
    let controller = Controller::new(restores, watcher::Config::default());
    let seen = controller.store();
    let room = Room { ctx: ctx.clone(), store, remembered: Remembered::default(), seen };
    let orphans = orphans::run(room.clone(), down.clone());
    let restores = drive("restore", controller, ctx, TIMEOUT, down, move |restore| {
        reconcile(room.clone(), restore)
    });
    tokio::join!(restores, orphans);
}

async fn reconcile(room: Room, restore: Arc<Restore>) -> Result<Action> {
    let ctx = &room.ctx;
    let uid = restore.uid().unwrap_or_default();
    let Some(mut facts) = observe::observe(ctx, &room.store, &restore.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let (jobs, failed) = match decide::decide(&facts, ctx.now()) {
        Step::Report(decision) => {
            write(ctx, &mut facts, &decision).await?;
            if decision.requeue.is_none() {
                room.forget(&uid).await;
            }
            return Ok(next(&decision));
        }
        Step::Work { jobs, failed } => (jobs, failed),
    };
    let kept = room.remember(&uid, &restore.name_any()).await;
    let mut memories = kept.memories.lock().await;
    let created = facts.restore.metadata.creation_timestamp.as_ref().map(Time::from);
    let mut mass = ctx.clone();
    mass.client = ctx.bulk.clone();
    let work = Work {
        ctx: mass,
        store: room.store.clone(),
        restore: facts.restore.name_any(),
        uid: uid.clone(),
        created: created.unwrap_or_else(|| ctx.now()),
        on_conflict: facts.restore.spec.on_conflict,
        stages: mark::Stages::default(),
    };
    let wanted = Wanted { jobs, failed };
    let decision = room.go_on(&work, &mut facts, &wanted, &kept, &mut memories).await?;
    drop(memories);
    let Some(decision) = decision else { return Ok(Action::await_change()) };
    if decision.requeue.is_none() {
        room.forget(&uid).await;
    }
    Ok(next(&decision))
}

fn next(decision: &Decision) -> Action {
    decision.requeue.map_or_else(Action::await_change, Action::requeue)
}

/// What a Restore is of.
struct Wanted {
    jobs: Vec<Job>,
    /// What is named and cannot be restored.
    failed: Vec<Standing>,
}

impl Wanted {
    /// How everything stands: first the jobs, in their order.
    fn standings(&self, mut of_jobs: Vec<Standing>) -> Vec<Standing> {
        of_jobs.extend(self.failed.iter().cloned());
        of_jobs
    }
}

impl Room {
    async fn remember(&self, uid: &str, name: &str) -> Kept {
        let mut all = self.remembered.lock().await;
        let kept = all.entry(uid.to_owned()).or_default();
        name.clone_into(&mut kept.name);
        kept.clone()
    }

    async fn forget(&self, uid: &str) {
        self.remembered.lock().await.remove(uid);
        self.count().await;
    }

    /// What happened to this Restore, if it is to stop.
    fn stops(&self, name: &str, uid: &str) -> Option<&'static str> {
        let live = self.seen.get(&ObjectRef::new(name));
        let live = live.filter(|live| {
            live.uid().as_deref() == Some(uid)
                && Resource::meta(&**live).deletion_timestamp.is_none()
        });
        let Some(live) = live else { return Some("deleted") };
        live.0.as_ref().is_ok_and(|restore| restore.spec.cancel).then_some("cancelled")
    }

    /// One attempt at every site that is not done, with its progress written down. None: the
    /// Restore is gone.
    async fn go_on(
        &self,
        work: &Work,
        facts: &mut Facts,
        wanted: &Wanted,
        kept: &Kept,
        memories: &mut Memories,
    ) -> Result<Option<Decision>> {
        let parallelism = usize::try_from(facts.restore.spec.parallelism).unwrap_or(1);
        let mut forecast = kept.forecast.lock().await;
        let forecast = match &mut *forecast {
            Some(forecast) => forecast,
            none => {
                let drill = facts.restore.spec.source.drill.is_some();
                none.insert(Forecast::begin(&self.store, drill).await)
            }
        };
        if facts.restore.spec.source.store.is_some() {
            facts.policies = policies::bring_back(work).await?;
        }
        if facts.restore.status.as_ref().is_none_or(|status| status.start_time.is_none()) {
            // What is missing in the cluster is told before anything is created in it.
            forecast.look(&wanted.jobs, memories, &work.stages, parallelism);
            let told = Told::of(&wanted.jobs, memories, forecast);
            self.tell(facts, wanted, kept, told).await?;
        }
        let gate = Gate::default();
        let mut gated = work.clone();
        gated.ctx.client = gate.client(&work.ctx.client);
        let stop = || self.stops(&work.restore, &work.uid);
        let (told, mut receiver) = watch::channel(Told::default());
        let telling = async {
            while receiver.changed().await.is_ok() {
                let told = receiver.borrow_and_update().clone();
                // What could not be written now is written at the end, or decided again.
                if let Err(error) = self.tell(facts, wanted, kept, told).await {
                    tracing::warn!(restore = work.restore, %error, "cannot write progress");
                }
            }
        };
        let course = async {
            let mut course = Course {
                work,
                gated: &gated,
                jobs: &wanted.jobs,
                memories: &mut *memories,
                gate: &gate,
                stop: &stop,
                forecast: &mut *forecast,
                told,
                last: Instant::now(),
                slots: parallelism.max(1),
            };
            course.run(SLICE).await
        };
        let (result, ()) = tokio::join!(course, telling);
        result?;
        if gate.is_closed() {
            // What it says now: cancelled, or gone.
            let Some(now) = observe::observe(&self.ctx, &self.store, &work.restore).await? else {
                return Ok(None);
            };
            if now.restore.uid().as_deref() != Some(&work.uid) {
                return Ok(None);
            }
            facts.restore = now.restore;
        }
        let told = Told::of(&wanted.jobs, memories, forecast);
        let decision = self.tell(facts, wanted, kept, told).await?;
        if decision.requeue.is_none()
            && let Some(run) = forecast.end(&facts.restore, &work.uid, memories)
        {
            forecast::check(&self.ctx.metrics, &run);
            // Later estimates are poorer without it, and nothing else.
            if let Err(error) = self.store.note_timings(&run).await {
                tracing::warn!(restore = work.restore, %error, "cannot keep how long it took");
            }
        }
        Ok(Some(decision))
    }

    /// Writes down how the sites stand.
    async fn tell(
        &self,
        facts: &mut Facts,
        wanted: &Wanted,
        kept: &Kept,
        told: Told,
    ) -> Result<Decision> {
        let standings = wanted.standings(told.standings);
        let decision = decide::report(facts, &standings, told.estimate.as_deref(), self.ctx.now());
        *kept.standings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = standings;
        self.count().await;
        write(&self.ctx, facts, &decision).await?;
        Ok(decision)
    }

    /// Tells the metrics of everything that is under way.
    async fn count(&self) {
        let mut sites: HashMap<&'static str, i64> = HashMap::new();
        let mut restores = HashMap::from([("waiting", 0), ("running", 0)]);
        for stage in ["queued", "restoring", "waiting", "verified", "failed"] {
            sites.insert(stage, 0);
        }
        let all = self.remembered.lock().await;
        for live in self.seen.state() {
            let Ok(restore) = &live.0 else { continue };
            if !restore.has_ended() {
                let runs = restore.uid().is_some_and(|uid| all.contains_key(&uid));
                *restores.entry(if runs { "running" } else { "waiting" }).or_default() += 1;
            }
        }
        for kept in all.values() {
            let standings =
                kept.standings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for standing in standings.iter() {
                let stage = match &standing.phase {
                    Phase::Queued => "queued",
                    Phase::Restoring(None) => "restoring",
                    Phase::Restoring(Some(_)) => "waiting",
                    Phase::Verified(_) => "verified",
                    Phase::Failed(_) => "failed",
                };
                *sites.entry(stage).or_default() += 1;
            }
        }
        let metrics = &self.ctx.metrics;
        for (state, number) in restores {
            metrics.restores.open.get_or_create(&State { state }).set(number);
        }
        for (stage, number) in sites {
            metrics.restores.sites.get_or_create(&AtStage { stage }).set(number);
        }
    }
}

async fn write(ctx: &Context, facts: &mut Facts, decision: &Decision) -> Result<()> {
    let api: Api<Restore> = Api::all(ctx.client.clone());
    let old = facts.restore.status.as_ref();
    write_status(&api, &facts.restore, old, &decision.status, false).await?;
    facts.restore.status = Some(decision.status.clone());
    for note in &decision.notes {
        ctx.tell(&facts.restore, note).await;
    }
    Ok(())
}
