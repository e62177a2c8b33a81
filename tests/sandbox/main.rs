//! The sandbox: a cluster of real components, on loopback only, that leaves nothing behind.
#![cfg(feature = "sandbox")]

mod audit;
mod command;
mod faults;
mod manifests;
mod proxy;
mod servers;
mod users;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use reprieve::api::DeletionPolicy;
use reprieve::sandbox::{Options, Sandbox, binaries, process};
use serde_json::json;

const REPRIEVE: &str = env!("CARGO_BIN_EXE_reprieve");
/// Tells `hold_a_sandbox` which folder to use.
const HOLD: &str = "REPRIEVE_TEST_HOLD";

#[tokio::test]
async fn a_bare_cluster_works_and_leaves_nothing() {
    let Some(mut sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    let client = sandbox.admin();

    // Pods become Ready, by the deployment controller, the scheduler and kwok.
    deploy(&client, "web").await;
    let begin = Instant::now();
    wait_available(&client, "web").await;
    assert!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());

    // kubectl works with what the sandbox writes.
    let mut kubectl = sandbox.command(sandbox.kubectl(), &sandbox.admin_kubeconfig());
    let output = kubectl.args(["get", "nodes", "-o", "name"]).output().expect("kubectl runs");
    let nodes = String::from_utf8_lossy(&output.stdout).lines().count();
    assert_eq!(nodes, 5, "{}", String::from_utf8_lossy(&output.stderr));

    users::are_who_they_are(&sandbox).await;
    mutating_policies_are_served(&client).await;
    listens_on_loopback_only(sandbox.dir());
    controllers_have_credentials_of_their_own(&sandbox);

    audit::tells_who_did_what(&sandbox).await;
    servers::share_one_etcd(&sandbox).await;
    faults::each_component(&mut sandbox).await;
    manifests::come_later(&mut sandbox).await;

    let dir = sandbox.dir().to_owned();
    assert!(process::marked(&dir).len() >= 5);
    sandbox.stop().expect("the folder can be removed");
    assert_eq!(process::marked(&dir), Vec::<u32>::new());
    assert!(!dir.exists());
}

#[tokio::test]
async fn install_brings_what_the_operator_needs() {
    let Some(sandbox) = Sandbox::shared(REPRIEVE).await else { return };
    let client = sandbox.client_for(&sandbox.admin_kubeconfig()).await.expect("a kubeconfig");

    let policies: Api<DeletionPolicy> = Api::all(client.clone());
    let policy = policies.get("default").await.expect("there is a default policy");
    assert_eq!(policy.spec.retention.minimum_seconds, 10);
    assert_eq!(policy.spec.retention.default_seconds, 20);
    assert_eq!((policy.spec.quorum.approvals, policy.spec.quorum.override_approvals), (2, 3));

    // The guard is in force when `install` returns, for the administrator too.
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    let denied = crds.delete("sites.reprieve.dev", &DeleteParams::default()).await;
    assert!(matches!(denied, Err(kube::Error::Api(_))), "a CRD of ours could be deleted");

    let operator = sandbox.client_for(&sandbox.operator_kubeconfig()).await.expect("a kubeconfig");
    let (user, _) = users::who_am_i(operator).await;
    assert_eq!(user, "system:serviceaccount:reprieve-system:reprieve");

    sandbox.install().await.expect("it can be installed twice");
}

#[tokio::test]
async fn tests_of_one_binary_share_a_cluster() {
    let Some(sandbox) = Sandbox::shared(REPRIEVE).await else { return };
    let again = Sandbox::shared(REPRIEVE).await.expect("it is there");
    assert!(std::ptr::eq(sandbox, again));
    // From another runtime than the one that started it.
    let client = sandbox.client_for(&sandbox.admin_kubeconfig()).await.expect("a kubeconfig");
    let policies: Api<DeletionPolicy> = Api::all(client);
    policies.get("default").await.expect("everything is installed");
    let (user, _) = users::who_am_i(sandbox.admin()).await;
    assert_eq!(user, "admin");
}

#[test]
fn a_killed_holder_leaves_nothing() {
    if let Some(reason) = binaries::unavailable() {
        reprieve::sandbox::skipped(&reason);
        return;
    }
    let temp = tempfile::tempdir().expect("a folder for temporary files");
    let dir = temp.path().canonicalize().expect("it is there").join("sandbox");
    let mut holder = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "hold_a_sandbox", "--ignored", "--nocapture"])
        .env(HOLD, &dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("this test runs once more");
    wait_for("the other process to hold a sandbox", || dir.join("held").exists());
    assert!(process::marked(&dir).len() >= 5);

    // SIGKILL: no destructor runs.
    holder.kill().expect("it can be killed");
    holder.wait().expect("it ends");
    wait_for("everything to be gone", || process::marked(&dir).is_empty() && !dir.exists());
}

/// Not a test: what `a_killed_holder_leaves_nothing` kills.
#[tokio::test]
#[ignore = "run by a_killed_holder_leaves_nothing"]
async fn hold_a_sandbox() {
    let Some(dir) = std::env::var_os(HOLD) else { return };
    let options = Options { dir: Some(dir.into()), nodes: 1, ..Options::new(REPRIEVE) };
    let sandbox = Sandbox::start(options).await.expect("it starts");
    fs::write(sandbox.dir().join("held"), "").expect("the folder can be written to");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[test]
fn missing_programs_are_named() {
    let empty = tempfile::tempdir().expect("a folder for temporary files");
    fs::write(empty.path().join("etcd"), "").expect("it can be written");
    let output = Command::new(REPRIEVE)
        .args(["sandbox", "up", "--bare", "--name", "never"])
        .env("XDG_CACHE_HOME", empty.path())
        .env("REPRIEVE_ASSETS", empty.path())
        .output()
        .expect("reprieve runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("kube-apiserver") && error.contains("kwok"), "{error}");
    assert!(!error.contains("etcd,"), "what is there is not missing: {error}");
}

#[test]
fn without_go_it_says_what_to_do() {
    let empty = tempfile::tempdir().expect("a folder for temporary files");
    let output = Command::new(REPRIEVE)
        .args(["sandbox", "up", "--bare", "--name", "never"])
        .env("XDG_CACHE_HOME", empty.path())
        .env("PATH", empty.path())
        .env_remove("REPRIEVE_ASSETS")
        .env_remove("KUBEBUILDER_ASSETS")
        .output()
        .expect("reprieve runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("Go") && error.contains("REPRIEVE_ASSETS"), "{error}");
    assert!(!empty.path().join("reprieve/sandboxes/never").exists());
}

async fn mutating_policies_are_served(client: &kube::Client) {
    use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy;
    let policies: Api<MutatingAdmissionPolicy> = Api::all(client.clone());
    policies.list(&ListParams::default()).await.expect("v1 is served");
}

/// Every socket on which a process of the sandbox listens has a loopback address.
fn listens_on_loopback_only(dir: &Path) {
    let mut inodes = HashSet::new();
    for pid in process::marked(dir) {
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            let socket = link.to_str().and_then(|link| link.strip_prefix("socket:["));
            inodes.extend(socket.map(|inode| inode.trim_end_matches(']').to_owned()));
        }
    }
    let mut listening = 0;
    for (table, loopback) in [("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Local address, state (0A is LISTEN), inode.
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else { continue };
            if inodes.contains(inode) {
                assert!(local.starts_with(loopback), "listens on {local} of {table}");
                listening += 1;
            }
        }
    }
    assert!(listening >= 3, "etcd and the API server listen, {listening} sockets found");
}

fn controllers_have_credentials_of_their_own(sandbox: &Sandbox) {
    let log = sandbox.audit().read().expect("there is an audit log");
    for controller in ["deployment-controller", "replicaset-controller", "node-controller"] {
        let name = format!("system:serviceaccount:kube-system:{controller}");
        assert!(log.iter().any(|record| record.user.name == name), "{controller} is none");
    }
}

async fn deploy(client: &kube::Client, name: &str) {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "none" }] },
            },
        },
    }))
    .expect("a Deployment");
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.create(&PostParams::default(), &deployment).await.expect("it can be created");
}

async fn wait_available(client: &kube::Client, name: &str) {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = deployments.get(name).await.expect("it is there").status.unwrap_or_default();
        if status.available_replicas == Some(2) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is not available: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
