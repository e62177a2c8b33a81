//! Claims whose disk is not there any more, made from a snapshot of it; and VolumeSnapshots, bound
//! to the contents that were kept. A VolumeSnapshot that was created as it is in the archive would be
//! taken anew, of a disk that is another one.
//!
//! The snapshot controller binds a VolumeSnapshot only to a content that names the snapshot in the
//! storage itself. One that names the volume, as the controller has made it, is never bound again: a
//! second one is made beside it, for the same snapshot, and the first stays as it is.

use http::Method;
use serde_json::{Value, json};

use super::object::{Made, Maker, later, may_pass};
use crate::api::{Reason, names};
use crate::cluster::form::{ObjectKey, digest_of};
use crate::cluster::former::RETAIN;
use crate::cluster::snapshots::{API_VERSION, CONTENT, Content, GROUP, SNAPSHOT, contents};
use crate::cluster::{describe, is_conflict};
use crate::store::RawEntry;

/// What becomes of a claim of which nothing is left.
const EMPTY: &str = "The claim comes back without it and gets a new, empty one: bring the data back from a copy of the storage system before the site is used";

/// A VolumeSnapshot of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, in the claim's namespace.
    pub name: String,
    /// Whether it comes back with the same restore.
    pub comes: bool,
}

/// The claim that an archived VolumeSnapshot was taken of. None: it is no VolumeSnapshot, or was
/// bound to a content by hand.
pub fn claim_of(entry: &RawEntry) -> Option<ObjectKey> {
    if !entry.key.is(GROUP, SNAPSHOT) {
        return None;
    }
    let object = entry.object();
    let name = object["spec"]["source"]["persistentVolumeClaimName"].as_str()?.to_owned();
    let namespace = entry.key.namespace.clone();
    let (group, kind) = (String::new(), "PersistentVolumeClaim".to_owned());
    Some(ObjectKey { group, kind, namespace, name })
}

/// The content that a VolumeSnapshot is bound to again, among these: the one that it named, one that
/// can be bound as it is, the newest.
fn content_for<'a>(
    contents: &'a [Content],
    key: &ObjectKey,
    named: Option<&str>,
) -> Option<&'a Content> {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let usable = contents.iter().filter(|c| c.ready && c.is_of(namespace, &key.name));
    usable.max_by_key(|c| (named == Some(c.exact.name.as_str()), c.pre_provisioned, c.time))
}

/// A second content for the same snapshot in the storage, to which a VolumeSnapshot can be bound. It
/// has one name, whoever makes it, however often.
fn second(content: &Content) -> Value {
    let Content { driver, handle, namespace, snapshot, class, mode, .. } = content;
    let seed = json!([namespace, snapshot, driver, handle]).to_string();
    let digest = digest_of(seed.as_bytes());
    let short = digest.trim_start_matches("sha256:").get(..16).unwrap_or_default();
    let mut spec = json!({
        "deletionPolicy": RETAIN, "driver": driver, "source": { "snapshotHandle": handle },
        "volumeSnapshotRef": {
            "apiVersion": API_VERSION, "kind": SNAPSHOT, "namespace": namespace, "name": snapshot,
        },
    });
    for (field, value) in [("volumeSnapshotClassName", class), ("sourceVolumeMode", mode)] {
        if let Some(value) = value {
            spec[field] = json!(value);
        }
    }
    let metadata = json!({ "name": format!("reprieve-{short}") });
    json!({ "apiVersion": API_VERSION, "kind": CONTENT, "metadata": metadata, "spec": spec })
}

fn named(snapshots: &[Snapshot]) -> String {
    snapshots.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
}

impl Maker<'_> {
    /// The contents that there are. None: this cluster does not have the API of snapshots.
    async fn contents(&self) -> Result<Option<&[Content]>, Made> {
        let read = async || {
            let all = contents(self.client).await;
            let all = all.map_err(|e| Made::Later(Reason::Progressing, e.to_string()))?;
            Ok(all.map(|all| all.iter().map(Content::of).collect()))
        };
        Ok(self.contents.get_or_try_init(read).await?.as_deref())
    }

    /// Has a claim whose disk is not there made from the newest of its snapshots of which something
    /// is left. `gone` is what is so with the disk, in words.
    pub async fn use_snapshot(
        &self,
        key: &ObjectKey,
        gone: &str,
        snapshots: &[Snapshot],
        body: &mut Value,
        notice: &mut Option<String>,
    ) -> Result<(), Made> {
        if snapshots.is_empty() {
            *notice = Some(format!("{gone}. {EMPTY}"));
            return Ok(());
        }
        let Some(contents) = self.contents().await? else {
            let why = format!(
                "{gone}, and this cluster does not serve {API_VERSION}, by which it could be made from its snapshots ({}): install the CRDs and the controller of snapshots, then make another Restore; until then neither the claim nor what needs it is made, so that nothing empty takes its place",
                named(snapshots)
            );
            return Err(Made::Failed(Reason::KindMissing, why));
        };
        let mut best: Option<(i64, &Snapshot)> = None;
        for snapshot in snapshots {
            let of = ObjectKey {
                group: GROUP.to_owned(),
                kind: SNAPSHOT.to_owned(),
                name: snapshot.name.clone(),
                ..key.clone()
            };
            let Some(content) = content_for(contents, &of, None) else { continue };
            // One that does not come back is of use where it lives.
            if !snapshot.comes && !self.is_bound(&of).await? {
                continue;
            }
            if best.is_none_or(|(time, _)| time < content.time) {
                best = Some((content.time, snapshot));
            }
        }
        let Some((time, snapshot)) = best else {
            *notice = Some(format!(
                "{gone}, and no content that is ready is there of its snapshots ({}). {EMPTY}",
                named(snapshots)
            ));
            return Ok(());
        };
        if let Some(spec) = body["spec"].as_object_mut() {
            spec.remove("dataSourceRef");
            spec.insert(
                "dataSource".to_owned(),
                json!({ "apiGroup": GROUP, "kind": SNAPSHOT, "name": snapshot.name }),
            );
        }
        let taken = match chrono::DateTime::from_timestamp_nanos(time) {
            _ if time == 0 => String::new(),
            at => format!(" of {}", at.format("%FT%TZ")),
        };
        *notice = Some(format!(
            "{gone}: the claim gets a new one, made from the snapshot {}{taken}; what was written since is not on it",
            snapshot.name
        ));
        Ok(())
    }

    /// Whether a VolumeSnapshot lives and is ready.
    async fn is_bound(&self, key: &ObjectKey) -> Result<bool, Made> {
        let live = self.live_snapshot(key).await?;
        Ok(live.is_some_and(|live| {
            live["status"]["readyToUse"] == true && live["metadata"]["deletionTimestamp"].is_null()
        }))
    }

    async fn live_snapshot(&self, key: &ObjectKey) -> Result<Option<Value>, Made> {
        let kind = self.kind(API_VERSION, key)?;
        self.read(kind, key).await.map_err(|error| later(Reason::Progressing, &error))
    }

    /// Has a VolumeSnapshot that is about to come back bound to the content that was kept of it.
    pub async fn bind_snapshot(
        &self,
        key: &ObjectKey,
        body: &mut Value,
        notice: &mut Option<String>,
    ) -> Result<(), Made> {
        // What lives is bound already, and is left alone.
        if self.live_snapshot(key).await?.is_some() {
            return Ok(());
        }
        let source = &body["spec"]["source"];
        let named = source["volumeSnapshotContentName"].as_str().map(str::to_owned);
        let contents = self.contents().await?.unwrap_or_default();
        let Some(content) = content_for(contents, key, named.as_deref()) else {
            *notice = Some(match named {
                Some(content) => format!(
                    "its content {content} is not there, or is not ready: the snapshot is of no use until it is"
                ),
                None => "its content is not there, or was never ready: the snapshot is taken anew, of the claim as it is now".to_owned(),
            });
            return Ok(());
        };
        let name = match content.pre_provisioned {
            true => {
                self.free_content(content, key).await?;
                content.exact.name.clone()
            }
            false => self.second_content(content, key).await?,
        };
        body["spec"]["source"] = json!({ "volumeSnapshotContentName": name });
        Ok(())
    }

    /// Makes a second content for the same snapshot in the storage. Gives its name.
    async fn second_content(&self, content: &Content, key: &ObjectKey) -> Result<String, Made> {
        let second = second(content);
        let of = ObjectKey {
            group: GROUP.to_owned(),
            kind: CONTENT.to_owned(),
            namespace: None,
            name: second["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        };
        let kind = self.kind(API_VERSION, &of)?;
        let path = format!("{}?fieldManager={}", kind.path(None), names::FIELD_MANAGER);
        let made = self.send::<Value>(Method::POST, &path, second.to_string().into_bytes()).await;
        match made {
            Ok(_) => Ok(of.name),
            Err(error) if is_conflict(&error) => {
                let live = self.read(kind, &of).await;
                let live = live.map_err(|error| later(Reason::Progressing, &error))?;
                let Some(live) = live else {
                    return Err(Made::Later(Reason::Progressing, "it has just gone".to_owned()));
                };
                let there = Content::of(&live);
                let same = there.handle == content.handle
                    && there.driver == content.driver
                    && there.is_of(&content.namespace, &content.snapshot);
                if !same {
                    let why = format!(
                        "the VolumeSnapshotContent {} is there, and is of another snapshot: move it away, then make another Restore",
                        of.name
                    );
                    return Err(Made::Failed(Reason::Conflict, why));
                }
                self.free_content(&there, key).await?;
                Ok(of.name)
            }
            Err(error) if may_pass(&error) => Err(later(Reason::Progressing, &error)),
            Err(error) => {
                let why = format!("its VolumeSnapshotContent: {}", describe(&error));
                Err(Made::Failed(Reason::CreateFailed, why))
            }
        }
    }

    /// Lets a content be bound to the VolumeSnapshot that is about to come back. As with volumes, it
    /// keeps the name and loses the UID: without the name, any other could take it.
    async fn free_content(&self, content: &Content, key: &ObjectKey) -> Result<(), Made> {
        if content.snapshot_uid.is_none() || self.live_snapshot(key).await?.is_some() {
            return Ok(());
        }
        let of = ObjectKey {
            group: GROUP.to_owned(),
            kind: CONTENT.to_owned(),
            namespace: None,
            name: content.exact.name.clone(),
        };
        let patch = json!({
            "metadata": { "uid": content.exact.uid, "resourceVersion": content.exact.resource_version },
            "spec": { "volumeSnapshotRef": { "uid": null, "resourceVersion": null } },
        });
        let path = self.path(self.kind(API_VERSION, &of)?, &of);
        match self.send::<Value>(Method::PATCH, &path, patch.to_string().into_bytes()).await {
            Ok(_) => Ok(()),
            Err(error) if may_pass(&error) => Err(later(Reason::Progressing, &error)),
            Err(error) => {
                let why = format!("its VolumeSnapshotContent: {}", describe(&error));
                Err(Made::Failed(Reason::CreateFailed, why))
            }
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
