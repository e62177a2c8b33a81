//! What is written for a Site. Nothing here deletes or overwrites.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::decide::Effect;
use super::observe::Facts;
use crate::api::{Site, names};
use crate::cluster::{Context, Exact, Result, create_if_absent, patch_exact, set_finalizer};

/// Carries the effects out, in order. The first that fails ends it; the rest is decided again.
///
/// # Errors
/// Any write that fails.
pub async fn act(ctx: &Context, facts: &Facts, effects: &[Effect]) -> Result<()> {
    let client = &ctx.client;
    for effect in effects {
        match effect {
            Effect::AddFinalizer => {
                let api: Api<Site> = Api::all(client.clone());
                set_finalizer(&api, &facts.site, true).await?;
            }
            Effect::CreateNamespace(name) => {
                let api: Api<Namespace> = Api::all(client.clone());
                let labels = [(names::LABEL_SITE.to_owned(), facts.site.name_any())];
                let namespace = Namespace {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        labels: Some(labels.into()),
                        ..Default::default()
                    },
                    ..Default::default()
                };
                create_if_absent(&api, &namespace).await?;
            }
            Effect::AdoptNamespace(name) => {
                let api: Api<Namespace> = Api::all(client.clone());
                let live = facts.namespaces.iter().find(|n| n.name == *name);
                if let Some(live) = live.and_then(|n| n.live.as_ref()) {
                    let labels = json!({ (names::LABEL_SITE): facts.site.name_any() });
                    let patch = json!({ "metadata": { "labels": labels } });
                    patch_exact(&api, &Exact::of(live), patch).await?;
                }
            }
            Effect::CreateAccount(namespace) => create_account(ctx, namespace).await?,
        }
    }
    Ok(())
}

async fn create_account(ctx: &Context, namespace: &str) -> Result<()> {
    let metadata = ObjectMeta {
        name: Some(names::APP_ACCOUNT.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let account = ServiceAccount { metadata: metadata.clone(), ..Default::default() };
    create_if_absent(&accounts, &account).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(ctx.client.clone(), namespace);
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: names::APP_ACCOUNT.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::APP_ACCOUNT.to_owned(),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        }]),
    };
    create_if_absent(&bindings, &binding).await?;
    Ok(())
}
