//! A look of an operator: what it reads, what the code of the operator decides on that, and the
//! writes that it makes of it, in the order of `src/deletion/act.rs`.

use kube::{Resource, ResourceExt};
use reprieve::api::{
    Deletion, DeletionRequest, EntityPhase, PlanEntity, RequestState, Site, TargetKind, names,
};
use reprieve::cluster::{Exact, GuardState, Holder};
use reprieve::deletion::decide::{Effect, decide};
use reprieve::deletion::purge::Step;
use reprieve::deletion::rolling::{Ledger, RollingFacts};
use reprieve::deletion::{Executed, Facts, OpenRequest, SiteFacts};

use crate::mutants::fake;
use crate::objects::{answer, at, plain, policies};
use crate::pool::Id;
use crate::state::{Env, Work, Write, deletes};
use crate::world::Model;

/// What a look reads, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    /// Which request.
    pub of: usize,
    /// The request and the Sites, as they were read.
    pub request: Id,
    pub sites: [Option<Id>; 2],
    /// The others, for the scope.
    pub others: [Option<Id>; 2],
    /// What the gates ask, as it was read.
    pub env: Env,
    /// When the source of alerts was asked, by the operator's clock.
    pub asked: i64,
    /// The same by a clock that nobody can set; the source's own is right.
    pub asked_at: i64,
    /// The API server's clock.
    pub api_time: i64,
    /// The ledger.
    pub ledger: Option<Id>,
    /// The operator's clock when it decides.
    pub now: i64,
}

impl Model {
    /// What the operator does after this look.
    pub fn work(&self, mut look: Look) -> Id {
        // What is not read makes no difference.
        let request = self.request(look.request);
        if request.status.as_ref().and_then(|s| s.state) != Some(RequestState::Purging) {
            look.env.content = [0; 2];
            look.env.store = true;
            look.ledger = None;
        }
        look.env.time = 0;
        if let Some(id) = self.decided.borrow().get(&look) {
            return *id;
        }
        let mut now = look.now;
        let mut facts = self.facts(&look);
        if let Some(mutant) = self.scope.mutant {
            fake(mutant, &mut facts, &mut now);
        }
        let mut decision = decide(&facts, at(now));
        decision.status = plain(&decision.status);
        decision.notes.clear();
        let writes = self.writes(
            &facts,
            &decision.effects,
            request.status.as_ref() != Some(&decision.status),
        );
        let deletes = decision.effects.iter().any(deletes);
        let id = self.works.borrow_mut().put(Work { writes, decision, deletes });
        self.decided.borrow_mut().insert(look, id);
        id
    }

    /// What `src/deletion/observe.rs` would read.
    pub fn facts(&self, look: &Look) -> Facts {
        let request = (*self.request(look.request)).clone();
        let status = request.status.clone().unwrap_or_default();
        let state = status.state.unwrap_or(RequestState::Planning);
        let open = matches!(state, RequestState::Planning | RequestState::AwaitingApproval);
        let rejected = request.annotations().keys().any(|k| k.starts_with(names::REJECTION_PREFIX));
        let ends = open
            && (request.spec.cancel || request.meta().deletion_timestamp.is_some() || rejected);
        let env = look.env;
        let mut facts = Facts {
            request,
            holders: Default::default(),
            sites: Default::default(),
            apps: Default::default(),
            policies: Default::default(),
            others: vec![],
            guard: GuardState::default(),
            alerts: vec![],
            rolling: RollingFacts::default(),
            last_drill: None,
            api_time: at(look.api_time),
            executed: Executed::No,
        };
        if state.is_final() || ends {
            return facts;
        }
        let live = look.sites.iter().flatten().map(|id| (*self.site(*id)).clone());
        facts.sites = live.map(|site| (site.site.name_any(), site)).collect();
        let ids = facts.request.spec.target.ids.clone();
        let planned = status.plan.as_ref().map_or(&[][..], |plan| &plan.entities);
        if open {
            facts.sites.retain(|_, s| ids.contains(&s.site.spec.id));
            for site in facts.sites.values_mut() {
                site.backups.clear();
                let holder = Holder {
                    kind: TargetKind::Site,
                    name: site.site.name_any(),
                    namespace: None,
                    uid: site.uid(),
                };
                facts.holders.entry(site.site.spec.id.clone()).or_default().push(holder);
            }
            facts.others = self.others(look);
        } else {
            facts.sites.retain(|name, _| planned.iter().any(|e| e.name == *name));
        }
        facts.policies = policies(env.policy, &self.scope.policy);
        facts.guard = GuardState {
            problems: if env.guard { vec![] } else { vec!["it is not installed".to_owned()] },
            fingerprint: format!("g{}", env.generation),
        };
        if state == RequestState::Purging
            && let Some(next) = next(planned)
            && let Some(site) = facts.sites.get_mut(&next.name)
        {
            read_digest(site, env.content[index(&next.name)]);
        }
        // The store's ledger is asked of what comes next, while none of it is gone.
        if state == RequestState::Purging
            && !env.store
            && let Some(next) = next(planned)
            && facts.live(next).is_some_and(|live| !live.has_started(next))
        {
            facts.executed = Executed::Unknown("the store is away".to_owned());
        }
        if let Some(head) = status.plan.as_ref().and_then(|p| p.head.as_ref()) {
            let of_now = facts.policies[names::DEFAULT_POLICY].spec.alerts.as_ref();
            let alerts = head.policy.alerts.as_ref().or(of_now);
            facts.alerts = answer(env.source, alerts, look.asked, look.asked_at);
        }
        if state == RequestState::Purging {
            facts.rolling = RollingFacts {
                ledger: match look.ledger {
                    Some(id) => Ledger::Read(ledger_exact(), (*self.ledger(id)).clone()),
                    None => Ledger::Missing(None),
                },
                fleet: 10,
            };
        }
        facts
    }

    fn others(&self, look: &Look) -> Vec<OpenRequest> {
        let other = look.others[1 - look.of].map(|id| self.request(id));
        let open = other.filter(|r| {
            !r.status.as_ref().and_then(|s| s.state).is_some_and(RequestState::is_final)
        });
        let open = open.map(|r| OpenRequest {
            name: r.name_any(),
            uid: r.uid().unwrap_or_default(),
            created: r.meta().creation_timestamp.as_ref().map(Into::into),
            target: r.spec.target.clone(),
        });
        open.into_iter().collect()
    }

    /// The writes of these effects, in order, and then that of the status.
    fn writes(&self, facts: &Facts, effects: &[Effect], status: bool) -> Vec<Write> {
        let mut writes = vec![];
        for effect in effects {
            match effect {
                Effect::Release(entity) => {
                    let live = facts.sites.get(&entity.exact.name);
                    if let Some(live) = live.filter(|s| s.uid() == entity.exact.uid) {
                        writes.extend(release(live, &facts.request_uid()));
                    }
                }
                Effect::Hold(entity, _) => {
                    if let Some(live) = facts.sites.get(&entity.exact.name) {
                        writes.extend(unmark_parts(live, &facts.request_uid()));
                    }
                    writes.push(Write::Effect(effect.clone()));
                }
                Effect::CreateBackup { site, .. } if !facts.sites.contains_key(site) => {}
                Effect::Purge(_, Step::DeleteSite(_) | Step::FinishSite(..)) => {
                    writes.extend([Write::Note, Write::Effect(effect.clone())]);
                }
                effect => writes.push(Write::Effect(effect.clone())),
            }
        }
        if status && !effects.contains(&Effect::RemoveFinalizer) {
            writes.push(Write::Status);
        }
        writes
    }
}

/// The writes of a release, as `act::release` has them.
fn release(live: &SiteFacts, request_uid: &str) -> Vec<Write> {
    let mut writes = unmark_parts(live, request_uid);
    if live.deletion_by(request_uid).is_some() {
        writes.push(Write::Unmark(2, Exact::of::<Site>(&live.site)));
    }
    writes
}

/// The marks off Apps and namespaces, as `act::unmark_parts` has them.
fn unmark_parts(live: &SiteFacts, request_uid: &str) -> Vec<Write> {
    let of = |d: Option<&Deletion>| d.is_some_and(|d| d.request_uid == request_uid);
    let apps = live.apps.iter().filter(|a| of(a.status.as_ref().and_then(|s| s.deletion.as_ref())));
    let mut writes: Vec<Write> = apps.map(|a| Write::Unmark(0, Exact::of(a))).collect();
    let marked = |n: &&k8s_openapi::api::core::v1::Namespace| {
        n.annotations().get(names::ANNOTATION_PURGE).is_some_and(|u| u == request_uid)
    };
    let namespaces = live.namespaces.iter().filter(marked);
    writes.extend(namespaces.map(|n| Write::Unmark(1, Exact::of(n))));
    writes
}

/// The digest over what lives, as `observe::read_digest` reads it.
fn read_digest(site: &mut SiteFacts, content: u8) {
    let verified = site.backups.last().is_some_and(reprieve::api::Backup::is_verified);
    let whole = site.namespaces.iter().all(|n| n.metadata.deletion_timestamp.is_none())
        && site
            .site
            .namespace_names()
            .iter()
            .all(|name| site.namespaces.iter().any(|n| n.name_any() == *name));
    if verified && whole && !site.namespaces.is_empty() {
        site.live_digest = Some(format!("c{content}"));
    }
}

/// The entity that is purged now, or next: as `observe::next_entity` has it.
pub fn next(entities: &[PlanEntity]) -> Option<&PlanEntity> {
    let done = |e: &&PlanEntity| matches!(e.phase, EntityPhase::Purged | EntityPhase::Released);
    let purging = entities.iter().find(|e| e.phase == EntityPhase::Purging);
    purging.or_else(|| entities.iter().find(|e| !done(e)))
}

/// The ledger of purges, as an object.
pub fn ledger_exact() -> Exact {
    Exact {
        name: names::LEDGER.to_owned(),
        uid: "ledger".to_owned(),
        resource_version: "1".to_owned(),
    }
}

/// The number of a Site by its name.
pub fn index(name: &str) -> usize {
    crate::objects::SITES.iter().position(|s| *s == name).expect("a Site of the model")
}

/// An annotation of a request.
pub fn annotation<'a>(request: &'a DeletionRequest, key: &str) -> Option<&'a str> {
    request.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
