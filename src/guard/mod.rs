//! The guard: the admission policies that keep everybody, cluster administrators included, on the
//! road of a DeletionRequest, as data built from the same constants as the kinds.
//!
//! This room must not talk to a cluster: installing the guard and comparing it with what is live
//! is done elsewhere, from what is built here.
