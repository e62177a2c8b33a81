//! A small world in which decisions are carried out, in memory: the API server's preconditions,
//! its namespace controller and the room of Backups, as far as this room sees them. Whatever is
//! deleted in it is checked at once against what really happened, not against what the status says.

use std::collections::{BTreeMap, BTreeSet};

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::decide::{Decision, Effect, decide};
use super::fixtures::{annotate, approve, at, facts, ledger};
use super::observe::{Facts, PolicyFacts, SiteFacts, next_entity};
use super::purge::Step;
use super::rolling::{self, Ledger};
use crate::api::{
    Backup, BackupPurpose, BackupSpec, BackupStatus, ConditionStatus, ConditionType, Conditions,
    DeletionPhase, EntityPhase, RequestState, SiteRef, Time, names,
};
use crate::cluster::{Exact, GuardState};

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    Never,
    /// Before this effect.
    BeforeEffect(usize),
    /// When every effect was carried out, before the status is written.
    BeforeStatus,
}

#[derive(Clone)]
pub struct World {
    pub facts: Facts,
    /// The policies that exist.
    pub policies: BTreeMap<String, PolicyFacts>,
    /// Seconds by a clock that nobody can change; the API server's is right.
    pub time: i64,
    /// By how much the operator's clock is wrong.
    pub skew: i64,
    /// What each Site holds, as a digest.
    pub content: BTreeMap<String, String>,
    /// Whether the store takes backups.
    pub store_works: bool,
    /// Votes that were really given: by whom, and of what.
    pub votes: BTreeSet<(String, String)>,
    /// When all were first held, with a verified backup.
    pub all_held: Option<i64>,
    /// Steps that destroy: of which entity, and what.
    pub deletes: Vec<(String, String)>,
    pub gone: bool,
    pub version: u64,
}

fn exact<K: Resource>(object: &K, exact: &Exact) -> Result<(), String> {
    let same = Exact::of(object) == *exact;
    same.then_some(()).ok_or_else(|| format!("conflict: {}", exact.name))
}

impl World {
    pub fn new(sites: &[&str]) -> Self {
        let mut facts = facts(sites);
        facts.request.metadata.finalizers = None;
        Self {
            policies: facts.policies.clone(),
            content: sites.iter().map(|s| ((*s).to_owned(), "c1".to_owned())).collect(),
            facts,
            time: 0,
            skew: 0,
            store_works: true,
            votes: BTreeSet::new(),
            all_held: None,
            deletes: vec![],
            gone: false,
            version: 1,
        }
    }

    pub fn now(&self) -> Time {
        at(self.time + self.skew)
    }

    pub fn state(&self) -> RequestState {
        let state = self.facts.request.status.as_ref().and_then(|s| s.state);
        state.unwrap_or(RequestState::Planning)
    }

    pub fn phase(&self, site: &str) -> EntityPhase {
        let plan = self.facts.request.status.as_ref().unwrap().plan.as_ref().unwrap();
        plan.entities.iter().find(|e| e.name == site).unwrap().phase
    }

    fn touch(&mut self, touch: impl FnOnce(&mut Facts) -> Option<&mut Meta>) {
        self.version += 1;
        let version = self.version.to_string();
        if let Some(meta) = touch(&mut self.facts) {
            meta.resource_version = Some(version);
        }
    }

    /// What `observe` would read now.
    pub fn observe(&self) -> Facts {
        let mut facts = self.facts.clone();
        facts.api_time = at(self.time);
        let named: BTreeSet<String> =
            facts.sites.values().map(|s| s.site.spec.policy_ref.name.clone()).collect();
        facts.policies = self.policies.clone();
        facts.policies.retain(|name, _| named.contains(name));
        let plan = facts.request.status.as_ref().and_then(|s| s.plan.as_ref());
        let next = plan.and_then(|p| next_entity(&p.entities)).map(|e| e.name.clone());
        if self.state() == RequestState::Purging
            && let Some(site) = next.and_then(|name| facts.sites.get_mut(&name))
            && site.namespaces.iter().all(|n| n.metadata.deletion_timestamp.is_none())
            && !site.namespaces.is_empty()
        {
            site.live_digest = Some(self.content[&site.site.name_any()].clone());
        }
        facts
    }

    /// A person approves the digest of the plan as it is.
    pub fn vote(&mut self, user: &str) {
        let Some(digest) = self.digest() else { return };
        if self.facts.guard.problems.is_empty() && user != "rita" {
            approve(&mut self.facts, user, &digest);
            self.votes.insert((user.to_owned(), digest));
            self.touch(|f| Some(&mut f.request.metadata));
        }
    }

    /// Somebody writes an approval in another's name, past the guard.
    pub fn forge(&mut self, user: &str, digest: &str) {
        self.facts.request.annotations_mut().insert(
            format!("{}forged-{}", names::APPROVAL_PREFIX, self.version),
            format!("{digest} {user}"),
        );
        self.touch(|f| Some(&mut f.request.metadata));
    }

    pub fn digest(&self) -> Option<String> {
        self.facts.request.status.as_ref()?.plan.as_ref()?.digest.clone()
    }

    pub fn set_guard(&mut self, in_force: bool, generation: u64) {
        self.facts.guard = GuardState {
            problems: if in_force { vec![] } else { vec!["not installed".into()] },
            fingerprint: format!("g{generation}"),
        };
    }

    pub fn cancel(&mut self) {
        self.facts.request.spec.cancel = true;
        self.touch(|f| Some(&mut f.request.metadata));
    }

    pub fn reject(&mut self) {
        annotate(&mut self.facts, "rejection.reprieve.dev/eve", "sha256:any eve");
        self.touch(|f| Some(&mut f.request.metadata));
    }

    /// One look of the operator, which may die in it.
    pub fn step(&mut self, crash: Crash) -> Decision {
        let facts = self.observe();
        let decision = decide(&facts, self.now());
        self.carry_out(&facts, &decision, crash);
        decision
    }

    /// Carries a decision out that was made on these facts, now or later.
    pub fn carry_out(&mut self, facts: &Facts, decision: &Decision, crash: Crash) {
        let written = Exact::of(&self.facts.request);
        for (i, effect) in decision.effects.iter().enumerate() {
            if crash == Crash::BeforeEffect(i) {
                return;
            }
            if self.carry_out_one(facts, effect).is_err() {
                return;
            }
        }
        let finalizer = [Effect::AddFinalizer, Effect::RemoveFinalizer];
        if crash == Crash::BeforeStatus || decision.effects.iter().any(|e| finalizer.contains(e)) {
            return;
        }
        if written == Exact::of(&facts.request) && !self.gone {
            if self.facts.request.status.as_ref() != Some(&decision.status) {
                self.touch(|f| Some(&mut f.request.metadata));
            }
            self.facts.request.status = Some(decision.status.clone());
        }
    }

    fn carry_out_one(&mut self, facts: &Facts, effect: &Effect) -> Result<(), String> {
        match effect {
            Effect::AddFinalizer => {
                self.facts.request.finalizers_mut().push(names::FINALIZER.into());
                self.touch(|f| Some(&mut f.request.metadata));
            }
            Effect::RemoveFinalizer => {
                self.facts.request.metadata.finalizers = None;
                self.gone = self.facts.request.metadata.deletion_timestamp.is_some();
                self.touch(|f| Some(&mut f.request.metadata));
            }
            Effect::CreateBackup { name, site, keep_until } => {
                let Some(live) = facts.sites.get(site) else { return Ok(()) };
                let spec = BackupSpec {
                    site_ref: SiteRef { name: site.clone(), uid: Some(live.uid()), id: None },
                    purpose: BackupPurpose::BeforeDeletion,
                    keep_until_time: Some(*keep_until),
                };
                let Some(live) = self.facts.sites.get_mut(site) else { return Ok(()) };
                if live.backups.iter().all(|b| b.name_any() != *name) {
                    live.backups.push(Backup::new(name, spec));
                }
            }
            Effect::KeepLonger { backup, until } => {
                let all = self.facts.sites.values_mut().flat_map(|s| &mut s.backups);
                for found in all.filter(|b| b.name_any() == backup.name) {
                    assert!(Some(*until) >= found.spec.keep_until_time, "it may only grow");
                    found.spec.keep_until_time = Some(*until);
                }
            }
            Effect::Hold { site, deletion } => {
                let live = self.facts.sites.get_mut(&site.name).ok_or("gone")?;
                exact(&live.site, site)?;
                assert_eq!(deletion.phase, DeletionPhase::Held);
                let before = live.site.status.as_ref().and_then(|s| s.deletion.as_ref());
                assert!(before.is_none_or(|d| d.request_uid == "ru"), "another's mark is taken");
                live.site.status.get_or_insert_default().deletion = Some(deletion.clone());
                self.touch(|f| Some(&mut f.sites.get_mut(&site.name)?.site.metadata));
            }
            Effect::Release { site, uid } => self.release(facts, site, uid)?,
            Effect::Reserve { ledger: read, text } => {
                let there = match &self.facts.rolling.ledger {
                    Ledger::Read(exact, _) => Some(exact.clone()),
                    _ => None,
                };
                if *read != there {
                    return Err("conflict: the ledger".to_owned());
                }
                self.version += 1;
                let entries = rolling::read(text)?;
                self.facts.rolling.ledger = Ledger::Read(ledger(self.version), entries);
            }
            Effect::Purge(token, step) => {
                let name = facts.sites.values().find(|s| s.uid() == token.entity_uid());
                let name = name.map(|s| s.site.name_any()).expect("a token for what lives");
                if step.is_delete() {
                    // What the API server would refuse harms nobody.
                    self.clone().purge(&name, step)?;
                    self.check_delete(facts, &name, step);
                    self.deletes.push((name.clone(), format!("{step:?}")));
                }
                self.purge(&name, step)?;
            }
        }
        Ok(())
    }

    fn release(&mut self, facts: &Facts, site: &str, uid: &str) -> Result<(), String> {
        let Some(seen) = facts.sites.get(site).filter(|s| s.uid() == uid) else { return Ok(()) };
        let live = self.facts.sites.get_mut(site).ok_or("gone")?;
        let version = Some((self.version + 1).to_string());
        for app in &mut live.apps {
            if app.status.as_mut().and_then(|s| s.deletion.take()).is_some() {
                app.metadata.resource_version.clone_from(&version);
            }
        }
        for namespace in &mut live.namespaces {
            if namespace.annotations_mut().remove(names::ANNOTATION_PURGE).is_some() {
                namespace.metadata.resource_version.clone_from(&version);
            }
        }
        exact(&live.site, &Exact::of(&seen.site))?;
        if let Some(status) = &mut live.site.status {
            status.deletion = None;
        }
        self.touch(|f| Some(&mut f.sites.get_mut(site)?.site.metadata));
        Ok(())
    }

    fn purge(&mut self, site: &str, step: &Step) -> Result<(), String> {
        let time = serde_json::from_value(json!(at(self.time))).unwrap();
        let live = self.facts.sites.get_mut(site).ok_or("gone")?;
        let app = |live: &mut SiteFacts, ns: &str, wanted: &Exact| {
            let is = |a: &crate::api::App| {
                a.namespace().as_deref() == Some(ns) && a.name_any() == wanted.name
            };
            let i = live.apps.iter().position(is).ok_or("gone")?;
            exact(&live.apps[i], wanted).map(|()| i)
        };
        let namespace = |live: &mut SiteFacts, wanted: &Exact| {
            let i = live.namespaces.iter().position(|n| n.name_any() == wanted.name);
            let i = i.ok_or("gone")?;
            exact(&live.namespaces[i], wanted).map(|()| i)
        };
        let version = Some((self.version + 1).to_string());
        let purging = |d: Option<&crate::api::Deletion>| {
            assert!(d.is_some_and(|d| d.phase == DeletionPhase::Purging), "the guard denies it");
        };
        match step {
            Step::MarkSite(wanted, deletion) => {
                exact(&live.site, wanted)?;
                live.site.status.get_or_insert_default().deletion = Some(deletion.clone());
                live.site.metadata.resource_version = version;
            }
            Step::MarkApp(ns, wanted, deletion) => {
                let i = app(live, ns, wanted)?;
                live.apps[i].status.get_or_insert_default().deletion = Some(deletion.clone());
                live.apps[i].metadata.resource_version = version;
            }
            Step::DeleteApp(ns, wanted) => {
                let i = app(live, ns, wanted)?;
                purging(live.apps[i].status.as_ref().and_then(|s| s.deletion.as_ref()));
                live.apps[i].metadata.deletion_timestamp = Some(time);
                live.apps[i].metadata.resource_version = version;
            }
            Step::FinishApp(ns, wanted, left) => {
                let i = app(live, ns, wanted)?;
                assert!(live.apps[i].metadata.deletion_timestamp.is_some());
                if left.is_empty() {
                    live.apps.remove(i);
                }
            }
            Step::MarkNamespace(wanted, uid) => {
                let i = namespace(live, wanted)?;
                let annotations = live.namespaces[i].annotations_mut();
                annotations.insert(names::ANNOTATION_PURGE.into(), uid.clone());
                live.namespaces[i].metadata.resource_version = version;
            }
            Step::DeleteNamespace(wanted) => {
                let i = namespace(live, wanted)?;
                assert!(live.namespaces[i].annotations().contains_key(names::ANNOTATION_PURGE));
                live.namespaces[i].metadata.deletion_timestamp = Some(time);
                live.namespaces[i].metadata.resource_version = version;
            }
            Step::DeleteSite(wanted) => {
                exact(&live.site, wanted)?;
                purging(live.deletion());
                live.site.metadata.deletion_timestamp = Some(time);
                live.site.metadata.resource_version = version;
            }
            Step::FinishSite(wanted, left) => {
                exact(&live.site, wanted)?;
                assert!(live.site.metadata.deletion_timestamp.is_some());
                if left.is_empty() {
                    self.facts.sites.remove(site);
                }
            }
        }
        self.version += 1;
        Ok(())
    }

    /// The invariants, at a step that destroys: from what really happened.
    fn check_delete(&self, facts: &Facts, site: &str, step: &Step) {
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
        assert!(live.unretained().is_empty(), "I6: no disk goes");
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

    /// What others do meanwhile: the room of Backups, and the namespace controller.
    pub fn others_act(&mut self) {
        let now = self.now();
        for (name, site) in &mut self.facts.sites {
            site.namespaces.retain(|n| n.metadata.deletion_timestamp.is_none());
            // As the room of Backups has it: what is left of a purge is not the site.
            let purging = site.deletion().is_some_and(|d| d.phase == DeletionPhase::Purging);
            for backup in site.backups.iter_mut().filter(|b| b.status.is_none()) {
                if !self.store_works || purging {
                    continue;
                }
                let mut status = BackupStatus {
                    location: Some("there".into()),
                    digest: self.content.get(name).cloned(),
                    ..Default::default()
                };
                let (holds, reason) = (ConditionStatus::True, crate::api::Reason::Verified);
                for type_ in [ConditionType::Succeeded, ConditionType::Verified] {
                    status.conditions.set(type_, holds, reason, "", None, now);
                }
                backup.status = Some(status);
            }
        }
        let marked = |s: &SiteFacts| s.deletion_by("ru").is_some();
        if self.all_held.is_none()
            && !self.facts.sites.is_empty()
            && self.facts.sites.values().all(marked)
        {
            self.all_held = Some(self.time);
        }
    }

    /// Whether a Site bears no mark and is as it was.
    pub fn is_untouched(&self, site: &str) -> bool {
        let Some(live) = self.facts.sites.get(site) else { return false };
        live.deletion().is_none()
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

    /// Lets time pass until the request has ended and was let go, or `most` looks.
    pub fn run(&mut self, most: usize) -> RequestState {
        for _ in 0..most {
            self.step(Crash::Never);
            self.others_act();
            self.time += 5;
            if self.state().is_final() && self.facts.request.finalizers().is_empty() {
                break;
            }
        }
        self.state()
    }
}
