//! Gate 5, where the policy asks for drills: of the very backup, and of any lately. Pure.

use kube::ResourceExt;

use super::backups::{backup_of, is_verified};
use super::gates::{Case, Verdict, stricter, undecided};
use crate::api::{
    Backup, ConditionStatus, ConditionType, Conditions, DeletionPolicySpec, Reason, RestoreDrill,
    names,
};

/// Whether a policy asks for a drill of the backups that a purge depends on.
pub fn asks<'a>(mut policies: impl Iterator<Item = &'a DeletionPolicySpec>) -> bool {
    policies.any(|policy| policy.backup.drill_before_purge)
}

/// What is missing of drills. None: nothing that the policy asks for, as planned or as it is now.
pub(super) fn missing(case: &Case<'_>) -> Option<Verdict> {
    let policies = stricter(case);
    if let Some(within) = policies.iter().filter_map(|p| p.backup.drilled_within_seconds).min()
        && case.facts.last_drill.is_none_or(|last| case.now.seconds_since(last) > within)
    {
        let last = case
            .facts
            .last_drill
            .map_or("none ever has".to_owned(), |t| format!("the last at {t}"));
        let message = format!(
            "the policy asks for a RestoreDrill that succeeded within {within} s ({last}): kubectl get drill; a run now: {}",
            RestoreDrill::how_to_run("<name>")
        );
        return Some(Verdict::closed(Reason::DrillOverdue, message));
    }
    if !asks(policies.iter()) {
        return None;
    }
    undecided(case).find_map(|(_, live)| of(backup_of(live?.site())?))
}

/// What is missing of the drill of one backup.
fn of(backup: &Backup) -> Option<Verdict> {
    if !is_verified(backup) {
        return None;
    }
    let name = backup.name_any();
    let drill = RestoreDrill::name_of_backup(&name);
    let conditions = &backup.status.as_ref()?.conditions;
    match conditions.get(ConditionType::Drilled) {
        Some(drilled) if drilled.status == ConditionStatus::True => None,
        Some(drilled) if drilled.status == ConditionStatus::False => Some(Verdict::closed(
            Reason::DrillFailed,
            format!(
                "Backup {name}: {}; to try it again: {}",
                drilled.message,
                RestoreDrill::how_to_run(&drill)
            ),
        )),
        _ if backup.labels().contains_key(names::LABEL_DRILL_ASKED) => Some(Verdict::closed(
            Reason::DrillPending,
            format!(
                "Backup {name} is being drilled, see kubectl get drill {drill}; if its last run was stopped or took too long: {}",
                RestoreDrill::how_to_run(&drill)
            ),
        )),
        // The policy asks for it since after the backup was made.
        _ => Some(Verdict::closed(
            Reason::DrillPending,
            format!(
                "Backup {name} was not drilled yet: kubectl label bkp {name} {}=true",
                names::LABEL_DRILL_ASKED
            ),
        )),
    }
}
