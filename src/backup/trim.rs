//! Which Backups go as objects of the cluster, once newer ones are there. Their archives stay, and
//! the catalogue has them. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt;

use super::decide::has_ended;
use crate::api::{Backup, BackupPurpose, Time};

/// How many verified Backups of a site stay.
const STAY: usize = 3;

/// Which of a site's Backups are too many. `referenced` are those that something names. Whether
/// anything would be lost with one is to be asked of the catalogue still.
pub fn too_many<'a>(
    backups: &'a [Backup],
    referenced: &BTreeSet<String>,
    now: Time,
) -> Vec<&'a Backup> {
    let created = |b: &Backup| b.metadata.creation_timestamp.as_ref().map(Time::from);
    let mut all: Vec<&Backup> = backups.iter().collect();
    all.sort_by_key(|b| std::cmp::Reverse((created(b), b.name_any())));
    let mut verified = 0;
    all.into_iter()
        .filter(|backup| {
            if backup.is_verified() {
                verified += 1;
            }
            // What failed for ever goes with what was verified before it.
            verified > STAY || (verified == STAY && !backup.is_verified())
        })
        .filter(|b| b.status.as_ref().is_some_and(|s| has_ended(&s.conditions)))
        .filter(|b| !referenced.contains(&b.name_any()))
        // Its keepUntilTime is what a purge has made of it.
        .filter(|b| {
            b.spec.purpose != BackupPurpose::BeforeDeletion
                || !b.is_verified()
                || b.spec.keep_until_time.is_some_and(|until| until < now)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn backup(n: i64, type_: &str, purpose: &str, until: Option<&str>) -> Backup {
        let created = chrono::DateTime::from_timestamp(1_800_000_000 + n, 0).unwrap();
        serde_json::from_value(json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup",
            "metadata": {"name": format!("b{n}"), "creationTimestamp": created.to_rfc3339()},
            "spec": {"siteRef": {"name": "acme"}, "purpose": purpose, "keepUntilTime": until},
            "status": {"conditions": [{"type": type_, "status": "True", "reason": "X", "lastTransitionTime": created.to_rfc3339()}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_last_three_stay_and_what_something_needs() {
        let now: Time = chrono::DateTime::from_timestamp(1_900_000_000, 0).unwrap().into();
        let late = Some("2999-01-01T00:00:00Z");
        let all = [
            backup(1, "Verified", "Scheduled", late),
            backup(2, "Verified", "BeforeDeletion", late),
            backup(3, "Verified", "BeforeDeletion", Some("2027-01-15T08:00:00Z")),
            backup(4, "Reconciling", "Manual", None),
            backup(5, "Stalled", "Manual", None),
            backup(6, "Verified", "Manual", None),
            backup(7, "Verified", "Scheduled", None),
            backup(8, "Verified", "Scheduled", None),
            backup(9, "Verified", "Scheduled", None),
            backup(10, "Stalled", "Scheduled", None),
        ];
        let names = |referenced: &[&str]| {
            let referenced = referenced.iter().map(|name| (*name).to_owned()).collect();
            let found = too_many(&all, &referenced, now);
            found.iter().map(|b| b.name_any()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["b6", "b5", "b3", "b1"]);
        assert_eq!(names(&["b6", "b1"]), ["b5", "b3"]);
    }
}
