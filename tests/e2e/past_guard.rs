//! Deletes past the guard, as it goes when nobody had installed it, or somebody has taken it away:
//! T4 and I9 of the fault list, and the last paragraph of section 3 of the design. Held, told,
//! asked about; and what people do not let go comes back with everything of the tenant untouched.
//! The operator is killed again and again meanwhile.
//!
//! One cluster serves all steps, because it takes seconds to start.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::user::{Snapshot, User, condition, expect, expect_condition, grant, http, sample};
use reprieve::api::names;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
/// Sites with the sample App, by name; the id of the n-th is `site-<n>`.
const SITES: [&str; 4] = ["acme", "bolt", "cato", "dune"];
/// Small Sites beside them.
const SMALL: usize = 8;
/// What the administrator deletes while the guard is off.
const PAST_GUARD: [&str; 9] = [
    "sites//acme",
    "sites//bolt",
    "sites//cato",
    "sites//dune",
    "apps/acme/shop",
    "apps/bolt/shop",
    "apps/cato/shop",
    "apps/small-0/wiki",
    "apps/small-1/extra",
];
const LABEL: &str = "reprieve.dev/unexpected-delete=true";
/// A policy with the shortest window, under which requests expire within a minute.
const QUICK: &str = "
apiVersion: reprieve.dev/v1alpha1
kind: DeletionPolicy
metadata: {name: quick}
spec:
  environment: Development
  retention: {minimumSeconds: 10, defaultSeconds: 10}
  blastRadius: {rolling: {maxEntities: 1000, maxPercent: 100}}
  quorum: {approvals: 2, expiresAfterSeconds: 60}
";

struct Stage {
    sandbox: Sandbox,
    operator: Operator,
    admin: User,
    approvers: Vec<(&'static str, User)>,
}

/// A Site with an App of two objects.
fn small(n: usize) -> String {
    format!(
        "
apiVersion: reprieve.dev/v1alpha1
kind: Site
metadata: {{name: small-{n}, labels: {{tier: gold}}, annotations: {{example.com/note: 'n {n}'}}}}
spec: {{id: id-small-{n}, tenant: {{name: Tenant {n}, contacts: [ops@small.example]}}, priority: {n}}}
"
    )
}

fn small_app(n: usize) -> String {
    format!(
        "
apiVersion: reprieve.dev/v1alpha1
kind: App
metadata: {{name: wiki, namespace: small-{n}, labels: {{tier: gold}}}}
spec:
  id: id-wiki-{n}
  product: wiki
  manifests:
    - {{apiVersion: v1, kind: ConfigMap, metadata: {{name: wiki}}, data: {{n: '{n}'}}}}
    - {{apiVersion: v1, kind: Secret, metadata: {{name: wiki}}, stringData: {{n: '{n}'}}}}
"
    )
}

impl Stage {
    async fn start() -> Option<Self> {
        let sandbox = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await?;
        sandbox.install().await.expect("it can be installed");
        // It is killed twenty times, and each time the lease has to expire.
        let lease = [
            "--leader-elect-lease-duration=2s",
            "--leader-elect-renew-deadline=1500ms",
            "--leader-elect-retry-period=300ms",
        ];
        let operator = sandbox.start_operator(&lease).await.expect("the operator starts");
        let admin = User::admin(&sandbox);
        let approvers = ["alice", "bob", "carol"].map(|name| {
            let user = User::person(&sandbox, name, "reprieve-approver");
            grant(&sandbox, name, "reprieve-requester");
            (name, user)
        });
        let stage = Self { sandbox, operator, admin, approvers: approvers.into() };
        stage.admin.apply(QUICK).worked();
        for (site, number) in SITES.into_iter().zip(1..) {
            let mut yaml = sample(SITE, site, number);
            if site == "cato" || site == "dune" {
                yaml =
                    yaml.replace("  priority: 100", "  priority: 100\n  policyRef: {name: quick}");
            }
            stage.admin.apply(&yaml).worked();
        }
        let all: Vec<String> = (0..SMALL).map(small).collect();
        stage.admin.apply(&all.join("---\n")).worked();
        stage.ready("site --all");
        for (site, number) in SITES.into_iter().zip(1..) {
            stage.admin.apply(&sample(APP, site, number)).worked();
        }
        let all: Vec<String> = (0..SMALL).map(small_app).collect();
        stage.admin.apply(&all.join("---\n")).worked();
        stage.ready("app --all -A");
        Some(stage)
    }

    fn ready(&self, what: &str) {
        self.admin.kubectl(&format!("wait --for=condition=Ready {what} --timeout=180s")).worked();
    }

    async fn snapshot(&self, site: &str) -> Snapshot {
        Snapshot::take(&self.sandbox, site).await
    }

    /// The guard is gone: whoever may delete bindings can do that.
    fn guard_off(&self) {
        let label = "-l app.kubernetes.io/part-of=reprieve";
        self.admin.kubectl(&format!("delete validatingadmissionpolicybinding {label}")).worked();
        self.until_delete("site cato", "let through", |said| said.ok);
    }

    fn guard_on(&self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/admission");
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", folder.to_str().unwrap()];
        self.admin.run(&apply, "").worked();
        self.until_delete("site acme", "denied", |said| !said.ok);
    }

    /// Asks for a dry run of a delete until it goes as expected: policies load within a second.
    fn until_delete(&self, what: &str, expected: &str, holds: impl Fn(&crate::user::Said) -> bool) {
        let begun = Instant::now();
        loop {
            let said = self.admin.kubectl(&format!("delete {what} --dry-run=server"));
            if holds(&said) {
                break;
            }
            assert!(begun.elapsed() < crate::user::PATIENCE, "expected {expected}; seen: {said:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        // Those that were not tried may come with the next load.
        std::thread::sleep(Duration::from_millis(1100));
    }

    fn uid(&self, what: &str) -> String {
        let live = self.admin.get(what);
        live["metadata"]["uid"].as_str().expect("a UID").to_owned()
    }

    fn delete(&self, what: &str) {
        self.admin.kubectl(&format!("delete {what} --wait=false")).worked();
    }

    /// The request that the operator opened for this entity, as its status names it.
    fn request_of(&self, what: &str) -> String {
        let live = self.admin.until(what, "a request", |live| {
            live["status"]["unexpectedDelete"]["requestRef"]["name"].is_string()
        });
        let name = &live["status"]["unexpectedDelete"]["requestRef"]["name"];
        name.as_str().unwrap_or_default().to_owned()
    }

    fn cancel(&self, request: &str) {
        let patch = r#"{"spec":{"cancel":true}}"#;
        self.admin.run(&["patch", "dreq", request, "--type=merge", "-p", patch], "").worked();
    }

    /// Waits until there is another one of this name, in service.
    fn until_back(&self, what: &str, old_uid: &str) -> Value {
        let begun = Instant::now();
        loop {
            let said = self.admin.kubectl(&format!("get {what} -o json"));
            let live: Value = serde_json::from_str(&said.out).unwrap_or_default();
            let metadata = &live["metadata"];
            let is_new = metadata["uid"].as_str().is_some_and(|uid| uid != old_uid);
            let whole = metadata["deletionTimestamp"].is_null()
                && metadata["annotations"][names::ANNOTATION_RECREATE].is_null();
            if is_new && whole && condition(&live, "Ready").starts_with("True") {
                assert_eq!(metadata["finalizers"], json!([names::FINALIZER]), "{what}: {live}");
                expect("state", "Active", &live["status"]["state"], &live);
                return live;
            }
            assert!(
                begun.elapsed() < crate::user::PATIENCE,
                "{what}: expected another than {old_uid}, Ready; seen: {said:?}; the operator: {}",
                self.operator.process().log_tail(20)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    async fn restart(&mut self) {
        self.operator.process_mut().restart().expect("it starts");
        self.operator.wait_until_ready().await.expect("it is ready");
    }

    fn metric(&self, name: &str, kind: &str) -> u32 {
        let (_, text) = http(self.operator.listen(), "/metrics").expect("metrics");
        let line = format!("reprieve_{name}{{kind=\"{kind}\"}} ");
        let value = text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok());
        value.unwrap_or_else(|| panic!("expected {line}; seen: {text}"))
    }

    fn warnings(&self, kind: &str, uid: &str) -> Vec<Value> {
        let all = self.admin.get("events.events.k8s.io -A");
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let of = |event: &Value| {
            event["regarding"]["kind"] == kind
                && event["regarding"]["uid"] == uid
                && event["type"] == "Warning"
                && event["reason"] == "UnexpectedDelete"
        };
        all.into_iter().filter(of).collect()
    }

    /// No namespace bears a record any more, and in the store every record is closed.
    fn nothing_is_left(&self) {
        let all = self.admin.get("namespaces");
        for namespace in all["items"].as_array().into_iter().flatten() {
            let left = &namespace["metadata"]["annotations"][names::ANNOTATION_RECORD];
            assert!(left.is_null(), "{}: {left}", namespace["metadata"]["name"]);
        }
        let files = fs::read_dir(self.sandbox.store_dir().join("records")).expect("records");
        let files: Vec<String> = files
            .map(|file| file.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        for file in files.iter().filter(|file| file.ends_with(".json")) {
            let uid = file.split('.').next().unwrap_or_default();
            let closed = format!("{uid}.closed");
            assert!(files.contains(&closed), "expected {closed} beside {file}; seen: {files:?}");
        }
    }
}

/// All that a site holds is untouched, by UID and content; the Site and its Apps are equal, and
/// those of them that are named are new.
#[track_caller]
fn expect_back(before: &Snapshot, now: &Snapshot, renewed: &[&str], when: &str) {
    before.expect_equal(now, when);
    for (old, new) in before.objects.iter().zip(&now.objects) {
        if renewed.contains(&old.0.as_str()) {
            assert_ne!(old.1, new.1, "{when}: {} expected anew", old.0);
        } else {
            assert_eq!(old.1, new.1, "{when}: {} expected with the same UID", old.0);
        }
    }
    for key in renewed {
        assert!(before.objects.iter().any(|o| o.0 == *key), "{when}: no {key} in the site");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_past_the_guard_lose_nothing() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    stage.guard_off();
    let dune = expires_begin(&stage).await;
    site_held_and_cancelled(&stage).await;
    step("a Site: held, told, cancelled, back");
    app_comes_back(&stage).await;
    step("an App: back");
    site_and_app_rejected(&stage).await;
    step("a Site and its App: rejected, back");
    killed_all_the_time(&mut stage).await;
    step("killed all the time: back");
    expires_end(&stage, dune).await;
    step("expired: back");
    approved(&mut stage).await;
    step("approved: purged by the book");
    crds(&mut stage).await;
    step("CRDs deleted and installed again: back");
    let purged = crate::audit::expect_invariants_but(&stage.sandbox, &PAST_GUARD);
    assert_eq!(purged, 2, "a Site and an App went by the book, and nothing else");
    stage.sandbox.stop().expect("nothing is left");
}

async fn site_held_and_cancelled(stage: &Stage) {
    let before = stage.snapshot("acme").await;
    let uid = stage.uid("site acme");
    stage.delete("site acme");
    let request = stage.request_of("site acme");
    let live = stage.admin.until("site acme", "the command in the condition", |live| {
        condition(live, "Ready").contains("kubectl delete dreq")
    });
    expect("state", "PendingDeletion", &live["status"]["state"], &live);
    let words = ["False UnexpectedDelete", "past the gates", "nothing of the tenant", &request];
    expect_condition(&live, "Ready", &words);
    let events = stage.warnings("Site", &uid);
    assert_eq!(events.len(), 1, "expected one Warning; seen: {events:?}");
    let metric = stage.metric("unexpected_deletes_total", "Site");
    assert_eq!(metric, 2, "expected dune and acme counted");
    assert_eq!(stage.metric("unexpected_deletes_open", "Site"), 2, "expected dune and acme open");

    let asked = stage.admin.until_state(&request, "AwaitingApproval");
    let labelled = stage.admin.kubectl(&format!("get dreq -l {LABEL} -o name"));
    assert!(labelled.worked().contains(&request), "by its label: {labelled:?}");
    assert_eq!(asked["status"]["approvalsRequired"], 3, "the policy's two, and one more");
    let by = &asked["metadata"]["annotations"][names::ANNOTATION_REQUESTED_BY];
    expect("requested-by", names::OPERATOR_USER, by, &asked);
    let reason = asked["spec"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("Site acme was deleted past the guard at 20"), "{reason}");
    let namespaces = &asked["status"]["plan"]["entities"][0]["namespaces"][0]["name"];
    expect("namespace of the plan", "acme", namespaces, &asked);
    before.expect_untouched(&stage.snapshot("acme").await, "while a Site is held");

    // A second request for it is refused: its own is the older one, and it is on its way.
    let own = crate::user::request("acme-too", "Site", &["site-1".to_owned()]);
    stage.admin.create(&own).worked();
    let live = stage.admin.until_state("acme-too", "Refused");
    expect_condition(&live, "ScopeValid", &["False"]);

    stage.cancel(&request);
    let live = stage.until_back("site acme", &uid);
    expect("tenant", "Acme Corp", &live["spec"]["tenant"]["name"], &live);
    expect_back(&before, &stage.snapshot("acme").await, &["Site.reprieve.dev/acme"], "cancelled");
    stage.admin.until_state(&request, "Cancelled");
    // Who applied it goes on without a conflict.
    stage.admin.apply(&sample(SITE, "acme", 1)).worked();
    stage.admin.until("events.events.k8s.io -A", "the event Recreated", |all| {
        let mut all = all["items"].as_array().into_iter().flatten();
        all.any(|e| e["reason"] == "Recreated" && e["regarding"]["name"] == "acme")
    });
}

async fn app_comes_back(stage: &Stage) {
    let before = stage.snapshot("bolt").await;
    let old = stage.admin.get("app shop -n bolt");
    let uid = stage.uid("app shop -n bolt");
    stage.delete("app shop -n bolt");
    let request = stage.request_of("app shop -n bolt");
    let asked = stage.admin.until_state(&request, "AwaitingApproval");
    let entity = &asked["status"]["plan"]["entities"][0];
    assert_eq!((&entity["kind"], &entity["uid"]), (&json!("App"), &json!(uid)), "{entity}");
    stage.cancel(&request);
    let live = stage.until_back("app shop -n bolt", &uid);
    let uids = |app: &Value| {
        let all = app["status"]["objects"].as_array().cloned().unwrap_or_default();
        all.iter().map(|o| o["uid"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(uids(&old), uids(&live), "the App's own objects");
    assert_eq!(uids(&live).len(), 10, "the App's own objects");
    let renewed = ["App.reprieve.dev/bolt/shop"];
    expect_back(&before, &stage.snapshot("bolt").await, &renewed, "an App");
    assert_eq!(stage.warnings("App", &uid).len(), 1, "expected one Warning");
    stage.admin.until_state(&request, "Cancelled");
    stage.admin.apply(&sample(APP, "bolt", 2)).worked();
}

async fn site_and_app_rejected(stage: &Stage) {
    let before = stage.snapshot("bolt").await;
    let (site, app) = (stage.uid("site bolt"), stage.uid("app shop -n bolt"));
    stage.delete("site bolt");
    stage.delete("app shop -n bolt");
    let request = stage.request_of("site bolt");
    stage.admin.until_state(&request, "AwaitingApproval");
    // The App waits for what becomes of its Site.
    let live = stage
        .admin
        .until("app shop -n bolt", "told", |live| !live["status"]["unexpectedDelete"].is_null());
    assert_eq!(live["metadata"]["uid"], app.as_str(), "the same App");
    stage.approvers[0].1.annotate(&request, "rejection.reprieve.dev/alice=no alice").worked();
    stage.admin.until_state(&request, "Refused");
    stage.until_back("site bolt", &site);
    stage.until_back("app shop -n bolt", &app);
    let renewed = ["Site.reprieve.dev/bolt", "App.reprieve.dev/bolt/shop"];
    expect_back(&before, &stage.snapshot("bolt").await, &renewed, "a Site and its App");
}

/// Killed at every place of the road, as chance has it; and the request itself deleted.
async fn killed_all_the_time(stage: &mut Stage) {
    let before = stage.snapshot("acme").await;
    for round in 0..6u64 {
        let (uid, app) = (stage.uid("site acme"), stage.uid("app shop -n acme"));
        stage.delete("site acme");
        if round % 2 == 1 {
            stage.delete("app shop -n acme");
        }
        tokio::time::sleep(Duration::from_millis(round * 13)).await;
        stage.restart().await;
        let request = stage.request_of("site acme");
        if round < 3 {
            stage.delete(&format!("dreq {request}"));
        } else {
            stage.cancel(&request);
        }
        for kill in 0..2 {
            tokio::time::sleep(Duration::from_millis(20 + round * 25 + kill * 40)).await;
            stage.restart().await;
        }
        stage.until_back("site acme", &uid);
        if round % 2 == 1 {
            // For a moment there is none of that name.
            stage.until_back("app shop -n acme", &app);
        }
        stage.ready("app shop -n acme");
    }
    // The last round has deleted the App as well.
    let renewed = ["Site.reprieve.dev/acme", "App.reprieve.dev/acme/shop"];
    expect_back(&before, &stage.snapshot("acme").await, &renewed, "killed all the time");
}

async fn expires_begin(stage: &Stage) -> (Snapshot, String, String) {
    let before = stage.snapshot("dune").await;
    let uid = stage.uid("site dune");
    stage.delete("site dune");
    let request = stage.request_of("site dune");
    let live = stage.admin.until_state(&request, "AwaitingApproval");
    assert_eq!(live["status"]["approvalsRequired"], 3, "the policy's two, and one more");
    (before, uid, request)
}

async fn expires_end(stage: &Stage, (before, uid, request): (Snapshot, String, String)) {
    stage.admin.until_state(&request, "Expired");
    stage.until_back("site dune", &uid);
    expect_back(&before, &stage.snapshot("dune").await, &["Site.reprieve.dev/dune"], "expired");
    stage.nothing_is_left();
}

/// What was deleted past the guard goes by the book if people say so: with the guard in place,
/// approved, backed up, held for its window.
async fn approved(stage: &mut Stage) {
    let before = stage.snapshot("cato").await;
    let others = stage.snapshot("bolt").await;
    let extra = small_app(1).replace("wiki", "extra");
    stage.admin.apply(&extra).worked();
    stage.ready("app extra -n small-1");
    stage.delete("app extra -n small-1");
    let extra = stage.request_of("app extra -n small-1");
    stage.admin.until_state(&extra, "AwaitingApproval");
    stage.delete("site cato");
    stage.delete("app shop -n cato");
    let request = stage.request_of("site cato");
    let live = stage.admin.until_state(&request, "AwaitingApproval");
    expect_condition(&live, "GuardInPlace", &["False GuardMissing"]);
    stage.guard_on();
    stage.admin.until(&format!("dreq {request}"), "the guard in place", |live| {
        condition(live, "GuardInPlace").starts_with("True")
    });
    for (name, approver) in &stage.approvers[..2] {
        approver.approve(&request, name).worked();
    }
    let live = stage.admin.until(&format!("dreq {request}"), "two of three", |live| {
        condition(live, "Approved").contains("2 of 3")
    });
    expect("state", "AwaitingApproval", &live["status"]["state"], &live);
    let (name, approver) = &stage.approvers[2];
    approver.approve(&request, name).worked();
    for (name, approver) in &stage.approvers {
        approver.approve(&extra, name).worked();
    }
    stage.admin.until_state(&request, "Held");
    let live = stage.admin.until(&format!("dreq {request}"), "a running window", |live| {
        condition(live, "RetentionElapsed").starts_with("False WindowRunning")
    });
    expect_condition(&live, "BackedUp", &["True BackupsVerified"]);
    before.expect_untouched(&stage.snapshot("cato").await, "held past the guard");
    stage.restart().await;
    let live = stage.admin.until_state(&request, "Completed");
    let (end, done) = (&live["status"]["retention"]["endTime"], &live["status"]["completionTime"]);
    assert!(end.as_str() < done.as_str(), "I3: ended {done}, the window at {end}");
    for what in ["site cato", "namespace cato"] {
        stage.admin.kubectl(&format!("get {what}")).failed(&["(NotFound)"]);
    }
    // A single App goes the same way, and its Site and the App beside it stay.
    stage.admin.until_state(&extra, "Completed");
    for what in ["app extra -n small-1", "configmap extra -n small-1"] {
        stage.admin.kubectl(&format!("get {what}")).failed(&["(NotFound)"]);
    }
    stage.admin.kubectl("get app/wiki configmap/wiki -n small-1 -o name").worked();
    // It stays away, also over a restart.
    stage.restart().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.admin.kubectl("get site cato").failed(&["(NotFound)"]);
    others.expect_untouched(&stage.snapshot("bolt").await, "the site beside it");
    stage.nothing_is_left();
}

/// T4: deleting a CRD bypasses all admission for its objects.
async fn crds(stage: &mut Stage) {
    stage.guard_off_again();
    let mut sites: Vec<String> = (0..SMALL).map(|n| format!("small-{n}")).collect();
    sites.extend(["acme", "bolt", "dune"].map(str::to_owned));
    let mut before = vec![];
    for site in &sites {
        before.push((stage.uid(&format!("site {site}")), stage.snapshot(site).await));
    }
    let crd = stage.uid("crd sites.reprieve.dev");
    stage.delete("crd sites.reprieve.dev");
    for site in &sites {
        let request = stage.request_of(&format!("site {site}"));
        stage.admin.until_state(&request, "AwaitingApproval");
    }
    // Told again by an operator that starts, or takes the lease, while it is still on its way out.
    let events = stage.warnings("CustomResourceDefinition", &crd);
    assert!(!events.is_empty(), "expected a Warning about the CRD; seen none");
    let counted = stage.metric("unexpected_deletes_total", "CustomResourceDefinition");
    assert!(counted >= 1, "expected the CRD counted; seen: {counted}");
    for (site, (_, before)) in sites.iter().zip(&before) {
        before.expect_untouched(&stage.snapshot(site).await, "while its CRD is being deleted");
    }
    stage.restart().await;
    // One command keeps them all.
    stage.admin.kubectl(&format!("delete dreq -l {LABEL} --timeout=180s")).worked();
    // The API server looks for what is left of a kind in rounds of a minute.
    stage.admin.kubectl("wait --for=delete crd/sites.reprieve.dev --timeout=150s").worked();
    // Apps are let go without the kind of their Sites, or theirs could never go.
    stage.delete("app wiki -n small-0");
    stage.delete("crd apps.reprieve.dev");
    stage.admin.kubectl("wait --for=delete crd/apps.reprieve.dev --timeout=150s").worked();
    // It outlives that, and can be started in it.
    assert!(stage.operator.process_mut().is_running(), "{}", stage.operator.process().log_tail(20));
    stage.operator.process_mut().restart().expect("it starts");
    tokio::time::sleep(Duration::from_secs(1)).await;

    let begun = Instant::now();
    for file in ["sites.yaml", "apps.yaml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds").join(file);
        stage.admin.apply(&fs::read_to_string(file).expect("a CRD")).worked();
    }
    let established = "wait --for=condition=Established crd/sites.reprieve.dev crd/apps.reprieve.dev --timeout=60s";
    stage.admin.kubectl(established).worked();
    for (site, (uid, _)) in sites.iter().zip(&before) {
        stage.until_back(&format!("site {site}"), uid);
    }
    eprintln!("         {} Sites back in {:.1} s", sites.len(), begun.elapsed().as_secs_f64());
    for (site, (_, before)) in sites.iter().zip(&before) {
        let app = if site.starts_with("small") { "wiki" } else { "shop" };
        stage.admin.until(&format!("app {app} -n {site}"), "Ready", |live| {
            condition(live, "Ready").starts_with("True")
        });
        let renewed =
            [format!("Site.reprieve.dev/{site}"), format!("App.reprieve.dev/{site}/{app}")];
        let renewed: Vec<&str> = renewed.iter().map(String::as_str).collect();
        expect_back(before, &stage.snapshot(site).await, &renewed, "after its CRD came back");
    }
    eprintln!("         with their Apps in {:.1} s", begun.elapsed().as_secs_f64());
    stage.nothing_is_left();
}

impl Stage {
    fn guard_off_again(&self) {
        let label = "-l app.kubernetes.io/part-of=reprieve";
        self.admin.kubectl(&format!("delete validatingadmissionpolicybinding {label}")).worked();
        self.until_delete("crd sites.reprieve.dev", "let through", |said| said.ok);
    }
}
