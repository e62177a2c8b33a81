//! What a claim and a VolumeSnapshot come back from.

use tokio::sync::OnceCell;

use super::super::fixtures::{Server, entry};
use super::*;
use crate::cluster::discover::discover;

fn content(name: &str, source: &str, time: i64) -> Content {
    of_snapshot("s", name, source, time)
}

fn of_snapshot(snapshot: &str, name: &str, source: &str, time: i64) -> Content {
    Content::of(&json!({
        "metadata": {"name": name, "uid": "u", "resourceVersion": "1"},
        "spec": {
            "driver": "d", "deletionPolicy": "Retain", "source": {source: "h"},
            "volumeSnapshotRef": {"namespace": "a", "name": snapshot, "uid": "old"},
            "volumeSnapshotClassName": "fast",
        },
        "status": {"readyToUse": true, "snapshotHandle": "h", "creationTime": time},
    }))
}

/// What a claim is made with whose disk is gone, and what is told; or why it is not made.
async fn from(
    contents: Option<Vec<Content>>,
    snapshots: &[&str],
) -> Result<(Value, String), (Reason, String)> {
    let client = Server::default().client();
    let kinds = discover(&client).await.unwrap();
    let mut maker = Maker::new(&client, &kinds, "r", "");
    maker.contents = OnceCell::new_with(Some(contents));
    let key: ObjectKey = "PersistentVolumeClaim/a/data".parse().unwrap();
    let mut body = json!({"spec": {"dataSourceRef": {"kind": "Database", "name": "x"}}});
    let snapshots: Vec<Snapshot> =
        snapshots.iter().map(|name| Snapshot { name: (*name).to_owned(), comes: true }).collect();
    let mut notice = None;
    match maker
        .use_snapshot(&key, "its disk pv-1 is gone", &snapshots, &mut body, &mut notice)
        .await
    {
        Ok(()) => Ok((body["spec"].take(), notice.unwrap())),
        Err(Made::Failed(reason, why)) => Err((reason, why)),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_claim_comes_back_from_whose_disk_is_gone() {
    let as_it_was = json!({"dataSourceRef": {"kind": "Database", "name": "x"}});
    let source =
        |name: &str| json!({"dataSource": {"apiGroup": GROUP, "kind": SNAPSHOT, "name": name}});
    let mut waits = content("c", "volumeHandle", 5);
    waits.ready = false;
    let ready = content("c", "volumeHandle", 1_763_632_800_000_000_000);
    let newer = of_snapshot("t", "n", "volumeHandle", 1_763_632_900_000_000_000);
    let others = of_snapshot("x", "n", "volumeHandle", i64::MAX);
    let empty =
        "no content that is ready is there of its snapshots (s). The claim comes back without it";
    let rows = [
        (
            "none was taken",
            vec![],
            vec![],
            as_it_was.clone(),
            "gone. The claim comes back without it",
        ),
        ("its content is gone", vec![], vec!["s"], as_it_was.clone(), empty),
        ("it was never ready", vec![waits.clone()], vec!["s"], as_it_was.clone(), empty),
        ("it is another claim's", vec![others.clone()], vec!["s"], as_it_was, empty),
        (
            "ready",
            vec![waits, ready.clone()],
            vec!["s"],
            source("s"),
            "made from the snapshot s of 2025-11-20T10:00:00Z",
        ),
        (
            "the newest",
            vec![newer, ready, others],
            vec!["s", "t"],
            source("t"),
            "made from the snapshot t of",
        ),
    ];
    for (what, contents, snapshots, expected, words) in rows {
        let (spec, notice) = from(Some(contents), &snapshots).await.unwrap();
        assert_eq!(spec, expected, "{what}");
        assert!(notice.contains("its disk pv-1 is gone"), "{what}: {notice}");
        assert!(notice.contains(words), "{what}: {notice}");
    }
    let (reason, why) = from(None, &["s", "t"]).await.unwrap_err();
    assert_eq!(reason, Reason::KindMissing);
    assert!(
        why.contains("does not serve snapshot.storage.k8s.io/v1") && why.contains("(s, t)"),
        "{why}"
    );
    assert!(from(None, &[]).await.is_ok(), "one without snapshots needs no API of them");
}

#[test]
fn the_content_that_a_snapshot_is_bound_to_again() {
    let key: ObjectKey = "VolumeSnapshot.snapshot.storage.k8s.io/a/s".parse().unwrap();
    let other: ObjectKey = "VolumeSnapshot.snapshot.storage.k8s.io/b/s".parse().unwrap();
    let old = content("old", "volumeHandle", 1);
    let new = content("new", "volumeHandle", 2);
    let fixed = content("fixed", "snapshotHandle", 1);
    let mut waits = content("waits", "snapshotHandle", 9);
    waits.ready = false;
    let all = [old, new, fixed, waits];
    let chosen = |all: &[Content], key: &ObjectKey, named: Option<&str>| {
        content_for(all, key, named).map(|c| c.exact.name.clone())
    };
    assert_eq!(chosen(&all, &key, None).as_deref(), Some("fixed"));
    assert_eq!(chosen(&all[..2], &key, None).as_deref(), Some("new"));
    assert_eq!(chosen(&all, &key, Some("old")).as_deref(), Some("old"));
    assert_eq!(chosen(&all, &key, Some("waits")).as_deref(), Some("fixed"));
    assert_eq!(chosen(&all[3..], &key, Some("waits")), None);
    assert_eq!(chosen(&all, &other, None), None);
}

#[test]
fn a_second_content_names_the_snapshot_itself_and_the_place_and_no_uid() {
    let made = second(&content("c", "volumeHandle", 1));
    assert_eq!(made["spec"]["source"], json!({"snapshotHandle": "h"}));
    assert_eq!(made["spec"]["deletionPolicy"], "Retain");
    assert_eq!(made["spec"]["volumeSnapshotClassName"], "fast");
    assert_eq!(made["spec"]["sourceVolumeMode"], Value::Null);
    let reference = &made["spec"]["volumeSnapshotRef"];
    assert_eq!((&reference["namespace"], &reference["name"]), (&json!("a"), &json!("s")));
    assert_eq!(reference["uid"], Value::Null);
    // The same after a crash, another one for another snapshot.
    assert_eq!(made, second(&content("c", "volumeHandle", 9)));
    let mut other = content("c", "volumeHandle", 1);
    other.handle = Some("h2".to_owned());
    assert_ne!(made["metadata"]["name"], second(&other)["metadata"]["name"]);
}

#[test]
fn the_claim_that_a_snapshot_was_taken_of() {
    let of = |api_version: &str, source: Value| {
        let object = json!({
            "apiVersion": api_version, "kind": "VolumeSnapshot",
            "metadata": {"name": "s", "namespace": "a"}, "spec": {"source": source},
        });
        claim_of(&entry(&object)).map(|key| key.to_string())
    };
    let claim = || json!({"persistentVolumeClaimName": "data"});
    assert_eq!(of(API_VERSION, claim()).as_deref(), Some("PersistentVolumeClaim/a/data"));
    assert_eq!(of(API_VERSION, json!({"volumeSnapshotContentName": "c"})), None);
    assert_eq!(of("example.com/v1", claim()), None);
}
