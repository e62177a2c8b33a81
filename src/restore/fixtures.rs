//! An API server as small as the unit tests of this room need it: a few objects of two kinds, lists
//! in pages, and a note of every write. What a restore does to a cluster is tried on a real one.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

use super::index::Item;
use crate::cluster::form::{ObjectKey, object_digest};
use crate::store::RawEntry;

/// The objects, and every write but for dry runs: its method, its path, and what it sends.
#[derive(Clone, Default)]
pub struct Server {
    pub objects: Vec<Value>,
    /// Objects of one page of a list.
    pub page: usize,
    pub writes: Arc<Mutex<Vec<(Method, String, Value)>>>,
    /// So many lists that go on are answered with 410.
    pub forgets: Arc<Mutex<usize>>,
}

impl Server {
    pub fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(BoxError::from)?;
                let (code, body) = server.answer(&head, &body);
                let response = Response::builder().status(code);
                Ok::<_, BoxError>(response.body(Body::from(body.to_string().into_bytes()))?)
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn answer(&self, head: &http::request::Parts, body: &[u8]) -> (u16, Value) {
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let object = self.objects.iter().find(|object| path_of(object) == path);
        match head.method {
            Method::GET if path == "/api" || path == "/apis" => (200, discovery()),
            Method::GET if query.contains("limit=") => self.list(path, query),
            Method::GET => object.map_or_else(|| failure(404), |object| (200, object.clone())),
            _ => {
                let sent: Value = serde_json::from_slice(body).unwrap_or_default();
                if !query.contains("dryRun") {
                    let write = (head.method.clone(), path.to_owned(), sent.clone());
                    self.writes.lock().unwrap().push(write);
                }
                let there = |o: &Value| o["metadata"]["name"] == sent["metadata"]["name"];
                match head.method {
                    Method::POST if self.objects.iter().any(there) => failure(409),
                    _ => (200, object.cloned().unwrap_or(sent)),
                }
            }
        }
    }

    fn list(&self, path: &str, query: &str) -> (u16, Value) {
        let of = |object: &&Value| path_of(object).rsplit_once('/').is_some_and(|(p, _)| p == path);
        let from = query.split_once("continue=").and_then(|(_, token)| token.parse::<usize>().ok());
        let mut forgets = self.forgets.lock().unwrap();
        if from.is_some() && *forgets > 0 {
            *forgets -= 1;
            return failure(410);
        }
        let (from, all) = (from.unwrap_or(0), self.objects.iter().filter(of).count());
        let items = self.objects.iter().filter(of).skip(from).take(self.page);
        // As those of a list of a built-in kind.
        let items: Vec<Value> = items
            .map(|item| json!({ "metadata": item["metadata"], "data": item["data"] }))
            .collect();
        let next = from + items.len();
        let token = if next < all { next.to_string() } else { String::new() };
        (200, json!({ "metadata": { "continue": token }, "items": items }))
    }
}

fn path_of(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (word(&object["kind"]).to_lowercase(), &object["metadata"]);
    let (namespace, name) = (word(&metadata["namespace"]), word(&metadata["name"]));
    format!("/api/v1/namespaces/{namespace}/{kind}s/{name}")
}

fn failure(code: u16) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}))
}

fn discovery() -> Value {
    let kind = |kind: &str| {
        json!({
            "resource": format!("{}s", kind.to_lowercase()), "responseKind": {"kind": kind},
            "scope": "Namespaced", "verbs": ["list", "get", "create"],
        })
    };
    let resources = json!([kind("ConfigMap"), kind("ServiceAccount")]);
    json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": resources}]}]})
}

/// An object as a line of an archive.
pub fn entry(object: &Value) -> RawEntry {
    let line = json!({
        "key": ObjectKey::of(object).unwrap(), "digest": object_digest(object),
        "state": "Ready", "object": object,
    });
    serde_json::from_str(&line.to_string()).unwrap()
}

/// What is kept of it.
pub fn item(entry: &RawEntry) -> Item {
    let mut item = Item::of(entry, "acme");
    item.api_version = entry.api_version().into();
    item
}
