//! Whether a kept disk gets its former reclaim policy back. Pure. In doubt it stays kept.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::{Backup, DeletionRequest, EntityPhase, Reason, TargetKind, Time, names};
use crate::backup::decide::has_ended;
use crate::cluster::former::{Former, RETAIN};
use crate::cluster::{Exact, Note};
use crate::store::{CatalogueEntry, Purge, Shelf};

/// How long after a purge an archive may have been begun before it, in seconds.
const LATE: i64 = 86_400;

/// A volume with the label `reprieve.dev/kept`.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// What a write is decided on.
    pub exact: Exact,
    /// The PersistentVolume.
    pub value: Value,
    /// Name of the Site that it is kept for.
    pub kept_for: String,
    /// Whether the claim that it is for is there, by a read after that of the volume.
    pub claim_lives: bool,
}

/// What is decided from: the disks that are kept for one Site and the same requests, and what may
/// need them.
#[derive(Debug)]
pub struct Facts {
    /// The disks.
    pub disks: Vec<Disk>,
    /// The earlier time of both clocks.
    pub now: Time,
    /// Everything that was purged for these requests.
    pub purges: Vec<Purge>,
    /// What of the ledger cannot be read.
    pub ledger_refused: Option<String>,
    /// Every DeletionRequest that is there.
    pub requests: Vec<DeletionRequest>,
    /// Every Backup that is there.
    pub backups: Vec<Backup>,
    /// The parts of the store of the sites of these purges, by the site's id.
    pub shelves: BTreeMap<String, Shelf>,
    /// The entities that live, of those with an id in `purges`: kind and id.
    pub living: BTreeSet<(TargetKind, String)>,
    /// Whether there is a Site of the name that the disks are kept for.
    pub site_lives: bool,
    /// A Restore that has not ended.
    pub restore: Option<String>,
    /// What is wrong with the guard.
    pub guard: Vec<String>,
}

/// Why a disk does not get its former policy back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Something needs it: what was announced does not happen.
    Needed(String),
    /// Nobody can tell now: what was announced waits.
    Unknown(String),
}

/// What to do with a disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing: it stays kept.
    Keep(Hindrance),
    /// Nothing yet: it was announced.
    Wait,
    /// To announce it: a JSON merge patch, and what to tell.
    Announce(Value, Note),
    /// To take back what was announced.
    Withdraw(Value, Note),
    /// To give it its former policy back.
    Release(Value, Note),
}

impl Disk {
    /// Whether it was announced that it gets its former policy back.
    pub fn is_announced(&self) -> bool {
        Former::of(&self.value).is_some_and(|former| former.release_time.is_some())
    }
}

/// What of a disk alone keeps it, whatever the store says.
pub fn own_hindrance(disk: &Disk) -> Option<Hindrance> {
    let needed = |why: String| Some(Hindrance::Needed(why));
    let metadata = &disk.value["metadata"];
    let Some(former) = Former::of(&disk.value).filter(|former| !former.requests.is_empty()) else {
        return needed(format!(
            "its annotation {} does not say what it is kept for",
            names::ANNOTATION_FORMER
        ));
    };
    if former.reclaim_policy.is_none() {
        return needed("nobody has recorded what its reclaim policy was".to_owned());
    }
    if !metadata["deletionTimestamp"].is_null() {
        return needed("it is being deleted".to_owned());
    }
    if let Some(why) = metadata["annotations"][names::ANNOTATION_KEEP_DISK].as_str() {
        return needed(format!(
            "its annotation {} asks for it: {why}",
            names::ANNOTATION_KEEP_DISK
        ));
    }
    let phase = disk.value["status"]["phase"].as_str().unwrap_or("in no phase");
    if !["Released", "Available"].contains(&phase) {
        return needed(format!("it is {phase}"));
    }
    let claim = &disk.value["spec"]["claimRef"];
    let (Some(namespace), Some(name)) = (claim["namespace"].as_str(), claim["name"].as_str())
    else {
        return needed("it names no claim: any claim could take it".to_owned());
    };
    if disk.claim_lives {
        return needed(format!("the claim {namespace}/{name} is there"));
    }
    None
}

/// What keeps this disk.
pub fn hindrance(disk: &Disk, facts: &Facts) -> Option<Hindrance> {
    if let Some(own) = own_hindrance(disk) {
        return Some(own);
    }
    let unknown = |why: String| Some(Hindrance::Unknown(why));
    for request in &Former::of(&disk.value)?.requests {
        if let Some(why) = by_request(disk, request, facts) {
            return Some(why);
        }
    }
    if let Some(why) = &facts.ledger_refused {
        return unknown(format!("the ledger cannot be read in full: {why}"));
    }
    if let Some(restore) = &facts.restore {
        return unknown(format!("the Restore {restore} runs"));
    }
    match facts.guard.first() {
        Some(problem) => unknown(format!("the guard is not in force: {problem}")),
        None => None,
    }
}

/// What keeps a disk of those that one request had it kept for.
fn by_request(disk: &Disk, uid: &str, facts: &Facts) -> Option<Hindrance> {
    let needed = |why: String| Some(Hindrance::Needed(why));
    if let Some(request) = facts.requests.iter().find(|r| r.uid().as_deref() == Some(uid)) {
        let (name, status) = (request.name_any(), request.status.clone().unwrap_or_default());
        if !status.has_ended() {
            return needed(format!("the DeletionRequest {name} is open"));
        }
        let mut entities = status.plan.into_iter().flat_map(|plan| plan.entities);
        let left = entities.find(|entity| {
            let site = entity.site.as_ref().map_or(&entity.name, |site| &site.name);
            *site == disk.kept_for && entity.phase != EntityPhase::Purged
        });
        if let Some(entity) = left {
            let what = format!("{} {}", entity.kind, entity.name);
            return needed(format!("the DeletionRequest {name} did not purge {what}"));
        }
    }
    let of_site = |purge: &&Purge| {
        let name = purge.site_of().map(|(name, _)| name);
        purge.request_uid == uid && name == Some(&disk.kept_for)
    };
    let mut purges = facts.purges.iter().filter(of_site).peekable();
    if purges.peek().is_none() {
        let site = &disk.kept_for;
        return needed(format!("the ledger has no purge of {site} for the request {uid}"));
    }
    if let Some(backup) = facts.backups.iter().find(|backup| holds(backup, uid)) {
        return needed(format!("the Backup {} of that request is there", backup.name_any()));
    }
    purges.find_map(|purge| by_purge(purge, facts))
}

/// Whether a Backup object was made for this request, and may be good.
fn holds(backup: &Backup, request_uid: &str) -> bool {
    let ours =
        backup.labels().get(names::LABEL_REQUEST_UID).is_some_and(|label| label == request_uid);
    let status = backup.status.as_ref();
    let dead = status.is_some_and(|s| has_ended(&s.conditions)) && !backup.is_verified();
    ours && !dead
}

/// What keeps the disks of an entity that was purged: that it lives, or a backup of before.
fn by_purge(purge: &Purge, facts: &Facts) -> Option<Hindrance> {
    let needed = |why: String| Some(Hindrance::Needed(why));
    let unknown = |why: String| Some(Hindrance::Unknown(why));
    let Some((_, site_id)) = purge.site_of() else {
        return unknown("its site is not known".to_owned());
    };
    if facts.living.contains(&(purge.kind, purge.id.clone())) {
        return needed(format!("the {} with the id {} lives", purge.kind, purge.id));
    }
    if purge.kind == TargetKind::Site && facts.site_lives {
        return needed(format!("a Site of the name {} lives", purge.name));
    }
    let Some(shelf) = facts.shelves.get(site_id) else {
        return unknown(format!("the store was not asked for the site with the id {site_id}"));
    };
    let needs = |entry: &&CatalogueEntry| match purge.kind {
        // Also one of an earlier life: the disk may be the same.
        TargetKind::Site => entry.site.uid == purge.uid || entry.time <= purge.time,
        TargetKind::App => {
            let has = |c: &crate::store::Contents| c.apps.iter().any(|app| app.id == purge.id);
            purge.backup.as_ref() == Some(&entry.backup)
                || entry.time <= purge.time && entry.contents.as_ref().is_none_or(has)
        }
    };
    if let Some(entry) = shelf.listing.entries.iter().find(needs) {
        return needed(format!("the backup {} of {} has not expired", entry.backup, entry.time));
    }
    if let Some(error) = shelf.listing.refused.first() {
        return unknown(format!("the catalogue cannot be read in full: {error}"));
    }
    if let Some(archive) = shelf.expired.first() {
        return unknown(format!("the archive {archive} is still being taken away"));
    }
    // Its entry may have been lost.
    let stray = shelf.archives.iter().find(|file| {
        let listed = shelf.listing.entries.iter().any(|e| e.location == file.location);
        !listed && file.modified.seconds_since(purge.time) < LATE
    });
    stray.and_then(|file| unknown(format!("no catalogue entry speaks of {}", file.location)))
}

/// What to do with a disk.
pub fn decide(disk: &Disk, facts: &Facts, notice_seconds: i64) -> Decision {
    let hindrance = hindrance(disk, facts);
    let former = Former::of(&disk.value);
    let announced = former.as_ref().and_then(|former| former.release_time);
    let (hindrance, former) = match (hindrance, former) {
        (hindrance, Some(former)) => (hindrance, former),
        (Some(hindrance), None) => return Decision::Keep(hindrance),
        (None, None) => return Decision::Wait,
    };
    let name = &disk.exact.name;
    let policy = former.reclaim_policy.as_deref().unwrap_or(RETAIN).to_owned();
    let record = |time: Option<Time>| {
        let former = Former { release_time: time, ..former.clone() };
        json!({ "metadata": { "annotations": { (names::ANNOTATION_FORMER): former.to_text() } } })
    };
    match (hindrance, announced) {
        (Some(Hindrance::Needed(why)), Some(_)) => {
            let text = format!("the volume {name} stays kept: {why}");
            let note = Note::normal(Reason::DiskReleaseWithdrawn, text);
            Decision::Withdraw(record(None), note)
        }
        (Some(hindrance), _) => Decision::Keep(hindrance),
        (None, None) => {
            let at = facts.now.plus_seconds(notice_seconds);
            let text = format!(
                "no backup needs the disk of the volume {name} any more, which was kept for the Site {}: at {at} it gets its former reclaim policy back, {}. To keep it: kubectl annotate pv {name} {}=why",
                disk.kept_for,
                meaning(&policy),
                names::ANNOTATION_KEEP_DISK
            );
            let note = Note::warning(Reason::DiskReleaseAnnounced, text);
            Decision::Announce(record(Some(at)), note)
        }
        (None, Some(at)) if facts.now < at => Decision::Wait,
        (None, Some(at)) => {
            let put_back = former.put_back(&disk.value);
            let mut patch = put_back.fields;
            patch["metadata"]["annotations"][names::ANNOTATION_FORMER] = Value::Null;
            patch["metadata"]["labels"][names::LABEL_KEPT] = Value::Null;
            let text = format!(
                "the volume {name}, which was kept for the Site {}, has its former reclaim policy again, {}, as was announced for {at}",
                disk.kept_for,
                meaning(&policy)
            );
            Decision::Release(patch, Note::normal(Reason::DiskReleased, text))
        }
    }
}

/// A reclaim policy, and what comes of it.
fn meaning(policy: &str) -> String {
    match policy {
        RETAIN => "Retain, and is not kept by Reprieve any more".to_owned(),
        other => format!("{other}, by which the disk and what is on it go for good"),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
