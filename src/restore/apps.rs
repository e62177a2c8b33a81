//! Single Apps, restored into a site that lives. The Site goes on; only the App is marked, so that
//! its reconciler stands still until everything of it was read back.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicI64;

use kube::api::Api;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::act::Work;
use super::create;
use super::decide::Job;
use super::living::{self, Place};
use super::mark::unmark;
use super::object::{Made, Wanted};
use super::part::AppPart;
use super::plan::Plan;
use super::prepare::{Preparation, Prepared};
use super::site::{self, Attempt, Progress};
use crate::api::{App, Reason, RestoreFailure, Site, names};
use crate::cluster::{Exact, describe, holders, patch_exact};
use crate::store::RawEntry;

/// What to say of an App that its archive does not have.
const NOT_THERE: &str = "the App is not in the archive";

impl Work {
    fn apps(&self, part: &AppPart) -> Api<App> {
        Api::namespaced(self.ctx.client.clone(), &part.app.namespace)
    }

    async fn live_app(&self, part: &AppPart) -> Result<Option<App>, Attempt> {
        let live = self.apps(part).get_opt(&part.app.name).await;
        live.map_err(|error| Attempt::Waiting(Reason::Progressing, describe(&error)))
    }

    fn is_ours(&self, app: &App) -> bool {
        app.annotations().get(names::ANNOTATION_RESTORE) == Some(&self.restore)
    }

    /// Creates the App, marked as being restored, once its site and its archive are known to be
    /// whole.
    pub(super) async fn prepare_app(
        &self,
        job: &Job,
        part: &AppPart,
    ) -> Result<Preparation, Attempt> {
        let site = self.site_of(job, part).await?;
        let ready = |plan: &Plan| {
            let (priority, since, total) = (site.spec.priority, self.created, plan.total());
            Ok(Preparation::Ready(Prepared {
                priority,
                since,
                total,
                fresh: false,
                hooks: false,
                index: Some(plan.index.clone()),
                place: None,
            }))
        };
        if let Some(live) = self.live_app(part).await? {
            if let Some(done) = &job.verified
                && Some(&done.uid) == live.meta().uid.as_ref()
            {
                return Ok(Preparation::Verified(done.clone()));
            }
            self.may_take_app(part, &live).await?;
            let (plan, _) = self.plan_app(job, part).await?;
            if !self.is_ours(&live) {
                let mark = json!({ (names::ANNOTATION_RESTORE): self.restore });
                let patch = json!({ "metadata": { "annotations": mark } });
                let marked = patch_exact(&self.apps(part), &Exact::of(&live), patch).await;
                marked.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
            }
            return ready(&plan);
        }
        self.app_id_is_free(part).await?;
        let (plan, mut entry) = self.plan_app(job, part).await?;
        let mut object = entry.object();
        object["metadata"]["annotations"][names::ANNOTATION_RESTORE] = json!(self.restore);
        entry.object = serde_json::value::to_raw_value(&object)
            .map_err(|error| failed(part, Reason::ArchiveInvalid, error.to_string()))?;
        let Some(item) = plan.item(&entry.key) else {
            return Err(failed(part, Reason::ArchiveInvalid, NOT_THERE.to_owned()));
        };
        let wanted = Wanted { item, entry, site: &part.site };
        let kinds = self.kinds().await?;
        let maker = self.maker(&kinds, "");
        match maker.make(&wanted).await {
            Made::There(_) | Made::Differently(..) => ready(&plan),
            // Somebody was faster: it is looked at again, as one that lives.
            Made::Conflict(_, why) => Err(Attempt::Waiting(Reason::Progressing, why)),
            Made::Later(reason, why) => Err(Attempt::Waiting(reason, why)),
            Made::Failed(reason, why) => Err(failed(part, reason, why)),
        }
    }

    /// One attempt at an App: create what is missing, unless that was done, then read it back.
    pub(super) async fn attempt_app(
        &self,
        job: &Job,
        part: &AppPart,
        progress: &mut Progress,
        done: &AtomicI64,
        plan: &mut Plan,
    ) -> Result<Attempt, Attempt> {
        self.site_of(job, part).await?;
        let live = self.live_app(part).await?.filter(|live| self.is_ours(live));
        let Some(live) = live else {
            let why = "the App was deleted, or its mark taken off, while it was being restored";
            return Err(failed(part, Reason::VerifyFailed, why.to_owned()));
        };
        only(part, plan)?;
        let kinds = self.kinds_for(plan).await?;
        let since = json!(live.meta().creation_timestamp);
        let maker = self.maker(&kinds, since.as_str().unwrap_or_default());
        if progress.created.is_none() {
            let seen = site::seen(&maker, plan).await?;
            let made = create::create(self, &maker, job, plan, &seen, done).await?;
            progress.created = Some(made);
        }
        let made = progress.created.clone().unwrap_or_default();
        Ok(match site::verify(self, &maker, job, plan, &made).await? {
            Attempt::Verified(mut verified) => {
                verified.uid = live.uid().unwrap_or_default();
                verified.namespaces.clear();
                Attempt::Verified(verified)
            }
            other => other,
        })
    }

    /// Gives a verified App back to its reconciler.
    pub(super) async fn release_app(&self, part: &AppPart, uid: &str) -> kube::Result<()> {
        let api = self.apps(part);
        let Some(live) = api.get_opt(&part.app.name).await? else { return Ok(()) };
        if !self.is_ours(&live) || live.uid().as_deref() != Some(uid) {
            return Ok(());
        }
        unmark(&api, &live).await
    }

    /// What the archive has of the App, and the App itself.
    async fn plan_app(&self, job: &Job, part: &AppPart) -> Result<(Plan, RawEntry), Attempt> {
        let (mut plan, app) = self.plan_with(job, Some(&part.key())).await?;
        only(part, &mut plan)?;
        let app = app.ok_or_else(|| failed(part, Reason::ArchiveInvalid, NOT_THERE.to_owned()))?;
        Ok((plan, app))
    }

    /// The Site, if it lives and still has the App's namespace.
    async fn site_of(&self, job: &Job, part: &AppPart) -> Result<Site, Attempt> {
        let name = &part.site;
        let whole = format!(
            "restore the whole site first, with the source {{\"sites\":{{\"ids\":[\"{}\"]}}}}",
            job.id
        );
        let Some(site) = self.live(job).await? else {
            let why = format!("the Site {name} is gone: {whole}");
            return Err(failed(part, Reason::SiteNotFound, why));
        };
        if let Some((reason, why)) = living::refusal(&site, job) {
            return Err(failed(part, reason, why));
        }
        if site.meta().deletion_timestamp.is_some() {
            let why = format!("the Site {name} is being deleted");
            return Err(failed(part, Reason::EntityNotActive, why));
        }
        if let Some(by) = site.annotations().get(names::ANNOTATION_RESTORE) {
            let why = format!("the Site {name} itself is being restored by the Restore {by}");
            return match self.is_open(by).await? {
                true => Err(Attempt::Waiting(Reason::Restoring, why)),
                false => Err(failed(part, Reason::EntityNotActive, format!("{why}: {whole}"))),
            };
        }
        let namespace = std::slice::from_ref(&part.app.namespace);
        let places = self.places(&site, namespace).await?;
        if places.values().any(|place| *place != Place::Kept) {
            let why =
                format!("the Site {name} has lost the namespace {}: {whole}", part.app.namespace);
            return Err(failed(part, Reason::NamespaceLost, why));
        }
        Ok(site)
    }

    /// Whether an App that is there may be worked on: only one that a Restore has made, this one or
    /// one that has ended without finishing it.
    async fn may_take_app(&self, part: &AppPart, live: &App) -> Result<(), Attempt> {
        if live.meta().deletion_timestamp.is_some() {
            let why = "the App of old is still being deleted".to_owned();
            return Err(Attempt::Waiting(Reason::StillTerminating, why));
        }
        if live.spec.id != part.app.id {
            let why = format!("an App of that name lives and has the id {}", live.spec.id);
            return Err(failed(part, Reason::AppLives, why));
        }
        if let Some(deletion) = live.status.as_ref().and_then(|s| s.deletion.as_ref()) {
            let why = format!("it is held by the DeletionRequest {}", deletion.request_ref.name);
            return Err(failed(part, Reason::EntityNotActive, why));
        }
        let Some(by) = live.annotations().get(names::ANNOTATION_RESTORE) else {
            let why = "the App lives: nothing of it is touched".to_owned();
            return Err(failed(part, Reason::AppLives, why));
        };
        if *by != self.restore && self.is_open(by).await? {
            let why = format!("the App is being restored by the Restore {by}");
            return Err(failed(part, Reason::AppLives, why));
        }
        Ok(())
    }

    async fn app_id_is_free(&self, part: &AppPart) -> Result<(), Attempt> {
        let id = &part.app.id;
        let holders = holders(&self.ctx.client, id).await;
        let holders = holders.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
        match holders.first() {
            None => Ok(()),
            Some(holder) => {
                let why = format!("its id {id} is now the id of {}", holder.describe());
                Err(failed(part, Reason::DuplicateId, why))
            }
        }
    }
}

/// Leaves of an archive what is the App's. Everything else of the site lives, and goes on.
fn only(part: &AppPart, plan: &mut Plan) -> Result<(), Attempt> {
    let keys = plan.index.part_of(&part.key());
    if keys.is_empty() {
        return Err(failed(part, Reason::ArchiveInvalid, NOT_THERE.to_owned()));
    }
    let told: HashSet<String> = keys.iter().filter_map(|key| plan.in_words(key)).collect();
    plan.notices.retain(|notice| notice.object.as_ref().is_some_and(|of| told.contains(of)));
    plan.restrict(keys);
    plan.kept = Some(BTreeSet::new());
    Ok(())
}

fn failed(part: &AppPart, reason: Reason, message: String) -> Attempt {
    let app = &part.app;
    Attempt::Failed(vec![RestoreFailure {
        site: part.site.clone(),
        object: Some(format!("{} App {}/{}", names::API_VERSION, app.namespace, app.name)),
        reason: reason.to_string(),
        message,
    }])
}
