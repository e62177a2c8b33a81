//! A site restored for a drill: by the same engine, into scratch namespaces, made inert on the way
//! out of the archive. No Site is created, and no live object of the site is read or written. Who
//! asked for it takes the scratch namespaces away.

use std::collections::HashSet;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use super::act::Work;
use super::create;
use super::decide::{Facts, Job};
use super::hooks::DrillHooks;
use super::inert::Inert;
use super::part::DrillPart;
use super::plan::Plan;
use super::prepare::{Preparation, Prepared};
use super::site::{self, Attempt, Progress};
use crate::api::{
    DrillSource, DrilledArchive, NotProved, PlanBackup, Reason, Restore, SiteDrill, VerifiedSite,
};
use crate::cluster::form::ObjectKey;
use crate::store::{ArchiveReader, RawEntry, StoreError};

/// The sites of a drill, one for each archive.
pub fn jobs(facts: &Facts, drill: &DrillSource) -> Vec<Job> {
    let verified = |name: &str| -> Option<VerifiedSite> {
        let status = facts.restore.status.as_ref()?;
        status.verified_sites.iter().find(|v| v.name == name).cloned()
    };
    let job = |(name, archive): (String, &DrilledArchive)| Job {
        verified: verified(&name),
        name,
        old_uid: archive.site_uid.clone(),
        id: archive.site_id.clone(),
        backup: PlanBackup {
            name: archive.backup.clone(),
            location: archive.location.clone(),
            digest: archive.digest.clone(),
            objects: archive.objects,
            keep_until_time: None,
        },
        app: None,
        drill: Some(DrillPart { site: archive.site.clone(), drill_uid: drill.drill_uid.clone() }),
    };
    drill.named().into_iter().map(job).collect()
}

/// An archive that is read for a job: as it is, or as a drill takes it.
pub struct Reading {
    archive: ArchiveReader,
    inert: Option<Inert>,
}

impl Reading {
    /// Of this archive, for this job of the Restore with this UID.
    pub fn new(archive: ArchiveReader, job: &Job, restore_uid: &str) -> Self {
        let inert = job.drill.as_ref().map(|part| Inert::new(part, restore_uid, &job.name));
        Self { archive, inert }
    }

    /// The next object. None: the archive was verified to its end.
    pub async fn next_raw(&mut self) -> Result<Option<RawEntry>, StoreError> {
        loop {
            let Some(entry) = self.archive.next_raw().await? else { return Ok(None) };
            let Some(inert) = &mut self.inert else { return Ok(Some(entry)) };
            if let Some(entry) = inert.turn(entry) {
                return Ok(Some(entry));
            }
        }
    }

    /// The hooks of the site that a drill runs; none is known in any other restore.
    pub fn drill_hooks(&self) -> Option<DrillHooks> {
        self.inert.as_ref().and_then(Inert::hooks)
    }

    /// What a drill has left out or changed of what was read so far.
    pub fn not_proved(&self) -> Vec<NotProved> {
        self.inert.as_ref().map(Inert::not_proved).unwrap_or_default()
    }
}

/// The Site is in the plan of an archive, and never in a drill.
fn without_site(plan: &mut Plan) {
    let site = plan.index.site_key.clone();
    let keys = plan.items().map(|(key, _)| key.clone()).filter(|key| *key != site);
    let keys: HashSet<ObjectKey> = keys.collect();
    plan.restrict(keys);
}

impl Work {
    /// Reads the archive to its end: nothing is made of one that is not whole.
    pub(super) async fn prepare_drill(&self, job: &Job) -> Result<Preparation, Attempt> {
        if let Some(done) = &job.verified {
            return Ok(Preparation::Verified(done.clone()));
        }
        let mut plan = self.plan(job).await?;
        without_site(&mut plan);
        Ok(Preparation::Ready(Prepared {
            priority: 0,
            since: self.created,
            total: plan.total(),
            // After a crash some of it may be there.
            fresh: false,
            hooks: plan.index.drill_hooks.as_ref().is_some_and(|of| !of.hooks.is_empty()),
            index: Some(plan.index.clone()),
            place: None,
        }))
    }

    /// One attempt: create what is missing, unless that was done, then read it back and compare.
    pub(super) async fn attempt_drill(
        &self,
        job: &Job,
        progress: &mut Progress,
        done: &AtomicI64,
        plan: &mut Plan,
    ) -> Result<Attempt, Attempt> {
        without_site(plan);
        let kinds = self.kinds_for(plan).await?;
        let since = self.created.to_string();
        let maker = self.maker(&kinds, &since);
        // Nobody else can have had a namespace of that name.
        for namespace in plan.namespaces() {
            maker.is_own(&namespace);
        }
        let hooks = plan.index.drill_hooks.clone().filter(|wanted| !wanted.hooks.is_empty());
        if let Some(wanted) = &hooks {
            let ledger = self.drill_ledger().await?;
            let before = self.drilled_before_hooks(job, &ledger);
            let before = progress.verified.clone().or(before.map(|v| (v, plan.notices.clone())));
            if let Some((verified, notices)) = before {
                plan.notices = notices;
                let hooks = Some((ledger, wanted));
                return self.end_drill(job, plan, verified, hooks, progress).await;
            }
        }
        let begun = Instant::now();
        progress.begun.get_or_insert(begun);
        if progress.created.is_none() {
            self.stages.set(&job.name, "Creating");
            let seen = site::seen(&maker, plan).await?;
            let made = create::create(self, &maker, job, plan, &seen, done).await?;
            progress.created = Some(made);
            self.stages.set(&job.name, "Verifying");
        }
        let verifying = Instant::now();
        let made = progress.created.clone().unwrap_or_default();
        let attempt = site::verify(self, &maker, job, plan, &made).await?;
        // Every Service has another address, as it must.
        plan.notices.retain(|notice| notice.reason != Reason::Reassigned.as_str());
        let Attempt::Verified(verified) = attempt else { return Ok(attempt) };
        progress.measure(verified.objects, verifying, false);
        let milliseconds =
            |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let verified = VerifiedSite {
            uid: String::new(),
            // Nothing of it stays, so that the Restore has to say that it was verified.
            namespaces: vec![],
            drill: Some(SiteDrill {
                create_milliseconds: milliseconds(verifying - begun),
                verify_milliseconds: milliseconds(verifying.elapsed()),
                not_proved: vec![],
            }),
            ..verified
        };
        progress.verified = Some((verified.clone(), plan.notices.clone()));
        let ledger = match &hooks {
            Some(wanted) => Some((self.drill_ledger().await?, wanted)),
            None => None,
        };
        self.end_drill(job, plan, verified, ledger, progress).await
    }

    /// Runs the hooks that are safe in drills, and tells what was not proved.
    async fn end_drill(
        &self,
        job: &Job,
        plan: &Plan,
        mut verified: VerifiedSite,
        hooks: Option<(Restore, &DrillHooks)>,
        progress: &mut Progress,
    ) -> Result<Attempt, Attempt> {
        let mut not_proved = plan.index.not_proved.clone();
        if let Some((ledger, wanted)) = hooks {
            let errors = self.after_drill(job, ledger, wanted, &verified, progress).await?;
            not_proved.extend(errors);
        }
        if let Some(drill) = &mut verified.drill {
            drill.not_proved = not_proved;
        }
        Ok(Attempt::Verified(verified))
    }
}
