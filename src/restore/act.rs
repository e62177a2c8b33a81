//! The writes of a Restore: first every Site, then site by site.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::decide::{Job, has_ended};
use super::going;
use super::living::{self, Place, Places};
use super::object::{Made, Maker};
use super::plan::{self, Plan, failure};
use super::site::{self, Attempt};
use crate::api::{OnConflict, Reason, Restore, RestoreFailure, Site, VerifiedSite, names};
use crate::cluster::discover::Kinds;
use crate::cluster::form::ObjectKey;
use crate::cluster::{Context, Result, describe, holders};
use crate::store::{Expected, Identity, Store};

/// How long a discovery may be reused within a Restore.
const KINDS_MAX_AGE: Duration = Duration::from_secs(30);

/// What the sites of one Restore share.
#[derive(Clone)]
pub struct Work {
    /// The way to the cluster.
    pub ctx: Context,
    /// Where the archives lie.
    pub store: Store,
    /// Name of the Restore.
    pub restore: String,
    /// When the Restore was created, as the API server writes it.
    pub begun: String,
    /// What to do about what lives and is different.
    pub on_conflict: OnConflict,
    /// The Sites that were given back, so that they are not asked for again.
    pub released: Arc<Mutex<HashSet<String>>>,
}

/// A Site that is there, marked as being restored.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Order of restore.
    pub priority: i32,
    /// Objects that are to be restored, the Site included.
    pub total: i64,
    /// Whether this attempt has created it; if not, some of its objects may be there.
    pub fresh: bool,
}

/// What became of preparing a Site.
pub enum Preparation {
    /// It is there, and marked.
    Ready(Prepared),
    /// It was verified by this very Restore before.
    Verified(VerifiedSite),
    /// Anything else.
    Ended(Attempt),
}

impl Work {
    async fn plan(&self, job: &Job) -> Result<Plan, Attempt> {
        let site =
            Identity { name: job.name.clone(), uid: job.old_uid.clone(), id: job.id.clone() };
        let expected = Expected { site, digest: Some(job.backup.digest.clone()) };
        let fail = |reason, why| Attempt::Failed(vec![failure(&job.name, None, reason, why)]);
        match self.store.load(&job.backup.location, expected).await {
            Ok(archive) => plan::plan(archive, &job.name).ok_or_else(|| {
                fail(Reason::ArchiveInvalid, "the Site is not in its own archive".to_owned())
            }),
            Err(error) if error.may_pass() => {
                Err(Attempt::Waiting(Reason::StoreUnavailable, error.to_string()))
            }
            Err(error) => Err(fail(Reason::ArchiveInvalid, error.to_string())),
        }
    }

    async fn kinds(&self) -> Result<Arc<Kinds>, Attempt> {
        let kinds = self.ctx.kinds(KINDS_MAX_AGE).await;
        kinds.map_err(|error| Attempt::Waiting(Reason::DiscoveryFailed, error.to_string()))
    }

    /// Creates the Site, marked as being restored, once its archive is known to be whole.
    pub async fn prepare(&self, job: &Job) -> Preparation {
        match self.try_prepare(job).await {
            Ok(preparation) => preparation,
            Err(attempt) => Preparation::Ended(attempt),
        }
    }

    async fn try_prepare(&self, job: &Job) -> Result<Preparation, Attempt> {
        // Whoever lives is not touched, whatever its archive says; so this is asked first.
        let live = self.live(job).await?;
        match &live {
            Some(live) => {
                if let Some(done) = self.verified_before(job, live) {
                    return Ok(Preparation::Verified(done));
                }
                self.may_take(job, live).await?;
                if !living::is_marked(live) {
                    self.has_lost_something(job, live).await?;
                }
            }
            None => self.id_is_free(job).await?,
        }
        let plan = self.plan(job).await?;
        let site: Site = serde_json::from_value(plan.site.expected.clone()).map_err(|error| {
            let why = format!("the Site cannot be read: {error}");
            Attempt::Failed(vec![failure(&job.name, None, Reason::ArchiveInvalid, why)])
        })?;
        let total = (plan.objects.len() + 1).try_into().unwrap_or(i64::MAX);
        let prepared = |priority, fresh| Preparation::Ready(Prepared { priority, total, fresh });
        if let Some(live) = live {
            if living::lives(&live) {
                self.can_give(job, &live, &plan).await?;
            }
            let marked = self.mark(&live, total).await;
            marked.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
            return Ok(prepared(live.spec.priority, false));
        }
        let kinds = self.kinds().await?;
        let maker = self.maker(&kinds, "");
        match maker.make(&plan.site.key, &plan.site.expected).await {
            Made::There(_) | Made::Differently(..) => {}
            Made::Later(reason, why) => return Err(Attempt::Waiting(reason, why)),
            Made::Conflict(_, why) => {
                // Somebody was faster: it is looked at again, as one that lives.
                return Err(Attempt::Waiting(Reason::Progressing, why));
            }
            Made::Failed(reason, why) => {
                let of = Some(&plan.site.expected);
                return Err(Attempt::Failed(vec![failure(&job.name, of, reason, why)]));
            }
        }
        self.tell_site(job, "Queued", 0, total).await;
        Ok(prepared(site.spec.priority, true))
    }

    /// Nobody else may have taken the site's id meanwhile: ids are unique.
    async fn id_is_free(&self, job: &Job) -> Result<(), Attempt> {
        let holders = holders(&self.ctx.client, &job.id).await;
        let holders = holders.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
        match holders.first() {
            None => Ok(()),
            Some(holder) => {
                let why = format!("its id {} is now the id of {}", job.id, holder.describe());
                Err(Attempt::Failed(vec![failure(&job.name, None, Reason::DuplicateId, why)]))
            }
        }
    }

    /// A Site that lives and has all its namespaces needs no restore.
    async fn has_lost_something(&self, job: &Job, live: &Site) -> Result<(), Attempt> {
        let whole = living::lives(live) && {
            let places = self.places(live, &live.namespace_names()).await?;
            places.values().all(|place| *place == Place::Kept)
        };
        if whole || !living::lives(live) {
            let why = "the Site lives and has all its namespaces: nothing of it is touched";
            let failure = failure(&job.name, None, Reason::SiteLives, why.to_owned());
            return Err(Attempt::Failed(vec![failure]));
        }
        Ok(())
    }

    /// What a Site that lives has lost must be in the archive, and must still be its own.
    async fn can_give(&self, job: &Job, live: &Site, plan: &Plan) -> Result<(), Attempt> {
        let fail = |reason, why| Attempt::Failed(vec![failure(&job.name, None, reason, why)]);
        let (has, wanted) = (plan.namespaces(), live.namespace_names());
        if let Some(foreign) = has.iter().find(|name| !wanted.contains(name)) {
            let why = format!(
                "the backup holds the namespace {foreign}, which is not in spec.namespaces of the Site {}: add it there first",
                job.name
            );
            return Err(fail(Reason::Conflict, why));
        }
        let mut lost = self.places(live, &wanted).await?;
        lost.retain(|_, place| *place != Place::Kept);
        if !living::is_marked(live) && lost.keys().all(|name| !has.contains(name)) {
            let lost: Vec<String> = lost.into_keys().collect();
            let why = format!(
                "the Backup {} does not hold what is lost, the namespace {}: name an other one, see kubectl get backups",
                job.backup.name,
                lost.join(", ")
            );
            return Err(fail(Reason::NothingToRestore, why));
        }
        Ok(())
    }

    async fn places(&self, site: &Site, all: &[String]) -> Result<Places, Attempt> {
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let mut places = Places::new();
        for name in all {
            let live = api.get_opt(name).await;
            let live = live.map_err(|e| Attempt::Waiting(Reason::Progressing, describe(&e)))?;
            places.insert(name.clone(), living::place(site, name, live));
        }
        Ok(places)
    }

    pub(super) fn sites(&self) -> Api<Site> {
        Api::all(self.ctx.client.clone())
    }

    fn maker<'a>(&'a self, kinds: &'a Kinds, since: &'a str) -> Maker<'a> {
        Maker { client: &self.ctx.client, kinds, restore: &self.restore, since }
    }

    async fn live(&self, job: &Job) -> Result<Option<Site>, Attempt> {
        self.sites()
            .get_opt(&job.name)
            .await
            .map_err(|error| Attempt::Waiting(Reason::Progressing, describe(&error)))
    }

    /// What this very Restore has verified and, perhaps, not yet released.
    fn verified_before(&self, job: &Job, live: &Site) -> Option<VerifiedSite> {
        job.verified.clone().filter(|v| Some(&v.uid) == live.meta().uid.as_ref())
    }

    /// Whether a Site that is there may be worked on: by its identity and its state, and only if no
    /// other Restore works on it.
    async fn may_take(&self, job: &Job, live: &Site) -> Result<(), Attempt> {
        let fail = |reason, why| Attempt::Failed(vec![failure(&job.name, None, reason, why)]);
        if live.meta().deletion_timestamp.is_some() {
            let why = format!("the Site {} of old is still being deleted", job.name);
            return Err(Attempt::Waiting(Reason::StillTerminating, why));
        }
        if let Some((reason, why)) = living::refusal(live, job) {
            return Err(fail(reason, why));
        }
        let Some(by) = live.annotations().get(names::ANNOTATION_RESTORE) else {
            return Ok(());
        };
        if *by == self.restore {
            return Ok(());
        }
        let restores: Api<Restore> = Api::all(self.ctx.client.clone());
        match restores.get_opt(by).await {
            Ok(Some(other)) if !has_ended(other.status.as_ref()) => {
                let why = format!("the Site is being restored by the Restore {by}");
                Err(fail(Reason::SiteLives, why))
            }
            // That one has ended without finishing this Site, or is gone: this one goes on.
            Ok(_) => Ok(()),
            Err(error) => Err(Attempt::Waiting(Reason::Progressing, describe(&error))),
        }
    }

    /// One attempt at a site: create what is missing, unless that was done, then read it back.
    /// `created` has, once that was done, the objects that were left as they are.
    pub async fn attempt(
        &self,
        job: &Job,
        prepared: &Prepared,
        created: &mut Option<HashSet<ObjectKey>>,
        done: &AtomicI64,
    ) -> (Attempt, Vec<RestoreFailure>) {
        let mut notices = vec![];
        let attempt = self.try_attempt(job, prepared, created, done, &mut notices).await;
        (attempt.unwrap_or_else(|attempt| attempt), notices)
    }

    async fn try_attempt(
        &self,
        job: &Job,
        prepared: &Prepared,
        created: &mut Option<HashSet<ObjectKey>>,
        done: &AtomicI64,
        notices: &mut Vec<RestoreFailure>,
    ) -> Result<Attempt, Attempt> {
        let live = self.live(job).await?.ok_or_else(|| {
            let why = "the Site was deleted while it was being restored".to_owned();
            Attempt::Failed(vec![failure(&job.name, None, Reason::VerifyFailed, why)])
        })?;
        self.may_take(job, &live).await?;
        if !living::is_marked(&live) {
            let why = "the mark of this Restore was taken off the Site".to_owned();
            return Err(Attempt::Failed(vec![failure(&job.name, None, Reason::SiteLives, why)]));
        }
        let mut plan = self.plan(job).await?;
        let kinds = self.kinds().await?;
        let mut since =
            json!(live.meta().creation_timestamp).as_str().unwrap_or_default().to_owned();
        let mut places = Places::new();
        // One that was just made cannot have any of them yet.
        if !prepared.fresh {
            places = self.places(&live, &plan.namespaces()).await?;
        }
        if let Some(before) = living::recorded(&live) {
            plan.kept = Some(living::kept(&places));
            plan.before.clone_from(before);
            self.add_late(job, &live, &mut plan).await?;
            since.clone_from(&self.begun);
        }
        let maker = self.maker(&kinds, &since);
        if created.is_none() {
            self.tell_site(job, "Creating", 0, prepared.total).await;
            going::let_go(self, &maker, job, &plan, &places).await?;
            let result = site::create(
                &maker,
                job,
                &mut plan,
                !prepared.fresh,
                self.on_conflict == OnConflict::Skip,
                done,
            )
            .await;
            notices.clone_from(&plan.notices);
            *created = Some(result?);
            self.tell_site(job, "Verifying", done.load(Ordering::Relaxed), prepared.total).await;
        }
        let left = created.clone().unwrap_or_default();
        let attempt = site::verify(&maker, job, &mut plan, &left).await;
        *notices = plan.notices;
        if let Attempt::Waiting(Reason::WaitingForReady, _) = &attempt {
            let there = done.load(Ordering::Relaxed);
            self.tell_site(job, "WaitingForReady", there, prepared.total).await;
        }
        Ok(attempt)
    }

    /// Says on the Site itself where it stands. For people: a failure is only logged.
    async fn tell_site(&self, job: &Job, stage: &str, done: i64, total: i64) {
        let restore = json!({
            "restoreRef": { "name": self.restore }, "stage": stage,
            "objectsDone": done, "objectsTotal": total,
        });
        if let Err(error) = self.patch_status(job, restore).await {
            tracing::warn!(site = job.name, %error, "cannot tell a Site where its restore stands");
        }
    }

    async fn patch_status(&self, job: &Job, restore: Value) -> kube::Result<Site> {
        let patch = json!({ "status": { "restore": restore } });
        let patch = Patch::Merge(&patch);
        self.sites().patch_status(&job.name, &PatchParams::default(), &patch).await
    }
}
