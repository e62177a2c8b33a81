//! What the operator needs in a cluster, applied in the order in which it must come.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::Sandbox;
use super::kubeconfig::Credential;
use crate::api::DeletionRequest;
use crate::api::names::{OPERATOR_ACCOUNT, OPERATOR_NAMESPACE, OPERATOR_USER};
use crate::cli::generate::{ADMISSION, Generated, generated_files};

/// The sandbox's default policy.
const POLICY: &str = include_str!("../../deploy/sandbox/policy.yaml");
/// Who applies: the administrator, as whoever installs would.
const MANAGER: &str = "reprieve-sandbox";
/// How long a thing that was applied may take to be in force.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ten years, in seconds.
const TEN_YEARS: i64 = 315_360_000;

pub(super) async fn install(sandbox: &Sandbox) -> Result<()> {
    let files = generated_files();
    let mut applier = Applier { client: sandbox.admin(), kinds: HashMap::new() };

    let step = sandbox.progress.step("installing CRDs, RBAC and the guard");
    let crds = crate::api::crds();
    for crd in &crds {
        applier.apply(serde_json::to_value(crd)?).await?;
    }
    let api: Api<CustomResourceDefinition> = Api::all(sandbox.admin());
    for crd in &crds {
        let name = crd.name_any();
        let established = await_condition(api.clone(), &name, is_crd_established());
        tokio::time::timeout(PATIENCE, established)
            .await
            .with_context(|| format!("{name} is not established"))??;
    }

    // The namespace and the account come with the rights.
    apply_files(&mut applier, &files, "deploy/rbac").await?;
    apply_files(&mut applier, &files, "deploy/flow").await?;

    // As a kubelet with every right: the guard, which may be in force by now, lets nobody else.
    let kubeconfig = sandbox.layout.operator();
    if !kubeconfig.is_file() {
        let kubelet = sandbox.user("system:node:sandbox", &["system:nodes", "system:masters"])?;
        let kubelet = sandbox.client_for(&kubelet).await?;
        let token = token(&kubelet, OPERATOR_NAMESPACE, OPERATOR_ACCOUNT).await?;
        sandbox.endpoint.write(&kubeconfig, OPERATOR_USER, &Credential::Token(&token))?;
    }

    if apply_files(&mut applier, &files, ADMISSION).await? > 0 {
        wait_for_guard(&api, &crds[0].name_any()).await?;
        wait_for_requests(&sandbox.admin()).await?;
    }
    apply_files(&mut applier, &files, "deploy/drills").await?;
    for object in documents(POLICY)? {
        applier.apply(object).await.context("cannot apply the default policy")?;
    }
    step.done("CRDs, RBAC, the guard and the default policy are in force");
    Ok(())
}

/// A token of a service account, good for ten years.
pub(super) async fn token(client: &Client, namespace: &str, name: &str) -> Result<String> {
    let spec = TokenRequestSpec { expiration_seconds: Some(TEN_YEARS), ..Default::default() };
    let request = TokenRequest { spec: Some(spec), ..Default::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("no token for the service account {namespace}/{name}"))?;
    let token = answer.status.and_then(|status| status.token);
    token.context("the API server answered without a token")
}

/// Applies the generated files in a folder, not in those below it, in the order of their list;
/// gives the number of objects.
async fn apply_files(applier: &mut Applier, files: &[Generated], folder: &str) -> Result<usize> {
    let mut count = 0;
    let here = |file: &&Generated| file.path.parent() == Some(Path::new(folder));
    for Generated { path, content } in files.iter().filter(here) {
        for object in documents(content).with_context(|| path.display().to_string())? {
            applier.apply(object).await.with_context(|| path.display().to_string())?;
            count += 1;
        }
    }
    Ok(count)
}

/// The objects of a YAML file.
pub(super) fn documents(yaml: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("not YAML")?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}

/// Waits until the API server, which loads admission policies within a second or so, refuses what
/// the guard always refuses: the deletion of one of our CRDs.
async fn wait_for_guard(crds: &Api<CustomResourceDefinition>, crd: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let probe = DeleteParams { dry_run: true, ..Default::default() };
    loop {
        match crds.delete(crd, &probe).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => break,
            Err(error) => return Err(error).context("the guard cannot be probed"),
            Ok(_) if Instant::now() > deadline => {
                bail!("the guard is not in force: the deletion of {crd} would be let through")
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    // Policies are loaded all at once, once a second: those applied after the one that was probed
    // may come with the next load.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    Ok(())
}

/// Waits until a DeletionRequest can be created: a mutating policy needs the kind's schema, which
/// the API server publishes some seconds after the CRD is established.
async fn wait_for_requests(client: &Client) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let requests: Api<DeletionRequest> = Api::all(client.clone());
    let probe: DeletionRequest = serde_json::from_value(json!({
        "metadata": { "name": "sandbox-probe" },
        "spec": { "target": { "kind": "Site", "ids": ["sandbox-probe"] }, "reason": "a dry run" },
    }))?;
    let dry = PostParams { dry_run: true, ..Default::default() };
    loop {
        match requests.create(&dry, &probe).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("no DeletionRequest can be created");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Server-side apply for any kind, each looked up once.
struct Applier {
    client: Client,
    kinds: HashMap<GroupVersionKind, (ApiResource, Scope)>,
}

impl Applier {
    async fn apply(&mut self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object).context("not an object")?;
        let TypeMeta { api_version, kind } = object.types.clone().context("no kind")?;
        let name = object.meta().name.clone().context("no name")?;
        let what = format!("cannot apply {kind} {name}");
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let gvk = GroupVersionKind::gvk(group, version, &kind);

        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_apply(&gvk, &name, &object).await {
                Ok(()) => return Ok(()),
                // A kind is established a moment before it is served.
                Err(error) if is_not_served(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error).context(what),
            }
        }
    }

    async fn try_apply(
        &mut self,
        gvk: &GroupVersionKind,
        name: &str,
        object: &DynamicObject,
    ) -> kube::Result<()> {
        let (resource, scope) = match self.kinds.get(gvk) {
            Some(known) => known.clone(),
            None => {
                let (resource, capabilities) = pinned_kind(&self.client, gvk).await?;
                let known = (resource, capabilities.scope);
                self.kinds.insert(gvk.clone(), known.clone());
                known
            }
        };
        let api: Api<DynamicObject> = match (scope, object.namespace()) {
            (Scope::Namespaced, namespace) => {
                let namespace = namespace.as_deref().unwrap_or("default");
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), &resource),
        };
        let params = PatchParams::apply(MANAGER).force();
        api.patch(name, &params, &Patch::Apply(object)).await.map(drop)
    }
}

fn is_not_served(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}
