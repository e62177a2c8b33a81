//! What every reconciler is handed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use tokio::sync::Mutex;

use super::discover::{Kinds, discover};
use super::form::digest_of;
use super::metrics::Warned;
use super::{Error, Guard, Metrics, Result};
use crate::api::{Reason, Time};

/// Reconciliations of one room that may run at the same time, unless told otherwise.
pub const DEFAULT_CONCURRENCY: u16 = 16;

/// What every reconciler is handed: the way to the cluster, and the ways to tell what happened.
#[derive(Clone)]
pub struct Context {
    /// The way to the cluster, as the operator's own account.
    pub client: Client,
    /// The same for mass work, whose requests wait their turn.
    pub bulk: Client,
    /// What Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// What is remembered of the guard.
    pub guard: Arc<Guard>,
    /// Reconciliations of one room that may run at the same time.
    pub concurrency: u16,
    recorder: Recorder,
    kinds: Arc<Mutex<Option<Discovered>>>,
}

/// The kinds of the cluster, and when they were asked for.
struct Discovered(Instant, Arc<Kinds>);

/// An event to be told, as a decision names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it wants attention.
    pub warning: bool,
    /// The reason, as in conditions.
    pub reason: Reason,
    /// What happened, in words.
    pub note: String,
}

impl Note {
    /// Something that went as it should.
    pub fn normal(reason: Reason, note: impl Into<String>) -> Self {
        Self { warning: false, reason, note: note.into() }
    }

    /// Something that wants attention.
    pub fn warning(reason: Reason, note: impl Into<String>) -> Self {
        Self { warning: true, reason, note: note.into() }
    }
}

impl Context {
    /// A context around this client, with metrics of its own and the default concurrency.
    pub fn new(client: Client) -> Self {
        Self::with(client, Arc::default(), DEFAULT_CONCURRENCY)
    }

    /// A context around this client, with these metrics and this many reconciliations of one room
    /// at a time.
    pub fn with(client: Client, metrics: Arc<Metrics>, concurrency: u16) -> Self {
        let reporter = Reporter {
            controller: "reprieve".to_owned(),
            instance: std::env::var("POD_NAME").ok(),
        };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            bulk: client.clone(),
            client,
            metrics,
            concurrency,
            guard: Arc::default(),
            recorder,
            kinds: Arc::default(),
        }
    }

    /// This context, with a client of its own for mass work.
    pub fn with_bulk(self, bulk: Client) -> Self {
        Self { bulk, ..self }
    }

    /// The time by this machine's clock.
    pub fn now(&self) -> Time {
        Utc::now().into()
    }

    /// The kinds that the API server serves, discovered at most `max_age` ago. Zero asks anew: what
    /// a backup or an irreversible step depends on must not come from a memory.
    ///
    /// # Errors
    /// A discovery that fails.
    pub async fn kinds(&self, max_age: Duration) -> Result<Arc<Kinds>> {
        let mut cached = self.kinds.lock().await;
        if let Some(Discovered(at, kinds)) = cached.as_ref()
            && at.elapsed() < max_age
        {
            return Ok(kinds.clone());
        }
        let kinds = discover(&self.client)
            .await
            .map_err(|error| Error::answer("discover the kinds of the cluster", error))?;
        let kinds = Arc::new(kinds);
        *cached = Some(Discovered(Instant::now(), kinds.clone()));
        Ok(kinds)
    }

    /// Tells an event of an object. An event that cannot be written fails nothing: it is logged.
    pub async fn tell<K>(&self, object: &K, note: &Note)
    where
        K: Resource<DynamicType = ()>,
    {
        let reference: ObjectReference = object.object_ref(&());
        let kind = K::kind(&());
        if note.warning {
            let label = Warned { kind: kind.to_string(), reason: note.reason.as_str() };
            self.metrics.warnings.get_or_create(&label).inc();
            tracing::warn!(kind = %kind, name = reference.name, reason = %note.reason, "{}", note.note);
        } else {
            tracing::info!(kind = %kind, name = reference.name, reason = %note.reason, "{}", note.note);
        }
        // The API takes at most 1 kB.
        let text: String = note.note.chars().take(1000).collect();
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.as_str().to_owned(),
            note: Some(text),
            // The recorder counts up an event of the same action and reason and keeps its first
            // note: two approvals would show one name. What is said otherwise is another event.
            action: format!(
                "Reconcile-{}",
                digest_of(note.note.as_bytes()).get(7..15).unwrap_or("")
            ),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, "cannot write an event");
        }
    }
}
