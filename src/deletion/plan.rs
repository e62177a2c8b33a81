//! The dry run: which entities a request means, and why not. Gate 1, pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kube::ResourceExt;
use serde_json::json;

use super::gates::requester;
use super::held::{Claim, Held};
use super::live::{Live, words};
use super::observe::{Facts, OpenRequest, PolicyFacts, SiteFacts};
use crate::api::{
    EntityPhase, NamespaceRef, PlanApp, PlanEntity, PlanTotals, Protection, Reason, Refusal,
    RefusalCount, Target, TargetKind, VolumeProtection, names,
};
use crate::cluster::Holder;

/// How many refused ids the status names; of the others it tells the number.
const REFUSALS_SHOWN: usize = 20;
/// How many disks and workloads the plan names in all, so that its status stays small.
const NAMES_MOST: usize = 500;
/// How many names a message has; of the others it tells the number.
const NAMES_SHOWN: usize = 5;
/// The most bytes that the entities of a plan may take: a status is to stay below 256 KiB, and its
/// head, conditions and approvals need some of that.
const PLAN_MOST: usize = 216 << 10;
/// What each entity is given after its plan, in bytes: its backup, its wave, its times.
const LATER: usize = 512;
/// What an entity takes at least, with that.
const LEAST: usize = LATER + 200;

/// The scope of a request, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// The entities, in order of kind and name.
    pub entities: Vec<PlanEntity>,
    /// The policy under which all of them are.
    pub policy: PolicyFacts,
}

/// Why a request is refused: one offender refuses all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The reason of the condition: that of the first offender.
    pub reason: Reason,
    /// In words.
    pub message: String,
    /// The first offenders.
    pub refusals: Vec<Refusal>,
    /// How many there are, by reason.
    pub counts: Vec<RefusalCount>,
}

/// Gate 1, scope: every id is known, as the declared kind, to exactly one entity that is Active and
/// in no other open request; and all are under one policy, which exists.
///
/// # Errors
/// Everything that is wrong, id by id.
pub fn scope(facts: &Facts) -> Result<Scope, Refused> {
    let mut bad: Vec<(Reason, Refusal)> = vec![];
    let mut entities = vec![];
    let mut policies: BTreeMap<&str, &PolicyFacts> = BTreeMap::new();
    let target = &facts.request.spec.target;
    let ids: BTreeSet<&String> = target.ids.iter().collect();
    if ids.is_empty() {
        // The schema refuses it as well. Nothing means nothing, never everything.
        return Err(refused_as_a_whole(Reason::UnknownId, "the list of ids is empty"));
    }
    if are_too_many(&facts.holders, target) {
        return Err(too_large(ids.len(), ids.len() * LEAST));
    }
    for id in ids {
        match entity(facts, target.kind, id) {
            Ok((entity, policy)) => {
                policies.insert(&policy.name, policy);
                entities.push(entity);
            }
            Err((reason, message)) => bad.push((
                reason,
                Refusal { id: id.clone(), reason: reason.as_str().to_owned(), message },
            )),
        }
    }
    if !bad.is_empty() {
        return Err(refused(target.kind, target.ids.len(), bad));
    }
    let mut policies = policies.into_values();
    match (policies.next(), policies.next()) {
        (Some(policy), None) => {
            let place = |e: &PlanEntity| match e.kind {
                TargetKind::Site => None,
                TargetKind::App => e.namespaces.first().map(|n| n.name.clone()),
            };
            entities.sort_by_cached_key(|e| (e.kind, place(e), e.name.clone()));
            shorten(&mut entities);
            fits(&entities)?;
            Ok(Scope { entities, policy: policy.clone() })
        }
        (one, other) => {
            let all = one.into_iter().chain(other).chain(policies);
            let names: Vec<String> = all.map(|policy| policy.name.clone()).collect();
            Err(refused_as_a_whole(
                Reason::SeveralPolicies,
                &format!(
                    "the entities are under the policies {}: split the request, one for each policy",
                    some(&names, ", ")
                ),
            ))
        }
    }
}

/// Who has an id, if that is one entity of the declared kind.
fn holder<'a>(
    holders: &'a HashMap<String, Vec<Holder>>,
    kind: TargetKind,
    id: &str,
) -> Result<&'a Holder, (Reason, String)> {
    let holders = holders.get(id).map(Vec::as_slice).unwrap_or_default();
    let holder = match holders {
        [] => {
            return Err((Reason::UnknownId, format!("no Site and no App has the id {id:?}")));
        }
        [one] => one,
        several => {
            let all: Vec<String> = several.iter().map(Holder::describe).collect();
            let message =
                format!("{id:?} is the id of {}: it must name one", some(&all, " and of "));
            return Err((Reason::AmbiguousId, message));
        }
    };
    if holder.kind != kind {
        let message = format!("{id:?} is no {kind}, it is the id of {}", holder.describe());
        return Err((Reason::EntityTypeMismatch, message));
    }
    Ok(holder)
}

/// What one id means, or why it cannot be deleted.
fn entity<'a>(
    facts: &'a Facts,
    kind: TargetKind,
    id: &str,
) -> Result<(PlanEntity, &'a PolicyFacts), (Reason, String)> {
    let holder = holder(&facts.holders, kind, id)?;
    let gone = || (Reason::UnknownId, format!("{} went away meanwhile", holder.describe()));
    let live = match &holder.namespace {
        None => facts.sites.get(&holder.name).map(Live::Site),
        Some(namespace) => {
            let live = facts.app(namespace, &holder.name);
            let key = (namespace.clone(), holder.name.clone());
            if live.is_none() && facts.apps.contains_key(&key) {
                let what = holder.describe();
                let message = format!("{what} is in a namespace that belongs to no Site");
                return Err((Reason::EntityNotActive, message));
            }
            live
        }
    };
    let live = live.filter(|live| live.uid() == holder.uid).ok_or_else(gone)?;
    if let Some(other) = facts.others.iter().find(|other| contains(other, facts, id, live)) {
        let message =
            format!("{} is in the older open DeletionRequest {}", holder.describe(), other.name);
        return Err((Reason::InOtherRequest, message));
    }
    if requester(facts) == Some(names::OPERATOR_USER) && !live.past_guard() {
        let message =
            format!("{} is not the one that was deleted past the guard", holder.describe());
        return Err((Reason::EntityNotActive, message));
    }
    if let Some(why) = live.not_active(&facts.request_uid()) {
        return Err((Reason::EntityNotActive, format!("{} {why}", holder.describe())));
    }
    let site = live.site();
    let name = &site.site.spec.policy_ref.name;
    let Some(policy) = facts.policies.get(name) else {
        let message = format!(
            "{} names the DeletionPolicy {name:?}, which does not exist",
            holder.describe()
        );
        return Err((Reason::PolicyNotFound, message));
    };
    Ok((live.planned(), policy))
}

/// Whether an older open request has this id; or, of a Site, one of its Apps; or, of an App, its
/// Site.
fn contains(other: &OpenRequest, facts: &Facts, id: &str, live: Live<'_>) -> bool {
    let older = (other.created, &other.uid) < (facts.created(), &facts.request_uid());
    let has = |id: &str| other.target.ids.iter().any(|i| i == id);
    let site = live.site();
    older
        && match (live, other.target.kind) {
            (Live::Site(_), TargetKind::Site) | (Live::App(..), TargetKind::App) => has(id),
            (Live::Site(_), TargetKind::App) => site.apps.iter().any(|app| has(&app.spec.id)),
            (Live::App(..), TargetKind::Site) => has(&site.site.spec.id),
        }
}

impl SiteFacts {
    /// The site as a plan has it.
    pub fn planned(&self) -> PlanEntity {
        let status = self.site.status.as_ref();
        let inventory = status.and_then(|s| s.inventory.as_ref());
        let mut namespaces: Vec<NamespaceRef> = self
            .namespaces
            .iter()
            .map(|n| NamespaceRef { name: n.name_any(), uid: n.uid().unwrap_or_default() })
            .collect();
        namespaces.sort();
        let mut apps: Vec<PlanApp> = self
            .apps
            .iter()
            .map(|app| PlanApp {
                id: app.spec.id.clone(),
                namespace: app.namespace().unwrap_or_default(),
                name: app.name_any(),
                uid: app.uid().unwrap_or_default(),
            })
            .collect();
        apps.sort();
        let mut entity = PlanEntity {
            kind: TargetKind::Site,
            id: self.site.spec.id.clone(),
            name: self.site.name_any(),
            uid: self.uid(),
            tenant: self.site.spec.tenant.name.clone(),
            priority: self.site.spec.priority,
            namespaces,
            apps,
            site: None,
            applied: None,
            objects: inventory.map_or(0, |i| i.objects),
            bytes: inventory.map_or(0, |i| i.bytes),
            claims: 0,
            unprotected: 0,
            disks: vec![],
            runs_on: vec![],
            scratch: vec![],
            last_backup: status.and_then(|s| s.last_backup.clone()),
            last_drill: status.and_then(|s| s.last_drill.clone()),
            phase: EntityPhase::Planned,
            wave: None,
            backup: None,
            purged_time: None,
        };
        name_disks(&mut entity, Live::Site(self));
        entity
    }
}

/// Writes into a planned entity what becomes of its disks, and of what runs in it.
pub(super) fn name_disks(entity: &mut PlanEntity, live: Live<'_>) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    entity.claims = count(live.claims().count());
    entity.disks = live.claims().filter_map(Claim::protection).collect();
    let is_bare = |d: &VolumeProtection| d.protection == Protection::None;
    entity.disks.sort_by_key(|d| (!is_bare(d), d.claim.clone()));
    entity.unprotected = count(entity.disks.iter().filter(|d| is_bare(d)).count());
    entity.runs_on = live.runs_on().map(Held::path).collect();
    entity.scratch = live.workloads().filter(|w| w.scratch).map(Held::path).collect();
}

/// Shortens the names of disks and workloads to what the status has room for.
fn shorten(entities: &mut [PlanEntity]) {
    let mut left = NAMES_MOST;
    for entity in entities {
        entity.disks.truncate(left);
        left -= entity.disks.len();
        for names in [&mut entity.runs_on, &mut entity.scratch] {
            names.truncate(left);
            left -= names.len();
        }
    }
}

/// The sums of these entities.
pub fn totals(entities: &[PlanEntity]) -> PlanTotals {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    PlanTotals {
        entities: count(entities.len()),
        namespaces: count(entities.iter().map(|e| e.namespaces.len()).sum()),
        apps: count(entities.iter().map(|e| e.apps.len()).sum()),
        objects: entities.iter().map(|e| e.objects).sum(),
        bytes: entities.iter().map(|e| e.bytes).sum(),
    }
}

/// The first of these names; of the others, how many there are.
fn some(names: &[String], between: &str) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join(between);
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown}{between}{more} more"),
    }
}

/// Whether a request is refused for the number of its entities alone, every id being that of one: then
/// nothing more need be known of them.
pub(super) fn are_too_many(holders: &HashMap<String, Vec<Holder>>, target: &Target) -> bool {
    let ids: BTreeSet<&String> = target.ids.iter().collect();
    !can_fit(ids.len()) && ids.iter().all(|id| holder(holders, target.kind, id).is_ok())
}

/// Whether a status can have room for the plan of so many entities, whatever they are.
pub(super) fn can_fit(entities: usize) -> bool {
    entities.saturating_mul(LEAST) <= PLAN_MOST
}

/// Whether the status has room for this plan until all of it is purged.
fn fits(entities: &[PlanEntity]) -> Result<(), Refused> {
    let size = |entity: &PlanEntity| json!(entity).to_string().len() + LATER;
    let all: usize = entities.iter().map(size).sum();
    match entities {
        _ if all <= PLAN_MOST => Ok(()),
        // It cannot be split, but what makes it large can go before it.
        [one] => Err(refused_as_a_whole(
            Reason::PlanTooLarge,
            &format!(
                "the plan of {} with its {} Apps takes {} KiB, and a request has room for {}: delete Apps of it first, by DeletionRequests of their own",
                words(one),
                one.apps.len(),
                all >> 10,
                PLAN_MOST >> 10
            ),
        )),
        several => Err(too_large(several.len(), all)),
    }
}

fn too_large(entities: usize, bytes: usize) -> Refused {
    let parts = bytes.div_ceil(PLAN_MOST);
    refused_as_a_whole(
        Reason::PlanTooLarge,
        &format!(
            "the plan of {entities} entities takes {} KiB or more, and a request has room for {}: split it into {parts} or more",
            bytes >> 10,
            PLAN_MOST >> 10
        ),
    )
}

fn refused_as_a_whole(reason: Reason, message: &str) -> Refused {
    Refused { reason, message: message.to_owned(), refusals: vec![], counts: vec![] }
}

fn refused(kind: TargetKind, asked: usize, mut bad: Vec<(Reason, Refusal)>) -> Refused {
    // An id of the wrong kind is the mistake that this project exists for: it is named first.
    bad.sort_by_key(|(reason, refusal)| {
        (*reason != Reason::EntityTypeMismatch, *reason, refusal.id.clone())
    });
    let mut counts: BTreeMap<Reason, i64> = BTreeMap::new();
    for (reason, _) in &bad {
        *counts.entry(*reason).or_default() += 1;
    }
    let (reason, first) = &bad[0];
    let message = format!(
        "{} of {asked} ids refused, and so the whole request; declared kind {kind}; {}",
        bad.len(),
        first.message
    );
    Refused {
        reason: *reason,
        message,
        counts: counts
            .into_iter()
            .map(|(reason, count)| RefusalCount { reason: reason.as_str().to_owned(), count })
            .collect(),
        refusals: bad.into_iter().map(|(_, refusal)| refusal).take(REFUSALS_SHOWN).collect(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
