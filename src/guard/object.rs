//! How a policy is written down here, and the objects that are made of it.

use std::fmt;

use k8s_openapi::api::admissionregistration::v1::{
    JSONPatch, MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    MutatingAdmissionPolicyBindingSpec, MutatingAdmissionPolicySpec, Mutation,
    NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec, Validation, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Serialize;
use serde_json::Value;

use super::cel::cel;

/// The kind of an object of the guard, all of them `admissionregistration.k8s.io/v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardKind {
    /// A policy that refuses.
    ValidatingAdmissionPolicy,
    /// What puts such a policy in force.
    ValidatingAdmissionPolicyBinding,
    /// A policy that fills in.
    MutatingAdmissionPolicy,
    /// What puts such a policy in force.
    MutatingAdmissionPolicyBinding,
}

impl GuardKind {
    /// The kind, as manifests have it.
    pub fn as_str(self) -> &'static str {
        match self {
            GuardKind::ValidatingAdmissionPolicy => "ValidatingAdmissionPolicy",
            GuardKind::ValidatingAdmissionPolicyBinding => "ValidatingAdmissionPolicyBinding",
            GuardKind::MutatingAdmissionPolicy => "MutatingAdmissionPolicy",
            GuardKind::MutatingAdmissionPolicyBinding => "MutatingAdmissionPolicyBinding",
        }
    }

    /// The resource, as URLs have it.
    pub fn plural(self) -> &'static str {
        match self {
            GuardKind::ValidatingAdmissionPolicy => "validatingadmissionpolicies",
            GuardKind::ValidatingAdmissionPolicyBinding => "validatingadmissionpolicybindings",
            GuardKind::MutatingAdmissionPolicy => "mutatingadmissionpolicies",
            GuardKind::MutatingAdmissionPolicyBinding => "mutatingadmissionpolicybindings",
        }
    }

    /// Whether the guard has a hole without it. Mutating policies are a convenience, which
    /// clusters before 1.36 do not have: what they fill in is checked by a validating one.
    pub fn required(self) -> bool {
        match self {
            GuardKind::ValidatingAdmissionPolicy | GuardKind::ValidatingAdmissionPolicyBinding => {
                true
            }
            GuardKind::MutatingAdmissionPolicy | GuardKind::MutatingAdmissionPolicyBinding => false,
        }
    }
}

impl fmt::Display for GuardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One object of the guard.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardObject {
    /// Its kind.
    pub kind: GuardKind,
    /// Its name.
    pub name: String,
    /// Its `spec`, with every field that the API server would fill in: what is live must be equal.
    pub spec: Value,
    /// The whole object, to be written to a file or applied.
    pub object: Value,
}

impl GuardObject {
    fn new(kind: GuardKind, name: &str, object: &impl Serialize) -> Self {
        let object = serde_json::to_value(object).expect("generated objects are plain data");
        GuardObject { kind, name: name.to_owned(), spec: object["spec"].clone(), object }
    }
}

/// A policy and the binding that puts it in force.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardPolicy {
    /// The policy.
    pub policy: GuardObject,
    /// Its binding, of the same name.
    pub binding: GuardObject,
    /// What it asks for, for people.
    pub rules: Vec<GuardRule>,
}

/// One thing that a policy asks for, as `docs/guard.md` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardRule {
    /// Which request.
    pub what: String,
    /// Who may send it.
    pub who: String,
    /// What everybody else is told, in one line.
    pub message: String,
}

/// Which requests a policy looks at.
pub(super) struct Match {
    pub group: &'static str,
    pub resources: &'static [&'static str],
    pub operations: &'static [&'static str],
}

/// One thing that a validating policy asks for. All texts are CEL, with `$NAME` for the constants
/// that [`cel`] knows.
pub(super) struct Check {
    /// Which request, for people.
    pub what: &'static str,
    /// Who may send it, for people.
    pub who: &'static str,
    /// True lets the request pass.
    pub allow: &'static str,
    /// Why it is refused, in one line; said when the CEL of `explain` cannot be evaluated.
    pub message: &'static str,
    /// What was refused, and who may do what instead, with the command.
    pub explain: &'static str,
}

/// A validating policy as it is written in the files next to this one. The API server reports the
/// first check that fails, so that the order of the checks is the order of the explanations.
pub(super) struct Policy {
    pub name: &'static str,
    pub matches: &'static [Match],
    /// Evaluated when first used, in any check or explanation.
    pub variables: &'static [(&'static str, &'static str)],
    pub checks: &'static [Check],
}

impl Policy {
    /// The objects of this policy.
    pub fn build(&self) -> GuardPolicy {
        let spec = ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(constraints(self.matches)),
            variables: variables(self.variables),
            validations: Some(self.checks.iter().map(Check::build).collect()),
            ..ValidatingAdmissionPolicySpec::default()
        };
        let policy = ValidatingAdmissionPolicy {
            metadata: metadata(self.name),
            spec: Some(spec),
            status: None,
        };
        let binding = ValidatingAdmissionPolicyBinding {
            metadata: metadata(self.name),
            spec: ValidatingAdmissionPolicyBindingSpec {
                policy_name: self.name.to_owned(),
                // Audit beside Deny: the audit log then names policy and check of every refusal.
                validation_actions: vec!["Deny".to_owned(), "Audit".to_owned()],
                ..ValidatingAdmissionPolicyBindingSpec::default()
            },
        };
        GuardPolicy {
            policy: GuardObject::new(GuardKind::ValidatingAdmissionPolicy, self.name, &policy),
            binding: GuardObject::new(
                GuardKind::ValidatingAdmissionPolicyBinding,
                self.name,
                &binding,
            ),
            rules: self.checks.iter().map(Check::rule).collect(),
        }
    }
}

impl Check {
    fn rule(&self) -> GuardRule {
        GuardRule {
            what: self.what.to_owned(),
            who: self.who.to_owned(),
            message: self.message.to_owned(),
        }
    }

    fn build(&self) -> Validation {
        Validation {
            expression: cel(self.allow),
            message: Some(self.message.to_owned()),
            message_expression: Some(cel(self.explain)),
            // Without it the answer would be 422, as if the request were malformed.
            reason: Some("Forbidden".to_owned()),
        }
    }
}

/// A mutating policy as it is written in the files next to this one.
pub(super) struct Mutator {
    pub name: &'static str,
    pub matches: &'static [Match],
    /// Names and their CEL, in order; a later one may use an earlier one.
    pub variables: &'static [(&'static str, &'static str)],
    /// CEL that gives a list of JSON patch operations.
    pub patch: &'static str,
}

impl Mutator {
    /// The objects of this policy.
    pub fn build(&self) -> GuardPolicy {
        let spec = MutatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(constraints(self.matches)),
            variables: variables(self.variables),
            mutations: Some(vec![Mutation {
                patch_type: "JSONPatch".to_owned(),
                json_patch: Some(JSONPatch { expression: Some(cel(self.patch)) }),
                apply_configuration: None,
            }]),
            reinvocation_policy: Some("Never".to_owned()),
            ..MutatingAdmissionPolicySpec::default()
        };
        let policy = MutatingAdmissionPolicy { metadata: metadata(self.name), spec: Some(spec) };
        let binding = MutatingAdmissionPolicyBinding {
            metadata: metadata(self.name),
            spec: Some(MutatingAdmissionPolicyBindingSpec {
                policy_name: Some(self.name.to_owned()),
                ..MutatingAdmissionPolicyBindingSpec::default()
            }),
        };
        GuardPolicy {
            policy: GuardObject::new(GuardKind::MutatingAdmissionPolicy, self.name, &policy),
            binding: GuardObject::new(
                GuardKind::MutatingAdmissionPolicyBinding,
                self.name,
                &binding,
            ),
            rules: vec![],
        }
    }
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([("app.kubernetes.io/part-of".to_owned(), "reprieve".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

/// None rather than an empty list: the API server drops empty lists, and the live object would
/// never be equal.
fn variables(variables: &[(&str, &str)]) -> Option<Vec<Variable>> {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, expression)| Variable {
            name: (*name).to_owned(),
            expression: cel(expression),
        })
        .collect();
    (!variables.is_empty()).then_some(variables)
}

fn constraints(matches: &[Match]) -> MatchResources {
    let owned = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    MatchResources {
        // The API server's defaults are spelled out: the live object is compared with this one.
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(LabelSelector::default()),
        object_selector: Some(LabelSelector::default()),
        resource_rules: Some(
            matches
                .iter()
                .map(|m| NamedRuleWithOperations {
                    api_groups: owned(&[m.group]),
                    // Every version: "Equivalent" finds other versions only while the one that is
                    // named here is still served.
                    api_versions: owned(&["*"]),
                    operations: owned(m.operations),
                    resources: owned(m.resources),
                    resource_names: None,
                    scope: Some("*".to_owned()),
                })
                .collect(),
        ),
        ..MatchResources::default()
    }
}
