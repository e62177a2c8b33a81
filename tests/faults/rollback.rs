//! T11: etcd is restored from a snapshot that was taken before a purge. The request looks as if it
//! were pending, its window has passed, its approvals count, and what it purged lives again under
//! its old UIDs. Nothing is purged a second time.

use std::fs;
use std::time::Instant;

use reprieve::api::{DeletionRequest, Site};
use reprieve::sandbox::Program;

use crate::stage::{PATIENCE, Stage};
use crate::user::{condition, copy_folder, http};

/// In the order in which they stop; they start the other way round.
const CONTROL_PLANE: [Program; 3] = [Program::ControllerManager, Program::ApiServer, Program::Etcd];

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_request_does_not_run_twice() {
    let Some(mut stage) = Stage::start().await else { return };
    let snapshot = stage.sandbox.dir().join("snapshot");
    let data = stage.sandbox.dir().join("etcd");
    stage.make_site("back").await;
    stage.make_site("other").await;
    let before = [stage.snapshot("back").await, stage.snapshot("other").await];
    for site in ["back", "other"] {
        stage.ask(&format!("gone-{site}"), site).await;
        stage.approve(&format!("gone-{site}")).await;
        stage.until_state(&format!("gone-{site}"), "Held").await;
        stage
            .until::<DeletionRequest>("", &format!("gone-{site}"), "its window", |live| {
                !live["status"]["retention"].is_null()
            })
            .await;
    }
    stop(&mut stage).await;
    copy_folder(&data, &snapshot);
    start(&mut stage).await;
    stage.until_state("gone-back", "Completed").await;
    stage.until_state("gone-other", "Completed").await;
    let purged = stage.deleted().len();

    stop(&mut stage).await;
    fs::remove_dir_all(&data).expect("etcd is stopped");
    fs::rename(&snapshot, &data).expect("the snapshot");
    start(&mut stage).await;
    for site in ["back", "other"] {
        let live = stage.until_state(&format!("gone-{site}"), "Cancelled").await;
        let said = condition(&live, "Succeeded");
        assert!(said.starts_with("False PurgedBefore") && said.contains("set back"), "{said}");
        stage.until_settled(site).await;
    }
    assert_eq!(stage.deleted().len(), purged, "something was deleted a second time");
    for (site, before) in ["back", "other"].into_iter().zip(before) {
        before.expect_untouched(&stage.snapshot(site).await, "T11");
        assert!(stage.get::<Site>("", site).await.is_some());
    }
    let (_, text) = http(stage.operator.listen(), "/metrics").expect("metrics");
    assert!(text.contains("\nreprieve_purged_yet_alive 2\n"), "two Sites: {text}");
    assert_eq!(crate::audit::expect_invariants(&stage.sandbox), 2, "purged, each once");
    stage.sandbox.stop().expect("nothing is left");
}

/// The operator, and then the control plane.
async fn stop(stage: &mut Stage) {
    stage.operator.process_mut().kill().expect("it runs");
    for program in CONTROL_PLANE {
        stage.sandbox.process(program).expect("it is one").kill().expect("it runs");
    }
}

async fn start(stage: &mut Stage) {
    for program in CONTROL_PLANE.into_iter().rev() {
        stage.sandbox.process(program).expect("it is one").start().expect("it starts");
    }
    let begun = Instant::now();
    while stage.admin.apiserver_version().await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the API server does not come up");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    stage.free_lease().await;
    stage.operator.process_mut().start().expect("it starts");
}
