//! The sandbox: a throw-away cluster of real components on this machine, and the demo.
//!
//! It is the library that tests, demo and benchmarks share. The operator must not need it.
