//! Rules about DeletionRequests: who approves, who rejects, who asked.

use super::object::{Check, GuardPolicy, Match, Mutator, Policy};
use super::policy;
use crate::api::names;

/// Every write of a DeletionRequest that can change its annotations.
const WRITTEN: [Match; 1] = [Match {
    group: names::GROUP,
    resources: &["deletionrequests", "deletionrequests/*"],
    operations: &["CREATE", "UPDATE"],
}];

/// Approvals and rejections: new or changed ones only. Removing one is allowed, because GitOps
/// tools wipe annotations that they do not own; what the status has recorded counts.
pub(super) fn approvals() -> GuardPolicy {
    Policy {
        name: policy::APPROVALS,
        matches: &WRITTEN,
        variables: &[
            ("user", "request.userInfo.username"),
            ("before", "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"),
            ("after", "object.metadata.?annotations.orValue({})"),
            (
                "cast",
                "variables.after.filter(k,
                    (k.startsWith('$APPROVAL_PREFIX') || k.startsWith('$REJECTION_PREFIX'))
                        && variables.before[?k] != variables.after[?k])",
            ),
            ("approvals", "variables.cast.filter(k, k.startsWith('$APPROVAL_PREFIX'))"),
            // Of the object as it is stored, never of what the caller sent.
            (
                "digest",
                "oldObject == null ? '' : oldObject.?status.?plan.?digest.orValue('')",
            ),
            ("state", "oldObject == null ? '' : oldObject.?status.?state.orValue('')"),
            ("requestedBy", "variables.before[?'$ANNOTATION_REQUESTED_BY'].orValue('')"),
            // In a variable, because variables are evaluated only when they are reached.
            (
                "mayApprove",
                "authorizer.group('$GROUP').resource('deletionrequests').name(request.name)
                    .check('$VERB_APPROVE').allowed()",
            ),
            (
                "how",
                "'kubectl annotate dreq ' + request.name + ' \"$APPROVAL_PREFIX<you>='
                    + (variables.digest == '' ? '<digest>' : variables.digest) + ' '
                    + variables.user + '\"'",
            ),
        ],
        checks: &[
            Check {
                what: "An approval or a rejection in a new DeletionRequest",
                who: "nobody",
                allow: "request.operation != 'CREATE' || variables.cast.size() == 0",
                message: "a DeletionRequest is created without approvals and rejections",
                explain: "'a DeletionRequest is created without approvals and rejections (here: '
                    + variables.cast[0] + '): there is no plan yet that could be approved. Leave them \
                    out; approvers add theirs when they have read the plan: ' + variables.how",
            },
            Check {
                what: "An approval or a rejection that is not `<digest> <user name>`",
                who: "nobody",
                allow: "variables.cast.all(k, variables.after[k].indexOf(' ') > 0
                    && variables.after[k].indexOf(' ') < variables.after[k].size() - 1)",
                message: "approvals and rejections have the form \"<digest> <user name>\"",
                explain: "'approvals and rejections have the form \"<digest> <user name>\" (here: '
                    + variables.cast[0] + '). To approve: ' + variables.how",
            },
            Check {
                what: "An approval or a rejection in another's name",
                who: "nobody",
                allow: "variables.cast.all(k, variables.after[k]
                    .substring(variables.after[k].indexOf(' ') + 1) == variables.user)",
                message: "approvals and rejections are given in one's own name only",
                explain: "'you are ' + variables.user + ' and can approve and reject in this name \
                    only, but ' + variables.cast.filter(k, variables.after[k]
                        .substring(variables.after[k].indexOf(' ') + 1) != variables.user)[0]
                    + ' names somebody else. If you may approve: ' + variables.how",
            },
            Check {
                what: "An approval by a service account",
                who: "nobody",
                allow: "variables.approvals.size() == 0
                    || !variables.user.startsWith('$SERVICE_ACCOUNT_PREFIX')",
                message: "service accounts cannot approve: a person must",
                explain: "variables.user + ' is a service account and cannot approve: a person with \
                    the role $APPROVER_ROLE must, under their own user name: kubectl annotate dreq '
                    + request.name + ' \"$APPROVAL_PREFIX<you>=' + variables.digest
                    + ' <your user name>\"'",
            },
            Check {
                what: "An approval by who asked for the deletion",
                who: "nobody",
                allow: "variables.approvals.size() == 0 || variables.requestedBy != variables.user",
                message: "who asks for a deletion cannot approve it",
                explain: "'you (' + variables.user + ') asked for this deletion and cannot approve it: \
                    somebody else with the role $APPROVER_ROLE must. To withdraw it: kubectl patch dreq '
                    + request.name + ''' --type=merge -p '{\"spec\":{\"cancel\":true}}' '''",
            },
            Check {
                what: "An approval or a rejection",
                who: "who has the RBAC verb `approve` on deletionrequests, in their own name",
                allow: "variables.cast.size() == 0 || variables.mayApprove",
                message: "approving and rejecting needs the RBAC verb approve on deletionrequests",
                explain: "variables.user + ' may not approve or reject DeletionRequest ' + request.name
                    + ': that needs the RBAC verb $VERB_APPROVE on deletionrequests.$GROUP. An \
                    administrator gives it: kubectl create clusterrolebinding <name> \
                    --clusterrole=$APPROVER_ROLE --user=' + variables.user",
            },
            Check {
                what: "An approval or a rejection in a DeletionRequest that has ended",
                who: "nobody",
                allow: "variables.cast.size() == 0
                    || !(variables.state in ['Completed', 'Refused', 'Expired', 'Cancelled'])",
                message: "the DeletionRequest has ended",
                explain: "'DeletionRequest ' + request.name + ' has ended (' + variables.state
                    + '): nothing in it can be approved or rejected any more. If the deletion is \
                    still wanted, make a new one: kubectl create -f <file>'",
            },
            Check {
                what: "An approval before there is a plan",
                who: "nobody",
                allow: "variables.approvals.size() == 0 || variables.digest != ''",
                message: "there is no plan yet that could be approved",
                explain: "'DeletionRequest ' + request.name + ' has no plan yet that could be \
                    approved. Wait for it: kubectl wait dreq ' + request.name
                    + ' --for=jsonpath={.status.plan.digest}, read it: kubectl get dreq '
                    + request.name + ' -o yaml'",
            },
            Check {
                what: "An approval of another digest than the plan's",
                who: "nobody",
                allow: "variables.digest == '' || variables.approvals.all(k,
                    variables.after[k].startsWith(variables.digest + ' '))",
                message: "an approval must name the digest of the plan as it is now",
                explain: "'this approves ' + variables.approvals.filter(k,
                        !variables.after[k].startsWith(variables.digest + ' '))
                        .map(k, variables.after[k].split(' ')[0])[0]
                    + ', but the digest of the plan is ' + variables.digest
                    + '; read the plan again: kubectl get dreq ' + request.name + ' -o yaml'",
            },
        ],
    }
    .build()
}

/// Who asked for a deletion is who created the request, and stays so.
pub(super) fn requested_by() -> GuardPolicy {
    Policy {
        name: policy::REQUESTED_BY,
        matches: &WRITTEN,
        variables: &[
            ("before", "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"),
            ("after", "object.metadata.?annotations.orValue({})"),
        ],
        checks: &[
            Check {
                what: "A new DeletionRequest in another's name (`reprieve.dev/requested-by`)",
                who: "nobody",
                allow: "request.operation != 'CREATE'
                    || variables.after[?'$ANNOTATION_REQUESTED_BY'].orValue('')
                        == request.userInfo.username",
                message: "a DeletionRequest says who created it",
                explain: "'the annotation $ANNOTATION_REQUESTED_BY of a new DeletionRequest must be '
                    + request.userInfo.username + ', your user name. Leave it out and it is filled in \
                    (Kubernetes 1.36 and later), or set it so. Who you are: kubectl auth \
                    whoami'",
            },
            Check {
                what: "The annotation `reprieve.dev/requested-by`, changed (removed, it is put back)",
                who: "nobody",
                allow: "request.operation == 'CREATE'
                    || variables.before[?'$ANNOTATION_REQUESTED_BY']
                        == variables.after[?'$ANNOTATION_REQUESTED_BY']",
                message: "who asked for a deletion cannot be changed afterwards",
                explain: "'the annotation $ANNOTATION_REQUESTED_BY of DeletionRequest ' + request.name
                    + ' cannot be changed or removed by anybody. To ask in another name, let that \
                    person create a new DeletionRequest: kubectl create -f <file>'",
            },
        ],
    }
    .build()
}

/// Fills in who asked, where the caller left it out, and puts it back where a later write took it
/// away: GitOps tools wipe annotations that they do not own, and such a sync is to go through.
pub(super) fn set_requested_by() -> GuardPolicy {
    Mutator {
        name: policy::SET_REQUESTED_BY,
        matches: &[Match {
            group: names::GROUP,
            resources: &["deletionrequests"],
            operations: &["CREATE", "UPDATE"],
        }],
        variables: &[
            (
                "by",
                "oldObject == null ? request.userInfo.username
                    : oldObject.metadata.?annotations[?'$ANNOTATION_REQUESTED_BY'].orValue('')",
            ),
            ("annotations", "object.metadata.?annotations.orValue({})"),
        ],
        patch: "variables.by == '' || '$ANNOTATION_REQUESTED_BY' in variables.annotations
            ? []
            : (has(object.metadata.annotations)
                ? [JSONPatch{op: 'add', path: '/metadata/annotations/'
                    + jsonpatch.escapeKey('$ANNOTATION_REQUESTED_BY'), value: variables.by}]
                : [JSONPatch{op: 'add', path: '/metadata/annotations',
                    value: {'$ANNOTATION_REQUESTED_BY': variables.by}}])",
    }
    .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RequestState;

    #[test]
    fn the_states_of_a_request_that_has_ended_are_all_named() {
        let policy = format!("{:?}", approvals());
        use RequestState as S;
        let all = [S::Planning, S::AwaitingApproval, S::Held, S::Purging];
        let all = [all, [S::Completed, S::Refused, S::Expired, S::Cancelled]].concat();
        let ended: Vec<String> = all
            .into_iter()
            .filter(|state| state.is_final())
            .map(|state| format!("'{state:?}'"))
            .collect();
        let list = format!("in [{}]", ended.join(", "));
        assert!(policy.contains(&list), "expected {list} in {policy}");
    }
}
