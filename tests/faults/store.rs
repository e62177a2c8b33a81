//! F4 for the way to the store: an S3 server behind the proxy. What fails once is tried again; what
//! is away is said.

use std::time::{Duration, Instant};

use reprieve::cluster::collect::ObjectState;
use reprieve::cluster::form::{ObjectKey, object_digest};
use reprieve::sandbox::proxy::{Fault, Proxy, Rule, Verb};
use reprieve::store::{Entry, Expected, Header, Identity, Store, StoreError, archive};
use serde_json::json;

use crate::s3::S3;

async fn write_and_read_back(store: &Store, number: usize) -> Result<(), StoreError> {
    let site = Identity { name: "acme".into(), uid: "u1".into(), id: "site-1".into() };
    let header = Header {
        format: archive::FORMAT.into(),
        backup: format!("b{number}"),
        site: site.clone(),
        time: chrono::Utc::now().into(),
        resource_version: None,
    };
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "notes", "namespace": "acme"}, "data": {"text": "x".repeat(5000)},
    });
    let entry = Entry {
        key: ObjectKey::of(&object).expect("a key"),
        digest: object_digest(&object),
        state: ObjectState::Ready,
        object,
        owners: None,
    };
    let mut writer = store.write(&format!("b{number}.jsonl.zst"), &header)?;
    writer.add(&entry).await?;
    let written = writer.finish().await?;
    let digest = Some(written.manifest.root_digest.clone());
    store.verify(&written.location, Expected { site, digest }).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_a_bad_network() {
    let Some(server) = S3::start() else { return };
    let proxy = Proxy::plain(server.address()).expect("a proxy");
    let mut options = server.options_over("s3://backups/faults", proxy.address());
    options.timeout = Duration::from_secs(5);
    let store = Store::open_with(options).await.expect("it opens");
    write_and_read_back(&store, 0).await.expect("it goes through");
    assert!(proxy.writes().iter().any(|call| call.verb == Verb::Update), "{:?}", proxy.log());
    let faults = [
        Fault::Answer(500),
        Fault::Answer(503),
        Fault::AnswerAfter(500),
        Fault::Reset,
        Fault::ResetAfter,
        Fault::Truncate,
        Fault::Trickle(500, Duration::from_millis(1)),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        for (number, verb) in [(1, Verb::Update), (2, Verb::Get)] {
            let begun = Instant::now();
            proxy.clear();
            proxy.add(Rule::new(fault.clone()).verb(verb).times(1));
            // An answer that is lost may leave an archive behind, under whose name nothing is
            // written again: the next attempt has a name of its own.
            let done = write_and_read_back(&store, 10 * (index + 1) + number).await;
            assert_eq!(proxy.pending(), 0, "{fault:?} of {verb:?} did not happen");
            if let Err(error) = done {
                assert!(error.may_pass(), "{fault:?} of {verb:?}: {error}");
                proxy.clear();
                let again = write_and_read_back(&store, 1000 + 10 * index + number).await;
                again.unwrap_or_else(|error| panic!("{fault:?} of {verb:?}: {error}"));
                eprintln!("    {fault:?} of {verb:?} needed another attempt");
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{fault:?}: {:?}", begun.elapsed());
        }
    }
    proxy.clear();
    proxy.refuse();
    let error = write_and_read_back(&store, 9001).await.expect_err("it is away");
    assert!(error.may_pass(), "{error}");
    proxy.heal();
    write_and_read_back(&store, 9002).await.expect("it is there again");
}
