//! A kept disk of a purged site, once its backups have expired: announced, not done before, and done
//! then. The looks are the operator's own, with its account; only the time between announcing and
//! doing is shorter than the week of a real one.

use super::items;
use crate::people::People;
use crate::user::{User, expect};
use reprieve::api::{Time, names};
use reprieve::backup::disks::{NOTICE_SECONDS, look};
use reprieve::cluster::Context;
use reprieve::store::Store;
use serde_json::Value;

/// How long before it is done it is announced here.
const NOTICE: i64 = 12;
/// Formerly Delete, Retain and Delete; the last one is to be kept for good.
const DISKS: [&str; 3] = ["disk-fleet-1", "disk-fleet-2", "disk-fleet-3"];

fn record(disk: &Value) -> Value {
    let text = disk["metadata"]["annotations"][names::ANNOTATION_FORMER].as_str();
    serde_json::from_str(text.unwrap_or("null")).expect("JSON")
}

pub async fn announced_then_done(stage: &People) {
    let sandbox = &stage.sandbox;
    let client = sandbox.client_for(&sandbox.operator_kubeconfig()).await.expect("a client");
    let ctx = Context::new(client);
    let store = Store::open(&sandbox.store_url()).await.expect("the store");
    for n in 1..=3 {
        stage.ask(&format!("again-{n}"), "Site", &[&format!("site-{n}")], 10);
    }
    for n in 1..=3 {
        stage.approve(&format!("again-{n}"));
    }
    stage.wait_long("dreq", "every request ended", |all| {
        let ended = ["Completed", "Refused"].map(Value::from);
        items(all).iter().all(|r| ended.contains(&r["status"]["state"]))
    });
    // For both requests that have purged these sites.
    let disk = stage.admin.get(&format!("pv {}", DISKS[0]));
    assert_eq!(record(&disk)["requests"].as_array().map(Vec::len), Some(2), "{disk}");
    let looked = look(&ctx, &store, NOTICE).await.expect("a look");
    assert_eq!((looked.announced.len(), looked.released.len()), (0, 0), "its backups are there");
    assert!(looked.kept >= 3, "{looked:?}");

    expire(stage, &store).await;
    let mut looked = look(&ctx, &store, NOTICE).await.expect("a look");
    looked.announced.sort();
    assert_eq!(looked.announced, DISKS, "of the other sites' disks each is needed: {looked:?}");
    assert_eq!(looked.released, [""; 0]);
    assert!(ctx.metrics.encode().contains(r#"reprieve_kept_disks{state="announced"} 3"#));
    let announced = stage.admin.get("pv");
    let mut at: Vec<Time> = vec![];
    for name in DISKS {
        let disk = items(&announced).iter().find(|v| v["metadata"]["name"] == name).expect(name);
        expect(name, "Retain", &disk["spec"]["persistentVolumeReclaimPolicy"], disk);
        at.push(serde_json::from_value(record(disk)["releaseTime"].clone()).expect("a time"));
        stage.admin.until("events.events.k8s.io -A", "the announcement", |all| {
            items(all).iter().any(|e| {
                let note = e["note"].as_str().unwrap_or_default();
                e["reason"] == "DiskReleaseAnnounced"
                    && e["type"] == "Warning"
                    && e["regarding"]["name"] == name
                    && note.contains("keep-disk=why")
            })
        });
    }
    // Nobody hurries it.
    let hurry = format!("annotate --overwrite pv {} {}={{}}", DISKS[0], names::ANNOTATION_FORMER);
    stage.admin.kubectl(&hurry).denied(&["reprieve-kept-volumes", "written by the operator only"]);
    // A week is a week, for whoever looks again; and what is to be kept is not waited for.
    let keep = format!("annotate pv {} {}=audit", DISKS[2], names::ANNOTATION_KEEP_DISK);
    stage.admin.kubectl(&keep).worked();
    let looked = look(&ctx, &store, NOTICE_SECONDS).await.expect("a look");
    assert_eq!((looked.withdrawn, looked.announced), (vec![DISKS[2].to_owned()], vec![]));
    let mut released = vec![];
    while released.len() < 2 {
        let before: Time = chrono::Utc::now().into();
        let looked = look(&ctx, &store, NOTICE).await.expect("a look");
        let after: Time = chrono::Utc::now().into();
        let due = at.iter().min().expect("times");
        assert!(looked.released.is_empty() || after >= *due, "{after}: {looked:?}, due {due}");
        assert!(before.seconds_since(*due) < 30, "{before}: {released:?} only, due {due}");
        released.extend(looked.released);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    released.sort();
    assert_eq!(released, DISKS[..2]);
    as_released(stage);
}

/// What a look through the store does when the time of every backup of these sites has passed, as
/// `schedule` tries it: the shortest time that a policy may say is 30 days.
async fn expire(stage: &People, store: &Store) {
    for n in 1..=3 {
        for entry in store.backups_of(&format!("site-{n}")).await.expect("the catalogue") {
            store.take_away(&entry.location).await.expect("taken away");
        }
    }
    let operator = User::new(&stage.sandbox, stage.sandbox.operator_kubeconfig());
    for backup in items(&stage.admin.get("bkp")) {
        let site = backup["spec"]["siteRef"]["name"].as_str().unwrap_or_default();
        if ["fleet-1", "fleet-2", "fleet-3"].contains(&site) {
            let name = backup["metadata"]["name"].as_str().expect("a name");
            operator.kubectl(&format!("delete bkp {name}")).worked();
        }
    }
}

fn as_released(stage: &People) {
    // It goes by the controller's hand: at once, or never where it cannot, as with this kind of disk.
    stage.admin.until("pv", "the disk given up", |all| {
        let disk = items(all).iter().find(|v| v["metadata"]["name"] == DISKS[0]);
        disk.is_none_or(|v| {
            v["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
                && v["metadata"]["labels"][names::LABEL_KEPT].is_null()
                && (v["status"]["phase"] == "Failed"
                    || !v["metadata"]["deletionTimestamp"].is_null())
        })
    });
    let retained = stage.admin.get(&format!("pv {}", DISKS[1]));
    expect("policy", "Retain", &retained["spec"]["persistentVolumeReclaimPolicy"], &retained);
    assert!(retained["metadata"]["labels"][names::LABEL_KEPT].is_null(), "{retained}");
    assert!(record(&retained).is_null(), "{retained}");
    let kept = stage.admin.get(&format!("pv {}", DISKS[2]));
    expect("label", "fleet-3", &kept["metadata"]["labels"][names::LABEL_KEPT], &kept);
    expect("policy", "Retain", &kept["spec"]["persistentVolumeReclaimPolicy"], &kept);
    assert!(record(&kept)["releaseTime"].is_null(), "{kept}");
}
