//! What the benchmarks of restores share: a fleet that is made, watched and lost.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use reprieve::api::{Backup, Condition, ConditionType, Conditions as _, Site};
use reprieve::sandbox::Sandbox;
use serde_json::{Value, json};

/// Requests in flight at a time, in the loop and of whoever prepares the fleet.
pub const IN_FLIGHT: usize = 64;
/// How long any one step may take.
pub const PATIENCE: Duration = Duration::from_secs(3600);

/// Creates an object at this path.
pub async fn post(client: &Client, path: String, object: Value) -> Result<()> {
    let request = http::Request::post(&path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())?;
    client.request::<Value>(request).await.with_context(|| format!("POST {path}")).map(drop)
}

/// All of these, many at a time.
pub async fn in_parallel(
    all: impl Iterator<Item = impl Future<Output = Result<()>>>,
) -> Result<()> {
    stream::iter(all).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// Whether the condition `Ready` is true.
pub fn ready(conditions: Option<&Vec<Condition>>) -> bool {
    conditions.is_some_and(|c| c.is_true(ConditionType::Ready))
}

/// Waits until so many objects of a kind are as they should be.
pub async fn until<K>(client: &Client, holds: impl Fn(&K) -> bool, number: usize) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let (api, deadline) = (Api::<K>::all(client.clone()), Instant::now() + PATIENCE);
    loop {
        let all = api.list(&ListParams::default().match_any()).await?;
        let good = all.iter().filter(|object| holds(object)).count();
        if good >= number {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{good} of {number} are as they should be");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The name of a site.
pub fn name(site: usize) -> String {
    format!("site{site}")
}

/// Creates so many Sites, each with a namespace, of priorities in no order.
pub async fn make_sites(client: &Client, sites: usize) -> Result<()> {
    in_parallel((0..sites).flat_map(|site| {
        let entity = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": name(site)},
            "spec": {"id": format!("site-{site}"), "tenant": {"name": format!("Tenant {site}")},
                     "priority": (site * 7919) % 1000},
        });
        let adopt = json!({ "reprieve.dev/adopt": name(site) });
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name(site), "annotations": adopt}});
        [
            post(client, "/apis/reprieve.dev/v1alpha1/sites".to_owned(), entity),
            post(client, "/api/v1/namespaces".to_owned(), namespace),
        ]
    }))
    .await
}

/// Backs up every site, and waits until all of it is verified.
pub async fn back_up(client: &Client, sites: usize) -> Result<()> {
    in_parallel((0..sites).map(|site| {
        let backup = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": name(site)},
            "spec": {"siteRef": {"name": name(site)}},
        });
        post(client, "/apis/reprieve.dev/v1alpha1/backups".to_owned(), backup)
    }))
    .await?;
    until(client, Backup::is_verified, sites).await
}

/// Takes the guard away, deletes every Site and its namespace, and puts the guard back.
pub async fn lose(sandbox: &Sandbox, client: &Client) -> Result<()> {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    for binding in bindings.list(&ListParams::default()).await? {
        if binding.name_any().starts_with("reprieve-") {
            bindings.delete(&binding.name_any(), &DeleteParams::default()).await?;
        }
    }
    // The API server takes a moment until it goes by what is there.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (sites, namespaces): (Api<Site>, Api<Namespace>) =
        (Api::all(client.clone()), Api::all(client.clone()));
    let all = sites.list_metadata(&ListParams::default()).await?;
    let params = PatchParams::default();
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    in_parallel(all.iter().map(|site| {
        let (sites, namespaces, free, params) = (&sites, &namespaces, &free, &params);
        async move {
            let name = site.name_any();
            sites.patch(&name, params, free).await?;
            sites.delete(&name, &DeleteParams::default()).await?;
            namespaces.delete(&name, &DeleteParams::background()).await?;
            Ok(())
        }
    }))
    .await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = namespaces.list_metadata(&ListParams::default().match_any()).await?;
        let left = left.iter().filter(|n| n.name_any().starts_with("site")).count();
        if left == 0 {
            break;
        }
        if Instant::now() > deadline {
            bail!("{left} namespaces are still being deleted");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    sandbox.install().await
}
