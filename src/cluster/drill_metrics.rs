//! What Prometheus reads of drills. What is true of each drill is asked for at each scrape, so that
//! "overdue" is as of now and a drill that is gone leaves nothing behind.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of [`DrillMetrics::runs`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `succeeded` or `failed`.
    pub outcome: &'static str,
}

/// Labels of what is told of each drill.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfDrill {
    /// Name of the RestoreDrill.
    pub drill: String,
}

/// What is true of a drill now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillGauges {
    /// Name of the RestoreDrill.
    pub drill: String,
    /// When its last successful run ended, as a Unix time.
    pub last_success: Option<i64>,
    /// Whether its last run failed. None: none has ended.
    pub last_failed: Option<bool>,
    /// How long its last run took to restore its sample, in seconds.
    pub recovery_seconds: Option<i64>,
    /// Whether a run that its schedule asked for should have succeeded by now, and none has.
    pub overdue: bool,
}

struct Counting(Box<dyn Fn() -> Vec<DrillGauges> + Send + Sync>);

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

/// The metrics of drills.
#[derive(Debug, Default)]
pub struct DrillMetrics {
    /// Runs that ended.
    pub runs: Family<Outcome, Counter>,
    last_success: Family<OfDrill, Gauge<f64, AtomicU64>>,
    failed: Family<OfDrill, Gauge>,
    recovery_seconds: Family<OfDrill, Gauge>,
    overdue: Family<OfDrill, Gauge>,
    counting: Mutex<Option<Counting>>,
}

impl DrillMetrics {
    /// All of them, in this registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in ["succeeded", "failed"] {
            // There from the start: an alert on an increase must see the first one.
            drop(metrics.runs.get_or_create(&Outcome { outcome }));
        }
        registry.register(
            "drill_runs",
            "Runs of drills that ended, by outcome",
            metrics.runs.clone(),
        );
        registry.register(
            "drill_last_success_timestamp_seconds",
            "Time when the last run of a drill ended in which every site was verified",
            metrics.last_success.clone(),
        );
        registry.register(
            "drill_last_run_failed",
            "1 if the last run of a drill failed, else 0",
            metrics.failed.clone(),
        );
        registry.register(
            "drill_recovery_seconds",
            "How long the last run of a drill took to restore and compare its sample, in seconds",
            metrics.recovery_seconds.clone(),
        );
        registry.register(
            "drill_overdue",
            "1 if a run that the schedule of a drill asked for should have succeeded by now and none has, else 0",
            metrics.overdue.clone(),
        );
        metrics
    }

    /// Says what is true of the drills. Asked at each scrape; the last one counts.
    pub fn count(&self, count: impl Fn() -> Vec<DrillGauges> + Send + Sync + 'static) {
        *self.counting.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Counting(Box::new(count)));
    }

    /// Nobody looks at the drills any more.
    pub fn clear(&self) {
        *self.counting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.forget();
    }

    fn forget(&self) {
        self.last_success.clear();
        self.failed.clear();
        self.recovery_seconds.clear();
        self.overdue.clear();
    }

    /// Asks what is true now.
    pub fn refresh(&self) {
        let counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Counting(count)) = counting.as_ref() else { return };
        self.forget();
        for one in count() {
            let of = OfDrill { drill: one.drill };
            if let Some(time) = one.last_success {
                #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
                self.last_success.get_or_create(&of).set(time as f64);
            }
            if let Some(failed) = one.last_failed {
                self.failed.get_or_create(&of).set(i64::from(failed));
            }
            if let Some(seconds) = one.recovery_seconds {
                self.recovery_seconds.get_or_create(&of).set(seconds);
            }
            self.overdue.get_or_create(&of).set(i64::from(one.overdue));
        }
    }

    /// A value for each, so that the documentation shows them.
    pub fn example(&self) {
        let of = OfDrill { drill: String::new() };
        drop(self.last_success.get_or_create(&of));
        drop(self.failed.get_or_create(&of));
        drop(self.recovery_seconds.get_or_create(&of));
        drop(self.overdue.get_or_create(&of));
    }
}
