//! B1 of the fault list: damage of each kind, and what is said of it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::archive::FORMAT;
use super::*;
use crate::api::BackupPurpose;
use crate::cluster::collect::ObjectState;
use crate::cluster::form::{ObjectKey, object_digest};

pub(super) const LOCATION: &str = "sites/site-1/b.u.jsonl.zst";

pub(super) fn site() -> Identity {
    Identity { name: "acme".into(), uid: "u1".into(), id: "site-1".into() }
}

pub(super) fn expected() -> Expected {
    Expected { site: site(), digest: None }
}

pub(super) fn header() -> Header {
    let time = serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap();
    Header { format: FORMAT.into(), backup: "b".into(), site: site(), time, resource_version: None }
}

pub(super) fn entry(i: usize) -> Entry {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i}"), "namespace": "acme"}, "data": {"n": i.to_string(), "text": "x".repeat(i % 7 * 100)}});
    entry_of(&object)
}

pub(super) fn entry_of(object: &Value) -> Entry {
    Entry {
        key: ObjectKey::of(object).unwrap(),
        digest: object_digest(object),
        state: ObjectState::Ready,
        object: object.clone(),
        owners: None,
    }
}

/// A store without its probe, as a folder that is not mounted.
pub(super) fn unmounted() -> Store {
    Store::over(Arc::new(InMemory::new()), "memory:///")
}

pub(super) fn memory() -> Store {
    let objects = InMemory::new();
    let path = Path::from(super::PROBE);
    let probe = objects.put(&path, PutPayload::from_static(b"here"));
    futures::executor::block_on(probe).unwrap();
    Store::over(Arc::new(objects), "memory:///")
}

pub(super) async fn written(store: &Store, n: usize) -> Written {
    let mut writer = store.rewrite(LOCATION, &header()).unwrap();
    for i in 0..n {
        writer.add(&entry(i)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

pub(super) async fn raw(store: &Store) -> Vec<u8> {
    let path = Path::from(LOCATION);
    store.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec()
}

pub(super) async fn put(store: &Store, bytes: Vec<u8>) {
    store.objects.put(&Path::from(LOCATION), PutPayload::from(bytes)).await.unwrap();
}

pub(super) async fn damage(store: &Store, expected: Expected) -> Damage {
    match store.verify(LOCATION, expected).await {
        Err(StoreError::Archive { damage, .. }) => damage,
        other => panic!("{other:?}"),
    }
}

/// The catalogue entry of the archive at `LOCATION`.
pub(super) fn listed(written: &Written) -> CatalogueEntry {
    CatalogueEntry {
        format: catalogue::FORMAT.into(),
        backup: "b".into(),
        site: site(),
        purpose: BackupPurpose::Manual,
        time: header().time,
        location: LOCATION.into(),
        digest: written.manifest.root_digest.clone(),
        objects: written.manifest.count,
        bytes: written.size,
        resource_versions: None,
        changed_objects: None,
        keep_until_time: None,
        contents: None,
    }
}

/// The archive's lines.
pub(super) async fn lines(store: &Store) -> Vec<String> {
    let mut text = String::new();
    zstd::Decoder::new(&*raw(store).await).unwrap().read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Puts an archive of these lines.
pub(super) async fn put_lines(store: &Store, lines: &[&str]) {
    let mut encoder = zstd::Encoder::new(vec![], 3).unwrap();
    for line in lines {
        writeln!(encoder, "{line}").unwrap();
    }
    put(store, encoder.finish().unwrap()).await;
}

/// The archive with its lines changed: consistent for zstd, not for us.
pub(super) async fn rewritten(store: &Store, change: impl Fn(usize, &mut Value) -> bool) {
    let mut changed = vec![];
    for (i, line) in lines(store).await.iter().enumerate() {
        let before: Value = serde_json::from_str(line).unwrap();
        let mut value = before.clone();
        if change(i, &mut value) {
            // What did not change keeps its bytes.
            changed.push(if value == before { line.clone() } else { value.to_string() });
        }
    }
    put_lines(store, &changed.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_was_written_is_read_back() {
    let store = memory();
    let written = written(&store, 3000).await;
    assert_eq!(written.size, raw(&store).await.len() as u64);
    let digest = Some(written.manifest.root_digest.clone());
    let archive = store.load(LOCATION, Expected { site: site(), digest }).await.unwrap();
    assert_eq!(archive.header, header());
    assert_eq!(archive.manifest, written.manifest);
    assert_eq!(archive.entries, (0..3000).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_is_written_over() {
    let store = memory();
    let first = written(&store, 20).await;
    let whole = raw(&store).await;
    store.enter(&listed(&first)).await.unwrap();
    // In one request, and in parts.
    for objects in [1, 12] {
        let mut late = store.write(LOCATION, &header()).unwrap();
        for i in 0..objects {
            late.add(&large(i)).await.unwrap();
        }
        let error = late.finish().await.unwrap_err();
        assert!(error.may_pass() && error.to_string().contains("is there already"), "{error}");
        assert_eq!(raw(&store).await, whole);
    }
    store.enter(&listed(&first)).await.expect("the same again is no error");
    let other = CatalogueEntry { objects: 99, ..listed(&first) };
    let error = store.enter(&other).await.unwrap_err();
    assert!(error.to_string().contains("holds another catalogue entry"), "{error}");
    assert_eq!(store.all_backups().await.unwrap(), [listed(&first)]);
}

/// 700 kB that do not compress to less than half.
fn large(i: u64) -> Entry {
    let mut state = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = String::new();
    while text.len() < 700_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}{}", char::from(33 + (state % 60) as u8)));
    }
    let name = format!("large{i}");
    entry_of(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "acme"}, "data": {"text": text}}),
    )
}

#[tokio::test]
async fn field_owners_come_back_and_are_covered_by_the_digest() {
    let store = memory();
    let mut owned = entry(1);
    owned.owners = Some(vec![json!({"manager": "flux", "operation": "Apply"})]);
    let mut writer = store.write(LOCATION, &header()).unwrap();
    writer.add(&owned).await.unwrap();
    let with = writer.finish().await.unwrap().manifest;
    let archive = store.load(LOCATION, expected()).await.unwrap();
    assert_eq!(archive.entries, [owned]);
    rewritten(&store, |i, line| {
        if i == 1 {
            line["object"]["owners"][0]["manager"] = json!("evil");
        }
        true
    })
    .await;
    assert_eq!(damage(&store, expected()).await, Damage::Digest("bytes"));
    // Equal is equal, whoever owns the fields.
    let mut writer = store.rewrite(LOCATION, &header()).unwrap();
    writer.add(&entry(1)).await.unwrap();
    let without = writer.finish().await.unwrap().manifest;
    assert_eq!(with.root_digest, without.root_digest);
    assert_ne!(with.content_digest, without.content_digest);
}

#[tokio::test]
async fn b1_every_cut_is_seen() {
    let store = memory();
    written(&store, 20).await;
    let whole = raw(&store).await;
    for length in 0..whole.len() {
        put(&store, whole[..length].to_vec()).await;
        assert!(store.verify(LOCATION, expected()).await.is_err(), "{length}");
    }
    put(&store, whole[..whole.len() / 2].to_vec()).await;
    assert_eq!(damage(&store, expected()).await, Damage::Cut);
}

#[tokio::test]
async fn b1_a_flipped_bit_is_seen_or_changes_nothing() {
    let store = memory();
    let written = written(&store, 20).await;
    let whole = raw(&store).await;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        put(&store, bytes).await;
        if let Ok(manifest) = store.verify(LOCATION, expected()).await {
            assert_eq!(manifest, written.manifest, "byte {at}");
        }
    }
}

#[tokio::test]
async fn b1_something_behind_the_end_is_seen() {
    let store = memory();
    written(&store, 2).await;
    let mut bytes = raw(&store).await;
    bytes.extend(bytes.clone());
    put(&store, bytes).await;
    assert_eq!(damage(&store, expected()).await, Damage::Trailing);
}

#[tokio::test]
async fn b1_forgeries_are_seen() {
    let fresh = || async {
        let store = memory();
        written(&store, 3).await;
        store
    };
    let store = fresh().await;
    rewritten(&store, |i, line| {
        if i == 1 {
            line["object"]["object"]["data"]["n"] = json!("forged");
        }
        true
    })
    .await;
    assert_eq!(damage(&store, expected()).await, Damage::Object("ConfigMap/acme/c0".into()));

    let store = fresh().await;
    rewritten(&store, |i, line| {
        if i == 1 {
            line["object"]["key"] = json!("ConfigMap/other/c0");
        }
        true
    })
    .await;
    assert_eq!(damage(&store, expected()).await, Damage::Object("ConfigMap/other/c0".into()));

    let store = fresh().await;
    rewritten(&store, |i, _| i != 2).await;
    assert_eq!(damage(&store, expected()).await, Damage::Count { expected: 3, found: 2 });

    let store = fresh().await;
    rewritten(&store, |i, line| {
        if i == 1 {
            line["object"]["state"] = json!("Finished");
        }
        true
    })
    .await;
    assert_eq!(damage(&store, expected()).await, Damage::Digest("bytes"));

    let store = fresh().await;
    rewritten(&store, |i, line| {
        if i == 0 {
            line["header"]["format"] = json!("reprieve.dev/archive/v9");
        }
        true
    })
    .await;
    assert_eq!(damage(&store, expected()).await, Damage::Format("reprieve.dev/archive/v9".into()));
}

#[tokio::test]
async fn b1_another_archive_than_expected_is_seen() {
    let store = unmounted();
    let away = store.verify("sites/none.jsonl.zst", expected()).await.unwrap_err();
    assert!(away.may_pass(), "an empty store may be a volume that is not mounted: {away}");
    store.probe().await.unwrap();
    written(&store, 3).await;
    for change in [|s: &mut Identity| s.uid = "u2".into(), |s: &mut Identity| s.id = "x".into()] {
        let mut site = site();
        change(&mut site);
        let found = damage(&store, Expected { site, digest: None }).await;
        assert!(matches!(found, Damage::ForeignSite { .. }), "{found}");
    }
    let digest = Some("sha256:00".to_owned());
    let found = damage(&store, Expected { site: site(), digest }).await;
    assert!(matches!(found, Damage::Other { .. }), "{found}");
    let error = store.verify("sites/none.jsonl.zst", expected()).await.unwrap_err();
    assert_eq!(error.to_string(), "the archive sites/none.jsonl.zst is not in the store");
    assert!(!error.may_pass());
}

#[tokio::test]
async fn a_store_that_cannot_be_used_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let rows = [
        ("nonsense".to_owned(), "cannot be used"),
        ("ftp://bucket".to_owned(), "names no object store"),
        ("memory:///".to_owned(), "names no object store"),
        ("https://example.invalid/x".to_owned(), "names no object store"),
        ("s3:///x".to_owned(), "names no object store"),
        ("file:///does/not/exist".to_owned(), "not a folder"),
        (format!("file://{}", file.display()), "not a folder"),
        // A folder in which not even root can make a file.
        ("file:///proc/1".to_owned(), "cannot be written"),
    ];
    for (url, part) in rows {
        let error = Store::open(&url).await.unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{url}: {error}");
    }
    Store::open(&format!("file://{}", folder.path().display())).await.unwrap();
    for url in ["s3://key:s3cret@bucket/x", "az://container/x?sig=s3cret", "file:///x?s3cret"] {
        let error = Store::open(url).await.unwrap_err().to_string();
        assert!(error.contains("must hold no password"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn the_store_alone_knows_its_backups() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", folder.path().display())).await.unwrap();
    let enter = |id: &str, backup: &str| CatalogueEntry {
        format: catalogue::FORMAT.into(),
        backup: backup.into(),
        site: Identity { id: id.into(), ..site() },
        purpose: BackupPurpose::Manual,
        time: header().time,
        location: layout::archive(id, backup, "u", "1"),
        digest: "sha256:00".into(),
        objects: 1,
        bytes: 1,
        resource_versions: None,
        changed_objects: None,
        keep_until_time: None,
        contents: None,
    };
    for (id, backup) in [("a/../b", "one"), ("a/../b", "two"), ("b", "one")] {
        store.enter(&enter(id, backup)).await.unwrap();
    }
    assert_eq!(
        store.backups_of("a/../b").await.unwrap(),
        [enter("a/../b", "one"), enter("a/../b", "two")]
    );
    assert_eq!(store.backups_of("none").await.unwrap(), []);
    assert_eq!(store.all_backups().await.unwrap().len(), 3);
}
