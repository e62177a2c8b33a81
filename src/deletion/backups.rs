//! Gate 5: the backups that a purge depends on. Pure.

use kube::ResourceExt;

use super::drilled;
use super::gates::{Case, Verdict, stricter, undecided};
use super::live::{Live, words};
use super::observe::{Executed, SiteFacts};
use crate::api::{Backup, ConditionStatus, ConditionType, Conditions, Reason, RequestState, Time};

/// The newest Backup of a site that was made for this request.
pub fn backup_of(site: &SiteFacts) -> Option<&Backup> {
    let uid = site.uid();
    site.backups.iter().rfind(|b| b.spec.site_ref.uid.as_deref() == Some(&uid))
}

/// Whether a Backup was verified, and says what is needed to restore from it.
pub fn is_verified(backup: &Backup) -> bool {
    let status = backup.status.as_ref();
    backup.is_verified() && status.is_some_and(|s| s.digest.is_some() && s.location.is_some())
}

/// Whether the verified backup shows what lives. Not known is not current.
pub(super) fn backup_is_current(live: Live<'_>) -> bool {
    let backed_up = backup_of(live.site())
        .filter(|b| is_verified(b))
        .and_then(|b| b.status.as_ref()?.digest.as_ref());
    let (backed_up, lives) = match live {
        Live::Site(site) => (backed_up, &site.live_digest),
        // Of an App, its part of the archive: the rest of its Site lives on and changes.
        Live::App(app, _) => (backed_up.and(app.archived_digest.as_ref()), &app.live_digest),
    };
    backed_up.is_some() && backed_up == lives.as_ref()
}

/// Whether a verified backup is known not to show what lives.
pub fn backup_is_outdated(live: Live<'_>) -> bool {
    let verified = backup_of(live.site()).is_some_and(is_verified);
    let known = match live {
        Live::Site(site) => site.live_digest.is_some(),
        Live::App(app, _) => app.live_digest.is_some(),
    };
    verified && known && !backup_is_current(live)
}

/// Until when a backup must be kept if its entity is purged at `now`.
pub fn keep_until(case: &Case<'_>) -> Time {
    let keep = stricter(case).iter().map(|p| p.backup.keep_seconds).max().unwrap_or(i64::MAX);
    case.now.plus_seconds(keep)
}

/// Gate 5: every entity has a verified backup that is kept long enough, and no disk would go.
pub(super) fn backed_up(case: &Case<'_>) -> Verdict {
    if !matches!(case.state, RequestState::Held | RequestState::Purging) {
        return Verdict::later();
    }
    if let Executed::Unknown(why) = &case.facts.executed {
        let message = format!("the ledger of what was purged cannot be read: {why}");
        return Verdict::closed(Reason::StoreUnavailable, message);
    }
    let total = case.plan.entities.len();
    let mut missing = vec![];
    for (entity, live) in undecided(case) {
        let Some(live) = live else { return Verdict::later() };
        let what = words(entity);
        let uid = case.facts.request_uid();
        if let Some(disk) = live.held().find(|h| h.keep(&uid, &entity.name).is_some()) {
            let message = format!("{} of {what} is being set to Retain", disk.describe());
            return Verdict::closed(Reason::VolumeNotRetained, message);
        }
        if let Some(why) = live.unread() {
            let message = format!("{what} cannot be compared with its backup: {why}");
            return Verdict::closed(Reason::ComparisonFailed, message);
        }
        if backup_is_outdated(live) {
            return Verdict::closed(
                Reason::BackupOutdated,
                format!("{what} changed since its backup: another one is made"),
            );
        }
        match backup_of(live.site()) {
            Some(backup) if is_verified(backup) => {
                if backup.spec.keep_until_time.is_none_or(|until| until < keep_until(case)) {
                    missing.push(format!("Backup {} must be kept longer", backup.name_any()));
                }
            }
            Some(backup) => {
                if let Some(failed) = failure(backup) {
                    return Verdict::closed(
                        Reason::BackupFailed,
                        format!("Backup {}: {failed}", backup.name_any()),
                    );
                }
                missing.push(format!("Backup {} is being made", backup.name_any()));
            }
            None => missing.push(format!("{what} has no backup yet")),
        }
    }
    match missing.first() {
        Some(first) => Verdict::closed(
            Reason::BackingUp,
            format!("{} of {total} entities not backed up yet; {first}", missing.len()),
        ),
        None => drilled::missing(case).unwrap_or_else(|| {
            Verdict::open(Reason::BackupsVerified, "every entity has a verified backup")
        }),
    }
}

fn failure(backup: &Backup) -> Option<String> {
    let conditions = &backup.status.as_ref()?.conditions;
    [ConditionType::Succeeded, ConditionType::Verified].into_iter().find_map(|type_| {
        let condition = conditions.get(type_)?;
        (condition.status == ConditionStatus::False).then(|| condition.message.clone())
    })
}
