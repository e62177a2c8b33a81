//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::{App, Backup, DeletionPolicy, DeletionRequest, Restore, RestoreDrill, Site};

/// The file of each CustomResourceDefinition under `crds/`, in the order of [`crds`].
pub const CRD_FILES: [&str; 7] = [
    "sites.yaml",
    "apps.yaml",
    "deletionrequests.yaml",
    "deletionpolicies.yaml",
    "backups.yaml",
    "restores.yaml",
    "restoredrills.yaml",
];

/// Every CustomResourceDefinition of the project.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        Site::crd(),
        App::crd(),
        DeletionRequest::crd(),
        DeletionPolicy::crd(),
        Backup::crd(),
        Restore::crd(),
        RestoreDrill::crd(),
    ]
    .into_iter()
    .map(without_rules_of_status)
    .collect()
}

/// Rules are for what people write. In a status, where the spec of another kind is recorded, they
/// would refuse what was true: a plan that is made again after the site came under a policy of the
/// other environment, for example, would break "environment is immutable", for ever.
fn without_rules_of_status(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
            forget_rules(status);
        }
    }
    crd
}

fn forget_rules(schema: &mut JSONSchemaProps) {
    schema.x_kubernetes_validations = None;
    schema.properties.iter_mut().flat_map(|all| all.values_mut()).for_each(forget_rules);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => forget_rules(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(forget_rules),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        forget_rules(values);
    }
}
