//! What is read, live, before a Restore is decided on.

use kube::Api;

use super::catalogue;
use super::decide::{Facts, has_ended};
use crate::api::{Backup, DeletionRequest, Restore};
use crate::cluster::{Context, During, Result};
use crate::store::Store;

/// Reads the Restore and what it names. None: the Restore is gone.
///
/// # Errors
/// What the API server said.
pub async fn observe(ctx: &Context, store: &Store, name: &str) -> Result<Option<Facts>> {
    let restores: Api<Restore> = Api::all(ctx.client.clone());
    let doing = format!("read the Restore {name}");
    let Some(restore) = restores.get_opt(name).await.during(doing)? else {
        return Ok(None);
    };
    if has_ended(restore.status.as_ref()) {
        return Ok(Some(Facts::of(restore)));
    }
    let mut request = None;
    if let Some(reference) = &restore.spec.source.deletion_request_ref {
        let requests: Api<DeletionRequest> = Api::all(ctx.client.clone());
        let doing = format!("read the DeletionRequest {}", reference.name);
        request = requests.get_opt(&reference.name).await.during(doing)?;
    }
    let mut backups = vec![];
    let api: Api<Backup> = Api::all(ctx.client.clone());
    for reference in restore.spec.source.backup_refs.iter().flatten() {
        let doing = format!("read the Backup {}", reference.name);
        let backup = api.get_opt(&reference.name).await.during(doing)?;
        backups.push((reference.name.clone(), backup));
    }
    let choice = catalogue::chosen(ctx, store, &restore, request.as_ref()).await;
    Ok(Some(Facts { request, backups, choice, ..Facts::of(restore) }))
}
