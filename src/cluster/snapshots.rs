//! CSI snapshots of volumes, as far as they protect the disks of claims: the lists, and what is read
//! from them. Where the cluster does not have that API there are none.

use std::collections::BTreeMap;

use kube::Client;
use kube::discovery::ApiResource;
use serde_json::Value;

use super::Exact;
use super::collect::{CollectError, Freshness, list};
use super::discover::Kind;
use super::former::RETAIN;

/// The API group of snapshots.
pub const GROUP: &str = "snapshot.storage.k8s.io";
/// Its version that is used.
pub const API_VERSION: &str = "snapshot.storage.k8s.io/v1";
/// The kind of a snapshot.
pub const SNAPSHOT: &str = "VolumeSnapshot";
/// The kind of what stands for a snapshot in the storage.
pub const CONTENT: &str = "VolumeSnapshotContent";

/// A VolumeSnapshotContent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What a write to it is decided on.
    pub exact: Exact,
    /// Namespace of its VolumeSnapshot.
    pub namespace: String,
    /// Name of its VolumeSnapshot.
    pub snapshot: String,
    /// UID of its VolumeSnapshot, once it is bound.
    pub snapshot_uid: Option<String>,
    /// The driver that has it.
    pub driver: String,
    /// By which name the driver knows it. None: it was not taken yet.
    pub handle: Option<String>,
    /// Whether it names the handle itself, and not the volume that it was taken of: only such a
    /// content can be bound to a VolumeSnapshot that is made later.
    pub pre_provisioned: bool,
    /// Whether it can be used, and is not being deleted.
    pub ready: bool,
    /// Whether it stays when its VolumeSnapshot goes.
    pub kept: bool,
    /// When it was taken, in nanoseconds since 1970; 0: nobody says.
    pub time: i64,
    /// Its VolumeSnapshotClass.
    pub class: Option<String>,
    /// Filesystem or Block, as the volume had it.
    pub mode: Option<String>,
}

impl Content {
    /// What this live object says.
    pub fn of(live: &Value) -> Self {
        let (metadata, spec, status) = (&live["metadata"], &live["spec"], &live["status"]);
        let reference = &spec["volumeSnapshotRef"];
        let word = |value: &Value| value.as_str().filter(|w| !w.is_empty()).map(str::to_owned);
        let own = word(&spec["source"]["snapshotHandle"]);
        let handle = word(&status["snapshotHandle"]).or_else(|| own.clone());
        Self {
            exact: Exact {
                name: word(&metadata["name"]).unwrap_or_default(),
                uid: word(&metadata["uid"]).unwrap_or_default(),
                resource_version: word(&metadata["resourceVersion"]).unwrap_or_default(),
            },
            namespace: word(&reference["namespace"]).unwrap_or_default(),
            snapshot: word(&reference["name"]).unwrap_or_default(),
            snapshot_uid: word(&reference["uid"]),
            driver: word(&spec["driver"]).unwrap_or_default(),
            pre_provisioned: own.is_some(),
            ready: handle.is_some()
                && status["readyToUse"] == true
                && metadata["deletionTimestamp"].is_null(),
            handle,
            kept: spec["deletionPolicy"] == RETAIN,
            time: status["creationTime"].as_i64().unwrap_or_default(),
            class: word(&spec["volumeSnapshotClassName"]),
            mode: word(&spec["sourceVolumeMode"]),
        }
    }

    /// Whether it is the content of a VolumeSnapshot of this name.
    pub fn is_of(&self, namespace: &str, snapshot: &str) -> bool {
        self.namespace == namespace && self.snapshot == snapshot
    }
}

/// What is known of the snapshots of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClaimSnapshot {
    /// It has none.
    #[default]
    None,
    /// This one is not ready, and so are all others that there may be.
    NotReady(String),
    /// This one can be restored from; of several the newest, one that stays before one that does not.
    Ready {
        /// Name of the VolumeSnapshot.
        name: String,
        /// Whether its content stays when it goes.
        kept: bool,
    },
}

/// What there is of snapshots of this claim, among these VolumeSnapshots of its namespace and all
/// contents. What a VolumeSnapshot says of its content counts only where the content says the same.
fn of_claim(
    namespace: &str,
    claim: &str,
    snapshots: &[Value],
    contents: &[Content],
) -> ClaimSnapshot {
    let mut waits = ClaimSnapshot::None;
    let mut best: Option<((bool, i64), &str)> = None;
    let taken_of = |s: &&Value| s["spec"]["source"]["persistentVolumeClaimName"] == claim;
    for snapshot in snapshots.iter().filter(taken_of) {
        let metadata = &snapshot["metadata"];
        let Some(name) = metadata["name"].as_str() else { continue };
        let says = snapshot["status"]["readyToUse"] == true
            && metadata["deletionTimestamp"].is_null()
            && metadata["namespace"] == namespace;
        let bound = &snapshot["status"]["boundVolumeSnapshotContentName"];
        let content = contents.iter().find(|c| {
            c.is_of(namespace, name)
                && *bound == c.exact.name.as_str()
                && c.snapshot_uid.as_deref() == metadata["uid"].as_str()
        });
        match content.filter(|content| says && content.ready) {
            Some(content) => {
                let found = ((content.kept, content.time), name);
                best = best.max(Some(found));
            }
            None => waits = ClaimSnapshot::NotReady(name.to_owned()),
        }
    }
    match best {
        Some(((kept, _), name)) => ClaimSnapshot::Ready { name: name.to_owned(), kept },
        None => waits,
    }
}

/// What there is of snapshots of each of these claims (namespace, name), in their order: one list
/// of all contents, and one of each namespace.
///
/// # Errors
/// Any answer of the API server but that it does not have that API.
pub async fn of_claims(
    client: &Client,
    claims: &[(String, String)],
) -> Result<Vec<ClaimSnapshot>, CollectError> {
    let contents = match claims {
        [] => None,
        _ => contents(client).await?,
    };
    let Some(contents) = contents else { return Ok(vec![ClaimSnapshot::None; claims.len()]) };
    let contents: Vec<Content> = contents.iter().map(Content::of).collect();
    let mut known: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (namespace, _) in claims {
        if !known.contains_key(&**namespace) {
            let found = snapshots(client, namespace).await?;
            known.insert(namespace, found.unwrap_or_default());
        }
    }
    let of = |(namespace, claim): &(String, String)| {
        of_claim(namespace, claim, &known[&**namespace], &contents)
    };
    Ok(claims.iter().map(of).collect())
}

fn kind(word: &str, plural: &str, namespaced: bool) -> Kind {
    let resource = ApiResource {
        group: GROUP.to_owned(),
        version: API_VERSION.rsplit('/').next().unwrap_or_default().to_owned(),
        api_version: API_VERSION.to_owned(),
        kind: word.to_owned(),
        plural: plural.to_owned(),
    };
    Kind { resource, namespaced }
}

/// Every content. None: the cluster does not have that API, now.
///
/// # Errors
/// Any other answer of the API server.
pub async fn contents(client: &Client) -> Result<Option<Vec<Value>>, CollectError> {
    let kind = kind(CONTENT, "volumesnapshotcontents", false);
    where_served(list(client, &kind, None, Freshness::Live).await)
}

/// The VolumeSnapshots in a namespace. None: the cluster does not have that API, now.
///
/// # Errors
/// Any other answer of the API server.
async fn snapshots(client: &Client, namespace: &str) -> Result<Option<Vec<Value>>, CollectError> {
    let kind = kind(SNAPSHOT, "volumesnapshots", true);
    where_served(list(client, &kind, Some(namespace), Freshness::Live).await)
}

fn where_served(
    listed: Result<Vec<Value>, CollectError>,
) -> Result<Option<Vec<Value>>, CollectError> {
    match listed {
        Err(CollectError::List { source, .. }) if super::is_not_found(&source) => Ok(None),
        listed => listed.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::merge;
    use serde_json::json;

    fn content(name: &str, snapshot: &str, more: Value) -> Value {
        let mut live = json!({
            "metadata": {"name": name, "uid": format!("u-{name}"), "resourceVersion": "3"},
            "spec": {
                "deletionPolicy": "Delete", "driver": "d", "source": {"volumeHandle": "v"},
                "volumeSnapshotRef": {"namespace": "a", "name": snapshot, "uid": format!("s-{snapshot}")},
            },
            "status": {"readyToUse": true, "snapshotHandle": format!("h-{name}"), "creationTime": 5},
        });
        merge(&mut live, more);
        live
    }

    fn snapshot(name: &str, content: &str, more: Value) -> Value {
        let mut live = json!({
            "metadata": {"name": name, "namespace": "a", "uid": format!("s-{name}")},
            "spec": {"source": {"persistentVolumeClaimName": "data"}},
            "status": {"readyToUse": true, "boundVolumeSnapshotContentName": content},
        });
        merge(&mut live, more);
        live
    }

    #[test]
    fn which_snapshot_a_claim_can_be_restored_from() {
        let ready = |name: &str, kept| ClaimSnapshot::Ready { name: name.to_owned(), kept };
        let not = ClaimSnapshot::NotReady("s".to_owned());
        let of = |name: &str, c: Value, s: Value| {
            (vec![content(name, "s", c)], vec![snapshot("s", "c", s)])
        };
        let none = || json!({});
        let rows = [
            ("ready", of("c", none(), none()), ready("s", false)),
            (
                "kept",
                of("c", json!({"spec": {"deletionPolicy": "Retain"}}), none()),
                ready("s", true),
            ),
            ("not ready", of("c", none(), json!({"status": {"readyToUse": false}})), not.clone()),
            ("no status", of("c", none(), json!({"status": null})), not.clone()),
            (
                "the content is not ready",
                of("c", json!({"status": {"readyToUse": false}}), none()),
                not.clone(),
            ),
            ("no handle", of("c", json!({"status": {"snapshotHandle": ""}}), none()), not.clone()),
            (
                "the content goes",
                of("c", json!({"metadata": {"deletionTimestamp": "t"}}), none()),
                not.clone(),
            ),
            ("the content is gone", of("other", none(), none()), not.clone()),
            (
                "the content is another snapshot's, of the same name",
                of("c", json!({"spec": {"volumeSnapshotRef": {"uid": "x"}}}), none()),
                not.clone(),
            ),
            (
                "the content is another namespace's",
                of("c", json!({"spec": {"volumeSnapshotRef": {"namespace": "b"}}}), none()),
                not.clone(),
            ),
            ("it goes", of("c", none(), json!({"metadata": {"deletionTimestamp": "t"}})), not),
            (
                "of another claim",
                of("c", none(), json!({"spec": {"source": {"persistentVolumeClaimName": "x"}}})),
                ClaimSnapshot::None,
            ),
        ];
        for (what, (contents, snapshots), expected) in rows {
            let contents: Vec<Content> = contents.iter().map(Content::of).collect();
            assert_eq!(of_claim("a", "data", &snapshots, &contents), expected, "{what}");
        }
    }

    #[test]
    fn of_several_the_newest_that_stays() {
        let kept = |name: &str, time: i64| json!({"spec": {"deletionPolicy": name}, "status": {"creationTime": time}});
        let contents = [
            content("c1", "s1", kept("Retain", 1)),
            content("c2", "s2", kept("Retain", 2)),
            content("c3", "s3", kept("Delete", 3)),
        ]
        .map(|live| Content::of(&live));
        let snapshots = [("s1", "c1"), ("s2", "c2"), ("s3", "c3"), ("s4", "c4")]
            .map(|(name, content)| snapshot(name, content, json!({})));
        let found = of_claim("a", "data", &snapshots, &contents);
        assert_eq!(found, ClaimSnapshot::Ready { name: "s2".into(), kept: true });
    }

    #[test]
    fn a_pre_provisioned_content_knows_its_handle_itself() {
        let live = content(
            "c",
            "s",
            json!({"spec": {"source": {"volumeHandle": null, "snapshotHandle": "h"}}, "status": {"snapshotHandle": null}}),
        );
        let content = Content::of(&live);
        assert!(content.pre_provisioned && content.ready);
        assert_eq!(content.handle.as_deref(), Some("h"));
    }
}
