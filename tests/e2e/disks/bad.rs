//! A claim whose disk is gone, one whose disk is another claim's by now, and one whose storage class
//! is no more: what backup, hold and restore say of them, and that nothing else is touched.

use super::{claim, items, volume};
use crate::people::People;
use crate::user::{User, expect_condition, request};
use reprieve::api::names;
use serde_json::{Value, json};

const CLAIMS: [(&str, &str); 3] = [("gone", "manual"), ("elsewhere", "manual"), ("fast", "fast")];

pub fn told(stage: &People) {
    build(stage);
    back_up(stage, "whole");
    break_them(stage);
    backup_tells(stage);
    hold_tells(stage);
    restore_tells(stage);
}

fn build(stage: &People) {
    stage.make_sites(&[("bad".to_owned(), 900)]);
    let mut made = vec![json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"},
        "provisioner": "kubernetes.io/no-provisioner",
    })];
    for (name, class) in CLAIMS {
        made.push(volume(&format!("bad-{name}"), ("bad", name), class, "Retain"));
        made.push(claim("bad", name, class));
    }
    stage.make(&made);
    bound(stage);
}

fn bound(stage: &People) {
    stage.admin.until("pvc -n bad", "every claim bound", |all| {
        items(all).len() == 3 && items(all).iter().all(|c| c["status"]["phase"] == "Bound")
    });
}

fn back_up(stage: &People, name: &str) {
    let backup = json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": name},
        "spec": {"siteRef": {"name": "bad"}},
    });
    stage.admin.create(&backup).worked();
    stage
        .admin
        .kubectl(&format!("wait --for=condition=Verified bkp/{name} --timeout=60s"))
        .worked();
}

/// An administrator takes the disks of living claims away, with force.
fn break_them(stage: &People) {
    let patch = |what: &str, patch: &str| {
        let args =
            [&["patch"][..], &what.split(' ').collect::<Vec<_>>(), &["--type=merge", "-p", patch]];
        stage.admin.run(&args.concat(), "").worked();
    };
    for name in ["bad-gone", "bad-fast"] {
        stage.admin.kubectl(&format!("delete pv {name} --wait=false")).worked();
        patch(&format!("pv {name}"), r#"{"metadata":{"finalizers":null}}"#);
    }
    stage.admin.kubectl("delete sc fast").worked();
    let other = r#"{"spec":{"claimRef":{"namespace":"default","name":"other","uid":null,"resourceVersion":null}}}"#;
    patch("pv bad-elsewhere", other);
    let mut claim = claim("default", "other", "manual");
    claim["spec"]["volumeName"] = json!("bad-elsewhere");
    stage.admin.create(&claim).worked();
    stage.admin.until("pvc other -n default", "bound", |live| live["status"]["phase"] == "Bound");
    stage.admin.until("pvc -n bad", "every claim lost", |all| {
        items(all).iter().all(|c| c["status"]["phase"] == "Lost")
    });
}

/// Whether an event of this reason, on this object, says all of this.
fn event(stage: &People, reason: &str, on: &str, words: &[&str]) {
    stage.admin.until("events.events.k8s.io -A", &format!("{reason} on {on}"), |all| {
        items(all).iter().any(|e| {
            let note = e["note"].as_str().unwrap_or_default();
            e["reason"] == reason
                && e["regarding"]["name"] == on
                && e["type"] == "Warning"
                && words.iter().all(|word| note.contains(word))
        })
    });
}

fn backup_tells(stage: &People) {
    back_up(stage, "broken");
    let live = stage.admin.get("bkp broken");
    expect_condition(&live, "Verified", &["True", "3 claims have lost their disk", "bad/"]);
    let volumes = live["status"]["volumes"].as_array().cloned().unwrap_or_default();
    // A disk that is another claim's is no protection of this one.
    assert!(volumes.len() == 3 && volumes.iter().all(|v| v["protection"] == "None"), "{volumes:?}");
    let words = [
        "bad/gone: its disk bad-gone is gone",
        "bad/elsewhere: its disk bad-elsewhere is bound to the claim default/other",
        "bring the data back",
    ];
    event(stage, "DiskMissing", "broken", &words);
}

fn hold_tells(stage: &People) {
    let ids = ["site-900".to_owned()];
    let live = stage.ask("bad", "Site", &["site-900"], 10);
    let words = ["False OverrideRequired", "claim bad/", "is not there, or is another claim's"];
    expect_condition(&live, "WithinBlastRadius", &words);
    let mut asked = request("bad-all-the-same", "Site", &ids);
    asked["spec"]["retentionSeconds"] = json!(10);
    asked["spec"]["override"] = json!({"justification": "their disks are lost already"});
    stage.alice.create(&asked).worked();
    let live = stage.alice.until_state("bad-all-the-same", "AwaitingApproval");
    let entity = &live["status"]["plan"]["entities"][0];
    assert_eq!((&entity["unprotected"], &entity["claims"]), (&json!(3), &json!(3)), "{entity}");
    let dave = User::person(&stage.sandbox, "dave", "reprieve-approver");
    stage.approve("bad-all-the-same");
    dave.approve("bad-all-the-same", "dave").worked();
    stage.alice.until_state("bad-all-the-same", "Completed");
    untouched(stage);
}

/// The other claim has its disk, as it is.
fn untouched(stage: &People) {
    let disk = stage.admin.get("pv bad-elsewhere");
    assert_eq!(disk["spec"]["claimRef"]["name"], "other", "{disk}");
    assert_eq!(
        (&disk["status"]["phase"], &disk["metadata"]["labels"]),
        (&json!("Bound"), &Value::Null)
    );
    assert_eq!(disk["spec"]["claimRef"]["uid"], stage.uid("pvc other -n default"), "{disk}");
}

fn restore_tells(stage: &People) {
    let restore = json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": "bad"},
        "spec": {"source": {"backupRefs": [{"name": "whole"}]}},
    });
    stage.admin.create(&restore).worked();
    // It waits, and says for what.
    let new = |name: &str, class: &str| {
        volume(&format!("bad-{name}-new"), ("bad", name), class, "Retain")
    };
    let steps = [
        ("elsewhere", "manual", vec![new("elsewhere", "manual"), new("gone", "manual")]),
        ("fast", "fast", vec![new("fast", "fast")]),
    ];
    for (name, class, volumes) in steps {
        let class_missing =
            format!("there is no StorageClass {class} to make one: create that class");
        let said = format!("claim bad/{name} is Pending: it has no disk, and {class_missing}");
        stage.admin.until("rst bad", &said, |live| {
            crate::user::condition(live, "Succeeded").contains(&said)
        });
        stage.make(&volumes);
    }
    let live =
        stage.admin.until("rst bad", "its end", |live| !live["status"]["completionTime"].is_null());
    expect_condition(
        &live,
        "Succeeded",
        &["True Verified", "3 claims came back without their disk"],
    );
    let notices = live["status"]["notices"].as_array().cloned().unwrap_or_default();
    let disks: Vec<&Value> = notices.iter().filter(|n| n["reason"] == "DiskMissing").collect();
    let says = |words: &str| {
        disks.iter().any(|n| n["message"].as_str().unwrap_or_default().contains(words))
    };
    assert!(
        disks.len() == 3 && says("bad-gone is gone") && says("claim default/other"),
        "{notices:?}"
    );
    event(stage, "DiskMissing", "bad", &["bring the data back"]);
    bound(stage);
    untouched(stage);
    stage.admin.until("site bad", "Active", |live| live["status"]["state"] == "Active");
}
