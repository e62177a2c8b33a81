//! Records of Sites and Apps that were deleted past the guard: what they are created anew from
//! when their finalizer has let them go. Written once and never over, each read back at once.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::encryption::Fault;
use super::{Signature, Store, StoreError, layout};
use crate::api::{NamespaceRef, TargetKind, Time};
use crate::cluster::form::digest_of;

/// The format of a record.
pub const FORMAT: &str = "reprieve.dev/record/v1";

/// A Site or an App as it was when its finalizer let it go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The format: [`FORMAT`].
    pub format: String,
    /// What it is.
    pub kind: TargetKind,
    /// Namespace; none for a Site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// UID of the entity that was deleted.
    pub uid: String,
    /// Counts the records of this UID, from 1: an entity can be changed while it is held. The
    /// newest counts.
    pub number: u32,
    /// When it was recorded.
    pub time: Time,
    /// The namespaces of a Site, or that of an App, as they were.
    pub namespaces: Vec<NamespaceRef>,
    /// The object in its archived form.
    pub object: Value,
    /// What of its status is to be put back.
    pub status: Value,
    /// Who owned which field, for server-side apply.
    #[serde(default)]
    pub managed_fields: Vec<Value>,
}

impl Record {
    /// Whether the other one says the same of the same entity.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let content = |r: &Self| (r.uid.clone(), r.object.clone(), r.status.clone());
        content(self) == content(other) && self.namespaces == other.namespaces
    }

    /// The record as text, with a digest over it: one line of JSON.
    pub fn seal(&self) -> String {
        let record = json!(self);
        json!({ "digest": digest_of(record.to_string().as_bytes()), "record": record }).to_string()
    }

    /// The record of a sealed text.
    ///
    /// # Errors
    /// In words: not a record, or not as it was sealed.
    pub fn unseal(text: &[u8]) -> Result<Self, String> {
        let sealed: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if sealed["digest"] != digest_of(sealed["record"].to_string().as_bytes()) {
            return Err("its digest does not match".to_owned());
        }
        let record: Self =
            serde_json::from_value(sealed["record"].clone()).map_err(|error| error.to_string())?;
        if record.format == FORMAT {
            Ok(record)
        } else {
            Err(format!("its format is {:?}, this version reads {FORMAT:?}", record.format))
        }
    }
}

/// What is signed.
fn statement(record: &Value) -> Vec<u8> {
    format!("reprieve.dev/record-signature/v1\n{record}").into_bytes()
}

/// What is signed to close the records of a UID.
fn closed_statement(uid: &str) -> Vec<u8> {
    format!("reprieve.dev/record-closed-signature/v1\n{uid}").into_bytes()
}

/// What the store holds of records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// The newest record of each UID that is not closed.
    pub open: Vec<Record>,
    /// The UIDs whose records are closed.
    pub closed: Vec<String>,
}

impl Store {
    /// Writes a record, if it is not there yet, and reads it back.
    ///
    /// # Errors
    /// A store that cannot be written or read, and another record under its number: then the
    /// records have to be read again.
    pub async fn put_record(&self, record: &Record) -> Result<(), StoreError> {
        let path = Path::from(layout::record(&record.uid, record.number));
        self.create(&path, self.seal(record)?).await?;
        let there = match self.get(&path).await? {
            Some(bytes) => self.unseal(bytes).await?.ok(),
            None => None,
        };
        if there.as_ref() == Some(record) {
            return Ok(());
        }
        Err(StoreError::Unwritable {
            url: self.url.clone(),
            why: format!("{path} holds another record than was written"),
        })
    }

    /// A record as it lies in the store: one line of JSON, with a digest over it, and signed and
    /// encrypted as archives are.
    fn seal(&self, record: &Record) -> Result<Bytes, StoreError> {
        let mut sealed: Value = serde_json::from_str(&record.seal()).expect("it is JSON");
        if let Some(signature) = self.keys.sign(&statement(&sealed["record"])) {
            sealed["signature"] = json!(signature);
        }
        let text = sealed.to_string();
        self.encryption.seal(text.as_bytes()).map_err(|error| StoreError::Unwritable {
            url: self.url.clone(),
            why: error.to_string(),
        })
    }

    /// The record in these bytes; or, in words, why there is none: not a record, not as it was
    /// sealed, signed by nobody who is trusted, or encrypted to others.
    async fn unseal(&self, bytes: Bytes) -> Result<Result<Record, String>, StoreError> {
        let text = match self.encryption.unseal(bytes).await {
            Ok(text) => text,
            Err(Fault::Store(error)) => return Err(StoreError::unreadable(&self.url, error)),
            Err(Fault::Damage(damage)) => return Ok(Err(format!("it {damage}"))),
        };
        Ok(self.record_in(&text))
    }

    fn record_in(&self, text: &[u8]) -> Result<Record, String> {
        let words = |error: serde_json::Error| error.to_string();
        let sealed: Value = serde_json::from_slice(text).map_err(words)?;
        let signature: Option<Signature> =
            serde_json::from_value(sealed["signature"].clone()).map_err(words)?;
        let signed = self.keys.check(&statement(&sealed["record"]), signature.as_ref());
        signed.map_err(|damage| format!("it {damage}"))?;
        Record::unseal(text)
    }

    /// Closes the records of this UID: what they tell of lives again.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn close_record(&self, uid: &str) -> Result<(), StoreError> {
        let mut closed = json!({ "uid": uid });
        if let Some(signature) = self.keys.sign(&closed_statement(uid)) {
            closed["signature"] = json!(signature);
        }
        let bytes = Bytes::from(format!("{closed}\n"));
        self.create(&Path::from(layout::record_closed(uid)), bytes).await
    }

    /// Whether the file with this name, but for its ending, closes the records of a UID: who can only
    /// write to the store must not be able to make them forgotten.
    async fn closes(&self, path: &Path, segment: &str) -> Result<bool, StoreError> {
        let Some(bytes) = self.get(path).await? else { return Ok(false) };
        let words = || -> Result<(), String> {
            let closed: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            let signature: Option<Signature> =
                serde_json::from_value(closed["signature"].clone()).map_err(|e| e.to_string())?;
            // Those of before they were signed name no UID.
            let uid = closed["uid"].as_str().unwrap_or(segment);
            if layout::segment(uid) != segment {
                return Err(format!("it closes the records of {uid}"));
            }
            let signed = self.keys.check(&closed_statement(uid), signature.as_ref());
            signed.map_err(|damage| format!("it {damage}"))
        };
        match words() {
            Ok(()) => Ok(true),
            Err(why) => {
                tracing::error!(file = %path, why, "records are not closed by this file");
                Ok(false)
            }
        }
    }

    /// Every open record, and which are closed. A damaged one is told in the log and left out: the
    /// namespaces of a Site have a second copy.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn records(&self) -> Result<Records, StoreError> {
        let unreadable = |error| StoreError::unreadable(&self.url, error);
        let folder = Path::from(layout::RECORDS);
        let files: Vec<_> =
            self.objects.list(Some(&folder)).try_collect().await.map_err(unreadable)?;
        let closed_name =
            |path: &Path| path.filename()?.strip_suffix(layout::CLOSED_SUFFIX).map(str::to_owned);
        let mut closed: Vec<String> = vec![];
        for file in &files {
            if let Some(segment) = closed_name(&file.location)
                && self.closes(&file.location, &segment).await?
            {
                closed.push(segment);
            }
        }
        let mut open: Vec<Record> = vec![];
        for file in files {
            let name = file.location.filename().unwrap_or_default();
            let segment = name.split('.').next().unwrap_or_default();
            if closed.iter().any(|c| c == segment) {
                continue;
            }
            let Some(bytes) = self.get(&file.location).await? else { continue };
            match self.unseal(bytes).await? {
                Ok(record) => match open.iter_mut().find(|r| r.uid == record.uid) {
                    Some(other) if other.number < record.number => *other = record,
                    Some(_) => {}
                    None => open.push(record),
                },
                Err(why) => tracing::error!(file = %file.location, why, "a damaged record"),
            }
        }
        Ok(Records { open, closed })
    }

    /// Writes a small object that is not there yet; one that is there is left as it is.
    pub(super) async fn create(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        self.is_there().await?;
        match super::upload::put(&*self.objects, path, bytes, PutMode::Create).await {
            Ok(()) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(StoreError::unwritable(&self.url, error)),
        }
    }

    pub(super) async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let unreadable = |error| StoreError::unreadable(&self.url, error);
        match self.objects.get(path).await {
            Ok(result) => result.bytes().await.map(Some).map_err(unreadable),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::PutPayload;

    use super::super::tests::memory;
    use super::*;

    fn record(uid: &str, number: u32, tenant: &str) -> Record {
        Record {
            format: FORMAT.to_owned(),
            kind: TargetKind::Site,
            namespace: None,
            name: "acme".to_owned(),
            uid: uid.to_owned(),
            number,
            time: serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap(),
            namespaces: vec![NamespaceRef { name: "acme".into(), uid: "n1".into() }],
            object: json!({ "spec": { "tenant": { "name": tenant } } }),
            status: json!({}),
            managed_fields: vec![],
        }
    }

    #[tokio::test]
    async fn the_newest_that_is_not_closed_counts() {
        let store = memory();
        store.put_record(&record("u1", 1, "Acme")).await.unwrap();
        store.put_record(&record("u1", 2, "Acme Corp")).await.unwrap();
        store.put_record(&record("u2", 1, "Bolt")).await.unwrap();
        store.close_record("u2").await.unwrap();
        store.close_record("u2").await.unwrap();
        let all = store.records().await.unwrap();
        assert_eq!(all.open, [record("u1", 2, "Acme Corp")]);
        assert_eq!(all.closed, ["u2"]);
    }

    #[tokio::test]
    async fn nothing_is_written_over() {
        let store = memory();
        store.put_record(&record("u1", 1, "Acme")).await.unwrap();
        store.put_record(&record("u1", 1, "Acme")).await.expect("the same again is no error");
        let error = store.put_record(&record("u1", 1, "Other")).await.unwrap_err();
        assert!(error.to_string().contains("another record"), "{error}");
        assert_eq!(store.records().await.unwrap().open, [record("u1", 1, "Acme")]);
    }

    #[tokio::test]
    async fn a_damaged_record_is_not_taken_for_one() {
        let store = memory();
        let text = store.seal(&record("u1", 1, "Acme")).unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap().replace("Acme", "Evil");
        let path = Path::from(layout::record("u1", 1));
        store.objects.put(&path, PutPayload::from(text)).await.unwrap();
        assert_eq!(store.records().await.unwrap().open, []);
    }

    #[tokio::test]
    async fn records_are_signed_and_encrypted_as_archives_are() {
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys");
        let none = memory();
        let with = |signing: &str, identity: bool| {
            let mut keys_of = crate::store::Keys::default();
            keys_of.sign_with(format!("{keys}/test-{signing}-key.pem").as_ref()).unwrap();
            let mut encryption = crate::store::Encryption::default();
            if identity {
                let file = format!("{keys}/test-age-identity.txt");
                let text = std::fs::read_to_string(&file).unwrap();
                let public = text.lines().find_map(|l| l.strip_prefix("# public key: ")).unwrap();
                encryption.read_with(file.as_ref()).unwrap();
                encryption.encrypt_to(public).unwrap();
            }
            Store { keys: Arc::new(keys_of), encryption: Arc::new(encryption), ..none.clone() }
        };
        let ours = with("signing", true);
        ours.put_record(&record("u1", 1, "Acme")).await.unwrap();
        ours.put_record(&record("u1", 1, "Acme")).await.expect("the same again is no error");
        assert_eq!(ours.records().await.unwrap().open, [record("u1", 1, "Acme")]);
        let path = Path::from(layout::record("u1", 1));
        let bytes = none.get(&path).await.unwrap().unwrap();
        assert!(!bytes.windows(4).any(|bytes| bytes == b"Acme"), "it lies readable in the store");
        // Without the identity, with another key, and one that anybody wrote.
        for store in [with("signing", false), with("other", true)] {
            assert_eq!(store.records().await.unwrap().open, []);
        }
        // Who can only write to the store can neither close it nor make one.
        none.close_record("u1").await.unwrap();
        none.put_record(&record("u2", 1, "Evil")).await.unwrap();
        assert_eq!(ours.records().await.unwrap().open, [record("u1", 1, "Acme")]);
        assert_eq!(none.records().await.unwrap().open, [record("u2", 1, "Evil")]);
        let closed = Path::from(layout::record_closed("u1"));
        none.objects.delete(&closed).await.unwrap();
        ours.close_record("u1").await.unwrap();
        assert_eq!(ours.records().await.unwrap().closed, ["u1"]);
        // Nor bring a right one to where another should be.
        let text = none.get(&closed).await.unwrap().unwrap();
        ours.put_record(&record("u3", 1, "Bolt")).await.unwrap();
        let moved = Path::from(layout::record_closed("u3"));
        none.objects.put(&moved, PutPayload::from(text)).await.unwrap();
        assert_eq!(ours.records().await.unwrap().open, [record("u3", 1, "Bolt")]);
    }
}
