//! The round trip of design section 4, and B5, B6 and I10 of the fault list: a site with objects of
//! every kind is purged and restored, and everything in it is compared before and after, by the
//! design's word *equal*. Beside it a site into which others write while it is restored, and one
//! whose accounts race with the controller that makes empty ones. The manifests are in
//! `tests/e2e/roundtrip/`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::user::{Stage, expect_condition, request, sample};
use reprieve::cluster::collect::{Collected, Freshness, ObjectState, collect};
use reprieve::cluster::discover::discover;
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
const CLUSTER: &str = include_str!("roundtrip/cluster.yaml");
const COMPONENT: &str = include_str!("roundtrip/component.yaml");
const ONCE: &str = include_str!("roundtrip/once.yaml");
/// Namespaces whose accounts race.
const RACES: usize = 16;
/// How the components are made: by whom they are applied server-side. None: they are created.
const COMPONENTS: [(&str, Option<&str>); 10] = [
    ("front", Some("kubectl")),
    ("cart", Some("kubectl")),
    ("search", Some("kubectl")),
    ("mail", Some("kustomize-controller")),
    ("images", Some("kustomize-controller")),
    ("queue", Some("helm")),
    ("stock", None),
    ("users", None),
    ("tax", None),
    ("ship", None),
];

fn component(name: &str) -> String {
    COMPONENT.replace("NAME", name)
}

fn races() -> Vec<String> {
    (0..RACES).map(|i| format!("race-{i}")).collect()
}

impl Stage {
    fn apply(&self, manager: &str, namespace: &str, yaml: &str) -> crate::user::Said {
        let args = format!("apply --server-side --field-manager={manager} -n {namespace} -f -");
        self.admin.with_input(&args, yaml)
    }

    async fn collect(&self, site: &str, namespaces: &[&str]) -> Vec<Collected> {
        let client = self.sandbox.admin();
        let kinds = discover(&client).await.expect("discovery");
        let namespaces: Vec<String> = namespaces.iter().map(|n| (*n).to_owned()).collect();
        let all = collect(&client, &kinds, site, &namespaces, Freshness::Live).await;
        all.unwrap_or_else(|error| panic!("site {site}: {error}")).objects
    }

    fn managers(&self, what: &str) -> BTreeSet<String> {
        let live = self.admin.kubectl(&format!("get {what} -o json --show-managed-fields"));
        let live: Value = serde_json::from_str(live.worked()).expect("JSON");
        let entries = live["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let of = |entry: &Value| {
            format!(
                "{} {}",
                entry["manager"].as_str().unwrap_or_default(),
                entry["operation"].as_str().unwrap_or_default()
            )
        };
        entries.iter().filter(|entry| entry["subresource"].is_null()).map(of).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_of_every_kind_comes_back_as_it_was() {
    let Some(stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    sites(&stage);
    trip(&stage);
    busy(&stage);
    race(&stage);
    step("three sites");
    let spaces = ["trip", "trip-data"];
    let before = stage.collect("trip", &spaces).await;
    let kinds: BTreeSet<String> =
        before.iter().map(|o| format!("{}.{}", o.key.kind, o.key.group)).collect();
    assert!(before.len() >= 150, "objects: {}", before.len());
    assert!(kinds.len() >= 25, "kinds: {} {kinds:?}", kinds.len());
    let races_before =
        stage.collect("race", &races().iter().map(|n| &**n).collect::<Vec<_>>()).await;
    let mapped = stage.managers("configmap front -n trip");
    purge(&stage, 1..=3);
    step("all of it purged");

    let stop = Arc::new(AtomicBool::new(false));
    policies(&stage);
    let writers = writers(&stage, &stop);
    let source = json!({"deletionRequestRef": {"name": "all"}});
    stage.admin.create(&restore("back", &source)).worked();
    let live = ended(&stage, "back");
    stop.store(true, Ordering::Relaxed);
    writers.join().expect("the writers end");
    step("all of it restored");
    expect_condition(&live, "Succeeded", &["True Verified", "3 of 3 sites verified"]);
    let notices = live["status"]["notices"].as_array().cloned().unwrap_or_default();

    let after = stage.collect("trip", &spaces).await;
    equal(&before, &after, &notices);
    owners(&stage);
    fields(&stage, &mapped);
    step("field by field, owner by owner");
    written(&stage, &notices);
    let names = races();
    let names: Vec<&str> = names.iter().map(|n| &**n).collect();
    equal(&races_before, &stage.collect("race", &names).await, &[]);
    step("what others wrote, and the accounts");
    stage.sandbox.stop().expect("nothing is left");
}

fn restore(name: &str, source: &Value) -> Value {
    json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": name},
        "spec": {"source": source},
    })
}

fn ended(stage: &Stage, name: &str) -> Value {
    let begun = Instant::now();
    loop {
        let live = stage.admin.get(&format!("rst {name}"));
        if !live["status"]["completionTime"].is_null() {
            return live;
        }
        assert!(begun.elapsed() < Duration::from_secs(180), "no end: {}", live["status"]);
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn sites(stage: &Stage) {
    stage.admin.apply(CLUSTER).worked();
    stage.admin.kubectl("wait --for=condition=Established crd/databases.example.com").worked();
    let with = |names: &str| format!("  namespaces: [{names}]\n  priority:");
    let trip = sample(SITE, "trip", 1).replace("  priority:", &with("trip, trip-data"));
    let race = sample(SITE, "race", 3).replace("  priority:", &with(&races().join(", ")));
    for site in [trip, sample(SITE, "busy", 2), race] {
        stage.admin.apply(&site).worked();
    }
    stage.admin.kubectl("wait --for=condition=Ready site --all --timeout=120s").worked();
}

/// The site of every kind.
fn trip(stage: &Stage) {
    let admin = &stage.admin;
    admin.apply(ONCE).worked();
    for (name, manager) in COMPONENTS {
        match manager {
            Some(manager) => stage.apply(manager, "trip", &component(name)).worked(),
            None => admin.with_input("create -n trip -f -", &component(name)).worked(),
        };
    }
    // As large as etcd takes them.
    let text = "0123456789abcdef".repeat(900 * 64);
    admin.create(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large", "namespace": "trip"}, "data": {"text": text}})).worked();
    admin.create(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "large", "namespace": "trip"}, "stringData": {"text": text}})).worked();
    // Children of what the archive has, and a child of what it has not.
    let uid = |what: &str| admin.get(what)["metadata"]["uid"].clone();
    let child = |name: &str, owner: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "trip", "ownerReferences": [owner]}, "data": {"a": "b"}});
    let database = json!({"apiVersion": "example.com/v1", "kind": "Database", "name": "main", "uid": uid("database main -n trip"), "controller": true, "blockOwnerDeletion": true});
    admin.create(&child("owned", database)).worked();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owned", "uid": uid("configmap owned -n trip")});
    stage.apply("kubectl", "trip", &child("grandchild", map).to_string()).worked();
    // What its own controller writes into a custom resource.
    let patch = |args: &str, patch: &str| {
        let mut args: Vec<&str> = args.split(' ').collect();
        args.extend(["--type=merge", "-p", patch]);
        admin.run(&args, "").worked();
    };
    let of = "patch database main -n trip --field-manager=database-controller";
    patch(
        of,
        r#"{"spec":{"assigned":"shard-7"},"metadata":{"annotations":{"example.com/observed":"7"}}}"#,
    );
    patch(&format!("{of} --subresource=status"), r#"{"status":{"phase":"Ready"}}"#);
    stage.admin.apply(&sample(APP, "trip", 7)).worked();
    for what in [
        "condition=Available deploy --all",
        "condition=Ready app --all",
        "condition=Ready pod/alone",
        "condition=Complete job/over",
        "jsonpath={.status.phase}=Bound pvc/data",
    ] {
        admin.kubectl(&format!("wait -n trip --timeout=120s --for={what}")).worked();
    }
}

/// The site into which others write while it is restored.
fn busy(stage: &Stage) {
    stage.admin.with_input("create -n busy -f -", &component("web")).worked();
    for name in ["plain", "watched"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "busy"}, "data": {"a": "b"}});
        stage.admin.create(&map).worked();
    }
    stage.admin.kubectl("wait -n busy --timeout=60s --for=condition=Available deploy/web").worked();
}

/// The site whose accounts race.
fn race(stage: &Stage) {
    for namespace in races() {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace, "labels": {"team": "race"}},
            "imagePullSecrets": [{"name": "registry"}],
        });
        let apply = "apply --server-side -f -";
        stage.admin.with_input(apply, &account.to_string()).worked();
    }
}

fn purge(stage: &Stage, numbers: std::ops::RangeInclusive<u32>) {
    let ids: Vec<String> = numbers.map(|i| format!("site-{i}")).collect();
    stage.alice.create(&request("all", "Site", &ids)).worked();
    stage.alice.until_state("all", "AwaitingApproval");
    stage.bob.approve("all", "bob").worked();
    stage.carol.approve("all", "carol").worked();
    let begun = Instant::now();
    loop {
        let live = stage.admin.get("dreq all");
        match live["status"]["state"].as_str().unwrap_or_default() {
            "Completed" => return,
            "Purging" => {
                // The controllers that hold objects by finalizers of their own let go.
                for what in ["configmap held", "database main"] {
                    let going =
                        format!("get {what} -n trip -o jsonpath={{.metadata.deletionTimestamp}}");
                    let said = stage.admin.kubectl(&going);
                    if said.ok && !said.out.is_empty() {
                        let patch = r#"{"metadata":{"finalizers":null}}"#;
                        let mut args: Vec<&str> = vec!["patch"];
                        args.extend(what.split(' '));
                        args.extend(["-n", "trip", "--type=merge", "-p", patch]);
                        stage.admin.run(&args, "");
                    }
                }
            }
            "Refused" | "Cancelled" | "Expired" => panic!("{}", live["status"]),
            _ => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(240), "not purged: {}", live["status"]);
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Policies that change what is created in the busy site: a label, and a second container.
fn policies(stage: &Stage) {
    let policy = |name: &str, group: &str, resource: &str, expression: &str| {
        let spec = json!({
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"reprieve.dev/site": "busy"}},
                "resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
            },
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        });
        let of = |kind: &str, spec: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        stage.admin.create(&of("MutatingAdmissionPolicy", spec)).worked();
        stage
            .admin
            .create(&of("MutatingAdmissionPolicyBinding", json!({"policyName": name})))
            .worked();
    };
    policy(
        "label",
        "",
        "configmaps",
        r#"Object{metadata: Object.metadata{labels: {"mesh": "on"}}}"#,
    );
    policy(
        "sidecar",
        "apps",
        "deployments",
        r#"Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: "mesh", image: "example.invalid/mesh:1"}]}}}}"#,
    );
    // The API server takes a moment until it goes by them: the namespace of a site is not there yet.
    std::thread::sleep(Duration::from_secs(3));
}

/// Whoever writes into restored objects at once: one that scales, as an autoscaler does, and one that
/// changes a field.
fn writers(stage: &Stage, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let (admin, stop) = (stage.admin.clone(), stop.clone());
    std::thread::spawn(move || {
        let (mut scaled, mut changed) = (false, false);
        while !(stop.load(Ordering::Relaxed) || scaled && changed) {
            scaled |= admin.kubectl("scale deploy web -n busy --replicas=3").ok;
            let patch = r#"{"data":{"a":"c"}}"#;
            let args = [
                "patch",
                "configmap",
                "watched",
                "-n",
                "busy",
                "--field-manager=other",
                "--type=merge",
                "-p",
                patch,
            ];
            changed |= admin.run(&args, "").ok;
        }
        assert!(scaled && changed, "both wrote before the end: {scaled} {changed}");
    })
}

/// Everything is as it was, but for what had run to its end.
fn equal(before: &[Collected], after: &[Collected], notices: &[Value]) {
    let ended = |o: &&Collected| o.state != ObjectState::Finished;
    let keys =
        |all: &[Collected]| all.iter().filter(ended).map(|o| o.key.to_string()).collect::<Vec<_>>();
    assert_eq!(keys(before), keys(after));
    for old in before.iter().filter(ended) {
        let new = after.iter().find(|o| o.key == old.key).expect("it is there");
        assert_eq!(old.form, new.form, "{}: {notices:?}", old.key);
        let stays = old.key.namespace.is_none() && !["Site", "Namespace"].contains(&&*old.key.kind);
        assert_eq!(old.uid == new.uid, stays, "{}: made anew?", old.key);
    }
    for old in before.iter().filter(|o| o.state == ObjectState::Finished) {
        let namespace = old.key.namespace.clone().unwrap_or_default();
        let told = |n: &&Value| {
            n["reason"] == "NotRunAgain"
                && n["object"]
                    .as_str()
                    .is_some_and(|o| o.ends_with(&format!("{namespace}/{}", old.key.name)))
        };
        assert!(notices.iter().any(|n| told(&n)), "{} is told: {notices:?}", old.key);
    }
}

/// B6: owner references name the new owners, and the garbage collector leaves the children.
fn owners(stage: &Stage) {
    let uid = |what: &str| stage.admin.get(what)["metadata"]["uid"].clone();
    for (child, owner) in [("owned", "database main"), ("grandchild", "configmap owned")] {
        let live = stage.admin.get(&format!("configmap {child} -n trip"));
        let reference = &live["metadata"]["ownerReferences"][0];
        assert_eq!(reference["uid"], uid(&format!("{owner} -n trip")), "owner of {child}");
    }
}

/// Who applied an object server-side goes on without a conflict, and nobody else does.
fn fields(stage: &Stage, before: &BTreeSet<String>) {
    assert_eq!(*before, BTreeSet::from(["kubectl Apply".to_owned()]));
    assert_eq!(stage.managers("configmap front -n trip"), *before, "field owners");
    assert_eq!(
        stage.managers("configmap grandchild -n trip"),
        BTreeSet::from(["kubectl Apply".to_owned(), "reprieve Update".to_owned()]),
        "field owners, with owner references"
    );
    assert_eq!(
        stage.managers("configmap tax -n trip"),
        BTreeSet::from(["reprieve Update".to_owned()])
    );
    for (name, manager) in COMPONENTS.iter().filter_map(|(name, by)| Some((name, (*by)?))) {
        let changed = component(name)
            .replace("Grüß Gott", "Servus")
            .replace("maxReplicas: 5", "maxReplicas: 6");
        stage.apply("somebody-else", "trip", &changed).failed(&["conflict"]);
        stage.apply(manager, "trip", &changed).worked();
        let less = changed.replace("  empty: \"\"\n", "");
        assert_ne!(less, changed);
        stage.apply(manager, "trip", &less).worked();
        let live = stage.admin.get(&format!("configmap {name} -n trip"));
        assert!(live["data"]["empty"].is_null(), "what left the manifest of {name} is gone");
        assert!(live["data"]["application.yaml"].as_str().is_some_and(|t| t.contains("Servus")));
    }
    // An App, and what it applies.
    stage.admin.apply(&sample(APP, "trip", 7).replace("EUR", "CHF")).worked();
    stage.admin.until("configmap shop -n trip", "CHF", |live| live["data"]["currency"] == "CHF");
}

/// What others wrote meanwhile is told, and is no failure.
fn written(stage: &Stage, notices: &[Value]) {
    let told = |object: &str, words: &str| {
        let found = notices.iter().any(|n| {
            n["reason"] == "ChangedSince"
                && n["object"].as_str().is_some_and(|o| o.ends_with(object))
                && n["message"].as_str().is_some_and(|m| m.contains(words))
        });
        assert!(found, "{object}: expected {words:?} told; seen: {notices:?}");
    };
    told("ConfigMap busy/plain", "metadata.labels");
    told("ConfigMap busy/watched", "data.a (by other)");
    told("Deployment busy/web", "spec.template.spec.containers (by a policy of the cluster)");
    told("Deployment busy/web", "spec.replicas (by kubectl)");
    let live = stage.admin.get("deploy web -n busy");
    assert_eq!(live["spec"]["replicas"], 3, "I10: what others wrote is not overwritten");
}

/// How much the operator's memory grows while one large site is restored and verified.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: cargo test --release --test e2e roundtrip::memory -- --ignored --nocapture"]
async fn memory_does_not_grow_with_the_size_of_a_site() {
    const OBJECTS: usize = 2000;
    const LIMIT_MIB: u64 = 80;
    let Some(stage) = Stage::start().await else { return };
    stage.admin.apply(&sample(SITE, "large", 1)).worked();
    stage.admin.kubectl("wait --for=condition=Ready site/large --timeout=60s").worked();
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(stage.sandbox.admin(), "large");
    let text: String = (0..100_000_u32).map(|i| char::from(b'a' + (i * i % 26) as u8)).collect();
    let made = (0..OBJECTS).map(|i| {
        let map = json!({"metadata": {"name": format!("m{i:05}")}, "data": {"text": format!("{i}{text}")}});
        let (maps, map) = (maps.clone(), serde_json::from_value(map).expect("a ConfigMap"));
        async move { maps.create(&kube::api::PostParams::default(), &map).await.map(|_| ()) }
    });
    let made: Vec<_> = made.collect();
    let made: Vec<_> = futures::StreamExt::collect(futures::StreamExt::buffer_unordered(
        futures::stream::iter(made),
        8,
    ))
    .await;
    made.into_iter().for_each(|made| made.expect("it is created"));
    purge(&stage, 1..=1);
    let operator = stage.operator.process();
    operator.forget_peak().expect("it runs");
    let (before, begun) = (operator.memory() >> 20, Instant::now());
    assert!(before > 0, "it does not run");
    let source = json!({"deletionRequestRef": {"name": "all"}});
    stage.admin.create(&restore("back", &source)).worked();
    let live = ended(&stage, "back");
    expect_condition(&live, "Succeeded", &["True Verified"]);
    let peak = operator.peak_memory() >> 20;
    println!(
        "{OBJECTS} objects of 100 kB in {:.1} s: from {before} MiB to at most {peak} MiB",
        begun.elapsed().as_secs_f64()
    );
    assert!(peak - before < LIMIT_MIB, "grew by {} MiB", peak - before);
    stage.sandbox.stop().expect("nothing is left");
}
