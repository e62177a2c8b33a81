//! What every room needs of Kubernetes: applying, discovery, back-off, events, live reads.
//!
//! This room takes no decision about a tenant's data, and must not know the rooms that do.

pub mod collect;
pub mod discover;
pub mod form;
pub mod readiness;
