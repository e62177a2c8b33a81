//! What to do about a Backup, and what to say of it. Pure.

use std::time::Duration;

use kube::ResourceExt;

use crate::api::{
    Backup, BackupStatus, ChangedObjects, Condition, ConditionStatus, ConditionType, Conditions,
    DeletionPhase, LastBackup, NamespaceRef, ReadVersions, Reason, Site, SiteRef, SiteState, Time,
    VolumeProtection, names,
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
    let changed = match result.changed.count {
        0 => String::new(),
        n => format!("; {n} objects were changed while it was made, see status.changedObjects"),
    };
    let message = format!("{} objects written and read back{bare}{changed}", result.objects);
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
        notes: vec![Note::normal(Reason::Verified, message)],
        next: Next::Done,
    }
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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Time {
        serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap()
    }

    fn facts(site_ref: Value, site: Option<Value>) -> Facts {
        let backup = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup",
            "metadata": {"name": "b", "uid": "bu"}, "spec": {"siteRef": site_ref},
        });
        Facts {
            backup: serde_json::from_value(backup).unwrap(),
            site: site.map(|site| serde_json::from_value(site).unwrap()),
            attempt: "0f".to_owned(),
        }
    }

    fn site(metadata: Value, status: Value) -> Value {
        let mut all = json!({"name": "acme", "uid": "su"});
        all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": all,
            "spec": {"id": "site-1", "tenant": {"name": "Acme"}}, "status": status,
        })
    }

    fn reported(step: Step) -> Decision {
        match step {
            Step::Report(decision) => decision,
            Step::Back(job) => panic!("{job:?}"),
        }
    }

    #[test]
    fn who_is_not_backed_up() {
        let plain = || Some(site(json!({}), json!({})));
        let purging = json!({"deletion": {"requestRef": {"name": "r"}, "requestUid": "u", "phase": "Purging"}});
        let rows = [
            (facts(json!({"name": "acme"}), None), Reason::SiteNotFound),
            (facts(json!({"name": "acme", "uid": "other"}), plain()), Reason::SiteNotFound),
            (facts(json!({"name": "acme", "id": "other"}), plain()), Reason::SiteNotFound),
            (
                facts(json!({"name": "acme"}), Some(site(json!({}), purging))),
                Reason::EntityNotActive,
            ),
        ];
        for (facts, reason) in rows {
            let decision = reported(decide(&facts, now()));
            let succeeded = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
            assert_eq!(succeeded.reason, reason.as_str());
            assert!(decision.status.conditions.is_true(ConditionType::Stalled));
            assert_eq!(decision.next, Next::Done);
        }
    }

    #[test]
    fn a_site_under_restore_is_waited_for() {
        let site = site(json!({"annotations": {"reprieve.dev/restore": "r"}}), json!({}));
        let decision = reported(decide(&facts(json!({"name": "acme"}), Some(site)), now()));
        assert_eq!(decision.next, Next::Wait(RESTORING));
        assert!(!decision.status.conditions.is_true(ConditionType::Stalled));
    }

    #[test]
    fn a_namespace_made_anew_is_not_the_site() {
        let of = |uid: &str| NamespaceRef { name: "acme".into(), uid: uid.into() };
        assert_eq!(lost(&[of("a")], &[of("a")]), None);
        assert_eq!(lost(&[], &[of("a")]), None);
        assert!(lost(&[of("a")], &[of("b")]).unwrap().contains("the namespace acme"));
    }

    #[test]
    fn made_once_and_never_again() {
        let mut facts = facts(
            json!({"name": "acme", "uid": "su", "id": "site-1"}),
            Some(site(json!({}), json!({}))),
        );
        let Step::Back(job) = decide(&facts, now()) else { panic!("not made") };
        assert_eq!(job.location, "sites/site-1/b.bu.0f.jsonl.zst");
        let result = Result {
            location: job.location,
            digest: "sha256:00".into(),
            objects: 3,
            bytes: 9,
            volumes: vec![],
            versions: ReadVersions::default(),
            changed: ChangedObjects::default(),
            recipients: 0,
        };

        let failed = Outcome::Failed(Reason::StoreUnavailable, "no".into());
        let decision = report(&facts, &failed, now());
        assert_eq!(decision.next, Next::Retry("no".into()));
        facts.backup.status = Some(decision.status);
        assert!(matches!(decide(&facts, now()), Step::Back(_)));

        let decision = report(&facts, &Outcome::NotVerified(result.clone(), "bad".into()), now());
        assert!(decision.status.conditions.is_true(ConditionType::Succeeded));
        assert!(!decision.status.conditions.is_true(ConditionType::Verified));
        assert_eq!(decision.last_backup, None);
        facts.backup.status = Some(decision.status);
        assert!(matches!(decide(&facts, now()), Step::Back(_)));

        let decision = report(&facts, &Outcome::Verified(result), now());
        assert!(decision.status.conditions.is_true(ConditionType::Verified));
        assert!(decision.status.conditions.get(ConditionType::Reconciling).is_none());
        assert_eq!(decision.last_backup.as_ref().unwrap().objects, 3);
        let site = json!({"name": "acme", "uid": "su", "id": "site-1"});
        assert_eq!(json!(decision.status.site), site);
        facts.backup.status = Some(decision.status);
        let again = reported(decide(&facts, now().plus_seconds(60)));
        assert_eq!((again.next, Some(again.status)), (Next::Done, facts.backup.status));
    }
}
