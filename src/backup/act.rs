//! Collects a site, writes it to the store and reads it back.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use serde_json::{Value, json};

use super::decide::{Facts, Job, Outcome, Result as Made, lost};
use crate::api::{
    ChangedObjects, LastBackup, Protection, ReadVersions, Reason, VolumeProtection, names,
};
use crate::cluster::collect::{Collected, Freshness, ObjectState, Walk};
use crate::cluster::discover::Kinds;
use crate::cluster::former::RETAIN;
use crate::cluster::snapshots::{self, ClaimSnapshot};
use crate::cluster::volume::not_its_own;
use crate::cluster::{Context, During, Error, Result, tell_site};
use crate::store::{
    ArchiveWriter, CatalogueEntry, CataloguedApp, CataloguedKind, Contents, Entry, Expected,
    Header, Store, StoreError,
};

/// Makes a backup. Nothing of the site is written.
pub async fn back_up(ctx: &Context, store: &Store, job: &Job) -> Outcome {
    match try_back_up(ctx, store, job).await {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

async fn try_back_up(ctx: &Context, store: &Store, job: &Job) -> Result<Outcome, Outcome> {
    // Before the work, not after it: a store that is away costs one small request.
    store.is_there().await.map_err(unavailable)?;
    let kinds = ctx.kinds(Duration::ZERO).await.map_err(unseen)?;
    let walk = begin(ctx, job, &kinds).await.map_err(unseen)?;
    if let Some(why) = lost(&job.recorded, walk.namespaces()) {
        return Err(Outcome::Failed(Reason::EntityNotActive, why));
    }
    let header =
        Header { resource_version: walk.begun_at().map(str::to_owned), ..job.header.clone() };
    let mut writer = store.write(&job.location, &header).map_err(unavailable)?;
    let read = match write(&mut writer, walk, &kinds).await {
        Ok(read) => read,
        Err(outcome) => {
            writer.abort().await;
            return Err(outcome);
        }
    };
    let written = writer.finish().await.map_err(unavailable)?;
    let (volumes, lost_disks) = disks(ctx, read.claims).await.map_err(unseen)?;
    let result = Made {
        location: written.location.clone(),
        digest: written.manifest.root_digest.clone(),
        objects: clamp(written.manifest.count),
        bytes: clamp(written.size),
        lost_disks,
        volumes,
        versions: read.versions,
        changed: read.changed,
        recipients: store.recipients(),
    };
    let expected = Expected {
        site: job.header.site.clone(),
        digest: Some(written.manifest.root_digest.clone()),
    };
    match store.verify(&written.location, expected).await {
        Ok(_) => {}
        Err(error) if error.may_pass() => return Err(unavailable(error)),
        Err(error) => return Ok(Outcome::NotVerified(result, error.to_string())),
    }
    let entry = CatalogueEntry {
        digest: result.digest.clone(),
        objects: written.manifest.count,
        bytes: written.size,
        resource_versions: Some(result.versions.clone()),
        changed_objects: Some(result.changed.clone()).filter(|changed| changed.count > 0),
        contents: Some(read.contents),
        ..job.entry.clone()
    };
    store.enter(&entry).await.map_err(unavailable)?;
    Ok(Outcome::Verified(result))
}

fn unavailable(error: StoreError) -> Outcome {
    Outcome::Failed(Reason::StoreUnavailable, error.to_string())
}

fn unseen(error: impl ToString) -> Outcome {
    Outcome::Failed(Reason::DiscoveryFailed, error.to_string())
}

fn clamp(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// What the catalogue is to say of the content: which Apps are in it, and which kinds a cluster
/// must serve to take it.
#[derive(Default)]
struct Inventory {
    apps: Vec<CataloguedApp>,
    kinds: BTreeSet<CataloguedKind>,
}

impl Inventory {
    fn add(&mut self, object: &Collected, kinds: &Kinds) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if object.key.is(names::GROUP, "App") {
            self.apps.push(CataloguedApp {
                id: text(&object.form["spec"]["id"]),
                namespace: object.key.namespace.clone().unwrap_or_default(),
                name: object.key.name.clone(),
            });
        }
        // Those of the core and of groups without a domain, `apps` for example, every cluster has.
        if !object.key.group.contains('.') || object.key.group == names::GROUP {
            return;
        }
        let (api_version, kind) = (text(&object.form["apiVersion"]), text(&object.form["kind"]));
        if let Some(served) = kinds.find(&api_version, &kind) {
            let crd = format!("{}.{}", served.resource.plural, served.resource.group);
            self.kinds.insert(CataloguedKind { api_version, kind, crd });
        }
    }
}

async fn begin(ctx: &Context, job: &Job, kinds: &Kinds) -> Result<Walk> {
    let site = &job.header.site.name;
    Walk::begin(&ctx.client, kinds, site, &job.namespaces, Freshness::Live)
        .await
        .map_err(|error| Error::answer(format!("collect the site {site}"), error))
}

/// What is known of a site once it was written.
struct Read {
    claims: Vec<Claim>,
    versions: ReadVersions,
    changed: ChangedObjects,
    contents: Contents,
}

/// A claim and the volume that it names.
struct Claim {
    name: String,
    volume: Option<String>,
    bound: bool,
}

/// Writes all of a site, and looks what changed meanwhile.
async fn write(writer: &mut ArchiveWriter, mut walk: Walk, kinds: &Kinds) -> Result<Read, Outcome> {
    let mut claims = vec![];
    let mut inventory = Inventory::default();
    while let Some(object) = walk.next().await.map_err(unseen)? {
        inventory.add(&object, kinds);
        if object.key.is("", "PersistentVolumeClaim") {
            let namespace = object.key.namespace.as_deref().unwrap_or_default();
            claims.push(Claim {
                name: format!("{namespace}/{}", object.key.name),
                volume: object.form["spec"]["volumeName"].as_str().map(str::to_owned),
                bound: object.state == ObjectState::Ready,
            });
        }
        let entry = Entry {
            key: object.key,
            digest: object.digest,
            state: object.state,
            object: object.form,
            owners: object.owners,
        };
        writer.add(&entry).await.map_err(unavailable)?;
    }
    let (versions, changed) = walk.changes().await.map_err(unseen)?;
    let contents = Contents { apps: inventory.apps, kinds: inventory.kinds.into_iter().collect() };
    Ok(Read { claims, versions, changed, contents })
}

/// How the disk of each claim is protected: kept, when its volume's reclaim policy is `Retain`;
/// otherwise by a snapshot whose content is kept. And the claims whose volume is not there, or is
/// another claim's, with what is so with each.
async fn disks(ctx: &Context, claims: Vec<Claim>) -> Result<(Vec<VolumeProtection>, Vec<String>)> {
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let (mut all, mut lost) = (vec![], vec![]);
    for Claim { name: claim, volume, bound } in claims {
        let mut protection = Protection::None;
        if let Some(volume) = &volume {
            let live = api.get_opt(volume).await.during(format!("read the volume {volume}"))?;
            let (namespace, name) = claim.split_once('/').unwrap_or_default();
            match not_its_own(volume, live.as_ref(), namespace, name) {
                Some(why) if !bound => lost.push(format!("claim {claim}: {why}")),
                Some(_) => {}
                None => {
                    let policy = live.and_then(|v| v.spec?.persistent_volume_reclaim_policy);
                    if policy.as_deref() == Some(RETAIN) {
                        protection = Protection::RetainedDisk;
                    }
                }
            }
        }
        all.push(VolumeProtection { claim, protection, snapshot: None });
    }
    by_snapshots(ctx, &mut all).await?;
    Ok((all, lost))
}

/// Says of claims whose disk may go whether the content of a snapshot stays.
async fn by_snapshots(ctx: &Context, all: &mut [VolumeProtection]) -> Result<()> {
    let bare = all.iter_mut().filter(|v| v.protection == Protection::None);
    let named = |v: &mut VolumeProtection| {
        let (namespace, claim) = v.claim.split_once('/').unwrap_or_default();
        (namespace.to_owned(), claim.to_owned())
    };
    let claims: Vec<(String, String)> = bare.map(named).collect();
    let failed = |error| Error::answer("look for snapshots of disks", error);
    let found = snapshots::of_claims(&ctx.client, &claims).await.map_err(failed)?;
    let bare = all.iter_mut().filter(|v| v.protection == Protection::None);
    for (volume, found) in bare.zip(found) {
        if let ClaimSnapshot::Ready { name, kept: true } = found {
            volume.protection = Protection::Snapshot;
            volume.snapshot = Some(name);
        }
    }
    Ok(())
}

/// Tells the Site of its newest backup: that field alone, and only if it is still that Site.
pub async fn record_last_backup(ctx: &Context, facts: &Facts, last: &LastBackup) -> Result<()> {
    let Some(site) = &facts.site else { return Ok(()) };
    let (Some(name), Some(uid)) = (&site.metadata.name, &site.metadata.uid) else {
        return Ok(());
    };
    tell_site(&ctx.client, name, uid, json!({ "lastBackup": last })).await
}
