//! What every room needs of Kubernetes: applying, discovery, back-off, events, live reads.
//!
//! This room takes no decision about a tenant's data, and must not know the rooms that do.

pub mod account;
mod clock;
pub mod collect;
mod context;
pub mod crds;
pub mod cron;
pub mod discover;
pub mod drill_metrics;
mod driver;
mod error;
pub mod fence;
#[cfg(test)]
pub mod fixtures;
pub mod form;
pub mod former;
mod guard;
mod guard_watch;
pub mod hooks;
pub mod lease;
mod limit;
pub mod limiter;
mod lookup;
pub mod metrics;
pub mod order;
mod pages;
pub mod readiness;
pub mod request_metrics;
pub mod restore_metrics;
pub mod snapshots;
pub mod unexpected;
pub mod volume;
mod write;

pub use clock::{api_server_time, clock_skew};
pub use context::{Context, DEFAULT_CONCURRENCY, Note};
pub use driver::{Shutdown, drive, shutdown};
pub use error::{During, Error, Result, chain, describe, is_conflict, is_not_found};
pub use guard::{Guard, GuardState, ProbeTargets, observe_guard};
pub use guard_watch::watch_guard;
pub use lookup::{EntityRow, FEW_IDS, Holder, by_id, holders, list_entities, lookup};
pub use metrics::Metrics;
pub use pages::Pages;
pub use write::{
    Exact, Written, create_if_absent, delete_exact, merge_diff, patch_exact, patch_status_exact,
    set_finalizer, tell_site, write_status,
};
