//! What the operator says of itself: `/livez`, `/readyz`, `/metrics`.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::cluster::{Metrics, Shutdown};

/// Where the operator stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits, for this.
    Waits(String),
    /// Another operator works: this one would take over. It is ready, or a Deployment of two
    /// replicas would never be available, and rolling updates would never end.
    StandsBy(String),
    /// It works.
    Works,
    /// It was told to stop.
    Stops,
}

/// What `/readyz` says.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<RwLock<Stage>>);

impl Readiness {
    /// One that waits for this.
    pub fn new(waits_for: &str) -> Self {
        Self(Arc::new(RwLock::new(Stage::Waits(waits_for.to_owned()))))
    }

    /// Says where the operator stands; in the log as well, once for each change.
    pub fn set(&self, stage: Stage) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if *now == stage {
            return;
        }
        match &stage {
            Stage::Waits(what) => tracing::warn!("waiting: {what}"),
            Stage::StandsBy(what) => tracing::info!("standby: {what}"),
            Stage::Works => tracing::info!("ready"),
            Stage::Stops => tracing::info!("stopping"),
        }
        *now = stage;
    }

    fn answer(&self) -> (StatusCode, String) {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Stage::Works => (StatusCode::OK, "ok\n".to_owned()),
            Stage::StandsBy(what) => (StatusCode::OK, format!("standby: {what}\n")),
            Stage::Waits(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting: {what}\n")),
            Stage::Stops => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
        }
    }
}

/// Serves until shutdown.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    ready: Readiness,
    down: Shutdown,
) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}: check --listen, and whether the operator runs already")
    })?;
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
