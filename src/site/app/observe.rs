//! What is so: one App, its site, and the kinds that its manifests name.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::Api;

use crate::api::{App, Site, names};
use crate::cluster::discover::Kind;
use crate::cluster::{Context, During, Holder, Result, holders};

/// How old the list of kinds may be for a kind that is in it.
const KINDS_MAX_AGE: Duration = Duration::from_secs(60);
/// How old it may be for a kind that is not in it.
const KINDS_ASK_AGAIN: Duration = Duration::from_secs(2);

/// Everything that the decision about an App needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The App, read live.
    pub app: App,
    /// The Site that the App's namespace belongs to, where there is one.
    pub site: Option<Site>,
    /// Every entity that has the App's id, the App itself among them.
    pub holders: Vec<Holder>,
    /// The kinds that the manifests name, as `apiVersion/kind`; those that the cluster does not
    /// know are not in it.
    pub kinds: BTreeMap<String, Kind>,
}

/// Reads it; none when the App is gone.
///
/// # Errors
/// Any read that fails.
pub async fn observe(ctx: &Context, namespace: &str, name: &str) -> Result<Option<Facts>> {
    let client = &ctx.client;
    let apps: Api<App> = Api::namespaced(client.clone(), namespace);
    let Some(app) = apps.get_opt(name).await.during(format!("read App {namespace}/{name}"))? else {
        return Ok(None);
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let live = namespaces.get_opt(namespace).await.during(format!("read namespace {namespace}"))?;
    let owner = live.as_ref().and_then(|n| n.labels().get(names::LABEL_SITE).cloned());
    let site = match owner {
        Some(owner) => {
            let sites: Api<Site> = Api::all(client.clone());
            sites.get_opt(&owner).await.during(format!("read Site {owner}"))?
        }
        None => None,
    };
    let holders = holders(client, &app.spec.id).await?;
    let mut kinds = BTreeMap::new();
    for manifest in &app.spec.manifests {
        let (Some(version), Some(kind)) =
            (manifest["apiVersion"].as_str(), manifest["kind"].as_str())
        else {
            continue;
        };
        let key = format!("{version}/{kind}");
        if kinds.contains_key(&key) {
            continue;
        }
        if let Some(found) = find_kind(ctx, version, kind).await? {
            kinds.insert(key, found);
        }
    }
    Ok(Some(Facts { app, site, holders, kinds }))
}

async fn find_kind(ctx: &Context, version: &str, kind: &str) -> Result<Option<Kind>> {
    // A kind that was not there a moment ago may be there now: a CRD and its first object often
    // arrive together.
    for max_age in [KINDS_MAX_AGE, KINDS_ASK_AGAIN] {
        if let Some(found) = ctx.kinds(max_age).await?.find(version, kind) {
            return Ok(Some(found.clone()));
        }
    }
    Ok(None)
}
