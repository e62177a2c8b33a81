//! Before the first object: whether a site may be restored at all, and its Site, created and marked.

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt;

use super::act::Work;
use super::decide::Job;
use super::index::Index;
use super::living::{self, Place};
use super::object::Made;
use super::plan::{Plan, failure};
use super::site::Attempt;
use crate::api::{RESTORE_STOPPED, Reason, Site, Time, VerifiedSite, names};
use crate::cluster::{During, Holder, Pages, Result, lookup};

/// Sites of one page of a list.
const PAGE: u32 = 500;

/// What is read once for all sites of a Restore.
pub struct Census {
    /// The Sites that are there, by name.
    pub sites: HashMap<String, Site>,
    /// Who holds an id.
    holders: HashMap<String, Vec<Holder>>,
}

/// A Site that is there, marked as being restored.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Order of restore.
    pub priority: i32,
    /// Since when it waits.
    pub since: Time,
    /// Objects that are to be restored, the Site included.
    pub total: i64,
    /// Whether this attempt has created it; if not, some of its objects may be there.
    pub fresh: bool,
    /// Whether hooks are run once it was read back.
    pub hooks: bool,
    /// What its archive holds, if it was read just now; to be handed on.
    pub index: Option<Arc<Index>>,
    /// The place that it says it has, and of how many.
    pub place: Option<(i64, i64)>,
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
    /// Reads what is there of these sites.
    ///
    /// # Errors
    /// A list that fails.
    pub async fn census(&self, jobs: &[&Job]) -> Result<Census> {
        // Apps are asked for one by one, and a drill is no business of the Sites that live.
        let jobs: Vec<&Job> = jobs.iter().copied().filter(|job| job.is_site()).collect();
        if jobs.is_empty() {
            return Ok(Census { sites: HashMap::new(), holders: HashMap::new() });
        }
        let wanted: std::collections::HashSet<&str> = jobs.iter().map(|j| &*j.name).collect();
        let mut sites = HashMap::new();
        let mut pages = Pages::of(PAGE);
        while let Some(params) = pages.next() {
            let list = self.sites().list(params).await.during("list the Sites")?;
            pages.turn(&list.metadata);
            for mut site in list {
                if wanted.contains(site.name_any().as_str()) {
                    site.metadata.managed_fields = None;
                    sites.insert(site.name_any(), site);
                }
            }
        }
        let absent = jobs.iter().filter(|job| !sites.contains_key(&job.name));
        let ids: Vec<String> = absent.map(|job| job.id.clone()).collect();
        let holders = match ids.is_empty() {
            true => HashMap::new(),
            false => lookup(&self.ctx.client, &ids).await?,
        };
        Ok(Census { sites, holders })
    }

    /// Creates the Site, marked as being restored, once its archive is known to be whole.
    pub async fn prepare(&self, job: &Job, live: Option<Site>, census: &Census) -> Preparation {
        let prepared = match &job.app {
            Some(part) => self.prepare_app(job, part).await,
            None if job.drill.is_some() => self.prepare_drill(job).await,
            None => self.try_prepare(job, live, census).await,
        };
        match prepared {
            Ok(preparation) => preparation,
            Err(attempt) => Preparation::Ended(attempt),
        }
    }

    async fn try_prepare(
        &self,
        job: &Job,
        live: Option<Site>,
        census: &Census,
    ) -> Result<Preparation, Attempt> {
        // Whoever lives is not touched, whatever its archive says; so this is asked first.
        match &live {
            Some(live) => {
                if let Some(verified) = self.verified_before(live) {
                    return Ok(Preparation::Verified(verified));
                }
                self.may_take(job, live).await?;
                if let Some(prepared) = self.prepared_before(live) {
                    return Ok(Preparation::Ready(prepared));
                }
                if !living::is_marked(live) {
                    self.has_lost_something(job, live).await?;
                }
            }
            None => id_is_free(job, census)?,
        }
        let plan = self.plan(job).await?;
        let site: Site = serde_json::from_value(plan.index.site.object()).map_err(|error| {
            let why = format!("the Site cannot be read: {error}");
            Attempt::Failed(vec![failure(&job.name, None, Reason::ArchiveInvalid, why)])
        })?;
        let total = plan.total();
        let index = Some(plan.index.clone());
        if let Some(live) = live {
            // One that is there and empty is taken as it is: its spec is GitOps's.
            if living::lives(&live) || !living::is_marked(&live) {
                self.can_give(job, &live, &plan).await?;
            }
            let marked = self.mark(&live, job, total).await;
            marked.map_err(|e| Attempt::Waiting(Reason::Progressing, e.to_string()))?;
            let (priority, since) = (live.spec.priority, self.waits_since(&live));
            let (fresh, hooks) = (false, has_hooks(&live));
            let prepared = Prepared { priority, since, total, fresh, hooks, index, place: None };
            return Ok(Preparation::Ready(prepared));
        }
        let kinds = self.kinds().await?;
        let maker = self.maker(&kinds, "");
        let made = match plan.site() {
            Some(wanted) => maker.make(&wanted).await,
            None => Made::Failed(Reason::NothingToRestore, "it is not asked for".to_owned()),
        };
        match made {
            Made::There(_) | Made::Differently(..) => {}
            Made::Later(reason, why) => return Err(Attempt::Waiting(reason, why)),
            Made::Conflict(_, why) => {
                // Somebody was faster: it is looked at again, as one that lives.
                return Err(Attempt::Waiting(Reason::Progressing, why));
            }
            Made::Failed(reason, why) => {
                let failed = plan.notice(&plan.index.site_key, reason, why);
                return Err(Attempt::Failed(vec![failed]));
            }
        }
        Ok(Preparation::Ready(Prepared {
            priority: site.spec.priority,
            since: self.created,
            total,
            fresh: true,
            hooks: has_hooks(&site),
            index,
            place: None,
        }))
    }

    /// What this very Restore has verified and, perhaps, not yet given back.
    pub fn verified_before(&self, live: &Site) -> Option<VerifiedSite> {
        let status = live.status.as_ref()?;
        let last = status.last_restore.as_ref()?;
        // One that is noted again was taken up again after it was verified.
        let noted = status.restore.is_some() || live.metadata.deletion_timestamp.is_some();
        (last.restore_uid == self.uid && !noted).then(|| VerifiedSite {
            name: live.name_any(),
            uid: live.uid().unwrap_or_default(),
            namespaces: status.namespaces.clone(),
            objects: last.objects,
            drill: None,
        })
    }

    /// What this very Restore has prepared before: it says so itself.
    pub fn prepared_before(&self, live: &Site) -> Option<Prepared> {
        let noted = live.status.as_ref()?.restore.as_ref()?;
        let mark = live.annotations().get(names::ANNOTATION_RESTORE);
        let ours = mark == Some(&self.restore) && noted.restore_ref.name == self.restore;
        (ours && noted.stage != RESTORE_STOPPED && noted.objects_total > 0).then(|| Prepared {
            priority: live.spec.priority,
            since: self.waits_since(live),
            total: noted.objects_total,
            fresh: false,
            hooks: has_hooks(live),
            index: None,
            place: noted.place.zip(noted.places),
        })
    }

    /// Since when a Site waits: since an earlier Restore made it, or since this one was created.
    fn waits_since(&self, live: &Site) -> Time {
        let made = live.metadata.creation_timestamp.as_ref().map(Time::from);
        let made = made.filter(|_| living::is_marked(live) && !living::lives(live));
        made.map_or(self.created, |made| made.min(self.created))
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

fn has_hooks(site: &Site) -> bool {
    site.spec.hooks.as_ref().is_some_and(|hooks| !hooks.after_restore.is_empty())
}

/// Nobody else may have taken the site's id meanwhile: ids are unique.
fn id_is_free(job: &Job, census: &Census) -> Result<(), Attempt> {
    match census.holders.get(&job.id).and_then(|holders| holders.first()) {
        None => Ok(()),
        Some(holder) => {
            let why = format!("its id {} is now the id of {}", job.id, holder.describe());
            Err(Attempt::Failed(vec![failure(&job.name, None, Reason::DuplicateId, why)]))
        }
    }
}
