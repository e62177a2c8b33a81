//! The catalogue: a small entry beside each archive, so that the store alone is enough to say
//! which backups of which sites there are.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::archive::Identity;
use super::{Store, StoreError, layout};
use crate::api::{BackupPurpose, Time};

/// The format of an entry.
pub const FORMAT: &str = "reprieve.dev/catalogue/v1";

/// A backup that was read back, as the store alone knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueEntry {
    /// The format: [`FORMAT`].
    pub format: String,
    /// Name of the Backup.
    pub backup: String,
    /// Whose backup it is.
    pub site: Identity,
    /// Why it was made.
    pub purpose: BackupPurpose,
    /// When the objects were listed.
    pub time: Time,
    /// Where the archive lies.
    pub location: String,
    /// The root digest over its objects.
    pub digest: String,
    /// Number of objects.
    pub objects: u64,
    /// Size of the archive, in bytes.
    pub bytes: u64,
    /// Until when it is kept at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until_time: Option<Time>,
}

impl Store {
    /// Puts an archive into the catalogue. To be called once it was read back.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn enter(&self, entry: &CatalogueEntry) -> Result<(), StoreError> {
        let path = Path::from(layout::catalogue_entry(&entry.location));
        let mut text = serde_json::to_string_pretty(entry).expect("an entry is plain data");
        text.push('\n');
        self.objects
            .put(&path, PutPayload::from(text))
            .await
            .map(|_| ())
            .map_err(|error| StoreError::unwritable(&self.url, error))
    }

    /// The backups of the site with this id, oldest first. Entries that cannot be read are told
    /// in the log and left out: their archives are still there.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn backups_of(&self, site_id: &str) -> Result<Vec<CatalogueEntry>, StoreError> {
        let found = self.entries(&layout::site_folder(site_id)).await?;
        Ok(found.into_iter().filter(|entry| entry.site.id == site_id).collect())
    }

    /// Every backup of every site, oldest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn all_backups(&self) -> Result<Vec<CatalogueEntry>, StoreError> {
        self.entries("sites").await
    }

    async fn entries(&self, folder: &str) -> Result<Vec<CatalogueEntry>, StoreError> {
        let unreadable = |error| StoreError::unreadable(&self.url, error);
        let mut found = vec![];
        let mut files = self.objects.list(Some(&Path::from(folder)));
        while let Some(file) = files.try_next().await.map_err(unreadable)? {
            if !file.location.as_ref().ends_with(".json") {
                continue;
            }
            let bytes = match self.objects.get(&file.location).await {
                Ok(result) => result.bytes().await.map_err(unreadable)?,
                // Gone since it was listed.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(unreadable(error)),
            };
            match serde_json::from_slice::<CatalogueEntry>(&bytes) {
                Ok(entry) if entry.format == FORMAT => found.push(entry),
                Ok(entry) => {
                    tracing::warn!(file = %file.location, format = entry.format, "unknown format");
                }
                Err(error) => tracing::warn!(file = %file.location, %error, "unreadable entry"),
            }
        }
        found.sort_by(|a, b| (a.time, &a.location).cmp(&(b.time, &b.location)));
        Ok(found)
    }
}
