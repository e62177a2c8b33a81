//! Reading back: every object, whatever comes between two pages, and what is missing.

use std::collections::BTreeMap;
use std::sync::Mutex;

use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::super::fixtures::{Server, entry};
use super::super::index::Indexing;
use super::super::mark::Stages;
use super::*;
use crate::api::{OnConflict, PlanBackup};
use crate::cluster::Context;
use crate::cluster::discover::discover;
use crate::store::Store;

fn map(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"n": n.to_string()},
        "metadata": {"name": format!("m{n}"), "namespace": "acme"},
    })
}

fn plan(maps: &[Value]) -> Plan {
    let site = json!({
        "apiVersion": names::API_VERSION, "kind": "Site", "metadata": {"name": "acme"},
    });
    let mut indexing = Indexing::new("acme");
    maps.iter().chain([&site]).for_each(|object| indexing.add(&entry(object)));
    Plan::new("acme", Arc::new(indexing.finish().unwrap()))
}

#[tokio::test]
async fn every_object_of_every_page_is_read_as_it_is() {
    let maps: Vec<Value> = (0..10).map(map).collect();
    let plan = plan(&maps);
    let expected: BTreeMap<String, Value> =
        maps.iter().map(|m| (ObjectKey::of(m).unwrap().to_string(), m.clone())).collect();
    // How often the API server has forgotten where the list was.
    for (forgets, whole) in [(0, true), (RESTARTS, true), (RESTARTS + 1, false)] {
        let forgets = Arc::new(Mutex::new(forgets));
        let server = Server { objects: maps.clone(), page: 3, forgets, ..Server::default() };
        let client = server.client();
        let kinds = discover(&client).await.unwrap();
        let maker = Maker::new(&client, &kinds, "r", "");
        let mut read = BTreeMap::new();
        let mut take = |key: ObjectKey, live: Value| drop(read.insert(key.to_string(), live));
        let result = read_back(&maker, reads(&maker, &plan, |_, _| true), &mut take).await;
        assert_eq!(result.is_ok(), whole, "{result:?}");
        assert!(!whole || read == expected, "{read:?}");
    }
}

/// I11: what was created and is gone again is missed, whatever answered to its creation.
#[tokio::test]
async fn what_is_not_there_is_missed() {
    let maps: Vec<Value> = (0..10).map(map).collect();
    for gone in [None, Some(4), Some(9)] {
        let left = maps.iter().enumerate().filter(|(n, _)| Some(*n) != gone);
        let objects = left.map(|(_, map)| map.clone()).collect();
        let server = Server { objects, page: 3, ..Server::default() };
        let client = server.client();
        let kinds = discover(&client).await.unwrap();
        let maker = Maker::new(&client, &kinds, "r", "");
        let work = Work {
            ctx: Context::new(client.clone()),
            store: Store::over(Arc::new(InMemory::new()), "memory:///"),
            restore: "r".to_owned(),
            uid: "u".to_owned(),
            created: chrono::DateTime::UNIX_EPOCH.into(),
            on_conflict: OnConflict::Fail,
            stages: Stages::default(),
        };
        let backup = PlanBackup {
            name: "b".to_owned(),
            location: "none".to_owned(),
            digest: String::new(),
            objects: 10,
            keep_until_time: None,
        };
        let job = Job {
            name: "acme".to_owned(),
            old_uid: "o".to_owned(),
            id: "1".to_owned(),
            backup,
            verified: None,
            app: None,
            drill: None,
        };
        let mut plan = plan(&maps);
        // The Site itself is on no server of these tests.
        plan.restrict(maps.iter().filter_map(ObjectKey::of).collect());
        match verify(&work, &maker, &job, &mut plan, &Created::default()).await {
            Ok(Attempt::Verified(verified)) => {
                assert_eq!((gone, verified.objects), (None, 10));
            }
            Err(Attempt::Failed(failures)) => {
                assert_eq!(failures.len(), 1, "{failures:?}");
                let object = gone.map(|n| format!("v1 ConfigMap acme/m{n}"));
                assert_eq!(failures[0].object, object);
                assert_eq!(failures[0].reason, Reason::VerifyFailed.as_str());
            }
            _ => panic!("neither verified nor failed without {gone:?}"),
        }
    }
}

#[test]
fn what_hooks_took_is_measured_of_what_was_measured_before() {
    let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
    let mut progress = Progress { hooks_begun: ago(7), ..Progress::default() };
    // As after a restart of the operator.
    progress.measure_hooks();
    assert_eq!(progress.took, None);
    progress.begun = ago(20);
    progress.created = Some(Created { at: ago(10), ..Created::default() });
    progress.measure(3, Instant::now(), true);
    assert_eq!(progress.took.map(|took| took.hooks), Some(None), "it has none, so far");
    progress.measure_hooks();
    let hooks = progress.took.and_then(|took| took.hooks).expect("a time");
    assert!(hooks >= Duration::from_secs(7), "{hooks:?}");
}
