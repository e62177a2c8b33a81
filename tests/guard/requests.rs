//! DeletionRequests: who asked, who approves, who rejects. T9.

use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt as _};
use reprieve::api::{DeletionPolicySpec, DeletionRequest, names};
use reprieve::guard::policy;
use serde_json::{Value, json};

use super::{Cluster, denied, merge, merge_status, object};

const DIGEST: &str = "sha256:d1";

async fn create(client: &Client, name: &str, annotations: Value) -> kube::Result<DeletionRequest> {
    let request = object(json!({
        "apiVersion": names::API_VERSION,
        "kind": "DeletionRequest",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"target": {"kind": "Site", "ids": ["id-none"]}, "reason": "a test"},
    }));
    Api::all(client.clone()).create(&PostParams::default(), &request).await
}

/// Creates a DeletionRequest, as alice.
pub async fn request(c: &Cluster, name: &str) -> DeletionRequest {
    create(&c.alice, name, Value::Null).await.expect("a DeletionRequest")
}

/// Writes a plan of this digest, as the operator.
pub async fn plan(c: &Cluster, name: &str, digest: &str) {
    let head = json!({"requestUid": "u", "retentionSeconds": 1, "maxEntities": 1,
        "policyName": "default", "policy": DeletionPolicySpec::built_in(), "guard": "f"});
    let totals = json!({"entities": 0, "namespaces": 0, "apps": 0, "objects": 0, "bytes": 0});
    let plan = json!({"digest": digest, "head": head, "entities": [], "totals": totals});
    let api: Api<DeletionRequest> = Api::all(c.operator.clone());
    merge_status(&api, name, json!({"status": {"plan": plan}})).await.expect("a plan");
}

async fn state(c: &Cluster, name: &str, state: &str) {
    let api: Api<DeletionRequest> = Api::all(c.operator.clone());
    merge_status(&api, name, json!({"status": {"state": state}})).await.expect("a state");
}

async fn annotate(client: &Client, name: &str, key: &str, value: Value) -> kube::Result<()> {
    let api: Api<DeletionRequest> = Api::all(client.clone());
    merge(&api, name, json!({"metadata": {"annotations": {key: value}}})).await.map(drop)
}

async fn approve(client: &Client, name: &str, key: &str, value: &str) -> kube::Result<()> {
    annotate(client, name, &format!("{}{key}", names::APPROVAL_PREFIX), json!(value)).await
}

async fn reject(client: &Client, name: &str, key: &str, value: &str) -> kube::Result<()> {
    annotate(client, name, &format!("{}{key}", names::REJECTION_PREFIX), json!(value)).await
}

pub async fn requested_by(c: &Cluster) {
    let p = policy::REQUESTED_BY;
    let key = names::ANNOTATION_REQUESTED_BY;
    let user = |request: DeletionRequest| request.metadata.annotations.expect("some")[key].clone();
    assert_eq!(user(request(c, "by").await), "alice");
    let other = create(&c.alice, "by2", json!({"a": "b"})).await.expect("a request");
    assert_eq!(user(other), "alice");
    let own = create(&c.alice, "by3", json!({key: "alice"})).await.expect("a request");
    assert_eq!(user(own), "alice");
    assert_eq!(
        user(create(&c.operator, "by4", Value::Null).await.expect("a request")),
        names::OPERATOR_USER
    );
    for client in [&c.admin, &c.root, &c.operator] {
        let message = denied(p, create(client, "by5", json!({key: "alice"})).await);
        assert!(message.contains("your user name"), "{message}");
        denied(p, create(client, "by5", json!({key: ""})).await);
        denied(p, annotate(client, "by", key, json!("mallory")).await);
        // Removed, it is put back: alone, and with all others.
        annotate(client, "by", "a", json!("b")).await.expect("is annotated");
        annotate(client, "by", key, Value::Null).await.expect("is put back");
        let api: Api<DeletionRequest> = Api::all(client.clone());
        let live = api.get("by").await.expect("a request");
        assert_eq!(live.annotations()["a"], "b");
        assert_eq!(user(live), "alice");
        merge(&api, "by", json!({"metadata": {"annotations": null}})).await.expect("is put back");
        let live = api.get("by").await.expect("a request");
        assert_eq!(live.annotations().len(), 1, "{:?}", live.annotations());
        assert_eq!(user(live), "alice");
    }
    // A request can be withdrawn by who may delete it.
    let api: Api<DeletionRequest> = Api::all(c.alice.clone());
    api.delete("by2", &DeleteParams::default()).await.expect("is deleted");
    merge(&api, "by3", json!({"spec": {"cancel": true}})).await.expect("is cancelled");
}

pub async fn approvals(c: &Cluster) {
    let p = policy::APPROVALS;
    let early = json!({format!("{}x", names::APPROVAL_PREFIX): "d alice"});
    denied(p, create(&c.alice, "ap", early).await);
    request(c, "ap").await;
    let message = denied(p, approve(&c.bob, "ap", "bob", "sha256:d1 bob").await);
    assert!(message.contains("has no plan yet"), "{message}");
    plan(c, "ap", DIGEST).await;

    let cases: [(&Client, &str, &str); 14] = [
        (&c.bob, "sha256:d1", "have the form"),
        (&c.bob, "sha256:d1 ", "have the form"),
        (&c.bob, " bob", "have the form"),
        (&c.bob, "", "have the form"),
        (&c.bob, "sha256:d1 alice", "you are bob"),
        (&c.bob, "sha256:d1  bob", "you are bob"),
        (&c.bob, "sha256:d1 Bob", "you are bob"),
        (
            &c.bob,
            "sha256:d0 bob",
            "this approves sha256:d0, but the digest of the plan is sha256:d1",
        ),
        (&c.bob, "sha256:d bob", "this approves sha256:d, but"),
        (&c.carol, "sha256:d1 smith", "you are carol smith"),
        (&c.alice, "sha256:d1 alice", "you (alice) asked for this deletion"),
        (&c.dave, "sha256:d1 dave", "needs the RBAC verb approve"),
        (&c.bot, "sha256:d1 system:serviceaccount:default:default", "is a service account"),
        (&c.operator, "sha256:d1 bob", "you are system:serviceaccount:reprieve-system:reprieve"),
    ];
    for (client, value, explanation) in cases {
        let message = denied(p, approve(client, "ap", "x", value).await);
        assert!(message.contains(explanation), "{value}: {message}");
    }
    let name = format!("{DIGEST} {}", names::OPERATOR_USER);
    denied(p, approve(&c.operator, "ap", "x", &name).await);
    denied(p, approve(&c.admin, "ap", "x", "sha256:d1 bob").await);
    denied(p, approve(&c.root, "ap", "x", "sha256:d1 bob").await);

    approve(&c.bob, "ap", "bob", "sha256:d1 bob").await.expect("bob approves");
    approve(&c.carol, "ap", "c", "sha256:d1 carol smith").await.expect("carol approves");
    // Another's approval is not taken over, nor brought over to a new plan.
    denied(p, approve(&c.bob, "ap", "c", "sha256:d1 carol").await);
    plan(c, "ap", "sha256:d2").await;
    denied(p, approve(&c.carol, "ap", "bob", "sha256:d2 bob").await);
    annotate(&c.dave, "ap", "other", json!("x")).await.expect("old ones are left in peace");
    // GitOps tools wipe what they don't own; nobody puts it back for bob.
    annotate(&c.dave, "ap", "approval.reprieve.dev/bob", Value::Null).await.expect("is wiped");
    denied(p, approve(&c.root, "ap", "bob", "sha256:d2 bob").await);
    let message = denied(p, approve(&c.bob, "ap", "bob", "sha256:d1 bob").await);
    assert!(message.contains("read the plan again: kubectl get dreq ap -o yaml"), "{message}");
    approve(&c.bob, "ap", "bob", "sha256:d2 bob").await.expect("bob approves the new plan");
    // What has ended is over; what was said before stays.
    state(c, "ap", "Expired").await;
    for key in [names::APPROVAL_PREFIX, names::REJECTION_PREFIX] {
        let late = json!("sha256:d2 carol smith");
        let message = denied(p, annotate(&c.carol, "ap", &format!("{key}late"), late).await);
        assert!(message.contains("has ended (Expired)"), "{message}");
    }
    annotate(&c.dave, "ap", "other", json!("y")).await.expect("the rest is free");
}

pub async fn rejections(c: &Cluster) {
    let p = policy::APPROVALS;
    let early = json!({format!("{}x", names::REJECTION_PREFIX): "d alice"});
    denied(p, create(&c.alice, "re", early).await);
    request(c, "re").await;
    plan(c, "re", DIGEST).await;
    denied(p, reject(&c.bob, "re", "bob", "no!").await);
    denied(p, reject(&c.bob, "re", "bob", "sha256:d1 carol smith").await);
    denied(p, reject(&c.dave, "re", "dave", "sha256:d1 dave").await);
    // To stop something is made as easy as can be: any digest, the requester, a program.
    reject(&c.bob, "re", "bob", "sha256:d0 bob").await.expect("bob rejects");
    reject(&c.alice, "re", "alice", "sha256:d1 alice").await.expect("alice rejects");
    let name = "sha256:d1 system:serviceaccount:default:default";
    reject(&c.bot, "re", "bot", name).await.expect("the program rejects");
    annotate(&c.bob, "re", names::ANNOTATION_REJECTION_REASON, json!("no"))
        .await
        .expect("a reason");
}
