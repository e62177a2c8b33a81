//! Which kinds the API server serves, and which of them a site's data can be of.

use std::collections::BTreeSet;

use kube::Client;
use kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery};
use kube::discovery::ApiResource;

use super::collect::is_data;
use super::error::describe;

/// Why the kinds are not known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The API server did not tell.
    #[error("failed to ask the API server for its kinds: {}", describe(.0))]
    Request(#[from] kube::Error),
    /// It answered, but not in the form that every supported release has.
    #[error(
        "the API server does not serve aggregated discovery: Kubernetes 1.33 or later is needed"
    )]
    NotAggregated,
    /// An aggregated API server is down: nobody can tell what it serves.
    #[error("the API {0} cannot be discovered: the server behind it does not answer")]
    Stale(String),
}

/// A kind that the API server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Kind {
    /// The URL path of the kind's objects in this namespace, or in the cluster.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let ApiResource { group, api_version, plural, .. } = &self.resource;
        let root = if group.is_empty() { "api" } else { "apis" };
        match namespace {
            Some(namespace) => format!("/{root}/{api_version}/namespaces/{namespace}/{plural}"),
            None => format!("/{root}/{api_version}/{plural}"),
        }
    }
}

/// What the API server serves: every kind once, in the version that it prefers.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// Kinds that can be listed, read, and created or deleted, in order of group and kind.
    archivable: Vec<Kind>,
    /// Every kind in every version, to find one by the words of an object.
    all: Vec<Kind>,
}

impl Kinds {
    /// The namespaced kinds of which a site's data can be: those that can be listed, read, and
    /// created or deleted, but for those that only tell of other objects.
    pub fn of_a_site(&self) -> impl Iterator<Item = &Kind> {
        self.data().filter(|kind| kind.namespaced)
    }

    /// The cluster-scoped kinds of which a site's data can be: its label says which objects.
    pub fn beside_sites(&self) -> impl Iterator<Item = &Kind> {
        self.data().filter(|kind| !kind.namespaced)
    }

    fn data(&self) -> impl Iterator<Item = &Kind> {
        let of = |k: &&Kind| is_data(&k.resource.group, &k.resource.kind, k.namespaced);
        self.archivable.iter().filter(of)
    }

    /// The kind of these words. None: this cluster does not serve it.
    pub fn find(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        let matches = |k: &&Kind| k.resource.api_version == api_version && k.resource.kind == kind;
        self.all.iter().find(matches)
    }
}

/// Asks the API server for every kind that it serves.
///
/// # Errors
/// A group that cannot be discovered is an error, never left out: what cannot be seen cannot be
/// backed up.
pub async fn discover(client: &Client) -> Result<Kinds, DiscoverError> {
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    // A server that knows no aggregated discovery answers in the old form, which reads as empty.
    if core.items.is_empty() || groups.items.is_empty() {
        return Err(DiscoverError::NotAggregated);
    }
    kinds(core.items.into_iter().chain(groups.items))
}

fn kinds(groups: impl Iterator<Item = APIGroupDiscovery>) -> Result<Kinds, DiscoverError> {
    let mut found = Kinds::default();
    for group in groups {
        let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        let mut taken = BTreeSet::new();
        // In descending order of preference, as the API server has sorted them. A kind that the
        // preferred version lacks is taken from the next one that has it.
        for version in group.versions {
            let word = version.version.unwrap_or_default();
            let api_version = if name.is_empty() { word.clone() } else { format!("{name}/{word}") };
            if version.freshness.as_deref() == Some("Stale") {
                return Err(DiscoverError::Stale(api_version));
            }
            for resource in version.resources {
                let can = |verb: &str| resource.verbs.iter().any(|v| v == verb);
                // While its CustomResourceDefinition is being deleted, objects of a kind cannot be
                // created but still be deleted: they are somebody's data all the same.
                let made = can("create") || can("delete");
                let archivable = can("list") && can("get") && made;
                let Some(kind) = kind(&name, &word, &api_version, resource) else { continue };
                if archivable && taken.insert(kind.resource.plural.clone()) {
                    found.archivable.push(kind.clone());
                }
                found.all.push(kind);
            }
        }
    }
    found.archivable.sort_by(|a, b| {
        let key = |k: &Kind| (k.resource.group.clone(), k.resource.kind.clone());
        key(a).cmp(&key(b))
    });
    Ok(found)
}

fn kind(
    group: &str,
    version: &str,
    api_version: &str,
    resource: APIResourceDiscovery,
) -> Option<Kind> {
    Some(Kind {
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: resource.response_kind?.kind.filter(|kind| !kind.is_empty())?,
            plural: resource.resource?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn group(name: &str, versions: serde_json::Value) -> APIGroupDiscovery {
        serde_json::from_value(json!({"metadata": {"name": name}, "versions": versions})).unwrap()
    }

    fn resource(plural: &str, kind: &str, verbs: &[&str]) -> serde_json::Value {
        json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": verbs})
    }

    #[test]
    fn each_kind_once_in_the_preferred_version() {
        let all = ["list", "get", "create"];
        let found = kinds(
            [
                group(
                    "shop",
                    json!([
                        {"version": "v2", "resources": [resource("carts", "Cart", &all)]},
                        {"version": "v1", "resources": [resource("carts", "Cart", &all), resource("bills", "Bill", &all), resource("views", "View", &["list", "get"]), resource("olds", "Old", &["delete", "list", "get"])]},
                    ]),
                ),
                group("events.k8s.io", json!([{"version": "v1", "resources": [resource("events", "Event", &all)]}])),
            ]
            .into_iter(),
        )
        .unwrap();
        let words: Vec<String> = found
            .of_a_site()
            .map(|k| format!("{} {}", k.resource.api_version, k.resource.kind))
            .collect();
        assert_eq!(words, ["shop/v1 Bill", "shop/v2 Cart", "shop/v1 Old"]);
        assert!(found.find("shop/v1", "Cart").is_some());
        assert!(found.find("shop/v1", "Other").is_none());
    }

    #[test]
    fn what_cannot_be_discovered_is_an_error() {
        let stale = group("metrics.k8s.io", json!([{"version": "v1", "freshness": "Stale"}]));
        let error = kinds([stale].into_iter()).unwrap_err();
        assert!(error.to_string().contains("metrics.k8s.io/v1"), "{error}");
    }
}
