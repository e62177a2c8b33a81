//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{App, Backup, DeletionPolicy, DeletionRequest, Restore, Site};

/// The file of each CustomResourceDefinition under `crds/`, in the order of [`crds`].
pub const CRD_FILES: [&str; 6] = [
    "sites.yaml",
    "apps.yaml",
    "deletionrequests.yaml",
    "deletionpolicies.yaml",
    "backups.yaml",
    "restores.yaml",
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
    ]
}
