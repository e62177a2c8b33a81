//! One site's part of the store as it lies there, and taking away what has expired.

use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode};

use super::catalogue::Listing;
use super::layout::ARCHIVE_SUFFIX;
use super::{Store, StoreError, layout};
use crate::api::Time;

/// How the name of a file ends that says that an archive is being taken away.
const EXPIRED: &str = ".expired";

/// One site's part of the store.
#[derive(Debug, Default)]
pub struct Shelf {
    /// What the catalogue says.
    pub listing: Listing,
    /// The archives that are there.
    pub archives: Vec<ArchiveFile>,
    /// The archives that are being taken away, by their locations.
    pub expired: Vec<String>,
}

/// An archive as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Where it lies.
    pub location: String,
    /// Size, in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Time,
}

impl ArchiveFile {
    /// What all attempts at one Backup share: its name and UID.
    pub fn backup(&self) -> Option<&str> {
        let base = self.location.strip_suffix(ARCHIVE_SUFFIX)?;
        let (backup, attempt) = base.rsplit_once('.')?;
        // Older archives have a UID and no attempt.
        (backup.contains('.') && !attempt.contains('/')).then_some(backup)
    }
}

fn expired_mark(archive: &str) -> Path {
    Path::from(format!("{archive}{EXPIRED}"))
}

impl Store {
    /// The folders of all sites.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn site_folders(&self) -> Result<Vec<String>, StoreError> {
        let sites = Path::from(layout::SITES);
        let found = self.objects.list_with_delimiter(Some(&sites)).await;
        let found = found.map_err(|error| StoreError::unreadable(&self.url, error))?;
        Ok(found.common_prefixes.into_iter().map(|path| path.to_string()).collect())
    }

    /// What lies in a site's folder.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn shelf(&self, folder: &str) -> Result<Shelf, StoreError> {
        let unreadable = |error| StoreError::unreadable(&self.url, error);
        let mut shelf = Shelf { listing: self.listing(folder).await?, ..Shelf::default() };
        let path = Path::from(folder);
        let files = self.objects.list_with_delimiter(Some(&path)).await.map_err(unreadable)?;
        for file in files.objects {
            let location = file.location.to_string();
            if let Some(archive) = location.strip_suffix(EXPIRED) {
                shelf.expired.push(archive.to_owned());
            } else if location.ends_with(ARCHIVE_SUFFIX) {
                let modified = file.last_modified.into();
                shelf.archives.push(ArchiveFile { location, size: file.size, modified });
            }
        }
        Ok(shelf)
    }

    /// Takes an archive away for ever: first out of the catalogue, so that no entry is ever without
    /// its archive. What a crash leaves is known by a mark, and taken away by the next call.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn take_away(&self, archive: &str) -> Result<(), StoreError> {
        let mark = expired_mark(archive);
        let entry = Path::from(layout::catalogue_entry(archive));
        let write = super::upload::put(&*self.objects, &mark, "{}\n".into(), PutMode::Overwrite);
        write.await.map_err(|error| StoreError::unwritable(&self.url, error))?;
        for path in [entry, Path::from(archive), mark] {
            match self.objects.delete(&path).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(StoreError::unwritable(&self.url, error)),
            }
        }
        Ok(())
    }
}
