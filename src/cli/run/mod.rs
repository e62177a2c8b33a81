//! `reprieve run`: the operator process.

mod args;
mod checks;
pub mod guide;
mod health;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use http::header::{HeaderValue, USER_AGENT};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::args::LogFormat;
use self::health::{Readiness, Stage};
use crate::cluster::fence::{Term, fenced_client, limited_client};
use crate::cluster::lease::{self, Attempt, Elector};
use crate::cluster::limiter::Limiter;
use crate::cluster::{Context, Metrics, Shutdown, chain, shutdown};
use crate::store::Store;
use crate::{backup, deletion, restore, site};

pub use self::args::Args;

/// How long after a signal the process has ended, whatever hangs.
const GRACE: Duration = Duration::from_secs(4);
/// How much of that is kept for giving the lease back.
const RELEASE: Duration = Duration::from_secs(1);
/// How often to look for what is missing at start.
const START_RETRY: Duration = Duration::from_secs(1);
/// How long a look for it may take.
const START_LIMIT: Duration = Duration::from_secs(15);
/// The exit code for flags that cannot be used, as the parser of flags has it.
const USAGE: u8 = 2;

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot get better by waiting: a kubeconfig that cannot be read, an address that cannot be
/// listened on, a store that cannot be written. An API server, CRDs or rights that are not there
/// yet are waited for, and `/readyz` says so.
pub fn main(args: &Args) -> Result<ExitCode> {
    match args.check() {
        Ok(filter) => start_log(filter, args.log_format),
        Err(why) => {
            eprintln!("error: {why}");
            return Ok(ExitCode::from(USAGE));
        }
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let result = runtime.block_on(run(args));
    // What hangs must not keep the process: everything it might do is decided on live reads.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn start_log(filter: EnvFilter, format: LogFormat) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

async fn run(args: &Args) -> Result<ExitCode> {
    let identity = identity()?;
    let config = config(args, &identity).await?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config.clone())
        .with_context(|| format!("cannot make a client for the API server {server}"))?;
    let opened = args.store.open().await;
    let store = opened.map_err(|error| anyhow!("{}{}", chain(&error), error.advice()))?;
    let ready = Readiness::new("starting");
    let (stop, down) = shutdown();
    let metrics = Arc::new(Metrics::new());
    health::serve(args.listen, metrics.clone(), ready.clone(), down.clone()).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %server, store = store.url(), encryption = store.encryption(), signing = store.signing(), listen = %args.listen, identity, "started");
    if let Some(warning) = store.warning() {
        tracing::warn!("{warning}");
    }

    let elector = Elector::new(client.clone(), identity, args.terms());
    let operator = Operator {
        client,
        config,
        server,
        store,
        ready: ready.clone(),
        metrics,
        concurrency: args.concurrency,
        elector,
    };
    let mut operator = tokio::spawn(operator.work(down));
    let mut term = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        result = &mut operator => {
            // It ends before the signal only by a bug; the orchestrator must see it.
            result.context("a room panicked")??;
            bail!("the operator ended by itself");
        }
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    ready.set(Stage::Stops);
    let _ = stop.send(true);
    if tokio::time::timeout(GRACE, operator).await.is_err() {
        tracing::warn!("stopped in the middle of work; the next start goes on from what is live");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the operator works with.
struct Operator {
    /// For what is no work: checks and the lease.
    client: Client,
    config: Config,
    server: String,
    store: Store,
    ready: Readiness,
    metrics: Arc<Metrics>,
    concurrency: u16,
    elector: Elector,
}

impl Operator {
    /// Waits for what is missing and for the lease, works for as long as the lease is held, and
    /// begins anew when it was lost.
    ///
    /// To begin anew is as safe as to exit: nothing of a term outlives it, because its rooms are
    /// dropped and its client sends no write any more, ever. And an API server that comes and
    /// goes, which is when sites need to be restored, does not send the operator into the
    /// orchestrator's crash back-off of minutes.
    async fn work(mut self, down: Shutdown) -> Result<()> {
        loop {
            let term = tokio::select! {
                term = self.next_term() => term,
                () = down.clone().wait() => return Ok(()),
            };
            let lost = self.work_for(&term, &down).await;
            term.end();
            self.metrics.lease_held.set(0);
            self.metrics.rooms_ended();
            let Some(why) = lost? else { break };
            let lease = lease::name();
            let lost = format!("lost the lease {lease}: {why}; everything under way was stopped");
            self.ready.set(Stage::Waits(lost));
        }
        match tokio::time::timeout(RELEASE, self.elector.release()).await {
            Ok(Ok(())) => tracing::info!("stopped, and gave the lease {} back", lease::name()),
            Ok(Err(error)) => tracing::warn!("stopped; the lease expires by itself: {error}"),
            Err(_) => tracing::warn!("stopped; the lease expires by itself: no answer"),
        }
        Ok(())
    }

    async fn next_term(&mut self) -> Term {
        self.wait_for_cluster().await;
        let Self { ready, server, .. } = self;
        self.elector
            .acquire(|attempt| {
                ready.set(match attempt {
                    Ok(Attempt::Other { holder }) => {
                        Stage::StandsBy(format!("the lease {} is held by {holder}", lease::name()))
                    }
                    Ok(Attempt::Held) => Stage::Waits("the lease was given too late".to_owned()),
                    Err(error) => Stage::Waits(format!("{error} (API server {server})")),
                });
            })
            .await
    }

    async fn wait_for_cluster(&self) {
        loop {
            let check = checks::check(&self.client, &self.server);
            match tokio::time::timeout(START_LIMIT, check).await {
                Ok(Ok(())) => return,
                Ok(Err(missing)) => self.ready.set(Stage::Waits(missing)),
                Err(_) => {
                    let server = &self.server;
                    let seconds = START_LIMIT.as_secs();
                    self.ready.set(Stage::Waits(format!(
                        "the API server {server} does not answer: nothing came for {seconds} s"
                    )));
                }
            }
            tokio::time::sleep(START_RETRY).await;
        }
    }

    /// Runs every room in this term. Gives why the lease was lost, or nothing after a shutdown.
    async fn work_for(&mut self, term: &Term, down: &Shutdown) -> Result<Option<String>> {
        let client = fenced_client(self.config.clone(), term)?;
        let limiter = Limiter::new(self.metrics.clone());
        let bulk = limited_client(self.config.clone(), term, limiter)?;
        let ctx = Context::with(client, self.metrics.clone(), self.concurrency).with_bulk(bulk);
        self.metrics.lease_held.set(1);
        self.ready.set(Stage::Works);
        let mut rooms = Rooms(tokio::spawn(rooms(ctx, self.store.clone(), down.clone())));
        let stopped = async {
            down.clone().wait().await;
            Instant::now() + GRACE - RELEASE
        };
        tokio::select! {
            // First the signal: the rooms end by it.
            biased;
            until = stopped => {
                if tokio::time::timeout_at(until.into(), &mut rooms.0).await.is_err() {
                    tracing::warn!(
                        "stopped in the middle of work; the next start goes on from what is live"
                    );
                }
            }
            why = self.elector.keep(term) => return Ok(Some(why)),
            result = &mut rooms.0 => {
                result.context("a room panicked")?;
                bail!("a room ended by itself");
            }
        }
        Ok(None)
    }
}

/// The rooms, stopped when this is dropped.
struct Rooms(tokio::task::JoinHandle<()>);

impl Drop for Rooms {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn rooms(ctx: Context, store: Store, down: Shutdown) {
    tokio::join!(
        site::run(ctx.clone(), store.clone(), down.clone()),
        site::recreate::run(ctx.clone(), store.clone(), down.clone()),
        deletion::run(ctx.clone(), store.clone(), down.clone()),
        backup::run(ctx.clone(), store.clone(), down.clone()),
        restore::run(ctx, store, down),
    );
}

/// A name for this very process: the pod's or the machine's, and something that no other start
/// has.
fn identity() -> Result<String> {
    let place = ["POD_NAME", "HOSTNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let place = place.or_else(machine).unwrap_or_else(|| "reprieve".to_owned());
    let mut random = [0_u8; 8];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut random)
        .map_err(|_| anyhow!("the system gives no random numbers"))?;
    Ok(format!("{}_{:016x}", place.trim(), u64::from_be_bytes(random)))
}

async fn config(args: &Args, identity: &str) -> Result<Config> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| {
                // The parser draws the place over several lines; the first says what and where.
                let why = chain(&error);
                let why = why.lines().next().unwrap_or_default().to_owned();
                anyhow!("cannot use the kubeconfig {} (--kubeconfig): {why}", path.display())
            })?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(
                |error| {
                    let why = chain(&error);
                    anyhow!("cannot use the kubeconfig {} (--kubeconfig): {why}", path.display())
                },
            )?
        }
        None => Config::infer().await.context(
            "no cluster: there is neither a pod's service account nor a kubeconfig; give --kubeconfig",
        )?,
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    // The audit log then tells which of several operators it was.
    let agent = format!("reprieve/{} ({identity})", env!("CARGO_PKG_VERSION"));
    let agent = HeaderValue::from_str(&agent).context("no host name for a header")?;
    config.headers.push((USER_AGENT, agent));
    Ok(config)
}
