//! A small stand-in for a CSI driver with its provisioner and for the snapshot controller. It is not
//! the real thing: it keeps to the rules of the real ones that matter here, as read in the sources
//! of external-snapshotter 8 and external-provisioner 5, and its "storage" is a map in memory.
//!
//! - A claim gets a volume; one with a `dataSource` gets it once that VolumeSnapshot is ready, with
//!   the data that the snapshot has.
//! - A VolumeSnapshot of a claim gets a content of its own, which names the volume.
//! - A VolumeSnapshot that names a content is bound to it only if that names a snapshot in the
//!   storage, and its reference is to this very VolumeSnapshot: the same name, and its UID or none.
//! - With a VolumeSnapshot goes its content, and the snapshot in the storage, where the deletion
//!   policy is `Delete`; with a claim its volume, where the reclaim policy is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

pub const DRIVER: &str = "standin.example.com";
const SNAPSHOTS: &str = "/apis/snapshot.storage.k8s.io/v1";
const PROTECTION: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";

/// What lies in the storage, by handle: of each volume, and each snapshot, its data.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    pub volumes: BTreeMap<String, String>,
    pub snapshots: BTreeMap<String, String>,
}

#[derive(Clone)]
pub struct StandIn {
    client: Client,
    pub storage: Arc<Mutex<Storage>>,
}

impl StandIn {
    /// Begins to work, until the test ends.
    pub fn start(client: Client) -> Self {
        let own = Self { client, storage: Arc::default() };
        let worker = own.clone();
        tokio::spawn(async move {
            loop {
                worker.look().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        own
    }

    pub fn storage(&self) -> Storage {
        self.storage.lock().expect("a storage").clone()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Storage) -> T) -> T {
        change(&mut self.storage.lock().expect("a storage"))
    }

    async fn look(&self) {
        for claim in self.list("/api/v1/persistentvolumeclaims").await {
            self.provision(&claim).await;
        }
        for volume in self.list("/api/v1/persistentvolumes").await {
            self.reclaim(&volume).await;
        }
        for snapshot in self.list(&format!("{SNAPSHOTS}/volumesnapshots")).await {
            self.snapshot(&snapshot).await;
        }
    }

    /// Nothing, where the API is not there.
    async fn list(&self, path: &str) -> Vec<Value> {
        let all = self.send("GET", path, None).await.unwrap_or_default();
        all["items"].as_array().cloned().unwrap_or_default()
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let type_ =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", type_).body(body).expect("a request");
        // What fails is tried again at the next look.
        self.client.request::<Value>(request).await.ok()
    }

    /// The storage loses a volume, and the cluster with it.
    pub async fn lose(&self, volume: &str) {
        let path = format!("/api/v1/persistentvolumes/{volume}");
        let live = self.send("GET", &path, None).await.expect("a volume");
        let handle = live["spec"]["csi"]["volumeHandle"].as_str().unwrap_or_default().to_owned();
        self.with(|s| s.volumes.remove(&handle));
        self.send("DELETE", &path, None).await.expect("it may be deleted");
        self.send("PATCH", &path, Some(json!({"metadata": {"finalizers": null}}))).await;
    }

    async fn provision(&self, claim: &Value) {
        let (metadata, spec) = (&claim["metadata"], &claim["spec"]);
        let ours = spec["storageClassName"] == "standin" && claim["status"]["phase"] == "Pending";
        if !ours || !spec["volumeName"].is_null() {
            return;
        }
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name, uid) =
            (word(&metadata["namespace"]), word(&metadata["name"]), word(&metadata["uid"]));
        let data = match spec["dataSource"]["kind"].as_str() {
            None => format!("written in {namespace}/{name}"),
            Some("VolumeSnapshot") => {
                let of = word(&spec["dataSource"]["name"]);
                let path = format!("{SNAPSHOTS}/namespaces/{namespace}/volumesnapshots/{of}");
                let Some(snapshot) = self.send("GET", &path, None).await else { return };
                if snapshot["status"]["readyToUse"] != true {
                    return;
                }
                let content = word(&snapshot["status"]["boundVolumeSnapshotContentName"]);
                let path = format!("{SNAPSHOTS}/volumesnapshotcontents/{content}");
                let Some(content) = self.send("GET", &path, None).await else { return };
                let handle = word(&content["status"]["snapshotHandle"]);
                let Some(data) = self.storage().snapshots.get(&handle).cloned() else { return };
                data
            }
            Some(other) => panic!("a claim from a {other}"),
        };
        let handle = format!("volume-{uid}");
        self.with(|s| s.volumes.insert(handle.clone(), data));
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": format!("pvc-{uid}"), "annotations": {
                "pv.kubernetes.io/provisioned-by": DRIVER,
            }},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "standin",
                "csi": {"driver": DRIVER, "volumeHandle": handle},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": namespace, "name": name, "uid": uid},
            },
        });
        self.send("POST", "/api/v1/persistentvolumes", Some(volume)).await;
    }

    async fn reclaim(&self, volume: &Value) {
        let spec = &volume["spec"];
        let gone = volume["status"]["phase"] == "Released"
            && spec["persistentVolumeReclaimPolicy"] == "Delete"
            && spec["csi"]["driver"] == DRIVER;
        let Some(name) = volume["metadata"]["name"].as_str().filter(|_| gone) else { return };
        let handle = spec["csi"]["volumeHandle"].as_str().unwrap_or_default();
        self.with(|s| s.volumes.remove(handle));
        self.send("DELETE", &format!("/api/v1/persistentvolumes/{name}"), None).await;
    }

    async fn snapshot(&self, live: &Value) {
        let metadata = &live["metadata"];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name, uid) =
            (word(&metadata["namespace"]), word(&metadata["name"]), word(&metadata["uid"]));
        let path = format!("{SNAPSHOTS}/namespaces/{namespace}/volumesnapshots/{name}");
        if !metadata["deletionTimestamp"].is_null() {
            return self.forget(live, &path).await;
        }
        if metadata["finalizers"].as_array().is_none_or(Vec::is_empty) {
            let patch = json!({"metadata": {"finalizers": [PROTECTION]}});
            self.send("PATCH", &path, Some(patch)).await;
        }
        // One whose driver never gets ready, by its name.
        if live["status"]["readyToUse"] == true || name.starts_with("never") {
            return;
        }
        let source = &live["spec"]["source"];
        let content = match source["volumeSnapshotContentName"].as_str() {
            Some(content) => self.bind(content, live).await,
            None => self.take(&word(&source["persistentVolumeClaimName"]), live).await,
        };
        let Some(content) = content else { return };
        let status = json!({
            "boundVolumeSnapshotContentName": content, "readyToUse": true, "restoreSize": "1Gi",
            "creationTime": "2025-11-20T10:00:00Z",
        });
        let bound = json!({"metadata": {"uid": uid}, "status": status});
        self.send("PATCH", &format!("{path}/status"), Some(bound)).await;
    }

    /// Takes a snapshot of the claim's volume.
    async fn take(&self, claim: &str, snapshot: &Value) -> Option<String> {
        let metadata = &snapshot["metadata"];
        let namespace = metadata["namespace"].as_str()?;
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}");
        let claim = self.send("GET", &path, None).await?;
        if claim["status"]["phase"] != "Bound" {
            return None;
        }
        let volume = claim["spec"]["volumeName"].as_str()?;
        let path = format!("/api/v1/persistentvolumes/{volume}");
        let volume = self.send("GET", &path, None).await?;
        let of = volume["spec"]["csi"]["volumeHandle"].as_str()?;
        let data = self.storage().volumes.get(of)?.clone();
        let uid = metadata["uid"].as_str()?;
        let (name, handle) = (format!("snapcontent-{uid}"), format!("snapshot-{uid}"));
        let content = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
            "metadata": {"name": name},
            "spec": {
                "deletionPolicy": "Delete", "driver": DRIVER, "source": {"volumeHandle": of},
                "volumeSnapshotClassName": "standin", "sourceVolumeMode": "Filesystem",
                "volumeSnapshotRef": {
                    "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
                    "namespace": namespace, "name": metadata["name"], "uid": uid,
                },
            },
        });
        self.with(|s| s.snapshots.insert(handle.clone(), data));
        let all = format!("{SNAPSHOTS}/volumesnapshotcontents");
        self.send("POST", &all, Some(content)).await;
        self.ready(&name, &handle).await.then_some(name)
    }

    /// Binds a VolumeSnapshot to the content that it names, if that may be.
    async fn bind(&self, name: &str, snapshot: &Value) -> Option<String> {
        let metadata = &snapshot["metadata"];
        let path = format!("{SNAPSHOTS}/volumesnapshotcontents/{name}");
        let content = self.send("GET", &path, None).await?;
        let reference = &content["spec"]["volumeSnapshotRef"];
        let own = reference["name"] == metadata["name"]
            && reference["namespace"] == metadata["namespace"]
            && (reference["uid"].is_null() || reference["uid"] == metadata["uid"]);
        let handle = content["spec"]["source"]["snapshotHandle"].as_str()?;
        if !own || !self.storage().snapshots.contains_key(handle) {
            return None;
        }
        let bound = json!({"spec": {"volumeSnapshotRef": {"uid": metadata["uid"]}}});
        self.send("PATCH", &path, Some(bound)).await?;
        self.ready(name, handle).await.then(|| name.to_owned())
    }

    async fn ready(&self, content: &str, handle: &str) -> bool {
        let status = json!({"status": {
            "readyToUse": true, "snapshotHandle": handle, "restoreSize": 1 << 30,
            "creationTime": 1_763_632_800_000_000_000_i64,
        }});
        let path = format!("{SNAPSHOTS}/volumesnapshotcontents/{content}/status");
        self.send("PATCH", &path, Some(status)).await.is_some()
    }

    /// A VolumeSnapshot goes, and what goes with it.
    async fn forget(&self, live: &Value, path: &str) {
        if let Some(name) = live["status"]["boundVolumeSnapshotContentName"].as_str() {
            let of = format!("{SNAPSHOTS}/volumesnapshotcontents/{name}");
            let content = self.send("GET", &of, None).await.unwrap_or_default();
            let own = content["spec"]["volumeSnapshotRef"]["uid"] == live["metadata"]["uid"];
            if own && content["spec"]["deletionPolicy"] == "Delete" {
                let handle = content["status"]["snapshotHandle"].as_str().unwrap_or_default();
                self.with(|s| s.snapshots.remove(handle));
                self.send("DELETE", &of, None).await;
            }
        }
        self.send("PATCH", path, Some(json!({"metadata": {"finalizers": null}}))).await;
    }
}
