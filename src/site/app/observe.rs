//! What is so: one App, its site, and the kinds that its manifests name.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, oneshot};
use kube::{Resource, ResourceExt};

use crate::api::{App, Site, names};
use crate::cluster::{Context, During, Holder, Result, holders, is_not_found};

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
    pub kinds: BTreeMap<String, KindFacts>,
}

/// A kind that the cluster knows.
#[derive(Clone, Debug)]
pub struct KindFacts {
    /// How to address it.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
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
        let (Some(version), Some(kind)) = (manifest["apiVersion"].as_str(), manifest["kind"].as_str())
        else {
            continue;
        };
        let key = format!("{version}/{kind}");
        if kinds.contains_key(&key) {
            continue;
        }
        if let Some(facts) = kind_facts(ctx, version, kind).await? {
            kinds.insert(key, facts);
        }
    }
    Ok(Some(Facts { app, site, holders, kinds }))
}

async fn kind_facts(ctx: &Context, version: &str, kind: &str) -> Result<Option<KindFacts>> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    match oneshot::pinned_kind(&ctx.client, &gvk).await {
        Ok((resource, capabilities)) => {
            Ok(Some(KindFacts { resource, namespaced: capabilities.scope == Scope::Namespaced }))
        }
        Err(kube::Error::Discovery(_)) => Ok(None),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).during(format!("look up the kind {kind} of {group}/{version}")),
    }
}

/// Whether the App itself is being deleted.
pub fn is_terminating(app: &App) -> bool {
    app.meta().deletion_timestamp.is_some()
}
