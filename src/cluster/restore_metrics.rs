//! What Prometheus reads of restores.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of [`RestoreMetrics::open`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// `waiting`, for what it restores from, or `running`.
    pub state: &'static str,
}

/// Labels of [`RestoreMetrics::sites`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AtStage {
    /// `queued`, `restoring`, `waiting`, `verified` or `failed`.
    pub stage: &'static str,
}

/// Labels of what is told of estimates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    /// When so much of the objects was back, in percent.
    at: u8,
    /// Whether it ended before the time that was told as the latest.
    held: &'static str,
}

/// Labels of how wrong estimates were.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct At {
    /// When so much of the objects was back, in percent.
    at: u8,
}

/// The metrics of restores.
#[derive(Debug)]
pub struct RestoreMetrics {
    /// Restores that have not ended, by state.
    pub open: Family<State, Gauge>,
    /// Sites of those restores, by stage.
    pub sites: Family<AtStage, Gauge>,
    /// Objects that restores created.
    pub objects_created: Counter,
    /// Requests of restores that may be in flight at a time.
    pub request_limit: Gauge,
    /// Requests of restores to which the API server said that it has too much to do.
    pub requests_refused: Counter,
    estimates: Family<Checked, Counter>,
    errors: Family<At, Histogram>,
}

impl RestoreMetrics {
    /// Metrics that were never touched.
    pub fn new(registry: &mut Registry) -> Self {
        let ratios = || Histogram::new([0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0]);
        let new = Self {
            open: Family::default(),
            sites: Family::default(),
            objects_created: Counter::default(),
            request_limit: Gauge::default(),
            requests_refused: Counter::default(),
            estimates: Family::default(),
            errors: Family::new_with_constructor(ratios),
        };
        registry.register("restores", "Restores that have not ended", new.open.clone());
        registry.register(
            "restore_sites",
            "Sites of the Restores that have not ended, by how far they are",
            new.sites.clone(),
        );
        registry.register(
            "restore_objects_created",
            "Objects that restores created, Sites and namespaces among them",
            new.objects_created.clone(),
        );
        registry.register(
            "restore_request_limit",
            "Requests of restores that may be in flight at a time: it follows how fast the API server answers",
            new.request_limit.clone(),
        );
        registry.register(
            "restore_requests_refused",
            "Requests of restores that the API server answered with 429 or 503; they are sent again",
            new.requests_refused.clone(),
        );
        registry.register(
            "restore_estimates",
            "Estimates of restores that have ended, made when `at` percent of the objects were back, by whether the end lay before noLaterThanTime (p90)",
            new.estimates.clone(),
        );
        registry.register(
            "restore_estimate_error_ratio",
            "What was left when `at` percent of the objects were back, divided by what was expected (p50)",
            new.errors.clone(),
        );
        new
    }

    /// Notes an estimate and what came of it.
    pub fn check(&self, at: u8, expected: Duration, no_later: Duration, actual: Duration) {
        let held = if actual <= no_later { "true" } else { "false" };
        self.estimates.get_or_create(&Checked { at, held }).inc();
        let ratio = actual.as_secs_f64() / expected.as_secs_f64().max(0.001);
        self.errors.get_or_create(&At { at }).observe(ratio);
    }

    /// Forgets what was true while the rooms ran.
    pub fn clear(&self) {
        self.open.clear();
        self.sites.clear();
    }

    /// Gives each of them a value, for the page that lists them.
    pub fn example(&self) {
        drop(self.open.get_or_create(&State { state: "" }));
        drop(self.sites.get_or_create(&AtStage { stage: "" }));
        let second = Duration::from_secs(1);
        self.check(50, second, second, second);
    }
}
