//! What to do about a Site: pure, from facts and the time.

use std::time::Duration;

use kube::{Resource, ResourceExt};

use super::observe::{Count, Facts, INVENTORY_MIN_AGE_SECONDS, NamespaceFacts};
use super::recreate::decide::stands_still;
use crate::api::{
    ConditionStatus, ConditionType, Conditions, DeletionPhase, NamespaceRef, Reason, SiteState,
    SiteStatus, TargetKind, Time, names,
};
use crate::cluster::Note;

/// What to do about a Site.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to write, in this order.
    pub effects: Vec<Effect>,
    /// The status as it should be; this room's fields of it.
    pub status: SiteStatus,
    /// What to tell.
    pub notes: Vec<Note>,
    /// When to look again, if nothing changes before.
    pub requeue: Duration,
}

/// One write. None of them deletes or overwrites anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put our finalizer on the Site: the last fence.
    AddFinalizer,
    /// Create a namespace with the Site's label.
    CreateNamespace(String),
    /// Label an existing namespace that consents.
    AdoptNamespace(String),
    /// Create the account by which Apps are applied, and its binding.
    CreateAccount(String),
}

/// The policy of namespaces that no Site may have: the cluster's own, and ours.
fn is_system(namespace: &str) -> bool {
    namespace == "default"
        || namespace == names::OPERATOR_NAMESPACE
        || namespace.starts_with("kube-")
}

/// Why a Site does not get on, if it does not.
struct Problem {
    reason: Reason,
    message: String,
}

/// Decides about a Site.
pub fn decide(facts: &Facts, now: Time) -> Decision {
    let mut status = facts.site.status.clone().unwrap_or_default();
    let generation = facts.site.metadata.generation;
    status.observed_generation = generation;
    if let Count::New(inventory) = &facts.count {
        status.inventory = Some(inventory.clone());
    }
    let was_ready = status.conditions.is_true(ConditionType::Ready);
    if let Some(still) = site_stands_still(&facts.site) {
        // Not one write but the status: what is held, purged or restored is another room's.
        return still.decision(status, generation, &facts.count, now);
    }

    let mut effects = vec![];
    if !facts.site.finalizers().iter().any(|f| f == names::FINALIZER) {
        effects.push(Effect::AddFinalizer);
    }
    let mut problem = duplicate(facts).or_else(|| missing_policy(facts));
    for namespace in &facts.namespaces {
        // An id that two entities have must not lead to a second set of namespaces.
        if problem.as_ref().is_some_and(|p| p.reason == Reason::DuplicateId) {
            break;
        }
        match judge(facts, namespace) {
            Ok(mut more) => effects.append(&mut more),
            Err(refused) => problem = problem.or(Some(refused)),
        }
    }

    status.namespaces = facts.namespaces.iter().filter_map(namespace_ref).collect();
    let mut notes = vec![];
    let (state, ready, reason, message) = match &problem {
        Some(problem) => {
            (SiteState::Degraded, ConditionStatus::False, problem.reason, problem.message.clone())
        }
        None if effects.is_empty() => {
            let ready_apps = facts.apps.iter().filter(|a| a.ready).count();
            let message = format!("{ready_apps} of {} Apps ready", facts.apps.len());
            (SiteState::Active, ConditionStatus::True, Reason::Ready, message)
        }
        None => (
            SiteState::Degraded,
            ConditionStatus::False,
            Reason::Progressing,
            "setting up namespaces and accounts".to_owned(),
        ),
    };
    status.state = Some(state);
    let conditions = &mut status.conditions;
    let old_reason = conditions.get(ConditionType::Ready).map(|c| c.reason.clone());
    conditions.set(ConditionType::Ready, ready, reason, message.clone(), generation, now);
    let why = |present: bool| present.then_some((reason, message.as_str()));
    let (working, stalled) = (problem.is_none() && !effects.is_empty(), problem.is_some());
    conditions.set_abnormal(ConditionType::Reconciling, why(working), generation, now);
    conditions.set_abnormal(ConditionType::Stalled, why(stalled), generation, now);
    if old_reason.as_deref() != Some(reason.as_str()) && reason != Reason::Progressing {
        notes.push(match problem {
            Some(_) => Note::warning(reason, message),
            None if !was_ready => Note::normal(reason, "every namespace and account is there"),
            None => Note::normal(reason, message),
        });
    }
    let requeue = match (&problem, &facts.count) {
        (Some(_), _) => 15,
        (None, Count::Later) => INVENTORY_MIN_AGE_SECONDS.unsigned_abs(),
        (None, Count::Fits | Count::New(_)) => 300,
    };
    Decision { effects, status, notes, requeue: Duration::from_secs(requeue) }
}

/// Why the room stands still, for Sites and their Apps alike.
pub(super) struct StandsStill {
    pub(super) state: SiteState,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl StandsStill {
    fn decision(
        self,
        mut status: SiteStatus,
        generation: Option<i64>,
        count: &Count,
        now: Time,
    ) -> Decision {
        status.state = Some(self.state);
        let conditions = &mut status.conditions;
        conditions.set(
            ConditionType::Ready,
            ConditionStatus::False,
            self.reason,
            self.message,
            generation,
            now,
        );
        conditions.unset(ConditionType::Reconciling);
        conditions.unset(ConditionType::Stalled);
        let requeue = if *count == Count::Later { INVENTORY_MIN_AGE_SECONDS } else { 60 };
        let requeue = Duration::from_secs(requeue.unsigned_abs());
        Decision { effects: vec![], status, notes: vec![], requeue }
    }
}

/// Whether a Site is held, purged, restored or being deleted past the gates.
pub(super) fn site_stands_still(site: &crate::api::Site) -> Option<StandsStill> {
    let status = site.status.as_ref();
    if let Some(deletion) = status.and_then(|s| s.deletion.as_ref()) {
        let request = &deletion.request_ref.name;
        let (state, message) = match (deletion.phase, deletion.retention_end_time) {
            (DeletionPhase::Purging, _) => {
                (SiteState::Purging, format!("being purged by DeletionRequest {request}"))
            }
            (DeletionPhase::Held, Some(end)) => (
                SiteState::PendingDeletion,
                format!(
                    "held by DeletionRequest {request} until {end}; to keep the site: kubectl patch dreq {request} --type=merge -p '{{\"spec\":{{\"cancel\":true}}}}'"
                ),
            ),
            (DeletionPhase::Held, None) => (
                SiteState::PendingDeletion,
                format!("held by DeletionRequest {request}; the window has not begun"),
            ),
        };
        return Some(StandsStill { state, reason: Reason::PendingDeletion, message });
    }
    if let Some((reason, message)) = past_guard(site) {
        let recreating = reason == Reason::Recreating;
        let state = if recreating { SiteState::Restoring } else { SiteState::PendingDeletion };
        return Some(StandsStill { state, reason, message });
    }
    let restore = site.annotations().get(names::ANNOTATION_RESTORE);
    if let Some(restore) = restore {
        return Some(StandsStill {
            state: SiteState::Restoring,
            reason: Reason::Restoring,
            message: format!("being restored by Restore {restore}"),
        });
    }
    None
}

/// Why a Site stands still that was deleted past the guard.
fn past_guard(site: &crate::api::Site) -> Option<(Reason, String)> {
    let mark = site.annotations().contains_key(names::ANNOTATION_RECREATE);
    let terminating = site.meta().deletion_timestamp.is_some();
    let told = site.status.as_ref().and_then(|s| s.unexpected_delete.as_ref());
    stands_still(TargetKind::Site, &site.name_any(), mark, terminating, told)
}

fn duplicate(facts: &Facts) -> Option<Problem> {
    let own = facts.site.uid().unwrap_or_default();
    let other = facts.holders.iter().find(|holder| holder.uid != own)?;
    Some(Problem {
        reason: Reason::DuplicateId,
        message: format!(
            "id {:?} is also the id of {}: ids are unique over Sites and Apps",
            facts.site.spec.id,
            other.describe()
        ),
    })
}

fn missing_policy(facts: &Facts) -> Option<Problem> {
    (!facts.policy_exists).then(|| Problem {
        reason: Reason::PolicyNotFound,
        message: format!("DeletionPolicy {:?} does not exist", facts.site.spec.policy_ref.name),
    })
}

/// What a namespace needs, or why the Site may not have it.
fn judge(facts: &Facts, namespace: &NamespaceFacts) -> Result<Vec<Effect>, Problem> {
    let refuse = |message| Err(Problem { reason: Reason::NamespaceNotAdoptable, message });
    let name = &namespace.name;
    let site = facts.site.name_any();
    if is_system(name) {
        return refuse(format!(
            "namespace {name} belongs to the system: name another in spec.namespaces"
        ));
    }
    let Some(live) = &namespace.live else {
        return Ok(vec![
            Effect::CreateNamespace(name.clone()),
            Effect::CreateAccount(name.clone()),
        ]);
    };
    if live.metadata.deletion_timestamp.is_some() {
        return Err(Problem {
            reason: Reason::NamespaceTerminating,
            message: format!(
                "namespace {name} is being deleted: restore the site from its last backup"
            ),
        });
    }
    let mut effects = vec![];
    match live.labels().get(names::LABEL_SITE) {
        Some(owner) if *owner == site => {}
        Some(owner) => return refuse(format!("namespace {name} belongs to Site {owner}")),
        None if live.annotations().get(names::ANNOTATION_ADOPT) == Some(&site) => {
            effects.push(Effect::AdoptNamespace(name.clone()));
        }
        None => {
            return refuse(format!(
                "namespace {name} exists and did not consent: kubectl annotate namespace {name} {}={site}",
                names::ANNOTATION_ADOPT
            ));
        }
    }
    if !namespace.has_account {
        effects.push(Effect::CreateAccount(name.clone()));
    }
    Ok(effects)
}

fn namespace_ref(namespace: &NamespaceFacts) -> Option<NamespaceRef> {
    let uid = namespace.live.as_ref()?.uid()?;
    Some(NamespaceRef { name: namespace.name.clone(), uid })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
