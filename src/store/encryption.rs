//! Encryption of archives with age, to public keys.
//!
//! An encrypted archive is one clear line and then an age file, in which lies what would be in the
//! store otherwise. The line says to whom it is encrypted, because age's own header does not: a
//! reader without the right identity can so be told which one is missing. The line is covered by
//! no signature and nothing else depends on it.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use age::stream::StreamWriter;
use age::x25519::{Identity, Recipient};
use age::{DecryptError, Decryptor, Encryptor};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{AsyncReadExt as _, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use super::Store;
use super::archive::FORMAT;
use super::error::{Damage, StoreError};

/// The longest clear line: hundreds of recipients.
const LONGEST_LINE: usize = 64 * 1024;
/// Bytes that are decrypted at a time: one of age's chunks.
const PIECE: usize = 64 * 1024;

/// Who can read archives, and what this operator itself can read.
#[derive(Clone, Default)]
pub struct Encryption {
    recipients: Vec<Recipient>,
    identities: Vec<Identity>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("recipients", &self.names()).finish_non_exhaustive()
    }
}

/// The clear line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    encrypted: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    /// The format of what is inside.
    format: String,
    /// How it is encrypted.
    with: String,
    /// To whom: their public keys.
    recipients: Vec<String>,
}

/// The only way of encryption there is.
const WITH: &str = "age-encryption.org/v1";

/// What can go wrong between the store and an archive's bytes.
pub(super) enum Fault {
    Store(object_store::Error),
    Damage(Damage),
}

impl Fault {
    /// The error that it is, of the archive at this place.
    pub(super) fn told(self, store: &Store, location: &str) -> StoreError {
        match self {
            Self::Store(error) => StoreError::unreadable(&store.url, error),
            Self::Damage(damage) => StoreError::Archive { location: location.to_owned(), damage },
        }
    }
}

impl Encryption {
    /// Encrypts to this public key as well, `age1…`.
    ///
    /// # Errors
    /// What is no such key.
    pub fn encrypt_to(&mut self, recipient: &str) -> Result<(), StoreError> {
        let parsed = Recipient::from_str(recipient).map_err(|_| StoreError::BadKey {
            flag: "--age-recipient",
            file: recipient.chars().take(80).collect(),
            why: "it must be a public key of age, as age-keygen prints it: age1…".to_owned(),
        })?;
        self.recipients.push(parsed);
        Ok(())
    }

    /// Reads archives with the identities in this file, as `age-keygen` writes it.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn read_with(&mut self, file: &Path) -> Result<(), StoreError> {
        let bad = |why: String| StoreError::BadKey {
            flag: "--age-identity-file",
            file: file.display().to_string(),
            why,
        };
        let hint = "it must hold identities of age, AGE-SECRET-KEY-1…: age-keygen -o FILE";
        let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let mut found = 0;
        for line in lines {
            // Never the line itself in a message: it may be a secret with a typing error.
            self.identities.push(Identity::from_str(line).map_err(|_| bad(hint.to_owned()))?);
            found += 1;
        }
        if found == 0 { Err(bad(hint.to_owned())) } else { Ok(()) }
    }

    /// Whether archives are encrypted.
    pub fn is_on(&self) -> bool {
        !self.recipients.is_empty()
    }

    /// The public keys that archives are encrypted to.
    pub fn names(&self) -> Vec<String> {
        self.recipients.iter().map(Recipient::to_string).collect()
    }

    /// Whether what is written can be read back here: a backup counts only when it was.
    ///
    /// # Errors
    /// It could not be.
    pub fn can_read_back(&self) -> Result<(), StoreError> {
        let names = self.names();
        let mut own = self.identities.iter().map(|identity| identity.to_public().to_string());
        if names.is_empty() || own.any(|own| names.contains(&own)) {
            return Ok(());
        }
        Err(StoreError::BadKey {
            flag: "--age-recipient",
            file: names.join(", "),
            why: "no identity of --age-identity-file fits to any of them, so that no backup could \
                  be read back and verified"
                .to_owned(),
        })
    }

    /// Where the compressed bytes of an archive go.
    pub(super) fn sink(&self) -> io::Result<Sink> {
        if !self.is_on() {
            return Ok(Sink::Plain(vec![]));
        }
        let envelope =
            Envelope { format: FORMAT.to_owned(), with: WITH.to_owned(), recipients: self.names() };
        let mut line = serde_json::to_vec(&Line { encrypted: envelope })?;
        line.push(b'\n');
        let out = Shared(Arc::new(Mutex::new(line)));
        let recipients = self.recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        Ok(Sink::Age(Box::new(encryptor.wrap_output(out.clone())?), out))
    }

    /// A small object as it is to lie in the store.
    pub(super) fn seal(&self, text: &[u8]) -> io::Result<Bytes> {
        let mut sink = self.sink()?;
        sink.write_all(text)?;
        sink.finish().map(Bytes::from)
    }

    /// A small object, out of what lies in the store.
    pub(super) async fn unseal(&self, bytes: Bytes) -> Result<Vec<u8>, Fault> {
        // One that is not encrypted begins with `{` as the clear line does.
        if !bytes.starts_with(b"{\"encrypted\":") {
            return Ok(bytes.to_vec());
        }
        let stream = self.open(stream::iter([Ok(bytes)]).boxed()).await?;
        stream
            .try_fold(vec![], async |mut all, piece| {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
    }

    /// The compressed bytes of an archive, out of what lies in the store.
    pub(super) async fn open(
        &self,
        mut raw: BoxStream<'static, object_store::Result<Bytes>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        let mut start = BytesMut::new();
        while !start.contains(&b'\n') {
            // What is not encrypted begins with the magic number of zstd.
            if start.first().is_some_and(|byte| *byte != b'{') {
                break;
            }
            if start.len() > LONGEST_LINE {
                return Err(corrupt("its first line is too long"));
            }
            match raw.try_next().await.map_err(Fault::Store)? {
                Some(chunk) => start.extend_from_slice(&chunk),
                None => return Err(Fault::Damage(Damage::Cut)),
            }
        }
        let mut start = start.freeze();
        if start.first() != Some(&b'{') {
            let rest = raw.map_err(Fault::Store);
            return Ok(stream::iter([Ok(start)]).chain(rest).boxed());
        }
        let end = start.iter().position(|byte| *byte == b'\n').unwrap_or_default();
        let line = start.split_to(end + 1);
        let Ok(Line { encrypted }) = serde_json::from_slice(&line) else {
            return Err(corrupt("its first line cannot be read"));
        };
        if encrypted.format != FORMAT || encrypted.with != WITH {
            let format = format!("{} in {}", encrypted.format, encrypted.with);
            return Err(Fault::Damage(Damage::Format(format)));
        }
        let sealed = stream::iter([Ok(start)]).chain(raw).map_err(io::Error::other);
        let opened = Decryptor::new_async(sealed.boxed().into_async_read()).await.and_then(|d| {
            let identities = self.identities.iter().map(|i| i as &dyn age::Identity);
            d.decrypt_async(identities)
        });
        let reader = match opened {
            Ok(reader) => reader,
            Err(DecryptError::Io(error)) => return Err(fault(error)),
            Err(DecryptError::NoMatchingKeys) => {
                return Err(Fault::Damage(Damage::NoIdentity(encrypted.recipients)));
            }
            // In age's own words, these are several lines.
            Err(_) => return Err(corrupt("its age header is not the one that was written")),
        };
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            let mut piece = vec![0; PIECE];
            let length = reader.read(&mut piece).await.map_err(fault)?;
            piece.truncate(length);
            Ok((length > 0).then(|| (Bytes::from(piece), reader)))
        });
        Ok(pieces.boxed())
    }
}

fn corrupt(why: &str) -> Fault {
    Fault::Damage(Damage::Corrupt(why.to_owned()))
}

/// Through age come the errors of the store as well as its own.
fn fault(error: io::Error) -> Fault {
    if error.get_ref().is_some_and(|inner| inner.is::<object_store::Error>()) {
        let inner = error.into_inner().and_then(|inner| inner.downcast().ok());
        return inner.map_or_else(|| corrupt("it cannot be read"), |inner| Fault::Store(*inner));
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Damage(Damage::Cut),
        _ => corrupt("its encrypted bytes are not those that were written"),
    }
}

/// Where the compressed bytes of an archive go: into memory, encrypted or not.
pub(super) enum Sink {
    Plain(Vec<u8>),
    Age(Box<StreamWriter<Shared>>, Shared),
}

/// A buffer that can be emptied while age writes into it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|buffer| buffer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// Bytes that are ready to be taken.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Plain(buffer) => buffer.len(),
            Self::Age(_, out) => out.with(|buffer| buffer.len()),
        }
    }

    /// Takes the bytes that are ready.
    pub(super) fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Plain(buffer) => std::mem::take(buffer),
            Self::Age(_, out) => out.with(std::mem::take),
        }
    }

    /// Takes all the rest.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(buffer) => Ok(buffer),
            Self::Age(writer, out) => {
                writer.finish()?;
                Ok(out.with(std::mem::take))
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(buffer) => buffer.write(bytes),
            Self::Age(writer, _) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
