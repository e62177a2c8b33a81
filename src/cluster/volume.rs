//! Whether the volume that a claim names is its own. Pure.

use k8s_openapi::api::core::v1::PersistentVolume;

/// What is wrong with the volume of this name for the claim that names it, in words; none: it is
/// there and is the claim's. Names count, and not UIDs: a claim that comes back has another one.
pub fn not_its_own(
    name: &str,
    volume: Option<&PersistentVolume>,
    namespace: &str,
    claim: &str,
) -> Option<String> {
    let Some(volume) = volume else {
        return Some(format!("its disk {name} is gone: there is no such PersistentVolume"));
    };
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Some(format!(
            "its disk {name} names no claim any more (spec.claimRef), and is left to whoever it is for"
        ));
    };
    let (of, other) = (reference.namespace.as_deref(), reference.name.as_deref());
    if (of, other) == (Some(namespace), Some(claim)) {
        return None;
    }
    Some(format!(
        "its disk {name} is bound to the claim {}/{} meanwhile, and is left to it",
        of.unwrap_or_default(),
        other.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_volume_that_names_the_claim_is_its_own() {
        let volume = |reference: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"spec": {"claimRef": reference}})).unwrap()
        };
        let own = volume(json!({"namespace": "acme", "name": "data", "uid": "old"}));
        assert_eq!(not_its_own("d", Some(&own), "acme", "data"), None);
        let rows = [
            (None, "is gone"),
            (Some(volume(json!(null))), "names no claim"),
            (Some(volume(json!({"namespace": "bolt", "name": "data"}))), "claim bolt/data"),
            (Some(volume(json!({"namespace": "acme", "name": "other"}))), "claim acme/other"),
        ];
        for (volume, words) in rows {
            let why = not_its_own("d", volume.as_ref(), "acme", "data").unwrap();
            assert!(why.contains(words) && why.contains("disk d"), "{why}");
        }
    }
}
