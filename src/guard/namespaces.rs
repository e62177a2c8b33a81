//! Rules about the namespaces of sites. The namespace controller's own work must pass: it writes
//! `namespaces/status`, deletes what is inside, and then calls `namespaces/finalize`.

use super::entities::IS_OPERATOR;
use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;

/// A site's namespace goes only by the operator, and only once it is marked as being purged; the
/// scratch namespace of a drill by the operator.
pub(super) fn delete_namespaces() -> GuardPolicy {
    Policy {
        name: policy::DELETE_NAMESPACES,
        matches: &[Match { group: "", resources: &["namespaces"], operations: &["DELETE"] }],
        variables: &[
            IS_OPERATOR,
            // Asked here and not by an object selector, so that nothing but CEL decides.
            ("labels", "oldObject.metadata.?labels.orValue({})"),
            (
                "purge",
                "oldObject.metadata.?annotations.orValue({})[?'$ANNOTATION_PURGE'].orValue('')",
            ),
        ],
        checks: &[
            Check {
                what: "DELETE of a scratch namespace of a drill",
                who: "the operator",
                allow: "'$LABEL_SITE' in variables.labels || !('$LABEL_DRILL' in variables.labels)
                    || variables.isOperator",
                message: "a scratch namespace of a drill is deleted by the operator only",
                explain: "'namespace ' + oldObject.metadata.name + ' is a scratch namespace of a \
                    RestoreDrill and is deleted by the operator only, when the run has ended. To stop \
                    the run: kubectl get drill, and kubectl delete drill <name>'",
            },
            Check {
            what: "DELETE of a site's namespace",
            who: "the operator, while it is marked as being purged",
            allow: "!('$LABEL_SITE' in variables.labels)
                || (variables.isOperator && variables.purge != '')",
            message: "a site's namespace is deleted by the operator only, when the site is purged",
            explain: "'namespace ' + oldObject.metadata.name + ' belongs to Site '
                + variables.labels['$LABEL_SITE'] + ' and is deleted by the operator only, when that \
                Site is purged for a DeletionRequest. To ask for one, see: kubectl explain \
                deletionrequest.spec; the id of the Site: kubectl get site '
                + variables.labels['$LABEL_SITE']",
            },
        ],
    }
    .build()
}

/// What makes a namespace a site's, what lets it be deleted, and what keeps it until it is empty.
pub(super) fn marks() -> GuardPolicy {
    Policy {
        name: policy::NAMESPACE_MARKS,
        matches: &[Match {
            group: "",
            // Both subresources can change metadata too.
            resources: &["namespaces", "namespaces/status", "namespaces/finalize"],
            operations: &["CREATE", "UPDATE"],
        }],
        variables: &[
            IS_OPERATOR,
            ("labelsBefore", "oldObject == null ? {} : oldObject.metadata.?labels.orValue({})"),
            ("labels", "object.metadata.?labels.orValue({})"),
            (
                "annotationsBefore",
                "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})",
            ),
            ("annotations", "object.metadata.?annotations.orValue({})"),
            (
                "mayFinalize",
                "variables.isOperator || request.userInfo.username
                    in ['$NAMESPACE_CONTROLLER', '$CONTROLLER_MANAGER']",
            ),
        ],
        checks: &[
            Check {
                what: "The label `reprieve.dev/site` of a namespace, set, changed or removed",
                who: "the operator",
                allow: "variables.isOperator
                    || variables.labelsBefore[?'$LABEL_SITE'] == variables.labels[?'$LABEL_SITE']",
                message: "the label that makes a namespace a site's is the operator's",
                explain: "'the label $LABEL_SITE of namespace ' + object.metadata.name
                    + ' is set, changed and removed by the operator only. To give a Site a namespace, \
                    add it to spec.namespaces of the Site: kubectl edit site <name>'",
            },
            Check {
                what: "The label `reprieve.dev/drill` of a namespace, set when it is created",
                who: "the operator; nobody sets, changes or removes it later, or beside `reprieve.dev/site`",
                allow: "(variables.labelsBefore[?'$LABEL_DRILL'] == variables.labels[?'$LABEL_DRILL']
                        || (variables.isOperator && request.operation == 'CREATE'))
                    && !('$LABEL_DRILL' in variables.labels && '$LABEL_SITE' in variables.labels)",
                message: "the label that makes a namespace a drill's is set by the operator when it is created, and never changed",
                explain: "'the label $LABEL_DRILL of namespace ' + object.metadata.name
                    + ' is set by the operator only, when it creates a scratch namespace, and nobody \
                    changes it: what carries it is deleted when the drill ends. To try a restore: \
                    kubectl explain restoredrill.spec'",
            },
            Check {
                what: "The annotation `reprieve.dev/purge` of a namespace",
                who: "the operator",
                allow: "variables.isOperator
                    || variables.annotationsBefore[?'$ANNOTATION_PURGE']
                        == variables.annotations[?'$ANNOTATION_PURGE']",
                message: "the annotation that lets a namespace be purged is the operator's",
                explain: "'the annotation $ANNOTATION_PURGE of namespace ' + object.metadata.name
                    + ' is set, changed and removed by the operator only, when a DeletionRequest has \
                    passed every gate. To ask for one: kubectl explain deletionrequest.spec'",
            },
            Check {
                what: "The annotation `reprieve.dev/record` of a namespace",
                who: "the operator",
                allow: "variables.isOperator
                    || variables.annotationsBefore[?'$ANNOTATION_RECORD']
                        == variables.annotations[?'$ANNOTATION_RECORD']",
                message: "the record of a Site that was deleted past the guard is the operator's",
                explain: "'the annotation $ANNOTATION_RECORD of namespace ' + object.metadata.name
                    + ' is set, changed and removed by the operator only: its Site was deleted past \
                    the guard and is created anew from it. To see how far it is: kubectl describe \
                    site ' + variables.labels[?'$LABEL_SITE'].orValue('<name>')
                    + '; all of it: docs/runbooks/unexpected-delete.md'",
            },
            Check {
                what: "`/finalize` of a site's namespace",
                who: "the namespace controller and the operator, once it is being deleted",
                allow: "request.?subResource.orValue('') != 'finalize'
                    || !('$LABEL_SITE' in variables.labelsBefore || '$LABEL_SITE' in variables.labels)
                    || (variables.mayFinalize && has(oldObject.metadata.deletionTimestamp))",
                message: "a site's namespace is finalized by the namespace controller only",
                explain: "'namespace ' + object.metadata.name + ' belongs to a Site and is finalized \
                    by the namespace controller only, once it is being deleted and empty. What it waits \
                    for: kubectl get namespace ' + object.metadata.name
                    + ' -o jsonpath={.status.conditions}'",
            },
        ],
    }
    .build()
}
