//! What Prometheus reads of hooks.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::api::HookState;

/// Labels of [`HookMetrics::ended`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HookOutcome {
    /// `beforeBackup`, `afterRestore` or `drill`.
    pub when: &'static str,
    /// The reason, as in conditions.
    pub outcome: &'static str,
}

/// The metrics of hooks.
#[derive(Debug, Default)]
pub struct HookMetrics {
    /// Hooks that ended.
    pub ended: Family<HookOutcome, Counter>,
}

impl HookMetrics {
    /// All of them, in this registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for when in ["beforeBackup", "afterRestore", "drill"] {
            use HookState::{Failed, Lost, Refused, Succeeded, TimedOut};
            for state in [Succeeded, Failed, TimedOut, Refused, Lost] {
                // There from the start: an alert on an increase must see the first one.
                let outcome = state.reason().as_str();
                drop(metrics.ended.get_or_create(&HookOutcome { when, outcome }));
            }
        }
        registry.register("hooks", "Hooks that ended, by outcome", metrics.ended.clone());
        metrics
    }
}
