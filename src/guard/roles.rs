//! The ClusterRoles for people. What they may do is bounded by the guard as well; the roles only
//! say who is asked in the first place.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::names;

/// The role of those who approve.
pub(super) const APPROVER: &str = "reprieve-approver";

const READ: &[&str] = &["get", "list", "watch"];

/// The roles for people: `reprieve-viewer` sees everything, `reprieve-requester` asks for
/// deletions and cancels them, `reprieve-approver` approves and rejects, `reprieve-restorer`
/// restores, `reprieve-policy-admin` sets the rules and upgrades the CRDs. Each includes what the
/// viewer may, which is to read our kinds and nothing else. Nobody needs a right to delete a Site.
pub fn people_roles() -> Vec<ClusterRole> {
    vec![
        role("reprieve-viewer", "Sees Sites, Apps, requests, backups and restores.", &[]),
        role(
            "reprieve-requester",
            "Asks for deletions, and cancels them.",
            &[("deletionrequests", &["create", "patch", "update", "delete"])],
        ),
        role(
            APPROVER,
            "Approves and rejects DeletionRequests of other people.",
            &[("deletionrequests", &[names::VERB_APPROVE, "patch"])],
        ),
        role(
            "reprieve-restorer",
            "Restores Sites and Apps, cancels restores, and tries them by drills.",
            &[
                ("restores", &["create", "patch", "update", "delete"]),
                ("restoredrills", &["create", "patch", "update", "delete"]),
            ],
        ),
        policy_admin(),
    ]
}

/// The verb `upgrade` alone changes no CRD: whoever installs has the rights to write them as well.
fn policy_admin() -> ClusterRole {
    let verbs = &["create", "patch", "update", "delete", names::VERB_WEAKEN];
    let mut role = role(
        "reprieve-policy-admin",
        "Sets DeletionPolicies, weaker ones too, and may change the CRDs of Reprieve.",
        &[("deletionpolicies", verbs)],
    );
    let upgrade = PolicyRule {
        api_groups: Some(vec!["apiextensions.k8s.io".to_owned()]),
        resources: Some(vec!["customresourcedefinitions".to_owned()]),
        verbs: vec![names::VERB_UPGRADE.to_owned()],
        ..PolicyRule::default()
    };
    role.rules.get_or_insert_default().push(upgrade);
    role
}

fn role(name: &str, description: &str, more: &[(&str, &[&str])]) -> ClusterRole {
    let rules = [("*", READ)].into_iter().chain(more.iter().copied());
    ClusterRole {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([("app.kubernetes.io/part-of".to_owned(), "reprieve".to_owned())].into()),
            annotations: Some(
                [("kubernetes.io/description".to_owned(), description.to_owned())].into(),
            ),
            ..ObjectMeta::default()
        },
        rules: Some(
            rules
                .map(|(resource, verbs)| PolicyRule {
                    api_groups: Some(vec![names::GROUP.to_owned()]),
                    resources: Some(vec![resource.to_owned()]),
                    verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
                    ..PolicyRule::default()
                })
                .collect(),
        ),
        ..ClusterRole::default()
    }
}
