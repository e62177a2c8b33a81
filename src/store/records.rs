//! Records of Sites and Apps that were deleted past the guard: what they are created anew from
//! when their finalizer has let them go. Written once and never over, each read back at once.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutPayload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Store, StoreError, layout};
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
        let text = record.seal();
        self.create(&path, &text).await?;
        if self.get_text(&path).await?.as_deref() != Some(text.as_bytes()) {
            return Err(StoreError::Unwritable {
                url: self.url.clone(),
                why: format!("{path} holds another record than was written"),
            });
        }
        Ok(())
    }

    /// Closes the records of this UID: what they tell of lives again.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn close_record(&self, uid: &str) -> Result<(), StoreError> {
        self.create(&Path::from(layout::record_closed(uid)), "{}\n").await
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
        let closed: Vec<String> = files.iter().filter_map(|f| closed_name(&f.location)).collect();
        let mut open: Vec<Record> = vec![];
        for file in files {
            let name = file.location.filename().unwrap_or_default();
            let segment = name.split('.').next().unwrap_or_default();
            if closed.iter().any(|c| c == segment) {
                continue;
            }
            let Some(text) = self.get_text(&file.location).await? else { continue };
            match Record::unseal(&text) {
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
    async fn create(&self, path: &Path, text: &str) -> Result<(), StoreError> {
        let payload = PutPayload::from(text.to_owned());
        match self.objects.put_opts(path, payload, PutMode::Create.into()).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(StoreError::unwritable(&self.url, error)),
        }
    }

    async fn get_text(&self, path: &Path) -> Result<Option<bytes::Bytes>, StoreError> {
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

    use object_store::memory::InMemory;

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
        let store = Store::over(Arc::new(InMemory::new()), "memory://");
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
        let store = Store::over(Arc::new(InMemory::new()), "memory://");
        store.put_record(&record("u1", 1, "Acme")).await.unwrap();
        store.put_record(&record("u1", 1, "Acme")).await.expect("the same again is no error");
        let error = store.put_record(&record("u1", 1, "Other")).await.unwrap_err();
        assert!(error.to_string().contains("another record"), "{error}");
        assert_eq!(store.records().await.unwrap().open, [record("u1", 1, "Acme")]);
    }

    #[tokio::test]
    async fn a_damaged_record_is_not_taken_for_one() {
        let store = Store::over(Arc::new(InMemory::new()), "memory://");
        let text = record("u1", 1, "Acme").seal().replace("Acme", "Evil");
        let path = Path::from(layout::record("u1", 1));
        store.objects.put(&path, PutPayload::from(text)).await.unwrap();
        assert_eq!(store.records().await.unwrap().open, []);
    }
}
