//! What an archive asks for, and which part of it is this restore's business. Pure.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::rewrite;
use crate::api::{NamespaceRef, Reason, RestoreFailure, names};
use crate::cluster::collect::ObjectState;
use crate::cluster::form::ObjectKey;
use crate::store::{Archive, Entry};

/// An object that is to be there.
pub struct Wanted {
    /// Which object.
    pub key: ObjectKey,
    /// What it is to be.
    pub expected: Value,
    /// How it stood in the backup.
    pub state: ObjectState,
}

/// A site's archive, made ready.
pub struct Plan {
    /// The Site itself.
    pub site: Wanted,
    /// Everything else, in the order of the archive.
    pub objects: Vec<Wanted>,
    /// What is known to differ before anything is done.
    pub notices: Vec<RestoreFailure>,
    /// The namespaces that the Site still has, where it lives. None: all of it is to be restored.
    pub kept: Option<BTreeSet<String>>,
    /// The namespaces that the Site had recorded, where it lives.
    pub before: Vec<NamespaceRef>,
}

impl Plan {
    /// The namespaces that the archive holds.
    pub fn namespaces(&self) -> Vec<String> {
        let namespaces = self.objects.iter().filter(|o| o.key.is("", "Namespace"));
        namespaces.map(|o| o.key.name.clone()).collect()
    }

    /// Whether this namespace was recorded as the Site's own.
    pub fn recorded(&self, namespace: &NamespaceRef) -> bool {
        self.before.contains(namespace)
    }

    /// Takes an object that was recorded after the backup instead of what the backup has.
    pub fn replace(&mut self, site: &str, entry: Entry) {
        let (expected, _) = rewrite::expected(&entry.object, site, |_| false);
        let message = "it was changed after the backup, and comes back as it was when its namespace was deleted";
        let notice = failure(site, Some(&expected), Reason::ChangedSince, message.to_owned());
        self.notices.push(notice);
        self.objects.retain(|old| old.key != entry.key);
        self.objects.push(Wanted { key: entry.key, expected, state: entry.state });
    }

    /// Whether an object, where it is there, is none of this restore's business: it is in a part
    /// of the site that was not lost, and went on since the backup.
    pub fn left_alone(&self, key: &ObjectKey) -> bool {
        let Some(kept) = &self.kept else { return false };
        match &key.namespace {
            Some(namespace) => kept.contains(namespace),
            None if key.is("", "Namespace") => kept.contains(&key.name),
            None => true,
        }
    }
}

/// Says what is wrong with an object of a site, or with the site.
pub fn failure(site: &str, of: Option<&Value>, reason: Reason, message: String) -> RestoreFailure {
    let object = of.map(|object| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let name = match metadata["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", word(&metadata["name"])),
            None => word(&metadata["name"]),
        };
        format!("{} {} {name}", word(&object["apiVersion"]), word(&object["kind"]))
    });
    RestoreFailure { site: site.to_owned(), object, reason: reason.to_string(), message }
}

/// What an archive asks for. None: the Site itself is not in it.
pub fn plan(archive: Archive, site: &str) -> Option<Plan> {
    // What had ended is archived only: created again, it would run again.
    let (ended, living): (Vec<_>, Vec<_>) =
        archive.entries.into_iter().partition(|entry| entry.state == ObjectState::Finished);
    let keys: HashSet<ObjectKey> = living.iter().map(|entry| entry.key.clone()).collect();
    let mut plan = Plan {
        site: Wanted {
            key: ObjectKey {
                group: names::GROUP.to_owned(),
                kind: "Site".to_owned(),
                namespace: None,
                name: site.to_owned(),
            },
            expected: Value::Null,
            state: ObjectState::Ready,
        },
        objects: vec![],
        notices: vec![],
        kept: None,
        before: vec![],
    };
    for entry in ended {
        let message = "it had run to its end, and is not run again".to_owned();
        plan.notices.push(failure(site, Some(&entry.object), Reason::NotRunAgain, message));
    }
    for entry in living {
        let (expected, dropped) = rewrite::expected(&entry.object, site, |key| keys.contains(key));
        if !dropped.is_empty() {
            let message = format!("its owner {} is in no backup", dropped.join(", "));
            plan.notices.push(failure(site, Some(&expected), Reason::OwnerMissing, message));
        }
        let wanted = Wanted { key: entry.key, expected, state: entry.state };
        if wanted.key == plan.site.key {
            plan.site = wanted;
        } else {
            plan.objects.push(wanted);
        }
    }
    (!plan.site.expected.is_null()).then_some(plan)
}
