//! The digest of a plan, which approvals name. Pure.
//!
//! Canonical, so that a script can compute it again from `status.plan`; `docs/digest.md` has the
//! form and such a script. Nothing that changes by itself is in it: no times, no counts.

use serde_json::{Value, json};

use crate::api::{PlanEntity, PlanHead, TargetKind};
use crate::cluster::form::digest_of;

/// The digest over head and entities, as `sha256:<hexadecimal>`.
pub fn digest(head: &PlanHead, entities: &[PlanEntity]) -> String {
    let mut leaves: Vec<String> = entities.iter().map(leaf_digest).collect();
    leaves.sort();
    let mut text = line_digest(&json!(head));
    text.push('\n');
    for leaf in leaves {
        text.push_str(&leaf);
        text.push('\n');
    }
    digest_of(text.as_bytes())
}

/// The digest of what of an entity must not change between its plan and its purge.
pub fn leaf_digest(entity: &PlanEntity) -> String {
    line_digest(&leaf(entity))
}

/// What of an entity is covered: what it is, and everything that goes with it.
fn leaf(entity: &PlanEntity) -> Value {
    // Without `..`: a new field must be decided on here.
    let PlanEntity {
        kind,
        id,
        name,
        uid,
        tenant,
        priority: _,
        namespaces,
        apps,
        site,
        applied,
        objects: _,
        bytes: _,
        claims: _,
        unprotected: _,
        disks: _,
        runs_on: _,
        scratch: _,
        last_backup: _,
        last_drill: _,
        phase: _,
        wave: _,
        backup: _,
        purged_time: _,
    } = entity;
    let mut leaf = json!({
        "kind": kind,
        "id": id,
        "name": name,
        "uid": uid,
        "tenant": tenant,
        "namespaces": namespaces,
        "apps": apps,
    });
    if *kind == TargetKind::App {
        leaf["site"] = json!(site);
        leaf["applied"] = json!(applied);
    }
    leaf
}

/// `serde_json` sorts the keys of its maps, which makes the line canonical.
fn line_digest(value: &Value) -> String {
    digest_of(value.to_string().as_bytes())
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
