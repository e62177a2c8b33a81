//! What users and operators of clusters see, each file on a cluster of its own. They are one test
//! binary so that as many of them run side by side as the machine has cores: most of their time
//! they wait for windows, leases and controllers. One of them: `cargo test --test e2e road`.
#![cfg(feature = "sandbox")]

// A real Alertmanager.
#[path = "../alerts/mod.rs"]
mod alertmanager;
mod alerts;
mod app;
mod app_deletion;
mod archive;
mod asked;
// The checker of the invariants.
#[path = "../audit/mod.rs"]
mod audit;
mod backup;
mod bad_input;
mod demo;
mod disks;
mod drill;
mod dry_run;
mod hold;
mod hooks;
mod mass;
mod past_guard;
mod people;
mod process;
mod races;
mod replay;
mod restore;
mod road;
mod roundtrip;
mod schedule;
mod site;
mod snapshots;
mod sources;
mod told;
mod waves;
mod writes;
// Shared with `tests/guard`.
#[path = "../user/mod.rs"]
mod user;
