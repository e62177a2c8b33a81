//! What the rows of the table are tried on.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use reprieve::api::{App, DeletionRequest, Site, names};
use serde_json::{Value, json};

use super::{Cluster, merge, merge_status, object};

pub const SITES: &str = "/apis/reprieve.dev/v1alpha1/sites";
pub const APPS: &str = "/apis/reprieve.dev/v1alpha1/namespaces/t-site/apps";
pub const REQUESTS: &str = "/apis/reprieve.dev/v1alpha1/deletionrequests";
pub const POLICIES: &str = "/apis/reprieve.dev/v1alpha1/deletionpolicies";
pub const BACKUPS: &str = "/apis/reprieve.dev/v1alpha1/backups";
pub const RESTORES: &str = "/apis/reprieve.dev/v1alpha1/restores";
pub const DRILLS: &str = "/apis/reprieve.dev/v1alpha1/restoredrills";
pub const NAMESPACES: &str = "/api/v1/namespaces";
pub const VOLUMES: &str = "/api/v1/persistentvolumes";
pub const CONTENTS: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
pub const CONTENTS_CRD: &str = include_str!("../user/snapshots/volumesnapshotcontents.yaml");
pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const SYSTEM: &str = "/api/v1/namespaces/reprieve-system";

/// UIDs and deletion timestamps of all that could be deleted.
pub async fn uids(c: &Cluster) -> Vec<String> {
    let mut all = vec![];
    let sites: Api<Site> = Api::all(c.admin.clone());
    let apps: Api<App> = Api::namespaced(c.admin.clone(), "t-site");
    let namespaces: Api<Namespace> = Api::all(c.admin.clone());
    let of = |meta: kube::api::ObjectMeta| {
        format!("{:?} {:?} {:?}", meta.name, meta.uid, meta.deletion_timestamp)
    };
    let list = ListParams::default();
    all.extend(sites.list(&list).await.expect("a list").into_iter().map(|o| of(o.metadata)));
    all.extend(apps.list(&list).await.expect("a list").into_iter().map(|o| of(o.metadata)));
    all.extend(namespaces.list(&list).await.expect("a list").into_iter().map(|o| of(o.metadata)));
    all
}

pub fn site(name: &str) -> Value {
    json!({"apiVersion": names::API_VERSION, "kind": "Site",
        "metadata": {"name": name, "labels": {"table": "yes"}},
        "spec": {"id": format!("id-{name}"), "tenant": {"name": "Acme"}}})
}

pub fn app(name: &str, account: &str) -> Value {
    json!({"apiVersion": names::API_VERSION, "kind": "App",
        "metadata": {"name": name, "labels": {"table": "yes"}},
        "spec": {"id": format!("id-{name}"), "product": "shop", "serviceAccountName": account,
            "manifests": [manifest("a")]}})
}

pub fn manifest(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop"}, "data": {"k": value}})
}

pub fn restore(name: &str, source: Value) -> Value {
    json!({"apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": name},
        "spec": {"source": source}})
}

/// The source of a Restore of a drill.
pub fn drill() -> Value {
    json!({"drill": {"drillRef": {"name": "monthly"}, "drillUid": "u", "archives": [{
        "site": "acme", "siteUid": "a", "siteId": "site-1", "backup": "acme-1",
        "location": "sites/site-1/acme-1.jsonl.zst", "digest": "sha256:00", "objects": 9,
    }]}})
}

pub fn volume(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labels},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp/t"}}})
}

/// The content of a snapshot.
pub fn content(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": {"name": name, "labels": labels},
        "spec": {"deletionPolicy": "Retain", "driver": "d.example.com",
            "source": {"snapshotHandle": "h"},
            "volumeSnapshotRef": {"namespace": "t-site", "name": name}}})
}

/// A policy with room on both sides of every value.
pub fn development(name: &str) -> Value {
    json!({"apiVersion": names::API_VERSION, "kind": "DeletionPolicy", "metadata": {"name": name},
    "spec": {
        "environment": "Development",
        "retention": {"minimumSeconds": 100, "defaultSeconds": 1000, "maximumSeconds": 10000},
        "blastRadius": {
            "maxEntities": 5, "hardMaxEntities": 50,
            "rolling": {"windowSeconds": 86400, "maxEntities": 50, "maxPercent": 5},
        },
        "quorum": {"approvals": 3, "overrideApprovals": 5, "expiresAfterSeconds": 3600},
        "backup": {"keepSeconds": 3000000, "drillBeforePurge": true},
    }})
}

/// What the rows are tried on, made as the operator.
pub async fn make(c: &Cluster) {
    let post = PostParams::default();
    let sites: Api<Site> = Api::all(c.operator.clone());
    let apps: Api<App> = Api::namespaced(c.operator.clone(), "t-site");
    let namespaces: Api<Namespace> = Api::all(c.operator.clone());
    for (name, purge) in [("t-site", None), ("t-marked", Some("uid"))] {
        let annotations = json!({names::ANNOTATION_PURGE: purge.unwrap_or_default()});
        let annotations = if purge.is_some() { annotations } else { json!({}) };
        let namespace = object(json!({"metadata": {"name": name, "annotations": annotations,
            "labels": {names::LABEL_SITE: "t-site"}}}));
        namespaces.create(&post, &namespace).await.expect("a namespace");
    }
    let scratch =
        object(json!({"metadata": {"name": "t-drill", "labels": {names::LABEL_DRILL: "u"}}}));
    namespaces.create(&post, &scratch).await.expect("a namespace");
    let phase = json!({"status": {"deletion": {
        "requestRef": {"name": "r"}, "requestUid": "u", "phase": "Purging"}}});
    for name in ["t-site", "t-purging"] {
        let mut value = site(name);
        if name == "t-purging" {
            value["metadata"]["labels"] = json!({});
        }
        sites.create(&post, &object(value)).await.expect("a Site");
        apps.create(&post, &object(app(&name.replace("site", "app"), "reprieve-app")))
            .await
            .expect("an App");
    }
    merge_status(&sites, "t-purging", phase.clone()).await.expect("a status");
    merge(&apps, "t-purging", json!({"metadata": {"labels": {"table": null}}})).await.expect("ok");
    merge_status(&apps, "t-purging", phase).await.expect("a status");
    apps.create(&post, &object(app("t-power", "power"))).await.expect("the operator may");
    // By server-side apply, so that somebody else can pretend to be this field manager.
    let with = json!({"apiVersion": names::API_VERSION, "kind": "Site",
        "metadata": {"name": "t-site", "finalizers": [names::FINALIZER]}});
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    sites.patch("t-site", &params, &Patch::Apply(with)).await.expect("a finalizer");
    let finalizer = json!({"metadata": {"finalizers": [names::FINALIZER]}});
    merge(&apps, "t-app", finalizer.clone()).await.expect("a finalizer");

    super::requests::request(c, "t-req").await;
    super::requests::plan(c, "t-req", "sha256:d1").await;
    let requests: Api<DeletionRequest> = Api::all(c.operator.clone());
    merge(&requests, "t-req", finalizer).await.expect("a finalizer");

    let create = async |path: &str, value: Value| {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(value.to_string().into_bytes())
            .expect("a request");
        c.operator.request_text(request).await.unwrap_or_else(|e| panic!("{value}: {e}"));
    };
    create(POLICIES, development("t-dev")).await;
    create(RESTORES, restore("t-restore", json!({"store": "All"}))).await;
    create(RESTORES, restore("t-drill", drill())).await;
    create(
        BACKUPS,
        json!({"apiVersion": names::API_VERSION, "kind": "Backup",
            "metadata": {"name": "t-backup", "labels": {"table": "yes"}},
            "spec": {"siteRef": {"name": "t-site"}, "purpose": "Manual"}}),
    )
    .await;
    create(VOLUMES, volume("t-kept", json!({names::LABEL_KEPT: "t-site"}))).await;
    create(VOLUMES, volume("t-free", json!({}))).await;
    create(CONTENTS, content("t-kept", json!({names::LABEL_KEPT: "t-site"}))).await;
    create(CONTENTS, content("t-free", json!({}))).await;
    // Somebody else's token Secret, which could be turned into the operator's.
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t-token", "annotations": {"kubernetes.io/service-account.name": "default"}}});
    super::eventually("the account default is there", async || {
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(c.admin.clone(), names::OPERATOR_NAMESPACE);
        accounts.get("default").await.is_ok()
    })
    .await;
    create(&format!("{SYSTEM}/secrets"), secret).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t-pod"},
        "spec": {"containers": [{"name": "c", "image": "none.example/none"}]}});
    create(&format!("{SYSTEM}/pods"), pod).await;
    let mut watched = development("t-watched");
    watched["spec"]["alerts"] = json!({"alertmanager": {"url": "http://alertmanager"}});
    create(POLICIES, watched).await;
    // Made by the operator at its first purge.
    let ledger = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"entries": ""},
        "metadata": {"name": names::LEDGER, "namespace": names::OPERATOR_NAMESPACE}});
    let ledger = serde_json::from_value(ledger).expect("a ConfigMap");
    Api::<ConfigMap>::namespaced(c.operator.clone(), names::OPERATOR_NAMESPACE)
        .create(&post, &ledger)
        .await
        .expect("the operator may");
    // So that it can be created anew.
    let policies: Api<reprieve::api::DeletionPolicy> = Api::all(c.admin.clone());
    policies.delete("default", &Default::default()).await.expect("an administrator may");
    let kept: Api<PersistentVolume> = Api::all(c.admin.clone());
    super::eventually("the volumes are settled", async || {
        let kept = kept.get("t-kept").await.expect("a volume");
        kept.status.and_then(|s| s.phase).as_deref() == Some("Available")
    })
    .await;
}
