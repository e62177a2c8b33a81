//! The archive of a site's objects and the object store in which it lies.
//!
//! This room must not talk to a cluster: what goes into an archive is handed to it.
//!
//! # Layout
//! ```text
//! sites/<id>/<backup>.<uid>.<attempt>.jsonl.zst   an archive, see [`archive`]
//! sites/<id>/<backup>.<uid>.<attempt>.json        its catalogue entry, once it was read back
//! sites/<id>/….jsonl.zst.expired                  the archive is being taken away
//! policies/<name>/<uid>.json            a DeletionPolicy as it was last, see [`policies`]
//! ledger/purged/<id>/<uid>.json         what was purged for a request, see [`ledger`]
//! restores/<uid>.json                   what a Restore chose from the catalogue
//! timings/<time>.<uid>.json             how long its sites took, see [`timings`]
//! drills/runs/<drill>/<uid>/<run>.json  the evidence of a drill, see [`drills`]
//! drills/backups/<id>/<archive>.json    when the archive was drilled last
//! records/<uid>.<n>.json                what was deleted past the guard, see [`records`]
//! records/<uid>.closed                  what it tells of lives again
//! probe                                 written and read back when the store is opened
//! ```
//! `<id>` is the site's id and `<backup>` the Backup's name, encoded by [`layout`]: any id is one
//! path segment of a length that every file system takes, two ids never share one, and no id can
//! point out of the store. The UID is the Backup's own, so that a Backup that is made again under
//! an old name has a place of its own; so has each attempt at one, by a random word, and nothing is
//! written over: an upload that comes late can do no harm.

pub mod archive;
pub mod catalogue;
mod choices;
mod connect;
mod documents;
pub mod drills;
mod encryption;
mod error;
pub mod layout;
pub mod ledger;
mod options;
pub mod policies;
mod reader;
pub mod records;
mod shelf;
mod signing;
pub mod timings;
mod trouble;
mod upload;
mod writer;

#[cfg(test)]
mod encryption_tests;
#[cfg(test)]
mod signing_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

pub use archive::{Archive, Entry, Header, Identity, Manifest, RawEntry};
pub use catalogue::{CatalogueEntry, CataloguedApp, CataloguedKind, Contents, Listing};
pub use documents::Documents;
pub use drills::{DrillEvidence, DrilledBackup, DrilledSite};
pub use encryption::Encryption;
pub use error::{Damage, StoreError};
pub use ledger::Purge;
pub use options::{Options, StoreArgs};
pub use policies::StoredPolicy;
pub use reader::{ArchiveReader, Expected};
pub use records::{Record, Records};
pub use shelf::{ArchiveFile, Shelf};
pub use signing::{Keys, PublicKey, Signature};
pub use timings::{CheckedEstimate, RunTimings, SiteTiming};
pub use writer::{ArchiveWriter, Written};

/// Where a store is tried.
const PROBE: &str = "probe";

/// The object store in which the archives lie.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: String,
    keys: Arc<Keys>,
    encryption: Arc<Encryption>,
}

impl Store {
    /// Opens the store at this URL, and proves that it can be written and read.
    ///
    /// # Errors
    /// A URL that names no store, and a store that cannot be written or read back.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(Options::new(url)).await
    }

    /// Opens a store, and proves that it can be written and read.
    ///
    /// # Errors
    /// A URL that names no store, and a store that cannot be written or read back.
    pub async fn open_with(options: Options) -> Result<Self, StoreError> {
        let url = connect::parse(&options.url)?;
        let objects = connect::connect(&url, &options.settings, options.timeout)?;
        let store = Self {
            keys: Arc::new(options.keys),
            encryption: Arc::new(options.encryption),
            ..Self::over(objects, &options.url)
        };
        store.probe().await?;
        Ok(store)
    }

    /// A store over this backend; `url` is for messages alone.
    pub(crate) fn over(objects: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { objects, url: url.to_owned(), keys: Arc::default(), encryption: Arc::default() }
    }

    /// The URL that was opened.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How archives are signed, for the log: the public key, or that there is none.
    pub fn signing(&self) -> String {
        match self.keys.public() {
            Some(key) => format!("{key}, {} trusted", self.keys.trusted()),
            None => format!("none, {} trusted", self.keys.trusted()),
        }
    }

    /// What is dangerous about how this store is used, to be told at the start; none: nothing is.
    pub fn warning(&self) -> Option<&'static str> {
        self.keys.takes_any().then_some(
            "archives of anybody are read: whoever can write to the store can make a restore \
             create what he likes; --signing-key-file ends this (docs/archive-format.md)",
        )
    }

    /// To how many archives are encrypted; 0: they are not.
    pub fn recipients(&self) -> usize {
        self.encryption.names().len()
    }

    /// To whom archives are encrypted, for the log.
    pub fn encryption(&self) -> String {
        match self.encryption.names() {
            names if names.is_empty() => "none".to_owned(),
            names => names.join(", "),
        }
    }

    /// Writes a small object and reads it back.
    ///
    /// # Errors
    /// The store cannot be written, or gives back something else.
    pub async fn probe(&self) -> Result<(), StoreError> {
        const CONTENT: &[u8] = b"Reprieve can write here.\n";
        let path = Path::from(PROBE);
        let payload = PutPayload::from_static(CONTENT);
        let error = |source| StoreError::unwritable(&self.url, source);
        self.objects.put(&path, payload).await.map_err(error)?;
        let read = self.objects.get(&path).await.map_err(error)?.bytes().await.map_err(error)?;
        if read != CONTENT {
            return Err(StoreError::Unwritable {
                url: self.url.clone(),
                why: "it gave back something else than was written".to_owned(),
            });
        }
        Ok(())
    }

    /// Whether this still is the store that was opened: a folder that is gone, or not mounted, lists
    /// as one that is empty, and would be made anew by whoever writes into it.
    ///
    /// # Errors
    /// It is not, or cannot be asked.
    pub async fn is_there(&self) -> Result<(), StoreError> {
        match self.objects.head(&Path::from(PROBE)).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => Err(StoreError::Unreadable {
                url: self.url.clone(),
                why: "it is empty, without even the probe that an operator leaves there when it starts"
                    .to_owned(),
            }),
            Err(error) => Err(StoreError::unreadable(&self.url, error)),
        }
    }

    /// Begins an archive at this place. Nothing is seen there until it is finished, and what is
    /// there by then is not written over: that is an error.
    ///
    /// # Errors
    /// A place that is no path of the store.
    pub fn write(&self, location: &str, header: &Header) -> Result<ArchiveWriter, StoreError> {
        ArchiveWriter::new(self, location, header, PutMode::Create)
    }

    /// As [`Store::write`], in the place of what is there.
    ///
    /// # Errors
    /// A place that is no path of the store.
    pub fn rewrite(&self, location: &str, header: &Header) -> Result<ArchiveWriter, StoreError> {
        ArchiveWriter::new(self, location, header, PutMode::Overwrite)
    }

    /// Begins to read an archive. Its header is checked at once, every object as it is read, and
    /// counts and root digest at the end: nothing of it may be trusted before that.
    ///
    /// # Errors
    /// No such archive, another one than expected, or a store that does not answer.
    pub async fn read(
        &self,
        location: &str,
        expected: Expected,
    ) -> Result<ArchiveReader, StoreError> {
        ArchiveReader::open(self, location, expected).await
    }

    /// Begins to read the archive of a catalogue entry, as [`Store::read`] does. It must be the
    /// one that the entry speaks of in every word, and not an older one that was put in its place.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read_listed(&self, entry: &CatalogueEntry) -> Result<ArchiveReader, StoreError> {
        let expected = Expected { site: entry.site.clone(), digest: Some(entry.digest.clone()) };
        let mut reader = self.read(&entry.location, expected).await?;
        entry.check(reader.header())?;
        reader.listed = Some(entry.objects);
        Ok(reader)
    }

    /// Reads an archive to its end and keeps nothing: proves that it is whole and what it says.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn verify(&self, location: &str, expected: Expected) -> Result<Manifest, StoreError> {
        let mut reader = self.read(location, expected).await?;
        while reader.next().await?.is_some() {}
        reader.into_manifest()
    }

    /// Reads a whole archive into memory, verified to its end.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn load(&self, location: &str, expected: Expected) -> Result<Archive, StoreError> {
        let mut reader = self.read(location, expected).await?;
        let mut entries = vec![];
        while let Some(entry) = reader.next().await? {
            entries.push(entry);
        }
        let header = reader.header().clone();
        Ok(Archive { header, entries, manifest: reader.into_manifest()? })
    }
}
