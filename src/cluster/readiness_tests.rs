//! The table tests of `readiness`.

use super::*;
use serde_json::json;

/// `apiVersion`, `kind`, metadata, spec, status, and what is expected: `None` for ready, or a
/// part of the reason.
type Row = (&'static str, &'static str, Value, Value, Value, Option<&'static str>);

fn check(rows: Vec<Row>) {
    for (api_version, kind, metadata, spec, status, expected) in rows {
        let object = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": metadata, "spec": spec, "status": status,
        });
        let found = readiness(&object);
        match (expected, &found) {
            (None, Readiness::Ready) => {}
            (Some(part), Readiness::NotReady(why)) if why.contains(part) => {}
            _ => panic!("expected {expected:?}, found {found:?} for {object}"),
        }
    }
}

#[test]
fn workloads() {
    let none = || json!({});
    let three = || json!({"replicas": 3});
    check(vec![
        ("apps/v1", "Deployment", none(), none(), none(), Some("not seen it")),
        (
            "apps/v1",
            "Deployment",
            json!({"generation": 2}),
            three(),
            json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "readyReplicas": 3}),
            Some("last change"),
        ),
        (
            "apps/v1",
            "Deployment",
            json!({"generation": 2}),
            three(),
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "readyReplicas": 3}),
            None,
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            three(),
            json!({"observedGeneration": 1, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 3, "readyReplicas": 3}),
            Some("1 old"),
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            three(),
            json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2, "readyReplicas": 2}),
            Some("2 of 3 replicas available"),
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            three(),
            json!({"observedGeneration": 1, "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}),
            Some("ProgressDeadlineExceeded"),
        ),
        (
            "apps/v1",
            "Deployment",
            none(),
            json!({"replicas": 0}),
            json!({"observedGeneration": 1}),
            None,
        ),
        (
            "apps/v1",
            "StatefulSet",
            none(),
            json!({"updateStrategy": {"type": "OnDelete"}}),
            none(),
            None,
        ),
        (
            "apps/v1",
            "StatefulSet",
            none(),
            three(),
            json!({"observedGeneration": 1, "replicas": 3, "readyReplicas": 1}),
            Some("1 of 3 replicas ready"),
        ),
        (
            "apps/v1",
            "StatefulSet",
            none(),
            three(),
            json!({"observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "currentRevision": "a", "updateRevision": "b"}),
            Some("rolling out"),
        ),
        (
            "apps/v1",
            "StatefulSet",
            none(),
            three(),
            json!({"observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "currentRevision": "a", "updateRevision": "a"}),
            None,
        ),
        (
            "apps/v1",
            "DaemonSet",
            none(),
            none(),
            json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2, "numberReady": 2}),
            None,
        ),
        (
            "apps/v1",
            "DaemonSet",
            none(),
            none(),
            json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1}),
            Some("1 of 2"),
        ),
        (
            "apps/v1",
            "ReplicaSet",
            none(),
            json!({"replicas": 2}),
            json!({"observedGeneration": 1, "replicas": 2, "availableReplicas": 2, "readyReplicas": 2}),
            None,
        ),
        (
            "apps/v1",
            "ReplicaSet",
            none(),
            json!({"replicas": 1}),
            json!({"observedGeneration": 1, "replicas": 2}),
            Some("too many"),
        ),
    ]);
}

#[test]
fn the_rest() {
    let none = || json!({});
    check(vec![
        ("batch/v1", "Job", none(), none(), none(), Some("not started")),
        ("batch/v1", "Job", none(), none(), json!({"startTime": "x"}), None),
        ("batch/v1", "Job", none(), json!({"suspend": true}), none(), None),
        (
            "batch/v1",
            "Job",
            none(),
            none(),
            json!({"startTime": "x", "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}),
            Some("BackoffLimitExceeded"),
        ),
        ("v1", "Pod", none(), none(), json!({"phase": "Succeeded"}), None),
        (
            "v1",
            "Pod",
            none(),
            none(),
            json!({"phase": "Failed", "reason": "Evicted"}),
            Some("Evicted"),
        ),
        (
            "v1",
            "Pod",
            none(),
            none(),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
            None,
        ),
        (
            "v1",
            "Pod",
            none(),
            none(),
            json!({"phase": "Pending", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
            Some("ImagePullBackOff"),
        ),
        (
            "v1",
            "Pod",
            none(),
            none(),
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
            Some("Unschedulable"),
        ),
        ("v1", "PersistentVolumeClaim", none(), none(), json!({"phase": "Bound"}), None),
        ("v1", "PersistentVolumeClaim", none(), none(), json!({"phase": "Lost"}), Some("Lost")),
        ("v1", "Service", none(), json!({"type": "ClusterIP"}), none(), None),
        ("v1", "Service", none(), json!({"type": "LoadBalancer"}), none(), Some("load balancer")),
        (
            "v1",
            "Service",
            none(),
            json!({"type": "LoadBalancer"}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
            None,
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            none(),
            none(),
            none(),
            Some("established"),
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            none(),
            none(),
            json!({"conditions": [{"type": "Established", "status": "True"}]}),
            None,
        ),
        ("v1", "ConfigMap", none(), none(), none(), None),
        (
            "v1",
            "ConfigMap",
            json!({"deletionTimestamp": "x"}),
            none(),
            none(),
            Some("being deleted"),
        ),
        (
            "example.com/v1",
            "Database",
            none(),
            none(),
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Creating"}]}),
            Some("Creating"),
        ),
        (
            "example.com/v1",
            "Database",
            none(),
            none(),
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            None,
        ),
        (
            "example.com/v1",
            "Database",
            json!({"generation": 3}),
            none(),
            json!({"observedGeneration": 2}),
            Some("last change"),
        ),
    ]);
}

#[test]
fn what_has_ended() {
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    assert!(is_finished(&job));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"}});
    assert!(!is_finished(&pod));
}
