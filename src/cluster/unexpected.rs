//! The DeletionRequest for an entity that was deleted past the guard: how it is named, and how it
//! is known again. Two rooms need it: the one that opens it, and the one that carries it out.

use kube::ResourceExt;

use super::form::digest_of;
use crate::api::{DeletionRequest, TargetKind, names};

/// The longest part of an entity's name that the name of its request repeats.
const LONGEST: usize = 63;

/// The name of the request for this entity: the same after a crash, so that no second one is made,
/// and another one for a later entity of the same name.
pub fn request_name(kind: TargetKind, name: &str, uid: &str) -> String {
    let digest = digest_of(format!("{kind}/{name}/{uid}").as_bytes());
    let short = digest.trim_start_matches("sha256:").get(..10).unwrap_or_default();
    let readable: String = name.chars().take(LONGEST).collect();
    let readable = readable.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    let kind = kind.to_string().to_lowercase();
    format!("unexpected-delete-{kind}-{readable}-{short}")
}

/// Whether this is the operator's own request for exactly this entity, deleted past the guard.
pub fn asks_for(
    request: &DeletionRequest,
    kind: TargetKind,
    id: &str,
    name: &str,
    uid: &str,
) -> bool {
    let target = &request.spec.target;
    let by = request.annotations().get(names::ANNOTATION_REQUESTED_BY);
    request.name_any() == request_name(kind, name, uid)
        && by.is_some_and(|by| by == names::OPERATOR_USER)
        && target.kind == kind
        && target.ids.iter().map(String::as_str).eq([id])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_of_one_entity_alone() {
        let name = request_name(TargetKind::Site, "acme", "u1");
        let request = |name: &str, by: &str, ids: &[&str]| -> DeletionRequest {
            serde_json::from_value(json!({
                "apiVersion": names::API_VERSION, "kind": "DeletionRequest",
                "metadata": { "name": name, "annotations": { (names::ANNOTATION_REQUESTED_BY): by } },
                "spec": { "target": { "kind": "Site", "ids": ids }, "reason": "x" },
            }))
            .unwrap()
        };
        let is = |request: &DeletionRequest, uid: &str| {
            asks_for(request, TargetKind::Site, "site-1", "acme", uid)
        };
        let own = request(&name, names::OPERATOR_USER, &["site-1"]);
        assert!(is(&own, "u1"));
        assert!(!is(&own, "u2"), "a later Site of the name");
        assert!(!asks_for(&own, TargetKind::App, "site-1", "acme", "u1"));
        assert!(!is(&request(&name, "mallory", &["site-1"]), "u1"));
        assert!(!is(&request("by-hand", names::OPERATOR_USER, &["site-1"]), "u1"));
        assert!(!is(&request(&name, names::OPERATOR_USER, &["site-1", "site-2"]), "u1"));
    }

    #[test]
    fn any_name_gives_a_name() {
        let long = format!("{}.{}", "a".repeat(62), "b".repeat(100));
        let name = request_name(TargetKind::App, &long, "u");
        assert!(name.len() < 120 && !name.contains('.'), "{name}");
        assert_ne!(name, request_name(TargetKind::App, &long, "v"));
    }
}
