//! What a hold does to each kind of object, and that a release undoes all of it.

use super::*;
use crate::deletion::fixtures::{claim, edited, workload};

fn annotation(held: &Held) -> &Value {
    &held.value["metadata"]["annotations"][names::ANNOTATION_FORMER]
}

fn hold(held: &mut Held, request: &str) {
    for _ in 0..9 {
        let edit = held.keep(request, "acme").or_else(|| Some(held.stop(request)?.0));
        let Some(edit) = edit else { return };
        edited(held, &edit);
    }
    panic!("never ends: {held:?}");
}

fn release(held: &mut Held, request: &str) -> Vec<String> {
    let mut told = vec![];
    while let Some((edit, note)) = held.let_go(request) {
        edited(held, &edit);
        told.extend(note.map(|n| n.note));
    }
    told
}

/// Without what is empty: a label that was taken off leaves an empty map.
fn bare(held: &Held) -> Value {
    let mut value = held.value.clone();
    for field in ["annotations", "labels"] {
        if value["metadata"][field].as_object().is_some_and(serde_json::Map::is_empty) {
            value["metadata"].as_object_mut().unwrap().remove(field);
        }
    }
    value
}

fn retention(scaled: &str, deleted: &str, replicas: i64) -> Value {
    json!({ "replicas": replicas, "persistentVolumeClaimRetentionPolicy": {
        "whenScaled": scaled, "whenDeleted": deleted,
    } })
}

fn kinds() -> Vec<Held> {
    let mut all = vec![
        workload("Deployment", "acme", "web", json!({ "replicas": 3 })),
        workload("Deployment", "acme", "off", json!({ "replicas": 0 })),
        workload("ReplicaSet", "acme", "free", json!({ "replicas": 1 })),
        workload("CronJob", "acme", "nightly", json!({ "suspend": false })),
        workload("CronJob", "acme", "paused", json!({ "suspend": true })),
        workload("VolumeSnapshotContent", "acme", "snap", json!({ "deletionPolicy": "Delete" })),
        workload("DaemonSet", "acme", "agent", json!({})),
    ];
    for policy in ["Retain", "Delete", "Recycle"] {
        all.push(claim("acme", "data", policy).volume().unwrap().clone());
    }
    for scaled in ["Retain", "Delete"] {
        for deleted in ["Retain", "Delete"] {
            all.push(workload("StatefulSet", "acme", "db", retention(scaled, deleted, 2)));
        }
    }
    all
}

#[test]
fn a_release_puts_back_exactly_what_was() {
    for mut held in kinds() {
        let before = bare(&held);
        let what = before.to_string();
        hold(&mut held, "r1");
        let spec = &held.value["spec"];
        assert!(spec["replicas"].as_i64().unwrap_or(0) == 0, "{what}");
        assert!(spec["suspend"] != false, "{what}");
        assert!(!spec.to_string().contains("\"Delete\""), "{what}: {spec}");
        assert_eq!(release(&mut held, "other"), [""; 0], "of another request");
        let running = before["spec"]["replicas"] == 0 || before["spec"]["suspend"] == true;
        let untouched = running || held.kind == HeldKind::RunsOn;
        assert_eq!(annotation(&held).is_null(), untouched, "{what}");
        assert_eq!(release(&mut held, "r1"), [""; 0], "{what}");
        assert_eq!(bare(&held), before, "{what}");
    }
}

/// B9: nothing is scaled down whose claims would go.
#[test]
fn a_stateful_set_is_not_stopped_before_its_claims_are_kept() {
    for (scaled, deleted) in [("Delete", "Retain"), ("Retain", "Delete"), ("Delete", "Delete")] {
        let mut set = workload("StatefulSet", "acme", "db", retention(scaled, deleted, 2));
        assert_eq!(set.stop("r1"), None);
        let edit = set.keep("r1", "acme").unwrap();
        edited(&mut set, &edit);
        assert_eq!(set.keep("r1", "acme"), None);
        assert!(set.stop("r1").is_some());
    }
}

#[test]
fn a_disk_that_two_requests_keep_gets_its_policy_back_with_the_last() {
    let mut volume = claim("acme", "data", "Delete").volume().unwrap().clone();
    let before = bare(&volume);
    hold(&mut volume, "r1");
    hold(&mut volume, "r2");
    release(&mut volume, "r2");
    assert_eq!(volume.reclaim_policy(), Some(RETAIN));
    assert_eq!(volume.value["metadata"]["labels"][names::LABEL_KEPT], "acme");
    hold(&mut volume, "r2");
    release(&mut volume, "r1");
    assert_eq!(volume.reclaim_policy(), Some(RETAIN));
    release(&mut volume, "r2");
    assert_eq!(bare(&volume), before);
}

#[test]
fn who_puts_it_back_into_service_is_told_and_after_three_times_let_be() {
    let mut web = workload("Deployment", "acme", "web", json!({ "replicas": 3 }));
    hold(&mut web, "r1");
    let mut told = vec![];
    for _ in 0..9 {
        web.value["spec"]["replicas"] = json!(5);
        while let Some((edit, note)) = web.stop("r1") {
            edited(&mut web, &edit);
            told.extend(note.map(|n| n.note));
        }
    }
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].contains("by argocd") && told[0].contains("1 of 3"), "{told:?}");
    assert!(told[3].contains("let be"), "{told:?}");
    assert_eq!(web.value["spec"]["replicas"], 5);
    // Their change wins.
    release(&mut web, "r1");
    assert_eq!(web.value["spec"], json!({ "replicas": 5 }));
    assert!(annotation(&web).is_null());
}

#[test]
fn what_users_change_meanwhile_stays() {
    // Scaled by somebody, and stopped again: that is what is put back.
    let mut web = workload("Deployment", "acme", "web", json!({ "replicas": 3 }));
    hold(&mut web, "r1");
    web.value["spec"]["replicas"] = json!(7);
    hold(&mut web, "r1");
    assert_eq!(web.value["spec"]["replicas"], 0);
    release(&mut web, "r1");
    assert_eq!(web.value["spec"]["replicas"], 7);
    // In the moment of the release.
    hold(&mut web, "r1");
    web.value["spec"]["replicas"] = json!(4);
    let told = release(&mut web, "r1");
    assert_eq!(web.value["spec"]["replicas"], 4);
    assert!(told[0].contains("spec.replicas is 4, and was 7"), "{told:?}");
}

#[test]
fn a_copy_of_a_record_goes_with_its_request() {
    let mut web = workload("Deployment", "acme", "web", json!({ "replicas": 3 }));
    hold(&mut web, "r1");
    let mut copy = workload("ReplicaSet", "acme", "web-1", json!({ "replicas": 0 }));
    copy.kind = HeldKind::Copy;
    copy.value["metadata"]["annotations"] = web.value["metadata"]["annotations"].clone();
    assert_eq!(copy.let_go("other"), None);
    let (edit, _) = copy.let_go("r1").unwrap();
    edited(&mut copy, &edit);
    assert!(annotation(&copy).is_null());
    assert_eq!(copy.value["spec"], json!({ "replicas": 0 }));
}

#[test]
fn what_was_announced_of_a_disk_ends_when_it_is_held_again() {
    let mut held = claim("acme", "data", "Delete").volume().unwrap().clone();
    hold(&mut held, "first");
    let mut record: Value = serde_json::from_str(annotation(&held).as_str().unwrap()).unwrap();
    record["releaseTime"] = json!("2026-11-23T12:00:00Z");
    held.value["metadata"]["annotations"][names::ANNOTATION_FORMER] = json!(record.to_string());
    hold(&mut held, "second");
    let record = annotation(&held).as_str().unwrap();
    assert!(record.contains("second") && !record.contains("releaseTime"), "{record}");
}
