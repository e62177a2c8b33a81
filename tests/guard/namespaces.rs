//! The namespaces of sites, with the namespace controller and the garbage collector at work.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use reprieve::api::names::{ANNOTATION_PURGE, LABEL_SITE};
use reprieve::guard::policy;
use serde_json::{Value, json};

use super::table::impersonate;
use super::{Cluster, denied, eventually, json_patch, merge, object};

/// Creates a namespace of a Site, as the operator does.
pub async fn of_site(c: &Cluster, name: &str) -> Namespace {
    create(&c.operator, name, json!({"labels": {LABEL_SITE: name}})).await.expect("a namespace")
}

async fn create(client: &Client, name: &str, mut metadata: Value) -> kube::Result<Namespace> {
    metadata["name"] = json!(name);
    let namespace = object(json!({"metadata": metadata}));
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await
}

/// T2, T3: the label and the annotation, in every way there is to write.
pub async fn marks(c: &Cluster) {
    let p = policy::NAMESPACE_MARKS;
    for client in [&c.admin, &c.root] {
        denied(p, create(client, "marks", json!({"labels": {LABEL_SITE: "acme"}})).await);
        denied(p, create(client, "marks", json!({"labels": {LABEL_SITE: ""}})).await);
        denied(p, create(client, "marks", json!({"annotations": {ANNOTATION_PURGE: "u"}})).await);
    }
    create(&c.admin, "free", json!({})).await.expect("a namespace of no Site");
    let owned = of_site(c, "marks").await;

    for client in [&c.admin, &c.root] {
        let api: Api<Namespace> = Api::all(client.clone());
        let params = PatchParams::default();
        for value in [json!("acme"), json!("")] {
            let patch = json!({"metadata": {"labels": {LABEL_SITE: value}}});
            denied(p, merge(&api, "free", patch.clone()).await);
            denied(p, merge(&api, "marks", patch).await);
        }
        for patch in [
            json!({"metadata": {"labels": {LABEL_SITE: null}}}),
            json!({"metadata": {"labels": null}}),
            json!({"metadata": {"annotations": {ANNOTATION_PURGE: "u"}}}),
        ] {
            let message = denied(p, merge(&api, "marks", patch.clone()).await);
            assert!(message.contains("by the operator only"), "{message}");
            // Unlike with custom resources, a status write can change a namespace's labels.
            denied(p, api.patch_status("marks", &params, &Patch::Merge(&patch)).await);
            denied(p, api.patch("marks", &params, &Patch::Strategic(patch)).await);
        }
        let remove = json!([{"op": "remove", "path": "/metadata/labels/reprieve.dev~1site"}]);
        denied(p, json_patch(&api, "marks", remove).await);
        let mut put = owned.clone();
        put.metadata.resource_version = None;
        put.metadata.labels = None;
        denied(p, api.replace("marks", &PostParams::default(), &put).await);
        let apply = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "marks", "labels": {LABEL_SITE: "other"}}});
        let force = PatchParams::apply("thief").force();
        denied(p, api.patch("marks", &force, &Patch::Apply(apply)).await);
        merge(&api, "marks", json!({"metadata": {"labels": {"a": "b"}}})).await.expect("another");
    }
}

/// T3: `/finalize` would make a namespace vanish around what is in it.
pub async fn finalize(c: &Cluster) {
    let namespace = of_site(c, "final").await;
    let mut emptied = namespace.clone();
    emptied.metadata.resource_version = None;
    emptied.spec = Some(Default::default());
    for client in [&c.admin, &c.root, &c.operator] {
        let api: Api<Namespace> = Api::all(client.clone());
        let params = PostParams::default();
        let put = api.replace_subresource("finalize", "final", &params, &emptied).await;
        let message = denied(policy::NAMESPACE_MARKS, put);
        assert!(message.contains("namespace controller only"), "{message}");
    }
    let api: Api<Namespace> = Api::all(c.admin.clone());
    let live = api.get("final").await.expect("is there");
    assert_eq!(live.metadata.uid, namespace.metadata.uid);
    assert_eq!(live.spec, namespace.spec);
}

/// T3, T5: a site's namespace goes by the operator only, and then really goes.
pub async fn delete(c: &Cluster) {
    let p = policy::DELETE_NAMESPACES;
    let namespace = of_site(c, "gone").await;
    let uid = namespace.metadata.uid.clone();
    // Its finalizer holds the namespace in Terminating, until it is taken away below.
    let inside: ConfigMap =
        object(json!({"metadata": {"name": "inside", "finalizers": ["example.com/hold"]}}));
    let inside_api: Api<ConfigMap> = Api::namespaced(c.admin.clone(), "gone");
    let inside = inside_api.create(&PostParams::default(), &inside).await.expect("a ConfigMap");

    for client in [&c.admin, &c.root, &c.operator] {
        let api: Api<Namespace> = Api::all(client.clone());
        for way in [
            DeleteParams::background(),
            DeleteParams::foreground(),
            DeleteParams::orphan().grace_period(0),
            DeleteParams::default().dry_run(),
        ] {
            let message = denied(p, api.delete("gone", &way).await);
            assert!(message.contains("belongs to Site gone"), "{message}");
        }
    }
    // The garbage collector's account is no exception.
    let api: Api<Namespace> = Api::all(c.admin.clone());
    let owner = json!({"metadata": {"ownerReferences": [{
        "apiVersion": "v1", "kind": "Node", "name": "absent", "uid": "0"}]}});
    merge(&api, "gone", owner).await.expect("nothing forbids it");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let live = api.get("gone").await.expect("is there");
    assert_eq!((live.metadata.uid, live.metadata.deletion_timestamp), (uid, None));
    let live = inside_api.get("inside").await.expect("is there");
    assert_eq!(live.metadata.uid, inside.metadata.uid);

    let operator: Api<Namespace> = Api::all(c.operator.clone());
    let patch = json!({"metadata": {"annotations": {ANNOTATION_PURGE: ""}}});
    merge(&operator, "gone", patch).await.expect("the operator may");
    denied(p, operator.delete("gone", &DeleteParams::default()).await);
    let patch = json!({"metadata": {"annotations": {ANNOTATION_PURGE: "uid"}}});
    merge(&operator, "gone", patch).await.expect("the operator may");
    denied(p, api.delete("gone", &DeleteParams::default()).await);
    operator.delete("gone", &DeleteParams::default()).await.expect("the operator deletes");
    eventually("the namespace is being emptied", async || {
        let inside = inside_api.get("inside").await.expect("is held");
        inside.metadata.deletion_timestamp.is_some()
    })
    .await;
    let mut emptied = api.get("gone").await.expect("is held");
    emptied.metadata.resource_version = None;
    emptied.spec = Some(Default::default());
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let put = api.replace_subresource("finalize", "gone", &params, &emptied).await;
    denied(policy::NAMESPACE_MARKS, put);
    // The name of the controller where it has no account of its own.
    let manager = impersonate(c, "system:kube-controller-manager", &["system:masters"]).await;
    let manager: Api<Namespace> = Api::all(manager);
    let put = manager.replace_subresource("finalize", "gone", &params, &emptied).await;
    put.expect("the controller may");
    let patch = json!({"metadata": {"finalizers": null}});
    merge(&inside_api, "inside", patch).await.expect("is released");
    eventually("the namespace controller finalizes it", async || {
        api.get_opt("gone").await.expect("an answer").is_none()
    })
    .await;

    // A namespace of no Site is none of our business, and goes as ever.
    api.delete("free", &DeleteParams::default()).await.expect("an administrator deletes");
    eventually("it is gone", async || api.get_opt("free").await.expect("an answer").is_none())
        .await;
}
