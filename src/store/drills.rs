//! What drills have proved: the evidence of each run, for auditors, written once and never over;
//! and of each archive when it was drilled last, because Backups come and go.

use serde::{Deserialize, Serialize};

use super::documents::Documents;
use super::{Identity, Store, StoreError, layout};
use crate::api::{DrillRun, DrillStrategy, NotProved, RestoreFailure, Time};

/// The format of the evidence of a run.
pub const FORMAT: &str = "reprieve.dev/drill/v1";
/// The format of a note that an archive was drilled.
pub const DRILLED_FORMAT: &str = "reprieve.dev/drilled/v1";

/// The evidence of one run of a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrillEvidence {
    /// The format: [`FORMAT`].
    pub format: String,
    /// Version of the operator.
    pub operator: String,
    /// Name of the RestoreDrill.
    pub drill: String,
    /// UID of the RestoreDrill.
    pub drill_uid: String,
    /// UID of the run's Restore. Absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_uid: Option<String>,
    /// How the sample was chosen. Absent: the Backups were named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<DrillStrategy>,
    /// When it was written down, once the scratch namespaces were gone.
    pub time: Time,
    /// The run: outcome, reason, counts, measured times, and what was not proved.
    pub run: DrillRun,
    /// Each site of the sample.
    pub sites: Vec<DrilledSite>,
}

/// What a run has found out of one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrilledSite {
    /// Whose backup it is.
    pub site: Identity,
    /// Name of the Backup.
    pub backup: String,
    /// Where the archive lies.
    pub location: String,
    /// The root digest over its objects.
    pub digest: String,
    /// Objects in the archive.
    pub archived_objects: i64,
    /// Whether everything that a drill makes was created, read back and is equal.
    pub verified: bool,
    /// Objects that were created and compared.
    pub compared_objects: i64,
    /// How long it took until they were created, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_milliseconds: Option<i64>,
    /// How long it took to read them back and compare them, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_milliseconds: Option<i64>,
    /// What was not tried, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_proved: Vec<NotProved>,
    /// What was wrong, as far as the Restore has told it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<RestoreFailure>,
}

/// An archive that was drilled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrilledBackup {
    /// The format: [`DRILLED_FORMAT`].
    pub format: String,
    /// Whose backup it is.
    pub site: Identity,
    /// Name of the Backup.
    pub backup: String,
    /// Where the archive lies.
    pub location: String,
    /// The root digest over its objects.
    pub digest: String,
    /// When the run ended in which it was restored, read back and was equal.
    pub time: Time,
    /// Where the evidence of that run lies.
    pub evidence: String,
}

impl Store {
    /// Writes the evidence of a run down, and gives what counts: the first that was written.
    ///
    /// # Errors
    /// A store that cannot be written or read.
    pub async fn note_drill(&self, evidence: &DrillEvidence) -> Result<DrillEvidence, StoreError> {
        let DrillEvidence { drill, drill_uid, run, .. } = evidence;
        self.put_once(&layout::drill_run(drill, drill_uid, &run.name), evidence).await
    }

    /// Writes down that an archive was drilled, over what was noted of it before.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn note_drilled(&self, drilled: &DrilledBackup) -> Result<(), StoreError> {
        let place = layout::drilled(&drilled.site.id, &drilled.location);
        self.put_over(&place, drilled).await
    }

    /// Every archive that was drilled, whatever of it cannot be taken.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn drilled(&self) -> Result<Documents<DrilledBackup>, StoreError> {
        self.documents(layout::DRILLED).await
    }
}
