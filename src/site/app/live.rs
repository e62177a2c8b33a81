//! The objects of all Apps, as their watches tell: one watch for each kind that an App uses, of
//! the objects with an App's label. Of each object a few words are kept, by which a change that
//! concerns the App is told from the many that do not.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};

use super::object::{Seen, version};
use crate::api::names;
use crate::cluster::discover::Kind;
use crate::cluster::readiness::readiness;
use crate::cluster::{Context, Shutdown};
use crate::site::fleet::Fleet;
use crate::site::table::{Change, Table, Told};

/// Kinds that are ready as soon as they exist: their metadata is all that is needed, and Secrets
/// stay where they are.
const PLAIN: [(&str, &str); 6] = [
    ("", "ConfigMap"),
    ("", "Secret"),
    ("", "ServiceAccount"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("networking.k8s.io", "NetworkPolicy"),
];

/// The objects of all Apps. Cheap to clone.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    ctx: Context,
    fleet: Fleet,
    down: Shutdown,
    kinds: Mutex<HashMap<String, Watched>>,
}

#[derive(Default)]
struct Watched {
    table: Table<Seen>,
    /// Apps that wait for the first list.
    waiting: BTreeSet<(String, String)>,
}

impl Objects {
    /// No object, and no watch.
    pub fn new(ctx: &Context, fleet: &Fleet, down: &Shutdown) -> Self {
        Self(Arc::new(Inner {
            ctx: ctx.clone(),
            fleet: fleet.clone(),
            down: down.clone(),
            kinds: Mutex::default(),
        }))
    }

    /// Watches this kind from now on. Answers whether its first list is complete; if it is not,
    /// the App is told when it is.
    pub fn watch(&self, key: &str, kind: &Kind, app: (String, String)) -> bool {
        let mut kinds = self.kinds();
        if let Some(watched) = kinds.get_mut(key) {
            if watched.table.is_complete() {
                return true;
            }
            watched.waiting.insert(app);
            return false;
        }
        let waiting = BTreeSet::from([app]);
        kinds.insert(key.to_owned(), Watched { table: Table::default(), waiting });
        drop(kinds);
        let config = watcher::Config::default().labels(names::LABEL_APP);
        let words = (kind.resource.group.as_str(), kind.resource.kind.as_str());
        let client = self.0.ctx.client.clone();
        if PLAIN.contains(&words) {
            let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &kind.resource);
            self.run(key, watcher(api, config), |object| Seen::of(&object.metadata, None));
        } else {
            let api = Api::<DynamicObject>::all_with(client, &kind.resource);
            self.run(key, watcher(api, config), seen);
        }
        false
    }

    fn run<K>(
        &self,
        key: &str,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        row: impl Fn(&K) -> Seen + Send + Sync + 'static,
    ) where
        K: Resource + Debug + Send + 'static,
    {
        let (objects, key, down) = (self.clone(), key.to_owned(), self.0.down.clone());
        tokio::spawn(async move {
            let watch = events.default_backoff().for_each(|event| {
                match event {
                    Ok(event) => objects.take(&key, event, &row),
                    Err(error) => {
                        tracing::warn!(kind = key, %error, "a watch broke and is taken up again");
                    }
                }
                futures::future::ready(())
            });
            tokio::select! { () = watch => {}, () = down.wait() => {} }
        });
    }

    fn take<K: Resource>(&self, kind: &str, event: Event<K>, row: impl Fn(&K) -> Seen) {
        let mut kinds = self.kinds();
        let Some(Watched { table, waiting }) = kinds.get_mut(kind) else { return };
        let key = |object: &K| key(&object.namespace().unwrap_or_default(), &object.name_any());
        // What was learned from the answer to a write may be newer than what the watch tells.
        let old = |table: &Table<Seen>, object: &K| {
            let known = table.get(&key(object)).map_or(0, |known| known.version);
            version(object.meta()) < known
        };
        let told = match event {
            Event::Init => Told::ListBegins,
            Event::InitApply(object) => {
                let newer = table.get(&key(&object)).filter(|_| old(table, &object)).cloned();
                Told::Listed(key(&object), newer.unwrap_or_else(|| row(&object)))
            }
            Event::InitDone => Told::ListEnds,
            Event::Apply(object) | Event::Delete(object) if old(table, &object) => return,
            Event::Apply(object) => Told::Changed(key(&object), row(&object)),
            Event::Delete(object) => Told::Gone(key(&object)),
        };
        let changes = table.take(told);
        let ready = if table.is_complete() { std::mem::take(waiting) } else { BTreeSet::new() };
        drop(kinds);
        for (namespace, name) in ready {
            self.0.fleet.ask_app(&namespace, &name);
        }
        for change in changes {
            self.tell(&change);
        }
    }

    /// Lets those look again whom the change concerns.
    fn tell(&self, change: &Change<Seen>) {
        let namespace = change.key.split_once('/').map_or("", |(namespace, _)| namespace);
        for app in concerned(change) {
            if is_one_step_of_many(change) {
                self.0.fleet.ask_app_later(namespace, &app);
            } else {
                self.0.fleet.ask_app(namespace, &app);
            }
        }
    }

    /// What is seen of this object.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Seen> {
        self.kinds().get(kind)?.table.get(&key(namespace, name)).cloned()
    }

    /// Takes in the answer to a write, so that the watch's event of it is no news.
    pub fn note(&self, kind: &str, live: &DynamicObject) -> Seen {
        let new = seen(live);
        let key = key(&live.namespace().unwrap_or_default(), &live.name_any());
        if let Some(watched) = self.kinds().get_mut(kind)
            && watched.table.get(&key).is_none_or(|known| known.version < new.version)
        {
            watched.table.set(key, new.clone());
        }
        new
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn seen(object: &DynamicObject) -> Seen {
    let value = serde_json::to_value(object).unwrap_or_default();
    Seen::of(&object.metadata, readiness(&value).waiting_for().map(str::to_owned))
}

/// The Apps that a change concerns: not when only the version moved.
fn concerned(change: &Change<Seen>) -> BTreeSet<String> {
    let without_version = |seen: &Seen| Seen { version: 0, ..seen.clone() };
    if change.old.as_ref().map(without_version) == change.new.as_ref().map(without_version) {
        return BTreeSet::new();
    }
    [&change.old, &change.new].into_iter().flatten().map(|seen| seen.app.clone()).collect()
}

/// Whether the object waited and still does, only for something else, as in each step of a rollout.
fn is_one_step_of_many(change: &Change<Seen>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return false };
    let same = Seen { version: new.version, waiting_for: new.waiting_for.clone(), ..old.clone() };
    old.waiting_for.is_some() && new.waiting_for.is_some() && same == *new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_leaves_everything_as_it_was_concerns_nobody() {
        let row = |app: &str, version, waiting: Option<&str>| {
            Some(Seen {
                app: app.to_owned(),
                uid: "u".into(),
                version,
                fields: "f".into(),
                waiting_for: waiting.map(str::to_owned),
                deleting: false,
            })
        };
        let who = |old, new| concerned(&Change { key: "a/x".into(), old, new }).len();
        assert_eq!(who(row("shop", 1, None), row("shop", 2, None)), 0);
        assert_eq!(who(row("shop", 1, None), row("shop", 2, Some("its Pods"))), 1);
        assert_eq!(who(row("shop", 1, None), None), 1);
        assert_eq!(who(row("shop", 1, None), row("wiki", 2, None)), 2);
    }
}
