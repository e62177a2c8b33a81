//! What a request asks for, read off its path, as the API server itself does.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Method};
use serde_json::Value;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object, or a path that is no resource.
    Get,
    /// Read many.
    List,
    /// Be told of changes.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, but for server-side apply.
    Patch,
    /// PATCH as server-side apply.
    Apply,
    /// DELETE, of one or of many.
    Delete,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 1, in the order of arrival.
    pub number: usize,
    /// What it asks for.
    pub verb: Verb,
    /// The path, with its query.
    pub uri: String,
    /// The API group; empty for the core group and for what is no resource.
    pub group: String,
    /// The resource, in plural; empty for a path like `/version`.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name: of the path, or of the body for a create; empty for collections.
    pub name: String,
    /// Nothing is to be changed.
    pub dry_run: bool,
    /// The header `User-Agent`.
    pub user_agent: String,
    /// The body, where it is JSON.
    pub body: Value,
    /// What was done to it, as [`Fault`](super::Fault) writes itself; none: it went through.
    pub fault: Option<String>,
    /// The status code that the server answered; 0: none yet, or it was not asked.
    pub code: u16,
}

impl Call {
    /// The request with this head and body.
    pub(super) fn of(parts: &Parts, body: &Bytes) -> Self {
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut call = Self {
            number: 0,
            verb: Verb::Get,
            uri: parts.uri.to_string(),
            group: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            dry_run: query.contains("dryRun=") || body["dryRun"].is_array(),
            user_agent: text(&parts.headers, USER_AGENT),
            body,
            fault: None,
            code: 0,
        };
        call.read_path(path);
        call.verb = match parts.method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH if text(&parts.headers, CONTENT_TYPE).contains("apply-patch") => {
                Verb::Apply
            }
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if query.split('&').any(|p| matches!(p, "watch=true" | "watch=1")) => Verb::Watch,
            _ if !call.resource.is_empty() && call.name.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        if call.verb == Verb::Create && call.name.is_empty() {
            call.name = call.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        }
        call
    }

    fn read_path(&mut self, path: &str) {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut rest = match parts[..] {
            ["api", _, ref rest @ ..] => rest,
            ["apis", group, _, ref rest @ ..] => {
                self.group = group.to_owned();
                rest
            }
            _ => return,
        };
        if let ["namespaces", namespace, inner @ ..] = rest
            && !matches!(inner, [] | ["status" | "finalize"])
        {
            self.namespace = (*namespace).to_owned();
            rest = inner;
        }
        let part = |n: usize| rest.get(n).copied().unwrap_or_default().to_owned();
        (self.resource, self.name, self.subresource) = (part(0), part(1), part(2));
    }

    /// Whether it is to change something that matters: no dry run, no event, no lease, no review of
    /// rights. The n-th write of a course of events is the n-th of these.
    pub fn is_write(&self) -> bool {
        let reads = matches!(self.verb, Verb::Get | Verb::List | Verb::Watch);
        let aside = ["events", "leases"].contains(&self.resource.as_str())
            || self.resource.ends_with("reviews");
        !reads && !aside && !self.dry_run
    }

    /// It in few words: `Patch sites/acme/status`.
    pub fn brief(&self) -> String {
        let parts = [&self.resource, &self.namespace, &self.name, &self.subresource];
        let parts: Vec<&str> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| part.as_str()).collect();
        format!("{:?} {}", self.verb, parts.join("/"))
    }
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, uri: &str, body: &str) -> Call {
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        Call::of(&request.into_parts().0, &Bytes::from(body.to_owned()))
    }

    #[test]
    fn paths_are_read_as_the_api_server_reads_them() {
        for (method, uri, brief) in [
            ("GET", "/api/v1/namespaces", "List namespaces"),
            ("GET", "/api/v1/namespaces?watch=true&limit=1", "Watch namespaces"),
            ("GET", "/api/v1/namespaces/acme", "Get namespaces/acme"),
            ("PUT", "/api/v1/namespaces/acme/finalize", "Update namespaces/acme/finalize"),
            ("GET", "/api/v1/namespaces/acme/configmaps", "List configmaps/acme"),
            ("DELETE", "/api/v1/namespaces/acme/configmaps/x", "Delete configmaps/acme/x"),
            ("PATCH", "/apis/reprieve.dev/v1alpha1/sites/a/status", "Patch sites/a/status"),
            ("GET", "/version", "Get "),
        ] {
            assert_eq!(call(method, uri, "").brief(), brief, "{method} {uri}");
        }
        let post =
            call("POST", "/apis/apps/v1/namespaces/a/deployments", r#"{"metadata":{"name":"d"}}"#);
        assert_eq!((post.name.as_str(), post.group.as_str()), ("d", "apps"));
    }

    #[test]
    fn what_changes_nothing_is_no_write() {
        assert!(call("DELETE", "/api/v1/namespaces/a", "{}").is_write());
        assert!(!call("DELETE", "/api/v1/namespaces/a", r#"{"dryRun":["All"]}"#).is_write());
        assert!(!call("POST", "/api/v1/namespaces?dryRun=All", "").is_write());
        assert!(!call("GET", "/api/v1/namespaces", "").is_write());
        let lease = "/apis/coordination.k8s.io/v1/namespaces/a/leases/b";
        assert!(!call("PUT", lease, "").is_write());
    }
}
