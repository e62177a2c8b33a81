//! What is written for a Site. Nothing here deletes, or overwrites what is a tenant's.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::decide::Effect;
use super::observe::{Facts, NamespaceFacts, read_namespace};
use super::rows::{Account, NamespaceRow};
use crate::api::{Site, names};
use crate::cluster::{
    Context, During, Error, Exact, Result, create_if_absent, is_conflict, patch_exact,
    set_finalizer,
};

/// Carries the effects out, in order, and takes into the facts what is so by them. The first that
/// fails ends it; the rest is decided again.
///
/// # Errors
/// Any write that fails.
pub async fn act(ctx: &Context, facts: &mut Facts, effects: &[Effect]) -> Result<()> {
    for effect in effects {
        match effect {
            Effect::AddFinalizer => add_finalizer(ctx, facts).await?,
            Effect::CreateNamespace(name) => create_namespace(ctx, facts, name).await?,
            Effect::AdoptNamespace(name) => adopt_namespace(ctx, facts, name).await?,
            Effect::CreateAccount(namespace) => create_account(ctx, facts, namespace).await?,
            Effect::BindAccount(namespace) => bind_account(ctx, facts, namespace).await?,
        }
    }
    Ok(())
}

fn facts_of<'a>(facts: &'a mut Facts, name: &str) -> Option<&'a mut NamespaceFacts> {
    facts.namespaces.iter_mut().find(|n| n.name == name)
}

async fn add_finalizer(ctx: &Context, facts: &mut Facts) -> Result<()> {
    let api: Api<Site> = Api::all(ctx.client.clone());
    if let Some(live) = set_finalizer(&api, &facts.site, true).await? {
        facts.site = live;
    }
    Ok(())
}

async fn create_namespace(ctx: &Context, facts: &mut Facts, name: &str) -> Result<()> {
    let labels = [(names::LABEL_SITE.to_owned(), facts.site.name_any())];
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            ..Default::default()
        },
        ..Default::default()
    };
    let row = match create(&Api::all(ctx.client.clone()), &namespace).await? {
        Some(live) => Some(NamespaceRow {
            uid: live.uid().unwrap_or_default(),
            site: Some(facts.site.name_any()),
            adopt: None,
            terminating: false,
        }),
        // Somebody was faster; what that is, the decision asks.
        None => read_namespace(ctx, name).await?,
    };
    if let Some(namespace) = facts_of(facts, name) {
        namespace.live = row;
    }
    Ok(())
}

async fn adopt_namespace(ctx: &Context, facts: &mut Facts, name: &str) -> Result<()> {
    let site = facts.site.name_any();
    let seen = facts_of(facts, name).and_then(|n| n.live.clone());
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let live = api.get(name).await.during(format!("read namespace {name}"))?;
    // What the watch told may be old: only the namespace that was decided on, as it was then.
    let row = super::fleet::row_of(&live.metadata);
    if Some(&row) != seen.as_ref() {
        return Err(Error::answer(format!("label namespace {name}"), "it has just changed"));
    }
    let patch = json!({ "metadata": { "labels": { (names::LABEL_SITE): site } } });
    patch_exact(&api, &Exact::of(&live), patch).await?;
    if let Some(namespace) = facts_of(facts, name) {
        namespace.live = Some(NamespaceRow { site: Some(site), ..row });
    }
    Ok(())
}

async fn create_account(ctx: &Context, facts: &mut Facts, namespace: &str) -> Result<()> {
    let Some(live) = facts_of(facts, namespace).and_then(|n| n.live.clone()) else {
        return Ok(());
    };
    // Not one object goes into a namespace that is somebody else's.
    if live.site.as_deref() != Some(facts.site.name_any().as_str()) {
        return Ok(());
    }
    let metadata = ObjectMeta {
        name: Some(names::APP_ACCOUNT.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let account = ServiceAccount { metadata: metadata.clone(), ..Default::default() };
    let bindings: Api<RoleBinding> = Api::namespaced(ctx.client.clone(), namespace);
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: names::APP_ACCOUNT.to_owned(),
        },
        subjects: Some(vec![subject(namespace)]),
    };
    let (account, binding) =
        tokio::join!(create_if_absent(&accounts, &account), create_if_absent(&bindings, &binding));
    let made = [(account?, "the ServiceAccount"), (binding?, "the RoleBinding")];
    // Where the site has long had the namespace, somebody had taken them away.
    let status = facts.site.status.as_ref();
    let known = status.is_some_and(|s| s.namespaces.iter().any(|n| n.uid == live.uid));
    if known {
        let made = made.iter().filter(|(made, _)| *made);
        facts.repaired.extend(made.map(|(_, what)| format!("in namespace {namespace}, {what}")));
    }
    if let Some(facts) = facts_of(facts, namespace) {
        facts.account = Account::There(None);
    }
    Ok(())
}

fn subject(namespace: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: names::APP_ACCOUNT.to_owned(),
        namespace: Some(namespace.to_owned()),
        ..Default::default()
    }
}

async fn bind_account(ctx: &Context, facts: &mut Facts, namespace: &str) -> Result<()> {
    let api: Api<RoleBinding> = Api::namespaced(ctx.client.clone(), namespace);
    let doing = format!("read RoleBinding {} in namespace {namespace}", names::APP_ACCOUNT);
    let live = api.get(names::APP_ACCOUNT).await.during(doing)?;
    let mut subjects = live.subjects.clone().unwrap_or_default();
    subjects.push(subject(namespace));
    patch_exact(&api, &Exact::of(&live), json!({ "subjects": subjects })).await?;
    facts.repaired.push(format!("in namespace {namespace}, the subject in the RoleBinding"));
    if let Some(facts) = facts_of(facts, namespace) {
        facts.account = Account::There(None);
    }
    Ok(())
}

/// Creates an object; None when one of its name is there already.
async fn create<K>(api: &Api<K>, object: &K) -> Result<Option<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Serialize,
{
    let params =
        PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
    match api.create(&params, object).await {
        Ok(live) => Ok(Some(live)),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error).during(format!("create {}", object.name_any())),
    }
}
