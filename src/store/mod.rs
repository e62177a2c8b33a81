//! The archive of a site's objects and the object store in which it lies.
//!
//! This room must not talk to a cluster: what goes into an archive is handed to it.
