//! Components that are killed, paused and started again, and whole clusters that are.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use reprieve::sandbox::process::{self, Condition};
use reprieve::sandbox::{Options, Program, Sandbox};
use serde_json::json;

use crate::{REPRIEVE, deploy, wait_available};

const ALL: [Program; 5] = [
    Program::Etcd,
    Program::ApiServer,
    Program::ControllerManager,
    Program::Scheduler,
    Program::Kwok,
];

async fn create(client: &kube::Client, name: &str) -> kube::Result<ConfigMap> {
    let map = json!({ "metadata": { "name": name } });
    let map: ConfigMap = serde_json::from_value(map).expect("a ConfigMap");
    Api::default_namespaced(client.clone()).create(&PostParams::default(), &map).await
}

async fn answers(client: &kube::Client) -> bool {
    let answer = tokio::time::timeout(Duration::from_secs(2), client.apiserver_version()).await;
    matches!(answer, Ok(Ok(_)))
}

pub async fn each_component(sandbox: &mut Sandbox) {
    let client = sandbox.admin();
    create(&client, "before").await.expect("it can be created");

    // Each can be paused and goes on, can be killed and is started again.
    for program in ALL {
        let name = program.name();
        let component = sandbox.process(program).expect("it is one");
        assert_eq!(component.condition(), Condition::Running, "{name}");
        assert!(component.memory() > 1 << 20 && component.age().is_some(), "{name}");
        component.pause().expect("it runs");
        assert_eq!(component.condition(), Condition::Paused, "{name}");
        if program == Program::ApiServer {
            assert!(!answers(&client).await, "a paused API server answered");
        }
        if program == Program::Etcd {
            let write = tokio::time::timeout(Duration::from_secs(1), create(&client, "never"));
            assert!(!matches!(write.await, Ok(Ok(_))), "a write without etcd succeeded");
        }
        let component = sandbox.process(program).expect("it is one");
        component.resume().expect("it is paused");
        assert_eq!(component.condition(), Condition::Running, "{name}");
        let pid = component.pid();
        component.kill().expect("it can be killed");
        assert_eq!(component.condition(), Condition::Stopped, "{name}");
        if program == Program::ApiServer {
            assert!(!answers(&client).await, "a killed API server answered");
        }
        if program == Program::ControllerManager {
            // Killed controllers leave work undone.
            deploy(&client, "late").await;
        }
        sandbox.process(program).expect("it is one").start().expect("it starts again");
        sandbox.wait_until_ready().await.expect("the API server is ready");
        let component = sandbox.process(program).expect("it is one");
        assert!(component.is_running() && component.pid() != pid, "{name}");
    }

    // Nothing is lost, and all do their work again.
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.get("before").await.expect("it is still there");
    wait_available(&client, "late").await;

    // One that is asked to end does, also when it is paused.
    let kwok = sandbox.process(Program::Kwok).expect("it is one");
    kwok.pause().expect("it runs");
    kwok.stop(Duration::from_secs(10)).expect("it ends");
    assert_eq!(kwok.condition(), Condition::Stopped);
    kwok.start().expect("it starts again");
}

#[tokio::test]
async fn a_closed_cluster_opens_on_the_same_data() {
    let temp = tempfile::tempdir().expect("a folder for temporary files");
    let dir = temp.path().canonicalize().expect("it is there").join("sandbox");
    let options = Options { dir: Some(dir.clone()), nodes: 1, ..Options::new(REPRIEVE) };
    let Some(sandbox) = Sandbox::for_test_with(options.clone()).await else { return };
    let alice = sandbox.user("alice", &["system:masters"]).expect("a kubeconfig");
    let made = create(&sandbox.admin(), "kept").await.expect("it can be created");
    let again = Sandbox::reopen(options.clone()).await.expect_err("it still runs");
    assert!(format!("{again:#}").contains("no sandbox was closed"), "{again:#}");

    sandbox.close().expect("it ends");
    assert_eq!(process::marked(&dir), Vec::<u32>::new());
    assert!(dir.join("etcd").is_dir());

    // With the same data, addresses and kubeconfigs.
    let sandbox = Sandbox::reopen(options.clone()).await.expect("it opens");
    let client = sandbox.client_for(&alice).await.expect("a client");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let kept = maps.get("kept").await.expect("it is still there");
    assert_eq!(kept.metadata.uid, made.metadata.uid);
    deploy(&client, "after").await;
    wait_available(&client, "after").await;

    // It is as any other: whoever ends it removes it.
    sandbox.stop().expect("the folder can be removed");
    assert!(!dir.exists());
    assert_eq!(process::marked(&dir), Vec::<u32>::new());
}
