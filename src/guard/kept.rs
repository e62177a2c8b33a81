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

/// A volume that is kept for a Site, or the content of a snapshot: the only copy of what was on a disk.
pub(super) fn kept_volumes() -> GuardPolicy {
    Policy {
        name: policy::KEPT_VOLUMES,
        matches: &[
            Match {
                group: "",
                resources: &["persistentvolumes", "persistentvolumes/status"],
                operations: &["CREATE", "UPDATE", "DELETE"],
            },
            // Where the cluster has them. It is one policy, because one whose kind is not there could
            // not be tried.
            Match {
                group: "snapshot.storage.k8s.io",
                resources: &["volumesnapshotcontents", "volumesnapshotcontents/status"],
                operations: &["CREATE", "UPDATE", "DELETE"],
            },
        ],
        variables: &[
            IS_OPERATOR,
            ("before", "oldObject == null ? {} : oldObject.metadata.?labels.orValue({})"),
            ("after", "object == null ? {} : object.metadata.?labels.orValue({})"),
            ("kept", "'$LABEL_KEPT' in variables.before"),
            ("isVolume", "request.resource.resource == 'persistentvolumes'"),
            (
                "what",
                "(variables.isVolume ? 'PersistentVolume ' : 'VolumeSnapshotContent ') + request.name",
            ),
            ("was", "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"),
            ("is", "object == null ? {} : object.metadata.?annotations.orValue({})"),
            (
                "how",
                "'. What it is kept for: kubectl get ' + request.resource.resource + ' ' + request.name
                    + ' -o jsonpath={.spec.' + (variables.isVolume ? 'claimRef' : 'volumeSnapshotRef')
                    + '}'",
            ),
        ],
        checks: &[
            Check {
                what: "DELETE of a PersistentVolume, or of a VolumeSnapshotContent, with the label `reprieve.dev/kept`",
                who: "the operator",
                allow: "variables.isOperator || request.operation != 'DELETE' || !variables.kept",
                message: "a volume or snapshot that is kept for a Site is deleted by the operator only",
                explain: "variables.what + ' is kept for a Site and is deleted by \
                    the operator only, when the backup that needs it has expired' + variables.how",
            },
            Check {
                what: "The label `reprieve.dev/kept` of one, set, changed or removed",
                who: "the operator",
                allow: "variables.isOperator || request.operation == 'DELETE'
                    || variables.before[?'$LABEL_KEPT'] == variables.after[?'$LABEL_KEPT']",
                message: "the label by which a volume or snapshot is kept is the operator's",
                explain: "'the label $LABEL_KEPT of ' + variables.what
                    + ' is set, changed and removed by the operator only' + variables.how",
            },
            Check {
                what: "The reclaim policy of a PersistentVolume, and the deletion policy of a VolumeSnapshotContent, with the label `reprieve.dev/kept`",
                who: "the operator",
                // A field that only one of the kinds has: not to be looked up in the other's schema.
                allow: "variables.isOperator || request.operation != 'UPDATE' || !variables.kept
                    || (dyn(oldObject).spec.?persistentVolumeReclaimPolicy
                            == dyn(object).spec.?persistentVolumeReclaimPolicy
                        && dyn(oldObject).spec.?deletionPolicy == dyn(object).spec.?deletionPolicy)",
                message: "the reclaim policy of a volume that is kept, and the deletion policy of a snapshot, are the operator's",
                explain: "'the ' + (variables.isVolume ? 'reclaim policy' : 'deletion policy') + ' of '
                    + variables.what + ' is changed by the operator only: it is kept for a Site'
                    + variables.how",
            },
            Check {
                what: "The annotation `reprieve.dev/former` of a PersistentVolume or VolumeSnapshotContent, set, changed or removed",
                who: "the operator",
                allow: "variables.isOperator || request.operation == 'DELETE'
                    || variables.was[?'$ANNOTATION_FORMER'] == variables.is[?'$ANNOTATION_FORMER']",
                message: "the record of what a kept volume or snapshot was before is the operator's",
                explain: "'the annotation $ANNOTATION_FORMER of ' + variables.what
                    + ' is written by the operator only: by it the former policy comes back. To keep it \
                    for good: kubectl annotate ' + request.resource.resource + ' ' + request.name
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
