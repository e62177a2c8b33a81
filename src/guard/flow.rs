//! The operator's place in the API server's priority and fairness: a mass restore has a share of
//! its own and cannot take that of the tenants' clients; the operator's lease is in the share of
//! leader election, where no restore is before it.

use serde_json::{Value, json};

use crate::api::names;

/// Name of the priority level and of the flow schema.
const NAME: &str = "reprieve";
/// Name of the flow schema of the lease.
const LEASE: &str = "reprieve-lease";
/// The share, next to 100 of the cluster's `workload-low` and 40 of `workload-high`.
const SHARES: i64 = 30;
/// Of its share, what others may use while the operator does not, in percent.
const LENDABLE: i64 = 90;
/// What it may use of others' unused shares, in percent of its own.
const BORROWING: i64 = 100;

/// The priority level and the flow schemas. In this order they can be applied.
pub fn operator_flow() -> Vec<Value> {
    let api_version = "flowcontrol.apiserver.k8s.io/v1";
    let subject = json!({
        "kind": "ServiceAccount",
        "serviceAccount": { "name": names::OPERATOR_ACCOUNT, "namespace": names::OPERATOR_NAMESPACE },
    });
    let schema = |name: &str, level: &str, precedence: i64, rule: Value| {
        let mut rule = rule;
        rule["subjects"] = json!([subject]);
        json!({
            "apiVersion": api_version, "kind": "FlowSchema", "metadata": { "name": name },
            "spec": {
                "priorityLevelConfiguration": { "name": level },
                "matchingPrecedence": precedence,
                // One queue for each namespace: a large site does not hold up a small one.
                "distinguisherMethod": { "type": "ByNamespace" },
                "rules": [rule],
            },
        })
    };
    let lease = json!({ "resourceRules": [{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"],
        "namespaces": [names::OPERATOR_NAMESPACE],
    }]});
    let all = json!({
        "resourceRules": [{
            "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "namespaces": ["*"],
            "clusterScope": true,
        }],
        "nonResourceRules": [{ "nonResourceURLs": ["*"], "verbs": ["*"] }],
    });
    let level = json!({
        "apiVersion": api_version, "kind": "PriorityLevelConfiguration",
        "metadata": { "name": NAME },
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": SHARES,
                "lendablePercent": LENDABLE,
                "borrowingLimitPercent": BORROWING,
                "limitResponse": {
                    "type": "Queue",
                    "queuing": { "queues": 32, "handSize": 4, "queueLengthLimit": 50 },
                },
            },
        },
    });
    // Before `service-accounts` (9000), which all accounts share.
    vec![level, schema(NAME, NAME, 900, all), schema(LEASE, "leader-election", 150, lease)]
}
