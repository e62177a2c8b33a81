//! Apps: manifests applied as the App's own account, readiness told.

mod act;
pub mod conclude;
mod contest;
pub mod decide;
pub mod late_mark;
mod live;
pub mod manifest;
mod object;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};

use self::contest::Contests;
use self::decide::Plan;
use self::live::Objects;
use super::OWN_WRITE;
use super::fleet::Fleet;
use crate::api::{App, Reason};
use crate::cluster::{Context, Note, Result, Shutdown, Written, drive, write_status};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What every reconciliation of an App is handed.
#[derive(Clone)]
struct Room {
    ctx: Context,
    fleet: Fleet,
    objects: Objects,
    contests: Contests,
    written: Written,
}

/// Runs the room until shutdown.
pub async fn run(
    ctx: Context,
    fleet: Fleet,
    controller: Controller<DeserializeGuard<App>>,
    down: Shutdown,
) {
    let room = Room {
        ctx: ctx.clone(),
        objects: Objects::new(&ctx, &fleet, &down),
        fleet,
        contests: Contests::default(),
        written: Written::default(),
    };
    drive("app", controller, ctx, TIMEOUT, down, move |app| look(room.clone(), app)).await;
}

async fn look(room: Room, app: Arc<App>) -> Result<Action> {
    let result = reconcile(room.clone(), app.clone()).await;
    // A condition cannot say it.
    if let Err(error) = &result
        && error.to_string().contains("request is too large")
    {
        let note = "the App is as large as an object can be, and its status finds no room: split it into several Apps";
        room.ctx.tell(app.as_ref(), &Note::warning(Reason::TooLarge, note)).await;
    }
    result
}

async fn reconcile(room: Room, app: Arc<App>) -> Result<Action> {
    room.fleet.complete().await;
    if room.written.is_newer_than(app.as_ref()) {
        // The event of that write is on its way.
        return Ok(Action::requeue(OWN_WRITE));
    }
    if late_mark::take_off(&room.ctx, &app).await? {
        // Its event is on its way.
        return Ok(Action::requeue(OWN_WRITE));
    }
    let mut facts = observe::observe(&room, App::clone(&app)).await?;
    let mut plan = decide::plan(&facts);
    if plan.writes() {
        let add_finalizer = matches!(&plan, Plan::Apply(steps) if steps.add_finalizer);
        if !observe::confirm(&room.ctx, &mut facts, add_finalizer).await? {
            return Ok(Action::await_change());
        }
        plan = decide::plan(&facts);
    }
    let applied = match &plan {
        Plan::Apply(steps) => act::act(&room, &facts, steps).await?,
        Plan::StandStill { .. } | Plan::Refuse { .. } => vec![],
    };
    let decision = conclude::conclude(&facts, &plan, &applied, room.ctx.now());
    let namespace = app.namespace().unwrap_or_default();
    let api: Api<App> = Api::namespaced(room.ctx.client.clone(), &namespace);
    let old = facts.app.status.as_ref();
    if let Some(live) = write_status(&api, &facts.app, old, &decision.status, false).await? {
        room.written.note(&live);
    }
    for note in &decision.notes {
        room.ctx.tell(&facts.app, note).await;
    }
    Ok(decision.requeue.map_or_else(Action::await_change, Action::requeue))
}
