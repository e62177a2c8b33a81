//! The guard as manifests that an API server loads from its own disk, which nobody can change
//! through the API, not even `system:masters`. Kubernetes 1.37 and later.

use serde_json::{Value, json};

use super::object::{GuardKind, GuardObject, GuardPolicy};
use super::policies;

/// How names of policies and bindings from disk must end.
pub const STATIC_SUFFIX: &str = ".static.k8s.io";
/// The folder that the sample configuration names.
const FOLDER: &str = "/etc/kubernetes/reprieve";

/// The policy and the binding of each rule in the form for the API server's disk, and the folder
/// that they belong in: one for policies that refuse, one for those that fill in.
pub fn static_objects() -> Vec<(&'static str, String, [Value; 2])> {
    policies()
        .into_iter()
        .map(|GuardPolicy { policy, binding, .. }| {
            let folder = match policy.kind {
                GuardKind::ValidatingAdmissionPolicy
                | GuardKind::ValidatingAdmissionPolicyBinding => "validating",
                GuardKind::MutatingAdmissionPolicy | GuardKind::MutatingAdmissionPolicyBinding => {
                    "mutating"
                }
            };
            let mut bound = named(&binding);
            bound["spec"]["policyName"] = json!(format!("{}{STATIC_SUFFIX}", policy.name));
            (folder, policy.name.clone(), [named(&policy), bound])
        })
        .collect()
}

fn named(object: &GuardObject) -> Value {
    let mut value = object.object.clone();
    value["metadata"]["name"] = json!(format!("{}{STATIC_SUFFIX}", object.name));
    value
}

/// What the API server is told, by `--admission-control-config-file`.
pub fn admission_configuration() -> Value {
    let plugin = |name: &str, folder: &str| {
        json!({
            "name": name,
            "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": format!("{name}Configuration"),
                "staticManifestsDir": format!("{FOLDER}/{folder}"),
            },
        })
    };
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [
            plugin("ValidatingAdmissionPolicy", "validating"),
            plugin("MutatingAdmissionPolicy", "mutating"),
        ],
    })
}
