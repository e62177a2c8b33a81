//! Apps of a lost namespace that the backup does not have as they were last: changed, or made, after
//! it. They are recorded in the store before they are let go, and come back from the record.

use super::act::Work;
use super::decide::Job;
use super::living;
use super::plan::{Plan, failure};
use super::site::Attempt;
use crate::api::{NamespaceRef, Reason, Site};
use crate::store::{Damage, Entry, Expected, Header, Identity, StoreError, archive, layout};

/// Where the record of a lost namespace lies.
fn location(job: &Job, namespace_uid: &str) -> String {
    let folder = layout::site_folder(&job.id);
    format!("{folder}/late/{}.jsonl.zst", layout::segment(namespace_uid))
}

/// Whose the record is. By the UID of the namespace: that of the Site is another one when the Site
/// was made anew meanwhile, and the namespace was still its own.
fn identity(job: &Job, namespace_uid: &str) -> Identity {
    Identity { name: job.name.clone(), uid: namespace_uid.to_owned(), id: job.id.clone() }
}

fn stopped(job: &Job, error: &StoreError) -> Attempt {
    if error.may_pass() {
        return Attempt::Waiting(Reason::StoreUnavailable, error.to_string());
    }
    let why = format!("what was recorded of Apps that were changed after the backup: {error}");
    Attempt::Failed(vec![failure(&job.name, None, Reason::ArchiveInvalid, why)])
}

impl Work {
    /// Puts into the plan what was recorded of the namespaces that the Site has lost.
    pub async fn add_late(&self, job: &Job, live: &Site, plan: &mut Plan) -> Result<(), Attempt> {
        let kept = plan.kept.clone().unwrap_or_default();
        for namespace in living::recorded(live).into_iter().flatten() {
            if kept.contains(&namespace.name) {
                continue;
            }
            for entry in self.late(job, &namespace.uid).await? {
                plan.replace(entry);
            }
        }
        Ok(())
    }

    async fn late(&self, job: &Job, namespace_uid: &str) -> Result<Vec<Entry>, Attempt> {
        let expected = Expected { site: identity(job, namespace_uid), digest: None };
        match self.store.load(&location(job, namespace_uid), expected).await {
            Ok(archive) => Ok(archive.entries),
            Err(StoreError::Archive { damage: Damage::Missing, .. }) => Ok(vec![]),
            Err(error) => Err(stopped(job, &error)),
        }
    }

    /// Records these Apps of a namespace that is being deleted, beside those that were recorded
    /// before and may be gone by now; read back.
    pub async fn record_late(
        &self,
        job: &Job,
        namespace: &NamespaceRef,
        apps: Vec<Entry>,
    ) -> Result<(), Attempt> {
        let mut all = self.late(job, &namespace.uid).await?;
        all.retain(|old| apps.iter().all(|new| new.key != old.key));
        all.extend(apps);
        self.write_late(job, &namespace.uid, &all).await.map_err(|error| stopped(job, &error))
    }

    async fn write_late(&self, job: &Job, uid: &str, all: &[Entry]) -> Result<(), StoreError> {
        let location = location(job, uid);
        let header = Header {
            format: archive::FORMAT.to_owned(),
            backup: format!("recorded for the Restore {}", self.restore),
            site: identity(job, uid),
            time: self.ctx.now(),
            resource_version: None,
        };
        let mut writer = self.store.rewrite(&location, &header)?;
        for entry in all {
            if let Err(error) = writer.add(entry).await {
                writer.abort().await;
                return Err(error);
            }
        }
        let digest = Some(writer.finish().await?.manifest.root_digest);
        let expected = Expected { site: identity(job, uid), digest };
        self.store.verify(&location, expected).await.map(|_| ())
    }
}
