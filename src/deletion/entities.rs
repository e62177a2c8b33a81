//! Reads Sites with all that a hold or a purge of them concerns. Live reads, every one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::backups::{backup_of, is_verified};
use super::held::{Claim, Disk, Held, HeldKind};
use super::observe::{LABEL_REQUEST_UID, SiteFacts};
use crate::api::{App, Backup, DeletionRequest, Site, TargetKind, Time, names};
use crate::cluster::collect::{Freshness, list, live_digest};
use crate::cluster::discover::Kind;
use crate::cluster::unexpected::asks_for;
use crate::cluster::{Context, During, Error, Exact, Result};

/// Sites or Apps that are read at the same time.
pub(super) const CONCURRENCY: usize = 8;
/// How old the list of kinds may be where nothing irreversible depends on it.
const KINDS_MAX_AGE: Duration = Duration::from_secs(300);
/// The kinds of workloads that are looked at: group and version, kind, plural.
const WORKLOADS: [(&str, &str, &str, HeldKind); 5] = [
    ("apps/v1", "Deployment", "deployments", HeldKind::Deployment),
    ("apps/v1", "StatefulSet", "statefulsets", HeldKind::StatefulSet),
    ("apps/v1", "ReplicaSet", "replicasets", HeldKind::ReplicaSet),
    ("apps/v1", "DaemonSet", "daemonsets", HeldKind::RunsOn),
    ("batch/v1", "CronJob", "cronjobs", HeldKind::CronJob),
];

/// The Sites of these names that exist, each with the Backups that were made of it for the request.
/// `whole`: with what a hold changes.
pub(super) async fn observe_sites(
    ctx: &Context,
    names: BTreeSet<String>,
    request: &DeletionRequest,
    whole: bool,
) -> Result<BTreeMap<String, SiteFacts>> {
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let uid = request.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{LABEL_REQUEST_UID}={uid}"));
    let doing = format!("list the Backups for DeletionRequest {}", request.name_any());
    let mut backups = api.list(&ours).await.during(doing)?.items;
    backups.sort_by_key(|b| (b.creation_timestamp().map(|t| Time::from(&t)), b.name_any()));
    let mut sites: BTreeMap<String, SiteFacts> = stream::iter(names)
        .map(|name| async move { observe_site(ctx, &name, whole).await })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|site| async { Ok(site.map(|s| (s.site.name_any(), s))) })
        .try_collect()
        .await?;
    for site in sites.values_mut() {
        let (name, uid) = (site.site.name_any(), site.uid());
        site.past_guard = site.site.meta().deletion_timestamp.is_some()
            && asks_for(request, TargetKind::Site, &site.site.spec.id, &name, &uid);
    }
    for backup in backups {
        if let Some(site) = sites.get_mut(&backup.spec.site_ref.name) {
            site.backups.push(backup);
        }
    }
    if whole {
        snapshot_contents(ctx, &mut sites).await?;
    }
    Ok(sites)
}

async fn observe_site(ctx: &Context, name: &str, whole: bool) -> Result<Option<SiteFacts>> {
    let client = &ctx.client;
    let sites: Api<Site> = Api::all(client.clone());
    let Some(site) = sites.get_opt(name).await.during(format!("read Site {name}"))? else {
        return Ok(None);
    };
    let api: Api<Namespace> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{}={name}", names::LABEL_SITE));
    let doing = format!("read the namespaces of Site {name}");
    let mut namespaces = api.list(&labelled).await.during(&doing)?.items;
    for namespace in site.namespace_names() {
        if namespaces.iter().all(|n| n.name_any() != namespace) {
            namespaces.extend(api.get_opt(&namespace).await.during(&doing)?);
        }
    }
    let (mut apps, mut claims, mut held) = (vec![], vec![], vec![]);
    for namespace in &namespaces {
        let namespace = namespace.name_any();
        let api: Api<App> = Api::namespaced(client.clone(), &namespace);
        let list = api.list(&ListParams::default()).await;
        apps.extend(list.during(format!("list the Apps in namespace {namespace}"))?);
        claims.extend(observe_claims(ctx, &namespace).await?);
        if whole {
            held.extend(observe_workloads(ctx, &namespace).await?);
        }
    }
    Ok(Some(SiteFacts {
        site,
        namespaces,
        apps,
        backups: vec![],
        claims,
        held,
        live_digest: None,
        past_guard: false,
    }))
}

async fn observe_claims(ctx: &Context, namespace: &str) -> Result<Vec<Claim>> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let list = api.list(&ListParams::default()).await;
    let mut all = vec![];
    for claim in list.during(format!("list the claims in namespace {namespace}"))? {
        let uid = claim.uid().unwrap_or_default();
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
        let disk = match named.filter(|v| !v.is_empty()) {
            None => Disk::Unbound,
            Some(volume) => {
                let doing = format!("read PersistentVolume {volume}");
                let found = volumes.get_opt(&volume).await.during(doing)?;
                let bound = |v: &PersistentVolume| {
                    let reference = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
                    reference.is_some_and(|r| {
                        r.namespace.as_deref() == Some(namespace)
                            && r.name == claim.metadata.name
                            && r.uid.as_ref().is_none_or(|u| *u == uid)
                    })
                };
                match found.filter(bound) {
                    Some(volume) => Disk::Volume(Box::new(held(
                        HeldKind::Volume,
                        "PersistentVolume",
                        &json!(volume),
                    ))),
                    None => Disk::Lost,
                }
            }
        };
        all.push(Claim {
            name: format!("{namespace}/{}", claim.name_any()),
            exact: Exact::of(&claim),
            owners: claim.owner_references().to_vec(),
            disk,
        });
    }
    Ok(all)
}

async fn observe_workloads(ctx: &Context, namespace: &str) -> Result<Vec<Held>> {
    let mut all = vec![];
    for (api_version, kind, plural, held_kind) in WORKLOADS {
        for live in list_all(ctx, api_version, kind, plural, Some(namespace)).await? {
            let owners = live["metadata"]["ownerReferences"].as_array();
            let controller = owners.into_iter().flatten().find(|o| o["controller"] == true);
            let recorded = !live["metadata"]["annotations"][names::ANNOTATION_FORMER].is_null();
            let held_kind = match (held_kind, controller) {
                (HeldKind::ReplicaSet, Some(of)) if of["kind"] == "Deployment" => {
                    if !recorded {
                        continue;
                    }
                    HeldKind::Copy
                }
                // Whoever controls it would put it back: it goes on, and is named. Its claims are
                // kept all the same, by their disks.
                (_, Some(_)) => HeldKind::RunsOn,
                (held_kind, None) => held_kind,
            };
            all.push(held(held_kind, kind, &live));
        }
    }
    Ok(all)
}

/// The contents of the snapshots in the namespaces of these Sites, where the cluster has that API.
async fn snapshot_contents(ctx: &Context, sites: &mut BTreeMap<String, SiteFacts>) -> Result<()> {
    let (api_version, kind) = ("snapshot.storage.k8s.io/v1", "VolumeSnapshotContent");
    if ctx.kinds(KINDS_MAX_AGE).await?.find(api_version, kind).is_none() || sites.is_empty() {
        return Ok(());
    }
    for live in list_all(ctx, api_version, kind, "volumesnapshotcontents", None).await? {
        let namespace = live["spec"]["volumeSnapshotRef"]["namespace"].as_str().unwrap_or_default();
        let of = |s: &&mut SiteFacts| s.namespaces.iter().any(|n| n.name_any() == namespace);
        if let Some(site) = sites.values_mut().find(of) {
            let mut content = held(HeldKind::SnapshotContent, kind, &live);
            content.namespace = Some(namespace.to_owned());
            site.held.push(content);
        }
    }
    Ok(())
}

async fn list_all(
    ctx: &Context,
    api_version: &str,
    kind: &str,
    plural: &str,
    namespace: Option<&str>,
) -> Result<Vec<Value>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = kube::discovery::ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let kind = Kind { resource, namespaced: namespace.is_some() };
    list(&ctx.client, &kind, namespace, Freshness::Live)
        .await
        .map_err(|error| Error::answer("look at what a hold changes", error))
}

/// What of a live object the decisions about its hold need.
fn held(kind: HeldKind, word: &str, live: &Value) -> Held {
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

/// Reads everything that lives in a site, if its purge has a verified backup to be compared with.
pub(super) async fn read_site(ctx: &Context, site: &mut SiteFacts) -> Result<()> {
    let backed_up = backup_of(site).is_some_and(is_verified);
    let terminating = site.namespaces.iter().any(|n| n.meta().deletion_timestamp.is_some());
    if !backed_up || terminating || site.namespaces.is_empty() {
        return Ok(());
    }
    let namespaces: Vec<String> = site.site.namespace_names();
    if namespaces.iter().any(|n| site.namespaces.iter().all(|live| live.name_any() != *n)) {
        return Ok(());
    }
    let name = site.site.name_any();
    let doing = format!("compare Site {name} with its backup");
    let kinds = ctx.kinds(Duration::ZERO).await?;
    let digest = live_digest(&ctx.client, &kinds, &name, &namespaces)
        .await
        .map_err(|error| Error::answer(doing, error))?;
    site.live_digest = Some(digest);
    Ok(())
}
