//! What sites hold, counted. To count one site lists every API in its namespaces, so a fleet that
//! comes up is counted at once: each API is listed one time for all sites that wait for it. An
//! idle fleet costs one such round every ten minutes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::observe::Count;
use crate::api::{DeletionPhase, Inventory, Site, Time, names};
use crate::cluster::collect::{CollectError, Freshness, Walk, for_each, is_derived};
use crate::cluster::discover::Kinds;
use crate::cluster::form::archived_form;
use crate::cluster::{Context, Error, Result, Shutdown};

/// How long to wait for more sites that want to be counted.
const QUIET: i64 = 1;
/// How long a site whose Apps are not all ready has to become so before it is counted.
const SETTLE: i64 = 10;
/// How long a site that was just counted waits.
const AGAIN: i64 = 15;
/// How often everything is counted, whatever is seen.
const ROUND: Duration = Duration::from_secs(600);
/// How often to look who waits.
const TICK: Duration = Duration::from_millis(500);
/// A round may take this part of the time at most.
const SHARE: u32 = 20;
/// Up to this many sites are counted each by itself.
const FEW: usize = 2;
/// What a site has lost within this time is taken together, in seconds, however often it was counted
/// meanwhile.
const TOGETHER: i64 = 600;
/// For how long a site that shrank is told of, in seconds: longer than a round, so that sites which
/// were emptied together are told of together.
const SHRUNK: i64 = 900;
/// How old the list of kinds may be.
const KINDS_MAX_AGE: Duration = Duration::from_secs(60);

/// Which sites wait to be counted, and what came out. Cheap to clone.
#[derive(Clone, Default)]
pub struct Inventories(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// When each site that waits is due.
    due: HashMap<String, Time>,
    /// When a site began to wait last.
    asked: Option<Time>,
    counted: HashMap<String, Counted>,
    /// What was counted lately where that changed, the oldest first: that one may be older than
    /// [`TOGETHER`], and is what the site had when that time began.
    lately: HashMap<String, Vec<Counted>>,
    /// When a site was seen to have shrunk.
    shrunk: HashMap<String, Time>,
}

/// What was counted of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    apps: i64,
    apps_ready: i64,
    objects: i64,
    bytes: i64,
}

#[derive(Clone, Copy)]
struct Counted {
    size: Size,
    at: Time,
}

impl Inventories {
    /// Whether the Site's last count fits these numbers of Apps; if it does not, it will be
    /// counted soon, and told to look again.
    pub fn look(&self, site: &Site, apps: i64, apps_ready: i64, now: Time) -> Count {
        let name = site.name_any();
        let last = site.status.as_ref().and_then(|s| s.inventory.as_ref());
        let mut state = self.state();
        if let Some(counted) = state.counted.get(&name)
            && last.is_none_or(|last| last.counted_time < counted.at)
        {
            let Size { apps, apps_ready, objects, bytes } = counted.size;
            let new = Inventory { apps, apps_ready, objects, bytes, counted_time: counted.at };
            let same = last.is_some_and(|last| {
                Inventory { counted_time: last.counted_time, ..new.clone() } == *last
            });
            if !same {
                return Count::New(new);
            }
        }
        if last.is_some_and(|last| (last.apps, last.apps_ready) == (apps, apps_ready)) {
            return Count::Fits;
        }
        let settled = apps > 0 && apps == apps_ready;
        let mut due = now.plus_seconds(if settled { 0 } else { SETTLE });
        if let Some(counted) = state.counted.get(&name) {
            due = due.max(counted.at.plus_seconds(AGAIN));
        }
        // Who waits already does not begin anew, but may be due earlier.
        if state.due.get(&name).is_none_or(|before| due < *before) {
            state.due.insert(name, due);
            state.asked = Some(now);
        }
        Count::Fits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sites that are due, unless more are coming.
    fn take_due(&self, now: Time) -> Vec<String> {
        let mut state = self.state();
        let due = |(name, due): (&String, &Time)| (*due <= now).then(|| (name.clone(), *due));
        let all: Vec<(String, Time)> = state.due.iter().filter_map(due).collect();
        let longest = all.iter().map(|(_, due)| now.seconds_since(*due)).max().unwrap_or(0);
        let coming = state.asked.is_some_and(|asked| now.seconds_since(asked) < QUIET);
        if all.is_empty() || (coming && longest < SETTLE) {
            return vec![];
        }
        all.into_iter()
            .map(|(name, _)| {
                state.due.remove(&name);
                name
            })
            .collect()
    }

    fn put_back(&self, sites: Vec<String>, now: Time) {
        let mut state = self.state();
        for site in sites {
            state.due.insert(site, now.plus_seconds(AGAIN));
        }
    }

    /// Compares with what was counted lately, by this process or by the one before it; what a site
    /// loses while it is purged or restored is no news.
    fn compare(&self, sizes: &BTreeMap<String, Size>, fleet: &Fleet, at: Time) {
        let live = sizes.iter().filter_map(|(name, size)| Some((fleet.site(name)?, *size)));
        self.note_shrunk(live.filter(|(site, _)| !is_moving(site)), at);
    }

    fn note_shrunk(&self, sites: impl Iterator<Item = (Site, Size)>, at: Time) {
        let mut state = self.state();
        for (site, size) in sites {
            let name = site.name_any();
            let lately = state.lately.entry(name.clone()).or_default();
            let told = site.status.as_ref().and_then(|s| s.inventory.as_ref());
            if let Some(told) = told.filter(|_| lately.is_empty()) {
                let size = Size { objects: told.objects, apps: told.apps, ..Size::default() };
                lately.push(Counted { size, at: told.counted_time });
            }
            while lately.get(1).is_some_and(|next| at.seconds_since(next.at) >= TOGETHER) {
                lately.remove(0);
            }
            let before = lately.iter().map(|counted| counted.size).find(|b| shrank(*b, size));
            if before.is_some() {
                lately.clear();
            }
            if lately.last().is_none_or(|last| last.size != size) {
                lately.push(Counted { size, at });
            }
            if before.is_some() {
                tracing::warn!(site = name, ?before, now = ?size, "lost much of what it held");
                state.shrunk.insert(name, at);
            }
        }
    }

    /// How many sites shrank lately.
    fn shrunk(&self, now: Time) -> i64 {
        let mut state = self.state();
        state.shrunk.retain(|_, at| now.seconds_since(*at) < SHRUNK);
        state.shrunk.len().try_into().unwrap_or(i64::MAX)
    }

    fn note(&self, sizes: BTreeMap<String, Size>, at: Time, everything: bool) {
        let mut state = self.state();
        if everything {
            state.counted.clear();
            state.lately.retain(|name, _| sizes.contains_key(name));
        }
        state.counted.extend(sizes.into_iter().map(|(site, size)| (site, Counted { size, at })));
    }
}

/// Whether more than a quarter of the objects is gone, and not with an App: those go by request.
fn shrank(before: Size, now: Size) -> bool {
    now.apps >= before.apps && now.objects < before.objects - before.objects / 4
}

/// Whether a site is purged or restored: what it holds changes many times a second.
pub(super) fn is_moving(site: &Site) -> bool {
    let deletion = site.status.as_ref().and_then(|s| s.deletion.as_ref());
    deletion.is_some_and(|d| d.phase == DeletionPhase::Purging)
        || site.annotations().contains_key(names::ANNOTATION_RESTORE)
}

/// Counts until shutdown.
pub async fn run(ctx: Context, fleet: Fleet, inventories: Inventories, down: Shutdown) {
    tokio::select! { () = count_for_ever(&ctx, &fleet, &inventories) => {}, () = down.wait() => {} }
}

async fn count_for_ever(ctx: &Context, fleet: &Fleet, inventories: &Inventories) {
    fleet.complete().await;
    let mut next_round = Instant::now() + ROUND;
    let mut not_before = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        ctx.metrics.sites_shrunk.set(inventories.shrunk(ctx.now()));
        if Instant::now() < not_before {
            continue;
        }
        let begun = Instant::now();
        let everything = begun >= next_round;
        let sites = if everything {
            fleet.sites().iter().map(|site| site.name_any()).collect()
        } else {
            inventories.take_due(ctx.now())
        };
        if everything {
            next_round = begun + ROUND;
        }
        if sites.is_empty() {
            continue;
        }
        let at = ctx.now();
        // As they are when the count begins: what comes while it runs asks for another one.
        let mut sizes = apps(fleet, &sites);
        match count(ctx, fleet, &mut sizes).await {
            Ok(()) => {
                let counted: Vec<String> = sizes.keys().cloned().collect();
                inventories.compare(&sizes, fleet, at);
                inventories.note(sizes, at, everything);
                counted.iter().for_each(|site| fleet.ask_site(site));
            }
            Err(error) => {
                tracing::warn!("{error}");
                inventories.put_back(sites, ctx.now());
            }
        }
        not_before = Instant::now() + begun.elapsed() * SHARE;
    }
}

/// The Apps of these sites, and nothing counted yet.
fn apps(fleet: &Fleet, sites: &[String]) -> BTreeMap<String, Size> {
    let mut sizes = BTreeMap::new();
    for name in sites {
        let Some(site) = fleet.site(name) else { continue };
        let rows = fleet.rows();
        let mut size = Size::default();
        for app in site.namespace_names().iter().flat_map(|namespace| rows.apps_in(namespace)) {
            size.apps += 1;
            size.apps_ready += i64::from(app.ready);
        }
        sizes.insert(name.clone(), size);
    }
    sizes
}

async fn count(ctx: &Context, fleet: &Fleet, sizes: &mut BTreeMap<String, Size>) -> Result<()> {
    let kinds = ctx.kinds(KINDS_MAX_AGE).await?;
    let failed = |error: CollectError| Error::answer("count what sites hold", error);
    if sizes.len() > FEW {
        return count_many(ctx, fleet, &kinds, sizes).await.map_err(failed);
    }
    let names: Vec<String> = sizes.keys().cloned().collect();
    for name in names {
        let namespaces: Vec<String> = {
            let rows = fleet.rows();
            let own = rows.namespaces.iter().filter(|(_, row)| row.site.as_ref() == Some(&name));
            own.map(|(namespace, _)| namespace.clone()).collect()
        };
        match count_one(ctx, &kinds, &name, &namespaces).await {
            Ok((objects, bytes)) => {
                if let Some(size) = sizes.get_mut(&name) {
                    (size.objects, size.bytes) = (objects, bytes);
                }
            }
            // What goes is told by its own condition.
            Err(CollectError::NamespaceTerminating(_) | CollectError::Get { .. }) => {
                sizes.remove(&name);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Number and size of a site's objects.
async fn count_one(
    ctx: &Context,
    kinds: &Kinds,
    site: &str,
    namespaces: &[String],
) -> Result<(i64, i64), CollectError> {
    let mut walk = Walk::begin(&ctx.client, kinds, site, namespaces, Freshness::Cached).await?;
    let (mut objects, mut bytes) = (0, 0);
    while let Some(object) = walk.next().await? {
        objects += 1;
        bytes += i64::try_from(object.form.to_string().len()).unwrap_or(i64::MAX);
    }
    Ok((objects, bytes))
}

async fn count_many(
    ctx: &Context,
    fleet: &Fleet,
    kinds: &Kinds,
    sizes: &mut BTreeMap<String, Size>,
) -> Result<(), CollectError> {
    let owners: HashMap<String, String> = {
        let rows = fleet.rows();
        let owned = rows.namespaces.iter().filter_map(|(name, row)| {
            let site = row.site.clone()?;
            sizes.contains_key(&site).then(|| (name.clone(), site))
        });
        owned.collect()
    };
    let around = [(names::API_VERSION, "Site"), ("v1", "Namespace")];
    let around = around.into_iter().filter_map(|(version, kind)| kinds.find(version, kind));
    let inside = around.chain(kinds.of_a_site()).map(|kind| (kind, None));
    let beside = kinds.beside_sites().map(|kind| (kind, Some(names::LABEL_SITE)));
    for (kind, label) in inside.chain(beside) {
        let mut add = |live: Value| {
            let metadata = &live["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default();
            let site = match (metadata["namespace"].as_str(), kind.resource.kind.as_str()) {
                (Some(namespace), _) => owners.get(namespace).map(String::as_str),
                (None, "Site") => Some(name),
                (None, _) if label.is_some() => metadata["labels"][names::LABEL_SITE].as_str(),
                (None, _) => owners.get(name).map(String::as_str),
            };
            if let Some(size) = site.and_then(|site| sizes.get_mut(site))
                && !is_derived(&live)
            {
                size.objects += 1;
                let bytes = archived_form(live).to_string().len();
                size.bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
            }
        };
        for_each(&ctx.client, kind, label, Freshness::Live, &mut add).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Time {
        chrono::DateTime::from_timestamp(seconds, 0).unwrap().into()
    }

    fn site(inventory: Option<Inventory>) -> Site {
        let mut site: Site = serde_json::from_value(json!({
            "metadata": { "name": "a" }, "spec": { "id": "1", "tenant": { "name": "A" } },
        }))
        .unwrap();
        site.status =
            Some(crate::api::SiteStatus { inventory, ..crate::api::SiteStatus::default() });
        site
    }

    #[test]
    fn a_site_is_counted_once_it_is_settled_and_not_each_time_that_it_moves() {
        let all = Inventories::default();
        assert_eq!(all.look(&site(None), 3, 1, at(100)), Count::Fits);
        assert_eq!(all.take_due(at(105)), [""; 0], "it has time to settle");
        all.look(&site(None), 3, 3, at(106));
        assert_eq!(all.take_due(at(106)), [""; 0], "more may come");
        assert_eq!(all.take_due(at(107)), ["a"]);
        assert_eq!(all.take_due(at(200)), [""; 0], "once");
        let size = Size { apps: 3, apps_ready: 3, objects: 9, bytes: 99 };
        all.note([("a".to_owned(), size)].into(), at(107), false);
        let Count::New(new) = all.look(&site(None), 3, 3, at(108)) else { panic!("counted") };
        assert_eq!((new.apps, new.apps_ready, new.objects, new.bytes), (3, 3, 9, 99));
        assert_eq!(all.look(&site(Some(new.clone())), 3, 3, at(109)), Count::Fits);
        // What flaps is not counted each time.
        all.look(&site(Some(new)), 4, 4, at(109));
        assert_eq!(all.take_due(at(115)), [""; 0]);
        assert_eq!(all.take_due(at(122)), ["a"]);
    }

    #[test]
    fn a_site_that_never_settles_is_counted_all_the_same() {
        let all = Inventories::default();
        all.look(&site(None), 0, 0, at(100));
        for t in 101..110 {
            all.look(&site(None), 1, 0, at(t));
            assert_eq!(all.take_due(at(t)), [""; 0]);
        }
        assert_eq!(all.take_due(at(112)), ["a"]);
    }

    #[test]
    fn a_site_that_lost_much_is_told_of_for_a_while_and_no_other() {
        let size = |objects, apps| Size { objects, apps, ..Size::default() };
        for (before, now, expected) in [
            (size(20, 3), size(15, 3), false),
            (size(20, 3), size(14, 3), true),
            (size(20, 3), size(2, 4), true),
            (size(20, 3), size(2, 2), false),
            (size(2, 0), size(2, 0), false),
            (size(2, 0), size(1, 0), true),
            (size(0, 0), size(9, 1), false),
        ] {
            assert_eq!(shrank(before, now), expected, "{before:?} to {now:?}");
        }
        let all = Inventories::default();
        let told =
            Inventory { objects: 20, apps: 3, apps_ready: 3, bytes: 99, counted_time: at(1) };
        // By what the process before this one had told, then by what this one counted.
        all.note_shrunk([(site(Some(told.clone())), size(19, 3))].into_iter(), at(100));
        assert_eq!(all.shrunk(at(100)), 0);
        all.note([("a".to_owned(), size(19, 3))].into(), at(100), true);
        all.note_shrunk([(site(Some(told)), size(3, 3))].into_iter(), at(200));
        assert_eq!(all.shrunk(at(1099)), 1);
        assert_eq!(all.shrunk(at(1100)), 0, "that was long ago");
    }

    /// However small each step is, and however often it is counted.
    #[test]
    fn what_goes_step_by_step_is_taken_together() {
        let last_seen = |every: i64| {
            let all = Inventories::default();
            for step in 0..10 {
                let size = Size { objects: 100 - 4 * step, apps: 3, ..Size::default() };
                all.note_shrunk([(site(None), size)].into_iter(), at(step * every));
                if all.shrunk(at(step * every)) == 1 {
                    return Some(step);
                }
            }
            None
        };
        // The 26th of a hundred is the one too many: 4 each time.
        assert_eq!(last_seen(15), Some(7));
        // At 40 s each, ten minutes see 15 steps; at 200 s three or four, which is no sudden loss.
        assert_eq!(last_seen(40), Some(7));
        assert_eq!(last_seen(200), None);
    }

    #[test]
    fn what_is_purged_or_restored_is_no_news() {
        assert!(!is_moving(&site(None)));
        let mut restored = site(None);
        restored.annotations_mut().insert(names::ANNOTATION_RESTORE.to_owned(), "r".to_owned());
        assert!(is_moving(&restored));
        let mut purged = site(None);
        let status = serde_json::json!({"deletion": {
            "requestRef": {"name": "r"}, "requestUid": "u", "phase": "Purging",
        }});
        purged.status = Some(serde_json::from_value(status).unwrap());
        assert!(is_moving(&purged));
    }
}
