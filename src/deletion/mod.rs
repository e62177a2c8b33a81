//! DeletionRequests: plan, gates, hold, purge, release.
//!
//! This is the only room that deletes, and it deletes only with a token that the gates make. It
//! must not decide on a cache: every fact behind an irreversible step is a live read.
