//! What a Site that lives has lost, and whether a restore may touch it at all. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use super::decide::Job;
use crate::api::{DeletionPhase, DeletionRequest, NamespaceRef, Reason, Site, names};

/// How a namespace of a site stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// It lives and is the one that the Site has recorded: left alone, but for what is missing.
    Kept,
    /// It is gone, or there is another one of that name: its content is to come back.
    Lost,
    /// It is being deleted.
    Going(Box<Namespace>),
}

/// The namespaces of a site, by name.
pub type Places = BTreeMap<String, Place>;

/// The namespaces that the Site had recorded before anything was restored. None: it was gone as a
/// whole. The restore notes it on the Site before it begins, because what it brings back is recorded
/// as the Site's own later.
pub fn recorded(site: &Site) -> Option<&Vec<NamespaceRef>> {
    let status = site.status.as_ref()?;
    if is_marked(site) {
        return status.restore.as_ref()?.before.as_ref();
    }
    Some(&status.namespaces).filter(|namespaces| !namespaces.is_empty())
}

/// Whether this Site was there before it was restored, in what it has left. One that GitOps has made
/// anew has nothing left.
pub fn lives(site: &Site) -> bool {
    recorded(site).is_some()
}

/// What a restore notes on an unmarked Site that is there: what it has recorded, if only nothing.
pub fn to_note(site: &Site) -> Option<Vec<NamespaceRef>> {
    if is_marked(site) {
        return recorded(site).cloned();
    }
    Some(recorded(site).cloned().unwrap_or_default())
}

/// Why a Site that is there and has never had anything here is not taken for the one that was lost,
/// where it is not.
pub fn keeps_to_itself(site: &Site, namespaces: &[Option<Namespace>]) -> Option<&'static str> {
    let anew = site.annotations().get(names::ANNOTATION_START_EMPTY);
    if anew.is_some_and(|value| value == "true") {
        return Some("the Site was told to begin anew, by its annotation reprieve.dev/start-empty");
    }
    let own = |namespace: &Option<Namespace>| {
        namespace.as_ref().is_some_and(|live| {
            live.metadata.deletion_timestamp.is_none() && belongs_to(live, &site.name_any())
        })
    };
    namespaces.iter().all(own).then_some("the Site lives and has all its namespaces")
}

/// Whether a Restore works on this Site.
pub fn is_marked(site: &Site) -> bool {
    site.annotations().contains_key(names::ANNOTATION_RESTORE)
}

/// How a namespace of this Site stands.
pub fn place(site: &Site, name: &str, live: Option<Namespace>) -> Place {
    let Some(live) = live else { return Place::Lost };
    if live.metadata.deletion_timestamp.is_some() {
        return Place::Going(Box::new(live));
    }
    let uid = live.uid();
    let same = |n: &NamespaceRef| n.name == name && Some(&n.uid) == uid.as_ref();
    if recorded(site).is_some_and(|all| all.iter().any(same)) { Place::Kept } else { Place::Lost }
}

/// The namespaces that the Site still has.
pub fn kept(places: &Places) -> BTreeSet<String> {
    let kept = places.iter().filter(|(_, place)| **place == Place::Kept);
    kept.map(|(name, _)| name.clone()).collect()
}

/// Why nothing of this Site is restored from that backup, whatever it has lost.
pub fn refusal(site: &Site, job: &Job) -> Option<(Reason, String)> {
    let name = job.site();
    if site.spec.id != job.id {
        let message = format!(
            "the Site {name} lives and has the id {}; the backup is of the id {}: a backup is only ever restored into its own site",
            site.spec.id, job.id
        );
        return Some((Reason::SiteLives, message));
    }
    let deletion = site.status.as_ref()?.deletion.as_ref()?;
    let request = &deletion.request_ref.name;
    let message = match deletion.phase {
        DeletionPhase::Held => format!(
            "the Site is held for the DeletionRequest {request}: to keep it, {}, then make another Restore",
            DeletionRequest::how_to_cancel(request)
        ),
        DeletionPhase::Purging => format!(
            "the Site is being purged for the DeletionRequest {request}: once that has ended, make a Restore with the source deletionRequestRef {request}"
        ),
    };
    Some((Reason::EntityNotActive, message))
}

/// The namespaces that the Site is to record: those that are back with the UIDs that they have
/// now, in the order of its spec. What is not back stays recorded as it was, and so stays lost.
pub fn recorded_now(site: &Site, back: &[NamespaceRef]) -> Vec<NamespaceRef> {
    let status = site.status.as_ref();
    // Without the note, an earlier try has written it already.
    let old = recorded(site).or(status.map(|status| &status.namespaces));
    let of = |all: &[NamespaceRef], name: &str| all.iter().find(|n| n.name == name).cloned();
    let names = site.namespace_names();
    let find = |name: &String| of(back, name).or_else(|| of(old?, name));
    names.iter().filter_map(find).collect()
}

/// Whether a namespace says that it is this Site's.
pub fn belongs_to(namespace: &Namespace, site: &str) -> bool {
    namespace.labels().get(names::LABEL_SITE).is_some_and(|owner| owner == site)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PlanBackup;
    use serde_json::{Value, json};

    fn site(id: &str, status: Value) -> Site {
        serde_json::from_value(json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "acme", "uid": "s"},
            "spec": {"id": id, "tenant": {"name": "Acme"}, "namespaces": ["acme", "acme-jobs"]}, "status": status,
        }))
        .unwrap()
    }

    fn namespace(metadata: Value) -> Namespace {
        let all = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_is_lost() {
        let site = site("site-1", json!({"namespaces": [{"name": "acme", "uid": "n"}]}));
        let live = |uid: &str| Some(namespace(json!({"name": "acme", "uid": uid})));
        assert_eq!(place(&site, "acme", live("n")), Place::Kept);
        assert_eq!(place(&site, "acme", live("other")), Place::Lost);
        assert_eq!(place(&site, "acme", None), Place::Lost);
        assert_eq!(place(&site, "acme-jobs", live("n")), Place::Lost);
        let going =
            json!({"name": "acme", "uid": "n", "deletionTimestamp": "2026-11-22T17:00:00Z"});
        let going = namespace(going);
        let going_place = place(&site, "acme", Some(going.clone()));
        assert_eq!(going_place, Place::Going(Box::new(going)));

        // Under a restore, what was noted at its beginning counts, whatever is recorded by now.
        let mut marked = site.clone();
        marked.metadata.annotations = Some([(names::ANNOTATION_RESTORE.into(), "r".into())].into());
        assert!(lives(&site) && !lives(&marked));
        assert_eq!(place(&marked, "acme", live("n")), Place::Lost);
        let restore = json!({"restoreRef": {"name": "r"}, "stage": "Queued", "objectsDone": 0, "objectsTotal": 0, "before": [{"name": "acme", "uid": "old"}]});
        let status = json!({"namespaces": [{"name": "acme", "uid": "n"}], "restore": restore});
        marked.status = serde_json::from_value(status).unwrap();
        assert!(lives(&marked));
        assert_eq!(place(&marked, "acme", live("n")), Place::Lost);
        assert_eq!(place(&marked, "acme", live("old")), Place::Kept);
    }

    #[test]
    fn a_site_that_gitops_made_anew() {
        let empty = site("site-1", json!({}));
        let own = |owner: &str| {
            Some(namespace(
                json!({"name": "acme", "uid": "n", "labels": {"reprieve.dev/site": owner}}),
            ))
        };
        assert_eq!(keeps_to_itself(&empty, &[None, own("acme")]), None);
        assert_eq!(keeps_to_itself(&empty, &[own("other"), own("acme")]), None);
        assert!(keeps_to_itself(&empty, &[own("acme"), own("acme")]).is_some());
        let mut told = empty.clone();
        let anew = (names::ANNOTATION_START_EMPTY.to_owned(), "true".to_owned());
        told.metadata.annotations = Some([anew].into());
        assert!(keeps_to_itself(&told, &[None, None]).unwrap().contains("begin anew"));

        // What is noted of it stays, whoever goes on: nothing lived, and nothing of it is kept.
        assert_eq!(to_note(&empty), Some(vec![]));
        let mut marked = empty.clone();
        marked.metadata.annotations = Some([(names::ANNOTATION_RESTORE.into(), "r".into())].into());
        assert_eq!(to_note(&marked), None, "a restore has made it");
        let restore = json!({"restoreRef": {"name": "r"}, "stage": "Queued", "objectsDone": 0, "objectsTotal": 0, "before": []});
        marked.status = serde_json::from_value(json!({ "restore": restore })).unwrap();
        assert_eq!((lives(&marked), to_note(&marked)), (true, Some(vec![])));
    }

    #[test]
    fn what_is_recorded_at_the_end() {
        let all = |of: Value| serde_json::from_value::<Vec<NamespaceRef>>(of).unwrap();
        let old = json!([{"name": "acme", "uid": "a"}, {"name": "acme-jobs", "uid": "j"}]);
        let site = site("site-1", json!({ "namespaces": old }));
        let back =
            all(json!([{"name": "acme-jobs", "uid": "new"}, {"name": "foreign", "uid": "f"}]));
        let now = recorded_now(&site, &back);
        let expected = json!([{"name": "acme", "uid": "a"}, {"name": "acme-jobs", "uid": "new"}]);
        assert_eq!(json!(now), expected);
    }

    #[test]
    fn which_sites_are_left_alone() {
        let job = Job {
            name: "acme".into(),
            old_uid: "another".into(),
            id: "site-1".into(),
            backup: PlanBackup {
                name: "b".into(),
                location: "l".into(),
                digest: "d".into(),
                objects: 1,
                keep_until_time: None,
            },
            verified: None,
            app: None,
            drill: None,
        };
        let deletion = |phase: &str| json!({"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": phase}});
        let rows = [
            // The id is what binds a backup to a site: the UID may be another one.
            (site("site-1", json!({})), None),
            (site("site-2", json!({})), Some(Reason::SiteLives)),
            (site("site-1", deletion("Held")), Some(Reason::EntityNotActive)),
            (site("site-1", deletion("Purging")), Some(Reason::EntityNotActive)),
        ];
        for (site, reason) in rows {
            assert_eq!(refusal(&site, &job).map(|(reason, _)| reason), reason, "{site:?}");
        }
    }
}
