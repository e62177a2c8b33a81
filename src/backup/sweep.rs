//! Takes out of the store what has expired, and out of the cluster the Backups that are too many;
//! and then looks after the disks that were kept for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};

use super::expire::{self, Needed, Owner, Verdict};
use super::{disks, trim};
use crate::api::{Backup, DeletionRequest, EntityPhase, Reason, Restore, Site, TargetKind, Time};
use crate::cluster::{
    Context, During, Error, Exact, Note, Pages, Result, Shutdown, api_server_time, delete_exact,
};
use crate::store::{CatalogueEntry, Store};

/// How long after the start the store is looked through first: a restart is no reason to.
const FIRST: Duration = Duration::from_secs(600);
/// How often it is looked through: every catalogue entry is read each time.
const PERIOD: Duration = Duration::from_secs(6 * 3600);
/// Objects per page of a list.
const PAGE: u32 = 200;

/// What a look through the store took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Backups that had expired.
    pub expired: Vec<CatalogueEntry>,
    /// Archives of attempts that had failed.
    pub left_over: Vec<String>,
}

/// Looks through the store now and then until shutdown.
pub async fn run(ctx: Context, store: Store, down: Shutdown) {
    let sweeps = async {
        tokio::time::sleep(FIRST).await;
        loop {
            if let Err(error) = sweep(&ctx, &store).await {
                tracing::warn!("no backup expires for now: {error}");
            }
            if let Err(error) = disks::look(&ctx, &store, disks::NOTICE_SECONDS).await {
                tracing::warn!("no kept disk gets its former policy back for now: {error}");
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::select! { () = sweeps => {}, () = down.wait() => {} }
}

/// Looks through the whole store once.
///
/// # Errors
/// Clocks that disagree, and anything that cannot be read: then nothing more is taken away.
pub async fn sweep(ctx: &Context, store: &Store) -> Result<Swept> {
    let cannot = |error| Error::answer("look for backups that have expired", error);
    let mut swept = Swept::default();
    for folder in store.site_folders().await.map_err(cannot)? {
        // Read anew for each site: what something depends on now must not come from a memory.
        let now = time(ctx).await?;
        let shelf = store.shelf(&folder).await.map_err(cannot)?;
        if shelf.listing.entries.is_empty() && shelf.expired.is_empty() {
            continue;
        }
        for refused in &shelf.listing.refused {
            tracing::error!(folder, "no backup of this site expires: {refused}");
        }
        // Most have nothing to give away: what costs requests is asked for the others alone.
        let nobody = Owner { lives: None, purged: all_uids(&shelf.listing.entries) };
        if expire::decide(&shelf, &nobody, &unasked(&shelf.listing.entries), now)
            == Verdict::default()
        {
            continue;
        }
        let id = shelf.listing.entries.first().map(|entry| entry.site.id.clone());
        let asked = ask(ctx, id.as_deref().unwrap_or_default()).await?;
        let verdict = expire::decide(&shelf, &asked.owner, &asked.needed, now);
        for location in verdict.left_over {
            store.take_away(&location).await.map_err(cannot)?;
            tracing::info!(location, "took away the archive of an attempt that had failed");
            swept.left_over.push(location);
        }
        for entry in verdict.expired {
            store.take_away(&entry.location).await.map_err(cannot)?;
            tell(ctx, &asked, &entry).await?;
            swept.expired.push(entry);
        }
    }
    Ok(swept)
}

async fn time(ctx: &Context) -> Result<Time> {
    let api_server = api_server_time(&ctx.client).await?;
    expire::time(ctx.now(), api_server).map_err(|why| Error::answer("expire backups", why))
}

fn all_uids(entries: &[CatalogueEntry]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry.site.uid.clone()).collect()
}

/// As if nothing needed any of these: to know whether there is anything to ask.
fn unasked(entries: &[CatalogueEntry]) -> Needed {
    let backups = entries.iter().map(|entry| (entry.location.clone(), entry.keep_until_time));
    Needed { backups: backups.collect(), ..Needed::default() }
}

/// What was asked of the cluster about a site.
struct Asked {
    owner: Owner,
    needed: Needed,
    site: Option<Site>,
    backups: Vec<Backup>,
}

async fn ask(ctx: &Context, id: &str) -> Result<Asked> {
    let client = &ctx.client;
    let sites: Api<Site> = Api::all(client.clone());
    let own = ListParams::default().fields(&format!("spec.id={id}"));
    let found = sites.list(&own).await.during(format!("look for the Site with the id {id}"))?;
    let site = found.items.into_iter().next();
    let keep = |site: &Site| site.spec.backup.as_ref().map(|backup| backup.keep_seconds);
    let lives = site.as_ref().map(|site| (site.uid().unwrap_or_default(), keep(site)));
    let mut owner = Owner { lives, purged: BTreeSet::new() };
    let mut needed = Needed { restore: running(ctx).await?, ..Needed::default() };
    let mut open = BTreeSet::new();
    for request in requests(ctx).await? {
        let ended = request.has_ended();
        let status = request.status.clone().unwrap_or_default();
        let entities = status.plan.map(|plan| plan.entities).unwrap_or_default();
        if ended {
            let gone = entities
                .into_iter()
                .filter(|e| e.phase == EntityPhase::Purged && e.kind == TargetKind::Site);
            owner.purged.extend(gone.map(|entity| entity.uid));
            continue;
        }
        open.extend(request.uid());
        needed.ids.extend(request.spec.target.ids.iter().cloned());
        for entity in entities {
            needed.ids.insert(entity.id);
            needed.locations.extend(entity.backup.map(|backup| backup.location));
        }
    }
    // One that lives again is not purged.
    if let Some((uid, _)) = &owner.lives {
        owner.purged.remove(uid);
    }
    let mut backups = vec![];
    let mut unknown = false;
    for backup in every::<Backup>(ctx, "list every Backup").await? {
        let Ok(backup) = backup.0 else {
            unknown = true;
            continue;
        };
        let status = backup.status.clone().unwrap_or_default();
        if status.site.and_then(|site| site.id).is_none_or(|of| of != id) {
            continue;
        }
        let location = status.location.unwrap_or_default();
        if backup.labels().values().any(|value| open.contains(value)) {
            needed.locations.insert(location.clone());
        }
        needed.backups.insert(location, backup.spec.keep_until_time);
        backups.push(backup);
    }
    if unknown {
        let what = "a Backup of the cluster cannot be read: see the events of Backups";
        return Err(Error::answer("expire backups", what));
    }
    Ok(Asked { owner, needed, site, backups })
}

/// A Restore that has not ended.
///
/// # Errors
/// A read that fails.
pub(super) async fn running(ctx: &Context) -> Result<Option<String>> {
    let mut all = every::<Restore>(ctx, "list every Restore").await?.into_iter();
    let runs = |restore: &DeserializeGuard<Restore>| match &restore.0 {
        Ok(restore) => !restore.has_ended(),
        Err(_) => true,
    };
    Ok(all.find(runs).map(|restore| restore.name_any()))
}

/// Every DeletionRequest.
///
/// # Errors
/// A read that fails, and one that cannot be parsed.
pub(super) async fn requests(ctx: &Context) -> Result<Vec<DeletionRequest>> {
    let all = every::<DeletionRequest>(ctx, "list every DeletionRequest").await?;
    let all = all.into_iter().map(|request| {
        request.0.map_err(|error| Error::answer("read every DeletionRequest", error.error))
    });
    all.collect()
}

/// Every object of a kind of ours.
///
/// # Errors
/// A read that fails.
pub(super) async fn every<K>(ctx: &Context, doing: &str) -> Result<Vec<DeserializeGuard<K>>>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<DeserializeGuard<K>> = Api::all(ctx.client.clone());
    let mut all = vec![];
    let mut pages = Pages::of(PAGE);
    while let Some(params) = pages.next() {
        let page = api.list(params).await.during(doing)?;
        pages.turn(&page.metadata);
        all.extend(page);
    }
    Ok(all)
}

/// Says that a backup has expired, and takes its Backup out of the cluster: it speaks of nothing.
async fn tell(ctx: &Context, asked: &Asked, entry: &CatalogueEntry) -> Result<()> {
    ctx.metrics.expired_archives.inc();
    let text = format!("the backup {} of {} has expired and is gone", entry.backup, entry.time);
    let note = Note::normal(Reason::BackupExpired, text);
    let of = |b: &&Backup| {
        b.status.as_ref().is_some_and(|s| s.location.as_ref() == Some(&entry.location))
    };
    let backup = asked.backups.iter().find(of);
    match (&asked.site, backup) {
        (Some(site), _) => ctx.tell(site, &note).await,
        (None, Some(backup)) => ctx.tell(backup, &note).await,
        (None, None) => tracing::info!("{}", note.note),
    }
    if let Some(backup) = backup {
        let api: Api<Backup> = Api::all(ctx.client.clone());
        delete_exact(&api, &Exact::of(backup)).await?;
    }
    Ok(())
}

/// Takes the Backups of a site out of the cluster that are too many. `known` are those that a watch
/// has told of; each is read again before it goes.
///
/// # Errors
/// Anything that cannot be read: then none goes.
pub async fn trim(ctx: &Context, store: &Store, known: Vec<Backup>) -> Result<()> {
    let now = ctx.now();
    if trim::too_many(&known, &BTreeSet::new(), now).is_empty() {
        return Ok(());
    }
    let mut referenced: BTreeSet<String> = BTreeSet::new();
    for request in requests(ctx).await? {
        let status = request.status.unwrap_or_default();
        let entities = status.plan.map(|plan| plan.entities).unwrap_or_default();
        referenced.extend(entities.into_iter().filter_map(|e| Some(e.backup?.name)));
    }
    for restore in every::<Restore>(ctx, "list every Restore").await? {
        let Ok(restore) = restore.0 else { return Ok(()) };
        if !restore.has_ended() {
            let refs = restore.spec.source.backup_refs.into_iter().flatten();
            referenced.extend(refs.map(|backup| backup.name));
        }
    }
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let names: BTreeMap<String, Option<String>> = trim::too_many(&known, &referenced, now)
        .into_iter()
        .map(|b| (b.name_any(), b.uid()))
        .collect();
    for (name, uid) in names {
        let live = api.get_opt(&name).await.during(format!("read the Backup {name}"))?;
        let Some(backup) = live.filter(|backup| backup.uid() == uid) else { continue };
        if is_told_by_the_catalogue(store, &backup).await? {
            delete_exact(&api, &Exact::of(&backup)).await?;
            tracing::info!(name, "newer Backups of the site are there; its archive stays");
        }
    }
    Ok(())
}

/// Whether the catalogue knows all that a Backup says: until when it is to be kept may have grown.
async fn is_told_by_the_catalogue(store: &Store, backup: &Backup) -> Result<bool> {
    if !backup.is_verified() {
        return Ok(true);
    }
    let location = backup.status.as_ref().and_then(|s| s.location.clone()).unwrap_or_default();
    let entry = store.entry_of(&location).await;
    let entry = entry.map_err(|error| Error::answer("read the catalogue", error))?;
    Ok(entry.is_none_or(|entry| entry.keep_until_time >= backup.spec.keep_until_time))
}
