//! Sites and Apps that were deleted past the guard: held, asked about, and created anew.
//!
//! Unlike the other reconcilers this one follows objects that may be gone: it keeps the keys of
//! what was deleted and of every open record, and looks at each when something of it changes, or
//! after a while. Without any of them it does nothing.

mod act;
pub mod decide;
mod observe;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::api::{App, DeletionRequest, Reason, Site, TargetKind, names};
use crate::cluster::metrics::{Kind, Reconciled};
use crate::cluster::unexpected::request_name;
use crate::cluster::{Context, During, Error, Note, Result, Shutdown};
use crate::store::{Record, Records, Store};
use decide::{Step, decide};
use observe::{Crds, Key, observe, observe_crds};

/// Entities that are looked at at the same time.
const CONCURRENCY: usize = 8;
/// The limit of one look at an entity.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Steps of one look: more than there are from the first to the last.
const STEPS: usize = 16;
/// The wait after the first failure of an entity; it doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest wait after a failure.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// How old it may be what is known of our kinds.
const CRDS_MAX_AGE: Duration = Duration::from_secs(1);

/// Something that changed.
enum Signal {
    /// An entity was deleted, or is created anew; its UID.
    Entity(Key, String),
    /// A request for such an entity, by its name.
    Request(String),
    /// One of our CustomResourceDefinitions.
    Crd(Box<PartialObjectMeta<CustomResourceDefinition>>),
}

/// Runs until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    let (sender, signals) = unbounded_channel();
    let client = &ctx.client;
    let all = watcher::Config::default();
    let labelled = all.clone().labels(&format!("{}=true", names::LABEL_UNEXPECTED_DELETE));
    let (sites, apps) = (Api::all(client.clone()), Api::all(client.clone()));
    let (requests, crds) = (Api::all(client.clone()), Api::all(client.clone()));
    let is_ours = |crd: &PartialObjectMeta<_>| crd.name_any().ends_with(".reprieve.dev");
    let watches = async {
        tokio::join!(
            watch::<Site>(sites, all.clone(), &sender, |s| concerned(TargetKind::Site, s)),
            watch::<App>(apps, all.clone(), &sender, |app| concerned(TargetKind::App, app)),
            watch::<DeletionRequest>(requests, labelled, &sender, |r| {
                Some(Signal::Request(r.name_any()))
            }),
            watch(crds, all.clone(), &sender, |crd| {
                is_ours(crd).then(|| Signal::Crd(Box::new(crd.clone())))
            }),
        )
    };
    let work = Work::new(ctx.clone(), store);
    tokio::select! {
        () = down.wait() => {}
        _ = watches => {}
        () = work.run(signals) => {}
    }
}

/// Sends a signal for each event that gives one. A kind that is gone is asked for again and again:
/// that is what this is for.
async fn watch<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    sender: &UnboundedSender<Signal>,
    signal: impl Fn(&PartialObjectMeta<K>) -> Option<Signal>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                if let Some(signal) = signal(&object) {
                    let _ = sender.send(signal);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::debug!(%error, "a watch broke and is taken up again"),
        }
    }
}

/// Whether an entity was deleted, or is created anew.
fn concerned<K: Resource>(kind: TargetKind, object: &PartialObjectMeta<K>) -> Option<Signal> {
    let marked = object.annotations().contains_key(names::ANNOTATION_RECREATE);
    (marked || object.metadata.deletion_timestamp.is_some()).then(|| {
        let metadata = object.metadata.clone();
        let (namespace, name) = (metadata.namespace, metadata.name.unwrap_or_default());
        Signal::Entity(Key { kind, namespace, name }, metadata.uid.unwrap_or_default())
    })
}

/// The open records, by what they are of.
type Open = Arc<Mutex<HashMap<Key, Record>>>;

struct Work {
    ctx: Context,
    store: Store,
    open: Open,
    /// When to look at each.
    due: BTreeMap<Key, Instant>,
    running: HashSet<Key>,
    failures: HashMap<Key, u32>,
    /// Whose request it is, by its name.
    requests: HashMap<String, Key>,
    /// UIDs of CustomResourceDefinitions of which it was told that they were deleted.
    told: HashSet<String>,
    crds: Option<(Instant, Crds)>,
}

impl Work {
    fn new(ctx: Context, store: Store) -> Self {
        Self {
            ctx,
            store,
            open: Arc::default(),
            due: BTreeMap::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
            requests: HashMap::new(),
            told: HashSet::new(),
            crds: None,
        }
    }

    async fn run(mut self, mut signals: UnboundedReceiver<Signal>) {
        let mut wait = BACKOFF_FIRST;
        while let Err(error) = self.load().await {
            tracing::warn!(retry_in = ?wait, "{error}");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF_MOST);
        }
        let mut looks = FuturesUnordered::new();
        loop {
            let begin: Vec<Key> = self.ready(CONCURRENCY.saturating_sub(looks.len()));
            if !begin.is_empty() {
                match self.crds().await {
                    Ok(crds) => {
                        for key in begin {
                            self.running.insert(key.clone());
                            self.due.remove(&key);
                            let (ctx, store) = (self.ctx.clone(), self.store.clone());
                            looks.push(look(ctx, store, self.open.clone(), key, crds));
                        }
                    }
                    Err(error) => {
                        tracing::warn!("{error}");
                        let later = Instant::now() + BACKOFF_FIRST * 4;
                        self.due.extend(begin.into_iter().map(|key| (key, later)));
                    }
                }
            }
            self.count();
            let full = looks.len() >= CONCURRENCY;
            let next = self.due.values().min().copied().filter(|_| !full);
            let sleep = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(signal) = signals.recv() => self.hear(signal).await,
                Some((key, result)) = looks.next() => self.ended(key, result),
                () = sleep => {}
            }
        }
    }

    /// Reads every open record: those of the store, and those that only namespaces have.
    async fn load(&mut self) -> Result<()> {
        let doing = "read the records of what was deleted past the guard";
        let records = self.store.records().await.map_err(|error| Error::answer(doing, error))?;
        let Records { mut open, closed } = records;
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let labelled = ListParams::default().labels(names::LABEL_SITE);
        let namespaces = api.list_metadata(&labelled).await.during(doing)?;
        for namespace in namespaces {
            let Some(text) = namespace.annotations().get(names::ANNOTATION_RECORD) else {
                continue;
            };
            match Record::unseal(text.as_bytes()) {
                Ok(record) if closed.contains(&record.uid) => {}
                Ok(record) => {
                    let known = |r: &Record| r.uid == record.uid && r.number >= record.number;
                    if !open.iter().any(known) {
                        let put = self.store.put_record(&record).await;
                        put.map_err(|error| Error::answer(doing, error))?;
                        open.retain(|r| r.uid != record.uid);
                        open.push(record);
                    }
                }
                Err(why) => {
                    tracing::error!(namespace = namespace.name_any(), why, "a damaged record");
                }
            }
        }
        // The newest of a name comes last, and stays.
        open.sort_by_key(|record| record.time);
        let mut all = lock(&self.open);
        all.clear();
        for record in open {
            let Record { kind, namespace, name, .. } = &record;
            let key = Key { kind: *kind, namespace: namespace.clone(), name: name.clone() };
            self.due.insert(key.clone(), Instant::now());
            all.insert(key, record);
        }
        Ok(())
    }

    /// The entities to look at now, at most so many.
    fn ready(&self, most: usize) -> Vec<Key> {
        let now = Instant::now();
        let due = self.due.iter().filter(|(key, at)| **at <= now && !self.running.contains(key));
        due.map(|(key, _)| key.clone()).take(most).collect()
    }

    /// How the kinds stand, at most a second ago.
    async fn crds(&mut self) -> Result<Crds> {
        if let Some((at, crds)) = self.crds
            && at.elapsed() < CRDS_MAX_AGE
        {
            return Ok(crds);
        }
        let limit = Error::Timeout { seconds: TIMEOUT.as_secs() };
        let read = tokio::time::timeout(TIMEOUT, observe_crds(&self.ctx)).await;
        let crds = read.unwrap_or(Err(limit))?;
        self.crds = Some((Instant::now(), crds));
        Ok(crds)
    }

    async fn hear(&mut self, signal: Signal) {
        let now = Instant::now();
        match signal {
            Signal::Entity(key, uid) => {
                self.requests.insert(request_name(key.kind, &key.name, &uid), key.clone());
                self.due.insert(key, now);
            }
            Signal::Request(name) => {
                if let Some(key) = self.requests.get(&name) {
                    self.due.insert(key.clone(), now);
                }
            }
            Signal::Crd(crd) => {
                self.crds = None;
                for at in self.due.values_mut() {
                    *at = now;
                }
                let gone = crd.metadata.deletion_timestamp.is_some();
                if gone && self.told.insert(crd.uid().unwrap_or_default()) {
                    self.alarm(&crd).await;
                }
            }
        }
    }

    /// Tells that one of our CustomResourceDefinitions was deleted.
    async fn alarm(&self, crd: &PartialObjectMeta<CustomResourceDefinition>) {
        let kind = Kind { kind: "CustomResourceDefinition".to_owned() };
        self.ctx.metrics.unexpected_deletes.get_or_create(&kind).inc();
        let message = format!(
            "{} was deleted past the guard, which cannot be taken back. Sites and Apps are held by their finalizers, and nothing of a tenant is touched: what is let go is created anew when it is installed again: kubectl apply --server-side -f crds/",
            crd.name_any()
        );
        self.ctx.tell(crd, &Note::warning(Reason::UnexpectedDelete, message)).await;
    }

    fn ended(&mut self, key: Key, result: Result<Option<Duration>>) {
        self.running.remove(&key);
        let metrics = &self.ctx.metrics.reconciliations;
        let count = |result| metrics.get_or_create(&Reconciled { room: "recreate", result }).inc();
        // A signal that came meanwhile asks for a look at once.
        let asked = self.due.contains_key(&key);
        let wait = match result {
            Ok(wait) => {
                count("ok");
                self.failures.remove(&key);
                wait
            }
            Err(error) => {
                count("error");
                let failures = self.failures.entry(key.clone()).or_default();
                let conflict = error.status().is_some_and(|s| s.code == 409);
                let wait = BACKOFF_FIRST.saturating_mul(1 << (*failures).min(10)).min(BACKOFF_MOST);
                *failures += u32::from(!conflict);
                if !conflict {
                    tracing::warn!(entity = %key, retry_in = ?wait, "{error}");
                }
                Some(wait)
            }
        };
        match wait {
            Some(wait) if !asked => drop(self.due.insert(key, Instant::now() + wait)),
            Some(_) => {}
            None if !asked => self.requests.retain(|_, of| *of != key),
            None => {}
        }
    }

    /// Counts what is neither created anew nor purged yet.
    fn count(&self) {
        for kind in [TargetKind::Site, TargetKind::App] {
            let waiting = self.due.keys().filter(|key| !self.running.contains(key));
            let all = waiting.chain(&self.running).filter(|key| key.kind == kind).count();
            let label = Kind { kind: kind.to_string() };
            let gauge = self.ctx.metrics.unexpected_deletes_open.get_or_create(&label);
            gauge.set(i64::try_from(all).unwrap_or(i64::MAX));
        }
    }
}

/// Takes one step after the other with an entity, until it has to wait. Answers how long; nothing
/// when there is nothing more to do.
async fn look(
    ctx: Context,
    store: Store,
    open: Open,
    key: Key,
    crds: Crds,
) -> (Key, Result<Option<Duration>>) {
    let steps = async {
        for _ in 0..STEPS {
            let record = lock(&open).get(&key).cloned();
            let comes = |site: &str| {
                let key = Key { kind: TargetKind::Site, namespace: None, name: site.to_owned() };
                lock(&open).contains_key(&key)
            };
            let facts = observe(&ctx, &key, record.as_ref(), comes, crds).await?;
            let step = decide(&facts, ctx.now());
            tracing::debug!(entity = %key, ?step, "deleted past the guard");
            match &step {
                Step::Wait(wait) => return Ok(Some(*wait)),
                Step::Forget => return Ok(None),
                _ => act::act(&ctx, &store, &facts, &step).await?,
            }
            match step {
                Step::Record(record) => drop(lock(&open).insert(key.clone(), *record)),
                Step::Close(..) => drop(lock(&open).remove(&key)),
                _ => {}
            }
        }
        Ok(Some(Duration::ZERO))
    };
    let limit = Err(Error::Timeout { seconds: TIMEOUT.as_secs() });
    let result = tokio::time::timeout(TIMEOUT, steps).await.unwrap_or(limit);
    (key, result)
}

fn lock(open: &Open) -> std::sync::MutexGuard<'_, HashMap<Key, Record>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
