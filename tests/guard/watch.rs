//! T6: the guard is taken away, narrowed, set to warn and put back under the operator's eyes.

use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use reprieve::guard::{self, GuardKind, GuardObject, policy};
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

use super::REPRIEVE;
use super::user::{User, condition, http, request};

/// How soon it must be seen.
const SOON: Duration = Duration::from_secs(30);

/// One way to open the guard: what is merged into an object of it; without a patch it is deleted.
struct Attack {
    what: &'static str,
    kind: GuardKind,
    name: &'static str,
    patch: Option<Value>,
}

fn attacks() -> Vec<Attack> {
    use GuardKind::{
        MutatingAdmissionPolicyBinding as MutatingBinding, ValidatingAdmissionPolicy as Policy,
        ValidatingAdmissionPolicyBinding as Binding,
    };
    let attack = |what, kind, name, patch| Attack { what, kind, name, patch };
    let some = json!({"matchLabels": {"some": "label"}});
    // It leaves the operator's own requests denied, and with them the probes.
    let condition = json!([{"name": "c", "expression":
        "request.userInfo.username == 'system:serviceaccount:reprieve-system:reprieve'"}]);
    let excluded = json!([{"apiGroups": ["reprieve.dev"], "apiVersions": ["*"],
        "operations": ["DELETE"], "resources": ["apps"], "scope": "*"}]);
    let p = policy::DELETE_ENTITIES;
    vec![
        attack("binding deleted", Binding, p, None),
        attack("policy deleted", Policy, policy::STATUS, None),
        attack(
            "match conditions",
            Policy,
            p,
            Some(json!({"spec": {"matchConditions": condition}})),
        ),
        attack(
            "namespaceSelector",
            Policy,
            p,
            Some(json!({"spec": {"matchConstraints": {"namespaceSelector": some}}})),
        ),
        attack(
            "objectSelector",
            Policy,
            policy::NAMESPACE_MARKS,
            Some(json!({"spec": {"matchConstraints": {"objectSelector": some}}})),
        ),
        attack(
            "excludeResourceRules",
            Policy,
            p,
            Some(json!({"spec": {"matchConstraints": {"excludeResourceRules": excluded}}})),
        ),
        attack(
            "matchPolicy",
            Policy,
            policy::FINALIZERS,
            Some(json!({"spec": {"matchConstraints": {"matchPolicy": "Exact"}}})),
        ),
        attack(
            "failurePolicy",
            Policy,
            policy::OWNER_REFERENCES,
            Some(json!({"spec": {"failurePolicy": "Ignore"}})),
        ),
        attack(
            "an expression",
            Policy,
            policy::WEAKEN,
            Some(json!({"spec": {"validations": [{"expression": "true"}]}})),
        ),
        attack(
            "paramKind",
            Policy,
            policy::DELETE_CRDS,
            Some(json!({"spec": {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}})),
        ),
        attack(
            "validationActions",
            Binding,
            policy::APPROVALS,
            Some(json!({"spec": {"validationActions": ["Warn", "Audit"]}})),
        ),
        attack(
            "matchResources",
            Binding,
            policy::OPERATOR_TOKENS,
            Some(json!({"spec": {"matchResources": {"objectSelector": some}}})),
        ),
        attack("mutating binding deleted", MutatingBinding, policy::SET_REQUESTED_BY, None),
    ]
}

fn api(client: &Client, kind: GuardKind) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind.as_str());
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, kind.plural()))
}

fn generated(kind: GuardKind, name: &str) -> GuardObject {
    let mut all = guard::objects().into_iter();
    all.find(|object| object.kind == kind && object.name == name).expect("one of the guard's")
}

/// Deletes it if it is there, and makes it as it was generated.
async fn put_back(client: &Client, object: &GuardObject) {
    let api = api(client, object.kind);
    let _ = api.delete(&object.name, &DeleteParams::default()).await;
    let made: DynamicObject = serde_json::from_value(object.object.clone()).expect("an object");
    api.create(&PostParams::default(), &made).await.expect("it is put back");
}

/// The state of the one open request and the metric.
struct Scene {
    admin: User,
    bob: User,
    client: Client,
    operator: Operator,
}

impl Scene {
    fn in_force_by_metric(&self) -> bool {
        let (_, text) = http(self.operator.listen(), "/metrics").expect("metrics");
        text.lines().any(|line| line == "reprieve_guard_in_place 1")
    }

    /// Waits until condition and metric say so; gives the time until then.
    async fn until(&self, in_place: bool, what: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let seen = condition(&self.admin.get("dreq open"), "GuardInPlace");
            let so = seen.starts_with(if in_place { "True" } else { "False" });
            if so && self.in_force_by_metric() == in_place {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < SOON, "{what}: {seen}, in place: {in_place}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn digest(&self) -> String {
        let live = self.admin.get("dreq open");
        live["status"]["plan"]["digest"].as_str().unwrap_or_default().to_owned()
    }

    /// Approved once, by bob; a second approval is never given.
    fn approve(&self) {
        self.bob.approve("open", "bob").worked();
        self.admin.until("dreq open", "bob's approval", |live| {
            live["status"]["approvals"].as_array().is_some_and(|all| all.len() == 1)
        });
    }

    /// What bob approved is void.
    fn until_void(&self, digest: &str, what: &str) {
        self.admin.until("dreq open", &format!("a new digest after: {what}"), |live| {
            let now = live["status"]["plan"]["digest"].as_str().unwrap_or_default();
            now != digest && live["status"]["approvals"].as_array().is_none_or(Vec::is_empty)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_guard_are_seen() {
    let Some(sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("it starts");
    let mut scene = Scene {
        admin: User::admin(&sandbox),
        bob: User::person(&sandbox, "bob", "reprieve-approver"),
        client: sandbox.admin(),
        operator,
    };
    // There is nothing to be probed yet.
    let begun = Instant::now();
    while !scene.in_force_by_metric() {
        assert!(begun.elapsed() < SOON, "the metric never says that the guard is in force");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene
        .admin
        .apply(
            "{apiVersion: reprieve.dev/v1alpha1, kind: Site, metadata: {name: acme}, \
                spec: {id: site-1, tenant: {name: Acme}}}",
        )
        .worked();
    scene.admin.until("site acme", "Ready", |live| condition(live, "Ready").starts_with("True"));
    scene.admin.create(&request("open", "Site", &["site-1".to_owned()])).worked();
    scene.admin.until_state("open", "AwaitingApproval");
    scene.until(true, "at first").await;

    let mut slowest = (Duration::ZERO, Duration::ZERO);
    for Attack { what, kind, name, patch } in attacks() {
        let api = api(&scene.client, kind);
        let digest = scene.digest();
        scene.approve();
        match patch {
            Some(patch) => {
                let params = PatchParams::default();
                let answer = api.patch(name, &params, &Patch::Merge(patch)).await;
                answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            None => drop(api.delete(name, &DeleteParams::default()).await.expect("may")),
        }
        let seen = scene.until(false, what).await;
        let said = condition(&scene.admin.get("dreq open"), "GuardInPlace");
        assert!(said.contains(name), "{what}: {said}");
        put_back(&scene.client, &generated(kind, name)).await;
        let back = scene.until(true, what).await;
        scene.until_void(&digest, what);
        slowest = (slowest.0.max(seen), slowest.1.max(back));
        println!("T6 {what}: seen after {seen:?}, back after {back:?}");
    }
    println!("T6 slowest: seen after {:?}, back after {:?}", slowest.0, slowest.1);

    // Put back before anybody could look.
    let binding = generated(GuardKind::ValidatingAdmissionPolicyBinding, policy::APPROVALS);
    let digest = scene.digest();
    scene.approve();
    put_back(&scene.client, &binding).await;
    scene.until_void(&digest, "taken away and put back");
    scene.until(true, "taken away and put back").await;

    // The operator was not even there.
    let digest = scene.digest();
    scene.approve();
    scene.operator.process_mut().kill().expect("it is killed");
    put_back(&scene.client, &binding).await;
    scene.operator.process_mut().restart().expect("it starts");
    scene.operator.wait_until_ready().await.expect("it is ready");
    scene.until_void(&digest, "taken away and put back while the operator was down");

    super::uninstall::as_documented(&sandbox, scene.operator).await;
    sandbox.stop().expect("an end");
}
