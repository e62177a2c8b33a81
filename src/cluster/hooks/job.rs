//! The Job that is made of a hook, and what a live one and its Pods say. Pure.

use serde_json::{Value, json};

use crate::api::{Hook, HookState, names};
use crate::cluster::form::digest_of;

/// For how long a Job that has ended stays, in seconds: one day. The cluster takes it away.
const STAYS_SECONDS: i64 = 86_400;

/// The name of the Job of a hook: the same after a crash, and another one for every other backup or
/// restore. `of` is that of [`job`].
pub fn name(hook: &str, of: &str) -> String {
    let digest = digest_of(format!("{of}/{hook}").as_bytes());
    format!("hook-{}-{hook}", digest.get(7..17).unwrap_or_default())
}

/// The Job of a hook, suspended. `of` says for what it is run, with a UID.
pub fn job(hook: &Hook, namespace: &str, of: &str) -> Value {
    let metadata = hook.template.metadata.clone().unwrap_or_default();
    let mut labels = json!(metadata.labels.unwrap_or_default());
    labels[names::LABEL_HOOK] = json!(hook.name);
    let mut annotations = json!(metadata.annotations.unwrap_or_default());
    annotations[names::ANNOTATION_HOOK_OF] = json!(of);
    let mut spec = hook.template.spec.clone();
    if spec.is_object() {
        let deadline = spec["activeDeadlineSeconds"].as_i64().unwrap_or(i64::MAX);
        spec["activeDeadlineSeconds"] = json!(deadline.min(hook.timeout_seconds));
        spec["suspend"] = json!(true);
        spec["ttlSecondsAfterFinished"] = json!(STAYS_SECONDS);
        if spec["backoffLimit"].is_null() {
            spec["backoffLimit"] = json!(0);
        }
        let pods = &mut spec["template"]["spec"];
        if pods.is_object() && pods["serviceAccountName"].is_null() {
            pods["serviceAccountName"] = json!(names::APP_ACCOUNT);
        }
    }
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name(&hook.name, of), "namespace": namespace,
            "labels": labels, "annotations": annotations,
        },
        "spec": spec,
    })
}

/// A Job that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// UID.
    pub uid: String,
    /// What it says that it is run for.
    pub of: Option<String>,
    /// Whether it does not run yet.
    pub suspended: bool,
    /// How it ended, if it did.
    pub end: Option<End>,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Whether it completed.
    pub good: bool,
    /// The word of its condition.
    pub reason: String,
    /// The message of its condition.
    pub message: String,
}

impl End {
    /// What that means for the hook.
    pub fn state(&self) -> HookState {
        match (self.good, self.reason.as_str()) {
            (true, _) => HookState::Succeeded,
            (false, "DeadlineExceeded") => HookState::TimedOut,
            (false, _) => HookState::Failed,
        }
    }
}

/// How a Job ended, in words.
pub fn describe(end: &End) -> String {
    match end.good {
        true => "its Job completed".to_owned(),
        false => format!("its Job failed: {}: {}", end.reason, end.message),
    }
}

/// What a live Job says.
pub fn read(live: &Value) -> Live {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let holds = |type_: &str| {
        let all = live["status"]["conditions"].as_array();
        all.into_iter().flatten().find(|c| c["type"] == type_ && c["status"] == "True")
    };
    let end = |good: bool, c: &Value| End {
        good,
        reason: text(&c["reason"]),
        message: text(&c["message"]),
    };
    Live {
        uid: text(&live["metadata"]["uid"]),
        of: live["metadata"]["annotations"][names::ANNOTATION_HOOK_OF].as_str().map(str::to_owned),
        suspended: live["spec"]["suspend"] == true,
        end: holds("Complete")
            .map(|c| end(true, c))
            .or_else(|| holds("Failed").map(|c| end(false, c))),
    }
}

/// What the Pods of a Job say that keeps it from getting on, or made it fail. Not what its
/// containers have written: that may be secret.
pub fn trouble(pods: &[Value]) -> Option<String> {
    let pod = pods.last()?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let all = ["initContainerStatuses", "containerStatuses"];
    let mut all = all.iter().filter_map(|of| pod["status"][of].as_array()).flatten();
    let of_container = all.find_map(|container| {
        let (of, state) = (container["name"].as_str()?, &container["state"]);
        let code = state["terminated"]["exitCode"].as_i64().filter(|code| *code != 0);
        if let Some(code) = code {
            return Some(format!("container {of} of Pod {name} ended with exit code {code}"));
        }
        let usual = ["ContainerCreating", "PodInitializing"];
        let waits = state["waiting"]["reason"].as_str().filter(|why| !usual.contains(why))?;
        Some(format!("container {of} of Pod {name} waits: {waits}"))
    });
    let conditions = pod["status"]["conditions"].as_array();
    let unscheduled = || {
        let mut all = conditions.into_iter().flatten();
        let no = all.find(|c| c["type"] == "PodScheduled" && c["status"] == "False")?;
        let why = no["message"].as_str().unwrap_or_default();
        pod["spec"]["nodeName"].is_null().then(|| format!("no pod was scheduled: {why}"))
    };
    of_container.or_else(unscheduled)
}

/// Where a Job is whose Pods have no trouble.
pub fn standing(pods: &[Value]) -> String {
    match pods.last() {
        None => "it has no Pod: its events say why".to_owned(),
        Some(pod) => {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
            format!("its Pod {name} is {phase}")
        }
    }
}
