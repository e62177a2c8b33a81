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
    /// Entities that were purged, by kind.
    pub purged: Family<Kind, Counter>,
    /// Deletes that got past the guard, by kind.
    pub unexpected_deletes: Family<Kind, Counter>,
    /// Entities that were deleted past the guard and are not created anew, or purged, yet, by kind.
    pub unexpected_deletes_open: Family<Kind, Gauge>,
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
        let purged = Family::default();
        registry.register("purged", "Entities that were purged", purged.clone());
        let unexpected_deletes = Family::default();
        registry.register(
            "unexpected_deletes",
            "Deletes of Sites, Apps and CustomResourceDefinitions that nobody asked for and that the guard did not stop",
            unexpected_deletes.clone(),
        );
        let unexpected_deletes_open = Family::default();
        registry.register(
            "unexpected_deletes_open",
            "Sites and Apps that were deleted past the guard and are neither created anew nor purged yet",
            unexpected_deletes_open.clone(),
        );
        for kind in ["Site", "App", "CustomResourceDefinition"] {
            // There from the start: an alert on an increase must see the first one.
            let kind = Kind { kind: kind.to_owned() };
            let _ = Family::<Kind, Counter>::get_or_create(&unexpected_deletes, &kind);
        }
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
            purged,
            unexpected_deletes,
            unexpected_deletes_open,
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
