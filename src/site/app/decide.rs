//! What to apply of an App, and what to say of what was applied: pure.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::observe::Facts;
use crate::api::{
    AppState, AppStatus, AppliedObject, ConditionStatus, ConditionType, Conditions, Reason,
    SiteState, TargetKind, Time, names,
};
use crate::cluster::Note;
use crate::site::decide::site_stands_still;
use crate::site::recreate::decide::stands_still;

/// What to apply.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing: the site is held, purged or restored.
    StandStill {
        /// The state to show.
        state: AppState,
        /// Why.
        reason: Reason,
        /// Why, in words.
        message: String,
    },
    /// Nothing: something is wrong with the App.
    Refuse {
        /// Why.
        reason: Reason,
        /// Why, in words.
        message: String,
    },
    /// These objects, in this order.
    Apply {
        /// Whether our finalizer has to be put on first.
        add_finalizer: bool,
        /// Whether all of it was applied as it is now, and some of it is waited for: then it is
        /// enough to look at that.
        only_look: bool,
        /// The objects.
        objects: Vec<ToApply>,
    },
}

/// One object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct ToApply {
    /// Its place in `spec.manifests`.
    pub index: usize,
    /// `apiVersion/kind`, the key into the facts' kinds.
    pub kind_key: String,
    /// The object's name.
    pub name: String,
    /// The object, labelled and with its namespace.
    pub object: Value,
    /// The object as the App recorded it when it applied it before, if it did: then it is the
    /// App's own, and its fields are taken back from whoever changed them.
    pub known: Option<AppliedObject>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// It is there; whether it is ready, by its own status.
    Done {
        /// What to record.
        object: AppliedObject,
    },
    /// The API server refused it.
    Failed {
        /// Its place in `spec.manifests`.
        index: usize,
        /// What the API server said.
        message: String,
    },
}

/// Decides what to apply.
pub fn plan(facts: &Facts) -> Plan {
    let app = &facts.app;
    let namespace = app.namespace().unwrap_or_default();
    if let Some(deletion) = app.status.as_ref().and_then(|s| s.deletion.as_ref()) {
        let message = format!("being deleted by DeletionRequest {}", deletion.request_ref.name);
        return Plan::StandStill {
            state: AppState::Purging,
            reason: Reason::PendingDeletion,
            message,
        };
    }
    let told = app.status.as_ref().and_then(|s| s.unexpected_delete.as_ref());
    let mark = app.annotations().contains_key(names::ANNOTATION_RECREATE);
    let terminating = app.metadata.deletion_timestamp.is_some();
    let still = stands_still(TargetKind::App, &app.name_any(), mark, terminating, told);
    if let Some((reason, message)) = still {
        let recreating = reason == Reason::Recreating;
        let state = if recreating { AppState::Restoring } else { AppState::PendingDeletion };
        return Plan::StandStill { state, reason, message };
    }
    if let Some(still) = facts.site.as_ref().and_then(site_stands_still) {
        let state = match still.state {
            SiteState::Restoring | SiteState::AwaitingRestore => AppState::Restoring,
            SiteState::Purging => AppState::Purging,
            SiteState::PendingDeletion | SiteState::Active | SiteState::Degraded => {
                AppState::PendingDeletion
            }
        };
        return Plan::StandStill { state, reason: still.reason, message: still.message };
    }
    let own = app.uid().unwrap_or_default();
    if let Some(other) = facts.holders.iter().find(|holder| holder.uid != own) {
        let message = format!(
            "id {:?} is also the id of {}: ids are unique over Sites and Apps",
            app.spec.id,
            other.describe()
        );
        return Plan::Refuse { reason: Reason::DuplicateId, message };
    }
    if facts.site.is_none() {
        let message = format!(
            "namespace {namespace} belongs to no Site: create a Site with spec.namespaces [{namespace}] first"
        );
        return Plan::Refuse { reason: Reason::NoSite, message };
    }
    match objects(facts, &namespace) {
        Ok(objects) => Plan::Apply {
            only_look: only_look(facts, &objects),
            add_finalizer: !app.finalizers().iter().any(|f| f == names::FINALIZER),
            objects,
        },
        Err(message) => Plan::Refuse { reason: Reason::InvalidManifest, message },
    }
}

/// While workloads come up their status changes many times a second, and applying everything at
/// each change would be most of the operator's work.
fn only_look(facts: &Facts, objects: &[ToApply]) -> bool {
    let Some(status) = &facts.app.status else { return false };
    let ready = status.conditions.get(ConditionType::Ready);
    status.observed_generation == facts.app.metadata.generation
        && ready.is_some_and(|c| c.reason == Reason::ObjectsNotReady.as_str())
        && objects.iter().all(|o| o.known.is_some())
}

/// The objects of the manifests, or what is wrong with the first that is wrong.
fn objects(facts: &Facts, namespace: &str) -> Result<Vec<ToApply>, String> {
    let app = facts.app.name_any();
    let mut seen = BTreeSet::new();
    let mut all = vec![];
    for (index, manifest) in facts.app.spec.manifests.iter().enumerate() {
        let wrong = |what: String| format!("manifests[{index}]: {what}");
        let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let version =
            text(&manifest["apiVersion"]).ok_or_else(|| wrong("has no apiVersion".into()))?;
        let kind = text(&manifest["kind"]).ok_or_else(|| wrong("has no kind".into()))?;
        let name = text(&manifest["metadata"]["name"])
            .ok_or_else(|| wrong(format!("{kind} has no metadata.name")))?;
        if version.starts_with("reprieve.dev/") {
            return Err(wrong(format!(
                "{kind} {name} is of {}, which an App cannot hold",
                names::GROUP
            )));
        }
        let kind_key = format!("{version}/{kind}");
        let Some(known) = facts.kinds.get(&kind_key) else {
            return Err(wrong(format!("the cluster does not know the kind {kind} of {version}")));
        };
        if !known.namespaced {
            return Err(wrong(format!(
                "{kind} {name} is cluster-scoped, which an App cannot hold"
            )));
        }
        if let Some(other) = text(&manifest["metadata"]["namespace"]).filter(|n| n != namespace) {
            return Err(wrong(format!(
                "{kind} {name} is in namespace {other}, not in the App's, {namespace}"
            )));
        }
        if !seen.insert((known.resource.group.clone(), kind.clone(), name.clone())) {
            return Err(wrong(format!("{kind} {name} is there twice")));
        }
        let mut object = manifest.clone();
        object["metadata"]["namespace"] = json!(namespace);
        object["metadata"]["labels"][names::LABEL_APP] = json!(app);
        let known = facts.app.status.as_ref().and_then(|status| {
            let is_it =
                |o: &&AppliedObject| o.api_version == version && o.kind == kind && o.name == name;
            status.objects.iter().find(is_it).cloned()
        });
        all.push(ToApply { index, kind_key, name, object, known });
    }
    Ok(all)
}

/// What to say of what was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status as it should be.
    pub status: AppStatus,
    /// What to tell.
    pub notes: Vec<Note>,
    /// When to look again, if nothing changes before.
    pub requeue: Duration,
}

/// Says what became of the App.
pub fn conclude(facts: &Facts, plan: &Plan, applied: &[Applied], now: Time) -> Decision {
    let mut status = facts.app.status.clone().unwrap_or_default();
    let generation = facts.app.metadata.generation;
    status.observed_generation = generation;
    let (state, reason, message, seconds) = match plan {
        Plan::StandStill { state, reason, message } => (*state, *reason, message.clone(), 30),
        Plan::Refuse { reason, message } => (AppState::Degraded, *reason, message.clone(), 15),
        Plan::Apply { .. } => {
            status.objects = record(&status.objects, applied);
            judge(applied)
        }
    };
    status.state = Some(state);
    let ready = if state == AppState::Active && reason == Reason::Ready {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    };
    let conditions = &mut status.conditions;
    let old_reason = conditions.get(ConditionType::Ready).map(|c| c.reason.clone());
    conditions.set(ConditionType::Ready, ready, reason, message.clone(), generation, now);
    let stalled = matches!(plan, Plan::Refuse { .. }) || reason == Reason::ApplyFailed;
    let why = |present: bool| present.then_some((reason, message.as_str()));
    let waiting = reason == Reason::ObjectsNotReady;
    conditions.set_abnormal(ConditionType::Stalled, why(stalled), generation, now);
    conditions.set_abnormal(ConditionType::Reconciling, why(waiting), generation, now);
    let mut notes = vec![];
    // The alarm of a delete past the guard is given by `recreate`, which no crash keeps from it.
    let told_elsewhere = [Reason::ObjectsNotReady, Reason::UnexpectedDelete, Reason::Recreating];
    if old_reason.as_deref() != Some(reason.as_str()) && !told_elsewhere.contains(&reason) {
        notes.push(if stalled {
            Note::warning(reason, message)
        } else {
            Note::normal(reason, message)
        });
    }
    Decision { status, notes, requeue: Duration::from_secs(seconds) }
}

/// What the App owns: what was applied now, and what was applied before and not refused since. An
/// object that could not be applied this time is still the App's.
fn record(before: &[AppliedObject], applied: &[Applied]) -> Vec<AppliedObject> {
    let mut all: Vec<AppliedObject> = applied
        .iter()
        .filter_map(|a| match a {
            Applied::Done { object } => Some(object.clone()),
            Applied::Failed { .. } => None,
        })
        .collect();
    for old in before {
        let same = |o: &AppliedObject| {
            (&o.api_version, &o.kind, &o.name) == (&old.api_version, &old.kind, &old.name)
        };
        if !all.iter().any(same) {
            all.push(old.clone());
        }
    }
    all
}

fn judge(applied: &[Applied]) -> (AppState, Reason, String, u64) {
    let total = applied.len();
    let failed: Vec<String> = applied
        .iter()
        .filter_map(|a| match a {
            Applied::Failed { index, message } => Some(format!("manifests[{index}]: {message}")),
            Applied::Done { .. } => None,
        })
        .collect();
    if let Some(first) = failed.first() {
        let message = format!("{} of {total} objects could not be applied; {first}", failed.len());
        return (AppState::Degraded, Reason::ApplyFailed, message, 15);
    }
    let waiting: Vec<String> = applied
        .iter()
        .filter_map(|a| match a {
            Applied::Done { object } => object
                .waiting_for
                .as_ref()
                .map(|why| format!("{} {}: {why}", object.kind, object.name)),
            Applied::Failed { .. } => None,
        })
        .collect();
    match waiting.first() {
        Some(first) => {
            let message = format!("{} of {total} objects not ready; {first}", waiting.len());
            (AppState::Degraded, Reason::ObjectsNotReady, message, 5)
        }
        None => {
            (AppState::Active, Reason::Ready, format!("{total} objects applied and ready"), 300)
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
