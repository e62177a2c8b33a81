//! One site, read back: page by page, each object compared by its digest. Only what differs is
//! looked at as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::act::Work;
use super::budget;
use super::compare::{Cause, differences};
use super::create::{IN_FLIGHT, as_it_lives};
use super::decide::Job;
use super::estimate::Sample;
use super::index::{Index, Item};
use super::object::{Live, Maker, Wanted};
use super::plan::{Plan, sizes};
use crate::api::{NamespaceRef, Reason, RestoreFailure, VerifiedSite, names};
use crate::cluster::collect::ObjectState;
use crate::cluster::describe;
use crate::cluster::discover::Kind;
use crate::cluster::form::ObjectKey;
use crate::cluster::readiness::readiness;

/// Bytes of objects that are asked for at a time.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Objects that are asked for at a time, at most.
const PAGE: usize = 500;
/// What the API server adds to an object, about: field owners and status, in bytes.
const ADDED: usize = 2 * 1024;
/// How often a list is begun anew when the API server has forgotten where it was.
const RESTARTS: usize = 3;
/// For so long after everything was created only what controllers make ready is looked at: once it
/// is, or this has passed, everything is read back, and every difference told.
const EARLY: Duration = Duration::from_secs(10);
/// For so long after everything was created no controller can have done anything.
const TOO_EARLY: Duration = Duration::from_millis(200);

/// How an attempt at a site ended.
pub enum Attempt {
    /// Everything was read back and is equal, and what was ready is ready.
    Verified(VerifiedSite),
    /// It cannot be restored.
    Failed(Vec<RestoreFailure>),
    /// Not yet.
    Waiting(Reason, String),
}

/// What is remembered of a site between two looks. It saves work and is never relied on.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What its archive holds, once it was read to its end.
    pub index: Option<Arc<Index>>,
    /// Set once everything was created.
    pub created: Option<Created>,
    /// When creating began.
    pub begun: Option<Instant>,
    /// What it has taken, once it is verified.
    pub took: Option<Sample>,
    /// Set once everything was read back: what is left are its hooks. With what was told then.
    pub verified: Option<(VerifiedSite, Vec<RestoreFailure>)>,
    /// When its hooks were begun.
    pub hooks_begun: Option<Instant>,
}

impl Progress {
    /// Notes what a site has taken that was verified just now, in a look that began then.
    pub fn measure(&mut self, objects: i64, verifying: Instant, waited: bool) {
        let created = self.created.as_ref().and_then(|created| created.at);
        // One that was created before a restart of the operator was not measured.
        let Some((begun, created)) = self.begun.zip(created) else { return };
        self.took = Some(Sample {
            objects: u64::try_from(objects).unwrap_or(0),
            create: created.saturating_duration_since(begun),
            ready: waited.then(|| verifying.saturating_duration_since(created)),
            verify: verifying.elapsed(),
            hooks: None,
        });
    }

    /// Notes that its hooks have ended well just now.
    pub fn measure_hooks(&mut self) {
        if let (Some(took), Some(begun)) = (&mut self.took, self.hooks_begun) {
            took.hooks = Some(begun.elapsed());
        }
    }
}

/// What is remembered of a site once everything was created.
#[derive(Clone, Debug, Default)]
pub struct Created {
    /// What lives, is different and was left as it is.
    pub left: HashSet<ObjectKey>,
    /// What was told when it was created.
    pub notices: Vec<RestoreFailure>,
    /// When that was done.
    pub at: Option<Instant>,
}

/// What is remembered of an object that was there before anything was created.
#[derive(Debug)]
pub struct Seen {
    /// What it is.
    pub live: Live,
    /// Whether it is as it is to be, owner references aside.
    pub same: bool,
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

/// One list, or one object that no namespace holds.
enum Read<'a> {
    Kind { kind: &'a Kind, namespace: String, objects: usize, largest: usize },
    One { kind: &'a Kind, key: ObjectKey },
}

/// The lists that hold these objects of the plan. Those of no namespace are read one by one.
fn reads<'a>(
    maker: &'a Maker<'_>,
    plan: &Plan,
    of: impl Fn(&ObjectKey, &Item) -> bool,
) -> Vec<Read<'a>> {
    let of = |(key, item): &(&ObjectKey, &Item)| of(key, item);
    let mut reads = vec![];
    for ((namespace, api_version, kind), (objects, largest)) in sizes(plan.items().filter(of)) {
        // A kind that is not served was told when its objects were to be created.
        let Some(kind) = maker.kinds.find(&api_version, &kind) else { continue };
        reads.push(Read::Kind { kind, namespace, objects, largest });
    }
    for (key, item) in plan.items().filter(of).filter(|(key, _)| key.namespace.is_none()) {
        let Ok(kind) = maker.kind(&item.api_version, key) else { continue };
        reads.push(Read::One { kind, key: key.clone() });
    }
    reads
}

/// Hands every live object of these lists to `take`, one after the other. What is not there is not
/// told; what is there may be told twice.
async fn read_back(
    maker: &Maker<'_>,
    reads: Vec<Read<'_>>,
    take: &mut (dyn FnMut(ObjectKey, Value) + Send),
) -> Result<(), String> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(IN_FLIGHT);
    // Collected before they are run: the compiler cannot tell the lifetimes otherwise.
    let reads: Vec<_> = reads.iter().map(|of| read(maker, of, sender.clone())).collect();
    drop(sender);
    let reading = async {
        let mut reads = stream::iter(reads).buffer_unordered(IN_FLIGHT);
        while let Some(result) = reads.next().await {
            result.map_err(|error| describe(&error))?;
        }
        // The receiver ends once no sender is left.
        drop(reads);
        Ok(())
    };
    let taking = async {
        while let Some(live) = receiver.recv().await {
            if let Some(key) = ObjectKey::of(&live) {
                take(key, live);
            }
        }
    };
    let (result, ()) = tokio::join!(reading, taking);
    result
}

type Found = tokio::sync::mpsc::Sender<Value>;

async fn read(maker: &Maker<'_>, of: &Read<'_>, found: Found) -> kube::Result<()> {
    match of {
        Read::One { kind, key } => {
            if let Some(live) = maker.read(kind, key).await? {
                let _ = found.send(live).await;
            }
            Ok(())
        }
        Read::Kind { kind, namespace, objects, largest } => {
            let limit = (PAGE_BYTES / (largest + ADDED)).clamp(1, PAGE);
            // The answer as a whole, and one object of it at a time.
            let bytes = 2 * (largest + ADDED) * limit.min(*objects);
            let mut restarts = 0;
            loop {
                let path = kind.path(Some(namespace));
                match pages(maker, kind, &path, limit, bytes, &found).await {
                    // The continue token was too old: a slow page, or a compaction in between.
                    Err(kube::Error::Api(status)) if status.code == 410 && restarts < RESTARTS => {
                        restarts += 1;
                    }
                    result => return result,
                }
            }
        }
    }
}

async fn pages(
    maker: &Maker<'_>,
    kind: &Kind,
    path: &str,
    limit: usize,
    bytes: usize,
    found: &Found,
) -> kube::Result<()> {
    let mut next = String::new();
    loop {
        let permit = budget::take(bytes).await;
        let token: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let path = format!("{path}?limit={limit}&continue={token}");
        let page: Page = maker.send(Method::GET, &path, vec![]).await?;
        for item in page.items {
            let mut live: Value =
                serde_json::from_str(item.get()).map_err(kube::Error::SerdeError)?;
            // Items of a list of a built-in kind don't say what they are.
            live["apiVersion"] = json!(kind.resource.api_version);
            live["kind"] = json!(kind.resource.kind);
            let _ = found.send(live).await;
        }
        drop(permit);
        next = page.metadata.next;
        if next.is_empty() {
            return Ok(());
        }
    }
}

/// What of the plan is there already, and whether it is as it is to be.
pub async fn seen(maker: &Maker<'_>, plan: &Plan) -> Result<HashMap<ObjectKey, Seen>, Attempt> {
    let mut seen = HashMap::new();
    let mut take = |key: ObjectKey, live: Value| {
        let Some(item) = plan.item(&key) else { return };
        let going = !live["metadata"]["deletionTimestamp"].is_null();
        let is = Live::of(&live, item, maker.since);
        let owners = plan.left_alone(&key);
        let same = !going && plan.is_equal(&key, live, owners);
        seen.insert(key, Seen { live: is, same });
    };
    let result = read_back(maker, reads(maker, plan, |_, _| true), &mut take).await;
    result.map_err(|why| Attempt::Waiting(Reason::Progressing, why))?;
    Ok(seen)
}

/// What controllers make ready after it was created, in words, while some of it is not and that is
/// to be expected. A few lists, so that a site is read back as a whole once.
pub async fn still_starting(
    maker: &Maker<'_>,
    plan: &Plan,
    created: &Created,
) -> Result<Option<String>, Attempt> {
    let Some(since) = created.at.map(|at| at.elapsed()).filter(|since| *since < EARLY) else {
        return Ok(None);
    };
    let started = |key: &ObjectKey, item: &Item| {
        matches!(
            (key.group.as_str(), key.kind.as_str()),
            ("apps" | "batch", _) | ("", "Pod" | "ReplicationController" | "PersistentVolumeClaim")
        ) && is_to_be_ready(plan, created, key, item)
    };
    let mut of = plan.items().filter(|(key, item)| started(key, item));
    if let Some((key, _)) = of.next().filter(|_| since < TOO_EARLY) {
        return Ok(Some(format!("{key}: was created a moment ago")));
    }
    let mut not_ready = None;
    let mut take = |key: ObjectKey, live: Value| {
        if plan.item(&key).is_some_and(|item| started(&key, item))
            && let Some(why) = readiness(&live).waiting_for()
        {
            not_ready.get_or_insert_with(|| format!("{key}: {why}"));
        }
    };
    let result = read_back(maker, reads(maker, plan, started), &mut take).await;
    result.map_err(|why| Attempt::Waiting(Reason::Progressing, why))?;
    Ok(not_ready)
}

/// Whether an object was ready in the backup, and has to be again. Sites and Apps are made ready by
/// their own rooms, after the restore; what was left as it is is not asked.
fn is_to_be_ready(plan: &Plan, created: &Created, key: &ObjectKey, item: &Item) -> bool {
    item.state == ObjectState::Ready
        && key.group != names::GROUP
        && !created.left.contains(key)
        && !plan.left_alone(key)
}

/// Reads everything back, compares it, and asks whether what was ready in the backup is ready. What
/// was left as it is must be there, and is not compared: it was told.
pub async fn verify(
    work: &Work,
    maker: &Maker<'_>,
    job: &Job,
    plan: &mut Plan,
    created: &Created,
) -> Result<Attempt, Attempt> {
    let mut uids: HashMap<ObjectKey, String> = HashMap::new();
    let mut there: HashSet<ObjectKey> = HashSet::new();
    let mut different: HashSet<ObjectKey> = HashSet::new();
    let mut not_ready: Option<String> = None;
    let mut take = |key: ObjectKey, live: Value| {
        let Some(item) = plan.item(&key) else { return };
        if key.namespace.is_none() {
            let uid = live["metadata"]["uid"].as_str().unwrap_or_default();
            uids.insert(key.clone(), uid.to_owned());
        }
        let left = created.left.contains(&key);
        if is_to_be_ready(plan, created, &key, item)
            && let Some(why) = readiness(&live).waiting_for()
        {
            not_ready.get_or_insert_with(|| format!("{key}: {why}"));
        }
        if !left && !plan.is_equal(&key, live, true) {
            different.insert(key.clone());
        }
        there.insert(key);
    };
    let result = read_back(maker, reads(maker, plan, |_, _| true), &mut take).await;
    result.map_err(|why| Attempt::Waiting(Reason::Progressing, why))?;
    let mut failures = vec![];
    let mut missing: Vec<&ObjectKey> =
        plan.items().map(|(key, _)| key).filter(|key| !there.contains(*key)).collect();
    missing.sort();
    for key in missing {
        let message = "it was created, and is not there any more".to_owned();
        failures.push(plan.notice(key, Reason::VerifyFailed, message));
    }
    let count = plan.total();
    plan.notices.extend(created.notices.iter().cloned());
    if !different.is_empty() {
        let found = compare(work, maker, job, plan, &different).await?;
        failures.extend(found.failures);
        not_ready = not_ready.or(found.changing);
        // The same thing may have been told when the object was created.
        let told = |notice: &RestoreFailure| {
            let same = |n: &RestoreFailure| {
                let told = n.reason == notice.reason || n.reason == Reason::DiskMissing.as_str();
                n.object == notice.object && told
            };
            plan.notices.iter().any(same)
        };
        let new: Vec<_> = found.notices.into_iter().filter(|notice| !told(notice)).collect();
        plan.notices.extend(new);
    }
    if !failures.is_empty() {
        return Err(Attempt::Failed(failures));
    }
    if let Some(why) = not_ready {
        return Err(Attempt::Waiting(Reason::WaitingForReady, why));
    }
    let uid = |key: &ObjectKey| uids.get(key).cloned().unwrap_or_default();
    let mut namespaces: Vec<NamespaceRef> = plan
        .items()
        .filter(|(key, _)| key.is("", "Namespace"))
        .map(|(key, _)| NamespaceRef { name: key.name.clone(), uid: uid(key) })
        .collect();
    namespaces.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Attempt::Verified(VerifiedSite {
        name: job.name.clone(),
        uid: uid(&plan.index.site_key),
        namespaces,
        objects: count,
        drill: None,
    }))
}

/// What was found of the objects that are not as they were.
#[derive(Default)]
struct Compared {
    failures: Vec<RestoreFailure>,
    notices: Vec<RestoreFailure>,
    /// An object that was equal, or gone, when it was read again.
    changing: Option<String>,
}

/// Reads what differs from the archive again, and tells in which fields, and whose doing it is.
async fn compare(
    work: &Work,
    maker: &Maker<'_>,
    job: &Job,
    plan: &Plan,
    different: &HashSet<ObjectKey>,
) -> Result<Compared, Attempt> {
    let mut compared = Compared::default();
    let waiting = |error: &kube::Error| Attempt::Waiting(Reason::Progressing, describe(error));
    let mut reader = work.open(job).await?;
    let mut late: Vec<_> = plan.late().map(|(_, entry)| entry.clone()).collect();
    loop {
        let next = reader.next_raw().await.map_err(|error| work.unreadable(job, &error))?;
        if let Some(entry) = &next {
            work.check(job, plan, entry)?;
        }
        let archived = next.is_some();
        let Some(entry) = next.or_else(|| late.pop()) else { return Ok(compared) };
        let key = entry.key.clone();
        let item = if archived { plan.archived(&key) } else { plan.item(&key) };
        let (Some(item), true) = (item, different.contains(&key)) else { continue };
        let Ok(kind) = maker.kind(&item.api_version, &key) else { continue };
        let _permit = budget::take(4 * (item.size + ADDED)).await;
        let wanted = Wanted { item, entry, site: &plan.name };
        let Some(live) = maker.read(kind, &key).await.map_err(|e| waiting(&e))? else {
            compared.changing = Some(format!("{key}: is gone"));
            continue;
        };
        let expected = wanted.expected();
        if plan.left_alone(&key) {
            if let Err((reason, why)) = as_it_lives(&expected, &live) {
                compared.notices.push(plan.notice(&key, reason, why));
            }
            continue;
        }
        let mut found = differences(&expected, &live);
        maker.explain(kind, &wanted, &live, &mut found).await;
        let (bad, told): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|d| d.cause == Cause::Unexplained);
        if !bad.is_empty() {
            let fields: Vec<String> = bad.iter().take(5).map(ToString::to_string).collect();
            let message = format!("what was read back differs in {}", fields.join(", "));
            compared.failures.push(plan.notice(&key, Reason::VerifyFailed, message));
        }
        for difference in told {
            let reason = match difference.cause {
                Cause::Reassigned => Reason::Reassigned,
                _ => Reason::ChangedSince,
            };
            let message = format!("{difference} is not as it was");
            compared.notices.push(plan.notice(&key, reason, message));
        }
    }
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
