//! The Sites that a request is about, and what is in them, live. Many are read at a time: a request
//! for each thing that each of a thousand Sites holds would take a minute.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::held::{Claim, Disk, HeldKind};
use super::held_objects::{held, read_snapshots};
use super::observe::SiteFacts;
use crate::api::{App, AppSpec, Backup, DeletionRequest, Site, TargetKind, Time, names};
use crate::cluster::snapshots::ClaimSnapshot;
use crate::cluster::unexpected::asks_for;
use crate::cluster::{Context, During, EntityRow, Exact, Pages, Result};

/// Requests that are under way at the same time.
pub(super) const CONCURRENCY: usize = 16;
/// More objects than this are not asked for one by one: all of their kind are listed, page by page.
/// Measured by `cargo bench --bench dry_run`: 150 of 10,000 Sites are read 1 s sooner one by one.
pub(super) const MANY: usize = 500;
/// Objects in one page.
const PAGE: u32 = 500;
/// Names in one label selector. They go in the URL, of which no more than some kB are safe.
const NAMES: usize = 50;

/// Sites by name.
pub(super) type Sites = BTreeMap<String, SiteFacts>;

/// The Sites of these names that exist, with their namespaces.
///
/// # Errors
/// Any read that fails.
pub(super) async fn sites(
    ctx: &Context,
    names: &BTreeSet<String>,
    request: &DeletionRequest,
) -> Result<Sites> {
    let api: Api<Site> = Api::all(ctx.client.clone());
    let (live, mut namespaces) =
        tokio::try_join!(by_name(&api, names, "Sites"), labelled_namespaces(ctx, names))?;
    let mut unlabelled = BTreeMap::new();
    for site in &live {
        let own = namespaces.get(&site.name_any());
        for name in site.namespace_names() {
            if own.is_none_or(|own| own.iter().all(|n| n.name_any() != name)) {
                unlabelled.entry(name).or_insert_with(Vec::new).push(site.name_any());
            }
        }
    }
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let asked: BTreeSet<String> = unlabelled.keys().cloned().collect();
    for namespace in by_name(&api, &asked, "namespaces").await? {
        for site in &unlabelled[&namespace.name_any()] {
            namespaces.entry(site.clone()).or_default().push(namespace.clone());
        }
    }
    let all = live.into_iter().map(|site| {
        let (name, uid) = (site.name_any(), site.uid().unwrap_or_default());
        let past_guard = site.metadata.deletion_timestamp.is_some()
            && asks_for(request, TargetKind::Site, &site.spec.id, &name, &uid);
        let namespaces = namespaces.remove(&name).unwrap_or_default();
        let facts = SiteFacts {
            site,
            namespaces,
            apps: vec![],
            backups: vec![],
            claims: vec![],
            held: vec![],
            live_digest: None,
            unread: None,
            past_guard,
        };
        (name, facts)
    });
    Ok(all.collect())
}

/// The names of all their namespaces.
pub(super) fn namespaces_of(sites: &Sites) -> HashSet<String> {
    sites.values().flat_map(|site| &site.namespaces).map(ResourceExt::name_any).collect()
}

/// Which Site has each namespace. One that two Sites name is in both.
pub(super) fn owners(sites: &Sites) -> HashMap<String, Vec<String>> {
    let mut owners: HashMap<String, Vec<String>> = HashMap::new();
    for (name, site) in sites {
        for namespace in &site.namespaces {
            owners.entry(namespace.name_any()).or_default().push(name.clone());
        }
    }
    owners
}

/// Gives each Site the Apps in its namespaces, whole.
///
/// # Errors
/// Any read that fails.
pub(super) async fn read_apps(ctx: &Context, sites: &mut Sites) -> Result<()> {
    let lists = stream::iter(owners(sites)).map(|(namespace, owners)| async move {
        let api: Api<App> = Api::namespaced(ctx.client.clone(), &namespace);
        let list = api.list(&ListParams::default()).await;
        Ok((owners, list.during(format!("list the Apps in namespace {namespace}"))?.items))
    });
    let all: Vec<(Vec<String>, Vec<App>)> =
        lists.buffer_unordered(CONCURRENCY).try_collect().await?;
    for (owners, apps) in all {
        for owner in owners {
            sites.entry(owner).and_modify(|site| site.apps.extend(apps.clone()));
        }
    }
    Ok(())
}

/// Gives each Site the Apps in its namespaces, as a list of all Apps shows them.
pub(super) fn set_apps<'a>(sites: &mut Sites, rows: impl Iterator<Item = &'a EntityRow>) {
    let owners = owners(sites);
    for row in rows {
        let namespace = row.holder.namespace.clone().unwrap_or_default();
        for owner in owners.get(&namespace).into_iter().flatten() {
            sites.entry(owner.clone()).and_modify(|site| site.apps.push(app_of(row)));
        }
    }
}

fn app_of(row: &EntityRow) -> App {
    let spec = AppSpec {
        id: row.id.clone(),
        product: String::new(),
        manifests: vec![],
        service_account_name: String::new(),
    };
    let mut app = App::new(&row.holder.name, spec);
    app.metadata.namespace.clone_from(&row.holder.namespace);
    app.metadata.uid = Some(row.holder.uid.clone());
    app
}

/// Gives each Site the Backups that were made of it for this request, oldest first.
///
/// # Errors
/// A list that fails.
pub(super) async fn read_backups(
    ctx: &Context,
    sites: &mut Sites,
    request: &DeletionRequest,
) -> Result<()> {
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let uid = request.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{}={uid}", names::LABEL_REQUEST_UID));
    let doing = format!("list the Backups for DeletionRequest {}", request.name_any());
    let mut backups = api.list(&ours).await.during(doing)?.items;
    backups.sort_by_key(|b| (b.creation_timestamp().map(|t| Time::from(&t)), b.name_any()));
    for backup in backups {
        if let Some(site) = sites.get_mut(&backup.spec.site_ref.name) {
            site.backups.push(backup);
        }
    }
    Ok(())
}

/// Gives each Site the claims in its namespaces.
///
/// # Errors
/// Any read that fails.
pub(super) async fn read_claims(ctx: &Context, sites: &mut Sites) -> Result<()> {
    let owners = owners(sites);
    let mut claims: Vec<PersistentVolumeClaim> = if owners.len() > MANY {
        let api = Api::all(ctx.client.clone());
        let inside = |claim: &PersistentVolumeClaim| {
            claim.metadata.namespace.as_ref().is_some_and(|n| owners.contains_key(n))
        };
        pages(&api, "list every PersistentVolumeClaim", inside).await?
    } else {
        let namespaces: Vec<String> = owners.keys().cloned().collect();
        let lists = stream::iter(namespaces).map(|namespace| async move {
            let api = Api::namespaced(ctx.client.clone(), &namespace);
            let list = api.list(&ListParams::default()).await;
            Ok(list.during(format!("list the claims in namespace {namespace}"))?.items)
        });
        let lists: Vec<Vec<_>> = lists.buffer_unordered(CONCURRENCY).try_collect().await?;
        lists.into_iter().flatten().collect()
    };
    claims.sort_by_key(|claim| (claim.namespace(), claim.name_any()));
    let volumes: BTreeSet<String> = claims.iter().filter_map(volume_of).collect();
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volumes = by_name(&api, &volumes, "PersistentVolumes").await?;
    let volumes: HashMap<String, PersistentVolume> =
        volumes.into_iter().map(|volume| (volume.name_any(), volume)).collect();
    for claim in claims {
        let namespace = claim.namespace().unwrap_or_default();
        let found = Claim {
            name: format!("{namespace}/{}", claim.name_any()),
            exact: Exact::of(&claim),
            owners: claim.owner_references().to_vec(),
            disk: disk(&claim, &volumes),
            snapshot: ClaimSnapshot::None,
        };
        for owner in owners.get(&namespace).into_iter().flatten() {
            sites.entry(owner.clone()).and_modify(|site| site.claims.push(found.clone()));
        }
    }
    read_snapshots(ctx, sites).await
}

/// The disk of a claim, among these volumes.
fn disk(claim: &PersistentVolumeClaim, volumes: &HashMap<String, PersistentVolume>) -> Disk {
    let Some(name) = volume_of(claim) else { return Disk::Unbound };
    let bound = |volume: &&PersistentVolume| {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        reference.is_some_and(|r| {
            r.namespace == claim.namespace()
                && r.name == claim.metadata.name
                && r.uid.as_ref().is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref())
        })
    };
    match volumes.get(&name).filter(bound) {
        Some(volume) => {
            Disk::Volume(Box::new(held(HeldKind::Volume, "PersistentVolume", &json!(volume))))
        }
        None => Disk::Lost,
    }
}

/// The volume of a claim, where it has one.
fn volume_of(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.spec.as_ref()?.volume_name.clone().filter(|name| !name.is_empty())
}

/// The namespaces that have the label of one of these Sites, by Site.
async fn labelled_namespaces(
    ctx: &Context,
    sites: &BTreeSet<String>,
) -> Result<HashMap<String, Vec<Namespace>>> {
    let names: Vec<&str> = sites.iter().map(String::as_str).collect();
    let selector = |some: &[&str]| format!("{} in ({})", names::LABEL_SITE, some.join(","));
    let selectors: Vec<String> = names.chunks(NAMES).map(selector).collect();
    let lists = stream::iter(selectors).map(|selector| async move {
        let api: Api<Namespace> = Api::all(ctx.client.clone());
        let list = api.list(&ListParams::default().labels(&selector)).await;
        Ok(list.during("list the namespaces of Sites")?.items)
    });
    let lists: Vec<Vec<Namespace>> = lists.buffered(CONCURRENCY).try_collect().await?;
    let mut all: HashMap<String, Vec<Namespace>> = HashMap::new();
    for namespace in lists.into_iter().flatten() {
        if let Some(site) = namespace.labels().get(names::LABEL_SITE).cloned() {
            all.entry(site).or_default().push(namespace);
        }
    }
    Ok(all)
}

/// The cluster-scoped objects of these names that exist.
async fn by_name<K>(api: &Api<K>, names: &BTreeSet<String>, what: &str) -> Result<Vec<K>>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    if names.len() > MANY {
        let wanted = |object: &K| names.contains(&object.name_any());
        return pages(api, &format!("list all {what}"), wanted).await;
    }
    let names: Vec<String> = names.iter().cloned().collect();
    let reads = stream::iter(names).map(|name| async move {
        api.get_opt(&name).await.during(format!("read {name} of the {what}"))
    });
    let all: Vec<Option<K>> = reads.buffered(CONCURRENCY).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

/// Lists page by page what is wanted.
async fn pages<K>(api: &Api<K>, doing: &str, wanted: impl Fn(&K) -> bool) -> Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let (mut pages, mut all) = (Pages::of(PAGE), vec![]);
    while let Some(params) = pages.next() {
        let page = api.list(params).await.during(doing)?;
        pages.turn(&page.metadata);
        all.extend(page.items.into_iter().filter(|object| wanted(object)));
    }
    Ok(all)
}
