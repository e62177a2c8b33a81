//! What an archive holds, without the objects themselves: a few hundred bytes for each, whatever
//! its size. Made of an archive that was read to its end, and what every later pass over the same
//! archive is checked against. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::hooks::DrillHooks;
use super::plan::failure;
use super::rewrite::{self, owner_keys};
use super::snapshot;
use crate::api::{NotProved, Reason, RestoreFailure, names};
use crate::cluster::collect::ObjectState;
use crate::cluster::form::{ObjectKey, digest_of, object_digest};
use crate::cluster::order::rank;
use crate::store::RawEntry;

/// SHA-256, as bytes.
pub type Digest = [u8; 32];

/// The bytes of a digest as it is written; all zero when it is none.
pub fn digest(text: &str) -> Digest {
    let mut digest = Digest::default();
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    digest
}

/// Digest of an object without its owner references, which are compared by themselves.
pub fn digest_without_owners(object: &mut Value) -> Digest {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("ownerReferences");
    }
    digest(&object_digest(object))
}

/// The platform's id of an App. None: it is no App.
pub fn app_id(object: &Value) -> Option<Box<str>> {
    let id = rewrite::is(object, names::GROUP, "App").then(|| object["spec"]["id"].as_str())?;
    id.map(Box::from)
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Item {
    /// API version of the archived object.
    pub api_version: Arc<str>,
    /// How it stood in the backup.
    pub state: ObjectState,
    /// Size of the archived object, in bytes.
    pub size: usize,
    /// Digest of the archived object.
    archived: Digest,
    /// Digest of what it is expected to be, without owner references.
    pub expected: Digest,
    /// The owner references that it is expected to have, by name.
    pub owners: Vec<Value>,
    /// Whether it is sent otherwise than it lies in the archive.
    pub rewritten: bool,
    /// Digest of its field owners, where they are to be put back.
    pub fields: Option<Digest>,
    /// The platform's id, of an App.
    pub id: Option<Box<str>>,
}

impl Item {
    /// What is kept of an object of an archive, but for its API version.
    pub fn of(entry: &RawEntry, site: &str) -> Self {
        let text = entry.object.get();
        let archived = digest(&entry.digest);
        let mut item = Self {
            api_version: Arc::default(),
            state: entry.state,
            size: text.len(),
            archived,
            expected: archived,
            owners: vec![],
            rewritten: false,
            fields: rewrite::field_owners(entry)
                .map(|fields| digest(&digest_of(json!(fields).to_string().as_bytes()))),
            id: None,
        };
        // Most objects are sent as they are, and need not be looked into.
        let special = ["Namespace", "PersistentVolumeClaim", "VolumeSnapshot", "Site", "App"];
        let special = special.contains(&entry.key.kind.as_str());
        if special || text.contains("\"ownerReferences\"") {
            let mut object = entry.object();
            item.id = app_id(&object);
            rewrite::mark_namespace(&mut object, site);
            if let Some(owners) = object["metadata"]["ownerReferences"].as_array() {
                item.owners.clone_from(owners);
            }
            item.rewritten = special || !item.owners.is_empty();
            item.expected = digest_without_owners(&mut object);
        }
        item
    }

    /// Whether this is the entry that the item was made of, field owners included.
    pub fn is_of(&self, entry: &RawEntry) -> bool {
        let fields = rewrite::field_owners(entry)
            .map(|fields| digest(&digest_of(json!(fields).to_string().as_bytes())));
        digest(&entry.digest) == self.archived && fields == self.fields
    }
}

/// The objects that the manifests of an App name, whether the archive has them or not. All of them
/// live in the App's namespace.
fn manifests(app: &Value, namespace: Option<&str>) -> Vec<ObjectKey> {
    let manifests = app["spec"]["manifests"].as_array();
    let named = manifests.into_iter().flatten().filter_map(|manifest| {
        let metadata = json!({ "name": manifest["metadata"]["name"], "namespace": namespace });
        ObjectKey::of(&json!({
            "apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata,
        }))
    });
    named.collect()
}

/// What an archive holds.
#[derive(Debug)]
pub struct Index {
    /// The Site, as the archive has it.
    pub site: RawEntry,
    /// Key of the Site.
    pub site_key: ObjectKey,
    /// Everything that is to be restored, the Site included.
    pub items: HashMap<ObjectKey, Item>,
    /// The Apps among it, and what their manifests name.
    apps: HashMap<ObjectKey, Vec<ObjectKey>>,
    /// The VolumeSnapshots of each claim.
    pub snapshots: HashMap<ObjectKey, Vec<ObjectKey>>,
    /// Whether the objects lie in the order in which they are restored, so that one pass over the
    /// archive is enough.
    pub ordered: bool,
    /// What is known to differ before anything is done.
    pub notices: Vec<RestoreFailure>,
    /// What a drill leaves out or changes.
    pub not_proved: Vec<NotProved>,
    /// The hooks that a drill runs.
    pub drill_hooks: Option<DrillHooks>,
}

impl Index {
    /// An App, what its manifests name and what these own: what goes when the App is purged. Empty:
    /// the App is not in the archive.
    pub fn part_of(&self, app: &ObjectKey) -> HashSet<ObjectKey> {
        let Some(named) = self.apps.get(app) else { return HashSet::new() };
        let mut part: HashSet<ObjectKey> = named.iter().chain([app]).cloned().collect();
        loop {
            let owned = self.items.iter().filter(|(key, item)| {
                let owner = |owner| {
                    let mut keys =
                        owner_keys(key.namespace.as_deref(), owner).into_iter().flatten();
                    keys.any(|key| part.contains(&key))
                };
                key.namespace == app.namespace
                    && !part.contains(*key)
                    && item.owners.iter().any(owner)
            });
            let owned: Vec<ObjectKey> = owned.map(|(key, _)| key.clone()).collect();
            if owned.is_empty() {
                return part;
            }
            part.extend(owned);
        }
    }
}

/// An index that is being made.
pub struct Indexing {
    site: String,
    site_key: ObjectKey,
    site_entry: Option<RawEntry>,
    items: HashMap<ObjectKey, Item>,
    apps: HashMap<ObjectKey, Vec<ObjectKey>>,
    snapshots: HashMap<ObjectKey, Vec<ObjectKey>>,
    ordered: bool,
    notices: Vec<RestoreFailure>,
    last: u8,
    api_versions: BTreeSet<Arc<str>>,
}

impl Indexing {
    /// Of the archive of this Site.
    pub fn new(site: &str) -> Self {
        Self {
            site: site.to_owned(),
            site_key: site_key(site),
            site_entry: None,
            items: HashMap::new(),
            apps: HashMap::new(),
            snapshots: HashMap::new(),
            ordered: true,
            notices: vec![],
            last: 0,
            api_versions: BTreeSet::new(),
        }
    }

    /// Takes in the next object of the archive.
    pub fn add(&mut self, entry: &RawEntry) {
        let place = rank(&entry.key);
        self.ordered &= place >= self.last;
        self.last = place;
        // What had ended is archived only: created again, it would run again.
        if entry.state == ObjectState::Finished {
            let message = "it had run to its end, and is not run again".to_owned();
            let of = Some(entry.object());
            let notice = failure(&self.site, of.as_ref(), Reason::NotRunAgain, message);
            self.notices.push(notice);
            return;
        }
        let mut item = Item::of(entry, &self.site);
        item.api_version = self.api_version(entry.api_version());
        if entry.key == self.site_key {
            self.site_entry = Some(entry.clone());
        } else if entry.key.is(names::GROUP, "App") {
            let named = manifests(&entry.object(), entry.key.namespace.as_deref());
            self.apps.insert(entry.key.clone(), named);
        } else if let Some(claim) = snapshot::claim_of(entry) {
            self.snapshots.entry(claim).or_default().push(entry.key.clone());
        }
        self.items.insert(entry.key.clone(), item);
    }

    /// The same text only once, however many objects have it.
    fn api_version(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.api_versions.get(text.as_str()) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.api_versions.insert(new.clone());
        new
    }

    /// The index, once the archive was read to its end. None: the Site itself is not in it.
    pub fn finish(mut self) -> Option<Index> {
        let site = self.site_entry?;
        let mut kept: Vec<(ObjectKey, Vec<Value>)> = vec![];
        let items = &self.items;
        let mut owned: Vec<_> = items.iter().filter(|(_, item)| !item.owners.is_empty()).collect();
        owned.sort_by_cached_key(|(key, _)| key.to_string());
        for (key, item) in owned {
            let known = |owner: &&Value| {
                owner_keys(key.namespace.as_deref(), owner)
                    .into_iter()
                    .flatten()
                    .any(|key| items.contains_key(&key))
            };
            let (here, gone): (Vec<&Value>, Vec<&Value>) = item.owners.iter().partition(known);
            if gone.is_empty() {
                continue;
            }
            let word =
                |owner: &Value, field: &str| owner[field].as_str().unwrap_or_default().to_owned();
            let dropped: Vec<String> =
                gone.iter().map(|o| format!("{} {}", word(o, "kind"), word(o, "name"))).collect();
            let message = format!("its owner {} is in no backup", dropped.join(", "));
            let notice = notice(&self.site, key, &item.api_version, Reason::OwnerMissing, message);
            self.notices.push(notice);
            kept.push((key.clone(), here.into_iter().cloned().collect()));
        }
        for (key, owners) in kept {
            if let Some(item) = self.items.get_mut(&key) {
                item.owners = owners;
            }
        }
        let Self { site_key, items, apps, snapshots, ordered, notices, .. } = self;
        let (not_proved, drill_hooks) = (vec![], None);
        Some(Index {
            site,
            site_key,
            items,
            apps,
            snapshots,
            ordered,
            notices,
            not_proved,
            drill_hooks,
        })
    }
}

/// Says something about an object that is known by its key.
pub fn notice(
    site: &str,
    key: &ObjectKey,
    api_version: &str,
    reason: Reason,
    message: String,
) -> RestoreFailure {
    let object = json!({
        "apiVersion": api_version, "kind": key.kind,
        "metadata": { "name": key.name, "namespace": key.namespace },
    });
    failure(site, Some(&object), reason, message)
}

/// The key of a Site.
pub fn site_key(name: &str) -> ObjectKey {
    ObjectKey {
        group: names::GROUP.to_owned(),
        kind: "Site".to_owned(),
        namespace: None,
        name: name.to_owned(),
    }
}

/// How many objects of each kind in each namespace there are, and how large the largest is.
pub type Sizes = BTreeMap<(String, String, String), (usize, usize)>;

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn site() -> Value {
        json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "acme"}, "spec": {"id": "1"}})
    }

    fn map(name: &str, owners: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "acme", "ownerReferences": owners}})
    }

    #[test]
    fn owners_that_are_in_no_archive_are_dropped_and_told() {
        let owners = json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "controller": true},
            {"apiVersion": "v1", "kind": "Secret", "name": "gone"},
        ]);
        let mut indexing = Indexing::new("acme");
        let plain = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": "acme"}});
        for object in [site(), map("a", owners), plain.clone()] {
            indexing.add(&fixtures::entry(&object));
        }
        let index = indexing.finish().unwrap();
        assert!(index.ordered);
        assert_eq!(index.notices.len(), 1);
        assert!(index.notices[0].message.contains("Secret gone"), "{:?}", index.notices);
        assert_eq!(index.notices[0].object.as_deref(), Some("v1 ConfigMap acme/a"));
        let a = &index.items[&"ConfigMap/acme/a".parse().unwrap()];
        assert_eq!((a.owners.len(), a.rewritten), (1, true));
        let b = &index.items[&"ConfigMap/acme/b".parse().unwrap()];
        assert_eq!((b.owners.len(), b.rewritten), (0, false));
        assert!(b.is_of(&fixtures::entry(&plain)));
        let mut other = plain;
        other["data"] = json!({});
        assert!(!b.is_of(&fixtures::entry(&other)));
    }

    #[test]
    fn what_had_ended_is_not_restored_and_the_order_is_seen() {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "acme"}});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme"}});
        let mut indexing = Indexing::new("acme");
        indexing.add(&RawEntry { state: ObjectState::Finished, ..fixtures::entry(&job) });
        indexing.add(&fixtures::entry(&namespace));
        indexing.add(&fixtures::entry(&site()));
        let index = indexing.finish().unwrap();
        assert!(!index.ordered);
        assert_eq!(index.items.len(), 2);
        assert_eq!(index.notices[0].reason, "NotRunAgain");
        // The guard knows a site's namespace by its label, so that is expected of it.
        let mut labelled = namespace;
        labelled["metadata"]["labels"] = json!({"reprieve.dev/site": "acme"});
        let item = &index.items[&"Namespace/acme".parse().unwrap()];
        assert_eq!(item.expected, digest(&object_digest(&labelled)));
        assert!(Indexing::new("acme").finish().is_none());
    }

    #[test]
    fn an_app_is_what_its_manifests_name_and_what_these_own() {
        let app = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "App", "metadata": {"name": "shop", "namespace": "acme"}, "spec": {
            "id": "app-1", "manifests": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop"}}],
        }});
        let owner = |name: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name}]);
        let mut indexing = Indexing::new("acme");
        for object in [
            site(),
            app,
            map("shop", json!([])),
            map("child", owner("shop")),
            map("grandchild", owner("child")),
            map("other", json!([])),
            map("others", owner("other")),
        ] {
            indexing.add(&fixtures::entry(&object));
        }
        let index = indexing.finish().unwrap();
        let part = index.part_of(&"App.reprieve.dev/acme/shop".parse().unwrap());
        let mut part: Vec<String> = part.iter().map(ToString::to_string).collect();
        part.sort();
        let expected = [
            "App.reprieve.dev/acme/shop",
            "ConfigMap/acme/child",
            "ConfigMap/acme/grandchild",
            "ConfigMap/acme/shop",
        ];
        assert_eq!(part, expected);
        assert!(index.part_of(&"App.reprieve.dev/acme/none".parse().unwrap()).is_empty());
    }
}
