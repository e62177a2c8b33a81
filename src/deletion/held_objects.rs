//! Reads the objects that a hold changes, and those that go on: workloads, and the contents of
//! snapshots. Live reads, every one.

use std::collections::HashMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::held::{Claim, Disk, Held, HeldKind};
use super::survey::{CONCURRENCY, MANY, Sites, owners};
use crate::api::names;
use crate::cluster::collect::{Freshness, for_each, list};
use crate::cluster::discover::Kind;
use crate::cluster::snapshots;
use crate::cluster::{Context, Error, Exact, Result};

/// The kinds of workloads that are looked at: group and version, kind, plural.
const WORKLOADS: [(&str, &str, &str, HeldKind); 5] = [
    ("apps/v1", "Deployment", "deployments", HeldKind::Deployment),
    ("apps/v1", "StatefulSet", "statefulsets", HeldKind::StatefulSet),
    ("apps/v1", "ReplicaSet", "replicasets", HeldKind::ReplicaSet),
    ("apps/v1", "DaemonSet", "daemonsets", HeldKind::RunsOn),
    ("batch/v1", "CronJob", "cronjobs", HeldKind::CronJob),
];

/// Gives each Site what a hold of it changes, disks of claims aside, and what goes on.
///
/// # Errors
/// Any read that fails.
pub(super) async fn read(ctx: &Context, sites: &mut Sites) -> Result<()> {
    let owners = owners(sites);
    let mut namespaces: Vec<Option<String>> = owners.keys().cloned().map(Some).collect();
    namespaces.sort_unstable();
    if owners.len() > MANY {
        namespaces = vec![None];
    }
    // In this order: a plan names them as they come.
    let mut lists = vec![];
    for (api_version, word, plural, kind) in WORKLOADS {
        for namespace in namespaces.clone() {
            let owners = &owners;
            lists.push(async move {
                let of = of(api_version, word, plural, true);
                let all = list_of(ctx, &of, namespace.as_deref(), owners).await?;
                Ok(all.iter().filter_map(|live| workload(kind, word, live)).collect())
            });
        }
    }
    let lists = stream::iter(lists);
    let lists: Vec<Vec<Held>> = lists.buffered(CONCURRENCY).try_collect().await?;
    for held in lists.into_iter().flatten() {
        for owner in held.namespace.iter().filter_map(|n| owners.get(n)).flatten() {
            sites.entry(owner.clone()).and_modify(|site| site.held.push(held.clone()));
        }
    }
    snapshot_contents(ctx, sites).await
}

/// The objects of this kind in this namespace; none: in all of these.
async fn list_of(
    ctx: &Context,
    kind: &Kind,
    namespace: Option<&str>,
    owners: &HashMap<String, Vec<String>>,
) -> Result<Vec<Value>> {
    let listed = match namespace {
        Some(namespace) => list(&ctx.client, kind, Some(namespace), Freshness::Live).await,
        None => {
            let mut all = vec![];
            let mut take = |live: Value| {
                let namespace = live["metadata"]["namespace"].as_str().unwrap_or_default();
                if owners.contains_key(namespace) {
                    all.push(live);
                }
            };
            let result = for_each(&ctx.client, kind, None, Freshness::Live, &mut take).await;
            result.map(|()| all)
        }
    };
    listed.map_err(failed)
}

fn failed(error: crate::cluster::collect::CollectError) -> Error {
    Error::answer("look at what a hold changes", error)
}

fn of(api_version: &str, kind: &str, plural: &str, namespaced: bool) -> Kind {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = kube::discovery::ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    Kind { resource, namespaced }
}

/// A workload as a hold sees it; none: it is another one's business.
fn workload(kind: HeldKind, word: &str, live: &Value) -> Option<Held> {
    let owners = live["metadata"]["ownerReferences"].as_array();
    let controller = owners.into_iter().flatten().find(|o| o["controller"] == true);
    let recorded = !live["metadata"]["annotations"][names::ANNOTATION_FORMER].is_null();
    let kind = match (kind, controller) {
        (HeldKind::ReplicaSet, Some(of)) if of["kind"] == "Deployment" => {
            if !recorded {
                return None;
            }
            HeldKind::Copy
        }
        // Whoever controls it would put it back: it goes on, and is named. Its claims are kept all
        // the same, by their disks.
        (_, Some(_)) => HeldKind::RunsOn,
        (kind, None) => kind,
    };
    Some(held(kind, word, live))
}

/// The contents of the snapshots in the namespaces of these Sites, where the cluster has that API.
/// It is asked for each time: one that was installed a moment ago counts as well.
async fn snapshot_contents(ctx: &Context, sites: &mut Sites) -> Result<()> {
    if sites.is_empty() {
        return Ok(());
    }
    let contents = snapshots::contents(&ctx.client).await.map_err(failed)?;
    for live in contents.into_iter().flatten() {
        let namespace = live["spec"]["volumeSnapshotRef"]["namespace"].as_str().unwrap_or_default();
        let of = |s: &&mut super::observe::SiteFacts| {
            s.namespaces.iter().any(|n| n.name_any() == namespace)
        };
        if let Some(site) = sites.values_mut().find(of) {
            let mut content = held(HeldKind::SnapshotContent, snapshots::CONTENT, &live);
            content.namespace = Some(namespace.to_owned());
            site.held.push(content);
        }
    }
    Ok(())
}

/// Gives each claim whose disk is lost what there is of snapshots of it.
///
/// # Errors
/// Any read that fails.
pub(super) async fn read_snapshots(ctx: &Context, sites: &mut Sites) -> Result<()> {
    let claims = sites.values_mut().flat_map(|site| &mut site.claims);
    let mut lost: Vec<&mut Claim> = claims.filter(|c| c.disk == Disk::Lost).collect();
    let name = |c: &&mut Claim| (c.namespace().to_owned(), c.short_name().to_owned());
    let names: Vec<(String, String)> = lost.iter().map(name).collect();
    let found = snapshots::of_claims(&ctx.client, &names).await.map_err(failed)?;
    for (claim, snapshot) in lost.iter_mut().zip(found) {
        claim.snapshot = snapshot;
    }
    Ok(())
}

/// What of a live object the decisions about its hold need.
pub(super) fn held(kind: HeldKind, word: &str, live: &Value) -> Held {
    let metadata = &live["metadata"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut spec = json!({});
    for field in [
        "replicas",
        "suspend",
        "persistentVolumeClaimRetentionPolicy",
        "persistentVolumeReclaimPolicy",
        "deletionPolicy",
    ] {
        if !live["spec"][field].is_null() {
            spec[field] = live["spec"][field].clone();
        }
    }
    let mut own = json!({ "uid": metadata["uid"] });
    if let Some(record) = metadata["annotations"][names::ANNOTATION_FORMER].as_str() {
        own["annotations"] = json!({ (names::ANNOTATION_FORMER): record });
    }
    if let Some(label) = metadata["labels"][names::LABEL_KEPT].as_str() {
        own["labels"] = json!({ (names::LABEL_KEPT): label });
    }
    let templates = live["spec"]["volumeClaimTemplates"].as_array();
    let volumes = live["spec"]["template"]["spec"]["volumes"].as_array();
    let is_scratch = |v: &Value| !v["emptyDir"].is_null() || !v["ephemeral"].is_null();
    Held {
        kind,
        namespace: text(&metadata["namespace"]),
        exact: Exact {
            name: text(&metadata["name"]).unwrap_or_default(),
            uid: text(&metadata["uid"]).unwrap_or_default(),
            resource_version: text(&metadata["resourceVersion"]).unwrap_or_default(),
        },
        value: json!({ "kind": word, "metadata": own, "spec": spec }),
        by: last_writer(metadata),
        claim_templates: templates
            .into_iter()
            .flatten()
            .filter_map(|t| text(&t["metadata"]["name"]))
            .collect(),
        scratch: volumes.into_iter().flatten().any(is_scratch),
    }
}

/// Who has written the object last, status writers and holds aside.
fn last_writer(metadata: &Value) -> Option<String> {
    let entries = metadata["managedFields"].as_array()?.iter().filter(|entry| {
        entry["manager"] != names::HOLD_MANAGER && entry["subresource"] != "status"
    });
    let last = entries.max_by_key(|entry| entry["time"].as_str().unwrap_or_default())?;
    last["manager"].as_str().map(str::to_owned)
}
