//! Two API servers on one etcd.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use reprieve::sandbox::Sandbox;
use serde_json::json;

pub async fn share_one_etcd(sandbox: &Sandbox) {
    let mut second = sandbox.start_api_server(&[]).await.expect("it starts");
    let alice = sandbox.user("alice", &["system:masters"]).expect("a kubeconfig");
    let there = second.client_for(&alice).await.expect("a client");
    let here = sandbox.client_for(&alice).await.expect("a client");
    let mut log = sandbox.audit_from_now().expect("an audit log");

    // What is written through one is read through the other, both ways.
    let map: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "generateName": "shared-" } })).expect("one");
    for (writer, reader) in [(&here, &there), (&there, &here)] {
        let (writer, reader): (Api<ConfigMap>, Api<ConfigMap>) =
            (Api::default_namespaced(writer.clone()), Api::default_namespaced(reader.clone()));
        let made = writer.create(&PostParams::default(), &map).await.expect("it is created");
        let name = made.metadata.name.expect("a name");
        let read = reader.get(&name).await.expect("the other one has it");
        assert_eq!(read.metadata.uid, made.metadata.uid);
        // Both write to one audit log.
        let found = log.find(Duration::from_secs(10), |record| {
            record.verb == "get" && record.name == name && record.user.name == "alice"
        });
        found.await.expect("the other server recorded it");
    }

    // The end of one is not the end of the other, and it can be started again.
    second.process_mut().kill().expect("it can be killed");
    assert!(there.apiserver_version().await.is_err(), "a killed API server answered");
    here.apiserver_version().await.expect("the first one lives");
    second.process_mut().restart().expect("it starts again");
    second.wait_until_ready().await.expect("it is ready");
    there.apiserver_version().await.expect("it serves again");
}
