//! The schedules of all Sites: one watch, and of each Site only when to look at it again. A Site
//! without a schedule costs nothing, one with a schedule two writes for each backup.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::decide::has_ended;
use super::schedule::{self, Decision};
use crate::api::{Backup, ConditionType, Conditions, Site, SiteStatus, Time};
use crate::cluster::{
    Context, During, Exact, Result, Shutdown, create_if_absent, patch_status_exact,
};

/// How often to look whose time has come.
const TICK: Duration = Duration::from_secs(1);
/// Sites that are looked at at the same time.
const AT_ONCE: usize = 4;
/// When to look again at a Site whose backup could not be begun, or whose last one is still made.
const AGAIN: i64 = 30;

/// When to look at each Site, by name. None: when it changes.
type Rows = HashMap<String, Option<Time>>;

/// Makes Backups by the Sites' schedules until shutdown.
pub async fn run(ctx: Context, down: Shutdown) {
    tokio::select! { () = keep(&ctx) => {}, () = down.wait() => {} }
}

async fn keep(ctx: &Context) {
    let api: Api<DeserializeGuard<Site>> = Api::all(ctx.client.clone());
    let events = watch(api, watcher::Config::default()).default_backoff();
    let mut events = pin!(events);
    let mut rows = Rows::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => take(&mut rows, event, ctx.now()),
                Some(Err(error)) => tracing::debug!(%error, "the watch of Sites broke and is taken up again"),
                None => return,
            },
            _ = tick.tick() => look(ctx, &mut rows).await,
        }
    }
}

fn take(rows: &mut Rows, event: Event<DeserializeGuard<Site>>, now: Time) {
    match event {
        Event::Init => rows.clear(),
        Event::InitDone => {}
        Event::Delete(site) => {
            rows.remove(&site.name_any());
        }
        Event::InitApply(site) | Event::Apply(site) => {
            let name = site.name_any();
            // What does not parse is told by the room of Sites.
            let Ok(site) = site.0 else { return };
            let decision = schedule::decide(&site, now);
            let to_do = decision.due.is_some() || said(&site, &decision, now).is_some();
            rows.insert(name, if to_do { Some(now) } else { decision.next });
        }
    }
}

/// Looks at all whose time has come.
async fn look(ctx: &Context, rows: &mut Rows) {
    let now = ctx.now();
    let due =
        |(name, at): (&String, &Option<Time>)| at.is_some_and(|at| at <= now).then(|| name.clone());
    let due: Vec<String> = rows.iter().filter_map(due).collect();
    let mut looked = stream::iter(due)
        .map(|name| async move {
            let again = match once(ctx, &name).await {
                Ok(again) => again,
                Err(error) => {
                    tracing::warn!(site = name, "{error}");
                    Some(ctx.now().plus_seconds(AGAIN))
                }
            };
            (name, again)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((name, again)) = looked.next().await {
        rows.insert(name, again);
    }
}

/// Makes the Backup that is due, if there is one, and says so. Answers when to look again.
async fn once(ctx: &Context, name: &str) -> Result<Option<Time>> {
    let sites: Api<Site> = Api::all(ctx.client.clone());
    let Some(site) = sites.get_opt(name).await.during(format!("read the Site {name}"))? else {
        return Ok(None);
    };
    let now = ctx.now();
    let decision = schedule::decide(&site, now);
    if let Some((_, backup)) = &decision.due {
        if is_busy(ctx, &site).await? {
            return Ok(Some(now.plus_seconds(AGAIN)));
        }
        let backups: Api<Backup> = Api::all(ctx.client.clone());
        create_if_absent(&backups, backup).await?;
    }
    if let Some(status) = said(&site, &decision, now) {
        write(&sites, &site, &status).await?;
    }
    // Paused: the Site says when that ends, by a change.
    Ok(decision.next)
}

/// Whether the Backup of the last slot is still being made: one at a time.
async fn is_busy(ctx: &Context, site: &Site) -> Result<bool> {
    let last = site.status.as_ref().and_then(|s| s.last_schedule_time);
    let Some(last) = last else { return Ok(false) };
    let backups: Api<Backup> = Api::all(ctx.client.clone());
    let name = schedule::name(site, last);
    let before = backups.get_opt(&name).await.during(format!("read the Backup {name}"))?;
    Ok(before.is_some_and(|b| !b.status.is_some_and(|s| has_ended(&s.conditions))))
}

/// What the Site's status should say and does not. None: it says it.
fn said(site: &Site, decision: &Decision, now: Time) -> Option<SiteStatus> {
    let old = site.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.next_backup_time = decision.next;
    if let Some((slot, _)) = &decision.due {
        new.last_schedule_time = Some(*slot);
    }
    match &decision.condition {
        Some((holds, reason, message)) => {
            let generation = site.metadata.generation;
            let scheduled = ConditionType::BackupScheduled;
            new.conditions.set(scheduled, *holds, *reason, message.clone(), generation, now);
        }
        None => {
            new.conditions.unset(ConditionType::BackupScheduled);
            new.last_schedule_time = None;
        }
    }
    (new != old).then_some(new)
}

/// Writes these fields alone, on the Site as it was read: its conditions are written by another room
/// as well.
async fn write(sites: &Api<Site>, site: &Site, status: &SiteStatus) -> Result<()> {
    let exact = Exact::of(site);
    let fields = json!({
        "conditions": status.conditions,
        "lastScheduleTime": status.last_schedule_time,
        "nextBackupTime": status.next_backup_time,
    });
    let doing = format!("write the status of the Site {}", exact.name);
    patch_status_exact(sites, &exact, fields, doing).await.map(drop)
}
