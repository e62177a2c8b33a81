//! Rules about our CustomResourceDefinitions.

use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;

const CRDS: &[&str] = &["customresourcedefinitions"];

/// Deleting one deletes its objects past all other policies.
pub(super) fn delete_crds() -> GuardPolicy {
    Policy {
        name: policy::DELETE_CRDS,
        matches: &[Match {
            group: "apiextensions.k8s.io",
            resources: CRDS,
            operations: &["DELETE"],
        }],
        variables: &[],
        checks: &[Check {
            what: "DELETE of a CustomResourceDefinition of `reprieve.dev`",
            who: "nobody, see [uninstall.md](uninstall.md)",
            allow: "oldObject.spec.group != '$GROUP'",
            message: "CustomResourceDefinitions of reprieve.dev are not deleted: every Site and App would \
                      go with them. To uninstall, remove the guard's bindings first, see docs/uninstall.md",
            explain: "'CustomResourceDefinition ' + oldObject.metadata.name + ' is not deleted by \
                      anybody: every object of its kind would go with it, past every other guard. To \
                      uninstall, follow docs/uninstall.md, which first removes the bindings of the \
                      guard: kubectl delete validatingadmissionpolicybindings \
                      -l app.kubernetes.io/part-of=reprieve'",
        }],
    }
    .build()
}

/// A changed schema drops fields of what is stored, and other versions or a conversion can hide
/// objects from the rules. What does not change that passes: labels, the API server's own status.
pub(super) fn change_crds() -> GuardPolicy {
    Policy {
        name: policy::CHANGE_CRDS,
        matches: &[Match {
            group: "apiextensions.k8s.io",
            resources: CRDS,
            operations: &["UPDATE"],
        }],
        variables: &[
            (
                "same",
                "oldObject.spec.versions == object.spec.versions
                    && oldObject.spec.?conversion == object.spec.?conversion
                    && oldObject.spec.scope == object.spec.scope
                    && oldObject.spec.?preserveUnknownFields == object.spec.?preserveUnknownFields",
            ),
            (
                "mayUpgrade",
                "authorizer.group('apiextensions.k8s.io').resource('customresourcedefinitions')
                    .name(oldObject.metadata.name).check('$VERB_UPGRADE').allowed()",
            ),
        ],
        checks: &[Check {
            what: "UPDATE of the versions, conversion or scope of a CustomResourceDefinition of \
                   `reprieve.dev`",
            who: "who has the RBAC verb `upgrade` on it",
            allow: "oldObject.spec.group != '$GROUP' || variables.same || variables.mayUpgrade",
            message: "changing a CustomResourceDefinition of reprieve.dev needs the RBAC verb upgrade on it",
            explain: "request.userInfo.username + ' may not change CustomResourceDefinition '
                + oldObject.metadata.name + ': fields of what is stored could be lost. That needs the \
                RBAC verb $VERB_UPGRADE on customresourcedefinitions.apiextensions.k8s.io, which an \
                administrator gives: kubectl create clusterrole <role> --verb=$VERB_UPGRADE \
                --resource=customresourcedefinitions.apiextensions.k8s.io --resource-name='
                + oldObject.metadata.name + ' && kubectl create clusterrolebinding <role> \
                --clusterrole=<role> --user=' + request.userInfo.username",
        }],
    }
    .build()
}
