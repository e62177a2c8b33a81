//! The operator's own rights, each with its reason, and the rights of Apps.
//!
//! A backup reads whatever is in a site and a restore creates it, so that the operator must be able
//! to read and create every kind, those included that are not known when it is installed. What it
//! may delete or update is named one by one.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef,
    Subject,
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
        why: "a backup reads every kind that a site holds, a restore creates it and puts owner references back; what Apps hold is watched, so that drift is corrected",
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
        groups: &["reprieve.dev"],
        resources: &["backups"],
        verbs: &["delete"],
        why: "of a site's Backups the last three stay as objects, and none whose archive has expired",
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

/// The operator's rights in its own namespace.
const OWN_RIGHTS: &[Right] = &[Right {
    groups: &["coordination.k8s.io"],
    resources: &["leases"],
    verbs: &["update"],
    why: "holds the lease by which one of several operators works",
}];

/// One thing that the operator must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural of the kind, `*` for all.
    pub resource: &'static str,
    /// The verb.
    pub verb: &'static str,
    /// Where; absent: everywhere.
    pub namespace: Option<&'static str>,
    /// Which; absent: every one.
    pub name: Option<&'static str>,
}

/// Everything that the operator must be allowed to do, one by one.
pub fn operator_needs() -> Vec<Need> {
    let own = OWN_RIGHTS.iter().map(|r| (r, Some(names::OPERATOR_NAMESPACE), Some(names::LEASE)));
    let all = RIGHTS.iter().map(|right| (right, None, None)).chain(own);
    let mut needs = vec![];
    for (right, namespace, name) in all {
        for &group in right.groups {
            for &resource in right.resources {
                for &verb in right.verbs {
                    needs.push(Need { group, resource, verb, namespace, name });
                }
            }
        }
    }
    needs
}

/// The operator's rights for people: verbs, what they are on, and why.
pub fn explained_rights() -> Vec<(String, String, &'static str)> {
    let on = |right: &Right, place: &str| {
        let groups = right.groups.join(",");
        let resources = right.resources.join(", ");
        let of = if groups.is_empty() || groups == "*" { "" } else { &*format!(" ({groups})") };
        format!("{resources}{of}{place}")
    };
    let place = format!(" `{}` in `{}`", names::LEASE, names::OPERATOR_NAMESPACE);
    let all = RIGHTS.iter().map(|right| (right, String::new()));
    let own = OWN_RIGHTS.iter().map(|right| (right, place.clone()));
    all.chain(own).map(|(r, place)| (r.verbs.join(", "), on(r, &place), r.why)).collect()
}

/// Everything that gives the operator its rights: namespace, account, roles, bindings, and the role
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
    vec![
        namespace,
        account,
        json!(operator_role()),
        json!(operator_binding()),
        json!(own_role()),
        json!(own_binding()),
        json!(app_role()),
    ]
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}

fn rules(rights: &[Right], names: Option<&str>) -> Vec<PolicyRule> {
    let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let rule = |right: &Right| PolicyRule {
        api_groups: Some(strings(right.groups)),
        resources: Some(strings(right.resources)),
        resource_names: names.map(|name| strings(&[name])),
        verbs: strings(right.verbs),
        ..Default::default()
    };
    rights.iter().map(rule).collect()
}

/// The reasons of these rights, one a line, as an annotation.
fn explained(mut metadata: ObjectMeta, rights: &[Right]) -> ObjectMeta {
    let why = rights.iter().map(|right| {
        format!("{} {}: {}", right.verbs.join(","), right.resources.join(","), right.why)
    });
    let reasons = why.collect::<Vec<_>>().join("\n");
    metadata.annotations = Some([("reprieve.dev/why".to_owned(), reasons)].into());
    metadata
}

fn operator_role() -> ClusterRole {
    let metadata = explained(named(ROLE), RIGHTS);
    ClusterRole { metadata, rules: Some(rules(RIGHTS, None)), aggregation_rule: None }
}

fn own_role() -> Role {
    let metadata = explained(of_operator(), OWN_RIGHTS);
    Role { metadata, rules: Some(rules(OWN_RIGHTS, Some(names::LEASE))) }
}

fn of_operator() -> ObjectMeta {
    let namespace = Some(names::OPERATOR_NAMESPACE.to_owned());
    ObjectMeta { namespace, ..named(ROLE) }
}

fn role_ref(kind: &str) -> RoleRef {
    RoleRef {
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        kind: kind.to_owned(),
        name: ROLE.to_owned(),
    }
}

fn operator_subject() -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: names::OPERATOR_ACCOUNT.to_owned(),
        namespace: Some(names::OPERATOR_NAMESPACE.to_owned()),
        ..Default::default()
    }
}

fn own_binding() -> RoleBinding {
    RoleBinding {
        metadata: of_operator(),
        role_ref: role_ref("Role"),
        subjects: Some(vec![operator_subject()]),
    }
}

fn operator_binding() -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: named(ROLE),
        role_ref: role_ref("ClusterRole"),
        subjects: Some(vec![operator_subject()]),
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
