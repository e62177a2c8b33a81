//! The start of a bare cluster.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

use super::binaries::{self, Binaries, Program};
use super::certs::Authority;
use super::components::{self, KWOK_USER, Layout, Ports};
use super::kubeconfig::{self, Endpoint};
use super::process::Process;
use super::watchdog::{self, Watchdog};
use super::{Options, Sandbox, manifests};

/// How often a start is tried when another program took a port meanwhile.
const ATTEMPTS: u32 = 5;
/// How long a component may take. Seconds on an idle machine; a busy one gets its time.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

pub(super) async fn start(options: Options) -> Result<Sandbox> {
    tls();
    let Options { dir, reprieve, nodes, name, static_manifests, progress } = options;
    let binaries = tokio::task::spawn_blocking(move || binaries::locate(progress))
        .await
        .context("the search for the control plane panicked")??;

    let layout = Layout { root: create_folder(dir)? };
    // First of all, so that whatever happens from here on leaves nothing.
    watchdog::mark(&layout.root)?;
    let watchdog = match Watchdog::start(&reprieve, &layout.root) {
        Ok(watchdog) => watchdog,
        Err(error) => {
            let _ = watchdog::end(&layout.root);
            return Err(error);
        }
    };

    layout.create()?;
    let authority = components::write_pki(&layout)?;
    if let Some(folder) = static_manifests {
        manifests::write(&layout, &folder)?;
    }

    let step = progress.step("starting etcd and kube-apiserver");
    let (processes, endpoint, admin) =
        start_api_server(&binaries, &layout, &authority, &name).await?;
    let mut sandbox = Sandbox {
        layout,
        binaries,
        reprieve,
        progress,
        authority,
        endpoint,
        admin,
        nodes,
        processes,
        watchdog: Some(watchdog),
    };
    step.done("kube-apiserver is ready");

    let step = progress.step("starting controllers, scheduler and nodes");
    start_rest(&mut sandbox, nodes).await?;
    step.done(&format!("{nodes} nodes are ready"));
    Ok(sandbox)
}

/// A test has no `main` that does this; see Cargo.toml on TLS providers.
pub(super) fn tls() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The folder, new or empty, absolute, and closed to others: it holds keys.
fn create_folder(dir: Option<PathBuf>) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = dir.unwrap_or_else(|| {
        let (process, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        std::env::temp_dir().join(format!("reprieve-sandbox-{process}-{n}"))
    });
    let context = || format!("cannot use {} for a sandbox", dir.display());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).with_context(context)?;
    }
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_dir(&dir).with_context(context)?.next().is_some() {
                bail!("{} is not empty: a sandbox needs a folder of its own", dir.display());
            }
        }
        created => created.with_context(context)?,
    }
    dir.canonicalize().with_context(context)
}

type Started = (Vec<(Program, Process)>, Endpoint, kube::Client);

/// etcd and the API server, on ports that nobody took in between.
async fn start_api_server(
    binaries: &Binaries,
    layout: &Layout,
    authority: &Authority,
    name: &str,
) -> Result<Started> {
    for attempt in 1.. {
        let ports = Ports::free().context("no free ports on loopback")?;
        let endpoint = Endpoint {
            server: format!("https://127.0.0.1:{}", ports.api_server),
            authority: authority.certificate().to_owned(),
            cluster: name.to_owned(),
        };
        components::write_kubeconfigs(layout, authority, &endpoint)?;
        let mut processes = Vec::new();
        // The API server waits for etcd by itself.
        for program in [Program::Etcd, Program::ApiServer] {
            let spec = components::spec(program, binaries, layout, ports);
            processes.push((program, spec.start(&layout.root)?));
        }
        let admin = kubeconfig::client(&layout.admin()).await?;
        match wait_until("kube-apiserver", &mut processes, || is_ready(&admin)).await {
            Ok(()) => return Ok((processes, endpoint, admin)),
            Err(error) if attempt < ATTEMPTS && port_was_taken(&processes) => {
                tracing::debug!(%error, "a port was taken; once more with others");
                drop(processes);
                let _ = fs::remove_dir_all(layout.root.join("etcd"));
                let _ = fs::remove_dir_all(layout.logs());
                layout.create()?;
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the last attempt returns")
}

pub(super) fn port_was_taken(processes: &[(Program, Process)]) -> bool {
    processes.iter().any(|(_, p)| p.log_tail(50).contains("address already in use"))
}

pub(super) async fn is_ready(client: &kube::Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new()).expect("a plain request");
    let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await;
    matches!(answer, Ok(Ok(_)))
}

/// The components that need an API server, and the nodes.
async fn start_rest(sandbox: &mut Sandbox, nodes: usize) -> Result<()> {
    let admin = sandbox.admin();
    bind_kwok(&admin).await?;
    // The ports are the API server's alone, which the kubeconfigs know by now.
    let ports = Ports { etcd: 0, etcd_peer: 0, api_server: 0 };
    for program in [Program::ControllerManager, Program::Scheduler, Program::Kwok] {
        let spec = components::spec(program, &sandbox.binaries, &sandbox.layout, ports);
        sandbox.processes.push((program, spec.start(&sandbox.layout.root)?));
    }
    for i in 0..nodes {
        let node = node(i)?;
        Api::<Node>::all(admin.clone())
            .create(&PostParams::default(), &node)
            .await
            .context("cannot create a node")?;
    }
    let all = &mut sandbox.processes;
    wait_until("the nodes", all, || nodes_are_ready(&admin, nodes)).await?;
    // kube-controller-manager makes it; until then the API server takes no pods.
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    wait_until("the service account default", all, || async {
        matches!(accounts.get_opt("default").await, Ok(Some(_)))
    })
    .await
}

/// kwok acts as kubelets, drains and more; a sandbox need not weigh its rights.
async fn bind_kwok(admin: &kube::Client) -> Result<()> {
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": { "name": "reprieve-sandbox-kwok" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": KWOK_USER,
        }],
    }))?;
    Api::<ClusterRoleBinding>::all(admin.clone())
        .create(&PostParams::default(), &binding)
        .await
        .context("cannot give kwok its rights")?;
    Ok(())
}

fn node(i: usize) -> Result<Node> {
    let name = format!("node-{i}");
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "annotations": { "kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0" },
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "type": "kwok",
            },
        },
    }))?)
}

pub(super) async fn nodes_are_ready(admin: &kube::Client, nodes: usize) -> bool {
    let Ok(list) = Api::<Node>::all(admin.clone()).list(&ListParams::default()).await else {
        return false;
    };
    let ready = |node: &&Node| {
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or(&[]);
        // The taint goes only after the condition comes; until then nothing is scheduled.
        let tainted = node.spec.as_ref().is_some_and(|spec| spec.taints.is_some());
        !tainted && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    list.items.iter().filter(ready).count() >= nodes
}

/// Waits until `ready` says so; an ended process ends the wait.
pub(super) async fn wait_until<F: Future<Output = bool>>(
    what: &str,
    processes: &mut [(Program, Process)],
    ready: impl Fn() -> F,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if ready().await {
            return Ok(());
        }
        for (_, process) in processes.iter_mut() {
            if !process.is_running() {
                bail!("{} ended. The end of {}", process.name(), process.log_tail(15));
            }
        }
        if Instant::now() > deadline {
            let logs: String = processes.iter().map(|(_, process)| process.log_tail(5)).collect();
            bail!("{what} not ready after {} s. The ends of the logs:\n{logs}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
