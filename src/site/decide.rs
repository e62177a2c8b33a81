//! What to do about a Site: pure, from facts and the time.

use std::time::Duration;

use kube::{Resource, ResourceExt};

use super::awaiting::awaits;
use super::hooks;
use super::observe::{Count, Facts, NamespaceFacts};
use super::recreate::decide::stands_still;
use super::rows::{Account, NamespaceRow};
use crate::api::{
    ConditionStatus, ConditionType, Conditions, DeletionPhase, DeletionRequest, NamespaceRef,
    RESTORE_STOPPED, Reason, SiteRestore, SiteState, SiteStatus, TargetKind, Time, names,
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
    /// When to look again, if nothing changes before. None: not at all.
    pub requeue: Option<Duration>,
}

/// One write. None of them deletes or overwrites anything of a tenant.
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
    /// Put the account back into its binding.
    BindAccount(String),
}

/// How long until a Site that waits for somebody is looked at again, though nothing was seen.
const WAITING: Duration = Duration::from_secs(60);

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
    if restore_is_about_to_say(&facts.site) {
        let status = facts.site.status.clone().unwrap_or_default();
        return Decision { effects: vec![], status, notes: vec![], requeue: Some(WAITING) };
    }
    if let Some(still) = site_stands_still(&facts.site) {
        // Not one write but the status: what is held, purged or restored is another room's.
        return still.decision(status, generation, now);
    }

    let mut effects = vec![];
    let mut problems: Vec<Problem> = duplicate(facts).into_iter().collect();
    // One that shares its id and never had a namespace stays without our finalizer: no request can
    // name it, and the guard lets it be deleted only while there is none.
    let owns = !status.namespaces.is_empty();
    let fenced = facts.site.finalizers().iter().any(|f| f == names::FINALIZER);
    if !fenced && (problems.is_empty() || owns) {
        effects.push(Effect::AddFinalizer);
    }
    if problems.is_empty()
        && let Some((reason, message)) = facts.known.waits(&facts.site)
    {
        return awaits(facts, effects, status, (reason, message), now);
    }
    // An id that two entities have must not lead to a second set of namespaces.
    if problems.is_empty() {
        problems.extend(missing_policy(facts));
        problems.extend(missing_role(facts));
        for namespace in &facts.namespaces {
            match judge(facts, namespace) {
                Ok(mut more) => effects.append(&mut more),
                Err(refused) => problems.push(refused),
            }
        }
    }

    status.namespaces = facts.namespaces.iter().filter_map(|n| record(facts, n)).collect();
    let (state, ready, reason, message) = match problems.first() {
        Some(first) => {
            let all: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
            (SiteState::Degraded, ConditionStatus::False, first.reason, all.join("; "))
        }
        None if effects.is_empty() => {
            let message = "every namespace and account is there".to_owned();
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
    let (working, stalled) = (problems.is_empty() && !effects.is_empty(), !problems.is_empty());
    conditions.set_abnormal(ConditionType::Reconciling, why(working), generation, now);
    conditions.set_abnormal(ConditionType::Stalled, why(stalled), generation, now);

    let mut notes: Vec<Note> = facts.repaired.iter().map(|what| repaired(what)).collect();
    let (told, look) = hooks::say(facts, &mut status, now);
    notes.extend(told);
    let changed = old_reason.as_deref() != Some(reason.as_str());
    // That a new Site became ready, its conditions tell: an event for each of a fleet is noise.
    let first = old_reason.is_none_or(|r| r == Reason::Progressing.as_str());
    if changed && stalled {
        notes.push(Note::warning(reason, message));
    } else if changed && reason == Reason::Ready && !first {
        notes.push(Note::normal(reason, message));
    }
    let requeue = stalled.then_some(WAITING).into_iter().chain(look).min();
    Decision { effects, status, notes, requeue }
}

fn repaired(what: &str) -> Note {
    Note::warning(
        Reason::AccountRestored,
        format!("{what} of the account {} was gone, and was made again", names::APP_ACCOUNT),
    )
}

/// Why the room stands still, for Sites and their Apps alike.
pub(super) struct StandsStill {
    pub(super) state: SiteState,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl StandsStill {
    fn decision(self, mut status: SiteStatus, generation: Option<i64>, now: Time) -> Decision {
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
        Decision { effects: vec![], status, notes: vec![], requeue: Some(WAITING) }
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
                    "held by DeletionRequest {request} until {end}; to keep the site: {}",
                    DeletionRequest::how_to_cancel(request)
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
    restore.map(|restore| restoring(restore, status.and_then(|s| s.restore.as_ref())))
}

/// What a Site says that carries the mark of this Restore.
fn restoring(restore: &str, noted: Option<&SiteRestore>) -> StandsStill {
    let stopped = noted.is_some_and(|noted| noted.stage == RESTORE_STOPPED);
    let (state, reason) = match stopped {
        true => (SiteState::AwaitingRestore, Reason::RestoreStopped),
        false => (SiteState::Restoring, Reason::Restoring),
    };
    let message =
        noted.map_or_else(|| format!("being restored by Restore {restore}"), SiteRestore::in_words);
    StandsStill { state, reason, message }
}

/// Whether the Restore that has marked a Site is about to say where it stands: one write is enough
/// for both.
fn restore_is_about_to_say(site: &crate::api::Site) -> bool {
    let status = site.status.as_ref();
    let marked = site.annotations().contains_key(names::ANNOTATION_RESTORE);
    marked && status.is_none_or(|s| s.restore.is_none() && s.deletion.is_none())
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
    let others: Vec<String> =
        facts.holders.iter().filter(|h| h.uid != own).map(|h| h.describe()).collect();
    (!others.is_empty()).then(|| Problem {
        reason: Reason::DuplicateId,
        message: duplicate_message(&facts.site.spec.id, &others),
    })
}

/// What every holder of an id says of the others.
pub(super) fn duplicate_message(id: &str, others: &[String]) -> String {
    let more = others.len().saturating_sub(3);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = others.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    format!("id {id:?} is also the id of {named}{more}: ids are unique over Sites and Apps")
}

fn missing_policy(facts: &Facts) -> Option<Problem> {
    (!facts.policy_exists).then(|| Problem {
        reason: Reason::PolicyNotFound,
        message: format!(
            "DeletionPolicy {:?} does not exist: create it, or name another in spec.policyRef",
            facts.site.spec.policy_ref.name
        ),
    })
}

fn missing_role(facts: &Facts) -> Option<Problem> {
    (!facts.role_exists).then(|| Problem {
        reason: Reason::AccountChanged,
        message: format!(
            "ClusterRole {} does not exist, so that no App can be applied: kubectl apply --server-side -f deploy/rbac/operator.yaml",
            names::APP_ACCOUNT
        ),
    })
}

/// The UID at which this namespace was recorded as the site's.
fn recorded<'a>(facts: &'a Facts, name: &str) -> Option<&'a NamespaceRef> {
    facts.site.status.as_ref()?.namespaces.iter().find(|n| n.name == name)
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
    if let Some(before) = recorded(facts, name)
        && !consents(facts, namespace)
    {
        let (reason, what) = match &namespace.live {
            Some(live) if live.uid == before.uid && !live.terminating => {
                return judge_own(namespace, live, &site);
            }
            Some(live) if live.uid == before.uid => (
                Reason::NamespaceTerminating,
                format!("namespace {name} is being deleted past the gates; when it is gone,"),
            ),
            Some(_) => (
                Reason::NamespaceLost,
                format!(
                    "namespace {name} was deleted past the gates, and another one has its name now, which is not touched;"
                ),
            ),
            None => {
                (Reason::NamespaceLost, format!("namespace {name} was deleted past the gates;"))
            }
        };
        return Err(Problem { reason, message: format!("{what} {}", how_to_restore(facts, name)) });
    }
    let Some(live) = &namespace.live else {
        return Ok(vec![
            Effect::CreateNamespace(name.clone()),
            Effect::CreateAccount(name.clone()),
        ]);
    };
    if live.terminating {
        return Err(Problem {
            reason: Reason::NamespaceTerminating,
            message: format!("namespace {name} is being deleted: it is made anew when it is gone"),
        });
    }
    match &live.site {
        Some(owner) if *owner == site => judge_own(namespace, live, &site),
        Some(owner) => refuse(format!(
            "namespace {name} belongs to Site {owner}: a namespace has one Site; name another in spec.namespaces"
        )),
        None if live.adopt.as_ref() == Some(&site) => {
            Ok(vec![Effect::AdoptNamespace(name.clone()), Effect::CreateAccount(name.clone())])
        }
        None => refuse(format!(
            "namespace {name} exists and did not consent: kubectl annotate namespace {name} {}={site}",
            names::ANNOTATION_ADOPT
        )),
    }
}

/// Whether a namespace that took the place of a lost one consents to be the site's.
fn consents(facts: &Facts, namespace: &NamespaceFacts) -> bool {
    let site = facts.site.name_any();
    namespace.live.as_ref().is_some_and(|live| {
        !live.terminating
            && live.adopt.as_ref() == Some(&site)
            && live.site.as_ref().is_none_or(|owner| *owner == site)
    })
}

/// What a namespace that is the site's needs.
fn judge_own(
    namespace: &NamespaceFacts,
    live: &NamespaceRow,
    site: &str,
) -> Result<Vec<Effect>, Problem> {
    let name = &namespace.name;
    match &live.site {
        Some(owner) if owner == site => {}
        Some(owner) => {
            return Err(Problem {
                reason: Reason::NamespaceNotAdoptable,
                message: format!(
                    "namespace {name} is labelled as one of Site {owner} now: kubectl label --overwrite namespace {name} {}={site}",
                    names::LABEL_SITE
                ),
            });
        }
        // The guard knows the namespace by it.
        None => return Ok(vec![Effect::AdoptNamespace(name.clone())]),
    }
    match &namespace.account {
        Account::There(_) => Ok(vec![]),
        Account::Missing => Ok(vec![Effect::CreateAccount(name.clone())]),
        Account::Unbound => Ok(vec![Effect::BindAccount(name.clone())]),
        Account::WrongRole(role) => Err(Problem {
            reason: Reason::AccountChanged,
            message: format!(
                "the RoleBinding {account} in namespace {name} is to {role}, not to ClusterRole {account}: kubectl delete rolebinding {account} -n {name}; it is made again at once",
                account = names::APP_ACCOUNT
            ),
        }),
    }
}

/// How to bring back what a lost namespace held.
fn how_to_restore(facts: &Facts, namespace: &str) -> String {
    let site = facts.site.name_any();
    match &facts.newest_backup {
        Some(backup) => format!(
            "restore the site from its newest verified backup: {}",
            restore_command(&site, backup)
        ),
        None => format!(
            "the cluster has no verified Backup of the site to restore it from; to begin anew with an empty one: kubectl create namespace {namespace} && kubectl annotate namespace {namespace} {}={site}",
            names::ANNOTATION_ADOPT
        ),
    }
}

/// The command that restores a Site from this Backup.
pub(super) fn restore_command(site: &str, backup: &str) -> String {
    let restore = serde_json::json!({
        "apiVersion": names::API_VERSION,
        "kind": "Restore",
        "metadata": { "generateName": format!("{site}-") },
        "spec": { "source": { "backupRefs": [{ "name": backup }] } },
    });
    format!("echo '{restore}' | kubectl create -f -")
}

/// What to record of a namespace: what is the site's now; what was, while it is lost.
fn record(facts: &Facts, namespace: &NamespaceFacts) -> Option<NamespaceRef> {
    match recorded(facts, &namespace.name) {
        Some(before) if !consents(facts, namespace) => Some(before.clone()),
        _ => owned(facts, namespace),
    }
}

fn owned(facts: &Facts, namespace: &NamespaceFacts) -> Option<NamespaceRef> {
    let live = namespace.live.as_ref()?;
    let own = live.site.as_deref() == Some(facts.site.name_any().as_str()) && !live.terminating;
    own.then(|| NamespaceRef { name: namespace.name.clone(), uid: live.uid.clone() })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
