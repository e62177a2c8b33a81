//! Bytes on their way to one object of the store.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, Result, WriteMultipart,
};

/// Bytes of a part of a large object: the least that S3 takes. Up to this, it is one request.
const PART: usize = 5 * 1024 * 1024;
/// Parts on their way at a time. With `PART` it bounds what one upload takes of the memory.
const PARTS: usize = 2;

/// An object that is being written. Nothing is seen of it until it is finished.
pub(super) struct Upload {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    mode: PutMode,
    out: Out,
    /// Bytes so far.
    pub size: u64,
}

enum Out {
    /// It still fits into one request.
    One(Vec<u8>),
    /// It is uploaded in parts.
    Parts(WriteMultipart),
}

impl Upload {
    pub fn new(objects: Arc<dyn ObjectStore>, path: Path, mode: PutMode) -> Self {
        Self { objects, path, mode, out: Out::One(vec![]), size: 0 }
    }

    pub async fn put(&mut self, chunk: Vec<u8>) -> Result<()> {
        self.size += chunk.len() as u64;
        match &mut self.out {
            Out::One(held) if held.len() + chunk.len() <= PART => held.extend(chunk),
            Out::One(held) => {
                let upload = self.objects.put_multipart(&self.path).await?;
                let mut parts = WriteMultipart::new_with_chunk_size(upload, PART);
                parts.put(Bytes::from(std::mem::take(held)));
                parts.put(Bytes::from(chunk));
                self.out = Out::Parts(parts);
            }
            Out::Parts(parts) => {
                parts.wait_for_capacity(PARTS).await?;
                parts.put(Bytes::from(chunk));
            }
        }
        Ok(())
    }

    /// Puts it into its place. What is there already is an error where nothing may be written over:
    /// stores cannot promise that of what goes in parts, so it is asked before.
    pub async fn finish(self) -> Result<()> {
        match self.out {
            Out::One(bytes) => put(&*self.objects, &self.path, bytes.into(), self.mode).await,
            Out::Parts(parts) => {
                if matches!(self.mode, PutMode::Create) {
                    match self.objects.head(&self.path).await {
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                        Ok(found) => {
                            // Its parts would only cost money.
                            let _ = parts.abort().await;
                            let path = found.location.to_string();
                            let source = "written by another attempt".into();
                            return Err(Error::AlreadyExists { path, source });
                        }
                    }
                }
                parts.finish().await.map(|_| ())
            }
        }
    }

    /// Gives up: removes the parts that are in the store already.
    pub async fn abort(self) -> Result<()> {
        match self.out {
            Out::One(_) => Ok(()),
            Out::Parts(parts) => parts.abort().await,
        }
    }
}

/// Writes a small object. A store that cannot tell whether there is one already just writes it.
pub(super) async fn put(
    objects: &dyn ObjectStore,
    path: &Path,
    bytes: Bytes,
    mode: PutMode,
) -> Result<()> {
    let payload = PutPayload::from(bytes);
    match objects.put_opts(path, payload.clone(), mode.into()).await {
        Err(Error::NotImplemented { .. }) => objects.put(path, payload).await.map(|_| ()),
        result => result.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_goes_in_parts_is_not_written_over() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("large");
        let upload = async |mode: PutMode, byte: u8| {
            let mut upload = Upload::new(objects.clone(), path.clone(), mode);
            for _ in 0..3 {
                upload.put(vec![byte; PART / 2]).await?;
            }
            assert!(matches!(upload.out, Out::Parts(_)));
            upload.finish().await
        };
        let there = async || objects.get(&path).await.unwrap().bytes().await.unwrap();
        upload(PutMode::Create, 1).await.unwrap();
        let error = upload(PutMode::Create, 2).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!((there().await[0], there().await.len()), (1, PART / 2 * 3), "the first one");
        upload(PutMode::Overwrite, 3).await.unwrap();
        assert_eq!(there().await[0], 3);
    }
}
