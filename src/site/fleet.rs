//! The watches of the room: Sites, Apps, namespaces, accounts, policies. What they tell is kept in
//! [`Rows`], which every reconciliation reads, and which says who has to look again. Being late
//! costs a repetition; what is written is decided on live reads where it matters (see `observe`).

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, controller::Controller};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::rows::{Again, AppRow, BindingRow, NamespaceRow, Rows, SiteRow};
use super::table::{Table, Told};
use crate::api::{App, DeletionPolicy, Site, Time, names};
use crate::cluster::{Context, Shutdown};

/// How long a Site waits for more Apps to change, and an App for more steps of a rollout.
const LATER: Duration = Duration::from_secs(1);

type SiteRef = ObjectRef<DeserializeGuard<Site>>;
type AppRef = ObjectRef<DeserializeGuard<App>>;

/// What the room knows of the fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    rows: Mutex<Rows>,
    complete: watch::Sender<bool>,
    sites: Store<DeserializeGuard<Site>>,
    sites_again: mpsc::UnboundedSender<SiteRef>,
    apps_again: mpsc::UnboundedSender<AppRef>,
    later: Mutex<HashSet<String>>,
}

/// The controllers that the fleet's watches feed.
pub struct Controllers {
    /// Of Sites.
    pub sites: Controller<DeserializeGuard<Site>>,
    /// Of Apps.
    pub apps: Controller<DeserializeGuard<App>>,
}

impl Fleet {
    /// Starts the watches. They end with `down`.
    pub fn start(ctx: &Context, down: &Shutdown) -> (Self, Controllers) {
        let (sites, site_writer) = reflector::store();
        let (apps, app_writer) = reflector::store();
        let (sites_again, sites_asked) = mpsc::unbounded_channel();
        let (apps_again, apps_asked) = mpsc::unbounded_channel();
        let fleet = Self(Arc::new(Inner {
            rows: Mutex::default(),
            complete: watch::Sender::new(false),
            sites: sites.clone(),
            sites_again,
            apps_again,
            later: Mutex::default(),
        }));
        let on_site = fleet.clone();
        let site_events = events::<DeserializeGuard<Site>>(Api::all(ctx.client.clone()), None)
            .reflect(site_writer)
            .inspect(move |event| {
                let row = |site: &DeserializeGuard<Site>| {
                    Some((site.name_any(), SiteRow::of(site.0.as_ref().ok()?)))
                };
                on_site.take(event, row, |rows| &mut rows.sites, Rows::site_changed);
            });
        let on_app = fleet.clone();
        let app_events = events::<DeserializeGuard<App>>(Api::all(ctx.client.clone()), None)
            .reflect(app_writer)
            .inspect(move |event| {
                let row = |app: &DeserializeGuard<App>| {
                    Some((key(app), AppRow::of(app.0.as_ref().ok()?)))
                };
                on_app.take(event, row, |rows| &mut rows.apps, Rows::app_changed);
            });
        let controllers = Controllers {
            sites: Controller::for_stream(site_events.applied_objects(), sites)
                .reconcile_on(stream_of(sites_asked)),
            apps: Controller::for_stream(app_events.applied_objects(), apps)
                .reconcile_on(stream_of(apps_asked)),
        };
        fleet.watch_the_rest(ctx, down);
        (fleet, controllers)
    }

    fn watch_the_rest(&self, ctx: &Context, down: &Shutdown) {
        let all = || ctx.client.clone();
        let own = Some(format!("metadata.name={}", names::APP_ACCOUNT));
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(all());
        self.spawn(
            events(namespaces, None),
            down,
            |n| Some((n.name_any(), namespace_row(n))),
            |rows| &mut rows.namespaces,
            |rows, change| rows.namespace_changed(change),
        );
        let accounts: Api<PartialObjectMeta<ServiceAccount>> = Api::all(all());
        self.spawn(
            events(accounts, own.clone()),
            down,
            |a| Some((a.namespace()?, a.uid()?)),
            |rows| &mut rows.accounts,
            |rows, change| rows.account_changed(&change.key),
        );
        let bindings: Api<RoleBinding> = Api::all(all());
        self.spawn(
            events(bindings, own.clone()),
            down,
            |b| Some((b.namespace()?, binding_row(b))),
            |rows| &mut rows.bindings,
            |rows, change| rows.account_changed(&change.key),
        );
        let roles: Api<PartialObjectMeta<ClusterRole>> = Api::all(all());
        self.spawn(
            events(roles, own),
            down,
            |role| Some((role.name_any(), ())),
            |rows| &mut rows.roles,
            |rows, _| rows.role_changed(),
        );
        let policies: Api<PartialObjectMeta<DeletionPolicy>> = Api::all(all());
        self.spawn(
            events(policies, None),
            down,
            |policy| Some((policy.name_any(), ())),
            |rows| &mut rows.policies,
            |rows, change| rows.policy_changed(&change.key),
        );
    }

    fn spawn<K, T>(
        &self,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        down: &Shutdown,
        row: impl Fn(&K) -> Option<(String, T)> + Send + Sync + 'static,
        table: impl Fn(&mut Rows) -> &mut Table<T> + Send + Sync + 'static,
        changed: impl Fn(&mut Rows, &super::table::Change<T>) -> Again + Send + Sync + 'static,
    ) where
        K: Send + 'static,
        T: Clone + PartialEq + Send + 'static,
    {
        let (fleet, down) = (self.clone(), down.clone());
        tokio::spawn(async move {
            let watch = events.for_each(|event| {
                match event {
                    Ok(_) => fleet.take(&event, &row, &table, &changed),
                    Err(error) => {
                        tracing::warn!(%error, "a watch broke and is taken up again");
                    }
                }
                futures::future::ready(())
            });
            tokio::select! { () = watch => {}, () = down.wait() => {} }
        });
    }

    /// Takes in what a watch tells, and sends on who has to look again.
    fn take<K, T: Clone + PartialEq>(
        &self,
        event: &watcher::Result<Event<K>>,
        row: impl Fn(&K) -> Option<(String, T)>,
        table: impl Fn(&mut Rows) -> &mut Table<T>,
        changed: impl Fn(&mut Rows, &super::table::Change<T>) -> Again,
    ) {
        let told = match event {
            Ok(Event::Init) => Some(Told::ListBegins),
            Ok(Event::InitApply(object)) => row(object).map(|(key, row)| Told::Listed(key, row)),
            Ok(Event::InitDone) => Some(Told::ListEnds),
            Ok(Event::Apply(object)) => row(object).map(|(key, row)| Told::Changed(key, row)),
            Ok(Event::Delete(object)) => row(object).map(|(key, _)| Told::Gone(key)),
            Err(_) => None,
        };
        let Some(told) = told else { return };
        let again: Vec<Again> = {
            let mut rows = self.rows();
            let changes = table(&mut rows).take(told);
            let again = changes.iter().map(|change| changed(&mut rows, change)).collect();
            if rows.is_complete() {
                self.0.complete.send_if_modified(|complete| !std::mem::replace(complete, true));
            }
            again
        };
        for again in again {
            self.ask(again);
        }
    }

    /// Lets these look again.
    pub fn ask(&self, again: Again) {
        for site in again.sites {
            let _ = self.0.sites_again.send(ObjectRef::new(&site));
        }
        for (namespace, name) in again.apps {
            self.ask_app(&namespace, &name);
        }
        for site in again.sites_later {
            let fleet = self.clone();
            self.later(format!("Site {site}"), move || fleet.ask_site(&site));
        }
    }

    /// Lets this App look again in a moment, because more of the same will follow.
    pub fn ask_app_later(&self, namespace: &str, name: &str) {
        let (fleet, namespace, name) = (self.clone(), namespace.to_owned(), name.to_owned());
        self.later(format!("App {namespace}/{name}"), move || fleet.ask_app(&namespace, &name));
    }

    fn later(&self, who: String, ask: impl FnOnce() + Send + 'static) {
        if self.0.later.lock().unwrap_or_else(PoisonError::into_inner).insert(who.clone()) {
            let fleet = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LATER).await;
                fleet.0.later.lock().unwrap_or_else(PoisonError::into_inner).remove(&who);
                ask();
            });
        }
    }

    /// Lets this Site look again.
    pub fn ask_site(&self, name: &str) {
        let _ = self.0.sites_again.send(ObjectRef::new(name));
    }

    /// Lets this App look again.
    pub fn ask_app(&self, namespace: &str, name: &str) {
        let _ = self.0.apps_again.send(ObjectRef::new(name).within(namespace));
    }

    /// What is known now. Not to be held while waiting for anything.
    pub fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Site of this name, as its watch told it last.
    pub fn site(&self, name: &str) -> Option<Site> {
        self.0.sites.get(&ObjectRef::new(name))?.0.as_ref().ok().cloned()
    }

    /// Every Site, as its watch told it last.
    pub fn sites(&self) -> Vec<Arc<DeserializeGuard<Site>>> {
        self.0.sites.state()
    }

    /// Waits until every watch has told all that there is: before, what is absent means nothing.
    pub async fn complete(&self) {
        // The sender lives as long as this.
        let _ = self.0.complete.subscribe().wait_for(|complete| *complete).await;
    }
}

/// The events of a watch, without the field managers, which are most of many objects.
fn events<K>(
    api: Api<K>,
    fields: Option<String>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config { field_selector: fields, ..watcher::Config::default() };
    watcher(api, config).default_backoff().modify(|object| {
        object.managed_fields_mut().clear();
    })
}

fn stream_of<T>(receiver: mpsc::UnboundedReceiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

/// The key of a namespaced object.
fn key<K: Resource>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// What is known of this namespace.
pub(super) fn namespace_row(namespace: &PartialObjectMeta<Namespace>) -> NamespaceRow {
    row_of(&namespace.metadata)
}

/// What is known of a namespace of this metadata.
pub(super) fn row_of(metadata: &ObjectMeta) -> NamespaceRow {
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref()?.get(key).cloned();
    NamespaceRow {
        uid: metadata.uid.clone().unwrap_or_default(),
        site: entry(&metadata.labels, names::LABEL_SITE),
        // A scratch namespace of a drill is taken away again, and is never a site's.
        adopt: entry(&metadata.annotations, names::ANNOTATION_ADOPT)
            .filter(|_| entry(&metadata.labels, names::LABEL_DRILL).is_none()),
        terminating: metadata.deletion_timestamp.is_some(),
    }
}

fn binding_row(binding: &RoleBinding) -> BindingRow {
    let role = &binding.role_ref;
    let right = role.kind == "ClusterRole" && role.name == names::APP_ACCOUNT;
    let namespace = binding.namespace();
    let subjects = binding.subjects.iter().flatten();
    BindingRow {
        wrong_role: (!right).then(|| format!("{} {}", role.kind, role.name)),
        binds_account: subjects.into_iter().any(|s| {
            s.kind == "ServiceAccount" && s.name == names::APP_ACCOUNT && s.namespace == namespace
        }),
        made: binding.metadata.creation_timestamp.as_ref().map(Time::from),
    }
}
