//! B9 and I7 of the design on a real cluster: what a hold changes, that a release puts all of it
//! back whatever users did meanwhile, and that no disk is ever deleted, by no combination of
//! reclaim policy and persistentVolumeClaimRetentionPolicy. The oracle is what lives, read as an
//! administrator reads it, and one disk that nothing keeps: it goes, so the others could have.
//!
//! One cluster serves all steps, because it takes seconds to start.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::people::People;
use crate::user::{condition, expect, expect_condition, sample};
use reprieve::api::names;
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
/// Kinds of which every field that is anybody's is compared.
const KINDS: &str = "deployments,statefulsets,daemonsets,cronjobs,replicasets,hpa,pvc,configmaps";

/// Everything of the site that is anybody's, by kind and name: no status, and no field that
/// only the cluster writes. Not the archived form, in which the hold's own edits are set aside.
fn raw(stage: &People) -> BTreeMap<String, Value> {
    let all = stage.admin.get(&format!("{KINDS} -n acme"));
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    let items = all["items"].as_array().into_iter().flatten();
    let volumes = stage.admin.get("pv");
    for object in items.chain(volumes["items"].as_array().into_iter().flatten()) {
        let metadata = &object["metadata"];
        let mut annotations = metadata["annotations"].clone();
        if let Some(all) = annotations.as_object_mut() {
            all.retain(|key, _| !key.starts_with("deployment.kubernetes.io/"));
        }
        if annotations.as_object().is_some_and(serde_json::Map::is_empty) {
            annotations = Value::Null;
        }
        let key = format!("{}/{}", object["kind"].as_str().unwrap_or_default(), metadata["name"]);
        let mut spec = object["spec"].clone();
        if object["kind"] == "PersistentVolume" {
            // The binder notes the version of the claim.
            if let Some(reference) = spec["claimRef"].as_object_mut() {
                reference.remove("resourceVersion");
            }
        }
        let parts = json!({
            "uid": metadata["uid"], "labels": metadata["labels"], "annotations": annotations,
            "owners": metadata["ownerReferences"], "spec": spec, "data": object["data"],
        });
        found.insert(key, parts);
    }
    found
}

fn expect_raw(stage: &People, before: &BTreeMap<String, Value>, when: &str) {
    let begun = Instant::now();
    loop {
        let now = raw(stage);
        let other = before.keys().chain(now.keys()).find(|key| before.get(*key) != now.get(*key));
        let Some(key) = other else { return };
        // Controllers that own claims, or copy annotations, need a moment.
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{when}: {key}: expected {:?}; seen: {:?}",
            before.get(key),
            now.get(key)
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every combination: reclaim policy, whenScaled, whenDeleted.
fn combinations() -> Vec<(String, &'static str, &'static str, &'static str)> {
    let mut all = vec![];
    for reclaim in ["Retain", "Delete"] {
        for scaled in ["Retain", "Delete"] {
            for deleted in ["Retain", "Delete"] {
                let letter = |word: &str| word[..1].to_lowercase();
                let name = format!("db-{}{}{}", letter(reclaim), letter(scaled), letter(deleted));
                all.push((name, reclaim, scaled, deleted));
            }
        }
    }
    all
}

fn volume(name: &str, namespace: &str, claim: &str, reclaim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": reclaim, "storageClassName": "manual",
            "hostPath": {"path": format!("/tmp/reprieve-no-such-disk-{name}")},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim},
        },
    })
}

fn claim_spec() -> Value {
    json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "resources": {"requests": {"storage": "1Gi"}},
    })
}

fn workload(kind: &str, name: &str, mut spec: Value, volumes: Value) -> Value {
    let api_version = if kind == "CronJob" { "batch/v1" } else { "apps/v1" };
    let pod = json!({
        "terminationGracePeriodSeconds": 1, "volumes": volumes,
        "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}],
    });
    if kind == "CronJob" {
        let mut pod = pod;
        pod["restartPolicy"] = json!("Never");
        spec["schedule"] = json!("0 3 1 1 *");
        spec["jobTemplate"] = json!({"spec": {"template": {"spec": pod}}});
    } else {
        spec["selector"] = json!({"matchLabels": {"app": name}});
        spec["template"] = json!({"metadata": {"labels": {"app": name}}, "spec": pod});
    }
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": "acme"}, "spec": spec,
    })
}

fn build(stage: &People) {
    stage.admin.apply(&sample(SITE, "acme", 1)).worked();
    stage.admin.kubectl("wait --for=condition=Ready site acme --timeout=60s").worked();
    let mut all = vec![
        workload(
            "Deployment",
            "web",
            json!({"replicas": 3}),
            json!([{"name": "tmp", "emptyDir": {}}]),
        ),
        workload("Deployment", "gitops", json!({"replicas": 2}), json!([])),
        workload("Deployment", "flux", json!({"replicas": 2}), json!([])),
        workload("Deployment", "off", json!({"replicas": 0}), json!([])),
        workload("Deployment", "auto", json!({"replicas": 2}), json!([])),
        workload("ReplicaSet", "free", json!({"replicas": 1}), json!([])),
        workload("DaemonSet", "agent", json!({}), json!([])),
        workload("CronJob", "nightly", json!({}), json!([])),
        workload("CronJob", "paused", json!({"suspend": true}), json!([])),
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "auto", "namespace": "acme"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "auto"},
                "minReplicas": 2, "maxReplicas": 4,
            },
        }),
    ];
    for (name, reclaim, scaled, deleted) in combinations() {
        for pod in 0..2 {
            let claim = format!("data-{name}-{pod}");
            all.push(volume(&format!("disk-{name}-{pod}"), "acme", &claim, reclaim));
        }
        let spec = json!({
            "replicas": 2, "serviceName": name, "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim_spec()}],
        });
        all.push(workload("StatefulSet", &name, spec, json!([])));
    }
    // Nothing keeps this one.
    all.push(volume("disk-control", "default", "control", "Delete"));
    all.push(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "control", "namespace": "default"}, "spec": claim_spec(),
    }));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
    stage.admin.with_input("create -f -", &list.to_string()).worked();
    stage.admin.until("pv", "every disk bound", |all| {
        let items = all["items"].as_array().cloned().unwrap_or_default();
        items.len() == 17 && items.iter().all(|v| v["status"]["phase"] == "Bound")
    });
    stage.admin.until(&format!("{KINDS} -n acme"), "its owners on each claim", |all| {
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let settled = |o: &Value| match o["kind"].as_str() {
            Some("PersistentVolumeClaim") => {
                let name = o["metadata"]["name"].as_str().unwrap_or_default();
                let owned = !o["metadata"]["ownerReferences"].is_null();
                owned == name.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with("d-")
            }
            Some("StatefulSet") => o["status"]["readyReplicas"] == 2,
            Some("Deployment") => {
                o["status"]["readyReplicas"].as_i64().unwrap_or(0) == o["spec"]["replicas"]
            }
            _ => true,
        };
        items.iter().all(settled)
    });
}

/// Every disk of the site is there, bound to its claim or waiting for one, and kept.
fn disks_are_kept(stage: &People, when: &str) {
    let all = stage.admin.get("pv");
    let items = all["items"].as_array().cloned().unwrap_or_default();
    for (name, reclaim, _, _) in combinations() {
        for pod in 0..2 {
            let name = format!("disk-{name}-{pod}");
            let live = items.iter().find(|v| v["metadata"]["name"] == name.as_str());
            let live = live.unwrap_or_else(|| panic!("{when}: {name} is gone"));
            let (metadata, spec) = (&live["metadata"], &live["spec"]);
            assert!(metadata["deletionTimestamp"].is_null(), "{when}: {name} is on its way");
            expect(&name, "Retain", &spec["persistentVolumeReclaimPolicy"], live);
            expect(&name, "acme", &metadata["labels"][names::LABEL_KEPT], live);
            let record = metadata["annotations"][names::ANNOTATION_FORMER].as_str();
            let record: Value = serde_json::from_str(record.unwrap_or("null")).expect("JSON");
            expect(&format!("{when}: record of {name}"), reclaim, &record["reclaimPolicy"], live);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_disk_goes_and_a_release_puts_everything_back() {
    let Some(stage) = People::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    build(&stage);
    step("built");
    held_and_cancelled(&stage).await;
    step("held and cancelled");
    users_and_gitops_in_between(&stage);
    step("users and GitOps in between");
    purged(&stage).await;
    step("purged");
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

async fn held_and_cancelled(stage: &People) {
    let (before, snapshot) = (raw(stage), stage.snapshot("acme").await);
    let live = stage.hold("held", "Site", &["site-1"], 600);
    let entity = &live["status"]["plan"]["entities"][0];
    assert_eq!(entity["claims"], 16, "claims: {entity}");
    assert_eq!(entity["unprotected"], 0, "{entity}");
    let disks = entity["disks"].as_array().cloned().unwrap_or_default();
    assert!(
        disks.len() == 16 && disks.iter().all(|d| d["protection"] == "RetainedDisk"),
        "{entity}"
    );
    assert_eq!(entity["runsOn"], json!(["DaemonSet/acme/agent"]));
    assert_eq!(entity["scratch"], json!(["Deployment/acme/web"]));
    let backup = entity["backup"]["name"].as_str().expect("a backup").to_owned();
    let backup = stage.admin.get(&format!("bkp {backup}"));
    let volumes = backup["status"]["volumes"].as_array().cloned().unwrap_or_default();
    let kept = |v: &Value| v["protection"] == "RetainedDisk";
    assert!(volumes.len() == 16 && volumes.iter().all(kept), "volumes: {volumes:?}");
    let site = stage.admin.get("site acme");
    expect("state", "PendingDeletion", &site["status"]["state"], &site);
    let end = &live["status"]["retention"]["endTime"];
    stage.admin.until("site acme", "the end of the window", |live| {
        live["status"]["deletion"]["retentionEndTime"] == *end
    });
    stage.admin.until(&format!("{KINDS} -n acme"), "out of service", |all| {
        let items = all["items"].as_array().cloned().unwrap_or_default();
        items.iter().all(|o| match o["kind"].as_str() {
            Some("Deployment" | "StatefulSet" | "ReplicaSet") => {
                o["spec"]["replicas"] == 0 && o["status"]["replicas"].as_i64().unwrap_or(0) == 0
            }
            Some("CronJob") => o["spec"]["suspend"] == true,
            _ => true,
        })
    });
    disks_are_kept(stage, "held");
    stage.admin.until("hpa auto -n acme", "stands down", |live| {
        condition(live, "ScalingActive").starts_with("False ScalingDisabled")
    });
    stage.admin.kubectl("delete pv disk-db-drr-0 --wait=false").denied(&["kept for a Site"]);
    // Every Pod is gone, and what owned the claims would have had its time.
    std::thread::sleep(Duration::from_secs(8));
    let claims = stage.admin.get("pvc -n acme");
    assert_eq!(claims["items"].as_array().map_or(0, Vec::len), 16, "claims");
    disks_are_kept(stage, "after 8 s without Pods");
    // In the archived form the hold's own edits are set aside.
    snapshot.expect_untouched(&stage.snapshot("acme").await, "held");

    let live = stage.cancel("held");
    expect_condition(&live, "Succeeded", &["False CancelledByUser", "1 Sites released"]);
    expect_raw(stage, &before, "I7: cancelled");
    snapshot.expect_untouched(&stage.snapshot("acme").await, "I7: cancelled");
    let owned =
        stage.admin.kubectl("get deploy,sts,rs,cronjob -n acme -o yaml --show-managed-fields");
    assert!(!owned.worked().contains(names::HOLD_MANAGER), "a field is still owned by the hold");
    stage.admin.until("site acme", "Active", |live| live["status"]["state"] == "Active");
}

fn users_and_gitops_in_between(stage: &People) {
    let before = raw(stage);
    stage.hold("contested", "Site", &["site-1"], 600);
    let replicas = |what: &str, n: i64| {
        stage.admin.until(&format!("deploy {what} -n acme"), &format!("{n} replicas"), |live| {
            live["spec"]["replicas"] == n
        })
    };
    replicas("web", 0);
    // A user wants another number, once: it is out of service again, and gets that number back.
    stage.admin.kubectl("scale deploy web -n acme --replicas=5").worked();
    replicas("web", 0);
    let patch = r#"{"spec":{"schedule":"0 4 1 1 *"}}"#;
    stage.admin.run(&["patch", "cronjob", "nightly", "-n", "acme", "-p", patch], "").worked();
    // Argo CD and Flux apply what git says, by force, again and again: told, then let be.
    let managers = [("gitops", "argocd"), ("flux", "kustomize-controller")];
    for _ in 0..4 {
        for (name, manager) in managers {
            replicas(name, 0);
            let manifest = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": "acme"}, "spec": {"replicas": 2},
            });
            let args =
                format!("apply --server-side --force-conflicts --field-manager={manager} -f -");
            stage.admin.with_input(&args, &manifest.to_string()).worked();
        }
    }
    stage.admin.until("events.events.k8s.io -A", "told, and let be", |all| {
        let notes = all["items"].as_array().into_iter().flatten();
        let notes = notes.filter(|e| e["reason"] == "QuarantineContested");
        let notes: Vec<&str> = notes.filter_map(|e| e["note"].as_str()).collect();
        managers.iter().all(|(name, manager)| {
            let by = format!("acme/{name} was put back into service by {manager} ");
            let told = |w: &str| notes.iter().any(|n| n.contains(&by) && n.contains(w));
            told("3 of 3") && told("let be")
        })
    });
    std::thread::sleep(Duration::from_secs(2));
    replicas("gitops", 2);
    replicas("flux", 2);
    // A user's change of what is let be wins over what was.
    stage.admin.kubectl("scale deploy gitops -n acme --replicas=7").worked();

    stage.cancel("contested");
    stage.admin.until("events.events.k8s.io -A", "the change told", |all| {
        let mut notes = all["items"].as_array().into_iter().flatten();
        notes.any(|e| {
            let note = e["note"].as_str().unwrap_or_default();
            e["reason"] == "ChangedWhileHeld"
                && note.contains("acme/gitops: spec.replicas is 7, and was 2")
        })
    });
    let mut expected = before;
    expected.get_mut("Deployment/\"gitops\"").expect("gitops")["spec"]["replicas"] = json!(7);
    expected.get_mut("Deployment/\"web\"").expect("web")["spec"]["replicas"] = json!(5);
    let nightly = expected.get_mut("CronJob/\"nightly\"").expect("nightly");
    nightly["spec"]["schedule"] = json!("0 4 1 1 *");
    // Their ReplicaSets are scaled with them.
    for (app, n) in [("web", 5), ("gitops", 7)] {
        let live = stage.admin.until("rs -n acme", &format!("{n} replicas"), |all| {
            let mut all = all["items"].as_array().into_iter().flatten();
            all.any(|rs| rs["metadata"]["labels"]["app"] == app && rs["spec"]["replicas"] == n)
        });
        let sets = live["items"].as_array().into_iter().flatten();
        for set in sets.filter(|rs| rs["metadata"]["labels"]["app"] == app) {
            let key = format!("ReplicaSet/{}", set["metadata"]["name"]);
            expected.get_mut(&key).expect("its ReplicaSet")["spec"]["replicas"] = json!(n);
        }
    }
    expect_raw(stage, &expected, "I7: users changed things in between");
}

async fn purged(stage: &People) {
    let before = stage.admin.get("sts -n acme");
    let snapshot = stage.snapshot("acme").await;
    stage.hold("gone", "Site", &["site-1"], 10);
    let live = stage.alice.until_state("gone", "Completed");
    expect_condition(&live, "Succeeded", &["True Purged", "1 Sites deleted"]);
    let status = &live["status"];
    assert_eq!((&status["wave"]["number"], &status["wave"]["purged"]), (&json!(1), &json!(1)));
    stage.admin.kubectl("get namespace acme").failed(&["(NotFound)"]);
    // The control: what nothing keeps is gone with its claim.
    stage.admin.kubectl("delete pvc control -n default --timeout=30s").worked();
    stage.admin.until("pv", "the disk of the control gone", |all| {
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let live = items.iter().find(|v| v["metadata"]["name"] == "disk-control");
        live.is_none_or(|v| {
            v["status"]["phase"] == "Failed" || !v["metadata"]["deletionTimestamp"].is_null()
        })
    });
    disks_are_kept(stage, "purged");
    stage.restore("back", &json!({"deletionRequestRef": {"name": "gone"}}));
    let specs = |all: &Value| {
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let spec = |o: &Value| (o["metadata"]["name"].to_string(), o["spec"].clone());
        items.iter().map(spec).collect::<BTreeMap<_, _>>()
    };
    let now = stage.admin.get("sts -n acme");
    // As they were, not as the hold had them.
    assert_eq!(specs(&before), specs(&now), "StatefulSets after the restore");
    snapshot.expect_equal(&stage.snapshot("acme").await, "restored");
    let applied =
        stage.admin.kubectl("get deploy,sts,cronjob -n acme -o yaml --show-managed-fields");
    assert!(!applied.worked().contains(names::HOLD_MANAGER), "a field is owned by the hold");
    disks_are_kept(stage, "restored");
    // Each disk is bound to its own claim again.
    let all = stage.admin.until("pv", "every disk bound", |all| {
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let of_site = |v: &&Value| v["spec"]["claimRef"]["namespace"] == "acme";
        let all: Vec<&Value> = items.iter().filter(of_site).collect();
        all.len() == 16 && all.iter().all(|v| v["status"]["phase"] == "Bound")
    });
    for disk in all["items"].as_array().into_iter().flatten() {
        let name = disk["metadata"]["name"].as_str().unwrap_or_default();
        if let Some(rest) = name.strip_prefix("disk-db-") {
            let claim = format!("data-db-{rest}");
            expect(name, &claim, &disk["spec"]["claimRef"]["name"], disk);
        }
    }
}
