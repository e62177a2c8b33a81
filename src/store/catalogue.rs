//! The catalogue: a small entry beside each archive, so that the store alone is enough to say
//! which backups of which sites there are.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::archive::{Header, Identity};
use super::{Damage, Signature, Store, StoreError, layout};
use crate::api::{BackupPurpose, ChangedObjects, ReadVersions, Time};

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
    /// At which resourceVersions of the core API the site was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_versions: Option<ReadVersions>,
    /// What changed while it was read. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_objects: Option<ChangedObjects>,
    /// Until when it is kept at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until_time: Option<Time>,
    /// What must be known of it without reading it. Absent: an older operator made the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<Contents>,
}

/// What is in an archive, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// The Apps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<CataloguedApp>,
    /// The kinds of the objects, the core ones left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<CataloguedKind>,
}

/// An App in an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CataloguedApp {
    /// The platform's id.
    pub id: String,
    /// Namespace of the App.
    pub namespace: String,
    /// Name of the App.
    pub name: String,
}

/// A kind of which an archive has objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CataloguedKind {
    /// API group and version. Example: `cert-manager.io/v1`.
    pub api_version: String,
    /// Kind. Example: `Certificate`.
    pub kind: String,
    /// The CustomResourceDefinition that would serve it. Example: `certificates.cert-manager.io`.
    pub crd: String,
}

/// Entries that are read at the same time.
const READING: usize = 32;

/// What a look at the catalogue gives.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups, oldest first.
    pub entries: Vec<CatalogueEntry>,
    /// Why each of the other entries is not among them.
    pub refused: Vec<StoreError>,
}

impl CatalogueEntry {
    /// What is signed: all of it, in canonical JSON.
    fn statement(entry: &Value) -> Vec<u8> {
        format!("reprieve.dev/catalogue-signature/v1\n{entry}").into_bytes()
    }

    /// Whether this is the first line of the archive that the entry speaks of.
    pub(super) fn check(&self, header: &Header) -> Result<(), StoreError> {
        let rows = [
            ("Backup", self.backup.clone(), header.backup.clone()),
            ("time", self.time.to_string(), header.time.to_string()),
        ];
        let differs = rows.into_iter().find(|(_, expected, found)| expected != found);
        differs.map_or(Ok(()), |(what, expected, found)| {
            let damage = Damage::Unlisted { what, expected, found };
            Err(StoreError::Archive { location: self.location.clone(), damage })
        })
    }
}

impl Store {
    /// Puts an archive into the catalogue. To be called once it was read back. An entry is never
    /// written over: another one in its place is an error.
    ///
    /// # Errors
    /// A store that cannot be written or read.
    pub async fn enter(&self, entry: &CatalogueEntry) -> Result<(), StoreError> {
        let path = Path::from(layout::catalogue_entry(&entry.location));
        let mut value = serde_json::to_value(entry).expect("an entry is plain data");
        if let Some(signature) = self.keys.sign(&CatalogueEntry::statement(&value)) {
            value["signature"] = json!(signature);
        }
        let text = Bytes::from(format!("{value:#}\n"));
        self.create(&path, text.clone()).await?;
        // It may have been there: from this call, whose answer was lost, or from another one.
        if self.get(&path).await?.is_some_and(|there| there == text) {
            return Ok(());
        }
        let why = format!("{path} holds another catalogue entry than was written");
        Err(StoreError::Unwritable { url: self.url.clone(), why })
    }

    /// The backups of the site with this id, oldest first. Entries that cannot be read are told
    /// in the log and left out: their archives are still there.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn backups_of(&self, site_id: &str) -> Result<Vec<CatalogueEntry>, StoreError> {
        let found = self.listing(&layout::site_folder(site_id)).await?.told();
        Ok(found.into_iter().filter(|entry| entry.site.id == site_id).collect())
    }

    /// What the catalogue has of the site with this id, and what of it cannot be taken and why.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn listing_of(&self, site_id: &str) -> Result<Listing, StoreError> {
        let mut found = self.listing(&layout::site_folder(site_id)).await?;
        found.entries.retain(|entry| entry.site.id == site_id);
        Ok(found)
    }

    /// Every backup of every site, oldest first. Entries that cannot be read are told in the log
    /// and left out.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn all_backups(&self) -> Result<Vec<CatalogueEntry>, StoreError> {
        Ok(self.catalogue().await?.told())
    }

    /// The whole catalogue, and what of it cannot be taken and why.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn catalogue(&self) -> Result<Listing, StoreError> {
        self.listing(layout::SITES).await
    }

    pub(super) async fn listing(&self, folder: &str) -> Result<Listing, StoreError> {
        let unreadable = |error| StoreError::unreadable(&self.url, error);
        let mut found = Listing::default();
        let files = self.objects.list(Some(&Path::from(folder)));
        let mut entries = files
            .map_err(unreadable)
            .map_ok(|file| self.entry_at(file.location))
            .try_buffer_unordered(READING);
        while let Some(read) = entries.try_next().await? {
            match read {
                Some(Ok(entry)) => found.entries.push(entry),
                Some(Err(error)) => found.refused.push(error),
                None => {}
            }
        }
        if found.entries.is_empty() && found.refused.is_empty() {
            self.is_there().await?;
        }
        found.refused.sort_by_cached_key(ToString::to_string);
        found.entries.sort_by(|a, b| (a.time, &a.location).cmp(&(b.time, &b.location)));
        Ok(found)
    }

    /// The entry at this place. None: it is no entry, or gone since it was listed.
    async fn entry_at(
        &self,
        path: Path,
    ) -> Result<Option<Result<CatalogueEntry, StoreError>>, StoreError> {
        let location = path.as_ref();
        if !location.ends_with(".json") {
            return Ok(None);
        }
        let Some(bytes) = self.get(&path).await? else { return Ok(None) };
        let bad = |damage| StoreError::Entry { location: location.to_owned(), damage };
        Ok(Some(self.entry(location, &bytes).map_err(bad)))
    }

    /// The catalogue entry of the archive at this place. None: there is none.
    ///
    /// # Errors
    /// A store that cannot be read, and an entry that cannot be taken.
    pub async fn entry_of(&self, archive: &str) -> Result<Option<CatalogueEntry>, StoreError> {
        let path = Path::from(layout::catalogue_entry(archive));
        self.entry_at(path).await?.transpose()
    }

    /// The entry in these bytes, which lie at this place.
    pub(super) fn entry(&self, location: &str, bytes: &[u8]) -> Result<CatalogueEntry, Damage> {
        let corrupt = |error: serde_json::Error| Damage::Corrupt(error.to_string());
        let mut value: Value = serde_json::from_slice(bytes).map_err(corrupt)?;
        let format = value["format"].as_str().unwrap_or_default();
        if format != FORMAT {
            return Err(Damage::UnknownEntry(format.to_owned()));
        }
        let signature = value.as_object_mut().and_then(|fields| fields.remove("signature"));
        let signature: Option<Signature> =
            signature.map(serde_json::from_value).transpose().map_err(corrupt)?;
        self.keys.check(&CatalogueEntry::statement(&value), signature.as_ref())?;
        let entry: CatalogueEntry = serde_json::from_value(value).map_err(corrupt)?;
        // One that was copied from elsewhere, signature and all.
        let folder = format!("{}/", layout::site_folder(&entry.site.id));
        let of = layout::catalogue_entry(&entry.location);
        if of != location || !entry.location.starts_with(&folder) {
            return Err(Damage::Misplaced(entry.location));
        }
        Ok(entry)
    }
}

impl Listing {
    /// The backups; the rest goes to the log.
    fn told(self) -> Vec<CatalogueEntry> {
        for error in &self.refused {
            tracing::warn!("left out: {error}");
        }
        self.entries
    }
}
