//! The mark on a Site by which everybody else stands still while it is restored: set, and taken off.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::act::Work;
use super::decide::Job;
use super::living;
use crate::api::{Site, VerifiedSite, names};
use crate::cluster::{During, Exact, Result, patch_exact};

impl Work {
    /// Marks a Site that is there, unless it is marked by this Restore. What it has recorded is
    /// noted first: a mark without the note would say that the whole Site was lost.
    pub async fn mark(&self, live: &Site, total: i64) -> Result<()> {
        if live.annotations().get(names::ANNOTATION_RESTORE) == Some(&self.restore) {
            return Ok(());
        }
        let restore = json!({
            "restoreRef": { "name": self.restore }, "stage": "Queued",
            "objectsDone": 0, "objectsTotal": total, "before": living::to_note(live),
        });
        let exact = Exact::of(live);
        let metadata = json!({ "uid": exact.uid, "resourceVersion": exact.resource_version });
        let patch = json!({ "metadata": metadata, "status": { "restore": restore } });
        let patch = Patch::Merge(&patch);
        let doing = format!("mark the Site {}", exact.name);
        let noted = self.sites().patch_status(&exact.name, &PatchParams::default(), &patch).await;
        let noted = noted.during(doing)?;
        let mark = json!({ (names::ANNOTATION_RESTORE): self.restore });
        let patch = json!({ "metadata": { "annotations": mark } });
        patch_exact(&self.sites(), &Exact::of(&noted), patch).await.map(|_| ())
    }

    /// Gives a verified Site back to its reconciler, with the namespaces that it has now. To be
    /// called once the Restore's own status says that it is verified: afterwards nothing else tells
    /// it from one that lives.
    pub async fn release(&self, job: &Job, verified: &VerifiedSite) -> kube::Result<()> {
        if self.is_released(job) {
            return Ok(());
        }
        if let Some(part) = &job.app {
            self.release_app(part, &verified.uid).await?;
        } else if let Some(live) = self.ours(job).await?
            && live.uid().as_ref() == Some(&verified.uid)
        {
            let namespaces = living::recorded_now(&live, &verified.namespaces);
            self.write_status(&live, json!({ "namespaces": namespaces, "restore": null })).await?;
            self.unmark(&live).await?;
        }
        self.remember_released(job);
        Ok(())
    }

    /// Gives a Site back that lived before and could not be restored: it goes on with what it has,
    /// and says itself what it has lost. One that this restore has made stays marked: half of a
    /// site must not go into service.
    pub async fn give_up(&self, job: &Job) -> kube::Result<()> {
        if self.is_released(job) {
            return Ok(());
        }
        // An App that is half there stays marked, as a Site that this restore has made.
        if job.app.is_none()
            && let Some(live) = self.ours(job).await?
            // Nor must half of one go into service that had nothing here before.
            && let Some(old) = living::recorded(&live).filter(|old| !old.is_empty())
        {
            // The note goes last: without it the mark would say that the whole Site was lost.
            self.write_status(&live, json!({ "namespaces": old })).await?;
            self.unmark(&live).await?;
            self.write_status(&live, json!({ "restore": null })).await?;
        }
        self.remember_released(job);
        Ok(())
    }

    fn is_released(&self, job: &Job) -> bool {
        self.released.lock().is_ok_and(|released| released.contains(&job.name))
    }

    fn remember_released(&self, job: &Job) {
        if let Ok(mut released) = self.released.lock() {
            released.insert(job.name.clone());
        }
    }

    /// The Site, if it carries the mark of this Restore.
    async fn ours(&self, job: &Job) -> kube::Result<Option<Site>> {
        let live = self.sites().get_opt(&job.name).await?;
        Ok(live.filter(|site| {
            site.annotations().get(names::ANNOTATION_RESTORE) == Some(&self.restore)
        }))
    }

    async fn write_status(&self, live: &Site, status: Value) -> kube::Result<()> {
        let patch = json!({ "metadata": { "uid": live.uid() }, "status": status });
        let patch = Patch::Merge(&patch);
        let params = PatchParams::default();
        self.sites().patch_status(&live.name_any(), &params, &patch).await.map(|_| ())
    }

    async fn unmark(&self, live: &Site) -> kube::Result<()> {
        let annotations = json!({ (names::ANNOTATION_RESTORE): null });
        let patch = json!({ "metadata": { "uid": live.uid(), "annotations": annotations } });
        let params = PatchParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..Default::default()
        };
        self.sites().patch(&live.name_any(), &params, &Patch::Merge(&patch)).await.map(|_| ())
    }
}
