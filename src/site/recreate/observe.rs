//! What is so: one entity that was deleted past the guard, or one that is created anew. Live reads.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

use crate::api::{
    App, DeletionPhase, DeletionRequest, RequestState, Site, TargetKind, Time, UnexpectedDelete,
    names,
};
use crate::cluster::form::archived_form;
use crate::cluster::unexpected::{asks_for, request_name};
use crate::cluster::{Context, During, Exact, Result};
use crate::store::Record;

/// Which entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub kind: TargetKind,
    /// Namespace; none for a Site.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Everything that the decision needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which entity.
    pub key: Key,
    /// The entity of this name, where there is one.
    pub live: Option<Live>,
    /// The DeletionRequest for it.
    pub request: RequestFacts,
    /// The newest record under its name that is not closed.
    pub record: Option<Record>,
    /// The namespaces of a Site, by their label, or the one of an App.
    pub namespaces: Vec<NamespaceFacts>,
    /// Whether the entity's kind is there.
    pub crd: CrdState,
    /// How the Site of an App stands.
    pub site: SiteStands,
}

/// An entity that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// UID.
    pub uid: String,
    /// What it was when it was read.
    pub exact: Exact,
    /// When it was deleted.
    pub terminating: Option<Time>,
    /// Whether our finalizer holds it.
    pub fenced: bool,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// The UID in the mark of one that is created anew.
    pub mark: Option<String>,
    /// Whether a request holds or purges it.
    pub in_deletion: bool,
    /// What its status tells of a delete past the guard.
    pub told: Option<UnexpectedDelete>,
    /// The platform's id.
    pub id: String,
    /// The object in its archived form.
    pub object: Value,
    /// What of its status is put back when it is created anew.
    pub status: Value,
    /// Who owns which field.
    pub managed_fields: Vec<Value>,
}

/// How the DeletionRequest for an entity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestFacts {
    /// None can be opened: the kind is not there, or something else has its name.
    Unavailable,
    /// There is none.
    Absent,
    /// It is open.
    Open,
    /// It ended with the purge.
    Completed,
    /// It ended, and the entity is to stay.
    Kept,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// What it was when it was read.
    pub exact: Exact,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// The record that it bears.
    pub record: Option<String>,
}

/// Whether a kind is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrdState {
    /// It is.
    Served,
    /// It is being deleted: nothing new of it can be created.
    Terminating,
    /// It is not.
    Absent,
}

/// How the Site of an App stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteStands {
    /// It lives, or the App has none; or the entity is no App.
    Steady,
    /// It was deleted past the guard, or is being purged: what becomes of it comes first.
    Busy,
    /// It was deleted past the guard and let go: it comes back, and before its Apps.
    Coming,
}

/// The kinds that matter here.
#[derive(Clone, Copy, Debug)]
pub struct Crds {
    /// `sites`.
    pub sites: CrdState,
    /// `apps`.
    pub apps: CrdState,
    /// `deletionrequests`.
    pub requests: CrdState,
}

/// Reads how the kinds stand.
///
/// # Errors
/// Any read that fails.
pub async fn observe_crds(ctx: &Context) -> Result<Crds> {
    let api: Api<CustomResourceDefinition> = Api::all(ctx.client.clone());
    let state = |plural: &'static str| {
        let api = api.clone();
        async move {
            let name = format!("{plural}.{}", names::GROUP);
            let doing = format!("read CustomResourceDefinition {name}");
            let found = api.get_metadata_opt(&name).await.during(doing)?;
            Ok::<_, crate::cluster::Error>(match found {
                None => CrdState::Absent,
                Some(crd) if crd.meta().deletion_timestamp.is_some() => CrdState::Terminating,
                Some(_) => CrdState::Served,
            })
        }
    };
    Ok(Crds {
        sites: state("sites").await?,
        apps: state("apps").await?,
        requests: state("deletionrequests").await?,
    })
}

/// The kind of an entity, for requests that take and give any object.
pub fn resource(kind: TargetKind) -> ApiResource {
    match kind {
        TargetKind::Site => ApiResource::erase::<Site>(&()),
        TargetKind::App => ApiResource::erase::<App>(&()),
    }
}

/// The way to an entity. Not by its type: an object that does not parse must come back as well.
pub fn entities(ctx: &Context, key: &Key) -> Api<DynamicObject> {
    let resource = resource(key.kind);
    match &key.namespace {
        Some(namespace) => Api::namespaced_with(ctx.client.clone(), namespace, &resource),
        None => Api::all_with(ctx.client.clone(), &resource),
    }
}

/// Reads what is so with an entity. `comes` says whether there is an open record of a Site.
///
/// # Errors
/// Any read that fails.
pub async fn observe(
    ctx: &Context,
    key: &Key,
    record: Option<&Record>,
    comes: impl Fn(&str) -> bool,
    crds: Crds,
) -> Result<Facts> {
    let crd = if key.kind == TargetKind::Site { crds.sites } else { crds.apps };
    let live = match crd {
        // The answer to a read would be the text of a path that is not there, which is an error.
        CrdState::Absent => None,
        CrdState::Served | CrdState::Terminating => {
            entities(ctx, key).get_opt(&key.name).await.during(format!("read {key}"))?
        }
    };
    let live = live.map(|live| live_of(key.kind, &live));
    let namespaces = namespaces(ctx, key).await?;
    let request = match &live {
        Some(live) if live.terminating.is_some() => request(ctx, key, live, crds.requests).await?,
        _ => RequestFacts::Absent,
    };
    let mut site = SiteStands::Steady;
    if key.kind == TargetKind::App {
        let owner = namespaces.first().and_then(|n| n.labels().get(names::LABEL_SITE).cloned());
        if let Some(owner) = owner {
            site = site_stands(ctx, &owner, crds.sites, &comes).await?;
        }
    }
    let namespaces = namespaces.iter().map(|n| NamespaceFacts {
        exact: Exact::of(n),
        terminating: n.meta().deletion_timestamp.is_some(),
        record: n.annotations().get(names::ANNOTATION_RECORD).cloned(),
    });
    Ok(Facts {
        key: key.clone(),
        live,
        request,
        record: record.cloned(),
        namespaces: namespaces.collect(),
        crd,
        site,
    })
}

/// What matters of a live entity.
pub fn live_of(kind: TargetKind, live: &DynamicObject) -> Live {
    let value = json!(live);
    let status = &value["status"];
    // What cannot be seen from what is there: which namespaces were the Site's, by UID, and which
    // objects are the App's.
    let kept = match kind {
        TargetKind::Site => ["namespaces", "lastBackup", "lastDrill"].as_slice(),
        TargetKind::App => ["objects"].as_slice(),
    };
    let kept: Map<String, Value> = kept
        .iter()
        .filter(|field| !status[**field].is_null())
        .map(|field| ((*field).to_owned(), status[*field].clone()))
        .collect();
    let own = |entry: &Value| entry["subresource"].as_str().unwrap_or_default().is_empty();
    let managed = value["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    Live {
        uid: live.uid().unwrap_or_default(),
        exact: Exact::of(live),
        terminating: live.metadata.deletion_timestamp.as_ref().map(Time::from),
        fenced: live.finalizers().iter().any(|f| f == names::FINALIZER),
        finalizers: live.finalizers().to_vec(),
        mark: live.annotations().get(names::ANNOTATION_RECREATE).cloned(),
        in_deletion: !status["deletion"].is_null(),
        told: serde_json::from_value(status["unexpectedDelete"].clone()).ok(),
        id: value["spec"]["id"].as_str().unwrap_or_default().to_owned(),
        object: archived_form(value.clone()),
        status: Value::Object(kept),
        managed_fields: managed.into_iter().filter(own).collect(),
    }
}

async fn namespaces(ctx: &Context, key: &Key) -> Result<Vec<Namespace>> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let doing = format!("read the namespaces of {key}");
    match &key.namespace {
        Some(namespace) => Ok(api.get_opt(namespace).await.during(doing)?.into_iter().collect()),
        None => {
            let labelled =
                ListParams::default().labels(&format!("{}={}", names::LABEL_SITE, key.name));
            Ok(api.list(&labelled).await.during(doing)?.items)
        }
    }
}

async fn request(ctx: &Context, key: &Key, live: &Live, crd: CrdState) -> Result<RequestFacts> {
    if crd != CrdState::Served {
        return Ok(RequestFacts::Unavailable);
    }
    let api: Api<DeletionRequest> = Api::all(ctx.client.clone());
    let name = request_name(key.kind, &key.name, &live.uid);
    let doing = format!("read DeletionRequest {name}");
    let Some(request) = api.get_opt(&name).await.during(doing)? else {
        return Ok(RequestFacts::Absent);
    };
    if !asks_for(&request, key.kind, &live.id, &key.name, &live.uid) {
        return Ok(RequestFacts::Unavailable);
    }
    Ok(match request.status.as_ref().and_then(|s| s.state) {
        Some(RequestState::Completed) => RequestFacts::Completed,
        Some(state) if state.is_final() => RequestFacts::Kept,
        _ => RequestFacts::Open,
    })
}

async fn site_stands(
    ctx: &Context,
    name: &str,
    crd: CrdState,
    comes: impl Fn(&str) -> bool,
) -> Result<SiteStands> {
    let api: Api<Site> = Api::all(ctx.client.clone());
    let site = match crd {
        // Its Apps can be let go without it, or neither CRD could ever be gone.
        CrdState::Absent => None,
        CrdState::Served | CrdState::Terminating => {
            api.get_opt(name).await.during(format!("read Site {name}"))?
        }
    };
    let is_busy = |site: &Site| {
        let deletion = site.status.as_ref().and_then(|s| s.deletion.as_ref());
        site.meta().deletion_timestamp.is_some()
            || deletion.is_some_and(|d| d.phase == DeletionPhase::Purging)
    };
    Ok(match site {
        Some(site) if is_busy(&site) => SiteStands::Busy,
        None if comes(name) => SiteStands::Coming,
        _ => SiteStands::Steady,
    })
}
