//! Whether the guard is in force: what is live compared with what was generated, and probes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Resource, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;

use super::form::digest_of;
use super::{Context, During, Error, Exact, Result, metrics};
use crate::api::{DeletionRequest, Site};
use crate::guard::{self, GuardKind, GuardObject, Probe, ProbeRequest, difference, is_denied_by};

/// The guard as it was generated: the same for as long as the process runs.
static GUARD: LazyLock<Vec<GuardObject>> = LazyLock::new(guard::objects);

/// How long a probe that bounced stands for the next ones of the same guard: every step of a purge
/// looks, and five dry runs each time would be most of what the operator sends.
const PROBE_AGE: Duration = Duration::from_secs(5);

/// What is so with the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardState {
    /// What is wrong with it, in words; empty when it is in force.
    pub problems: Vec<String>,
    /// Digest over the names, UIDs and generations of what is live: whatever is changed and put
    /// back has another one.
    pub fingerprint: String,
}

/// Objects on which probes may be tried, as dry runs.
#[derive(Clone, Debug, Default)]
pub struct ProbeTargets {
    /// The request at hand.
    pub request: Option<Exact>,
    /// A Site that is not being purged.
    pub site: Option<Exact>,
    /// A namespace of a site, not being purged.
    pub namespace: Option<Exact>,
}

/// What the operator remembers of the guard between two looks.
#[derive(Debug)]
pub struct Guard {
    /// When the probe of a policy last bounced, and the fingerprint of the guard then.
    bounced: Mutex<HashMap<&'static str, (Instant, String)>>,
    /// What [`watch_guard`](super::watch_guard) saw last.
    seen: watch::Sender<GuardState>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { bounced: Mutex::default(), seen: watch::Sender::new(GuardState::default()) }
    }
}

impl Guard {
    /// Yields whenever the guard is seen to be otherwise than before.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + Sync + 'static {
        stream::unfold(self.seen.subscribe(), |mut seen| async move {
            seen.changed().await.ok()?;
            Some(((), seen))
        })
    }

    /// Tells what was seen; answers whether that is news.
    pub(super) fn tell(&self, state: GuardState) -> bool {
        self.seen.send_if_modified(|seen| {
            let news = *seen != state;
            *seen = state;
            news
        })
    }

    fn bounced_lately(&self, policy: &str, fingerprint: &str) -> bool {
        let bounced = self.bounced.lock().unwrap_or_else(PoisonError::into_inner);
        bounced.get(policy).is_some_and(|(at, of)| at.elapsed() < PROBE_AGE && of == fingerprint)
    }

    fn has_bounced(&self, policy: &'static str, fingerprint: &str) {
        let mut bounced = self.bounced.lock().unwrap_or_else(PoisonError::into_inner);
        bounced.insert(policy, (Instant::now(), fingerprint.to_owned()));
    }
}

/// What became of a probe.
enum Probed {
    /// It was refused as it must be.
    Bounced,
    /// There is nothing that it could be tried on.
    NoTarget,
    /// It was not, or by something else; in words.
    Problem(String),
}

/// Reads the guard live, and tries it. A probe that bounced within the last seconds, of the very
/// same guard, is not sent again.
///
/// # Errors
/// A read that fails, or a probe on what is gone by now. A guard that is not in force is no error
/// but a fact.
pub async fn observe_guard(ctx: &Context, targets: &ProbeTargets) -> Result<GuardState> {
    let mut state = compare(&ctx.client).await?;
    // Probes need a guard that is there; without one they would only say so again.
    if state.problems.is_empty() {
        for probe in guard::probes() {
            if ctx.guard.bounced_lately(probe.policy, &state.fingerprint) {
                continue;
            }
            match try_probe(&ctx.client, &probe, targets).await? {
                Probed::Bounced => {
                    ctx.guard.has_bounced(probe.policy, &state.fingerprint);
                    let label = metrics::Policy { policy: probe.policy };
                    ctx.metrics.guard_probes.get_or_create(&label).inc();
                }
                Probed::NoTarget => {}
                Probed::Problem(problem) => state.problems.push(problem),
            }
        }
    }
    Ok(state)
}

/// What is live, compared with what was generated.
async fn compare(client: &Client) -> Result<GuardState> {
    let mut state = GuardState::default();
    let mut lists: BTreeMap<GuardKind, Option<Vec<DynamicObject>>> = BTreeMap::new();
    let mut seen = String::new();
    for object in GUARD.iter() {
        let live = match lists.entry(object.kind) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(list(client, object.kind).await?),
        };
        let Some(live) = live else {
            // A kind that this release of Kubernetes does not serve.
            if object.kind.required() {
                state.problems.push(format!("the cluster does not serve {}", object.kind));
            }
            continue;
        };
        let Some(live) = live.iter().find(|o| o.name_any() == object.name) else {
            state.problems.push(format!("{} {} is not installed", object.kind, object.name));
            continue;
        };
        if live.meta().deletion_timestamp.is_some() {
            state.problems.push(format!("{} {} is being deleted", object.kind, object.name));
        }
        if let Some(what) = difference(&object.spec, &live.data["spec"]) {
            state.problems.push(format!("{} {}: {what}", object.kind, object.name));
        }
        let uid = live.uid().unwrap_or_default();
        let generation = live.meta().generation.unwrap_or_default();
        seen.push_str(&format!("{} {} {uid} {generation}\n", object.kind, object.name));
    }
    state.fingerprint = digest_of(seen.as_bytes());
    Ok(state)
}

/// How objects of the guard are reached.
pub(super) fn resource_of(kind: GuardKind) -> ApiResource {
    let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind.as_str());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// What is live of a kind; none where the cluster does not serve it.
pub(super) async fn list(client: &Client, kind: GuardKind) -> Result<Option<Vec<DynamicObject>>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource_of(kind));
    match api.list(&Default::default()).await {
        Ok(list) => Ok(Some(list.items)),
        Err(error) if super::is_not_found(&error) => Ok(None),
        Err(error) => Err(error).during(format!("list every {kind}")),
    }
}

/// Sends a dry run that must bounce. Answers what is wrong if it does not.
async fn try_probe(client: &Client, probe: &Probe, targets: &ProbeTargets) -> Result<Probed> {
    let patch = |exact: &Exact, body: &Value| -> (String, Patch<Value>) {
        (exact.name.clone(), Patch::Merge(body.clone()))
    };
    let dry = PatchParams { dry_run: true, ..Default::default() };
    let result = match &probe.request {
        ProbeRequest::DeleteSite => match &targets.site {
            Some(site) => delete(&Api::<Site>::all(client.clone()), site).await,
            None => return Ok(Probed::NoTarget),
        },
        ProbeRequest::DeleteNamespace => match &targets.namespace {
            Some(namespace) => delete(&Api::<Namespace>::all(client.clone()), namespace).await,
            None => return Ok(Probed::NoTarget),
        },
        ProbeRequest::PatchSite(body) => match &targets.site {
            Some(site) => {
                let (name, body) = patch(site, body);
                Api::<Site>::all(client.clone()).patch(&name, &dry, &body).await.map(drop)
            }
            None => return Ok(Probed::NoTarget),
        },
        ProbeRequest::PatchDeletionRequest(body) => match &targets.request {
            Some(request) => {
                let (name, body) = patch(request, body);
                let api = Api::<DeletionRequest>::all(client.clone());
                api.patch(&name, &dry, &body).await.map(drop)
            }
            None => return Ok(Probed::NoTarget),
        },
    };
    match result {
        Ok(()) => Ok(Probed::Problem(format!("{} lets a forbidden request pass", probe.policy))),
        Err(kube::Error::Api(status)) if is_denied_by(&status.message, probe.policy) => {
            Ok(Probed::Bounced)
        }
        // What it was tried on has gone, or was made anew: that says nothing of the policy.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Err(Error::answer(format!("probe {}", probe.policy), status.message))
        }
        Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
            Ok(Probed::Problem(format!(
                "{} did not refuse a forbidden request; instead: {}",
                probe.policy, status.message
            )))
        }
        Err(error) => Err(error).during(format!("probe {}", probe.policy)),
    }
}

/// A DELETE as a dry run, bound to the UID, so that not even a mistake here can do harm.
async fn delete<K>(api: &Api<K>, exact: &Exact) -> kube::Result<()>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let params = DeleteParams {
        dry_run: true,
        preconditions: Some(Preconditions { uid: Some(exact.uid.clone()), resource_version: None }),
        ..Default::default()
    };
    api.delete(&exact.name, &params).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_stands_for_seconds_and_for_one_guard() {
        let guard = Guard::default();
        assert!(!guard.bounced_lately("p", "f"));
        guard.has_bounced("p", "f");
        assert!(guard.bounced_lately("p", "f"));
        assert!(!guard.bounced_lately("p", "another"), "the guard is another one");
        assert!(!guard.bounced_lately("q", "f"), "another policy was not tried");
        let old = Instant::now().checked_sub(PROBE_AGE).expect("some uptime");
        guard.bounced.lock().unwrap().insert("p", (old, "f".to_owned()));
        assert!(!guard.bounced_lately("p", "f"), "that was too long ago");
    }

    #[test]
    fn only_news_is_told() {
        let guard = Guard::default();
        let state = GuardState { problems: vec![], fingerprint: "f".to_owned() };
        assert!(guard.tell(state.clone()));
        assert!(!guard.tell(state.clone()));
        assert!(guard.tell(GuardState { problems: vec!["gone".to_owned()], ..state }));
    }
}
