//! Rules about accounts: the operator's own, and those by which Apps are applied.

use super::entities::IS_OPERATOR;
use super::object::{Check, GuardPolicy, Match, Policy};
use super::policy;
use crate::api::names;

/// Whoever had a token of the operator's account would be the operator.
pub(super) fn operator_tokens() -> GuardPolicy {
    Policy {
        name: policy::OPERATOR_TOKENS,
        matches: &[Match {
            group: "",
            resources: &["serviceaccounts/token"],
            operations: &["CREATE"],
        }],
        variables: &[(
            "isKubelet",
            "request.userInfo.username.startsWith('$NODE_PREFIX')
                && '$NODES' in request.userInfo.?groups.orValue([])",
        )],
        checks: &[Check {
            what: "A token for the operator's service account (TokenRequest)",
            who: "kubelets, for the operator's pods",
            allow: "request.namespace != '$OPERATOR_NAMESPACE' || request.name != '$OPERATOR_ACCOUNT'
                || variables.isKubelet",
            message: "tokens of the operator's account are for kubelets only",
            explain: "'tokens of the service account $OPERATOR_NAMESPACE/$OPERATOR_ACCOUNT are for \
                kubelets only: with one, ' + request.userInfo.username + ' would be the operator. For \
                an account of your own: kubectl create token <account> -n <namespace>'",
        }],
    }
    .build()
}

/// The older sort of token, which lies in a Secret.
pub(super) fn operator_secrets() -> GuardPolicy {
    Policy {
        name: policy::OPERATOR_SECRETS,
        matches: &[Match {
            group: "",
            resources: &["secrets"],
            operations: &["CREATE", "UPDATE"],
        }],
        variables: &[
            (
                "after",
                "request.namespace == '$OPERATOR_NAMESPACE'
                    && object.?type.orValue('') == '$TOKEN_SECRET'
                    && object.metadata.?annotations.orValue({})[?'$TOKEN_ACCOUNT'].orValue('')
                        == '$OPERATOR_ACCOUNT'",
            ),
            // One that is there from before the guard stays as it is: the API server notes its use.
            (
                "before",
                "oldObject != null && oldObject.metadata.?annotations.orValue({})
                    [?'$TOKEN_ACCOUNT'].orValue('') == '$OPERATOR_ACCOUNT'",
            ),
        ],
        checks: &[Check {
            what: "A token Secret for the operator's service account",
            who: "nobody",
            allow: "!variables.after || variables.before",
            message: "there are no token Secrets for the operator's account",
            explain: "'a Secret of type $TOKEN_SECRET for the service account \
                $OPERATOR_NAMESPACE/$OPERATOR_ACCOUNT is not made by anybody: with it, whoever reads it \
                would be the operator. For an account of your own: kubectl create token <account> \
                -n <namespace>'",
        }],
    }
    .build()
}

/// A shell in the operator's pod reads its token.
pub(super) fn operator_pods() -> GuardPolicy {
    Policy {
        name: policy::OPERATOR_PODS,
        matches: &[
            Match {
                group: "",
                resources: &["pods/exec", "pods/attach", "pods/portforward"],
                operations: &["CONNECT"],
            },
            Match { group: "", resources: &["pods/ephemeralcontainers"], operations: &["UPDATE"] },
        ],
        variables: &[],
        checks: &[Check {
            what: "`kubectl exec`, `attach`, `port-forward` and `debug` into a pod of `reprieve-system`",
            who: "nobody",
            allow: "request.namespace != '$OPERATOR_NAMESPACE'",
            message: "nobody gets into the operator's pods: its token is there",
            explain: "'nobody gets into pods of $OPERATOR_NAMESPACE: the token of the operator is there. \
                To see what it does: kubectl logs ' + request.name + ' -n $OPERATOR_NAMESPACE'",
        }],
    }
    .build()
}

/// The right to read and create every kind takes in every subresource, which RBAC cannot leave out:
/// shells in tenants' pods, tokens of their accounts. The operator needs none of them. Its own
/// namespace is guarded against everybody above.
pub(super) fn operator_limits() -> GuardPolicy {
    Policy {
        name: policy::OPERATOR_LIMITS,
        matches: &[
            Match {
                group: "",
                resources: &[
                    "pods/exec",
                    "pods/attach",
                    "pods/portforward",
                    "pods/proxy",
                    "services/proxy",
                    "nodes/proxy",
                ],
                operations: &["CONNECT"],
            },
            Match {
                group: "",
                resources: &["serviceaccounts/token", "pods/eviction", "pods/binding", "bindings"],
                operations: &["CREATE"],
            },
        ],
        variables: &[IS_OPERATOR],
        checks: &[Check {
            what: "A shell in a tenant's pod, a proxy, an eviction, or a token of another account, with \
                   the operator's account",
            who: "everybody else, by RBAC",
            allow: "!variables.isOperator || request.?namespace.orValue('') == '$OPERATOR_NAMESPACE'",
            message: "the operator gets into nobody's pods and makes no tokens",
            explain: "'the account of the operator, $OPERATOR_USER, backs up and restores: it does not use '
                + request.resource.resource + '/' + request.?subResource.orValue('')
                + '. Send this in your own name; who you are: kubectl auth whoami'",
        }],
    }
    .build()
}

/// An App can do what the account may do by which it is applied. Whoever writes what it applies
/// uses that account, so that a change of the manifests is asked about too.
pub(super) fn app_accounts() -> GuardPolicy {
    Policy {
        name: policy::APP_ACCOUNTS,
        matches: &[Match {
            group: names::GROUP,
            resources: &["apps"],
            operations: &["CREATE", "UPDATE"],
        }],
        variables: &[
            ("account", "object.spec.?serviceAccountName.orValue('$APP_ACCOUNT')"),
            (
                "same",
                "oldObject != null
                    && oldObject.spec.?serviceAccountName.orValue('$APP_ACCOUNT') == variables.account
                    && dyn(oldObject.spec.manifests) == dyn(object.spec.manifests)",
            ),
            (
                "mayUse",
                "authorizer.group('').resource('serviceaccounts').namespace(request.namespace)
                    .name(variables.account).check('impersonate').allowed()",
            ),
        ],
        checks: &[Check {
            what: "An App by another service account than `reprieve-app`: `serviceAccountName` named or \
                   changed, or the `manifests` of such an App changed",
            who: "who may `impersonate` that service account",
            allow: "variables.account == '$APP_ACCOUNT' || variables.same || variables.mayUse",
            message: "an App by another service account than reprieve-app needs the right to impersonate it",
            explain: "request.userInfo.username + ' may not write an App that is applied as the service \
                account ' + request.namespace + '/' + variables.account + ': that needs the RBAC verb \
                impersonate on it. Leave spec.serviceAccountName out ($APP_ACCOUNT), or let an \
                administrator give the right: kubectl create role <role> --verb=impersonate \
                --resource=serviceaccounts --resource-name=' + variables.account + ' -n '
                + request.namespace + ' && kubectl create rolebinding <role> --role=<role> -n '
                + request.namespace + ' --user=' + request.userInfo.username",
        }],
    }
    .build()
}

/// Optional: the operator proves itself by a credential of its own. Not every authenticator gives
/// credentials an id, so that this is for clusters where those of the operator do.
pub(super) fn operator_credential() -> GuardPolicy {
    Policy {
        name: policy::OPERATOR_CREDENTIAL,
        matches: &[
            Match {
                group: names::GROUP,
                resources: &["*/*"],
                operations: &["CREATE", "UPDATE", "DELETE"],
            },
            Match {
                group: "",
                resources: &["namespaces", "namespaces/*", "persistentvolumes", "persistentvolumes/*"],
                operations: &["CREATE", "UPDATE", "DELETE"],
            },
        ],
        variables: &[IS_OPERATOR],
        checks: &[Check {
            what: "A write by somebody who impersonates the operator's account (optional rule)",
            who: "nobody",
            allow: "!variables.isOperator
                || request.userInfo.?extra.orValue({})[?'$CREDENTIAL_ID'].orValue([]).size() > 0",
            message: "the operator's account is not impersonated",
            explain: "'this comes from somebody who impersonates $OPERATOR_USER: the operator has a \
                credential of its own. Send it in your own name; who you are: kubectl auth whoami'",
        }],
    }
    .build()
}
