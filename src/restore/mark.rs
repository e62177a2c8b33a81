//! The mark on a Site by which everybody else stands still while it is restored: set, and taken
//! off; and what the Site itself says meanwhile.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::act::Work;
use super::decide::Job;
use super::estimate::Promise;
use super::living;
use super::prepare::Prepared;
use crate::api::{
    ConditionStatus, ConditionType, Conditions, RESTORE_STOPPED, Reason, RestoreFailure, Site,
    SiteRestore, SiteState, VerifiedSite, names,
};
use crate::cluster::{Exact, Result, patch_exact, patch_status_exact};

/// Where each site under way stands. Most are done before anybody could read it, so it is written
/// down only of those that take long.
#[derive(Clone, Debug, Default)]
pub struct Stages(Arc<Mutex<HashMap<String, &'static str>>>);

impl Stages {
    fn all(&self) -> MutexGuard<'_, HashMap<String, &'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a site is at this stage now.
    pub fn set(&self, site: &str, stage: &'static str) {
        self.all().insert(site.to_owned(), stage);
    }

    /// The stage of a site.
    pub fn get(&self, site: &str) -> Option<&'static str> {
        self.all().get(site).copied()
    }

    /// Forgets a site that is done.
    pub fn remove(&self, site: &str) {
        self.all().remove(site);
    }
}

impl Work {
    /// Marks a Site that is there, unless it is marked by this Restore. What it has recorded is
    /// noted first: a mark without the note would say that the whole Site was lost.
    pub async fn mark(&self, live: &Site, job: &Job, total: i64) -> Result<()> {
        if live.annotations().get(names::ANNOTATION_RESTORE) == Some(&self.restore) {
            return Ok(());
        }
        let mut restore = self.note(job, "Queued", 0, total);
        restore["before"] = json!(living::to_note(live));
        restore["place"] = Value::Null;
        restore["places"] = Value::Null;
        let exact = Exact::of(live);
        let doing = format!("mark the Site {}", exact.name);
        let note = json!({ "restore": restore });
        let noted = patch_status_exact(&self.sites(), &exact, note, doing).await?;
        let mark = json!({ (names::ANNOTATION_RESTORE): self.restore });
        let patch = json!({ "metadata": { "annotations": mark } });
        patch_exact(&self.sites(), &Exact::of(&noted), patch).await.map(|_| ())
    }

    /// What a Site says of its restore.
    fn note(&self, job: &Job, stage: &str, done: i64, total: i64) -> Value {
        json!({
            "restoreRef": { "name": self.restore }, "backup": job.backup.name, "stage": stage,
            "objectsDone": done, "objectsTotal": total, "message": null,
            "estimatedCompletionTime": null, "noLaterThanTime": null,
        })
    }

    /// Says on the Site that it is queued, and at which place of how many. On one that was just
    /// created this is the whole status, in the words that its reconciler would find.
    pub async fn tell_place(
        &self,
        job: &Job,
        prepared: &Prepared,
        promise: Option<Promise>,
    ) -> kube::Result<()> {
        // The Site of an App, or of a drill, goes on, and waits for nothing.
        if !job.is_site() {
            return Ok(());
        }
        let mut restore = self.note(job, "Queued", 0, prepared.total);
        let (place, places) = prepared.place.unzip();
        restore["place"] = json!(place);
        restore["places"] = json!(places);
        if let Some(Promise { expected, no_later }) = promise {
            restore["estimatedCompletionTime"] = json!(expected);
            restore["noLaterThanTime"] = json!(no_later);
        }
        let mut status = json!({ "restore": restore });
        if prepared.fresh
            && let Ok(said) = serde_json::from_value::<SiteRestore>(status["restore"].clone())
        {
            let mut conditions = vec![];
            conditions.set(
                ConditionType::Ready,
                ConditionStatus::False,
                Reason::Restoring,
                said.in_words(),
                Some(1),
                self.ctx.now(),
            );
            status["conditions"] = json!(conditions);
            status["observedGeneration"] = json!(1);
            status["state"] = json!(SiteState::Restoring);
        }
        patch_status(&self.sites(), &job.name, json!({}), status).await
    }

    /// Says on the Site at which stage it is. For people: a failure is only logged. It changes what
    /// is noted there and nothing else: the Site may be given back by the time this arrives.
    pub async fn tell_stage(&self, job: &Job, stage: &str, done: i64) {
        self.tell(job, &[("stage", json!(stage)), ("objectsDone", json!(done))]).await;
    }

    /// Says on the Site when it will be back. As [`Work::tell_stage`].
    pub async fn tell_estimate(&self, job: &Job, promise: Promise) {
        let Promise { expected, no_later } = promise;
        let told =
            [("estimatedCompletionTime", json!(expected)), ("noLaterThanTime", json!(no_later))];
        self.tell(job, &told).await;
    }

    async fn tell(&self, job: &Job, told: &[(&str, Value)]) {
        if !job.is_site() {
            return;
        }
        // Where no restore is noted any more, this fails, as it must.
        let set = |(field, value): &(&str, Value)| json!({ "op": "add", "path": format!("/status/restore/{field}"), "value": value });
        let patch = Value::from_iter(told.iter().map(set));
        let path = format!("{}/{}/status", Site::url_path(&(), None), job.name);
        let request = http::Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/json-patch+json")
            .body(patch.to_string().into_bytes());
        let Ok(request) = request else { return };
        if let Err(error) = self.ctx.client.request::<Value>(request).await {
            tracing::debug!(site = job.name, %error, "cannot tell a Site how it stands");
        }
    }

    /// Gives a verified Site back to its reconciler, with the namespaces that it has now. In the
    /// same write it notes that this Restore has verified it: whoever goes on after a crash finds it
    /// there.
    pub async fn release(&self, job: &Job, verified: &VerifiedSite) -> kube::Result<()> {
        if let Some(part) = &job.app {
            return self.release_app(part, &verified.uid).await;
        }
        if job.drill.is_some() {
            return Ok(());
        }
        if let Some(live) = ours(&self.sites(), &job.name, &self.restore).await?
            && live.uid().as_ref() == Some(&verified.uid)
        {
            let namespaces = living::recorded_now(&live, &verified.namespaces);
            let last = json!({
                "restoreRef": { "name": self.restore }, "restoreUid": self.uid,
                "objects": verified.objects, "verifiedTime": self.ctx.now(),
            });
            let status = json!({ "namespaces": namespaces, "restore": null, "lastRestore": last });
            write_status(&self.sites(), &live, status).await?;
            unmark(&self.sites(), &live).await?;
        }
        Ok(())
    }

    /// Takes the mark off a Site that was released by an operator which was stopped before this.
    pub async fn unmark_released(&self, job: &Job) -> kube::Result<()> {
        if !job.is_site() {
            return Ok(());
        }
        match ours(&self.sites(), &job.name, &self.restore).await? {
            Some(live) => unmark(&self.sites(), &live).await,
            None => Ok(()),
        }
    }

    /// Gives up a Site that could not be restored, with how far it is.
    pub async fn give_up(
        &self,
        job: &Job,
        failures: &[RestoreFailure],
        objects: (i64, i64),
    ) -> kube::Result<()> {
        // An App that is half there stays marked, as a Site that this restore has made.
        if !job.is_site() {
            return Ok(());
        }
        let why = failures.first().map(|failure| match &failure.object {
            Some(object) => format!("{object}: {}", failure.message),
            None => failure.message.clone(),
        });
        give_up(&self.sites(), &job.name, &self.restore, &why.unwrap_or_default(), Some(objects))
            .await
    }
}

/// Gives a Site back that lived before and could not be restored: it goes on with what it has, and
/// says itself what it has lost. One that this restore has made stays marked, and says how to go on:
/// half of a site must not go into service.
pub async fn give_up(
    sites: &Api<Site>,
    name: &str,
    restore: &str,
    why: &str,
    objects: Option<(i64, i64)>,
) -> kube::Result<()> {
    let Some(live) = ours(sites, name, restore).await? else { return Ok(()) };
    // Nor must half of one go into service that had nothing here before.
    if let Some(old) = living::recorded(&live).filter(|old| !old.is_empty()) {
        // The note goes last: without it the mark would say that the whole Site was lost.
        write_status(sites, &live, json!({ "namespaces": old })).await?;
        unmark(sites, &live).await?;
        return write_status(sites, &live, json!({ "restore": null })).await;
    }
    let noted = live.status.as_ref().and_then(|status| status.restore.clone());
    let (done, total) = objects
        .filter(|(_, total)| *total > 0)
        .unwrap_or_else(|| noted.as_ref().map_or((0, 0), |n| (n.objects_done, n.objects_total)));
    let backup = noted.and_then(|noted| noted.backup).filter(|backup| !backup.is_empty());
    let message = format!("{why}; {}", how_to_go_on(name, backup.as_deref()));
    let message: String = message.chars().take(2000).collect();
    let restore = json!({
        "restoreRef": { "name": restore }, "stage": RESTORE_STOPPED, "objectsDone": done,
        "objectsTotal": total, "place": null, "places": null, "message": message,
        "estimatedCompletionTime": null, "noLaterThanTime": null,
    });
    write_status(sites, &live, json!({ "restore": restore })).await
}

/// The command that goes on with a site that is not whole.
fn how_to_go_on(site: &str, backup: Option<&str>) -> String {
    let Some(backup) = backup else {
        return "to go on, make another Restore that names it".to_owned();
    };
    let restore = json!({
        "apiVersion": names::API_VERSION, "kind": "Restore",
        "metadata": { "generateName": format!("{site}-") },
        "spec": { "source": { "backupRefs": [{ "name": backup }] } },
    });
    format!("to go on: echo '{restore}' | kubectl create -f -")
}

/// The Site, if it carries the mark of this Restore, or its note: one that was stopped between the
/// two writes has the note alone.
async fn ours(sites: &Api<Site>, name: &str, restore: &str) -> kube::Result<Option<Site>> {
    let live = sites.get_opt(name).await?;
    let is_ours = |site: &Site| {
        let mark = site.annotations().get(names::ANNOTATION_RESTORE);
        let noted = site.status.as_ref().and_then(|status| status.restore.as_ref());
        mark.is_some_and(|by| by == restore)
            || noted.is_some_and(|noted| noted.restore_ref.name == restore)
    };
    Ok(live.filter(is_ours))
}

async fn write_status(sites: &Api<Site>, live: &Site, status: Value) -> kube::Result<()> {
    patch_status(sites, &live.name_any(), json!({ "uid": live.uid() }), status).await
}

async fn patch_status(
    sites: &Api<Site>,
    name: &str,
    metadata: Value,
    status: Value,
) -> kube::Result<()> {
    let patch = json!({ "metadata": metadata, "status": status });
    let patch = Patch::Merge(&patch);
    sites.patch_status(name, &PatchParams::default(), &patch).await.map(|_| ())
}

/// Takes the mark off a Site or an App, if it is still this one.
pub(super) async fn unmark<K>(api: &Api<K>, live: &K) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let annotations = json!({ (names::ANNOTATION_RESTORE): null });
    let patch = json!({ "metadata": { "uid": live.uid(), "annotations": annotations } });
    let params =
        PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
    api.patch(&live.name_any(), &params, &Patch::Merge(&patch)).await.map(|_| ())
}
