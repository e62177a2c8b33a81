//! Reads what a request names: by its ids while the plan is made, by its plan from then on. Live
//! reads, every one.

use std::collections::{BTreeMap, HashMap, HashSet};

use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use super::app_objects::observe_apps;
use super::observe::{AppFacts, OpenRequest, SiteFacts};
use super::plan::are_too_many;
use super::{held_objects, survey};
use crate::api::{DeletionRequest, PlanEntity, Target, TargetKind, Time};
use crate::cluster::{
    Context, During, EntityRow, FEW_IDS, Holder, Result, by_id, list_entities, lookup,
};

/// A request of more ids does not name its workloads one by one.
const SHOWN_MOST: usize = 100;

/// What the scope of a request is decided on.
#[derive(Default)]
pub(super) struct ScopeFacts {
    pub holders: HashMap<String, Vec<Holder>>,
    pub sites: BTreeMap<String, SiteFacts>,
    pub apps: BTreeMap<(String, String), AppFacts>,
    pub others: Vec<OpenRequest>,
}

/// Reads what the plan names, with everything that a hold changes.
pub(super) async fn observe_planned(
    ctx: &Context,
    request: &DeletionRequest,
    planned: &[PlanEntity],
) -> Result<ScopeFacts> {
    let of_apps = planned.iter().filter(|e| e.kind == TargetKind::App).filter_map(app_key);
    let apps = observe_apps(ctx, of_apps.collect(), request).await?;
    let of_sites = planned.iter().filter(|e| e.kind == TargetKind::Site);
    let names = of_sites.map(|e| e.name.clone()).chain(sites_of(&apps)).collect();
    let mut sites = survey::sites(ctx, &names, request).await?;
    survey::read_apps(ctx, &mut sites).await?;
    survey::read_claims(ctx, &mut sites).await?;
    survey::read_backups(ctx, &mut sites, request).await?;
    held_objects::read(ctx, &mut sites).await?;
    Ok(ScopeFacts { sites, apps, ..Default::default() })
}

/// Namespace and name of a planned App.
pub(super) fn app_key(entity: &PlanEntity) -> Option<(String, String)> {
    Some((entity.namespaces.first()?.name.clone(), entity.name.clone()))
}

/// The names of the Sites that these Apps are in.
fn sites_of(apps: &BTreeMap<(String, String), AppFacts>) -> impl Iterator<Item = String> {
    apps.values().map(|app| app.site.clone()).filter(|site| !site.is_empty())
}

/// Looks every id up, and reads what they name. Of each App that is in a Site that is asked for,
/// what a list of all Apps shows is enough for a plan: its id, its name and its UID.
pub(super) async fn observe_scope(ctx: &Context, request: &DeletionRequest) -> Result<ScopeFacts> {
    let Target { kind, ids } = &request.spec.target;
    let others = other_requests(ctx, request).await?;
    let few = ids.len() <= FEW_IDS;
    let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let asked = |row: &EntityRow| wanted.contains(row.id.as_str());
    let list = |kind| list_entities(&ctx.client, kind, asked);
    let mut holders = match (few, kind) {
        (true, _) => lookup(&ctx.client, ids).await?,
        // Which Apps are inside of them is seen when the Sites are known.
        (false, TargetKind::Site) => by_id(list(TargetKind::Site).await?),
        (false, TargetKind::App) => {
            let (sites, apps) = tokio::try_join!(list(TargetKind::Site), list(TargetKind::App))?;
            by_id(sites.into_iter().chain(apps))
        }
    };
    if are_too_many(&holders, &request.spec.target) {
        return Ok(ScopeFacts { holders, others, ..ScopeFacts::default() });
    }
    let mut apps = BTreeMap::new();
    if *kind == TargetKind::App {
        // An id of the other kind refuses the request: nothing more is asked of what has it.
        let all = holders.values().flatten().filter(|h| h.kind == TargetKind::App);
        let keys = all.filter_map(|h| Some((h.namespace.clone()?, h.name.clone()))).collect();
        apps = observe_apps(ctx, keys, request).await?;
    }
    let of_sites = holders.values().flatten();
    let of_sites = of_sites.filter(|h| h.kind == *kind && h.kind == TargetKind::Site);
    let names = of_sites.map(|h| h.name.clone()).chain(sites_of(&apps)).collect();
    let mut sites = survey::sites(ctx, &names, request).await?;
    if few {
        survey::read_apps(ctx, &mut sites).await?;
    }
    let namespaces = survey::namespaces_of(&sites);
    let inside = |row: &EntityRow| {
        row.holder.namespace.as_ref().is_some_and(|namespace| namespaces.contains(namespace))
    };
    let all_apps = async {
        match (few, kind) {
            (false, TargetKind::Site) => {
                list_entities(&ctx.client, TargetKind::App, |row| asked(row) || inside(row)).await
            }
            _ => Ok(vec![]),
        }
    };
    let what_is_inside = async {
        survey::read_claims(ctx, &mut sites).await?;
        match ids.len() <= SHOWN_MOST {
            true => held_objects::read(ctx, &mut sites).await,
            false => Ok(()),
        }
    };
    // The list of all Apps takes the longest of all.
    let (listed, ()) = tokio::try_join!(all_apps, what_is_inside)?;
    survey::set_apps(&mut sites, listed.iter().filter(|row| inside(row)));
    add(&mut holders, by_id(listed.into_iter().filter(asked)));
    Ok(ScopeFacts { holders, sites, apps, others })
}

fn add(holders: &mut HashMap<String, Vec<Holder>>, more: HashMap<String, Vec<Holder>>) {
    for (id, mut more) in more {
        holders.entry(id).or_default().append(&mut more);
    }
}

async fn other_requests(ctx: &Context, own: &DeletionRequest) -> Result<Vec<OpenRequest>> {
    let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
    let list = api.list(&ListParams::default()).await.during("list every DeletionRequest")?;
    Ok(list
        .into_iter()
        .filter(|r| r.uid() != own.uid() && !r.has_ended())
        .map(|r| OpenRequest {
            name: r.name_any(),
            uid: r.uid().unwrap_or_default(),
            created: r.meta().creation_timestamp.as_ref().map(Time::from),
            target: r.spec.target,
        })
        .collect())
}
