//! A new Site whose id the store knows from backups: it was lost, most likely, and GitOps has made it
//! anew. To begin with an empty one would be taken for the site that people miss, so it waits for a
//! Restore, or for somebody who says that it shall begin anew. Pure.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::decide::{Decision, Effect};
use super::observe::{Facts, NamespaceFacts};
use crate::api::{
    ConditionStatus, ConditionType, Conditions, Reason, Site, SiteState, SiteStatus, Time, names,
};
use crate::cluster::Note;

/// How long until one that awaits its restore is looked at again, though nothing was seen.
const AWAITING: Duration = Duration::from_secs(300);
/// The same while the store does not answer.
const UNANSWERED: Duration = Duration::from_secs(5);

/// What the store says of a Site's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was not asked: the Site lives, or is another's business.
    NotAsked,
    /// There is no backup of it.
    No,
    /// There are backups of it.
    Backups {
        /// The name that the site had.
        name: String,
        /// The newest Backup.
        backup: String,
        /// When it was made.
        time: Time,
        /// How many objects it has.
        objects: u64,
        /// The DeletionRequest by which that site was purged, if one did.
        purged_by: Option<String>,
    },
    /// There is something of it that cannot be taken; why, in words.
    Unclear(String),
    /// Nobody can tell now; why, in words.
    Unanswered(String),
    /// Others are asking: it is asked in a moment.
    InTurn,
}

/// Whether a Site has never had anything here: no namespace of it was ever recorded, and nobody
/// else is at work on it.
pub fn is_new(site: &Site, namespaces: &[NamespaceFacts]) -> bool {
    let annotations = site.annotations();
    let marked = [names::ANNOTATION_RESTORE, names::ANNOTATION_RECREATE]
        .iter()
        .any(|mark| annotations.contains_key(*mark));
    let status = site.status.as_ref();
    let lived = status.is_some_and(|s| !s.namespaces.is_empty() || s.deletion.is_some());
    // Where all its namespaces are there, and the operator once made them its own, nothing is lost:
    // the Site alone was deleted past the guard.
    let own = |n: &NamespaceFacts| {
        n.live
            .as_ref()
            .is_some_and(|live| live.site.as_deref() == Some(&site.name_any()) && !live.terminating)
    };
    !marked
        && !lived
        && site.meta().deletion_timestamp.is_none()
        && !begins_anew(site)
        && !namespaces.iter().all(own)
}

/// Whether somebody has said that the Site shall begin anew.
fn begins_anew(site: &Site) -> bool {
    site.annotations().get(names::ANNOTATION_START_EMPTY).is_some_and(|value| value == "true")
}

impl Known {
    /// Why the Site must wait, if it must, and whether it waits for people.
    pub fn waits(&self, site: &Site) -> Option<(Reason, String)> {
        let name = site.name_any();
        let anew = format!(
            "to begin anew with an empty site: kubectl annotate site {name} {}=true",
            names::ANNOTATION_START_EMPTY
        );
        let restore = || {
            let restore = json!({
                "apiVersion": names::API_VERSION, "kind": "Restore",
                "metadata": { "generateName": format!("{name}-") },
                "spec": { "source": { "sites": { "ids": [site.spec.id] } } },
            });
            format!("echo '{restore}' | kubectl create -f -")
        };
        match self {
            Self::NotAsked | Self::No | Self::InTurn => None,
            Self::Unanswered(why) => Some((
                Reason::StoreUnavailable,
                format!(
                    "whether the store has backups of the id {:?} cannot be told, so nothing is set up: {why}; {anew}",
                    site.spec.id
                ),
            )),
            Self::Unclear(why) => Some((
                Reason::AwaitingRestore,
                format!(
                    "the store has something of the id {:?} that cannot be taken: {why}; {anew}",
                    site.spec.id
                ),
            )),
            Self::Backups { name: old, backup, time, objects, purged_by } => {
                let purged = purged_by.as_ref().map_or_else(String::new, |request| {
                    format!(", and the DeletionRequest {request} purged it")
                });
                let renamed = if *old == name {
                    String::new()
                } else {
                    format!(
                        " The site was named {old} then, and comes back under that name only once no other Site has the id."
                    )
                };
                Some((
                    Reason::AwaitingRestore,
                    format!(
                        "the store has backups of the id {:?}, the newest of {time} (Backup {backup}, {objects} objects){purged}: nothing is set up until one of these is done. To restore it: {}; {anew}.{renamed}",
                        site.spec.id,
                        restore()
                    ),
                ))
            }
        }
    }
}

/// A new Site that the store knows, or may know: not one namespace is made or taken in.
pub fn awaits(
    facts: &Facts,
    effects: Vec<Effect>,
    mut status: SiteStatus,
    (reason, message): (Reason, String),
    now: Time,
) -> Decision {
    let generation = facts.site.metadata.generation;
    let for_people = reason == Reason::AwaitingRestore;
    let conditions = &mut status.conditions;
    let told = conditions.get(ConditionType::Ready).is_some_and(|c| c.reason == reason.as_str());
    let fails = ConditionStatus::False;
    conditions.set(ConditionType::Ready, fails, reason, message.clone(), generation, now);
    conditions.unset(ConditionType::Stalled);
    // Who waits for people is current: a GitOps tool would wait for it, and hold up the rest.
    let why = (!for_people).then_some((reason, message.as_str()));
    conditions.set_abnormal(ConditionType::Reconciling, why, generation, now);
    let state = if for_people { SiteState::AwaitingRestore } else { SiteState::Degraded };
    status.state = Some(state);
    let notes = if told { vec![] } else { vec![Note::warning(reason, message)] };
    let requeue = Some(if for_people { AWAITING } else { UNANSWERED });
    Decision { effects, status, notes, requeue }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Account, NamespaceRow};
    use super::*;
    use serde_json::Value;

    fn site(metadata: Value, status: Value) -> Site {
        let mut all = json!({"name": "acme", "uid": "u"});
        all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "Site", "metadata": all,
            "spec": {"id": "site-1", "tenant": {"name": "Acme"}}, "status": status,
        }))
        .unwrap()
    }

    fn namespace(owner: Option<&str>) -> NamespaceFacts {
        let row = |owner: &str| NamespaceRow {
            uid: "n".into(),
            site: (!owner.is_empty()).then(|| owner.to_owned()),
            adopt: None,
            terminating: false,
        };
        NamespaceFacts { name: "acme".into(), live: owner.map(row), account: Account::Missing }
    }

    #[test]
    fn only_a_site_that_never_had_anything_is_asked_about() {
        let none = || json!({});
        let marked = |mark: &str, value: &str| site(json!({"annotations": {mark: value}}), none());
        let lived = json!({"namespaces": [{"name": "acme", "uid": "n"}]});
        let held =
            json!({"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": "Held"}});
        let rows = [
            (site(none(), none()), None, true),
            (site(none(), json!({"state": "AwaitingRestore"})), None, true),
            (site(none(), none()), Some(""), true),
            (site(none(), none()), Some("other"), true),
            (site(none(), none()), Some("acme"), false),
            (site(none(), lived), None, false),
            (site(none(), held), None, false),
            (site(json!({"deletionTimestamp": "2026-11-22T17:00:00Z"}), none()), None, false),
            (marked(names::ANNOTATION_RESTORE, "r"), None, false),
            (marked(names::ANNOTATION_RECREATE, "u0"), None, false),
            (marked(names::ANNOTATION_START_EMPTY, "true"), None, false),
            (marked(names::ANNOTATION_START_EMPTY, "yes"), None, true),
        ];
        for (site, owner, expected) in rows {
            assert_eq!(is_new(&site, &[namespace(owner)]), expected, "{site:?}, {owner:?}");
        }
    }
}
