//! Collects a site, writes it to the store and reads it back.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::decide::{Facts, Job, Outcome, Result as Made, lost};
use crate::api::{LastBackup, NamespaceRef, Protection, Reason, Site, VolumeProtection, names};
use crate::cluster::collect::{Collection, Freshness, collect};
use crate::cluster::discover::Kinds;
use crate::cluster::{Context, During, Error, Result, is_not_found};
use crate::store::{
    CataloguedApp, CataloguedKind, Contents, Entry, Expected, Store, StoreError, Written,
};

/// The kinds were discovered for this backup: no need to ask again.
const KINDS_MAX_AGE: Duration = Duration::from_secs(900);

/// Makes a backup. Nothing of the site is written.
pub async fn back_up(ctx: &Context, store: &Store, job: &Job) -> Outcome {
    match try_back_up(ctx, store, job).await {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

async fn try_back_up(ctx: &Context, store: &Store, job: &Job) -> Result<Outcome, Outcome> {
    // Before the work, not after it: a store that is away costs one small request.
    store.probe().await.map_err(unavailable)?;
    let collection = gather(ctx, job).await.map_err(unseen)?;
    let namespaces = collection.objects.iter().filter(|o| o.key.is("", "Namespace"));
    let namespaces: Vec<_> =
        namespaces.map(|o| NamespaceRef { name: o.key.name.clone(), uid: o.uid.clone() }).collect();
    if let Some(why) = lost(&job.recorded, &namespaces) {
        return Err(Outcome::Failed(Reason::EntityNotActive, why));
    }
    let volumes = volumes(ctx, &collection).await.map_err(unseen)?;
    let kinds = ctx.kinds(KINDS_MAX_AGE).await.map_err(unseen)?;
    let contents = Some(contents(&collection, &kinds));
    let written = write(store, job, collection).await.map_err(unavailable)?;
    let result = Made {
        location: written.location.clone(),
        digest: written.manifest.root_digest.clone(),
        objects: clamp(written.manifest.count),
        bytes: clamp(written.size),
        volumes,
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
    let entry = crate::store::CatalogueEntry {
        digest: result.digest.clone(),
        objects: written.manifest.count,
        bytes: written.size,
        contents,
        ..job.entry.clone()
    };
    store.enter(&entry).await.map_err(unavailable)?;
    Ok(Outcome::Verified(result))
}

fn unavailable(error: StoreError) -> Outcome {
    Outcome::Failed(Reason::StoreUnavailable, error.to_string())
}

fn unseen(error: crate::cluster::Error) -> Outcome {
    Outcome::Failed(Reason::DiscoveryFailed, error.to_string())
}

fn clamp(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// What the catalogue is to say of the content: which Apps are in it, and which kinds a cluster
/// must serve to take it.
fn contents(collection: &Collection, kinds: &Kinds) -> Contents {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut apps = vec![];
    let mut found = BTreeSet::new();
    for object in &collection.objects {
        if object.key.is(names::GROUP, "App") {
            apps.push(CataloguedApp {
                id: text(&object.form["spec"]["id"]),
                namespace: object.key.namespace.clone().unwrap_or_default(),
                name: object.key.name.clone(),
            });
        }
        let (api_version, kind) = (text(&object.form["apiVersion"]), text(&object.form["kind"]));
        // Those of the core and of groups without a domain, `apps` for example, every cluster has.
        if object.key.group.contains('.')
            && object.key.group != names::GROUP
            && let Some(served) = kinds.find(&api_version, &kind)
        {
            let crd = format!("{}.{}", served.resource.plural, served.resource.group);
            found.insert(CataloguedKind { api_version, kind, crd });
        }
    }
    Contents { apps, kinds: found.into_iter().collect() }
}

async fn gather(ctx: &Context, job: &Job) -> Result<Collection> {
    let site = &job.header.site.name;
    let kinds = ctx.kinds(Duration::ZERO).await?;
    collect(&ctx.client, &kinds, site, &job.namespaces, Freshness::Live)
        .await
        .map_err(|error| Error::answer(format!("collect the site {site}"), error))
}

async fn write(store: &Store, job: &Job, collection: Collection) -> Result<Written, StoreError> {
    let mut writer = store.write(&job.location, &job.header)?;
    for object in collection.objects {
        let entry = Entry {
            key: object.key,
            digest: object.digest,
            state: object.state,
            object: object.form,
        };
        if let Err(error) = writer.add(&entry).await {
            writer.abort().await;
            return Err(error);
        }
    }
    writer.finish().await
}

/// How the disk of each claim is protected: kept, when its volume's reclaim policy is `Retain`.
async fn volumes(ctx: &Context, collection: &Collection) -> Result<Vec<VolumeProtection>> {
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let mut all = vec![];
    for object in &collection.objects {
        if !object.key.is("", "PersistentVolumeClaim") {
            continue;
        }
        let mut protection = Protection::None;
        if let Some(volume) = object.form["spec"]["volumeName"].as_str() {
            match api.get(volume).await {
                Ok(volume) => {
                    let spec = volume.spec.unwrap_or_default();
                    if spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain") {
                        protection = Protection::RetainedDisk;
                    }
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error).during(format!("read the volume {volume}")),
            }
        }
        let namespace = object.key.namespace.as_deref().unwrap_or_default();
        all.push(VolumeProtection {
            claim: format!("{namespace}/{}", object.key.name),
            protection,
        });
    }
    Ok(all)
}

/// Tells the Site of its newest backup: that field alone, and only if it is still that Site.
pub async fn record_last_backup(ctx: &Context, facts: &Facts, last: &LastBackup) -> Result<()> {
    let Some(site) = &facts.site else { return Ok(()) };
    let (Some(name), Some(uid)) = (&site.metadata.name, &site.metadata.uid) else {
        return Ok(());
    };
    let api: Api<Site> = Api::all(ctx.client.clone());
    let patch = json!({ "metadata": { "uid": uid }, "status": { "lastBackup": last } });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // Gone, or another one of that name: the backup is as good as before.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error).during(format!("write the status of the Site {name}")),
    }
}
