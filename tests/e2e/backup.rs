//! B1, B4, B5, B6, B11 of the fault list: a site is backed up, lost, and comes back equal, on a
//! real control plane without the guard (the loss is made by hand). The oracle is the digest over
//! everything that is collected before and after, not what the operator says of itself.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, Client};
use reprieve::api::{Backup, ConditionType, Conditions, DeletionRequest, Restore, Site, crds};
use reprieve::cluster::collect::{Collection, Freshness, collect};
use reprieve::cluster::discover::discover;
use reprieve::cluster::{Context, shutdown};
use reprieve::sandbox::{Options, Sandbox, binaries};
use reprieve::store::Store;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn dynamic(client: &Client, object: &Value) -> Api<DynamicObject> {
    let (group, version) = object["apiVersion"]
        .as_str()
        .map(|text| text.split_once('/').unwrap_or(("", text)))
        .unwrap();
    let kind = object["kind"].as_str().unwrap();
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if kind == "NetworkPolicy" {
        resource.plural = "networkpolicies".into();
    }
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

pub async fn create(client: &Client, object: Value) -> Value {
    let api = dynamic(client, &object);
    let typed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let live = api.create(&PostParams::default(), &typed).await;
    json!(live.unwrap_or_else(|error| panic!("{error}: {object}")))
}

pub async fn install_crds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let widget = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    });
    let mut all = crds();
    all.push(serde_json::from_value(widget).unwrap());
    for crd in &all {
        api.create(&PostParams::default(), crd).await.unwrap();
    }
    for crd in &all {
        let name = crd.metadata.name.as_deref().unwrap();
        let api = &api;
        until(name, || async move {
            let live = json!(api.get(name).await.unwrap());
            reprieve::cluster::readiness::readiness(&live).is_ready().then_some(())
        })
        .await;
    }
    // Discovery and the registration of storage follow a moment later.
    until("the kinds are served", || async {
        let kinds = discover(client).await.ok()?;
        kinds
            .find("example.com/v1", "Widget")
            .and(kinds.find("reprieve.dev/v1alpha1", "Restore"))?;
        Some(())
    })
    .await;
}

/// A Pod template that kwok's nodes run.
fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": "example.com/app:1", "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}]}})
}

/// About thirty objects of every sort, with the relations that make a restore hard.
async fn build_site(client: &Client, name: &str, id: &str) {
    let site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": name, "annotations": {"note": "ours"}},
        "spec": {"id": id, "tenant": {"name": "Acme", "contacts": ["ops@acme.example"]}, "priority": 500},
    });
    create(client, site).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"reprieve.dev/site": name, "team": "a"}}});
    create(client, namespace).await;
    let volume = format!("disk-{name}");
    create(client, json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "manual", "hostPath": {"path": "/tmp/none"}},
    })).await;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), name);
    until("the default account", || async { accounts.get_opt("default").await.unwrap() }).await;
    // The default account is not as a controller makes it.
    let patch =
        json!({"metadata": {"labels": {"own": "yes"}}, "imagePullSecrets": [{"name": "pull"}]});
    accounts.patch("default", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();

    let object = |api_version: &str, kind: &str, object: &str, rest: Value| {
        let mut all = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": object, "namespace": name}});
        all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        all
    };
    let spec = |spec: Value| json!({ "spec": spec });
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    for object in [
        object("v1", "ServiceAccount", "robot", json!({"automountServiceAccountToken": false})),
        object(
            "rbac.authorization.k8s.io/v1",
            "Role",
            "reader",
            json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}),
        ),
        object(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            "reader",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}, "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": name}]}),
        ),
        object(
            "v1",
            "ConfigMap",
            "settings",
            json!({"data": {"b": "2", "a": "ü\n"}, "binaryData": {"x": "AAEC"}}),
        ),
        object("v1", "ConfigMap", "empty", json!({})),
        object("v1", "ConfigMap", "frozen", json!({"immutable": true, "data": {"k": "v"}})),
        object(
            "v1",
            "Secret",
            "pull",
            json!({"type": "Opaque", "data": {"password": "aHVudGVyMg=="}}),
        ),
        object(
            "v1",
            "Secret",
            "token",
            json!({"type": "kubernetes.io/service-account-token", "metadata": {"name": "token", "namespace": name, "annotations": {"kubernetes.io/service-account.name": "robot"}}}),
        ),
        object(
            "v1",
            "PersistentVolumeClaim",
            "data",
            spec(
                json!({"storageClassName": "manual", "volumeName": volume, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
            ),
        ),
        object(
            "v1",
            "Service",
            "web",
            spec(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})),
        ),
        object(
            "v1",
            "Service",
            "node",
            spec(
                json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
            ),
        ),
        object(
            "v1",
            "Service",
            "headless",
            spec(
                json!({"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 5432}]}),
            ),
        ),
        object("v1", "Service", "outside", spec(json!({"ports": [{"port": 443}]}))),
        object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "outside-1",
            json!({"metadata": {"name": "outside-1", "namespace": name, "labels": {"kubernetes.io/service-name": "outside"}}, "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}], "ports": [{"port": 443}]}),
        ),
        object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "deny",
            spec(json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
        ),
        object(
            "networking.k8s.io/v1",
            "Ingress",
            "web",
            spec(
                json!({"rules": [{"host": "acme.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}),
            ),
        ),
        object(
            "policy/v1",
            "PodDisruptionBudget",
            "web",
            spec(json!({"minAvailable": 1, "selector": selector("web")})),
        ),
        object(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "web",
            spec(
                json!({"minReplicas": 2, "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}),
            ),
        ),
        object(
            "apps/v1",
            "StatefulSet",
            "db",
            spec(
                json!({"serviceName": "headless", "replicas": 2, "selector": selector("db"), "template": template("db")}),
            ),
        ),
        object(
            "apps/v1",
            "DaemonSet",
            "agent",
            spec(json!({"selector": selector("agent"), "template": template("agent")})),
        ),
        object(
            "batch/v1",
            "CronJob",
            "nightly",
            spec(
                json!({"schedule": "0 3 * * *", "suspend": true, "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/job:1"}]}}}}}),
            ),
        ),
        object(
            "batch/v1",
            "Job",
            "waiting",
            spec(
                json!({"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/job:1"}]}}}),
            ),
        ),
        object(
            "v1",
            "LimitRange",
            "limits",
            spec(json!({"limits": [{"type": "Container", "default": {"cpu": "1"}}]})),
        ),
        object("v1", "ResourceQuota", "quota", spec(json!({"hard": {"pods": "50"}}))),
        object(
            "reprieve.dev/v1alpha1",
            "App",
            "wiki",
            spec(
                json!({"id": format!("{id}-wiki"), "product": "wiki", "manifests": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}]}),
            ),
        ),
    ] {
        create(client, object).await;
    }
    let web = object(
        "apps/v1",
        "Deployment",
        "web",
        spec(json!({"replicas": 2, "selector": selector("web"), "template": template("web")})),
    );
    let web = create(client, web).await;
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": web["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true});
    let owned = |child: &str| json!({"name": child, "namespace": name, "ownerReferences": [owner]});
    create(
        client,
        object("v1", "ConfigMap", "child", json!({"metadata": owned("child"), "data": {"a": "1"}})),
    )
    .await;
    let widget = object(
        "example.com/v1",
        "Widget",
        "gear",
        json!({"metadata": owned("gear"), "spec": {"z": [1, 2.5, null], "a": {"deep": true}}}),
    );
    let widget = create(client, widget).await;
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "gear", "uid": widget["metadata"]["uid"]});
    create(client, object("v1", "Secret", "grandchild", json!({"metadata": {"name": "grandchild", "namespace": name, "ownerReferences": [owner]}}))).await;
}

/// A Pod that stands alone, and one that has run to its end.
async fn lonely_pods(client: &Client, name: &str) {
    let pod = |pod: &str, scheduler: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": name}, "spec": {"schedulerName": scheduler, "containers": [{"name": "main", "image": "example.com/app:1"}]}});
    create(client, pod("alone", "default-scheduler")).await;
    create(client, pod("ended", "nobody")).await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), name);
    let patch = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("ended", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

async fn collected(client: &Client, name: &str) -> Collection {
    let kinds = discover(client).await.unwrap();
    collect(client, &kinds, name, &[name.to_owned()], Freshness::Live).await.unwrap()
}

/// Waits until nothing of the site changes by itself and everything is ready.
async fn settled(client: &Client, name: &str) -> Collection {
    until("the site is ready", || async {
        let all = collected(client, name).await;
        let waits = all.objects.iter().any(|o| {
            o.state != reprieve::cluster::collect::ObjectState::Ready
                && o.key.group != "reprieve.dev"
                && o.key.name != "ended"
        });
        (!waits).then_some(all)
    })
    .await
}

pub async fn condition(conditions: &Vec<reprieve::api::Condition>, type_: ConditionType) -> String {
    conditions
        .get(type_)
        .map(|c| format!("{:?} {} {}", c.status, c.reason, c.message))
        .unwrap_or_default()
}

pub async fn back_up(client: &Client, backup: &str, site: Value) {
    create(client, json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": backup}, "spec": {"siteRef": site}})).await;
}

pub async fn backup_says(client: &Client, name: &str, type_: ConditionType, words: &str) -> Backup {
    let api: Api<Backup> = Api::all(client.clone());
    until(&format!("Backup {name} says {words}"), || async {
        let backup = api.get(name).await.unwrap();
        let conditions = backup.status.clone().unwrap_or_default().conditions;
        condition(&conditions, type_).await.starts_with(words).then_some(backup)
    })
    .await
}

/// The loss: everything by hand, as on a cluster without a guard.
async fn lose(client: &Client, name: &str) {
    let sites: Api<Site> = Api::all(client.clone());
    let patch = json!({"metadata": {"finalizers": null}});
    sites.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    sites.delete(name, &DeleteParams::default()).await.unwrap();
    let apps: Api<reprieve::api::App> = Api::namespaced(client.clone(), name);
    for app in apps.list(&ListParams::default()).await.unwrap() {
        let app = app.metadata.name.unwrap();
        apps.patch(&app, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    namespaces.delete(name, &DeleteParams::default()).await.unwrap();
    until("the namespace is gone", || async {
        namespaces.get_opt(name).await.unwrap().is_none().then_some(())
    })
    .await;
}

/// A request as the operator would have left it.
async fn purged(client: &Client, name: &str, site: &Site, backup: &Backup) {
    let id = &site.spec.id;
    create(client, json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest", "metadata": {"name": name}, "spec": {"target": {"kind": "Site", "ids": [id]}, "reason": "by hand"}})).await;
    let status = backup.status.clone().unwrap();
    let entity = json!({
        "kind": "Site", "id": id, "name": site.metadata.name, "uid": site.metadata.uid, "tenant": "Acme", "phase": "Purged",
        "backup": {"name": backup.metadata.name, "location": status.location, "digest": status.digest, "objects": status.objects},
    });
    let requests: Api<DeletionRequest> = Api::all(client.clone());
    let patch = json!({"status": {"state": "Completed", "plan": {"entities": [entity]}}});
    requests.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

async fn restore(client: &Client, name: &str, request: &str) -> Restore {
    create(client, json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": name}, "spec": {"source": {"deletionRequestRef": {"name": request}}}})).await;
    let api: Api<Restore> = Api::all(client.clone());
    until(&format!("Restore {name} has ended"), || async {
        let restore = api.get(name).await.unwrap();
        let status = restore.status.clone().unwrap_or_default();
        status.completion_time.is_some().then_some(restore)
    })
    .await
}

fn reasons(restore: &Restore) -> Vec<String> {
    let status = restore.status.clone().unwrap();
    status.failures.into_iter().map(|f| f.reason).collect()
}

#[track_caller]
fn assert_equal(before: &Collection, after: &Collection) {
    let keys = |c: &Collection| c.objects.iter().map(|o| o.key.to_string()).collect::<Vec<_>>();
    assert_eq!(keys(before), keys(after));
    for (old, new) in before.objects.iter().zip(&after.objects) {
        assert_eq!(old.form, new.form, "{}", old.key);
        assert_ne!(old.uid, new.uid, "{}", old.key);
    }
    assert_eq!(before.root_digest(), after.root_digest());
}

/// The round trip, and what a restore refuses.
async fn round_trip(client: &Client, store_dir: &Path) {
    build_site(client, "acme", "site-1").await;
    let before = settled(client, "acme").await;
    for absent in [
        "Pod/",
        "ReplicaSet.",
        "ControllerRevision.",
        "Event",
        "Endpoints/acme/web",
        "ConfigMap/acme/kube-root-ca.crt",
        "Secret/acme/token",
        "Lease.",
    ] {
        let found = before.objects.iter().find(|o| o.key.to_string().starts_with(absent));
        assert_eq!(found.map(|o| o.key.to_string()), None);
    }
    assert!(
        before
            .objects
            .iter()
            .any(|o| o.key.to_string() == "EndpointSlice.discovery.k8s.io/acme/outside-1")
    );
    let sites: Api<Site> = Api::all(client.clone());
    let old = sites.get("acme").await.unwrap();
    back_up(client, "acme-1", json!({"name": "acme", "uid": old.metadata.uid, "id": "site-1"}))
        .await;
    let backup = backup_says(client, "acme-1", ConditionType::Verified, "True").await;
    let status = backup.status.clone().unwrap();
    assert_eq!(status.digest.as_deref(), Some(before.root_digest().as_str()));
    assert_eq!(status.objects, Some(before.objects.len() as i64));
    assert_eq!(
        json!(status.volumes),
        json!([{"claim": "acme/data", "protection": "RetainedDisk"}])
    );
    let encrypted = condition(&status.conditions, ConditionType::Encrypted).await;
    assert!(encrypted.starts_with("False NotEncrypted Secrets lie readable"), "{encrypted}");
    let last = sites.get("acme").await.unwrap().status.unwrap().last_backup.unwrap();
    assert_eq!(last.name, "acme-1");

    // Over a living site nothing is touched.
    purged(client, "gone", &old, &backup).await;
    let refused = restore(client, "too-early", "gone").await;
    assert_eq!(reasons(&refused), ["SiteLives"]);
    assert_eq!(collected(client, "acme").await, before);

    lose(client, "acme").await;
    let done = restore(client, "back", "gone").await;
    let status = done.status.clone().unwrap();
    assert_eq!(
        condition(&status.conditions, ConditionType::Succeeded).await.split(' ').next(),
        Some("True"),
        "{}",
        serde_json::to_string_pretty(&status).unwrap()
    );
    // Half a second is what the garbage collector needs to take a child whose owner is not there.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = settled(client, "acme").await;
    assert_equal(&before, &after);
    let site = sites.get("acme").await.unwrap();
    assert_eq!(site.metadata.annotations.unwrap(), [("note".to_owned(), "ours".to_owned())].into());
    assert_eq!(site.metadata.finalizers.unwrap(), ["reprieve.dev/retention"]);
    assert_eq!(site.status.unwrap_or_default().restore, None);
    let counts = status.sites.unwrap();
    assert_eq!((counts.total, counts.verified, counts.failed), (1, 1, 0));
    assert_eq!(status.objects.unwrap().done, before.objects.len() as i64);

    // A flipped byte: nothing is created at all.
    lose(client, "acme").await;
    let archive = store_dir.join(backup.status.unwrap().location.unwrap());
    let whole = std::fs::read(&archive).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, &bytes).unwrap();
    let refused = restore(client, "damaged", "gone").await;
    assert_eq!(reasons(&refused), ["ArchiveInvalid"]);
    assert!(sites.get_opt("acme").await.unwrap().is_none());
    std::fs::write(&archive, &whole).unwrap();

    // What is in the way is not overwritten, and the rest is not given up.
    create(client, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme", "labels": {"reprieve.dev/site": "acme", "team": "a"}}})).await;
    create(client, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "acme"}, "data": {"a": "newer"}})).await;
    // The account that the controller made in it is older than the restore, so that it would be in
    // the way as well, whenever it is not of the same second.
    let mut found = before.objects.iter();
    let account = found.find(|o| o.key.to_string() == "ServiceAccount/acme/default").unwrap();
    let account = account.form.clone();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), "acme");
    let begun = Instant::now();
    let merge = Patch::Merge(&account);
    while accounts.patch("default", &PatchParams::default(), &merge).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "expected the default account");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let partly = restore(client, "in-the-way", "gone").await;
    assert_eq!(reasons(&partly), ["Conflict"], "{:?}", partly.status);
    let left = collected(client, "acme").await;
    let settings = left.objects.iter().find(|o| o.key.to_string() == "ConfigMap/acme/settings");
    assert_eq!(settings.unwrap().form["data"], json!({"a": "newer"}));
    // Once it is out of the way, another Restore goes on where that one ended.
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), "acme");
    maps.delete("settings", &DeleteParams::default()).await.unwrap();
    let done = restore(client, "again", "gone").await;
    assert_eq!(reasons(&done), [""; 0]);
    assert_equal(&before, &settled(client, "acme").await);
}

/// The operator is killed in the middle of a restore, the addresses are taken meanwhile, and a Pod
/// had ended: another operator brings the rest back, and says what is not as it was.
async fn interrupted(client: &Client, rooms: impl Fn() -> tokio::task::JoinHandle<()>) {
    let running = rooms();
    lonely_pods(client, "acme").await;
    let before = settled(client, "acme").await;
    let sites: Api<Site> = Api::all(client.clone());
    let old = sites.get("acme").await.unwrap();
    back_up(client, "acme-2", json!({"name": "acme"})).await;
    let backup = backup_says(client, "acme-2", ConditionType::Verified, "True").await;
    lose(client, "acme").await;
    purged(client, "gone-2", &old, &backup).await;
    let node = before.objects.iter().find(|o| o.key.to_string() == "Service/acme/node").unwrap();
    let thief = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "thief", "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": node.form["spec"]["clusterIP"], "ports": [{"port": 1, "nodePort": node.form["spec"]["ports"][0]["nodePort"]}]},
    });
    create(client, thief).await;

    create(client, json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "killed"}, "spec": {"source": {"deletionRequestRef": {"name": "gone-2"}}}})).await;
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), "acme");
    until("the first objects are back", || async { maps.get_opt("child").await.unwrap() }).await;
    running.abort();
    let _ = running.await;
    let half = sites.get("acme").await.unwrap();
    assert_eq!(half.metadata.annotations.unwrap()["reprieve.dev/restore"], "killed");
    assert_eq!(half.status.unwrap().restore.unwrap().restore_ref.name, "killed");

    let running = rooms();
    let restores: Api<Restore> = Api::all(client.clone());
    let done = until("the Restore has ended", || async {
        let restore = restores.get("killed").await.unwrap();
        restore.status.as_ref().is_some_and(|s| s.completion_time.is_some()).then_some(restore)
    })
    .await;
    let status = done.status.unwrap();
    assert!(status.conditions.is_true(ConditionType::Verified), "{status:?}");
    let told: Vec<_> =
        status.notices.iter().map(|n| (n.reason.as_str(), n.object.clone().unwrap())).collect();
    assert!(told.contains(&("NotRunAgain", "v1 Pod acme/ended".to_owned())), "{told:?}");
    assert!(told.contains(&("Reassigned", "v1 Service acme/node".to_owned())), "{told:?}");
    let after = settled(client, "acme").await;
    for old in &before.objects {
        let new = after.objects.iter().find(|o| o.key == old.key);
        match old.key.name.as_str() {
            "ended" => assert_eq!(new, None),
            "node" => {}
            _ => assert_eq!(new.map(|n| &n.form), Some(&old.form), "{}", old.key),
        }
    }
    running.abort();
    let _ = running.await;
}

/// What a backup refuses, and what it survives.
async fn stubborn(client: &Client, store_dir: &Path) {
    back_up(client, "nobody", json!({"name": "nobody"})).await;
    backup_says(client, "nobody", ConditionType::Succeeded, "False SiteNotFound").await;
    back_up(client, "other", json!({"name": "acme", "uid": "another"})).await;
    let other = backup_says(client, "other", ConditionType::Succeeded, "False SiteNotFound").await;
    assert!(other.status.unwrap().conditions.is_true(ConditionType::Stalled));

    let hidden = store_dir.with_extension("hidden");
    std::fs::rename(store_dir, &hidden).unwrap();
    std::fs::write(store_dir, "not a folder").unwrap();
    back_up(client, "later", json!({"name": "acme"})).await;
    backup_says(client, "later", ConditionType::Succeeded, "False StoreUnavailable").await;
    std::fs::remove_file(store_dir).unwrap();
    std::fs::rename(&hidden, store_dir).unwrap();
    let made = backup_says(client, "later", ConditionType::Verified, "True").await;

    let nothing = restore(client, "nothing", "no-such-request").await;
    let conditions = nothing.status.unwrap().conditions;
    assert!(
        condition(&conditions, ConditionType::Succeeded)
            .await
            .starts_with("False NothingToRestore")
    );
    let store = Store::open(&format!("file://{}", store_dir.display())).await.unwrap();
    let known: Vec<String> =
        store.backups_of("site-1").await.unwrap().into_iter().map(|e| e.backup).collect();
    assert_eq!(known, ["acme-1", "later"]);
    assert!(made.status.unwrap().location.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_comes_back_equal() {
    if let Some(why) = binaries::unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ =
        tracing_subscriber::fmt().with_env_filter("reprieve=info").with_test_writer().try_init();
    let sandbox = Sandbox::start(Options::new(env!("CARGO_BIN_EXE_reprieve"))).await.unwrap();
    let client = sandbox.admin();
    install_crds(&client).await;
    // The rooms have the operator's own rights, and not one more.
    let rights = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rbac/operator.yaml");
    let mut apply = sandbox.command(sandbox.kubectl(), &sandbox.admin_kubeconfig());
    assert!(apply.args(["apply", "-f"]).arg(rights).status().unwrap().success());
    let token = sandbox.service_account_kubeconfig("reprieve-system", "reprieve").await.unwrap();
    let operator = sandbox.client_for(&token).await.unwrap();
    let store_dir = sandbox.dir().join("test-store");
    std::fs::create_dir(&store_dir).unwrap();
    let store = Store::open(&format!("file://{}", store_dir.display())).await.unwrap();
    let (stop, down) = shutdown();
    let context = Context::new(operator.clone());
    let rooms = || {
        let (context, store, down) = (context.clone(), store.clone(), down.clone());
        tokio::spawn(async move {
            tokio::join!(
                reprieve::backup::run(context.clone(), store.clone(), down.clone()),
                reprieve::restore::run(context, store, down),
            );
        })
    };
    let running = rooms();
    round_trip(&client, &store_dir).await;
    stubborn(&client, &store_dir).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    let (_stop, down) = shutdown();
    let rooms = || {
        let (context, store, down) = (Context::new(operator.clone()), store.clone(), down.clone());
        tokio::spawn(async move {
            tokio::join!(
                reprieve::backup::run(context.clone(), store.clone(), down.clone()),
                reprieve::restore::run(context, store, down),
            );
        })
    };
    interrupted(&client, rooms).await;
    sandbox.stop().unwrap();
}
