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
use super::living::{self, Places};
use super::object::Maker;
use super::plan::{self, Plan, failure};
use super::prepare::Prepared;
use super::site::{self, Attempt};
use super::taken;
use crate::api::{OnConflict, Reason, Restore, RestoreFailure, Site, VerifiedSite, names};
use crate::cluster::discover::Kinds;
use crate::cluster::form::ObjectKey;
use crate::cluster::{Context, Result, describe};
use crate::store::{Expected, Identity, Store};

/// How long a discovery may be reused within a Restore.
const KINDS_MAX_AGE: Duration = Duration::from_secs(30);

/// How old it may be for a kind that is not in it.
const KINDS_ASK_AGAIN: Duration = Duration::from_secs(2);

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

impl Work {
    pub(super) async fn plan(&self, job: &Job) -> Result<Plan, Attempt> {
        let site =
            Identity { name: job.site().to_owned(), uid: job.old_uid.clone(), id: job.id.clone() };
        let expected = Expected { site, digest: Some(job.backup.digest.clone()) };
        let fail = |reason, why| Attempt::Failed(vec![failure(&job.name, None, reason, why)]);
        match self.store.load(&job.backup.location, expected).await {
            Ok(archive) => plan::plan(archive, job.site()).ok_or_else(|| {
                fail(Reason::ArchiveInvalid, "the Site is not in its own archive".to_owned())
            }),
            Err(error) if error.may_pass() => {
                Err(Attempt::Waiting(Reason::StoreUnavailable, error.to_string()))
            }
            Err(error) => Err(fail(Reason::ArchiveInvalid, error.to_string())),
        }
    }

    pub(super) async fn kinds(&self) -> Result<Arc<Kinds>, Attempt> {
        let kinds = self.ctx.kinds(KINDS_MAX_AGE).await;
        kinds.map_err(|error| Attempt::Waiting(Reason::DiscoveryFailed, error.to_string()))
    }

    /// What the cluster serves, asked for again where a kind of this plan is missing: its definition
    /// may have been installed a moment ago.
    pub(super) async fn kinds_for(&self, plan: &Plan) -> Result<Arc<Kinds>, Attempt> {
        let kinds = self.kinds().await?;
        let word =
            |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let served = |object: &Value| {
            kinds.find(&word(object, "apiVersion"), &word(object, "kind")).is_some()
        };
        if plan.objects.iter().all(|wanted| served(&wanted.expected)) {
            return Ok(kinds);
        }
        let kinds = self.ctx.kinds(KINDS_ASK_AGAIN).await;
        kinds.map_err(|error| Attempt::Waiting(Reason::DiscoveryFailed, error.to_string()))
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
        Maker { client: &self.ctx.client, kinds, restore: &self.restore, since }
    }

    pub(super) async fn live(&self, job: &Job) -> Result<Option<Site>, Attempt> {
        self.sites()
            .get_opt(job.site())
            .await
            .map_err(|error| Attempt::Waiting(Reason::Progressing, describe(&error)))
    }

    /// What this very Restore has verified and, perhaps, not yet released.
    pub(super) fn verified_before(&self, job: &Job, live: &Site) -> Option<VerifiedSite> {
        job.verified.clone().filter(|v| Some(&v.uid) == live.meta().uid.as_ref())
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
        let attempt = match &job.app {
            Some(part) => self.attempt_app(job, part, created, done, &mut notices).await,
            None => self.try_attempt(job, prepared, created, done, &mut notices).await,
        };
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
        let kinds = self.kinds_for(&plan).await?;
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
            if before.is_empty() {
                // A namespace that is taken in may be older than the Site, with its account.
                since = taken::oldest(self, since, &places).await?;
            } else {
                since.clone_from(&self.begun);
            }
        }
        let maker = self.maker(&kinds, &since);
        if created.is_none() {
            self.tell_site(job, "Creating", 0, prepared.total).await;
            going::let_go(self, &maker, job, &plan, &places).await?;
            taken::take_in(self, &kinds, job, &mut plan, &places).await?;
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
    pub(super) async fn tell_site(&self, job: &Job, stage: &str, done: i64, total: i64) {
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
