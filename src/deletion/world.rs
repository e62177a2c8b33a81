//! A small world in which decisions are carried out, in memory: the API server's preconditions,
//! its namespace controller and the room of Backups, as far as this room sees them. Whatever is
//! deleted in it is checked at once against what really happened, not against what the status says.

use std::collections::{BTreeMap, BTreeSet};

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::decide::{Decision, Effect, decide};
use super::fixtures::{annotate, approve, at, claim, edited, facts, ledger};
use super::held::{Claim, Disk, Edit, Held};
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
    /// How many replicas somebody wants by now, by Site; at first it was 2.
    pub replicas: BTreeMap<String, i64>,
}

fn exact<K: Resource>(object: &K, exact: &Exact) -> Result<(), String> {
    let same = Exact::of(object) == *exact;
    same.then_some(()).ok_or_else(|| format!("conflict: {}", exact.name))
}

impl World {
    pub fn new(sites: &[&str]) -> Self {
        let mut facts = facts(sites);
        facts.request.metadata.finalizers = None;
        for (name, site) in &mut facts.sites {
            site.claims = vec![claim(name, "data", "Delete")];
        }
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
            replicas: BTreeMap::new(),
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
            Effect::Hold(entity, deletion) => {
                let site = &entity.exact;
                let live = self.facts.sites.get_mut(&site.name).ok_or("gone")?;
                exact(&live.site, site)?;
                assert_eq!(deletion.phase, DeletionPhase::Held);
                let before = live.site.status.as_ref().and_then(|s| s.deletion.as_ref());
                assert!(before.is_none_or(|d| d.request_uid == "ru"), "another's mark is taken");
                live.site.status.get_or_insert_default().deletion = Some(deletion.clone());
                self.touch(|f| Some(&mut f.sites.get_mut(&site.name)?.site.metadata));
            }
            Effect::Edit(edit) => self.edit(edit)?,
            Effect::Release(entity) => self.release(facts, &entity.exact)?,
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

    /// A change of what is held. One that comes too late is refused, and stops no other.
    fn edit(&mut self, edit: &Edit) -> Result<(), String> {
        self.version += 1;
        let version = self.version.to_string();
        let backed_up = |site: &SiteFacts| {
            let verified = |b: &Backup| b.status.as_ref().is_some_and(|s| s.digest.is_some());
            site.backups.iter().any(verified)
        };
        for site in self.facts.sites.values_mut() {
            let ready = backed_up(site) && site.deletion_by("ru").is_some();
            let kept = site.claims.iter().all(Claim::is_retained);
            let volumes = site.claims.iter_mut().filter_map(|c| match &mut c.disk {
                Disk::Volume(volume) => Some(&mut **volume),
                Disk::Unbound | Disk::Lost => None,
            });
            for held in site.held.iter_mut().chain(volumes) {
                if held.exact != edit.exact {
                    continue;
                }
                let stopped = |h: &Held| h.value["spec"]["replicas"] == 0;
                let before = stopped(held);
                edited(held, edit);
                if stopped(held) && !before {
                    assert!(ready && kept, "stopped before its disks were kept, or not backed up");
                }
                held.exact.resource_version = version;
                return Ok(());
            }
        }
        Ok(())
    }

    /// A user, or GitOps, scales a Site's workload.
    pub fn scale(&mut self, site: &str, replicas: i64) {
        self.version += 1;
        if let Some(live) = self.facts.sites.get_mut(site) {
            live.held[0].value["spec"]["replicas"] = json!(replicas);
            live.held[0].exact.resource_version = self.version.to_string();
            self.replicas.insert(site.to_owned(), replicas);
        }
    }

    fn release(&mut self, facts: &Facts, wanted: &Exact) -> Result<(), String> {
        let site = &wanted.name;
        let seen = facts.sites.get(site).filter(|s| s.uid() == wanted.uid);
        let Some(seen) = seen else { return Ok(()) };
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
            Step::Disown(..) => panic!("no claim stays"),
            Step::DeleteObject(object, _) => panic!("{object:?} is no part of a Site's purge"),
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
        let verified = |b: &Backup| b.status.as_ref().is_some_and(|s| s.digest.is_some());
        let marked =
            |s: &SiteFacts| s.deletion_by("ru").is_some() && s.backups.last().is_some_and(verified);
        if self.all_held.is_none()
            && !self.facts.sites.is_empty()
            && self.facts.sites.values().all(marked)
        {
            self.all_held = Some(self.time);
        }
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
