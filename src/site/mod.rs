//! Sites and Apps: namespaces, labels, finalizers, inventory; manifests applied, readiness told.
//!
//! This room must not delete anything of a tenant, ever. It stands still while an entity is held,
//! purged or restored. What was deleted past the guard is `recreate`'s.

mod act;
pub mod app;
pub mod decide;
mod observe;
pub mod recreate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use crate::api::{App, Site, names};
use crate::cluster::{Context, Result, Shutdown, drive, write_status};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the room until shutdown.
pub async fn run(ctx: Context, down: Shutdown) {
    tokio::join!(run_sites(ctx.clone(), down.clone()), app::run(ctx, down));
}

async fn run_sites(ctx: Context, down: Shutdown) {
    let sites: Api<DeserializeGuard<Site>> = Api::all(ctx.client.clone());
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(ctx.client.clone());
    let apps: Api<PartialObjectMeta<App>> = Api::all(ctx.client.clone());
    let controller = Controller::new(sites, watcher::Config::default());
    let store = controller.store();
    let controller = controller
        .watches_with(
            namespaces,
            (),
            watcher::Config::default().labels(names::LABEL_SITE),
            |namespace| namespace.labels().get(names::LABEL_SITE).map(|site| ObjectRef::new(site)),
        )
        .watches_with(apps, (), watcher::Config::default(), move |app| {
            // An App names its Site through its namespace; the few Sites that list it are found
            // in the store, where being late costs a repetition at most.
            let namespace = app.namespace().unwrap_or_default();
            store
                .state()
                .into_iter()
                .filter(|site| {
                    site.0.as_ref().is_ok_and(|s| s.namespace_names().contains(&namespace))
                })
                .map(|site| ObjectRef::new(&site.name_any()))
                .collect::<Vec<_>>()
        });
    let context = ctx.clone();
    drive("site", controller, ctx, TIMEOUT, down, move |site| reconcile(context.clone(), site))
        .await;
}

async fn reconcile(ctx: Context, site: Arc<Site>) -> Result<Action> {
    let Some(facts) = observe::observe(&ctx, &site.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let decision = decide::decide(&facts, ctx.now());
    act::act(&ctx, &facts, &decision.effects).await?;
    let api: Api<Site> = Api::all(ctx.client.clone());
    let old = facts.site.status.as_ref();
    write_status(&api, &facts.site, old, &decision.status, false).await?;
    for note in &decision.notes {
        ctx.tell(&facts.site, note).await;
    }
    Ok(Action::requeue(decision.requeue))
}
