//! The CEL of the policies: texts with `$NAME` for what the rest of the code names.

use serde_json::{Value, json};

use super::{roles, weaken};
use crate::api::{DeletionPolicySpec, names};

/// The constants that CEL texts may name.
fn constants() -> [(&'static str, String); 33] {
    let text = |name, value: &str| (name, value.to_owned());
    [
        text("$API_VERSION", names::API_VERSION),
        text("$GROUP", names::GROUP),
        text("$FINALIZER", names::FINALIZER),
        text("$LABEL_SITE", names::LABEL_SITE),
        text("$LABEL_KEPT", names::LABEL_KEPT),
        text("$LABEL_DRILL", names::LABEL_DRILL),
        text("$ANNOTATION_FORMER", names::ANNOTATION_FORMER),
        text("$ANNOTATION_PURGE", names::ANNOTATION_PURGE),
        text("$ANNOTATION_RECORD", names::ANNOTATION_RECORD),
        text("$ANNOTATION_RESTORE", names::ANNOTATION_RESTORE),
        text("$ANNOTATION_REQUESTED_BY", names::ANNOTATION_REQUESTED_BY),
        text("$APPROVAL_PREFIX", names::APPROVAL_PREFIX),
        text("$REJECTION_PREFIX", names::REJECTION_PREFIX),
        text("$OPERATOR_USER", names::OPERATOR_USER),
        text("$OPERATOR_NAMESPACE", names::OPERATOR_NAMESPACE),
        text("$OPERATOR_ACCOUNT", names::OPERATOR_ACCOUNT),
        text("$SERVICE_ACCOUNT_PREFIX", names::SERVICE_ACCOUNT_PREFIX),
        text("$VERB_APPROVE", names::VERB_APPROVE),
        text("$VERB_WEAKEN", names::VERB_WEAKEN),
        text("$VERB_UPGRADE", names::VERB_UPGRADE),
        text("$APPROVER_ROLE", roles::APPROVER),
        text("$APP_ACCOUNT", names::APP_ACCOUNT),
        text("$DEFAULT_POLICY", names::DEFAULT_POLICY),
        text("$NODE_PREFIX", "system:node:"),
        text("$NODES", "system:nodes"),
        text("$TOKEN_SECRET", "kubernetes.io/service-account-token"),
        text("$TOKEN_ACCOUNT", "kubernetes.io/service-account.name"),
        text("$CREDENTIAL_ID", "authentication.kubernetes.io/credential-id"),
        text("$NAMESPACE_CONTROLLER", "system:serviceaccount:kube-system:namespace-controller"),
        // Its name when kube-controller-manager runs without an account for each controller.
        text("$CONTROLLER_MANAGER", "system:kube-controller-manager"),
        ("$BUILT_IN_POLICY", literal(&json!(DeletionPolicySpec::built_in()))),
        ("$WEAKER", weaken::weaker().split_whitespace().collect::<Vec<_>>().join(" ")),
        text("$LEDGER", names::LEDGER),
    ]
}

/// The CEL of a text: constants put in, on one line.
pub(super) fn cel(text: &str) -> String {
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut constants = constants();
    // $OPERATOR_NAMESPACE before a shorter name that it begins with.
    constants.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, value) in constants {
        text = text.replace(name, &value);
    }
    assert!(!text.contains('$'), "unknown constant in the guard's CEL: {text}");
    text
}

/// Plain data as a CEL literal. JSON is one already, but that Kubernetes wants the values of a map
/// to be of one type, so that each is declared to be of any.
fn literal(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(key, value)| format!("'{key}': dyn({})", literal(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    }
}
