//! F1: the operator is killed after every single write of a site's coming to be, of a backup, a
//! deletion and a restore. A write that was carried out and whose answer never came is the worst
//! place for a crash: the next operator must find out. Before each DELETE it is killed as well:
//! what it had noted in the store by then must not pass for done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::DateTime;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, ListParams};
use reprieve::api::{Backup, DeletionRequest, Restore, Site};
use reprieve::sandbox::proxy::{Call, Fault, Rule, Verb};
use serde_json::{Value, json};

use crate::stage::{PATIENCE, Stage, is_true};
use crate::user::condition;

/// More crashes at writes of one object than this are none at new writes.
const MOST_OF_ONE: usize = 12;

/// The writes after which the operator was killed already.
#[derive(Default)]
struct Seen {
    /// The deletes before which it was.
    before: BTreeSet<String>,
    writes: BTreeSet<String>,
    of_one: BTreeMap<String, usize>,
}

impl Seen {
    /// What tells a write from another one: times and versions aside, which a repetition has new.
    fn key(call: &Call) -> String {
        fn bare(value: &Value) -> Value {
            match value {
                Value::Object(map) => map
                    .iter()
                    .filter(|(key, _)| *key != "resourceVersion")
                    .map(|(key, value)| (key.clone(), bare(value)))
                    .collect(),
                Value::Array(all) => all.iter().map(bare).collect(),
                Value::String(text) if DateTime::parse_from_rfc3339(text).is_ok() => json!("time"),
                other => other.clone(),
            }
        }
        format!("{} {}", call.brief(), bare(&call.body))
    }

    /// Whether this is a DELETE that it was not killed before.
    fn is_first(&self, call: &Call) -> bool {
        call.verb == Verb::Delete && !self.before.contains(&Self::key(call))
    }

    fn is_new(&self, call: &Call) -> bool {
        let often = self.of_one.get(&call.brief()).is_some_and(|count| *count >= MOST_OF_ONE);
        !often && !self.writes.contains(&Self::key(call))
    }

    fn note(&mut self, call: &Call) {
        if self.is_first(call) {
            self.before.insert(Self::key(call));
            return;
        }
        self.writes.insert(Self::key(call));
        *self.of_one.entry(call.brief()).or_default() += 1;
    }
}

/// Kills the operator right after each write that it has not yet been killed after, and before each
/// DELETE, until this is done. Gives how often it was.
async fn crash_at_each(stage: &mut Stage, done: impl AsyncFn(&Stage)) -> usize {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let mut crashes = 0;
    loop {
        stage.proxy.clear();
        let known = seen.clone();
        let first = move |call: &Call| known.lock().unwrap().is_first(call);
        stage.proxy.add(Rule::new(Fault::Hold).writes().when(first).times(1));
        let known = seen.clone();
        let new = move |call: &Call| known.lock().unwrap().is_new(call);
        stage.proxy.add(Rule::new(Fault::Freeze).writes().when(new).times(1));
        let call = tokio::select! {
            call = stage.proxy.until_held(PATIENCE) => call.expect("a write, or the end"),
            () = done(stage) => break,
        };
        // It may have been refused: then nothing was written.
        seen.lock().unwrap().note(&call);
        stage.crash().await;
        crashes += 1;
    }
    stage.proxy.clear();
    // The end may have come together with one more write.
    stage.proxy.heal();
    stage.until_nothing_fails().await;
    crashes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_every_write_changes_nothing() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str, crashes: usize| {
        eprintln!("{:6.1} s {what}: {crashes} crashes", begun.elapsed().as_secs_f64());
    };
    // How it is without crashes.
    stage.make_site("plain").await;
    let expected = stage.forms("plain").await;

    stage.create(crate::stage::site("acme")).await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage
            .until::<Site>("", "acme", "ready", |live| {
                is_true(live, "Ready") && live["status"]["state"] == "Active"
            })
            .await;
    })
    .await;
    step("a Site", crashes);
    assert!(crashes >= 3, "{crashes}");
    stage.create(crate::stage::app("acme")).await;
    stage.create(crate::stage::notes("acme")).await;
    let crashes = crash_at_each(&mut stage, async |stage| stage.until_settled("acme").await).await;
    step("its App", crashes);
    assert!(crashes >= 4, "{crashes}");
    assert_eq!(stage.forms("acme").await, expected);
    let before = stage.snapshot("acme").await;

    stage.back_up("by-hand", "acme").await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage.until_verified("by-hand").await;
    })
    .await;
    step("a backup", crashes);
    assert!(crashes >= 2, "{crashes}");

    stage.ask("gone", "acme").await;
    stage.approve("gone").await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage.until_ended("gone", "Completed").await;
    })
    .await;
    step("a deletion", crashes);
    assert!(crashes >= 15, "{crashes}");
    assert!(stage.get::<Site>("", "acme").await.is_none());
    stage.expect_deleted_only(&["acme"]);
    assert_eq!(stage.deleted().len(), 3, "an App, a namespace, a Site");
    let live = stage.get::<DeletionRequest>("", "gone").await.expect("it is there");
    for gate in ["ScopeValid", "WithinBlastRadius", "Approved", "BackedUp", "Succeeded"] {
        assert!(is_true(&live, gate), "{gate}: {}", condition(&live, gate));
    }
    let backups: Api<Backup> = Api::all(stage.admin.clone());
    let backups = backups.list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(backups.len(), 2, "one by hand, one before the deletion: {backups:#?}");

    stage.bring_back("back", "gone").await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage.until_restored("back").await;
        stage.until_settled("acme").await;
    })
    .await;
    step("a restore", crashes);
    assert!(crashes >= 12, "{crashes}");
    before.expect_equal(&stage.snapshot("acme").await, "after the restore");
    let live = stage.get::<Restore>("", "back").await.expect("it is there");
    assert_eq!(live["status"]["failures"], Value::Null, "{}", live["status"]);
    assert_eq!(stage.deleted().len(), 3, "a restore deletes nothing");
    assert_eq!(stage.forms("plain").await, expected, "the other site");
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

/// Workloads of two kinds, and a disk that its claim would take along.
fn workloads(site: &str) -> Vec<Value> {
    let labels = json!({"app": "work"});
    let pods = json!({"metadata": {"labels": labels}, "spec": {
        "terminationGracePeriodSeconds": 1, "restartPolicy": "Always",
        "containers": [{"name": "work", "image": "example.invalid/work"}],
    }});
    let mut job = pods.clone();
    job["spec"]["restartPolicy"] = json!("Never");
    let claim = json!({"name": "data", "namespace": site});
    let storage = json!({"storage": "1Gi"});
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "work", "namespace": site},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pods},
        }),
        json!({
            "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "nightly", "namespace": site},
            "spec": {"schedule": "0 3 1 1 *", "jobTemplate": {"spec": {"template": job}}},
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("disk-{site}")},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": storage, "claimRef": claim,
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "by-hand",
                "csi": {"driver": "example.invalid", "volumeHandle": site},
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim,
            "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": storage},
                "storageClassName": "by-hand", "volumeName": format!("disk-{site}"),
            },
        }),
    ]
}

/// The reclaim policy of the disk, and the replicas and the suspension of the workloads.
async fn service(stage: &Stage, site: &str) -> (Option<String>, Option<i32>, Option<bool>) {
    let disks: Api<PersistentVolume> = Api::all(stage.admin.clone());
    let deployments: Api<Deployment> = Api::namespaced(stage.admin.clone(), site);
    let jobs: Api<CronJob> = Api::namespaced(stage.admin.clone(), site);
    let disk = disks.get(&format!("disk-{site}")).await.expect("a disk");
    let deployment = deployments.get("work").await.expect("a Deployment");
    let job = jobs.get("nightly").await.expect("a CronJob");
    (
        disk.spec.and_then(|spec| spec.persistent_volume_reclaim_policy),
        deployment.spec.replicas,
        job.spec.suspend,
    )
}

/// I7 and I8: a site with workloads and a disk is held, and released, through a kill after each
/// write; then one of its Apps is deleted, in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_every_write_of_a_hold_changes_nothing() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str, crashes: usize| {
        eprintln!("{:6.1} s {what}: {crashes} crashes", begun.elapsed().as_secs_f64());
    };
    stage.make_site("work").await;
    for object in workloads("work") {
        stage.create(object).await;
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(stage.admin.clone(), "work");
    while claims.get("data").await.expect("a claim").status.and_then(|s| s.phase).as_deref()
        != Some("Bound")
    {
        assert!(begun.elapsed() < PATIENCE, "the claim is not bound");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    stage.until_settled("work").await;
    let before = stage.snapshot("work").await;
    let as_it_was = (Some("Delete".to_owned()), Some(2), Some(false));
    assert_eq!(service(&stage, "work").await, as_it_was);

    stage.ask_for("held", "Site", "site-work", 3000).await;
    stage.approve("held").await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage
            .until::<DeletionRequest>("", "held", "its window", |live| {
                !live["status"]["retention"].is_null()
            })
            .await;
        let held = (Some("Retain".to_owned()), Some(0), Some(true));
        while service(stage, "work").await != held {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    })
    .await;
    step("a hold", crashes);
    assert!(crashes >= 10, "{crashes}");
    stage.cancel("held").await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage.until_ended("held", "Cancelled").await;
        stage.until_settled("work").await;
    })
    .await;
    step("a release", crashes);
    assert!(crashes >= 6, "{crashes}");
    assert_eq!(service(&stage, "work").await, as_it_was, "after the release");
    before.expect_untouched(&stage.snapshot("work").await, "I7: after the release");
    assert_eq!(stage.deleted().len(), 0, "nothing was deleted");

    stage.ask_for("app-gone", "App", "app-work", 10).await;
    stage.approve("app-gone").await;
    let crashes = crash_at_each(&mut stage, async |stage| {
        stage.until_ended("app-gone", "Completed").await;
    })
    .await;
    step("the deletion of an App", crashes);
    assert!(crashes >= 10, "{crashes}");
    let gone = [
        "App.reprieve.dev/work/shop",
        "ServiceAccount/work/shop",
        "Secret/work/shop",
        "Deployment.apps/work/web",
    ];
    let left = before.without(&gone);
    assert_eq!(left.objects.len() + gone.len(), before.objects.len(), "{:?}", before.objects);
    stage.until_site_active("work").await;
    left.expect_untouched(&stage.snapshot("work").await, "the rest of the site");
    assert_eq!(service(&stage, "work").await, as_it_was, "after the App is gone");
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

/// Kills the operator once, right after the n-th write from now on. Tells whether there was one
/// before this was done.
async fn crash_once(stage: &mut Stage, n: usize, done: impl AsyncFn(&Stage)) -> bool {
    stage.proxy.clear();
    stage.proxy.add(Rule::new(Fault::Freeze).writes().nth(n));
    let crashed = tokio::select! {
        call = stage.proxy.until_held(PATIENCE) => Some(call.expect("a write, or the end")),
        () = done(stage) => None,
    };
    stage.proxy.clear();
    if let Some(call) = &crashed {
        eprintln!("    {n}: {}", call.brief());
        stage.crash().await;
        done(stage).await;
    } else {
        // The end may have come together with one more write.
        stage.proxy.heal();
    }
    stage.until_nothing_fails().await;
    crashed.is_some()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 20 minutes; run it by hand when what is written has changed"]
async fn each_write_in_a_run_of_its_own() {
    let Some(mut stage) = Stage::start().await else { return };
    let mut more = [true; 3];
    let mut gone: Vec<String> = vec![];
    for n in 1.. {
        let site = format!("acme-{n}");
        stage.make_site(&site).await;
        let before = stage.snapshot(&site).await;
        if more[0] {
            let name = format!("backup-{n}");
            stage.back_up(&name, &site).await;
            let done = async |stage: &Stage| drop(stage.until_verified(&name).await);
            more[0] = crash_once(&mut stage, n, done).await;
        }
        let request = format!("gone-{n}");
        stage.ask(&request, &site).await;
        stage.approve(&request).await;
        let done = async |stage: &Stage| drop(stage.until_state(&request, "Completed").await);
        more[1] = crash_once(&mut stage, if more[1] { n } else { usize::MAX }, done).await;
        assert!(stage.get::<Site>("", &site).await.is_none());
        let restore = format!("back-{n}");
        stage.bring_back(&restore, &request).await;
        let done = async |stage: &Stage| {
            stage.until_restored(&restore).await;
            stage.until_settled(&site).await;
        };
        more[2] = crash_once(&mut stage, if more[2] { n } else { usize::MAX }, done).await;
        before.expect_equal(&stage.snapshot(&site).await, &format!("crash at {n}"));
        gone.push(site);
        stage.expect_deleted_only(&gone.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(stage.deleted().len(), 3 * gone.len(), "an App, a namespace, a Site each");
        eprintln!("{n}: {more:?}");
        if more == [false; 3] {
            break;
        }
    }
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}
