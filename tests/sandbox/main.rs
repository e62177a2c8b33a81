//! The sandbox: a cluster of real components, on loopback only, that leaves nothing behind.
#![cfg(feature = "sandbox")]

mod manifests;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use reprieve::api::DeletionPolicy;
use reprieve::sandbox::{Options, Program, Sandbox, binaries, process};
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

    users_are_who_they_are(&sandbox).await;
    mutating_policies_are_served(&client).await;
    listens_on_loopback_only(sandbox.dir());
    controllers_have_credentials_of_their_own(&sandbox.audit_log());

    // A paused API server answers nothing, and goes on where it stopped.
    sandbox.process(Program::ApiServer).expect("it is one").pause().expect("it runs");
    let nothing = tokio::time::timeout(Duration::from_secs(1), client.apiserver_version()).await;
    assert!(nothing.is_err(), "a paused API server answered");
    sandbox.process(Program::ApiServer).expect("it is one").resume().expect("it is paused");
    client.apiserver_version().await.expect("it goes on");

    // Killed controllers leave work undone, and restarted ones do it.
    let controllers = sandbox.process(Program::ControllerManager).expect("it is one");
    controllers.kill().expect("it can be killed");
    assert!(!controllers.is_running());
    deploy(&client, "late").await;
    sandbox
        .process(Program::ControllerManager)
        .expect("it is one")
        .restart()
        .expect("it starts again");
    wait_available(&client, "late").await;

    let dir = sandbox.dir().to_owned();
    assert!(process::marked(&dir).len() >= 5);
    sandbox.stop().expect("the folder can be removed");
    assert_eq!(process::marked(&dir), Vec::<u32>::new());
    assert!(!dir.exists());
}

#[tokio::test]
async fn install_brings_what_the_operator_needs() {
    let Some(mut sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    sandbox.install().await.expect("everything can be installed");
    let client = sandbox.admin();

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
    let (user, _) = who_am_i(operator).await;
    assert_eq!(user, "system:serviceaccount:reprieve-system:reprieve");

    sandbox.install().await.expect("it can be installed twice");

    // An API server that was started without policies on its disk gets some.
    manifests::come_later(&mut sandbox).await;
}

#[test]
fn a_killed_holder_leaves_nothing() {
    if let Some(reason) = binaries::unavailable() {
        eprintln!("SKIPPED: {reason}");
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
fn the_command_line_takes_a_cluster_up_and_down() {
    let Some(assets) = assets() else { return };
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let run = |args: &[&str]| {
        let output = Command::new(REPRIEVE)
            .arg("sandbox")
            .args(args)
            .env("XDG_CACHE_HOME", cache.path())
            .env("REPRIEVE_ASSETS", &assets)
            .output()
            .expect("reprieve runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };

    let (ok, out, _) = run(&["down"]);
    assert!(ok && out.contains("No sandbox"), "{out}");
    let (ok, out, error) = run(&["kubeconfig"]);
    assert!(!ok && out.is_empty() && error.contains("up"), "{out}{error}");

    let (ok, out, error) = run(&["up", "--bare", "--nodes", "1", "--name", "one"]);
    assert!(ok && out.contains("export KUBECONFIG="), "{out}{error}");
    let dir = cache.path().canonicalize().expect("it is there").join("reprieve/sandboxes/one");
    assert_eq!(process::marked(&dir).len(), 5);
    let (ok, out, _) = run(&["up", "--bare", "--name", "one"]);
    assert!(ok && out.contains("already"), "{out}");
    let (ok, out, _) = run(&["kubeconfig", "--name", "one"]);
    assert!(ok && out.trim_end().lines().count() == 1 && Path::new(out.trim_end()).is_file());

    let (ok, out, error) = run(&["down", "--name", "one"]);
    assert!(ok && out.contains("is down"), "{out}{error}");
    assert_eq!(process::marked(&dir), Vec::<u32>::new());
    assert!(!dir.exists());
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

async fn users_are_who_they_are(sandbox: &Sandbox) {
    let alice = sandbox.user("alice", &["approvers", "developers"]).expect("it can be written");
    let (user, groups) = who_am_i(sandbox.client_for(&alice).await.expect("a kubeconfig")).await;
    assert_eq!(user, "alice");
    for group in ["approvers", "developers", "system:authenticated"] {
        assert!(groups.iter().any(|g| g == group), "{group} is not in {groups:?}");
    }

    let accounts: Api<ServiceAccount> = Api::namespaced(sandbox.admin(), "default");
    let account = serde_json::from_value(json!({ "metadata": { "name": "pipeline" } }));
    let account = account.expect("a service account");
    accounts.create(&PostParams::default(), &account).await.expect("it can be created");
    let pipeline =
        sandbox.service_account_kubeconfig("default", "pipeline").await.expect("a token");
    let (user, _) = who_am_i(sandbox.client_for(&pipeline).await.expect("a kubeconfig")).await;
    assert_eq!(user, "system:serviceaccount:default:pipeline");
}

async fn who_am_i(client: kube::Client) -> (String, Vec<String>) {
    let review: Api<SelfSubjectReview> = Api::all(client);
    let answer = review.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let user = answer.expect("it is answered").status.and_then(|s| s.user_info).expect("a user");
    (user.username.unwrap_or_default(), user.groups.unwrap_or_default())
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

fn controllers_have_credentials_of_their_own(audit_log: &Path) {
    let log = fs::read_to_string(audit_log).expect("there is an audit log");
    for user in ["deployment-controller", "replicaset-controller", "node-controller"] {
        let name = format!("\"username\":\"system:serviceaccount:kube-system:{user}\"");
        assert!(log.contains(&name), "{user} has no credentials of its own");
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

/// The folder of the programs, built if need be; nothing, with a word why, where that cannot be.
fn assets() -> Option<std::path::PathBuf> {
    if let Some(reason) = binaries::unavailable() {
        eprintln!("SKIPPED: {reason}");
        return None;
    }
    let binaries = binaries::locate(reprieve::sandbox::Progress::Quiet);
    Some(binaries.expect("they can be built").folder().to_owned())
}
