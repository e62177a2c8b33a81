//! The guard on a real API server: every rule both ways, as `system:masters`, the operator,
//! people and the cluster's own controllers. T1 to T10, T16, T19 and B2 of the fault list.
//!
//! The operator's account is given every right here, and so is an administrator by RBAC: what
//! refuses must be the guard. One cluster serves all cases, because it takes seconds to start.
#![cfg(feature = "sandbox")]

mod accounts;
mod disk;
mod entities;
mod fixtures;
mod kept;
mod namespaces;
mod people;
mod requests;
mod restart;
mod rows;
mod table;
mod uninstall;
#[path = "../user/mod.rs"]
mod user;
mod watch;

use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, Resource};
use reprieve::api::names;
use reprieve::guard::{self, ProbeRequest};
use reprieve::sandbox::Sandbox;
use serde_json::{Value, json};

const REPRIEVE: &str = env!("CARGO_BIN_EXE_reprieve");

/// The cluster and everybody who tries something in it.
struct Cluster {
    sandbox: Sandbox,
    /// In `system:masters`.
    admin: Client,
    /// With cluster-admin by RBAC, and with every role of people.
    root: Client,
    /// The operator's service account, with cluster-admin.
    operator: Client,
    /// Requester, who also has the role of an approver.
    alice: Client,
    /// Approver.
    bob: Client,
    /// Approver whose user name has a space.
    carol: Client,
    /// May patch DeletionRequests, and has no verb `approve`.
    dave: Client,
    /// A service account with the role of an approver.
    bot: Client,
}

impl Cluster {
    /// With a sandbox where everything is installed.
    async fn of(sandbox: Sandbox) -> anyhow::Result<Cluster> {
        let admin = sandbox.admin();
        let user = async |name: &str| sandbox.client_for(&sandbox.user(name, &[])?).await;
        let operator = sandbox.client_for(&sandbox.operator_kubeconfig()).await?;
        let bot = sandbox.service_account_kubeconfig("default", "default").await?;
        let bot = sandbox.client_for(&bot).await?;
        let (root, alice) = (user("root").await?, user("alice").await?);
        let (bob, carol, dave) =
            (user("bob").await?, user("carol smith").await?, user("dave").await?);

        let patcher: ClusterRole = object(json!({
            "metadata": {"name": "patcher"},
            "rules": [{"apiGroups": [names::GROUP], "resources": ["*"], "verbs": ["get", "patch"]}],
        }));
        Api::all(admin.clone()).create(&PostParams::default(), &patcher).await?;
        for (i, (role, kind, name)) in [
            ("cluster-admin", "User", names::OPERATOR_USER),
            ("cluster-admin", "User", "root"),
            ("reprieve-requester", "User", "alice"),
            ("reprieve-approver", "User", "alice"),
            ("reprieve-approver", "User", "bob"),
            ("reprieve-approver", "User", "carol smith"),
            ("reprieve-approver", "User", "system:serviceaccount:default:default"),
            ("patcher", "User", "dave"),
        ]
        .into_iter()
        .enumerate()
        {
            let binding: ClusterRoleBinding = object(json!({
                "metadata": {"name": format!("guard-test-{i}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}],
            }));
            Api::all(admin.clone()).create(&PostParams::default(), &binding).await?;
        }
        // The last binding reaches the authorizer last.
        let sites: Api<reprieve::api::DeletionRequest> = Api::all(dave.clone());
        eventually(
            "RBAC",
            async || matches!(sites.get("none").await, Err(kube::Error::Api(s)) if s.code == 404),
        )
        .await;
        Ok(Cluster { admin, root, operator, alice, bob, carol, dave, bot, sandbox })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_holds_on_a_real_api_server() {
    let Some(sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    // Before the policies, which are then checked against its schema.
    user::User::admin(&sandbox).apply(fixtures::CONTENTS_CRD).worked();
    sandbox.install().await.expect("it can be installed");
    let mut c = Cluster::of(sandbox).await.expect("everybody");
    live_objects_are_equal_and_clean(&c).await;
    entities::finalizers(&c).await;
    entities::owner_references(&c).await;
    entities::restore_mark(&c).await;
    entities::status(&c).await;
    entities::crds(&c).await;
    entities::delete(&c).await;
    namespaces::marks(&c).await;
    namespaces::finalize(&c).await;
    namespaces::delete(&c).await;
    requests::requested_by(&c).await;
    requests::approvals(&c).await;
    requests::rejections(&c).await;
    people::roles(&c).await;
    entities::status_without_subresource(&c).await;
    let table = rows::all(&c).await;
    println!("{table}");
    accounts::kubelets(&c).await;
    accounts::impersonation(&c).await;
    let editor = c.sandbox.user("erin", &[]).expect("a user");
    let editor = c.sandbox.client_for(&editor).await.expect("a client");
    accounts::fields_of_tomorrow(&c, &editor).await;
    every_object_at_once(&c);
    restart::delete_across_a_restart(&mut c).await;
    probes_bounce(&c).await;
    a_policy_that_is_gone_lets_its_probe_through(&c).await;
    c.sandbox.stop().expect("an end");
}

/// T1, as a person would: by kubectl, everything there is.
fn every_object_at_once(c: &Cluster) {
    let admin = user::User::admin(&c.sandbox);
    for what in ["sites --all", "apps --all -A", "backups --all", "crd --all", "namespace t-site"] {
        admin
            .kubectl(&format!("delete {what} --wait=false"))
            .denied(&["denied request", "kubectl"]);
    }
}

/// What the operator will compare: nothing may be filled in by the API server.
async fn live_objects_are_equal_and_clean(c: &Cluster) {
    for expected in guard::objects() {
        let kind = expected.kind;
        let live = guard_api(c, kind).get(&expected.name).await.expect("is installed").data;
        assert_eq!(guard::difference(&expected.spec, &live["spec"]), None, "{}", expected.name);
        let warnings = &live["status"]["typeChecking"]["expressionWarnings"];
        assert!(warnings.is_null(), "{}: {warnings}", expected.name);
    }
}

async fn probes_bounce(c: &Cluster) {
    entities::site(c, "probed").await;
    namespaces::of_site(c, "probed").await;
    requests::request(c, "probed").await;
    for probe in guard::probes() {
        denied(probe.policy, send(c, &probe.request).await);
    }
}

/// The probe is what notices a policy that is still there but no longer bound.
async fn a_policy_that_is_gone_lets_its_probe_through(c: &Cluster) {
    let name = guard::policy::DELETE_ENTITIES;
    let bindings = guard_api(c, guard::GuardKind::ValidatingAdmissionPolicyBinding);
    let probe = guard::probes().into_iter().find(|probe| probe.policy == name).expect("a probe");
    bindings.delete(name, &Default::default()).await.expect("nothing protects a binding yet");
    eventually("the probe passes", async || send(c, &probe.request).await.is_ok()).await;
}

async fn send(c: &Cluster, request: &ProbeRequest) -> kube::Result<()> {
    let sites: Api<reprieve::api::Site> = Api::all(c.operator.clone());
    let requests: Api<reprieve::api::DeletionRequest> = Api::all(c.operator.clone());
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(c.operator.clone());
    let delete = kube::api::DeleteParams::default().dry_run();
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    match request {
        ProbeRequest::DeleteSite => sites.delete("probed", &delete).await.map(drop),
        ProbeRequest::DeleteNamespace => namespaces.delete("probed", &delete).await.map(drop),
        ProbeRequest::PatchSite(patch) => {
            sites.patch("probed", &dry, &Patch::Merge(patch)).await.map(drop)
        }
        ProbeRequest::PatchDeletionRequest(patch) => {
            requests.patch("probed", &dry, &Patch::Merge(patch)).await.map(drop)
        }
    }
}

fn guard_api(c: &Cluster, kind: guard::GuardKind) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind.as_str());
    Api::all_with(c.admin.clone(), &ApiResource::from_gvk_with_plural(&gvk, kind.plural()))
}

/// Asserts that this policy refused with 403, and gives what it said.
#[track_caller]
fn denied<T>(policy: &str, result: kube::Result<T>) -> String {
    match result {
        Ok(_) => panic!("{policy} let it through"),
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, &*status.reason), (403, "Forbidden"), "{}", status.message);
            assert!(guard::is_denied_by(&status.message, policy), "{policy}: {}", status.message);
            assert!(!status.message.contains("failed expression"), "{}", status.message);
            status.message
        }
        Err(error) => panic!("{policy}: {error}"),
    }
}

/// An object of a kind, from JSON.
fn object<K: serde::de::DeserializeOwned>(json: Value) -> K {
    serde_json::from_value(json).expect("an object")
}

/// A merge patch.
async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> kube::Result<K>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// A merge patch of the status.
async fn merge_status<K>(api: &Api<K>, name: &str, patch: Value) -> kube::Result<K>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// A JSON patch.
async fn json_patch<K>(api: &Api<K>, name: &str, patch: Value) -> kube::Result<K>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::<()>::Json(serde_json::from_value(patch).expect("a patch"));
    api.patch(name, &PatchParams::default(), &patch).await
}

/// Waits until it is so, for 20 s at most.
async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(20), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
