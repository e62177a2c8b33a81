use super::*;
use serde_json::json;

#[test]
fn every_policy_fails_closed_and_exempts_nobody() {
    for GuardPolicy { policy, binding, .. } in policies().into_iter().chain(optional_policies()) {
        let spec = &policy.spec;
        assert_eq!(policy.name, binding.name);
        assert!(policy.name.starts_with("reprieve-"), "{}", policy.name);
        assert_eq!(spec["failurePolicy"], "Fail", "{}", policy.name);
        assert_eq!(binding.spec["policyName"], policy.name);
        for absent in ["paramKind", "matchConditions"] {
            assert!(spec.get(absent).is_none(), "{} has {absent}", policy.name);
        }
        for absent in ["paramRef", "matchResources"] {
            assert!(binding.spec.get(absent).is_none(), "{} has {absent}", policy.name);
        }
        let constraints = &spec["matchConstraints"];
        assert!(constraints.get("excludeResourceRules").is_none());
        assert_eq!(constraints["namespaceSelector"], json!({}));
        assert_eq!(constraints["objectSelector"], json!({}));
        if policy.kind == GuardKind::ValidatingAdmissionPolicy {
            assert_eq!(binding.spec["validationActions"][0], "Deny");
            for validation in spec["validations"].as_array().expect("validations") {
                assert_eq!(validation["reason"], "Forbidden");
                // The API server refuses a message with a line break.
                assert!(!validation["message"].as_str().expect("message").contains('\n'));
                assert!(!validation["message"].as_str().expect("message").contains('$'));
            }
        }
    }
}

#[test]
fn names_are_unique_and_objects_are_whole() {
    let mut seen = std::collections::BTreeSet::new();
    for object in objects() {
        assert_eq!(object.object["kind"], object.kind.as_str());
        assert_eq!(object.object["metadata"]["name"], object.name);
        assert_eq!(object.object["spec"], object.spec);
        // The API server drops empty lists: the live object would never be equal.
        assert!(!has_empty_list(&object.spec), "{}", object.name);
        assert!(seen.insert((object.kind, object.name)));
    }
}

fn has_empty_list(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Array(list) => list.is_empty() || list.iter().any(has_empty_list),
        serde_json::Value::Object(fields) => fields.values().any(has_empty_list),
        _ => false,
    }
}

#[test]
fn what_is_live_must_be_equal() {
    let expected = objects()[0].spec.clone();
    assert_eq!(difference(&expected, &expected), None);
    let changed = |path: &str, edit: &dyn Fn(&mut serde_json::Value)| {
        let mut live = expected.clone();
        edit(&mut live);
        assert_eq!(difference(&expected, &live).expect("a difference").path, path);
    };
    changed("spec.failurePolicy", &|live| live["failurePolicy"] = json!("Ignore"));
    changed("spec.validations[0].expression", &|live| {
        live["validations"][0]["expression"] = json!("true");
    });
    changed("spec.validations", &|live| live["validations"] = json!([]));
    changed("spec.matchConstraints.excludeResourceRules", &|live| {
        live["matchConstraints"]["excludeResourceRules"] = json!([{}]);
    });
    changed("spec.matchConditions", &|live| live["matchConditions"] = json!([]));
    changed("spec.variables", &|live| {
        live.as_object_mut().expect("an object").remove("variables");
    });
    assert_eq!(difference(&expected, &json!(null)).expect("a difference").path, "spec");
}

#[test]
fn a_probe_is_answered_by_its_own_policy() {
    let names: Vec<_> = policies().into_iter().map(|p| p.policy.name).collect();
    for probe in probes() {
        assert!(names.iter().any(|name| name == probe.policy), "{}", probe.policy);
    }
    let message = "sites.reprieve.dev \"acme\" is forbidden: ValidatingAdmissionPolicy \
                   'reprieve-delete-entities' with binding 'reprieve-delete-entities' denied \
                   request: Site acme is deleted through a DeletionRequest only";
    assert!(is_denied_by(message, policy::DELETE_ENTITIES));
    assert!(!is_denied_by(message, policy::DELETE_NAMESPACES));
    assert!(!is_denied_by("sites.reprieve.dev \"acme\" is forbidden: User cannot delete", ""));
    // The API server names the one on its disk where there are both.
    let disk =
        message.replace("reprieve-delete-entities", "reprieve-delete-entities.static.k8s.io");
    assert!(is_denied_by(&disk, policy::DELETE_ENTITIES));
    assert!(!is_denied_by(&disk, policy::DELETE_NAMESPACES));
    // A binding of another name may have another scope.
    let other = message.replace("binding 'reprieve-delete-entities'", "binding 'mine'");
    assert!(!is_denied_by(&other, policy::DELETE_ENTITIES));
}

#[test]
fn only_approvers_approve_and_nobody_deletes_sites() {
    for role in people_roles() {
        let name = role.metadata.name.expect("a name");
        for rule in role.rules.expect("rules") {
            let resources = rule.resources.expect("resources");
            let approves = rule.verbs.iter().any(|verb| verb == "approve" || verb == "*");
            assert!(!approves || name == roles::APPROVER, "{name}");
            let writes = rule.verbs.iter().any(|verb| !["get", "list", "watch"].contains(&&**verb));
            let written: &[&str] = match &*name {
                "reprieve-policy-admin" => &["deletionpolicies", "customresourcedefinitions"],
                _ => &["deletionrequests", "restores", "restoredrills"],
            };
            assert!(!writes || resources.iter().all(|r| written.contains(&&**r)), "{name}");
        }
    }
}

/// Who is refused learns what to do instead.
#[test]
fn every_refusal_names_a_command() {
    for GuardPolicy { policy, .. } in policies().into_iter().chain(optional_policies()) {
        for validation in policy.spec["validations"].as_array().into_iter().flatten() {
            let explanation = validation["messageExpression"].as_str().expect("an explanation");
            // Some put the command into a variable, for several explanations.
            let variables = policy.spec["variables"].as_array().into_iter().flatten();
            let how = variables.filter(|v| v["name"] == "how").map(|v| v["expression"].to_string());
            let uses_how = explanation.contains("variables.how");
            let text = explanation.to_owned() + &how.filter(|_| uses_how).collect::<String>();
            assert!(text.contains("kubectl "), "{}: {explanation}", policy.name);
        }
    }
}

/// Whoever adds a field to the DeletionPolicy says in which direction it is weaker, or leaves it to
/// the rule that any change is.
#[test]
fn fields_of_a_policy_have_a_direction() {
    use crate::api::{DeletionPolicySpec, Environment};
    let spec = json!(DeletionPolicySpec::built_in());
    assert_eq!(spec["environment"], json!(Environment::Production));
    let known: Vec<_> = weaken::WHEN_LOWER.iter().chain(weaken::WHEN_HIGHER).collect();
    for field in &known {
        let pointer = format!("/{}", field.replace('.', "/"));
        let value = spec.pointer(&pointer).unwrap_or(&serde_json::Value::Null);
        // Of two booleans, false is the lower one.
        assert!(value.is_i64() || value.is_boolean(), "{field} is no number of a DeletionPolicy");
    }
    let mut parts: Vec<&str> = known.iter().filter_map(|f| Some(f.rsplit_once('.')?.0)).collect();
    parts.dedup();
    for part in parts {
        let object = spec.pointer(&format!("/{}", part.replace('.', "/")));
        for name in object.and_then(|o| o.as_object()).expect("an object").keys() {
            let field = format!("{part}.{name}");
            let below = format!("{field}.");
            assert!(known.iter().any(|f| **f == field || f.starts_with(&below)), "{field}");
        }
    }
}

#[test]
fn what_is_on_disk_has_the_names_that_it_must_have() {
    let all = static_objects();
    assert_eq!(all.len(), policies().len());
    for (folder, name, [policy, binding]) in all {
        let kind = policy["kind"].as_str().expect("a kind");
        assert_eq!(folder == "mutating", kind == "MutatingAdmissionPolicy", "{name}");
        let named = json!(format!("{name}.static.k8s.io"));
        assert_eq!(policy["metadata"]["name"], named);
        assert_eq!(binding["metadata"]["name"], named);
        assert_eq!(binding["spec"]["policyName"], named);
    }
}
