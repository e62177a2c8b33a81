//! Sites, Apps, status, finalizers, owners, and our CustomResourceDefinitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use reprieve::api::{App, Backup, DeletionPolicy, DeletionRequest, Restore, Site, names};
use reprieve::guard::policy;
use serde_json::{Value, json};

use super::{Cluster, denied, json_patch, merge, merge_status, object};

fn site_json(name: &str, metadata: Value) -> Value {
    let mut site = json!({
        "apiVersion": names::API_VERSION,
        "kind": "Site",
        "metadata": metadata,
        "spec": {"id": format!("id-{name}"), "tenant": {"name": "Acme"}},
    });
    site["metadata"]["name"] = json!(name);
    site
}

/// Creates a Site, as an administrator.
pub async fn site(c: &Cluster, name: &str) -> Site {
    create_site(&c.admin, name, json!({})).await.expect("a Site")
}

async fn create_site(client: &Client, name: &str, metadata: Value) -> kube::Result<Site> {
    let site = object(site_json(name, metadata));
    Api::all(client.clone()).create(&PostParams::default(), &site).await
}

fn phase(phase: &str) -> Value {
    json!({"status": {"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": phase}}})
}

/// T2: the finalizer, taken away in every way there is to write.
pub async fn finalizers(c: &Cluster) {
    let p = policy::FINALIZERS;
    let metadata = json!({"finalizers": [names::FINALIZER]});
    denied(p, create_site(&c.admin, "fin", metadata).await);
    site(c, "fin").await;
    let operator: Api<Site> = Api::all(c.operator.clone());
    // By server-side apply, so that somebody else can pretend to be this field manager.
    let with = json!({"apiVersion": names::API_VERSION, "kind": "Site",
        "metadata": {"name": "fin", "finalizers": [names::FINALIZER]}});
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    operator.patch("fin", &params, &Patch::Apply(with)).await.expect("the operator sets it");

    for client in [&c.admin, &c.root] {
        let api: Api<Site> = Api::all(client.clone());
        denied(p, merge(&api, "fin", json!({"metadata": {"finalizers": null}})).await);
        denied(
            p,
            merge(&api, "fin", json!({"metadata": {"finalizers": ["other.example/x"]}})).await,
        );
        let remove = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
        denied(p, json_patch(&api, "fin", remove).await);
        let mut put = api.get("fin").await.expect("the Site");
        put.metadata.finalizers = None;
        denied(p, api.replace("fin", &PostParams::default(), &put).await);
        let without = json!({"apiVersion": names::API_VERSION, "kind": "Site",
            "metadata": {"name": "fin"}});
        let message = denied(p, api.patch("fin", &params, &Patch::Apply(without)).await);
        assert!(message.contains("kubectl explain deletionrequest.spec"), "{message}");
        denied(
            policy::STATUS,
            merge_status(&api, "fin", json!({"metadata": {"finalizers": null}})).await,
        );
        // Everything else of a Site stays everybody's who may write it.
        merge(&api, "fin", json!({"spec": {"priority": 5}})).await.expect("an edit of the spec");
        merge(
            &api,
            "fin",
            json!({"metadata": {"finalizers": [names::FINALIZER, "other.example/x"]}}),
        )
        .await
        .expect("another finalizer");
    }
    // A status write cannot change metadata, not even the operator's.
    let both = json!({"metadata": {"finalizers": null}, "status": {"state": "Active"}});
    merge_status(&operator, "fin", both).await.expect("a status");
    let live = operator.get("fin").await.expect("the Site");
    assert!(live.metadata.finalizers.expect("some").iter().any(|f| f == names::FINALIZER));
    merge(&operator, "fin", json!({"metadata": {"finalizers": null}})).await.expect("released");
}

/// T5: an owner that is absent.
pub async fn owner_references(c: &Cluster) {
    let p = policy::OWNER_REFERENCES;
    let owner = json!({"ownerReferences": [{
        "apiVersion": "v1", "kind": "Node", "name": "absent", "uid": "0"}]});
    let site = site(c, "owned").await;
    for client in [&c.admin, &c.root, &c.operator] {
        denied(p, create_site(client, "owned2", owner.clone()).await);
        let api: Api<Site> = Api::all(client.clone());
        denied(p, merge(&api, "owned", json!({"metadata": owner})).await);
        let backup: Backup = object(json!({
            "apiVersion": names::API_VERSION, "kind": "Backup",
            "metadata": {"name": "owned", "ownerReferences": owner["ownerReferences"]},
            "spec": {"siteRef": {"name": "owned", "uid": site.metadata.uid, "id": "id-owned"},
                "purpose": "Manual"},
        }));
        let api: Api<Backup> = Api::all(client.clone());
        denied(p, api.create(&PostParams::default(), &backup).await);
    }
}

/// The annotation that keeps a Site's reconcilers still.
pub async fn restore_mark(c: &Cluster) {
    let p = policy::RESTORE_MARK;
    let mark = json!({"annotations": {names::ANNOTATION_RESTORE: "r1"}});
    denied(p, create_site(&c.admin, "marked", mark.clone()).await);
    create_site(&c.operator, "marked", mark).await.expect("the operator may");
    let annotate = |value: Value| {
        let api: Api<Site> = Api::all(c.admin.clone());
        async move {
            let patch = json!({"metadata": {"annotations": {names::ANNOTATION_RESTORE: value}}});
            merge(&api, "marked", patch).await
        }
    };
    denied(p, annotate(json!("r2")).await);
    denied(p, annotate(Value::Null).await);
    let api: Api<Site> = Api::all(c.admin.clone());
    merge(&api, "marked", json!({"metadata": {"annotations": {"a": "b"}}})).await.expect("another");
    let api: Api<Site> = Api::all(c.operator.clone());
    let patch = json!({"metadata": {"annotations": {names::ANNOTATION_RESTORE: null}}});
    merge(&api, "marked", patch).await.expect("the operator may");
    denied(p, annotate(json!("")).await);
}

/// Every status is the operator's.
pub async fn status(c: &Cluster) {
    site(c, "stat").await;
    for client in [&c.admin, &c.root] {
        let api: Api<Site> = Api::all(client.clone());
        let message = denied(policy::STATUS, merge_status(&api, "stat", phase("Purging")).await);
        assert!(message.contains("written by the operator only"), "{message}");
        denied(policy::STATUS, json_patch_status(&api, "stat").await);
    }
    async fn json_patch_status(api: &Api<Site>, name: &str) -> kube::Result<Site> {
        let patch = json!([{"op": "add", "path": "/status", "value": {"state": "Purging"}}]);
        let patch = Patch::<()>::Json(serde_json::from_value(patch).expect("a patch"));
        api.patch_status(name, &PatchParams::default(), &patch).await
    }
    // A status that comes with a CREATE is dropped.
    let mut with = site_json("stat2", json!({}));
    with["status"] = phase("Purging")["status"].clone();
    let api: Api<Site> = Api::all(c.admin.clone());
    let created = api.create(&PostParams::default(), &object(with)).await.expect("a Site");
    assert!(created.status.is_none());
    let created = merge(&api, "stat2", phase("Purging")).await.expect("an edit without effect");
    assert!(created.status.is_none());

    // The other kinds: the rule is for the whole group.
    macro_rules! refused {
        ($($kind:ty),+) => {$(
            let api: Api<$kind> = Api::all(c.admin.clone());
            let list = api.list(&ListParams::default()).await.expect("a list");
            assert!(!list.items.is_empty());
            for name in list {
                let name = name.metadata.name.expect("a name");
                let patch = json!({"status": {"observedGeneration": 7}});
                denied(policy::STATUS, merge_status(&api, &name, patch).await);
            }
        )+};
    }
    super::requests::request(c, "stat").await;
    let backup: Backup = object(json!({
        "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": "stat"},
        "spec": {"siteRef": {"name": "stat", "uid": "u", "id": "id-stat"}, "purpose": "Manual"},
    }));
    Api::all(c.admin.clone()).create(&PostParams::default(), &backup).await.expect("a Backup");
    let restore: Restore = object(json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": "stat"},
        "spec": {"source": {"deletionRequestRef": {"name": "stat"}}},
    }));
    Api::all(c.admin.clone()).create(&PostParams::default(), &restore).await.expect("a Restore");
    refused!(DeletionRequest, Backup, Restore, DeletionPolicy);
}

/// T4: a kind without its status subresource, so that any write could change the status.
pub async fn status_without_subresource(c: &Cluster) {
    let crds: Api<CustomResourceDefinition> = Api::all(c.admin.clone());
    let original = site(c, "nosub").await;
    let name = "sites.reprieve.dev";
    let at = "/spec/versions/0/subresources";
    json_patch(&crds, name, json!([{"op": "replace", "path": at, "value": {}}]))
        .await
        .expect("nothing forbids it yet");
    let admin: Api<Site> = Api::all(c.admin.clone());
    let operator: Api<Site> = Api::all(c.operator.clone());
    // Once the operator's write of the status goes through, so would anybody's.
    let held = phase("Held");
    super::eventually("the subresource is gone", async || {
        let site = merge(&operator, "nosub", held.clone()).await.expect("the operator may");
        site.status.is_some()
    })
    .await;
    denied(policy::STATUS, merge(&admin, "nosub", phase("Purging")).await);
    denied(policy::STATUS, merge(&admin, "nosub", json!({"status": null})).await);
    let mut with = site_json("nosub2", json!({}));
    with["status"] = phase("Purging")["status"].clone();
    denied(policy::STATUS, admin.create(&PostParams::default(), &object(with)).await);
    merge(&admin, "nosub", json!({"spec": {"priority": 7}})).await.expect("an edit of the spec");
    denied(policy::DELETE_ENTITIES, admin.delete("nosub", &DeleteParams::default()).await);
    assert_eq!(admin.get("nosub").await.expect("is there").metadata.uid, original.metadata.uid);

    json_patch(&crds, name, json!([{"op": "replace", "path": at, "value": {"status": {}}}]))
        .await
        .expect("put back");
    super::eventually("the subresource is back", async || {
        merge_status(&operator, "nosub", held.clone()).await.is_ok()
    })
    .await;
}

/// T4: deleting a kind would delete its objects past all other rules.
pub async fn crds(c: &Cluster) {
    let p = policy::DELETE_CRDS;
    for client in [&c.admin, &c.root, &c.operator] {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in reprieve::api::crds() {
            let name = crd.metadata.name.expect("a name");
            let message = denied(p, api.delete(&name, &DeleteParams::default()).await);
            assert!(message.contains("docs/uninstall.md"), "{message}");
            denied(p, api.delete(&name, &DeleteParams::foreground().grace_period(0)).await);
        }
        let (way, all) = (DeleteParams::default(), ListParams::default());
        denied(p, api.delete_collection(&way, &all).await.map(drop));
    }
    // Other people's are none of our business.
    let other: CustomResourceDefinition = object(json!({
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster",
            "names": {"kind": "Thing", "plural": "things"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    }));
    let api: Api<CustomResourceDefinition> = Api::all(c.admin.clone());
    api.create(&PostParams::default(), &other).await.expect("another CRD");
    api.delete("things.example.com", &DeleteParams::default()).await.expect("is deleted");
}

/// T1, T8, T10: every way to delete, as everybody, the operator included.
pub async fn delete(c: &Cluster) {
    let p = policy::DELETE_ENTITIES;
    let site = site(c, "doomed").await;
    let app: App = object(json!({
        "apiVersion": names::API_VERSION, "kind": "App", "metadata": {"name": "shop"},
        "spec": {"id": "id-shop", "product": "shop", "manifests": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop"}}]},
    }));
    let apps: Api<App> = Api::namespaced(c.admin.clone(), "default");
    let app = apps.create(&PostParams::default(), &app).await.expect("an App");
    let policies =
        [PropagationPolicy::Background, PropagationPolicy::Foreground, PropagationPolicy::Orphan];
    let mut ways = Vec::new();
    for propagation_policy in policies {
        for grace_period_seconds in [None, Some(0), Some(30)] {
            for dry_run in [true, false] {
                ways.push(DeleteParams {
                    dry_run,
                    grace_period_seconds,
                    propagation_policy: Some(propagation_policy.clone()),
                    preconditions: None,
                });
            }
        }
    }
    for client in [&c.admin, &c.root, &c.operator] {
        let sites: Api<Site> = Api::all(client.clone());
        let apps: Api<App> = Api::namespaced(client.clone(), "default");
        for way in &ways {
            let message = denied(p, sites.delete("doomed", way).await);
            assert!(message.contains(r#""kind":"Site","ids":["id-doomed"]"#), "{message}");
            let message = denied(p, apps.delete("shop", way).await);
            assert!(message.contains("App default/shop"), "{message}");
            let all = ListParams::default();
            denied(p, sites.delete_collection(way, &all).await.map(drop));
            denied(p, apps.delete_collection(way, &all).await.map(drop));
        }
    }
    // Whoever has a role for people is not even asked.
    for client in [&c.alice, &c.bob, &c.bot] {
        let sites: Api<Site> = Api::all(client.clone());
        assert!(sites.delete("doomed", &DeleteParams::default()).await.is_err());
    }

    // The road: held, it is still refused; purging, only the operator passes.
    let sites: Api<Site> = Api::all(c.operator.clone());
    let admin: Api<Site> = Api::all(c.admin.clone());
    merge_status(&sites, "doomed", phase("Held")).await.expect("the operator holds");
    let message = denied(p, sites.delete("doomed", &DeleteParams::default()).await);
    assert!(message.contains("kubectl get dreq r"), "{message}");
    denied(p, admin.delete("doomed", &DeleteParams::default()).await);
    merge_status(&sites, "doomed", phase("Purging")).await.expect("the operator purges");
    denied(p, admin.delete("doomed", &DeleteParams::default()).await);

    let live = admin.get("doomed").await.expect("is there");
    assert_eq!(live.metadata.uid, site.metadata.uid);
    assert_eq!(live.metadata.deletion_timestamp, None);
    let live = apps.get("shop").await.expect("is there");
    assert_eq!((live.metadata.uid, live.metadata.deletion_timestamp), (app.metadata.uid, None));

    sites.delete("doomed", &DeleteParams::default()).await.expect("the operator deletes");
    assert!(admin.get_opt("doomed").await.expect("an answer").is_none());
    let apps: Api<App> = Api::namespaced(c.operator.clone(), "default");
    merge_status(&apps, "shop", phase("Purging")).await.expect("the operator purges");
    apps.delete("shop", &DeleteParams::default()).await.expect("the operator deletes");
}
