//! Drills: the room for restores that are tried on schedule, in scratch namespaces.
//!
//! It is empty: nothing is drilled yet. What comes here must have no effect outside the scratch
//! namespaces.
