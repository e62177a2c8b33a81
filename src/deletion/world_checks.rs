//! What is checked in the small world: the invariants, from what really happened.

use kube::ResourceExt;

use super::fixtures::at;
use super::held::{Claim, Held};
use super::live::Live;
use super::observe::Facts;
use super::purge::Step;
use super::rolling::Ledger;
use super::world::World;
use crate::api::{ConditionType, Conditions, EntityPhase, names};

impl World {
    /// The invariants, at a step that destroys: from what really happened.
    pub fn check_delete(&self, facts: &Facts, site: &str, step: &Step) {
        let status = self.facts.request.status.as_ref().expect("a status");
        let plan = status.plan.as_ref().expect("a plan");
        let entity = plan.entities.iter().find(|e| e.name == site).expect("I1: in the plan");
        let live = &facts.sites[site];
        assert_eq!(live.uid(), entity.uid, "I1: that very Site");
        let planned = match step {
            Step::DeleteApp(_, e) | Step::FinishApp(_, e, _) => {
                entity.apps.iter().any(|a| a.uid == e.uid)
            }
            Step::DeleteNamespace(e) => entity.namespaces.iter().any(|n| n.uid == e.uid),
            Step::DeleteSite(e) | Step::FinishSite(e, _) => e.uid == entity.uid,
            mark => panic!("{mark:?} destroys nothing"),
        };
        assert!(planned, "I1: {step:?} is in the plan");
        assert_eq!(entity.phase, EntityPhase::Purging, "recorded before anything goes");
        assert!(Live::Site(live).unretained().is_none(), "I6: no disk goes");
        let wave = status.wave.as_ref().expect("a wave");
        assert_eq!(entity.wave, Some(wave.number), "it is its wave's turn");
        if self.deletes.iter().any(|(of, _)| of == site) {
            return;
        }
        // The first DELETE of this entity.
        assert!(!facts.request.spec.cancel, "I7: cancelled");
        assert!(facts.request.metadata.deletion_timestamp.is_none(), "I7: the request was deleted");
        assert!(facts.guard.problems.is_empty(), "the guard is in force");
        let head = plan.head.as_ref().unwrap();
        let digest = super::digest::digest(head, &plan.entities);
        let people = self.votes.iter().filter(|(_, of)| *of == digest).count();
        let policy_now = self.policies.get("default").map(|p| p.spec.quorum.approvals);
        let needed = head.policy.quorum.approvals.max(policy_now.unwrap_or(2));
        assert!(people as i64 >= needed, "I2: {people} of {needed} votes");
        let Ledger::Read(_, entries) = &self.facts.rolling.ledger else { panic!("I5: no ledger") };
        let place = entries.iter().find(|e| e.entity_uid == entity.uid);
        let place = place.expect("I5: a place in the ledger");
        assert!((0..=180).contains(&at(self.time).seconds_since(place.time)), "I5: a fresh one");
        let held = self.time - self.all_held.expect("I3: all were held");
        assert!(held >= head.retention_seconds, "I3: {held} s of {}", head.retention_seconds);
        let backup = live.backups.last().expect("I6: a backup");
        let made = backup.status.as_ref().expect("I6: a verified one");
        assert!(made.conditions.is_true(ConditionType::Verified), "I6");
        assert_eq!(made.digest.as_ref(), self.content.get(site), "I6: shows what lives");
        let keep = at(self.time + head.policy.backup.keep_seconds - 120);
        assert!(backup.spec.keep_until_time.unwrap() >= keep, "I6: outlives the purge");
    }

    /// Whether a Site bears no mark and is as it was.
    pub fn is_untouched(&self, site: &str) -> bool {
        let Some(live) = self.facts.sites.get(site) else { return false };
        let record =
            |h: &&Held| !h.value["metadata"]["annotations"]["reprieve.dev/former"].is_null();
        let volumes = live.claims.iter().filter_map(Claim::volume);
        let wanted = self.replicas.get(site).copied().unwrap_or(2);
        live.deletion().is_none()
            && live.held.iter().chain(volumes).find(record).is_none()
            && live.held[0].value["spec"]["replicas"] == wanted
            && live.claims.iter().filter_map(Claim::volume).all(|v| {
                v.reclaim_policy() == Some("Delete")
                    && v.value["metadata"]["labels"]["reprieve.dev/kept"].is_null()
            })
            && live.site.metadata.deletion_timestamp.is_none()
            && live.apps.iter().all(|a| {
                a.metadata.deletion_timestamp.is_none()
                    && a.status.as_ref().is_none_or(|s| s.deletion.is_none())
            })
            && live.namespaces.iter().all(|n| {
                n.metadata.deletion_timestamp.is_none()
                    && !n.annotations().contains_key(names::ANNOTATION_PURGE)
            })
    }
}
