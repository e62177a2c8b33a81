//! How good the estimates of restores are: the same fleet, of sites of very different sizes, is lost
//! and restored again and again, and what each Restore said when 10, 50 and 90 % of its objects were
//! back is held against its end.
//!
//! The first runs only teach. `cargo bench --bench estimates -- --sites 120 --rounds 16`

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use clap::Parser;
use kube::Client;
use kube::api::{Api, PostParams};
use reprieve::api::{ConditionType, Conditions as _, Restore, RestoreStatus, Site};
use reprieve::sandbox::{Options, Sandbox};
use serde_json::{Value, json};

mod common;
use common::{PATIENCE, back_up, in_parallel, lose, make_sites, name, post, ready, until};

/// When so much of the objects is back, in percent, it is asked.
const ASKED: [i64; 3] = [10, 50, 90];

/// When less is left, in seconds, it is not counted: 5 s are told at least while anything runs, and
/// the times in a status are whole seconds.
const WORTH_COUNTING: f64 = 6.0;

/// How good the estimates of restores are.
#[derive(Debug, Parser)]
struct Args {
    /// Sites of the fleet, of 3 to 300 objects, most of them small.
    #[arg(long, default_value_t = 120)]
    sites: usize,
    /// How often the fleet is lost and restored.
    #[arg(long, default_value_t = 16)]
    rounds: usize,
    /// Runs at the begin that are not counted: nothing is known before the first.
    #[arg(long, default_value_t = 1)]
    teach: usize,
    /// `spec.parallelism` of the Restores.
    #[arg(long, default_value_t = 4)]
    parallelism: i32,
    /// Given by `cargo bench`; it means nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was said at some time of a run, and what came of it, in seconds from then.
struct Said {
    at: i64,
    expected: f64,
    no_later: f64,
    actual: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = Args::parse();
    let sandbox = Sandbox::start(Options::new(env!("CARGO_BIN_EXE_reprieve"))).await?;
    sandbox.install().await?;
    let client = sandbox.admin();
    let objects = make(&client, args.sites).await?;
    let operator = sandbox.start_operator(&[]).await?;
    until(&client, |site: &Site| ready(site.status.as_ref().map(|s| &s.conditions)), args.sites)
        .await?;
    back_up(&client, args.sites).await?;
    drop(operator);
    println!("{} sites, {objects} objects, parallelism {}", args.sites, args.parallelism);
    let mut all = vec![];
    for round in 0..args.rounds {
        lose(&sandbox, &client).await?;
        let operator = sandbox.start_operator(&[]).await?;
        let (took, said) = restore(&client, &args, round).await?;
        drop(operator);
        println!("run {round}: {took:.1} s");
        for Said { at, expected, no_later, actual } in &said {
            let held = if actual <= no_later { "held" } else { "MISSED" };
            println!(
                "    at {at:>2} %: {actual:>6.1} s left; p50 {expected:>6.1} s, p90 {no_later:>6.1} s: {held}"
            );
        }
        if round >= args.teach {
            all.extend(said.into_iter().filter(|said| said.actual >= WORTH_COUNTING));
        }
    }
    sandbox.stop()?;
    let held = |of: &[&Said]| {
        let held = of.iter().filter(|said| said.actual <= said.no_later).count();
        100.0 * held as f64 / of.len().max(1) as f64
    };
    println!();
    for at in ASKED {
        let of: Vec<&Said> = all.iter().filter(|said| said.at == at).collect();
        let mut errors: Vec<f64> =
            of.iter().map(|said| 100.0 * (said.expected / said.actual - 1.0)).collect();
        errors.sort_by(f64::total_cmp);
        let median = errors.get(errors.len() / 2).copied().unwrap_or_default();
        let least = errors.first().copied().unwrap_or_default();
        let most = errors.last().copied().unwrap_or_default();
        println!(
            "at {at:>2} %: {} runs, the end before the p90 in {:.0} %; error of the p50 {median:+.0} % (median), {least:+.0} to {most:+.0} %",
            of.len(),
            held(&of),
        );
    }
    let of: Vec<&Said> = all.iter().collect();
    println!(
        "all: {} estimates, the end before the p90 in {:.0} % (aim: 85 to 95)",
        of.len(),
        held(&of)
    );
    Ok(())
}

/// From 3 to 300 objects, evenly over the orders of magnitude.
fn size(site: usize, sites: usize) -> usize {
    let part = site as f64 / sites.saturating_sub(1).max(1) as f64;
    (3.0 * 100_f64.powf(part)).round() as usize
}

async fn make(client: &Client, sites: usize) -> Result<usize> {
    make_sites(client, sites).await?;
    let all: Vec<(String, Value)> =
        (0..sites).flat_map(|site| (0..size(site, sites)).map(move |n| object(site, n))).collect();
    let number = all.len();
    in_parallel(all.into_iter().map(|(path, object)| post(client, path, object))).await?;
    Ok(number)
}

/// Mostly configuration; every tenth is a Deployment with a Pod to wait for.
fn object(site: usize, n: usize) -> (String, Value) {
    let namespace = name(site);
    if n.is_multiple_of(10) {
        let labels = json!({ "app": format!("web-{n}") });
        let container = json!({ "name": "main", "image": "example.invalid/shop:1" });
        return (
            format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("web-{n}")},
                "spec": {"replicas": 1, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}}),
        );
    }
    let text = "configuration of a shop ".repeat(1 + (n * n) % 200);
    (
        format!("/api/v1/namespaces/{namespace}/configmaps"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("config-{n}")},
            "data": {"text": text}}),
    )
}

/// Seconds until everything was verified, and what was said on the way.
async fn restore(client: &Client, args: &Args, round: usize) -> Result<(f64, Vec<Said>)> {
    let refs: Vec<Value> = (0..args.sites).map(|site| json!({ "name": name(site) })).collect();
    let restore = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore",
        "metadata": {"name": format!("round-{round}")},
        "spec": {"source": {"backupRefs": refs}, "parallelism": args.parallelism},
    });
    let api: Api<Restore> = Api::all(client.clone());
    let restore = api.create(&PostParams::default(), &serde_json::from_value(restore)?).await?;
    let name = restore.metadata.name.context("a name")?;
    let begun = Instant::now();
    let mut asked: Vec<(i64, Instant, DateTime<Utc>, RestoreStatus)> = vec![];
    loop {
        let status = api.get(&name).await?.status.unwrap_or_default();
        if let Some(failure) = status.failures.first() {
            bail!("a site was not restored: {failure:?}");
        }
        if status.conditions.is_true(ConditionType::Succeeded) {
            break;
        }
        let percent = status.objects.as_ref().map_or(0, |o| 100 * o.done / o.total.max(1));
        if let Some(at) = ASKED.iter().filter(|at| **at <= percent).max()
            && asked.last().is_none_or(|(last, ..)| last < at)
            && status.estimated_completion_time.is_some()
        {
            asked.push((*at, Instant::now(), Utc::now(), status.clone()));
        }
        if begun.elapsed() > PATIENCE {
            bail!("not restored: {status:?}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let end = Instant::now();
    let said = asked.into_iter().filter_map(|(at, then, clock, status)| {
        let left = |time: reprieve::api::Time| (time.utc() - clock).num_milliseconds() as f64 / 1e3;
        Some(Said {
            at,
            expected: left(status.estimated_completion_time?),
            no_later: left(status.no_later_than_time?),
            actual: (end - then).as_secs_f64(),
        })
    });
    Ok(((end - begun).as_secs_f64(), said.collect()))
}
