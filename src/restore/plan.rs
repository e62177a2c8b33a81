//! What an archive asks for, and which part of it is this restore's business. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::index::{Index, Item, Sizes, digest_without_owners, notice};
use super::object::Wanted;
use super::snapshot::Snapshot;
use crate::api::{NamespaceRef, Reason, RestoreFailure};
use crate::cluster::form::{ObjectKey, archived_form};
use crate::store::{Entry, RawEntry};

/// A site's archive, made ready.
pub struct Plan {
    /// Name of the Site.
    pub name: String,
    /// What the archive holds.
    pub index: Arc<Index>,
    /// What is told of this restore.
    pub notices: Vec<RestoreFailure>,
    /// The namespaces that the Site still has, where it lives. None: all of it is to be restored.
    pub kept: Option<BTreeSet<String>>,
    /// The namespaces that the Site had recorded, where it lives.
    pub before: Vec<NamespaceRef>,
    /// What was recorded after the backup, and counts instead of what the archive has.
    late: HashMap<ObjectKey, (Item, RawEntry)>,
    /// What of the archive is to be restored. None: all of it.
    only: Option<HashSet<ObjectKey>>,
}

impl Plan {
    /// All of an archive.
    pub fn new(name: &str, index: Arc<Index>) -> Self {
        Self {
            name: name.to_owned(),
            notices: index.notices.clone(),
            index,
            kept: None,
            before: vec![],
            late: HashMap::new(),
            only: None,
        }
    }

    /// Leaves out everything but these objects.
    pub fn restrict(&mut self, only: HashSet<ObjectKey>) {
        self.only = Some(only);
    }

    /// What an object is to be. None: it is not to be restored.
    pub fn item(&self, key: &ObjectKey) -> Option<&Item> {
        if self.only.as_ref().is_some_and(|only| !only.contains(key)) {
            return None;
        }
        self.late.get(key).map(|(item, _)| item).or_else(|| self.index.items.get(key))
    }

    /// As [`Plan::item`], of what is taken from the archive.
    pub fn archived(&self, key: &ObjectKey) -> Option<&Item> {
        self.item(key).filter(|_| !self.late.contains_key(key))
    }

    /// What is taken from records that were made after the backup.
    pub fn late(&self) -> impl Iterator<Item = (&Item, &RawEntry)> {
        self.late.values().filter(|(_, entry)| self.item(&entry.key).is_some()).map(|(i, e)| (i, e))
    }

    /// Everything that is to be there, the Site included.
    pub fn items(&self) -> impl Iterator<Item = (&ObjectKey, &Item)> {
        let added = self.late.iter().map(|(key, (item, _))| (key, item));
        let archived = self.index.items.iter().filter(|(key, _)| !self.late.contains_key(*key));
        archived
            .chain(added)
            .filter(|(key, _)| self.only.as_ref().is_none_or(|only| only.contains(*key)))
    }

    /// How many objects are to be there, the Site included.
    pub fn total(&self) -> i64 {
        self.items().count().try_into().unwrap_or(i64::MAX)
    }

    /// The Site, as it is to be. None: it is not to be restored.
    pub fn site(&self) -> Option<Wanted<'_>> {
        let item = self.item(&self.index.site_key)?;
        Some(Wanted { item, entry: self.index.site.clone(), site: &self.name })
    }

    /// The namespaces that the archive holds, in order.
    pub fn namespaces(&self) -> Vec<String> {
        let namespaces = self.items().filter(|(key, _)| key.is("", "Namespace"));
        let names: BTreeSet<String> = namespaces.map(|(key, _)| key.name.clone()).collect();
        names.into_iter().collect()
    }

    /// The snapshots of a claim that the archive holds, and whether they come back as well.
    pub fn snapshots(&self, claim: &ObjectKey) -> Vec<Snapshot> {
        let all = self.index.snapshots.get(claim).into_iter().flatten();
        all.map(|key| Snapshot { name: key.name.clone(), comes: self.item(key).is_some() })
            .collect()
    }

    /// Whether this namespace was recorded as the Site's own.
    pub fn recorded(&self, namespace: &NamespaceRef) -> bool {
        self.before.contains(namespace)
    }

    /// Takes an object that was recorded after the backup instead of what the backup has.
    pub fn replace(&mut self, entry: Entry) {
        let raw = RawEntry::from(&entry);
        let key = entry.key;
        let mut item = Item::of(&raw, &self.name);
        item.api_version = raw.api_version().into();
        // Its owners of that time are not there any more.
        item.owners.clear();
        let message = "it was changed after the backup, and comes back as it was when its namespace was deleted";
        let told =
            notice(&self.name, &key, &item.api_version, Reason::ChangedSince, message.to_owned());
        self.notices.push(told);
        self.late.insert(key, (item, raw));
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

    /// Says something about one of the objects.
    pub fn notice(&self, key: &ObjectKey, reason: Reason, message: String) -> RestoreFailure {
        let api_version = self.item(key).map(|item| item.api_version.clone()).unwrap_or_default();
        notice(&self.name, key, &api_version, reason, message)
    }

    /// An object as notices name it.
    pub fn in_words(&self, key: &ObjectKey) -> Option<String> {
        self.notice(key, Reason::Ready, String::new()).object
    }

    /// Whether a live object is what it is to be. With `owners`, its owner references too.
    pub fn is_equal(&self, key: &ObjectKey, live: Value, owners: bool) -> bool {
        let Some(item) = self.item(key) else { return false };
        let mut form = archived_form(live);
        let same_owners = match form["metadata"]["ownerReferences"].as_array() {
            Some(found) => *found == item.owners,
            None => item.owners.is_empty(),
        };
        (same_owners || !owners) && digest_without_owners(&mut form) == item.expected
    }
}

/// How many of these objects there are of each kind in each namespace, and the size of the largest.
pub fn sizes<'a>(items: impl Iterator<Item = (&'a ObjectKey, &'a Item)>) -> Sizes {
    let mut sizes = Sizes::new();
    for (key, item) in items {
        let Some(namespace) = &key.namespace else { continue };
        let of = (namespace.clone(), item.api_version.to_string(), key.kind.clone());
        let (count, largest) = sizes.entry(of).or_default();
        *count += 1;
        *largest = (*largest).max(item.size);
    }
    sizes
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::entry;
    use super::super::index::Indexing;
    use super::*;

    #[test]
    fn only_what_is_as_it_was_is_equal() {
        let site = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "acme"}});
        let map = |name: &str, data: &str, owners: Value| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": data}, "metadata": {
                "name": name, "namespace": "acme", "ownerReferences": owners,
            }})
        };
        let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "b"}]);
        let mut indexing = Indexing::new("acme");
        for object in [&site, &map("a", "old", owner.clone()), &map("b", "old", json!([]))] {
            indexing.add(&entry(object));
        }
        let plan = Plan::new("acme", Arc::new(indexing.finish().unwrap()));
        let of = |live: &Value, owners: bool| {
            plan.is_equal(&ObjectKey::of(live).unwrap(), live.clone(), owners)
        };
        let same = map("a", "old", owner.clone());
        assert!(of(&same, true) && of(&same, false));
        let changed = map("a", "new", owner);
        assert!(!of(&changed, true) && !of(&changed, false));
        let alone = map("a", "old", json!([]));
        assert!(!of(&alone, true) && of(&alone, false));
        assert!(!of(&map("c", "old", json!([])), false), "what is not in the archive");
    }
}
