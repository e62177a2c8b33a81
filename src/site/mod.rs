//! Sites and Apps: namespaces, labels, finalizers, inventory; manifests applied, readiness told.
//!
//! This room must not delete anything, ever. It stands still while an entity is held, purged or
//! restored.
