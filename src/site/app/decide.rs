//! What to apply of an App: pure. What to say of it is in `conclude`.

use kube::ResourceExt;

use super::manifest::{ToApply, objects};
use super::observe::Facts;
use crate::api::{
    AppState, AppliedObject, DeletionPhase, ManifestFailure, Reason, SiteState, TargetKind, Time,
    names,
};
use crate::site::decide::{duplicate_message, site_stands_still};
use crate::site::recreate::decide::stands_still as past_guard;
use crate::site::rows::Account;

/// What to apply.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing: the site is held, purged or restored, or not set up yet.
    StandStill {
        /// The state to show.
        state: AppState,
        /// Why.
        reason: Reason,
        /// Why, in words.
        message: String,
    },
    /// Nothing: something is wrong with the App as a whole.
    Refuse {
        /// Why.
        reason: Reason,
        /// Why, in words.
        message: String,
    },
    /// These objects.
    Apply(Steps),
}

/// What to do for each object.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Whether our finalizer has to be put on first.
    pub add_finalizer: bool,
    /// The objects of the manifests that can be applied, and what to do for each.
    pub steps: Vec<(ToApply, Todo)>,
    /// What is wrong with the other manifests.
    pub failures: Vec<ManifestFailure>,
    /// Objects that left the manifests, and live.
    pub orphans: Vec<AppliedObject>,
}

/// What to do for one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Todo {
    /// It is as it was applied.
    Keep(AppliedObject),
    /// It is on its way out, and is made anew when it is gone.
    Wait(AppliedObject),
    /// It is not there.
    Create {
        /// It was: somebody has deleted it.
        was_there: bool,
    },
    /// It lives, or may: if it is the App's, it is applied.
    Apply {
        /// The object as the App recorded it, if it did.
        record: Option<AppliedObject>,
        /// Somebody has changed what the App owns of it.
        drifted: bool,
    },
    /// Somebody changes it again and again.
    LeaveAlone {
        /// The object as the App recorded it.
        record: AppliedObject,
        /// Until when.
        until: Time,
        /// What is changed, and by whom.
        what: String,
    },
}

impl Plan {
    /// Whether anything is to be written but the status.
    pub fn writes(&self) -> bool {
        match self {
            Self::StandStill { .. } | Self::Refuse { .. } => false,
            Self::Apply(steps) => {
                let writes = |(_, todo): &(ToApply, Todo)| {
                    matches!(todo, Todo::Create { .. } | Todo::Apply { .. })
                };
                steps.add_finalizer || steps.steps.iter().any(writes)
            }
        }
    }
}

/// Decides what to apply.
pub fn plan(facts: &Facts) -> Plan {
    if let Some(plan) = stands_still(facts) {
        return plan;
    }
    if let Some((reason, message)) = refused(facts) {
        return Plan::Refuse { reason, message };
    }
    if facts.app.spec.service_account_name == names::APP_ACCOUNT
        && facts.account == Account::Missing
    {
        return Plan::StandStill {
            state: AppState::Degraded,
            reason: Reason::Progressing,
            message: format!("the ServiceAccount {} is being made", names::APP_ACCOUNT),
        };
    }
    let (good, failures) = objects(&facts.app, &facts.kinds);
    let orphans = orphans(facts, &good, &failures);
    let steps = good
        .into_iter()
        .map(|object| {
            let todo = todo(facts, &object);
            (object, todo)
        })
        .collect();
    let add_finalizer = !facts.app.finalizers().iter().any(|f| f == names::FINALIZER);
    Plan::Apply(Steps { add_finalizer, steps, failures, orphans })
}

fn stands_still(facts: &Facts) -> Option<Plan> {
    let app = &facts.app;
    if let Some(deletion) = app.status.as_ref().and_then(|s| s.deletion.as_ref()) {
        let request = &deletion.request_ref.name;
        let (state, message) = match deletion.phase {
            DeletionPhase::Held => {
                (AppState::PendingDeletion, format!("held by DeletionRequest {request}"))
            }
            DeletionPhase::Purging => {
                (AppState::Purging, format!("being purged by DeletionRequest {request}"))
            }
        };
        return Some(Plan::StandStill { state, reason: Reason::PendingDeletion, message });
    }
    let told = app.status.as_ref().and_then(|s| s.unexpected_delete.as_ref());
    let mark = app.annotations().contains_key(names::ANNOTATION_RECREATE);
    let terminating = app.metadata.deletion_timestamp.is_some();
    if let Some((reason, message)) =
        past_guard(TargetKind::App, &app.name_any(), mark, terminating, told)
    {
        let recreating = reason == Reason::Recreating;
        let state = if recreating { AppState::Restoring } else { AppState::PendingDeletion };
        return Some(Plan::StandStill { state, reason, message });
    }
    if let Some(restore) = app.annotations().get(names::ANNOTATION_RESTORE) {
        return Some(Plan::StandStill {
            state: AppState::Restoring,
            reason: Reason::Restoring,
            message: format!("being restored by Restore {restore}"),
        });
    }
    if let Some(still) = facts.site.as_ref().and_then(site_stands_still) {
        let state = match still.state {
            SiteState::Restoring | SiteState::AwaitingRestore => AppState::Restoring,
            SiteState::Purging => AppState::Purging,
            SiteState::PendingDeletion | SiteState::Active | SiteState::Degraded => {
                AppState::PendingDeletion
            }
        };
        return Some(Plan::StandStill { state, reason: still.reason, message: still.message });
    }
    if let Some(site) = &facts.awaiting
        && facts.site.as_ref().is_none_or(|own| own.name_any() == *site)
    {
        return Some(Plan::StandStill {
            state: AppState::Restoring,
            reason: Reason::AwaitingRestore,
            message: format!(
                "the Site {site} awaits its restore, and the App with it: kubectl describe site {site} says how to go on"
            ),
        });
    }
    None
}

/// Why nothing of the App is applied.
fn refused(facts: &Facts) -> Option<(Reason, String)> {
    let app = &facts.app;
    let namespace = app.namespace().unwrap_or_default();
    let own = app.uid().unwrap_or_default();
    let others: Vec<String> =
        facts.holders.iter().filter(|h| h.uid != own).map(|h| h.describe()).collect();
    if !others.is_empty() {
        return Some((Reason::DuplicateId, duplicate_message(&app.spec.id, &others)));
    }
    if facts.namespace.as_ref().is_some_and(|live| live.terminating) {
        let message = format!("namespace {namespace} is being deleted");
        return Some((Reason::NamespaceTerminating, message));
    }
    let Some(site) = &facts.site else {
        let message = format!(
            "namespace {namespace} belongs to no Site: create a Site with spec.namespaces [{namespace}], or create the App in a namespace of its Site"
        );
        return Some((Reason::NoSite, message));
    };
    let recorded = site.status.as_ref().and_then(|s| {
        let of_that_name = s.namespaces.iter().find(|n| n.name == namespace);
        of_that_name.map(|n| &n.uid)
    });
    if let (Some(recorded), Some(live)) = (recorded, &facts.namespace)
        && *recorded != live.uid
    {
        let message = format!(
            "the namespace {namespace} of Site {site} was deleted past the gates, and this is another one: kubectl describe site {site} says how to restore it",
            site = site.name_any()
        );
        return Some((Reason::NamespaceLost, message));
    }
    let account = &app.spec.service_account_name;
    (facts.own_account == Some(false)).then(|| {
        let message = format!(
            "the ServiceAccount {account} of spec.serviceAccountName does not exist: kubectl create serviceaccount {account} -n {namespace}, and bind it to what the manifests need"
        );
        (Reason::AccountMissing, message)
    })
}

fn todo(facts: &Facts, object: &ToApply) -> Todo {
    let is_it = |o: &&AppliedObject| {
        o.api_version == object.api_version && o.kind == object.kind && o.name == object.name
    };
    let status = facts.app.status.as_ref();
    let record = status.and_then(|status| status.objects.iter().find(is_it)).cloned();
    let key = (object.kind_key.clone(), object.name.clone());
    let Some(record) = record else {
        return match facts.seen.get(&key) {
            Some(_) => Todo::Apply { record: None, drifted: false },
            None => Todo::Create { was_there: false },
        };
    };
    let applied = record.manifest.as_ref() == Some(&object.digest) && !record.orphaned;
    if !facts.complete.contains(&object.kind_key) {
        // What lives is not known yet; it will be looked at again when it is.
        return if applied {
            Todo::Keep(record)
        } else {
            Todo::Apply { record: Some(record), drifted: false }
        };
    }
    let Some(seen) = facts.seen.get(&key) else { return Todo::Create { was_there: true } };
    if seen.deleting {
        return Todo::Wait(record);
    }
    if !applied || seen.uid != record.uid {
        return Todo::Apply { record: Some(record), drifted: false };
    }
    if record.fields.as_ref() == Some(&seen.fields) {
        return Todo::Keep(AppliedObject { waiting_for: seen.waiting_for.clone(), ..record });
    }
    match facts.contested.get(&key) {
        Some((until, what)) => Todo::LeaveAlone { record, until: *until, what: what.clone() },
        None => Todo::Apply { record: Some(record), drifted: true },
    }
}

/// What the App applied once and does not describe any more. Who deletes such an object, or takes
/// the App's label off it, takes it out of the App.
fn orphans(facts: &Facts, wanted: &[ToApply], failures: &[ManifestFailure]) -> Vec<AppliedObject> {
    let status = facts.app.status.iter().flat_map(|status| &status.objects);
    let left = status.filter(|record| {
        // By another version of its API it is the same object.
        let group = |version: &str| version.split_once('/').map_or("", |(g, _)| g).to_owned();
        let wanted = wanted.iter().any(|o| {
            (&o.kind, &o.name) == (&record.kind, &record.name)
                && group(&o.api_version) == group(&record.api_version)
        });
        let named = |f: &ManifestFailure| (&f.kind, &f.name) == (&record.kind, &record.name);
        !wanted && !failures.iter().any(named)
    });
    let lives = |record: &&AppliedObject| {
        let kind = format!("{}/{}", record.api_version, record.kind);
        let seen = facts.seen.get(&(kind.clone(), record.name.clone()));
        !facts.complete.contains(&kind) || seen.is_some_and(|seen| seen.uid == record.uid)
    };
    left.filter(lives)
        .map(|record| AppliedObject { orphaned: true, waiting_for: None, ..record.clone() })
        .collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
pub(super) mod tests;
