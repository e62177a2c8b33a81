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
    let before = Some(disk.is_announced());
    // Whether it is announced once that is written; none: it is kept no more.
    let (patch, note, told, after) = match decision {
        Decision::Keep(Hindrance::Needed(why) | Hindrance::Unknown(why)) => {
            tracing::debug!(volume = disk.exact.name, "stays kept: {why}");
            return looked.count(before);
        }
        Decision::Wait => return looked.count(before),
        Decision::Announce(patch, note) => (patch, note, &mut looked.announced, Some(true)),
        Decision::Withdraw(patch, note) => (patch, note, &mut looked.withdrawn, Some(false)),
        Decision::Release(patch, note) => (patch, note, &mut looked.released, None),
    };
    if write(ctx, disk, patch, &note).await {
        told.push(disk.exact.name.clone());
        looked.count(after);
    } else {
        looked.count(before);
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
