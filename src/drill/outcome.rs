//! What a run has found out: of its Restore, once that has ended. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::decide::Facts;
use crate::api::{
    ConditionType, Conditions, DrillOutcome, DrillRun, DrillSource, DrilledArchive, NotProved,
    Reason, Restore, RestoreFailure, Time, VerifiedSite,
};
use crate::store::{DrillEvidence, DrilledSite, Identity, drills};

/// The most of what was not proved that a status has.
const MOST_NOT_PROVED: usize = 100;
/// The most failures that a status has.
const MOST_FAILURES: usize = 20;

/// Writes into the run what its Restore has come to. A reason that the run has already, because it
/// was stopped, stays.
pub fn judge(run: &mut DrillRun, restore: &Restore) {
    let status = restore.status.clone().unwrap_or_default();
    let verified = &status.verified_sites;
    run.sites = restore.spec.source.drill.as_ref().map_or(0, |drill| len(&drill.archives));
    run.verified = len(verified);
    run.objects = verified.iter().map(|site| site.objects).sum();
    if let (Some(begun), Some(ended), true) =
        (status.start_time, status.completion_time, run.verified > 0)
    {
        let seconds = ended.seconds_since(begun).max(0);
        run.recovery_seconds = Some(seconds);
        run.objects_per_second = Some(run.objects / seconds.max(1));
    }
    let of = |field: fn(&crate::api::SiteDrill) -> i64| -> Vec<i64> {
        let mut all: Vec<i64> =
            verified.iter().filter_map(|s| s.drill.as_ref()).map(field).collect();
        all.sort_unstable();
        all
    };
    run.create_milliseconds = median(&of(|site| site.create_milliseconds));
    run.verify_milliseconds = median(&of(|site| site.verify_milliseconds));
    let whole = of(|site| site.create_milliseconds + site.verify_milliseconds);
    run.slowest_site_milliseconds = whole.last().copied();
    run.not_proved = not_proved(verified);
    run.failures = status.failures.iter().take(MOST_FAILURES).cloned().collect();
    let all = status.conditions.is_true(ConditionType::Succeeded) && run.verified == run.sites;
    if let Some(Reason::DrillTimeout | Reason::DrillStopped) = reason(run) {
        run.outcome = Some(DrillOutcome::Failed);
        return;
    }
    let counts = format!("{} of {} sites restored, read back and equal", run.verified, run.sites);
    let (outcome, reason, message) = if all {
        let seconds = run.recovery_seconds.unwrap_or_default();
        let message =
            format!("{counts}: {} objects in {seconds} s; not proved: see notProved", run.objects);
        (DrillOutcome::Succeeded, Reason::Drilled, message)
    } else {
        let said = status.conditions.get(ConditionType::Succeeded).map(|c| c.message.clone());
        let first = status.failures.first().map(in_words).or(said).unwrap_or_default();
        (DrillOutcome::Failed, Reason::DrillFailed, format!("{counts}; {first}"))
    };
    run.outcome = Some(outcome);
    run.reason = Some(reason.to_string());
    run.message = Some(message);
}

/// The reason that a run has, as a constant.
pub fn reason(run: &DrillRun) -> Option<Reason> {
    let word = run.reason.as_ref()?;
    Reason::ALL.iter().copied().find(|reason| reason.as_str() == word)
}

fn len<T>(all: &[T]) -> i64 {
    i64::try_from(all.len()).unwrap_or(i64::MAX)
}

fn median(sorted: &[i64]) -> Option<i64> {
    sorted.get(sorted.len() / 2).copied()
}

fn in_words(failure: &RestoreFailure) -> String {
    match &failure.object {
        Some(object) => format!("site {}, {object}: {}", failure.site, failure.message),
        None => format!("site {}: {}", failure.site, failure.message),
    }
}

/// What was not proved of all these sites together, the most first.
fn not_proved(sites: &[VerifiedSite]) -> Vec<NotProved> {
    let mut counts: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for one in sites.iter().filter_map(|site| site.drill.as_ref()).flat_map(|d| &d.not_proved) {
        *counts.entry((&one.what, &one.why)).or_default() += one.objects;
    }
    let mut all: Vec<NotProved> = counts
        .into_iter()
        .map(|((what, why), objects)| NotProved {
            what: what.to_owned(),
            objects,
            why: why.to_owned(),
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.objects));
    all.truncate(MOST_NOT_PROVED);
    all
}

/// The evidence of a run that has ended.
pub fn evidence(facts: &Facts, run: &DrillRun, now: Time) -> DrillEvidence {
    let drill = &facts.drill;
    let restore = facts.restore.as_ref();
    let source = restore.and_then(|restore| restore.spec.source.drill.as_ref());
    let sample = &drill.spec.sample;
    DrillEvidence {
        format: drills::FORMAT.to_owned(),
        operator: env!("CARGO_PKG_VERSION").to_owned(),
        drill: drill.name_any(),
        drill_uid: drill.uid().unwrap_or_default(),
        restore_uid: restore.and_then(ResourceExt::uid),
        strategy: sample.backup_refs.is_none().then_some(sample.strategy),
        time: now,
        run: run.clone(),
        sites: source.map(|source| sites(source, restore)).unwrap_or_default(),
    }
}

fn sites(source: &DrillSource, restore: Option<&Restore>) -> Vec<DrilledSite> {
    let status = restore.and_then(|restore| restore.status.clone()).unwrap_or_default();
    let site = |(name, archive): (String, &DrilledArchive)| {
        let verified = status.verified_sites.iter().find(|site| site.name == name);
        let drill = verified.and_then(|site| site.drill.clone());
        // What is told of an object names the Site, and not the job.
        let failures = status.failures.iter().filter(|f| f.site == name || f.site == archive.site);
        DrilledSite {
            site: Identity {
                name: archive.site.clone(),
                uid: archive.site_uid.clone(),
                id: archive.site_id.clone(),
            },
            backup: archive.backup.clone(),
            location: archive.location.clone(),
            digest: archive.digest.clone(),
            archived_objects: archive.objects,
            verified: verified.is_some(),
            compared_objects: verified.map_or(0, |site| site.objects),
            create_milliseconds: drill.as_ref().map(|drill| drill.create_milliseconds),
            verify_milliseconds: drill.as_ref().map(|drill| drill.verify_milliseconds),
            not_proved: drill.map(|drill| drill.not_proved).unwrap_or_default(),
            failures: match verified {
                Some(_) => vec![],
                None => failures.cloned().collect(),
            },
        }
    };
    source.named().into_iter().map(site).collect()
}

/// What is to be said on a site of a run, and on the Backup of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// The site. It lives under its name and id, with the UID of the backup or, when it was
    /// restored since, another one.
    pub site: Identity,
    /// Name of the RestoreDrill.
    pub drill: String,
    /// Name of the Backup.
    pub backup: String,
    /// The archive that was drilled: another Backup of that name is not it.
    pub location: String,
    /// Whether it was restored, read back and is equal.
    pub verified: bool,
    /// The condition's reason.
    pub reason: Reason,
    /// The condition's message.
    pub message: String,
    /// When the run ended.
    pub time: Time,
}

/// What is to be said on the sites and Backups of a run. Of a site that the run did not come to, because it
/// was stopped, nothing is known.
pub fn marks(evidence: &DrillEvidence) -> Vec<Mark> {
    let (drill, run) = (&evidence.drill, &evidence.run.name);
    let mark = |site: &DrilledSite| {
        let failure =
            site.failures.iter().find(|failure| failure.reason != Reason::CancelledByUser.as_str());
        let (reason, message) = match (site.verified, failure) {
            (true, _) => {
                let objects = site.compared_objects;
                let message = format!(
                    "restored into scratch namespaces by the RestoreDrill {drill} (run {run}), {objects} objects read back and equal"
                );
                (Reason::Drilled, message)
            }
            (false, Some(failure)) => {
                let what = failure.object.as_ref().map(|o| format!("{o}: ")).unwrap_or_default();
                let message = format!(
                    "the RestoreDrill {drill} (run {run}) could not restore it: {what}{}",
                    failure.message
                );
                (Reason::DrillFailed, message)
            }
            (false, None) => return None,
        };
        Some(Mark {
            site: site.site.clone(),
            drill: drill.clone(),
            backup: site.backup.clone(),
            location: site.location.clone(),
            verified: site.verified,
            reason,
            message,
            time: evidence.time,
        })
    };
    evidence.sites.iter().filter_map(mark).collect()
}
