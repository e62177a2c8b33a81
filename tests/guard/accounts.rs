//! Tokens of the operator's account for kubelets, the optional rule against impersonation, and
//! fields of a DeletionPolicy that the guard does not know.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, PostParams};
use reprieve::api::{DeletionPolicy, DeletionPolicySpec, Site, names};
use reprieve::guard::{self, policy};
use serde_json::json;

use super::table::{impersonate, impersonate_extra};
use super::{Cluster, denied, eventually, guard_api, json_patch, merge, merge_status, object};

/// T10: a kubelet is who is named and grouped as one.
pub async fn kubelets(c: &Cluster) {
    let token = async |client: &Client| {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(client.clone(), names::OPERATOR_NAMESPACE);
        let request = TokenRequest::default();
        accounts
            .create_token_request(names::OPERATOR_ACCOUNT, &PostParams::default(), &request)
            .await
    };
    let masters = "system:masters";
    let kubelet = impersonate(c, "system:node:node-0", &["system:nodes", masters]).await;
    token(&kubelet).await.expect("a kubelet gets one");
    for (name, groups) in [
        ("system:node:node-0", vec![masters]),
        ("mallory", vec!["system:nodes", masters]),
        ("mallory", vec![masters]),
    ] {
        let client = impersonate(c, name, &groups).await;
        denied(policy::OPERATOR_TOKENS, token(&client).await);
    }
}

/// The optional rule: whoever impersonates the operator has no credential of the operator's.
pub async fn impersonation(c: &Cluster) {
    super::entities::site(c, "acted").await;
    let write = async |client: &Client| {
        let sites: Api<Site> = Api::all(client.clone());
        merge_status(&sites, "acted", json!({"status": {"state": "Active"}})).await
    };
    let actor = impersonate(c, names::OPERATOR_USER, &["system:masters"]).await;
    write(&actor).await.expect("without the rule, admission sees the operator");
    let mut installed = vec![];
    for guard::GuardPolicy { policy, binding, .. } in guard::optional_policies() {
        for part in [policy, binding] {
            let api = guard_api(c, part.kind);
            let made = object(part.object);
            api.create(&PostParams::default(), &made).await.expect("it is installed");
            installed.push((part.kind, part.name));
        }
    }
    eventually("the optional rule is in force", async || write(&actor).await.is_err()).await;
    denied(policy::OPERATOR_CREDENTIAL, write(&actor).await);
    let sites: Api<Site> = Api::all(actor.clone());
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    denied(policy::OPERATOR_CREDENTIAL, merge(&sites, "acted", label).await);
    write(&c.operator).await.expect("the operator has a credential");
    // Whoever may impersonate every extra field too can forge the id: docs/threat-model.md says so.
    let forger = impersonate_extra(c, names::OPERATOR_USER).await;
    write(&forger).await.expect("the rule is no fence against system:masters");
    for (kind, name) in installed {
        guard_api(c, kind).delete(&name, &Default::default()).await.expect("it is removed");
    }
    eventually("the optional rule is gone", async || write(&actor).await.is_ok()).await;
}

/// T16: a field that a later release adds is guarded before anybody says in which direction.
pub async fn fields_of_tomorrow(c: &Cluster, editor: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(c.admin.clone());
    let name = "deletionpolicies.reprieve.dev";
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let flag = json!({"type": "boolean"});
    let add = json!([
        {"op": "add", "path": format!("{spec}/later"), "value": any},
        {"op": "add", "path": format!("{spec}/backup/properties/triedBeforePurge"), "value": flag},
    ]);
    json_patch(&crds, name, add).await.expect("an administrator may upgrade");
    let mut tomorrow: DeletionPolicy =
        DeletionPolicy::new("tomorrow", DeletionPolicySpec::built_in());
    tomorrow.metadata.labels = None;
    let all: Api<DeletionPolicy> = Api::all(c.admin.clone());
    all.create(&PostParams::default(), &tomorrow).await.expect("a policy");
    let dynamic: Api<kube::api::DynamicObject> =
        Api::all_with(c.admin.clone(), &kube::api::ApiResource::erase::<DeletionPolicy>(&()));
    let with = json!({"spec": {"later": {"a": {"b": "c"}}, "backup": {"triedBeforePurge": true}}});
    eventually("the new fields are served", async || {
        let live = merge(&dynamic, "tomorrow", with.clone()).await.expect("an administrator may");
        live.data["spec"]["later"]["a"]["b"] == "c"
    })
    .await;
    let mine: Api<kube::api::DynamicObject> =
        Api::all_with(editor.clone(), &kube::api::ApiResource::erase::<DeletionPolicy>(&()));
    for (patch, field) in [
        (json!({"spec": {"later": {"a": {"b": "d"}}}}), "weaker (later)"),
        (json!({"spec": {"later": null}}), "weaker (later)"),
        (
            json!({"spec": {"backup": {"triedBeforePurge": false}}}),
            "weaker (backup.triedBeforePurge)",
        ),
        (
            json!({"spec": {"backup": {"triedBeforePurge": null}}}),
            "weaker (backup.triedBeforePurge)",
        ),
    ] {
        let message = denied(policy::WEAKEN, merge(&mine, "tomorrow", patch).await);
        assert!(message.contains(field), "{message}");
    }
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    merge(&mine, "tomorrow", label).await.expect("a label is no change");
    let remove = json!([
        {"op": "remove", "path": format!("{spec}/later")},
        {"op": "remove", "path": format!("{spec}/backup/properties/triedBeforePurge")},
    ]);
    json_patch(&crds, name, remove).await.expect("put back");
}
