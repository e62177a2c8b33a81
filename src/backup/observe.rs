//! What is read, live, before a backup is decided on.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::decide::Facts;
use crate::api::{Backup, Site, names};
use crate::cluster::{Context, During, Error, Result};

/// Reads the Backup and its Site. None: the Backup is gone.
///
/// # Errors
/// What the API server said.
pub async fn observe(ctx: &Context, name: &str) -> Result<Option<Facts>> {
    let backups: Api<Backup> = Api::all(ctx.client.clone());
    let doing = format!("read the Backup {name}");
    let Some(backup) = backups.get_opt(name).await.during(doing)? else {
        return Ok(None);
    };
    let sites: Api<Site> = Api::all(ctx.client.clone());
    let site = &backup.spec.site_ref.name;
    let site = sites.get_opt(site).await.during(format!("read the Site {site}"))?;
    let follows = match site.as_ref().is_some_and(|site| !site.hooks().before_backup.is_empty()) {
        true => follows(&backups, &backup).await?,
        false => false,
    };
    Ok(Some(Facts { backup, site, follows, attempt: attempt()? }))
}

/// Whether another Backup of this Site was made for the same DeletionRequest before this one.
async fn follows(backups: &Api<Backup>, backup: &Backup) -> Result<bool> {
    let Some(request) = backup.labels().get(names::LABEL_REQUEST_UID) else { return Ok(false) };
    let ours = ListParams::default().labels(&format!("{}={request}", names::LABEL_REQUEST_UID));
    let all = backups.list(&ours).await.during("list the Backups of a DeletionRequest")?;
    let site = |of: &Backup| of.spec.site_ref.uid.clone();
    let made = |of: &Backup| (of.creation_timestamp(), of.name_any());
    Ok(all.iter().any(|other| site(other) == site(backup) && made(other) < made(backup)))
}

/// A word that no other attempt has.
fn attempt() -> Result<String> {
    let mut word = [0; 6];
    let drawn = SystemRandom::new().fill(&mut word);
    drawn.map_err(|_| Error::answer("draw a random number", "the system gives none"))?;
    Ok(word.iter().map(|byte| format!("{byte:02x}")).collect())
}
