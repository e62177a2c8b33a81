//! The ledger: what was done for good, written once and never over. It is what tells, when the
//! cluster is gone, a site that was lost from one that was purged because people wanted it so.

use serde::{Deserialize, Serialize};

use super::documents::Documents;
use super::{Identity, Store, StoreError, layout};
use crate::api::{TargetKind, Time};

/// The format of a line of the ledger.
pub const FORMAT: &str = "reprieve.dev/ledger/v1";

/// An entity that a DeletionRequest purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purge {
    /// The format: [`FORMAT`].
    pub format: String,
    /// What it was.
    pub kind: TargetKind,
    /// The platform's id.
    pub id: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// When the last of it was about to go.
    pub time: Time,
    /// Name of the DeletionRequest.
    pub request: String,
    /// UID of the DeletionRequest.
    pub request_uid: String,
    /// The digest of the plan that people approved.
    pub digest: String,
    /// Who had asked for it.
    pub requested_by: String,
    /// Who had approved it.
    pub approved_by: Vec<String>,
    /// Name of the Backup from which it can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The Site that an App was in. Absent of a Site, and where an older operator made the note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Identity>,
}

impl Purge {
    /// Name and id of the Site that went, or that the App was in. None: an older operator made the
    /// note of an App.
    pub fn site_of(&self) -> Option<(&str, &str)> {
        match self.kind {
            TargetKind::Site => Some((&self.name, &self.id)),
            TargetKind::App => self.site.as_ref().map(|site| (&*site.name, &*site.id)),
        }
    }
}

impl Store {
    /// Notes that an entity was purged. The first note of a UID stays.
    ///
    /// # Errors
    /// A store that cannot be written, or gives something else back.
    pub async fn note_purge(&self, purge: &Purge) -> Result<(), StoreError> {
        let place = layout::purge(&purge.id, &purge.uid);
        self.put_once(&place, purge).await.map(drop)
    }

    /// What was purged of this id, whatever of it cannot be taken.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn purges_of(&self, id: &str) -> Result<Documents<Purge>, StoreError> {
        self.documents(&layout::purges_of(id)).await
    }

    /// Everything that was purged.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn purges(&self) -> Result<Documents<Purge>, StoreError> {
        self.documents(layout::PURGES).await
    }
}
