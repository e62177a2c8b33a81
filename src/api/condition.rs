//! Conditions, as the Kubernetes API conventions have them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reason, Time};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell.
    Unknown,
}

/// The types of condition that the project's kinds report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionType {
    /// A living object does what its spec says.
    Ready,
    /// The operator is at work on it (abnormal-true, as kstatus reads it).
    Reconciling,
    /// The operator cannot go on without help (abnormal-true, as kstatus reads it).
    Stalled,
    /// A bounded object has reached its end well.
    Succeeded,
    /// Gate 1: every id is known, of the declared kind, and in no other open request.
    ScopeValid,
    /// Gate 2: no more entities than the request, the policy and the hard limit allow.
    WithinBlastRadius,
    /// Gate 3: the admission policies are in force, unchanged.
    GuardInPlace,
    /// Gate 4: a quorum of distinct people approved the current digest.
    Approved,
    /// Gate 5: every entity has a verified backup that shows what lives now.
    BackedUp,
    /// Gate 6: the window has passed, by the operator's clock and the API server's.
    RetentionElapsed,
    /// Gate 7: no unexpected alert fires, and the source of alerts is alive.
    AlertsClear,
    /// What was written was read back, and every digest and count matched.
    Verified,
    /// It was restored into scratch namespaces, read back and compared: a Backup; of a RestoreDrill,
    /// every site of its last run.
    Drilled,
    /// Nobody who can read the store can read a backup without a key.
    Encrypted,
    /// Backups of a Site are made by its schedule.
    BackupScheduled,
    /// The Jobs of a Site's hooks can be created, as a dry run showed.
    HooksValid,
}

impl ConditionType {
    /// The type's name, as it stands in `status.conditions`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Succeeded => "Succeeded",
            Self::ScopeValid => "ScopeValid",
            Self::WithinBlastRadius => "WithinBlastRadius",
            Self::GuardInPlace => "GuardInPlace",
            Self::Approved => "Approved",
            Self::BackedUp => "BackedUp",
            Self::RetentionElapsed => "RetentionElapsed",
            Self::AlertsClear => "AlertsClear",
            Self::Verified => "Verified",
            Self::Drilled => "Drilled",
            Self::Encrypted => "Encrypted",
            Self::BackupScheduled => "BackupScheduled",
            Self::HooksValid => "HooksValid",
        }
    }
}

/// One observation of an object's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is observed, for example `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds: `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// The generation of the spec that this was observed of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// Why, as one CamelCase word that programs can match. Example: `EntityTypeMismatch`.
    pub reason: String,
    /// Why, in words: what is wrong or missing, where, and who can do what about it.
    #[serde(default)]
    pub message: String,
}

/// An object's conditions, one of each type.
pub trait Conditions {
    /// The condition of this type.
    fn get(&self, type_: ConditionType) -> Option<&Condition>;

    /// Whether the condition of this type is there and `True`.
    fn is_true(&self, type_: ConditionType) -> bool {
        self.get(type_).is_some_and(|c| c.status == ConditionStatus::True)
    }

    /// Sets a condition. `lastTransitionTime` moves only when the status does.
    fn set(
        &mut self,
        type_: ConditionType,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
        generation: Option<i64>,
        now: Time,
    );

    /// Removes the condition of this type. kstatus takes an absent `Reconciling` or `Stalled` for
    /// `False`.
    fn unset(&mut self, type_: ConditionType);

    /// Sets an abnormal-true condition to `True` with this reason and message, or removes it.
    fn set_abnormal(
        &mut self,
        type_: ConditionType,
        why: Option<(Reason, &str)>,
        generation: Option<i64>,
        now: Time,
    ) {
        match why {
            Some((reason, message)) => {
                self.set(type_, ConditionStatus::True, reason, message, generation, now);
            }
            None => self.unset(type_),
        }
    }
}

impl Conditions for Vec<Condition> {
    fn get(&self, type_: ConditionType) -> Option<&Condition> {
        self.iter().find(|c| c.type_ == type_.as_str())
    }

    fn set(
        &mut self,
        type_: ConditionType,
        status: ConditionStatus,
        reason: Reason,
        message: impl Into<String>,
        generation: Option<i64>,
        now: Time,
    ) {
        let last_transition_time = match self.get(type_) {
            Some(old) if old.status == status => old.last_transition_time,
            _ => now,
        };
        let new = Condition {
            type_: type_.as_str().to_owned(),
            status,
            observed_generation: generation,
            last_transition_time,
            reason: reason.as_str().to_owned(),
            message: message.into(),
        };
        match self.iter_mut().find(|c| c.type_ == new.type_) {
            Some(old) => *old = new,
            None => self.push(new),
        }
    }

    fn unset(&mut self, type_: ConditionType) {
        self.retain(|c| c.type_ != type_.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |s| Time::from(DateTime::from_timestamp(s, 0).unwrap());
        let mut all: Vec<Condition> = vec![];
        all.set(ConditionType::Ready, ConditionStatus::False, Reason::Progressing, "", None, at(1));
        all.set(ConditionType::Ready, ConditionStatus::False, Reason::Stalled, "", None, at(2));
        assert_eq!(all.get(ConditionType::Ready).unwrap().last_transition_time, at(1));
        all.set(ConditionType::Ready, ConditionStatus::True, Reason::Ready, "", None, at(3));
        assert_eq!(all.get(ConditionType::Ready).unwrap().last_transition_time, at(3));
        assert_eq!(all.len(), 1);
    }
}
