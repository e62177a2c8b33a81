//! The writes of a Restore: first every Site, then site by site.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::decide::{Job, has_ended};
use super::object::{Made, Maker};
use super::site::{self, Attempt, Plan, failure};
use crate::api::{Reason, Restore, RestoreFailure, Site, VerifiedSite, names};
use crate::cluster::discover::Kinds;
use crate::cluster::{Context, Exact, Result, describe, patch_exact};
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
            Ok(archive) => site::plan(archive, &job.name).ok_or_else(|| {
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
        let doing =
            |error: crate::cluster::Error| Attempt::Waiting(Reason::Progressing, error.to_string());
        // Whoever lives is not touched, whatever its archive says; so this is asked first.
        let live = self.live(job).await?;
        if let Some(live) = &live {
            if let Some(done) = self.verified_before(job, live) {
                return Ok(Preparation::Verified(done));
            }
            self.may_take(job, live).await?;
        }
        let plan = self.plan(job).await?;
        let site: Site = serde_json::from_value(plan.site.expected.clone()).map_err(|error| {
            let why = format!("the Site cannot be read: {error}");
            Attempt::Failed(vec![failure(&job.name, None, Reason::ArchiveInvalid, why)])
        })?;
        let prepared = |fresh| {
            let total = (plan.objects.len() + 1).try_into().unwrap_or(i64::MAX);
            Preparation::Ready(Prepared { priority: site.spec.priority, total, fresh })
        };
        if let Some(live) = live {
            let mark = json!({ (names::ANNOTATION_RESTORE): self.restore });
            if live.annotations().get(names::ANNOTATION_RESTORE) != Some(&self.restore) {
                let patch = json!({ "metadata": { "annotations": mark } });
                patch_exact(&self.sites(), &Exact::of(&live), patch).await.map_err(doing)?;
            }
            return Ok(prepared(false));
        }
        let kinds = self.kinds().await?;
        let maker = self.maker(&kinds, "");
        match maker.make(&plan.site.key, &plan.site.expected).await {
            Made::There(_) | Made::Differently(..) => {}
            Made::Later(reason, why) => return Err(Attempt::Waiting(reason, why)),
            Made::Failed(reason, why) => {
                let of = Some(&plan.site.expected);
                return Err(Attempt::Failed(vec![failure(&job.name, of, reason, why)]));
            }
        }
        let total = (plan.objects.len() + 1).try_into().unwrap_or(i64::MAX);
        self.tell_site(job, "Queued", 0, total).await;
        Ok(prepared(true))
    }

    fn sites(&self) -> Api<Site> {
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

    /// Whether a Site that is there may be worked on: only one that a restore has made and that no
    /// other Restore works on.
    async fn may_take(&self, job: &Job, live: &Site) -> Result<(), Attempt> {
        let lives =
            |why: String| Attempt::Failed(vec![failure(&job.name, None, Reason::SiteLives, why)]);
        if live.meta().deletion_timestamp.is_some() {
            let why = format!("the Site {} of old is still being deleted", job.name);
            return Err(Attempt::Waiting(Reason::StillTerminating, why));
        }
        let Some(by) = live.annotations().get(names::ANNOTATION_RESTORE) else {
            return Err(lives("the Site lives: nothing of it is touched".to_owned()));
        };
        if live.spec.id != job.id {
            return Err(lives(format!("a Site of that name lives, with id {}", live.spec.id)));
        }
        if *by == self.restore {
            return Ok(());
        }
        let restores: Api<Restore> = Api::all(self.ctx.client.clone());
        match restores.get_opt(by).await {
            Ok(Some(other)) if !has_ended(other.status.as_ref()) => {
                Err(lives(format!("the Site is being restored by the Restore {by}")))
            }
            // That one has ended without finishing this Site, or is gone: this one goes on.
            Ok(_) => Ok(()),
            Err(error) => Err(Attempt::Waiting(Reason::Progressing, describe(&error))),
        }
    }

    /// One attempt at a site: create what is missing, unless that was done, then read it back.
    pub async fn attempt(
        &self,
        job: &Job,
        prepared: &Prepared,
        created: &mut bool,
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
        created: &mut bool,
        done: &AtomicI64,
        notices: &mut Vec<RestoreFailure>,
    ) -> Result<Attempt, Attempt> {
        let live = self.live(job).await?.ok_or_else(|| {
            let why = "the Site was deleted while it was being restored".to_owned();
            Attempt::Failed(vec![failure(&job.name, None, Reason::VerifyFailed, why)])
        })?;
        self.may_take(job, &live).await?;
        let mut plan = self.plan(job).await?;
        let kinds = self.kinds().await?;
        let since = json!(live.meta().creation_timestamp);
        let maker = self.maker(&kinds, since.as_str().unwrap_or_default());
        if !*created {
            self.tell_site(job, "Creating", 0, prepared.total).await;
            let result = site::create(&maker, job, &mut plan, !prepared.fresh, done).await;
            notices.clone_from(&plan.notices);
            result?;
            *created = true;
            self.tell_site(job, "Verifying", done.load(Ordering::Relaxed), prepared.total).await;
        }
        let attempt = site::verify(&maker, job, &mut plan).await;
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

    /// Gives a verified Site back to its reconciler. To be called once the Restore's own status
    /// says that it is verified: afterwards nothing else tells it from one that lives.
    pub async fn release(&self, job: &Job, verified: &VerifiedSite) -> kube::Result<()> {
        let Some(live) = self.sites().get_opt(&job.name).await? else { return Ok(()) };
        let ours = live.annotations().get(names::ANNOTATION_RESTORE) == Some(&self.restore);
        if live.uid().as_ref() != Some(&verified.uid) || !ours {
            return Ok(());
        }
        self.patch_status(job, Value::Null).await?;
        let patch = json!({
            "metadata": { "uid": verified.uid, "annotations": { (names::ANNOTATION_RESTORE): null } },
        });
        let params = PatchParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..Default::default()
        };
        self.sites().patch(&job.name, &params, &Patch::Merge(&patch)).await?;
        Ok(())
    }
}
