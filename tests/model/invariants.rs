//! The invariants, on what really happened: what the world was like when an operator read it, what
//! people really voted for, when things were really held. Nothing of this asks the gates.

use std::collections::BTreeSet;

use reprieve::api::{
    DeletionPolicySpec, EntityPhase, Environment, PlanEntity, RequestState, names,
};
use reprieve::deletion::SiteFacts;
use reprieve::deletion::decide::Effect;
use reprieve::deletion::digest::digest;
use reprieve::deletion::live::Live;
use reprieve::deletion::purge::Step;

use crate::look::{Look, index};
use crate::objects::{SITES, Source, TICK, at, spec};
use crate::pool::Id;
use crate::state::{NEVER, State, Work, as_people_have_it};
use crate::world::Model;

pub const I1: u16 = 1;
pub const I2: u16 = 1 << 1;
pub const I3: u16 = 1 << 2;
pub const I4: u16 = 1 << 3;
pub const I5: u16 = 1 << 4;
pub const I6: u16 = 1 << 5;
pub const I7: u16 = 1 << 6;
pub const I8: u16 = 1 << 7;
pub const I12: u16 = 1 << 8;

/// Their names, in the order of their bits.
pub const NAMES: [&str; 9] = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I12"];

/// The names of these.
pub fn names_of(broken: u16) -> Vec<&'static str> {
    let bits = NAMES.iter().enumerate().filter(|(i, _)| broken & (1 << i) != 0);
    bits.map(|(_, name)| *name).collect()
}

impl Model {
    /// What a first DELETE of this decision would break, by what was so when it was read.
    pub fn basis(&self, state: &State, of: usize, look: &Look, work: &Work) -> u16 {
        let request = self.request(look.request);
        let status = request.status.clone().unwrap_or_default();
        let plan = status.plan.unwrap_or_default();
        let Some(head) = plan.head.clone() else { return I1 | I2 };
        let mut bad = 0;
        let mut check = |invariant: u16, holds: bool| bad |= if holds { 0 } else { invariant };

        // I1: every object is in the plan, and the digest is that plan's.
        let worked_out = digest(&head, &plan.entities);
        check(I1, plan.digest.as_ref() == Some(&worked_out));
        let uids: BTreeSet<&str> = plan.entities.iter().flat_map(uids).collect();
        for effect in &work.decision.effects {
            if let Effect::Purge(_, step) = effect
                && step.is_delete()
            {
                check(I1, uids.contains(uid(step)));
            }
        }
        let next = crate::look::next(&plan.entities);
        let Some(entity) = next else { return bad | I1 };
        let site = index(&entity.name);
        if state.ghost.begun[site] != NEVER {
            return bad;
        }

        // The policy that people have made, as it was planned and as it is.
        let now = spec(look.env.policy, &self.scope.policy);
        let policies = [head.policy.clone(), now.unwrap_or_else(DeletionPolicySpec::built_in)];
        let most = |of: fn(&DeletionPolicySpec) -> i64| policies.iter().map(of).max().unwrap_or(0);
        let least = |of: fn(&DeletionPolicySpec) -> i64| policies.iter().map(of).min().unwrap_or(0);

        // I2: distinct people, none of them Rita who asked, really voted for this digest.
        let votes = self.votes(state.ghost.votes);
        let people = votes.iter().filter(|(who, what)| *who != "rita" && *what == worked_out);
        check(I2, people.count() as i64 >= most(|p| p.quorum.approvals));

        // I3: all of it was really held for so long.
        let window = head.retention_seconds.max(most(|p| p.retention.minimum_seconds));
        let held = i64::from(state.ghost.held[of]) * TICK;
        let passed = look.env_time(state) - held;
        check(I3, state.ghost.held[of] != NEVER && passed >= window);

        // I4: the source was alive, and nothing fired.
        let asks = policies.iter().any(|p| p.alerts.is_some());
        check(I4, !asks || look.env.source == Source::Clear);
        let bare =
            |p: &DeletionPolicySpec| p.environment == Environment::Production && p.alerts.is_none();
        check(I12, !policies.iter().any(bare));

        // I5: with this one, no more of all requests went in the span, and of this one.
        let span = least(|p| -p.blast_radius.rolling.window_seconds).abs();
        let recent = |begun: &&u8| {
            **begun != NEVER && look.env_time(state) - i64::from(**begun) * TICK < span
        };
        let went = state.ghost.begun.iter().filter(recent).count() as i64;
        check(I5, went < least(|p| p.blast_radius.rolling.max_entities));
        let planned = plan.entities.len() as i64;
        check(
            I5,
            planned <= least(|p| p.blast_radius.max_entities.min(p.blast_radius.hard_max_entities)),
        );

        // I6: a verified backup shows what lives, and outlives the purge; every disk is kept.
        let live = look.sites[site].map(|id| self.site(id));
        check(
            I6,
            live.as_deref().is_some_and(|live| {
                let keep = look.env_time(state) + most(|p| p.backup.keep_seconds) - 60;
                self.is_safe(live, look.env.content[site], keep)
            }),
        );
        // I12: the store is there, and has one.
        check(I12, look.env.store);
        check(I12, live.as_deref().is_some_and(|l| l.backups.iter().any(|b| b.is_verified())));

        // I7: nobody had asked for it to end.
        let rejected = |k: &String| k.starts_with(names::REJECTION_PREFIX);
        let annotations = request.metadata.annotations.iter().flatten();
        let ends = request.spec.cancel
            || request.metadata.deletion_timestamp.is_some()
            || annotations.map(|(k, _)| k).any(rejected);
        check(I7, !ends);
        bad
    }

    fn is_safe(&self, live: &SiteFacts, content: u8, keep: i64) -> bool {
        live.backups.last().is_some_and(|b| {
            b.is_verified()
                && b.status.as_ref().and_then(|s| s.digest.as_deref())
                    == Some(&format!("c{content}"))
                && b.spec.keep_until_time.is_some_and(|until| until >= at(keep))
        }) && Live::Site(live).unretained().is_none()
    }

    /// What the end of a state breaks, when everything is over and nothing more goes wrong.
    pub fn judge_end(&self, before: &State, end: &State) -> u16 {
        let mut broken = end.ghost.broken & I8;
        for of in 0..self.scope.requests.len() {
            let Some(id) = end.requests[of] else { continue };
            let request = self.request(id);
            let status = request.status.clone().unwrap_or_default();
            let state = status.state.unwrap_or(RequestState::Planning);
            if !state.is_final()
                || request.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty())
            {
                broken |= I8;
            }
            let entities = status.plan.map_or(vec![], |plan| plan.entities);
            for entity in &entities {
                let site = index(&entity.name);
                let own = entity.uid.ends_with(&format!("-{}", end.ghost.age[site]));
                let begun = own && end.ghost.begun[site] != NEVER;
                let recorded = entity.phase == EntityPhase::Purged;
                let nothing = matches!(state, RequestState::Refused | RequestState::Expired);
                let all = state == RequestState::Completed;
                if own && begun != recorded || begun && nothing || own && all && !recorded {
                    broken |= I8;
                }
            }
        }
        for site in 0..SITES.len() {
            let begun = end.ghost.begun[site] != NEVER;
            match end.sites[site] {
                Some(_) if begun => broken |= I8,
                Some(live) if self.as_people_have_it(live) != end.ghost.wanted[site] => {
                    broken |= I7;
                }
                Some(_) => {}
                None if before.sites[site].is_some() && !begun => broken |= I1,
                None => {}
            }
            // I7: what nobody had begun with when a cancel was there stays.
            let of = self.scope.requests.iter().position(|sites| sites.contains(&site));
            let cancelled = of.and_then(|of| before.requests[of]).is_some_and(|id| {
                let request = self.request(id);
                request.spec.cancel || request.metadata.deletion_timestamp.is_some()
            });
            if cancelled && begun && before.ghost.begun[site] == NEVER {
                broken |= I7;
            }
        }
        broken
    }
}

impl Model {
    /// A Site as its people have it, by number.
    fn as_people_have_it(&self, id: Id) -> Id {
        if let Some(known) = self.as_people.borrow().get(&id) {
            return *known;
        }
        let new = self.put_site(as_people_have_it(&self.site(id)));
        self.as_people.borrow_mut().insert(id, new);
        new
    }
}

impl Look {
    /// The true time, in seconds, when this was read.
    fn env_time(&self, state: &State) -> i64 {
        state.env.seconds()
    }
}

fn uids(entity: &PlanEntity) -> impl Iterator<Item = &str> {
    let namespaces = entity.namespaces.iter().map(|n| n.uid.as_str());
    let apps = entity.apps.iter().map(|a| a.uid.as_str());
    namespaces.chain(apps).chain([entity.uid.as_str()])
}

fn uid(step: &Step) -> &str {
    match step {
        Step::DeleteApp(_, e)
        | Step::FinishApp(_, e, _)
        | Step::DeleteNamespace(e)
        | Step::DeleteSite(e)
        | Step::FinishSite(e, _) => &e.uid,
        _ => "",
    }
}
