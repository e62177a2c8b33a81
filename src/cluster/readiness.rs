//! Whether an object does what its spec says, read from the object alone, as kstatus reads it.
//!
//! Pure: no client and no clock, so that it can be a table, and tried as one.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;

use super::form::group_of;

/// Whether an object is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does what its spec says.
    Ready,
    /// Not yet; in words, what it waits for.
    NotReady(String),
}

impl Readiness {
    /// Whether it is [`Readiness::Ready`].
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }

    /// What the object waits for, if it waits.
    pub fn waiting_for(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::NotReady(why) => Some(why),
        }
    }
}

fn not_ready(why: impl Into<String>) -> Readiness {
    Readiness::NotReady(why.into())
}

/// Whether this object is ready.
pub fn readiness(object: &Value) -> Readiness {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return not_ready("is being deleted");
    }
    // A status of an older spec says nothing about this one.
    let observed = object["status"]["observedGeneration"].as_i64();
    let generation = object["metadata"]["generation"].as_i64();
    if let (Some(observed), Some(generation)) = (observed, generation)
        && observed < generation
    {
        return not_ready("its controller has not seen the last change yet");
    }
    match (group_of(object), object["kind"].as_str().unwrap_or_default()) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") => replica_set(object),
        ("batch", "Job") => job(object),
        ("", "Pod") => pod(object),
        ("", "PersistentVolumeClaim") => claim(object),
        ("", "Service") => service(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        _ => generic(object),
    }
}

/// Why a namespace that is being deleted does not go, as the namespace controller says it.
pub fn waits_for(namespace: &Namespace) -> String {
    let conditions = namespace.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let said: Vec<&str> =
        conditions.filter(|c| c.status == "True").filter_map(|c| c.message.as_deref()).collect();
    if said.is_empty() { "its objects are being deleted".to_owned() } else { said.join("; ") }
}

/// Whether this object has run to its end and will do nothing more: a Job that completed or
/// failed, a Pod that ended. Creating such an object again would run it again.
pub fn is_finished(object: &Value) -> bool {
    match (group_of(object), object["kind"].as_str().unwrap_or_default()) {
        ("batch", "Job") => ["Complete", "Failed"]
            .iter()
            .any(|type_| condition(object, type_).is_some_and(|c| c["status"] == "True")),
        ("", "Pod") => {
            matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        }
        _ => false,
    }
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)
}

/// A condition's own words, for people.
fn words(condition: &Value) -> String {
    let reason = condition["reason"].as_str().unwrap_or_default();
    let message = condition["message"].as_str().unwrap_or_default();
    match (reason.is_empty(), message.is_empty()) {
        (false, false) => format!("{reason}: {message}"),
        (false, true) => reason.to_owned(),
        (true, false) => message.to_owned(),
        (true, true) => "no reason given".to_owned(),
    }
}

fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn desired(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// The first of these counts that has not arrived.
fn first_short(counts: &[(&str, i64, i64)]) -> Readiness {
    match counts.iter().find(|(_, have, want)| have < want) {
        Some((word, have, want)) => not_ready(format!("{have} of {want} replicas {word}")),
        None => Readiness::Ready,
    }
}

/// An empty status is a controller that was not there yet. For workloads that is "not ready",
/// however few replicas they want.
fn unseen(object: &Value) -> Option<Readiness> {
    object["status"]["observedGeneration"]
        .is_null()
        .then(|| not_ready("its controller has not seen it yet"))
}

fn deployment(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    if let Some(failure) = condition(object, "ReplicaFailure")
        && failure["status"] == "True"
    {
        return not_ready(words(failure));
    }
    if let Some(progressing) = condition(object, "Progressing")
        && progressing["reason"] == "ProgressDeadlineExceeded"
    {
        return not_ready(words(progressing));
    }
    let (status, want) = (&object["status"], desired(object));
    let updated = count(&status["updatedReplicas"]);
    if let short @ Readiness::NotReady(_) = first_short(&[("updated", updated, want)]) {
        return short;
    }
    let old = count(&status["replicas"]) - updated;
    if old > 0 {
        return not_ready(format!("{old} old replicas still running"));
    }
    first_short(&[
        ("available", count(&status["availableReplicas"]), want),
        ("ready", count(&status["readyReplicas"]), want),
    ])
}

fn stateful_set(object: &Value) -> Readiness {
    // Whoever asks for OnDelete updates the Pods himself.
    if object["spec"]["updateStrategy"]["type"] == "OnDelete" {
        return Readiness::Ready;
    }
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    let (status, want) = (&object["status"], desired(object));
    if let short @ Readiness::NotReady(_) = first_short(&[
        ("created", count(&status["replicas"]), want),
        ("ready", count(&status["readyReplicas"]), want),
    ]) {
        return short;
    }
    let extra = count(&status["replicas"]) - want;
    if extra > 0 {
        return not_ready(format!("{extra} replicas too many"));
    }
    let partition = count(&object["spec"]["updateStrategy"]["rollingUpdate"]["partition"]);
    if partition > 0 {
        let updated = count(&status["updatedReplicas"]);
        return first_short(&[("updated", updated, (want - partition).max(0))]);
    }
    if status["currentRevision"] != status["updateRevision"] {
        return not_ready("an update is rolling out");
    }
    Readiness::Ready
}

fn daemon_set(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    let status = &object["status"];
    let want = count(&status["desiredNumberScheduled"]);
    first_short(&[
        ("scheduled", count(&status["currentNumberScheduled"]), want),
        ("updated", count(&status["updatedNumberScheduled"]), want),
        ("available", count(&status["numberAvailable"]), want),
        ("ready", count(&status["numberReady"]), want),
    ])
}

fn replica_set(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    if let Some(failure) = condition(object, "ReplicaFailure")
        && failure["status"] == "True"
    {
        return not_ready(words(failure));
    }
    let (status, want) = (&object["status"], desired(object));
    if count(&status["replicas"]) > want {
        return not_ready(format!("{} replicas too many", count(&status["replicas"]) - want));
    }
    first_short(&[
        ("created", count(&status["replicas"]), want),
        ("available", count(&status["availableReplicas"]), want),
        ("ready", count(&status["readyReplicas"]), want),
    ])
}

/// A Job is ready once it runs: how long it takes is its own affair.
fn job(object: &Value) -> Readiness {
    if let Some(failed) = condition(object, "Failed")
        && failed["status"] == "True"
    {
        return not_ready(format!("failed: {}", words(failed)));
    }
    let complete = condition(object, "Complete").is_some_and(|c| c["status"] == "True");
    let suspended = object["spec"]["suspend"] == true;
    if complete || suspended || !object["status"]["startTime"].is_null() {
        return Readiness::Ready;
    }
    not_ready("has not started")
}

fn pod(object: &Value) -> Readiness {
    match object["status"]["phase"].as_str() {
        Some("Succeeded") => return Readiness::Ready,
        Some("Failed") => {
            let why = object["status"]["reason"].as_str().unwrap_or("its containers failed");
            return not_ready(format!("failed: {why}"));
        }
        _ => {}
    }
    if condition(object, "Ready").is_some_and(|c| c["status"] == "True") {
        return Readiness::Ready;
    }
    // The container's own reason says most: CrashLoopBackOff, ImagePullBackOff.
    let containers = object["status"]["containerStatuses"].as_array().into_iter().flatten();
    let waiting = containers.filter_map(|c| {
        let reason = c["state"]["waiting"]["reason"].as_str()?;
        Some(format!("container {} waits: {reason}", c["name"].as_str().unwrap_or_default()))
    });
    if let Some(why) = waiting.into_iter().next() {
        return not_ready(why);
    }
    if let Some(scheduled) = condition(object, "PodScheduled")
        && scheduled["status"] == "False"
    {
        return not_ready(words(scheduled));
    }
    not_ready("its containers are not ready")
}

fn claim(object: &Value) -> Readiness {
    match object["status"]["phase"].as_str() {
        Some("Bound") => Readiness::Ready,
        Some(phase) => not_ready(format!("is {phase}, not bound to a volume")),
        None => not_ready("is not bound to a volume"),
    }
}

fn service(object: &Value) -> Readiness {
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
    if object["spec"]["type"] == "LoadBalancer" && ingress.is_none_or(Vec::is_empty) {
        return not_ready("has no address of a load balancer");
    }
    Readiness::Ready
}

fn definition(object: &Value) -> Readiness {
    if let Some(names) = condition(object, "NamesAccepted")
        && names["status"] == "False"
    {
        return not_ready(words(names));
    }
    match condition(object, "Established") {
        Some(established) if established["status"] == "True" => Readiness::Ready,
        _ => not_ready("is not established"),
    }
}

/// Every other kind: by the conditions that kstatus knows. Who reports none is ready.
fn generic(object: &Value) -> Readiness {
    for type_ in ["Stalled", "Reconciling"] {
        if let Some(found) = condition(object, type_)
            && found["status"] == "True"
        {
            return not_ready(words(found));
        }
    }
    match condition(object, "Ready") {
        Some(ready) if ready["status"] != "True" => not_ready(words(ready)),
        _ => Readiness::Ready,
    }
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
