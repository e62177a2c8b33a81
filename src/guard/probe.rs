//! Probes: requests that the operator sends as dry runs and that must bounce. They show that a
//! policy is not only there and as generated, but in force.

use serde_json::{Value, json};

use super::{STATIC_SUFFIX, policy};
use crate::api::names;

/// A dry run that must be refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The policy whose name must be in the refusal, see [`is_denied_by`].
    pub policy: &'static str,
    /// What to send, as the operator, with `dryRun=All`.
    pub request: ProbeRequest,
}

/// The request of a probe. No identity is exempt from what is probed, also not the operator. If
/// there is no object of that sort, the probe has nothing to protect and can be left out.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeRequest {
    /// DELETE a Site whose deletion phase is not `Purging`.
    DeleteSite,
    /// DELETE a namespace that has the label of a Site and lacks the annotation of a purge.
    DeleteNamespace,
    /// Send this merge patch to a Site.
    PatchSite(Value),
    /// Send this merge patch to a DeletionRequest.
    PatchDeletionRequest(Value),
}

/// Every probe. Each breaks the rule of one policy only, because the API server names one only.
/// Policies that let the operator pass (finalizers, status, marks) cannot be probed by it; of
/// these, the comparison with what was generated tells.
pub fn probes() -> Vec<Probe> {
    let nobody = "reprieve:probe";
    let annotate = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
    vec![
        Probe { policy: policy::DELETE_ENTITIES, request: ProbeRequest::DeleteSite },
        Probe { policy: policy::DELETE_NAMESPACES, request: ProbeRequest::DeleteNamespace },
        Probe {
            policy: policy::OWNER_REFERENCES,
            request: ProbeRequest::PatchSite(json!({"metadata": {"ownerReferences": [{
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": "probe",
                "uid": "00000000-0000-0000-0000-000000000000",
            }]}})),
        },
        Probe {
            policy: policy::APPROVALS,
            request: ProbeRequest::PatchDeletionRequest(annotate(
                &format!("{}probe", names::APPROVAL_PREFIX),
                &format!("probe {nobody}"),
            )),
        },
        Probe {
            policy: policy::REQUESTED_BY,
            request: ProbeRequest::PatchDeletionRequest(annotate(
                names::ANNOTATION_REQUESTED_BY,
                nobody,
            )),
        },
    ]
}

/// Whether an error message of the API server is the refusal of this policy, given by its own
/// binding. A refusal for another reason (no right, not found) proves nothing. Where the policy is
/// on the API server's disk as well, the API server names that one: either shows that the rule is
/// in force, and the comparison with what was generated tells whether the API objects are there.
pub fn is_denied_by(message: &str, policy: &str) -> bool {
    ["", STATIC_SUFFIX].iter().any(|suffix| {
        message.contains(&format!(
            "ValidatingAdmissionPolicy '{policy}{suffix}' with binding '{policy}{suffix}' denied request"
        ))
    })
}
