//! What the tests of this room share: facts from a few words.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::digest::digest;
use super::gates::{Case, GATES, Verdict};
use super::held::{Claim, Disk, Edit, Held, HeldKind};
use super::observe::{AppFacts, Executed, Facts, OpenRequest, PolicyFacts, SiteFacts};
use super::rolling::{Entry, Ledger, RollingFacts};
use crate::api::{
    Alerts, App, Approval, Backup, ConditionType, DeletionPolicySpec, DeletionRequestStatus,
    Environment, Plan, PlanHead, RequestState, RetentionWindow, Site, Target, TargetKind, Time,
    names,
};
pub use crate::cluster::fixtures::merge;
use crate::cluster::snapshots::ClaimSnapshot;
use crate::cluster::{Exact, GuardState, Holder};

/// Some time.
pub fn at(seconds: i64) -> Time {
    chrono::DateTime::from_timestamp(1_650_000_000 + seconds, 0).unwrap().into()
}

/// A policy for Development: two people, three with override, 10 to 1000 s, by default 60.
pub fn development() -> DeletionPolicySpec {
    serde_json::from_value(json!({
        "environment": "Development",
        "retention": { "minimumSeconds": 10, "defaultSeconds": 60, "maximumSeconds": 1000 },
        "blastRadius": { "rolling": { "maxEntities": 1000, "maxPercent": 100 } },
    }))
    .unwrap()
}

/// A Site of this name with one namespace of the same name, an App `wiki` in it and a claim whose
/// disk is kept. Its id is `site-<name>`, its UID `su-<name>`.
pub fn site(name: &str) -> SiteFacts {
    site_with(name, json!({}))
}

pub fn site_with(name: &str, extra: Value) -> SiteFacts {
    let mut site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site",
        "metadata": {
            "name": name, "uid": format!("su-{name}"), "resourceVersion": "1",
            "finalizers": [names::FINALIZER],
        },
        "spec": { "id": format!("site-{name}"), "tenant": { "name": format!("Tenant {name}") } },
    });
    merge(&mut site, extra);
    SiteFacts {
        site: serde_json::from_value::<Site>(site).unwrap(),
        namespaces: vec![namespace(name, name)],
        apps: vec![app(name, "wiki")],
        backups: vec![],
        claims: vec![claim(name, "data", "Retain")],
        held: vec![workload("Deployment", name, "web", json!({ "replicas": 2 }))],
        live_digest: None,
        unread: None,
        past_guard: false,
    }
}

/// A claim of this namespace and name whose volume has this reclaim policy, and is not kept yet.
pub fn claim(namespace: &str, name: &str, reclaim_policy: &str) -> Claim {
    let spec = json!({ "persistentVolumeReclaimPolicy": reclaim_policy });
    let mut volume = workload("PersistentVolume", namespace, name, spec);
    volume.namespace = None;
    Claim {
        name: format!("{namespace}/{name}"),
        exact: Exact {
            name: name.to_owned(),
            uid: format!("cu-{namespace}-{name}"),
            resource_version: "1".to_owned(),
        },
        owners: vec![],
        disk: Disk::Volume(Box::new(volume)),
        snapshot: ClaimSnapshot::None,
    }
}

/// Somebody sets the reclaim policy of the volume of a Site's first claim.
pub fn reclaim(live: &mut SiteFacts, policy: &str) {
    if let Disk::Volume(volume) = &mut live.claims[0].disk {
        volume.value["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
        volume.exact.resource_version = format!("{policy}-{}", volume.exact.resource_version);
    }
}

/// A live object that a hold changes.
pub fn workload(kind: &str, namespace: &str, name: &str, spec: Value) -> Held {
    let uid = format!("wu-{namespace}-{name}");
    Held {
        kind: match kind {
            "Deployment" => HeldKind::Deployment,
            "StatefulSet" => HeldKind::StatefulSet,
            "ReplicaSet" => HeldKind::ReplicaSet,
            "CronJob" => HeldKind::CronJob,
            "PersistentVolume" => HeldKind::Volume,
            "VolumeSnapshotContent" => HeldKind::SnapshotContent,
            _ => HeldKind::RunsOn,
        },
        namespace: Some(namespace.to_owned()),
        exact: Exact { name: name.to_owned(), uid: uid.clone(), resource_version: "1".to_owned() },
        value: json!({ "kind": kind, "metadata": { "uid": uid }, "spec": spec }),
        by: Some("argocd".to_owned()),
        claim_templates: vec![],
        scratch: false,
    }
}

/// Carries an edit out, as the API server would.
pub fn edited(held: &mut Held, edit: &Edit) {
    patch(&mut held.value, &edit.patch);
}

/// A JSON merge patch.
fn patch(into: &mut Value, with: &Value) {
    let Value::Object(with) = with else {
        *into = with.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in with {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            patch(&mut into[key], value);
        }
    }
}

pub fn namespace(site: &str, name: &str) -> k8s_openapi::api::core::v1::Namespace {
    serde_json::from_value(json!({ "metadata": {
        "name": name, "uid": format!("nu-{name}"), "resourceVersion": "1",
        "labels": { (names::LABEL_SITE): site },
    } }))
    .unwrap()
}

pub fn app(namespace: &str, name: &str) -> App {
    serde_json::from_value(json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "App",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("au-{namespace}-{name}"),
            "resourceVersion": "1", "finalizers": [names::FINALIZER],
        },
        "spec": { "id": format!("app-{namespace}-{name}"), "product": name, "manifests": [{}] },
    }))
    .unwrap()
}

/// A verified Backup of a Site of this name for the request `ru`, kept for 60 days from `at(0)`.
pub fn backup(site: &str, n: usize, extra: Value) -> Backup {
    let mut backup = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup",
        "metadata": { "name": format!("{site}-{n}"), "uid": format!("bu-{site}-{n}"), "resourceVersion": "1" },
        "spec": {
            "siteRef": { "name": site, "uid": format!("su-{site}"), "id": format!("site-{site}") },
            "purpose": "BeforeDeletion",
            "keepUntilTime": at(60 * 86_400),
        },
        "status": {
            "location": format!("sites/site-{site}/{n}"), "digest": "sha256:content", "objects": 3,
            "conditions": [condition("Succeeded", "True", ""), condition("Verified", "True", "")],
        },
    });
    merge(&mut backup, extra);
    serde_json::from_value(backup).unwrap()
}

pub fn condition(type_: &str, status: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": "Verified", "message": message,
        "lastTransitionTime": at(0),
    })
}

/// A request by `rita` for these Sites, which live under the policy `default` for Development. The
/// guard is in place.
pub fn facts(sites: &[&str]) -> Facts {
    let ids: Vec<String> = sites.iter().map(|name| format!("site-{name}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut facts = asking(TargetKind::Site, &ids, json!({}));
    for name in sites {
        add(&mut facts, site(name));
    }
    facts
}

/// A request with this spec, in an empty world.
pub fn asking(kind: TargetKind, ids: &[&str], extra: Value) -> Facts {
    let mut request = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest",
        "metadata": {
            "name": "r", "uid": "ru", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": at(0), "finalizers": [names::FINALIZER],
            "annotations": { (names::ANNOTATION_REQUESTED_BY): "rita" },
        },
        "spec": { "target": { "kind": kind, "ids": ids }, "reason": "contract ended" },
    });
    merge(&mut request, extra);
    let policy =
        PolicyFacts { name: "default".to_owned(), uid: Some("pu".to_owned()), spec: development() };
    Facts {
        request: serde_json::from_value(request).unwrap(),
        holders: Default::default(),
        sites: BTreeMap::new(),
        apps: BTreeMap::new(),
        policies: [("default".to_owned(), policy)].into(),
        others: vec![],
        guard: GuardState { problems: vec![], fingerprint: "g1".to_owned() },
        alerts: vec![],
        rolling: RollingFacts { ledger: Ledger::Missing(None), fleet: 1000 },
        last_drill: None,
        api_time: at(0),
        executed: Executed::No,
    }
}

/// Adds a Site and who holds its id.
pub fn add(facts: &mut Facts, site: SiteFacts) {
    let holder = Holder {
        kind: TargetKind::Site,
        name: site.site.name_any(),
        namespace: None,
        uid: site.uid(),
    };
    facts.holders.entry(site.site.spec.id.clone()).or_default().push(holder);
    facts.sites.insert(site.site.name_any(), site);
}

pub fn other(name: &str, created: Time, kind: TargetKind, ids: &[&str]) -> OpenRequest {
    OpenRequest {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        created: Some(created),
        target: Target { kind, ids: ids.iter().map(|id| (*id).to_owned()).collect() },
    }
}

pub fn policy(facts: &mut Facts) -> &mut DeletionPolicySpec {
    &mut facts.policies.get_mut("default").unwrap().spec
}

pub fn production() -> DeletionPolicySpec {
    DeletionPolicySpec { environment: Environment::Production, ..DeletionPolicySpec::built_in() }
}

pub fn annotate(facts: &mut Facts, key: impl Into<String>, value: impl Into<String>) {
    facts.request.annotations_mut().insert(key.into(), value.into());
}

/// What `kubectl annotate` of an approver leaves.
pub fn approve(facts: &mut Facts, user: &str, digest: &str) {
    annotate(
        facts,
        format!("{}{}", names::APPROVAL_PREFIX, user.replace(':', "-")),
        format!("{digest} {user}"),
    );
}

/// Decides, and takes the status over.
pub fn step(facts: &mut Facts, now: Time) -> Decision {
    facts.api_time = now;
    let decision = decide(facts, now);
    facts.request.status = Some(decision.status.clone());
    decision
}

/// The digest of the plan as the status has it.
pub fn plan_digest(facts: &Facts) -> String {
    facts.request.status.as_ref().unwrap().plan.as_ref().unwrap().digest.clone().unwrap()
}

pub fn state(decision: &Decision) -> RequestState {
    decision.status.state.unwrap()
}

pub fn reason(status: &DeletionRequestStatus, type_: ConditionType) -> &str {
    status.conditions.iter().find(|c| c.type_ == type_.as_str()).map_or("", |c| &c.reason)
}

/// A request for these Sites, all of them backed up, held and approved by Ann and Bob, its window
/// over: everything is open at `at(1000)`. Then whatever a test takes away.
#[derive(Clone)]
pub struct Gated {
    pub facts: Facts,
    pub plan: Plan,
    pub head: PlanHead,
    pub state: RequestState,
    pub approvals: Vec<Approval>,
    pub retention: Option<RetentionWindow>,
    pub now: Time,
}

impl Gated {
    pub fn new(sites: &[&str]) -> Self {
        let mut facts = facts(sites);
        step(&mut facts, at(0));
        let mut plan = facts.request.status.as_ref().unwrap().plan.clone().unwrap();
        for entity in &mut plan.entities {
            entity.wave = Some(1);
        }
        for (name, live) in &mut facts.sites {
            live.backups = vec![backup(name, 1, json!({}))];
            live.live_digest = Some("sha256:content".to_owned());
            hold(live, "ru", "Held");
            keep(live, "ru");
        }
        facts.api_time = at(1000);
        let mut gated = Self {
            facts,
            head: plan.head.clone().unwrap(),
            plan,
            state: RequestState::Purging,
            approvals: vec![],
            retention: Some(RetentionWindow { start_time: at(100), end_time: at(160) }),
            now: at(1000),
        };
        gated.approved_by(&["ann", "bob"]);
        gated.reserved(sites, 990);
        gated
    }

    /// The ledger has a place for each of these, written then.
    pub fn reserved(&mut self, sites: &[&str], time: i64) {
        let entry = |site: &&str| Entry {
            time: at(time),
            kind: TargetKind::Site,
            entity_uid: format!("su-{site}"),
            request_uid: "ru".to_owned(),
            request: "r".to_owned(),
        };
        let entries = sites.iter().map(entry).collect();
        self.facts.rolling.ledger = Ledger::Read(ledger(1), entries);
    }

    /// These approvals of the digest of the plan as it is now.
    pub fn approved_by(&mut self, people: &[&str]) {
        self.plan.digest = Some(digest(&self.head, &self.plan.entities));
        let digest = self.plan.digest.clone().unwrap();
        let approval = |user: &&str| Approval {
            user: (*user).to_owned(),
            digest: digest.clone(),
            time: at(1),
        };
        self.approvals = people.iter().map(approval).collect();
    }

    pub fn case(&self) -> Case<'_> {
        Case {
            facts: &self.facts,
            plan: &self.plan,
            head: &self.head,
            state: self.state,
            approvals: &self.approvals,
            remarks: "",
            retention: self.retention.clone(),
            now: self.now,
        }
    }

    pub fn gate(&self, type_: ConditionType) -> Verdict {
        let (_, gate) = GATES.into_iter().find(|(t, _)| *t == type_).unwrap();
        gate(&self.case())
    }

    pub fn live(&mut self, name: &str) -> &mut SiteFacts {
        self.facts.sites.get_mut(name).unwrap()
    }

    /// The facts as the room would read them, with the status of this request.
    pub fn into_facts(self) -> Facts {
        let mut facts = self.facts;
        let mut plan = self.plan;
        plan.head = Some(self.head);
        facts.request.status = Some(DeletionRequestStatus {
            observed_generation: Some(1),
            state: Some(self.state),
            plan: Some(plan),
            approvals: self.approvals,
            retention: self.retention,
            ..Default::default()
        });
        facts
    }
}

/// A source of alerts at `http://am:9093`, with these fields besides.
pub fn alerts(extra: Value) -> Alerts {
    let mut alerts = json!({ "alertmanager": { "url": "http://am:9093" } });
    merge(&mut alerts, extra);
    serde_json::from_value(alerts).unwrap()
}

/// The ledger of purges at this version.
pub fn ledger(version: u64) -> Exact {
    Exact { name: names::LEDGER.into(), uid: "lu".into(), resource_version: version.to_string() }
}

/// The mark of this request on a Site.
pub fn hold(live: &mut SiteFacts, request_uid: &str, phase: &str) {
    let status = json!({ "deletion": {
        "requestRef": { "name": "r" }, "requestUid": request_uid, "phase": phase,
    } });
    live.site.status = serde_json::from_value(status).unwrap();
}

/// Keeps every disk of a Site, as the hold of this request does.
pub fn keep(live: &mut SiteFacts, request_uid: &str) {
    let site = live.site.name_any();
    for claim in &mut live.claims {
        if let Disk::Volume(volume) = &mut claim.disk {
            while let Some(edit) = volume.keep(request_uid, &site) {
                edited(volume, &edit);
            }
        }
    }
}

/// A request by `rita` for the App `wiki` of a Site of this name, which has applied a Deployment
/// and a ConfigMap, and once another ConfigMap.
pub fn app_facts(site_name: &str, extra: Value) -> Facts {
    let id = format!("app-{site_name}-wiki");
    let mut facts = asking(TargetKind::App, &[&id], extra);
    let site = site(site_name);
    let mut app = json!(site.apps[0]);
    let object = |api_version: &str, kind: &str, name: &str, uid: String| json!({ "apiVersion": api_version, "kind": kind, "name": name, "uid": uid });
    let mut orphan = object("v1", "ConfigMap", "old", "mu-old".into());
    orphan["orphaned"] = json!(true);
    app["status"] = json!({ "objects": [
        object("v1", "ConfigMap", "wiki", "mu-wiki".into()),
        orphan,
        object("apps/v1", "Deployment", "web", format!("wu-{site_name}-web")),
    ] });
    let holder = Holder {
        kind: TargetKind::App,
        name: "wiki".to_owned(),
        namespace: Some(site_name.to_owned()),
        uid: format!("au-{site_name}-wiki"),
    };
    facts.holders.insert(id, vec![holder]);
    let key = (site_name.to_owned(), "wiki".to_owned());
    let app = AppFacts {
        app: serde_json::from_value(app).unwrap(),
        site: site_name.to_owned(),
        objects: vec![],
        live_digest: None,
        archived_digest: None,
        unread: None,
        past_guard: false,
    };
    facts.apps.insert(key, app);
    facts.sites.insert(site_name.to_owned(), site);
    facts
}
