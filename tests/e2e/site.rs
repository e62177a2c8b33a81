//! Sites, as a platform team meets them: whose a namespace is, who holds an id, what an account
//! may, what is counted, and what is lost. One cluster serves all steps; at the end the guard is
//! taken away, because what it stops cannot be seen otherwise.

use std::fs;
use std::time::{Duration, Instant};

use crate::user::{User, condition, expect_condition, http};
use reprieve::api::names;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

/// "A second or two", on a machine that does other things as well.
const SOON: Duration = Duration::from_secs(5);

struct Stage {
    sandbox: Sandbox,
    operator: Operator,
    admin: User,
}

fn site(name: &str, id: &str, namespaces: &[&str]) -> Value {
    let mut site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
        "spec": {"id": id, "tenant": {"name": "A tenant"}},
    });
    if !namespaces.is_empty() {
        site["spec"]["namespaces"] = json!(namespaces);
    }
    site
}

fn app(name: &str, namespace: &str, id: &str) -> Value {
    json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "App",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"id": id, "product": "shop", "manifests": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}},
        ]},
    })
}

impl Stage {
    /// The condition Ready of an object says this, soon.
    #[track_caller]
    fn ready(&self, what: &str, words: &[&str]) -> Value {
        self.ready_within(SOON, what, words)
    }

    #[track_caller]
    fn ready_within(&self, limit: Duration, what: &str, words: &[&str]) -> Value {
        let begun = Instant::now();
        loop {
            let live = self.admin.get(what);
            let seen = condition(&live, "Ready");
            if words.iter().all(|word| seen.contains(word)) {
                expect_condition(&live, "Ready", words);
                return live;
            }
            assert!(
                begun.elapsed() < limit,
                "{what}: expected Ready to say {words:?} within {limit:?}; seen: {seen}; the operator: {}",
                self.operator.process().log_tail(5)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// This command works, soon.
    #[track_caller]
    fn soon(&self, args: &str) {
        let begun = Instant::now();
        while !self.admin.kubectl(args).ok {
            assert!(begun.elapsed() < SOON, "{args}: expected to work within {SOON:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Events of an object, as `reason: message`.
    #[track_caller]
    fn told(&self, name: &str, words: &[&str]) {
        let begun = Instant::now();
        loop {
            let all = self
                .admin
                .get(&format!("events.events.k8s.io -A --field-selector regarding.name={name}"));
            let events = all["items"].as_array().cloned().unwrap_or_default();
            let texts: Vec<String> = events
                .iter()
                .map(|e| format!("{} {}: {}", e["type"], e["reason"], e["note"]))
                .collect();
            if texts.iter().any(|text| words.iter().all(|word| text.contains(word))) {
                return;
            }
            assert!(begun.elapsed() < SOON, "expected an event with {words:?}; seen: {texts:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_site_says_of_itself() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let admin = User::admin(&sandbox);
    let mut stage = Stage { sandbox, operator, admin };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    whose_a_namespace_is(&stage);
    step("namespaces");
    a_policy_that_is_not_there(&stage);
    step("policy");
    what_the_account_may(&stage);
    step("account");
    what_is_counted(&stage);
    step("inventory");
    what_idling_costs(&stage);
    step("idle");
    who_holds_an_id(&stage);
    step("ids");
    what_is_lost(&mut stage).await;
    step("lost namespaces");
    stage.sandbox.stop().expect("nothing is left");
}

fn whose_a_namespace_is(stage: &Stage) {
    let admin = &stage.admin;
    admin.create(&site("own", "own", &[])).worked();
    stage.ready("site own", &["True Ready"]);

    for name in ["taken", "spare"] {
        admin.kubectl(&format!("create namespace {name}")).worked();
    }
    admin.create(&site("taker", "taker", &["taken", "taker"])).worked();
    let help = "kubectl annotate namespace taken reprieve.dev/adopt=taker";
    stage.ready("site taker", &["False NamespaceNotAdoptable", "did not consent", help]);
    let label = admin.get("namespace taken")["metadata"]["labels"][names::LABEL_SITE].clone();
    assert_eq!(label, Value::Null, "expected the namespace to be left alone");
    // What it says is what helps.
    admin.kubectl(help.strip_prefix("kubectl ").expect("a command")).worked();
    stage.ready("site taker", &["True Ready"]);
    let label = admin.get("namespace taken")["metadata"]["labels"][names::LABEL_SITE].clone();
    assert_eq!(label, "taker");

    // Another site's, and who comes first keeps it.
    admin.create(&site("late", "late", &["taken"])).worked();
    stage.ready("site late", &["False NamespaceNotAdoptable", "belongs to Site taker"]);
    stage.ready("site taker", &["True Ready"]);
    // Growing is all that a list may do.
    let patch = |names: &str| {
        let patch = format!(r#"{{"spec":{{"namespaces":{names}}}}}"#);
        admin.run(&["patch", "site", "taker", "--type=merge", "-p", &patch], "")
    };
    patch(r#"["taken"]"#).failed(&["namespaces may only grow"]);
    patch(r#"["taken","taker","taker-jobs"]"#).worked();
    stage.soon("get namespace taker-jobs");

    // The system's: refused before they are written.
    for (name, namespaces) in [
        ("default", &[][..]),
        ("kube-tenant", &[][..]),
        ("reprieve-system", &[][..]),
        ("greedy", &["greedy", "kube-system"][..]),
        ("greedier", &["default"][..]),
    ] {
        let refused = admin.create(&site(name, name, namespaces));
        refused.failed(&["belong to the system", "spec.namespaces"]);
    }
}

fn a_policy_that_is_not_there(stage: &Stage) {
    let admin = &stage.admin;
    let mut strict = site("strict", "strict", &[]);
    strict["spec"]["policyRef"] = json!({"name": "strict"});
    admin.create(&strict).worked();
    stage.ready("site strict", &["False PolicyNotFound", "\"strict\" does not exist"]);
    let mut policy = admin.get("dpol default");
    policy["metadata"] = json!({"name": "strict"});
    policy.as_object_mut().expect("an object").remove("status");
    admin.create(&policy).worked();
    stage.ready("site strict", &["True Ready"]);
}

fn what_the_account_may(stage: &Stage) {
    let admin = &stage.admin;
    for what in ["serviceaccount", "rolebinding"] {
        admin.kubectl(&format!("delete {what} reprieve-app -n own")).worked();
        stage.soon(&format!("get {what} reprieve-app -n own"));
    }
    stage.told("own", &["Warning", "AccountRestored", "the ServiceAccount", "namespace own"]);
    stage.told("own", &["Warning", "AccountRestored", "the RoleBinding"]);
    let empty = ["patch", "rolebinding", "reprieve-app", "-n", "own", "--type=merge", "-p"];
    admin.run(&[&empty[..], &[r#"{"subjects":[]}"#]].concat(), "").worked();
    stage.told("own", &["AccountRestored", "the subject"]);
    let live = admin.get("rolebinding reprieve-app -n own");
    assert_eq!(live["subjects"][0]["name"], names::APP_ACCOUNT, "{live}");

    // A binding to another role cannot be changed, and deleting is not the operator's.
    let file = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reprieve-app", "namespace": "own"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "reprieve-app", "namespace": "own"}],
    });
    let replaced = admin.with_input("replace --force -f -", &file.to_string());
    // The operator may be faster between the two halves of that.
    if replaced.ok {
        let help = "kubectl delete rolebinding reprieve-app -n own";
        stage.ready("site own", &["False AccountChanged", "ClusterRole view", help]);
        admin.kubectl(help.strip_prefix("kubectl ").expect("a command")).worked();
    }
    stage.ready("site own", &["True Ready"]);

    let mut role = admin.get("clusterrole reprieve-app");
    admin.kubectl("delete clusterrole reprieve-app").worked();
    stage.ready("site own", &["False AccountChanged", "ClusterRole reprieve-app does not exist"]);
    role["metadata"] = json!({"name": "reprieve-app"});
    admin.create(&role).worked();
    stage.ready("site own", &["True Ready"]);
}

fn what_is_counted(stage: &Stage) {
    let admin = &stage.admin;
    admin.create(&app("one", "own", "own-one")).worked();
    let counted = |apps: i64| {
        admin.until("site own", "the Apps counted", |live| {
            live["status"]["inventory"]["appsReady"] == apps
        })["status"]["inventory"]
            .clone()
    };
    let one = counted(1);
    admin.create(&app("two", "own", "own-two")).worked();
    let two = counted(2);
    let more = |field: &str| {
        two[field].as_i64().unwrap_or_default() - one[field].as_i64().unwrap_or_default()
    };
    // An App and its ConfigMap.
    assert_eq!(more("objects"), 2, "{one} then {two}");
    assert!((300..3000).contains(&more("bytes")), "{one} then {two}");

    // Somebody takes away most of what the tenant has, without asking: that is told.
    let shrunk = || {
        let (_, metrics) = http(stage.operator.listen(), "/metrics").expect("metrics");
        let line = metrics.lines().find(|line| line.starts_with("reprieve_sites_shrunk "));
        line.expect("the metric").to_owned()
    };
    let maps = (0..20).map(|n| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("own-{n}"), "namespace": "own", "labels": {"whose": "tenant"}}}));
    admin
        .create(&json!({"apiVersion": "v1", "kind": "List", "items": maps.collect::<Vec<_>>()}))
        .worked();
    admin.create(&app("full", "own", "own-full")).worked();
    let full = counted(3)["objects"].as_i64().unwrap_or_default();
    assert_eq!(shrunk(), "reprieve_sites_shrunk 0");
    admin.kubectl("delete configmap -n own -l whose=tenant").worked();
    admin.create(&app("left", "own", "own-left")).worked();
    let left = counted(4)["objects"].as_i64().unwrap_or_default();
    assert_eq!(left, full + 2 - 20);
    admin.until("site own", "told of", |_| shrunk() == "reprieve_sites_shrunk 1");
}

/// Requests of the operator in the audit log, but for those that begin or end a watch.
fn requests(stage: &Stage) -> Vec<String> {
    let log = fs::read_to_string(stage.sandbox.audit_log()).expect("an audit log");
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|e| e["user"]["username"] == names::OPERATOR_USER && e["verb"] != "watch")
        .map(|e| format!("{} {}", e["verb"], e["requestURI"]))
        .collect()
}

fn what_idling_costs(stage: &Stage) {
    // What followed from the steps before comes to its end: a count, a discovery of kinds.
    let begun = Instant::now();
    let mut before = requests(stage);
    loop {
        std::thread::sleep(Duration::from_secs(10));
        let now = requests(stage);
        let new = &now[before.len()..];
        // The guard is looked at by itself; this room asks nothing.
        let of_this_room = |r: &&String| {
            !r.contains("dryRun")
                && !r.contains("admissionregistration")
                && !r.contains("coordination.k8s.io")
                && !r.contains("authorization.k8s.io")
                && !r.contains("/version")
        };
        let asked: Vec<&String> = new.iter().filter(of_this_room).collect();
        // A Site that waits for somebody looks once a minute, from what is known.
        if asked.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "expected no requests; seen: {asked:?}");
        before = now;
    }
}

fn who_holds_an_id(stage: &Stage) {
    let admin = &stage.admin;
    // The first was Ready long before the second came.
    admin.create(&site("twin", "own", &[])).worked();
    stage.ready("site twin", &["False DuplicateId", "\"own\"", "Site own"]);
    stage.ready("site own", &["False DuplicateId", "\"own\"", "Site twin"]);
    admin.kubectl("get namespace twin").failed(&["not found"]);
    // An App with the id of a Site, and one with that of an App.
    admin.create(&app("three", "own", "taker")).worked();
    stage.ready("app three -n own", &["False DuplicateId", "Site taker"]);
    stage.ready("site taker", &["False DuplicateId", "App own/three"]);
    admin.create(&app("four", "own", "own-one")).worked();
    stage.ready("app four -n own", &["False DuplicateId", "App own/one"]);
    stage.ready("app one -n own", &["False DuplicateId", "App own/four"]);
    admin.kubectl("get configmap three -n own").failed(&["not found"]);
    // No request can name them. Who came first and owns something stays; the others can go.
    for what in ["site own", "site taker", "app one -n own"] {
        admin.kubectl(&format!("delete {what} --wait=false")).denied(&["DeletionRequest"]);
    }
    for what in ["app four -n own", "app three -n own", "site twin"] {
        admin.kubectl(&format!("delete {what} --timeout=30s")).worked();
    }
    for what in ["site own", "site taker", "app one -n own"] {
        stage.ready(what, &["True"]);
    }
}

async fn what_is_lost(stage: &mut Stage) {
    let admin = stage.admin.clone();
    for name in ["gone", "going"] {
        admin.create(&site(name, name, &[])).worked();
        stage.ready(&format!("site {name}"), &["True Ready"]);
    }
    admin.create(&app("held", "going", "held")).worked();
    stage.ready("app held -n going", &["True Ready"]);
    for n in ["b1", "b2"] {
        let backup = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": n},
            "spec": {"siteRef": {"name": "gone"}},
        });
        admin.create(&backup).worked();
        admin.kubectl(&format!("wait --for=condition=Verified bkp/{n} --timeout=60s")).worked();
        // Times have a resolution of a second.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let uid = admin.get("namespace gone")["metadata"]["uid"].clone();
    let guard = "delete validatingadmissionpolicybinding -l app.kubernetes.io/part-of=reprieve";
    admin.kubectl(guard).worked();
    // Bindings are out of force within a second or so.
    let begun = Instant::now();
    while !admin.kubectl("delete namespace gone --wait=false").ok {
        assert!(begun.elapsed() < Duration::from_secs(20), "expected it to be let through");
        std::thread::sleep(Duration::from_millis(200));
    }
    let command = r#""source":{"backupRefs":[{"name":"b2"}]}}}' | kubectl create -f -"#;
    let lost = ["False NamespaceLost", "namespace gone was deleted past the gates", command];
    stage.ready_within(Duration::from_secs(15), "site gone", &lost);
    stage.told("gone", &["Warning", "NamespaceLost", "backupRefs"]);
    let (_, metrics) = http(stage.operator.listen(), "/metrics").expect("metrics");
    let line = r#"reprieve_warnings_total{kind="Site",reason="NamespaceLost"} 1"#;
    assert!(metrics.contains(line), "expected {line}; seen: {metrics}");
    // It is not made anew, also not by an operator that starts afterwards.
    stage.operator.process_mut().kill().expect("it runs");
    stage.operator = stage.sandbox.start_operator(&[]).await.expect("the operator starts");
    stage.ready("site gone", &lost);
    admin.kubectl("get namespace gone").failed(&["not found"]);
    let live = admin.get("site gone");
    assert_eq!(live["status"]["namespaces"][0]["uid"], uid, "what was lost stays known");
    // Nor is one taken that somebody else made, and no App goes into it.
    admin.kubectl("create namespace gone").worked();
    // The lease of the one that was killed has to end first.
    let another = ["False NamespaceLost", "another one has its name", command];
    stage.ready_within(Duration::from_secs(45), "site gone", &another);
    admin.create(&app("late", "gone", "late-app")).worked();
    stage.ready("app late -n gone", &["False NoSite", "belongs to no Site"]);
    admin.kubectl("label namespace gone reprieve.dev/site=gone").worked();
    stage.ready("app late -n gone", &["False NamespaceLost", "kubectl describe site gone"]);
    admin.kubectl("get configmap late -n gone").failed(&["not found"]);
    // Unless somebody says that it shall begin anew.
    admin.kubectl("annotate namespace gone reprieve.dev/adopt=gone").worked();
    stage.ready("site gone", &["True Ready"]);

    // One that cannot go yet, because an App is in it.
    admin.kubectl("delete namespace going --wait=false").worked();
    stage.ready("site going", &["False NamespaceTerminating", "no verified Backup"]);
}
