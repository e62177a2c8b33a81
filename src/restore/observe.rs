//! What is read, live, before a Restore is decided on.

use futures::stream::{self, StreamExt, TryStreamExt};
use kube::Api;

use super::catalogue;
use super::decide::Facts;
use crate::api::{Backup, DeletionRequest, Restore};
use crate::cluster::{Context, During, Result};
use crate::store::Store;

/// Backups that are read at the same time.
const AT_A_TIME: usize = 16;

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
    if restore.has_ended() {
        return Ok(Some(Facts::of(restore)));
    }
    let mut request = None;
    if let Some(reference) = &restore.spec.source.deletion_request_ref {
        let requests: Api<DeletionRequest> = Api::all(ctx.client.clone());
        let doing = format!("read the DeletionRequest {}", reference.name);
        request = requests.get_opt(&reference.name).await.during(doing)?;
    }
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let read = |name: String| {
        let api = api.clone();
        async move {
            let backup = api.get_opt(&name).await.during(format!("read the Backup {name}"))?;
            Ok((name, backup))
        }
    };
    // Collected before they are run: the compiler cannot tell the lifetimes otherwise.
    let mut reads = vec![];
    for reference in restore.spec.source.backup_refs.iter().flatten() {
        reads.push(read(reference.name.clone()));
    }
    let backups = stream::iter(reads).buffered(AT_A_TIME).try_collect().await?;
    let choice = catalogue::chosen(ctx, store, &restore, request.as_ref()).await;
    Ok(Some(Facts { request, backups, choice, ..Facts::of(restore) }))
}
