//! Who can read an archive: encrypted, damaged, and without the right identity.

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity as Key;
use serde_json::json;

use super::tests::*;
use super::*;

/// What a store over the same objects is when it encrypts to these and reads with those.
fn opened(store: &Store, recipients: &[&Key], identities: &[&Key]) -> Store {
    let mut encryption = Encryption::default();
    for key in recipients {
        encryption.encrypt_to(&key.to_public().to_string()).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    for key in identities {
        let file = folder.path().join("identity");
        let text = format!("# made for a test\n\n{}\n", key.to_string().expose_secret());
        std::fs::write(&file, text).unwrap();
        encryption.read_with(&file).unwrap();
    }
    Store { encryption: Arc::new(encryption), ..store.clone() }
}

#[tokio::test]
async fn each_recipient_can_read_and_nobody_else() {
    let (a, b, c) = (Key::generate(), Key::generate(), Key::generate());
    let none = memory();
    let ours = opened(&none, &[&a, &b], &[&a]);
    let manifest = written(&ours, 3000).await.manifest;
    for (identities, store) in [
        (1, opened(&none, &[], &[&a])),
        (1, opened(&none, &[], &[&b])),
        (2, opened(&none, &[], &[&c, &b])),
    ] {
        let archive = store.load(LOCATION, expected()).await.unwrap();
        assert_eq!(archive.manifest, manifest, "{identities}");
        assert_eq!(archive.entries, (0..3000).map(entry).collect::<Vec<_>>());
    }
    for store in [&none, &opened(&none, &[&c], &[&c])] {
        let error = store.verify(LOCATION, expected()).await.unwrap_err();
        let text = error.to_string();
        for key in [&a, &b] {
            assert!(text.contains(&key.to_public().to_string()), "{text}");
        }
        assert!(text.contains("--age-identity-file") && !text.contains('\n'), "{text}");
        assert!(!error.may_pass());
    }
    // What was written before encryption was on, or after it was off again, is read as well.
    written(&none, 3).await;
    ours.verify(LOCATION, expected()).await.unwrap();
}

#[tokio::test]
async fn damage_of_an_encrypted_archive_is_seen() {
    let key = Key::generate();
    let store = opened(&memory(), &[&key], &[&key]);
    let manifest = written(&store, 20).await.manifest;
    let whole = raw(&store).await;
    for length in 0..whole.len() {
        put(&store, whole[..length].to_vec()).await;
        let found = damage(&store, expected()).await;
        // A cut within a number or a name of its header reads as another one.
        let told = found == Damage::Cut || matches!(found, Damage::Corrupt(_));
        assert!(told, "{length}: {found}");
    }
    put(&store, whole[..whole.len() - 20].to_vec()).await;
    let cut = damage(&store, expected()).await;
    assert!(matches!(cut, Damage::Cut | Damage::Corrupt(_)), "{cut}");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        put(&store, bytes).await;
        match store.verify(LOCATION, expected()).await {
            // In the clear line, which only tells.
            Ok(found) => assert_eq!(found, manifest, "byte {at}"),
            Err(error) => assert!(!error.to_string().contains('\n'), "{at}: {error}"),
        }
    }
    let mut bytes = whole.clone();
    bytes.extend(&whole);
    put(&store, bytes).await;
    assert!(store.verify(LOCATION, expected()).await.is_err());
    for line in ["{}\n", "{\"encrypted\":{}}\n", "{\n", "{"] {
        put(&store, line.as_bytes().to_vec()).await;
        assert!(store.verify(LOCATION, expected()).await.is_err(), "{line}");
    }
    put(&store, vec![b'{'; 200_000]).await;
    assert!(damage(&store, expected()).await.to_string().contains("first line is too long"));
    let other =
        json!({"encrypted": {"format": "reprieve.dev/archive/v9", "with": "x", "recipients": []}});
    put(&store, format!("{other}\n").into_bytes()).await;
    assert!(matches!(damage(&store, expected()).await, Damage::Format(_)));
}

/// Every byte that lies in a store, as it lies there and unpacked where it can be.
fn everything(folder: &std::path::Path) -> Vec<u8> {
    let mut all = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(everything(&path));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        all.extend(path.to_str().unwrap().as_bytes());
        let frames = bytes.windows(4).enumerate();
        for (at, _) in frames.filter(|(_, magic)| *magic == [0x28, 0xb5, 0x2f, 0xfd]) {
            let mut unpacked = vec![];
            if let Ok(mut decoder) = zstd::Decoder::new(&bytes[at..]) {
                let _ = std::io::Read::read_to_end(&mut decoder, &mut unpacked);
            }
            all.extend(unpacked);
        }
        all.extend(bytes);
    }
    all
}

#[tokio::test]
async fn no_byte_of_a_secret_lies_in_an_encrypted_store() {
    const CANARY: &str = "y5Hc0b3wq8Lr1dFz";
    let key = Key::generate();
    for encrypted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let mut store = Store::open(&url).await.unwrap();
        if encrypted {
            store = opened(&store, &[&key], &[&key]);
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CANARY, "namespace": "acme"}, "data": {"password": CANARY}});
        let mut writer = store.rewrite(LOCATION, &header()).unwrap();
        writer.add(&entry_of(&secret)).await.unwrap();
        for i in 0..5000 {
            writer.add(&entry(i)).await.unwrap();
        }
        let written = writer.finish().await.unwrap();
        store.enter(&listed(&written)).await.unwrap();
        assert_eq!(store.all_backups().await.unwrap().len(), 1);
        let all = everything(folder.path());
        let found = all.windows(CANARY.len()).any(|bytes| bytes == CANARY.as_bytes());
        // The search itself is proved by the store that is not encrypted.
        assert_eq!(found, !encrypted);
    }
}

#[test]
fn recipients_and_identities_that_cannot_be_used_are_told() {
    let key = Key::generate();
    let mut encryption = Encryption::default();
    assert!(encryption.can_read_back().is_ok());
    let error = encryption.encrypt_to("age1nonsense").unwrap_err().to_string();
    assert!(error.starts_with("--age-recipient age1nonsense cannot be used"), "{error}");
    encryption.encrypt_to(&key.to_public().to_string()).unwrap();
    let error = encryption.can_read_back().unwrap_err().to_string();
    assert!(error.contains("--age-identity-file"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity");
    let secret = key.to_string().expose_secret().to_owned();
    for text in ["", "# nothing\n", &format!("{secret}x\n")] {
        std::fs::write(&file, text).unwrap();
        let error = encryption.read_with(&file).unwrap_err().to_string();
        assert!(error.contains("age-keygen") && !error.contains(&secret), "{error}");
    }
    assert!(encryption.read_with(&folder.path().join("none")).is_err());
    std::fs::write(&file, format!("{}\n", Key::generate().to_string().expose_secret())).unwrap();
    encryption.read_with(&file).unwrap();
    assert!(encryption.can_read_back().is_err());
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    encryption.read_with(&file).unwrap();
    assert!(encryption.can_read_back().is_ok());
    assert!(!format!("{encryption:?}").contains("SECRET"));
}
