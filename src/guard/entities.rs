//! Rules about Sites, Apps, what marks them, and every status.

use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;
use crate::api::names;

const CREATE_UPDATE: &[&str] = &["CREATE", "UPDATE"];

/// Whether the caller is the operator.
pub(super) const IS_OPERATOR: (&str, &str) =
    ("isOperator", "request.userInfo.username == '$OPERATOR_USER'");

/// A Site or an App goes only by the operator, and only once its status says `Purging`. An App that
/// the operator has let go, by taking its finalizer off, in a namespace that is being deleted past
/// the gates: by the namespace controller, which could never finish otherwise.
pub(super) fn delete_entities() -> GuardPolicy {
    Policy {
        name: policy::DELETE_ENTITIES,
        matches: &[Match {
            group: names::GROUP,
            resources: &["sites", "apps"],
            operations: &["DELETE"],
        }],
        variables: &[
            IS_OPERATOR,
            ("phase", "oldObject.?status.?deletion.?phase.orValue('')"),
            ("request", "oldObject.?status.?deletion.?requestRef.?name.orValue('')"),
            (
                "what",
                "request.kind.kind + ' ' + (request.?namespace.orValue('') == ''
                    ? oldObject.metadata.name
                    : request.namespace + '/' + oldObject.metadata.name)",
            ),
            (
                "letGo",
                "request.kind.kind == 'App'
                    && request.userInfo.username in ['$NAMESPACE_CONTROLLER', '$CONTROLLER_MANAGER']
                    && has(namespaceObject.metadata.deletionTimestamp)
                    && !('$FINALIZER' in oldObject.metadata.?finalizers.orValue([]))",
            ),
            (
                // No request can name an id that two have, and the operator puts its finalizer on
                // whatever owns something.
                "emptyDuplicate",
                "!('$FINALIZER' in oldObject.metadata.?finalizers.orValue([]))
                    && oldObject.?status.?conditions.orValue([])
                        .exists(c, c.type == 'Ready' && c.reason == 'DuplicateId')
                    && oldObject.?status.?namespaces.orValue([]).size() == 0
                    && oldObject.?status.?objects.orValue([]).size() == 0",
            ),
        ],
        checks: &[Check {
            what: "DELETE of a Site or an App",
            who: "the operator, while its status says that it is `Purging`; the namespace controller, \
                  for an App that the operator let go in a namespace that is being deleted; anybody, \
                  one whose id another has and that never owned anything",
            allow: "(variables.isOperator && variables.phase == 'Purging') || variables.letGo
                || variables.emptyDuplicate",
            message: "Sites and Apps are deleted through a DeletionRequest only",
            explain: r#"variables.request != ''
                ? variables.what + ' is deleted by the operator alone, when DeletionRequest '
                    + variables.request + ' has passed every gate (deletion phase now: '
                    + variables.phase + '). To see what it waits for: kubectl get dreq '
                    + variables.request + '. To keep ' + variables.what + ': kubectl patch dreq '
                    + variables.request + ''' --type=merge -p '{"spec":{"cancel":true}}' '''
                : variables.what + ' is deleted through a DeletionRequest only, which people must '
                    + '''approve: echo '{"apiVersion":"$API_VERSION","kind":"DeletionRequest",'''
                    + '''"metadata":{"generateName":"delete-"},"spec":{"target":{"kind":"'''
                    + request.kind.kind + '''","ids":["''' + oldObject.?spec.?id.orValue('<id>')
                    + '''"]},"reason":"<why>"}}' | kubectl create -f -'''"#,
        }],
    }
    .build()
}

/// Our finalizer comes and goes by the operator only.
pub(super) fn finalizers() -> GuardPolicy {
    Policy {
        name: policy::FINALIZERS,
        matches: &[Match {
            group: names::GROUP,
            resources: &[
                "sites",
                "sites/*",
                "apps",
                "apps/*",
                "deletionrequests",
                "deletionrequests/*",
                "restoredrills",
                "restoredrills/*",
            ],
            operations: CREATE_UPDATE,
        }],
        variables: &[
            IS_OPERATOR,
            (
                "before",
                "oldObject != null && '$FINALIZER' in oldObject.metadata.?finalizers.orValue([])",
            ),
            ("after", "'$FINALIZER' in object.metadata.?finalizers.orValue([])"),
        ],
        checks: &[Check {
            what: "The finalizer `reprieve.dev/retention` of a Site, an App, a DeletionRequest or a RestoreDrill, set or removed",
            who: "the operator",
            allow: "variables.isOperator || variables.before == variables.after",
            message: "the finalizer is set and removed by the operator only",
            explain: "'the finalizer $FINALIZER of ' + request.kind.kind + ' ' + request.name + ' is '
                + (variables.before ? 'removed' : 'set') + ' by the operator only. '
                + (request.kind.kind == 'DeletionRequest'
                    ? 'It goes when everything is released; to cancel: kubectl delete dreq '
                        + request.name + ' --wait=false'
                    : request.kind.kind == 'RestoreDrill'
                    ? 'It is there while a run is under way, and goes when that has cleaned up: kubectl \
                        get drill ' + request.name + ' -o wide'
                    : (variables.before
                        ? 'It goes when a DeletionRequest that people approved has been carried out: '
                            + 'kubectl explain deletionrequest.spec'
                        : 'Leave it out; the operator adds it by itself, see: kubectl get '
                            + request.resource.resource + ' ' + request.name + ' -o yaml'))",
        }],
    }
    .build()
}

/// An owner that is absent, or is deleted, makes the garbage collector delete what it owns.
pub(super) fn owner_references() -> GuardPolicy {
    Policy {
        name: policy::OWNER_REFERENCES,
        matches: &[Match {
            group: names::GROUP,
            resources: &["sites", "apps", "backups"],
            operations: CREATE_UPDATE,
        }],
        variables: &[],
        checks: &[Check {
            what: "Owner references on a Site, an App or a Backup",
            who: "nobody",
            allow: "object.metadata.?ownerReferences.orValue([]).size() == 0",
            message: "Sites, Apps and Backups must not have owners: the garbage collector would \
                      delete them with their owner. Leave metadata.ownerReferences out",
            explain: "request.kind.kind + ' ' + request.name + ' must not have an owner: the garbage \
                      collector would delete it with its owner. Leave metadata.ownerReferences out; \
                      to group objects, use a label: kubectl label ' + request.resource.resource + ' '
                      + request.name + ' <key>=<value>'",
        }],
    }
    .build()
}

/// Status is what the gates go by. All of the group: a kind that is added later is in as well.
pub(super) fn status() -> GuardPolicy {
    Policy {
        name: policy::STATUS,
        matches: &[Match {
            group: names::GROUP,
            // The objects themselves too: whoever takes the status subresource out of a
            // CustomResourceDefinition could otherwise write status with the rest (tried).
            resources: &["*", "*/status"],
            operations: CREATE_UPDATE,
        }],
        variables: &[
            IS_OPERATOR,
            ("before", "oldObject == null ? optional.none() : oldObject.?status"),
        ],
        checks: &[Check {
            what: "`status` of any object of `reprieve.dev`",
            who: "the operator",
            allow: "variables.isOperator || (request.?subResource.orValue('') != 'status'
                && object.?status == variables.before)",
            message: "status is written by the operator only",
            explain: "'the status of ' + request.kind.kind + ' ' + request.name
                + ' is written by the operator only, which works it out from what is there. '
                + (request.kind.kind == 'DeletionRequest'
                    ? 'To approve it: kubectl annotate dreq ' + request.name
                        + ' \"$APPROVAL_PREFIX<you>=<digest> <your user name>\"'
                    : 'To ask for a change, change its spec: kubectl edit '
                        + request.resource.resource + ' ' + request.name)",
        }],
    }
    .build()
}

/// The annotation by which the reconcilers of a Site, or of an App, stand still.
pub(super) fn restore_mark() -> GuardPolicy {
    Policy {
        name: policy::RESTORE_MARK,
        matches: &[Match {
            group: names::GROUP,
            resources: &["sites", "sites/*", "apps", "apps/*"],
            operations: CREATE_UPDATE,
        }],
        variables: &[
            IS_OPERATOR,
            (
                "before",
                "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})",
            ),
            ("after", "object.metadata.?annotations.orValue({})"),
        ],
        checks: &[Check {
            what: "The annotation `reprieve.dev/restore` of a Site or an App",
            who: "the operator",
            allow: "variables.isOperator
                || variables.before[?'$ANNOTATION_RESTORE'] == variables.after[?'$ANNOTATION_RESTORE']",
            message: "the annotation that marks a Site or an App as being restored is the operator's",
            explain: "'the annotation $ANNOTATION_RESTORE of ' + request.kind.kind + ' ' + request.name
                + ' is set and removed by the operator only, for the time of a Restore. To restore \
                one, create a Restore: kubectl explain restore.spec'",
        }],
    }
    .build()
}
