//! The DeletionPolicies as they were last, so that the store alone has the rules of the fleet. Each
//! object of a name has a place of its own: a policy of a new cluster never writes over that of the
//! lost one.

use serde::{Deserialize, Serialize};

use super::documents::Documents;
use super::{Store, StoreError, layout};
use crate::api::{DeletionPolicySpec, Time};

/// The format of a policy in the store.
pub const FORMAT: &str = "reprieve.dev/policy/v1";

/// A DeletionPolicy as it was last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredPolicy {
    /// The format: [`FORMAT`].
    pub format: String,
    /// Its name.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// Since when it is as it is, by the operator's clock.
    pub time: Time,
    /// What it says.
    pub spec: DeletionPolicySpec,
}

impl Store {
    /// Writes a policy down, unless it is there as it is.
    ///
    /// # Errors
    /// A store that cannot be written or read.
    pub async fn note_policy(&self, policy: &StoredPolicy) -> Result<(), StoreError> {
        let place = layout::policy(&policy.name, &policy.uid);
        match self.document::<StoredPolicy>(&place).await {
            Ok(Some(old)) if old.spec == policy.spec => Ok(()),
            Err(error) if error.may_pass() => Err(error),
            // Another one, none, or one that cannot be taken: this is what is so now.
            Ok(_) | Err(_) => self.put_over(&place, policy).await,
        }
    }

    /// Every policy that was ever written down.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn policies(&self) -> Result<Documents<StoredPolicy>, StoreError> {
        self.documents(layout::POLICIES).await
    }
}
