//! Watches the guard, so that an open request learns of a change when it happens, and the metric
//! tells of it while there is no request at all.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};

use super::guard::{list, resource_of};
use super::{Context, During, Exact, GuardState, ProbeTargets, Result, Shutdown, observe_guard};
use crate::api::{DeletionRequest, Site, names};
use crate::guard::GuardKind;

/// How often to look when no change is heard of: a watch can be dead for minutes without a sign.
const PERIOD: Duration = Duration::from_secs(25);
/// How soon to look again when something is wrong, or could not be seen: a policy that was just put
/// back is in force within a second or two. It doubles up to the period.
const PERIOD_WRONG: Duration = Duration::from_secs(2);
/// How long to wait for what comes with a change: an apply changes many objects.
const SETTLE: Duration = Duration::from_millis(250);
/// How many objects to look at for one that a probe can be tried on.
const CANDIDATES: u32 = 20;

const KINDS: [GuardKind; 4] = [
    GuardKind::ValidatingAdmissionPolicy,
    GuardKind::ValidatingAdmissionPolicyBinding,
    GuardKind::MutatingAdmissionPolicy,
    GuardKind::MutatingAdmissionPolicyBinding,
];

/// Looks at the guard whenever one of its objects changes, and every 25 s, until shutdown. Tells
/// what changed through [`Guard::changes`](super::Guard::changes), the metric and the log.
pub async fn watch_guard(ctx: Context, down: Shutdown) {
    let mut changes = changes(&ctx.client).await;
    let mut down = Box::pin(down.wait());
    let mut again = PERIOD_WRONG;
    loop {
        let in_place = tokio::select! {
            in_place = look(&ctx) => in_place,
            () = &mut down => return,
        };
        let wait = if in_place { PERIOD } else { again };
        tokio::select! {
            Some(()) = changes.next() => {}
            () = tokio::time::sleep(wait) => {
                again = (again * 2).min(PERIOD);
                continue;
            }
            () = &mut down => return,
        }
        again = PERIOD_WRONG;
        tokio::time::sleep(SETTLE).await;
        while changes.next().now_or_never().flatten().is_some() {}
    }
}

/// Something about one of the guard's kinds, whoever's object it is.
async fn changes(client: &Client) -> BoxStream<'static, ()> {
    let mut all = Vec::new();
    for kind in KINDS {
        // A kind that this cluster does not serve is not watched.
        if matches!(list(client, kind).await, Ok(None)) {
            continue;
        }
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(client.clone(), &resource_of(kind));
        let touched =
            watcher(api, watcher::Config::default()).default_backoff().filter_map(async |event| {
                match event {
                    Ok(
                        watcher::Event::Apply(_)
                        | watcher::Event::Delete(_)
                        | watcher::Event::InitDone,
                    ) => Some(()),
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                    Err(error) => {
                        tracing::debug!(%error, "a watch of the guard broke and is taken up again");
                        None
                    }
                }
            });
        all.push(touched.boxed());
    }
    stream::select_all(all).boxed()
}

/// One look; answers whether the guard is in place.
async fn look(ctx: &Context) -> bool {
    let mut seen = try_look(ctx).await;
    // What a probe was tried on can have gone, or be purged since it was chosen: once more.
    if seen.as_ref().map_or(true, |state| !state.problems.is_empty()) {
        seen = try_look(ctx).await;
    }
    let state = match seen {
        Ok(state) => state,
        Err(error) => {
            tracing::warn!(%error, "cannot see whether the guard is in force");
            ctx.metrics.guard_in_place.set(0);
            return false;
        }
    };
    let in_place = state.problems.is_empty();
    ctx.metrics.guard_in_place.set(i64::from(in_place));
    if ctx.guard.tell(state.clone()) {
        if in_place {
            tracing::info!(fingerprint = state.fingerprint, "the guard is in force");
        } else {
            let problems = state.problems.join("; ");
            tracing::warn!(problems, "the guard is not in force: nothing is purged");
        }
    }
    in_place
}

async fn try_look(ctx: &Context) -> Result<GuardState> {
    let targets = targets(&ctx.client).await?;
    observe_guard(ctx, &targets).await
}

/// Any objects that the probes can be tried on.
async fn targets(client: &Client) -> Result<ProbeTargets> {
    let some = ListParams::default().limit(CANDIDATES);
    // Not as Sites: one that does not parse must not hide the others.
    let sites: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<Site>(&()));
    let sites = sites.list(&some).await.during("list Sites to probe the guard")?;
    let site = sites.iter().find(|site| {
        let phase = &site.data["status"]["deletion"]["phase"];
        phase != "Purging" && site.metadata.deletion_timestamp.is_none()
    });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespaces = namespaces
        .list_metadata(&some.clone().labels(names::LABEL_SITE))
        .await
        .during("list namespaces to probe the guard")?;
    let namespace = namespaces.iter().find(|namespace| {
        !namespace.annotations().contains_key(names::ANNOTATION_PURGE)
            && namespace.metadata.deletion_timestamp.is_none()
    });
    let requests: Api<DeletionRequest> = Api::all(client.clone());
    let requests = requests
        .list_metadata(&some.limit(1))
        .await
        .during("list DeletionRequests to probe the guard")?;
    Ok(ProbeTargets {
        request: requests.iter().next().map(exact),
        site: site.map(|site| Exact {
            name: site.name_any(),
            uid: site.uid().unwrap_or_default(),
            resource_version: site.resource_version().unwrap_or_default(),
        }),
        namespace: namespace.map(exact),
    })
}

fn exact<K: Resource<DynamicType = ()>>(object: &PartialObjectMeta<K>) -> Exact {
    Exact {
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}
