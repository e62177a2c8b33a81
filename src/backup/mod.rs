//! Backups: a site's objects, found by discovery, written to the store and read back.
//!
//! This room must not change anything of a site.
