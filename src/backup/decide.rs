//! What to do about a Backup, and what to say of it. Pure.

use std::time::Duration;

use kube::ResourceExt;

use crate::api::{
    Backup, BackupPurpose, BackupStatus, ChangedObjects, Condition, ConditionStatus, ConditionType,
    Conditions, DeletionPhase, LastBackup, NamespaceRef, ReadVersions, Reason, Site, SiteRef,
    SiteState, Time, VolumeProtection, names,
};
use crate::cluster::Note;
use crate::store::{CatalogueEntry, Header, Identity, archive, catalogue, layout};

/// What a decision about a Backup is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The Backup.
    pub backup: Backup,
    /// The Site that it names, if it is there.
    pub site: Option<Site>,
    /// Whether another Backup of the Site was made for the same DeletionRequest before.
    pub follows: bool,
    /// What tells this attempt from every other.
    pub attempt: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing but to say how it stands.
    Report(Decision),
    /// The backup is to be made.
    Back(Job),
}

/// A backup that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The archive's first line.
    pub header: Header,
    /// The namespaces of the site.
    pub namespaces: Vec<String>,
    /// Those that the Site has recorded: another one of the same name is not what it had.
    pub recorded: Vec<NamespaceRef>,
    /// Where the archive is to lie.
    pub location: String,
    /// The catalogue entry, but for what only the archive knows.
    pub entry: CatalogueEntry,
}

/// What became of a backup that was made.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Written and read back.
    Verified(Result),
    /// Written, and what was read back is not what was written.
    NotVerified(Result, String),
    /// Not written.
    Failed(Reason, String),
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Result {
    /// Where the archive lies.
    pub location: String,
    /// Its root digest.
    pub digest: String,
    /// Number of objects.
    pub objects: i64,
    /// Size in the store, in bytes.
    pub bytes: i64,
    /// The claims, and how their disks are protected.
    pub volumes: Vec<VolumeProtection>,
    /// The claims whose disk is not there, in words.
    pub lost_disks: Vec<String>,
    /// At which resourceVersions the site was read.
    pub versions: ReadVersions,
    /// What changed while it was read.
    pub changed: ChangedObjects,
    /// To whom it is encrypted; empty: it is not.
    pub recipients: usize,
}

/// What to write down and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The Backup's status.
    pub status: BackupStatus,
    /// What the Site's status is to say of its last backup.
    pub last_backup: Option<LastBackup>,
    /// Events.
    pub notes: Vec<Note>,
    /// When to look again.
    pub next: Next,
}

/// When to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Never: the Backup has ended.
    Done,
    /// In a while.
    Wait(Duration),
    /// With a back-off, for this reason.
    Retry(String),
}

/// How long to wait for a site that is being restored.
const RESTORING: Duration = Duration::from_secs(10);

/// Between two looks at a hook that is under way: at first, and at most.
const HOOK_LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Whether a Backup has ended: it was verified, or can never be made.
pub fn has_ended(conditions: &Vec<Condition>) -> bool {
    conditions.is_true(ConditionType::Verified) || conditions.is_true(ConditionType::Stalled)
}

/// What to do about this Backup.
pub fn decide(facts: &Facts, now: Time) -> Step {
    let old = facts.backup.status.clone().unwrap_or_default();
    // A Backup is made once: what depends on it must not be able to change under it.
    if has_ended(&old.conditions) {
        return Step::Report(Decision {
            status: old,
            last_backup: None,
            notes: vec![],
            next: Next::Done,
        });
    }
    let reference = &facts.backup.spec.site_ref;
    let refuse = |reason, message: String| Step::Report(refused(facts, reason, message, now));
    let Some(site) = &facts.site else {
        return refuse(Reason::SiteNotFound, format!("there is no Site {}", reference.name));
    };
    let identity = Identity {
        name: site.name_any(),
        uid: site.uid().unwrap_or_default(),
        id: site.spec.id.clone(),
    };
    if reference.uid.as_ref().is_some_and(|uid| *uid != identity.uid)
        || reference.id.as_ref().is_some_and(|id| *id != identity.id)
    {
        let message = format!("the Site {} is another one: {identity}", reference.name);
        return refuse(Reason::SiteNotFound, message);
    }
    let deletion = site.status.as_ref().and_then(|s| s.deletion.as_ref());
    if deletion.is_some_and(|d| d.phase == DeletionPhase::Purging) {
        let message = format!("the Site {} is being purged: what is left is not it", identity.name);
        return refuse(Reason::EntityNotActive, message);
    }
    if site.status.as_ref().and_then(|s| s.state) == Some(SiteState::AwaitingRestore) {
        let message = format!(
            "the Site {} awaits its restore: a backup of it now would be the newest one, and hold nothing",
            identity.name
        );
        return refuse(Reason::EntityNotActive, message);
    }
    if let Some(restore) = site.annotations().get(names::ANNOTATION_RESTORE) {
        let message = format!("waits until the Restore {restore} of the site has ended");
        let mut decision = said(facts, Reason::Restoring, message, now);
        decision.next = Next::Wait(RESTORING);
        return Step::Report(decision);
    }
    Step::Back(job(facts, identity, site, now))
}

fn job(facts: &Facts, site: Identity, live: &Site, now: Time) -> Job {
    let backup = &facts.backup;
    let (name, uid) = (backup.name_any(), backup.uid().unwrap_or_default());
    let location = layout::archive(&site.id, &name, &uid, &facts.attempt);
    Job {
        header: Header {
            format: archive::FORMAT.to_owned(),
            backup: name.clone(),
            site: site.clone(),
            time: now,
            resource_version: None,
        },
        namespaces: live.namespace_names(),
        recorded: live.status.iter().flat_map(|status| status.namespaces.clone()).collect(),
        location: location.clone(),
        entry: CatalogueEntry {
            format: catalogue::FORMAT.to_owned(),
            backup: name,
            site,
            purpose: backup.spec.purpose,
            time: now,
            location,
            digest: String::new(),
            objects: 0,
            bytes: 0,
            resource_versions: None,
            changed_objects: None,
            keep_until_time: backup.spec.keep_until_time,
            contents: None,
        },
    }
}

/// Why what was collected is not the site: one of its namespaces is another one than the Site has
/// recorded. A backup of it would be the newest one, and hold nothing of what was lost.
pub fn lost(recorded: &[NamespaceRef], collected: &[NamespaceRef]) -> Option<String> {
    let old =
        recorded.iter().find(|old| collected.iter().any(|n| n.name == old.name && n != *old))?;
    Some(format!(
        "the namespace {} is not the one that the Site had (UID {}): restore the site first",
        old.name, old.uid
    ))
}

/// What to say of a backup that was made.
pub fn report(facts: &Facts, outcome: &Outcome, now: Time) -> Decision {
    match outcome {
        Outcome::Verified(result) => verified(facts, result, now),
        Outcome::NotVerified(result, why) => {
            let mut decision = said(facts, Reason::VerifyFailed, why.clone(), now);
            let (status, generation) = (&mut decision.status, facts.backup.metadata.generation);
            write_down(status, facts, result, now);
            let written = format!("{} objects written", result.objects);
            let conditions = &mut status.conditions;
            set(
                conditions,
                ConditionType::Succeeded,
                true,
                Reason::Written,
                &written,
                generation,
                now,
            );
            set(
                conditions,
                ConditionType::Verified,
                false,
                Reason::VerifyFailed,
                why,
                generation,
                now,
            );
            decision.next = Next::Retry(why.clone());
            decision
        }
        Outcome::Failed(reason, why) => {
            let mut decision = said(facts, *reason, why.clone(), now);
            decision.next = Next::Retry(why.clone());
            decision
        }
    }
}

fn verified(facts: &Facts, result: &Result, now: Time) -> Decision {
    let generation = facts.backup.metadata.generation;
    let mut status = facts.backup.status.clone().unwrap_or_default();
    status.observed_generation = generation;
    status.completion_time = Some(now);
    write_down(&mut status, facts, result, now);
    let bare = result.volumes.iter().filter(|v| v.protection == crate::api::Protection::None);
    let bare = match bare.count() {
        0 => String::new(),
        n => format!("; {n} volumes are protected by nothing"),
    };
    let lost = match result.lost_disks.as_slice() {
        [] => String::new(),
        [first, ..] => {
            format!("; {} claims have lost their disk: {first}", result.lost_disks.len())
        }
    };
    let changed = match result.changed.count {
        0 => String::new(),
        n => format!("; {n} objects were changed while it was made, see status.changedObjects"),
    };
    let hooks = match status.hooks.iter().filter(|hook| hook.state.is_error()).count() {
        0 => String::new(),
        n => format!("; {n} hooks did not end well, see status.hooks"),
    };
    let message =
        format!("{} objects written and read back{bare}{lost}{changed}{hooks}", result.objects);
    let conditions = &mut status.conditions;
    conditions.unset(ConditionType::Reconciling);
    conditions.unset(ConditionType::Stalled);
    set(conditions, ConditionType::Succeeded, true, Reason::Written, &message, generation, now);
    set(conditions, ConditionType::Verified, true, Reason::Verified, &message, generation, now);
    Decision {
        status,
        last_backup: Some(LastBackup {
            name: facts.backup.name_any(),
            verified_time: now,
            objects: result.objects,
        }),
        notes: lost_disks(result)
            .into_iter()
            .chain([Note::normal(Reason::Verified, message)])
            .collect(),
        next: Next::Done,
    }
}

/// What is told of claims without their disks: a backup cannot give them back what was on them.
fn lost_disks(result: &Result) -> Option<Note> {
    if result.lost_disks.is_empty() {
        return None;
    }
    let text = format!(
        "{}. No backup holds what was on a disk, and a restore gives these claims new, empty ones: bring the data back from a copy of the storage system, or delete the claims if nobody needs it",
        result.lost_disks.iter().take(5).cloned().collect::<Vec<_>>().join("; ")
    );
    Some(Note::warning(Reason::DiskMissing, text))
}

fn write_down(status: &mut BackupStatus, facts: &Facts, result: &Result, now: Time) {
    status.site = facts.site.as_ref().map(|site| SiteRef {
        name: site.name_any(),
        uid: site.uid(),
        id: Some(site.spec.id.clone()),
    });
    status.location = Some(result.location.clone());
    status.digest = Some(result.digest.clone());
    status.objects = Some(result.objects);
    status.bytes = Some(result.bytes);
    status.volumes.clone_from(&result.volumes);
    let generation = facts.backup.metadata.generation;
    let (encrypted, reason, message) = match result.recipients {
        0 => {
            let hint = "Secrets lie readable in the store: start the operator with --age-recipient (docs/archive-format.md)";
            (false, Reason::NotEncrypted, hint.to_owned())
        }
        n => (true, Reason::Encrypted, format!("encrypted with age to {n} recipients")),
    };
    let conditions = &mut status.conditions;
    set(conditions, ConditionType::Encrypted, encrypted, reason, &message, generation, now);
    status.resource_versions = Some(result.versions.clone());
    status.changed_objects = Some(result.changed.clone()).filter(|changed| changed.count > 0);
}

/// Why no hook of the Site is run for this Backup, if none is: not while the Site is held, when its
/// workloads are, or may be, out of service. The first Backup of a request comes before that.
pub fn hooks_rest(facts: &Facts) -> Option<String> {
    let deletion = facts.site.as_ref()?.status.as_ref().and_then(|s| s.deletion.as_ref());
    let for_request = facts.backup.spec.purpose == BackupPurpose::BeforeDeletion;
    match deletion {
        _ if for_request && facts.follows => {
            Some("not run: an earlier Backup of the same DeletionRequest has run the hooks, and what is held may be out of service".to_owned())
        }
        Some(deletion) if !for_request || deletion.retention_end_time.is_some() => Some(format!(
            "not run: the Site is held for the DeletionRequest {}, its workloads may be out of service",
            deletion.request_ref.name
        )),
        _ => None,
    }
}

/// A hook is under way.
pub fn hook_runs(facts: &Facts, message: &str, now: Time) -> Decision {
    let generation = facts.backup.metadata.generation;
    let mut status = facts.backup.status.clone().unwrap_or_default();
    status.observed_generation = generation;
    for (type_, value) in [
        (ConditionType::Reconciling, ConditionStatus::True),
        (ConditionType::Succeeded, ConditionStatus::Unknown),
    ] {
        status.conditions.set(type_, value, Reason::HookRunning, message, generation, now);
    }
    let begun = status.hooks.iter().filter_map(|hook| hook.start_time).max();
    // A long one is looked at less often.
    let since = begun.map_or(0, |begun| now.seconds_since(begun)).unsigned_abs();
    let wait = (Duration::from_secs(since) / 10).clamp(HOOK_LOOKS.0, HOOK_LOOKS.1);
    Decision { status, last_backup: None, notes: vec![], next: Next::Wait(wait) }
}

/// A hook did not end well, and nothing goes on after it: the Backup can never be made, because no
/// hook is run twice for it.
pub fn hook_failed(facts: &Facts, reason: Reason, why: &str, now: Time) -> Decision {
    let again = match facts.backup.spec.purpose {
        BackupPurpose::BeforeDeletion => "cancel the DeletionRequest, and make another one",
        _ => "make another Backup",
    };
    let message = format!(
        "not made: {why}; no hook is run twice for one backup: correct the Site's spec.hooks, then {again}"
    );
    refused(facts, reason, message, now)
}

/// It can never be made.
fn refused(facts: &Facts, reason: Reason, message: String, now: Time) -> Decision {
    let generation = facts.backup.metadata.generation;
    let mut decision = said(facts, reason, message.clone(), now);
    let conditions = &mut decision.status.conditions;
    conditions.unset(ConditionType::Reconciling);
    set(conditions, ConditionType::Stalled, true, reason, &message, generation, now);
    decision.status.completion_time = Some(now);
    decision.next = Next::Done;
    decision
}

/// It is not made yet, for this reason.
fn said(facts: &Facts, reason: Reason, message: String, now: Time) -> Decision {
    let generation = facts.backup.metadata.generation;
    let mut status = facts.backup.status.clone().unwrap_or_default();
    status.observed_generation = generation;
    let conditions = &mut status.conditions;
    // Said once, not at every attempt.
    let known = conditions.get(ConditionType::Succeeded).is_some_and(|c| c.message == message);
    set(conditions, ConditionType::Reconciling, true, reason, &message, generation, now);
    set(conditions, ConditionType::Succeeded, false, reason, &message, generation, now);
    let notes = if known { vec![] } else { vec![Note::warning(reason, message)] };
    Decision { status, last_backup: None, notes, next: Next::Done }
}

fn set(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    holds: bool,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: Time,
) {
    let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
    conditions.set(type_, status, reason, message, generation, now);
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
