//! The operator as a process: several of them and one lease, an end within seconds whatever hangs,
//! what it says of a cluster that lacks something, and the rights of its account. T10 and F2 of the
//! fault list.
//!
//! One cluster serves all steps, because it takes seconds to start. The oracle for who did what is
//! the API server's audit log, where each operator process has a user agent of its own.

mod lease;
mod ready;
mod rights;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::user::{User, grant, http, sample};
use reprieve::api::names;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::Value;

const REPRIEVE: &str = env!("CARGO_BIN_EXE_reprieve");
const SITE: &str = include_str!("../../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../../deploy/samples/app.yaml");

/// The cluster and everybody in it.
struct Stage {
    sandbox: Sandbox,
    admin: User,
    /// Requester, and approver of others' requests.
    alice: User,
    bob: User,
    carol: User,
}

impl Stage {
    fn approve(&self, name: &str) {
        self.bob.approve(name, "bob").worked();
        self.carol.approve(name, "carol").worked();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_in_a_cluster() {
    let Some(sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    sandbox.install().await.expect("it can be installed");
    let alice = User::person(&sandbox, "alice", "reprieve-requester");
    let mut stage = Stage {
        admin: User::admin(&sandbox),
        alice,
        bob: User::person(&sandbox, "bob", "reprieve-approver"),
        carol: User::person(&sandbox, "carol", "reprieve-approver"),
        sandbox,
    };
    ready::rights_that_are_missing_are_named(&stage).await;
    ready::crds_of_an_older_version_are_named(&stage);
    let (mut first, mut second) = lease::the_second_stands_by(&stage).await;
    lease::the_next_one_starts_at_once_after_a_graceful_end(&mut first, &second).await;
    lease::a_killed_one_is_followed(&mut first, &mut second).await;
    let mut leader = lease::a_paused_one_does_nothing_any_more(&stage, second, first).await;
    ready::an_object_that_does_not_parse_stops_nobody(&stage, &leader);
    rights::everything_once(&stage);
    rights::what_is_not_in_the_list_is_refused(&stage);
    lease::it_ends_within_seconds_though_the_api_server_hangs(&mut stage, &mut leader).await;
    rights::every_right_was_used(&stage);
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

/// What an operator says at `/readyz`: the status and the line.
fn readyz(operator: &Operator) -> (u16, String) {
    http(operator.listen(), "/readyz").unwrap_or_default()
}

/// Waits for an answer of `/readyz` that says all of this, on one line; gives how long it took.
#[track_caller]
fn until_ready(listen: SocketAddr, code: u16, words: &[&str], limit: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let seen = http(listen, "/readyz");
        let fits = |(c, body): &(u16, String)| {
            *c == code && words.iter().all(|w| body.contains(w)) && body.lines().count() == 1
        };
        if seen.as_ref().is_some_and(fits) {
            return begun.elapsed();
        }
        let late = begun.elapsed() > limit;
        assert!(!late, "/readyz: expected {code} and {words:?} within {limit:?}; seen: {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The value of a metric; none when it is not there.
fn metric(operator: &Operator, name: &str) -> Option<f64> {
    let (_, text) = http(operator.listen(), "/metrics")?;
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The audit log's answered requests of the operator's account.
fn audit(sandbox: &Sandbox) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.audit_log()).expect("an audit log");
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|e| e["user"]["username"] == names::OPERATOR_USER)
        .filter(|e| e["stage"] == "ResponseComplete" || e["stage"] == "ResponseStarted")
        .collect()
}
