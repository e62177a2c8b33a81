//! Hooks: Jobs of a site around its backups and restores, and what became of them.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ObjectRef, Reason, Time, VerifiedSite};

/// Jobs around backups and restores of a site: to dump a database before it is backed up, to
/// reconnect integrations after a restore. They are run one after the other, in the site's first
/// namespace, and created as its account `reprieve-app`: a hook can do nothing that this account may
/// not. None is ever run twice for one backup or restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Run before a backup reads the site, in this order, at most 8. While the Site is held for a
    /// deletion only the first backup of the request runs them: later its workloads are out of
    /// service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub before_backup: Vec<Hook>,
    /// Run after a restore has brought the site back, every object was read back equal and its
    /// workloads are ready, in this order, at most 8. Only when they ended well is the site Active. A
    /// restore of single Apps does not run them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub after_restore: Vec<AfterRestoreHook>,
}

impl Hooks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.before_backup.is_empty() && self.after_restore.is_empty()
    }
}

/// A Job that is run once for each backup or restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// Its name, unique in its list: a DNS label of at most 40 characters. The Job is named after
    /// it. Example: `dump-database`.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The Job, as `jobTemplate` of a CronJob has it.
    pub template: HookTemplate,
    /// How long it may take from its begin until it has completed, in seconds, waiting for a node
    /// included, 1 to 86400. It becomes the Job's `activeDeadlineSeconds`. Default 600.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: i64,
    /// What happens when it fails, takes too long, cannot be created or is lost. `Fail` (the
    /// default): the backup is not made, the restore of the site fails. `Continue`: it goes on, and
    /// its status tells.
    #[serde(default)]
    pub on_error: OnHookError,
}

fn default_timeout() -> i64 {
    600
}

/// A hook of a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AfterRestoreHook {
    /// The hook.
    #[serde(flatten)]
    pub hook: Hook,
    /// Whether drills run it too, in their scratch namespaces: only for one that has no effect
    /// outside of its namespace. A drill tells those that it did not run as not proved. Default
    /// false.
    #[serde(default)]
    pub safe_in_drills: bool,
}

/// What is done when a hook does not end well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnHookError {
    /// The backup, or the restore of the site, fails.
    #[default]
    Fail,
    /// It goes on, and its status tells.
    Continue,
}

/// A Job that is to be: a `batch/v1` JobTemplateSpec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookTemplate {
    /// Labels and annotations of the Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<HookMetadata>,
    /// The `spec` of a `batch/v1` Job. It is checked by a dry run when the Site is written: see the
    /// Site's condition `HooksValid`. The operator sets `suspend`, `activeDeadlineSeconds` (at most
    /// `timeoutSeconds`) and `ttlSecondsAfterFinished` (one day); where absent, `backoffLimit` 0 and
    /// the Pods' `serviceAccountName` `reprieve-app`.
    #[schemars(schema_with = "spec_schema")]
    pub spec: Value,
}

fn spec_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Labels and annotations of a hook's Job. Its name is the operator's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookStatus {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: HookState,
    /// Its Job, as `namespace/name`. Absent: none was to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// UID of the Job. From when it stands here the Job may have run, and no other is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its outcome was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What happened, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a hook stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HookState {
    /// Its Job was made, and has not ended.
    Running,
    /// Its Job completed.
    Succeeded,
    /// Its Job failed.
    Failed,
    /// It took longer than `timeoutSeconds`, and was stopped.
    TimedOut,
    /// Its Job could not be created: the template is not valid, a quota, a missing right.
    Refused,
    /// Its Job was deleted before it had ended. It is not run again.
    Lost,
    /// It was not to be run: the Site is held, or being deleted.
    Skipped,
}

impl HookState {
    /// Whether nothing more will happen.
    pub fn has_ended(self) -> bool {
        self != Self::Running
    }

    /// Whether it is what `onError` is about.
    pub fn is_error(self) -> bool {
        match self {
            Self::Failed | Self::TimedOut | Self::Refused | Self::Lost => true,
            Self::Running | Self::Succeeded | Self::Skipped => false,
        }
    }

    /// The word for it in conditions, events and metrics.
    pub fn reason(self) -> Reason {
        match self {
            Self::Running => Reason::HookRunning,
            Self::Succeeded => Reason::HookSucceeded,
            Self::Failed => Reason::HookFailed,
            Self::TimedOut => Reason::HookTimedOut,
            Self::Refused => Reason::HookRefused,
            Self::Lost => Reason::HookLost,
            Self::Skipped => Reason::HookSkipped,
        }
    }
}

/// The hooks of a restore of one site. They begin once everything was read back equal, which stands
/// here too: what a hook then changes is not compared again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreHooks {
    /// The Restore.
    pub restore_ref: ObjectRef,
    /// UID of that Restore.
    pub restore_uid: String,
    /// What was read back.
    pub verified: VerifiedSite,
    /// The hooks that were begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub hooks: Vec<HookStatus>,
}
