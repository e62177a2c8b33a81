//! The archive format: what is in one, line by line.
//!
//! An archive is one zstd frame (with its checksum) of JSON lines:
//! ```text
//! {"header":{"format":"reprieve.dev/archive/v1","backup":…,"site":{"name","uid","id"},"time":…}}
//! {"object":{"key":"Deployment.apps/acme/web","digest":"sha256:…","state":"Ready","object":{…},"owners":[…]}}
//! …
//! {"manifest":{"count":…,"bytes":…,"contentDigest":"sha256:…","rootDigest":"sha256:…","signature":{…}}}
//! ```
//! `object` is the object in its archived form, as Kubernetes' own JSON. `rootDigest` is over the
//! sorted keys and digests, so that equal content has an equal one; `contentDigest` is over every
//! byte before the manifest, so that nothing in an archive is covered by no digest. The signature
//! is over both and the header. Readers skip fields that they do not know: what is added later
//! needs no new version. Objects stand in the order in which a restore creates them, but for what
//! older versions wrote. The whole format is in `docs/archive-format.md`.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::signing::Signature;
use crate::api::Time;
use crate::cluster::collect::ObjectState;
use crate::cluster::form::{ObjectKey, digest_of, object_digest};

/// The format that this version writes, and the only one that it reads.
pub const FORMAT: &str = "reprieve.dev/archive/v1";

/// Whose archive it is. An archive is only ever used for the site that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Name of the Site.
    pub name: String,
    /// UID of the Site.
    pub uid: String,
    /// The platform's id of the Site.
    pub id: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the site {} (id {}, UID {})", self.name, self.id, self.uid)
    }
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The format: [`FORMAT`].
    pub format: String,
    /// Name of the Backup.
    pub backup: String,
    /// Whose archive it is.
    pub site: Identity,
    /// When the objects were listed.
    pub time: Time,
    /// The resourceVersion of the Site, which was read before everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Which object.
    pub key: ObjectKey,
    /// Digest of the object.
    pub digest: String,
    /// How it stood when it was listed.
    pub state: ObjectState,
    /// The object in its archived form.
    pub object: Value,
    /// Who owns which field: the object's `managedFields` without those of its status and without
    /// times. None: nobody has applied it server-side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners: Option<Vec<Value>>,
}

/// One object, with its bytes as they lie in the archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawEntry {
    /// Which object.
    pub key: ObjectKey,
    /// Digest of the object.
    pub digest: String,
    /// How it stood when it was listed.
    pub state: ObjectState,
    /// Its field owners, as entries of `managedFields`.
    #[serde(default)]
    pub owners: Option<Box<RawValue>>,
    /// The object in its archived form.
    pub object: Box<RawValue>,
}

impl RawEntry {
    /// Whether the object is the one of its key and its digest.
    pub(super) fn is_whole(&self) -> bool {
        let text = self.object.get();
        let key = serde_json::from_str::<Head>(text).ok().map(Head::key);
        if key.as_ref() != Some(&self.key) {
            return false;
        }
        // The digest is over compact JSON with sorted keys, which is how this writer writes it.
        digest_of(text.as_bytes()) == self.digest
            || serde_json::from_str::<Value>(text)
                .is_ok_and(|object| object_digest(&object) == self.digest)
    }

    /// The object.
    pub fn object(&self) -> Value {
        serde_json::from_str(self.object.get()).unwrap_or_default()
    }

    /// The object's API version.
    pub fn api_version(&self) -> String {
        serde_json::from_str::<Head>(self.object.get()).map(|h| h.api_version).unwrap_or_default()
    }
}

impl From<&Entry> for RawEntry {
    fn from(entry: &Entry) -> Self {
        let text = serde_json::to_string(entry).expect("an entry is plain data");
        serde_json::from_str(&text).expect("what was just written")
    }
}

/// As much of an object as says which one it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
struct HeadMetadata {
    name: String,
    namespace: Option<String>,
}

impl Head {
    fn key(self) -> ObjectKey {
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group);
        ObjectKey {
            group: group.to_owned(),
            kind: self.kind,
            namespace: self.metadata.namespace.filter(|name| !name.is_empty()),
            name: self.metadata.name,
        }
    }
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Number of objects.
    pub count: u64,
    /// Bytes before this line, uncompressed.
    pub bytes: u64,
    /// Digest over the bytes before this line.
    pub content_digest: String,
    /// Digest over the sorted keys and digests of the objects.
    pub root_digest: String,
    /// Who wrote it. None: it was written without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl Manifest {
    /// What is signed: whose archive it is, and all that is in it. A list, in which nothing can be
    /// taken for something else and there is no order of keys to agree on.
    pub(super) fn statement(&self, header: &Header) -> Vec<u8> {
        // What is not named here is among the bytes of the content digest.
        let Header { format, backup, site: Identity { name, uid, id }, time, .. } = header;
        let Self { count, bytes, content_digest, root_digest, signature: _ } = self;
        let statement = serde_json::json!([
            "reprieve.dev/archive-signature/v1",
            format,
            [name, uid, id],
            backup,
            time,
            count,
            bytes,
            content_digest,
            root_digest,
        ]);
        statement.to_string().into_bytes()
    }
}

/// A line, as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line<'a> {
    Header(Cow<'a, Header>),
    Object(Cow<'a, Entry>),
    Manifest(Cow<'a, Manifest>),
}

/// A line, as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReadLine {
    Header(serde::de::IgnoredAny),
    Object(RawEntry),
    Manifest(Manifest),
}

/// A whole archive that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Archive {
    /// The first line.
    pub header: Header,
    /// The objects, in the order of the archive.
    pub entries: Vec<Entry>,
    /// The last line.
    pub manifest: Manifest,
}
