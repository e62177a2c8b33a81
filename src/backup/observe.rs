//! What is read, live, before a backup is decided on.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use kube::Api;

use super::decide::Facts;
use crate::api::{Backup, Site};
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
    Ok(Some(Facts { backup, site, attempt: attempt()? }))
}

/// A word that no other attempt has.
fn attempt() -> Result<String> {
    let mut word = [0; 6];
    let drawn = SystemRandom::new().fill(&mut word);
    drawn.map_err(|_| Error::answer("draw a random number", "the system gives none"))?;
    Ok(word.iter().map(|byte| format!("{byte:02x}")).collect())
}
