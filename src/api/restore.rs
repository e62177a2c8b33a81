//! Restore: brings deleted sites, and lost namespaces of sites, back.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, NamespaceRef, ObjectRef, RestoreHooks, Time};

/// What to restore, and how.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "Restore",
    plural = "restores",
    shortname = "rst",
    category = "reprieve",
    status = "RestoreStatus",
    derive = "PartialEq",
    doc = "Brings deleted sites, and lost namespaces of sites, back from their backups, several at a time, and reads every object back. It overwrites nothing that lives.",
    printcolumn(
        name = "Sites",
        type_ = "integer",
        json_path = ".status.sites.total",
        description = "Sites to restore"
    ),
    printcolumn(
        name = "Verified",
        type_ = "integer",
        json_path = ".status.sites.verified",
        description = "Sites that were read back and are equal"
    ),
    printcolumn(
        name = "Failed",
        type_ = "integer",
        json_path = ".status.sites.failed",
        description = "Sites that could not be restored"
    ),
    printcolumn(
        name = "Objects",
        type_ = "integer",
        json_path = ".status.objects.done",
        description = "Objects that are there again"
    ),
    printcolumn(
        name = "Expected",
        type_ = "string",
        json_path = ".status.estimatedCompletionTime",
        description = "When every site is expected to be done (p50)"
    ),
    printcolumn(
        name = "No later than",
        type_ = "string",
        json_path = ".status.noLaterThanTime",
        description = "When every site is expected to be done at the latest (p90)",
        priority = "1"
    ),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status",
        description = "Whether every site is verified"
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
#[x_kube(validation = Rule::new("!oldSelf.cancel || self.cancel").message("cancel cannot be taken back: make another Restore"))]
pub struct RestoreSpec {
    /// What to restore: exactly one source. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("source is immutable: make another Restore"))]
    pub source: RestoreSource,
    /// How many sites are restored at the same time, 1 to 64. Default 16. How many requests are in
    /// flight follows how fast the API server answers, over all Restores together.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 64))]
    pub parallelism: i32,
    /// What to do about an object that lives and is different from the backup: nothing is ever
    /// overwritten. `Fail` (the default): the rest of the site is brought back, and the site counts
    /// as failed. `Skip`: it is left as it is and told in `status.notices`. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("onConflict is immutable: make another Restore"))]
    pub on_conflict: OnConflict,
    /// Stops the Restore between two objects. What is back stays; sites that are not whole say so,
    /// and another Restore goes on with them. It cannot be taken back.
    #[serde(default)]
    pub cancel: bool,
}

/// What to do about an object that lives and is different from the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnConflict {
    /// The site counts as failed; the rest of it is brought back.
    #[default]
    Fail,
    /// The object is left as it is, and told.
    Skip,
}

fn default_parallelism() -> i32 {
    16
}

/// Where the backups to restore from are named.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.deletionRequestRef), has(self.backupRefs), has(self.sites), has(self.apps), has(self.store), has(self.drill)].filter(named, named).size() == 1").message("source must name exactly one of: deletionRequestRef, backupRefs, sites, apps, store, drill"))]
pub struct RestoreSource {
    /// Everything that this DeletionRequest purged, Sites or Apps, from the backups that it
    /// recorded. Example: `{"name": "contract-ended"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_request_ref: Option<ObjectRef>,
    /// The sites of these Backups, at most 1000 and one for each site. A site that is gone comes
    /// back as a whole; one that lives and lost some of its namespaces gets what is missing.
    /// Example: `[{"name": "acme-nightly"}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub backup_refs: Option<Vec<ObjectRef>>,
    /// The sites with these ids, each from its newest verified backup. The store's catalogue is
    /// asked, so that the Backup objects may be gone. Example: `{"ids": ["site-4711"]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<RestoreIds>,
    /// The Apps with these ids, each from the newest verified backup of its site that has it: the
    /// App, the objects that its manifests name, and what these own. The site must live; the rest
    /// of it is not touched. Example: `{"ids": ["app-0815"], "atTime": "2026-11-20T06:00:00Z"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<RestoreIds>,
    /// `All`: every site that the store has a backup of, each from its newest one, and the
    /// DeletionPolicies that are missing; to rebuild a fleet in a new cluster. Left out are the
    /// sites that a DeletionRequest purged: `status.notices` names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<RestoreStore>,
    /// The operator's own, for a RestoreDrill: these archives, into scratch namespaces, without
    /// Pods, disks or ways in. The guard lets nobody else set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillSource>,
}

/// What a drill restores, and for whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillSource {
    /// The RestoreDrill.
    pub drill_ref: ObjectRef,
    /// Its UID, which its scratch namespaces carry as a label.
    #[schemars(length(min = 1, max = 63))]
    pub drill_uid: String,
    /// The archives, at most 100.
    #[schemars(
        length(min = 1, max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["location"])
    )]
    pub archives: Vec<DrilledArchive>,
}

impl DrillSource {
    /// The archives, each with the name by which the Restore's status knows its site: that of the
    /// Site, and where there are several of one, of the Backup too.
    pub fn named(&self) -> Vec<(String, &DrilledArchive)> {
        let others = |archive: &DrilledArchive| {
            self.archives.iter().filter(|other| other.site == archive.site).count()
        };
        let name = |archive: &DrilledArchive| match others(archive) {
            1 => archive.site.clone(),
            _ => format!("{} ({})", archive.site, archive.backup),
        };
        self.archives.iter().map(|archive| (name(archive), archive)).collect()
    }
}

/// An archive that a drill restores, as the store's catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrilledArchive {
    /// Name of the Site.
    #[schemars(length(min = 1, max = 63))]
    pub site: String,
    /// UID that the Site had.
    #[schemars(length(max = 128))]
    pub site_uid: String,
    /// The platform's id of the Site.
    #[schemars(length(max = 253))]
    pub site_id: String,
    /// Name of the Backup.
    #[schemars(length(max = 253))]
    pub backup: String,
    /// Where the archive lies, relative to the operator's store.
    #[schemars(length(max = 1024))]
    pub location: String,
    /// The root digest that it must have.
    #[schemars(length(max = 128))]
    pub digest: String,
    /// Objects in it.
    pub objects: i64,
}

/// Which entities to restore, and as of when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreIds {
    /// The platform's ids, 1 to 1000. Example: `["site-4711", "site-4712"]`.
    #[schemars(
        length(min = 1, max = 1000),
        inner(length(min = 1, max = 253), regex(pattern = r"^[!-~]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub ids: Vec<String>,
    /// The newest backup that is not later than this is taken. Absent: the newest of all. A time
    /// that has not come yet is refused. Example: `2026-11-20T06:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_time: Option<Time>,
}

/// How much of the store to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestoreStore {
    /// Every site.
    All,
}

impl Restore {
    /// Whether it has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.completion_time.is_some())
    }
}

/// What is known of a Restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions, one of each type: `Succeeded` (every site was read back equal),
    /// `Reconciling`, `Stalled`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many sites stand where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<SiteCounts>,
    /// How many objects are there again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<ObjectCounts>,
    /// The first 100 failures, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub failures: Vec<RestoreFailure>,
    /// The first 100 things that are not as they were, and may be so: an address that was taken,
    /// an owner that is in no backup, a field that a controller has written since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub notices: Vec<RestoreFailure>,
    /// What was verified and does not say so itself: a Site does, in `status.lastRestore`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub verified_sites: Vec<VerifiedSite>,
    /// Of a drill: the hooks that it runs, by the name under which `verifiedSites` has the site. In
    /// every other restore the Site has them, in `status.restoreHooks`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drill_hooks: BTreeMap<String, RestoreHooks>,
    /// When the work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When every site is expected to be done: as likely earlier as later (p50). Absent: it has
    /// ended, or nothing is known that an estimate could rest on; see `estimateBasis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion_time: Option<Time>,
    /// When every site is expected to be done at the latest, in nine of ten restores (p90).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_later_than_time: Option<Time>,
    /// What the estimate rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_basis: Option<EstimateBasis>,
    /// When the last site is expected to have passed each stage: `Queue`, `Create`, `WaitForReady`
    /// and `Verify`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["stage"])
    )]
    pub stages: Vec<StageEstimate>,
    /// When the work ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// What an estimate rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EstimateBasis {
    /// Sites of this Restore that are done and were measured.
    pub sites_of_this_run: i64,
    /// Sites of earlier Restores and drills, as the store knows them.
    pub sites_of_earlier_runs: i64,
    /// The same in words, or why there is no estimate yet.
    pub message: String,
}

/// When the last site is expected to have passed a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageEstimate {
    /// The stage: `Queue`, `Create`, `WaitForReady` or `Verify`.
    pub stage: String,
    /// As likely earlier as later (p50).
    pub estimated_completion_time: Time,
    /// At the latest, in nine of ten restores (p90).
    pub no_later_than_time: Time,
}

/// What is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedSite {
    /// Name of the Site.
    pub name: String,
    /// UID that it has now: a later Site of that name is another one.
    pub uid: String,
    /// The namespaces that are back, with the UIDs that they have now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub namespaces: Vec<NamespaceRef>,
    /// Objects that were read back equal.
    pub objects: i64,
    /// What a drill has found out; absent in every other restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<SiteDrill>,
}

/// What a drill has found out of a site that was restored, read back and is equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteDrill {
    /// How long it took until all its objects were created, in milliseconds.
    pub create_milliseconds: i64,
    /// How long it took to read them back and compare them, in milliseconds.
    pub verify_milliseconds: i64,
    /// What was not tried, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_proved: Vec<NotProved>,
}

/// What a drill has left out or changed, so that it had no effect outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotProved {
    /// The kind of object, or what of objects. Example: `Ingress.networking.k8s.io`.
    pub what: String,
    /// How many objects.
    pub objects: i64,
    /// Why, in words.
    pub why: String,
}

/// How many sites of a Restore stand where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteCounts {
    /// All of them.
    pub total: i64,
    /// Not begun.
    pub queued: i64,
    /// Under way.
    pub restoring: i64,
    /// Read back and equal.
    pub verified: i64,
    /// Could not be restored; see `failures`.
    pub failed: i64,
}

/// How many objects of a Restore are there again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectCounts {
    /// Objects that the backups hold.
    pub total: i64,
    /// Objects that are there again.
    pub done: i64,
}

/// Something that could not be restored, or not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFailure {
    /// The Site. Empty: it is not known, or it is about something else, see `object`.
    pub site: String,
    /// The object, as `<apiVersion> <Kind> <namespace>/<name>`, or what was asked for: an id, a
    /// file of the store. Absent: the site as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Why, as one CamelCase word.
    pub reason: String,
    /// Why, in words.
    pub message: String,
}
