//! The store on real backends: files, and an S3 server that can be killed, stopped and slowed.

mod s3;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reprieve::api::BackupPurpose;
use reprieve::cluster::collect::ObjectState;
use reprieve::cluster::form::{ObjectKey, object_digest};
use reprieve::store::{
    CatalogueEntry, Damage, Entry, Expected, Header, Identity, Options, Store, StoreError, Written,
    archive, catalogue, layout,
};
use s3::S3;
use serde_json::json;

fn site() -> Identity {
    Identity { name: "acme".into(), uid: "u1".into(), id: "site-1".into() }
}

fn header(backup: &str) -> Header {
    let time = serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap();
    Header {
        format: archive::FORMAT.into(),
        backup: backup.into(),
        site: site(),
        time,
        resource_version: None,
    }
}

fn expected(written: &Written) -> Expected {
    Expected { site: site(), digest: Some(written.manifest.root_digest.clone()) }
}

/// Text that does not compress below half its size.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

fn entry(i: usize, size: usize) -> Entry {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i:05}"), "namespace": "acme"}, "data": {"text": noise(i as u64 + 1, size)}});
    Entry {
        key: ObjectKey::of(&object).unwrap(),
        digest: object_digest(&object),
        state: ObjectState::Ready,
        object,
        owners: None,
    }
}

async fn write(store: &Store, backup: &str, objects: usize, size: usize) -> Written {
    let location = layout::archive("site-1", backup, "u", "1");
    let mut writer = store.write(&location, &header(backup)).unwrap();
    for i in 0..objects {
        writer.add(&entry(i, size)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

fn listed(backup: &str, written: &Written) -> CatalogueEntry {
    CatalogueEntry {
        format: catalogue::FORMAT.into(),
        backup: backup.into(),
        site: site(),
        purpose: BackupPurpose::Manual,
        time: header(backup).time,
        location: written.location.clone(),
        digest: written.manifest.root_digest.clone(),
        objects: written.manifest.count,
        bytes: written.size,
        resource_versions: None,
        changed_objects: None,
        keep_until_time: None,
        contents: None,
    }
}

fn at(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

/// What must hold of any backend.
async fn holds(store: &Store) {
    // One request, and several parts.
    for (backup, objects, size) in [("small", 3, 100), ("large", 40, 600_000)] {
        let written = write(store, backup, objects, size).await;
        assert!(size < 1000 || written.size > 11_000_000, "{}", written.size);
        let archive = store.load(&written.location, expected(&written)).await.unwrap();
        assert_eq!(archive.header, header(backup));
        assert_eq!(archive.manifest, written.manifest);
        assert!(archive.entries == (0..objects).map(|i| entry(i, size)).collect::<Vec<_>>());
        store.enter(&listed(backup, &written)).await.unwrap();
    }
    let backups = store.backups_of("site-1").await.unwrap();
    assert_eq!(backups.iter().map(|b| b.backup.as_str()).collect::<Vec<_>>(), ["large", "small"]);
    assert_eq!(store.all_backups().await.unwrap(), backups);
    assert_eq!(store.backups_of("none").await.unwrap(), []);

    // What was given up, or only forgotten, is nowhere to be seen.
    for abort in [true, false] {
        let location = layout::archive("site-1", "given-up", "u", "1");
        let mut writer = store.write(&location, &header("given-up")).unwrap();
        for i in 0..30 {
            writer.add(&entry(i, 600_000)).await.unwrap();
        }
        if abort {
            writer.abort().await;
        } else {
            drop(writer);
        }
        let error = store.verify(&location, Expected { site: site(), digest: None }).await;
        assert!(
            matches!(error, Err(StoreError::Archive { damage: Damage::Missing, .. })),
            "{error:?}"
        );
    }
    assert_eq!(store.all_backups().await.unwrap().len(), 2);
}

#[tokio::test]
async fn it_holds_on_files() {
    let folder = tempfile::tempdir().unwrap();
    holds(&Store::open(&at(folder.path())).await.unwrap()).await;
}

#[tokio::test]
async fn it_holds_on_s3() {
    let Some(server) = S3::start() else { return };
    let below = server.store("some/prefix").await.unwrap();
    holds(&below).await;
    // Nothing lies outside of the prefix, and stores below other prefixes don't see it.
    let top: Vec<_> = std::fs::read_dir(server.bucket()).unwrap().map(|e| e.unwrap()).collect();
    let top: Vec<_> = top.iter().map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(top.iter().all(|name| name == "some" || name.starts_with('.')), "{top:?}");
    assert_eq!(server.store("some/other").await.unwrap().all_backups().await.unwrap(), []);
    server.store("").await.unwrap();
}

/// The message of a store that cannot be opened.
async fn refusal(options: Options) -> String {
    let error = Store::open_with(options).await.expect_err("it must not open");
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 300, "{text}");
    assert!(!text.contains("a-key-for-tests-alone"), "{text}");
    text
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_is_told_in_one_line() {
    let Some(mut server) = S3::start() else { return };
    let text = refusal(server.options("s3://nowhere/x")).await;
    assert!(text.contains("there is no such bucket"), "{text}");
    assert!(text.contains("s3://nowhere/x"), "{text}");

    for (key, value) in [("AWS_SECRET_ACCESS_KEY", "another"), ("AWS_ACCESS_KEY_ID", "nobody")] {
        let mut options = server.options("s3://backups");
        options.settings.push((key.into(), value.into()));
        let text = refusal(options).await;
        assert!(text.contains("permission denied"), "{text}");
    }
    let mut options = server.options("s3://backups");
    options.settings.push(("AWS_NONSENSE".into(), "x".into()));
    assert!(refusal(options).await.contains("AWS_NONSENSE"));

    let store = server.store("").await.unwrap();
    server.kill();
    let begin = Instant::now();
    let text = refusal(server.options("s3://backups")).await;
    assert!(text.contains("cannot be reached"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    // A store that was there and goes away is an error that may pass.
    let error = store.all_backups().await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("cannot be reached"), "{error}");
    server.restart();
    assert_eq!(store.all_backups().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_an_upload_leaves_nothing_to_see() {
    let Some(mut server) = S3::start() else { return };
    let store = server.store("").await.unwrap();
    let location = layout::archive("site-1", "b", "u", "1");
    let mut writer = store.write(&location, &header("b")).unwrap();
    for i in 0..40 {
        writer.add(&entry(i, 600_000)).await.unwrap();
    }
    server.kill();
    let begin = Instant::now();
    let mut result = Ok(());
    for i in 40..60 {
        if result.is_ok() {
            result = writer.add(&entry(i, 600_000)).await;
        }
    }
    let error = match result {
        Err(error) => {
            writer.abort().await;
            error
        }
        Ok(()) => writer.finish().await.unwrap_err(),
    };
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert!(error.may_pass(), "{error}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    server.restart();
    let found = store.verify(&location, Expected { site: site(), digest: None }).await;
    assert!(matches!(found, Err(StoreError::Archive { damage: Damage::Missing, .. })), "{found:?}");
    // The next attempt is as good as any.
    let written = write(&store, "b", 40, 600_000).await;
    store.verify(&written.location, expected(&written)).await.unwrap();
}

/// Stands between the store and the server, and hands bytes on at this pace; without one, never.
fn proxy(to: SocketAddr, pause: Option<Duration>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Some(pause) = pause else {
                // Kept open, and silent.
                std::thread::spawn(move || {
                    let mut client = client;
                    while client.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
                });
                continue;
            };
            let Ok(server) = TcpStream::connect(to) else { continue };
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        std::thread::sleep(pause);
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn a_slow_server_is_waited_for_and_a_silent_one_is_not() {
    let Some(server) = S3::start() else { return };
    let slow = proxy(server.address(), Some(Duration::from_millis(12)));
    let mut options = server.options_over("s3://backups", slow);
    // More than any piece takes, however long the whole does.
    options.timeout = Duration::from_secs(30);
    let store = Store::open_with(options).await.unwrap();
    let begin = Instant::now();
    let written = write(&store, "b", 80, 600_000).await;
    store.verify(&written.location, expected(&written)).await.unwrap();
    assert!(begin.elapsed() > Duration::from_secs(4), "it was not slow: {:?}", begin.elapsed());

    let silent = proxy(server.address(), None);
    let mut options = server.options_over("s3://backups", silent);
    options.timeout = Duration::from_secs(1);
    let begin = Instant::now();
    let text = refusal(options).await;
    assert!(text.contains("does not answer in time"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

/// On a file system of its own that holds 300 KB. Needs user namespaces.
#[test]
fn a_full_disk_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let cluster = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]});
    std::fs::write(&kubeconfig, cluster.to_string()).unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=300k none \"$1\" || exit 77
        cat /dev/zero > \"$1/ballast\" 2>/dev/null
        exec \"$2\" run --log-format text --store-url \"file://$1\" --kubeconfig \"$3\" --listen 127.0.0.1:0";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([disk.as_os_str(), env!("CARGO_BIN_EXE_reprieve").as_ref(), kubeconfig.as_os_str()])
        .output();
    let error = output.as_ref().map(|o| String::from_utf8_lossy(&o.stderr).into_owned());
    let error = error.unwrap_or_else(|error| error.to_string());
    if !output.is_ok_and(|o| o.status.code() == Some(1)) {
        assert!(!error.contains("reprieve"), "{error}");
        reprieve::sandbox::skipped(&format!("no file system of one's own here: {error}"));
        return;
    }
    assert!(error.contains("cannot be written: it is full"), "{error}");
}
