//! Reads an archive as a stream, and verifies all of it.

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Store;
use super::archive::{Entry, FORMAT, Header, Identity, Line, Manifest, RawEntry, ReadLine};
use super::encryption::Fault;
use super::error::{Damage, StoreError};
use crate::cluster::form::{RootDigest, digest_text};

/// The longest line. etcd takes objects of a few MiB; what is longer is no archive of ours, and
/// must not be able to fill the memory.
const LONGEST_LINE: usize = 64 * 1024 * 1024;

/// What an archive must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whose.
    pub site: Identity,
    /// Its root digest, where it is known from elsewhere than the archive.
    pub digest: Option<String>,
}

/// An archive that is being read.
pub struct ArchiveReader {
    store: Store,
    location: String,
    expected: Expected,
    stream: BoxStream<'static, Result<Bytes, Fault>>,
    decoder: zstd::stream::write::Decoder<'static, Vec<u8>>,
    lines: VecDeque<Vec<u8>>,
    header: Header,
    manifest: Option<Manifest>,
    /// How many objects its catalogue entry speaks of.
    pub(super) listed: Option<u64>,
    count: u64,
    bytes: u64,
    content: Sha256,
    root: RootDigest,
}

impl ArchiveReader {
    pub(super) async fn open(
        store: &Store,
        location: &str,
        expected: Expected,
    ) -> Result<Self, StoreError> {
        let missing =
            || StoreError::Archive { location: location.to_owned(), damage: Damage::Missing };
        let path = Path::parse(location).map_err(|_| missing())?;
        let raw = match store.objects.get(&path).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => {
                // A volume that is not mounted is an empty folder: then nothing is known of it.
                store.is_there().await?;
                return Err(missing());
            }
            Err(error) => return Err(StoreError::unreadable(&store.url, error)),
        };
        let opened = store.encryption.open(raw).await;
        let stream = opened.map_err(|fault| fault.told(store, location))?;
        let decoder = zstd::stream::write::Decoder::new(Vec::new()).map_err(|error| {
            StoreError::Unreadable { url: store.url.clone(), why: error.to_string() }
        })?;
        let mut reader = Self {
            store: store.clone(),
            location: location.to_owned(),
            header: Header {
                format: String::new(),
                backup: String::new(),
                site: expected.site.clone(),
                time: chrono::DateTime::UNIX_EPOCH.into(),
                resource_version: None,
            },
            expected,
            stream,
            decoder,
            lines: VecDeque::new(),
            manifest: None,
            listed: None,
            count: 0,
            bytes: 0,
            content: Sha256::new(),
            root: RootDigest::default(),
        };
        let line = reader.line().await?.ok_or_else(|| reader.damage(Damage::Cut))?;
        reader.header = reader.read_header(&line)?;
        Ok(reader)
    }

    /// The archive's first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn damage(&self, damage: Damage) -> StoreError {
        StoreError::Archive { location: self.location.clone(), damage }
    }

    fn corrupt(&self, why: impl ToString) -> StoreError {
        self.damage(Damage::Corrupt(why.to_string()))
    }

    /// The next line. None at the end of the archive.
    async fn line(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            let next = self.stream.try_next().await;
            match next.map_err(|fault| fault.told(&self.store, &self.location))? {
                Some(chunk) => {
                    // By small pieces: a few bytes can unpack to very many.
                    for piece in chunk.chunks(16 * 1024) {
                        let written = self.decoder.write_all(piece);
                        written.and_then(|()| self.decoder.flush()).map_err(|e| self.corrupt(e))?;
                        self.split()?;
                    }
                }
                None => {
                    let rest = !self.decoder.get_ref().is_empty();
                    if rest || self.decoder.do_finish().is_err() {
                        return Err(self.damage(Damage::Cut));
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Moves whole lines out of what was unpacked.
    fn split(&mut self) -> Result<(), StoreError> {
        let unpacked = self.decoder.get_mut();
        let Some(last) = unpacked.iter().rposition(|byte| *byte == b'\n') else {
            if unpacked.len() > LONGEST_LINE {
                return Err(self.corrupt("a line is longer than any object can be"));
            }
            return Ok(());
        };
        let rest = unpacked.split_off(last + 1);
        let whole = std::mem::replace(unpacked, rest);
        self.lines.extend(whole.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        Ok(())
    }

    fn take_in(&mut self, line: &[u8]) {
        self.content.update(line);
        self.bytes += line.len() as u64;
    }

    fn read_header(&mut self, line: &[u8]) -> Result<Header, StoreError> {
        let value: Value = serde_json::from_slice(line).map_err(|e| self.corrupt(e))?;
        // The format first: of another one, nothing else can be said.
        let Some(format) = value["header"]["format"].as_str() else {
            return Err(self.corrupt("it does not begin with a header"));
        };
        if format != FORMAT {
            return Err(self.damage(Damage::Format(format.to_owned())));
        }
        let Ok(Line::Header(header)) = serde_json::from_value(value) else {
            return Err(self.corrupt("its header cannot be read"));
        };
        if header.site != self.expected.site {
            return Err(self.damage(Damage::ForeignSite {
                expected: Box::new(self.expected.site.clone()),
                found: Box::new(header.site.clone()),
            }));
        }
        self.take_in(line);
        Ok(header.into_owned())
    }

    /// The next object, which matches its digest. None once the manifest was read and everything
    /// matches it.
    ///
    /// # Errors
    /// Everything that is wrong with the archive.
    pub async fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        let Some(raw) = self.next_raw().await? else { return Ok(None) };
        let object = raw.object();
        let RawEntry { key, digest, state, owners, .. } = raw;
        let owners = owners.map(|owners| serde_json::from_str(owners.get())).transpose();
        let owners = owners.map_err(|error| self.corrupt(error))?;
        Ok(Some(Entry { key, digest, state, object, owners }))
    }

    /// As [`ArchiveReader::next`], with the object's bytes as they lie in the archive.
    ///
    /// # Errors
    /// As [`ArchiveReader::next`].
    pub async fn next_raw(&mut self) -> Result<Option<RawEntry>, StoreError> {
        if self.manifest.is_some() {
            return Ok(None);
        }
        let line = self.line().await?.ok_or_else(|| self.damage(Damage::Cut))?;
        match serde_json::from_slice::<ReadLine>(&line).map_err(|e| self.corrupt(e))? {
            ReadLine::Header(_) => Err(self.corrupt("it has two headers")),
            ReadLine::Object(entry) => {
                if !entry.is_whole() {
                    return Err(self.damage(Damage::Object(entry.key.to_string())));
                }
                self.take_in(&line);
                self.root.add(&entry.key, &entry.digest);
                self.count += 1;
                Ok(Some(entry))
            }
            ReadLine::Manifest(manifest) => {
                if self.line().await?.is_some() {
                    return Err(self.damage(Damage::Trailing));
                }
                self.check(&manifest)?;
                self.manifest = Some(manifest);
                Ok(None)
            }
        }
    }

    fn check(&mut self, manifest: &Manifest) -> Result<(), StoreError> {
        if manifest.count != self.count {
            return Err(self.damage(Damage::Count { expected: manifest.count, found: self.count }));
        }
        if manifest.root_digest != std::mem::take(&mut self.root).finish() {
            return Err(self.damage(Damage::Digest("objects")));
        }
        let content = digest_text(std::mem::take(&mut self.content));
        if manifest.content_digest != content || manifest.bytes != self.bytes {
            return Err(self.damage(Damage::Digest("bytes")));
        }
        if let Some(listed) = self.listed.filter(|listed| *listed != self.count) {
            return Err(self.damage(Damage::Unlisted {
                what: "number of objects",
                expected: listed.to_string(),
                found: self.count.to_string(),
            }));
        }
        let statement = manifest.statement(&self.header);
        let signed = self.store.keys.check(&statement, manifest.signature.as_ref());
        signed.map_err(|damage| self.damage(damage))?;
        match &self.expected.digest {
            Some(expected) if *expected != manifest.root_digest => {
                Err(self.damage(Damage::Other {
                    expected: expected.clone(),
                    found: manifest.root_digest.clone(),
                }))
            }
            _ => Ok(()),
        }
    }

    /// The archive's last line, once [`ArchiveReader::next`] has come to the end.
    ///
    /// # Errors
    /// The end was not reached: nothing is proved.
    pub fn into_manifest(self) -> Result<Manifest, StoreError> {
        let location = self.location;
        self.manifest.ok_or(StoreError::Archive { location, damage: Damage::Cut })
    }
}
