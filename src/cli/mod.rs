//! The commands of `reprieve`, all but the sandbox's.
//!
//! This room shows and starts; it must not decide.

pub mod generate;
pub mod rules;
pub mod run;
