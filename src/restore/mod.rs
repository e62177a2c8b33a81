//! Restores: deleted sites, and lost namespaces of sites that live, brought back from their
//! archives, read back and compared.
//!
//! This room must not overwrite or delete anything that lives.

mod act;
mod apps;
mod catalogue;
mod choose;
mod compare;
pub mod decide;
mod going;
mod late;
mod living;
mod mark;
mod object;
mod observe;
mod part;
mod plan;
mod policies;
mod prepare;
mod rewrite;
mod run;
mod site;
mod source;
mod taken;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{Mutex, watch};

use crate::api::Restore;
use crate::cluster::{Context, Error, Result, Shutdown, drive, write_status};
use crate::store::Store;
use act::Work;
use decide::{Decision, Facts, Job, Phase, Standing, Step};
use run::Memories;

/// How long one look at a Restore may begin new sites.
const SLICE: Duration = Duration::from_secs(300);
/// The limit of one look: [`SLICE`], and what the last sites of it take.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// What is remembered of each Restore, by UID. It saves work and is never relied on.
type Remembered = Arc<Mutex<HashMap<String, Arc<Mutex<Memories>>>>>;

/// Runs the room until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    let restores: Api<DeserializeGuard<Restore>> = Api::all(ctx.client.clone());
    let controller = Controller::new(restores, watcher::Config::default());
    let context = ctx.clone();
    let remembered = Remembered::default();
    drive("restore", controller, ctx, TIMEOUT, down, move |restore| {
        reconcile(context.clone(), store.clone(), remembered.clone(), restore)
    })
    .await;
}

async fn reconcile(
    ctx: Context,
    store: Store,
    remembered: Remembered,
    restore: Arc<Restore>,
) -> Result<Action> {
    let uid = restore.uid().unwrap_or_default();
    let Some(mut facts) = observe::observe(&ctx, &store, &restore.name_any()).await? else {
        remembered.lock().await.remove(&uid);
        return Ok(Action::await_change());
    };
    let (jobs, failed) = match decide::decide(&facts, ctx.now()) {
        Step::Report(decision) => {
            write(&ctx, &mut facts, &decision).await?;
            return Ok(next(&decision));
        }
        Step::Work { jobs, failed } => (jobs, failed),
    };
    let memories = remembered.lock().await.entry(uid.clone()).or_default().clone();
    let mut memories = memories.lock().await;
    let begun = json!(facts.restore.metadata.creation_timestamp);
    let work = Work {
        ctx: ctx.clone(),
        store,
        restore: facts.restore.name_any(),
        begun: begun.as_str().unwrap_or_default().to_owned(),
        on_conflict: facts.restore.spec.on_conflict,
        released: Arc::default(),
    };
    let decision = go_on(&work, &mut facts, &Wanted { jobs, failed }, &mut memories).await?;
    if decision.requeue.is_none() {
        remembered.lock().await.remove(&uid);
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

/// One attempt at every site that is not done, with its progress written down.
async fn go_on(
    work: &Work,
    facts: &mut Facts,
    wanted: &Wanted,
    memories: &mut Memories,
) -> Result<Decision> {
    let jobs = &wanted.jobs;
    if facts.restore.spec.source.store.is_some() {
        facts.policies = policies::bring_back(work).await?;
    }
    if facts.restore.status.as_ref().is_none_or(|status| status.start_time.is_none()) {
        // What is missing in the cluster is told before anything is created in it.
        tell(work, facts, wanted, run::standings(jobs, memories)).await?;
    }
    run::prepare(work, jobs, memories).await;
    tell(work, facts, wanted, run::standings(jobs, memories)).await?;
    let parallelism = usize::try_from(facts.restore.spec.parallelism).unwrap_or(1);
    let (sender, mut receiver) = watch::channel(vec![]);
    let telling = async {
        while receiver.changed().await.is_ok() {
            let standings = receiver.borrow_and_update().clone();
            // What could not be written now is written at the end, or decided again.
            if let Err(error) = tell(work, facts, wanted, standings).await {
                tracing::warn!(restore = work.restore, %error, "cannot write progress");
            }
        }
    };
    tokio::join!(run::attempt_all(work, jobs, memories, parallelism, SLICE, sender), telling);
    tell(work, facts, wanted, run::standings(jobs, memories)).await
}

/// Writes down how the sites stand; then, and only then, gives back those that are verified, and
/// those that live and could not be restored.
async fn tell(
    work: &Work,
    facts: &mut Facts,
    wanted: &Wanted,
    standings: Vec<Standing>,
) -> Result<Decision> {
    let standings = wanted.standings(standings);
    let decision = decide::report(facts, &standings, work.ctx.now());
    let ended = decision.requeue.is_none();
    if decide::has_ended(facts.restore.status.as_ref()) {
        return Ok(decision);
    }
    let mut before = decision.clone();
    if ended {
        // The end is said after everything was given back: a crash in between must find it open.
        before.notes.clear();
        before.status.completion_time = None;
        let old = facts.restore.status.as_ref().map(|s| s.conditions.clone());
        before.status.conditions = old.unwrap_or_default();
    }
    write(&work.ctx, facts, &before).await?;
    for (job, standing) in wanted.jobs.iter().zip(&standings) {
        let released = match &standing.phase {
            Phase::Verified(verified) => work.release(job, verified).await,
            Phase::Failed(_) => work.give_up(job).await,
            Phase::Queued | Phase::Restoring(_) => Ok(()),
        };
        released.map_err(|e| Error::answer(format!("release the Site {}", job.name), e))?;
    }
    if ended {
        write(&work.ctx, facts, &decision).await?;
    }
    Ok(decision)
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
