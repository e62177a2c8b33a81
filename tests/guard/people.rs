//! The ClusterRoles for people, as the API server's own authorizer sees them.

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use kube::Client;
use kube::api::{Api, PostParams};
use reprieve::api::names;
use serde_json::json;

use super::{Cluster, object};

async fn can(client: &Client, verb: &str, resource: &str) -> bool {
    let review: SelfSubjectAccessReview = object(json!({"spec": {"resourceAttributes": {
        "group": names::GROUP, "resource": resource, "verb": verb}}}));
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = api.create(&PostParams::default(), &review).await.expect("an answer");
    review.status.expect("a status").allowed
}

pub async fn roles(c: &Cluster) {
    for resource in ["sites", "apps", "deletionrequests", "deletionpolicies", "backups", "restores"]
    {
        assert!(can(&c.bob, "list", resource).await, "{resource}");
        assert!(!can(&c.bob, "delete", resource).await, "{resource}");
        assert!(!can(&c.bob, "create", resource).await, "{resource}");
    }
    assert!(can(&c.bob, names::VERB_APPROVE, "deletionrequests").await);
    assert!(can(&c.bob, "patch", "deletionrequests").await);
    assert!(!can(&c.bob, "patch", "deletionrequests/status").await);
    assert!(can(&c.alice, "create", "deletionrequests").await);
    assert!(!can(&c.alice, "delete", "sites").await);
    assert!(!can(&c.dave, names::VERB_APPROVE, "deletionrequests").await);
}
