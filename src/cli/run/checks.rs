//! What must be so in a cluster before the operator works: each that is not is said in one line,
//! with what to do, and looked for again.

use futures::future::try_join_all;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use crate::api::{CRD_FILES, crds, names};
use crate::cluster::crds::differences;
use crate::cluster::{chain, is_not_found};
use crate::guard::{Need, operator_needs};

/// How many names a line has before it only counts.
const NAMED: usize = 3;
/// How the rights are given.
const APPLY_RBAC: &str = "kubectl apply --server-side -f deploy/rbac/operator.yaml";
/// How the CRDs come, and are replaced.
const APPLY_CRDS: &str = "kubectl apply --server-side -f crds/";

/// Whether everything is there that the operator needs, its lease aside.
///
/// # Errors
/// What is missing, in one line, with what to do about it.
pub async fn check(client: &Client, server: &str) -> Result<(), String> {
    is_api_server(client, server).await?;
    crds_are_served(client, server).await?;
    rights_are_given(client, server).await?;
    namespace_is_there(client, server).await?;
    is_the_operator(client, server).await?;
    crds_are_current(client, server).await
}

/// Without this, any web server's "not found" would read as if CRDs were missing.
async fn is_api_server(client: &Client, server: &str) -> Result<(), String> {
    match client.apiserver_version().await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(format!(
            "{server} answers, but not as a Kubernetes API server: check the server in the kubeconfig"
        )),
        Err(kube::Error::SerdeError(_)) => Err(format!(
            "{server} answers, but not as a Kubernetes API server: check the server in the kubeconfig"
        )),
        // Where the version is not for everybody.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => Err(no_answer(server, &error)),
    }
}

/// Why a request had no useful answer.
fn no_answer(server: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => format!(
            "the API server {server} does not know these credentials: check the token or the certificate of the kubeconfig"
        ),
        // It answers, and says no.
        kube::Error::Api(status) => {
            format!("the API server {server} refuses: {}", status.message)
        }
        error => format!("the API server {server} does not answer: {}", chain(innermost(error))),
    }
}

async fn crds_are_served(client: &Client, server: &str) -> Result<(), String> {
    let wanted: Vec<&str> = CRD_FILES.iter().map(|file| file.trim_end_matches(".yaml")).collect();
    let missing: Vec<&str> = match client.list_api_group_resources(names::API_VERSION).await {
        Ok(list) => {
            let served = |plural: &&str| list.resources.iter().any(|r| r.name == **plural);
            wanted.into_iter().filter(|plural| !served(plural)).collect()
        }
        Err(error) if is_not_found(&error) => wanted,
        Err(error) => return Err(no_answer(server, &error)),
    };
    if missing.is_empty() {
        return Ok(());
    }
    let (missing, group) = (missing.join(", "), names::GROUP);
    Err(format!("the cluster lacks the CRDs {missing} of {group}: {APPLY_CRDS}"))
}

async fn rights_are_given(client: &Client, server: &str) -> Result<(), String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let reviews = operator_needs().into_iter().map(|need| {
        let api = api.clone();
        async move {
            let review = api.create(&PostParams::default(), &review(&need)).await?;
            let allowed = review.status.is_some_and(|status| status.allowed);
            Ok((!allowed).then(|| words(&need)))
        }
    });
    let missing = try_join_all(reviews).await.map_err(|error| no_answer(server, &error))?;
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the operator's account lacks {} of the rights it needs, {}: {APPLY_RBAC}, and check that the credentials are those of {}",
        missing.len(),
        some_of(&missing),
        names::OPERATOR_USER,
    ))
}

/// The guard lets the operator's own account through, and nobody else, however many rights they
/// have: an administrator's kubeconfig would only meet refusals.
async fn is_the_operator(client: &Client, server: &str) -> Result<(), String> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let review = review.map_err(|error| no_answer(server, &error))?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    match user.unwrap_or_default() {
        user if user == names::OPERATOR_USER => Ok(()),
        user => Err(format!(
            "these credentials are those of {user:?}, and the guard takes only {} for the operator: make a kubeconfig of that account, see docs/operating.md",
            names::OPERATOR_USER
        )),
    }
}

/// The lease lies there.
async fn namespace_is_there(client: &Client, server: &str) -> Result<(), String> {
    let name = names::OPERATOR_NAMESPACE;
    match Api::<Namespace>::all(client.clone()).get_opt(name).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("the cluster lacks the namespace {name}: {APPLY_RBAC}")),
        Err(error) => Err(no_answer(server, &error)),
    }
}

fn review(need: &Need) -> SelfSubjectAccessReview {
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(need.group.to_owned()),
                resource: Some(need.resource.to_owned()),
                verb: Some(need.verb.to_owned()),
                namespace: need.namespace.map(str::to_owned),
                name: need.name.map(str::to_owned),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// A right as `kubectl auth can-i` takes it.
fn words(need: &Need) -> String {
    let Need { group, resource, verb, namespace, name } = need;
    let dot = if group.is_empty() || *group == "*" { "" } else { "." };
    let group = if *group == "*" { "" } else { group };
    let name = name.map_or(String::new(), |name| format!("/{name}"));
    let place = namespace.map_or(String::new(), |namespace| format!(" -n {namespace}"));
    format!("{verb} {resource}{dot}{group}{name}{place}")
}

async fn crds_are_current(client: &Client, server: &str) -> Result<(), String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut newer = vec![];
    for needed in crds() {
        let name = needed.name_any();
        let live = api.get(&name).await.map_err(|error| no_answer(server, &error))?;
        let found = differences(&needed, &live);
        if !found.lacks.is_empty() {
            // What is written to a field that the CRD does not have is lost without a word.
            return Err(format!(
                "the CRD {name} is of an older version, or not ours: it lacks {}; nothing is done until it is replaced: {APPLY_CRDS}",
                some_of(&found.lacks)
            ));
        }
        if !found.unknown.is_empty() {
            newer.push(format!("{name} ({})", some_of(&found.unknown)));
        }
    }
    if !newer.is_empty() {
        tracing::warn!(
            "the CRDs are newer than this operator, which leaves alone what it does not know: {}",
            newer.join(", ")
        );
    }
    Ok(())
}

/// The first few, and how many there are more.
fn some_of(all: &[String]) -> String {
    let first = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The cause of the causes: what is around it names layers of libraries.
fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_said_as_kubectl_takes_them() {
        let all: Vec<String> = operator_needs().iter().map(words).collect();
        for one in [
            "list *",
            "delete sites.reprieve.dev",
            "delete namespaces",
            "update leases.coordination.k8s.io/reprieve -n reprieve-system",
        ] {
            assert!(all.iter().any(|word| word == one), "{one}: {all:?}");
        }
        assert_eq!(some_of(&all[..2]), "get *, list *");
        assert_eq!(some_of(&all[..5]), "get *, list *, watch * and 2 more");
    }
}
