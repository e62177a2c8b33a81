//! What is told of a deletion, by events from the request to its end, and by the values of metrics.
//! Part of the story in `road`.

use std::time::{Duration, Instant};

use reprieve::sandbox::Operator;
use serde_json::Value;

use crate::user::{User, http};

/// The steps of a request for the Sites acme and bolt that runs to its end, by their events: the
/// reason, and what the note has.
const STEPS: [(&str, &str); 12] = [
    ("Planned", "would delete 2 Sites"),
    ("Approved", "approved by bob"),
    ("Approved", "approved by carol"),
    ("QuorumReached", "approved by bob, carol"),
    ("BackupsVerified", ""),
    ("Held", "backed up, and held until"),
    ("WindowPassed", ""),
    ("WaveBegun", "wave 1 of 1 Sites begins"),
    ("Purged", "Site acme is gone"),
    ("WaveBegun", "wave 2 of 1 Sites begins"),
    ("Purged", "Site bolt is gone"),
    ("Purged", "2 Sites deleted"),
];

/// Whoever describes the request sees each step, and by their times they are in order.
pub fn events_of_each_step(admin: &User, request: &str) {
    let uid = admin.get(&format!("dreq {request}"))["metadata"]["uid"].clone();
    // The last one is written after the status that was waited for.
    let all = admin.until("events.events.k8s.io -A", "the event of the end", |all| {
        let mut all = all["items"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.any(|e| e["regarding"]["uid"] == uid && text(&e["note"]).contains(STEPS[11].1))
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = all["items"].as_array().into_iter().flatten();
    let mut told: Vec<(String, String, String)> = all
        .filter(|e| e["regarding"]["uid"] == uid)
        .map(|e| (text(&e["eventTime"]), text(&e["reason"]), text(&e["note"])))
        .collect();
    told.sort();
    let mut rest = told.iter();
    for (reason, words) in STEPS {
        let found = rest.any(|(_, r, note)| r == reason && note.contains(words));
        assert!(found, "expected {reason} {words:?} in its place; seen: {told:#?}");
    }
    let described = admin.kubectl(&format!("describe dreq {request}"));
    let (_, events) = described.worked().split_once("Events:").expect("events");
    for (reason, words) in STEPS {
        let shown = events.lines().any(|line| line.contains(reason) && line.contains(words));
        assert!(shown, "kubectl describe: expected {reason} {words:?}; seen: {events}");
    }
}

/// What the operator has counted when two requests of the road were refused, one was deleted, one
/// cancelled, and one has run to its end.
pub fn values_of_metrics(operator: &Operator) {
    let text = until_metrics(
        operator,
        &[
            "reprieve_approvals_total{what=\"approval\"} 4",
            "reprieve_approvals_total{what=\"rejection\"} 0",
            "reprieve_request_state_seconds_count{state=\"AwaitingApproval\"} 3",
            "reprieve_request_state_seconds_count{state=\"Held\"} 2",
            "reprieve_request_state_seconds_count{state=\"Purging\"} 1",
            "reprieve_requests_ended_total{state=\"Refused\",reason=\"EntityTypeMismatch\"} 2",
            "reprieve_requests_ended_total{state=\"Cancelled\",reason=\"RequestDeleted\"} 1",
            "reprieve_requests_ended_total{state=\"Cancelled\",reason=\"CancelledByUser\"} 1",
            "reprieve_requests_ended_total{state=\"Completed\",reason=\"Purged\"} 1",
            "reprieve_purged_total{kind=\"Site\"} 2",
        ],
    );
    // The window of the one that ran to its end, at least; and no more than this test has taken.
    let held = "reprieve_request_state_seconds_sum{state=\"Held\"} ";
    let held = text.lines().find_map(|l| l.strip_prefix(held)?.parse::<f64>().ok());
    assert!(held.is_some_and(|s| (10.0..600.0).contains(&s)), "seconds Held: {held:?}");
    // None is open.
    let gates = text.lines().find(|l| l.starts_with("reprieve_closed_gates{"));
    assert_eq!(gates, None, "gates that are closed");
}

/// Waits until `/metrics` has each of these lines, and gives it.
pub fn until_metrics(operator: &Operator, lines: &[&str]) -> String {
    let begun = Instant::now();
    loop {
        let (_, text) = http(operator.listen(), "/metrics").expect("metrics");
        let missing: Vec<_> = lines.iter().filter(|l| !text.lines().any(|t| t == **l)).collect();
        if missing.is_empty() {
            return text;
        }
        // What is told follows the write that is told of.
        let late = begun.elapsed() > Duration::from_secs(5);
        assert!(!late, "/metrics: expected {missing:?}; seen: {text}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
