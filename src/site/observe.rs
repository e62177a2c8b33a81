//! What is so: one Site, its namespaces and what is in them.

use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::awaiting::Known;
use super::fleet::Fleet;
use super::hooks::Tried;
use super::inventory::{Inventories, is_moving};
use super::rows::{Account, NamespaceRow};
use crate::api::{Backup, Inventory, NamespaceRef, Site, names};
use crate::cluster::{Context, During, Holder, Result};

/// Everything that the decision about a Site needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The Site.
    pub site: Site,
    /// Its namespaces, in the order of the spec.
    pub namespaces: Vec<NamespaceFacts>,
    /// Every entity that has the Site's id, the Site itself among them.
    pub holders: Vec<Holder>,
    /// Whether the policy that it names exists, or is the built-in default.
    pub policy_exists: bool,
    /// Whether the ClusterRole of the account for Apps exists.
    pub role_exists: bool,
    /// The newest verified Backup of the Site, asked for only when it lost a namespace.
    pub newest_backup: Option<String>,
    /// What the store says of its id, asked for only when it is new.
    pub known: Known,
    /// What a dry run of its hooks showed.
    pub hooks: Tried,
    /// What it holds.
    pub count: Count,
    /// What of the accounts was gone and was made again.
    pub repaired: Vec<String>,
}

/// What is known of what a Site holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Count {
    /// The last count fits what is seen, or another one is under way.
    Fits,
    /// It was counted.
    New(Inventory),
}

/// One namespace of a Site.
#[derive(Clone, Debug)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// The namespace, where it exists.
    pub live: Option<NamespaceRow>,
    /// The account for Apps in it.
    pub account: Account,
}

/// Gathers it from what the watches told. What looks lost is asked for, because a watch that is
/// late must not raise an alarm.
///
/// # Errors
/// Any read that fails.
pub async fn observe(
    ctx: &Context,
    fleet: &Fleet,
    inventories: &Inventories,
    site: Site,
) -> Result<Facts> {
    let mut facts = gather(fleet, inventories, site, ctx);
    let recorded = facts.site.status.as_ref().map(|s| s.namespaces.clone()).unwrap_or_default();
    let mut lost = false;
    for namespace in &mut facts.namespaces {
        if is_lost(&recorded, namespace) {
            namespace.live = read_namespace(ctx, &namespace.name).await?;
            let terminating = namespace.live.as_ref().is_some_and(|live| live.terminating);
            lost |= terminating || is_lost(&recorded, namespace);
        }
    }
    if lost {
        facts.newest_backup = newest_backup(ctx, &facts.site.name_any()).await?;
    }
    Ok(facts)
}

fn gather(fleet: &Fleet, inventories: &Inventories, site: Site, ctx: &Context) -> Facts {
    let rows = fleet.rows();
    let namespaces: Vec<NamespaceFacts> = site
        .namespace_names()
        .into_iter()
        .map(|name| NamespaceFacts {
            live: rows.namespaces.get(&name).cloned(),
            account: rows.account(&name),
            name,
        })
        .collect();
    let apps = namespaces.iter().flat_map(|namespace| rows.apps_in(&namespace.name));
    let (all, ready) =
        apps.fold((0, 0), |(all, ready), app| (all + 1, ready + i64::from(app.ready)));
    let policy = &site.spec.policy_ref.name;
    let nothing = namespaces.iter().all(|n| n.live.is_none());
    let count = if is_moving(&site) || nothing {
        Count::Fits
    } else {
        inventories.look(&site, all, ready, ctx.now())
    };
    Facts {
        holders: rows.holders(&site.spec.id),
        policy_exists: policy == names::DEFAULT_POLICY || rows.policies.get(policy).is_some(),
        role_exists: rows.roles.get(names::APP_ACCOUNT).is_some(),
        newest_backup: None,
        known: Known::NotAsked,
        hooks: Tried::No,
        count,
        repaired: vec![],
        namespaces,
        site,
    }
}

/// Whether a namespace that was recorded is not there, is another one, or goes.
fn is_lost(recorded: &[NamespaceRef], namespace: &NamespaceFacts) -> bool {
    let before = recorded.iter().find(|n| n.name == namespace.name);
    before.is_some_and(|before| {
        namespace.live.as_ref().is_none_or(|live| live.uid != before.uid || live.terminating)
    })
}

/// The namespace as it is now.
///
/// # Errors
/// A read that fails.
pub async fn read_namespace(ctx: &Context, name: &str) -> Result<Option<NamespaceRow>> {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(ctx.client.clone());
    let live = api.get_metadata_opt(name).await.during(format!("read namespace {name}"))?;
    Ok(live.as_ref().map(super::fleet::namespace_row))
}

/// The Backup of this Site that was verified last.
async fn newest_backup(ctx: &Context, site: &str) -> Result<Option<String>> {
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let all = api.list(&ListParams::default()).await.during("list Backups")?;
    let verified =
        all.into_iter().filter(|backup| backup.spec.site_ref.name == site && backup.is_verified());
    let newest = verified.max_by_key(|backup| {
        (backup.status.as_ref().and_then(|s| s.completion_time), backup.name_any())
    });
    Ok(newest.map(|backup| backup.name_any()))
}
