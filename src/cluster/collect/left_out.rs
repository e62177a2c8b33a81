//! What of a site is not in its backups, in one place. Everything else that can be listed, read,
//! and created or deleted is somebody's data. The table for people is in `docs/archive-format.md`.

use serde_json::Value;

use crate::api::names;
use crate::cluster::form::group_of;

/// Kinds whose objects the cluster makes about other objects, never anybody as data.
const NEVER_DATA: [(&str, &str); 5] = [
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("coordination.k8s.io", "Lease"),
    ("coordination.k8s.io", "LeaseCandidate"),
    ("metrics.k8s.io", "PodMetrics"),
];

/// Cluster-scoped kinds that are in no backup even where an object has a site's label: a site's
/// namespaces are in by their names, its disks are protected by being kept, CustomResourceDefinitions
/// are the cluster's and only named by a restore that misses them, and ours are about sites.
fn is_of_the_cluster(group: &str, kind: &str) -> bool {
    match (group, kind) {
        ("", "Namespace" | "Node" | "PersistentVolume")
        | ("snapshot.storage.k8s.io", "VolumeSnapshotContent")
        | ("storage.k8s.io", "VolumeAttachment" | "CSINode")
        | ("apiextensions.k8s.io", "CustomResourceDefinition")
        | ("apiregistration.k8s.io", "APIService")
        | ("certificates.k8s.io", "CertificateSigningRequest") => true,
        (group, _) => group == names::GROUP,
    }
}

/// Whether a site's backup can hold objects of this kind.
pub fn is_data(group: &str, kind: &str, namespaced: bool) -> bool {
    !NEVER_DATA.contains(&(group, kind)) && (namespaced || !is_of_the_cluster(group, kind))
}

/// Whether a controller derives this object from others, and would make it anew.
pub fn is_derived(live: &Value) -> bool {
    let labels = &live["metadata"]["labels"];
    match (group_of(live), live["kind"].as_str().unwrap_or_default()) {
        // Made by a workload's controller; those that stand alone are data.
        ("", "Pod") | ("apps", "ReplicaSet" | "ControllerRevision") => controller(live).is_some(),
        // Those of hooks are the operator's, and must not run again after a restore.
        ("batch", "Job") => {
            controller(live) == Some("CronJob") || !labels[names::LABEL_HOOK].is_null()
        }
        // Made with a Pod, and named after it: generic ephemeral volumes.
        ("", "PersistentVolumeClaim") | ("resource.k8s.io", "ResourceClaim") => {
            controller(live) == Some("Pod")
        }
        // By a Service with a selector; those of a Service without one are data.
        ("", "Endpoints") => !labels["endpoints.kubernetes.io/managed-by"].is_null(),
        ("discovery.k8s.io", "EndpointSlice") => {
            let by = labels["endpointslice.kubernetes.io/managed-by"].as_str().unwrap_or_default();
            by.ends_with("-controller.k8s.io")
        }
        ("", "Secret") => live["type"] == "kubernetes.io/service-account-token",
        ("", "ConfigMap") => live["metadata"]["name"] == "kube-root-ca.crt",
        _ => false,
    }
}

/// The kind of the object that controls this one.
fn controller(live: &Value) -> Option<&str> {
    let owners = live["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["kind"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_controllers_derive() {
        let owned = |api_version: &str, kind: &str, owner: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "ownerReferences": [{"kind": owner, "controller": true}]}});
        let plain = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        let slice = |by: &str| json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": by}}});
        let rows = [
            (owned("v1", "Pod", "ReplicaSet"), true),
            (plain("v1", "Pod"), false),
            (owned("apps/v1", "ReplicaSet", "Deployment"), true),
            (plain("apps/v1", "ReplicaSet"), false),
            (owned("apps/v1", "ControllerRevision", "StatefulSet"), true),
            (owned("batch/v1", "Job", "CronJob"), true),
            (owned("batch/v1", "Job", "Pipeline"), false),
            (plain("batch/v1", "Job"), false),
            (
                json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"labels": {"reprieve.dev/hook": "dump"}}}),
                true,
            ),
            (owned("v1", "PersistentVolumeClaim", "Pod"), true),
            (owned("v1", "PersistentVolumeClaim", "StatefulSet"), false),
            (owned("v1", "ConfigMap", "Database"), false),
            (slice("endpointslice-controller.k8s.io"), true),
            (slice("endpointslicemirroring-controller.k8s.io"), true),
            (slice("somebody"), false),
            (
                json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token"}),
                true,
            ),
            (json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque"}), false),
            (
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}}),
                true,
            ),
        ];
        for (live, expected) in rows {
            assert_eq!(is_derived(&live), expected, "{live}");
        }
    }

    #[test]
    fn which_kinds_are_data() {
        let rows = [
            ("", "ConfigMap", true, true),
            ("", "Event", true, false),
            ("events.k8s.io", "Event", true, false),
            ("coordination.k8s.io", "Lease", true, false),
            ("rbac.authorization.k8s.io", "ClusterRole", false, true),
            ("example.com", "Planet", false, true),
            ("", "Namespace", false, false),
            ("", "PersistentVolume", false, false),
            ("apiextensions.k8s.io", "CustomResourceDefinition", false, false),
            ("reprieve.dev", "Backup", false, false),
            ("reprieve.dev", "App", true, true),
        ];
        for (group, kind, namespaced, expected) in rows {
            assert_eq!(is_data(group, kind, namespaced), expected, "{group} {kind}");
        }
    }
}
