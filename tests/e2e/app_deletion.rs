//! The deletion of single Apps, as users ask for it: its own objects go, by UID, and everything
//! else in the Site stays as it is. T1, T19, I1 and I7 of the design. The oracle is what lives and
//! the API server's audit log.
//!
//! One cluster serves all steps, because it takes seconds to start.

use std::time::Instant;

use crate::people::People;
use crate::user::{Snapshot, condition, expect, expect_condition, sample};
use kube::Api;
use kube::api::{Patch, PatchParams};
use reprieve::api::{App, names};
use reprieve::sandbox::{AuditRecord, audit};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");

/// Another App of the same Site, with a StatefulSet that would take its claims along.
fn wiki() -> Value {
    let pod = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}],
    });
    let template = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": pod});
    json!({
        "apiVersion": names::API_VERSION, "kind": "App",
        "metadata": {"name": "wiki", "namespace": "acme"},
        "spec": {"id": "app-wiki", "product": "wiki", "manifests": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wiki"}, "data": {"a": "b"}},
            {
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "wiki"},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "wiki"}}, "template": template("wiki")},
            },
            {
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "wiki-db"},
                "spec": {
                    "replicas": 1, "serviceName": "wiki-db",
                    "selector": {"matchLabels": {"app": "wiki-db"}}, "template": template("wiki-db"),
                    "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
                    "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                        "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
                        "resources": {"requests": {"storage": "1Gi"}},
                    }}],
                },
            },
        ]},
    })
}

fn build(stage: &People) {
    stage.admin.apply(&sample(SITE, "acme", 1)).worked();
    stage.admin.kubectl("wait --for=condition=Ready site acme --timeout=60s").worked();
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk-wiki"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "manual",
            "hostPath": {"path": "/tmp/reprieve-no-such-disk-wiki"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "acme", "name": "data-wiki-db-0"},
        },
    });
    stage.admin.create(&volume).worked();
    stage.admin.apply(&sample(APP, "acme", 1)).worked();
    stage.admin.with_input("apply --server-side -f -", &wiki().to_string()).worked();
    stage.admin.kubectl("wait --for=condition=Ready app --all -A --timeout=60s").worked();
    // T19: labelled as the App's, and made by somebody else.
    let foreign = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "foreign", "namespace": "acme", "labels": {(names::LABEL_APP): "wiki"}},
        "data": {"whose": "not the App's"},
    });
    stage.admin.create(&foreign).worked();
}

fn replicas(stage: &People, deployment: &str, n: i64) {
    let what = format!("deploy {deployment} -n acme");
    stage.admin.until(&what, &format!("{n} replicas"), |live| live["spec"]["replicas"] == n);
}

/// The keys of what goes with the App `wiki`.
const GOES: [&str; 4] = [
    "App.reprieve.dev/acme/wiki",
    "ConfigMap/acme/wiki",
    "Deployment.apps/acme/wiki",
    "StatefulSet.apps/acme/wiki-db",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_app_goes_and_nothing_else() {
    let Some(stage) = People::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    build(&stage);
    step("built");
    let drift = drift_begins(&stage).await;
    step("a scope that drifts");
    in_one_request_at_a_time(&stage);
    step("one request at a time");
    held_and_cancelled(&stage).await;
    step("held and cancelled");
    let before = stage.snapshot("acme").await;
    purged(&stage).await;
    step("purged");
    brought_back(&stage, &before).await;
    step("brought back");
    cancelled_while_its_backup_cannot_be_read(&stage).await;
    step("cancelled while a backup cannot be read");
    drift_ends(&stage, &drift).await;
    step("what was added is there");
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

/// The App `late` of the Site `grows`, with a ConfigMap of each of these names.
fn late(maps: &[&str]) -> String {
    let map = |name: &&str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
    let manifests: Vec<Value> = maps.iter().map(map).collect();
    json!({
        "apiVersion": names::API_VERSION, "kind": "App",
        "metadata": {"name": "late", "namespace": "grows"},
        "spec": {"id": "app-late", "product": "late", "manifests": manifests},
    })
    .to_string()
}

/// T12: a manifest is added while a plan awaits its approvals, another one while it is held; a
/// namespace is added to a Site that is held. Gives what was added last, as it was.
async fn drift_begins(stage: &People) -> Value {
    stage.admin.apply(&sample(SITE, "grows", 8)).worked();
    stage.admin.apply(&sample(SITE, "wide", 9)).worked();
    stage.admin.kubectl("wait --for=condition=Ready site grows wide --timeout=60s").worked();
    stage.admin.apply(&late(&["one"])).worked();
    // It is not the App's: somebody has made it.
    stage.admin.kubectl("create configmap three -n grows --from-literal=by=hand").worked();
    stage.admin.kubectl("wait --for=condition=Ready app late -n grows --timeout=60s").worked();

    let before = stage.ask("late", "App", &["app-late"], 10)["status"]["plan"].clone();
    assert_eq!(before["entities"][0]["applied"]["count"], 1, "{before}");
    stage.bob.approve("late", "bob").worked();
    stage.alice.until("dreq late", "one of two", |live| {
        condition(live, "Approved").contains("1 of 2 approvals")
    });
    stage.admin.apply(&late(&["one", "two"])).worked();
    let live = stage.alice.until("dreq late", "another plan", |live| {
        live["status"]["plan"]["entities"][0]["applied"]["count"] == 2
    });
    assert_ne!(live["status"]["plan"]["digest"], before["digest"], "{}", live["status"]);
    assert!(live["status"]["approvals"].is_null(), "none counts: {}", live["status"]);
    expect("state", "AwaitingApproval", &live["status"]["state"], &live);
    expect_condition(&live, "Approved", &["0 of 2", "bob approved another digest"]);
    stage.approve("late");
    stage
        .admin
        .until("app late -n grows", "held", |live| live["status"]["state"] == "PendingDeletion");
    stage.admin.apply(&late(&["one", "two", "three"])).worked();

    // A namespace with something in it, which consents.
    stage.admin.kubectl("create namespace wide-more").worked();
    stage.admin.kubectl("annotate namespace wide-more reprieve.dev/adopt=wide").worked();
    stage.admin.kubectl("create configmap precious -n wide-more --from-literal=a=b").worked();
    let before = Snapshot::of(&stage.sandbox, "wide", &["wide".to_owned()]).await;
    stage.hold("wide", "Site", &["site-9"], 600);
    let more = r#"{"spec":{"namespaces":["wide","wide-more"]}}"#;
    stage.admin.run(&["patch", "site", "wide", "--type=merge", "-p", more], "").worked();
    let live = stage.alice.until_state("wide", "Cancelled");
    let words = ["False PlanChanged", "Site wide is not what was planned", "wide, wide-more"];
    expect_condition(&live, "Succeeded", &words);
    assert_eq!(live["status"]["progress"]["purged"], 0, "{}", live["status"]);
    stage.admin.until("site wide", "Active, with both", |live| {
        let namespaces = live["status"]["namespaces"].as_array().map_or(0, Vec::len);
        live["status"]["state"] == "Active"
            && live["status"]["deletion"].is_null()
            && namespaces == 2
    });
    let now = Snapshot::of(&stage.sandbox, "wide", &["wide".to_owned()]).await;
    let site = ["Site.reprieve.dev/wide"];
    before.without(&site).expect_untouched(&now.without(&site), "T12: a namespace was added");
    stage.admin.kubectl("get configmap precious -n wide-more").worked();
    stage.admin.get("configmap three -n grows")["metadata"].clone()
}

/// What the App had when it was approved is gone, by its UIDs; what its manifests have named since
/// is as it was.
async fn drift_ends(stage: &People, added: &Value) {
    let live = stage.alice.until_state("late", "Completed");
    assert_eq!(live["status"]["plan"]["entities"][0]["applied"]["count"], 2, "{}", live["status"]);
    for what in ["app late", "configmap one", "configmap two"] {
        stage.admin.kubectl(&format!("get {what} -n grows")).failed(&["(NotFound)"]);
    }
    let now = &stage.admin.get("configmap three -n grows")["metadata"];
    assert_eq!(now, added, "T12: what was added while it was held");
}

fn in_one_request_at_a_time(stage: &People) {
    for (first, second) in [
        (("Site", "site-1"), ("App", "app-wiki")),
        (("App", "app-wiki"), ("Site", "site-1")),
        (("App", "app-wiki"), ("App", "app-wiki")),
    ] {
        let live = stage.ask("one", first.0, &[first.1], 10);
        expect("state", "AwaitingApproval", &live["status"]["state"], &live);
        // The older one wins, and times have a resolution of a second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let live = stage.ask("two", second.0, &[second.1], 10);
        expect("state", "Refused", &live["status"]["state"], &live);
        expect_condition(&live, "ScopeValid", &["InOtherRequest", "DeletionRequest one"]);
        stage.alice.kubectl("delete dreq one two --timeout=30s").worked();
    }
}

async fn held_and_cancelled(stage: &People) {
    let before = stage.snapshot("acme").await;
    let live = stage.ask("held", "App", &["app-wiki"], 600);
    let entity = &live["status"]["plan"]["entities"][0];
    for (field, value) in [
        ("/kind", json!("App")),
        ("/name", json!("wiki")),
        ("/site/name", json!("acme")),
        ("/applied/count", json!(3)),
        ("/namespaces/0/name", json!("acme")),
        ("/disks/0/claim", json!("acme/data-wiki-db-0")),
    ] {
        assert_eq!(entity.pointer(field), Some(&value), "{field} of {entity}");
    }
    stage.approve("held");
    stage.admin.until("app wiki -n acme", "held", |live| {
        live["status"]["state"] == "PendingDeletion"
            && !live["status"]["deletion"]["retentionEndTime"].is_null()
    });
    replicas(stage, "wiki", 0);
    let site = stage.admin.get("site acme");
    expect("state of the Site", "Active", &site["status"]["state"], &site);
    let shop = stage.admin.get("deploy -n acme -l reprieve.dev/app=shop");
    let running = |d: &Value| d["spec"]["replicas"].as_i64().unwrap_or(0) > 0;
    assert!(shop["items"].as_array().is_some_and(|all| all.iter().all(running)), "{shop}");
    stage.admin.until("pv disk-wiki", "kept", |live| {
        live["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
            && live["metadata"]["labels"][names::LABEL_KEPT] == "acme"
    });
    // The operator itself may not, while it is held.
    stage.admin.kubectl("delete app wiki -n acme --wait=false").denied(&["DeletionRequest held"]);
    stage.cancel("held");
    stage.admin.until("app wiki -n acme", "Active again", |live| {
        live["status"]["state"] == "Active" && live["status"]["deletion"].is_null()
    });
    replicas(stage, "wiki", 2);
    let volume = stage.admin.get("pv disk-wiki");
    expect("policy", "Delete", &volume["spec"]["persistentVolumeReclaimPolicy"], &volume);
    let now = stage.snapshot("acme").await;
    before.expect_untouched(&now, "I7: an App was held and released");
    late_mark(stage).await;
}

/// A mark of the request that was on its way, and arrives when everything was released.
async fn late_mark(stage: &People) {
    let request = stage.admin.until("dreq held", "its end", |live| {
        live["status"]["state"] == "Cancelled" && live["metadata"]["finalizers"].is_null()
    });
    let operator = stage.sandbox.client_for(&stage.sandbox.operator_kubeconfig()).await;
    let apps: Api<App> = Api::namespaced(operator.expect("a client"), "acme");
    let mark = json!({
        "requestRef": {"name": "held"}, "requestUid": request["metadata"]["uid"],
        "phase": "Purging",
    });
    let patch = Patch::Merge(json!({"status": {"deletion": mark}}));
    apps.patch_status("wiki", &PatchParams::default(), &patch).await.expect("a mark");
    stage.admin.until("app wiki -n acme", "Active without the mark", |live| {
        live["status"]["state"] == "Active" && live["status"]["deletion"].is_null()
    });
}

async fn purged(stage: &People) {
    let before = stage.snapshot("acme").await;
    let own: Vec<String> = GOES.iter().map(|key| before.uid(key)).collect();
    stage.ask("gone", "App", &["app-wiki"], 10);
    stage.approve("gone");
    let live = stage.alice.until_state("gone", "Completed");
    expect_condition(&live, "Succeeded", &["True Purged", "1 Apps deleted"]);
    let entity = &live["status"]["plan"]["entities"][0];
    let backup = entity["backup"]["name"].as_str().expect("a backup").to_owned();
    let backup = stage.admin.get(&format!("bkp {backup}"));
    expect("site of the backup", "acme", &backup["spec"]["siteRef"]["name"], &backup);
    // The Site, the other App and what somebody else made: the same objects, as they were. So are
    // the claims that the App's StatefulSet made.
    let now = stage.snapshot("acme").await;
    before.without(&GOES).expect_untouched(&now, "after the purge of an App");
    let kept: Vec<&str> = now.objects.iter().map(|o| o.0.as_str()).collect();
    for key in ["ConfigMap/acme/foreign", "PersistentVolumeClaim/acme/data-wiki-db-0"] {
        assert!(kept.contains(&key), "{key} is gone");
    }
    let volume = stage.admin.get("pv disk-wiki");
    expect("policy", "Retain", &volume["spec"]["persistentVolumeReclaimPolicy"], &volume);
    let site = stage.admin.get("site acme");
    expect("state of the Site", "Active", &site["status"]["state"], &site);

    // I1: each DELETE names the UID and the version that it was decided on; of the App by the
    // operator, of its objects by the App's own account.
    let records = stage.sandbox.audit().read().expect("the audit log");
    let by_us = |r: &&AuditRecord| {
        r.is_carried_out() && r.user.name == names::OPERATOR_USER && r.namespace == "acme"
    };
    let mut seen = vec![];
    for record in audit::deletes(&records).filter(by_us) {
        let conditions = &record.request["preconditions"];
        let version = conditions["resourceVersion"].as_str().unwrap_or_default();
        assert!(!version.is_empty(), "{}: no version: {}", record.uri, record.request);
        let acted_as = record.impersonated.as_ref().map(|user| user.name.as_str());
        let expected =
            (record.group != names::GROUP).then_some("system:serviceaccount:acme:reprieve-app");
        assert_eq!(acted_as, expected, "{}", record.uri);
        seen.push(conditions["uid"].as_str().unwrap_or_default().to_owned());
    }
    let mut own = own;
    own.sort();
    seen.sort();
    assert_eq!(seen, own, "UIDs of what was deleted");
}

/// What the request took, and nothing else, is there again, in the Site that has gone on.
async fn brought_back(stage: &People, before: &Snapshot) {
    let noted = std::fs::read_dir(stage.sandbox.store_dir().join("ledger/purged/app-wiki"));
    assert_eq!(noted.expect("the purge in the store's ledger").count(), 1);
    let patch = r#"{"data":{"whose":"changed after the purge"}}"#;
    stage.admin.run(&["patch", "configmap", "foreign", "-n", "acme", "-p", patch], "").worked();
    let gone = stage.snapshot("acme").await;
    let live = stage.restore("back", &json!({"deletionRequestRef": {"name": "gone"}}));
    assert_eq!(live["status"]["failures"], Value::Null, "{}", live["status"]);
    stage.admin.kubectl("wait --for=condition=Ready app wiki -n acme --timeout=60s").worked();
    let now = stage.snapshot("acme").await;
    gone.expect_untouched(&now.without(&GOES), "what the restore of an App is not about");
    let foreign = ["ConfigMap/acme/foreign"];
    before.without(&foreign).expect_equal(&now.without(&foreign), "an App brought back");
    for key in GOES {
        assert_ne!(before.uid(key), now.uid(key), "{key} expected anew");
    }
    replicas(stage, "wiki", 2);
    let set = stage.admin.get("sts wiki-db -n acme");
    let retention = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
    assert_eq!(retention, &json!({"whenScaled": "Delete", "whenDeleted": "Delete"}));
    let volume = stage.admin.get("pv disk-wiki");
    expect("phase of its disk", "Bound", &volume["status"]["phase"], &volume);
    expect("policy", "Retain", &volume["spec"]["persistentVolumeReclaimPolicy"], &volume);
    // The request has ended: it does not look for who has the name now.
    stage.alice.kubectl("annotate dreq gone look=again").worked();
    let uid = now.uid(GOES[0]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(stage.snapshot("acme").await.uid(GOES[0]), uid, "the App that was brought back");
}

/// Between two waves the archive cannot be read with which the next App is compared: nothing of it
/// goes, the status says why, and a cancel is heard all the same.
async fn cancelled_while_its_backup_cannot_be_read(stage: &People) {
    let slow = r#"{"spec":{"waves":{"first":1,"pauseSeconds":3600}}}"#;
    stage.admin.run(&["patch", "dpol", "default", "--type=merge", "-p", slow], "").worked();
    stage.ask("two", "App", &["app-1", "app-wiki"], 10);
    stage.approve("two");
    let live = stage.alice.until("dreq two", "the first wave purged", |live| {
        live["status"]["progress"]["purged"] == 1
    });
    let left = &live["status"]["plan"]["entities"][1];
    assert_eq!(left["name"], "wiki", "{left}");
    let before = stage.snapshot("acme").await;
    let backup = left["backup"]["name"].as_str().expect("a backup");
    let location = stage.admin.get(&format!("bkp {backup}"))["status"]["location"].clone();
    let archive = stage.sandbox.store_dir().join(location.as_str().expect("a location"));
    let away = archive.with_extension("away");
    std::fs::rename(&archive, &away).expect("it can be moved");
    let live = stage.alice.until("dreq two", "a closed gate", |live| {
        condition(live, "BackedUp").contains("ComparisonFailed")
    });
    expect_condition(&live, "BackedUp", &["False ComparisonFailed", "App acme/wiki cannot be"]);
    stage.cancel("two");
    std::fs::rename(&away, &archive).expect("it can be moved back");
    stage.admin.until("app wiki -n acme", "Active again", |live| {
        live["status"]["state"] == "Active" && live["status"]["deletion"].is_null()
    });
    replicas(stage, "wiki", 2);
    // As it was while it was held: its replicas aside, which are back.
    let now = stage.snapshot("acme").await;
    assert_eq!(before.uid(GOES[0]), now.uid(GOES[0]), "the App that was not begun");
}
