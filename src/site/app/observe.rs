//! What is so: one App, its site, the kinds that its manifests name, and what lives of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;
use kube::api::Api;

use super::Room;
use super::object::Seen;
use crate::api::{App, Site, Time, names};
use crate::cluster::discover::{Kind, Kinds};
use crate::cluster::{Context, During, Holder, Result, set_finalizer};
use crate::site::rows::{Account, NamespaceRow};

/// How old the list of kinds may be for a kind that is in it.
const KINDS_MAX_AGE: Duration = Duration::from_secs(300);
/// How old it may be for a kind that is not in it.
const KINDS_ASK_AGAIN: Duration = Duration::from_secs(2);

/// Everything that the decision about an App needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The App.
    pub app: App,
    /// Its namespace, where it is known.
    pub namespace: Option<NamespaceRow>,
    /// The Site that the App's namespace belongs to, where there is one.
    pub site: Option<Site>,
    /// The Site that names the namespace and awaits its restore.
    pub awaiting: Option<String>,
    /// Every entity that has the App's id, the App itself among them.
    pub holders: Vec<Holder>,
    /// The account for Apps in the namespace.
    pub account: Account,
    /// Whether the service account that the App names exists, where it was asked for.
    pub own_account: Option<bool>,
    /// The kinds that the manifests and the record name, as `apiVersion/kind`; those that the
    /// cluster does not know are not in it.
    pub kinds: BTreeMap<String, Kind>,
    /// The kinds whose watch has told all that there is.
    pub complete: BTreeSet<String>,
    /// What lives, by kind and name.
    pub seen: BTreeMap<(String, String), Seen>,
    /// What is changed again and again: until when it is left alone, and what it is, in words.
    pub contested: BTreeMap<(String, String), (Time, String)>,
}

/// Gathers it from what the watches told.
///
/// # Errors
/// A discovery of kinds that fails.
pub async fn observe(room: &Room, app: App) -> Result<Facts> {
    let namespace = app.namespace().unwrap_or_default();
    let kinds = find_kinds(&room.ctx, &app).await?;
    let who = || (namespace.clone(), app.name_any());
    let complete: BTreeSet<String> = kinds
        .iter()
        .filter(|(key, kind)| kind.namespaced && room.objects.watch(key, kind, who()))
        .map(|(key, _)| key.clone())
        .collect();
    let (mut seen, mut contested) = (BTreeMap::new(), BTreeMap::new());
    for (kind, name) in named(&app) {
        if let Some(found) = room.objects.get(&kind, &namespace, &name) {
            if let Some(until) = room.contests.until(&found.uid, room.ctx.now()) {
                contested.insert((kind.clone(), name.clone()), until);
            }
            seen.insert((kind, name), found);
        }
    }
    let (row, holders, account, awaiting) = {
        let rows = room.fleet.rows();
        let row = rows.namespaces.get(&namespace).cloned();
        let awaiting = rows.awaiting(&namespace);
        (row, rows.holders(&app.spec.id), rows.account(&namespace), awaiting)
    };
    let site = row.as_ref().and_then(|row| room.fleet.site(row.site.as_ref()?));
    Ok(Facts {
        app,
        namespace: row,
        site,
        awaiting,
        holders,
        account,
        own_account: None,
        kinds,
        complete,
        seen,
        contested,
    })
}

/// Reads what must be known as it is now before anything is written: the App, with our finalizer
/// on it, its Site, and an account of its own. Answers false when the App is gone.
///
/// # Errors
/// Any request that fails; a conflict when the App has changed.
pub async fn confirm(ctx: &Context, facts: &mut Facts, add_finalizer: bool) -> Result<bool> {
    let (namespace, name) = (facts.app.namespace().unwrap_or_default(), facts.app.name_any());
    let apps: Api<App> = Api::namespaced(ctx.client.clone(), &namespace);
    let site = facts.site.as_ref().map(ResourceExt::name_any);
    let account = &facts.app.spec.service_account_name;
    let (app, site, account) = tokio::try_join!(
        async {
            if add_finalizer {
                return set_finalizer(&apps, &facts.app, true).await;
            }
            apps.get_opt(&name).await.during(format!("read App {namespace}/{name}"))
        },
        async {
            let Some(site) = &site else { return Ok(None) };
            let sites: Api<Site> = Api::all(ctx.client.clone());
            sites.get_opt(site).await.during(format!("read Site {site}"))
        },
        async {
            if account == names::APP_ACCOUNT {
                return Ok(None);
            }
            let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), &namespace);
            let doing = format!("read ServiceAccount {namespace}/{account}");
            accounts
                .get_metadata_opt(account)
                .await
                .during(doing)
                .map(|found| Some(found.is_some()))
        },
    )?;
    let Some(app) = app else { return Ok(false) };
    facts.app = app;
    facts.site = site;
    facts.own_account = account;
    Ok(true)
}

/// The objects that the App names, now and before, by kind and name.
fn named(app: &App) -> BTreeSet<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let now = app.spec.manifests.iter().map(|manifest| {
        let kind = format!("{}/{}", text(&manifest["apiVersion"]), text(&manifest["kind"]));
        (kind, text(&manifest["metadata"]["name"]))
    });
    let status = app.status.iter().flat_map(|status| &status.objects);
    let before = status.map(|o| (format!("{}/{}", o.api_version, o.kind), o.name.clone()));
    now.chain(before).collect()
}

async fn find_kinds(ctx: &Context, app: &App) -> Result<BTreeMap<String, Kind>> {
    let keys: BTreeSet<String> = named(app).into_iter().map(|(kind, _)| kind).collect();
    let find = |all: &Kinds| -> BTreeMap<String, Kind> {
        let found = keys.iter().filter_map(|key| {
            let (version, kind) = key.rsplit_once('/')?;
            Some((key.clone(), all.find(version, kind)?.clone()))
        });
        found.collect()
    };
    let found = find(ctx.kinds(KINDS_MAX_AGE).await?.as_ref());
    if found.len() == keys.len() {
        return Ok(found);
    }
    // A kind that was not there a moment ago may be there now: a CRD and its first object often
    // arrive together.
    Ok(find(ctx.kinds(KINDS_ASK_AGAIN).await?.as_ref()))
}
