//! What is in the world at first: Sites with all that a hold and a purge touch, requests for them,
//! and the policies that a person can put in place.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use reprieve::api::{
    Alerts, App, DeletionPolicySpec, DeletionRequest, DeletionRequestStatus, Site, Time, names,
};
use reprieve::cluster::Exact;
use reprieve::cluster::snapshots::ClaimSnapshot;
use reprieve::deletion::alerts::{Alert, Answer};
use reprieve::deletion::held::{Claim, Disk, Held, HeldKind};
use reprieve::deletion::{PolicyFacts, SiteFacts};
use serde_json::{Value, json};

/// The names of the Sites. Everything of one bears its name.
pub const SITES: [&str; 2] = ["a", "b"];
/// The names of the requests.
pub const REQUESTS: [&str; 2] = ["r0", "r1"];
/// How many seconds one tick of time is: more than the clocks may differ by (60), less than a place
/// in the ledger of purges is fresh for (120).
pub const TICK: i64 = 90;

/// So many seconds after the begin of the world.
pub fn at(seconds: i64) -> Time {
    chrono::DateTime::from_timestamp(1_650_000_000 + seconds, 0).expect("a time").into()
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A Site with one namespace, one App, one Deployment of two replicas and one claim, whose disk
/// would be deleted with it. `age` tells those apart that bore the same name.
pub fn site(index: usize, age: u8) -> SiteFacts {
    let name = SITES[index];
    let meta = |kind: &str| json!({ "name": name, "uid": format!("{kind}-{name}-{age}"), "resourceVersion": "1" });
    let mut site = json!({
        "apiVersion": names::API_VERSION, "kind": "Site", "metadata": meta("site"),
        "spec": { "id": format!("site-{name}"), "tenant": { "name": "Tenant" } },
    });
    site["metadata"]["finalizers"] = json!([names::FINALIZER]);
    let mut namespace = json!({ "metadata": meta("namespace") });
    namespace["metadata"]["labels"] = json!({ (names::LABEL_SITE): name });
    let held = |kind: &str, held_kind, namespace: Option<&str>, spec: Value| Held {
        kind: held_kind,
        namespace: namespace.map(str::to_owned),
        exact: exact(kind, name, age),
        value: json!({ "kind": kind, "metadata": { "uid": format!("{kind}-{name}-{age}") }, "spec": spec }),
        by: None,
        claim_templates: vec![],
        scratch: false,
    };
    let volume = held(
        "PersistentVolume",
        HeldKind::Volume,
        None,
        json!({ "persistentVolumeReclaimPolicy": "Delete" }),
    );
    SiteFacts {
        site: from::<Site>(site),
        namespaces: vec![from::<Namespace>(namespace)],
        apps: vec![app(index, "wiki", age)],
        backups: vec![],
        claims: vec![Claim {
            name: format!("{name}/data"),
            exact: exact("claim", name, age),
            owners: vec![],
            disk: Disk::Volume(Box::new(volume)),
            snapshot: ClaimSnapshot::None,
        }],
        held: vec![held("Deployment", HeldKind::Deployment, Some(name), json!({ "replicas": 2 }))],
        live_digest: None,
        unread: None,
        past_guard: false,
    }
}

fn exact(kind: &str, name: &str, age: u8) -> Exact {
    Exact {
        name: name.to_owned(),
        uid: format!("{kind}-{name}-{age}"),
        resource_version: "1".to_owned(),
    }
}

/// An App of a Site.
pub fn app(index: usize, product: &str, age: u8) -> App {
    let site = SITES[index];
    from(json!({
        "apiVersion": names::API_VERSION, "kind": "App",
        "metadata": {
            "name": format!("{product}-{site}"), "namespace": site,
            "uid": format!("{product}-{site}-{age}"), "resourceVersion": "1",
            "finalizers": [names::FINALIZER],
        },
        "spec": { "id": format!("{product}-{site}"), "product": product, "manifests": [{}] },
    }))
}

/// A request by `rita` for these Sites.
pub fn request(index: usize, sites: &[usize]) -> DeletionRequest {
    let name = REQUESTS[index];
    let ids: Vec<String> = sites.iter().map(|s| format!("site-{}", SITES[*s])).collect();
    from(json!({
        "apiVersion": names::API_VERSION, "kind": "DeletionRequest",
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "resourceVersion": "1", "generation": 1,
            "creationTimestamp": at(0),
            "annotations": { (names::ANNOTATION_REQUESTED_BY): "rita" },
        },
        "spec": { "target": { "kind": "Site", "ids": ids }, "reason": "contract ended" },
    }))
}

/// The policies that `default` can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// As it is at first.
    Base,
    /// More people, a longer window, longer backups.
    Stricter,
    /// Made again by who may: fewer people, a shorter window, no alerts, Development.
    Weaker,
    /// It is gone, and the built-in one holds.
    Gone,
}

/// The values of a policy, with short spans so that all of them pass in a few ticks. `base` is what
/// a scope changes in it.
pub fn spec(policy: Policy, base: &Value) -> Option<DeletionPolicySpec> {
    let mut spec = json!({
        "environment": "Production",
        "retention": { "minimumSeconds": 100, "defaultSeconds": 120, "maximumSeconds": 1000 },
        "quorum": { "approvals": 2, "expiresAfterSeconds": 300 },
        "blastRadius": { "rolling": { "windowSeconds": 100, "maxEntities": 50, "maxPercent": 100 } },
        "waves": { "pauseSeconds": 60 },
        "alerts": { "alertmanager": { "url": "http://am:9093" } },
    });
    merge(&mut spec, base);
    match policy {
        Policy::Base => {}
        Policy::Stricter => merge(
            &mut spec,
            &json!({
                "retention": { "minimumSeconds": 200 }, "quorum": { "approvals": 3 },
                "backup": { "keepSeconds": 2_800_000 },
            }),
        ),
        Policy::Weaker => {
            let limits = json!({ "maxEntities": 100, "rolling": { "maxEntities": 1000, "maxPercent": 100 } });
            spec = json!({
                "environment": "Development", "quorum": { "approvals": 1 }, "blastRadius": limits,
                "retention": { "minimumSeconds": 10, "defaultSeconds": 10, "maximumSeconds": 1000 },
            });
        }
        Policy::Gone => return None,
    }
    Some(from(spec))
}

/// The policies as they are read.
pub fn policies(policy: Policy, base: &Value) -> BTreeMap<String, PolicyFacts> {
    let uid = if policy == Policy::Weaker { "weaker" } else { "policy" };
    let name = names::DEFAULT_POLICY.to_owned();
    let facts = |spec| PolicyFacts { name: name.clone(), uid: Some(uid.to_owned()), spec };
    match spec(policy, base) {
        Some(spec) => [(name.clone(), facts(spec))].into(),
        None => {
            let built_in = PolicyFacts { uid: None, ..facts(DeletionPolicySpec::built_in()) };
            [(name, built_in)].into()
        }
    }
}

/// What the source of alerts can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// It is alive, and nothing fires.
    Clear,
    /// An alert fires for the namespaces of all Sites.
    Fires,
    /// It gives no answer.
    Down,
    /// It answers, and nobody tells it anything any more.
    Stale,
}

/// What a source answers that is asked at this time by the operator's clock, and this one by its own.
pub fn answer(
    source: Source,
    alerts: Option<&Alerts>,
    asked: i64,
    time: i64,
) -> Vec<(reprieve::api::Alertmanager, Arc<Answer>)> {
    let Some(alerts) = alerts else { return vec![] };
    let alert = |name: &str, namespace: &str, updated| Alert {
        labels: [("alertname", name), ("namespace", namespace)]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        updated: at(updated),
    };
    let told = if source == Source::Stale { time - 1000 } else { time - 30 };
    let mut all = vec![alert("Watchdog", "", told)];
    if source == Source::Fires {
        all.extend(SITES.map(|site| alert("Missing", site, time - 30)));
    }
    let answer = match source {
        Source::Down => Answer::Down("refused".to_owned()),
        Source::Clear | Source::Fires | Source::Stale => {
            Answer::Alerts { all, asked: at(asked), answered: Some(at(time)) }
        }
    };
    vec![(alerts.alertmanager.clone(), Arc::new(answer))]
}

/// A merge that overwrites.
pub fn merge(into: &mut Value, with: &Value) {
    match (into, with) {
        (Value::Object(into), Value::Object(with)) => {
            for (key, value) in with {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, with) => into.clone_from(with),
    }
}

/// A JSON merge patch, as the API server carries it out.
pub fn patch(into: &mut Value, with: &Value) {
    let Value::Object(with) = with else {
        into.clone_from(with);
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in with {
        if value.is_null() {
            into.as_object_mut().expect("an object").remove(key);
        } else {
            patch(&mut into[key], value);
        }
    }
}

/// A status without what no decision reads: words, and times that are for people. What is left out
/// would only multiply the states; `nothing_that_is_left_out_is_read` checks that it is not read.
pub fn plain(status: &DeletionRequestStatus) -> DeletionRequestStatus {
    let mut status = status.clone();
    status.message = None;
    status.completion_time = None;
    status.approvals_required = None;
    status.conditions.retain(|c| c.type_ == "Succeeded");
    for condition in &mut status.conditions {
        condition.message = String::new();
        condition.last_transition_time = at(0);
    }
    for approval in &mut status.approvals {
        approval.time = at(0);
    }
    for rejection in &mut status.rejections {
        rejection.time = at(0);
    }
    if let Some(wave) = &mut status.wave {
        wave.start_time = at(0);
    }
    let open = status.state.is_none_or(|s| !s.holds() && !s.is_final());
    if let Some(plan) = &mut status.plan {
        if !open {
            plan.planned_time = Some(at(0));
        }
        for entity in &mut plan.entities {
            entity.purged_time = entity.purged_time.map(|_| at(0));
            entity.backup = None;
        }
    }
    status
}
