//! Rules about what outlives a Site: its Backups, the disks that are kept for it, and the ledger of
//! purges.

use super::entities::IS_OPERATOR;
use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;
use crate::api::names;

/// A Backup goes by the operator only, when it has expired.
pub(super) fn delete_backups() -> GuardPolicy {
    Policy {
        name: policy::DELETE_BACKUPS,
        matches: &[Match { group: names::GROUP, resources: &["backups"], operations: &["DELETE"] }],
        variables: &[IS_OPERATOR],
        checks: &[Check {
            what: "DELETE of a Backup",
            who: "the operator, when it has expired",
            allow: "variables.isOperator",
            message: "Backups are deleted by the operator only, when they have expired",
            explain:
                "'Backup ' + oldObject.metadata.name + ' of Site ' + oldObject.spec.siteRef.name
                + ' is deleted by the operator only, when it has expired. Until when it is kept: \
                kubectl get backup ' + oldObject.metadata.name
                + ' -o jsonpath={.spec.keepUntilTime}'",
        }],
    }
    .build()
}

/// A volume that is kept for a Site: its disk is the only copy of what was on it.
pub(super) fn kept_volumes() -> GuardPolicy {
    Policy {
        name: policy::KEPT_VOLUMES,
        matches: &[Match {
            group: "",
            resources: &["persistentvolumes", "persistentvolumes/status"],
            operations: &["CREATE", "UPDATE", "DELETE"],
        }],
        variables: &[
            IS_OPERATOR,
            ("before", "oldObject == null ? {} : oldObject.metadata.?labels.orValue({})"),
            ("after", "object == null ? {} : object.metadata.?labels.orValue({})"),
            ("kept", "'$LABEL_KEPT' in variables.before"),
            ("was", "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"),
            ("is", "object == null ? {} : object.metadata.?annotations.orValue({})"),
            (
                "how",
                "'. What it is kept for: kubectl get pv ' + request.name
                    + ' -o jsonpath={.spec.claimRef}'",
            ),
        ],
        checks: &[
            Check {
                what: "DELETE of a PersistentVolume with the label `reprieve.dev/kept`",
                who: "the operator",
                allow: "variables.isOperator || request.operation != 'DELETE' || !variables.kept",
                message: "a volume that is kept for a Site is deleted by the operator only",
                explain: "'PersistentVolume ' + request.name + ' is kept for a Site and is deleted by \
                    the operator only, when the backup that needs it has expired' + variables.how",
            },
            Check {
                what: "The label `reprieve.dev/kept` of a PersistentVolume, set, changed or removed",
                who: "the operator",
                allow: "variables.isOperator || request.operation == 'DELETE'
                    || variables.before[?'$LABEL_KEPT'] == variables.after[?'$LABEL_KEPT']",
                message: "the label by which a volume is kept is the operator's",
                explain: "'the label $LABEL_KEPT of PersistentVolume ' + request.name
                    + ' is set, changed and removed by the operator only' + variables.how",
            },
            Check {
                what: "The reclaim policy of a PersistentVolume with the label `reprieve.dev/kept`",
                who: "the operator",
                allow: "variables.isOperator || request.operation != 'UPDATE' || !variables.kept
                    || oldObject.spec.?persistentVolumeReclaimPolicy
                        == object.spec.?persistentVolumeReclaimPolicy",
                message: "the reclaim policy of a volume that is kept is the operator's",
                explain: "'the reclaim policy of PersistentVolume ' + request.name
                    + ' is changed by the operator only: its disk is kept for a Site'
                    + variables.how",
            },
            Check {
                what: "The annotation `reprieve.dev/former` of a PersistentVolume, set, changed or removed",
                who: "the operator",
                allow: "variables.isOperator || request.operation == 'DELETE'
                    || variables.was[?'$ANNOTATION_FORMER'] == variables.is[?'$ANNOTATION_FORMER']",
                message: "the record of what a kept volume was before is the operator's",
                explain: "'the annotation $ANNOTATION_FORMER of PersistentVolume ' + request.name
                    + ' is written by the operator only: by it the volume gets its former reclaim \
                    policy back. To keep its disk for good: kubectl annotate pv ' + request.name
                    + ' reprieve.dev/keep-disk=why'",
            },
        ],
    }
    .build()
}

/// What was purged lately, over all requests: who could write it could purge more.
pub(super) fn purge_ledger() -> GuardPolicy {
    Policy {
        name: policy::PURGE_LEDGER,
        matches: &[Match {
            group: "",
            resources: &["configmaps"],
            operations: &["CREATE", "UPDATE", "DELETE"],
        }],
        variables: &[
            IS_OPERATOR,
            (
                "isLedger",
                "request.?namespace.orValue('') == '$OPERATOR_NAMESPACE'
                    && (oldObject == null ? object.metadata.?name.orValue('')
                        : oldObject.metadata.name) == '$LEDGER'",
            ),
        ],
        checks: &[
            Check {
                what: "DELETE of the ConfigMap `reprieve-purges` in `reprieve-system`, the ledger of purges",
                who: "nobody",
                allow: "request.operation != 'DELETE' || !variables.isLedger",
                message: "the ledger of purges is not deleted: the rolling limit goes by it",
                explain: "'ConfigMap $OPERATOR_NAMESPACE/$LEDGER tells what was purged lately, over all \
                    requests, and is not deleted by anybody. What it says: kubectl get configmap \
                    $LEDGER -n $OPERATOR_NAMESPACE -o yaml'",
            },
            Check {
                what: "CREATE or UPDATE of that ConfigMap",
                who: "the operator",
                allow: "request.operation == 'DELETE' || !variables.isLedger || variables.isOperator",
                message: "the ledger of purges is written by the operator only",
                explain: "'ConfigMap $OPERATOR_NAMESPACE/$LEDGER tells what was purged lately, over all \
                    requests, and is written by the operator only. To allow more, raise \
                    spec.blastRadius.rolling of the DeletionPolicy: kubectl edit dpol'",
            },
        ],
    }
    .build()
}
