//! Writes that say what they were decided on, tried on a real API server: of an object that was
//! changed since, or is another one of the same name, nothing is changed and nothing is deleted.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use reprieve::cluster::{Error, Exact, create_if_absent, delete_exact, patch_exact};
use serde_json::{Value, json};

fn map(text: &str) -> ConfigMap {
    let map = json!({"metadata": {"name": "decided-on"}, "data": {"text": text}});
    serde_json::from_value(map).expect("a ConfigMap")
}

fn patch() -> Value {
    json!({"data": {"text": "overwritten"}})
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &str, why: &str) {
    let error = result.expect_err(why).to_string();
    assert!(error.contains(words), "{why}: {error}");
}

/// The object of a decision is changed, and then another one, before it is carried out.
pub async fn nothing_is_done_to_what_was_not_read(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let first = maps.create(&PostParams::default(), &map("first")).await.expect("created");
    let read = Exact::of(&first);
    let other = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let changed = maps.patch("decided-on", &PatchParams::default(), &other).await.expect("changed");
    let conflict = "cannot be fulfilled";
    refused(delete_exact(&maps, &read).await, conflict, "deleted what was changed since");
    refused(patch_exact(&maps, &read, patch()).await, conflict, "patched what was changed since");

    maps.delete("decided-on", &DeleteParams::default()).await.expect("deleted");
    assert!(!delete_exact(&maps, &Exact::of(&changed)).await.expect("it is gone"));
    let second = maps.create(&PostParams::default(), &map("second")).await.expect("created");
    // By its UID alone: whoever has the resourceVersion of the new one, and means the old one.
    let meant = Exact { uid: read.uid.clone(), ..Exact::of(&second) };
    refused(delete_exact(&maps, &meant).await, conflict, "deleted another one of that name");
    // A UID in a patch is taken for a change of it.
    let immutable = "metadata.uid";
    refused(patch_exact(&maps, &meant, patch()).await, immutable, "patched another of that name");

    assert!(!create_if_absent(&maps, &map("third")).await.expect("it is there"));
    let live = maps.get("decided-on").await.expect("it lives");
    assert_eq!(live.data, map("second").data, "left as it is");
    assert_eq!(live.uid(), second.uid());

    assert!(delete_exact(&maps, &Exact::of(&second)).await.expect("deleted"));
    assert!(create_if_absent(&maps, &map("third")).await.expect("created"));
}
