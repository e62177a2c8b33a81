//! The account by which what belongs to a site is written: its own, and not the operator's.

use http::request::Builder;
use http::{HeaderValue, Request};
use kube::core::Status;

use crate::api::names;

/// A request as this service account: it can do nothing that the account may not. None: no account
/// can have that name. The API server adds the groups of a service account by itself.
pub fn request_as(namespace: &str, account: &str) -> Option<Builder> {
    let user = format!("{}{namespace}:{account}", names::SERVICE_ACCOUNT_PREFIX);
    let user = HeaderValue::from_str(&user).ok()?;
    Some(Request::builder().header("Impersonate-User", user))
}

/// Whether an answer says that the account lacks a right, and not that something else forbids it.
pub fn lacks_right(status: &Status) -> bool {
    status.code == 403 && status.message.contains("User \"system:serviceaccount:")
}

/// How the account of sites gets a right that it lacks.
pub const HOW_TO_GIVE: &str =
    "give it by a ClusterRole with the label reprieve.dev/aggregate-to-app: \"true\"";
