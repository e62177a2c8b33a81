//! Hooks: the Jobs of a Site around a backup or a restore. What the rooms share: what comes next is
//! decided by `decide`, the Job is made by `job`, and one step at a time is carried out here. The
//! room writes each outcome down before it asks for the next step.
//!
//! A Job is made suspended under a name that says what it is for. Only once its UID stands in a
//! status may it run, and from then on no other is made: so none runs twice, whatever crashes, and
//! one that was made and never noted is found again by its name.

mod act;
pub mod decide;
pub mod job;
mod metrics;

pub use act::{Checked, Progress, Run, check, note, step};
pub use decide::{Turn, in_words, turn};
pub use metrics::{HookMetrics, HookOutcome};

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
