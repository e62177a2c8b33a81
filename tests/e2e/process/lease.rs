//! Several operators and one lease.

use std::time::{Duration, Instant};

use reprieve::sandbox::{Operator, Program};
use serde_json::json;

use super::{APP, SITE, Stage, audit, metric, readyz, sample, until_ready};
use crate::user::{PATIENCE, Snapshot, expect, request};

/// The lease duration of a sandbox's operators, a retry, and a busy machine.
const TAKEOVER: Duration = Duration::from_secs(8 + 1 + 5);
/// How soon the next one starts when the lease was given back.
const SOON: Duration = Duration::from_secs(3);

/// Which of the operators holds the lease, by what the cluster says.
fn holder(stage: &Stage) -> String {
    let lease = stage.admin.get("lease reprieve -n reprieve-system");
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

pub async fn the_second_stands_by(stage: &Stage) -> (Operator, Operator) {
    let first = stage.sandbox.start_operator(&[]).await.expect("the operator starts");
    until_ready(first.listen(), 200, &["ok"], PATIENCE);
    let leader = holder(stage);
    let second = stage.sandbox.start_operator(&[]).await.expect("a second one starts");
    let standby = format!("standby: the lease reprieve-system/reprieve is held by {leader}\n");
    assert_eq!(readyz(&second), (200, standby), "expected the second to stand by");
    assert_eq!(metric(&first, "reprieve_lease_held"), Some(1.0));
    assert_eq!(metric(&second, "reprieve_lease_held"), Some(0.0));

    for (number, site) in [(1, "acme"), (2, "bolt")] {
        stage.admin.apply(&sample(SITE, site, number)).worked();
        stage
            .admin
            .kubectl(&format!("wait --for=condition=Ready site {site} --timeout=60s"))
            .worked();
        stage.admin.apply(&sample(APP, site, number)).worked();
    }
    stage.admin.kubectl("wait --for=condition=Ready app --all -A --timeout=60s").worked();
    let second_id = identity(&second);
    let did = writes_of(stage, &second_id, None);
    assert_eq!(did, [""; 0], "expected nothing of the one that stands by");
    assert!(!writes_of(stage, &leader, None).is_empty(), "the audit log tells them apart");
    (first, second)
}

/// The name of an operator process, from the first line of its log.
fn identity(operator: &Operator) -> String {
    let log = std::fs::read_to_string(operator.process().log()).expect("a log");
    let started = log.lines().rev().filter(|line| line.contains("\"started\""));
    let line: serde_json::Value =
        serde_json::from_str(started.into_iter().next().expect("a start")).expect("JSON");
    line["identity"].as_str().expect("an identity").to_owned()
}

/// What an operator process wrote, after this moment; its lease and reviews of its rights aside.
fn writes_of(stage: &Stage, identity: &str, after: Option<&str>) -> Vec<String> {
    audit(&stage.sandbox)
        .iter()
        .filter(|e| e["userAgent"].as_str().is_some_and(|agent| agent.contains(identity)))
        .filter(|e| !["get", "list", "watch"].contains(&e["verb"].as_str().unwrap_or_default()))
        .filter(|e| {
            let resource = e["objectRef"]["resource"].as_str().unwrap_or_default();
            !resource.starts_with("selfsubject")
        })
        .filter(|e| {
            let at = e["requestReceivedTimestamp"].as_str().unwrap_or_default();
            after.is_none_or(|after| at > after)
        })
        // The lease itself is what a candidate may try for.
        .filter(|e| e["objectRef"]["resource"] != "leases")
        .map(|e| format!("{} {}", e["verb"], e["requestURI"]))
        .collect()
}

pub async fn the_next_one_starts_at_once_after_a_graceful_end(
    first: &mut Operator,
    second: &Operator,
) {
    let begun = Instant::now();
    first.process_mut().terminate().expect("it runs");
    let status = first.process_mut().wait(Duration::from_secs(5)).await;
    let status = status.expect("expected an end within 5 s");
    eprintln!("graceful end: {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0), "expected exit code 0; seen: {status}");
    let took = until_ready(second.listen(), 200, &["ok"], SOON);
    eprintln!("takeover after a graceful end: {took:?}, with the end {:?}", begun.elapsed());
}

pub async fn a_killed_one_is_followed(first: &mut Operator, second: &mut Operator) {
    first.process_mut().restart().expect("it starts again");
    first.wait_until_ready().await.expect("it is ready");
    assert!(readyz(first).1.starts_with("standby: "), "{:?}", readyz(first));
    second.process_mut().kill().expect("it runs");
    let took = until_ready(first.listen(), 200, &["ok"], TAKEOVER);
    eprintln!("takeover after kill -9: {took:?}");
    second.process_mut().restart().expect("it starts again");
    second.wait_until_ready().await.expect("it is ready");
    assert!(readyz(second).1.starts_with("standby: "), "{:?}", readyz(second));
}

/// F2: the leader is paused while a request is held; another one takes over, and the request is
/// cancelled. Then the old leader wakes up, after the window.
pub async fn a_paused_one_does_nothing_any_more(
    stage: &Stage,
    next: Operator,
    mut old: Operator,
) -> Operator {
    let before = Snapshot::take(&stage.sandbox, "bolt").await;
    let mut asked = request("paused", "Site", &["site-2".to_owned()]);
    // Longer than the other one needs to take over.
    asked["spec"]["retentionSeconds"] = json!(20);
    stage.alice.create(&asked).worked();
    stage.alice.until_state("paused", "AwaitingApproval");
    stage.approve("paused");
    let live = stage.alice.until("dreq paused", "a window", |live| {
        live["status"]["retention"]["endTime"].is_string()
    });
    let end = live["status"]["retention"]["endTime"].as_str().expect("a window").to_owned();
    let identity = identity(&old);
    old.process_mut().pause().expect("it runs");
    let took = until_ready(next.listen(), 200, &["ok"], TAKEOVER);
    eprintln!("takeover after a pause: {took:?}");
    let patch = r#"{"spec":{"cancel":true}}"#;
    stage.alice.run(&["patch", "dreq", "paused", "--type=merge", "-p", patch], "").worked();
    stage.alice.until_state("paused", "Cancelled");
    // After the end of the window, which the old leader has in mind.
    let now = || chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    while now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    let resumed = now();
    old.process_mut().resume().expect("it was paused");
    until_ready(old.listen(), 200, &["standby: ", "is held by"], PATIENCE);
    // One that would still work has looked at the request by now: its window ended.
    std::thread::sleep(Duration::from_secs(2));
    let log = old.process().log_tail(20);
    assert!(log.contains("lost the lease reprieve-system/reprieve"), "{log}");
    let did = writes_of(stage, &identity, Some(&resumed));
    assert_eq!(did, [""; 0], "expected nothing of the old leader after {resumed}");
    assert_eq!(metric(&old, "reprieve_lease_held"), Some(0.0));
    let live = stage.alice.get("dreq paused");
    expect("state of dreq paused", "Cancelled", &live["status"]["state"], &live);
    let now = Snapshot::take(&stage.sandbox, "bolt").await;
    before.expect_untouched(&now, "after a pause of the leader");
    next
}

/// The API server hangs in the middle of work, with the lease and every request under way.
pub async fn it_ends_within_seconds_though_the_api_server_hangs(
    stage: &mut Stage,
    leader: &mut Operator,
) {
    // Work for it: a look at every site.
    let touch = json!({"spec": {"priority": 7}}).to_string();
    stage.admin.run(&["patch", "site", "bolt", "--type=merge", "-p", &touch], "").worked();
    let server = stage.sandbox.process(Program::ApiServer).expect("an API server");
    server.pause().expect("it runs");
    // Long enough for requests to hang, not for the lease to be lost.
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    leader.process_mut().terminate().expect("it runs");
    let status = leader.process_mut().wait(Duration::from_secs(5)).await;
    let took = begun.elapsed();
    stage.sandbox.process(Program::ApiServer).expect("an API server").resume().expect("paused");
    let status = status.expect("expected an end within 5 s");
    eprintln!("end while the API server hangs: {took:?}");
    assert_eq!(status.code(), Some(0), "expected exit code 0; seen: {status}");
}
