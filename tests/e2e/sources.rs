//! B10 of the fault list: a fleet comes back from its store alone, in a new cluster, while a GitOps
//! tool makes Sites and Apps anew. The operator runs under its own account with the guard in force.
//! The oracle is the digest and the UID of every object.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::user::{
    Snapshot, User, condition, copy_folder, expect, expect_condition, request, sample,
};
use reprieve::api::names;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
const MANAGER: &str = "kustomize-controller";
/// A policy that the site `bolt` is under.
const LAB: &str = "
apiVersion: reprieve.dev/v1alpha1
kind: DeletionPolicy
metadata: {name: lab}
spec:
  environment: Development
  retention: {minimumSeconds: 10, defaultSeconds: 30}
  blastRadius: {rolling: {maxEntities: 1000, maxPercent: 100}}
";
const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
const WIDGET: &str = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: one, namespace: bolt}, spec: {size: 3}}";

/// A site that GitOps knows, with its App.
fn bolt() -> String {
    sample(SITE, "bolt", 2).replace("  priority: 100", "  priority: 200\n  policyRef: {name: lab}")
}

fn key_flag() -> String {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys/test-signing-key.pem");
    format!("--signing-key-file={key}")
}

pub async fn start(sandbox: &Sandbox) -> Operator {
    sandbox.install().await.expect("it can be installed");
    sandbox.start_operator(&[&key_flag()]).await.expect("the operator starts")
}

pub fn restore(name: &str, source: &Value) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": name},
        "spec": {"source": source},
    })
}

pub fn ended(admin: &User, name: &str) -> Value {
    admin
        .until(&format!("rst {name}"), "an end", |live| !live["status"]["completionTime"].is_null())
}

pub fn back_up(admin: &User, name: &str, site: &str) {
    let backup = json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": name},
        "spec": {"siteRef": {"name": site}},
    });
    admin.create(&backup).worked();
    admin.kubectl(&format!("wait --for=condition=Verified bkp/{name} --timeout=60s")).worked();
}

pub fn ready(admin: &User, what: &str) {
    admin.kubectl(&format!("wait --for=condition=Ready {what} --timeout=60s")).worked();
}

fn told<'a>(live: &'a Value, list: &str, reason: &str) -> Vec<&'a Value> {
    let all = live["status"][list].as_array().into_iter().flatten();
    all.filter(|one| one["reason"] == reason).collect()
}

/// A GitOps tool: it applies what it knows again and again, and never asks.
struct GitOps {
    stop: Arc<AtomicBool>,
    conflicts: Arc<Mutex<Vec<String>>>,
    rounds: Arc<Mutex<u32>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn sync(user: &User, objects: &[String]) -> Vec<String> {
    let apply = format!("apply --server-side --field-manager={MANAGER} -f -");
    let said = objects.iter().map(|object| user.with_input(&apply, object));
    said.filter(|said| said.err.contains("onflict")).map(|said| said.err).collect()
}

impl GitOps {
    fn start(user: &User, objects: Vec<String>) -> Self {
        let (stop, conflicts) =
            (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let rounds = Arc::<Mutex<u32>>::default();
        let (user, s, c, r) = (user.clone(), stop.clone(), conflicts.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                let found = sync(&user, &objects);
                c.lock().unwrap().extend(found);
                *r.lock().unwrap() += 1;
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        Self { stop, conflicts, rounds, thread: Some(thread) }
    }

    fn stop(mut self) -> (u32, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("it ends");
        (*self.rounds.lock().unwrap(), self.conflicts.lock().unwrap().clone())
    }
}

impl Drop for GitOps {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Before {
    acme: Snapshot,
    bolt: Snapshot,
}

/// A fleet in its cluster: two sites that are backed up, and one that was purged.
async fn a_fleet(sandbox: &Sandbox) -> Before {
    let admin = User::admin(sandbox);
    admin.apply(LAB).worked();
    admin.apply(WIDGETS).worked();
    admin
        .kubectl("wait --for=condition=Established crd/widgets.example.com --timeout=60s")
        .worked();
    for site in [sample(SITE, "acme", 1), bolt(), sample(SITE, "gone", 3)] {
        admin.apply(&site).worked();
    }
    ready(&admin, "site --all");
    for (site, number) in [("acme", 1), ("bolt", 2)] {
        admin.apply(&sample(APP, site, number)).worked();
    }
    admin.apply(WIDGET).worked();
    ready(&admin, "app --all -A");
    back_up(&admin, "acme-1", "acme");
    back_up(&admin, "bolt-1", "bolt");
    back_up(&admin, "gone-1", "gone");
    let before = Before {
        acme: Snapshot::take(sandbox, "acme").await,
        bolt: Snapshot::take(sandbox, "bolt").await,
    };
    let alice = User::person(sandbox, "alice", "reprieve-requester");
    let bob = User::person(sandbox, "bob", "reprieve-approver");
    let carol = User::person(sandbox, "carol", "reprieve-approver");
    alice.create(&request("leaving", "Site", &["site-3".to_owned()])).worked();
    alice.until_state("leaving", "AwaitingApproval");
    bob.approve("leaving", "bob").worked();
    carol.approve("leaving", "carol").worked();
    alice.until_state("leaving", "Completed");
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_comes_back_from_its_store_alone() {
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    let Some(old) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    let operator = start(&old).await;
    let before = a_fleet(&old).await;
    drop(operator);
    step("a fleet, backed up, with one site purged");
    let new = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await.expect("another cluster");
    copy_folder(&old.store_dir(), &new.store_dir());
    assert_eq!(crate::audit::expect_invariants(&old), 1, "purged in the old cluster");
    old.stop().expect("the cluster is gone");
    let mut operator = start(&new).await;
    let admin = User::admin(&new);
    admin.kubectl("delete dpol default").worked();
    step("a new cluster");

    let gitops = gitops_is_faster(&admin);
    step("GitOps is faster, and waits");
    from_the_store(&new, &admin, &mut operator).await;
    step("the fleet from its store");
    let (rounds, conflicts) = gitops.stop();
    assert!(rounds > 3, "GitOps went on: {rounds}");
    assert_eq!(conflicts, [""; 0], "no sync meets a conflict");
    let again = [sample(SITE, "acme", 1), sample(APP, "acme", 1), bolt(), sample(APP, "bolt", 2)];
    assert_eq!(sync(&admin, &again), [""; 0], "nor does the next one");
    before.acme.expect_equal(&Snapshot::take(&new, "acme").await, "after the next sync");
    before.bolt.expect_equal(&Snapshot::take(&new, "bolt").await, "after the next sync");
    let alice = User::person(&new, "alice", "reprieve-requester");
    the_request_is_applied_again(&alice, "Refused", &["False UnknownId", "\"site-3\""]);
    begins_anew(&admin);
    step("a site that begins anew");
    // Its namesake of before was approved; of this one there is a dry run and no more.
    admin.kubectl("delete dreq leaving").worked();
    let live = the_request_is_applied_again(&alice, "AwaitingApproval", &["True ScopeValid"]);
    expect_condition(&live, "Approved", &["False AwaitingApprovals", "0 of 2 approvals"]);
    assert_eq!(crate::audit::expect_invariants(&new), 0, "purged in the new cluster");
    new.stop().expect("nothing is left");
}

/// T17: GitOps brings the finished request into the new cluster as well.
fn the_request_is_applied_again(alice: &User, state: &str, words: &[&str]) -> Value {
    let mut leaving = request("leaving", "Site", &["site-3".to_owned()]);
    // As long as the policy that is there now has it.
    leaving["spec"]["retentionSeconds"] = Value::Null;
    alice.create(&leaving).worked();
    let live = alice.until_state("leaving", state);
    expect_condition(&live, "ScopeValid", words);
    live
}

/// Sites and Apps are made anew before anybody can restore them. One of the namespaces too.
fn gitops_is_faster(admin: &User) -> GitOps {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme"}});
    // Another priority than the backup has: the spec is GitOps's.
    let site = sample(SITE, "acme", 1).replace("priority: 100", "priority: 300");
    let apply = format!("apply --server-side --field-manager={MANAGER} -f -");
    admin.with_input(&apply, &site).worked();
    admin.with_input(&apply, &namespace.to_string()).worked();
    admin.with_input(&apply, &sample(APP, "acme", 1)).worked();
    admin.with_input(&apply, &bolt()).worked();
    let objects =
        vec![site, namespace.to_string(), sample(APP, "acme", 1), bolt(), sample(APP, "bolt", 2)];
    let gitops = GitOps::start(admin, objects);
    for (name, backup) in [("acme", "acme-1"), ("bolt", "bolt-1")] {
        let live = admin.until(&format!("site {name}"), "AwaitingRestore", |live| {
            live["status"]["state"] == "AwaitingRestore"
        });
        let said = ["False AwaitingRestore", backup, "reprieve.dev/start-empty=true"];
        expect_condition(&live, "Ready", &said);
        // It waits for people, and is current.
        assert_eq!(condition(&live, "Reconciling"), "absent");
        assert_eq!(condition(&live, "Stalled"), "absent");
    }
    // The App is there, and nothing of it is applied; nor is the namespace taken in.
    let live = admin.until("app shop -n acme", "a reason", |live| {
        condition(live, "Ready").contains("AwaitingRestore")
    });
    expect_condition(&live, "Ready", &["False", "the Site acme awaits its restore"]);
    admin.kubectl("get configmap shop -n acme").failed(&["(NotFound)"]);
    admin.kubectl("get namespace bolt").failed(&["(NotFound)"]);
    let live = admin.get("namespace acme");
    assert!(live["metadata"]["labels"][names::LABEL_SITE].is_null(), "{live}");
    // No backup of nothing becomes the newest one.
    let backup = json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": "of-nothing"},
        "spec": {"siteRef": {"name": "acme"}},
    });
    admin.create(&backup).worked();
    let live = admin.until("bkp of-nothing", "a reason", |live| {
        condition(live, "Succeeded").starts_with("False")
    });
    expect_condition(&live, "Succeeded", &["EntityNotActive", "awaits its restore"]);
    // Who is new is not held up.
    admin.apply(&sample(SITE, "fresh", 9)).worked();
    ready(admin, "site fresh");
    gitops
}

async fn from_the_store(new: &Sandbox, admin: &User, operator: &mut Operator) {
    let fresh = Snapshot::take(new, "fresh").await;
    admin.create(&restore("all", &json!({"store": "All"}))).worked();
    let begun = Instant::now();
    while !admin.kubectl("get sa shop -n acme -o name").out.contains("shop") {
        assert!(begun.elapsed() < crate::user::PATIENCE, "nothing comes back");
    }
    operator.process_mut().kill().expect("it is killed");
    operator.process_mut().restart().expect("it starts");
    operator.wait_until_ready().await.expect("it is ready");
    let live = ended(admin, "all");
    expect_condition(&live, "Succeeded", &["False PartiallyFailed", "1 of 2 sites verified"]);
    // The kind that is missing is told with its definition, once for all, and by its objects.
    let missing = told(&live, "notices", "KindMissing");
    assert_eq!(missing.len(), 1, "{live}");
    expect("object", "example.com/v1 Widget", &missing[0]["object"], &live);
    assert!(missing[0]["message"].as_str().unwrap_or_default().contains("widgets.example.com"));
    let failures = live["status"]["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.len(), 1, "{failures:?}");
    expect("reason", "KindMissing", &failures[0]["reason"], &live);
    expect("object", "example.com/v1 Widget bolt/one", &failures[0]["object"], &live);
    // What people wanted to go stays away, and they are told how to get it back.
    let left_out = told(&live, "notices", "PurgedOnPurpose");
    assert_eq!(left_out.len(), 1, "{live}");
    for word in ["gone (id site-3, leaving", "\"sites\""] {
        assert!(left_out[0]["message"].as_str().unwrap_or_default().contains(word), "{left_out:?}");
    }
    admin.kubectl("get site gone").failed(&["(NotFound)"]);
    // A policy that nobody needs the right to make is back; a weaker default is not.
    let lab = admin.get("dpol lab");
    assert_eq!(lab["spec"]["retention"]["defaultSeconds"], 30, "{lab}");
    admin.kubectl("get dpol default").failed(&["(NotFound)"]);
    let weaker = told(&live, "notices", "PolicyNotRestored");
    assert_eq!(weaker.len(), 1, "{live}");
    assert!(weaker[0]["message"].as_str().unwrap_or_default().contains("weaken"), "{weaker:?}");
    fresh.expect_untouched(&Snapshot::take(new, "fresh").await, "it was never lost");

    // The site that GitOps had made anew is taken, with its spec; the rest of it is as it was.
    ready(admin, "site acme");
    let site = admin.get("site acme");
    assert_eq!(site["spec"]["priority"], 300, "{site}");
    let differs = told(&live, "notices", "ChangedSince");
    assert!(differs.iter().any(|n| n["object"] == "reprieve.dev/v1alpha1 Site acme"), "{live}");
    // One that is not whole does not go into service.
    let site = admin.get("site bolt");
    expect("mark", "all", &site["metadata"]["annotations"][names::ANNOTATION_RESTORE], &site);
    admin.apply(WIDGETS).worked();
    admin
        .kubectl("wait --for=condition=Established crd/widgets.example.com --timeout=60s")
        .worked();
    let begun = Instant::now();
    while !admin.kubectl("get widgets -A").ok {
        assert!(begun.elapsed() < crate::user::PATIENCE, "the kind is not served");
    }
    admin.create(&restore("rest", &json!({"sites": {"ids": ["site-2"]}}))).worked();
    let live = ended(admin, "rest");
    expect_condition(&live, "Succeeded", &["True Verified", "1 of 1 sites verified"]);
    ready(admin, "site bolt");
    ready(admin, "app --all -A");
    assert!(new.store_dir().join("restores").is_dir(), "the choice is written down");
}

/// A site that was purged, and that somebody wants anew and empty.
fn begins_anew(admin: &User) {
    admin.apply(&sample(SITE, "gone", 3)).worked();
    let live = admin
        .until("site gone", "AwaitingRestore", |live| live["status"]["state"] == "AwaitingRestore");
    expect_condition(&live, "Ready", &["the DeletionRequest leaving purged it"]);
    admin.kubectl("annotate site gone reprieve.dev/start-empty=true").worked();
    ready(admin, "site gone");
    admin.create(&restore("too-late", &json!({"sites": {"ids": ["site-3"]}}))).worked();
    let live = ended(admin, "too-late");
    expect("reason", "SiteLives", &live["status"]["failures"][0]["reason"], &live);
}
