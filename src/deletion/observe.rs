//! What is so: one request, everything that it means, and everything that its gates ask. Live
//! reads, every one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};

use super::alertmanager::Sources;
use super::alerts::Answers;
use super::app_objects::read_app;
use super::backups::{backup_of, is_verified};
use super::held::{Claim, Held};
use super::ledger;
use super::live::Live;
use super::named::{ScopeFacts, app_key, observe_planned, observe_scope};
use super::rolling::RollingFacts;
use super::rolling_ledger;
use crate::api::{
    App, Backup, Deletion, DeletionPhase, DeletionPolicy, DeletionPolicySpec, DeletionRequest,
    EntityPhase, PlanEntity, RequestState, RestoreDrill, Site, Target, TargetKind, Time, names,
};
use crate::cluster::collect::live_digest;
use crate::cluster::{
    Context, During, Error, Exact, GuardState, Holder, ProbeTargets, Result, api_server_time,
    chain, observe_guard,
};
use crate::store::Store;

/// Everything that the decision about a request needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The request.
    pub request: DeletionRequest,
    /// Who has each id, while the plan is being made.
    pub holders: HashMap<String, Vec<Holder>>,
    /// The Sites that the ids or the plan name, and those of the Apps, by name. One that is gone is
    /// not in it.
    pub sites: BTreeMap<String, SiteFacts>,
    /// The Apps that the ids or the plan name, by namespace and name. One that is gone is not in
    /// it.
    pub apps: BTreeMap<(String, String), AppFacts>,
    /// The policies that these Sites name, by name; one that does not exist is not in it.
    pub policies: BTreeMap<String, PolicyFacts>,
    /// The other requests that are open.
    pub others: Vec<OpenRequest>,
    /// What is so with the guard.
    pub guard: GuardState,
    /// What the sources of alerts answered that were asked.
    pub alerts: Answers,
    /// What went lately, over all requests; read for the purge.
    pub rolling: RollingFacts,
    /// When a RestoreDrill succeeded last, where the policy asks for that.
    pub last_drill: Option<Time>,
    /// The time by the API server's clock.
    pub api_time: Time,
    /// What the store's ledger says of the entity that comes next, while none of it is gone.
    pub executed: Executed,
}

/// What the store's ledger says of an entity that is about to be purged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Executed {
    /// This request has not purged it.
    #[default]
    No,
    /// This request has purged it, and it is here again, at its old UID: the cluster was set back
    /// to a time before. In words.
    Yes(String),
    /// The ledger cannot be read; why.
    Unknown(String),
}

/// One Site, live.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// The Site.
    pub site: Site,
    /// Its namespaces that exist: those that it names, and those that have its label.
    pub namespaces: Vec<Namespace>,
    /// The Apps in them. While the plan is made, of each only id, name and UID.
    pub apps: Vec<App>,
    /// The Backups that were made of it for this request, oldest first.
    pub backups: Vec<Backup>,
    /// The claims in its namespaces.
    pub claims: Vec<Claim>,
    /// What else in them a hold changes, and what goes on.
    pub held: Vec<Held>,
    /// The digest over everything that lives in it, where that was asked for.
    pub live_digest: Option<String>,
    /// Why that cannot be had: then nothing of it begins to go.
    pub unread: Option<String>,
    /// Whether its DELETE got past the guard, and the request is the operator's own for that.
    pub past_guard: bool,
}

/// One App, live.
#[derive(Clone, Debug)]
pub struct AppFacts {
    /// The App.
    pub app: App,
    /// Name of the Site that its namespace belongs to; empty when it belongs to none.
    pub site: String,
    /// Its own objects that live, while it is being purged.
    pub objects: Vec<OwnObject>,
    /// The digest over it and its objects as they live, and as its Site's backup has them, where
    /// that was asked for.
    pub live_digest: Option<String>,
    /// See there.
    pub archived_digest: Option<String>,
    /// Why its objects, or these digests, cannot be had: then nothing of it goes.
    pub unread: Option<String>,
    /// Whether its DELETE got past the guard, and the request is the operator's own for that.
    pub past_guard: bool,
}

/// An object that an App applied, at the UID that it had then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnObject {
    /// Kind.
    pub kind: String,
    /// The path of its kind in its namespace, as requests have it.
    pub path: String,
    /// What a write is decided on.
    pub exact: Exact,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// What holds it then.
    pub finalizers: Vec<String>,
}

/// A policy as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFacts {
    /// Its name.
    pub name: String,
    /// Its UID; none: the built-in one.
    pub uid: Option<String>,
    /// Its values.
    pub spec: DeletionPolicySpec,
}

/// Another request that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was created.
    pub created: Option<Time>,
    /// What it is about.
    pub target: Target,
}

impl Facts {
    /// UID of the request.
    pub fn request_uid(&self) -> String {
        self.request.uid().unwrap_or_default()
    }

    /// When the request was created.
    pub fn created(&self) -> Option<Time> {
        self.request.meta().creation_timestamp.as_ref().map(Time::from)
    }

    /// What lives of a planned entity, if it still is that one.
    pub fn live(&self, entity: &PlanEntity) -> Option<Live<'_>> {
        let live = match (entity.kind, entity.namespaces.first()) {
            (TargetKind::Site, _) => Live::Site(self.sites.get(&entity.name)?),
            (TargetKind::App, Some(namespace)) => self.app(&namespace.name, &entity.name)?,
            (TargetKind::App, None) => return None,
        };
        (live.uid() == entity.uid).then_some(live)
    }

    /// Whether a planned entity is gone. Not whenever [`Facts::live`] knows nothing of it: an App
    /// lives on when the label of its namespace is lost.
    pub fn is_gone(&self, entity: &PlanEntity) -> bool {
        match (entity.kind, entity.namespaces.first()) {
            (TargetKind::Site, _) => self.live(entity).is_none(),
            (TargetKind::App, Some(namespace)) => {
                let key = (namespace.name.clone(), entity.name.clone());
                let live = self.apps.get(&key).and_then(|live| live.app.uid());
                live.as_ref() != Some(&entity.uid)
            }
            (TargetKind::App, None) => false,
        }
    }

    /// The App of this namespace and name, with its Site.
    pub fn app(&self, namespace: &str, name: &str) -> Option<Live<'_>> {
        let app = self.apps.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(Live::App(app, self.sites.get(&app.site)?))
    }
}

impl SiteFacts {
    /// UID of the Site.
    pub fn uid(&self) -> String {
        self.site.uid().unwrap_or_default()
    }

    /// The deletion that the Site tells of.
    pub fn deletion(&self) -> Option<&Deletion> {
        self.site.status.as_ref()?.deletion.as_ref()
    }

    /// The deletion that the Site tells of, if it is this request's.
    pub fn deletion_by(&self, request_uid: &str) -> Option<&Deletion> {
        self.deletion().filter(|deletion| deletion.request_uid == request_uid)
    }

    /// Why a Site cannot be asked to be deleted now, to be read after its name.
    pub fn not_active(&self, request_uid: &str) -> Option<String> {
        if let Some(deletion) = self.deletion().filter(|d| d.request_uid != request_uid) {
            return Some(format!("is held by DeletionRequest {}", deletion.request_ref.name));
        }
        if let Some(restore) = self.site.annotations().get(names::ANNOTATION_RESTORE) {
            return Some(format!("is being restored by Restore {restore}"));
        }
        if self.site.annotations().contains_key(names::ANNOTATION_RECREATE) {
            return Some("is being created anew after a delete past the gates".to_owned());
        }
        // Only what is purged is deleted by us.
        let own = self.deletion_by(request_uid).is_some_and(|d| d.phase == DeletionPhase::Purging);
        if self.site.meta().deletion_timestamp.is_some() && !own && !self.past_guard {
            return Some("is being deleted past the gates".to_owned());
        }
        self.not_whole()
    }

    /// Why its namespaces are not exactly those of its spec, each of them its own; to be read
    /// after its name. The spec can name a namespace of the system or of another tenant, and what
    /// the spec does not name is in no backup.
    fn not_whole(&self) -> Option<String> {
        let name = self.site.name_any();
        let wanted = self.site.namespace_names();
        for namespace in &self.namespaces {
            let own = namespace.labels().get(names::LABEL_SITE) == Some(&name);
            let namespace = namespace.name_any();
            if !own {
                return Some(format!("names namespace {namespace}, which is not its own"));
            }
            if !wanted.contains(&namespace) {
                return Some(format!("does not name its namespace {namespace}: no backup has it"));
            }
        }
        let absent = wanted.iter().find(|w| self.namespaces.iter().all(|n| n.name_any() != **w));
        absent.map(|namespace| format!("lacks its namespace {namespace}"))
    }
}

/// Reads it; none when the request is gone.
///
/// # Errors
/// Any read that fails: then nothing is decided.
pub(super) async fn observe(
    ctx: &Context,
    store: &Store,
    sources: &Sources,
    name: &str,
) -> Result<Option<Facts>> {
    let client = &ctx.client;
    let requests: Api<DeletionRequest> = Api::all(client.clone());
    let doing = format!("read DeletionRequest {name}");
    let Some(request) = requests.get_opt(name).await.during(doing)? else {
        return Ok(None);
    };
    let status = request.status.clone().unwrap_or_default();
    let state = status.state.unwrap_or(RequestState::Planning);
    let planned = status.plan.as_ref().map_or(&[][..], |plan| &plan.entities);
    let mut scope = ScopeFacts::default();
    // A cancel must work whatever cannot be read: a CustomResourceDefinition that is gone, say.
    let ends = matches!(state, RequestState::Planning | RequestState::AwaitingApproval)
        && wants_to_end(&request);
    match state {
        _ if ends => {}
        RequestState::Planning | RequestState::AwaitingApproval => {
            scope = observe_scope(ctx, &request).await?;
        }
        // From here on the plan says what is meant, not the ids: an id may have moved.
        RequestState::Held | RequestState::Purging => {
            scope = observe_planned(ctx, &request, planned).await?;
        }
        // Nothing is asked of what has ended.
        RequestState::Completed
        | RequestState::Refused
        | RequestState::Expired
        | RequestState::Cancelled => {}
    }
    let ScopeFacts { holders, mut sites, mut apps, others } = scope;
    let mut policies = BTreeMap::new();
    let mut guard = GuardState::default();
    if !state.is_final() && !ends {
        // The plan's policy is asked for even when no Site names it any more: it still binds.
        let head = status.plan.as_ref().and_then(|p| p.head.as_ref());
        policies = read_policies(ctx, sites.values(), head.map(|h| h.policy_name.clone())).await?;
        guard = observe_guard(ctx, &probe_targets(&request, &sites, planned)).await?;
    }
    let next = next_entity(planned).filter(|_| state == RequestState::Purging);
    let next_app = next.filter(|e| e.kind == TargetKind::App).and_then(app_key);
    let holds = matches!(state, RequestState::Held | RequestState::Purging);
    for (key, app) in &mut apps {
        let is_next = next_app.as_ref() == Some(key);
        // Of one that was deleted past the guard only its objects tell whether it begins to go.
        let asked = app.past_guard && holds && !wants_to_end(&request);
        if (is_next || asked)
            && let Some(site) = sites.get(&app.site)
        {
            // Not an end of it all: a cancel, and an alert, must be heard whatever cannot be read.
            if let Err(error) = read_app(ctx, store, app, site).await {
                app.unread = Some(chain(&error));
            }
        }
    }
    let next_site = next.filter(|e| e.kind == TargetKind::Site);
    if let Some(site) = next_site.and_then(|e| sites.get_mut(&e.name))
        && let Err(error) = read_digest(ctx, site).await
    {
        site.unread = Some(chain(&error));
    }
    let mut facts = Facts {
        request,
        holders,
        sites,
        apps,
        policies,
        others,
        guard,
        alerts: vec![],
        rolling: RollingFacts::default(),
        last_drill: None,
        api_time: ctx.now(),
        executed: Executed::default(),
    };
    if let Some((entity, live)) = next.and_then(|e| Some((e, facts.live(e)?))) {
        facts.executed = ledger::executed(store, &facts.request_uid(), entity, live).await;
    }
    if !state.is_final() && !ends {
        let begins = |e| facts.live(e).is_some_and(|live| !live.has_started(e));
        let begins = next.is_some_and(begins);
        let plan = status.plan.as_ref();
        facts.alerts = sources.ask_for(ctx, plan, &facts.policies, begins).await;
    }
    if facts.policies.values().any(|p| p.spec.backup.drilled_within_seconds.is_some())
        || asked_within(&facts.request)
    {
        // Not an end of it all: not known is none.
        facts.last_drill = read_last_drill(ctx).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read when a RestoreDrill succeeded last");
            None
        });
    }
    // Last: reading a large site takes a while, and that must not look as if the clocks disagreed.
    facts.api_time = api_server_time(client).await?;
    if state == RequestState::Purging {
        let kind = facts.request.spec.target.kind;
        facts.rolling = rolling_ledger::observe(ctx, kind, facts.api_time).await?;
    }
    Ok(Some(facts))
}

/// Whether the policy of the plan, as it was then, asks for a drill lately.
fn asked_within(request: &DeletionRequest) -> bool {
    let plan = request.status.as_ref().and_then(|status| status.plan.as_ref());
    let head = plan.and_then(|plan| plan.head.as_ref());
    head.is_some_and(|head| head.policy.backup.drilled_within_seconds.is_some())
}

/// When a RestoreDrill succeeded last.
async fn read_last_drill(ctx: &Context) -> Result<Option<Time>> {
    let api: Api<DeserializeGuard<RestoreDrill>> = Api::all(ctx.client.clone());
    let all = api.list(&ListParams::default()).await.during("list the RestoreDrills")?;
    let readable = all.iter().filter_map(|drill| drill.0.as_ref().ok());
    Ok(readable.filter_map(|drill| drill.status.as_ref()?.last_success_time).max())
}

/// Whether a request that holds nothing yet has only to be ended.
fn wants_to_end(request: &DeletionRequest) -> bool {
    let rejected = |key: &String| key.starts_with(names::REJECTION_PREFIX);
    request.spec.cancel
        || request.meta().deletion_timestamp.is_some()
        || request.annotations().keys().any(rejected)
}

/// The entity that is purged now, or next: the first that is neither gone nor released.
pub fn next_entity(entities: &[PlanEntity]) -> Option<&PlanEntity> {
    let done = |e: &&PlanEntity| matches!(e.phase, EntityPhase::Purged | EntityPhase::Released);
    entities
        .iter()
        .find(|e| e.phase == EntityPhase::Purging)
        .or_else(|| entities.iter().find(|e| !done(e)))
}

async fn read_policies<'a>(
    ctx: &Context,
    sites: impl Iterator<Item = &'a SiteFacts>,
    planned: Option<String>,
) -> Result<BTreeMap<String, PolicyFacts>> {
    let api: Api<DeletionPolicy> = Api::all(ctx.client.clone());
    let mut all = BTreeMap::new();
    let named = sites.map(|s| s.site.spec.policy_ref.name.clone());
    let names: BTreeSet<String> = named.chain(planned).collect();
    for name in names {
        let live = api.get_opt(&name).await.during(format!("read DeletionPolicy {name}"))?;
        let policy = match live {
            Some(policy) => {
                PolicyFacts { name: name.clone(), uid: policy.uid(), spec: policy.spec }
            }
            // Only a missing `default` falls back, and to the strictest that there is.
            None if name == names::DEFAULT_POLICY => {
                PolicyFacts { name: name.clone(), uid: None, spec: DeletionPolicySpec::built_in() }
            }
            None => continue,
        };
        all.insert(name, policy);
    }
    Ok(all)
}

/// What the guard is tried on: the request itself, and a Site that is not being purged.
fn probe_targets(
    request: &DeletionRequest,
    sites: &BTreeMap<String, SiteFacts>,
    planned: &[PlanEntity],
) -> ProbeTargets {
    let left = |site: &SiteFacts| {
        let is = |e: &&PlanEntity| e.kind == TargetKind::Site && e.uid == site.uid();
        planned.iter().find(is).is_none_or(|e| e.phase != EntityPhase::Purged)
    };
    let candidates: Vec<&SiteFacts> = sites.values().filter(|site| left(site)).collect();
    let untouched = |s: &&&SiteFacts| {
        s.deletion().is_none_or(|d| d.phase == DeletionPhase::Held)
            && s.site.meta().deletion_timestamp.is_none()
    };
    let site = candidates.iter().find(untouched);
    let is_ours = |n: &&Namespace| {
        n.labels().contains_key(names::LABEL_SITE)
            && !n.annotations().contains_key(names::ANNOTATION_PURGE)
            && n.meta().deletion_timestamp.is_none()
    };
    ProbeTargets {
        request: Some(Exact::of(request)),
        site: site.map(|s| Exact::of(&s.site)),
        namespace: site.and_then(|s| s.namespaces.iter().find(is_ours)).map(Exact::of),
    }
}

/// Reads everything that lives in a site, if its purge has a verified backup to be compared with.
async fn read_digest(ctx: &Context, site: &mut SiteFacts) -> Result<()> {
    let backed_up = backup_of(site).is_some_and(is_verified);
    let terminating = site.namespaces.iter().any(|n| n.meta().deletion_timestamp.is_some());
    if !backed_up || terminating || site.namespaces.is_empty() {
        return Ok(());
    }
    let namespaces: Vec<String> = site.site.namespace_names();
    if namespaces.iter().any(|n| site.namespaces.iter().all(|live| live.name_any() != *n)) {
        return Ok(());
    }
    let name = site.site.name_any();
    let doing = format!("compare Site {name} with its backup");
    let kinds = ctx.kinds(std::time::Duration::ZERO).await?;
    let digest = live_digest(&ctx.client, &kinds, &name, &namespaces)
        .await
        .map_err(|error| Error::answer(doing, error))?;
    site.live_digest = Some(digest);
    Ok(())
}
