//! Rules about the Restores of drills, which put copies of what tenants have into scratch namespaces.

use super::entities::IS_OPERATOR;
use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;
use crate::api::names;

/// Only the operator makes a Restore of a drill; and of Restores it deletes those alone.
pub(super) fn restores() -> GuardPolicy {
    Policy {
        name: policy::DRILL_RESTORES,
        matches: &[Match {
            group: names::GROUP,
            resources: &["restores"],
            operations: &["CREATE", "UPDATE", "DELETE"],
        }],
        variables: &[
            IS_OPERATOR,
            ("before", "oldObject == null ? optional.none() : oldObject.?spec.?source.?drill"),
            ("after", "object == null ? optional.none() : object.?spec.?source.?drill"),
        ],
        checks: &[
            Check {
                what: "`spec.source.drill` of a Restore",
                who: "the operator",
                allow: "request.operation == 'DELETE' || variables.isOperator
                    || variables.before == variables.after",
                message: "a Restore of a drill is made by the operator only",
                explain: "'spec.source.drill of Restore ' + request.name + ' is set by the operator only, \
                    for a RestoreDrill. To try a restore, create one: kubectl explain \
                    restoredrill.spec; to restore for good: kubectl explain restore.spec.source'",
            },
            Check {
                what: "DELETE of a Restore, with the operator's account",
                who: "everybody else, by RBAC; the operator only those of its drills",
                allow: "request.operation != 'DELETE' || !variables.isOperator
                    || variables.before.hasValue()",
                message: "the operator deletes no Restore but those of its drills",
                explain: "'the account of the operator deletes no Restore but those of its drills, and \
                    ' + request.name + ' is none. Send this in your own name; who you are: kubectl \
                    auth whoami'",
            },
        ],
    }
    .build()
}
