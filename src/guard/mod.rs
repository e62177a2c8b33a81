//! The guard: the admission policies that keep everybody, cluster administrators included, on the
//! road of a DeletionRequest, as data built from the same constants as the kinds.
//!
//! This room must not talk to a cluster: installing the guard and comparing it with what is live
//! is done elsewhere, from what is built here. Every policy fails closed, takes no parameters (so
//! that it can also be loaded from the API server's disk) and knows no exempt user or group; the
//! operator itself is bound by all of them. The rules of one subject stand in one file:
//!
//! - `entities`: Sites, Apps and what marks them; every status.
//! - `kinds`: our CustomResourceDefinitions.
//! - `namespaces`: the namespaces of sites.
//! - `kept`: Backups, volumes that are kept, and the ledger of purges.
//! - `drills`: Restores of drills.
//! - `requests`: approvals, rejections and the requester of DeletionRequests.
//! - `weaken`: DeletionPolicies.
//! - `accounts`: the operator's account, and those by which Apps are applied.
//!
//! Beside the policies: the operator's own rights (`operator`), the roles of people (`roles`), and the
//! operator's share of the API server (`flow`).
//!
//! To add a rule, add a [`Policy`](object::Policy) to one of them, a line to [`policies`], and
//! lines to `tests/guard/table.rs`.

mod accounts;
mod cel;
mod compare;
mod drills;
mod entities;
mod flow;
mod guide;
mod kept;
mod kinds;
mod namespaces;
mod object;
mod operator;
mod probe;
mod requests;
mod roles;
mod static_form;
mod weaken;

pub use compare::{Difference, difference};
pub use flow::operator_flow;
pub use guide::guide;
pub use object::{GuardKind, GuardObject, GuardPolicy, GuardRule};
pub use operator::{Need, explained_rights, operator_needs, operator_rbac};
pub use probe::{Probe, ProbeRequest, is_denied_by, probes};
pub use roles::people_roles;
pub use static_form::{STATIC_SUFFIX, admission_configuration, static_objects};

/// Names of the policies; each binding has the name of its policy.
pub mod policy {
    /// DELETE of Sites and Apps.
    pub const DELETE_ENTITIES: &str = "reprieve-delete-entities";
    /// DELETE of the namespaces of sites.
    pub const DELETE_NAMESPACES: &str = "reprieve-delete-namespaces";
    /// The label, the annotation and the finalizers by which a site's namespace is known and kept.
    pub const NAMESPACE_MARKS: &str = "reprieve-namespace-marks";
    /// DELETE of our CustomResourceDefinitions.
    pub const DELETE_CRDS: &str = "reprieve-delete-crds";
    /// UPDATE of our CustomResourceDefinitions.
    pub const CHANGE_CRDS: &str = "reprieve-change-crds";
    /// DELETE of Backups.
    pub const DELETE_BACKUPS: &str = "reprieve-delete-backups";
    /// Volumes that are kept for a Site.
    pub const KEPT_VOLUMES: &str = "reprieve-kept-volumes";
    /// The ledger of purges, by which the rolling limit goes.
    pub const PURGE_LEDGER: &str = "reprieve-purge-ledger";
    /// Our finalizer.
    pub const FINALIZERS: &str = "reprieve-finalizers";
    /// Owner references, by which the garbage collector could be made to delete.
    pub const OWNER_REFERENCES: &str = "reprieve-owner-references";
    /// Every status.
    pub const STATUS: &str = "reprieve-status";
    /// The annotation that keeps reconcilers still during a restore.
    pub const RESTORE_MARK: &str = "reprieve-restore-mark";
    /// Restores into scratch namespaces, which only drills make.
    pub const DRILL_RESTORES: &str = "reprieve-drill-restores";
    /// Approvals and rejections.
    pub const APPROVALS: &str = "reprieve-approvals";
    /// Who asked for a deletion.
    pub const REQUESTED_BY: &str = "reprieve-requested-by";
    /// Making a DeletionPolicy weaker.
    pub const WEAKEN: &str = "reprieve-weaken";
    /// Pointing a Site at another DeletionPolicy.
    pub const POLICY_REFS: &str = "reprieve-policy-refs";
    /// Tokens of the operator's account.
    pub const OPERATOR_TOKENS: &str = "reprieve-operator-tokens";
    /// Token Secrets of the operator's account.
    pub const OPERATOR_SECRETS: &str = "reprieve-operator-secrets";
    /// Ways into the operator's pods.
    pub const OPERATOR_PODS: &str = "reprieve-operator-pods";
    /// What the operator does not do, though its rights would allow it.
    pub const OPERATOR_LIMITS: &str = "reprieve-operator-limits";
    /// Service accounts by which Apps are applied.
    pub const APP_ACCOUNTS: &str = "reprieve-app-accounts";
    /// Impersonation of the operator (optional).
    pub const OPERATOR_CREDENTIAL: &str = "reprieve-operator-credential";
    /// Writes down who asked for a deletion (mutating; where the cluster has such policies).
    pub const SET_REQUESTED_BY: &str = "reprieve-set-requested-by";
}

/// Every policy with its binding, in the order in which they are written to files and installed.
pub fn policies() -> Vec<GuardPolicy> {
    vec![
        entities::delete_entities(),
        kinds::delete_crds(),
        kinds::change_crds(),
        entities::finalizers(),
        entities::owner_references(),
        entities::status(),
        entities::restore_mark(),
        namespaces::delete_namespaces(),
        namespaces::marks(),
        kept::delete_backups(),
        kept::kept_volumes(),
        kept::purge_ledger(),
        drills::restores(),
        requests::approvals(),
        requests::requested_by(),
        requests::set_requested_by(),
        weaken::weaken(),
        weaken::policy_refs(),
        accounts::operator_tokens(),
        accounts::operator_secrets(),
        accounts::operator_pods(),
        accounts::operator_limits(),
        accounts::app_accounts(),
    ]
}

/// Policies that a platform may add, where its cluster allows: not installed by default, and not
/// asked for by the operator.
pub fn optional_policies() -> Vec<GuardPolicy> {
    vec![accounts::operator_credential()]
}

/// Every object of the guard: what the operator compares with what is live.
pub fn objects() -> Vec<GuardObject> {
    policies().into_iter().flat_map(|policy| [policy.policy, policy.binding]).collect()
}

#[cfg(test)]
mod tests;
