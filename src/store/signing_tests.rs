//! Who may have written an archive: forged, foreign, swapped and rolled back.

use super::tests::*;
use super::*;
use serde_json::json;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys");

fn file(name: &str) -> std::path::PathBuf {
    std::path::Path::new(KEYS).join(name)
}

/// What a store over the same objects is when it is opened with these keys.
fn opened(store: &Store, signing: Option<&str>, trusted: &[&str], any: bool) -> Store {
    let mut keys = Keys::default();
    if let Some(name) = signing {
        keys.sign_with(&file(&format!("test-{name}-key.pem"))).unwrap();
    }
    for name in trusted {
        keys.trust(&file(&format!("test-{name}-public.pem"))).unwrap();
    }
    if any {
        keys.allow_unsigned();
    }
    Store { keys: Arc::new(keys), ..store.clone() }
}

#[tokio::test]
async fn only_what_a_trusted_key_has_signed_is_taken() {
    let none = memory();
    let ours = opened(&none, Some("signing"), &[], false);
    let other = opened(&none, Some("other"), &[], false);
    let rotated = opened(&none, Some("other"), &["signing"], false);
    let reader = opened(&none, None, &["signing"], false);
    let any = opened(&none, Some("other"), &[], true);

    let manifest = written(&ours, 3).await.manifest;
    let key = manifest.signature.clone().unwrap().key;
    assert_eq!(key, ours.keys.public().unwrap().to_string());
    for store in [&none, &ours, &rotated, &reader, &any] {
        assert_eq!(store.verify(LOCATION, expected()).await.unwrap(), manifest);
    }
    let found = damage(&other, expected()).await;
    assert_eq!(found, Damage::UnknownKey(key.clone()));
    assert!(found.to_string().contains("--trusted-key-file"), "{found}");

    // The same site, whole, every digest right, by somebody who can write to the store.
    assert_eq!(written(&none, 3).await.manifest.signature, None);
    for store in [&ours, &rotated, &reader] {
        assert_eq!(damage(store, expected()).await, Damage::Unsigned);
    }
    for store in [&none, &any] {
        store.verify(LOCATION, expected()).await.unwrap();
    }
    written(&other, 3).await;
    assert!(matches!(damage(&ours, expected()).await, Damage::UnknownKey(_)));
    any.verify(LOCATION, expected()).await.unwrap();
}

#[tokio::test]
async fn b1_a_signature_fits_to_one_archive_alone() {
    let none = memory();
    let ours = opened(&none, Some("signing"), &[], false);
    let any = opened(&none, Some("signing"), &[], true);
    let signature = json!(written(&ours, 3).await.manifest.signature.unwrap());
    let forged = Damage::Forged(ours.keys.public().unwrap().to_string());

    // Of the other content, the other backup and the other time; all else is right.
    let changed = [
        (4, header()),
        (3, Header { backup: "c".into(), ..header() }),
        (
            3,
            Header {
                time: serde_json::from_value(json!("2027-01-01T00:00:00Z")).unwrap(),
                ..header()
            },
        ),
    ];
    for (objects, header) in changed {
        let mut writer = none.rewrite(LOCATION, &header).unwrap();
        for i in 0..objects {
            writer.add(&entry(i)).await.unwrap();
        }
        writer.finish().await.unwrap();
        let signature = signature.clone();
        rewritten(&none, move |_, line| {
            if let Some(manifest) = line.get_mut("manifest") {
                manifest["signature"] = signature.clone();
            }
            true
        })
        .await;
        none.verify(LOCATION, expected()).await.unwrap();
        for store in [&ours, &any] {
            assert_eq!(damage(store, expected()).await, forged);
        }
    }
    // Of another site: its own digest and signature are right.
    let site = Identity { name: "beta".into(), uid: "u9".into(), id: "site-9".into() };
    let mut writer = ours.rewrite(LOCATION, &Header { site, ..header() }).unwrap();
    writer.add(&entry(0)).await.unwrap();
    writer.finish().await.unwrap();
    assert!(matches!(damage(&ours, expected()).await, Damage::ForeignSite { .. }));

    // No signature at all, and ones that are none.
    for value in ["", "00", "zz", "ä0", &"00".repeat(64)] {
        written(&ours, 3).await;
        rewritten(&none, |_, line| {
            if let Some(manifest) = line.get_mut("manifest") {
                manifest["signature"]["value"] = json!(value);
            }
            true
        })
        .await;
        assert_eq!(damage(&ours, expected()).await, forged, "{value}");
    }
    written(&ours, 3).await;
    rewritten(&none, |_, line| {
        if let Some(manifest) = line.get_mut("manifest") {
            manifest.as_object_mut().unwrap().remove("signature");
        }
        true
    })
    .await;
    assert_eq!(damage(&ours, expected()).await, Damage::Unsigned);
}

#[tokio::test]
async fn b1_lines_in_another_order_and_lines_told_twice_are_seen() {
    let store = memory();
    for (order, seen) in [
        ([0, 2, 1, 3, 4], Damage::Digest("bytes")),
        ([0, 1, 1, 3, 4], Damage::Digest("objects")),
        ([1, 0, 2, 3, 4], Damage::Corrupt("it does not begin with a header".into())),
        ([0, 0, 1, 2, 4], Damage::Corrupt("it has two headers".into())),
        ([0, 4, 1, 2, 3], Damage::Trailing),
    ] {
        written(&store, 3).await;
        let lines = lines(&store).await;
        let text: Vec<&str> = order.iter().map(|i| lines[*i].as_str()).collect();
        put_lines(&store, &text).await;
        assert_eq!(damage(&store, expected()).await, seen, "{order:?}");
    }
}

async fn listed_end(store: &Store, entry: &CatalogueEntry) -> Result<Manifest, StoreError> {
    let mut reader = store.read_listed(entry).await?;
    while reader.next().await?.is_some() {}
    reader.into_manifest()
}

#[tokio::test]
async fn b1_a_catalogue_that_disagrees_with_its_archive_is_told() {
    let store = memory();
    let right = listed(&written(&store, 3).await);
    listed_end(&store, &right).await.unwrap();
    type Change = fn(&mut CatalogueEntry);
    let rows: [(Change, &str); 6] = [
        (|e| e.backup = "older".into(), "its Backup is b, not older"),
        (
            |e| e.time = serde_json::from_value(json!("2026-11-23T17:00:00Z")).unwrap(),
            "its time is 2026-11-22",
        ),
        (|e| e.digest = "sha256:00".into(), "is another one: its digest is"),
        (|e| e.objects = 4, "its number of objects is 3, not 4"),
        (|e| e.site.uid = "u2".into(), "is of the site acme"),
        (|e| e.location = "sites/site-1/none.u.jsonl.zst".into(), "is not in the store"),
    ];
    for (change, words) in rows {
        let mut entry = right.clone();
        change(&mut entry);
        let error = listed_end(&store, &entry).await.unwrap_err();
        assert!(error.to_string().contains(words) && !error.may_pass(), "{error}");
    }
}

#[tokio::test]
async fn b1_catalogue_entries_are_signed_and_forged_ones_are_told() {
    let none = memory();
    let ours = opened(&none, Some("signing"), &[], false);
    let right = listed(&written(&ours, 3).await);
    let path = Path::from(layout::catalogue_entry(LOCATION));
    let refusal = async |store: &Store| {
        let listing = store.catalogue().await.unwrap();
        assert_eq!(listing.entries, []);
        listing.refused[0].to_string()
    };
    ours.enter(&right).await.unwrap();
    for store in [&ours, &none] {
        assert_eq!(store.catalogue().await.unwrap().entries, std::slice::from_ref(&right));
    }
    let text = none.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let text = String::from_utf8(text).unwrap();
    let put = async |path: &Path, text: String| {
        none.objects.put(path, PutPayload::from(text)).await.unwrap();
    };
    // A word changed, and one that this version does not know.
    for (from, to) in
        [("\"objects\": 3", "\"objects\": 2"), ("\"objects\"", "\"x\": 1, \"objects\"")]
    {
        assert!(text.contains(from), "{text}");
        put(&path, text.replacen(from, to, 1)).await;
        let said = refusal(&ours).await;
        assert!(said.starts_with("the catalogue entry sites/site-1/b.u.json"), "{said}");
        assert!(said.contains("its signature does not fit"), "{said}");
    }
    none.objects.delete(&path).await.unwrap();
    none.enter(&right).await.unwrap();
    assert!(refusal(&ours).await.contains("is not signed"));
    put(&path, "{}".into()).await;
    assert!(refusal(&ours).await.contains("is of the format \"\""));
    put(&path, "no JSON".into()).await;
    assert!(refusal(&ours).await.contains("is damaged"));
    // Right, but brought to another place: a backup that was expired, or of another site.
    none.objects.delete(&path).await.unwrap();
    put(&Path::from("sites/site-1/copy.u.json"), text.clone()).await;
    assert!(refusal(&ours).await.contains("it belongs to sites/site-1/b.u.jsonl.zst"));
    none.objects.delete(&Path::from("sites/site-1/copy.u.json")).await.unwrap();
    put(&Path::from("sites/site-2/b.u.json"), text).await;
    assert!(refusal(&ours).await.contains("it belongs to"));
    assert_eq!(ours.all_backups().await.unwrap(), []);
}

#[test]
fn a_key_that_cannot_be_used_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let rsa = folder.path().join("rsa.pem");
    std::fs::write(&rsa, "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let none = folder.path().join("none");
    let mut keys = Keys::default();
    let rows = [
        (keys.sign_with(&none), "--signing-key-file", "No such file"),
        (keys.sign_with(&rsa), "--signing-key-file", "openssl genpkey"),
        (keys.sign_with(&file("test-signing-public.pem")), "--signing-key-file", "openssl genpkey"),
        (keys.trust(&none), "--trusted-key-file", "No such file"),
        (keys.trust(&file("test-signing-key.pem")), "--trusted-key-file", "openssl pkey"),
    ];
    for (result, flag, words) in rows {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(flag) && error.contains(words), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(keys.takes_any());
}
