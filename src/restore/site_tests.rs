//! Reading back: every object, whatever comes between two pages.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::super::fixtures::{Server, entry};
use super::super::index::Indexing;
use super::*;
use crate::cluster::discover::discover;

#[tokio::test]
async fn every_object_of_every_page_is_read_as_it_is() {
    let map = |n: usize| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"n": n.to_string()},
            "metadata": {"name": format!("m{n}"), "namespace": "acme"},
        })
    };
    let maps: Vec<Value> = (0..10).map(map).collect();
    let site = json!({
        "apiVersion": names::API_VERSION, "kind": "Site", "metadata": {"name": "acme"},
    });
    let mut indexing = Indexing::new("acme");
    maps.iter().chain([&site]).for_each(|object| indexing.add(&entry(object)));
    let plan = Plan::new("acme", Arc::new(indexing.finish().unwrap()));
    let expected: BTreeMap<String, Value> =
        maps.iter().map(|m| (ObjectKey::of(m).unwrap().to_string(), m.clone())).collect();
    // How often the API server has forgotten where the list was.
    for (forgets, whole) in [(0, true), (RESTARTS, true), (RESTARTS + 1, false)] {
        let forgets = Arc::new(Mutex::new(forgets));
        let server = Server { objects: maps.clone(), page: 3, forgets, ..Server::default() };
        let client = server.client();
        let kinds = discover(&client).await.unwrap();
        let own = Mutex::default();
        let maker = Maker { client: &client, kinds: &kinds, restore: "r", since: "", own };
        let mut read = BTreeMap::new();
        let mut take = |key: ObjectKey, live: Value| drop(read.insert(key.to_string(), live));
        let result = read_back(&maker, reads(&maker, &plan, |_, _| true), &mut take).await;
        assert_eq!(result.is_ok(), whole, "{result:?}");
        assert!(!whole || read == expected, "{read:?}");
    }
}
