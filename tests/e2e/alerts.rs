//! The gate of alerts and the rolling limit, on a real cluster with a real Alertmanager: I4, I5, C3
//! and T13. The oracle is the API server's audit log, and what lives.
//!
//! One cluster serves all; the scenes have Sites, policies and sources of alerts of their own and
//! are played side by side. The last one kills the operator and is played alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::alertmanager::{self, Alertmanager, Mode, Stub};
use crate::user::{Snapshot, User, condition, expect_condition, http, request};
use reprieve::sandbox::{Operator, Sandbox, audit};
use serde_json::{Value, json};

/// How soon an alert must have cancelled.
const SOON: Duration = Duration::from_secs(30);

/// The cluster and everybody in it.
#[derive(Clone)]
pub struct Stage {
    pub admin: User,
    pub alice: User,
    pub bob: User,
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_cancel_and_limits_hold() {
    if alertmanager::program().is_none() {
        return;
    }
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let stage = Stage::with(&sandbox);
    let scenes: [fn(&Stage); 5] = [
        without_a_watchdog_nothing_goes,
        alerts_cancel_what_is_held,
        an_alert_stops_the_purge_between_sites,
        a_source_that_is_down_blocks,
        answers_that_cannot_be_read_block,
    ];
    let played = scenes.map(|scene| {
        let stage = stage.clone();
        std::thread::spawn(move || scene(&stage))
    });
    // It is told only while a request is open that asks it.
    let (up, begun) = ("reprieve_alert_source_up{url=\"http://", Instant::now());
    while !http(operator.listen(), "/metrics").is_some_and(|(_, text)| text.contains(up)) {
        assert!(begun.elapsed() < Duration::from_secs(120), "no {up} in /metrics");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for scene in played {
        scene.join().expect("the scene is as it should be");
    }
    let metrics = http(operator.listen(), "/metrics").expect("metrics").1;
    for line in [
        "reprieve_requests_ended_total{state=\"Cancelled\",reason=\"CancelledByAlert\"}",
        "reprieve_requests{state=\"Completed\"}",
    ] {
        assert!(metrics.contains(line), "/metrics: expected {line}; seen: {metrics}");
    }
    many_requests_share_one_limit(&stage, &sandbox, operator).await;
    assert!(crate::audit::expect_invariants(&sandbox) > 0, "something was purged");
    sandbox.stop().expect("nothing is left");
}

impl Stage {
    /// The people of a cluster in which Reprieve is installed.
    pub fn with(sandbox: &Sandbox) -> Self {
        Self {
            admin: User::admin(sandbox),
            alice: User::person(sandbox, "alice", "reprieve-requester"),
            bob: User::person(sandbox, "bob", "reprieve-approver"),
        }
    }

    /// A policy of this name with these fields, and Sites under it; all of them Ready.
    pub fn prepare(&self, policy: &str, extra: &Value, sites: usize) -> Vec<String> {
        let mut spec = json!({
            "environment": "Development", "retention": {"minimumSeconds": 10, "defaultSeconds": 10},
            "quorum": {"approvals": 1},
            "blastRadius": {"rolling": {"maxEntities": 1000, "maxPercent": 100}},
        });
        for (key, value) in extra.as_object().expect("fields") {
            spec[key] = value.clone();
        }
        let kind = |kind: &str, name: &str, spec: Value| {
            json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": kind,
                "metadata": {"name": name}, "spec": spec})
        };
        self.admin.create(&kind("DeletionPolicy", policy, spec)).worked();
        let names: Vec<String> = (1..=sites).map(|n| format!("{policy}-{n}")).collect();
        for name in &names {
            let spec = json!({"id": format!("id-{name}"), "tenant": {"name": name},
                "policyRef": {"name": policy}});
            self.admin.create(&kind("Site", name, spec)).worked();
        }
        for name in &names {
            let wait = format!("wait --for=condition=Ready site {name} --timeout=60s");
            self.admin.kubectl(&wait).worked();
            let map = format!("create configmap precious -n {name} --from-literal=of={name}");
            self.admin.kubectl(&map).worked();
        }
        names
    }

    /// Alice asks for these Sites with these fields besides, and Bob approves: held.
    pub fn hold(&self, name: &str, sites: &[String], extra: &Value) {
        let ids: Vec<String> = sites.iter().map(|site| format!("id-{site}")).collect();
        let mut request = request(name, "Site", &ids);
        for (key, value) in extra.as_object().expect("fields") {
            request["spec"][key] = value.clone();
        }
        self.alice.create(&request).worked();
        self.alice.until_state(name, "AwaitingApproval");
        self.bob.approve(name, "bob").worked();
    }

    /// Waits until the gate of alerts of a request says this.
    fn until_alerts(&self, name: &str, words: &str) -> Value {
        self.alice.until(&format!("dreq {name}"), words, |live| {
            condition(live, "AlertsClear").contains(words)
        })
    }

    /// Waits until the window of a request is over, and everything but the alerts lets it pass.
    fn until_window_passed(&self, name: &str) {
        self.alice.until(&format!("dreq {name}"), "its window over", |live| {
            condition(live, "RetentionElapsed").starts_with("True")
        });
    }

    /// These are there, held or not, with everything in them.
    pub fn expect_intact(&self, sites: &[String]) {
        for site in sites {
            let live = self.admin.get(&format!("site {site}"));
            assert!(live["metadata"]["deletionTimestamp"].is_null(), "{site}: {live}");
            self.admin.kubectl(&format!("get configmap precious -n {site}")).worked();
        }
    }

    pub fn until_active(&self, sites: &[String]) {
        for site in sites {
            self.admin.until(&format!("site {site}"), "Active", |live| {
                live["status"]["state"] == "Active" && live["status"]["deletion"].is_null()
            });
        }
    }
}

fn source(url: &str) -> Value {
    json!({"alerts": {"alertmanager": {"url": url, "timeoutSeconds": 3}}})
}

fn down(site: &str) -> Value {
    json!({"alertname": "SiteDown", "namespace": site, "severity": "warning"})
}

/// C3: empty, expired; and what the plan expects does not count.
fn without_a_watchdog_nothing_goes(stage: &Stage) {
    let am = Alertmanager::start().expect("it was built");
    let sites = stage.prepare("watch", &source(&am.url()), 1);
    let watchdog = json!({"alertname": "Watchdog"});
    am.fire_for(&watchdog, Duration::from_secs(3));
    stage.hold("watch", &sites, &json!({"expectedAlerts": ["SiteDown"]}));
    am.fire(&down(&sites[0]));
    stage.until_window_passed("watch");
    let live = stage.until_alerts("watch", "False WatchdogMissing");
    expect_condition(&live, "AlertsClear", &["does not have the alert Watchdog"]);
    stage.expect_intact(&sites);
    am.live();
    let begun = Instant::now();
    stage.alice.until_state("watch", "Completed");
    eprintln!("watchdog back: purged after {:.1} s", begun.elapsed().as_secs_f64());
}

/// An alert that fires, one that is silenced and one that is inhibited; and one that fired already.
fn alerts_cancel_what_is_held(stage: &Stage) {
    let am = Alertmanager::start().expect("it was built");
    am.live();
    let mut extra = source(&am.url());
    extra["alerts"]["matchers"] = json!(["team=~\"plat.+\""]);
    let sites = stage.prepare("held", &extra, 4);
    let long = json!({"retentionSeconds": 600});
    let mut names = vec![];
    for (n, site) in sites.iter().enumerate() {
        let name = format!("held-{n}");
        stage.hold(&name, std::slice::from_ref(site), &long);
        let held = |live: &Value| condition(live, "AlertsClear").starts_with("True AlertsClear");
        stage.alice.until(&format!("dreq {name}"), "held", |live| {
            live["status"]["state"] == "Held"
                && !live["status"]["retention"].is_null()
                && held(live)
        });
        names.push(name);
    }
    let cancelled = |n: usize, what: &str, since: Instant, words: &[&str]| {
        let name = &names[n];
        let live = stage.alice.until(&format!("dreq {name}"), "Cancelled", |live| {
            live["status"]["state"] == "Cancelled"
        });
        let taken = since.elapsed();
        eprintln!("{what}: cancelled and released after {:.1} s", taken.as_secs_f64());
        assert!(taken < SOON, "{what}: expected within {SOON:?}; seen: {taken:?}");
        expect_condition(&live, "Succeeded", &[&["False CancelledByAlert"], words].concat());
        stage.until_active(&sites[n..=n]);
        stage.expect_intact(&sites[n..=n]);
    };
    am.silence(&sites[0]);
    let since = Instant::now();
    am.fire(&down(&sites[0]));
    assert_eq!(am.states(&sites[0]), ["suppressed"], "expected the silence to work");
    cancelled(0, "silenced", since, &["alert SiteDown", &format!("Site {}", sites[0])]);

    am.fire(&json!({"alertname": "ClusterDown", "severity": "critical"}));
    let since = Instant::now();
    am.fire(&down(&sites[1]));
    cancelled(1, "inhibited", since, &["namespace=", &sites[1]]);
    let begun = Instant::now();
    while am.states(&sites[1]) != ["suppressed"] {
        assert!(
            begun.elapsed() < SOON,
            "expected the inhibition to work: {:?}",
            am.states(&sites[1])
        );
        std::thread::sleep(Duration::from_millis(200));
    }

    let since = Instant::now();
    am.fire(&json!({"alertname": "Slow", "site": format!("id-{}", sites[2])}));
    cancelled(2, "by the label site", since, &["alert Slow"]);

    let since = Instant::now();
    am.fire(&json!({"alertname": "StoreFull", "team": "platform"}));
    cancelled(3, "by the policy's matchers", since, &["StoreFull", "matchers"]);

    // It fires already when people read the plan: it is told.
    let ids = [format!("id-{}", sites[3])];
    stage.alice.create(&request("held-told", "Site", &ids)).worked();
    stage.until_alerts("held-told", "False UnexpectedAlert");
    stage.alice.kubectl("delete dreq held-told --timeout=30s").worked();
}

/// I4: what is not begun when the alert comes stays.
fn an_alert_stops_the_purge_between_sites(stage: &Stage) {
    const SITES: usize = 5;
    let am = Alertmanager::start().expect("it was built");
    am.live();
    let sites = stage.prepare("wave", &source(&am.url()), SITES);
    stage.hold("wave", &sites, &json!({}));
    stage.alice.until("dreq wave", "a Site purged", |live| {
        live["status"]["progress"]["purged"].as_i64().unwrap_or(0) >= 1
    });
    let since = Instant::now();
    am.fire(&down(&sites[SITES - 1]));
    let live = stage.alice.until_state("wave", "Cancelled");
    let taken = since.elapsed();
    assert!(taken < SOON, "expected within {SOON:?}; seen: {taken:?}");
    expect_condition(&live, "Succeeded", &["False CancelledByAlert", "SiteDown"]);
    let progress = &live["status"]["progress"];
    let purged = usize::try_from(progress["purged"].as_i64().unwrap_or(0)).expect("a number");
    eprintln!(
        "between Sites: {purged} of {SITES} purged, cancelled after {:.1} s",
        taken.as_secs_f64()
    );
    assert!((1..SITES).contains(&purged), "{progress}");
    let left: Vec<String> = sites
        .iter()
        .filter(|s| stage.admin.kubectl(&format!("get site {s}")).ok)
        .cloned()
        .collect();
    assert_eq!(left.len() + purged, SITES, "{left:?} {progress}");
    stage.expect_intact(&left);
    stage.until_active(&left);
}

/// C3: paused, killed, back.
fn a_source_that_is_down_blocks(stage: &Stage) {
    let mut am = Alertmanager::start().expect("it was built");
    am.live();
    let sites = stage.prepare("down", &source(&am.url()), 2);
    am.pause();
    // A dry run does not wait for a source.
    let since = Instant::now();
    stage.hold("down", &sites[..1], &json!({}));
    eprintln!("source paused: held after {:.1} s", since.elapsed().as_secs_f64());
    stage.until_window_passed("down");
    let live = stage.until_alerts("down", "False AlertSourceDown");
    expect_condition(&live, "AlertsClear", &["did not answer within 3s"]);
    stage.expect_intact(&sites);
    am.kill();
    stage.until_alerts("down", "Connection refused");
    am.restart();
    stage.until_alerts("down", "False WatchdogMissing");
    stage.expect_intact(&sites);
    am.live();
    let since = Instant::now();
    stage.alice.until_state("down", "Completed");
    eprintln!("source back: purged after {:.1} s", since.elapsed().as_secs_f64());
    stage.expect_intact(&sites[1..]);
}

/// C3: slow, malformed, truncated, huge, redirected, refused, of an old date.
fn answers_that_cannot_be_read_block(stage: &Stage) {
    let raw = |status, headers: &str, body: &str| Mode::Raw {
        status,
        headers: headers.to_owned(),
        body: body.to_owned(),
    };
    let stub = Stub::start(Mode::live());
    let mut extra = source(&stub.url());
    extra["alerts"]["alertmanager"]["secretRef"] = json!({"name": "token"});
    let sites = stage.prepare("stub", &extra, 1);
    stage.hold("stub", &sites, &json!({}));
    stage.until_alerts("stub", "there is no Secret token");
    let secret = |kind: &str| {
        let args = format!(
            "create secret generic token -n reprieve-system --type={kind} --from-literal=token=t"
        );
        stage.admin.kubectl(&args).worked();
    };
    // Any other Secret is not sent anywhere.
    secret("Opaque");
    stage.until_alerts("stub", "is not of type reprieve.dev/alertmanager");
    stub.set(raw("302 Found", "Location: http://127.0.0.1:1/\r\n", ""));
    stage.admin.kubectl("delete secret token -n reprieve-system").worked();
    secret("reprieve.dev/alertmanager");
    stage.until_alerts("stub", "redirects");
    let cut = "Content-Length: 500\r\n";
    let old = "Content-Length: 2\r\nDate: Tue, 05 Apr 2022 07:38:00 GMT\r\n";
    for (mode, words) in [
        (raw("503 Service Unavailable", "", ""), "False AlertSourceDown"),
        (raw("200 OK", cut, "[{\"labels\""), "broke off"),
        (Mode::body("[{\"labels\""), "answers no list of alerts"),
        (Mode::body("<html>sign in</html>"), "answers no list of alerts"),
        (Mode::Slow, "did not answer within 3s"),
        (Mode::Huge, "larger than 16 MiB"),
        (raw("200 OK", old, "[]"), "an old one"),
        (Mode::body("[]"), "False WatchdogMissing"),
    ] {
        stub.set(mode);
        let live = stage.until_alerts("stub", words);
        let state = live["status"]["state"].as_str().unwrap_or_default();
        assert!(["Held", "Purging"].contains(&state), "{words}: {state}");
        stage.expect_intact(&sites);
    }
    stage.until_window_passed("stub");
    stage.expect_intact(&sites);
    stub.set(Mode::live());
    stage.alice.until_state("stub", "Completed");
}

/// T13, F1: more requests than the limit has places; the operator is killed in the middle, and
/// another one goes on.
async fn many_requests_share_one_limit(stage: &Stage, sandbox: &Sandbox, mut first: Operator) {
    const REQUESTS: usize = 6;
    const MOST: usize = 3;
    // What the scenes before have purged counts as well, for the whole day.
    let before = stage.admin.get("configmap reprieve-purges -n reprieve-system");
    let before = before["data"]["entries"].as_str().unwrap_or_default().lines().count();
    assert!(before >= 4, "expected the purges before in the ledger; seen: {before}");
    let limit =
        json!({"blastRadius": {"rolling": {"maxEntities": before + MOST, "maxPercent": 100}}});
    let sites = stage.prepare("many", &limit, 2 * REQUESTS);
    let mut snapshots = vec![];
    for site in &sites {
        snapshots.push(Snapshot::take(sandbox, site).await);
    }
    let second = sandbox.start_operator(&[]).await.expect("another operator starts");
    for (n, pair) in sites.chunks(2).enumerate() {
        stage.hold(&format!("many-{n}"), pair, &json!({}));
    }
    stage.admin.until("configmap reprieve-purges -n reprieve-system", "another entry", |live| {
        live["data"]["entries"].as_str().unwrap_or_default().lines().count() > before
    });
    first.process_mut().kill().expect("it is killed");
    let full = format!("{} of {} Sites purged", before + MOST, before + MOST);
    for n in 0..REQUESTS {
        let name = format!("many-{n}");
        let live = stage.alice.until(&format!("dreq {name}"), "at the limit, or ended", |live| {
            condition(live, "WithinBlastRadius").starts_with("False RollingLimitReached")
                || live["status"]["state"] == "Completed"
        });
        if live["status"]["state"] != "Completed" {
            expect_condition(&live, "WithinBlastRadius", &[&full, "many-", "free at"]);
        }
    }
    // By the API server's own log, and by what lives.
    let records = sandbox.audit().read().expect("the audit log");
    let gone: BTreeSet<String> = audit::deletes(&records)
        .filter(|r| r.resource == "sites" && r.is_carried_out() && r.name.starts_with("many-"))
        .map(|r| r.name.clone())
        .collect();
    assert_eq!(gone.len(), MOST, "expected {MOST} Sites deleted; seen: {gone:?}");
    for (site, snapshot) in sites.iter().zip(snapshots).filter(|(s, _)| !gone.contains(*s)) {
        let now = Snapshot::take(sandbox, site).await;
        snapshot.expect_untouched(&now, "after the limit was reached");
    }
    let ledger = stage.admin.get("configmap reprieve-purges -n reprieve-system");
    let entries = ledger["data"]["entries"].as_str().unwrap_or_default();
    let uids: BTreeSet<&str> = entries.lines().filter_map(|l| l.split(' ').nth(2)).collect();
    assert_eq!((entries.lines().count(), uids.len()), (before + MOST, before + MOST), "{entries}");
    // Nobody makes more room by the ledger.
    let args = "delete configmap reprieve-purges -n reprieve-system";
    stage.admin.kubectl(args).denied(&["not deleted by anybody"]);
    let args = "patch configmap reprieve-purges -n reprieve-system --type=merge -p {\"data\":null}";
    stage.admin.kubectl(args).denied(&["written by the operator only"]);
    for n in 0..REQUESTS {
        let name = format!("many-{n}");
        if stage.alice.get(&format!("dreq {name}"))["status"]["state"] != "Completed" {
            let patch = r#"{"spec":{"cancel":true}}"#;
            stage.alice.run(&["patch", "dreq", &name, "--type=merge", "-p", patch], "").worked();
            stage.alice.until_state(&name, "Cancelled");
        }
    }
    drop(second);
}
