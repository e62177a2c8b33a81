//! The `afterRestore` hooks of a site: begun once everything was read back equal and is ready, and
//! carried out one step at a time, each outcome written down before the next. On the Site, or, of a
//! drill, in its Restore.

use std::time::Instant;

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::act::Work;
use super::decide::Job;
use super::plan::{Plan, failure};
use super::site::{Attempt, Progress};
use crate::api::{
    Hook, NotProved, ObjectRef, Reason, Restore, RestoreHooks, Site, SiteDrill, VerifiedSite, names,
};
use crate::cluster::hooks::{self, Run, in_words, note, step};
use crate::cluster::{Exact, Note, describe, patch_status_exact};

/// The hooks that a drill runs, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct DrillHooks {
    /// The scratch namespace.
    pub namespace: String,
    /// Those that say that they are safe in drills.
    pub hooks: Vec<Hook>,
}

/// Where what is known of the hooks is written down.
enum Ledger {
    Site(Box<Site>),
    Drill(Box<Restore>),
}

/// What is run where.
struct Wanted<'a> {
    when: &'static str,
    namespace: &'a str,
    owner: (&'static str, &'a str),
    hooks: &'a [Hook],
}

impl Work {
    /// What this Restore had read back of a Site before its hooks were begun. It is not compared
    /// again: what they have changed since is their business.
    pub(super) fn verified_before_hooks(&self, live: &Site) -> Option<VerifiedSite> {
        let kept = live.status.as_ref()?.restore_hooks.as_ref()?;
        let ours = kept.restore_uid == self.uid
            && live.meta().uid.as_deref() == Some(kept.verified.uid.as_str());
        ours.then(|| kept.verified.clone())
    }

    /// Runs the hooks of a Site as far as they go now.
    pub(super) async fn after_restore(
        &self,
        job: &Job,
        live: Site,
        verified: VerifiedSite,
        plan: &mut Plan,
        progress: &mut Progress,
    ) -> Result<Attempt, Attempt> {
        let hooks: Vec<Hook> = live.hooks().after_restore.into_iter().map(|of| of.hook).collect();
        if hooks.is_empty() {
            return Ok(Attempt::Verified(verified));
        }
        let kept = live.status.as_ref().and_then(|status| status.restore_hooks.clone());
        let mut kept = self.own_hooks(kept, &verified);
        let name = live.name_any();
        let namespace = live.namespace_names().into_iter().next().unwrap_or_default();
        let wanted = Wanted {
            when: "afterRestore",
            namespace: &namespace,
            owner: (names::LABEL_SITE, &name),
            hooks: &hooks,
        };
        let mut ledger = Ledger::Site(Box::new(live));
        self.run_hooks(job, &mut ledger, &wanted, &mut kept, progress).await?;
        for record in kept.hooks.iter().filter(|record| record.state.is_error()) {
            let message = format!("{}; its onError is Continue", in_words(record));
            plan.notices.push(failure(&job.name, None, record.state.reason(), message));
        }
        Ok(Attempt::Verified(verified))
    }

    /// What is written down of the hooks of a site that is drilled.
    pub(super) async fn drill_ledger(&self) -> Result<Restore, Attempt> {
        let restores: Api<Restore> = Api::all(self.ctx.client.clone());
        let live = restores.get_opt(&self.restore).await;
        let live = live.map_err(|e| Attempt::Waiting(Reason::Progressing, describe(&e)))?;
        let live = live.filter(|live| live.uid().as_deref() == Some(&self.uid));
        live.ok_or_else(|| Attempt::Waiting(Reason::Progressing, "the Restore is gone".to_owned()))
    }

    /// As [`Work::verified_before_hooks`], of a site that is drilled.
    pub(super) fn drilled_before_hooks(&self, job: &Job, ledger: &Restore) -> Option<VerifiedSite> {
        let kept = ledger.status.as_ref()?.drill_hooks.get(&job.name)?;
        (kept.restore_uid == self.uid).then(|| kept.verified.clone())
    }

    /// Runs the hooks of a drill that are safe there, as far as they go now. Gives what came of it,
    /// where something is not proved by that.
    pub(super) async fn after_drill(
        &self,
        job: &Job,
        ledger: Restore,
        wanted: &DrillHooks,
        verified: &VerifiedSite,
        progress: &mut Progress,
    ) -> Result<Vec<NotProved>, Attempt> {
        let kept = ledger.status.as_ref().and_then(|s| s.drill_hooks.get(&job.name).cloned());
        let mut kept = self.own_hooks(kept, verified);
        // It is in the archive, and told at the end.
        if let Some(SiteDrill { not_proved, .. }) = &mut kept.verified.drill {
            not_proved.clear();
        }
        let drill = job.drill.as_ref().map_or("", |part| part.drill_uid.as_str());
        let wanted = Wanted {
            when: "drill",
            namespace: &wanted.namespace,
            owner: (names::LABEL_DRILL, drill),
            hooks: &wanted.hooks,
        };
        let mut ledger = Ledger::Drill(Box::new(ledger));
        self.run_hooks(job, &mut ledger, &wanted, &mut kept, progress).await?;
        let errors = kept.hooks.iter().filter(|record| record.state.is_error());
        Ok(errors
            .map(|record| NotProved {
                what: format!("afterRestore hook {}", record.name),
                objects: 1,
                why: format!("{:?}, and its onError is Continue", record.state),
            })
            .collect())
    }

    /// What is known of the hooks of this very Restore.
    fn own_hooks(&self, kept: Option<RestoreHooks>, verified: &VerifiedSite) -> RestoreHooks {
        let kept = kept.filter(|kept| kept.restore_uid == self.uid);
        kept.unwrap_or_else(|| RestoreHooks {
            restore_ref: ObjectRef { name: self.restore.clone() },
            restore_uid: self.uid.clone(),
            verified: verified.clone(),
            hooks: vec![],
        })
    }

    async fn run_hooks(
        &self,
        job: &Job,
        ledger: &mut Ledger,
        wanted: &Wanted<'_>,
        kept: &mut RestoreHooks,
        progress: &mut Progress,
    ) -> Result<(), Attempt> {
        self.stages.set(&job.name, "RunningHooks");
        progress.hooks_begun.get_or_insert_with(Instant::now);
        let of = format!("Restore {} ({}), site {}", self.restore, self.uid, job.name);
        let run = Run {
            client: &self.ctx.client,
            metrics: &self.ctx.metrics,
            when: wanted.when,
            namespace: wanted.namespace,
            owner: wanted.owner,
            of: &of,
            hooks: wanted.hooks,
        };
        loop {
            let came = step(&run, &kept.hooks, self.ctx.now()).await;
            match came.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))? {
                hooks::Progress::Record(record, told) => {
                    note(&mut kept.hooks, record.clone());
                    self.write_hooks(job, ledger, kept).await?;
                    run.count(&record);
                    if let Some(told) = told {
                        self.tell_of_hook(ledger, &told).await;
                    }
                }
                hooks::Progress::Wait(why) => {
                    return Err(Attempt::Waiting(Reason::HookRunning, why));
                }
                hooks::Progress::Done => {
                    progress.measure_hooks();
                    return Ok(());
                }
                hooks::Progress::Failed(reason, why) => {
                    let why = format!("every object is back and equal, but the {why}");
                    return Err(Attempt::Failed(vec![failure(&job.name, None, reason, why)]));
                }
            }
        }
    }

    async fn write_hooks(
        &self,
        job: &Job,
        ledger: &mut Ledger,
        kept: &RestoreHooks,
    ) -> Result<(), Attempt> {
        let waiting = |why: String| Attempt::Waiting(Reason::Progressing, why);
        match ledger {
            Ledger::Site(live) => {
                let doing = format!("write down the hooks of the Site {}", job.name);
                let status = json!({ "restoreHooks": kept });
                let exact = Exact::of(&**live);
                let new = patch_status_exact(&self.sites(), &exact, status, doing).await;
                **live = new.map_err(|error| waiting(error.to_string()))?;
            }
            // The sites of a drill write side by side, each its own.
            Ledger::Drill(live) => {
                let restores: Api<Restore> = Api::all(self.ctx.client.clone());
                let patch = json!({
                    "metadata": { "uid": live.uid() },
                    "status": { "drillHooks": { (job.name.as_str()): kept } },
                });
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                let new = restores.patch_status(&self.restore, &params, &patch).await;
                **live = new.map_err(|error| waiting(describe(&error)))?;
            }
        }
        Ok(())
    }

    async fn tell_of_hook(&self, ledger: &Ledger, told: &Note) {
        match ledger {
            Ledger::Site(live) => self.ctx.tell(&**live, told).await,
            Ledger::Drill(live) => self.ctx.tell(&**live, told).await,
        }
    }
}
