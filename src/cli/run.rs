//! `reprieve run`: the operator process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::api::{CRD_FILES, names};
use crate::cluster::{Context, Shutdown, chain, shutdown};
use crate::store::Store;
use crate::{backup, deletion, restore, site};

/// How long the rooms have to come to an end after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// How often to look for what is missing at start.
const START_RETRY: Duration = Duration::from_secs(1);

/// Arguments of `reprieve run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kubeconfig by which to reach the cluster. Default: the pod's service account, or where
    /// there is none, $KUBECONFIG or ~/.kube/config.
    #[arg(long, env = "REPRIEVE_KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<PathBuf>,

    /// The object store for backups, as a URL: file:///PATH.
    #[arg(long, env = "REPRIEVE_STORE_URL", value_name = "URL")]
    store_url: String,

    /// Where to serve /livez, /readyz and /metrics.
    #[arg(long, env = "REPRIEVE_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Form of the log on standard error.
    #[arg(long, env = "REPRIEVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,

    /// What to log, in the words of tracing's EnvFilter. Example: info,reprieve=debug
    #[arg(long, env = "REPRIEVE_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot get better by waiting: a kubeconfig that cannot be read, an address that cannot be
/// listened on, a store that cannot be written. An API server or CRDs that are not there yet are
/// waited for, and `/readyz` says so.
pub fn main(args: &Args) -> Result<ExitCode> {
    start_log(args)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let result = runtime.block_on(run(args));
    // What hangs must not keep the process: everything it might do is decided on live reads.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn start_log(args: &Args) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        anyhow!(
            "--log {:?} is no log filter, as info,reprieve=debug is: {}",
            args.log,
            chain(&error)
        )
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
    Ok(())
}

async fn run(args: &Args) -> Result<ExitCode> {
    let config = config(args).await?;
    let server = config.cluster_url.clone();
    let client = Client::try_from(config)
        .with_context(|| format!("cannot make a client for the API server {server}"))?;
    let store = Store::open(&args.store_url)
        .await
        .map_err(|error| anyhow!("{}: check --store-url and its volume", chain(&error)))?;
    let ctx = Context::new(client);
    let ready = Readiness::new("starting");
    let (stop, down) = shutdown();
    serve(args.listen, &ctx, &ready, down.clone()).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %server, store = args.store_url, listen = %args.listen, "started");

    let rooms = rooms(ctx, server.to_string(), store, ready.clone(), down);
    let mut rooms = tokio::spawn(rooms);
    let mut term = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        result = &mut rooms => {
            // A room ends before the signal only by a bug; the orchestrator must see it.
            result.context("a room panicked")?;
            bail!("a room ended by itself");
        }
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    ready.waits_for(Some("stopping".to_owned()));
    let _ = stop.send(true);
    if tokio::time::timeout(GRACE, rooms).await.is_err() {
        tracing::warn!(
            seconds = GRACE.as_secs(),
            "stopped in the middle of work; the next start goes on from what is live"
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn config(args: &Args) -> Result<Config> {
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
    Ok(config)
}

/// Waits for the API server and the CRDs, then runs every room until shutdown.
async fn rooms(ctx: Context, server: String, store: Store, ready: Readiness, down: Shutdown) {
    tokio::select! {
        () = wait_for_crds(&ctx.client, &server, &ready) => {}
        () = down.clone().wait() => return,
    }
    ready.waits_for(None);
    tracing::info!("ready");
    tokio::join!(
        site::run(ctx.clone(), down.clone()),
        site::recreate::run(ctx.clone(), store.clone(), down.clone()),
        deletion::run(ctx.clone(), down.clone()),
        backup::run(ctx.clone(), store.clone(), down.clone()),
        restore::run(ctx, store, down),
    );
}

async fn wait_for_crds(client: &Client, server: &str, ready: &Readiness) {
    let wanted: Vec<&str> = CRD_FILES.iter().map(|file| file.trim_end_matches(".yaml")).collect();
    let mut said = String::new();
    loop {
        let missing = match client.list_api_group_resources(names::API_VERSION).await {
            Ok(list) => {
                let missing: Vec<&str> = wanted
                    .iter()
                    .filter(|plural| !list.resources.iter().any(|r| r.name == **plural))
                    .copied()
                    .collect();
                if missing.is_empty() {
                    return;
                }
                missing_crds(&missing)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => missing_crds(&wanted),
            // It answers, and says no.
            Err(kube::Error::Api(status)) => {
                format!("the API server {server} refuses: {}", status.message)
            }
            Err(error) => {
                format!("the API server {server} does not answer: {}", chain(innermost(&error)))
            }
        };
        if missing != said {
            tracing::warn!("waiting: {missing}");
            ready.waits_for(Some(missing.clone()));
            said = missing;
        }
        tokio::time::sleep(START_RETRY).await;
    }
}

fn missing_crds(missing: &[&str]) -> String {
    format!(
        "the cluster lacks the CRDs {} of {}: kubectl apply --server-side -f crds/",
        missing.join(", "),
        names::GROUP
    )
}

/// The cause of the causes: what is around it names layers of libraries.
fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// What `/readyz` says.
#[derive(Clone, Debug)]
struct Readiness(Arc<RwLock<Option<String>>>);

impl Readiness {
    fn new(waits_for: &str) -> Self {
        Self(Arc::new(RwLock::new(Some(waits_for.to_owned()))))
    }

    fn waits_for(&self, what: Option<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn answer(&self) -> (StatusCode, String) {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting: {what}\n")),
        }
    }
}

async fn serve(listen: SocketAddr, ctx: &Context, ready: &Readiness, down: Shutdown) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: check --listen"))?;
    let metrics = ctx.metrics.clone();
    let ready = ready.clone();
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready.answer() }))
        .route(
            "/metrics",
            get(move || async move {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([("content-type", kind)], metrics.encode())
            }),
        );
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(down.wait()).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(())
}
