//! What Prometheus reads.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The operator's metrics. Names are documented by their help text at `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Reconciliations, by room and result.
    pub reconciliations: Family<Reconciled, Counter>,
    /// Duration of reconciliations, by room.
    pub reconcile_seconds: Family<Room, Histogram>,
    /// Whether the admission policies were in force when they were last looked at.
    pub guard_in_place: Gauge,
    /// Warning events, by kind of object and reason: what wants attention, as alerts can have it.
    pub warnings: Family<Warned, Counter>,
    /// Entities that were purged, by kind.
    pub purged: Family<Kind, Counter>,
    /// Time of the last successful answer of the API server, as a Unix time.
    pub last_contact: Gauge<f64, AtomicU64>,
}

/// Labels of [`Metrics::reconciliations`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reconciled {
    /// The room.
    pub room: &'static str,
    /// `ok`, `error` or `timeout`.
    pub result: &'static str,
}

/// Labels of [`Metrics::reconcile_seconds`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Room {
    /// The room.
    pub room: &'static str,
}

/// Labels of [`Metrics::warnings`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Warned {
    /// The kind of object.
    pub kind: String,
    /// The reason, as in conditions and events.
    pub reason: &'static str,
}

/// Labels of [`Metrics::purged`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// The kind of entity.
    pub kind: String,
}

impl Metrics {
    /// Metrics that were never touched.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("reprieve");
        let reconciliations = Family::default();
        registry.register("reconciliations", "Reconciliations", reconciliations.clone());
        let reconcile_seconds: Family<Room, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.5, 10)));
        registry.register_with_unit(
            "reconcile",
            "Duration of reconciliations",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let guard_in_place = Gauge::default();
        registry.register(
            "guard_in_place",
            "1 if every admission policy was in force when last looked at, else 0",
            guard_in_place.clone(),
        );
        let warnings = Family::default();
        registry.register(
            "warnings",
            "Warning events told, by kind of object and reason",
            warnings.clone(),
        );
        let purged = Family::default();
        registry.register("purged", "Entities that were purged", purged.clone());
        let last_contact = Gauge::default();
        registry.register(
            "last_contact_timestamp_seconds",
            "Time of the last successful reconciliation",
            last_contact.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            reconciliations,
            reconcile_seconds,
            guard_in_place,
            warnings,
            purged,
            last_contact,
        }
    }

    /// All of it in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if encode(&mut text, &registry).is_err() {
            text.clear();
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
