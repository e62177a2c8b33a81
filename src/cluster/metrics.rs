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
use super::hooks::HookMetrics;
use super::request_metrics::RequestMetrics;
use super::restore_metrics::RestoreMetrics;

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
    /// Dry runs that the guard refused to the operator, which is how it is probed, by policy.
    pub guard_probes: Family<Policy, Counter>,
    /// Ids that DeletionRequests asked for, planned or refused, by declared kind.
    pub requested_entities: Family<Kind, Counter>,
    /// Sites that lost much of what they held within the last minutes, though nobody asked.
    pub sites_shrunk: Gauge,
    /// Entities that live although the store's ledger has them as purged.
    pub purged_yet_alive: Gauge,
    /// Entities that were purged, by kind.
    pub purged: Family<Kind, Counter>,
    /// What is told of DeletionRequests.
    pub told_requests: RequestMetrics,
    requests: Family<InState, Gauge>,
    gates: Family<Gate, Gauge>,
    open: Mutex<Option<CountRequests>>,
    /// Disks that are kept for Sites, by what is to become of them.
    pub kept_disks: Family<KeptDisk, Gauge>,
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
    /// What is told of restores.
    pub restores: RestoreMetrics,
    /// What is told of drills.
    pub drills: DrillMetrics,
    /// What is told of hooks.
    pub hooks: HookMetrics,
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
    /// Requests that have not ended.
    pub open: usize,
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

/// Labels of [`Metrics::guard_probes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Policy {
    /// Name of the admission policy.
    pub policy: &'static str,
}

/// Labels of [`Metrics::purged`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// The kind of entity.
    pub kind: String,
}

/// Labels of [`Metrics::kept_disks`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KeptDisk {
    /// `kept`, or `announced`: it is to get its former reclaim policy back.
    pub state: &'static str,
}

/// Labels of [`Metrics::alert_source_up`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Source {
    /// Its URL.
    pub url: String,
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
        let guard_probes = Family::default();
        registry.register(
            "guard_probes",
            "Dry runs that the guard refused to the operator, which is how it is probed: the API server counts them as denials",
            guard_probes.clone(),
        );
        let requested_entities = Family::default();
        registry.register(
            "requested_entities",
            "Ids that DeletionRequests asked for, whatever became of them, by declared kind",
            requested_entities.clone(),
        );
        for kind in ["Site", "App"] {
            // There from the start, as below.
            let kind = Kind { kind: kind.to_owned() };
            let _ = Family::<Kind, Counter>::get_or_create(&requested_entities, &kind);
        }
        let sites_shrunk = Gauge::default();
        registry.register(
            "sites_shrunk",
            "Sites that lost more than a quarter of their objects within the last 15 minutes and are neither purged nor restored",
            sites_shrunk.clone(),
        );
        let purged_yet_alive = Gauge::default();
        registry.register(
            "purged_yet_alive",
            "Sites and Apps that live although the store's ledger has them as purged, under the same UID, when the operator began: the cluster was set back",
            purged_yet_alive.clone(),
        );
        let purged = Family::default();
        registry.register("purged", "Entities that were purged", purged.clone());
        let told_requests = RequestMetrics::new(&mut registry);
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
        let kept_disks = Family::default();
        registry.register(
            "kept_disks",
            "PersistentVolumes that are kept for Sites, by state: kept, or announced to get their former reclaim policy back; as last looked at",
            kept_disks.clone(),
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
        let restores = RestoreMetrics::new(&mut registry);
        let drills = DrillMetrics::new(&mut registry);
        let hooks = HookMetrics::new(&mut registry);
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
            drills,
            hooks,
            backing_off,
            unparsable,
            counters: Mutex::default(),
            reconciliations,
            reconcile_seconds,
            guard_in_place,
            warnings,
            guard_probes,
            requested_entities,
            sites_shrunk,
            purged_yet_alive,
            purged,
            kept_disks,
            expired_archives,
            unexpected_deletes,
            unexpected_deletes_open,
            alert_source_up,
            told_requests,
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
        self.sites_shrunk.set(0);
        self.purged_yet_alive.set(0);
        self.kept_disks.clear();
        self.unparsable.clear();
        self.backing_off.clear();
        self.alert_source_up.clear();
        *lock(&self.open) = None;
        self.requests.clear();
        self.gates.clear();
        self.restores.clear();
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
        if let Some(count) = lock(&self.open).as_ref() {
            let counts = (count.0)();
            self.requests.clear();
            for (state, n) in counts.states {
                self.requests.get_or_create(&InState { state }).set(number(n));
            }
            if counts.open == 0 {
                // What was so when the last one asked may have changed long ago.
                self.alert_source_up.clear();
            }
            self.gates.clear();
            for ((gate, reason), n) in counts.gates {
                self.gates.get_or_create(&Gate { gate, reason }).set(number(n));
            }
        }
        self.drills.refresh();
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
