//! RestoreDrill: tries on schedule that backups can be restored.

use std::fmt;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, NamespaceRef, NotProved, ObjectRef, RestoreFailure, Time, names};

/// Which backups to try, and when.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "RestoreDrill",
    plural = "restoredrills",
    shortname = "drill",
    category = "reprieve",
    status = "RestoreDrillStatus",
    derive = "PartialEq",
    doc = "Tries that backups can be restored: brings a sample of sites back into scratch namespaces, without Pods, disks or ways in, reads every object back, compares it with the backup, measures, and takes the scratch namespaces away again.",
    printcolumn(
        name = "Schedule",
        type_ = "string",
        json_path = ".spec.schedule",
        description = "When it runs by itself"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Scheduled, Waiting, Running, Suspended, Idle or Invalid"
    ),
    printcolumn(
        name = "Drilled",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Drilled\")].status",
        description = "Whether every site of the last run was restored and compared"
    ),
    printcolumn(
        name = "Sites",
        type_ = "integer",
        json_path = ".status.runs[0].sites",
        description = "Sites of the last run"
    ),
    printcolumn(
        name = "Verified",
        type_ = "integer",
        json_path = ".status.runs[0].verified",
        description = "Sites of the last run that were restored and are equal"
    ),
    printcolumn(
        name = "Recovery",
        type_ = "integer",
        json_path = ".status.runs[0].recoverySeconds",
        description = "How long the last run took to restore them, in seconds"
    ),
    printcolumn(
        name = "Last Success",
        type_ = "date",
        json_path = ".status.lastSuccessTime",
        description = "Time since the last run in which all sites were verified"
    ),
    printcolumn(
        name = "Next",
        type_ = "string",
        json_path = ".status.nextRunTime",
        description = "When it runs next",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What it does now, and what it waits for",
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
pub struct RestoreDrillSpec {
    /// When, as cron has it: minute, hour, day of month, month, day of week; or `@monthly` and the
    /// like. Absent: it runs once, when it is created. Either way it also runs when it is asked to,
    /// by a new value of its annotation `reprieve.dev/run-now`. Example: `0 4 1 * *`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub schedule: Option<String>,
    /// The IANA time zone of the schedule. Default `Etc/UTC`. Example: `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Whether it does not run by itself for now. A run that has begun goes on, and one that is
    /// asked for by the annotation begins all the same. Default false.
    #[serde(default)]
    pub suspend: bool,
    /// Which backups are tried. Default: three sites at random, each from its newest backup.
    #[serde(default)]
    pub sample: DrillSample,
    /// How long a run may take until everything was read back, in seconds, 10 to 86400. One that
    /// takes longer has failed, and its scratch namespaces are taken away. Default 3600.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 10, max = 86400))]
    pub timeout_seconds: i64,
}

/// Which backups a run tries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillSample {
    /// How many sites, 1 to 100, each from its newest backup in the store's catalogue; all of them,
    /// where there are fewer. Default 3.
    #[serde(default = "default_sites")]
    #[schemars(range(min = 1, max = 100))]
    pub sites: i64,
    /// Which sites. `Random`, the default: drawn by a seed that the run records. `Oldest`: those
    /// that were drilled longest ago, or never. `Largest`: those with the largest archives.
    #[serde(default)]
    pub strategy: DrillStrategy,
    /// Exactly these Backups, at most 100; then `sites` and `strategy` say nothing.
    /// Example: `[{"name": "acme-nightly"}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub backup_refs: Option<Vec<ObjectRef>>,
}

impl Default for DrillSample {
    fn default() -> Self {
        Self { sites: default_sites(), strategy: DrillStrategy::Random, backup_refs: None }
    }
}

/// Which sites a run tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillStrategy {
    /// Drawn by lot.
    #[default]
    Random,
    /// Drilled longest ago, or never.
    Oldest,
    /// The largest archives.
    Largest,
}

fn default_sites() -> i64 {
    3
}

fn default_timeout() -> i64 {
    3600
}

impl RestoreDrill {
    /// The name of the RestoreDrill of one Backup, which the operator makes where that is asked for.
    pub fn name_of_backup(backup: &str) -> String {
        format!("of-{backup}").chars().take(253).collect()
    }

    /// The command that runs a drill now.
    pub fn how_to_run(name: &str) -> String {
        format!(
            "kubectl annotate drill {name} --overwrite {}=\"$(date)\"",
            names::ANNOTATION_RUN_NOW
        )
    }
}

impl RestoreDrillSpec {
    /// The schedule in words, with its time zone. None: there is none.
    pub fn words(&self) -> Option<String> {
        let zone = self.time_zone.as_deref().unwrap_or("Etc/UTC");
        self.schedule.as_ref().map(|schedule| format!("{schedule} {zone}"))
    }
}

/// What is known of a RestoreDrill.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreDrillStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state in one word, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DrillState>,
    /// The conditions, one of each type: `Ready` (its schedule is in force), `Drilled` (every site
    /// of the last run was restored, read back and is equal), `Stalled`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<DrillRun>,
    /// The last ten runs that ended, the newest first. All of them, site by site, are in the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub runs: Vec<DrillRun>,
    /// The scratch namespaces that are there and are being taken away. No other is ever deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch_namespaces: Vec<NamespaceRef>,
    /// The time of the schedule for which it ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// The last value of the annotation `reprieve.dev/run-now` that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_now: Option<String>,
    /// When the last run ended in which every site was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// When it runs next by its schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_time: Option<Time>,
}

/// The state of a RestoreDrill in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillState {
    /// Waits for its time.
    Scheduled,
    /// Its time has come, and another drill runs.
    Waiting,
    /// A run is under way.
    Running,
    /// It does not run by itself for now.
    Suspended,
    /// It has no schedule, and has run.
    Idle,
    /// Its schedule or time zone is none.
    Invalid,
}

impl fmt::Display for DrillState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillTrigger {
    /// By its schedule.
    Schedule,
    /// Somebody asked for it, by the annotation `reprieve.dev/run-now`.
    Asked,
    /// It was created, and has no schedule.
    Created,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillStage {
    /// It chooses its sample.
    Choosing,
    /// Its Restore is at work.
    Restoring,
    /// Its scratch namespaces are being taken away.
    CleaningUp,
    /// What was found is being written to the store and on the Backups.
    Recording,
    /// It has ended.
    Ended,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillOutcome {
    /// Every site was restored, read back and is equal.
    Succeeded,
    /// At least one was not, or the run could not be made.
    Failed,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillRun {
    /// Its name, and that of its Restore. Example: `drill-monthly-20261201t0400-1f3a9c`.
    pub name: String,
    /// Why it began.
    pub trigger: DrillTrigger,
    /// How far it is.
    pub stage: DrillStage,
    /// The seed by which a random sample was drawn.
    pub seed: i64,
    /// When it began.
    pub start_time: Time,
    /// When it ended, cleaned up and recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<DrillOutcome>,
    /// Why, as one CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many sites it tried.
    #[serde(default)]
    pub sites: i64,
    /// How many of them were restored, read back and are equal.
    #[serde(default)]
    pub verified: i64,
    /// Objects that were created and compared.
    #[serde(default)]
    pub objects: i64,
    /// How long it took to restore and compare all of them, in seconds: the measured recovery time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_seconds: Option<i64>,
    /// Objects restored and compared in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects_per_second: Option<i64>,
    /// The time of the site in the middle until all its objects were created, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_milliseconds: Option<i64>,
    /// The time of the site in the middle to read them back and compare them, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_milliseconds: Option<i64>,
    /// The time of the slowest site, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_site_milliseconds: Option<i64>,
    /// What was not proved, because a drill must have no effect outside, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub not_proved: Vec<NotProved>,
    /// The first 20 failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub failures: Vec<RestoreFailure>,
    /// Where the evidence of the run lies, relative to the operator's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}
