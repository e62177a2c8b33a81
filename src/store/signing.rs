//! Signatures: who may have written what lies in the store.
//!
//! Digests say that an archive is whole; they say nothing of who made it, for whoever can write to
//! a store can compute digests as well. The key that signs lies outside the store.

use std::fmt;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};

use super::error::{Damage, StoreError};

/// What comes before the 32 bytes of a key in a public key file: RFC 8410.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The public half of an Ed25519 key. Written as `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signature, as it stands in manifests and catalogue entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// The public key that it fits to.
    pub key: String,
    /// The signature's 64 bytes, in hexadecimal digits.
    pub value: String,
}

/// The keys of this operator, and what it takes without.
#[derive(Default)]
pub struct Keys {
    signing: Option<Ed25519KeyPair>,
    trusted: Vec<PublicKey>,
    allow_unsigned: bool,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

impl Keys {
    /// Takes the key that signs from a file: PEM, PKCS #8, as `openssl genpkey -algorithm
    /// ed25519` writes it. What it signs is trusted.
    ///
    /// # Errors
    /// A file that cannot be read or holds no such key.
    pub fn sign_with(&mut self, file: &Path) -> Result<(), StoreError> {
        let bad = |why: String| bad_key("--signing-key-file", file, why);
        let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let hint = "it must hold an Ed25519 private key: openssl genpkey -algorithm ed25519";
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| bad(hint.to_owned()))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|_| bad(hint.to_owned()))?;
        self.signing = Some(pair);
        self.trusted.extend(self.public());
        Ok(())
    }

    /// Trusts the public keys in this file, PEM, beside the one that signs.
    ///
    /// # Errors
    /// A file that cannot be read or holds no such key.
    pub fn trust(&mut self, file: &Path) -> Result<(), StoreError> {
        let bad = |why: String| bad_key("--trusted-key-file", file, why);
        let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let hint = "it must hold Ed25519 public keys: openssl pkey -in KEY -pubout";
        let mut found = 0;
        for der in SubjectPublicKeyInfoDer::pem_slice_iter(&pem) {
            let der = der.map_err(|_| bad(hint.to_owned()))?;
            let key = der.strip_prefix(&SPKI).and_then(|key| <[u8; 32]>::try_from(key).ok());
            self.trusted.push(PublicKey(key.ok_or_else(|| bad(hint.to_owned()))?));
            found += 1;
        }
        if found == 0 { Err(bad(hint.to_owned())) } else { Ok(()) }
    }

    /// Takes archives of anybody. One that is signed with a key that is trusted must fit it all
    /// the same.
    pub fn allow_unsigned(&mut self) {
        self.allow_unsigned = true;
    }

    /// Whether archives of anybody are taken: told to, or there is no key to tell by.
    pub fn takes_any(&self) -> bool {
        self.allow_unsigned || self.trusted.is_empty()
    }

    /// The public half of the key that signs.
    pub fn public(&self) -> Option<PublicKey> {
        let public = self.signing.as_ref()?.public_key().as_ref();
        public.try_into().ok().map(PublicKey)
    }

    /// Number of keys by which archives are known.
    pub fn trusted(&self) -> usize {
        self.trusted.len()
    }

    /// Signs this. None: there is no key to sign with.
    pub(super) fn sign(&self, statement: &[u8]) -> Option<Signature> {
        let pair = self.signing.as_ref()?;
        let key = self.public()?.to_string();
        Some(Signature { key, value: hex(pair.sign(statement).as_ref()) })
    }

    /// Whether this is to be taken.
    pub(super) fn check(
        &self,
        statement: &[u8],
        signature: Option<&Signature>,
    ) -> Result<(), Damage> {
        let known = |s: &&Signature| self.trusted.iter().find(|key| key.to_string() == s.key);
        let Some(signature) = signature else {
            return if self.takes_any() { Ok(()) } else { Err(Damage::Unsigned) };
        };
        let Some(key) = known(&signature) else {
            return if self.takes_any() {
                Ok(())
            } else {
                Err(Damage::UnknownKey(shortened(&signature.key)))
            };
        };
        let fits = unhex(&signature.value).is_some_and(|value| {
            UnparsedPublicKey::new(&ED25519, key.0).verify(statement, &value).is_ok()
        });
        if fits { Ok(()) } else { Err(Damage::Forged(signature.key.clone())) }
    }
}

fn bad_key(flag: &'static str, file: &Path, why: String) -> StoreError {
    StoreError::BadKey { flag, file: file.display().to_string(), why }
}

/// What a stranger wrote, for a message.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(80).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}
