//! B2: backups, and volumes and snapshots that are kept.

use reprieve::api::names;
use reprieve::guard::policy;
use serde_json::{Value, json};

use super::fixtures::{BACKUPS, CONTENTS, VOLUMES};
use super::table::{EVERYBODY, Form, Row, Who, row};

pub fn rows(rows: &mut Vec<Row>) {
    let o = [Who::Operator];
    let p = policy::DELETE_BACKUPS;
    rows.push(row("B2", p, "DELETE Backup", Form::Delete, &format!("{BACKUPS}/t-backup")).may(&o));
    let path = format!("{BACKUPS}?labelSelector=table%3Dyes");
    rows.push(row("B2", p, "DELETE every Backup (deletecollection)", Form::Delete, &path).may(&o));
    let reclaim = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    of_disks(rows, "volume", VOLUMES, ("reclaim policy", &reclaim));
    let deletion = json!({"spec": {"deletionPolicy": "Delete"}});
    of_disks(rows, "content of a snapshot", CONTENTS, ("deletion policy", &deletion));
    // What the snapshot controller does with one.
    let bound = json!({"metadata": {"finalizers": ["example.com/bound"]}, "spec": {
        "volumeSnapshotRef": {"uid": "u"},
    }});
    let (p, kept) = (policy::KEPT_VOLUMES, format!("{CONTENTS}/t-kept"));
    rows.push(
        row("", p, "kept content of a snapshot bound", Form::Merge, &kept)
            .body(bound)
            .may(&EVERYBODY),
    );
    let ready = json!({"status": {"readyToUse": true}});
    let status = format!("{kept}/status");
    rows.push(
        row("", p, "kept content of a snapshot ready, /status", Form::Merge, &status)
            .body(ready)
            .may(&EVERYBODY),
    );
}

fn of_disks(rows: &mut Vec<Row>, what: &str, path: &str, (field, policy_off): (&str, &Value)) {
    let (o, p) = ([Who::Operator], policy::KEPT_VOLUMES);
    let (kept, free) = (format!("{path}/t-kept"), format!("{path}/t-free"));
    let label = |value: Value| json!({"metadata": {"labels": {names::LABEL_KEPT: value}}});
    let b2 = |does: String, form, path: &str| row("B2", p, &does, form, path).may(&o);
    rows.push(b2(format!("DELETE kept {what}"), Form::Delete, &kept));
    let off = label(Value::Null);
    rows.push(b2(format!("kept {what}'s label off"), Form::Merge, &kept).body(off.clone()));
    // A custom resource's /status changes no metadata, whoever asks.
    if path == VOLUMES {
        let status = format!("{kept}/status");
        rows.push(b2(format!("kept {what}'s label off, /status"), Form::Merge, &status).body(off));
    }
    let x = || label(json!("x"));
    rows.push(b2(format!("kept {what}'s label changed"), Form::Merge, &kept).body(x()));
    rows.push(b2(format!("label on another {what}"), Form::Merge, &free).body(x()));
    rows.push(b2(format!("kept {what}'s {field}"), Form::Merge, &kept).body(policy_off.clone()));
    let former = json!({"metadata": {"annotations": {names::ANNOTATION_FORMER: "{}"}}});
    for (which, path) in [("kept", &kept), ("another", &free)] {
        rows.push(b2(format!("{which} {what}'s record"), Form::Merge, path).body(former.clone()));
    }
    let keep = json!({"metadata": {"annotations": {names::ANNOTATION_KEEP_DISK: "audit"}}});
    rows.push(
        row("", p, &format!("kept {what} is to stay kept"), Form::Merge, &kept)
            .body(keep)
            .may(&EVERYBODY),
    );
    rows.push(
        row("", p, &format!("another {what}'s {field}"), Form::Merge, &free)
            .body(policy_off.clone())
            .may(&EVERYBODY),
    );
    rows.push(row("", p, &format!("DELETE another {what}"), Form::Delete, &free).may(&EVERYBODY));
}
