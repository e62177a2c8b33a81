//! What is read, live, before it is decided on kept disks.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::decide::{Disk, Facts, own_hindrance};
use crate::api::{Backup, Site, names};
use crate::backup::{expire, sweep};
use crate::cluster::former::Former;
use crate::cluster::{
    Context, During, Error, Exact, Pages, ProbeTargets, Result, api_server_time, holders,
    observe_guard,
};
use crate::store::{Documents, Purge, Store, layout};

/// Objects per page of a list.
const PAGE: u32 = 200;

fn cannot(error: impl ToString) -> Error {
    Error::answer("look for kept disks that nothing needs any more", error)
}

/// Every kept volume, those together that are kept for the same Site and requests.
///
/// # Errors
/// A read that fails.
pub async fn groups(ctx: &Context) -> Result<Vec<Vec<Disk>>> {
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let mut groups: BTreeMap<_, Vec<Disk>> = BTreeMap::new();
    let mut pages = Pages::of(PAGE);
    while let Some(params) = pages.next() {
        let params = params.clone().labels(names::LABEL_KEPT);
        let page = api.list(&params).await.during("list the kept PersistentVolumes")?;
        pages.turn(&page.metadata);
        for volume in page {
            let disk = disk(&volume);
            let requests = Former::of(&disk.value).map(|former| former.requests);
            groups.entry((disk.kept_for.clone(), requests)).or_default().push(disk);
        }
    }
    Ok(groups.into_values().collect())
}

fn disk(volume: &PersistentVolume) -> Disk {
    let mut value = json!(volume);
    // A list does not say it of each.
    value["kind"] = json!("PersistentVolume");
    Disk {
        exact: Exact::of(volume),
        value,
        kept_for: volume.labels().get(names::LABEL_KEPT).cloned().unwrap_or_default(),
        claim_lives: false,
    }
}

/// The ledger, if one of these disks may depend on it. It only grows, and what is still to be
/// purged is in an open request.
///
/// # Errors
/// A store that cannot be read.
pub async fn ledger(store: &Store, groups: &[Vec<Disk>]) -> Result<Documents<Purge>> {
    if groups.iter().flatten().all(|disk| own_hindrance(disk).is_some()) {
        return Ok(Documents { good: vec![], refused: vec![] });
    }
    store.is_there().await.map_err(cannot)?;
    store.purges().await.map_err(cannot)
}

/// Reads what may need these disks.
///
/// # Errors
/// Clocks that disagree, and anything that cannot be read.
pub async fn observe(
    ctx: &Context,
    store: &Store,
    ledger: &Documents<Purge>,
    listed: Vec<Disk>,
) -> Result<Facts> {
    let now = expire::time(ctx.now(), api_server_time(&ctx.client).await?)
        .map_err(|why| Error::answer("look at kept disks", why))?;
    let mut disks = vec![];
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    for mut disk in listed {
        if own_hindrance(&disk).is_none() {
            let name = &disk.exact.name;
            let doing = format!("read the volume {name}");
            let Some(volume) = volumes.get_opt(name).await.during(doing)? else { continue };
            disk = self::disk(&volume);
            // After the volume: a claim that comes later changes it, and then the write conflicts.
            disk.claim_lives = claim_lives(ctx, &disk).await?;
        }
        disks.push(disk);
    }
    let mut facts = Facts {
        disks,
        now,
        purges: vec![],
        ledger_refused: ledger.refused.first().map(ToString::to_string),
        requests: vec![],
        backups: vec![],
        shelves: BTreeMap::new(),
        living: BTreeSet::new(),
        site_lives: true,
        restore: None,
        guard: vec![],
    };
    // Most are bound: the rest is asked for the others alone.
    if facts.disks.iter().all(|disk| own_hindrance(disk).is_some()) {
        return Ok(facts);
    }
    let formers = facts.disks.iter().filter_map(|disk| Former::of(&disk.value));
    let requests: BTreeSet<String> = formers.flat_map(|former| former.requests).collect();
    let ours = |purge: &&Purge| requests.contains(&purge.request_uid);
    facts.purges = ledger.good.iter().filter(ours).cloned().collect();
    facts.requests = sweep::requests(ctx).await?;
    for backup in sweep::every::<Backup>(ctx, "list every Backup").await? {
        let DeserializeGuard(backup) = backup;
        facts.backups.push(backup.map_err(|error| cannot(error.error))?);
    }
    facts.restore = sweep::running(ctx).await?;
    facts.guard = observe_guard(ctx, &ProbeTargets::default()).await?.problems;
    read_sites(ctx, store, &mut facts).await?;
    Ok(facts)
}

/// Reads what lives, or lies in the store, of what was purged.
async fn read_sites(ctx: &Context, store: &Store, facts: &mut Facts) -> Result<()> {
    let kept_for = facts.disks.first().map(|disk| disk.kept_for.clone()).unwrap_or_default();
    let sites: Api<Site> = Api::all(ctx.client.clone());
    let doing = format!("look for the Site {kept_for}");
    facts.site_lives = sites.get_metadata_opt(&kept_for).await.during(doing)?.is_some();
    store.is_there().await.map_err(cannot)?;
    for purge in &facts.purges {
        // A request may have purged a hundred; the others are other groups' business.
        let Some((_, site)) = purge.site_of().filter(|(name, _)| *name == kept_for) else {
            continue;
        };
        let found = holders(&ctx.client, &purge.id).await?;
        facts.living.extend(found.into_iter().map(|holder| (holder.kind, purge.id.clone())));
        if !facts.shelves.contains_key(site) {
            let shelf = store.shelf(&layout::site_folder(site)).await.map_err(cannot)?;
            facts.shelves.insert(site.to_owned(), shelf);
        }
    }
    Ok(())
}

/// Whether the claim that a disk is for is there, whichever it is.
async fn claim_lives(ctx: &Context, disk: &Disk) -> Result<bool> {
    let claim = &disk.value["spec"]["claimRef"];
    let (Some(namespace), Some(name)) = (claim["namespace"].as_str(), claim["name"].as_str())
    else {
        return Ok(true);
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
    let live = api.get_opt(name).await.during(format!("read the claim {namespace}/{name}"))?;
    Ok(live.is_some())
}
