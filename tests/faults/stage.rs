//! A cluster whose operator reaches the API server through the fault proxy, and small sites in it.
//! What people do, and what is looked at, goes past the proxy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use reprieve::api::{App, Backup, DeletionPolicy, DeletionRequest, Restore, Site, names};
use reprieve::cluster::collect::{Freshness, collect};
use reprieve::cluster::discover::{Kinds, discover};
use reprieve::sandbox::{AuditRecord, Operator, Proxy, Sandbox, audit};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::user::{PEOPLE, Snapshot, condition, grant, http};

pub const REPRIEVE: &str = env!("CARGO_BIN_EXE_reprieve");
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

pub struct Stage {
    pub sandbox: Sandbox,
    pub proxy: Proxy,
    pub operator: Operator,
    pub admin: kube::Client,
    /// Requester.
    alice: kube::Client,
    /// Approvers, by name.
    approvers: BTreeMap<&'static str, kube::Client>,
}

impl Stage {
    pub async fn start() -> Option<Self> {
        let sandbox = Sandbox::for_test(REPRIEVE).await?;
        sandbox.install().await.expect("it can be installed");
        let proxy = sandbox.start_proxy().expect("a proxy");
        let kubeconfig = proxy.kubeconfig(&sandbox.operator_kubeconfig()).expect("a kubeconfig");
        let operator = sandbox.start_operator_as(&kubeconfig, &[]).await.expect("it starts");
        let mut people = vec![];
        for (name, role) in PEOPLE {
            let kubeconfig = sandbox.user(name, &[]).expect("a kubeconfig");
            grant(&sandbox, name, role);
            people.push((name, sandbox.client_for(&kubeconfig).await.expect("a client")));
        }
        let (_, alice) = people.remove(0);
        // The sites of one test are most of this fleet, and go within minutes.
        let policies: Api<DeletionPolicy> = Api::all(sandbox.admin());
        let rolling = json!({"windowSeconds": 60, "maxEntities": 1000, "maxPercent": 100});
        let patch = Patch::Merge(json!({"spec": {"blastRadius": {"rolling": rolling}}}));
        policies.patch("default", &PatchParams::default(), &patch).await.expect("a policy");
        Some(Self {
            admin: sandbox.admin(),
            alice,
            approvers: people.into_iter().collect(),
            operator,
            proxy,
            sandbox,
        })
    }

    /// Creates an object of a kind of ours, or of the core group.
    pub async fn create(&self, object: Value) {
        create_as(&self.admin, object).await;
    }

    /// A Site of this name with a small App, and a ConfigMap made by hand. Its id is `site-NAME`.
    pub async fn make_site(&self, name: &str) {
        self.create(site(name)).await;
        let created = format!("the Site {name} ready");
        self.until::<Site>("", name, &created, |live| is_true(live, "Ready")).await;
        self.create(app(name)).await;
        self.create(notes(name)).await;
        self.until_settled(name).await;
    }

    /// Waits until a site is in service again.
    pub async fn until_site_active(&self, name: &str) {
        self.until::<Site>("", name, "Active and ready", |live| {
            live["status"]["state"] == "Active" && is_true(live, "Ready")
        })
        .await;
    }

    /// Waits until a site with its App stands as it shall.
    pub async fn until_settled(&self, name: &str) {
        self.until::<App>(name, "shop", "the App ready", |live| is_true(live, "Ready")).await;
        self.until_site_active(name).await;
    }

    /// Alice asks for the deletion of this site; gives once the plan is there.
    pub async fn ask(&self, request: &str, site: &str) {
        self.ask_for(request, "Site", &format!("site-{site}"), 10).await;
    }

    /// Alice asks for the deletion of this id, with a window of so many seconds; gives once the plan
    /// is there.
    pub async fn ask_for(&self, request: &str, kind: &str, id: &str, seconds: i64) {
        let mut object = crate::user::request(request, kind, &[id.to_owned()]);
        object["spec"]["retentionSeconds"] = json!(seconds);
        create_as(&self.alice, object).await;
        self.until_state(request, "AwaitingApproval").await;
    }

    /// Both approve what is planned.
    pub async fn approve(&self, request: &str) {
        let live = self.get::<DeletionRequest>("", request).await.expect("it is there");
        let digest = live["status"]["plan"]["digest"].as_str().expect("a digest").to_owned();
        for (name, client) in &self.approvers {
            let value = format!("{digest} {name}");
            let key = format!("approval.reprieve.dev/{name}");
            let patch = json!({"metadata": {"annotations": {key: value}}});
            let api: Api<DeletionRequest> = Api::all(client.clone());
            let params = PatchParams::default();
            api.patch(request, &params, &Patch::Merge(&patch)).await.expect("an approval");
        }
    }

    /// Cancels it.
    pub async fn cancel(&self, request: &str) {
        let api: Api<DeletionRequest> = Api::all(self.alice.clone());
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        api.patch(request, &PatchParams::default(), &patch).await.expect("a cancel");
    }

    /// Waits for a request's state; another one that is an end fails at once.
    pub async fn until_state(&self, request: &str, state: &str) -> Value {
        let ends = ["Completed", "Refused", "Expired", "Cancelled"];
        let live = self
            .until::<DeletionRequest>("", request, state, |live| {
                let seen = live["status"]["state"].as_str().unwrap_or_default();
                seen == state || ends.contains(&seen)
            })
            .await;
        assert_eq!(live["status"]["state"], state, "state of {request}: {}", live["status"]);
        live
    }

    /// Waits for a request's end in this state, its finalizer off too.
    pub async fn until_ended(&self, request: &str, state: &str) {
        self.until_state(request, state).await;
        self.until::<DeletionRequest>("", request, "no finalizer", |live| {
            live["metadata"]["finalizers"].is_null()
        })
        .await;
    }

    /// Begins to restore what a request purged.
    pub async fn bring_back(&self, restore: &str, request: &str) {
        self.create(json!({
            "apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": restore},
            "spec": {"source": {"deletionRequestRef": {"name": request}}},
        }))
        .await;
    }

    /// Waits for the end of a Restore, which must be a good one.
    pub async fn until_restored(&self, restore: &str) {
        let live = self
            .until::<Restore>("", restore, "an end", |live| {
                live["status"]["completionTime"].is_string()
            })
            .await;
        let seen = condition(&live, "Succeeded");
        assert!(seen.starts_with("True Verified"), "{restore}: {seen}; {}", live["status"]);
    }

    /// Begins a backup.
    pub async fn back_up(&self, backup: &str, site: &str) {
        self.create(json!({
            "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": backup},
            "spec": {"siteRef": {"name": site}, "purpose": "Manual"},
        }))
        .await;
    }

    pub async fn until_verified(&self, backup: &str) -> Value {
        self.until::<Backup>("", backup, "Verified", |live| is_true(live, "Verified")).await
    }

    pub async fn get<K: Ours>(&self, namespace: &str, name: &str) -> Option<Value> {
        let live = K::api(&self.admin, namespace).get_opt(name).await;
        live.expect("an answer").map(|live| json!(live))
    }

    /// Looks again and again until it is as it should be.
    pub async fn until<K: Ours>(
        &self,
        namespace: &str,
        name: &str,
        expected: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let begun = Instant::now();
        loop {
            // While the API server is away, nothing is seen.
            let live = K::api(&self.admin, namespace).get_opt(name).await;
            let live = live.ok().flatten().map(|live| json!(live)).unwrap_or_default();
            if holds(&live) {
                return live;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{namespace}/{name}: expected {expected} within {PATIENCE:?}; seen: {}; {}",
                live["status"],
                self.said_and_did(if namespace.is_empty() { name } else { namespace }),
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// For a failed test: the end of the operator's log, and what it asked about this lately.
    pub fn said_and_did(&self, about: &str) -> String {
        let log = self.proxy.log();
        let calls = log.iter().filter(|c| c.brief().contains(about));
        let calls: Vec<_> = calls.map(|c| (c.number, c.brief(), c.code, &c.fault)).collect();
        let calls: String =
            calls.iter().rev().take(40).rev().map(|call| format!("\n  {call:?}")).collect();
        format!("the operator: {}\nof {}: {calls}", self.operator.process().log_tail(60), log.len())
    }

    /// Everything that a site holds.
    pub async fn snapshot(&self, site: &str) -> Snapshot {
        Snapshot::take(&self.sandbox, site).await
    }

    /// The kinds of this cluster, for [`Stage::forms_of`].
    pub async fn kinds(&self) -> Kinds {
        discover(&self.admin).await.expect("discovery")
    }

    /// The archived forms of a site, with its name taken out: those of two sites of
    /// [`Stage::make_site`] compare.
    pub async fn forms(&self, site: &str) -> Vec<String> {
        self.forms_of(&self.kinds().await, site).await
    }

    /// As [`Stage::forms`], for many sites.
    pub async fn forms_of(&self, kinds: &Kinds, site: &str) -> Vec<String> {
        let all = collect(&self.admin, kinds, site, &[site.to_owned()], Freshness::Live).await;
        let all = all.unwrap_or_else(|error| panic!("site {site}: {error}"));
        let mut forms: Vec<String> =
            all.objects.iter().map(|o| o.form.to_string().replace(site, "SITE")).collect();
        forms.sort();
        forms
    }

    /// Kills the operator as a power cut does, lets nothing of it pass any more, and starts it
    /// again. The lease is freed, so that nobody waits for it.
    pub async fn crash(&mut self) {
        self.operator.process_mut().kill().expect("it runs");
        self.proxy.heal();
        self.free_lease().await;
        self.operator.process_mut().start().expect("it starts");
    }

    /// Takes the lease off whoever holds it.
    pub async fn free_lease(&self) {
        use k8s_openapi::api::coordination::v1::Lease;
        let leases: Api<Lease> = Api::namespaced(self.admin.clone(), names::OPERATOR_NAMESPACE);
        match leases.delete("reprieve", &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("the lease: {error}"),
        }
    }

    /// What the operator deleted, as `sites/NAME`, dry runs aside. Each must carry UID and
    /// resourceVersion as preconditions, or be the namespace controller's business.
    pub fn deleted(&self) -> Vec<AuditRecord> {
        let all = self.sandbox.audit().read().expect("an audit log");
        let by_operator = |r: &&AuditRecord| r.user.name == names::OPERATOR_USER;
        audit::deletes(&all).filter(by_operator).cloned().collect()
    }

    /// Nothing but what belongs to these sites was deleted by the operator, nothing twice, and
    /// each with its UID and resourceVersion.
    pub fn expect_deleted_only(&self, sites: &[&str]) {
        let mut seen = std::collections::BTreeSet::new();
        for record in self.deleted() {
            let what = format!("{}/{}/{}", record.resource, record.namespace, record.name);
            let owner = if record.namespace.is_empty() { &record.name } else { &record.namespace };
            assert!(sites.contains(&owner.as_str()), "deleted {what}, expected only {sites:?}");
            let before = &record.request["preconditions"];
            let uid = before["uid"].as_str().unwrap_or_default().to_owned();
            assert!(!uid.is_empty() && before["resourceVersion"].is_string(), "{what}: {before}");
            assert!(seen.insert((what.clone(), uid)), "deleted twice: {what}");
        }
    }

    /// Waits until no object of any room waits for its next try.
    pub async fn until_nothing_fails(&self) {
        let begun = Instant::now();
        loop {
            let text = http(self.operator.listen(), "/metrics").map_or(String::new(), |(_, t)| t);
            let waits = |line: &&str| {
                line.starts_with("reprieve_backing_off_objects{") && !line.ends_with(" 0")
            };
            let failing: Vec<&str> = text.lines().filter(waits).collect();
            if failing.is_empty() && text.contains("reprieve_backing_off_objects{") {
                return;
            }
            let tail = || self.operator.process().log_tail(20);
            assert!(begun.elapsed() < PATIENCE, "still failing: {failing:?}; {}", tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A kind that is looked at.
pub trait Ours: Sized {
    type Live: serde::Serialize + DeserializeOwned + Clone + std::fmt::Debug;
    fn api(client: &kube::Client, namespace: &str) -> Api<Self::Live>;
}

macro_rules! cluster_scoped {
    ($($kind:ty),*) => {$(
        impl Ours for $kind {
            type Live = Self;
            fn api(client: &kube::Client, _: &str) -> Api<Self> {
                Api::all(client.clone())
            }
        }
    )*};
}
cluster_scoped!(
    Site,
    Backup,
    DeletionPolicy,
    DeletionRequest,
    Restore,
    k8s_openapi::api::core::v1::Namespace
);

impl Ours for App {
    type Live = Self;
    fn api(client: &kube::Client, namespace: &str) -> Api<Self> {
        Api::namespaced(client.clone(), namespace)
    }
}

pub fn is_true(live: &Value, type_: &str) -> bool {
    let current = live["metadata"]["generation"] == live["status"]["observedGeneration"];
    current && condition(live, type_).starts_with("True")
}

async fn create_as(client: &kube::Client, object: Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let namespace = text(&object["metadata"]["namespace"]);
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &namespace, &resource)
    };
    api.create(&PostParams::default(), &object).await.expect("it is created");
}

pub fn site(name: &str) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": "Site", "metadata": {"name": name},
        "spec": {"id": format!("site-{name}"), "tenant": {"name": format!("Tenant {name}")}},
    })
}

/// What somebody made in a site by hand.
pub fn notes(site: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "notes", "namespace": site}, "data": {"by": "hand"},
    })
}

pub fn app(site: &str) -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": names::API_VERSION, "kind": "App",
        "metadata": {"name": "shop", "namespace": site},
        "spec": {"id": format!("app-{site}"), "product": "shop", "manifests": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "shop"}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop"},
             "stringData": {"password": "none"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
                "replicas": 1, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {
                    // The namespace controller waits for half of it before it looks again.
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "web", "image": "example.invalid/web"}],
                }},
            }},
        ]},
    })
}
