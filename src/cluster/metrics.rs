//! What Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::drill_metrics::DrillMetrics;

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
    /// DeletionRequests that ended, by state and reason.
    pub requests_ended: Family<Ended, Counter>,
    requests: Family<InState, Gauge>,
    gates: Family<Gate, Gauge>,
    open: Mutex<Option<CountRequests>>,
    /// Archives that were taken out of the store because they had expired.
    pub expired_archives: Counter,
    /// Deletes that got past the guard, by kind.
    pub unexpected_deletes: Family<Kind, Counter>,
    /// Entities that were deleted past the guard and are not created anew, or purged, yet, by kind.
    pub unexpected_deletes_open: Family<Kind, Gauge>,
    /// Whether a source of alerts answered when it was last asked.
    pub alert_source_up: Family<Source, Gauge>,
    /// Time of the last successful answer of the API server, as a Unix time.
    pub last_contact: Gauge<f64, AtomicU64>,
    /// Whether this process holds the lease.
    pub lease_held: Gauge,
    /// Restores that have not ended, by state.
    pub restores: Family<State, Gauge>,
    /// Sites of those restores, by stage.
    pub restore_sites: Family<AtStage, Gauge>,
    /// Objects that restores created.
    pub restore_objects_created: Counter,
    /// Requests of restores that may be in flight at a time.
    pub restore_request_limit: Gauge,
    /// Requests of restores to which the API server said that it has too much to do.
    pub restore_requests_refused: Counter,
    /// What is told of drills.
    pub drills: DrillMetrics,
    backing_off: Family<Room, Gauge>,
    unparsable: Family<Room, Gauge>,
    counters: Mutex<BTreeMap<&'static str, CountOf>>,
}

/// What is counted of a room when Prometheus asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects that wait because their last reconciliation failed.
    pub backing_off: usize,
    /// Objects that do not parse.
    pub unparsable: usize,
}

/// What is counted of DeletionRequests when Prometheus asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Requests, by state.
    pub states: BTreeMap<String, usize>,
    /// Gates of open requests that are not open, by condition and reason.
    pub gates: BTreeMap<(String, String), usize>,
}

struct CountRequests(Box<dyn Fn() -> RequestCounts + Send + Sync>);

impl fmt::Debug for CountRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountRequests")
    }
}

/// Labels of the gauge of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: String,
}

/// Labels of the gauge of gates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gate {
    gate: String,
    reason: String,
}

/// Labels of [`Metrics::requests_ended`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// The state in which it ended.
    pub state: String,
    /// Why, as the condition `Succeeded` has it.
    pub reason: String,
}

struct CountOf(Box<dyn Fn() -> Counts + Send + Sync>);

impl fmt::Debug for CountOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountOf")
    }
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

/// Labels of [`Metrics::alert_source_up`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Source {
    /// Its URL.
    pub url: String,
}

/// Labels of [`Metrics::restores`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// `waiting`, for what it restores from, or `running`.
    pub state: &'static str,
}

/// Labels of [`Metrics::restore_sites`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AtStage {
    /// `queued`, `restoring`, `waiting`, `verified` or `failed`.
    pub stage: &'static str,
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
        let requests_ended = Family::default();
        registry.register(
            "requests_ended",
            "DeletionRequests that ended, by state and reason",
            requests_ended.clone(),
        );
        let requests = Family::default();
        registry.register(
            "requests",
            "DeletionRequests that there are, by state",
            requests.clone(),
        );
        let gates = Family::default();
        registry.register(
            "closed_gates",
            "Gates of open DeletionRequests that are not open, by condition and reason",
            gates.clone(),
        );
        let expired_archives = Counter::default();
        registry.register(
            "expired_archives",
            "Archives that were taken out of the store because they had expired",
            expired_archives.clone(),
        );
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
        let alert_source_up = Family::default();
        registry.register(
            "alert_source_up",
            "1 if this source of alerts gave an answer that can be read when an open request last asked it, else 0",
            alert_source_up.clone(),
        );
        let last_contact = Gauge::default();
        registry.register(
            "last_contact_timestamp_seconds",
            "Time of the last successful reconciliation",
            last_contact.clone(),
        );
        let lease_held = Gauge::default();
        registry.register(
            "lease_held",
            "1 if this process holds the lease and works, 0 if it stands by",
            lease_held.clone(),
        );
        let restores = Family::default();
        registry.register("restores", "Restores that have not ended", restores.clone());
        let restore_sites = Family::default();
        registry.register(
            "restore_sites",
            "Sites of the Restores that have not ended, by how far they are",
            restore_sites.clone(),
        );
        let restore_objects_created = Counter::default();
        registry.register(
            "restore_objects_created",
            "Objects that restores created, Sites and namespaces among them",
            restore_objects_created.clone(),
        );
        let restore_request_limit = Gauge::default();
        registry.register(
            "restore_request_limit",
            "Requests of restores that may be in flight at a time: it follows how fast the API server answers",
            restore_request_limit.clone(),
        );
        let restore_requests_refused = Counter::default();
        registry.register(
            "restore_requests_refused",
            "Requests of restores that the API server answered with 429 or 503; they are sent again",
            restore_requests_refused.clone(),
        );
        let drills = DrillMetrics::new(&mut registry);
        let backing_off = Family::default();
        registry.register(
            "backing_off_objects",
            "Objects that wait for their next try because the last one failed",
            backing_off.clone(),
        );
        let unparsable = Family::default();
        registry.register(
            "unparsable_objects",
            "Objects that the operator cannot read, and skips; an event on each says why",
            unparsable.clone(),
        );
        registry.register(
            "build",
            "The version of this operator",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry: Mutex::new(registry),
            lease_held,
            restores,
            restore_sites,
            restore_objects_created,
            restore_request_limit,
            restore_requests_refused,
            drills,
            backing_off,
            unparsable,
            counters: Mutex::default(),
            reconciliations,
            reconcile_seconds,
            guard_in_place,
            warnings,
            purged,
            expired_archives,
            unexpected_deletes,
            unexpected_deletes_open,
            alert_source_up,
            requests_ended,
            requests,
            gates,
            open: Mutex::default(),
            last_contact,
        }
    }

    /// Says how to count a room's objects. Asked at each scrape; the last one counts.
    pub fn count(&self, room: &'static str, count: impl Fn() -> Counts + Send + Sync + 'static) {
        lock(&self.counters).insert(room, CountOf(Box::new(count)));
    }

    /// Says how to count DeletionRequests. Asked at each scrape; the last one counts.
    pub fn count_requests(&self, count: impl Fn() -> RequestCounts + Send + Sync + 'static) {
        *lock(&self.open) = Some(CountRequests(Box::new(count)));
    }

    /// Forgets what was true of the rooms while they ran.
    pub fn rooms_ended(&self) {
        lock(&self.counters).clear();
        self.unparsable.clear();
        self.backing_off.clear();
        self.alert_source_up.clear();
        *lock(&self.open) = None;
        self.requests.clear();
        self.gates.clear();
        self.restores.clear();
        self.restore_sites.clear();
        self.drills.clear();
    }

    /// All of it in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (&room, count) in lock(&self.counters).iter() {
            let counts = (count.0)();
            self.unparsable.get_or_create(&Room { room }).set(number(counts.unparsable));
            self.backing_off.get_or_create(&Room { room }).set(number(counts.backing_off));
        }
        self.drills.refresh();
        if let Some(count) = lock(&self.open).as_ref() {
            let counts = (count.0)();
            self.requests.clear();
            for (state, n) in counts.states {
                self.requests.get_or_create(&InState { state }).set(number(n));
            }
            self.gates.clear();
            for ((gate, reason), n) in counts.gates {
                self.gates.get_or_create(&Gate { gate, reason }).set(number(n));
            }
        }
        let mut text = String::new();
        if encode(&mut text, &lock(&self.registry)).is_err() {
            text.clear();
        }
        text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
