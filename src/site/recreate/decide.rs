//! What comes next for an entity that was deleted past the guard: pure. Each look at what is so
//! gives one step, and each step can be repeated, so that a crash between any two of them changes
//! nothing but the time.
//!
//! `deletionTimestamp` cannot be taken back, so the finalizer holds while people decide by a
//! DeletionRequest. Every way out of that but the purge leads to: recorded in the store and on the
//! namespaces, let go, created anew, its status put back.

use std::time::Duration;

use serde_json::Value;

use super::observe::{CrdState, Facts, Live, NamespaceFacts, RequestFacts, SiteStands};
use crate::api::{NamespaceRef, ObjectRef, Reason, TargetKind, Time, UnexpectedDelete, names};
use crate::cluster::Exact;
use crate::cluster::unexpected::request_name;
use crate::store::Record;
use crate::store::records::FORMAT;

/// How soon to look again at what no watch tells.
const SOON: Duration = Duration::from_secs(2);
/// How soon to look again at what a watch tells as well.
const LATER: Duration = Duration::from_secs(30);
/// The longest record that fits into the annotations of a namespace, in bytes: all of them
/// together may have 256 KiB.
const ANNOTATION_MOST: usize = 160 * 1024;

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Ask people whether it shall go: a DeletionRequest of this name.
    OpenRequest(String),
    /// Tell of it: an event, the metric, and then the entity's own status.
    Tell(UnexpectedDelete),
    /// Write down what it is created anew from, in the store.
    Record(Box<Record>),
    /// Write the record on these namespaces as well.
    Annotate(Vec<Exact>, Box<Record>),
    /// Take our finalizer off, if the entity is still the one that was recorded; these are left.
    Release(Exact, Vec<String>, Box<Record>),
    /// Create it anew.
    Create(Box<Record>),
    /// Put back this part of its status.
    PutBack(Exact, Value),
    /// Take the record off these namespaces.
    ClearNamespaces(Vec<Exact>),
    /// Close the record: what it tells of lives again, or cannot any more; why.
    Close(Box<Record>, Closing),
    /// Take off the mark that kept the reconcilers still.
    Unmark(Exact),
    /// Nothing; look again by then.
    Wait(Duration),
    /// Nothing, and nothing more is to be done.
    Forget,
}

/// Why a record is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It was created anew.
    Recreated,
    /// Somebody else created one of its name, or it was never gone.
    Exists,
    /// The App's namespace is gone: a Restore brings both back.
    NamespaceGone,
}

/// Decides.
pub fn decide(facts: &Facts, now: Time) -> Step {
    match (&facts.live, &facts.record) {
        (None, None) => Step::Forget,
        (None, Some(record)) => create(facts, record),
        (Some(live), Some(record)) if record.uid != live.uid => finish(facts, live, record),
        // An entity that lives on after its record was written: etcd was set back.
        (Some(live), Some(record)) if live.terminating.is_none() => close(facts, live, record),
        (Some(live), _) => match (&live.mark, live.terminating) {
            // Whoever set it: without a record there is nothing to wait for.
            (Some(_), _) => Step::Unmark(live.exact.clone()),
            (None, Some(_)) => hold(facts, live, now),
            (None, None) => Step::Forget,
        },
    }
}

/// The finalizer holds it until people have decided.
fn hold(facts: &Facts, live: &Live, now: Time) -> Step {
    if live.in_deletion {
        // A request holds or purges it; a hold is released before the request ends.
        return Step::Wait(LATER);
    }
    let name = request_name(facts.key.kind, &facts.key.name, &live.uid);
    if live.told.is_none() {
        let askable = live.fenced && facts.site == SiteStands::Steady;
        let tell = |request: Option<String>| {
            let request_ref = request.map(|name| ObjectRef { name });
            Step::Tell(UnexpectedDelete { request_ref, observed_time: now })
        };
        return match facts.request {
            _ if !askable => tell(None),
            RequestFacts::Unavailable => tell(None),
            RequestFacts::Absent => Step::OpenRequest(name),
            RequestFacts::Open | RequestFacts::Completed | RequestFacts::Kept => tell(Some(name)),
        };
    }
    if facts.site == SiteStands::Busy {
        // Its Site was deleted as well: what becomes of that decides.
        return Step::Wait(SOON);
    }
    match facts.request {
        RequestFacts::Open => return Step::Wait(LATER),
        // Purged, and yet here: somebody else's finalizer, or a moment.
        RequestFacts::Completed => return Step::Wait(LATER),
        // Ended without it; or deleted, which is a cancel; or there never was one.
        RequestFacts::Kept | RequestFacts::Absent | RequestFacts::Unavailable => {}
    }
    let newest = facts.record.as_ref();
    let number = newest.map_or(1, |r| r.number.saturating_add(1));
    let wanted = record(facts, live, number, now);
    let Some(record) = newest.filter(|newest| newest.says_the_same(&wanted)) else {
        return Step::Record(Box::new(wanted));
    };
    let sealed = record.seal();
    let lacks =
        |n: &&NamespaceFacts| !n.terminating && n.record.as_deref() != Some(sealed.as_str());
    let lacking: Vec<Exact> =
        facts.namespaces.iter().filter(lacks).map(|n| n.exact.clone()).collect();
    let fits = facts.key.kind == TargetKind::Site && sealed.len() <= ANNOTATION_MOST;
    if fits && !lacking.is_empty() {
        return Step::Annotate(lacking, Box::new(record.clone()));
    }
    if !live.fenced {
        return Step::Wait(SOON);
    }
    let left = live.finalizers.iter().filter(|f| *f != names::FINALIZER).cloned().collect();
    Step::Release(live.exact.clone(), left, Box::new(record.clone()))
}

/// What is to be recorded of an entity.
fn record(facts: &Facts, live: &Live, number: u32, now: Time) -> Record {
    let namespaces = facts
        .namespaces
        .iter()
        .map(|n| NamespaceRef { name: n.exact.name.clone(), uid: n.exact.uid.clone() });
    Record {
        format: FORMAT.to_owned(),
        kind: facts.key.kind,
        namespace: facts.key.namespace.clone(),
        name: facts.key.name.clone(),
        uid: live.uid.clone(),
        number,
        time: now,
        namespaces: namespaces.collect(),
        object: live.object.clone(),
        status: live.status.clone(),
        managed_fields: live.managed_fields.clone(),
    }
}

/// It is gone, and there is a record of it.
fn create(facts: &Facts, record: &Record) -> Step {
    if facts.key.kind == TargetKind::App {
        if facts.site != SiteStands::Steady {
            return Step::Wait(SOON);
        }
        let own = |n: &&NamespaceFacts| record.namespaces.iter().any(|r| r.uid == n.exact.uid);
        match facts.namespaces.iter().find(own) {
            // The App's objects went with it.
            None => return Step::Close(Box::new(record.clone()), Closing::NamespaceGone),
            Some(namespace) if namespace.terminating => return Step::Wait(SOON),
            Some(_) => {}
        }
    }
    match facts.crd {
        CrdState::Served => Step::Create(Box::new(record.clone())),
        // Its return is watched.
        CrdState::Terminating | CrdState::Absent => Step::Wait(LATER),
    }
}

/// It was created anew: by us, if it bears the mark.
fn finish(facts: &Facts, live: &Live, record: &Record) -> Step {
    if live.mark.as_ref() != Some(&record.uid) {
        return close(facts, live, record);
    }
    let lacks = |(key, value): (&String, &Value)| {
        let there = live.status.get(key).is_some_and(|v| !v.is_null());
        !there && !value.is_null()
    };
    if record.status.as_object().into_iter().flatten().any(lacks) {
        return Step::PutBack(live.exact.clone(), record.status.clone());
    }
    close(facts, live, record)
}

/// The record is needed no more. It goes off the namespaces first and is closed then, and only
/// then the mark goes: while it is there no request can hold what is not finished.
fn close(facts: &Facts, live: &Live, record: &Record) -> Step {
    let marked: Vec<Exact> =
        facts.namespaces.iter().filter(|n| n.record.is_some()).map(|n| n.exact.clone()).collect();
    if facts.key.kind == TargetKind::Site && !marked.is_empty() {
        return Step::ClearNamespaces(marked);
    }
    let own = live.mark.as_ref() == Some(&record.uid);
    let closing = if own { Closing::Recreated } else { Closing::Exists };
    Step::Close(Box::new(record.clone()), closing)
}

/// Why the reconcilers of a Site or an App stand still, as far as this file is concerned: reason
/// and message.
pub fn stands_still(
    kind: TargetKind,
    name: &str,
    mark: bool,
    terminating: bool,
    told: Option<&UnexpectedDelete>,
) -> Option<(Reason, String)> {
    if mark {
        let message = "deleted past the gates, and being created anew; nothing of it was touched";
        return Some((Reason::Recreating, message.to_owned()));
    }
    if !terminating {
        return None;
    }
    let begins = format!(
        "{kind} {name} was deleted past the gates, which cannot be taken back: the finalizer holds it, and nothing of the tenant is touched"
    );
    let request = told.and_then(|told| told.request_ref.as_ref()).map(|r| &r.name);
    let message = match (request, told.is_some(), kind) {
        (Some(request), ..) => format!(
            "{begins}. To keep it: kubectl delete dreq {request} (it is then created anew, around what is there). To let it go, it has to be approved like any other: kubectl get dreq {request}"
        ),
        (None, true, TargetKind::App) => {
            format!("{begins}. It is created anew, if its Site stays: see the Site")
        }
        (None, true, TargetKind::Site) => {
            format!("{begins}. No DeletionRequest could be opened: it is created anew")
        }
        (None, false, _) => format!("{begins}. A DeletionRequest is being opened for it"),
    };
    Some((Reason::UnexpectedDelete, message))
}

/// The text of the request's `spec.reason`.
pub fn reason(kind: TargetKind, name: &str, terminating: Time) -> String {
    let name: String = name.chars().take(253).collect();
    format!(
        "{kind} {name} was deleted past the guard at {terminating}, and nobody knows by whom (the API server's audit log does). Approve it only if the {kind} shall go. If not, delete or reject this request, and the {kind} is created anew around what is there"
    )
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
