//! The invariants I1 to I8 and I12 on the pure core of deletion, checked exhaustively in small
//! worlds: docs/model.md.

mod actions;
mod checker;
mod ends;
mod invariants;
mod look;
mod mutants;
mod objects;
mod pool;
mod scopes;
mod server;
mod state;
mod world;
