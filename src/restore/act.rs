//! What the sites of one Restore share, and one attempt at a site: what is missing is created, and
//! all of it is read back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::create;
use super::decide::Job;
use super::drill::Reading;
use super::going;
use super::index::Indexing;
use super::living::{self, Places};
use super::mark::Stages;
use super::object::Maker;
use super::plan::{Plan, failure};
use super::prepare::Prepared;
use super::site::{self, Attempt, Progress};
use super::taken;
use crate::api::{OnConflict, Reason, Restore, RestoreFailure, Site, Time, names};
use crate::cluster::discover::Kinds;
use crate::cluster::form::ObjectKey;
use crate::cluster::{Context, Result, describe};
use crate::store::{Expected, Identity, RawEntry, Store, StoreError};

/// How long a discovery may be reused within a Restore.
const KINDS_MAX_AGE: Duration = Duration::from_secs(30);

/// How old it may be for a kind that is not in it.
const KINDS_ASK_AGAIN: Duration = Duration::from_secs(2);

/// What the sites of one Restore share.
#[derive(Clone)]
pub struct Work {
    /// The way to the cluster; its client is the one for mass work.
    pub ctx: Context,
    /// Where the archives lie.
    pub store: Store,
    /// Name of the Restore.
    pub restore: String,
    /// UID of the Restore.
    pub uid: String,
    /// When the Restore was created.
    pub created: Time,
    /// What to do about what lives and is different.
    pub on_conflict: OnConflict,
    /// Where each site under way stands.
    pub stages: Stages,
}

impl Work {
    /// Begins to read a site's archive.
    pub(super) async fn open(&self, job: &Job) -> Result<Reading, Attempt> {
        let site =
            Identity { name: job.site().to_owned(), uid: job.old_uid.clone(), id: job.id.clone() };
        let expected = Expected { site, digest: Some(job.backup.digest.clone()) };
        let reader = self.store.read(&job.backup.location, expected).await;
        reader
            .map(|archive| Reading::new(archive, job, &self.uid))
            .map_err(|error| self.unreadable(job, &error))
    }

    /// What an archive that cannot be read means for its site.
    pub(super) fn unreadable(&self, job: &Job, error: &StoreError) -> Attempt {
        if error.may_pass() {
            return Attempt::Waiting(Reason::StoreUnavailable, error.to_string());
        }
        let why = error.to_string();
        Attempt::Failed(vec![failure(&job.name, None, Reason::ArchiveInvalid, why)])
    }

    /// Whether this is still the object that was read, and verified with its whole archive, first.
    pub(super) fn check(&self, job: &Job, plan: &Plan, entry: &RawEntry) -> Result<(), Attempt> {
        if plan.index.items.get(&entry.key).is_none_or(|item| item.is_of(entry)) {
            return Ok(());
        }
        tracing::warn!(site = job.name, "an archive was changed");
        let why = "the archive was changed while it was restored from".to_owned();
        Err(Attempt::Failed(vec![plan.notice(&entry.key, Reason::ArchiveInvalid, why)]))
    }

    /// Reads a site's archive to its end, and keeps what is needed to know it again. Nothing is
    /// created of an archive that was not verified as a whole.
    pub(super) async fn plan(&self, job: &Job) -> Result<Plan, Attempt> {
        Ok(self.plan_with(job, None).await?.0)
    }

    /// As [`Work::plan`], with one of its objects, if the archive has it.
    pub(super) async fn plan_with(
        &self,
        job: &Job,
        wanted: Option<&ObjectKey>,
    ) -> Result<(Plan, Option<RawEntry>), Attempt> {
        let mut reader = self.open(job).await?;
        let mut indexing = Indexing::new(job.site());
        let mut found = None;
        while let Some(entry) =
            reader.next_raw().await.map_err(|error| self.unreadable(job, &error))?
        {
            indexing.add(&entry);
            if wanted == Some(&entry.key) {
                found = Some(entry);
            }
        }
        let mut index = indexing.finish().ok_or_else(|| {
            let why = "the Site is not in its own archive".to_owned();
            Attempt::Failed(vec![failure(&job.name, None, Reason::ArchiveInvalid, why)])
        })?;
        index.not_proved = reader.not_proved();
        index.drill_hooks = reader.drill_hooks();
        Ok((Plan::new(job.site(), Arc::new(index)), found))
    }

    /// Whether what lives and is different is left as it is.
    pub(super) fn skips(&self) -> bool {
        self.on_conflict == OnConflict::Skip
    }

    pub(super) async fn kinds(&self) -> Result<Arc<Kinds>, Attempt> {
        self.kinds_of_late(KINDS_MAX_AGE).await
    }

    async fn kinds_of_late(&self, max_age: Duration) -> Result<Arc<Kinds>, Attempt> {
        let kinds = self.ctx.kinds(max_age).await;
        kinds.map_err(|error| Attempt::Waiting(Reason::DiscoveryFailed, error.to_string()))
    }

    /// What the cluster serves, asked again if a kind of the plan seems to be missing: its
    /// CustomResourceDefinition may have come a moment ago.
    pub(super) async fn kinds_for(&self, plan: &Plan) -> Result<Arc<Kinds>, Attempt> {
        let kinds = self.kinds().await?;
        let served = |api_version: &str, kind: &str| kinds.find(api_version, kind).is_some();
        if plan.items().all(|(key, item)| served(&item.api_version, &key.kind)) {
            return Ok(kinds);
        }
        self.kinds_of_late(KINDS_ASK_AGAIN).await
    }

    pub(super) async fn places(&self, site: &Site, all: &[String]) -> Result<Places, Attempt> {
        let live = self.namespaces(all).await?;
        let place = |(name, live): (&String, _)| (name.clone(), living::place(site, name, live));
        Ok(all.iter().zip(live).map(place).collect())
    }

    pub(super) async fn namespaces(
        &self,
        all: &[String],
    ) -> Result<Vec<Option<Namespace>>, Attempt> {
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let mut found = vec![];
        for name in all {
            let live = api.get_opt(name).await;
            found.push(live.map_err(|e| Attempt::Waiting(Reason::Progressing, describe(&e)))?);
        }
        Ok(found)
    }

    pub(super) fn sites(&self) -> Api<Site> {
        Api::all(self.ctx.client.clone())
    }

    pub(super) fn maker<'a>(&'a self, kinds: &'a Kinds, since: &'a str) -> Maker<'a> {
        Maker::new(&self.ctx.client, kinds, &self.restore, since)
    }

    pub(super) async fn live(&self, job: &Job) -> Result<Option<Site>, Attempt> {
        self.sites()
            .get_opt(job.site())
            .await
            .map_err(|error| Attempt::Waiting(Reason::Progressing, describe(&error)))
    }

    /// Whether a Site that is there may be worked on: by its identity and its state, and only if no
    /// other Restore works on it.
    pub(super) async fn may_take(&self, job: &Job, live: &Site) -> Result<(), Attempt> {
        let fail = |reason, why| Attempt::Failed(vec![failure(&job.name, None, reason, why)]);
        if live.meta().deletion_timestamp.is_some() {
            let why = format!("the Site {} of old is still being deleted", job.name);
            return Err(Attempt::Waiting(Reason::StillTerminating, why));
        }
        if let Some((reason, why)) = living::refusal(live, job) {
            return Err(fail(reason, why));
        }
        let by = live.annotations().get(names::ANNOTATION_RESTORE);
        // Where another one has ended without finishing this Site, or is gone, this one goes on.
        if let Some(by) = by.filter(|by| **by != self.restore)
            && self.is_open(by).await?
        {
            let why = format!("the Site is being restored by the Restore {by}");
            return Err(fail(Reason::SiteLives, why));
        }
        Ok(())
    }

    /// Whether a Restore of this name is under way.
    pub(super) async fn is_open(&self, restore: &str) -> Result<bool, Attempt> {
        let restores: Api<Restore> = Api::all(self.ctx.client.clone());
        let live = restores.get_opt(restore).await;
        let live = live.map_err(|e| Attempt::Waiting(Reason::Progressing, describe(&e)))?;
        Ok(live.is_some_and(|restore| !restore.has_ended()))
    }

    /// One attempt at a site: create what is missing, unless that was done, then read it back.
    pub async fn attempt(
        &self,
        job: &Job,
        prepared: &Prepared,
        progress: &mut Progress,
        done: &AtomicI64,
    ) -> (Attempt, Vec<RestoreFailure>) {
        let mut plan = match progress.index.clone() {
            Some(index) => Plan::new(job.site(), index),
            None => match self.plan(job).await {
                Ok(plan) => plan,
                Err(attempt) => return (attempt, vec![]),
            },
        };
        progress.index = Some(plan.index.clone());
        let attempt = match &job.app {
            Some(part) => self.attempt_app(job, part, progress, done, &mut plan).await,
            None if job.drill.is_some() => self.attempt_drill(job, progress, done, &mut plan).await,
            None => self.try_attempt(job, prepared, progress, done, &mut plan).await,
        };
        (attempt.unwrap_or_else(|attempt| attempt), plan.notices)
    }

    async fn try_attempt(
        &self,
        job: &Job,
        prepared: &Prepared,
        progress: &mut Progress,
        done: &AtomicI64,
        plan: &mut Plan,
    ) -> Result<Attempt, Attempt> {
        let live = self.live(job).await?.ok_or_else(|| {
            let why = "the Site was deleted while it was being restored".to_owned();
            Attempt::Failed(vec![failure(&job.name, None, Reason::VerifyFailed, why)])
        })?;
        progress.begun.get_or_insert_with(Instant::now);
        // Given back before, and the answer to that was lost.
        if let Some(verified) = self.verified_before(&live) {
            return Ok(Attempt::Verified(verified));
        }
        self.may_take(job, &live).await?;
        if !living::is_marked(&live) {
            let why = "the mark of this Restore was taken off the Site".to_owned();
            return Err(Attempt::Failed(vec![failure(&job.name, None, Reason::SiteLives, why)]));
        }
        if let Some((verified, notices)) = progress.verified.clone() {
            plan.notices = notices;
            return self.after_restore(job, live, verified, plan, progress).await;
        }
        if let Some(verified) = self.verified_before_hooks(&live) {
            return self.after_restore(job, live, verified, plan, progress).await;
        }
        let kinds = self.kinds_for(plan).await?;
        let mut since =
            json!(live.meta().creation_timestamp).as_str().unwrap_or_default().to_owned();
        let mut places = Places::new();
        // One that was just made cannot have any of them yet; and of one that was lost as a whole
        // only the creating asks.
        let lived = living::recorded(&live).is_some();
        if !prepared.fresh && (lived || progress.created.is_none()) {
            places = self.places(&live, &plan.namespaces()).await?;
        }
        if let Some(before) = living::recorded(&live) {
            plan.kept = Some(living::kept(&places));
            plan.before.clone_from(before);
            self.add_late(job, &live, plan).await?;
            since = self.created.to_string();
        }
        let maker = self.maker(&kinds, &since);
        if progress.created.is_none() {
            self.stages.set(&job.name, "Creating");
            going::let_go(self, &maker, job, plan, &places).await?;
            taken::take_in(self, &maker, job, plan, &places).await?;
            let seen =
                if prepared.fresh { HashMap::new() } else { site::seen(&maker, plan).await? };
            let made = create::create(self, &maker, job, plan, &seen, done).await?;
            progress.created = Some(made);
            self.stages.set(&job.name, "Verifying");
        }
        let made = progress.created.clone().unwrap_or_default();
        let attempt = match site::still_starting(&maker, plan, &made).await? {
            Some(why) => Err(Attempt::Waiting(Reason::WaitingForReady, why)),
            None => {
                let verifying = Instant::now();
                let attempt = site::verify(self, &maker, job, plan, &made).await;
                if let Ok(Attempt::Verified(verified)) = &attempt {
                    progress.measure(verified.objects, verifying, true);
                }
                attempt
            }
        };
        let attempt = match attempt {
            Err(Attempt::Waiting(Reason::WaitingForReady, why)) => {
                self.stages.set(&job.name, "WaitingForReady");
                let claim = maker.unbound_claim(plan).await;
                let why = claim.map_or(why.clone(), |claim| format!("{why}; {claim}"));
                Err(Attempt::Waiting(Reason::WaitingForReady, why))
            }
            attempt => attempt,
        };
        let Attempt::Verified(verified) = attempt? else {
            return Err(Attempt::Waiting(Reason::Progressing, "is read back again".to_owned()));
        };
        if live.hooks().after_restore.is_empty() {
            return Ok(Attempt::Verified(verified));
        }
        progress.verified = Some((verified.clone(), plan.notices.clone()));
        // It has been written since, with how far it is.
        let live = self.live(job).await?.unwrap_or(live);
        self.after_restore(job, live, verified, plan, progress).await
    }
}
