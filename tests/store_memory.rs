//! What a large archive takes of the memory, both ways. A process of its own, with one test, so
//! that nothing else counts.

mod s3;

use std::fs;
use std::time::{Duration, Instant};

use reprieve::cluster::collect::ObjectState;
use reprieve::cluster::form::{ObjectKey, object_digest};
use reprieve::store::{Entry, Expected, Header, Identity, Options, Store, archive, layout};
use s3::S3;
use serde_json::json;

const MIB: u64 = 1024 * 1024;
/// How much the process may grow by an archive of any size: parts on their way, buffers, zstd.
const LIMIT: u64 = 48 * MIB;

/// A field of this process's status, in bytes.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// By how much the memory grows at its peak while this is done.
async fn growth<T>(work: impl Future<Output = T>) -> (u64, T) {
    // Sets the peak back to what is in use now.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let result = work.await;
    (status("VmHWM").saturating_sub(before), result)
}

fn site() -> Identity {
    Identity { name: "acme".into(), uid: "u1".into(), id: "site-1".into() }
}

/// Texts of 800 kB, half of which compresses away. Ten of them are more than zstd looks back on,
/// so that it does not find one again.
fn texts() -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = || {
        let mut text = String::with_capacity(800_000);
        while text.len() < 800_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(&format!("{state:016x}"));
        }
        text
    };
    (0..10).map(|_| text()).collect()
}

/// Writes and reads an archive, and tells how fast and at which cost.
async fn measured(what: &str, store: &Store, mib: u64) {
    let texts = texts();
    let count = mib * MIB / 800_000;
    let time = serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap();
    let header = Header {
        format: archive::FORMAT.into(),
        backup: "b".into(),
        site: site(),
        time,
        resource_version: None,
    };
    let location = layout::archive("site-1", "b", &format!("u{mib}"), "1");
    let begin = Instant::now();
    let (grown, written) = growth(async {
        let mut writer = store.write(&location, &header).unwrap();
        for i in 0..count {
            let text = &texts[usize::try_from(i).unwrap() % texts.len()];
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i:06}"), "namespace": "acme"}, "data": {"text": text}});
            let entry = Entry {
                key: ObjectKey::of(&object).unwrap(),
                digest: object_digest(&object),
                state: ObjectState::Ready,
                object,
                owners: None,
            };
            writer.add(&entry).await.unwrap();
        }
        writer.finish().await.unwrap()
    })
    .await;
    let rate = |begin: Instant| (count * 800_000) as f64 / 1e6 / begin.elapsed().as_secs_f64();
    println!(
        "{what}: {mib} MiB written at {:.0} MB/s, {} MiB in the store, grew by {} MiB",
        rate(begin),
        written.size / MIB,
        grown / MIB
    );
    assert!(grown < LIMIT, "{what}: writing {mib} MiB took {} MiB", grown / MIB);
    let expected = Expected { site: site(), digest: Some(written.manifest.root_digest) };
    let begin = Instant::now();
    let (grown, read) = growth(store.verify(&written.location, expected)).await;
    assert_eq!(read.unwrap().count, count);
    println!("{what}: {mib} MiB read at {:.0} MB/s, grew by {} MiB", rate(begin), grown / MIB);
    assert!(grown < LIMIT, "{what}: reading {mib} MiB took {} MiB", grown / MIB);
}

#[tokio::test]
#[ignore = "minutes without optimization: cargo test --release --test store_memory -- --ignored --nocapture"]
async fn memory_does_not_grow_with_a_site() {
    let folder = tempfile::tempdir().unwrap();
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys");
    let url = format!("file://{}", folder.path().display());
    let sealed = || {
        let mut options = Options::new(&url);
        options.keys.sign_with(format!("{keys}/test-signing-key.pem").as_ref()).unwrap();
        let identity = format!("{keys}/test-age-identity.txt");
        options.encryption.read_with(identity.as_ref()).unwrap();
        let text = fs::read_to_string(identity).unwrap();
        let public = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
        options.encryption.encrypt_to(public).unwrap();
        options
    };
    measured("files, sealed", &Store::open_with(sealed()).await.unwrap(), 120).await;
    let Some(server) = S3::start() else { return };
    let mut options = server.options("s3://backups/x");
    options.timeout = Duration::from_secs(60);
    measured("S3", &Store::open_with(options).await.unwrap(), 64).await;
}
