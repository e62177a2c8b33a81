//! Each gate taken out, one at a time: what an operator reads is faked so that the gate always
//! opens, or the API server does not check what the gate is made of. The code of the operator stays
//! as it is. That the model then finds a broken invariant proves that it would have noticed.

use std::sync::Arc;

use reprieve::api::{
    Backup, ConditionStatus, ConditionType, Conditions, Environment, Reason, Time, names,
};
use reprieve::cluster::former::RETAIN;
use reprieve::deletion::alerts::{Alert, Answer};
use reprieve::deletion::rolling::Ledger;
use reprieve::deletion::{Executed, Facts};
use serde_json::json;

use crate::objects::{self, at};
use crate::state::values;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The API server checks neither UID nor resourceVersion.
    NoPreconditions,
    /// What bears the name of a planned Site is taken for it.
    KnownByName,
    /// Ann and Bob are always taken to have approved.
    ApprovalsMadeUp,
    /// A change of the guard is not seen.
    GuardUnwatched,
    /// Both clocks are an hour ahead once the window has begun.
    WindowSkipped,
    /// The API server's clock is not asked: the operator's own stands for it.
    OneClock,
    /// No alert is heard.
    AlertsUnheard,
    /// A source that does not answer is taken for one that is alive.
    SourceBelieved,
    /// The write of the ledger is not a compare and swap.
    LedgerOverwritten,
    /// Of the ledger only the request's own entries are seen.
    LedgerOwnOnly,
    /// The policy allows more than it does.
    LimitUnseen,
    /// A backup is taken for verified before it is.
    BackupBelieved,
    /// The live Site is not compared with its backup.
    Uncompared,
    /// A disk is taken for kept.
    DiskBelieved,
    /// A backup is taken for one that is kept for ever.
    KeptForEver,
    /// Cancel, DELETE and rejections are not seen.
    CancelUnseen,
    /// What a field was before the hold is not written down.
    RecordLost,
    /// The status is written whatever it was decided on.
    StatusOverwritten,
    /// The store is not asked for before the last DELETE, nor are backups read back.
    StoreBelieved,
    /// Production is taken for Development.
    Development,
}

/// What an operator reads instead of what is so.
pub fn fake(mutant: Mutant, facts: &mut Facts, now: &mut i64) {
    let status = facts.request.status.clone().unwrap_or_default();
    match mutant {
        Mutant::KnownByName => {
            let plan = facts.request.status.as_mut().and_then(|s| s.plan.as_mut());
            for entity in plan.into_iter().flat_map(|p| &mut p.entities) {
                let Some(live) = facts.sites.get(&entity.name) else { continue };
                let now = live.planned();
                (entity.uid, entity.apps, entity.namespaces) = (now.uid, now.apps, now.namespaces);
            }
        }
        Mutant::ApprovalsMadeUp => {
            if let Some(digest) = status.plan.and_then(|p| p.digest) {
                let all = facts.request.metadata.annotations.get_or_insert_default();
                for user in ["ann", "bob"] {
                    let key = format!("{}{user}", names::APPROVAL_PREFIX);
                    all.insert(key, format!("{digest} {user}"));
                }
            }
        }
        Mutant::GuardUnwatched => {
            facts.guard.problems.clear();
            facts.guard.fingerprint = "g0".to_owned();
        }
        Mutant::WindowSkipped => {
            if status.retention.is_some() {
                *now += 3600;
                facts.api_time = facts.api_time.plus_seconds(3600);
                answers(facts, |asked, answered, all| {
                    *asked = asked.plus_seconds(3600);
                    *answered = answered.map(|t| t.plus_seconds(3600));
                    all.iter_mut().for_each(|a| a.updated = a.updated.plus_seconds(3600));
                });
            }
        }
        Mutant::OneClock => {
            facts.api_time = at(*now);
            let now = at(*now);
            answers(facts, |asked, answered, all| {
                *asked = now;
                *answered = Some(now);
                all.iter_mut().for_each(|a| a.updated = now);
            });
        }
        Mutant::AlertsUnheard => {
            answers(facts, |_, _, all| all.retain(|a| a.labels["alertname"] == "Watchdog"));
        }
        Mutant::SourceBelieved => {
            for (_, answer) in &mut facts.alerts {
                if matches!(&**answer, Answer::Down(_)) {
                    let api_time = facts.api_time;
                    let alert = Alert {
                        labels: [("alertname".to_owned(), "Watchdog".to_owned())].into(),
                        updated: api_time,
                    };
                    let all = vec![alert];
                    let answered = Some(api_time);
                    *answer = Arc::new(Answer::Alerts { all, asked: at(*now), answered });
                }
            }
            answers(facts, |_, answered, all| {
                all.iter_mut().for_each(|a| a.updated = answered.unwrap_or(a.updated));
            });
        }
        Mutant::LedgerOwnOnly => {
            let uid = facts.request_uid();
            if let Ledger::Read(_, entries) = &mut facts.rolling.ledger {
                entries.retain(|e| e.request_uid == uid);
            }
        }
        Mutant::LimitUnseen => {
            for policy in facts.policies.values_mut() {
                policy.spec.blast_radius.max_entities = 100;
                policy.spec.blast_radius.rolling.max_entities = 100;
            }
        }
        Mutant::BackupBelieved | Mutant::StoreBelieved => {
            facts.executed = Executed::No;
            let done = |b: &mut Backup| {
                let status = b.status.get_or_insert_default();
                status.location = Some("there".to_owned());
                status.digest = Some("c0".to_owned());
                let type_ = ConditionType::Verified;
                let holds = ConditionStatus::True;
                status.conditions.set(type_, holds, Reason::Verified, "", None, at(0));
            };
            for site in facts.sites.values_mut() {
                site.backups.iter_mut().for_each(done);
                site.live_digest = Some("c0".to_owned());
            }
        }
        Mutant::Uncompared => {
            for site in facts.sites.values_mut().filter(|s| s.live_digest.is_some()) {
                let backup = site.backups.last().and_then(|b| b.status.as_ref());
                site.live_digest = backup.and_then(|s| s.digest.clone());
            }
        }
        Mutant::DiskBelieved => {
            let uid = facts.request_uid();
            for site in facts.sites.values_mut() {
                for value in values(site).filter(|v| v["kind"] == "PersistentVolume") {
                    let record = json!({
                        "uid": value["metadata"]["uid"], "requests": [uid], "reclaimPolicy": RETAIN,
                    });
                    let with = json!({
                        "metadata": {
                            "labels": { (names::LABEL_KEPT): "x" },
                            "annotations": { (names::ANNOTATION_FORMER): record.to_string() },
                        },
                        "spec": { "persistentVolumeReclaimPolicy": RETAIN },
                    });
                    objects::patch(value, &with);
                }
            }
        }
        Mutant::KeptForEver => {
            let far = at(1_000_000_000);
            let all = facts.sites.values_mut().flat_map(|s| &mut s.backups);
            all.for_each(|b| b.spec.keep_until_time = Some(far));
        }
        Mutant::CancelUnseen => {
            facts.request.spec.cancel = false;
            facts.request.metadata.deletion_timestamp = None;
            let all = facts.request.metadata.annotations.get_or_insert_default();
            all.retain(|key, _| !key.starts_with(names::REJECTION_PREFIX));
        }
        Mutant::Development => {
            for policy in facts.policies.values_mut() {
                policy.spec.environment = Environment::Development;
            }
            let plan = facts.request.status.as_mut().and_then(|s| s.plan.as_mut());
            if let Some(head) = plan.and_then(|p| p.head.as_mut()) {
                head.policy.environment = Environment::Development;
            }
        }
        Mutant::NoPreconditions
        | Mutant::LedgerOverwritten
        | Mutant::RecordLost
        | Mutant::StatusOverwritten => {}
    }
}

/// Changes what the sources answered.
fn answers(
    facts: &mut Facts,
    mut change: impl FnMut(&mut Time, &mut Option<Time>, &mut Vec<Alert>),
) {
    for (_, answer) in &mut facts.alerts {
        let mut new = (**answer).clone();
        if let Answer::Alerts { all, asked, answered } = &mut new {
            change(asked, answered, all);
        }
        *answer = Arc::new(new);
    }
}
