//! T3 and B4 of the fault list, F1 with crashes, I10: a namespace of a site is deleted with the
//! guard off, and comes back from a Backup; so does a site that was purged. Users go the whole way
//! with kubectl, against the operator under its own account and the guard. The oracle is the digest
//! and the UID of every object, and the API server's audit log.
//!
//! One cluster serves all steps; each leaves the site whole.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::user::{Snapshot, Stage, User, condition, expect, expect_condition, request, sample};
use reprieve::api::names;
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
/// The namespace that is lost, and the one that is not.
const LOST: &str = "acme-jobs";
const KEPT: &str = "acme";

fn backup(name: &str, site: &str) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": name},
        "spec": {"siteRef": {"name": site}},
    })
}

fn restore(name: &str, backups: &[&str]) -> Value {
    let refs: Vec<Value> = backups.iter().map(|name| json!({ "name": name })).collect();
    json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": name},
        "spec": {"source": {"backupRefs": refs}},
    })
}

impl Stage {
    async fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.sandbox, "acme", &[KEPT.to_owned(), LOST.to_owned()]).await
    }

    fn back_up(&self, name: &str, site: &str) {
        self.admin.create(&backup(name, site)).worked();
        self.admin
            .kubectl(&format!("wait --for=condition=Verified bkp/{name} --timeout=60s"))
            .worked();
    }

    fn ended(&self, name: &str) -> Value {
        self.admin.until(&format!("rst {name}"), "an end", |live| {
            !live["status"]["completionTime"].is_null()
        })
    }

    /// A Restore of these Backups that ends badly, with this reason for the first failure.
    fn refused(&self, name: &str, backups: &[&str], reason: &str) -> Value {
        self.admin.create(&restore(name, backups)).worked();
        let live = self.ended(name);
        expect(name, reason, &live["status"]["failures"][0]["reason"], &live);
        live
    }

    /// The site is whole and in service, and nothing marks it.
    fn active(&self) {
        let live = self.admin.until("site acme", "state Active, and no mark", |live| {
            live["status"]["state"] == "Active"
                && live["metadata"]["annotations"][names::ANNOTATION_RESTORE].is_null()
                && live["status"]["restore"].is_null()
        });
        for name in [KEPT, LOST] {
            let namespace = self.admin.get(&format!("namespace {name}"));
            let recorded = live["status"]["namespaces"].as_array().into_iter().flatten();
            let recorded = recorded.into_iter().find(|n| n["name"] == name).expect("recorded");
            assert_eq!(recorded["uid"], namespace["metadata"]["uid"], "recorded UID of {name}");
        }
        self.admin.kubectl("wait --for=condition=Ready app --all -A --timeout=60s").worked();
    }

    /// Somebody takes the guard of namespaces away, deletes one, and puts the guard back.
    fn lose(&self) {
        let policy = reprieve::guard::policy::DELETE_NAMESPACES;
        let binding = "validatingadmissionpolicybinding";
        self.admin.kubectl(&format!("delete {binding} {policy}")).worked();
        let begun = Instant::now();
        let delete = format!("delete namespace {LOST} --wait=false");
        // The API server takes a moment until it goes by what is there.
        while !self.admin.kubectl(&delete).ok {
            assert!(begun.elapsed() < crate::user::PATIENCE, "the guard stays");
        }
        let file = format!("deploy/admission/{policy}.yaml");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        self.admin.apply(&fs::read_to_string(file).expect("the policy's file")).worked();
        self.admin.until("site acme", "the loss told", |live| {
            let said = condition(live, "Ready");
            said.starts_with("False")
                && said.contains(LOST)
                && live["status"]["state"] == "Degraded"
        });
        // Everything but the App is gone: the namespace cannot go while the App is held.
        self.admin.until(&format!("configmap -n {LOST}"), "nothing left", |live| {
            live["items"].as_array().is_some_and(Vec::is_empty)
        });
        let app = self.admin.get(&format!("app shop -n {LOST}"));
        assert_eq!(app["metadata"]["finalizers"], json!([names::FINALIZER]), "the App is held");
    }

    /// Does what the Site says is to be done. Gives the name of the Restore.
    fn as_told(&self) -> String {
        let said = condition(&self.admin.get("site acme"), "Ready");
        let object = said
            .split_once("echo '")
            .and_then(|(_, rest)| rest.split_once("' | kubectl create -f -"));
        let (object, _) = object.unwrap_or_else(|| panic!("expected a command; seen: {said}"));
        let name = self.admin.with_input("create -f - -o name", object);
        let name = name.worked().trim().rsplit('/').next().expect("a name").to_owned();
        assert!(object.contains("acme-2"), "expected the newest Backup; seen: {object}");
        name
    }

    /// Kills the operator as soon as this answers, and starts it again after `meanwhile`.
    async fn kill_when(
        &mut self,
        what: &str,
        holds: impl Fn(&User) -> bool,
        meanwhile: impl Fn(&User),
    ) {
        let begun = Instant::now();
        while !holds(&self.admin) {
            assert!(begun.elapsed() < crate::user::PATIENCE, "waited in vain: {what}");
        }
        self.operator.process_mut().kill().expect("it is killed");
        meanwhile(&self.admin);
        self.operator.process_mut().restart().expect("it starts");
        self.operator.wait_until_ready().await.expect("it is ready");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_past_the_gates_comes_back() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    set_up(&stage);
    step("a site with two namespaces and two Apps, backed up");
    nothing_to_do(&stage).await;
    step("what is refused");
    a_lost_namespace(&mut stage).await;
    step("a namespace lost and restored, with kills of the operator");
    something_in_the_way(&mut stage).await;
    step("something in the way");
    a_purged_site(&stage).await;
    step("a purged site restored from a Backup");
    // The namespace that is lost, with the guard of namespaces off.
    let lost = format!("namespaces/{LOST}/{LOST}");
    assert_eq!(crate::audit::expect_invariants_but(&stage.sandbox, &[&lost]), 2, "purged");
    stage.sandbox.stop().expect("nothing is left");
}

fn set_up(stage: &Stage) {
    let two = format!("  namespaces: [{KEPT}, {LOST}]\n  priority:");
    stage.admin.apply(&sample(SITE, "acme", 1).replace("  priority:", &two)).worked();
    stage.admin.apply(&sample(SITE, "bolt", 3)).worked();
    stage.admin.kubectl("wait --for=condition=Ready site --all --timeout=60s").worked();
    stage.admin.apply(&sample(APP, KEPT, 1)).worked();
    stage.admin.apply(&sample(APP, LOST, 2)).worked();
    for namespace in [KEPT, LOST] {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes", "namespace": namespace},
            "data": {"by": "hand"},
        });
        stage.admin.create(&map).worked();
    }
    stage.admin.kubectl("wait --for=condition=Ready app --all -A --timeout=60s").worked();
    stage.back_up("acme-1", "acme");
    stage.back_up("bolt-1", "bolt");
    let live = stage.admin.get("bkp acme-1");
    expect("purpose", "Manual", &live["spec"]["purpose"], &live);
    let site = stage.admin.get("site acme");
    let of = json!({"name": "acme", "uid": site["metadata"]["uid"], "id": "site-1"});
    assert_eq!(live["status"]["site"], of, "whose backup it is");
    let said = stage.bob.kubectl("get backups");
    let header = said.worked().lines().next().unwrap_or_default();
    for column in ["SITE", "PURPOSE", "VERIFIED", "OBJECTS", "BYTES", "AGE"] {
        assert!(header.contains(column), "get backups: expected {column}; seen: {header}");
    }
}

async fn nothing_to_do(stage: &Stage) {
    let before = stage.snapshot().await;
    stage.admin.create(&json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": "both"},
        "spec": {"source": {"backupRefs": [{"name": "acme-1"}], "deletionRequestRef": {"name": "x"}}},
    })).failed(&["exactly one of"]);
    let live = stage.refused("alive", &["acme-1"], "SiteLives");
    expect_condition(&live, "Succeeded", &["False", "has all its namespaces"]);
    // One that is not there does not stop the others.
    let live = stage.refused("absent", &["no-such", "acme-1"], "SiteLives");
    expect("second failure", "BackupNotFound", &live["status"]["failures"][1]["reason"], &live);
    stage.back_up("acme-2", "acme");
    stage.admin.create(&restore("twice", &["acme-1", "acme-2"])).worked();
    let live = stage.ended("twice");
    expect_condition(&live, "Succeeded", &["False SeveralBackups", "acme-1 and acme-2"]);
    stage.admin.create(&backup("nobody", "nobody")).worked();
    stage.admin.kubectl("wait --for=condition=Stalled bkp/nobody --timeout=60s").worked();
    let live = stage.refused("unverified", &["nobody"], "BackupNotVerified");
    expect_condition(&live, "Succeeded", &["there is no Site nobody"]);
    before.expect_untouched(&stage.snapshot().await, "nothing was to be restored");
    stage.active();
}

async fn a_lost_namespace(stage: &mut Stage) {
    let before = stage.snapshot().await;
    let old = stage.admin.get(&format!("namespace {LOST}"))["metadata"]["uid"].clone();
    stage.lose();
    // What lives goes on, and is newer than the backup: it is not the restore's business.
    let patch = r#"{"data":{"by":"somebody, later"}}"#;
    let newer = ["patch", "configmap", "notes", "-n", KEPT, "--type=merge", "-p", patch];
    stage.admin.run(&newer, "").worked();
    // No backup can be made of half a site.
    stage.admin.create(&backup("too-late", "acme")).worked();
    stage.admin.until("bkp too-late", "a reason", |live| {
        condition(live, "Succeeded").starts_with("False")
    });

    // B1: an archive that is not there.
    let location = stage.admin.get("bkp acme-1")["status"]["location"].clone();
    let archive = stage.sandbox.store_dir().join(location.as_str().expect("a location"));
    fs::remove_file(archive).expect("it is there");
    let live = stage.refused("no-archive", &["acme-1"], "ArchiveInvalid");
    expect_condition(&live, "Succeeded", &["is not in the store"]);
    let site = stage.admin.get("site acme");
    assert!(site["metadata"]["annotations"][names::ANNOTATION_RESTORE].is_null(), "no mark");

    // The guard still stands before the App: only the namespace controller may delete it, once the
    // operator has let it go.
    let controller = "--as=system:serviceaccount:kube-system:namespace-controller";
    for who in ["", controller] {
        for namespace in [KEPT, LOST] {
            let delete = format!("delete app shop -n {namespace} --wait=false {who}");
            stage.admin.kubectl(&delete).denied(&["DeletionRequest"]);
        }
    }
    let back = stage.as_told();
    let app_goes = |admin: &User| !admin.kubectl(&format!("get app shop -n {LOST}")).ok;
    stage.kill_when("the App is let go", app_goes, |_| {}).await;
    let half = |admin: &User| {
        let said = admin.kubectl(&format!("get sa shop -n {LOST} -o name"));
        said.ok && !said.out.is_empty()
    };
    stage.kill_when("the first objects are back", half, |_| {}).await;
    let live = stage.ended(&back);
    expect_condition(&live, "Succeeded", &["True Verified", "1 of 1 sites verified"]);
    stage.active();
    let now = stage.admin.get(&format!("namespace {LOST}"))["metadata"]["uid"].clone();
    assert_ne!(old, now, "the namespace is another one");
    let told = live["status"]["notices"].as_array().cloned().unwrap_or_default();
    let told: Vec<_> = told.iter().filter(|n| n["reason"] == "ChangedSince").collect();
    assert!(
        told.iter().any(|n| n["object"] == "v1 ConfigMap acme/notes"),
        "what is newer is told: {told:?}"
    );

    let patch = r#"{"data":{"by":"hand"}}"#;
    let undo = ["patch", "configmap", "notes", "-n", KEPT, "--type=merge", "-p", patch];
    stage.admin.run(&undo, "").worked();
    let after = stage.snapshot().await;
    before.expect_equal(&after, "after the restore");
    let mut back = 0;
    for (old, new) in before.objects.iter().zip(&after.objects) {
        let lost = old.0.contains(&format!("/{LOST}/")) || old.0 == format!("Namespace/{LOST}");
        assert_eq!(old.1 != new.1, lost, "{}: expected anew only if it was lost", old.0);
        back += i32::from(lost);
    }
    assert!(back >= 14, "objects brought back: {back}");
    deleted_nothing(stage);
}

/// The operator sent not one DELETE so far.
fn deleted_nothing(stage: &Stage) {
    let text = fs::read_to_string(stage.sandbox.audit_log()).expect("an audit log");
    let (mut all, mut deletes) = (0, vec![]);
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("an event a line");
        let dry = event["requestURI"].as_str().is_some_and(|uri| uri.contains("dryRun="))
            || !event["requestObject"]["dryRun"].is_null();
        let verb = event["verb"].as_str().unwrap_or_default();
        if event["user"]["username"] == names::OPERATOR_USER && !dry {
            all += 1;
            if verb.starts_with("delete") {
                deletes.push(line.to_owned());
            }
        }
    }
    assert!(all > 100, "the audit log has what the operator did: {all}");
    assert_eq!(deletes, [""; 0], "expected no DELETE by the operator");
}

async fn something_in_the_way(stage: &mut Stage) {
    // What was changed or made after the backup: an App is held, so that nothing of it is lost.
    let app = sample(APP, LOST, 2).replace("EUR", "CHF");
    stage.admin.with_input("apply --server-side --force-conflicts -f -", &app).worked();
    stage.admin.until(&format!("configmap shop -n {LOST}"), "CHF", |live| {
        live["data"]["currency"] == "CHF"
    });
    stage.admin.create(&json!({
        "apiVersion": names::API_VERSION, "kind": "App", "metadata": {"name": "late", "namespace": LOST},
        "spec": {"id": "app-late", "product": "late", "manifests": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"a": "1"}},
        ]},
    })).worked();
    stage.admin.kubectl("wait --for=condition=Ready app --all -A --timeout=60s").worked();
    let before = stage.snapshot().await;
    stage.lose();
    stage.admin.create(&restore("in-the-way", &["acme-2"])).worked();
    let made = |admin: &User| {
        let live = admin.kubectl(&format!("get namespace {LOST} -o jsonpath={{.status.phase}}"));
        live.ok && live.out == "Active"
    };
    let somebody = |admin: &User| {
        admin.kubectl(&format!("delete configmap notes -n {LOST} --ignore-not-found")).worked();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes", "namespace": LOST},
            "data": {"by": "somebody else"},
        });
        admin.create(&map).worked();
    };
    stage.kill_when("the namespace is back", made, somebody).await;
    let live = stage.ended("in-the-way");
    let failures = live["status"]["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.len(), 1, "{failures:?}");
    expect("reason", "Conflict", &failures[0]["reason"], &live);
    expect("object", "v1 ConfigMap acme-jobs/notes", &failures[0]["object"], &live);
    expect_condition(&live, "Succeeded", &["False", "onConflict: Skip"]);
    // The site goes on with what it has, and still says what it has lost.
    stage.admin.until("site acme", "no mark, and the loss told", |live| {
        live["metadata"]["annotations"][names::ANNOTATION_RESTORE].is_null()
            && live["status"]["restore"].is_null()
            && condition(live, "Ready").contains(LOST)
    });

    let mut skip = restore("skipped", &["acme-2"]);
    skip["spec"]["onConflict"] = json!("Skip");
    stage.admin.create(&skip).worked();
    let live = stage.ended("skipped");
    expect_condition(&live, "Succeeded", &["True Verified"]);
    let told = live["status"]["notices"].as_array().cloned().unwrap_or_default();
    let told: Vec<_> = told.iter().filter(|n| n["reason"] == "Conflict").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    stage.active();
    let notes = stage.admin.get(&format!("configmap notes -n {LOST}"));
    expect("notes", "somebody else", &notes["data"]["by"], &notes);
    let patch = r#"{"data":{"by":"hand"}}"#;
    let undo = ["patch", "configmap", "notes", "-n", LOST, "--type=merge", "-p", patch];
    stage.admin.run(&undo, "").worked();
    before.expect_equal(&stage.snapshot().await, "after both restores");
    deleted_nothing(stage);
}

async fn a_purged_site(stage: &Stage) {
    let before = stage.snapshot().await;
    stage.back_up("acme-3", "acme");
    let ids = ["site-1".to_owned(), "site-3".to_owned()];
    stage.alice.create(&request("leaving", "Site", &ids)).worked();
    stage.alice.until_state("leaving", "AwaitingApproval");
    stage.bob.approve("leaving", "bob").worked();
    stage.carol.approve("leaving", "carol").worked();
    // While it is held, nothing of it is restored.
    stage.alice.until_state("leaving", "Held");
    stage.admin.until("site acme", "held", |live| live["status"]["state"] == "PendingDeletion");
    let live = stage.refused("held", &["acme-3"], "EntityNotActive");
    expect_condition(&live, "Succeeded", &["held for the DeletionRequest leaving"]);
    stage.alice.until_state("leaving", "Completed");
    for what in ["site acme", "namespace acme", "namespace acme-jobs"] {
        stage.admin.kubectl(&format!("get {what}")).failed(&["(NotFound)"]);
    }
    // B4: somebody else has the id of the other site by now.
    stage.admin.apply(&sample(SITE, "thief", 3)).worked();
    stage.admin.create(&restore("again", &["bolt-1", "acme-3"])).worked();
    let live = stage.ended("again");
    expect_condition(&live, "Succeeded", &["False PartiallyFailed", "1 of 2 sites verified"]);
    let failure = &live["status"]["failures"][0];
    expect("reason", "DuplicateId", &failure["reason"], &live);
    expect("site", "bolt", &failure["site"], &live);
    stage.admin.kubectl("get site bolt").failed(&["(NotFound)"]);
    stage.active();
    let after = stage.snapshot().await;
    before.expect_equal(&after, "after the purge and the restore");
    before.expect_new(&after, "after the purge and the restore");
}
