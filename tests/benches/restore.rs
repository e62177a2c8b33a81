//! How fast a fleet that is gone comes back, next to a plain loop that creates the same objects on
//! the same cluster under the same admission policies; what a bystander feels meanwhile, and what
//! the operator takes.
//!
//! For each number of sites, in a cluster of its own: a plain loop creates them (measured), the
//! operator takes them in and backs them up, an administrator takes the guard away, deletes
//! everything and puts the guard back, and the operator restores all of it (measured).
//!
//! `cargo bench --bench restore -- --sites 100,400,1600`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use clap::Parser;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use reprieve::api::names::OPERATOR_USER;
use reprieve::api::{ConditionType, Conditions as _, Restore, Site};
use reprieve::sandbox::audit::AuditRecord;
use reprieve::sandbox::{Operator, Options, Sandbox};
use serde_json::{Value, json};

mod common;
use common::{
    IN_FLIGHT, PATIENCE, back_up, in_parallel, lose, make_sites, name, post, ready, until,
};

/// Objects of a site, its namespace not counted.
const OBJECTS: usize = 20;
/// Backups that one Restore can name.
const REFS: usize = 1000;

/// Time, memory and requests of a mass restore.
#[derive(Debug, Parser)]
struct Args {
    /// Numbers of sites, each in a cluster of its own.
    #[arg(long, value_delimiter = ',', default_value = "100,400,1600")]
    sites: Vec<usize>,
    /// `spec.parallelism` of the Restore. Default: the kind's own default.
    #[arg(long)]
    parallelism: Option<i32>,
    /// Given by `cargo bench`; it means nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was measured of one fleet.
struct Measured {
    sites: usize,
    plain: f64,
    written: f64,
    verified: f64,
    p99: Duration,
    peak: u64,
    stored: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = Args::parse();
    let mut all = vec![];
    for sites in &args.sites {
        all.push(measure(*sites, &args).await.with_context(|| format!("{sites} sites"))?);
    }
    println!(
        "\n{:>6} {:>9} {:>12} {:>13} {:>9} {:>10} {:>14} {:>10} {:>11}",
        "sites",
        "objects",
        "plain loop",
        "until written",
        "ratio",
        "verified",
        "ratio",
        "p99",
        "peak memory"
    );
    for m in &all {
        let objects = (m.sites * OBJECTS) as f64;
        println!(
            "{:>6} {:>9} {:>8.0} o/s {:>9.0} o/s {:>9.2} {:>6.0} o/s {:>14.2} {:>7} ms {:>7} MiB; store {} KiB",
            m.sites,
            objects,
            objects / m.plain,
            objects / m.written,
            m.plain / m.written,
            objects / m.verified,
            m.plain / m.verified,
            m.p99.as_millis(),
            m.peak,
            m.stored / 1024,
        );
    }
    println!(
        "aims: ratio until written 0.85, until verified 0.70, a bystander's p99 below 1000 ms, memory below 128 MiB"
    );
    Ok(())
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

async fn measure(sites: usize, args: &Args) -> Result<Measured> {
    println!("\n{sites} sites of {OBJECTS} objects; load of the machine {}", load());
    let sandbox = Sandbox::start(Options::new(env!("CARGO_BIN_EXE_reprieve"))).await?;
    sandbox.install().await?;
    let client = sandbox.admin();

    // On the emptier cluster: the comparison is not in the operator's favour.
    let begun = Instant::now();
    plain_loop(&client, sites).await?;
    let plain = begun.elapsed().as_secs_f64();
    println!("plain loop, {IN_FLIGHT} in flight: {plain:.1} s");

    let operator = sandbox.start_operator(&[]).await?;
    let begun = Instant::now();
    until(&client, |site: &Site| ready(site.status.as_ref().map(|s| &s.conditions)), sites).await?;
    println!("taken in by the operator: {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    back_up(&client, sites).await?;
    let stored = size(&sandbox.store_dir())?;
    println!(
        "backed up and verified: {:.1} s, {} KiB",
        begun.elapsed().as_secs_f64(),
        stored / 1024
    );
    drop(operator);

    let begun = Instant::now();
    lose(&sandbox, &client).await?;
    println!("deleted past the guard: {:.1} s", begun.elapsed().as_secs_f64());

    let operator = sandbox.start_operator(&[]).await?;
    // What a start does is not the restore's.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let started = operator.process().peak_memory() >> 20;
    let mut audit = sandbox.audit_from_now()?;
    let (bystander, stop) = bystander(&sandbox).await?;
    let begun = Utc::now();
    println!("restore: load of the machine {}", load());
    restore(&client, sites, args.parallelism).await?;
    let peak = operator.process().peak_memory() >> 20;
    stop.store(true, Ordering::SeqCst);
    let mut felt = bystander.await??;
    felt.sort();
    let p99 = felt.get(felt.len() * 99 / 100).copied().unwrap_or_default();
    let records = audit.read()?;
    let (written, verified) = times(&records, begun)?;
    println!("restore: {written:.1} s until written, {verified:.1} s until verified");
    println!("operator: peak memory {peak} MiB ({started} MiB at start)");
    let p50 = felt.get(felt.len() / 2).copied().unwrap_or_default();
    println!("bystander: {} requests, p50 {p50:.1?}, p99 {p99:.1?}", felt.len());
    requests(&records);
    print_metrics(&operator);
    drop(operator);
    sandbox.stop()?;
    Ok(Measured { sites, plain, written, verified, p99, peak, stored })
}

/// The objects of a site: accounts, roles, configs, secrets, services, deployments without replicas
/// and a claim. Two of them the operator would make itself: the account of Apps and its binding.
fn objects(site: usize) -> Vec<(String, Value)> {
    let namespace = name(site);
    let mut all = vec![];
    let mut add = |path: &str, api_version: &str, kind: &str, name: &str, rest: Value| {
        let mut object = rest;
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({ "name": name, "labels": { "app": "shop" } });
        let root = if api_version == "v1" { "api" } else { "apis" };
        all.push((format!("/{root}/{api_version}/namespaces/{namespace}/{path}"), object));
    };
    let rbac = "rbac.authorization.k8s.io/v1";
    let subject = |account: &str| json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }]);
    let role = |kind: &str, name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
    for account in ["reprieve-app", "shop"] {
        add("serviceaccounts", "v1", "ServiceAccount", account, json!({}));
    }
    add(
        "roles",
        rbac,
        "Role",
        "shop",
        json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]}),
    );
    add(
        "rolebindings",
        rbac,
        "RoleBinding",
        "reprieve-app",
        json!({"roleRef": role("ClusterRole", "reprieve-app"), "subjects": subject("reprieve-app")}),
    );
    add(
        "rolebindings",
        rbac,
        "RoleBinding",
        "shop",
        json!({"roleRef": role("Role", "shop"), "subjects": subject("shop")}),
    );
    let text: String = "configuration of a shop ".repeat(40);
    for n in 0..4 {
        add(
            "configmaps",
            "v1",
            "ConfigMap",
            &format!("config-{n}"),
            json!({"data": {"site": namespace, "text": text}}),
        );
        add(
            "secrets",
            "v1",
            "Secret",
            &format!("secret-{n}"),
            json!({"type": "Opaque", "data": {"password": "bm90LWEtcmVhbC1vbmU="}}),
        );
    }
    for n in 0..3 {
        let labels = json!({ "app": format!("web-{n}") });
        add(
            "services",
            "v1",
            "Service",
            &format!("web-{n}"),
            json!({"spec": {"selector": labels, "ports": [{"name": "http", "port": 80}]}}),
        );
        let container = json!({"name": "main", "image": "example.invalid/shop:1", "env": [{"name": "SITE", "value": namespace}], "ports": [{"containerPort": 8080}]});
        add(
            "deployments",
            "apps/v1",
            "Deployment",
            &format!("web-{n}"),
            json!({"spec": {
                "replicas": 0, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"serviceAccountName": "shop", "containers": [container]}},
            }}),
        );
    }
    add(
        "persistentvolumeclaims",
        "v1",
        "PersistentVolumeClaim",
        "data",
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}),
    );
    assert_eq!(all.len(), OBJECTS);
    all
}

/// Sites and namespaces first, then all that is in them.
async fn plain_loop(client: &Client, sites: usize) -> Result<()> {
    make_sites(client, sites).await?;
    let all = (0..sites).flat_map(objects);
    in_parallel(all.map(|(path, object)| post(client, path, object))).await
}

type Bystander = tokio::task::JoinHandle<Result<Vec<Duration>>>;

/// A tenant's service account that creates, reads and lists in its own namespace, about 20 times a
/// second, and notes how long each takes.
async fn bystander(sandbox: &Sandbox) -> Result<(Bystander, Arc<AtomicBool>)> {
    let admin = sandbox.admin();
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bystander"}});
    post(&admin, "/api/v1/namespaces".to_owned(), namespace).await?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant"}});
    post(&admin, "/api/v1/namespaces/bystander/serviceaccounts".to_owned(), account).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": "bystander"}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/bystander/rolebindings";
    post(&admin, path.to_owned(), binding).await?;
    let kubeconfig = sandbox.service_account_kubeconfig("bystander", "tenant").await?;
    let client = sandbox.client_for(&kubeconfig).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let path = "/api/v1/namespaces/bystander/configmaps";
        let mut felt = vec![];
        let mut n = 0;
        while !stopped.load(Ordering::SeqCst) {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("map-{n}")}, "data": {"a": "b"}});
            let begun = Instant::now();
            post(&client, path.to_owned(), map).await?;
            felt.push(begun.elapsed());
            let begun = Instant::now();
            let get = http::Request::get(format!("{path}/map-{n}")).body(vec![])?;
            client.request::<Value>(get).await?;
            felt.push(begun.elapsed());
            n += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(felt)
    });
    Ok((task, stop))
}

async fn restore(client: &Client, sites: usize, parallelism: Option<i32>) -> Result<()> {
    let all: Vec<usize> = (0..sites).collect();
    let api: Api<Restore> = Api::all(client.clone());
    let parts = all.chunks(REFS);
    let number = parts.len();
    for (part, sites) in parts.enumerate() {
        let refs: Vec<Value> = sites.iter().map(|site| json!({ "name": name(*site) })).collect();
        let mut spec = json!({ "source": { "backupRefs": refs } });
        if let Some(parallelism) = parallelism {
            spec["parallelism"] = json!(parallelism);
        }
        let restore = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore",
            "metadata": {"name": format!("all-{part}")}, "spec": spec,
        });
        api.create(&PostParams::default(), &serde_json::from_value(restore)?).await?;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut told = Instant::now();
    loop {
        let all = api.list(&ListParams::default()).await?;
        let statuses: Vec<_> = all.into_iter().filter_map(|restore| restore.status).collect();
        let failed = statuses.iter().find(|s| s.sites.as_ref().is_some_and(|s| s.failed > 0));
        if let Some(failure) = failed.and_then(|s| s.failures.first()) {
            bail!("a site was not restored: {failure:?}");
        }
        if statuses.iter().filter(|s| s.conditions.is_true(ConditionType::Succeeded)).count()
            == number
        {
            return Ok(());
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            for status in &statuses {
                println!("  {:?} {:?}; load {}", status.sites, status.objects, load());
            }
        }
        if Instant::now() > deadline {
            bail!("not restored: {statuses:?}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Seconds from the begin until the operator had created the last object, and until it had released
/// the last Site.
fn times(records: &[AuditRecord], begun: DateTime<Utc>) -> Result<(f64, f64)> {
    let seconds = |time: DateTime<Utc>| (time - begun).num_milliseconds() as f64 / 1000.0;
    let ours = || records.iter().filter(|r| r.user.name == OPERATOR_USER && r.is_carried_out());
    let written = ours().filter(|r| r.verb == "create" && r.resource != "events").map(|r| r.time);
    let released = ours().filter(|r| r.verb == "patch" && r.resource == "sites");
    let released = released.filter(|r| r.subresource.is_empty()).map(|r| r.time);
    let written = written.max().context("nothing was created")?;
    let released = released.max().context("nothing was released")?;
    Ok((seconds(written), seconds(released)))
}

/// The operator's requests, by verb and resource.
fn requests(records: &[AuditRecord]) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for r in records.iter().filter(|r| r.user.name == OPERATOR_USER) {
        if r.stage == "ResponseComplete" && r.verb != "watch" {
            let sub = if r.subresource.is_empty() { "" } else { "/status" };
            *counts.entry(format!("{} {}{sub}", r.verb, r.resource)).or_default() += 1;
        }
    }
    println!("operator: {} requests", counts.values().sum::<usize>());
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    for (what, n) in rows.into_iter().take(30) {
        println!("    {n:6} {what}");
    }
}

/// What the operator says of its limit on requests.
fn print_metrics(operator: &Operator) {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(operator.listen()) else { return };
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    for line in text.lines().filter(|line| line.starts_with("reprieve_restore")) {
        println!("    {line}");
    }
}

/// Bytes of everything in a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { size(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}
