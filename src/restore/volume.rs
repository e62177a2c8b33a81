//! The kept disks of claims that come back.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use serde_json::{Value, json};

use super::object::{Made, Maker, later};
use super::snapshot::Snapshot;
use crate::api::Reason;
use crate::cluster::form::ObjectKey;
use crate::cluster::volume::not_its_own;
use crate::cluster::{Exact, patch_exact};

impl Maker<'_> {
    /// Points a kept disk at the claim that is about to come back. The volume keeps the claim's
    /// name and loses its UID: with the whole reference cleared, any other claim could take it.
    ///
    /// Where the disk is not there any more, the claim gets a new one: from one of these snapshots,
    /// where something is left of one.
    pub async fn free_volume(
        &self,
        key: &ObjectKey,
        snapshots: &[Snapshot],
        body: &mut Value,
        notice: &mut Option<String>,
    ) -> Result<(), Made> {
        let Some(name) = body["spec"]["volumeName"].as_str().map(str::to_owned) else {
            return Ok(());
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = api.get_opt(&name).await.map_err(|e| later(Reason::Progressing, &e))?;
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let missing = not_its_own(&name, volume.as_ref(), namespace, &key.name);
        let (Some(volume), None) = (volume, &missing) else {
            let why = missing.unwrap_or_default();
            if let Some(spec) = body["spec"].as_object_mut() {
                spec.remove("volumeName");
            }
            return self.use_snapshot(key, &why, snapshots, body, notice).await;
        };
        let claim_ref = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let Some(former) = claim_ref.and_then(|claim| claim.uid.as_deref()) else {
            return Ok(());
        };
        // Not by its phase: that the former claim is gone may not have been seen yet.
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let live = claims.get_opt(&key.name).await.map_err(|e| later(Reason::Progressing, &e))?;
        if live.is_some_and(|live| live.metadata.uid.as_deref() == Some(former)) {
            return Ok(());
        }
        let patch = json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } });
        match patch_exact(&api, &Exact::of(&volume), patch).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Made::Later(Reason::Progressing, error.to_string())),
        }
    }
}
