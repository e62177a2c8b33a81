//! How long a dry run takes on a large fleet, from the POST of a DeletionRequest until its plan or
//! its refusal is in the status; what the operator's memory does meanwhile; and how large the
//! status is. Each time is set against two plain Table lists of the same run, which is the least
//! that a lookup of ids among all entities can cost.
//!
//! The fleet is objects alone: no room but the one of deletions runs, in a process of its own.
//!
//! `cargo bench --bench dry_run -- --sites 10000 --apps 3`

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reprieve::api::DeletionRequest;
use reprieve::cluster::{Context, shutdown};
use reprieve::deletion;
use reprieve::sandbox::{Options, Program, Sandbox};
use reprieve::store::Store;
use serde_json::{Value, json};

/// Requests in flight at a time while the fleet is made.
const IN_FLIGHT: usize = 64;
/// How long one dry run may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the status is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// The limit of a status, in bytes.
const LARGEST: usize = 256 << 10;

/// Time, memory and size of dry runs on a large fleet.
#[derive(Debug, Parser)]
struct Args {
    /// Number of Sites.
    #[arg(long, default_value_t = 10_000)]
    sites: usize,
    /// Number of Apps of each Site.
    #[arg(long, default_value_t = 3)]
    apps: usize,
    /// Number of ids of the largest requests.
    #[arg(long, default_value_t = 1000)]
    ids: usize,
    /// Number of Sites of the plan under a Development policy; all of its plan must fit a status.
    #[arg(long, default_value_t = 150)]
    development: usize,
    /// Number of Sites of the plan under a Production policy.
    #[arg(long, default_value_t = 100)]
    production: usize,
    /// How often each is measured; the median is told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Runs the room of deletions with this kubeconfig: what the benchmark does in another process.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
    /// Given by `cargo bench`; it means nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = Args::parse();
    match &args.serve {
        Some(kubeconfig) => serve(kubeconfig).await,
        None => bench(&args).await,
    }
}

/// The room of deletions, and no other.
async fn serve(kubeconfig: &std::path::Path) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let (_stop, down) = shutdown();
    // Nothing is purged here, so nothing is noted.
    let folder = tempfile::tempdir()?;
    let store = Store::open(&format!("file://{}", folder.path().display())).await?;
    deletion::run(Context::new(Client::try_from(config)?), store, down).await;
    Ok(())
}

/// That process. It is killed when this is dropped.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Operator {
    fn start(sandbox: &Sandbox) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(sandbox.operator_kubeconfig())
            .stdin(Stdio::null())
            .spawn()?;
        // It watches by then.
        thread::sleep(Duration::from_secs(3));
        Ok(Self(child))
    }

    /// A line of `/proc/<pid>/status` in MiB.
    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib: u64 =
            line.context("no such line")?.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024)
    }
}

async fn bench(args: &Args) -> Result<()> {
    if args.sites < args.ids.max(args.development) + args.production {
        bail!("--sites must be at least --ids and --production together");
    }
    let mut sandbox = Sandbox::start(Options::new(env!("CARGO_BIN_EXE_reprieve"))).await?;
    sandbox.install().await?;
    // Nothing of what they would do for ten thousand namespaces is looked at here.
    for program in [Program::ControllerManager, Program::Scheduler, Program::Kwok] {
        sandbox.process(program).context("the sandbox has it")?.kill()?;
    }
    let operator = sandbox.client_for(&sandbox.operator_kubeconfig()).await?;
    let admin = sandbox.admin();
    policies(&admin).await?;
    let begun = Instant::now();
    fleet(&operator, args).await?;
    println!(
        "{} Sites with a namespace each and {} Apps, made in {:.0} s",
        args.sites,
        args.sites * args.apps,
        begun.elapsed().as_secs_f64()
    );

    let mut lists = vec![];
    let mut bytes = 0;
    for _ in 0..args.rounds {
        let begun = Instant::now();
        bytes = two_lists(&operator).await?;
        lists.push(begun.elapsed());
    }
    let plain = median(lists);
    println!("two plain Table lists: {} ms, {} MiB", plain.as_millis(), bytes >> 20);

    let process = Operator::start(&sandbox)?;
    println!("operator: {} MiB before the first request", process.memory("VmRSS:")?);
    let ids = |from: usize, count: usize| (from..from + count).map(id_of_site).collect::<Vec<_>>();
    let production = ids(args.ids.max(args.development), args.production);
    let cases = [
        ("App", ids(0, args.ids), "Refused", "ids of Sites declared as Apps"),
        ("Site", ids(0, args.ids), "Refused", "Sites in Development, more than a status can hold"),
        ("Site", ids(0, 1), "AwaitingApproval", "Site in Development"),
        ("Site", ids(0, args.development), "AwaitingApproval", "Sites in Development"),
        ("Site", production, "AwaitingApproval", "Sites in Production"),
    ];
    let mut largest = 0;
    for (case, (kind, ids, state, what)) in cases.into_iter().enumerate() {
        let mut times = vec![];
        let mut size = 0;
        let mut message = String::new();
        for round in 0..args.rounds {
            let name = format!("dry-run-{case}-{round}");
            let (took, status) = dry_run(&admin, &name, kind, &ids, state).await?;
            times.push(took);
            size = status.to_string().len();
            message = status["message"].as_str().unwrap_or_default().to_owned();
        }
        largest = largest.max(size);
        let took = median(times);
        println!(
            "{} {what}: {} ms, {:.2} times the lists; status {:.1} KiB; {message}",
            ids.len(),
            took.as_millis(),
            took.as_secs_f64() / plain.as_secs_f64(),
            size as f64 / 1024.0
        );
    }
    let (now, peak) = (process.memory("VmRSS:")?, process.memory("VmHWM:")?);
    println!("operator: {now} MiB after the last one, {peak} MiB at most");
    println!("the largest status: {:.1} KiB of {} KiB", largest as f64 / 1024.0, LARGEST >> 10);
    drop(process);
    sandbox.stop()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn id_of_site(n: usize) -> String {
    format!("site-{n:05}")
}

async fn send(client: &Client, method: &str, path: String, body: &Value) -> Result<Value> {
    let content_type = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = http::Request::builder()
        .method(method)
        .uri(&path)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body.to_string().into_bytes())?;
    client.request(request).await.with_context(|| format!("{method} {path}"))
}

const REPRIEVE: &str = "/apis/reprieve.dev/v1alpha1";

/// A wide policy of each environment.
async fn policies(admin: &Client) -> Result<()> {
    for (name, environment, most) in [("wide", "Development", 1000), ("strict", "Production", 100)]
    {
        let policy = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionPolicy", "metadata": {"name": name},
            "spec": {
                "environment": environment,
                "blastRadius": {"maxEntities": most, "hardMaxEntities": most},
            },
        });
        send(admin, "POST", format!("{REPRIEVE}/deletionpolicies"), &policy).await?;
    }
    Ok(())
}

/// Makes Sites, their namespaces and Apps, as the operator's account: its labels are guarded.
async fn fleet(client: &Client, args: &Args) -> Result<()> {
    let from = args.ids.max(args.development);
    let production = from..from + args.production;
    let done = AtomicUsize::new(0);
    let done = &done;
    stream::iter((0..args.sites).map(|n| {
        let policy = if production.contains(&n) { "strict" } else { "wide" };
        async move {
            site(client, n, policy, args.apps).await?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(1000) {
                eprintln!("{done} Sites made");
            }
            anyhow::Ok(())
        }
    }))
    .buffer_unordered(IN_FLIGHT)
    .try_collect()
    .await
}

async fn site(client: &Client, n: usize, policy: &str, apps: usize) -> Result<()> {
    let name = format!("tenant-{n:05}");
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"reprieve.dev/site": name}},
    });
    let namespace = send(client, "POST", "/api/v1/namespaces".to_owned(), &namespace).await?;
    let site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site",
        "metadata": {"name": name, "finalizers": ["reprieve.dev/retention"]},
        "spec": {
            "id": id_of_site(n),
            "tenant": {"name": format!("Tenant number {n}"), "contacts": ["ops@tenant.example"]},
            "policyRef": {"name": policy},
        },
    });
    send(client, "POST", format!("{REPRIEVE}/sites"), &site).await?;
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "Ready", "observedGeneration": 1,
            "message": "every namespace and App is there and ready", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let status = json!({"status": {
        "state": "Active",
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True")],
        "namespaces": [{"name": name, "uid": namespace["metadata"]["uid"]}],
        "inventory": {"apps": apps, "appsReady": apps, "objects": 25, "bytes": 30_000, "countedTime": "2026-01-01T00:00:00Z"},
    }});
    send(client, "PATCH", format!("{REPRIEVE}/sites/{name}/status"), &status).await?;
    for app in 0..apps {
        let manifests: Vec<Value> = (0..5)
            .map(|object| json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("app-{app}-{object}")},
                "data": {"greeting": "hello", "currency": "EUR", "text": "x".repeat(200)},
            }))
            .collect();
        let app = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "App",
            "metadata": {"name": format!("app-{app}"), "finalizers": ["reprieve.dev/retention"]},
            "spec": {"id": format!("app-{n:05}-{app}"), "product": "shop", "manifests": manifests},
        });
        send(client, "POST", format!("{REPRIEVE}/namespaces/{name}/apps"), &app).await?;
    }
    Ok(())
}

/// The least that a lookup can be: every Site and every App as a Table with its metadata. Answers
/// the bytes that came.
async fn two_lists(client: &Client) -> Result<usize> {
    let list = |plural: &'static str| async move {
        let path = format!("{REPRIEVE}/{plural}?includeObject=Metadata");
        let request = http::Request::get(path)
            .header(http::header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(vec![])?;
        anyhow::Ok(client.request_text(request).await?.len())
    };
    let (sites, apps) = tokio::try_join!(list("sites"), list("apps"))?;
    Ok(sites + apps)
}

/// One dry run; then the request is taken away again.
async fn dry_run(
    client: &Client,
    name: &str,
    kind: &str,
    ids: &[String],
    expected: &str,
) -> Result<(Duration, Value)> {
    let request = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest", "metadata": {"name": name},
        "spec": {"target": {"kind": kind, "ids": ids}, "reason": "a benchmark"},
    });
    let api: Api<DeletionRequest> = Api::all(client.clone());
    let begun = Instant::now();
    send(client, "POST", format!("{REPRIEVE}/deletionrequests"), &request).await?;
    let request = loop {
        let live = api.get(name).await?;
        if live.status.as_ref().is_some_and(|status| status.state.is_some()) {
            break live;
        }
        if begun.elapsed() > PATIENCE {
            bail!("{name}: no dry run within {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    };
    let took = begun.elapsed();
    let status = json!(request.status);
    if status["state"] != expected {
        bail!("{name} is {}: {}", status["state"], status["message"]);
    }
    let size = status.to_string().len();
    if size > LARGEST {
        println!("TOO LARGE: the status of {name} has {size} bytes");
    }
    api.delete(name, &DeleteParams::default()).await?;
    while !api.list(&ListParams::default()).await?.items.is_empty() {
        tokio::time::sleep(LOOK).await;
    }
    Ok((took, status))
}
