//! F5, F8 and I8 of the fault list for a fleet: dozens of sites that are gone come back at once,
//! poisoned ones among them, through kills of the operator and of the API server and with the store
//! away; a Restore is cancelled, and one is deleted, and another goes on. Users act with kubectl,
//! the operator runs as its own process under its own account, the guard is in force. The oracle is
//! the API server's audit log and what is there in the end.
//!
//! One cluster serves all steps; each begins with a fleet that is whole and loses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use reprieve::api::names::{self, OPERATOR_USER};
use reprieve::api::{Restore, Site};
use reprieve::sandbox::audit::{AuditLog, AuditRecord};
use reprieve::sandbox::binaries::Program;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

use crate::user::{User, condition, expect, expect_condition, http};

const SITES: usize = 60;
/// Objects of a site that the test makes; the operator makes two more.
const OBJECTS: usize = 8;
/// How long a fleet may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(400);

struct Stage {
    sandbox: Sandbox,
    operator: Operator,
    admin: User,
    client: Client,
}

fn name(site: usize) -> String {
    format!("fleet-{site:02}")
}

fn all() -> Vec<String> {
    (0..SITES).map(name).collect()
}

fn objects(site: &str) -> Vec<(&'static str, Value)> {
    let rbac = "rbac.authorization.k8s.io/v1";
    let object = |api: &str, kind: &str, name: &str, rest: Value| {
        let mut object = rest;
        object["apiVersion"] = json!(api);
        object["kind"] = json!(kind);
        object["metadata"] = json!({ "name": name, "namespace": site });
        object
    };
    let data = json!({ "data": { "site": site } });
    vec![
        ("api/v1/configmaps", object("v1", "ConfigMap", "one", data.clone())),
        ("api/v1/configmaps", object("v1", "ConfigMap", "two", data.clone())),
        ("api/v1/configmaps", object("v1", "ConfigMap", "three", data.clone())),
        ("api/v1/configmaps", object("v1", "ConfigMap", "four", data)),
        ("api/v1/secrets", object("v1", "Secret", "one", json!({ "data": { "a": "Yg==" } }))),
        ("api/v1/serviceaccounts", object("v1", "ServiceAccount", "shop", json!({}))),
        (
            "api/v1/services",
            object("v1", "Service", "web", json!({ "spec": { "ports": [{ "port": 80 }] } })),
        ),
        (
            "apis/rbac.authorization.k8s.io/v1/roles",
            object(rbac, "Role", "shop", json!({ "rules": [] })),
        ),
    ]
}

async fn post(client: &Client, path: String, object: Value) {
    let request = http::Request::post(&path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .expect("a request");
    let answer = client.request::<Value>(request).await;
    answer.unwrap_or_else(|error| panic!("POST {path}: {error}"));
}

async fn in_parallel(all: impl Iterator<Item = impl Future<Output = ()>>) {
    stream::iter(all).buffer_unordered(16).collect::<()>().await;
}

fn restore(name: &str, parallelism: i32) -> Value {
    let refs: Vec<Value> = all().iter().map(|site| json!({ "name": site })).collect();
    json!({
        "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": name},
        "spec": {"source": {"backupRefs": refs}, "parallelism": parallelism},
    })
}

/// Creates by the operator that were answered with that code, events aside.
fn creates(records: &[AuditRecord], code: u16) -> impl Iterator<Item = &AuditRecord> {
    records.iter().filter(move |r| {
        let ours = r.user.name == OPERATOR_USER && r.verb == "create" && r.code == code;
        ours && r.resource != "events" && r.stage == "ResponseComplete" && !r.dry_run
    })
}

impl Stage {
    async fn start() -> Option<Self> {
        let sandbox = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await?;
        sandbox.install().await.expect("it can be installed");
        let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
        Some(Self { admin: User::admin(&sandbox), client: sandbox.admin(), operator, sandbox })
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn sites(&self) -> BTreeMap<String, Value> {
        // The API server may be on its way up again.
        loop {
            if let Ok(all) =
                Api::<Site>::all(self.client.clone()).list(&ListParams::default()).await
            {
                return all.into_iter().map(|site| (site.name_any(), json!(site))).collect();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn restore(&self, name: &str) -> Value {
        loop {
            let api = Api::<Restore>::all(self.client.clone());
            if let Ok(live) = api.get_opt(name).await {
                return json!(live);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The Restore, once it has ended.
    async fn ended(&self, name: &str) -> Value {
        let begun = Instant::now();
        loop {
            let live = self.restore(name).await;
            if !live["status"]["completionTime"].is_null() {
                return live;
            }
            let status = &live["status"];
            assert!(begun.elapsed() < PATIENCE, "Restore {name} does not end: {status}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everybody is there and in service, with all objects.
    async fn whole(&self, when: &str) {
        self.until(&format!("{when}: every site Active"), async |stage| {
            let sites = stage.sites().await;
            all().iter().all(|name| {
                let Some(live) = sites.get(name) else { return false };
                live["status"]["state"] == "Active"
                    && live["metadata"]["annotations"][names::ANNOTATION_RESTORE].is_null()
            })
        })
        .await;
        let maps = Api::<ConfigMap>::all(self.client.clone());
        let maps = maps.list(&ListParams::default().match_any()).await.expect("ConfigMaps");
        let ours = maps.iter().filter(|m| {
            let site = m.data.as_ref().and_then(|data| data.get("site"));
            site == m.metadata.namespace.as_ref() && site.is_some()
        });
        assert_eq!(ours.count(), 4 * SITES, "{when}: ConfigMaps");
    }

    /// Takes the guard away, deletes the whole fleet, and puts the guard back. Meanwhile no operator
    /// runs: the loss happened while nobody looked.
    async fn lose(&mut self) {
        self.operator.process_mut().kill().expect("it is killed");
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        for binding in bindings.list(&ListParams::default()).await.expect("bindings") {
            let name = binding.name_any();
            if name.starts_with("reprieve-") {
                bindings.delete(&name, &DeleteParams::default()).await.expect("deleted");
            }
        }
        let sites: Api<Site> = Api::all(self.client.clone());
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        let there = self.sites().await;
        in_parallel(there.keys().map(|name| {
            let (sites, namespaces, free) = (&sites, &namespaces, &free);
            async move {
                let begun = Instant::now();
                // The API server takes a moment until it goes by what is there.
                while let Err(error) = sites.patch(name, &PatchParams::default(), free).await {
                    assert!(begun.elapsed() < PATIENCE, "{error}");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                while let Err(error) = sites.delete(name, &DeleteParams::default()).await {
                    assert!(begun.elapsed() < PATIENCE, "{error}");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                loop {
                    match namespaces.delete(name, &DeleteParams::background()).await {
                        Ok(_) => break,
                        Err(kube::Error::Api(status)) if status.code == 404 => break,
                        Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }))
        .await;
        let stuck = |n: &Namespace| n.name_any() == name(STUCK);
        self.until("the fleet is gone", async |_| {
            let left = namespaces.list(&ListParams::default()).await.expect("namespaces");
            !left.iter().any(|n| n.name_any().starts_with("fleet-") && !stuck(n))
        })
        .await;
        self.sandbox.install().await.expect("the guard is back");
        self.operator.process_mut().restart().expect("it starts");
        self.operator.wait_until_ready().await.expect("it is ready");
    }

    /// Waits until the operator has created so many objects since then.
    async fn created(&self, log: &mut Vec<AuditRecord>, audit: &mut AuditLog, number: usize) {
        self.until(&format!("{number} objects created"), async |_| {
            log.extend(audit.read().expect("an audit log"));
            creates(log, 201).count() >= number
        })
        .await;
    }
}

/// Sites that are poisoned, and with what.
const DAMAGED: usize = 3;
const NO_KIND: usize = 7;
const REJECTED: usize = 11;
const STUCK: usize = 13;

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_comes_back() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    set_up(&stage).await;
    step("a fleet, backed up");
    poisoned(&mut stage).await;
    step("restored, poisoned sites among them");
    killed(&mut stage).await;
    step("restored through two kills of the operator");
    away(&mut stage).await;
    step("restored through kills of the API server, and with the store away");
    cancelled(&mut stage).await;
    step("cancelled, deleted, and finished by another Restore");
    stage.sandbox.stop().expect("nothing is left");
}

fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.invalid"},
        "spec": {
            "group": "example.invalid", "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

async fn set_up(stage: &Stage) {
    let client = &stage.client;
    in_parallel((0..SITES).map(|site| async move {
        let entity = json!({
            "apiVersion": names::API_VERSION, "kind": "Site", "metadata": {"name": name(site)},
            "spec": {"id": format!("id-{site}"), "tenant": {"name": "A tenant"}, "priority": site * 10},
        });
        post(client, "/apis/reprieve.dev/v1alpha1/sites".to_owned(), entity).await;
    }))
    .await;
    stage
        .until("every site Active", async |stage| {
            let sites = stage.sites().await;
            sites.len() == SITES && sites.values().all(|live| live["status"]["state"] == "Active")
        })
        .await;
    let create = |(path, object): (&str, Value)| {
        let namespace = object["metadata"]["namespace"].as_str().expect("a namespace").to_owned();
        let (root, plural) = path.rsplit_once('/').expect("a plural");
        post(client, format!("/{root}/namespaces/{namespace}/{plural}"), object)
    };
    let all: Vec<_> = all().iter().flat_map(|site| objects(site)).collect();
    assert_eq!(all.len(), SITES * OBJECTS);
    in_parallel(all.into_iter().map(create)).await;
    stage.admin.create(&widgets()).worked();
    let established = "wait --for=condition=Established crd/widgets.example.invalid --timeout=60s";
    stage.admin.kubectl(established).worked();
    let widget = json!({
        "apiVersion": "example.invalid/v1", "kind": "Widget",
        "metadata": {"name": "one", "namespace": name(NO_KIND)},
    });
    stage.admin.create(&widget).worked();
    let poison = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
        "metadata": {"name": "poison", "namespace": name(REJECTED)},
    });
    stage.admin.create(&poison).worked();
    in_parallel((0..SITES).map(|site| async move {
        let backup = json!({
            "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": name(site)},
            "spec": {"siteRef": {"name": name(site)}},
        });
        post(client, "/apis/reprieve.dev/v1alpha1/backups".to_owned(), backup).await;
    }))
    .await;
    stage.admin.kubectl("wait --for=condition=Verified bkp --all --timeout=300s").worked();
}

/// F8: what is wrong with four sites is told of each, and holds up none of the others.
async fn poisoned(stage: &mut Stage) {
    // Something that is not in the backup holds a namespace.
    let stuck = name(STUCK);
    let held = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": stuck, "finalizers": ["example.invalid/held"]},
    });
    stage.admin.create(&held).worked();
    stage.lose().await;
    let location = stage.admin.get(&format!("bkp {}", name(DAMAGED)))["status"]["location"].clone();
    let archive = stage.sandbox.store_dir().join(location.as_str().expect("a location"));
    let good = fs::read(&archive).expect("an archive");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0xff;
    fs::write(&archive, bad).expect("it can be written");
    stage.admin.kubectl("delete crd widgets.example.invalid").worked();
    let refuses = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-poison"},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "request.name != 'poison'", "message": "no poison here"}],
        },
    });
    stage.admin.create(&refuses).worked();
    stage.admin.create(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-poison"},
        "spec": {"policyName": "no-poison", "validationActions": ["Deny"]},
    })).worked();
    let mut audit = stage.sandbox.audit_from_now().expect("an audit log");
    // Two slots, and one site that waits: it must not take one of them for good.
    stage.admin.create(&restore("poisoned", 2)).worked();
    stage
        .until("all but the poisoned sites verified", async |stage| {
            let live = stage.restore("poisoned").await;
            let sites = &live["status"]["sites"];
            lies_ahead(&live);
            assert!(
                live["status"]["completionTime"].is_null(),
                "one site waits: {}",
                live["status"]
            );
            sites["verified"] == SITES - 4 && sites["failed"] == 3
        })
        .await;
    let live = stage.restore("poisoned").await;
    expect_condition(&live, "Succeeded", &["Unknown StillTerminating", &stuck]);
    let basis = &live["status"]["estimateBasis"];
    // It is some seconds old.
    assert!(basis["sitesOfThisRun"].as_u64() >= Some(SITES as u64 / 3), "{basis}");
    assert!(lies_ahead(&live), "an estimate, with so many sites done: {}", live["status"]);
    let failures = live["status"]["failures"].as_array().cloned().unwrap_or_default();
    let reasons: BTreeSet<(String, String)> = failures
        .iter()
        .map(|f| {
            let word = |field: &str| f[field].as_str().unwrap_or_default().to_owned();
            (word("site"), word("reason"))
        })
        .collect();
    let expected = [
        (name(DAMAGED), "ArchiveInvalid".to_owned()),
        (name(NO_KIND), "KindMissing".to_owned()),
        (name(REJECTED), "CreateFailed".to_owned()),
    ];
    assert_eq!(reasons, BTreeSet::from(expected), "{failures:?}");
    for (site, word) in [(NO_KIND, "Widget"), (REJECTED, "no poison here")] {
        let live = stage.admin.until(&format!("site {}", name(site)), "why it stopped", |live| {
            live["status"]["state"] == "AwaitingRestore"
        });
        expect_condition(&live, "Ready", &["False RestoreStopped", word, "kubectl create -f -"]);
    }

    let records = audit.read().expect("an audit log");
    all_sites_first(&records);
    // What is in the way goes, and the site comes back by itself.
    let free = r#"{"metadata":{"finalizers":null}}"#;
    let patch = ["patch", "configmap", "held", "-n", &stuck, "--type=merge", "-p", free];
    stage.admin.run(&patch, "").worked();
    let live = stage.ended("poisoned").await;
    assert_eq!(live["status"]["sites"]["verified"], SITES - 3, "{}", live["status"]);
    for field in ["estimatedCompletionTime", "noLaterThanTime", "estimateBasis", "stages"] {
        assert!(live["status"][field].is_null(), "it has ended: {}", live["status"]);
    }
    let (_, text) = http(stage.operator.listen(), "/metrics").expect("metrics");
    let created =
        text.lines().find_map(|l| l.strip_prefix("reprieve_restore_objects_created_total "));
    let created: usize = created.and_then(|n| n.parse().ok()).expect("a number");
    assert!(created > (SITES - 4) * (OBJECTS + 3), "objects created, by the metrics: {created}");

    // The causes are removed, and another Restore goes on with the three.
    fs::write(&archive, good).expect("it can be written");
    stage.admin.kubectl("delete validatingadmissionpolicybinding no-poison").worked();
    stage.admin.create(&widgets()).worked();
    let refs = [DAMAGED, NO_KIND, REJECTED].map(|site| json!({ "name": name(site) }));
    let begun = Instant::now();
    for n in 0.. {
        let again = format!("again-{n}");
        stage
            .admin
            .create(&json!({
                "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": again},
                "spec": {"source": {"backupRefs": refs}},
            }))
            .worked();
        let live = stage.ended(&again).await;
        let failures = live["status"]["failures"].as_array().cloned().unwrap_or_default();
        // A site that is back is left alone by the next one.
        if failures.iter().all(|failure| failure["reason"] == "SiteLives") {
            break;
        }
        // What was discovered of the cluster's kinds, and its policies, are remembered for a while.
        assert!(begun.elapsed() < PATIENCE, "{}", live["status"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    stage.whole("after the poison").await;
}

/// Whether the Restore says when it will have ended. What it says has not passed.
fn lies_ahead(live: &Value) -> bool {
    let status = &live["status"];
    let time = |field: &str| {
        let text = status[field].as_str()?;
        Some(chrono::DateTime::parse_from_rfc3339(text).expect("a time").to_utc())
    };
    let (expected, no_later) = (time("estimatedCompletionTime"), time("noLaterThanTime"));
    assert!(expected <= no_later, "{status}");
    // What was read may be as old as one write of the progress takes.
    let now = chrono::Utc::now() - chrono::TimeDelta::seconds(10);
    assert!(expected.is_none_or(|expected| expected > now), "at {now}: {status}");
    expected.is_some()
}

/// Every Site was created before the first namespace, and each was told one place of its own before
/// the first object; the order of places is the one that is promised.
fn all_sites_first(records: &[AuditRecord]) {
    let of = |resource: &'static str| {
        creates(records, 201).filter(move |r| r.resource == resource).map(|r| r.time)
    };
    assert_eq!(of("sites").count(), SITES - 1, "Sites created; the damaged one is not");
    assert!(of("sites").max() <= of("namespaces").min(), "all Sites first");
    let mut places = BTreeMap::new();
    let mut writes = 0;
    for record in records.iter().filter(|r| r.user.name == OPERATOR_USER && r.resource == "sites") {
        let said = &record.request["status"]["restore"];
        writes += usize::from(record.is_write() && record.is_carried_out());
        if let (Some(place), Some(places_of)) = (said["place"].as_i64(), said["places"].as_i64()) {
            assert_eq!(places_of, i64::try_from(SITES - 1).unwrap(), "{}", record.name);
            assert!(Some(record.time) <= of("namespaces").min(), "places before the first object");
            assert!(places.insert(place, record.name.clone()).is_none(), "place {place} twice");
        }
    }
    assert_eq!(places.len(), SITES - 1, "places");
    // Priorities grow with the number of the site; every fourth place goes to the other end.
    let mut left: Vec<String> = all().into_iter().filter(|site| *site != name(DAMAGED)).collect();
    for (place, site) in places {
        let expected = if place % 4 == 0 { left.remove(0) } else { left.pop().unwrap() };
        assert_eq!(site, expected, "place {place}");
    }
    // POST, state, place, release, mark, state again: and not one for each object.
    eprintln!("         writes of Sites for each site: {:.1}", writes as f64 / SITES as f64);
    assert!(writes <= 9 * SITES, "writes of Sites: {writes}");
}

/// I8: killed twice on the way, it goes on where it was.
async fn killed(stage: &mut Stage) {
    stage.lose().await;
    let mut audit = stage.sandbox.audit_from_now().expect("an audit log");
    let mut log = vec![];
    stage.admin.create(&restore("killed", 8)).worked();
    let total = SITES * (OBJECTS + 4);
    for part in [3, 2] {
        stage.created(&mut log, &mut audit, total / part).await;
        // What earlier Restores took is known from the store.
        let live = stage.restore("killed").await;
        let basis = &live["status"]["estimateBasis"];
        assert!(basis["sitesOfEarlierRuns"].as_i64() >= Some(40), "{}", live["status"]);
        assert!(lies_ahead(&live), "an estimate from the first second: {}", live["status"]);
        let stages = live["status"]["stages"].as_array().map_or(0, Vec::len);
        assert_eq!(stages, 4, "{}", live["status"]);
        let sites = stage.sites().await;
        let waits = |site: &&Value| site["status"]["restore"]["stage"] == "Queued";
        let queued: Vec<&Value> = sites.values().filter(waits).collect();
        let told = queued.iter().filter(|site| {
            let restore = &site["status"]["restore"];
            restore["estimatedCompletionTime"].as_str() <= restore["noLaterThanTime"].as_str()
                && restore["estimatedCompletionTime"].is_string()
        });
        assert!(!queued.is_empty(), "none is queued any more");
        assert_eq!(told.count(), queued.len(), "each says when it will be back: {queued:?}");
        stage.operator.process_mut().kill().expect("it is killed");
        stage.operator.process_mut().restart().expect("it starts");
        stage.operator.wait_until_ready().await.expect("it is ready");
    }
    let live = stage.ended("killed").await;
    expect_condition(&live, "Succeeded", &["True Verified", "60 of 60 sites verified"]);
    stage.whole("after the kills").await;
    log.extend(audit.read().expect("an audit log"));
    let made = creates(&log, 201).count();
    // A controller makes the default account, and may be faster: that is no repetition.
    let again = creates(&log, 409)
        .filter(|r| r.resource != "serviceaccounts" || !["", "default"].contains(&&*r.name))
        .count();
    // What is said of a Site once, and said again.
    let mut said: BTreeMap<(String, String), usize> = BTreeMap::new();
    for record in &log {
        let place = &record.request["status"]["restore"]["place"];
        let last = &record.request["status"]["lastRestore"];
        for (what, value) in [("place", place), ("released", last)] {
            if record.user.name == OPERATOR_USER && record.is_carried_out() && !value.is_null() {
                *said.entry((record.name.clone(), what.to_owned())).or_default() += 1;
            }
        }
    }
    let repeated: usize = said.values().map(|n| n - 1).sum::<usize>() + again;
    let writes = made + said.len();
    eprintln!("         writes repeated: {repeated} ({again} answered 409) of {writes}");
    // Of one that was on its way at a kill the API server may log no success, and have done it.
    let tried = |site: &str, what: &str| {
        log.iter().filter(|r| r.resource == "sites" && r.name == site).any(|r| {
            let status = &r.request["status"];
            let of =
                if what == "place" { &status["restore"]["place"] } else { &status["lastRestore"] };
            !of.is_null()
        })
    };
    let silent: Vec<String> = all()
        .into_iter()
        .flat_map(|site| ["place", "released"].map(|what| (site.clone(), what.to_owned())))
        .filter(|what| !said.contains_key(what) && !tried(&what.0, &what.1))
        .map(|(site, what)| {
            let of = log.iter().filter(|r| r.resource == "sites" && r.name == site && r.is_write());
            let of: Vec<_> = of.map(|r| (&r.verb, &r.subresource, r.code, &r.request)).collect();
            format!("{site} {what}: {of:?}")
        })
        .collect();
    assert!(silent.is_empty(), "each site has one place and is released: {silent:?}");
    assert!(repeated * 20 <= writes, "repeated: {repeated} of {writes}");
}

/// F5: the API server is killed twice, and the store is away for a while.
async fn away(stage: &mut Stage) {
    stage.lose().await;
    let mut audit = stage.sandbox.audit_from_now().expect("an audit log");
    let mut log = vec![];
    let (store, aside) = (stage.sandbox.store_dir(), stage.sandbox.dir().join("aside"));
    fs::rename(&store, &aside).expect("the store goes");
    stage.admin.create(&restore("away", 8)).worked();
    stage
        .until("the store missed", async |stage| {
            let live = stage.restore("away").await;
            let said = condition(&live, "Succeeded");
            assert!(live["status"]["completionTime"].is_null(), "it waits: {said}");
            said.contains("StoreUnavailable")
        })
        .await;
    fs::rename(&aside, &store).expect("the store is back");
    let total = SITES * (OBJECTS + 4);
    for part in [4, 2] {
        stage.created(&mut log, &mut audit, total / part).await;
        let server = stage.sandbox.process(Program::ApiServer).expect("an API server");
        server.kill().expect("it is killed");
        server.restart().expect("it starts");
        if part == 2 {
            // Sites that are begun read their archive from it.
            fs::rename(&store, &aside).expect("the store goes");
            tokio::time::sleep(Duration::from_secs(3)).await;
            fs::rename(&aside, &store).expect("the store is back");
        }
    }
    let live = stage.ended("away").await;
    expect_condition(&live, "Succeeded", &["True Verified", "60 of 60 sites verified"]);
    stage.whole("after everything was away").await;
}

/// A Restore that is cancelled stops within seconds and says what is there; one that is deleted
/// too; and others finish their work.
async fn cancelled(stage: &mut Stage) {
    stage.lose().await;
    let mut audit = stage.sandbox.audit_from_now().expect("an audit log");
    let mut log = vec![];
    stage.admin.create(&restore("cancelled", 2)).worked();
    let total = SITES * (OBJECTS + 4);
    stage.created(&mut log, &mut audit, SITES + total / 4).await;
    let begun = Instant::now();
    let cancel = r#"{"spec":{"cancel":true}}"#;
    stage.admin.run(&["patch", "rst", "cancelled", "--type=merge", "-p", cancel], "").worked();
    let live = stage.ended("cancelled").await;
    let took = begun.elapsed();
    eprintln!("         ended {:.1} s after the cancel", took.as_secs_f64());
    assert!(took < Duration::from_secs(30), "ended {took:?} after the cancel");
    expect_condition(&live, "Succeeded", &["False CancelledByUser"]);
    let number = |field: &str| live["status"]["sites"][field].as_u64().unwrap() as usize;
    let (verified, failed) = (number("verified"), number("failed"));
    assert!(verified > 0 && failed > 0 && verified + failed == SITES, "{}", live["status"]);
    for failure in live["status"]["failures"].as_array().expect("failures") {
        expect("reason", "CancelledByUser", &failure["reason"], failure);
    }
    // Not one object after that.
    log.extend(audit.read().expect("an audit log"));
    let made = creates(&log, 201).count();
    let mut stopped = vec![];
    stage
        .until("each site says where it stands", async |stage| {
            let sites = stage.sites().await;
            let in_state =
                |state: &str| sites.values().filter(|s| s["status"]["state"] == state).count();
            in_state("Active") == verified && in_state("AwaitingRestore") == failed
        })
        .await;
    for (name, live) in stage.sites().await {
        if live["status"]["state"] == "AwaitingRestore" {
            expect_condition(&live, "Ready", &["False RestoreStopped", "was cancelled"]);
            stopped.push(name);
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    log.extend(audit.read().expect("an audit log"));
    assert_eq!(creates(&log, 201).count(), made, "objects created after the end");

    // What the Site says is what helps.
    let site = stopped.first().expect("one that is not whole").clone();
    let said = condition(&stage.admin.get(&format!("site {site}")), "Ready");
    let object = said.split_once("echo '").and_then(|(_, rest)| rest.split_once("' | kubectl"));
    let (object, _) = object.unwrap_or_else(|| panic!("expected a command; seen: {said}"));
    stage.admin.with_input("create -f -", object).worked();
    stage
        .admin
        .until(&format!("site {site}"), "state Active", |live| live["status"]["state"] == "Active");

    // Another one goes on with the rest, and is deleted under way.
    let before = creates(&log, 201).count();
    stage.admin.create(&restore("deleted", 2)).worked();
    stage.created(&mut log, &mut audit, before + total / 8).await;
    stage.admin.kubectl("delete rst deleted --timeout=60s").worked();
    stage
        .until("sites that say that their Restore is gone", async |stage| {
            let sites = stage.sites().await;
            let restoring = sites.values().any(|s| s["status"]["state"] == "Restoring");
            !restoring && sites.values().any(|s| condition(s, "Ready").contains("was deleted"))
        })
        .await;

    stage.admin.create(&restore("last", 8)).worked();
    let live = stage.ended("last").await;
    for failure in live["status"]["failures"].as_array().expect("failures") {
        expect("reason", "SiteLives", &failure["reason"], failure);
    }
    stage.whole("after the last Restore").await;
}
