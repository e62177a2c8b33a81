//! Writes an archive as a stream.

use std::borrow::Cow;
use std::io::Write as _;

use object_store::PutMode;
use object_store::path::Path;
use sha2::{Digest as _, Sha256};

use super::Store;
use super::archive::{Entry, Header, Line, Manifest};
use super::encryption::Sink;
use super::error::StoreError;
use super::upload::Upload;
use crate::cluster::form::{RootDigest, digest_text};

/// zstd's own default: small objects gain little from more.
const LEVEL: i32 = 3;
/// Compressed bytes that are handed on at a time.
const CHUNK: usize = 256 * 1024;
/// An archive that is being written. It is not in the store until it is finished; dropping it
/// before leaves nothing that could be taken for an archive.
pub struct ArchiveWriter {
    store: Store,
    location: String,
    header: Header,
    encoder: zstd::stream::write::Encoder<'static, Sink>,
    upload: Upload,
    count: u64,
    bytes: u64,
    content: Sha256,
    root: RootDigest,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the archive lies.
    pub location: String,
    /// Size in the store, in bytes.
    pub size: u64,
    /// The archive's last line.
    pub manifest: Manifest,
}

impl ArchiveWriter {
    pub(super) fn new(
        store: &Store,
        location: &str,
        header: &Header,
        mode: PutMode,
    ) -> Result<Self, StoreError> {
        let unwritable = |why: String| StoreError::Unwritable { url: store.url.clone(), why };
        let path = Path::parse(location).map_err(|error| unwritable(error.to_string()))?;
        let mut encoder = store
            .encryption
            .sink()
            .and_then(|sink| zstd::stream::write::Encoder::new(sink, LEVEL))
            .map_err(|error| unwritable(error.to_string()))?;
        encoder.include_checksum(true).map_err(|error| unwritable(error.to_string()))?;
        let mut writer = Self {
            store: store.clone(),
            header: header.clone(),
            location: location.to_owned(),
            encoder,
            upload: Upload::new(store.objects.clone(), path, mode),
            count: 0,
            bytes: 0,
            content: Sha256::new(),
            root: RootDigest::default(),
        };
        writer.line(&Line::Header(Cow::Borrowed(header)))?;
        Ok(writer)
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), StoreError> {
        let mut text = serde_json::to_vec(line).expect("a line is plain data");
        text.push(b'\n');
        self.content.update(&text);
        self.bytes += text.len() as u64;
        // Into memory: it cannot fail but by exhausting it.
        self.encoder.write_all(&text).map_err(|error| StoreError::Unwritable {
            url: self.store.url.clone(),
            why: error.to_string(),
        })
    }

    /// Adds an object.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn add(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.line(&Line::Object(Cow::Borrowed(entry)))?;
        self.root.add(&entry.key, &entry.digest);
        self.count += 1;
        if self.encoder.get_ref().len() >= CHUNK {
            let chunk = self.encoder.get_mut().take();
            let put = self.upload.put(chunk).await;
            put.map_err(|error| StoreError::unwritable(&self.store.url, error))?;
        }
        Ok(())
    }

    /// Writes the manifest and puts the archive into the store.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn finish(mut self) -> Result<Written, StoreError> {
        let mut manifest = Manifest {
            count: self.count,
            bytes: self.bytes,
            content_digest: digest_text(std::mem::take(&mut self.content)),
            root_digest: std::mem::take(&mut self.root).finish(),
            signature: None,
        };
        manifest.signature = self.store.keys.sign(&manifest.statement(&self.header));
        self.line(&Line::Manifest(Cow::Borrowed(&manifest)))?;
        let url = &self.store.url;
        let rest = self.encoder.finish().and_then(Sink::finish);
        let rest = rest
            .map_err(|error| StoreError::Unwritable { url: url.clone(), why: error.to_string() })?;
        let unwritable = |error| StoreError::unwritable(url, error);
        self.upload.put(rest).await.map_err(unwritable)?;
        let size = self.upload.size;
        self.upload.finish().await.map_err(unwritable)?;
        Ok(Written { location: self.location, size, manifest })
    }

    /// Gives up: removes the parts that a large archive has in the store already.
    pub async fn abort(self) {
        if let Err(error) = self.upload.abort().await {
            let location = self.location;
            tracing::debug!(location, %error, "cannot remove a part of an archive");
        }
    }
}
