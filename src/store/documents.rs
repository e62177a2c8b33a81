//! Small documents beside the archives: what people decided, and what must be known when the
//! cluster is gone. Each is signed together with its place, so that none can be put in another's,
//! and encrypted as archives are.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::encryption::Fault;
use super::{Damage, Signature, Store, StoreError};

/// Documents that are read at the same time.
const READING: usize = 32;

/// The documents of a folder, in order of their places.
#[derive(Debug)]
pub struct Documents<T> {
    /// Those that can be taken.
    pub good: Vec<T>,
    /// Why each of the others cannot.
    pub refused: Vec<StoreError>,
}

fn statement(place: &str, document: &Value) -> Vec<u8> {
    format!("reprieve.dev/document-signature/v1\n{place}\n{document}").into_bytes()
}

impl Store {
    /// Writes a document, if there is none at this place yet, and gives the one that is there.
    pub(super) async fn put_once<T>(&self, place: &str, document: &T) -> Result<T, StoreError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.create(&Path::from(place), self.seal_document(place, document)?).await?;
        self.document(place).await?.ok_or_else(|| StoreError::Unwritable {
            url: self.url.clone(),
            why: format!("{place} was written, and is not there"),
        })
    }

    /// Writes a document, over the one that is there.
    pub(super) async fn put_over<T>(&self, place: &str, document: &T) -> Result<(), StoreError>
    where
        T: Serialize,
    {
        let payload = PutPayload::from(self.seal_document(place, document)?);
        self.is_there().await?;
        let put = self.objects.put(&Path::from(place), payload).await;
        put.map(drop).map_err(|error| StoreError::unwritable(&self.url, error))
    }

    /// The document at this place. None: there is none.
    pub(super) async fn document<T>(&self, place: &str) -> Result<Option<T>, StoreError>
    where
        T: DeserializeOwned,
    {
        let Some(bytes) = self.get(&Path::from(place)).await? else { return Ok(None) };
        self.document_in(place, bytes).await.map(Some)
    }

    /// Every document below this folder, whatever else is wrong with one of them.
    pub(super) async fn documents<T>(&self, folder: &str) -> Result<Documents<T>, StoreError>
    where
        T: DeserializeOwned,
    {
        let mut places = self.places(folder).await?;
        places.sort();
        self.documents_at(places).await
    }

    /// Where the documents below this folder lie.
    pub(super) async fn places(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let files = self.objects.list(Some(&Path::from(folder)));
        let files: Vec<_> =
            files.try_collect().await.map_err(|error| StoreError::unreadable(&self.url, error))?;
        let places = files.iter().map(|file| file.location.to_string());
        Ok(places.filter(|place| place.ends_with(".json")).collect())
    }

    /// The documents at these places, in their order, whatever is wrong with one of them.
    pub(super) async fn documents_at<T>(
        &self,
        places: Vec<String>,
    ) -> Result<Documents<T>, StoreError>
    where
        T: DeserializeOwned,
    {
        let reads = places.into_iter().map(|place| async move { self.document(&place).await });
        let reads: Vec<_> = reads.collect();
        let mut reads = futures::stream::iter(reads).buffered(READING);
        let mut found = Documents { good: vec![], refused: vec![] };
        while let Some(read) = reads.next().await {
            match read {
                Ok(document) => found.good.extend(document),
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => found.refused.push(error),
            }
        }
        Ok(found)
    }

    fn seal_document<T: Serialize>(&self, place: &str, document: &T) -> Result<Bytes, StoreError> {
        let unwritable = |why: String| StoreError::Unwritable { url: self.url.clone(), why };
        let document = serde_json::to_value(document).map_err(|e| unwritable(e.to_string()))?;
        let mut sealed = json!({ "document": document });
        if let Some(signature) = self.keys.sign(&statement(place, &sealed["document"])) {
            sealed["signature"] = json!(signature);
        }
        let sealed = self.encryption.seal(format!("{sealed}\n").as_bytes());
        sealed.map_err(|error| unwritable(error.to_string()))
    }

    async fn document_in<T>(&self, place: &str, bytes: Bytes) -> Result<T, StoreError>
    where
        T: DeserializeOwned,
    {
        let bad = |damage| StoreError::Document { location: place.to_owned(), damage };
        let corrupt = |error: serde_json::Error| bad(Damage::Corrupt(error.to_string()));
        let text = match self.encryption.unseal(bytes).await {
            Ok(text) => text,
            Err(Fault::Store(error)) => return Err(StoreError::unreadable(&self.url, error)),
            Err(Fault::Damage(damage)) => return Err(bad(damage)),
        };
        let mut sealed: Value = serde_json::from_slice(&text).map_err(corrupt)?;
        let signature: Option<Signature> =
            serde_json::from_value(sealed["signature"].take()).map_err(corrupt)?;
        let document = sealed["document"].take();
        self.keys.check(&statement(place, &document), signature.as_ref()).map_err(bad)?;
        serde_json::from_value(document).map_err(corrupt)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{memory, unmounted};
    use super::*;
    use crate::api::TargetKind;
    use crate::store::{Keys, Purge, layout, ledger};

    fn purge(uid: &str, request: &str) -> Purge {
        Purge {
            format: ledger::FORMAT.to_owned(),
            kind: TargetKind::Site,
            id: "s-1".into(),
            name: "acme".into(),
            uid: uid.into(),
            time: serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap(),
            request: request.into(),
            request_uid: "r".into(),
            digest: "d".into(),
            requested_by: "alice".into(),
            approved_by: vec![],
            backup: None,
            site: None,
        }
    }

    #[tokio::test]
    async fn the_ledger_is_written_once_and_only_by_us() {
        let anybody = memory();
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys");
        let mut ours = Keys::default();
        ours.sign_with(format!("{keys}/test-signing-key.pem").as_ref()).unwrap();
        let ours = Store { keys: Arc::new(ours), ..anybody.clone() };
        ours.note_purge(&purge("u-1", "first")).await.unwrap();
        ours.note_purge(&purge("u-1", "second")).await.unwrap();
        let found = ours.purges_of("s-1").await.unwrap();
        assert_eq!((found.good.len(), found.refused.len()), (1, 0));
        assert_eq!(found.good[0].request, "first");
        assert!(ours.purges_of("s-2").await.unwrap().good.is_empty());

        // One that was copied to another place, and one that nobody has signed.
        let bytes = anybody.objects.get(&Path::from(layout::purge("s-1", "u-1"))).await.unwrap();
        let payload = PutPayload::from(bytes.bytes().await.unwrap());
        let other = Path::from(layout::purge("s-1", "u-2"));
        anybody.objects.put(&other, payload).await.unwrap();
        anybody.note_purge(&purge("u-3", "forged")).await.unwrap();
        let found = ours.purges().await.unwrap();
        assert_eq!(found.good, [purge("u-1", "first")]);
        let why: Vec<String> = found.refused.iter().map(ToString::to_string).collect();
        assert!(why[0].contains("u-2.json") && why[0].contains("not what was signed"), "{why:?}");
        assert!(why[1].contains("u-3.json") && why[1].contains("is not signed"), "{why:?}");
        // Nor can a purge be noted over it: somebody has to look at that first.
        assert!(ours.note_purge(&purge("u-3", "ours")).await.is_err());
    }

    #[tokio::test]
    async fn a_store_that_is_gone_is_not_an_empty_one() {
        let store = unmounted();
        assert!(store.catalogue().await.is_err(), "nothing is there, not even the probe");
        // A write would make the folder anew, where nobody looks for it.
        let error = store.put_over("policies/p/u.json", &json!({})).await.unwrap_err();
        assert!(error.to_string().contains("without even the probe"), "{error}");
        assert!(store.put_once("restores/u.json", &json!({})).await.is_err());
        store.probe().await.unwrap();
        assert!(store.catalogue().await.unwrap().entries.is_empty());
        assert!(store.listing_of("s-1").await.unwrap().entries.is_empty());
    }
}
