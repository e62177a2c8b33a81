//! The objects of one site, created in order from the stream of its archive: a bounded number and a
//! bounded amount of them in memory at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;

use super::act::Work;
use super::budget;
use super::compare::differences;
use super::decide::Job;
use super::object::{Live, Made, Maker, Wanted};
use super::owners::Added;
use super::plan::Plan;
use super::rewrite::{self, owner_keys};
use super::site::{Attempt, Created, Seen};
use crate::api::{Reason, RestoreFailure};
use crate::cluster::form::ObjectKey;
use crate::cluster::order::{rank, stage};
use crate::store::RawEntry;

/// Objects of one site in flight at a time.
pub const IN_FLIGHT: usize = 8;
/// How much of the memory an object in flight takes, in times its size: the line of the archive,
/// what is sent, and what is answered.
const COPIES: usize = 3;

/// What to say of an object that is left alone.
pub fn as_it_lives(expected: &Value, live: &Value) -> Result<(), (Reason, String)> {
    let why = if live["metadata"]["deletionTimestamp"].is_null() {
        let found = differences(expected, live);
        if found.is_empty() {
            return Ok(());
        }
        let fields: Vec<String> = found.iter().take(5).map(|d| d.path.clone()).collect();
        format!("it was not lost, and was changed after the backup in {}", fields.join(", "))
    } else {
        "it was not lost, and is being deleted".to_owned()
    };
    Err((Reason::ChangedSince, why))
}

/// What is being done for a site.
struct Creating<'a> {
    maker: &'a Maker<'a>,
    job: &'a Job,
    plan: &'a Plan,
    seen: &'a HashMap<ObjectKey, Seen>,
    skip: bool,
    done: &'a AtomicI64,
    /// Objects that own others.
    owning: HashSet<ObjectKey>,
    running: FuturesUnordered<BoxFuture<'a, (ObjectKey, Made)>>,
    uids: HashMap<ObjectKey, String>,
    pending: HashMap<ObjectKey, Live>,
    left: HashSet<ObjectKey>,
    notices: Vec<RestoreFailure>,
    failures: Vec<RestoreFailure>,
    /// Namespaces that are not this site's: nothing goes into them.
    lost: HashSet<String>,
    later: Option<(Reason, String)>,
    /// Whether nothing of a later stage may be made: a StatefulSet would make a claim that could not
    /// be made anew, empty.
    no_further: bool,
    /// Whether everything is there, and only gets its owners.
    second: bool,
}

/// Creates what is not there, in order. `seen` is what was there before.
pub async fn create(
    work: &Work,
    maker: &Maker<'_>,
    job: &Job,
    plan: &Plan,
    seen: &HashMap<ObjectKey, Seen>,
    done: &AtomicI64,
) -> Result<Created, Attempt> {
    let owners = |(key, item): (&ObjectKey, &super::index::Item)| {
        let of = |owner: &Value| owner_keys(key.namespace.as_deref(), owner);
        item.owners.iter().flat_map(of).flatten().collect::<Vec<_>>()
    };
    let mut site = Creating {
        maker,
        job,
        plan,
        seen,
        skip: work.skips(),
        done,
        owning: plan.items().flat_map(owners).collect(),
        running: FuturesUnordered::new(),
        uids: HashMap::new(),
        pending: HashMap::new(),
        left: HashSet::new(),
        notices: vec![],
        failures: vec![],
        lost: HashSet::new(),
        later: None,
        no_further: false,
        second: false,
    };
    done.store(1, Ordering::Relaxed);
    let ranks: BTreeSet<u8> = plan.items().map(|(key, _)| rank(key)).collect();
    // An archive of another order is read once for each place in the order.
    let passes: Vec<Option<u8>> =
        if plan.index.ordered { vec![None] } else { ranks.into_iter().map(Some).collect() };
    for only in passes {
        site.pass(work, only).await?;
    }
    for (_, entry) in plan.late() {
        site.begin(entry.clone()).await;
    }
    site.barrier().await?;
    site.second_pass(work).await?;
    if site.failures.is_empty() {
        let at = Some(Instant::now());
        return Ok(Created { left: site.left, notices: site.notices, at });
    }
    Err(Attempt::Failed(site.failures))
}

impl<'a> Creating<'a> {
    /// One pass over the archive, of all places in the order or of one.
    async fn pass(&mut self, work: &Work, only: Option<u8>) -> Result<(), Attempt> {
        let mut reader = work.open(self.job).await?;
        let mut current = None;
        loop {
            let next = beside(reader.next_raw(), &mut self.running).await;
            let (ended, next) = next;
            for (key, made) in ended {
                self.take(key, made);
            }
            let Some(entry) = next.map_err(|error| work.unreadable(self.job, &error))? else {
                break;
            };
            work.check(self.job, self.plan, &entry)?;
            let place = rank(&entry.key);
            let stage = stage(place);
            let wanted = self.plan.archived(&entry.key).is_some();
            if !wanted || entry.key == self.plan.index.site_key || only.is_some_and(|p| p != place)
            {
                continue;
            }
            // Nothing of a later stage may come before this one is complete.
            if current != Some(stage) {
                self.barrier().await?;
                if self.no_further {
                    return Err(Attempt::Failed(std::mem::take(&mut self.failures)));
                }
                current = Some(stage);
            }
            self.begin(entry).await;
        }
        self.barrier().await
    }

    /// Begins with an object as soon as there is room for it.
    async fn begin(&mut self, entry: RawEntry) {
        let key = entry.key.clone();
        let (Some(item), false) = (
            self.plan.item(&key),
            key.namespace.as_ref().is_some_and(|name| self.lost.contains(name)),
        ) else {
            return;
        };
        while self.running.len() >= IN_FLIGHT {
            if let Some((key, made)) = self.running.next().await {
                self.take(key, made);
            }
        }
        let (ended, permit) = beside(budget::take(item.size * COPIES), &mut self.running).await;
        for (key, made) in ended {
            self.take(key, made);
        }
        let (maker, plan) = (self.maker, self.plan);
        let seen = self.seen.get(&key);
        let wanted = Wanted { item, entry, site: &self.plan.name };
        let one = async move {
            let made = one(maker, plan, &wanted, seen).await;
            drop(permit);
            (wanted.entry.key, made)
        };
        self.running.push(one.boxed());
    }

    /// Waits for everything that was begun.
    async fn barrier(&mut self) -> Result<(), Attempt> {
        while let Some((key, made)) = self.running.next().await {
            self.take(key, made);
        }
        match self.later.take() {
            Some((reason, why)) => Err(Attempt::Waiting(reason, why)),
            None => Ok(()),
        }
    }

    /// Notes what became of an object.
    fn take(&mut self, key: ObjectKey, made: Made) {
        let namespace = key.is("", "Namespace");
        // What GitOps has made anew of the site itself is left as it is: its spec is not the
        // restore's. Into a namespace of somebody else nothing goes, whatever was asked for.
        let id = self.plan.item(&key).and_then(|item| item.id.clone());
        let anew = |live: &Live| namespace || (id.is_some() && live.id == id);
        let may_skip = |live: &Live| {
            (self.skip || anew(live))
                && (!namespace || live.site.as_deref() == Some(self.job.site()))
        };
        match made {
            Made::Conflict(live, why) if may_skip(&live) => {
                let reason = if anew(&live) { Reason::ChangedSince } else { Reason::Conflict };
                self.note(&key, live, false);
                self.left.insert(key.clone());
                let why = format!("{why}: left as it is");
                self.notices.push(self.plan.notice(&key, reason, why));
            }
            Made::There(live) => self.note(&key, live, true),
            Made::Differently(live, reason, why) => {
                self.note(&key, live, true);
                self.notices.push(self.plan.notice(&key, reason, why));
            }
            Made::Conflict(_, why) => {
                if namespace {
                    self.lost.insert(key.name.clone());
                }
                let why =
                    format!("{why}: move it away, or make another Restore with onConflict: Skip");
                self.failures.push(self.plan.notice(&key, Reason::Conflict, why));
            }
            Made::Failed(reason, why) => {
                let claim = key.is("", "PersistentVolumeClaim");
                self.no_further |= claim && reason == Reason::KindMissing;
                if namespace {
                    self.lost.insert(key.name.clone());
                }
                self.failures.push(self.plan.notice(&key, reason, why));
            }
            Made::Later(reason, why) => {
                self.later = self.later.take().or(Some((reason, format!("{key}: {why}"))));
            }
        }
    }

    /// Notes an object that is there. With `add`, what it still lacks is added in the second pass.
    fn note(&mut self, key: &ObjectKey, live: Live, add: bool) {
        if self.second {
            return;
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.owning.contains(key) {
            self.uids.insert(key.clone(), live.uid.clone());
        }
        let untouched = self.plan.left_alone(key) && self.seen.contains_key(key);
        let Some(item) = self.plan.item(key).filter(|_| add && !untouched) else { return };
        let owners = live.lacks_owners && !item.owners.is_empty();
        if owners || (live.lacks_fields && item.fields.is_some()) {
            self.pending.insert(key.clone(), live);
        }
    }

    /// Every owner has its new UID now.
    async fn second_pass(&mut self, work: &Work) -> Result<(), Attempt> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // The Site itself was created before.
        let site = &self.plan.index.site_key;
        if self.owning.contains(site)
            && let Ok(Some(live)) = work.live(self.job).await
        {
            self.uids.insert(site.clone(), live.metadata.uid.unwrap_or_default());
        }
        self.second = true;
        let pending = std::mem::take(&mut self.pending);
        let mut fields = vec![];
        for (key, live) in pending {
            let with_fields = self.plan.item(&key).is_some_and(|item| item.fields.is_some());
            if live.lacks_fields && with_fields {
                fields.push((key, live));
            } else {
                self.complete(key, live, None).await;
            }
        }
        // Field owners are large: they are read again rather than kept.
        let mut fields: HashMap<ObjectKey, Live> = fields.into_iter().collect();
        for (_, entry) in self.plan.late() {
            if let Some(live) = fields.remove(&entry.key) {
                self.complete(entry.key.clone(), live, rewrite::field_owners(entry)).await;
            }
        }
        if !fields.is_empty() {
            let mut reader = work.open(self.job).await?;
            loop {
                let (ended, next) = beside(reader.next_raw(), &mut self.running).await;
                for (key, made) in ended {
                    self.take(key, made);
                }
                let next = next.map_err(|error| work.unreadable(self.job, &error))?;
                let Some(entry) = next else { break };
                work.check(self.job, self.plan, &entry)?;
                if let Some(live) = fields.remove(&entry.key) {
                    self.complete(entry.key.clone(), live, rewrite::field_owners(&entry)).await;
                }
            }
        }
        self.barrier().await
    }

    async fn complete(&mut self, key: ObjectKey, live: Live, fields: Option<Vec<Value>>) {
        let Some(item) = self.plan.item(&key) else { return };
        let owners =
            rewrite::owner_references(&key, &item.owners, &self.uids).filter(|_| live.lacks_owners);
        let added = Added { owners, fields };
        if added.owners.is_none() && added.fields.is_none() {
            return;
        }
        while self.running.len() >= IN_FLIGHT {
            if let Some((key, made)) = self.running.next().await {
                self.take(key, made);
            }
        }
        let maker = self.maker;
        let api_version = item.api_version.clone();
        let one = async move {
            let made = match maker.kind(&api_version, &key) {
                Ok(kind) => maker.add(kind, &key, &live, &added).await,
                Err(made) => made,
            };
            (key, made)
        };
        self.running.push(one.boxed());
    }
}

/// Awaits this while what is running goes on. Gives what ended meanwhile.
async fn beside<'a, T>(
    what: impl Future<Output = T>,
    running: &mut FuturesUnordered<BoxFuture<'a, (ObjectKey, Made)>>,
) -> (Vec<(ObjectKey, Made)>, T) {
    let mut ended = vec![];
    let mut what = std::pin::pin!(what);
    loop {
        if running.is_empty() {
            return (ended, what.await);
        }
        tokio::select! {
            biased;
            Some(one) = running.next() => ended.push(one),
            result = &mut what => return (ended, result),
        }
    }
}

/// Makes one object be there.
async fn one(maker: &Maker<'_>, plan: &Plan, wanted: &Wanted<'_>, seen: Option<&Seen>) -> Made {
    let key = wanted.key();
    let kind = match maker.kind(&wanted.item.api_version, key) {
        Ok(kind) => kind,
        Err(made) => return made,
    };
    let made = match seen {
        Some(seen) if seen.same => Made::There(seen.live.clone()),
        Some(seen) if plan.left_alone(key) => match maker.read(kind, key).await {
            Ok(Some(live)) => match as_it_lives(&wanted.expected(), &live) {
                Ok(()) => Made::There(seen.live.clone()),
                Err((reason, why)) => Made::Differently(seen.live.clone(), reason, why),
            },
            Ok(None) => maker.make_claim(wanted, &plan.snapshots(key)).await,
            Err(error) => super::object::later(Reason::Progressing, &error),
        },
        Some(_) => maker.look(kind, wanted).await,
        None => maker.make_claim(wanted, &plan.snapshots(key)).await,
    };
    // With its owners, if it has any: they may not be there yet.
    match made {
        Made::There(live)
            if seen.is_none() && live.lacks_fields && wanted.item.owners.is_empty() =>
        {
            let fields = rewrite::field_owners(&wanted.entry);
            if fields.is_none() {
                return Made::There(live);
            }
            maker.add(kind, key, &live, &Added { owners: None, fields }).await
        }
        made => made,
    }
}
