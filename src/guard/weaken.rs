//! Rules about DeletionPolicies: who may make the gates weaker.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;
use crate::api::names;

/// Fields of a DeletionPolicy's spec of which a lower value is a weaker policy.
pub(super) const WHEN_LOWER: &[&str] = &[
    "retention.minimumSeconds",
    "retention.defaultSeconds",
    "retention.maximumSeconds",
    "blastRadius.rolling.windowSeconds",
    "quorum.approvals",
    "quorum.overrideApprovals",
    "backup.keepSeconds",
    "backup.drillBeforePurge",
];
/// Fields of which a higher value is a weaker policy.
pub(super) const WHEN_HIGHER: &[&str] = &[
    "blastRadius.maxEntities",
    "blastRadius.hardMaxEntities",
    "blastRadius.rolling.maxEntities",
    "blastRadius.rolling.maxPercent",
    "quorum.expiresAfterSeconds",
];

/// CEL for the list of fields in which `after` is weaker than `before`: those above, and each field
/// that is not named above and changed, on every level on which one of them stands.
pub(super) fn weaker() -> String {
    let (before, after) = ("variables.before", "variables.after");
    let mut terms = vec![];
    for (fields, than) in [(WHEN_LOWER, '<'), (WHEN_HIGHER, '>')] {
        for f in fields {
            terms.push(format!("({after}.{f} {than} {before}.{f} ? ['{f}'] : [])"));
        }
    }
    // What is named of each part of the spec: fields, and the parts below it.
    let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for field in WHEN_LOWER.iter().chain(WHEN_HIGHER) {
        let mut path = *field;
        while !path.is_empty() {
            let (part, key) = path.rsplit_once('.').unwrap_or(("", path));
            named.entry(part).or_default().insert(key);
            path = part;
        }
    }
    for (part, keys) in named {
        let dot = if part.is_empty() { "" } else { "." };
        let (b, a) = (format!("{before}{dot}{part}"), format!("{after}{dot}{part}"));
        let keys: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
        terms.push(format!(
            "({b}.map(k, string(k)) + {a}.map(k, string(k)).filter(k, !(k in {b})))
                .filter(k, !(k in [{}]) && {b}[?k] != {a}[?k]).map(k, '{part}{dot}' + k)",
            keys.join(", ")
        ));
    }
    terms.join(" + ")
}

/// Making a DeletionPolicy weaker, or deleting it. A field that is in neither list above counts as
/// weaker whenever it changes, so that a field that is added later is guarded from its first day.
pub(super) fn weaken() -> GuardPolicy {
    Policy {
        name: policy::WEAKEN,
        matches: &[Match {
            group: names::GROUP,
            resources: &["deletionpolicies"],
            operations: &["CREATE", "UPDATE", "DELETE"],
        }],
        variables: &[
            (
                "name",
                "oldObject == null ? object.metadata.?name.orValue('') : oldObject.metadata.name",
            ),
            // Of any type: what the CustomResourceDefinition gets later is compared as well. Where
            // there is none of this name, the built-in one is in force, for the name `default`.
            ("before", "oldObject == null ? dyn($BUILT_IN_POLICY) : dyn(oldObject.spec)"),
            ("after", "object == null ? dyn({}) : dyn(object.spec)"),
            ("weaker", "$WEAKER"),
            (
                "mayWeaken",
                "authorizer.group('$GROUP').resource('deletionpolicies').name(variables.name)
                    .check('$VERB_WEAKEN').allowed()",
            ),
            (
                "how",
                "'that needs the RBAC verb $VERB_WEAKEN on deletionpolicies.$GROUP ' + variables.name
                    + ', which an administrator gives: kubectl create clusterrole <role> \
                    --verb=$VERB_WEAKEN --resource=deletionpolicies.$GROUP --resource-name='
                    + variables.name + ' && kubectl create clusterrolebinding <role> \
                    --clusterrole=<role> --user=' + request.userInfo.username",
            ),
        ],
        checks: &[
            Check {
                what: "DELETE of a DeletionPolicy",
                who: "who has the RBAC verb `weaken` on it",
                allow: "request.operation != 'DELETE' || variables.mayWeaken",
                message: "deleting a DeletionPolicy needs the RBAC verb weaken on it",
                explain: "request.userInfo.username + ' may not delete DeletionPolicy '
                    + variables.name + ', under which Sites are protected: ' + variables.how",
            },
            Check {
                what: "UPDATE of a DeletionPolicy that makes it weaker: a shorter window, larger limits, \
                       a smaller quorum, a backup kept for less, any change of the alerts or of what else \
                       it asks for",
                who: "who has the RBAC verb `weaken` on it",
                allow: "request.operation != 'UPDATE' || variables.weaker.size() == 0
                    || variables.mayWeaken",
                message: "making a DeletionPolicy weaker needs the RBAC verb weaken on it",
                explain: "request.userInfo.username + ' may not make DeletionPolicy ' + variables.name
                    + ' weaker (' + variables.weaker.join(', ') + '): ' + variables.how",
            },
            Check {
                what: "CREATE of the DeletionPolicy `default`, where it is weaker than the built-in one \
                       (Production with the defaults) that it takes the place of",
                who: "who has the RBAC verb `weaken` on it",
                allow: "request.operation != 'CREATE' || variables.name != '$DEFAULT_POLICY'
                    || variables.weaker.size() == 0 || variables.mayWeaken",
                message: "a DeletionPolicy default that is weaker than the built-in one needs the RBAC \
                          verb weaken on it",
                explain: "request.userInfo.username + ' may not create a DeletionPolicy $DEFAULT_POLICY \
                    that is weaker (' + variables.weaker.join(', ') + ') than the built-in one, which \
                    it takes the place of: ' + variables.how",
            },
        ],
    }
    .build()
}

/// A Site that is pointed at another DeletionPolicy may be pointed at a weaker one.
pub(super) fn policy_refs() -> GuardPolicy {
    Policy {
        name: policy::POLICY_REFS,
        matches: &[Match { group: names::GROUP, resources: &["sites"], operations: &["UPDATE"] }],
        variables: &[
            ("before", "oldObject.spec.?policyRef.?name.orValue('$DEFAULT_POLICY')"),
            ("after", "object.spec.?policyRef.?name.orValue('$DEFAULT_POLICY')"),
            (
                "mayWeaken",
                "authorizer.group('$GROUP').resource('deletionpolicies').name(variables.before)
                    .check('$VERB_WEAKEN').allowed()",
            ),
        ],
        checks: &[Check {
            what: "UPDATE of a Site's `policyRef`",
            who: "who has the RBAC verb `weaken` on the DeletionPolicy that the Site leaves",
            allow: "variables.before == variables.after || variables.mayWeaken",
            message: "pointing a Site at another DeletionPolicy needs the RBAC verb weaken on the one \
                      that it leaves",
            explain: "request.userInfo.username + ' may not point Site ' + request.name
                + ' from DeletionPolicy ' + variables.before + ' to ' + variables.after
                + ': that needs the RBAC verb $VERB_WEAKEN on deletionpolicies.$GROUP '
                + variables.before + ', which an administrator gives: kubectl create clusterrole \
                <role> --verb=$VERB_WEAKEN --resource=deletionpolicies.$GROUP --resource-name='
                + variables.before + ' && kubectl create clusterrolebinding <role> \
                --clusterrole=<role> --user=' + request.userInfo.username",
        }],
    }
    .build()
}
