//! Before the first object: whether a site may be restored at all, and its Site, created and marked.

use super::act::Work;
use super::decide::Job;
use super::living::{self, Place};
use super::object::Made;
use super::plan::{Plan, failure};
use super::site::Attempt;
use crate::api::{Reason, Site, VerifiedSite};
use crate::cluster::holders;

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
    /// Creates the Site, marked as being restored, once its archive is known to be whole.
    pub async fn prepare(&self, job: &Job) -> Preparation {
        let prepared = match &job.app {
            Some(part) => self.prepare_app(job, part).await,
            None => self.try_prepare(job).await,
        };
        match prepared {
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
            // One that is there and empty is taken as it is: its spec is GitOps's.
            if living::lives(&live) || !living::is_marked(&live) {
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
        let why = if living::lives(live) {
            let places = self.places(live, &live.namespace_names()).await?;
            let whole = places.values().all(|place| *place == Place::Kept);
            whole.then_some("the Site lives and has all its namespaces")
        } else {
            let namespaces = self.namespaces(&live.namespace_names()).await?;
            living::keeps_to_itself(live, &namespaces)
        };
        let Some(why) = why else { return Ok(()) };
        let why = format!("{why}: nothing of it is touched");
        Err(Attempt::Failed(vec![failure(&job.name, None, Reason::SiteLives, why)]))
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
}
