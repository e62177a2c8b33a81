//! I10: what is in the way is compared, and left.

use http::Method;
use serde_json::{Value, json};

use super::super::fixtures::{Server, entry, item};
use super::*;
use crate::cluster::discover::discover;

fn object(kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "acme"},
    });
    let fields = rest.as_object().cloned().unwrap_or_default();
    object.as_object_mut().unwrap().extend(fields);
    object
}

/// What becomes of an archived object where this one lives, and what was written in its place.
async fn made(archived: &Value, live: &Value, own: bool) -> (&'static str, Vec<Value>) {
    let mut live = live.clone();
    live["metadata"]["uid"] = json!("u");
    live["metadata"]["resourceVersion"] = json!("7");
    live["metadata"]["creationTimestamp"] = json!("2026-11-22T17:00:05Z");
    let server = Server { objects: vec![live], page: 9, ..Server::default() };
    let client = server.client();
    let kinds = discover(&client).await.unwrap();
    let since = "2026-11-22T17:00:00Z";
    let maker = Maker::new(&client, &kinds, "r", since);
    if own {
        maker.is_own("acme");
    }
    let entry = entry(archived);
    let item = item(&entry);
    let became = match maker.make(&Wanted { item: &item, entry, site: "acme" }).await {
        Made::There(_) => "there",
        Made::Conflict(..) => "conflict",
        other => panic!("{other:?}"),
    };
    let writes = server.writes.lock().unwrap();
    let over = writes.iter().filter(|(method, ..)| *method != Method::POST);
    (became, over.map(|(.., sent)| sent.clone()).collect())
}

#[tokio::test]
async fn nothing_that_lives_is_written_over_but_an_empty_account_in_a_namespace_of_ones_own() {
    let secrets = json!({"imagePullSecrets": [{"name": "registry"}]});
    let account = |name: &str| object("ServiceAccount", name, secrets.clone());
    let bare = |name: &str| object("ServiceAccount", name, json!({}));
    let mut labelled = bare("default");
    labelled["metadata"]["labels"] = json!({"team": "a"});
    let map = |text: &str| object("ConfigMap", "notes", json!({"data": {"text": text}}));
    let rows = [
        ("the same", map("a"), map("a"), true, "there"),
        ("different", map("a"), map("b"), true, "conflict"),
        ("in a namespace that lived", account("default"), bare("default"), false, "conflict"),
        ("not empty", account("default"), labelled, true, "conflict"),
        ("another account", account("builder"), bare("builder"), true, "conflict"),
    ];
    for (what, archived, live, own, expected) in rows {
        assert_eq!(made(&archived, &live, own).await, (expected, vec![]), "{what}");
    }
    let (became, writes) = made(&account("default"), &bare("default"), true).await;
    assert_eq!((became, writes.len()), ("there", 1));
    assert_eq!(writes[0]["metadata"]["uid"], "u", "the one that was read, and no other");
    assert_eq!(writes[0]["metadata"]["resourceVersion"], "7");
    assert_eq!(writes[0]["imagePullSecrets"], secrets["imagePullSecrets"]);
}
