//! A fleet of sites with StatefulSets and claims on hand-made disks: hold, purge, restore, drill.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{claim, claim_spec, items, volume};
use crate::people::People;
use crate::user::expect;
use reprieve::api::names;
use serde_json::{Value, json};

/// Reclaim policy of the n-th site's disk, and whenScaled and whenDeleted of its StatefulSet.
fn policies(n: usize) -> [&'static str; 3] {
    [1, 2, 4].map(|bit| if n & bit == 0 { "Delete" } else { "Retain" })
}

fn stateful_set(site: &str, n: usize) -> Value {
    let [_, scaled, deleted] = policies(n);
    let pod = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": site},
        "spec": {
            "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": pod},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim_spec("manual")}],
        },
    })
}

/// Builds a fleet of so many sites, takes it through hold, purge and restore, so many in a request,
/// and drills some of it.
pub async fn there_and_back(stage: &People, sites: usize, together: usize, drilled: usize) {
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s   {what}", begun.elapsed().as_secs_f64());
    let fleet: Vec<(String, u32)> =
        (1..=sites).map(|n| (format!("fleet-{n}"), u32::try_from(n).expect("few"))).collect();
    stage.make_sites(&fleet);
    let mut made = vec![];
    for (n, (site, _)) in fleet.iter().enumerate() {
        made.push(volume(&format!("disk-{site}"), (site, "data-db-0"), "manual", policies(n)[0]));
        made.push(stateful_set(site, n));
    }
    // Another tenant waits for any disk of that class that comes free.
    made.push(claim("default", "waiting", "manual"));
    stage.make(&made);
    all_bound(stage, sites);
    stage.wait_long("sts -A", "every Pod ready", |all| {
        items(all).len() == sites && items(all).iter().all(|s| s["status"]["readyReplicas"] == 1)
    });
    step("built");
    let (sets, disks) = (specs(stage), uids(stage));

    let requests: Vec<Vec<String>> = fleet
        .chunks(together)
        .map(|some| some.iter().map(|s| format!("site-{}", s.1)).collect())
        .collect();
    for (n, ids) in requests.iter().enumerate() {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        stage.ask(&format!("all-{n}"), "Site", &ids, 10);
    }
    for n in 0..requests.len() {
        stage.approve(&format!("all-{n}"));
    }
    stage.wait_long("dreq", "every window begun", |all| {
        items(all).iter().all(|r| !r["status"]["retention"].is_null())
    });
    kept(stage, &fleet, "held");
    step("held");
    stage.wait_long("dreq", "every request completed", |all| {
        items(all).iter().all(|r| r["status"]["state"] == "Completed")
    });
    assert_eq!(items(&stage.admin.get("site")).len(), 0, "every Site is gone");
    kept(stage, &fleet, "purged");
    assert_eq!(uids(stage), disks, "purged: the same disks");
    step("purged");

    let ids: Vec<String> = fleet.iter().map(|(_, n)| format!("site-{n}")).collect();
    let restore = json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": "fleet"},
        "spec": {"source": {"sites": {"ids": ids}}},
    });
    stage.admin.create(&restore).worked();
    let live =
        stage.wait_long("rst fleet", "its end", |live| !live["status"]["completionTime"].is_null());
    crate::user::expect_condition(&live, "Succeeded", &["True Verified"]);
    step("restored");
    let all = all_bound(stage, sites);
    let claims = stage.admin.get("pvc -A");
    for (site, _) in &fleet {
        let name = format!("disk-{site}");
        let disk = items(&all).iter().find(|v| v["metadata"]["name"] == name.as_str());
        let disk = disk.unwrap_or_else(|| panic!("{name} is gone"));
        let of_site = |c: &&Value| c["metadata"]["namespace"] == site.as_str();
        let claim = items(&claims).iter().find(of_site).expect("its claim");
        expect(&name, &name, &claim["spec"]["volumeName"], claim);
        assert_eq!(disk["spec"]["claimRef"]["uid"], claim["metadata"]["uid"], "{name}: {disk}");
    }
    assert_eq!(uids(stage), disks, "restored: the same disks");
    assert_eq!(specs(stage), sets, "restored: every StatefulSet as it was");
    let waiting = stage.admin.get("pvc waiting -n default");
    expect("another tenant's claim", "Pending", &waiting["status"]["phase"], &waiting);
    stage.admin.kubectl("wait --for=condition=Ready site --all --timeout=120s").worked();

    let backups: Vec<Value> = fleet.iter().map(|(site, _)| json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": format!("{site}-now")},
        "spec": {"siteRef": {"name": site}},
    })).collect();
    stage.make(&backups);
    stage.admin.kubectl("wait --for=condition=Verified bkp --all --timeout=300s").worked();
    let mut audit = stage.sandbox.audit_from_now().expect("an audit log");
    let drill = json!({
        "apiVersion": names::API_VERSION, "kind": "RestoreDrill", "metadata": {"name": "sample"},
        "spec": {"sample": {"sites": drilled, "strategy": "Random"}},
    });
    stage.admin.create(&drill).worked();
    let live = stage.wait_long("drill sample", "the end of its run", |live| {
        live["status"]["runs"].as_array().is_some_and(|all| !all.is_empty())
            && live["status"]["run"].is_null()
    });
    let whole = format!("{drilled} of {drilled} sites");
    crate::user::expect_condition(&live, "Drilled", &["True Drilled", &whole]);
    let log = audit.read().expect("an audit log");
    let made = crate::drill::nothing_outside(&log);
    assert!(made.contains("statefulsets") && !made.contains("persistentvolumeclaims"), "{made:?}");
    assert_eq!(uids(stage), disks, "drilled: the same disks");
    step("drilled");
}

/// Every disk of the fleet, bound.
fn all_bound(stage: &People, disks: usize) -> Value {
    stage.wait_long("pv", "every disk bound", |all| {
        let all = items(all);
        all.len() == disks && all.iter().all(|v| v["status"]["phase"] == "Bound")
    })
}

fn kept(stage: &People, fleet: &[(String, u32)], when: &str) {
    let all = stage.admin.get("pv");
    assert_eq!(items(&all).len(), fleet.len(), "{when}: disks");
    for (n, (site, _)) in fleet.iter().enumerate() {
        let name = format!("disk-{site}");
        let disk = items(&all).iter().find(|v| v["metadata"]["name"] == name.as_str());
        let disk = disk.unwrap_or_else(|| panic!("{when}: {name} is gone"));
        assert!(disk["metadata"]["deletionTimestamp"].is_null(), "{when}: {name} is on its way");
        expect(&name, "Retain", &disk["spec"]["persistentVolumeReclaimPolicy"], disk);
        expect(&name, site, &disk["metadata"]["labels"][names::LABEL_KEPT], disk);
        let record = disk["metadata"]["annotations"][names::ANNOTATION_FORMER].as_str();
        let record: Value = serde_json::from_str(record.unwrap_or("null")).expect("JSON");
        expect(
            &format!("{when}: record of {name}"),
            policies(n)[0],
            &record["reclaimPolicy"],
            disk,
        );
    }
}

fn uids(stage: &People) -> BTreeMap<String, Value> {
    let all = stage.admin.get("pv");
    let uid = |v: &Value| (v["metadata"]["name"].to_string(), v["metadata"]["uid"].clone());
    items(&all).iter().map(uid).collect()
}

fn specs(stage: &People) -> BTreeMap<String, Value> {
    let all = stage.admin.get("sts -A");
    let spec = |s: &Value| (s["metadata"]["namespace"].to_string(), s["spec"].clone());
    items(&all).iter().map(spec).collect()
}
