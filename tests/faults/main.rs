//! Crashes and the network: F1 to F6, B5 and T11 of the fault list, on a real control plane with the
//! fault proxy between the operator and the API server. The oracle is what lives and the API
//! server's audit log, not what the operator says of itself.
#![cfg(feature = "sandbox")]

#[path = "../audit/mod.rs"]
mod audit;
mod crash;
mod etcd;
mod matrix;
mod network;
mod rollback;
#[path = "../s3/mod.rs"]
mod s3;
mod stage;
mod store;
#[path = "../user/mod.rs"]
mod user;
