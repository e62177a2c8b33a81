//! Writes to kept volumes, each on the very volume that it was decided on.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use serde_json::Value;

use super::Looked;
use super::decide::{Decision, Disk, Hindrance};
use crate::cluster::{Context, Note, patch_exact};

/// Carries out what was decided on a disk, and counts. A write that fails, for the volume has
/// changed since for example, is decided on anew at the next look.
pub async fn act(ctx: &Context, disk: &Disk, decision: Decision, looked: &mut Looked) {
    let name = disk.exact.name.clone();
    match decision {
        Decision::Keep(why) => {
            let (Hindrance::Needed(why) | Hindrance::Unknown(why)) = why;
            tracing::debug!(volume = name, "stays kept: {why}");
            if disk.is_announced() {
                looked.waiting += 1;
            } else {
                looked.kept += 1;
            }
        }
        Decision::Wait => looked.waiting += 1,
        Decision::Announce(patch, note) => {
            if write(ctx, disk, patch, &note).await {
                looked.announced.push(name);
                looked.waiting += 1;
            } else {
                looked.kept += 1;
            }
        }
        Decision::Withdraw(patch, note) => {
            if write(ctx, disk, patch, &note).await {
                looked.withdrawn.push(name);
                looked.kept += 1;
            } else {
                looked.waiting += 1;
            }
        }
        Decision::Release(patch, note) => {
            if write(ctx, disk, patch, &note).await {
                looked.released.push(name);
            } else {
                looked.waiting += 1;
            }
        }
    }
}

/// Writes to the volume, and tells it. Answers whether it was written.
async fn write(ctx: &Context, disk: &Disk, patch: Value, note: &Note) -> bool {
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    match patch_exact(&api, &disk.exact, patch).await {
        Ok(volume) => {
            ctx.tell(&volume, note).await;
            true
        }
        Err(error) => {
            tracing::warn!(volume = disk.exact.name, "it stays as it is for now: {error}");
            false
        }
    }
}
