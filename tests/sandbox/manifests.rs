//! Admission policies on the API server's disk.

use std::fs;
use std::path::Path;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use reprieve::sandbox::{Options, Sandbox};
use serde_json::json;

use crate::REPRIEVE;

/// A policy that refuses ConfigMaps with this label, one that sets another, and their bindings.
fn policies(folder: &Path, forbidden: &str) {
    let rules = r#"
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]"#;
    let text = format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: no-label.static.k8s.io}}
spec:{rules}
  validations:
  - expression: "!('{forbidden}' in object.metadata.?labels.orValue({{}}))"
    reason: Forbidden
    message: label {forbidden} is forbidden
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: no-label.static.k8s.io}}
spec: {{policyName: no-label.static.k8s.io, validationActions: [Deny]}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: set-label.static.k8s.io}}
spec:{rules}
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {{expression: "Object{{metadata: Object.metadata{{labels: {{'seen': 'true'}}}}}}"}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: set-label.static.k8s.io}}
spec: {{policyName: set-label.static.k8s.io}}
"#
    );
    fs::write(folder.join("policies.yaml"), text).expect("it can be written");
}

/// What the API server says to a ConfigMap with this label.
async fn try_label(sandbox: &Sandbox, label: &str) -> Result<ConfigMap, kube::Error> {
    let maps: Api<ConfigMap> = Api::default_namespaced(sandbox.admin());
    let map = json!({ "metadata": { "name": "labelled", "labels": { label: "" } } });
    let map: ConfigMap = serde_json::from_value(map).expect("a ConfigMap");
    maps.create(&PostParams { dry_run: true, ..Default::default() }, &map).await
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, kube::Error>, code: u16, words: &str) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == code && status.message.contains(words) => {}
        other => panic!("expected {code} with {words:?}; seen: {other:?}"),
    }
}

#[tokio::test]
async fn policies_on_disk_bind_everybody_and_nobody_sees_them() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    policies(folder.path(), "first");
    let options = Options {
        nodes: 1,
        static_manifests: Some(folder.path().to_owned()),
        ..Options::new(REPRIEVE)
    };
    let Some(mut sandbox) = Sandbox::for_test_with(options).await else { return };

    // The administrator is in system:masters.
    refused(try_label(&sandbox, "first").await, 403, "label first is forbidden");
    let map = try_label(&sandbox, "second").await.expect("nothing forbids this one");
    assert_eq!(map.metadata.labels.expect("labels")["seen"], "true");

    let live: Api<ValidatingAdmissionPolicy> = Api::all(sandbox.admin());
    let all = live.list(&ListParams::default()).await.expect("they can be listed").items;
    assert!(!all.iter().any(|p| p.metadata.name.as_deref() == Some("no-label.static.k8s.io")));
    let gone = live.delete("no-label.static.k8s.io", &DeleteParams::default()).await;
    refused(gone, 404, "not found");
    // Nor can anybody put one of the name beside it.
    let twin = json!({
        "metadata": { "name": "no-label.static.k8s.io" },
        "spec": { "matchConstraints": {}, "validations": [{ "expression": "true" }] },
    });
    let twin = serde_json::from_value(twin).expect("a policy");
    refused(live.create(&PostParams::default(), &twin).await, 422, "reserved for static");

    // What is changed on disk is in force when the call returns.
    policies(folder.path(), "second");
    sandbox.set_static_manifests(folder.path()).await.expect("it is loaded");
    refused(try_label(&sandbox, "second").await, 403, "label second is forbidden");
    try_label(&sandbox, "first").await.expect("nothing forbids this one now");

    // What cannot be loaded leaves in force what is.
    let file = folder.path().join("policies.yaml");
    fs::write(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stray}\n").expect("a file");
    let error = sandbox.set_static_manifests(folder.path()).await.expect_err("no policy");
    let error = format!("{error:#}");
    assert!(error.contains("policies.yaml") && error.contains("ConfigMap stray"), "{error}");
    refused(try_label(&sandbox, "second").await, 403, "label second is forbidden");
    sandbox.stop().expect("the folder can be removed");
}

/// An API server that was started without policies on its disk gets some.
pub async fn come_later(sandbox: &mut Sandbox) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    policies(folder.path(), "late");
    try_label(sandbox, "late").await.expect("nothing forbids this one");
    sandbox.set_static_manifests(folder.path()).await.expect("they are loaded");
    refused(try_label(sandbox, "late").await, 403, "label late is forbidden");
}
