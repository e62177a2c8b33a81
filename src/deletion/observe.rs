//! What is so: one request, everything that it means, and everything that its gates ask. Live
//! reads, every one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};

use super::alertmanager::Sources;
use super::alerts::Answers;
use super::backups::{backup_of, is_verified};
use super::gates::has_started;
use super::rolling::RollingFacts;
use super::rolling_ledger;
use crate::api::{
    App, Backup, Deletion, DeletionPhase, DeletionPolicy, DeletionPolicySpec, DeletionRequest,
    EntityPhase, PlanEntity, RequestState, RestoreDrill, Site, Target, TargetKind, Time, names,
};
use crate::cluster::collect::live_digest;
use crate::cluster::unexpected::asks_for;
use crate::cluster::{
    Context, During, Error, Exact, GuardState, Holder, ProbeTargets, Result, api_server_time,
    lookup, observe_guard,
};

/// Sites that are read at the same time.
const CONCURRENCY: usize = 8;
/// Label on a Backup: UID of the DeletionRequest that it was made for.
pub const LABEL_REQUEST_UID: &str = "reprieve.dev/request-uid";

/// Everything that the decision about a request needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The request.
    pub request: DeletionRequest,
    /// Who has each id, while the plan is being made.
    pub holders: HashMap<String, Vec<Holder>>,
    /// The Sites that the ids or the plan name, by name. One that is gone is not in it.
    pub sites: BTreeMap<String, SiteFacts>,
    /// The policies that these Sites name, by name; one that does not exist is not in it.
    pub policies: BTreeMap<String, PolicyFacts>,
    /// The other requests that are open.
    pub others: Vec<OpenRequest>,
    /// What is so with the guard.
    pub guard: GuardState,
    /// When a RestoreDrill succeeded last, where the policy asks for that.
    pub last_drill: Option<Time>,
    /// What the sources of alerts answered that were asked.
    pub alerts: Answers,
    /// What went lately, over all requests; read for the purge.
    pub rolling: RollingFacts,
    /// The time by the API server's clock.
    pub api_time: Time,
}

/// One Site, live.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// The Site.
    pub site: Site,
    /// Its namespaces that exist: those that it names, and those that have its label.
    pub namespaces: Vec<Namespace>,
    /// The Apps in them.
    pub apps: Vec<App>,
    /// The Backups that were made of it for this request, oldest first.
    pub backups: Vec<Backup>,
    /// The claims in its namespaces.
    pub claims: Vec<Claim>,
    /// The digest over everything that lives in it, where that was asked for.
    pub live_digest: Option<String>,
    /// Whether its DELETE got past the guard, and the request is the operator's own for that.
    pub past_guard: bool,
}

/// A volume claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// As `namespace/name`.
    pub name: String,
    /// Whether its disk stays when the claim goes. A claim without a disk has none to lose.
    pub retained: bool,
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

    /// The live Site of a planned entity, if it still is that one.
    pub fn live(&self, entity: &PlanEntity) -> Option<&SiteFacts> {
        live(&self.sites, entity)
    }
}

fn live<'a>(sites: &'a BTreeMap<String, SiteFacts>, entity: &PlanEntity) -> Option<&'a SiteFacts> {
    sites.get(&entity.name).filter(|site| site.uid() == entity.uid)
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

    /// Claims whose disks would go with them.
    pub fn unretained(&self) -> Vec<&str> {
        self.claims.iter().filter(|c| !c.retained).map(|c| c.name.as_str()).collect()
    }
}

/// Reads it; none when the request is gone.
///
/// # Errors
/// Any read that fails: then nothing is decided.
pub(super) async fn observe(ctx: &Context, sources: &Sources, name: &str) -> Result<Option<Facts>> {
    let client = &ctx.client;
    let requests: Api<DeletionRequest> = Api::all(client.clone());
    let doing = format!("read DeletionRequest {name}");
    let Some(request) = requests.get_opt(name).await.during(doing)? else {
        return Ok(None);
    };
    let status = request.status.clone().unwrap_or_default();
    let state = status.state.unwrap_or(RequestState::Planning);
    let planned = status.plan.as_ref().map_or(&[][..], |plan| &plan.entities);
    let mut holders = HashMap::new();
    let mut others = vec![];
    // A cancel must work whatever cannot be read: a CustomResourceDefinition that is gone, say.
    let ends = matches!(state, RequestState::Planning | RequestState::AwaitingApproval)
        && wants_to_end(&request);
    let names: Vec<String> = match state {
        _ if ends => vec![],
        RequestState::Planning | RequestState::AwaitingApproval => {
            holders = lookup(client, &request.spec.target.ids).await?;
            others = other_requests(ctx, &request).await?;
            let all = holders.values().flatten();
            all.filter(|h: &&Holder| h.kind == TargetKind::Site).map(|h| h.name.clone()).collect()
        }
        // From here on the plan says what is meant, not the ids: an id may have moved.
        RequestState::Held | RequestState::Purging => {
            planned.iter().map(|e| e.name.clone()).collect()
        }
        // Nothing is asked of what has ended.
        RequestState::Completed
        | RequestState::Refused
        | RequestState::Expired
        | RequestState::Cancelled => vec![],
    };
    let mut sites = BTreeMap::new();
    let mut policies = BTreeMap::new();
    let mut guard = GuardState::default();
    if !state.is_final() && !ends {
        sites = observe_sites(ctx, names, &request).await?;
        // The plan's policy is asked for even when no Site names it any more: it still binds.
        let head = status.plan.as_ref().and_then(|p| p.head.as_ref());
        policies = read_policies(ctx, sites.values(), head.map(|h| h.policy_name.clone())).await?;
        guard = observe_guard(ctx, &probe_targets(&request, &sites, planned)).await?;
    }
    if state == RequestState::Purging
        && let Some(site) = next_entity(planned).and_then(|e| sites.get_mut(&e.name))
    {
        read_digest(ctx, site).await?;
    }
    let mut alerts = vec![];
    if !state.is_final() && !ends {
        let begins = |e| live(&sites, e).is_some_and(|live| !has_started(e, live));
        let begins = state == RequestState::Purging && next_entity(planned).is_some_and(begins);
        alerts = sources.ask_for(ctx, status.plan.as_ref(), &policies, begins).await;
    }
    let mut last_drill = None;
    if policies.values().any(|p| p.spec.backup.drilled_within_seconds.is_some())
        || asked_within(&request)
    {
        last_drill = read_last_drill(ctx).await?;
    }
    // Last: reading a large site takes a while, and that must not look as if the clocks disagreed.
    let api_time = api_server_time(client).await?;
    let mut rolling = RollingFacts::default();
    if state == RequestState::Purging {
        rolling = rolling_ledger::observe(ctx, request.spec.target.kind, api_time).await?;
    }
    Ok(Some(Facts {
        request,
        holders,
        sites,
        policies,
        others,
        guard,
        last_drill,
        alerts,
        rolling,
        api_time,
    }))
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

/// The Sites of these names that exist, each with the Backups that were made of it for the request.
async fn observe_sites(
    ctx: &Context,
    names: Vec<String>,
    request: &DeletionRequest,
) -> Result<BTreeMap<String, SiteFacts>> {
    let api: Api<Backup> = Api::all(ctx.client.clone());
    let uid = request.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{LABEL_REQUEST_UID}={uid}"));
    let doing = format!("list the Backups for DeletionRequest {}", request.name_any());
    let mut backups = api.list(&ours).await.during(doing)?.items;
    backups.sort_by_key(|b| (b.creation_timestamp().map(|t| Time::from(&t)), b.name_any()));
    let mut sites: BTreeMap<String, SiteFacts> = stream::iter(names)
        .map(|name| async move { observe_site(ctx, &name).await })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|site| async { Ok(site.map(|s| (s.site.name_any(), s))) })
        .try_collect()
        .await?;
    for site in sites.values_mut() {
        let (name, uid) = (site.site.name_any(), site.uid());
        site.past_guard = site.site.meta().deletion_timestamp.is_some()
            && asks_for(request, TargetKind::Site, &site.site.spec.id, &name, &uid);
    }
    for backup in backups {
        if let Some(site) = sites.get_mut(&backup.spec.site_ref.name) {
            site.backups.push(backup);
        }
    }
    Ok(sites)
}

async fn observe_site(ctx: &Context, name: &str) -> Result<Option<SiteFacts>> {
    let client = &ctx.client;
    let sites: Api<Site> = Api::all(client.clone());
    let Some(site) = sites.get_opt(name).await.during(format!("read Site {name}"))? else {
        return Ok(None);
    };
    let api: Api<Namespace> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{}={name}", names::LABEL_SITE));
    let doing = format!("read the namespaces of Site {name}");
    let mut namespaces = api.list(&labelled).await.during(&doing)?.items;
    for namespace in site.namespace_names() {
        if namespaces.iter().all(|n| n.name_any() != namespace) {
            namespaces.extend(api.get_opt(&namespace).await.during(&doing)?);
        }
    }
    let mut apps = vec![];
    let mut claims = vec![];
    for namespace in &namespaces {
        let namespace = namespace.name_any();
        let api: Api<App> = Api::namespaced(client.clone(), &namespace);
        let list = api.list(&ListParams::default()).await;
        apps.extend(list.during(format!("list the Apps in namespace {namespace}"))?);
        claims.extend(observe_claims(ctx, &namespace).await?);
    }
    let backups = vec![];
    let (live_digest, past_guard) = (None, false);
    Ok(Some(SiteFacts { site, namespaces, apps, backups, claims, live_digest, past_guard }))
}

async fn observe_claims(ctx: &Context, namespace: &str) -> Result<Vec<Claim>> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let list = api.list(&ListParams::default()).await;
    let mut all = vec![];
    for claim in list.during(format!("list the claims in namespace {namespace}"))? {
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
        let retained = match volume.filter(|v| !v.is_empty()) {
            None => true,
            Some(volume) => volumes
                .get_opt(&volume)
                .await
                .during(format!("read PersistentVolume {volume}"))?
                .and_then(|v| v.spec?.persistent_volume_reclaim_policy)
                .is_none_or(|policy| policy == "Retain"),
        };
        all.push(Claim { name: format!("{namespace}/{}", claim.name_any()), retained });
    }
    Ok(all)
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

async fn other_requests(ctx: &Context, own: &DeletionRequest) -> Result<Vec<OpenRequest>> {
    let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
    let list = api.list(&ListParams::default()).await.during("list every DeletionRequest")?;
    Ok(list
        .into_iter()
        .filter(|r| r.uid() != own.uid())
        .filter(|r| !r.status.as_ref().and_then(|s| s.state).is_some_and(RequestState::is_final))
        .map(|r| OpenRequest {
            name: r.name_any(),
            uid: r.uid().unwrap_or_default(),
            created: r.meta().creation_timestamp.as_ref().map(Time::from),
            target: r.spec.target,
        })
        .collect())
}

/// What the guard is tried on: the request itself, and a Site that is not being purged.
fn probe_targets(
    request: &DeletionRequest,
    sites: &BTreeMap<String, SiteFacts>,
    planned: &[PlanEntity],
) -> ProbeTargets {
    let left = planned.iter().filter(|e| e.phase != EntityPhase::Purged);
    let mut candidates: Vec<&SiteFacts> = left.filter_map(|e| live(sites, e)).collect();
    if planned.is_empty() {
        candidates = sites.values().collect();
    }
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
