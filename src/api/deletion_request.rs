//! DeletionRequest: the only road to a deletion.

use std::fmt;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Condition, DeletionPolicySpec, LastBackup, LastDrill, NamespaceRef, Time, VolumeProtection,
};

/// What to delete, why, and within which limits. Creating a DeletionRequest is the dry run.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "DeletionRequest",
    plural = "deletionrequests",
    shortname = "dreq",
    category = "reprieve",
    status = "DeletionRequestStatus",
    derive = "PartialEq",
    doc = "Asks for the deletion of Sites or Apps. Creating it is the dry run: nothing else happens until people approved the digest of the plan in its status.",
    printcolumn(
        name = "Kind",
        type_ = "string",
        json_path = ".spec.target.kind",
        description = "Declared kind of the ids"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Planning, AwaitingApproval, Held, Purging, Completed, Refused, Expired or Cancelled"
    ),
    printcolumn(
        name = "Entities",
        type_ = "integer",
        json_path = ".status.plan.totals.entities",
        description = "Entities in the plan"
    ),
    printcolumn(
        name = "Purged",
        type_ = "integer",
        json_path = ".status.progress.purged",
        description = "Entities that are gone"
    ),
    printcolumn(
        name = "Held-Until",
        type_ = "string",
        json_path = ".status.retention.endTime",
        description = "End of the window"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "What it waits for, and who can give it"
    ),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".status.plan.digest",
        description = "Digest of the plan, which approvals name",
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
    validation = Rule::new("self.target == oldSelf.target && self.reason == oldSelf.reason && has(self.ticket) == has(oldSelf.ticket) && (!has(self.ticket) || self.ticket == oldSelf.ticket) && has(self.maxEntities) == has(oldSelf.maxEntities) && (!has(self.maxEntities) || self.maxEntities == oldSelf.maxEntities) && has(self.retentionSeconds) == has(oldSelf.retentionSeconds) && (!has(self.retentionSeconds) || self.retentionSeconds == oldSelf.retentionSeconds) && has(self.override) == has(oldSelf.override) && (!has(self.override) || self.override == oldSelf.override) && self.expectedAlerts == oldSelf.expectedAlerts").message("a DeletionRequest is immutable but for cancel: cancel it and make another"),
    validation = Rule::new("!oldSelf.cancel || self.cancel").message("cancel cannot be taken back: make another DeletionRequest")
)]
pub struct DeletionRequestSpec {
    /// What to delete: explicit ids of one kind. There are no selectors and no wildcards.
    pub target: Target,
    /// Why, for the people who must approve. Example: `contract ended on 31 March`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"\S"))]
    pub reason: String,
    /// The ticket in which it was agreed. Example: `OPS-1234`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ticket: Option<String>,
    /// The most entities that this request may take. Default: the policy's
    /// `blastRadius.maxEntities`. More than that needs `override`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_entities: Option<i64>,
    /// How long the entities are held before they are purged, in seconds, within the policy's
    /// bounds. Default: the policy's `retention.defaultSeconds`. Example: `259200` (72 h).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7776000))]
    pub retention_seconds: Option<i64>,
    /// Asks for more than the policy's default limit, and raises the quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#override: Option<Override>,
    /// Names of the alerts that holding the entities will set off by itself, at most 100.
    /// Example: `["SiteDown"]`.
    #[serde(default)]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub expected_alerts: Vec<String>,
    /// Ends the request; whatever still exists is released. It cannot be taken back.
    #[serde(default)]
    pub cancel: bool,
}

/// What to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The kind of every id: `Site` or `App`. An id that names the other kind refuses the request.
    pub kind: TargetKind,
    /// The ids, 1 to 1000, each once, as in `spec.id` of the Sites or Apps.
    /// Example: `["site-4711", "site-4712"]`.
    #[schemars(
        length(min = 1, max = 1000),
        inner(length(min = 1, max = 253), regex(pattern = r"^[!-~]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub ids: Vec<String>,
}

/// The kinds that can be asked to be deleted.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum TargetKind {
    /// Sites.
    Site,
    /// Apps.
    App,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Site => "Site",
            Self::App => "App",
        })
    }
}

/// Why the default limit should not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// Why, for the people who must approve. Example: `region closes, 40 tenants have moved`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"\S"))]
    pub justification: String,
}

impl DeletionRequest {
    /// The command that cancels the request of this name.
    pub fn how_to_cancel(name: &str) -> String {
        format!("kubectl patch dreq {name} --type=merge -p '{{\"spec\":{{\"cancel\":true}}}}'")
    }

    /// Whether it has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(DeletionRequestStatus::has_ended)
    }
}

impl DeletionRequestStatus {
    /// Whether the request has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.state.is_some_and(RequestState::is_final)
    }
}

/// What is known of a DeletionRequest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionRequestStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state in one word, for people; programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RequestState>,
    /// Since when it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_time: Option<Time>,
    /// What the request waits for and who can give it, or how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// One condition for each gate, in their order, then `Succeeded`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What would be deleted, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// How many people must approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals_required: Option<i64>,
    /// The valid approvals of the current digest, as the operator first saw them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// The rejections. One ends the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
    /// The window in which the entities are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionWindow>,
    /// How far the purge is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The wave that is under way, or was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
    /// When the request ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// The state of a DeletionRequest in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RequestState {
    /// The dry run is being made.
    Planning,
    /// The plan is there; people must approve its digest.
    AwaitingApproval,
    /// Approved. The entities are backed up, then held for the window.
    Held,
    /// The window has passed; the entities go one by one.
    Purging,
    /// Every entity of the plan is gone.
    Completed,
    /// A gate, or a person, said no. Nothing was deleted.
    Refused,
    /// Not approved in time. Nothing was deleted.
    Expired,
    /// Ended before its time; every entity that still exists was released.
    Cancelled,
}

impl RequestState {
    /// Whether the request has ended and will do nothing more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Completed | Self::Refused | Self::Expired | Self::Cancelled => true,
            Self::Planning | Self::AwaitingApproval | Self::Held | Self::Purging => false,
        }
    }

    /// Whether entities are held or purged in this state.
    pub fn holds(self) -> bool {
        matches!(self, Self::Held | Self::Purging)
    }
}

/// The exact scope of a deletion, as the dry run found it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The digest that approvals name. Absent when the plan was refused. Example: `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When this plan was made: its approvals must be there `quorum.expiresAfterSeconds` later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_time: Option<Time>,
    /// The limits under which it was made; the digest covers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<PlanHead>,
    /// Everything that would be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entities: Vec<PlanEntity>,
    /// The sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<PlanTotals>,
    /// The first 20 ids that were refused, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// How many ids were refused, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusal_counts: Vec<RefusalCount>,
}

/// What the digest covers besides the entities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanHead {
    /// UID of the DeletionRequest: an approval of another request is none of this one.
    pub request_uid: String,
    /// Who asked, as admission saw them when the first plan was made. Whoever takes the guard away
    /// can name another requester; this one does not change. Absent: nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// How long the entities are held, in seconds.
    pub retention_seconds: i64,
    /// The most entities that the request may take.
    pub max_entities: i64,
    /// The alerts that are expected, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_alerts: Vec<String>,
    /// Name of the policy.
    pub policy_name: String,
    /// UID of the policy. Absent: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_uid: Option<String>,
    /// Digest over names, UIDs and generations of every admission policy and binding of the guard,
    /// as they were when the plan was made: a guard that was taken away, even for a moment, gives
    /// another digest, and the approvals of the old one are void.
    pub guard: String,
    /// Counts up when an annotation named the digest before there was this plan: whoever wrote it
    /// had worked it out beforehand, not read the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<i64>,
    /// The policy's values when the plan was made. Stricter ones apply at once, weaker ones never.
    pub policy: DeletionPolicySpec,
}

/// One entity of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanEntity {
    /// `Site` or `App`.
    pub kind: TargetKind,
    /// The platform's id.
    pub id: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// The tenant's name.
    pub tenant: String,
    /// Its order of restore, 0 to 1000: higher comes back first. Not in the digest.
    #[serde(default)]
    pub priority: i32,
    /// The namespaces, with their UIDs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceRef>,
    /// The Apps inside, with their UIDs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<PlanApp>,
    /// The Site that an App is in. It stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<PlanSite>,
    /// The objects of an App that go with it, by its status: how many, and the digest over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<PlanApplied>,
    /// Number of objects, as counted last. Not in the digest.
    #[serde(default)]
    pub objects: i64,
    /// Size of these objects, in bytes. Not in the digest.
    #[serde(default)]
    pub bytes: i64,
    /// Number of volume claims. Not in the digest.
    #[serde(default)]
    pub claims: i64,
    /// Number of disks that nothing protects: they would be lost, which asks for `override`. Not in
    /// the digest.
    #[serde(default)]
    pub unprotected: i64,
    /// The disks, each with what protects it: those first that nothing protects, then as many as
    /// the status of the whole plan has room for. Not in the digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<VolumeProtection>,
    /// What goes on while the entity is held, as `Kind/namespace/name`: DaemonSets, and what an
    /// operator runs from custom resources. As many as there is room for. Not in the digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs_on: Vec<String>,
    /// Workloads whose scratch volumes (emptyDir, ephemeral claims) are lost when they are scaled
    /// down, as `Kind/namespace/name`. As many as there is room for. Not in the digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch: Vec<String>,
    /// Its newest verified backup when the plan was made; another one is made before anything goes.
    /// Absent: it has none. Not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
    /// The last drill of the site when the plan was made: whether a backup of it could be restored.
    /// Absent: none has come to it. Not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<LastDrill>,
    /// How far it is. Not in the digest.
    #[serde(default)]
    pub phase: EntityPhase,
    /// The wave that took it, from 1. Not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<i64>,
    /// The backup from which it can be restored. Not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PlanBackup>,
    /// When it was purged. Not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged_time: Option<Time>,
}

/// An App inside a planned Site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanApp {
    /// The platform's id.
    pub id: String,
    /// Namespace of the App.
    pub namespace: String,
    /// Name of the App.
    pub name: String,
    /// UID of the App.
    pub uid: String,
}

/// The Site that a planned App is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanSite {
    /// Name of the Site.
    pub name: String,
    /// UID of the Site.
    pub uid: String,
}

/// The objects that go with an App: those that it applied and still describes, as `status.objects`
/// of the App lists them. Those that are marked there as orphaned stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanApplied {
    /// How many there are.
    pub count: i64,
    /// SHA-256 over their lines `<apiVersion> <kind> <name> <uid>`, sorted, each followed by a
    /// newline: a plan of many Apps has no room for all of them.
    pub digest: String,
}

/// How far an entity of a plan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EntityPhase {
    /// Planned; nothing was done to it.
    #[default]
    Planned,
    /// Held; it can be released.
    Held,
    /// Being purged.
    Purging,
    /// Gone.
    Purged,
    /// Released, as it was.
    Released,
}

/// The backup of an entity, recorded so that it outlives the Backup object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanBackup {
    /// Name of the Backup.
    pub name: String,
    /// Where the archive lies, relative to the operator's store.
    pub location: String,
    /// The root digest over its objects.
    pub digest: String,
    /// Number of objects in it.
    pub objects: i64,
    /// Until when it is kept at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until_time: Option<Time>,
}

/// The sums of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanTotals {
    /// Entities.
    pub entities: i64,
    /// Namespaces.
    pub namespaces: i64,
    /// Apps.
    pub apps: i64,
    /// Objects, as counted last.
    pub objects: i64,
    /// Size of these objects, in bytes.
    pub bytes: i64,
}

/// An id that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The id, as asked for.
    pub id: String,
    /// Why, as one CamelCase word. Example: `EntityTypeMismatch`.
    pub reason: String,
    /// Why, in words: what the id really is.
    pub message: String,
}

/// How many ids were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusalCount {
    /// The reason.
    pub reason: String,
    /// The number of ids.
    pub count: i64,
}

/// An approval that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// Who approved, as admission authenticated them.
    pub user: String,
    /// What they approved.
    pub digest: String,
    /// When the operator first saw it.
    pub time: Time,
}

/// A rejection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// Who rejected, as admission authenticated them.
    pub user: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the operator first saw it.
    pub time: Time,
}

/// The window in which entities are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionWindow {
    /// When every entity was backed up and held.
    pub start_time: Time,
    /// The earliest time of the purge.
    pub end_time: Time,
}

/// How far a purge is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Entities of the plan.
    pub total: i64,
    /// Entities that are gone.
    pub purged: i64,
    /// Entities that were released.
    pub released: i64,
}

/// One wave of a purge: all gates are asked again before it, and for each entity of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    /// Its number, from 1.
    pub number: i64,
    /// Entities that it takes.
    pub entities: i64,
    /// Entities of it that are gone.
    pub purged: i64,
    /// When it began.
    pub start_time: Time,
    /// When the last of its entities was gone: the pause before the next wave counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
}
