//! Nothing hinders: announced, waited for, done. And everything that hinders.

use serde_json::json;

use super::*;
use crate::store::{
    ArchiveFile, CataloguedApp, Contents, Damage, Identity, Listing, StoreError, catalogue, ledger,
};

const DAY: i64 = 86_400;

fn at(day: i64) -> Time {
    chrono::DateTime::from_timestamp(1_800_000_000 + day * DAY, 0).unwrap().into()
}

fn disk(policy: &str, announced: Option<Time>) -> Disk {
    let former = Former {
        uid: "v".into(),
        requests: vec!["r".into()],
        reclaim_policy: Some(policy.into()),
        release_time: announced,
        ..Former::default()
    };
    let value = json!({
        "kind": "PersistentVolume",
        "metadata": {"name": "disk", "uid": "v", "resourceVersion": "7",
            "labels": {"reprieve.dev/kept": "acme"},
            "annotations": {"reprieve.dev/former": former.to_text()}},
        "spec": {"persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": "acme", "name": "data", "uid": "c"}},
        "status": {"phase": "Released"},
    });
    let exact = Exact { name: "disk".into(), uid: "v".into(), resource_version: "7".into() };
    Disk { exact, value, kept_for: "acme".into(), claim_lives: false }
}

fn purge(kind: TargetKind) -> Purge {
    let (id, uid) = if kind == TargetKind::Site { ("s-1", "su") } else { ("a-1", "au") };
    Purge {
        format: ledger::FORMAT.into(),
        kind,
        id: id.into(),
        name: if kind == TargetKind::Site { "acme".into() } else { "wiki".into() },
        uid: uid.into(),
        time: at(10),
        request: "leaving".into(),
        request_uid: "r".into(),
        digest: "d".into(),
        requested_by: "alice".into(),
        approved_by: vec![],
        backup: Some("b9".into()),
        site: (kind == TargetKind::App).then(identity),
    }
}

fn identity() -> Identity {
    Identity { name: "acme".into(), uid: "su".into(), id: "s-1".into() }
}

/// A backup of this site, made on that day.
fn entry(uid: &str, day: i64) -> CatalogueEntry {
    CatalogueEntry {
        format: catalogue::FORMAT.into(),
        backup: format!("b{day}"),
        site: Identity { uid: uid.into(), ..identity() },
        purpose: crate::api::BackupPurpose::Scheduled,
        time: at(day),
        location: format!("sites/s-1/b{day}.u.1.jsonl.zst"),
        digest: "sha256:00".into(),
        objects: 1,
        bytes: 7,
        resource_versions: None,
        changed_objects: None,
        keep_until_time: None,
        contents: None,
    }
}

/// Everything of the purge has expired.
fn facts(kind: TargetKind) -> Facts {
    Facts {
        disks: vec![],
        now: at(50),
        purges: vec![purge(kind)],
        ledger_refused: None,
        requests: vec![request("r", "Completed", "Purged")],
        backups: vec![],
        shelves: [("s-1".to_owned(), Shelf::default())].into(),
        living: BTreeSet::new(),
        site_lives: kind == TargetKind::App,
        restore: None,
        guard: vec![],
    }
}

fn request(uid: &str, state: &str, phase: &str) -> DeletionRequest {
    serde_json::from_value(json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest",
        "metadata": {"name": "leaving", "uid": uid},
        "spec": {"target": {"kind": "Site", "ids": ["s-1"]}, "reason": "a test"},
        "status": {"state": state, "plan": {"totals": {"entities": 1, "namespaces": 1, "apps": 0, "objects": 1, "bytes": 1}, "entities": [{
            "kind": "Site", "id": "s-1", "name": "acme", "uid": "su", "tenant": "Acme",
            "phase": phase}]}},
    }))
    .unwrap()
}

fn backup(label: &str, type_: &str) -> Backup {
    serde_json::from_value(json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup",
        "metadata": {"name": "b", "labels": {"reprieve.dev/request-uid": label}},
        "spec": {"siteRef": {"name": "acme"}},
        "status": {"conditions": [{"type": type_, "status": "True", "reason": "X",
            "lastTransitionTime": "2026-11-23T12:00:00Z"}]},
    }))
    .unwrap()
}

#[test]
fn announced_then_waited_for_then_done() {
    for (kind, policy) in [(TargetKind::Site, "Delete"), (TargetKind::App, "Delete")] {
        let facts = facts(kind);
        let Decision::Announce(patch, note) = decide(&disk(policy, None), &facts, 7 * DAY) else {
            panic!("{kind}");
        };
        assert!(note.warning && note.note.contains(&at(57).to_string()), "{note:?}");
        assert!(note.note.contains("go for good") && note.note.contains("keep-disk"), "{note:?}");
        assert_eq!(patch.get("spec"), None, "nothing is changed before");
        let record = patch["metadata"]["annotations"]["reprieve.dev/former"].as_str().unwrap();
        let record: Former = serde_json::from_str(record).unwrap();
        assert_eq!(record.release_time, Some(at(57)));
        assert_eq!(
            (record.requests, record.reclaim_policy),
            (vec!["r".into()], Some("Delete".into()))
        );

        let announced = disk(policy, Some(at(57)));
        for day in [50, 56] {
            let facts = Facts { now: at(day), ..self::facts(kind) };
            assert_eq!(decide(&announced, &facts, 7 * DAY), Decision::Wait, "day {day}");
        }
        let facts = Facts { now: at(57), ..self::facts(kind) };
        let Decision::Release(patch, note) = decide(&announced, &facts, 7 * DAY) else {
            panic!("{kind}");
        };
        assert_eq!(note.reason, Reason::DiskReleased);
        assert_eq!(
            patch,
            json!({
                "spec": {"persistentVolumeReclaimPolicy": "Delete"},
                "metadata": {"annotations": {"reprieve.dev/former": null}, "labels": {"reprieve.dev/kept": null}},
            })
        );
    }
}

#[test]
fn what_was_retained_before_only_loses_the_marks() {
    let facts = Facts { now: at(57), ..facts(TargetKind::Site) };
    let Decision::Release(patch, note) = decide(&disk("Retain", Some(at(57))), &facts, DAY) else {
        panic!();
    };
    assert_eq!(patch.get("spec"), None);
    assert!(!note.note.contains("go for good"), "{note:?}");
}

/// What is changed of a disk and of the facts, and what the hindrance then says.
type Row = (TargetKind, fn(&mut Disk, &mut Facts), &'static str, bool);

fn set(disk: &mut Disk, pointer: &str, value: Value) {
    *disk.value.pointer_mut(pointer).unwrap() = value;
}

fn former(disk: &mut Disk, change: fn(&mut Former)) {
    let mut record = Former::of(&disk.value).unwrap();
    change(&mut record);
    set(disk, "/metadata/annotations/reprieve.dev~1former", json!(record.to_text()));
}

fn shelf(facts: &mut Facts) -> &mut Shelf {
    facts.shelves.get_mut("s-1").unwrap()
}

fn damaged() -> StoreError {
    StoreError::Archive { location: "x.json".into(), damage: Damage::Cut }
}

const S: TargetKind = TargetKind::Site;
const A: TargetKind = TargetKind::App;

/// Every hindrance; whether it is one that takes back what was announced.
const HINDRANCES: &[Row] = &[
    (S, |d, _| former(d, |f| f.requests.clear()), "does not say", true),
    (S, |d, _| former(d, |f| f.reclaim_policy = None), "nobody has recorded", true),
    (S, |d, _| d.value["metadata"]["deletionTimestamp"] = json!("x"), "being deleted", true),
    (
        S,
        |d, _| d.value["metadata"]["annotations"]["reprieve.dev/keep-disk"] = json!("audit"),
        "asks for it: audit",
        true,
    ),
    (S, |d, _| set(d, "/status/phase", json!("Bound")), "it is Bound", true),
    (S, |d, _| set(d, "/status/phase", json!("Failed")), "it is Failed", true),
    (S, |d, _| set(d, "/status", json!({})), "in no phase", true),
    (S, |d, _| set(d, "/spec/claimRef", json!(null)), "names no claim", true),
    (S, |d, _| d.claim_lives = true, "claim acme/data is there", true),
    (S, |_, f| f.requests = vec![request("r", "Purging", "Purged")], "leaving is open", true),
    (S, |_, f| f.requests = vec![request("r", "Held", "Held")], "leaving is open", true),
    (S, |_, f| f.requests = vec![request("r", "Cancelled", "Released")], "did not purge", true),
    (S, |d, _| former(d, |f| f.requests.push("r2".into())), "no purge of acme", true),
    (
        S,
        |d, f| {
            former(d, |f| f.requests.push("r2".into()));
            f.requests.push(request("r2", "AwaitingApproval", "Planned"));
        },
        "is open",
        true,
    ),
    (S, |_, f| f.purges.clear(), "no purge of acme", true),
    (S, |_, f| f.purges[0].request_uid = "other".into(), "no purge of acme", true),
    (S, |_, f| f.purges[0].name = "bolt".into(), "no purge of acme", true),
    (A, |_, f| f.purges[0].site = None, "no purge of acme", true),
    (S, |_, f| f.backups.push(backup("r", "Verified")), "Backup b of that request", true),
    (S, |_, f| f.backups.push(backup("r", "Reconciling")), "Backup b of that request", true),
    (S, |_, f| f.living.extend([(S, "s-1".into())]), "id s-1 lives", true),
    (A, |_, f| f.living.extend([(A, "a-1".into())]), "id a-1 lives", true),
    (S, |_, f| f.site_lives = true, "of the name acme lives", true),
    (S, |_, f| shelf(f).listing.entries.push(entry("su", 9)), "b9 of", true),
    (S, |_, f| shelf(f).listing.entries.push(entry("su", 11)), "b11 of", true),
    // Of an earlier life of the site.
    (S, |_, f| shelf(f).listing.entries.push(entry("before", 2)), "b2 of", true),
    (A, |_, f| shelf(f).listing.entries.push(entry("su", 9)), "b9 of", true),
    // Nobody knows whether the App is in it.
    (A, |_, f| shelf(f).listing.entries.push(entry("su", 2)), "b2 of", true),
    (
        A,
        |_, f| {
            let app =
                CataloguedApp { id: "a-1".into(), namespace: "acme".into(), name: "w".into() };
            let contents = Some(Contents { apps: vec![app], kinds: vec![] });
            shelf(f).listing.entries.push(CatalogueEntry { contents, ..entry("su", 2) });
        },
        "b2 of",
        true,
    ),
    (S, |_, f| f.ledger_refused = Some("cut".into()), "ledger cannot be read", false),
    (S, |_, f| f.restore = Some("back".into()), "Restore back runs", false),
    (S, |_, f| f.guard.push("not installed".into()), "guard is not in force", false),
    (S, |_, f| f.shelves.clear(), "store was not asked", false),
    (
        S,
        |_, f| shelf(f).listing = Listing { entries: vec![], refused: vec![damaged()] },
        "catalogue cannot",
        false,
    ),
    (S, |_, f| shelf(f).expired.push("sites/s-1/x".into()), "still being taken away", false),
    (
        S,
        |_, f| {
            let location = "sites/s-1/lost.u.1.jsonl.zst".to_owned();
            shelf(f).archives.push(ArchiveFile { location, size: 7, modified: at(9) });
        },
        "no catalogue entry speaks of",
        false,
    ),
];

#[test]
fn each_hindrance_keeps_the_disk() {
    for (row, (kind, change, words, withdraws)) in HINDRANCES.iter().enumerate() {
        for announced in [None, Some(at(20))] {
            let (mut disk, mut facts) = (disk("Delete", announced), facts(*kind));
            assert_eq!(hindrance(&disk, &facts), None, "row {row} before");
            change(&mut disk, &mut facts);
            let (why, needed) = match hindrance(&disk, &facts) {
                Some(Hindrance::Needed(why)) => (why, true),
                Some(Hindrance::Unknown(why)) => (why, false),
                None => panic!("row {row}: nothing hinders"),
            };
            assert!(why.contains(words) && needed == *withdraws, "row {row}: {why}");
            match decide(&disk, &facts, 7 * DAY) {
                Decision::Withdraw(patch, note) => {
                    assert!(needed && announced.is_some(), "row {row}");
                    let text = patch["metadata"]["annotations"]["reprieve.dev/former"].to_string();
                    assert!(
                        !text.contains("releaseTime") && note.note.contains(words),
                        "row {row}"
                    );
                }
                Decision::Keep(_) => assert!(!needed || announced.is_none(), "row {row}"),
                other => panic!("row {row}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_damaged_or_copied_record_keeps_the_disk() {
    for text in ["", "{}", r#"{"uid":"other","requests":["r"],"reclaimPolicy":"Delete"}"#] {
        let mut disk = disk("Delete", Some(at(20)));
        set(&mut disk, "/metadata/annotations/reprieve.dev~1former", json!(text));
        let decision = decide(&disk, &facts(S), DAY);
        assert!(matches!(decision, Decision::Keep(Hindrance::Needed(_))), "{decision:?}");
    }
}

#[test]
fn what_is_another_life_does_not_count() {
    // Made anew under its id, and gone again; an App that left before these backups; a Backup that
    // never was one; an upload of today.
    let later = |f: &mut Facts| shelf(f).listing.entries.push(entry("later", 20));
    let mut facts = facts(S);
    later(&mut facts);
    facts.backups.push(backup("r", "Stalled"));
    facts.backups.push(backup("another", "Verified"));
    shelf(&mut facts).archives.push(ArchiveFile {
        location: "x".into(),
        size: 7,
        modified: at(50),
    });
    assert_eq!(hindrance(&disk("Delete", None), &facts), None);
    let mut facts = self::facts(A);
    later(&mut facts);
    let contents = Some(Contents::default());
    shelf(&mut facts).listing.entries.push(CatalogueEntry { contents, ..entry("su", 2) });
    assert_eq!(hindrance(&disk("Delete", None), &facts), None);
    // The request is gone, the ledger is what tells.
    let facts = Facts { requests: vec![], ..self::facts(S) };
    assert_eq!(hindrance(&disk("Delete", None), &facts), None);
}
