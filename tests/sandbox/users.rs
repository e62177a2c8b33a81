//! Users, groups, service accounts and kubelets, each with a kubeconfig.

use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use reprieve::sandbox::Sandbox;
use serde_json::json;

pub async fn are_who_they_are(sandbox: &Sandbox) {
    let alice = sandbox.user("alice", &["approvers", "developers"]).expect("it can be written");
    let (user, groups) = who_am_i(sandbox.client_for(&alice).await.expect("a kubeconfig")).await;
    assert_eq!(user, "alice");
    for group in ["approvers", "developers", "system:authenticated"] {
        assert!(groups.iter().any(|g| g == group), "{group} is not in {groups:?}");
    }

    let accounts: Api<ServiceAccount> = Api::namespaced(sandbox.admin(), "default");
    for name in ["pipeline", "stranger"] {
        let account = serde_json::from_value(json!({ "metadata": { "name": name } }));
        let account = account.expect("a service account");
        accounts.create(&PostParams::default(), &account).await.expect("it can be created");
    }
    let pipeline =
        sandbox.service_account_kubeconfig("default", "pipeline").await.expect("a token");
    let (user, _) = who_am_i(sandbox.client_for(&pipeline).await.expect("a kubeconfig")).await;
    assert_eq!(user, "system:serviceaccount:default:pipeline");

    kubelets_get_tokens_for_their_own_pods(sandbox).await;
}

/// A kubelet may ask for a token of the account of a pod on its node, and of no other account.
async fn kubelets_get_tokens_for_their_own_pods(sandbox: &Sandbox) {
    let pods: Api<Pod> = Api::namespaced(sandbox.admin(), "default");
    let pod = json!({
        "metadata": { "name": "on-node-0" },
        "spec": {
            "nodeName": "node-0", "serviceAccountName": "pipeline",
            "containers": [{ "name": "c", "image": "none" }],
        },
    });
    let pod: Pod = serde_json::from_value(pod).expect("a Pod");
    let pod = pods.create(&PostParams::default(), &pod).await.expect("it can be created");
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": { "audiences": [], "boundObjectRef": {
            "apiVersion": "v1", "kind": "Pod", "name": "on-node-0", "uid": pod.metadata.uid,
        } },
    }))
    .expect("a TokenRequest");
    let kubelet = |node: &str| sandbox.node(node).expect("a kubeconfig");
    for (node, account, allowed) in
        [("node-0", "pipeline", true), ("node-0", "stranger", false), ("node-1", "pipeline", false)]
    {
        let client = sandbox.client_for(&kubelet(node)).await.expect("a kubeconfig");
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        let params = PostParams::default();
        let ask = || accounts.create_token_request(account, &params, &request);
        // The authorizer learns of a new pod in a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut answer = ask().await;
        while allowed && answer.is_err() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = ask().await;
        }
        assert_eq!(answer.is_ok(), allowed, "{node} asks for {account}: {answer:?}");
    }
}

pub async fn who_am_i(client: kube::Client) -> (String, Vec<String>) {
    let review: Api<SelfSubjectReview> = Api::all(client);
    let answer = review.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let user = answer.expect("it is answered").status.and_then(|s| s.user_info).expect("a user");
    (user.username.unwrap_or_default(), user.groups.unwrap_or_default())
}
