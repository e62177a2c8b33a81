//! Backup: one backup of one site.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, ConditionType, Conditions, HookStatus, Time};

/// Which site to back up, and why.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    shortname = "bkp",
    category = "reprieve",
    status = "BackupStatus",
    derive = "PartialEq",
    doc = "One backup of one site: everything in its namespaces, in the object store, read back after it was written. Volume contents are not in it.",
    printcolumn(
        name = "Site",
        type_ = "string",
        json_path = ".spec.siteRef.name",
        description = "The site"
    ),
    printcolumn(
        name = "Purpose",
        type_ = "string",
        json_path = ".spec.purpose",
        description = "Scheduled, BeforeDeletion, Manual or Drill"
    ),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Verified\")].status",
        description = "Read back, and every digest matched"
    ),
    printcolumn(
        name = "Drilled",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Drilled\")].status",
        description = "Restored by a drill and compared",
        priority = "1"
    ),
    printcolumn(
        name = "Objects",
        type_ = "integer",
        json_path = ".status.objects",
        description = "Number of objects"
    ),
    printcolumn(
        name = "Bytes",
        type_ = "integer",
        json_path = ".status.bytes",
        description = "Size in the store, in bytes"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].message",
        description = "What happened",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.siteRef == oldSelf.siteRef && self.purpose == oldSelf.purpose").message("a Backup is of one site for one purpose: only keepUntilTime may change"),
    validation = Rule::new("!has(oldSelf.keepUntilTime) || (has(self.keepUntilTime) && timestamp(self.keepUntilTime) >= timestamp(oldSelf.keepUntilTime))").message("keepUntilTime may only grow")
)]
pub struct BackupSpec {
    /// The site.
    pub site_ref: SiteRef,
    /// Why the backup is made. Default `Manual`.
    #[serde(default)]
    pub purpose: BackupPurpose,
    /// Until when the archive is kept at least; it may only grow. Example: `2026-12-24T18:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until_time: Option<Time>,
}

/// A Site, and what tells it from a later one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteRef {
    /// Name of the Site.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// UID of the Site. When given, a Site of another UID is not backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub uid: Option<String>,
    /// The platform's id of the Site. When given, a Site of another id is not backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub id: Option<String>,
}

/// Why a backup is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BackupPurpose {
    /// By the Site's schedule.
    Scheduled,
    /// For a DeletionRequest, by the operator.
    BeforeDeletion,
    /// By a person.
    #[default]
    Manual,
    /// For a drill.
    Drill,
}

impl Backup {
    /// Whether it was read back, and every digest matched.
    pub fn is_verified(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.conditions.is_true(ConditionType::Verified))
    }
}

/// What is known of a Backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions, one of each type: `Succeeded` (written), `Verified` (read back, and every
    /// digest and count matched), `Encrypted` (who can read the store cannot read the backup),
    /// `Drilled` (restored into scratch namespaces by a RestoreDrill, read back and equal: since
    /// when, and by which run), `Reconciling`, `Stalled`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The Site that was backed up, as it was. A restore is of this site alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteRef>,
    /// Where the archive lies, relative to the operator's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The root digest over the objects. Equal content has an equal digest. Example: `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Number of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<i64>,
    /// Size of the archive in the store, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The claims of the site, and how each disk is protected: the archive has no volume contents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeProtection>,
    /// At which resourceVersions of the core API the site was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_versions: Option<ReadVersions>,
    /// What came, went or was changed while it was read. Absent: nothing did, and the archive is
    /// the site as it was at one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_objects: Option<ChangedObjects>,
    /// The `beforeBackup` hooks of the Site that were run for it, or were not to be run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub hooks: Vec<HookStatus>,
    /// When a RestoreDrill ended that restored it, read it back and found it equal; the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drilled_time: Option<Time>,
    /// When the backup was verified, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// Between which resourceVersions of the core API a site was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadVersions {
    /// Of the first list. Example: `48211`.
    pub first: String,
    /// Of the last list, when everything was looked at a second time.
    pub last: String,
}

/// Objects that came, went or were changed while a site was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangedObjects {
    /// How many.
    pub count: i64,
    /// The first ten of them. Example: `ConfigMap/acme/settings`.
    #[schemars(length(max = 10))]
    pub first: Vec<String>,
}

/// A claim and how its disk is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeProtection {
    /// The claim, as `namespace/name`.
    pub claim: String,
    /// How its disk is protected.
    pub protection: Protection,
    /// Of `Snapshot`: the VolumeSnapshot, in the claim's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// How a disk is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protection {
    /// The disk itself is kept: its volume's reclaim policy is `Retain`.
    RetainedDisk,
    /// The disk may go, and the content of a CSI VolumeSnapshot of it that is ready stays: its
    /// deletion policy is `Retain`.
    Snapshot,
    /// Not at all: the disk goes with its claim.
    None,
}
