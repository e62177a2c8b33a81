//! Archives that earlier versions have written, which every later one must read: see
//! `docs/archive-format.md`. They are never written anew; a change of the format adds one.
//! `v1-plain` was written by commit 8f23921, before there were signatures.

use std::fs;
use std::path::{Path, PathBuf};

use reprieve::api::{ChangedObjects, ReadVersions};
use reprieve::cluster::collect::ObjectState;
use reprieve::cluster::form::{ObjectKey, object_digest};
use reprieve::store::{
    CatalogueEntry, Encryption, Entry, Expected, Header, Identity, Keys, Options, Store, archive,
    catalogue, layout,
};
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn site() -> Identity {
    Identity { name: "acme".into(), uid: "0b5e2c1a-uid-of-acme".into(), id: "Site 1/ä".into() }
}

fn header() -> Header {
    let time = serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap();
    Header {
        format: archive::FORMAT.into(),
        backup: "acme-golden".into(),
        site: site(),
        time,
        resource_version: None,
    }
}

/// What is in each of them: committed as it is, so that no code of today stands between.
fn objects() -> Vec<(String, ObjectState, Value)> {
    let text = fs::read_to_string(golden("objects.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    rows.into_iter()
        .map(|mut row| {
            let key = row["key"].as_str().unwrap().to_owned();
            (key, serde_json::from_value(row["state"].take()).unwrap(), row["object"].take())
        })
        .collect()
}

async fn opened(folder: &Path, signed: bool, encrypted: bool) -> Store {
    let mut options = Options::new(&format!("file://{}", folder.display()));
    options.keys = Keys::default();
    options.encryption = Encryption::default();
    if signed {
        options.keys.trust(&golden("keys/test-signing-public.pem")).unwrap();
    }
    if encrypted {
        options.encryption.read_with(&golden("keys/test-age-identity.txt")).unwrap();
    }
    Store::open_with(options).await.unwrap()
}

/// Opening a store writes into it, so it is a copy.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Who owns what of an object, as the newer archives have it.
fn owners(key: &str) -> Option<Vec<Value>> {
    let text = fs::read_to_string(golden("owners.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[key].as_array().cloned()
}

async fn is_read(name: &str, signed: bool, encrypted: bool, owned: bool) {
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(name), folder.path());
    let store = opened(folder.path(), signed, encrypted).await;
    let listing = store.catalogue().await.unwrap();
    assert!(listing.refused.is_empty(), "{name}: {:?}", listing.refused);
    assert_eq!(listing.entries.len(), 1, "{name}");
    let listed = &listing.entries[0];
    assert_eq!(listed.site, site());

    let mut reader = store.read_listed(listed).await.unwrap();
    let resource_version = owned.then(|| "48211".to_owned());
    assert_eq!(*reader.header(), Header { resource_version, ..header() });
    assert_eq!(json!(listed.resource_versions)["last"].as_str(), owned.then_some("48230"));
    let mut entries = vec![];
    while let Some(entry) = reader.next().await.unwrap() {
        entries.push(entry);
    }
    let manifest = reader.into_manifest().unwrap();
    assert_eq!(manifest.signature.is_some(), signed);
    let objects = objects();
    assert!(objects.len() >= 10);
    assert_eq!(entries.len(), objects.len(), "{name}");
    for (entry, (key, state, object)) in entries.iter().zip(&objects) {
        assert_eq!((&entry.key.to_string(), entry.state, &entry.object), (key, *state, object));
        assert_eq!(entry.owners, owners(key).filter(|_| owned), "{key}");
    }
    assert_eq!(entries.iter().any(|entry| entry.owners.is_some()), owned);
    let expected = Expected { site: site(), digest: Some(listed.digest.clone()) };
    store.verify(&listed.location, expected).await.unwrap();
}

#[tokio::test]
async fn plain() {
    is_read("v1-plain", false, false, false).await;
}

#[tokio::test]
async fn signed() {
    is_read("v1-signed", true, false, false).await;
}

#[tokio::test]
async fn encrypted_and_signed() {
    is_read("v1-encrypted", true, true, false).await;
}

#[tokio::test]
async fn with_field_owners_and_resource_versions() {
    is_read("v1-owners", true, true, true).await;
}

/// Writes one of today's format: `cargo test --test golden -- --ignored write`, then commit it
/// under a name of its own.
#[tokio::test]
#[ignore = "writes files; for a new version of the format"]
async fn write_new_ones() {
    for (name, signed, encrypted) in
        [("new-plain", false, false), ("new-signed", true, false), ("new-encrypted", true, true)]
    {
        let folder = golden(name);
        fs::create_dir_all(&folder).unwrap();
        let mut options = Options::new(&format!("file://{}", folder.display()));
        if signed {
            options.keys.sign_with(&golden("keys/test-signing-key.pem")).unwrap();
        }
        if encrypted {
            let file = golden("keys/test-age-identity.txt");
            options.encryption.read_with(&file).unwrap();
            let text = fs::read_to_string(file).unwrap();
            let public = text.lines().find_map(|l| l.strip_prefix("# public key: ")).unwrap();
            options.encryption.encrypt_to(public).unwrap();
        }
        let store = Store::open_with(options).await.unwrap();
        let location = layout::archive(&site().id, "acme-golden", "9f2d-uid-of-the-backup", "1");
        let header = Header { resource_version: Some("48211".into()), ..header() };
        let mut writer = store.write(&location, &header).unwrap();
        for (key, state, object) in objects() {
            let digest = object_digest(&object);
            let key: ObjectKey = key.parse().unwrap();
            let owners = owners(&key.to_string());
            writer.add(&Entry { key, digest, state, object, owners }).await.unwrap();
        }
        let written = writer.finish().await.unwrap();
        let entry = CatalogueEntry {
            format: catalogue::FORMAT.into(),
            backup: "acme-golden".into(),
            site: site(),
            purpose: reprieve::api::BackupPurpose::Manual,
            time: header.time,
            location: written.location,
            digest: written.manifest.root_digest,
            objects: written.manifest.count,
            bytes: written.size,
            resource_versions: Some(ReadVersions { first: "48211".into(), last: "48230".into() }),
            changed_objects: Some(ChangedObjects {
                count: 1,
                first: vec!["ConfigMap/acme/settings".into()],
            }),
            keep_until_time: None,
            contents: None,
        };
        store.enter(&entry).await.unwrap();
        fs::remove_file(folder.join("probe")).unwrap();
    }
}
