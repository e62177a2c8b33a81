//! Claims that are protected by a CSI VolumeSnapshot, or by nothing, through hold, cancel, purge and
//! restore. The CRDs are the real ones; the driver and the snapshot controller are a stand-in
//! (`standin.rs`), which is said to be one. The oracle is what lies in its storage.
//!
//! One cluster serves all steps, each a part of one story.

mod standin;

use std::time::Instant;

use reprieve::api::names;
use serde_json::{Value, json};

use crate::people::People;
use crate::user::{condition, expect, expect_condition, sample};
use standin::{DRIVER, StandIn};

const SITE: &str = include_str!("../../../deploy/samples/site.yaml");
const CRDS: [&str; 3] = [
    include_str!("../../user/snapshots/volumesnapshotclasses.yaml"),
    include_str!("../../user/snapshots/volumesnapshotcontents.yaml"),
    include_str!("../../user/snapshots/volumesnapshots.yaml"),
];

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "acme"}, "spec": claim_spec(),
    })
}

fn claim_spec() -> Value {
    json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "standin",
        "resources": {"requests": {"storage": "1Gi"}},
    })
}

fn stateful_set() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "acme"},
        "spec": {
            "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim_spec()}],
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}],
                },
            },
        },
    })
}

fn snapshot(name: &str, source: Value) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": name, "namespace": "acme"},
        "spec": {"volumeSnapshotClassName": "standin", "source": source},
    })
}

fn of_claim(name: &str, claim: &str) -> Value {
    snapshot(name, json!({"persistentVolumeClaimName": claim}))
}

struct Story {
    people: People,
    driver: StandIn,
}

impl Story {
    fn bound(&self, claim: &str) -> String {
        let live = self.people.admin.until(&format!("pvc {claim} -n acme"), "bound", |live| {
            live["status"]["phase"] == "Bound"
        });
        live["spec"]["volumeName"].as_str().expect("a volume").to_owned()
    }

    /// Makes a VolumeSnapshot, waits for it, and gives its content.
    fn take(&self, snapshot: &Value) -> String {
        self.people.admin.create(snapshot).worked();
        let name = snapshot["metadata"]["name"].as_str().expect("a name");
        self.ready(name)
    }

    fn ready(&self, name: &str) -> String {
        let live = self.people.admin.until(
            &format!("volumesnapshot {name} -n acme"),
            "ready to use",
            |live| live["status"]["readyToUse"] == true,
        );
        live["status"]["boundVolumeSnapshotContentName"].as_str().expect("a content").to_owned()
    }

    async fn lose(&self, claim: &str) {
        let volume = self.bound(claim);
        self.driver.lose(&volume).await;
        self.people.admin.until(&format!("pvc {claim} -n acme"), "lost", |live| {
            live["status"]["phase"] == "Lost"
        });
    }

    fn content(&self, name: &str) -> Value {
        self.people.admin.get(&format!("volumesnapshotcontent {name}"))
    }

    /// A request is refused, because this protects the claim: nothing.
    fn asks_for_an_override(&self, request: &str, words: &[&str]) {
        let live = self.people.ask(request, "Site", &["site-1"], 10);
        expect(request, "Refused", &live["status"]["state"], &live);
        expect_condition(&live, "WithinBlastRadius", &["False OverrideRequired"]);
        expect_condition(&live, "WithinBlastRadius", words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_its_disk_comes_back_from_its_snapshot() {
    let Some(people) = People::start().await else { return };
    let driver = StandIn::start(people.sandbox.admin());
    let story = Story { people, driver };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    where_there_are_no_snapshots(&story).await;
    step("no API of snapshots: None is named, and asks for an override");
    let contents = taken(&story).await;
    step("snapshots taken, one of them never ready; the disk is lost");
    held_and_cancelled(&story, &contents);
    step("held and cancelled");
    purged(&story, &contents);
    step("purged");
    the_api_is_gone(&story);
    step("not restored where the API is not served");
    restored(&story, &contents);
    step("restored");
    assert!(crate::audit::expect_invariants(&story.people.sandbox) > 0, "something was purged");
    story.people.sandbox.stop().expect("nothing is left");
}

async fn where_there_are_no_snapshots(story: &Story) {
    let admin = &story.people.admin;
    admin.apply(&sample(SITE, "acme", 1)).worked();
    admin.kubectl("wait --for=condition=Ready site acme --timeout=60s").worked();
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "standin"}, "provisioner": DRIVER,
    });
    for object in [class, stateful_set(), claim("kept"), claim("slow")] {
        admin.create(&object).worked();
    }
    for claim in ["data-db-0", "kept", "slow"] {
        story.bound(claim);
    }
    admin.create(&claim("bare")).worked();
    story.lose("bare").await;
    story.asks_for_an_override("bare", &["acme/bare of Site acme", "it has no snapshot"]);
    admin.kubectl("delete pvc bare -n acme --timeout=60s").worked();
}

/// The contents of `db-1`, which was taken, and of `hand`, which names a snapshot in the storage.
async fn taken(story: &Story) -> [String; 2] {
    let admin = &story.people.admin;
    for crd in CRDS {
        admin.apply(crd).worked();
    }
    admin.kubectl("wait --for=condition=Established crd --all --timeout=30s").worked();
    let class = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass",
        "metadata": {"name": "standin"}, "driver": DRIVER, "deletionPolicy": "Delete",
    });
    admin.create(&class).worked();
    // One that is never ready protects nothing.
    admin.create(&of_claim("never-1", "slow")).worked();
    story.lose("slow").await;
    let words = ["acme/slow of Site acme", "its snapshot never-1 is not ready"];
    story.asks_for_an_override("slow", &words);
    for what in ["volumesnapshot never-1", "pvc slow"] {
        admin.kubectl(&format!("delete {what} -n acme --timeout=60s")).worked();
    }
    // The content of this one goes: it is taken anew, and that is told.
    let gone = story.take(&of_claim("gone-1", "kept"));
    admin.kubectl(&format!("delete volumesnapshotcontent {gone}")).worked();
    // Of an older snapshot in the storage, by hand.
    story.driver.storage.lock().unwrap().snapshots.insert("old".to_owned(), "older".to_owned());
    let by_hand = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": {"name": "hand"},
        "spec": {
            "deletionPolicy": "Delete", "driver": DRIVER, "source": {"snapshotHandle": "old"},
            "volumeSnapshotRef": {"namespace": "acme", "name": "hand"},
        },
    });
    admin.create(&by_hand).worked();
    let hand = story.take(&snapshot("hand", json!({"volumeSnapshotContentName": "hand"})));
    let db = story.take(&of_claim("db-1", "data-db-0"));
    story.lose("data-db-0").await;
    [db, hand]
}

fn held_and_cancelled(story: &Story, contents: &[String; 2]) {
    let (people, admin) = (&story.people, &story.people.admin);
    let live = people.hold("held", "Site", &["site-1"], 600);
    let entity = &live["status"]["plan"]["entities"][0];
    let expected = json!([
        {"claim": "acme/data-db-0", "protection": "Snapshot", "snapshot": "db-1"},
        {"claim": "acme/kept", "protection": "RetainedDisk"},
    ]);
    assert_eq!(entity["disks"], expected, "{entity}");
    assert_eq!(entity["unprotected"], 0, "{entity}");
    // Without an override.
    assert_eq!(live["status"]["approvalsRequired"], 2, "{live}");
    let backup = entity["backup"]["name"].as_str().expect("a backup");
    let backup = admin.get(&format!("bkp {backup}"));
    assert_eq!(backup["status"]["volumes"], expected, "{}", backup["status"]);
    for name in contents {
        let live = story.content(name);
        expect(name, "Retain", &live["spec"]["deletionPolicy"], &live);
        expect(name, "acme", &live["metadata"]["labels"][names::LABEL_KEPT], &live);
        // Nobody but the operator takes it away.
        let delete = format!("delete volumesnapshotcontent {name} --wait=false");
        let word = format!("VolumeSnapshotContent {name} is kept for a Site");
        admin.kubectl(&delete).denied(&["reprieve-kept-volumes", &word]);
        let patch = r#"{"spec":{"deletionPolicy":"Delete"}}"#;
        let patch = ["patch", "volumesnapshotcontent", name, "--type=merge", "-p", patch];
        admin.run(&patch, "").denied(&["the deletion policy of VolumeSnapshotContent"]);
        let label = format!("label volumesnapshotcontent {name} reprieve.dev/kept-");
        admin.kubectl(&label).denied(&["the label reprieve.dev/kept of VolumeSnapshotContent"]);
    }
    people.cancel("held");
    for name in contents {
        let live = story.content(name);
        expect(name, "Delete", &live["spec"]["deletionPolicy"], &live);
        let metadata = &live["metadata"];
        assert!(metadata["labels"][names::LABEL_KEPT].is_null(), "{name}: {metadata}");
        assert!(metadata["annotations"][names::ANNOTATION_FORMER].is_null(), "{name}: {metadata}");
    }
    // What goes with its VolumeSnapshot protects nothing: a backup outside of a hold says so.
    let backup = json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": "by-hand"},
        "spec": {"siteRef": {"name": "acme"}},
    });
    admin.create(&backup).worked();
    let backup = admin
        .until("bkp by-hand", "verified", |live| condition(live, "Verified").starts_with("True"));
    let bare = |claim: &str| json!({"claim": claim, "protection": "None"});
    let volumes = json!([bare("acme/data-db-0"), bare("acme/kept")]);
    assert_eq!(backup["status"]["volumes"], volumes, "{}", backup["status"]);
}

fn purged(story: &Story, contents: &[String; 2]) {
    let before = story.driver.storage();
    story.people.hold("gone", "Site", &["site-1"], 10);
    story.people.alice.until_state("gone", "Completed");
    story.people.admin.kubectl("get namespace acme").failed(&["(NotFound)"]);
    // Every one: the disk that was there, the snapshots in the storage, and what stands for them.
    assert_eq!(story.driver.storage().volumes, before.volumes);
    assert_eq!(story.driver.storage().snapshots, before.snapshots);
    for name in contents {
        let live = story.content(name);
        expect(name, "Retain", &live["spec"]["deletionPolicy"], &live);
        expect(name, "acme", &live["metadata"]["labels"][names::LABEL_KEPT], &live);
        assert!(live["metadata"]["deletionTimestamp"].is_null(), "{live}");
    }
}

/// Serves the API of snapshots, or does not; what it holds stays.
fn serve(story: &Story, served: bool) {
    let admin = &story.people.admin;
    for plural in ["volumesnapshots", "volumesnapshotcontents"] {
        let patch =
            format!(r#"[{{"op":"replace","path":"/spec/versions/0/served","value":{served}}}]"#);
        let crd = format!("{plural}.snapshot.storage.k8s.io");
        admin.run(&["patch", "crd", &crd, "--type=json", "-p", &patch], "").worked();
        let begun = Instant::now();
        while admin.kubectl(&format!("get {plural} -A")).ok != served {
            assert!(begun.elapsed() < crate::user::PATIENCE, "{plural} served: {served}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

fn the_api_is_gone(story: &Story) {
    let admin = &story.people.admin;
    serve(story, false);
    let live =
        story.people.try_restore("too-early", &json!({"deletionRequestRef": {"name": "gone"}}));
    expect_condition(&live, "Succeeded", &["False"]);
    let failures = live["status"]["failures"].to_string();
    for word in [
        "KindMissing",
        "PersistentVolumeClaim acme/data-db-0",
        "does not serve snapshot.storage.k8s.io/v1",
        "db-1",
        "then make another Restore",
    ] {
        assert!(failures.contains(word), "{word}: {failures}");
    }
    // Nothing empty takes the place of the claim, and nothing that needs it begins to run.
    let all = admin.get("pvc,sts -n acme");
    let there = |o: &Value| ["data-db-0", "db"].iter().any(|name| o["metadata"]["name"] == *name);
    let items = all["items"].as_array().cloned().unwrap_or_default();
    assert!(!items.iter().any(there), "{items:?}");
    serve(story, true);
}

fn restored(story: &Story, [db, hand]: &[String; 2]) {
    let admin = &story.people.admin;
    let before = story.driver.storage();
    let live = story.people.restore("back", &json!({"deletionRequestRef": {"name": "gone"}}));
    expect_condition(&live, "Succeeded", &["True"]);
    admin.kubectl("wait --for=condition=Ready site acme --timeout=60s").worked();
    // The claim's source is the snapshot, and what was on its disk is on its new one.
    story.bound("data-db-0");
    let claim = admin.get("pvc data-db-0 -n acme");
    let source = &claim["spec"]["dataSource"];
    expect("dataSource", "VolumeSnapshot", &source["kind"], &claim);
    expect("dataSource", "db-1", &source["name"], &claim);
    let data = |claim: &str| {
        let volume = admin.get(&format!("pv {}", story.bound(claim)));
        let handle = volume["spec"]["csi"]["volumeHandle"].as_str().expect("a handle").to_owned();
        story.driver.storage().volumes[&handle].clone()
    };
    assert_eq!(data("data-db-0"), "written in acme/data-db-0");
    // It came from the snapshot, and was not made anew under the same words.
    let made = story.driver.storage();
    assert_eq!(made.volumes.len(), before.volumes.len() + 1, "one disk was made");
    assert_eq!(data("kept"), "written in acme/kept");
    // The snapshot is bound to a second content for the same snapshot in the storage.
    let second = story.ready("db-1");
    assert_ne!(second, *db);
    let (old, new) = (story.content(db), story.content(&second));
    let handle = &old["status"]["snapshotHandle"];
    assert_eq!(new["spec"]["source"]["snapshotHandle"], *handle, "{new}");
    expect("second", "Retain", &new["spec"]["deletionPolicy"], &new);
    expect("first", "Retain", &old["spec"]["deletionPolicy"], &old);
    // One that names its snapshot itself is bound again as it is.
    assert_eq!(story.ready("hand"), *hand);
    let notices = live["status"]["notices"].to_string();
    for word in [
        "made from the snapshot db-1 of 2025-11-20T10:00:00Z",
        "the snapshot is taken anew, of the claim as it is now",
    ] {
        assert!(notices.contains(word), "{word}: {notices}");
    }
    // Nobody has lost anything meanwhile.
    for (handle, data) in &before.snapshots {
        assert_eq!(made.snapshots.get(handle), Some(data), "{handle}");
    }
    story.ready("gone-1");
}
