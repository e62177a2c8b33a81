//! The operator's own rights, each with its reason, and the rights of Apps.
//!
//! A backup reads whatever is in a site and a restore creates it, so that the operator must be able
//! to read and create every kind, those included that are not known when it is installed. What it
//! may delete is named one by one.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::{Value, json};

use crate::api::names;

/// Name of the operator's ClusterRole and of its binding.
const ROLE: &str = "reprieve-operator";
/// Label by which a platform adds its own kinds to what Apps may hold.
const AGGREGATE_TO_APP: &str = "reprieve.dev/aggregate-to-app";

/// One right and why the operator has it.
struct Right {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
}

const RIGHTS: &[Right] = &[
    Right {
        groups: &["*"],
        resources: &["*"],
        verbs: &["get", "list", "watch", "create", "patch"],
        why: "a backup reads every kind that a site holds, a restore creates it and puts owner references back",
    },
    Right {
        groups: &["reprieve.dev"],
        resources: &["sites", "apps"],
        verbs: &["delete"],
        why: "the purge; the guard allows it only for what is being purged for a request",
    },
    Right {
        groups: &[""],
        resources: &["namespaces"],
        verbs: &["delete"],
        why: "the purge; the guard allows it only for what is being purged for a request",
    },
    Right {
        groups: &[""],
        resources: &["serviceaccounts"],
        verbs: &["impersonate"],
        why: "an App is applied as its own account, so that nobody can do through it what that account may not",
    },
    Right {
        groups: &["rbac.authorization.k8s.io"],
        resources: &["clusterroles"],
        verbs: &["bind"],
        why: "binds reprieve-app in each site namespace, and restores a site's own bindings",
    },
    Right {
        groups: &["rbac.authorization.k8s.io"],
        resources: &["roles"],
        verbs: &["bind", "escalate"],
        why: "restores a site's own roles and bindings, whatever they grant inside its namespaces",
    },
];

/// Everything that gives the operator its rights: namespace, account, role, binding, and the role
/// of Apps. In this order they can be applied.
pub fn operator_rbac() -> Vec<Value> {
    let account = json!(ServiceAccount {
        metadata: ObjectMeta {
            name: Some(names::OPERATOR_ACCOUNT.to_owned()),
            namespace: Some(names::OPERATOR_NAMESPACE.to_owned()),
            ..Default::default()
        },
        ..Default::default()
    });
    let namespace =
        json!(Namespace { metadata: named(names::OPERATOR_NAMESPACE), ..Default::default() });
    vec![namespace, account, json!(operator_role()), json!(operator_binding()), json!(app_role())]
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}

fn operator_role() -> ClusterRole {
    let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let rules = RIGHTS.iter().map(|right| PolicyRule {
        api_groups: Some(strings(right.groups)),
        resources: Some(strings(right.resources)),
        verbs: strings(right.verbs),
        ..Default::default()
    });
    let why = RIGHTS.iter().map(|right| {
        format!("{} {}: {}", right.verbs.join(","), right.resources.join(","), right.why)
    });
    let mut metadata = named(ROLE);
    let reasons = why.collect::<Vec<_>>().join("\n");
    metadata.annotations = Some([("reprieve.dev/why".to_owned(), reasons)].into());
    ClusterRole { metadata, rules: Some(rules.collect()), aggregation_rule: None }
}

fn operator_binding() -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: named(ROLE),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::OPERATOR_ACCOUNT.to_owned(),
            namespace: Some(names::OPERATOR_NAMESPACE.to_owned()),
            ..Default::default()
        }]),
    }
}

/// What Apps may hold: what a namespace's admin may, and what the platform adds.
fn app_role() -> ClusterRole {
    let selector = |label: &str| LabelSelector {
        match_labels: Some([(label.to_owned(), "true".to_owned())].into()),
        ..Default::default()
    };
    ClusterRole {
        metadata: named(names::APP_ACCOUNT),
        aggregation_rule: Some(AggregationRule {
            cluster_role_selectors: Some(vec![
                selector("rbac.authorization.k8s.io/aggregate-to-admin"),
                selector(AGGREGATE_TO_APP),
            ]),
        }),
        rules: None,
    }
}
