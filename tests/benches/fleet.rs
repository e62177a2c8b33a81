//! How fast a fleet comes up, next to a plain loop that creates the same objects on the same
//! cluster; and what the operator costs meanwhile, and when nothing happens.
//!
//! `cargo bench --bench fleet -- --sites 400 --apps 3 --objects 5 --idle 120`

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use reprieve::api::names::{OPERATOR_USER, SERVICE_ACCOUNT_PREFIX};
use reprieve::api::{App, ConditionType, Conditions as _, Site};
use reprieve::sandbox::{Options, Sandbox};
use serde_json::{Value, json};

/// Requests in flight at a time, in the loop and of whoever creates the fleet.
const IN_FLIGHT: usize = 64;
/// How long the fleet may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// Time, memory and requests of a fleet that comes up.
#[derive(Debug, Parser)]
struct Args {
    /// Number of Sites.
    #[arg(long, default_value_t = 400)]
    sites: usize,
    /// Number of Apps of each Site.
    #[arg(long, default_value_t = 3)]
    apps: usize,
    /// Number of objects of each App: in turn ConfigMap, Secret, ServiceAccount, Service,
    /// Deployment.
    #[arg(long, default_value_t = 5)]
    objects: usize,
    /// Seconds for which the operator is watched when all is done.
    #[arg(long, default_value_t = 120)]
    idle: u64,
    /// Given by `cargo bench`; it means nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = Args::parse();
    let sandbox = Sandbox::start(Options::new(env!("CARGO_BIN_EXE_reprieve"))).await?;
    sandbox.install().await?;
    let client = sandbox.admin();
    let (sites, apps, objects) =
        (args.sites, args.sites * args.apps, args.sites * args.apps * args.objects);
    println!(
        "{sites} Sites with {} Apps of {} objects each: {apps} Apps, {objects} objects",
        args.apps, args.objects
    );

    // The loop comes first, on an emptier cluster: the comparison is not in the operator's favour.
    let begun = Instant::now();
    plain_loop(&client, &args).await?;
    let plain = begun.elapsed();
    println!(
        "plain loop, {IN_FLIGHT} in flight: {:.1} s to create the same namespaces, accounts, bindings and objects",
        plain.as_secs_f64()
    );
    deployments_ready(&client, &args).await?;
    println!("plain loop, its Deployments available: {:.1} s", begun.elapsed().as_secs_f64());

    let operator = sandbox.start_operator(&[]).await?;
    let mut log = Log::at_end(&sandbox)?;
    let started = operator.process().memory() >> 20;
    let begun = Instant::now();
    let first = fleet(&client, &args).await?;
    println!("operator: {:.1} s until the first Site was Ready", first.as_secs_f64());
    let all = all_ready(&client, &args).await?;
    let took = begun.elapsed();
    println!(
        "operator: {:.1} s from the first POST until {all} are Ready: {:.2} times the plain loop",
        took.as_secs_f64(),
        took.as_secs_f64() / plain.as_secs_f64()
    );
    let requests = log.requests()?;
    requests.print("while the fleet came up", took);
    let peak = operator.process().peak_memory() >> 20;
    println!("operator: peak memory {peak} MiB ({started} MiB at start)");

    // What follows the last change (counts, last events) is not idleness.
    tokio::time::sleep(Duration::from_secs(30)).await;
    log.requests()?.print("in the 30 s after", Duration::from_secs(30));
    tokio::time::sleep(Duration::from_secs(args.idle)).await;
    log.requests()?.print("when idle", Duration::from_secs(args.idle));
    let (now, peak) = (operator.process().memory() >> 20, operator.process().peak_memory() >> 20);
    println!("operator: memory {now} MiB, peak {peak} MiB");
    drop(operator);
    sandbox.stop()
}

/// The n-th object of an App.
fn object(app: usize, n: usize) -> Value {
    let name = format!("app{app}-{n}");
    let metadata = json!({ "name": name });
    match n % 5 {
        0 => {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"greeting": "hello", "currency": "EUR"}})
        }
        1 => {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": "not-a-real-one"}})
        }
        2 => json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        3 => {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}})
        }
        _ => json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "example.invalid/x:1"}]},
                },
            },
        }),
    }
}

async fn post(client: &Client, path: String, object: Value) -> Result<()> {
    let request = http::Request::post(&path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())?;
    client.request::<Value>(request).await.with_context(|| format!("POST {path}")).map(drop)
}

fn path_of(object: &Value, namespace: &str) -> String {
    let plural = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
    match object["apiVersion"].as_str().unwrap_or_default() {
        "v1" => format!("/api/v1/namespaces/{namespace}/{plural}"),
        version => format!("/apis/{version}/namespaces/{namespace}/{plural}"),
    }
}

async fn in_parallel(all: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    stream::iter(all).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// What the operator makes for a fleet, made by hand: namespaces, then all that is in them.
async fn plain_loop(client: &Client, args: &Args) -> Result<()> {
    let name = |site: usize| format!("plain{site}");
    let namespaces = (0..args.sites).map(|site| {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name(site)}});
        post(client, "/api/v1/namespaces".to_owned(), namespace)
    });
    in_parallel(namespaces).await?;
    let mut all = vec![];
    for site in 0..args.sites {
        let namespace = name(site);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reprieve-app"}});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reprieve-app"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reprieve-app"},
            "subjects": [{"kind": "ServiceAccount", "name": "reprieve-app", "namespace": namespace}],
        });
        let objects = (0..args.apps).flat_map(|app| (0..args.objects).map(move |n| object(app, n)));
        for object in [account, binding].into_iter().chain(objects) {
            all.push((path_of(&object, &namespace), object));
        }
    }
    in_parallel(all.into_iter().map(|(path, object)| post(client, path, object))).await
}

/// Waits until every Deployment of the loop is available, so that the controllers' work for them
/// is not counted as the operator's.
async fn deployments_ready(client: &Client, args: &Args) -> Result<()> {
    let wanted = args.sites * args.apps * (0..args.objects).filter(|n| n % 5 == 4).count();
    let api: Api<k8s_openapi::api::apps::v1::Deployment> = Api::all(client.clone());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = api.list(&ListParams::default().match_any()).await?;
        let available = |d: &&k8s_openapi::api::apps::v1::Deployment| {
            d.status.as_ref().is_some_and(|s| s.available_replicas == Some(1))
        };
        if all.iter().filter(available).count() >= wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the Deployments of the plain loop are not available");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Creates Sites, and the Apps of each as soon as its namespace is there; tells how long it took
/// until the first Site was Ready.
async fn fleet(client: &Client, args: &Args) -> Result<Duration> {
    let begun = Instant::now();
    let first = std::sync::Mutex::new(None);
    let sites: Api<Site> = Api::all(client.clone());
    let params = PostParams::default();
    in_parallel((0..args.sites).map(|site| {
        let site = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": format!("site{site}")},
            "spec": {"id": format!("site-{site}"), "tenant": {"name": format!("Tenant {site}")}},
        });
        let (sites, params) = (&sites, &params);
        async move {
            let site: Site = serde_json::from_value(site)?;
            sites.create(params, &site).await.map(drop).map_err(Into::into)
        }
    }))
    .await?;
    // An App needs its namespace; who has one is asked in one list, as a pipeline would.
    let mut left: Vec<usize> = (0..args.sites).collect();
    while !left.is_empty() {
        let live = sites.list(&ListParams::default().match_any()).await?;
        let has: std::collections::BTreeSet<String> = live
            .iter()
            .filter(|s| {
                s.status.as_ref().is_some_and(|s| s.conditions.is_true(ConditionType::Ready))
            })
            .filter_map(|s| s.metadata.name.clone())
            .collect();
        let (now, later): (Vec<usize>, Vec<usize>) =
            left.into_iter().partition(|site| has.contains(&format!("site{site}")));
        left = later;
        if now.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if begun.elapsed() > PATIENCE {
                bail!("{} Sites are not Ready", left.len());
            }
            continue;
        }
        first.lock().expect("a lock").get_or_insert_with(|| begun.elapsed());
        let all = now.iter().flat_map(|site| (0..args.apps).map(move |app| (*site, app)));
        in_parallel(all.map(|(site, app)| {
            let namespace = format!("site{site}");
            let manifests: Vec<Value> = (0..args.objects).map(|n| object(app, n)).collect();
            let app = json!({
                "apiVersion": "reprieve.dev/v1alpha1", "kind": "App", "metadata": {"name": format!("app{app}")},
                "spec": {"id": format!("app-{site}-{app}"), "product": "shop", "manifests": manifests},
            });
            post(client, path_of(&app, &namespace), app)
        }))
        .await?;
    }
    let first = first.lock().expect("a lock").unwrap_or_default();
    Ok(first)
}

/// Waits until all are Ready.
async fn all_ready(client: &Client, args: &Args) -> Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let params = ListParams::default().match_any();
    loop {
        let apps = Api::<App>::all(client.clone()).list(&params).await?;
        let ready = |s: Option<&Vec<reprieve::api::Condition>>| {
            s.is_some_and(|c| c.is_true(ConditionType::Ready))
        };
        let apps_ready =
            apps.iter().filter(|a| ready(a.status.as_ref().map(|s| &s.conditions))).count();
        if apps_ready == args.sites * args.apps {
            let sites = Api::<Site>::all(client.clone()).list(&params).await?;
            let sites_ready =
                sites.iter().filter(|s| ready(s.status.as_ref().map(|s| &s.conditions))).count();
            if sites_ready == args.sites {
                return Ok(apps_ready + sites_ready);
            }
        }
        if Instant::now() > deadline {
            let why = apps.iter().find_map(|app| {
                let ready = app.status.as_ref()?.conditions.get(ConditionType::Ready)?;
                (ready.reason != "Ready").then(|| ready.message.clone())
            });
            bail!("{apps_ready} of {} Apps are Ready; one says: {why:?}", args.sites * args.apps);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Requests in the audit log, as far as it was not read yet.
struct Log {
    path: std::path::PathBuf,
    offset: u64,
}

/// Requests of the operator, by verb and resource.
struct Requests(BTreeMap<String, usize>);

impl Log {
    fn at_end(sandbox: &Sandbox) -> Result<Self> {
        let path = sandbox.audit_log();
        let offset = fs::metadata(&path)?.len();
        Ok(Self { path, offset })
    }

    fn requests(&mut self) -> Result<Requests> {
        let mut file = fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut counts = BTreeMap::new();
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.read_line(&mut line)?;
            if read == 0 || !line.ends_with('\n') {
                break;
            }
            self.offset += read as u64;
            let entry: Value = serde_json::from_str(&line).context("the audit log")?;
            let by = entry["user"]["username"].as_str().unwrap_or_default();
            // A watch is in the log when it begins, and when it ends.
            let begun = entry["stage"] == "ResponseStarted"
                || (entry["stage"] == "ResponseComplete" && entry["verb"] != "watch");
            let apps = entry["impersonatedUser"]["username"]
                .as_str()
                .is_some_and(|user| user.starts_with(SERVICE_ACCOUNT_PREFIX));
            if by == OPERATOR_USER && begun {
                let resource = entry["objectRef"]["resource"].as_str().unwrap_or("-");
                let sub = entry["objectRef"]["subresource"].as_str();
                let sub = sub.map_or(String::new(), |s| format!("/{s}"));
                let account = if apps { " as the App's account" } else { "" };
                let key =
                    format!("{} {resource}{sub}{account}", entry["verb"].as_str().unwrap_or("-"));
                *counts.entry(key).or_default() += 1;
            }
        }
        Ok(Requests(counts))
    }
}

impl Requests {
    fn print(&self, when: &str, time: Duration) {
        let all: usize = self.0.values().sum();
        let minutes = time.as_secs_f64() / 60.0;
        println!("operator: {all} requests {when}: {:.0} a minute", all as f64 / minutes);
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        for (what, n) in rows.into_iter().take(14) {
            println!("    {n:6} {what}");
        }
    }
}
