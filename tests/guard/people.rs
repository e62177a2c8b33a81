//! The ClusterRoles for people, as the API server's own authorizer sees them.

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use reprieve::api::names;
use serde_json::json;

use super::{Cluster, eventually, object};

const KINDS: [&str; 6] =
    ["sites", "apps", "deletionrequests", "deletionpolicies", "backups", "restores"];

/// Whether somebody who has this role alone may do it. A resource of ours, or one with its group
/// behind an @.
async fn can(c: &Cluster, role: &str, verb: &str, resource: &str) -> bool {
    let (resource, group) = resource.split_once('@').unwrap_or((resource, names::GROUP));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review: SubjectAccessReview = object(json!({"spec": {
        "user": format!("only-{role}"),
        "resourceAttributes": {
            "group": group, "resource": resource, "subresource": subresource, "verb": verb,
        },
    }}));
    let api: Api<SubjectAccessReview> = Api::all(c.admin.clone());
    let review = api.create(&PostParams::default(), &review).await.expect("an answer");
    review.status.expect("a status").allowed
}

/// What each role may do beyond reading our kinds, and nothing else of what is tried.
const ROLES: [(&str, &[(&str, &str)]); 5] = [
    ("reprieve-viewer", &[]),
    (
        "reprieve-requester",
        &[
            ("create", "deletionrequests"),
            ("patch", "deletionrequests"),
            ("update", "deletionrequests"),
            // It is a cancel.
            ("delete", "deletionrequests"),
        ],
    ),
    (
        "reprieve-approver",
        &[("patch", "deletionrequests"), (names::VERB_APPROVE, "deletionrequests")],
    ),
    (
        "reprieve-restorer",
        &[
            ("create", "restores"),
            ("patch", "restores"),
            ("update", "restores"),
            ("delete", "restores"),
        ],
    ),
    (
        "reprieve-policy-admin",
        &[
            ("create", "deletionpolicies"),
            ("patch", "deletionpolicies"),
            ("update", "deletionpolicies"),
            ("delete", "deletionpolicies"),
            (names::VERB_WEAKEN, "deletionpolicies"),
            (names::VERB_UPGRADE, "customresourcedefinitions@apiextensions.k8s.io"),
        ],
    ),
];

/// Nobody of them reads what is not ours, Secrets above all, or takes on another's name.
const NEVER: [(&str, &str); 11] = [
    ("get", "secrets@"),
    ("list", "secrets@"),
    ("watch", "secrets@"),
    ("get", "pods@"),
    ("get", "configmaps@"),
    ("create", "pods/exec@"),
    ("create", "serviceaccounts/token@"),
    ("impersonate", "users@"),
    ("delete", "namespaces@"),
    ("delete", "customresourcedefinitions@apiextensions.k8s.io"),
    ("update", "customresourcedefinitions@apiextensions.k8s.io"),
];

pub async fn roles(c: &Cluster) {
    for (role, _) in ROLES {
        let binding: k8s_openapi::api::rbac::v1::ClusterRoleBinding = object(json!({
            "metadata": {"name": format!("only-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("only-{role}"),
            }],
        }));
        Api::all(c.admin.clone())
            .create(&PostParams::default(), &binding)
            .await
            .expect("a binding");
    }
    for (role, allowed) in ROLES {
        eventually("RBAC", async || can(c, role, "get", "sites").await).await;
        let verbs = ["create", "patch", "update", "delete", "deletecollection"];
        let special = [names::VERB_APPROVE, names::VERB_WEAKEN, names::VERB_UPGRADE];
        for kind in KINDS {
            for verb in ["get", "list", "watch"] {
                assert!(can(c, role, verb, kind).await, "{role}: {verb} {kind}");
            }
            for verb in verbs.into_iter().chain(special) {
                let expected = allowed.contains(&(verb, kind));
                assert_eq!(can(c, role, verb, kind).await, expected, "{role}: {verb} {kind}");
            }
            for verb in ["patch", "update"] {
                let status = format!("{kind}/status");
                assert!(!can(c, role, verb, &status).await, "{role}: {verb} {status}");
            }
        }
        let upgrade = (names::VERB_UPGRADE, "customresourcedefinitions@apiextensions.k8s.io");
        let expected = allowed.contains(&upgrade);
        assert_eq!(can(c, role, upgrade.0, upgrade.1).await, expected, "{role}: upgrade");
        for (verb, resource) in NEVER {
            assert!(!can(c, role, verb, resource).await, "{role}: {verb} {resource}");
        }
    }
}
