//! What is so: one Site, its namespaces and what is in them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::{
    App, ConditionType, Conditions, DeletionPhase, DeletionPolicy, Inventory, Site, Time, names,
};
use crate::cluster::collect::{CollectError, Freshness, collect};
use crate::cluster::{Context, During, Error, Holder, Result, holders};

/// Everything that the decision about a Site needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The Site, read live.
    pub site: Site,
    /// Its namespaces, in the order of the spec.
    pub namespaces: Vec<NamespaceFacts>,
    /// Every entity that has the Site's id, the Site itself among them.
    pub holders: Vec<Holder>,
    /// Whether the policy that it names exists, or is the built-in default.
    pub policy_exists: bool,
    /// Whether each App in its namespaces is ready.
    pub apps: Vec<AppFacts>,
    /// What it holds.
    pub count: Count,
}

/// What is known of what a Site holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Count {
    /// The last count fits what is seen.
    Fits,
    /// It does not, and it is too early to count again.
    Later,
    /// It was counted now.
    New(Inventory),
}

/// One namespace of a Site.
#[derive(Clone, Debug)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// The namespace, where it exists.
    pub live: Option<Namespace>,
    /// Whether the account for Apps and its binding are there.
    pub has_account: bool,
}

/// One App of a Site.
#[derive(Clone, Debug)]
pub struct AppFacts {
    /// Its name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
}

/// How old an inventory may become while nothing is seen to change.
const INVENTORY_MAX_AGE_SECONDS: i64 = 600;
/// How old it is at least before it is counted again.
pub const INVENTORY_MIN_AGE_SECONDS: i64 = 5;
/// How old the list of kinds may be for counting.
const KINDS_MAX_AGE: Duration = Duration::from_secs(60);

/// Reads it; none when the Site is gone.
///
/// # Errors
/// Any read that fails.
pub async fn observe(ctx: &Context, name: &str) -> Result<Option<Facts>> {
    let client = &ctx.client;
    let sites: Api<Site> = Api::all(client.clone());
    let Some(site) = sites.get_opt(name).await.during(format!("read Site {name}"))? else {
        return Ok(None);
    };
    let all: Api<Namespace> = Api::all(client.clone());
    let mut namespaces = vec![];
    let mut apps = vec![];
    for namespace in site.namespace_names() {
        let doing = format!("read namespace {namespace}");
        let live = all.get_opt(&namespace).await.during(doing)?;
        let mut has_account = false;
        if live.is_some() {
            has_account = account_exists(ctx, &namespace).await?;
            let api: Api<App> = Api::namespaced(client.clone(), &namespace);
            let list = api.list(&ListParams::default()).await;
            for app in list.during(format!("list the Apps in namespace {namespace}"))? {
                let status = app.status.unwrap_or_default();
                apps.push(AppFacts {
                    name: app.metadata.name.unwrap_or_default(),
                    ready: status.conditions.is_true(ConditionType::Ready),
                });
            }
        }
        namespaces.push(NamespaceFacts { name: namespace, live, has_account });
    }
    let policies: Api<DeletionPolicy> = Api::all(client.clone());
    let policy = &site.spec.policy_ref.name;
    let policy_exists = policy == names::DEFAULT_POLICY
        || policies
            .get_opt(policy)
            .await
            .during(format!("read DeletionPolicy {policy}"))?
            .is_some();
    let holders = holders(client, &site.spec.id).await?;
    let count = count(ctx, &site, &namespaces, &apps).await?;
    Ok(Some(Facts { site, namespaces, holders, policy_exists, apps, count }))
}

async fn account_exists(ctx: &Context, namespace: &str) -> Result<bool> {
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(ctx.client.clone(), namespace);
    let doing = format!("read the account {} in namespace {namespace}", names::APP_ACCOUNT);
    Ok(accounts.get_opt(names::APP_ACCOUNT).await.during(&doing)?.is_some()
        && bindings.get_opt(names::APP_ACCOUNT).await.during(&doing)?.is_some())
}

/// Counts what the Site holds, if the last count does not fit what is seen and is not of just now:
/// counting lists every API, and while a fleet comes up each site changes many times.
async fn count(
    ctx: &Context,
    site: &Site,
    namespaces: &[NamespaceFacts],
    apps: &[AppFacts],
) -> Result<Count> {
    let live: Vec<String> =
        namespaces.iter().filter(|n| n.live.is_some()).map(|n| n.name.clone()).collect();
    let status = site.status.as_ref();
    let purging =
        status.and_then(|s| s.deletion.as_ref()).is_some_and(|d| d.phase == DeletionPhase::Purging);
    if live.is_empty() || purging || site.annotations().contains_key(names::ANNOTATION_RESTORE) {
        return Ok(Count::Fits);
    }
    let last = status.and_then(|s| s.inventory.as_ref());
    let all = apps.len() as i64;
    let ready = apps.iter().filter(|a| a.ready).count() as i64;
    let fits = last.is_some_and(|last| {
        (last.apps, last.apps_ready) == (all, ready)
            && ctx.now().seconds_since(last.counted_time) < INVENTORY_MAX_AGE_SECONDS
    });
    if fits {
        return Ok(Count::Fits);
    }
    // A site that comes up, or goes, changes many times a second.
    let settled = all > 0 && ready == all;
    let created = site.metadata.creation_timestamp.as_ref().map(Time::from);
    let before = last.map(|last| last.counted_time).or(created);
    let young = |t| ctx.now().seconds_since(t) < INVENTORY_MIN_AGE_SECONDS;
    if before.is_some_and(young) && !(last.is_none() && settled) {
        return Ok(Count::Later);
    }
    let kinds = ctx.kinds(KINDS_MAX_AGE).await?;
    let name = site.metadata.name.as_deref().unwrap_or_default();
    let collection = match collect(&ctx.client, &kinds, name, &live, Freshness::Cached).await {
        Ok(collection) => collection,
        // A namespace on its way out is told by its own condition.
        Err(CollectError::NamespaceTerminating(_)) => return Ok(Count::Fits),
        Err(error) => return Err(Error::answer(format!("count what Site {name} holds"), error)),
    };
    Ok(Count::New(Inventory {
        apps: all,
        apps_ready: ready,
        objects: collection.objects.len() as i64,
        bytes: collection.bytes() as i64,
        counted_time: ctx.now(),
    }))
}
