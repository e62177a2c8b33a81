//! What may go, and all that keeps it.

use serde_json::json;

use super::*;
use crate::store::{Damage, Identity, Listing, StoreError, catalogue};

fn at(seconds: i64) -> Time {
    chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap().into()
}

const DAY: i64 = 86_400;

/// A backup that was made on this day, and is kept for so many.
fn entry(uid: &str, day: i64, keep: Option<i64>) -> CatalogueEntry {
    let (id, backup) = ("site-1", format!("b{day}"));
    CatalogueEntry {
        format: catalogue::FORMAT.into(),
        site: Identity { name: "acme".into(), uid: uid.into(), id: id.into() },
        purpose: BackupPurpose::Scheduled,
        time: at(day * DAY),
        location: crate::store::layout::archive(id, &backup, "u", "1"),
        backup,
        digest: "sha256:00".into(),
        objects: 1,
        bytes: 7,
        resource_versions: None,
        changed_objects: None,
        keep_until_time: keep.map(|keep| at((day + keep) * DAY)),
        contents: None,
    }
}

fn shelf(entries: Vec<CatalogueEntry>) -> Shelf {
    let archive = |e: &CatalogueEntry| ArchiveFile {
        location: e.location.clone(),
        size: e.bytes,
        modified: e.time,
    };
    Shelf {
        archives: entries.iter().map(archive).collect(),
        listing: Listing { entries, refused: vec![] },
        expired: vec![],
    }
}

fn living(keep_days: Option<i64>) -> Owner {
    let keep = keep_days.map(|days| days * DAY);
    Owner { lives: Some(("u1".into(), keep)), purged: BTreeSet::new() }
}

fn gone(shelf: &Shelf, owner: &Owner, needed: &Needed, day: i64) -> Vec<String> {
    let verdict = decide(shelf, owner, needed, at(day * DAY + 1));
    verdict.expired.into_iter().map(|entry| entry.backup).collect()
}

#[test]
fn the_latest_time_that_anybody_said_counts() {
    let all = || {
        shelf(vec![entry("u1", 0, Some(10)), entry("u1", 1, Some(10)), entry("u1", 2, Some(10))])
    };
    let none = Needed::default();
    assert_eq!(gone(&all(), &living(None), &none, 9), [""; 0]);
    assert_eq!(gone(&all(), &living(None), &none, 10), ["b0"]);
    assert_eq!(gone(&all(), &living(None), &none, 11), ["b0", "b1"]);
    assert_eq!(gone(&all(), &living(None), &none, 99), ["b0", "b1"], "never the last one");
    // The Site wants more, then less.
    assert_eq!(gone(&all(), &living(Some(30)), &none, 29), [""; 0]);
    assert_eq!(gone(&all(), &living(Some(30)), &none, 30), ["b0"]);
    assert_eq!(gone(&all(), &living(Some(1)), &none, 9), [""; 0]);
    // keepUntilTime of its Backup has grown since.
    let grown = [(all().listing.entries[0].location.clone(), Some(at(50 * DAY)))].into();
    let grown = Needed { backups: grown, ..Needed::default() };
    assert_eq!(gone(&all(), &living(None), &grown, 49), ["b1"]);
    assert_eq!(gone(&all(), &living(None), &grown, 50), ["b0", "b1"]);
    // Nobody said anything: for ever, unless the Site says.
    let silent = || shelf(vec![entry("u1", 0, None), entry("u1", 1, None)]);
    assert_eq!(gone(&silent(), &living(None), &none, 9999), [""; 0]);
    assert_eq!(gone(&silent(), &living(Some(30)), &none, 31), ["b0"]);
}

#[test]
fn what_something_depends_on_stays() {
    let all = || shelf((0..4).map(|day| entry("u1", day, Some(1))).collect());
    let location = |n: usize| all().listing.entries[n].location.clone();
    assert_eq!(gone(&all(), &living(None), &Needed::default(), 99), ["b0", "b1", "b2"]);
    let open = Needed { locations: [location(1)].into(), ..Needed::default() };
    assert_eq!(gone(&all(), &living(None), &open, 99), ["b0", "b2"]);
    let about = Needed { ids: ["site-1".to_owned()].into(), ..Needed::default() };
    assert_eq!(gone(&all(), &living(None), &about, 99), [""; 0]);
    let restore = Needed { restore: Some("r".into()), ..Needed::default() };
    assert_eq!(gone(&all(), &living(None), &restore, 99), [""; 0]);
}

#[test]
fn before_a_deletion_the_backup_object_says_how_long() {
    let mut before = entry("u1", 0, Some(1));
    before.purpose = BackupPurpose::BeforeDeletion;
    let all = shelf(vec![before.clone(), entry("u1", 1, Some(99))]);
    assert_eq!(gone(&all, &living(None), &Needed::default(), 50), [""; 0], "its Backup is gone");
    let with = |until: i64| Needed {
        backups: [(before.location.clone(), Some(at(until * DAY)))].into(),
        ..Needed::default()
    };
    assert_eq!(gone(&all, &living(None), &with(60), 50), [""; 0]);
    assert_eq!(gone(&all, &living(None), &with(40), 50), ["b0"]);
}

#[test]
fn the_last_one_goes_only_of_what_was_purged() {
    let all = || shelf(vec![entry("u1", 0, Some(1)), entry("u1", 1, Some(5))]);
    let none = Needed::default();
    let unknown = Owner { lives: None, purged: BTreeSet::new() };
    assert_eq!(gone(&all(), &unknown, &none, 99), ["b0"], "whether it lives is not known");
    let purged = Owner { lives: None, purged: ["u1".to_owned()].into() };
    assert_eq!(gone(&all(), &purged, &none, 4), ["b0"]);
    assert_eq!(gone(&all(), &purged, &none, 6), ["b0", "b1"]);
    // The id went on to a Site that begins anew: the last of the former one is all that is left of it.
    let both =
        shelf(vec![entry("u0", 0, Some(1)), entry("u1", 1, Some(1)), entry("u1", 2, Some(1))]);
    assert_eq!(gone(&both, &living(None), &none, 99), ["b1"]);
    // The newest whose archive is there in full is the last one.
    for damage in [0, 1] {
        let mut cut = all();
        match damage {
            0 => cut.archives[1].size = 3,
            _ => drop(cut.archives.pop()),
        }
        assert_eq!(gone(&cut, &living(None), &none, 99), ["b1"], "{damage}");
    }
    let mut empty = all();
    empty.archives.clear();
    assert_eq!(gone(&empty, &living(None), &none, 99), [""; 0]);
}

#[test]
fn nothing_goes_by_a_catalogue_that_cannot_be_read_or_a_clock_that_is_wrong() {
    let mut all = shelf(vec![entry("u1", 0, Some(1)), entry("u1", 1, Some(1))]);
    all.listing.refused.push(StoreError::Entry { location: "x".into(), damage: Damage::Unsigned });
    assert_eq!(gone(&all, &living(None), &Needed::default(), 99), [""; 0]);
    assert!(decide(&all, &living(None), &Needed::default(), at(99 * DAY)).left_over.is_empty());
    assert_eq!(time(at(5), at(60)), Ok(at(5)));
    for (own, api) in [(at(100 * DAY), at(0)), (at(0), at(100 * DAY)), (at(61), at(0))] {
        let why = time(own, api).unwrap_err();
        assert!(why.contains(&own.to_string()) && why.contains(&api.to_string()), "{why}");
    }
}

#[test]
fn only_what_is_known_to_be_no_backup_is_left_over() {
    let good = entry("u1", 0, Some(9));
    let attempt = |backup: &str, attempt: &str| ArchiveFile {
        location: crate::store::layout::archive("site-1", backup, "u", attempt),
        size: 3,
        modified: at(0),
    };
    let mut all = shelf(vec![good]);
    all.archives.extend([attempt("b0", "2"), attempt("b9", "1"), attempt("b8", "1")]);
    // Before there were attempts.
    all.archives.push(ArchiveFile {
        location: "sites/site-1/b0.u.jsonl.zst".into(),
        size: 3,
        modified: at(0),
    });
    all.expired.push(attempt("b8", "1").location);
    let left =
        |seconds: i64| decide(&all, &living(None), &Needed::default(), at(seconds)).left_over;
    assert_eq!(left(DAY - 1), [""; 0], "somebody may be at it");
    assert_eq!(left(DAY), [attempt("b0", "2").location, attempt("b8", "1").location]);
    assert_eq!(json!(attempt("b0", "2").backup()), json!("sites/site-1/b0.u"));
}
