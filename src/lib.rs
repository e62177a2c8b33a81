//! Reprieve: a Kubernetes operator that manages tenant sites as custom resources and gives every
//! deletion of one a reprieve: a dry run that people approve, a window in which it can be undone,
//! a limit on how much it can take, and a backup that was read back before anything goes.
//!
//! The folders stand in the order in which data travels. Imports point only upwards in this list,
//! and rooms meet only through [`api`], [`cluster`] and [`store`] (`tests/structure.rs` checks it):
//!
//! 1. [`api`]: the kinds. No I/O, no decisions.
//! 2. [`guard`]: the admission policies, as data.
//! 3. [`cluster`]: what every room needs of Kubernetes.
//! 4. [`store`]: the archive and the object store.
//! 5. the rooms [`site`], [`deletion`], [`backup`], [`restore`], [`drill`], each with the doors
//!    `observe` (reads), `decide` (pure) and `act` (writes).
//! 6. [`cli`]: the command line.
//! 7. `sandbox`: the throw-away cluster and the demo, behind the feature `sandbox`.

pub mod api;
pub mod backup;
pub mod cli;
pub mod cluster;
pub mod deletion;
pub mod drill;
pub mod guard;
pub mod restore;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod site;
pub mod store;
