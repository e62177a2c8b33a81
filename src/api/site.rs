//! Site: a tenant's site.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, DrillOutcome, Hooks, RestoreHooks, Time, names};

/// What a Site should be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "Site",
    plural = "sites",
    shortname = "site",
    category = "reprieve",
    status = "SiteStatus",
    derive = "PartialEq",
    selectable = ".spec.id",
    doc = "A tenant's site: one or more namespaces and everything in them, whoever created it. It is deleted through a DeletionRequest, never with `kubectl delete`.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')").message("a Site's name must be a DNS label of at most 63 characters: it is also the name of its namespace"),
    validation = Rule::new("(has(self.spec.namespaces) ? self.spec.namespaces : [self.metadata.name]).all(n, n != 'default' && n != 'reprieve-system' && !n.startsWith('kube-'))").message("default, reprieve-system and kube-* belong to the system: name another namespace in spec.namespaces"),
    validation = Rule::new("(has(oldSelf.spec.namespaces) ? oldSelf.spec.namespaces : [oldSelf.metadata.name]).all(n, n in (has(self.spec.namespaces) ? self.spec.namespaces : [self.metadata.name]))").message("namespaces may only grow: a namespace leaves a Site through a DeletionRequest alone"),
    printcolumn(name = "Id", type_ = "string", json_path = ".spec.id", description = "The platform's id of the site"),
    printcolumn(name = "Tenant", type_ = "string", json_path = ".spec.tenant.name", description = "The tenant's name"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "Active, AwaitingRestore, PendingDeletion, Purging, Restoring or Degraded"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the site is as its spec says"),
    printcolumn(name = "Apps", type_ = "integer", json_path = ".status.inventory.apps", description = "Number of Apps"),
    printcolumn(name = "Last Backup", type_ = "date", json_path = ".status.lastBackup.verifiedTime", description = "Time since the newest backup that was verified", priority = "1"),
    printcolumn(name = "Last Drill", type_ = "string", json_path = ".status.lastDrill.outcome", description = "How the last drill of the site ended, Succeeded or Failed", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "What is missing", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation")
)]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// The platform's id of the site: an opaque string of 1 to 253 printable ASCII characters
    /// without spaces. Immutable, and unique over Sites and Apps. Example: `site-4711`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[!-~]+$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("id is immutable"))]
    pub id: String,
    /// Whose site it is.
    pub tenant: Tenant,
    /// Order of restore after a loss, 0 to 1000: higher comes first. Default 100.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// The namespaces of the site, 1 to 16. Default: one, with the Site's own name. The list may
    /// only grow. An existing namespace is taken in only if its annotation `reprieve.dev/adopt`
    /// has the Site's name. Example: `["acme", "acme-jobs"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Option<Vec<String>>,
    /// The DeletionPolicy under which the site and its Apps may be deleted. Default: the one that
    /// is named `default`.
    #[serde(default = "default_policy")]
    pub policy_ref: ObjectRef,
    /// When the site is backed up, and for how long that is kept. Absent: only when a person or a
    /// DeletionRequest asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSchedule>,
    /// Jobs before backups and after restores of the site: to dump a database, to reconnect
    /// integrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
}

/// When a site is backed up, in CronJob's words. Backups pause while the Site is not Active. Missed
/// ones are made up for by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// When, as cron has it: minute, hour, day of month, month, day of week; or `@daily` and the
    /// like. Each Site begins a little later than that, always by the same time: a tenth of the
    /// time between two backups at most, and never above 30 minutes. Example: `0 3 * * *`.
    #[schemars(length(min = 1, max = 253))]
    pub schedule: String,
    /// The IANA time zone of the schedule. Default `Etc/UTC`. Example: `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Whether no backups are made by the schedule for now. Default false.
    #[serde(default)]
    pub suspend: bool,
    /// For how long a backup of the site is kept at least, in seconds, from one hour to ten years.
    /// The last verified one of a site that lives is kept in any case. Default 2592000, 30 days.
    #[serde(default = "default_keep_seconds")]
    #[schemars(range(min = 3600, max = 315_360_000))]
    pub keep_seconds: i64,
}

impl BackupSchedule {
    /// The schedule in words, with its time zone.
    pub fn words(&self) -> String {
        format!("{} {}", self.schedule, self.time_zone.as_deref().unwrap_or("Etc/UTC"))
    }
}

fn default_keep_seconds() -> i64 {
    2_592_000
}

/// A tenant: the customer whose site it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// The tenant's name, as people know it. Example: `Acme Corp`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Whom to reach about the site, at most 16. Example: `["ops@acme.example"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub contacts: Vec<String>,
}

/// A reference to a cluster-scoped object by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn default_priority() -> i32 {
    100
}

fn default_policy() -> ObjectRef {
    ObjectRef { name: names::DEFAULT_POLICY.to_owned() }
}

/// What is known of a Site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state in one word, for people; programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SiteState>,
    /// The conditions, one of each type: `Ready`, `Reconciling`, `Stalled`; `BackupScheduled`, where
    /// the Site has a schedule; `HooksValid` (the Jobs of its hooks can be created), where it has
    /// hooks.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The namespaces that the site has, with their UIDs. One that is gone stays here, so that it
    /// is known to be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceRef>,
    /// The deletion that is under way. Only the operator writes it, and the guard goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// The DELETE that got past the guard, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unexpected_delete: Option<UnexpectedDelete>,
    /// The restore that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<SiteRestore>,
    /// The restore that brought the site back last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restore: Option<LastRestore>,
    /// The hooks of the restore that is under way, or was the last to run some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_hooks: Option<RestoreHooks>,
    /// What the site holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// The newest backup that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
    /// The last drill of the site: whether a backup of it could be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<LastDrill>,
    /// The time of the schedule for which a backup was made last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// When the next backup by the schedule begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_backup_time: Option<Time>,
}

/// The state of a Site in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SiteState {
    /// In service, as its spec says.
    Active,
    /// Its id is known from backups; waits for a Restore to name it.
    AwaitingRestore,
    /// Held for deletion: intact, and can be released at once.
    PendingDeletion,
    /// Being purged. There is no way back but a Restore.
    Purging,
    /// Being restored.
    Restoring,
    /// Not as its spec says; see the condition `Ready`.
    Degraded,
}

/// A namespace and the UID that tells it from a later one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceRef {
    /// Name of the namespace.
    pub name: String,
    /// UID of the namespace.
    pub uid: String,
}

/// A deletion under way, as the entity itself tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// The DeletionRequest by which the entity is held or purged.
    pub request_ref: ObjectRef,
    /// UID of that DeletionRequest.
    pub request_uid: String,
    /// How far it is: `Held` can be released, `Purging` cannot.
    pub phase: DeletionPhase,
    /// When the window ends. Absent while it has not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_end_time: Option<Time>,
}

/// How far the deletion of an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPhase {
    /// Held: intact, and can be released at once.
    Held,
    /// Being purged.
    Purging,
}

/// A DELETE that nobody asked for and that the guard did not stop. It cannot be taken back: the
/// finalizer holds the entity until people decide, and if they do not let it go, it is created anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnexpectedDelete {
    /// The DeletionRequest that the operator opened for it. Cancelling, rejecting or deleting that
    /// one keeps the entity. Absent: none could be opened, and the entity is created anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_ref: Option<ObjectRef>,
    /// When the operator noticed.
    pub observed_time: Time,
}

/// A restore under way, as the Site itself tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteRestore {
    /// The Restore.
    pub restore_ref: ObjectRef,
    /// Where it stands: `Queued`, `Creating`, `WaitingForReady`, `Verifying` or `RunningHooks`; or
    /// `Stopped`: that Restore has ended, the site is not whole, and `message` says how to go on.
    pub stage: String,
    /// The site's place among those of the Restore: the first has 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<i64>,
    /// Sites that the Restore has a place for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<i64>,
    /// Name of the Backup that it is restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Why it stopped, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Objects that are there again.
    pub objects_done: i64,
    /// Objects that the backup holds.
    pub objects_total: i64,
    /// When the site is expected to be back: as likely earlier as later (p50). Absent: nothing is
    /// known that an estimate could rest on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion_time: Option<Time>,
    /// When the site is expected to be back at the latest, in nine of ten restores (p90).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_later_than_time: Option<Time>,
    /// The namespaces that the Site had recorded when the restore began, with their UIDs: what is
    /// not at its UID was lost. Absent: the Site itself was gone, and all of it is brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub before: Option<Vec<NamespaceRef>>,
}

/// A restore after which every object of the site was read back equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRestore {
    /// The Restore.
    pub restore_ref: ObjectRef,
    /// UID of that Restore.
    pub restore_uid: String,
    /// Objects that were read back equal.
    pub objects: i64,
    /// When.
    pub verified_time: Time,
}

/// What a site holds, counted by the operator: within seconds after Apps came, went or became
/// ready, and otherwise every ten minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Number of Apps.
    pub apps: i64,
    /// Number of Apps that are ready.
    pub apps_ready: i64,
    /// Number of objects that a backup of the site would hold, controllers' derivations left out.
    pub objects: i64,
    /// Size of these objects as the JSON that a backup would hold, uncompressed, in bytes. Volume
    /// contents are not in it.
    pub bytes: i64,
    /// When this was counted. A later count with the same result does not move it.
    pub counted_time: Time,
}

/// The newest verified backup of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// Name of the Backup.
    pub name: String,
    /// When it was verified.
    pub verified_time: Time,
    /// Number of objects in it.
    pub objects: i64,
}

/// The last drill of a site by a RestoreDrill that came to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastDrill {
    /// Name of the RestoreDrill.
    pub name: String,
    /// Name of the Backup that it tried to restore.
    pub backup: String,
    /// When the run ended.
    pub time: Time,
    /// Whether all of it was restored, read back and equal.
    pub outcome: DrillOutcome,
}

/// [`SiteRestore::stage`] of a Site whose Restore has ended and that is not whole.
pub const RESTORE_STOPPED: &str = "Stopped";

impl SiteRestore {
    /// Where it stands, in the words of the Site's conditions.
    pub fn in_words(&self) -> String {
        let Self { restore_ref, objects_done, objects_total, .. } = self;
        let name = &restore_ref.name;
        if self.stage == RESTORE_STOPPED {
            let message = self.message.as_deref().unwrap_or("make another Restore that names it");
            return format!(
                "the Restore {name} ended before the site was whole, with {objects_done} of {objects_total} objects: {message}"
            );
        }
        match self.place.zip(self.places) {
            Some((place, places)) => {
                format!("being restored by Restore {name}, place {place} of {places}")
            }
            None => format!("being restored by Restore {name}"),
        }
    }
}

impl Site {
    /// Its hooks.
    pub fn hooks(&self) -> Hooks {
        self.spec.hooks.clone().unwrap_or_default()
    }

    /// The names of the site's namespaces: those of the spec, or the Site's own name.
    pub fn namespace_names(&self) -> Vec<String> {
        match &self.spec.namespaces {
            Some(names) if !names.is_empty() => names.clone(),
            _ => vec![self.metadata.name.clone().unwrap_or_default()],
        }
    }
}
