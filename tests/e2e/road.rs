//! The whole road, as users go it: kubectl, the guard, and the operator under its own account's
//! token. I1, I3, I7, I8 and I10 of the design, T6, T9 and F1 (one crash) of the fault list. The
//! oracle is the API server's audit log and what lives, not what the operator says of itself.
//!
//! One cluster serves all steps, because it takes seconds to start; each step leaves every site
//! living.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::told;
use crate::user::{
    Snapshot, Stage, User, condition, expect, expect_condition, grant, http, request, sample,
};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};
use reprieve::api::names;
use reprieve::sandbox::{AuditRecord, Sandbox, audit};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
/// The sites, by name; the id of the n-th is `site-<n>`, that of its App `app-<n>`.
const SITES: [&str; 4] = ["acme", "bolt", "cato", "dune"];
const BINDING: &str = "validatingadmissionpolicybinding";

/// A service account with the role of an approver.
const ROBOT: &str = "system:serviceaccount:default:default";

fn ids(numbers: &[u32]) -> Vec<String> {
    numbers.iter().map(|n| format!("site-{n}")).collect()
}

impl Stage {
    async fn snapshots(&self) -> Vec<Snapshot> {
        let mut all = vec![];
        for site in SITES {
            all.push(Snapshot::take(&self.sandbox, site).await);
        }
        all
    }

    /// Every site and App is ready.
    fn all_ready(&self) {
        self.admin.kubectl("wait --for=condition=Ready site --all --timeout=60s").worked();
        self.admin.kubectl("wait --for=condition=Ready app --all -A --timeout=60s").worked();
    }

    /// Alice asks for these sites, and the plan is made.
    fn ask(&self, name: &str, numbers: &[u32]) -> Value {
        self.alice.create(&request(name, "Site", &ids(numbers))).worked();
        self.alice.until_state(name, "AwaitingApproval")
    }

    fn approve(&self, name: &str) {
        self.bob.approve(name, "bob").worked();
        self.carol.approve(name, "carol").worked();
    }

    fn cancel(&self, name: &str) -> Value {
        let patch = r#"{"spec":{"cancel":true}}"#;
        self.alice.run(&["patch", "dreq", name, "--type=merge", "-p", patch], "").worked();
        self.alice.until_state(name, "Cancelled")
    }

    /// Waits until the purge has begun to destroy one of these: its first namespace is being
    /// deleted.
    async fn until_first_namespace_goes(&self, sites: &[&str]) -> String {
        let namespaces: Api<Namespace> = Api::all(self.sandbox.admin());
        let begun = Instant::now();
        loop {
            let all = namespaces.list(&Default::default()).await.expect("namespaces");
            let going = |n: &&Namespace| {
                sites.contains(&n.name_any().as_str()) && n.metadata.deletion_timestamp.is_some()
            };
            if let Some(namespace) = all.iter().find(going) {
                return namespace.name_any();
            }
            assert!(
                begun.elapsed() < crate::user::PATIENCE,
                "expected a namespace of {sites:?} to be deleted; seen: none; the operator: {}",
                self.operator.process().log_tail(10)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_road_from_a_request_to_a_restore() {
    let Some(mut stage) = Stage::start().await else { return };
    grant(&stage.sandbox, "alice", "reprieve-approver");
    grant(&stage.sandbox, ROBOT, "reprieve-approver");
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    sites_become_ready(&stage);
    step("sites are ready");
    people_find_their_way(&stage);
    step("columns, names and explanations");
    backup_and_update(&stage);
    step("backup, update of an App");
    april_2022(&stage).await;
    step("ids of the wrong kind");
    plain_deletes_are_denied(&stage).await;
    step("plain deletes");
    hold_and_cancel(&stage).await;
    step("held, cancelled");
    let (name, before) = purge(&stage).await;
    told::events_of_each_step(&stage.admin, &name);
    told::values_of_metrics(&stage.operator);
    step("purged, and told");
    restore(&stage, &name, &before).await;
    step("restored");
    guard_taken_away_then_crash(&mut stage).await;
    step("guard taken away; killed in the middle of a purge");
    cancel_in_the_middle(&stage).await;
    step("cancelled in the middle of a purge");
    ends_on_sigterm(&mut stage).await;
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

fn sites_become_ready(stage: &Stage) {
    let address = stage.operator.listen();
    for (path, words) in [("/livez", "ok"), ("/readyz", "ok"), ("/metrics", "reprieve_")] {
        let answer = http(address, path);
        let fine = answer.as_ref().is_some_and(|(code, body)| *code == 200 && body.contains(words));
        assert!(fine, "{path}: expected 200 and {words:?}; seen: {answer:?}");
    }
    for (site, number) in SITES.into_iter().zip(1..) {
        stage.admin.apply(&sample(SITE, site, number)).worked();
    }
    stage.admin.kubectl("wait --for=condition=Ready site --all --timeout=60s").worked();
    for (site, number) in SITES.into_iter().zip(1..) {
        stage.admin.apply(&sample(APP, site, number)).worked();
    }
    stage.all_ready();
    for site in SITES {
        let live = stage.admin.until(&format!("site {site}"), "an App counted", |live| {
            live["status"]["inventory"]["appsReady"] == 1
        });
        expect("state", "Active", &live["status"]["state"], &live);
        let objects = live["status"]["inventory"]["objects"].as_i64().unwrap_or(0);
        assert!(objects >= 12, "inventory of {site}: expected 12 objects or more; seen: {objects}");
        let finalizers = &live["metadata"]["finalizers"];
        assert_eq!(*finalizers, json!([names::FINALIZER]), "finalizers of {site}");
        let namespace = stage.admin.get(&format!("namespace {site}"));
        expect("label", site, &namespace["metadata"]["labels"][names::LABEL_SITE], &namespace);
        let recorded = &live["status"]["namespaces"][0]["uid"];
        assert_eq!(*recorded, namespace["metadata"]["uid"], "recorded UID of namespace {site}");
        let app = stage.admin.get(&format!("app shop -n {site}"));
        assert_eq!(app["metadata"]["finalizers"], json!([names::FINALIZER]), "finalizers");
        let applied = app["status"]["objects"].as_array().map_or(0, Vec::len);
        assert_eq!(applied, 10, "objects of App {site}/shop: expected 10; seen: {applied}");
    }
}

fn people_find_their_way(stage: &Stage) {
    let header = |args: &str| -> Vec<String> {
        let said = stage.bob.kubectl(args);
        let line = said.worked().lines().next().unwrap_or_default().to_owned();
        line.split_whitespace().map(str::to_owned).collect()
    };
    // What there is none of prints no header.
    let now = request("columns", "Site", &ids(&[1]));
    stage.alice.create(&now).worked();
    for (args, columns) in [
        ("get site", &["NAME", "ID", "TENANT", "STATE", "READY", "APPS", "AGE"][..]),
        ("get app -n acme", &["NAME", "ID", "PRODUCT", "STATE", "READY", "AGE"]),
        ("get dreq", &["NAME", "STATE", "MESSAGE", "AGE"]),
        ("get dpol", &["NAME", "ENVIRONMENT", "AGE"]),
    ] {
        let seen = header(args);
        for column in columns {
            assert!(
                seen.iter().any(|s| s.eq_ignore_ascii_case(column)),
                "{args}: expected the column {column}; seen: {seen:?}"
            );
        }
    }
    for short in ["bkp", "rst"] {
        stage.bob.kubectl(&format!("get {short}")).worked();
    }
    let all = stage.bob.kubectl("get reprieve -A -o name");
    for name in ["site.reprieve.dev/acme", "app.reprieve.dev/shop", "deletionrequest", "policy"] {
        let seen = all.worked();
        assert!(seen.contains(name), "get reprieve -A: expected {name}; seen: {seen}");
    }
    // kubectl breaks its lines where it likes.
    let text = stage.bob.kubectl("explain site.spec.id");
    let text = text.worked().split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["The platform's id of the site", "Immutable", "Example: `site-4711`"] {
        assert!(text.contains(words), "explain site.spec.id: expected {words:?}; seen: {text}");
    }
    let found = stage.bob.kubectl("get site -o name --field-selector spec.id=site-2");
    assert_eq!(found.worked().trim(), "site.reprieve.dev/bolt", "field selector spec.id=site-2");
    let found = stage.bob.kubectl("get app -A -o name --field-selector spec.id=app-9");
    assert_eq!(found.worked().trim(), "", "field selector spec.id=app-9");
    // DELETE of an open request is a cancel.
    stage.alice.until_state("columns", "AwaitingApproval");
    stage.alice.kubectl("delete dreq columns --timeout=30s").worked();
}

fn backup_and_update(stage: &Stage) {
    let backup = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "by-hand"},
        "spec": {"siteRef": {"name": "acme"}, "purpose": "Manual"},
    });
    stage.admin.create(&backup).worked();
    stage.admin.kubectl("wait --for=condition=Verified bkp/by-hand --timeout=60s").worked();
    let live = stage.admin.get("bkp by-hand");
    let location = live["status"]["location"].as_str().unwrap_or("absent");
    for path in [location.to_owned(), location.replace(".jsonl.zst", ".json")] {
        let size = fs::metadata(stage.sandbox.store_dir().join(&path)).map_or(0, |m| m.len());
        assert!(size > 0, "{path}: expected a file in the store; seen: {size} bytes");
    }
    change_currency(stage, "acme", 1, "CHF");
    change_currency(stage, "acme", 1, "EUR");
}

/// A changed value in the App's manifest arrives in the object.
fn change_currency(stage: &Stage, site: &str, number: u32, currency: &str) {
    let app = sample(APP, site, number).replace("EUR", currency);
    stage.admin.apply(&app).worked();
    stage.admin.until(&format!("configmap shop -n {site}"), currency, |live| {
        live["data"]["currency"] == currency
    });
    stage.admin.until(&format!("app shop -n {site}"), "the change seen, and Ready", |live| {
        live["status"]["observedGeneration"] == live["metadata"]["generation"]
            && condition(live, "Ready").starts_with("True")
    });
}

/// The public case: the ids of sites where those of Apps were meant, or the other way round.
async fn april_2022(stage: &Stage) {
    let before = stage.snapshots().await;
    stage.alice.create(&request("april", "App", &ids(&[1, 2, 3]))).worked();
    let live = stage.alice.until_state("april", "Refused");
    expect_condition(
        &live,
        "ScopeValid",
        &["False EntityTypeMismatch", "3 of 3 ids refused", "declared kind App", "Site acme"],
    );
    let refusals = live["status"]["plan"]["refusals"].as_array().cloned().unwrap_or_default();
    for (site, id) in SITES.iter().zip(ids(&[1, 2, 3])) {
        let named = refusals.iter().find(|r| r["id"] == id.as_str()).cloned().unwrap_or_default();
        expect(&format!("refusal of {id}"), "EntityTypeMismatch", &named["reason"], &live);
        let message = named["message"].as_str().unwrap_or_default();
        let says = format!("Site {site}");
        assert!(message.contains(&says), "refusal of {id}: expected {says:?}; seen: {message}");
    }
    assert!(live["status"]["plan"]["digest"].is_null(), "expected nothing to approve: {live}");
    stage.bob.annotate("april", "approval.reprieve.dev/bob=sha256:0 bob").denied(&[]);
    // One offender among good ones refuses all.
    let mixed = vec!["site-1".to_owned(), "app-2".to_owned()];
    stage.alice.create(&request("mixed", "Site", &mixed)).worked();
    let live = stage.alice.until_state("mixed", "Refused");
    expect_condition(&live, "ScopeValid", &["EntityTypeMismatch", "1 of 2", "App bolt/shop"]);
    for (before, now) in before.iter().zip(stage.snapshots().await) {
        before.expect_untouched(&now, "after a refused request");
    }
}

async fn plain_deletes_are_denied(stage: &Stage) {
    let before = stage.snapshots().await;
    for (args, words) in [
        ("delete site acme --wait=false", "DeletionRequest"),
        ("delete site --all --wait=false", "DeletionRequest"),
        ("delete app shop -n acme --wait=false", "DeletionRequest"),
        ("delete namespace acme --wait=false", "DeletionRequest"),
        ("delete site acme --wait=false --force --grace-period=0", "DeletionRequest"),
        ("delete site acme --wait=false --cascade=orphan", "DeletionRequest"),
        ("delete crd sites.reprieve.dev --wait=false", "uninstall"),
        ("delete crd apps.reprieve.dev --wait=false", "uninstall"),
    ] {
        stage.admin.kubectl(args).denied(&["reprieve", words]);
    }
    for (before, now) in before.iter().zip(stage.snapshots().await) {
        before.expect_untouched(&now, "after plain deletes");
    }
}

async fn hold_and_cancel(stage: &Stage) {
    let before = stage.snapshots().await;
    let live = stage.ask("undone", &[1, 2]);
    let digest = live["status"]["plan"]["digest"].as_str().expect("a digest").to_owned();
    expect_condition(&live, "Approved", &["False AwaitingApprovals", "0 of 2", "kubectl annotate"]);

    let approval = |value: String| format!("approval.reprieve.dev/x={value}");
    stage.bob.annotate("undone", &approval(format!("{digest} carol"))).denied(&["you are bob"]);
    let robot = stage.sandbox.service_account_kubeconfig("default", "default").await;
    let robot = User::new(&stage.sandbox, robot.expect("a token"));
    let refused = robot.annotate("undone", &approval(format!("{digest} {ROBOT}")));
    refused.denied(&["service account"]);
    let own = stage.alice.annotate("undone", &approval(format!("{digest} alice")));
    own.denied(&["asked for this deletion"]);
    let other = format!("sha256:{}", "0".repeat(64));
    let refused = stage.bob.annotate("undone", &approval(format!("{other} bob")));
    refused.denied(&[&digest, "read the plan again"]);
    stage.admin.annotate("undone", &approval(format!("{digest} bob"))).denied(&["you are"]);
    // One person twice is one person.
    stage.bob.annotate("undone", &format!("approval.reprieve.dev/a={digest} bob")).worked();
    stage.bob.annotate("undone", &format!("approval.reprieve.dev/b={digest} bob")).worked();
    let live = stage.alice.until("dreq undone", "one approval", |live| {
        condition(live, "Approved").contains("1 of 2")
    });
    expect("state", "AwaitingApproval", &live["status"]["state"], &live);
    let waits = "reprieve_closed_gates{gate=\"Approved\",reason=\"AwaitingApprovals\"} 1";
    told::until_metrics(&stage.operator, &[waits, "reprieve_approvals_total{what=\"approval\"} 1"]);
    stage.carol.approve("undone", "carol").worked();
    stage.alice.until_state("undone", "Held");
    let live = stage.alice.until("dreq undone", "a running window", |live| {
        condition(live, "RetentionElapsed").starts_with("False WindowRunning")
    });
    expect_condition(&live, "RetentionElapsed", &["held until", "kubectl patch dreq undone"]);
    let runs = "reprieve_closed_gates{gate=\"RetentionElapsed\",reason=\"WindowRunning\"} 1";
    told::until_metrics(&stage.operator, &[runs, "reprieve_requests{state=\"Held\"} 1"]);
    for site in ["acme", "bolt"] {
        let live = stage.admin.until(&format!("site {site}"), "state PendingDeletion", |live| {
            live["status"]["state"] == "PendingDeletion"
        });
        expect("request", "undone", &live["status"]["deletion"]["requestRef"]["name"], &live);
        // Held is not purging: the guard still stands before it.
        stage.admin.kubectl(&format!("delete site {site} --wait=false")).denied(&[]);
    }
    for (before, now) in before.iter().zip(stage.snapshots().await) {
        before.expect_untouched(&now, "while held");
    }
    let live = stage.cancel("undone");
    expect_condition(&live, "Succeeded", &["False CancelledByUser", "2 Sites released"]);
    for site in ["acme", "bolt"] {
        stage.admin.until(&format!("site {site}"), "state Active", |live| {
            live["status"]["state"] == "Active" && live["status"]["deletion"].is_null()
        });
    }
    stage.all_ready();
    for (before, now) in before.iter().zip(stage.snapshots().await) {
        before.expect_untouched(&now, "I7: after a cancel");
    }
}

/// Two of the four sites go, by the book. Gives the request and what was there before.
async fn purge(stage: &Stage) -> (String, Vec<Snapshot>) {
    let before = stage.snapshots().await;
    let plan = stage.ask("leaving", &[1, 2]);
    stage.approve("leaving");
    let live = stage.alice.until_state("leaving", "Completed");
    expect_condition(&live, "Succeeded", &["True Purged", "2 Sites deleted", "create a Restore"]);
    assert_eq!(live["status"]["progress"]["purged"], 2, "progress: {}", live["status"]);
    for what in ["site acme", "site bolt", "namespace acme", "namespace bolt"] {
        stage.admin.kubectl(&format!("get {what}")).failed(&["(NotFound)"]);
    }
    let now = stage.snapshots_of(&["cato", "dune"]).await;
    for (before, now) in before[2..].iter().zip(now) {
        before.expect_untouched(&now, "the sites that nobody asked for");
    }
    let log = Audit::read(&stage.sandbox);
    log.nothing_but_the_plan(&plan, &live).expect("only what was planned");
    log.nothing_of(&["cato", "dune"]).expect("nothing of the others");
    the_audit_can_fail(&log, &plan, &live);
    ("leaving".to_owned(), before)
}

impl Stage {
    async fn snapshots_of(&self, sites: &[&str]) -> Vec<Snapshot> {
        let mut all = vec![];
        for site in sites {
            all.push(Snapshot::take(&self.sandbox, site).await);
        }
        all
    }
}

/// The requests of the audit log that were carried out.
struct Audit(Vec<AuditRecord>);

impl Audit {
    fn read(sandbox: &Sandbox) -> Self {
        let mut all = sandbox.audit().read().expect("an audit log");
        all.retain(AuditRecord::is_carried_out);
        assert!(all.len() > 100, "audit log: expected many events; seen: {}", all.len());
        Self(all)
    }

    /// I1 and I3: whatever the operator deleted was in the approved plan, by UID, with
    /// preconditions, and not before the window's end; and all of the plan was deleted.
    fn nothing_but_the_plan(&self, approved: &Value, request: &Value) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut planned = BTreeSet::new();
        for entity in list(&approved["status"]["plan"]["entities"]) {
            planned.insert(("sites".to_owned(), text(&entity["name"]), text(&entity["uid"])));
            for (resource, key) in [("namespaces", "namespaces"), ("apps", "apps")] {
                for part in list(&entity[key]) {
                    let (name, uid) = (text(&part["name"]), text(&part["uid"]));
                    planned.insert((resource.to_owned(), name, uid));
                }
            }
        }
        let digest = &approved["status"]["plan"]["digest"];
        let approvals = list(&request["status"]["approvals"]);
        if approvals.len() < 2 || approvals.iter().any(|a| a["digest"] != *digest) {
            return Err(format!("I2: expected two approvals of {digest}; seen: {approvals:?}"));
        }
        let end: Option<DateTime<Utc>> =
            text(&request["status"]["retention"]["endTime"]).parse().ok();
        let mut deleted = BTreeSet::new();
        for event in audit::deletes(&self.0).filter(|e| e.user.name == names::OPERATOR_USER) {
            let preconditions = &event.request["preconditions"];
            let key = (event.resource.clone(), event.name.clone(), text(&preconditions["uid"]));
            if !planned.contains(&key) {
                return Err(format!("I1: {key:?} is not in the plan {planned:?}: {event:?}"));
            }
            if !preconditions["resourceVersion"].is_string() {
                return Err(format!("expected a resourceVersion; seen: {event:?}"));
            }
            if end.is_none_or(|end| event.time < end) {
                return Err(format!("I3: deleted before the window's end, {end:?}: {event:?}"));
            }
            deleted.insert(key);
        }
        if deleted != planned {
            return Err(format!("expected a DELETE of each of {planned:?}; seen: {deleted:?}"));
        }
        Ok(())
    }

    /// Nobody deleted anything of these sites.
    fn nothing_of(&self, sites: &[&str]) -> Result<(), String> {
        for event in audit::deletes(&self.0) {
            let whose = if event.namespace.is_empty() { &event.name } else { &event.namespace };
            if sites.contains(&whose.as_str()) {
                return Err(format!("expected no delete in {sites:?}; seen: {event:?}"));
            }
        }
        Ok(())
    }
}

/// An oracle that cannot fail proves nothing.
fn the_audit_can_fail(log: &Audit, plan: &Value, request: &Value) {
    for (pointer, value, words) in [
        ("/status/plan/entities/0/uid", "another", "I1"),
        ("/status/plan/entities/1/apps/0/uid", "another", "I1"),
        ("/status/plan/entities/1/namespaces/0/uid", "another", "I1"),
        ("/status/plan/digest", "another", "I2"),
        ("/status/retention/endTime", "2999-01-01T00:00:00Z", "I3"),
    ] {
        let (mut plan, mut request) = (plan.clone(), request.clone());
        let of = if words == "I3" { &mut request } else { &mut plan };
        *of.pointer_mut(pointer).expect("a field") = json!(value);
        let seen = log.nothing_but_the_plan(&plan, &request);
        let fails = seen.as_ref().is_err_and(|error| error.starts_with(words));
        assert!(fails, "{pointer} changed: expected {words}; seen: {seen:?}");
    }
    assert!(log.nothing_of(&["bolt"]).is_err(), "expected deletes of what was purged");
}

async fn restore(stage: &Stage, request: &str, before: &[Snapshot]) {
    let restore = |name: &str| {
        json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": name},
            "spec": {"source": {"deletionRequestRef": {"name": request}}},
        })
    };
    stage.admin.create(&restore("back")).worked();
    let live =
        stage.admin.until("rst back", "an end", |live| !live["status"]["completionTime"].is_null());
    expect_condition(&live, "Succeeded", &["True Verified", "2 of 2 sites verified"]);
    stage.all_ready();
    for site in ["acme", "bolt"] {
        stage.admin.until(&format!("site {site}"), "state Active", |live| {
            live["status"]["state"] == "Active"
                && live["metadata"]["annotations"]["reprieve.dev/restore"].is_null()
        });
    }
    let now = stage.snapshots().await;
    for (old, new) in before.iter().zip(&now) {
        old.expect_equal(new, "after the restore");
    }
    for (old, new) in before[..2].iter().zip(&now[..2]) {
        old.expect_new(new, "after the restore");
    }
    for (old, new) in before[2..].iter().zip(&now[2..]) {
        old.expect_untouched(new, "the sites that were never gone");
    }

    // I10: a second one finds them living, and touches nothing.
    stage.admin.create(&restore("back-again")).worked();
    let live = stage
        .admin
        .until("rst back-again", "an end", |live| !live["status"]["completionTime"].is_null());
    expect_condition(&live, "Succeeded", &["False", "0 of 2 sites verified"]);
    for site in ["acme", "bolt"] {
        let failures = live["status"]["failures"].as_array().cloned().unwrap_or_default();
        let named = failures.iter().find(|f| f["site"] == site).cloned().unwrap_or_default();
        expect(&format!("failure of {site}"), "SiteLives", &named["reason"], &live);
    }
    for (old, new) in now.iter().zip(stage.snapshots().await) {
        old.expect_untouched(&new, "I10: after a second restore");
    }

    // A later change of a restored App arrives: whoever applied it still owns its fields.
    change_currency(stage, "acme", 1, "CHF");
    change_currency(stage, "acme", 1, "EUR");
}

/// T6, then F1 with one crash.
async fn guard_taken_away_then_crash(stage: &mut Stage) {
    let others = ["acme", "bolt", "dune"];
    let before = stage.snapshots().await;
    let before_others = stage.snapshots_of(&others).await;
    stage.ask("frozen", &[3]);
    stage.approve("frozen");
    stage.alice.until_state("frozen", "Held");
    let live = stage.alice.until("dreq frozen", "a running window", |live| {
        condition(live, "RetentionElapsed").starts_with("False WindowRunning")
    });
    let digest = live["status"]["plan"]["digest"].as_str().expect("a digest").to_owned();
    let policy = reprieve::guard::policy::APPROVALS;
    stage.admin.kubectl(&format!("delete {BINDING} {policy}")).worked();
    // The window passes, and nothing happens.
    let live = stage.alice.until("dreq frozen", "the window passed and GuardMissing", |live| {
        condition(live, "RetentionElapsed").starts_with("True")
            && condition(live, "GuardInPlace").starts_with("False GuardMissing")
    });
    expect("state", "Held", &live["status"]["state"], &live);
    expect_condition(&live, "GuardInPlace", &[policy, "kubectl apply --server-side -f"]);
    before[2].expect_untouched(
        &Snapshot::take(&stage.sandbox, "cato").await,
        "while the guard is not in place",
    );
    // What nobody could check now must not count later either.
    let forged = format!("approval.reprieve.dev/x={digest} mallory");
    stage.admin.annotate("frozen", &forged).worked();
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/admission/{policy}.yaml"));
    stage.admin.apply(&fs::read_to_string(file).expect("the policy's file")).worked();
    let live = stage.alice.until("dreq frozen", "a new digest and no approvals", |live| {
        condition(live, "GuardInPlace").starts_with("True")
            && live["status"]["plan"]["digest"] != digest.as_str()
    });
    expect("state", "Held", &live["status"]["state"], &live);
    expect_condition(&live, "Approved", &["False AwaitingApprovals", "0 of 2"]);
    assert!(live["status"]["approvals"].is_null(), "approvals: {}", live["status"]["approvals"]);
    stage.approve("frozen");

    let namespace = stage.until_first_namespace_goes(&["cato"]).await;
    stage.operator.process_mut().kill().expect("it is killed");
    let live = stage.admin.get("dreq frozen");
    expect(
        &format!("state, killed while {namespace} goes"),
        "Purging",
        &live["status"]["state"],
        &live,
    );
    stage.operator.process_mut().restart().expect("it starts");
    stage.operator.wait_until_ready().await.expect("it is ready");
    let live = stage.alice.until_state("frozen", "Completed");
    expect_condition(&live, "Succeeded", &["True Purged", "1 Sites deleted"]);
    for what in ["site cato", "namespace cato"] {
        stage.admin.kubectl(&format!("get {what}")).failed(&["(NotFound)"]);
    }
    for (before, now) in before_others.iter().zip(stage.snapshots_of(&others).await) {
        before.expect_untouched(&now, "I8: after the crash");
    }
}

async fn cancel_in_the_middle(stage: &Stage) {
    let all = ["acme", "bolt", "dune"];
    let before = stage.snapshots_of(&all).await;
    stage.ask("halfway", &[1, 2, 4]);
    stage.approve("halfway");
    let begun = stage.until_first_namespace_goes(&all).await;
    let live = stage.cancel("halfway");
    expect_condition(&live, "Succeeded", &["False CancelledByUser", "2 Sites released"]);
    let progress = &live["status"]["progress"];
    assert_eq!(*progress, json!({"total": 3, "purged": 1, "released": 2}), "progress");
    for what in ["site", "namespace"] {
        stage.admin.kubectl(&format!("get {what} {begun}")).failed(&["(NotFound)"]);
    }
    for (site, before) in all.iter().zip(before).filter(|(site, _)| **site != begun) {
        stage.admin.until(&format!("site {site}"), "state Active", |live| {
            live["status"]["state"] == "Active" && live["status"]["deletion"].is_null()
        });
        let now = Snapshot::take(&stage.sandbox, site).await;
        before.expect_untouched(&now, "I7: released in the middle of a purge");
    }
    stage.all_ready();
}

async fn ends_on_sigterm(stage: &mut Stage) {
    let (_, metrics) = http(stage.operator.listen(), "/metrics").expect("metrics");
    // What the operator has purged since it was started again.
    let purged = metrics.lines().find(|l| l.starts_with("reprieve_purged_total{kind=\"Site\"}"));
    let count = purged.and_then(|l| l.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(count.is_some_and(|n| n >= 1), "expected purged Sites counted; seen: {purged:?}");
    let process = stage.operator.process_mut();
    process.terminate().expect("it runs");
    let status = process.wait(Duration::from_secs(5)).await.expect("it ends within 5 s");
    assert_eq!(status.code(), Some(0), "expected exit code 0; seen: {status}");
}
