//! Apps, as whoever runs them meets them: what is applied and what is not, whose an object is,
//! what comes back when somebody changes it, and when an App is ready. One cluster, one site of
//! its own for each step, all steps at the same time.

use std::fs;
use std::time::{Duration, Instant};

use crate::user::{User, condition, expect_condition};
use reprieve::api::names;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

/// "A second or two", on a machine that does other things as well.
const SOON: Duration = Duration::from_secs(15);
/// What failed is tried again every 15 s.
const AGAIN: Duration = Duration::from_secs(25);

struct Stage {
    admin: User,
}

fn config(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "example.invalid/x:1"}]},
            },
        },
    })
}

/// An App `shop` in this namespace.
fn app(namespace: &str, manifests: &[Value]) -> Value {
    named("shop", namespace, manifests)
}

fn named(name: &str, namespace: &str, manifests: &[Value]) -> Value {
    json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "App",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"id": format!("{namespace}-{name}"), "product": "shop", "manifests": manifests},
    })
}

/// What is tried, in a site of its own.
type Step = fn(&Stage);

impl Stage {
    /// A site of this name, Ready.
    fn site(&self, name: &str) {
        let site = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
            "spec": {"id": name, "tenant": {"name": "A tenant"}},
        });
        self.admin.create(&site).worked();
        self.ready(&format!("site {name}"), &["True Ready"]);
    }

    fn apply(&self, app: &Value) {
        self.admin.apply(&app.to_string()).worked();
    }

    #[track_caller]
    fn ready(&self, what: &str, words: &[&str]) -> Value {
        self.ready_within(SOON, what, words)
    }

    #[track_caller]
    fn ready_within(&self, limit: Duration, what: &str, words: &[&str]) -> Value {
        let live = self.until(limit, what, &format!("Ready to say {words:?}"), |live| {
            let seen = condition(live, "Ready");
            let current = live["status"]["observedGeneration"] == live["metadata"]["generation"];
            current && words.iter().all(|word| seen.contains(word))
        });
        expect_condition(&live, "Ready", words);
        live
    }

    #[track_caller]
    fn until(
        &self,
        limit: Duration,
        what: &str,
        expected: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let begun = Instant::now();
        loop {
            let said = self.admin.kubectl(&format!("get {what} -o json"));
            let live: Value = serde_json::from_str(&said.out).unwrap_or_default();
            if holds(&live) {
                return live;
            }
            assert!(
                begun.elapsed() < limit,
                "{what}: expected {expected} within {limit:?}; seen: {live} {}",
                said.err
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An event of the App `shop` of this namespace.
    #[track_caller]
    fn told(&self, namespace: &str, words: &[&str]) {
        let what = format!("events.events.k8s.io -n {namespace}");
        self.until(SOON, &what, &format!("an event with {words:?}"), |all| {
            all["items"].as_array().into_iter().flatten().any(|e| {
                let text = format!("{} {}: {}", e["type"], e["reason"], e["note"]);
                words.iter().all(|word| text.contains(word))
            })
        });
    }

    fn patch(&self, what: &str, patch: &Value, manager: &str) {
        let mut args = vec!["patch"];
        args.extend(what.split_whitespace());
        let (patch, manager) = (patch.to_string(), format!("--field-manager={manager}"));
        args.extend(["--type=merge", "-p", &patch, &manager]);
        self.admin.run(&args, "").worked();
    }
}

fn failures(live: &Value) -> Vec<String> {
    let all = live["status"]["failures"].as_array().cloned().unwrap_or_default();
    all.iter().map(|f| format!("{} {}: {}", f["index"], f["reason"], f["message"])).collect()
}

fn objects(live: &Value) -> Vec<String> {
    let all = live["status"]["objects"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|o| format!("{}/{}", o["kind"].as_str().unwrap(), o["name"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_says_of_itself() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    sandbox.install().await.expect("it can be installed");
    let mut operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let stage = Stage { admin: User::admin(&sandbox) };
    let steps: [(&str, Step); 8] = [
        ("bad manifests", bad_manifests),
        ("whose an object is", whose_an_object_is),
        ("rights", what_the_account_may),
        ("drift", what_is_changed_comes_back),
        ("contest", what_is_changed_again_and_again),
        ("manifests that change", manifests_that_change),
        ("readiness", ready_follows_the_objects),
        ("no site", an_app_waits_for_its_site),
    ];
    std::thread::scope(|scope| {
        for (what, step) in steps {
            let stage = &stage;
            scope.spawn(move || {
                let begun = Instant::now();
                step(stage);
                eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
            });
        }
    });
    a_restart_writes_nothing(&sandbox, &stage, &mut operator).await;
    drop(operator);
    sandbox.stop().expect("nothing is left");
}

fn bad_manifests(stage: &Stage) {
    stage.site("bad");
    let mut elsewhere = config("elsewhere", json!({}));
    elsewhere["metadata"]["namespace"] = json!("default");
    let mut typo = config("typo", json!({}));
    typo["dta"] = json!({"a": "b"});
    let manifests = [
        config("good", json!({"a": "b"})),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "more"}}),
        elsewhere,
        config("good", json!({})),
        json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "App", "metadata": {"name": "inner"}}),
        json!({"apiVersion": "example.com/v1", "kind": "Unknown", "metadata": {"name": "x"}}),
        typo,
        config("Not_A_Name", json!({})),
        config("better", json!({})),
    ];
    stage.apply(&app("bad", &manifests));
    let words = ["False InvalidManifest", "7 of 9 objects not applied", "manifests[1]: ", "4 more"];
    let live = stage.ready("app shop -n bad", &words);
    assert_eq!(objects(&live), ["ConfigMap/good", "ConfigMap/better"], "what is good is applied");
    let failures = failures(&live);
    for (line, words) in failures.iter().zip([
        ["1 \"InvalidManifest\"", "Namespace more is cluster-scoped"],
        ["2 \"InvalidManifest\"", "in namespace default, not in the App's"],
        ["3 \"InvalidManifest\"", "ConfigMap good is there twice"],
        ["4 \"InvalidManifest\"", "App inner is of reprieve.dev"],
        ["5 \"InvalidManifest\"", "does not know the kind Unknown of example.com/v1"],
        ["6 \"ApplyFailed\"", "dta"],
        ["7 \"ApplyFailed\"", "Not_A_Name"],
    ]) {
        for word in words {
            assert!(line.contains(word), "expected {word:?}; seen: {line}");
        }
    }
    assert_eq!(failures.len(), 7);
    stage.admin.kubectl("get configmap good better -n bad").worked();
}

fn whose_an_object_is(stage: &Stage) {
    let admin = &stage.admin;
    stage.site("whose");
    admin.kubectl("create configmap theirs -n whose --from-literal=a=theirs").worked();
    admin.kubectl("create configmap marked -n whose --from-literal=a=theirs").worked();
    admin.kubectl("label configmap marked -n whose reprieve.dev/app=shop").worked();
    stage.apply(&named("first", "whose", &[config("shared", json!({"a": "first"}))]));
    stage.ready("app first -n whose", &["True Ready"]);
    let data = json!({"a": "shop"});
    let manifests = ["theirs", "marked", "shared", "ours"].map(|name| config(name, data.clone()));
    stage.apply(&app("whose", &manifests));
    let words = ["False NotOwned", "3 of 4", "ConfigMap theirs: it lives and was made by kubectl"];
    let live = stage.ready("app shop -n whose", &words);
    let failures = failures(&live);
    assert!(failures[1].contains("ConfigMap marked: it lives and was made by kubectl"));
    assert!(failures[2].contains("ConfigMap shared: it is App first's"), "{failures:?}");
    for (name, a) in [("theirs", "theirs"), ("marked", "theirs"), ("shared", "first")] {
        let live = admin.get(&format!("configmap {name} -n whose"));
        assert_eq!(live["data"]["a"], a, "expected {name} to be left alone: {live}");
    }
    // Who is asked for it gives it.
    let uid = admin.get("configmap theirs -n whose")["metadata"]["uid"].clone();
    for name in ["theirs", "marked"] {
        let consent = format!("annotate configmap {name} -n whose reprieve.dev/adopt=shop");
        admin.kubectl(&consent).worked();
    }
    stage.ready_within(AGAIN, "app shop -n whose", &["False NotOwned", "1 of 4", "shared"]);
    let live = admin.get("configmap theirs -n whose");
    assert_eq!((&live["data"]["a"], &live["metadata"]["uid"]), (&json!("shop"), &uid));
}

fn what_the_account_may(stage: &Stage) {
    let admin = &stage.admin;
    stage.site("rights");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "5"}}});
    stage.apply(&app("rights", &[quota, config("a", json!({}))]));
    let words =
        ["False Forbidden", "1 of 2", "manifests[0]: ", "resourcequotas", "aggregate-to-app"];
    let live = stage.ready_within(AGAIN, "app shop -n rights", &words);
    assert_eq!(objects(&live), ["ConfigMap/a"]);
    // A right that the account has by a group of all accounts of its namespace.
    let role = "create role quotas -n rights --verb=create,get,patch --resource=resourcequotas";
    admin.kubectl(role).worked();
    let bind =
        "create rolebinding quotas -n rights --role=quotas --group=system:serviceaccounts:rights";
    admin.kubectl(bind).worked();
    stage.ready_within(AGAIN, "app shop -n rights", &["True Ready"]);

    let mut other = named("other", "rights", &[config("b", json!({}))]);
    other["spec"]["serviceAccountName"] = json!("deployer");
    stage.apply(&other);
    let words = ["False AccountMissing", "kubectl create serviceaccount deployer -n rights"];
    stage.ready("app other -n rights", &words);
}

fn what_is_changed_comes_back(stage: &Stage) {
    let admin = &stage.admin;
    stage.site("drift");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"p": "one"}});
    stage.apply(&app(
        "drift",
        &[config("c", json!({"a": "b", "c": "d"})), secret, deployment("web", 1)],
    ));
    stage.ready_within(AGAIN, "app shop -n drift", &["True Ready", "3 objects applied and ready"]);

    stage.patch("configmap c -n drift", &json!({"data": {"a": "x", "more": "kept"}}), "mallory");
    let live = stage.until(SOON, "configmap c -n drift", "a: b again", |c| c["data"]["a"] == "b");
    assert_eq!(live["data"]["more"], "kept", "what the App does not own is left alone");
    let words = ["Warning", "DriftCorrected", "ConfigMap c: data.a changed by mallory"];
    stage.told("drift", &words);
    stage.patch("configmap c -n drift", &json!({"data": {"c": null}}), "mallory");
    stage.until(SOON, "configmap c -n drift", "c: d again", |c| c["data"]["c"] == "d");

    admin.kubectl("delete secret s -n drift").worked();
    stage.until(SOON, "secret s -n drift", "to be made again", |s| s["data"]["p"] == "b25l");
    stage.told("drift", &["DriftCorrected", "Secret s: somebody deleted it"]);

    admin.kubectl("scale deployment web -n drift --replicas=3").worked();
    stage.until(SOON, "deployment web -n drift", "one replica", |d| d["spec"]["replicas"] == 1);
    stage.told("drift", &["DriftCorrected", "Deployment web: spec.replicas changed by kubectl"]);

    admin.kubectl("label configmap c -n drift reprieve.dev/app-").worked();
    let label = |c: &Value| c["metadata"]["labels"][names::LABEL_APP] == "shop";
    stage.until(SOON, "configmap c -n drift", "its label again", label);
    stage.ready_within(AGAIN, "app shop -n drift", &["True Ready"]);
    // Under the App's own name. Only the time of that entry tells it from the operator's own last
    // write, and the API server counts it in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let forged = config("c", json!({"a": "forged", "c": "d"}));
    let mut forged = forged;
    forged["metadata"]["namespace"] = json!("drift");
    forged["metadata"]["labels"] = json!({(names::LABEL_APP): "shop"});
    let args = "apply --server-side --force-conflicts --field-manager=reprieve-app -f -";
    admin.with_input(args, &forged.to_string()).worked();
    stage.until(SOON, "configmap c -n drift", "a: b again", |c| c["data"]["a"] == "b");
}

fn what_is_changed_again_and_again(stage: &Stage) {
    stage.site("contest");
    stage.apply(&app("contest", &[deployment("web", 1)]));
    stage.ready_within(AGAIN, "app shop -n contest", &["True Ready"]);
    for n in 0..5 {
        stage.patch("deployment web -n contest", &json!({"spec": {"replicas": 2 + n}}), "scaler");
        let back = |d: &Value| d["spec"]["replicas"] == 1;
        stage.until(SOON, "deployment web -n contest", "one replica", back);
    }
    stage.patch("deployment web -n contest", &json!({"spec": {"replicas": 9}}), "scaler");
    let words = [
        "False FieldContested",
        "Deployment web: spec.replicas changed by scaler, 5 times in 5 minutes",
        "leave it out of spec.manifests",
    ];
    stage.ready("app shop -n contest", &words);
    assert_eq!(stage.admin.get("deployment web -n contest")["spec"]["replicas"], 9);
    // As it says: the field is the scaler's then.
    let mut without = deployment("web", 1);
    without["spec"].as_object_mut().expect("a spec").remove("replicas");
    stage.apply(&app("contest", &[without]));
    stage.ready_within(AGAIN, "app shop -n contest", &["True Ready"]);
    assert_eq!(stage.admin.get("deployment web -n contest")["spec"]["replicas"], 9);
}

fn manifests_that_change(stage: &Stage) {
    let admin = &stage.admin;
    stage.site("change");
    let both = config("c", json!({"stays": "1", "leaves": "1"}));
    stage.apply(&app("change", &[both, config("orphan", json!({"a": "b"}))]));
    stage.ready("app shop -n change", &["True Ready"]);
    let uid = admin.get("configmap c -n change")["metadata"]["uid"].clone();
    stage.apply(&app("change", &[config("c", json!({"stays": "2"}))]));
    let words =
        ["True Ready", "1 object applied", "left spec.manifests and stay: ConfigMap orphan"];
    let live = stage.ready("app shop -n change", &words);
    assert_eq!(objects(&live), ["ConfigMap/c", "ConfigMap/orphan"]);
    assert_eq!(live["status"]["objects"][1]["orphaned"], true);
    stage.told("change", &["Orphaned", "ConfigMap orphan"]);
    let live = admin.get("configmap c -n change");
    assert_eq!(live["data"], json!({"stays": "2"}), "a field that left the manifest is gone");
    assert_eq!(live["metadata"]["uid"], uid, "it is the same object");
    assert_eq!(admin.get("configmap orphan -n change")["data"]["a"], "b");
    // It comes back into the manifests, and leaves them again.
    let again = [config("c", json!({"stays": "2"})), config("orphan", json!({"a": "c"}))];
    stage.apply(&app("change", &again));
    stage.ready("app shop -n change", &["True Ready", "2 objects applied and ready"]);
    assert_eq!(admin.get("configmap orphan -n change")["data"]["a"], "c");
    stage.apply(&app("change", &again[..1]));
    stage.ready("app shop -n change", &["stay: ConfigMap orphan"]);
    admin.kubectl("delete configmap orphan -n change").worked();
    stage.until(SOON, "app shop -n change", "the orphan to leave", |live| {
        objects(live) == ["ConfigMap/c"]
    });
}

fn ready_follows_the_objects(stage: &Stage) {
    let admin = &stage.admin;
    stage.site("ready");
    let balancer = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "selector": {"app": "x"}, "ports": [{"port": 80}]}});
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
        "spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.invalid/x:1"}]}}},
    });
    stage.apply(&app("ready", &[balancer, job, deployment("web", 2)]));
    let live = stage.ready_within(
        AGAIN,
        "app shop -n ready",
        &["False ObjectsNotReady", "1 of 3 objects not ready; Service lb: has no address"],
    );
    assert!(condition(&live, "Reconciling").starts_with("True"), "{live}");
    let address = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#;
    let args = ["patch", "service", "lb", "-n", "ready", "--subresource=status", "--type=merge"];
    admin.run(&[&args[..], &["-p", address]].concat(), "").worked();
    stage.ready("app shop -n ready", &["True Ready", "3 objects applied and ready"]);
}

fn an_app_waits_for_its_site(stage: &Stage) {
    let admin = &stage.admin;
    admin.kubectl("create namespace alone").worked();
    stage.apply(&app("alone", &[config("a", json!({}))]));
    stage.ready(
        "app shop -n alone",
        &["False NoSite", "create a Site with spec.namespaces [alone]"],
    );
    admin.kubectl("annotate namespace alone reprieve.dev/adopt=alone").worked();
    stage.site("alone");
    stage.ready("app shop -n alone", &["True Ready"]);
}

/// Writes of the operator in the audit log, under its own name and as an App's account.
fn writes(sandbox: &Sandbox) -> Vec<String> {
    let log = fs::read_to_string(sandbox.audit_log()).expect("an audit log");
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|e| e["user"]["username"] == names::OPERATOR_USER)
        .filter(|e| !["get", "list", "watch", "delete"].iter().any(|verb| e["verb"] == *verb))
        .map(|e| format!("{} {}", e["verb"], e["requestURI"]))
        .filter(|r| !["leases", "dryRun", "selfsubject"].iter().any(|w| r.contains(w)))
        .collect()
}

async fn a_restart_writes_nothing(sandbox: &Sandbox, stage: &Stage, operator: &mut Operator) {
    operator.process_mut().kill().expect("it runs");
    // While nobody looks, one object is changed.
    stage.patch("configmap c -n drift", &json!({"data": {"a": "x"}}), "mallory");
    let before = writes(sandbox).len();
    *operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    stage.until(AGAIN, "configmap c -n drift", "a: b again", |c| c["data"]["a"] == "b");
    stage.told("drift", &["DriftCorrected", "data.a changed by mallory"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let new = writes(sandbox).split_off(before);
    // What is as it was is not written again; what fails is tried again.
    let unexpected = |r: &&String| {
        // That a Site was counted is of another kind.
        let expected = ["/drift/", "/bad/", "/whose/", "/rights/", "/sites/"];
        !expected.iter().any(|words| r.contains(words))
    };
    let unexpected: Vec<&String> = new.iter().filter(unexpected).collect();
    assert!(unexpected.is_empty(), "expected no writes for the others; seen: {unexpected:?}");
}
