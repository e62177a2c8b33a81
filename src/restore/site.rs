//! One site: its objects created in order, their owners set, all of it read back and compared.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};

use futures::stream::{self, StreamExt};
use serde_json::Value;

use super::compare::{Cause, differences};
use super::decide::Job;
use super::living;
use super::object::{Made, Maker};
use super::plan::{Plan, Wanted, failure};
use super::rewrite;
use crate::api::{NamespaceRef, Reason, RestoreFailure, VerifiedSite, names};
use crate::cluster::collect::{Freshness, ObjectState, list};
use crate::cluster::form::ObjectKey;
use crate::cluster::order::rank;
use crate::cluster::readiness::readiness;

/// Objects of one site in flight at a time.
const IN_FLIGHT: usize = 8;

/// What to say of an object that is left alone.
fn as_it_lives(expected: &Value, live: Value) -> Made {
    let why = if live["metadata"]["deletionTimestamp"].is_null() {
        let found = differences(expected, &live);
        if found.is_empty() {
            return Made::There(live);
        }
        let fields: Vec<String> = found.iter().take(5).map(|d| d.path.clone()).collect();
        format!("it was not lost, and was changed after the backup in {}", fields.join(", "))
    } else {
        "it was not lost, and is being deleted".to_owned()
    };
    Made::Differently(live, Reason::ChangedSince, why)
}

/// How an attempt at a site ended.
pub enum Attempt {
    /// Everything was read back and is equal, and what was ready is ready.
    Verified(VerifiedSite),
    /// It cannot be restored.
    Failed(Vec<RestoreFailure>),
    /// Not yet.
    Waiting(Reason, String),
}

/// The live objects of the kinds and namespaces that are asked for.
async fn read_back(maker: &Maker<'_>, plan: &Plan) -> Result<HashMap<ObjectKey, Value>, String> {
    let mut found = HashMap::new();
    let mut lists = BTreeMap::new();
    for wanted in plan.objects.iter().chain([&plan.site]) {
        // A kind that is not served was told when its objects were to be created.
        let Ok(kind) = maker.kind(&wanted.expected) else { continue };
        if let Some(namespace) = &wanted.key.namespace {
            lists.insert(
                (namespace.clone(), kind.resource.kind.clone(), &kind.resource.group),
                kind,
            );
        } else if let Some(live) = maker.read(kind, &wanted.key).await.map_err(|e| e.to_string())? {
            found.insert(wanted.key.clone(), live);
        }
    }
    let lists: Vec<_> = lists
        .into_iter()
        .map(|((namespace, ..), kind)| async move {
            list(maker.client, kind, Some(&namespace), Freshness::Live).await
        })
        .collect();
    let mut lists = stream::iter(lists).buffer_unordered(IN_FLIGHT);
    while let Some(items) = lists.next().await {
        for live in items.map_err(|error| error.to_string())? {
            if let Some(key) = ObjectKey::of(&live) {
                found.insert(key, live);
            }
        }
    }
    Ok(found)
}

/// Creates what is not there, in order. `existing` says whether some of it may be there, so that
/// it is asked for before it is sent. Gives the keys of what lives, is different and was left as
/// it is, which only happens with `skip`.
pub async fn create(
    maker: &Maker<'_>,
    job: &Job,
    plan: &mut Plan,
    existing: bool,
    skip: bool,
    done: &AtomicI64,
) -> Result<HashSet<ObjectKey>, Attempt> {
    let waiting = |why| Attempt::Waiting(Reason::Progressing, why);
    let before =
        if existing { read_back(maker, plan).await.map_err(waiting)? } else { HashMap::new() };
    let mut live: HashMap<ObjectKey, Value> = HashMap::new();
    let mut failures = vec![];
    let mut lost: BTreeSet<String> = BTreeSet::new();
    let mut notices = vec![];
    let mut skipped = HashSet::new();
    let mut later = None;
    done.store(1, Ordering::Relaxed);
    let ranks: BTreeSet<u8> = plan.objects.iter().map(|o| rank(&o.key)).collect();
    for place in ranks {
        let at_rank = plan.objects.iter().filter(|o| rank(&o.key) == place);
        // Not a single object goes into a namespace that is not this site's.
        let at_rank: Vec<&Wanted> = at_rank
            .filter(|o| !o.key.namespace.as_ref().is_some_and(|n| lost.contains(n)))
            .collect();
        let (maker, before, plan) = (&maker, &before, &*plan);
        // Collected before they are run: the compiler cannot tell the lifetimes otherwise.
        let attempts: Vec<_> = at_rank
            .into_iter()
            .map(|wanted| async move {
                let made = match before.get(&wanted.key) {
                    Some(live) if plan.left_alone(&wanted.key) => {
                        as_it_lives(&wanted.expected, live.clone())
                    }
                    Some(live) => match maker.kind(live) {
                        Ok(kind) => {
                            maker.found(kind, &wanted.key, &wanted.expected, live.clone()).await
                        }
                        Err(made) => made,
                    },
                    None => maker.make(&wanted.key, &wanted.expected).await,
                };
                (wanted, made)
            })
            .collect();
        let mut made = stream::iter(attempts).buffer_unordered(IN_FLIGHT);
        while let Some((wanted, made)) = made.next().await {
            let (key, object) = (&wanted.key, Some(&wanted.expected));
            // Into a namespace of somebody else nothing goes, whatever was asked for.
            let may_skip = |live: &Value| {
                let label = &live["metadata"]["labels"][names::LABEL_SITE];
                (skip || living::is_made_anew(key, &wanted.expected, live, &job.name))
                    && (!key.is("", "Namespace") || *label == job.name)
            };
            let good = match &made {
                Made::There(_) | Made::Differently(..) => true,
                Made::Conflict(live, _) => may_skip(live),
                Made::Failed(..) | Made::Later(..) => false,
            };
            match made {
                Made::Conflict(found, why) if may_skip(&found) => {
                    skipped.insert(key.clone());
                    done.fetch_add(1, Ordering::Relaxed);
                    let why = format!("{why}: left as it is");
                    let anew = living::is_made_anew(key, &wanted.expected, &found, &job.name);
                    let reason = if anew { Reason::ChangedSince } else { Reason::Conflict };
                    notices.push(failure(&job.name, object, reason, why));
                    live.insert(key.clone(), found);
                }
                Made::Conflict(_, why) => {
                    let why = format!(
                        "{why}: move it away, or make another Restore with onConflict: Skip"
                    );
                    failures.push(failure(&job.name, object, Reason::Conflict, why));
                }
                Made::There(found) => {
                    live.insert(key.clone(), found);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Made::Differently(found, reason, why) => {
                    live.insert(key.clone(), found);
                    done.fetch_add(1, Ordering::Relaxed);
                    notices.push(failure(&job.name, object, reason, why));
                }
                Made::Failed(reason, why) => {
                    failures.push(failure(&job.name, object, reason, why));
                }
                Made::Later(reason, why) => {
                    later = later.or(Some((reason, format!("{key}: {why}"))));
                }
            }
            if key.is("", "Namespace") && !good {
                lost.insert(key.name.clone());
            }
        }
        // Nothing of a later place may come before this one is complete.
        if let Some((reason, why)) = later {
            return Err(Attempt::Waiting(reason, why));
        }
    }
    plan.notices.extend(notices);
    let untouched = |key: &ObjectKey| {
        skipped.contains(key) || (plan.left_alone(key) && before.contains_key(key))
    };
    set_owners(maker, job, plan, untouched, live, &mut failures).await?;
    if failures.is_empty() { Ok(skipped) } else { Err(Attempt::Failed(failures)) }
}

/// The second pass: every owner has its new UID now.
async fn set_owners(
    maker: &Maker<'_>,
    job: &Job,
    plan: &Plan,
    untouched: impl Fn(&ObjectKey) -> bool,
    mut live: HashMap<ObjectKey, Value>,
    failures: &mut Vec<RestoreFailure>,
) -> Result<(), Attempt> {
    let uid = |(key, live): (&ObjectKey, &Value)| {
        Some((key.clone(), live["metadata"]["uid"].as_str()?.to_owned()))
    };
    let uids: HashMap<ObjectKey, String> = live.iter().filter_map(uid).collect();
    for wanted in plan.objects.iter().filter(|wanted| !untouched(&wanted.key)) {
        let (Some(object), Some(owners)) =
            (live.remove(&wanted.key), rewrite::owner_references(&wanted.expected, &uids))
        else {
            continue;
        };
        if object["metadata"]["ownerReferences"].as_array() == Some(&owners) {
            continue;
        }
        // What a controller has changed since it was created is read again, once.
        let mut result = maker.set_owners(&wanted.key, &object, &owners).await;
        if let Err(Made::Later(..)) = result
            && let Ok(kind) = maker.kind(&object)
            && let Ok(Some(fresh)) = maker.read(kind, &wanted.key).await
        {
            result = maker.set_owners(&wanted.key, &fresh, &owners).await;
        }
        match result {
            Ok(_) => {}
            Err(Made::Failed(reason, why)) => {
                failures.push(failure(&job.name, Some(&wanted.expected), reason, why));
            }
            Err(Made::Later(reason, why) | Made::Differently(_, reason, why)) => {
                return Err(Attempt::Waiting(reason, format!("{}: {why}", wanted.key)));
            }
            Err(Made::There(_) | Made::Conflict(..)) => {}
        }
    }
    Ok(())
}

/// Reads everything back, compares it, and asks whether what was ready in the backup is ready. What
/// was `left` as it is must be there, and is not compared: it was told.
pub async fn verify(
    maker: &Maker<'_>,
    job: &Job,
    plan: &mut Plan,
    left: &HashSet<ObjectKey>,
) -> Attempt {
    let live = match read_back(maker, plan).await {
        Ok(live) => live,
        Err(why) => return Attempt::Waiting(Reason::Progressing, why),
    };
    let mut failures = vec![];
    let mut notices = vec![];
    let mut not_ready = None;
    let all: Vec<&Wanted> = plan.objects.iter().chain([&plan.site]).collect();
    for wanted in &all {
        let object = Some(&wanted.expected);
        let Some(found) = live.get(&wanted.key) else {
            let message = "it was created, and is not there any more".to_owned();
            failures.push(failure(&job.name, object, Reason::VerifyFailed, message));
            continue;
        };
        if left.contains(&wanted.key) {
            continue;
        }
        if plan.left_alone(&wanted.key) {
            if let Made::Differently(_, reason, why) = as_it_lives(&wanted.expected, found.clone())
            {
                notices.push(failure(&job.name, object, reason, why));
            }
            continue;
        }
        let (bad, told): (Vec<_>, Vec<_>) = differences(&wanted.expected, found)
            .into_iter()
            .partition(|d| d.cause == Cause::Unexplained);
        if !bad.is_empty() {
            let fields: Vec<String> = bad.iter().take(5).map(ToString::to_string).collect();
            let message = format!("what was read back differs in {}", fields.join(", "));
            failures.push(failure(&job.name, object, Reason::VerifyFailed, message));
        }
        for difference in told {
            let reason = match difference.cause {
                Cause::Reassigned => Reason::Reassigned,
                _ => Reason::ChangedSince,
            };
            let message = format!("{} is not as it was", difference);
            notices.push(failure(&job.name, object, reason, message));
        }
        // Sites and Apps are made ready by their own rooms, after the restore.
        if wanted.state == ObjectState::Ready
            && wanted.key.group != names::GROUP
            && let Some(why) = readiness(found).waiting_for()
        {
            not_ready = not_ready.or(Some(format!("{}: {why}", wanted.key)));
        }
    }
    let count = all.len();
    // The same thing may have been told when the object was created.
    for notice in notices {
        let told = |n: &RestoreFailure| n.object == notice.object && n.reason == notice.reason;
        if !plan.notices.iter().any(told) {
            plan.notices.push(notice);
        }
    }
    if !failures.is_empty() {
        return Attempt::Failed(failures);
    }
    if let Some(why) = not_ready {
        return Attempt::Waiting(Reason::WaitingForReady, why);
    }
    let uid = |key: &ObjectKey| {
        let uid = live.get(key).and_then(|object| object["metadata"]["uid"].as_str());
        uid.unwrap_or_default().to_owned()
    };
    let namespaces = plan.objects.iter().filter(|o| o.key.is("", "Namespace"));
    let namespaces =
        namespaces.map(|o| NamespaceRef { name: o.key.name.clone(), uid: uid(&o.key) }).collect();
    Attempt::Verified(VerifiedSite {
        name: job.name.clone(),
        uid: uid(&plan.site.key),
        namespaces,
        objects: count.try_into().unwrap_or(i64::MAX),
    })
}
