//! Which sites a Restore is of, and from which archives. Pure.

use super::catalogue::Unchosen;
use super::choose::{Choice, Chosen};
use super::decide::{Facts, Job, Phase, Standing};
use super::drill;
use super::part::AppPart;
use crate::api::{
    Backup, ConditionType, Conditions, EntityPhase, PlanBackup, Reason, RestoreFailure, TargetKind,
    VerifiedSite, names,
};
use crate::cluster::Note;

/// What the source of a Restore comes to.
pub enum Source {
    /// It can never be restored from.
    Refused(Reason, String),
    /// Not yet.
    Waits(Reason, String),
    /// Sites.
    Sites {
        /// Those that can be restored.
        jobs: Vec<Job>,
        /// What is named and cannot be restored.
        failed: Vec<Standing>,
    },
}

/// Which sites this Restore is of.
pub fn of(facts: &Facts) -> Source {
    let source = &facts.restore.spec.source;
    if let Some(drill) = &source.drill {
        return Source::Sites { jobs: drill::jobs(facts, drill), failed: vec![] };
    }
    match (&source.deletion_request_ref, &source.backup_refs, &facts.choice) {
        (Some(request), ..) => of_request(facts, &request.name),
        (None, Some(_), _) => of_backups(facts),
        (None, None, Some(choice)) => of_choice(facts, choice),
        (None, None, None) => {
            let message = "the source names nothing: see kubectl explain restore.spec.source";
            Source::Refused(Reason::NothingToRestore, message.to_owned())
        }
    }
}

/// What is to be known of a Restore, whatever becomes of its sites.
pub fn notices(facts: &Facts) -> Vec<RestoreFailure> {
    let chosen = facts.choice.iter().flatten().flat_map(|choice| &choice.notices);
    chosen.chain(&facts.policies).cloned().collect()
}

/// What is told of it before anything is created: the kinds that are missing.
pub fn notes(facts: &Facts) -> Option<Note> {
    let notices = notices(facts);
    let missing = notices.iter().filter(|n| n.reason == Reason::KindMissing.as_str());
    let missing: Vec<&str> = missing.filter_map(|notice| notice.object.as_deref()).collect();
    let message = format!("this cluster does not serve {}: see status.notices", missing.join(", "));
    (!missing.is_empty()).then(|| Note::warning(Reason::KindMissing, message))
}

/// Something that is named and cannot be restored.
fn failed(failure: RestoreFailure) -> Standing {
    Standing {
        name: failure.site.clone(),
        phase: Phase::Failed(vec![failure]),
        total: 0,
        done: 0,
        notices: vec![],
    }
}

fn of_choice(facts: &Facts, choice: &Result<Choice, Unchosen>) -> Source {
    match choice {
        Ok(choice) => Source::Sites {
            jobs: choice.chosen.iter().map(|chosen| chosen_job(facts, chosen)).collect(),
            failed: choice.failures.iter().cloned().map(failed).collect(),
        },
        Err(Unchosen::Refused(reason, message)) => Source::Refused(*reason, message.clone()),
        Err(Unchosen::Waits(reason, message)) => Source::Waits(*reason, message.clone()),
    }
}

fn chosen_job(facts: &Facts, chosen: &Chosen) -> Job {
    let name = chosen.name();
    Job {
        verified: verified_before(facts, &name),
        name,
        old_uid: chosen.site.uid.clone(),
        id: chosen.site.id.clone(),
        backup: chosen.backup.clone(),
        app: chosen.app.clone().map(|app| AppPart { site: chosen.site.name.clone(), app }),
        drill: None,
    }
}

fn verified_before(facts: &Facts, site: &str) -> Option<VerifiedSite> {
    let status = facts.restore.status.as_ref()?;
    status.verified_sites.iter().find(|v| v.name == site).cloned()
}

fn of_request(facts: &Facts, name: &str) -> Source {
    let Some(request) = &facts.request else {
        let message = format!("there is no DeletionRequest {name}");
        return Source::Refused(Reason::NothingToRestore, message);
    };
    let status = request.status.clone().unwrap_or_default();
    if !status.has_ended() {
        let message = format!("the DeletionRequest {name} is still open: waits until it has ended");
        return Source::Waits(Reason::RequestStillOpen, message);
    }
    let entities = status.plan.unwrap_or_default().entities;
    let purged: Vec<_> = entities.iter().filter(|e| e.phase == EntityPhase::Purged).collect();
    if purged.is_empty() {
        let message = format!("the DeletionRequest {name} purged nothing");
        return Source::Refused(Reason::NothingToRestore, message);
    }
    if purged.iter().any(|entity| entity.kind == TargetKind::App)
        && let Some(choice) = &facts.choice
    {
        return of_choice(facts, choice);
    }
    let jobs = purged.into_iter().map(|entity| Job {
        name: entity.name.clone(),
        old_uid: entity.uid.clone(),
        id: entity.id.clone(),
        // Without a backup recorded, the archive is looked for where none can be.
        backup: entity.backup.clone().unwrap_or_else(|| PlanBackup {
            name: String::new(),
            location: "none".to_owned(),
            digest: String::new(),
            objects: 0,
            keep_until_time: None,
        }),
        verified: verified_before(facts, &entity.name),
        app: None,
        drill: None,
    });
    Source::Sites { jobs: jobs.collect(), failed: vec![] }
}

fn of_backups(facts: &Facts) -> Source {
    let mut jobs: Vec<Job> = vec![];
    let mut bad = vec![];
    for (name, backup) in &facts.backups {
        match job(facts, name, backup.as_ref()) {
            Ok(job) => {
                // Both would be written into one site, and one of them would be out of date.
                if let Some(other) = jobs.iter().find(|o| o.name == job.name || o.id == job.id) {
                    let message = format!(
                        "the Backups {} and {name} are both of the Site {}: name the one to restore from",
                        other.backup.name, job.name
                    );
                    return Source::Refused(Reason::SeveralBackups, message);
                }
                jobs.push(job);
            }
            Err(failure) => bad.push(failed(failure)),
        }
    }
    Source::Sites { jobs, failed: bad }
}

fn job(facts: &Facts, name: &str, backup: Option<&Backup>) -> Result<Job, RestoreFailure> {
    let fail = |site: &str, reason: Reason, message: String| RestoreFailure {
        site: site.to_owned(),
        object: Some(format!("{} Backup {name}", names::API_VERSION)),
        reason: reason.to_string(),
        message,
    };
    let Some(backup) = backup else {
        let message = "there is no Backup of that name: see kubectl get backups".to_owned();
        return Err(fail("", Reason::BackupNotFound, message));
    };
    let of = backup.spec.site_ref.name.as_str();
    let status = backup.status.clone().unwrap_or_default();
    if !backup.is_verified() {
        let said = status.conditions.get(ConditionType::Succeeded);
        let why = said.map_or("it was not made yet", |said| said.message.as_str());
        let message = format!("it is not verified ({why}): name another, see kubectl get backups");
        return Err(fail(of, Reason::BackupNotVerified, message));
    }
    let site = status.site.unwrap_or_else(|| backup.spec.site_ref.clone());
    let (Some(old_uid), Some(id), Some(location), Some(digest)) =
        (site.uid, site.id, status.location, status.digest)
    else {
        let message = "it does not say whose archive lies where: name another".to_owned();
        return Err(fail(of, Reason::BackupNotVerified, message));
    };
    Ok(Job {
        verified: verified_before(facts, &site.name),
        name: site.name,
        old_uid,
        id,
        backup: PlanBackup {
            name: name.to_owned(),
            location,
            digest,
            objects: status.objects.unwrap_or_default(),
            keep_until_time: backup.spec.keep_until_time,
        },
        app: None,
        drill: None,
    })
}
