//! The table tests of `choose`.

use super::*;
use crate::api::TargetKind;
use crate::store::{CataloguedKind, Contents, Damage};
use serde_json::json;

fn at(hour: u32) -> Time {
    serde_json::from_value(json!(format!("2026-11-22T{hour:02}:00:00Z"))).unwrap()
}

fn app(id: &str, name: &str) -> CataloguedApp {
    CataloguedApp { id: id.into(), namespace: "acme".into(), name: name.into() }
}

/// The backup `<name>-<hour>` of a site, with these Apps.
fn entry(id: &str, name: &str, hour: u32, apps: &[CataloguedApp]) -> CatalogueEntry {
    let certificate = CataloguedKind {
        api_version: "cert-manager.io/v1".into(),
        kind: "Certificate".into(),
        crd: "certificates.cert-manager.io".into(),
    };
    CatalogueEntry {
        format: crate::store::catalogue::FORMAT.into(),
        backup: format!("{name}-{hour}"),
        site: Identity { name: name.into(), uid: format!("{name}-uid"), id: id.into() },
        purpose: crate::api::BackupPurpose::Manual,
        time: at(hour),
        location: format!("sites/{id}/{name}-{hour}.jsonl.zst"),
        digest: "d".into(),
        objects: 3,
        bytes: 1,
        resource_versions: None,
        changed_objects: None,
        keep_until_time: None,
        contents: Some(Contents { apps: apps.to_vec(), kinds: vec![certificate] }),
    }
}

fn listing(mut entries: Vec<CatalogueEntry>) -> Listing {
    entries.sort_by_key(|entry| entry.time);
    Listing { entries, refused: vec![] }
}

fn ids(all: &[&str]) -> Vec<String> {
    all.iter().map(|id| (*id).to_owned()).collect()
}

fn chosen(choice: &Choice) -> Vec<&str> {
    choice.chosen.iter().map(|chosen| chosen.backup.name.as_str()).collect()
}

fn reasons(all: &[RestoreFailure]) -> Vec<&str> {
    all.iter().map(|failure| failure.reason.as_str()).collect()
}

#[test]
fn the_newest_that_is_not_later_than_asked() {
    let all = listing(vec![
        entry("s-1", "acme", 1, &[]),
        entry("s-1", "acme", 5, &[]),
        entry("s-2", "bolt", 3, &[]),
    ]);
    let none = HashMap::new();
    let rows = [
        (None, vec!["acme-5", "bolt-3"], vec![]),
        (Some(at(9)), vec!["acme-5", "bolt-3"], vec![]),
        (Some(at(5)), vec!["acme-5", "bolt-3"], vec![]),
        (Some(at(4)), vec!["acme-1", "bolt-3"], vec![]),
        (Some(at(2)), vec!["acme-1"], vec!["NoBackupSoEarly"]),
        (Some(at(0)), vec![], vec!["NoBackupSoEarly", "NoBackupSoEarly"]),
    ];
    for (when, expected, failed) in rows {
        let choice = sites(&ids(&["s-1", "s-2"]), when, &all, &none);
        assert_eq!(chosen(&choice), expected, "{when:?}");
        assert_eq!(reasons(&choice.failures), failed, "{when:?}");
        assert_eq!(choice.notices, []);
    }
    let choice = sites(&ids(&["s-1"]), Some(at(0)), &all, &none);
    assert!(choice.failures[0].message.contains("made at 2026-11-22T01:00:00Z (acme-1)"));
}

#[test]
fn what_is_unknown_does_not_stop_the_others() {
    let all = listing(vec![entry("s-1", "acme", 1, &[app("a-1", "shop")])]);
    let really = HashMap::from([("a-1".to_owned(), "it is the id of the App x".to_owned())]);
    let choice = sites(&ids(&["s-9", "a-1", "s-1"]), None, &all, &really);
    assert_eq!(chosen(&choice), ["acme-1"]);
    assert_eq!(reasons(&choice.failures), ["UnknownId", "EntityTypeMismatch"]);
    assert!(choice.failures[1].message.contains("App x"));
    let choice = apps(&ids(&["s-1", "a-9", "a-1"]), None, &all, &HashMap::new());
    assert_eq!(chosen(&choice), ["acme-1"]);
    assert_eq!(choice.chosen[0].name(), "acme/shop");
    assert_eq!(reasons(&choice.failures), ["EntityTypeMismatch", "UnknownId"]);
    assert!(choice.failures[0].message.contains("Site acme"));
}

#[test]
fn an_app_comes_from_the_newest_backup_that_has_it() {
    let all = listing(vec![
        entry("s-1", "acme", 1, &[app("a-1", "shop"), app("a-2", "wiki")]),
        entry("s-1", "acme", 2, &[app("a-2", "wiki")]),
    ]);
    let choice = apps(&ids(&["a-1", "a-2"]), None, &all, &HashMap::new());
    assert_eq!(chosen(&choice), ["acme-1", "acme-2"]);
    assert_eq!(choice.failures, []);
}

#[test]
fn only_one_of_a_name() {
    // An old site of that name, with an id of its own.
    let all = listing(vec![entry("s-1", "acme", 1, &[]), entry("s-2", "acme", 5, &[])]);
    for choice in [super::all(&all, &[]), sites(&ids(&["s-1", "s-2"]), None, &all, &HashMap::new())]
    {
        assert_eq!(chosen(&choice), ["acme-5"]);
        assert_eq!(reasons(&choice.failures), ["NameTaken"]);
        assert!(choice.failures[0].message.contains("s-2"));
    }
    // The same id under two names.
    let all = listing(vec![entry("s-1", "old", 1, &[]), entry("s-1", "acme", 5, &[])]);
    let choice = super::all(&all, &[]);
    assert_eq!((chosen(&choice), reasons(&choice.notices)), (vec!["acme-5"], vec!["AmbiguousId"]));
}

fn purge(id: &str, uid: &str) -> Purge {
    Purge {
        format: crate::store::ledger::FORMAT.into(),
        kind: TargetKind::Site,
        id: id.into(),
        name: "acme".into(),
        uid: uid.into(),
        time: at(6),
        request: "leaving".into(),
        request_uid: "r".into(),
        digest: "d".into(),
        requested_by: "alice".into(),
        approved_by: vec!["bob".into()],
        backup: None,
        site: None,
    }
}

#[test]
fn what_was_purged_on_purpose_stays_away() {
    let all = listing(vec![entry("s-1", "acme", 5, &[]), entry("s-2", "bolt", 5, &[])]);
    let choice = super::all(&all, &[purge("s-1", "acme-uid")]);
    assert_eq!(chosen(&choice), ["bolt-5"]);
    assert_eq!(reasons(&choice.notices), ["PurgedOnPurpose"]);
    let told = &choice.notices[0].message;
    assert!(
        told.contains("id s-1") && told.contains("leaving") && told.contains("sites"),
        "{told}"
    );
    // It was restored since, and backed up: another UID.
    let mut again = entry("s-1", "acme", 7, &[]);
    again.site.uid = "another".into();
    let all = listing(vec![entry("s-1", "acme", 5, &[]), again]);
    assert_eq!(chosen(&super::all(&all, &[purge("s-1", "acme-uid")])), ["acme-7"]);
    // Who names it gets it.
    let all = listing(vec![entry("s-1", "acme", 5, &[])]);
    assert_eq!(chosen(&sites(&ids(&["s-1"]), None, &all, &HashMap::new())), ["acme-5"]);
}

#[test]
fn a_purged_app_that_comes_back_with_its_site_is_told() {
    let purged = Purge { kind: TargetKind::App, ..purge("a-1", "app-uid") };
    let told = |time| {
        let all = listing(vec![entry("s-1", "acme", time, &[app("a-1", "shop")])]);
        let choice = super::all(&all, std::slice::from_ref(&purged));
        assert_eq!(chosen(&choice), [format!("acme-{time}")]);
        choice.notices
    };
    let notices = told(5);
    assert_eq!(reasons(&notices), ["PurgedOnPurpose"]);
    assert!(notices[0].message.contains("id a-1"), "{}", notices[0].message);
    // It was brought back since, and backed up.
    assert_eq!(told(7), []);
}

#[test]
fn what_cannot_be_taken_is_told() {
    let mut all = listing(vec![entry("s-1", "acme", 5, &[])]);
    let location = "sites/s-2/b.json".to_owned();
    all.refused.push(StoreError::Entry { location, damage: Damage::Unsigned });
    let choice = super::all(&all, &[]);
    assert_eq!(chosen(&choice), ["acme-5"]);
    assert_eq!(reasons(&choice.failures), ["CatalogueEntryRefused"]);
    assert_eq!(choice.failures[0].object.as_deref(), Some("sites/s-2/b.json"));
    // It may hide an App that is not found, and no App that is.
    all.entries[0].contents = Some(Contents { apps: vec![app("a-1", "shop")], kinds: vec![] });
    let apps = |id: &str| apps(&ids(&[id]), None, &all, &HashMap::new());
    assert_eq!(apps("a-1").failures, []);
    assert_eq!(reasons(&apps("a-2").failures), ["UnknownId", "CatalogueEntryRefused"]);
}

#[test]
fn missing_kinds_are_told_with_their_definitions() {
    let all = listing(vec![entry("s-1", "acme", 1, &[]), entry("s-2", "bolt", 1, &[])]);
    let mut choice = super::all(&all, &[]);
    choice.note_missing_kinds(&all, |_, _| true);
    assert_eq!(choice.notices, []);
    choice.note_missing_kinds(&all, |_, kind| kind != "Certificate");
    assert_eq!(reasons(&choice.notices), ["KindMissing"]);
    let told = &choice.notices[0];
    assert_eq!(told.object.as_deref(), Some("cert-manager.io/v1 Certificate"));
    assert!(told.message.contains("certificates.cert-manager.io") && told.message.contains("2 of"));
}
