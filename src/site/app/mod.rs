//! Apps: manifests applied as the App's own account, readiness told.

mod act;
pub mod decide;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use crate::api::{App, Site, names};
use crate::cluster::{Context, Result, Shutdown, drive, write_status};

/// The limit of one reconciliation.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the room until shutdown.
pub async fn run(ctx: Context, down: Shutdown) {
    let apps: Api<DeserializeGuard<App>> = Api::all(ctx.client.clone());
    let sites: Api<DeserializeGuard<Site>> = Api::all(ctx.client.clone());
    let deployments: Api<PartialObjectMeta<Deployment>> = Api::all(ctx.client.clone());
    let sets: Api<PartialObjectMeta<StatefulSet>> = Api::all(ctx.client.clone());
    let labelled = || watcher::Config::default().labels(names::LABEL_APP);
    let controller = Controller::new(apps, watcher::Config::default());
    let store = controller.store();
    let controller = controller
        .watches_with(deployments, (), labelled(), |object| of_label(&object))
        .watches_with(sets, (), labelled(), |object| of_label(&object))
        .watches_with(sites, (), watcher::Config::default(), move |site| {
            // A Site that is held, released or restored concerns each of its Apps.
            let namespaces = site.0.as_ref().map(Site::namespace_names).unwrap_or_default();
            store
                .state()
                .into_iter()
                .filter(|app| app.namespace().is_some_and(|n| namespaces.contains(&n)))
                .map(|app| {
                    let namespace = app.namespace().unwrap_or_default();
                    ObjectRef::new(&app.name_any()).within(&namespace)
                })
                .collect::<Vec<_>>()
        });
    let context = ctx.clone();
    drive("app", controller, ctx, TIMEOUT, down, move |app| reconcile(context.clone(), app)).await;
}

fn of_label<K: Resource>(object: &K) -> Option<ObjectRef<DeserializeGuard<App>>> {
    let name = object.labels().get(names::LABEL_APP)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn reconcile(ctx: Context, app: Arc<App>) -> Result<Action> {
    let namespace = app.namespace().unwrap_or_default();
    let Some(facts) = observe::observe(&ctx, &namespace, &app.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let plan = decide::plan(&facts);
    let applied = act::act(&ctx, &facts, &plan).await?;
    let decision = decide::conclude(&facts, &plan, &applied, ctx.now());
    let api: Api<App> = Api::namespaced(ctx.client.clone(), &namespace);
    write_status(&api, &facts.app, facts.app.status.as_ref(), &decision.status, false).await?;
    for note in &decision.notes {
        ctx.tell(&facts.app, note).await;
    }
    Ok(Action::requeue(decision.requeue))
}
