//! Objects that a hold changes: how each is changed, and how it is put back. Pure.
//!
//! Disks are kept first, because taking a StatefulSet out of service can delete its claims and
//! with them their disks. Quarantine comes later and is best effort.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::api::{Protection, Reason, VolumeProtection, names};
use crate::cluster::former::{Former, RETAIN};
use crate::cluster::snapshots::ClaimSnapshot;
use crate::cluster::{Exact, Note};

/// How often what somebody undoes is done again before it is let be.
const AGAIN_MOST: u32 = 3;

/// A kind of which a hold changes objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A ReplicaSet that no controller has.
    ReplicaSet,
    /// A CronJob.
    CronJob,
    /// A PersistentVolume.
    Volume,
    /// A VolumeSnapshotContent.
    SnapshotContent,
    /// A ReplicaSet to which its Deployment's record was copied.
    Copy,
    /// What goes on: a DaemonSet, or a workload of an operator.
    RunsOn,
}

impl HeldKind {
    /// Whether it is one that quarantine stops.
    pub fn is_workload(self) -> bool {
        match self {
            Self::Deployment | Self::StatefulSet | Self::ReplicaSet | Self::CronJob => true,
            Self::Volume | Self::SnapshotContent | Self::Copy | Self::RunsOn => false,
        }
    }

    /// Whether its objects live in namespaces.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Volume | Self::SnapshotContent)
    }

    /// Group and version, and plural.
    pub fn path(self) -> (&'static str, &'static str) {
        match self {
            Self::Deployment => ("/apis/apps/v1", "deployments"),
            Self::StatefulSet => ("/apis/apps/v1", "statefulsets"),
            Self::ReplicaSet | Self::Copy => ("/apis/apps/v1", "replicasets"),
            Self::CronJob => ("/apis/batch/v1", "cronjobs"),
            Self::RunsOn => ("/apis/apps/v1", "daemonsets"),
            Self::Volume => ("/api/v1", "persistentvolumes"),
            Self::SnapshotContent => ("/apis/snapshot.storage.k8s.io/v1", "volumesnapshotcontents"),
        }
    }
}

/// An object that a hold changes, live.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it is.
    pub kind: HeldKind,
    /// Its namespace; of the content of a snapshot, that of the snapshot; none for a volume.
    pub namespace: Option<String>,
    /// What a write is decided on.
    pub exact: Exact,
    /// `kind`, `metadata` with the record, and those fields of `spec` that a hold changes.
    pub value: Value,
    /// Who changed it last, but for its status and by a hold.
    pub by: Option<String>,
    /// Names of a StatefulSet's volumeClaimTemplates.
    pub claim_templates: Vec<String>,
    /// Whether its Pods have volumes that go with them.
    pub scratch: bool,
}

/// A volume claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// As `namespace/name`.
    pub name: String,
    /// What a write is decided on.
    pub exact: Exact,
    /// Its owner references.
    pub owners: Vec<OwnerReference>,
    /// Its disk.
    pub disk: Disk,
    /// What there is of snapshots of it; asked for where its disk is lost.
    pub snapshot: ClaimSnapshot,
}

/// The disk of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Disk {
    /// It never had one: there is nothing to lose.
    Unbound,
    /// The volume that it names is not there, or is another claim's: it cannot be kept.
    Lost,
    /// This volume.
    Volume(Box<Held>),
}

impl Claim {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.name.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Its name in the namespace.
    pub fn short_name(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, name)| name)
    }

    /// Its volume.
    pub fn volume(&self) -> Option<&Held> {
        match &self.disk {
            Disk::Volume(volume) => Some(volume),
            Disk::Unbound | Disk::Lost => None,
        }
    }

    /// Whether no disk is deleted when the claim goes.
    pub fn is_retained(&self) -> bool {
        self.volume().is_none_or(Held::is_retained)
    }

    /// What protects its disk, once it is held; none when it has none. The disk itself, where it is
    /// there: it holds what was written last.
    pub fn protection(&self) -> Option<VolumeProtection> {
        let (protection, snapshot) = match (&self.disk, &self.snapshot) {
            (Disk::Unbound, _) => return None,
            (Disk::Volume(_), _) => (Protection::RetainedDisk, None),
            (Disk::Lost, ClaimSnapshot::Ready { name, .. }) => {
                (Protection::Snapshot, Some(name.clone()))
            }
            (Disk::Lost, _) => (Protection::None, None),
        };
        Some(VolumeProtection { claim: self.name.clone(), protection, snapshot })
    }

    /// Whether it has, or had, a disk that nothing protects.
    pub fn is_bare(&self) -> bool {
        self.protection().is_some_and(|p| p.protection == Protection::None)
    }
}

/// One write to a held object.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// What it is.
    pub kind: HeldKind,
    /// Its namespace.
    pub namespace: Option<String>,
    /// What it was decided on.
    pub exact: Exact,
    /// A JSON merge patch.
    pub patch: Value,
    /// Whether the hold leaves nothing in the object.
    pub last: bool,
}

/// What to do about a held object, and what to tell.
pub type Todo = (Edit, Option<Note>);

impl Held {
    /// The object in words: `Deployment acme/web`.
    pub fn describe(&self) -> String {
        let kind = self.value["kind"].as_str().unwrap_or_default();
        match &self.namespace {
            Some(namespace) if self.kind != HeldKind::SnapshotContent => {
                format!("{kind} {namespace}/{}", self.exact.name)
            }
            _ => format!("{kind} {}", self.exact.name),
        }
    }

    /// Whether a disk, or a snapshot in the storage, stays when the object goes that it belongs to.
    pub fn is_retained(&self) -> bool {
        self.reclaim_policy() == Some(RETAIN)
    }

    /// As a plan names it: `Deployment/acme/web`.
    pub fn path(&self) -> String {
        self.describe().replacen(' ', "/", 1)
    }

    fn former(&self) -> Option<Former> {
        Former::of(&self.value)
    }

    fn former_of(&self, request_uid: &str) -> Option<Former> {
        self.former().filter(|former| former.requests.iter().any(|r| r == request_uid))
    }

    fn reclaim_field(&self) -> &'static str {
        if self.kind == HeldKind::Volume {
            "persistentVolumeReclaimPolicy"
        } else {
            "deletionPolicy"
        }
    }

    /// The reclaim policy of a volume, the deletion policy of the content of a snapshot.
    pub fn reclaim_policy(&self) -> Option<&str> {
        self.value["spec"][self.reclaim_field()].as_str()
    }

    fn edit(&self, mut fields: Value, record: Option<&Former>) -> Edit {
        let text = record.map(Former::to_text);
        fields["metadata"]["annotations"][names::ANNOTATION_FORMER] = json!(text);
        Edit {
            kind: self.kind,
            namespace: self.namespace.clone(),
            exact: self.exact.clone(),
            patch: fields,
            last: record.is_none(),
        }
    }

    /// A record that is for this request as well.
    fn record(&self, request_uid: &str) -> Former {
        let mut record = self
            .former()
            .unwrap_or_else(|| Former { uid: self.exact.uid.clone(), ..Former::default() });
        if !record.requests.iter().any(|r| r == request_uid) {
            record.requests.push(request_uid.to_owned());
            // What was announced of it was before it was asked for again.
            record.release_time = None;
        }
        record
    }

    /// What keeps the disk, or the claims of a StatefulSet, if they are not kept yet. `site` is
    /// what a volume is kept for.
    pub fn keep(&self, request_uid: &str, site: &str) -> Option<Edit> {
        match self.kind {
            HeldKind::Volume | HeldKind::SnapshotContent => self.keep_disk(request_uid, site),
            HeldKind::StatefulSet => self.keep_claims(request_uid).map(|(edit, _)| edit),
            HeldKind::Deployment
            | HeldKind::ReplicaSet
            | HeldKind::CronJob
            | HeldKind::Copy
            | HeldKind::RunsOn => None,
        }
    }

    fn keep_disk(&self, request_uid: &str, site: &str) -> Option<Edit> {
        let retained = self.is_retained();
        let labelled = !self.value["metadata"]["labels"][names::LABEL_KEPT].is_null();
        if self.former_of(request_uid).is_some() && retained && labelled {
            return None;
        }
        let mut record = self.record(request_uid);
        // The oldest record counts: what a hold has set is nobody's wish.
        if record.reclaim_policy.is_none() {
            record.reclaim_policy = self.reclaim_policy().map(str::to_owned);
        }
        let mut fields = json!({});
        if !retained {
            fields["spec"][self.reclaim_field()] = json!(RETAIN);
        }
        if !labelled {
            fields["metadata"]["labels"][names::LABEL_KEPT] = json!(site);
        }
        Some(self.edit(fields, Some(&record)))
    }

    /// Whether the claims of a StatefulSet stay, whatever becomes of it.
    fn keeps_claims(&self) -> bool {
        let retention = &self.value["spec"]["persistentVolumeClaimRetentionPolicy"];
        let retains = |field: &str| retention[field].is_null() || retention[field] == RETAIN;
        retains("whenScaled") && retains("whenDeleted")
    }

    fn keep_claims(&self, request_uid: &str) -> Option<Todo> {
        if self.keeps_claims() {
            return None;
        }
        let mut record = self.record(request_uid);
        let before = record.when_scaled.is_some() || record.when_deleted.is_some();
        if before && record.again > AGAIN_MOST {
            return None;
        }
        record.again += u32::from(before);
        let retention = &self.value["spec"]["persistentVolumeClaimRetentionPolicy"];
        let mut fields = json!({});
        for (field, was) in
            [("whenScaled", &mut record.when_scaled), ("whenDeleted", &mut record.when_deleted)]
        {
            if let Some(live) = retention[field].as_str().filter(|live| *live != RETAIN) {
                was.get_or_insert(live.to_owned());
                fields["spec"]["persistentVolumeClaimRetentionPolicy"][field] = json!(RETAIN);
            }
        }
        Some((self.edit(fields, Some(&record)), None))
    }

    /// What takes a workload out of service, if it runs; and what to tell.
    pub fn stop(&self, request_uid: &str) -> Option<Todo> {
        if !self.kind.is_workload() || !self.keeps_claims() {
            // A StatefulSet whose claims would go is not touched: it is kept first.
            return None;
        }
        let spec = &self.value["spec"];
        let cron = self.kind == HeldKind::CronJob;
        let runs =
            if cron { spec["suspend"] != true } else { spec["replicas"].as_i64().unwrap_or(1) > 0 };
        if !runs {
            return None;
        }
        let mut record = self.record(request_uid);
        let stopped_before = record.replicas.is_some() || record.suspend.is_some();
        let mut note = None;
        if stopped_before {
            let who = self.by.as_deref().unwrap_or("somebody");
            let what = self.describe();
            record.again += 1;
            if record.again > AGAIN_MOST + 1 {
                return None;
            }
            if record.again > AGAIN_MOST {
                let text = format!(
                    "{what} was put back into service by {who} again, and is let be from now on: it goes on while it is held"
                );
                let note = Note::warning(Reason::QuarantineContested, text);
                return Some((self.edit(json!({}), Some(&record)), Some(note)));
            }
            let text = format!(
                "{what} was put back into service by {who} while it is held, and is taken out again ({} of {AGAIN_MOST})",
                record.again
            );
            note = Some(Note::warning(Reason::QuarantineContested, text));
        }
        let fields = if cron {
            record.suspend = Some(false);
            json!({ "spec": { "suspend": true } })
        } else {
            // Who scaled it meanwhile wants this many: that is what a release puts back.
            record.replicas = Some(spec["replicas"].as_i64().unwrap_or(1));
            json!({ "spec": { "replicas": 0 } })
        };
        Some((self.edit(fields, Some(&record)), note))
    }

    /// What takes this request's hold off, if there is something of it; and what to tell.
    pub fn let_go(&self, request_uid: &str) -> Option<Todo> {
        if self.kind == HeldKind::Copy {
            // It names the Deployment, not this object.
            let text = self.value["metadata"]["annotations"][names::ANNOTATION_FORMER].as_str()?;
            let copied: Former = serde_json::from_str(text).ok()?;
            let ours = copied.requests.iter().any(|r| r == request_uid);
            return ours.then(|| (self.edit(json!({}), None), None));
        }
        let mut record = self.former_of(request_uid)?;
        record.requests.retain(|r| r != request_uid);
        if !record.requests.is_empty() {
            return Some((self.edit(json!({}), Some(&record)), None));
        }
        let put_back = record.put_back(&self.value);
        let mut fields = put_back.fields;
        if !self.kind.is_workload() {
            fields["metadata"]["labels"][names::LABEL_KEPT] = Value::Null;
        }
        let note = (!put_back.changed.is_empty()).then(|| {
            let text = format!(
                "{}: {}; it was changed while it was held, and stays as it is",
                self.describe(),
                put_back.changed.join(", ")
            );
            Note::normal(Reason::ChangedWhileHeld, text)
        });
        Some((self.edit(fields, None), note))
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
