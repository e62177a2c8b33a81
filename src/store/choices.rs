//! What a Restore chose from the catalogue, written once: it stays the same while new backups come
//! and old ones go, and for 10,000 sites it is too large for a status.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Store, StoreError, layout};

impl Store {
    /// What the Restore of this UID has chosen before.
    ///
    /// # Errors
    /// A store that cannot be read, and what cannot be taken for the operator's own.
    pub async fn choice<T: DeserializeOwned>(&self, uid: &str) -> Result<Option<T>, StoreError> {
        self.document(&layout::choice(uid)).await
    }

    /// Writes down what the Restore of this UID chooses, and gives what counts: the first that was
    /// written.
    ///
    /// # Errors
    /// As [`Store::choice`], and a store that cannot be written.
    pub async fn choose<T>(&self, uid: &str, choice: &T) -> Result<T, StoreError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.put_once(&layout::choice(uid), choice).await
    }
}
