//! DeletionPolicy: the rules under which entities may be deleted.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, ObjectRef};

/// The rules under which entities may be deleted.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "DeletionPolicy",
    plural = "deletionpolicies",
    shortname = "dpol",
    category = "reprieve",
    status = "DeletionPolicyStatus",
    derive = "PartialEq",
    doc = "The rules under which Sites and Apps may be deleted: how long they are held, how many may go, who must agree.",
    printcolumn(
        name = "Environment",
        type_ = "string",
        json_path = ".spec.environment",
        description = "Production or Development"
    ),
    printcolumn(
        name = "Retention",
        type_ = "integer",
        json_path = ".spec.retention.defaultSeconds",
        description = "Default window, in seconds"
    ),
    printcolumn(
        name = "Max",
        type_ = "integer",
        json_path = ".spec.blastRadius.maxEntities",
        description = "Entities of one request without override"
    ),
    printcolumn(
        name = "Approvals",
        type_ = "integer",
        json_path = ".spec.quorum.approvals",
        description = "People who must approve"
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
    validation = Rule::new("self.environment == 'Development' || self.retention.minimumSeconds >= 86400").message("retention.minimumSeconds must be at least 86400 (24 h) in Production"),
    validation = Rule::new("self.retention.minimumSeconds <= self.retention.defaultSeconds && self.retention.defaultSeconds <= self.retention.maximumSeconds").message("retention must have minimumSeconds <= defaultSeconds <= maximumSeconds"),
    validation = Rule::new("self.blastRadius.maxEntities <= self.blastRadius.hardMaxEntities").message("blastRadius.maxEntities must not exceed hardMaxEntities"),
    validation = Rule::new("self.environment == 'Development' || self.blastRadius.hardMaxEntities <= 100").message("blastRadius.hardMaxEntities must be at most 100 in Production"),
    validation = Rule::new("self.environment == 'Development' || self.blastRadius.rolling.windowSeconds >= 86400").message("blastRadius.rolling.windowSeconds must be at least 86400 (24 h) in Production"),
    validation = Rule::new("self.environment == 'Development' || self.quorum.approvals >= 2").message("quorum.approvals must be at least 2 in Production"),
    validation = Rule::new("self.quorum.approvals <= self.quorum.overrideApprovals").message("quorum.overrideApprovals must be at least quorum.approvals")
)]
pub struct DeletionPolicySpec {
    /// `Production`, or `Development` for places where nothing of value lives: only there may the
    /// window be short. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("environment is immutable: make another policy"))]
    pub environment: Environment,
    /// How long an entity is held before it is purged.
    #[serde(default)]
    pub retention: Retention,
    /// How many entities may go.
    #[serde(default)]
    pub blast_radius: BlastRadius,
    /// Who must agree.
    #[serde(default)]
    pub quorum: Quorum,
    /// What is asked of the backups.
    #[serde(default)]
    pub backup: BackupRequirement,
    /// Where alerts are asked for: one that nobody expected cancels a request. Without it nothing is
    /// purged in Production; Development goes without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<Alerts>,
}

/// What a cluster is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Environment {
    /// Customers live here.
    Production,
    /// Nothing of value lives here.
    Development,
}

/// How long an entity is held before it is purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// The shortest window that a request may ask for, in seconds. At least 86400 (24 h) in
    /// Production, 10 in Development. Default 86400.
    #[schemars(range(min = 10, max = 7776000))]
    pub minimum_seconds: i64,
    /// The window of a request that asks for none, in seconds. Default 259200 (72 h).
    #[schemars(range(min = 10, max = 7776000))]
    pub default_seconds: i64,
    /// The longest window that a request may ask for, in seconds. Default and most: 7776000 (90 d).
    #[schemars(range(min = 10, max = 7776000))]
    pub maximum_seconds: i64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { minimum_seconds: 86_400, default_seconds: 259_200, maximum_seconds: 7_776_000 }
    }
}

/// How many entities may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BlastRadius {
    /// The most entities of one request without `override`. Default 10.
    #[schemars(range(min = 1, max = 1000))]
    pub max_entities: i64,
    /// The most entities of one request, whatever it says. At most 100 in Production. Default 100.
    #[schemars(range(min = 1, max = 1000))]
    pub hard_max_entities: i64,
    /// The most entities of one kind in a span of time, over all requests.
    pub rolling: Rolling,
}

impl Default for BlastRadius {
    fn default() -> Self {
        Self { max_entities: 10, hard_max_entities: 100, rolling: Rolling::default() }
    }
}

/// How many entities of one kind may go in a span of time, over all requests and policies. Each
/// counts from when its purge begins, whatever policy it was under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rolling {
    /// The span, in seconds. At least 86400 in Production, at most 604800 (7 d). Default 86400
    /// (24 h).
    #[schemars(range(min = 10, max = 604800))]
    pub window_seconds: i64,
    /// The most entities of a kind in that span. Default 50.
    #[schemars(range(min = 1, max = 1000))]
    pub max_entities: i64,
    /// The most entities of a kind in that span, in percent of those that there are and those that
    /// went in that span, rounded up. Default 5.
    #[schemars(range(min = 1, max = 100))]
    pub max_percent: i64,
}

impl Default for Rolling {
    fn default() -> Self {
        Self { window_seconds: 86_400, max_entities: 50, max_percent: 5 }
    }
}

/// Who must agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Quorum {
    /// Distinct people who must approve, none of them the requester. At least 2 in Production, 1
    /// in Development. Default 2.
    #[schemars(range(min = 1, max = 20))]
    pub approvals: i64,
    /// The same for a request with `override`. Default 3.
    #[schemars(range(min = 1, max = 20))]
    pub override_approvals: i64,
    /// How long a plan waits for its approvals, in seconds. Default 86400 (24 h).
    #[schemars(range(min = 60, max = 2592000))]
    pub expires_after_seconds: i64,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { approvals: 2, override_approvals: 3, expires_after_seconds: 86_400 }
    }
}

/// What is asked of the backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupRequirement {
    /// How long the backup of what was purged is kept after the purge, in seconds. At least, and
    /// by default, 2592000 (30 d).
    #[schemars(range(min = 2592000))]
    pub keep_seconds: i64,
    /// Whether the very backup that a purge depends on is restored by a RestoreDrill and compared,
    /// during the hold; nothing is purged before that succeeded. Default false.
    pub drill_before_purge: bool,
    /// Nothing is purged unless some RestoreDrill has succeeded within so many seconds, 3600 to
    /// 31536000. Absent: that is not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3600, max = 31536000))]
    pub drilled_within_seconds: Option<i64>,
}

impl Default for BackupRequirement {
    fn default() -> Self {
        Self { keep_seconds: 2_592_000, drill_before_purge: false, drilled_within_seconds: None }
    }
}

/// Where alerts are asked for, and which count. An alert counts for an entity when its label
/// `namespace` is one of the entity's namespaces, when its label `site` is the Site's name or id, or
/// when it fits the matchers. One that is silenced or inhibited counts like any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alerts {
    /// The Alertmanager that is asked.
    pub alertmanager: Alertmanager,
    /// Matchers as in a route of Alertmanager: an alert that fits all of them counts as well,
    /// whatever it is about. Example: `["severity=\"critical\"", "team=~\"platform|storage\""]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 20),
        inner(
            length(min = 1, max = 1024),
            regex(pattern = r"^\s*[a-zA-Z_][a-zA-Z0-9_]*\s*(=~|!~|!=|=)")
        ),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub matchers: Vec<String>,
    /// Names of alerts that never count. Default: `["InfoInhibitor"]`, which only mutes others.
    #[serde(default = "Alerts::default_ignore")]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub ignore: Vec<String>,
    /// Name of the alert that always fires: without it, told within the last 5 minutes, nobody knows
    /// whether the others would come. It never counts itself. Default: `Watchdog`.
    #[serde(default = "Alerts::default_watchdog")]
    #[schemars(length(min = 1, max = 253))]
    pub watchdog: String,
}

impl Alerts {
    fn default_ignore() -> Vec<String> {
        vec!["InfoInhibitor".to_owned()]
    }

    fn default_watchdog() -> String {
        "Watchdog".to_owned()
    }
}

/// How an Alertmanager is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alertmanager {
    /// Its URL, to which `/api/v2/alerts` is added. No user, no query. Example:
    /// `http://alertmanager-operated.monitoring.svc:9093`.
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"))]
    pub url: String,
    /// How long an answer may take as a whole, in seconds. Default 5.
    #[serde(default = "Alertmanager::default_timeout")]
    #[schemars(range(min = 1, max = 30))]
    pub timeout_seconds: i64,
    /// A Secret in the operator's namespace, of type `reprieve.dev/alertmanager` (any other is not
    /// read), with what is needed of: `token` (a bearer token), `username` and `password`, `ca.crt`
    /// (the authorities, in PEM, that its certificate is checked by, in place of the system's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectRef>,
}

impl Alertmanager {
    fn default_timeout() -> i64 {
        5
    }
}

impl DeletionPolicySpec {
    /// The policy that holds where a Site names `default` and there is none: Production, with the
    /// defaults.
    pub fn built_in() -> Self {
        Self {
            environment: Environment::Production,
            retention: Retention::default(),
            blast_radius: BlastRadius::default(),
            quorum: Quorum::default(),
            backup: BackupRequirement::default(),
            alerts: None,
        }
    }
}

/// What is known of a DeletionPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionPolicyStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions, one of each type: `Ready` says whether the policy is in force.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
