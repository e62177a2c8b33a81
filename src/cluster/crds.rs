//! Whether the CRDs that a cluster serves are those that this program needs. Pure.
//!
//! A CRD of an older version prunes the fields that it does not know: what the operator writes to
//! a status would be lost without a word. One of a newer version only has more.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionVersion,
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

/// What differs between a CRD as it is served and as it is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What the program needs and the cluster lacks.
    pub lacks: Vec<String>,
    /// What the cluster has and the program does not know.
    pub unknown: Vec<String>,
}

/// Compares a CRD as the cluster has it with the one that is needed.
pub fn differences(
    needed: &CustomResourceDefinition,
    live: &CustomResourceDefinition,
) -> Differences {
    let mut found = Differences::default();
    if needed.spec.scope != live.spec.scope {
        found.lacks.push(format!("scope {}", needed.spec.scope));
    }
    for version in &needed.spec.versions {
        let served = live.spec.versions.iter().find(|v| v.name == version.name && v.served);
        let Some(served) = served else {
            found.lacks.push(format!("version {}", version.name));
            continue;
        };
        of_version(version, served, &mut found);
    }
    found
}

fn of_version(
    needed: &CustomResourceDefinitionVersion,
    live: &CustomResourceDefinitionVersion,
    found: &mut Differences,
) {
    let status = |v: &CustomResourceDefinitionVersion| {
        v.subresources.as_ref().is_some_and(|s| s.status.is_some())
    };
    if status(needed) && !status(live) {
        found.lacks.push("subresource status".to_owned());
    }
    for field in needed.selectable_fields.iter().flatten() {
        if !live.selectable_fields.iter().flatten().any(|f| f.json_path == field.json_path) {
            found.lacks.push(format!("selectable field {}", field.json_path));
        }
    }
    // Ids are looked up by a column.
    for column in needed.additional_printer_columns.iter().flatten() {
        if !live.additional_printer_columns.iter().flatten().any(|c| same_column(c, column)) {
            found.lacks.push(format!("column {}", column.name));
        }
    }
    let schema = |v: &CustomResourceDefinitionVersion| {
        v.schema.as_ref().and_then(|s| s.open_api_v3_schema.clone()).unwrap_or_default()
    };
    of_schema("", &schema(needed), &schema(live), found);
}

fn same_column(a: &CustomResourceColumnDefinition, b: &CustomResourceColumnDefinition) -> bool {
    a.name == b.name && a.json_path == b.json_path && a.type_ == b.type_
}

fn of_schema(
    path: &str,
    needed: &JSONSchemaProps,
    live: &JSONSchemaProps,
    found: &mut Differences,
) {
    let here = if path.is_empty() { "." } else { path };
    if needed.type_ != live.type_ {
        let type_ = needed.type_.as_deref().unwrap_or("any");
        found.lacks.push(format!("type {type_} of {here}"));
        return;
    }
    // Whatever comes is kept.
    if live.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    if needed.x_kubernetes_preserve_unknown_fields == Some(true) {
        found.lacks.push(format!("unknown fields in {here}"));
    }
    of_enum(here, needed, live, found);
    let below = |name: &str| format!("{path}.{name}");
    for (name, needed) in needed.properties.iter().flatten() {
        match live.properties.as_ref().and_then(|all| all.get(name)) {
            Some(live) => of_schema(&below(name), needed, live, found),
            None => found.lacks.push(format!("field {}", below(name))),
        }
    }
    for name in live.properties.iter().flatten().map(|(name, _)| name) {
        if !needed.properties.as_ref().is_some_and(|all| all.contains_key(name)) {
            found.unknown.push(format!("field {}", below(name)));
        }
    }
    if let (Some(needed), Some(live)) = (item(needed), item(live)) {
        of_schema(&format!("{path}[]"), needed, live, found);
    }
    if let (Some(needed), Some(live)) = (value(needed), value(live)) {
        of_schema(&format!("{path}.*"), needed, live, found);
    }
}

fn of_enum(here: &str, needed: &JSONSchemaProps, live: &JSONSchemaProps, found: &mut Differences) {
    let Some(allowed) = &live.enum_ else { return };
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let known = needed.enum_.as_deref().unwrap_or_default();
    if known.is_empty() {
        found.lacks.push(format!("any value of {here}"));
    }
    for value in known.iter().filter(|v| !allowed.contains(v)) {
        found.lacks.push(format!("value {} of {here}", word(&value.0)));
    }
    for value in allowed.iter().filter(|v| !known.is_empty() && !known.contains(v)) {
        found.unknown.push(format!("value {} of {here}", word(&value.0)));
    }
}

fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(schema) => Some(schema),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

fn value(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.additional_properties.as_ref()? {
        JSONSchemaPropsOrBool::Schema(schema) => Some(schema),
        JSONSchemaPropsOrBool::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::crds;

    fn site() -> CustomResourceDefinition {
        crds().remove(0)
    }

    /// The Site's CRD with something changed.
    fn changed(change: impl FnOnce(&mut Value)) -> CustomResourceDefinition {
        let mut crd = serde_json::to_value(site()).unwrap();
        change(&mut crd["spec"]["versions"][0]);
        serde_json::from_value(crd).unwrap()
    }

    fn field<'a>(version: &'a mut Value, name: &str) -> &'a mut Value {
        &mut version["schema"]["openAPIV3Schema"]["properties"][name]["properties"]
    }

    fn remove(object: &mut Value, key: &str) {
        object.as_object_mut().unwrap().remove(key).expect("it is there");
    }

    #[test]
    fn the_same_crd_differs_in_nothing() {
        for crd in crds() {
            assert_eq!(differences(&crd, &crd), Differences::default());
        }
    }

    #[test]
    fn what_an_older_crd_lacks_is_named() {
        for (live, lacks) in [
            (changed(|v| remove(field(v, "spec"), "priority")), "field .spec.priority"),
            (changed(|v| remove(field(v, "status"), "inventory")), "field .status.inventory"),
            (changed(|v| remove(v, "subresources")), "subresource status"),
            (changed(|v| v["name"] = "v1alpha0".into()), "version v1alpha1"),
            (changed(|v| v["served"] = false.into()), "version v1alpha1"),
            (
                changed(|v| field(v, "spec")["priority"]["type"] = "string".into()),
                "type integer of .spec.priority",
            ),
            (changed(|v| remove(v, "selectableFields")), "selectable field .spec.id"),
            (
                changed(|v| {
                    v["additionalPrinterColumns"]
                        .as_array_mut()
                        .unwrap()
                        .retain(|c| c["name"] != "Id");
                }),
                "column Id",
            ),
        ] {
            let found = differences(&site(), &live);
            assert_eq!(found.lacks, [lacks]);
        }
        let mut live = site();
        live.spec.scope = "Namespaced".to_owned();
        assert_eq!(differences(&site(), &live).lacks, ["scope Cluster"]);
    }

    #[test]
    fn an_enum_that_lacks_a_value_is_older_and_one_with_more_is_newer() {
        let with = |values: &[&str]| changed(|v| field(v, "spec")["id"]["enum"] = values.into());
        let found = differences(&with(&["a", "b"]), &with(&["a"]));
        assert_eq!(found.lacks, ["value b of .spec.id"]);
        let found = differences(&with(&["a"]), &with(&["a", "b"]));
        assert_eq!(found.unknown, ["value b of .spec.id"]);
        assert_eq!(found.lacks, [""; 0]);
        assert_eq!(differences(&with(&["a"]), &site()), Differences::default());
        assert_eq!(differences(&site(), &with(&["a"])).lacks, ["any value of .spec.id"]);
    }

    #[test]
    fn a_newer_crd_only_has_more() {
        let more = changed(|v| {
            field(v, "spec")["colour"] = serde_json::json!({ "type": "string" });
        });
        let found = differences(&site(), &more);
        assert_eq!(
            (found.lacks.len(), &*found.unknown),
            (0, &["field .spec.colour".to_owned()][..])
        );
    }
}
