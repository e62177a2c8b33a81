//! What is applied for an App: server-side, as the App's own account.

use http::HeaderValue;
use kube::api::{Api, DynamicObject, Patch, PatchParams, Request};
use kube::{Resource, ResourceExt};

use super::decide::{Applied, Plan, ToApply};
use super::observe::Facts;
use crate::api::{App, AppliedObject, names};
use crate::cluster::readiness::readiness;
use crate::cluster::{Context, During, Result, set_finalizer};

/// Carries the plan out and tells what became of each object. An object that the API server
/// refuses does not stop the others.
///
/// # Errors
/// A request that got no answer, or one that says nothing about the object.
pub async fn act(ctx: &Context, facts: &Facts, plan: &Plan) -> Result<Vec<Applied>> {
    let Plan::Apply { add_finalizer, only_look, objects } = plan else {
        return Ok(vec![]);
    };
    let app = &facts.app;
    if *add_finalizer {
        let api: Api<App> =
            Api::namespaced(ctx.client.clone(), &app.namespace().unwrap_or_default());
        set_finalizer(&api, app, true).await?;
    }
    let mut all = vec![];
    for object in objects {
        let known = object.known.as_ref().filter(|_| *only_look);
        let looked = match known {
            Some(known) => look(ctx, facts, object, known).await?,
            None => None,
        };
        all.push(match looked {
            Some(done) => done,
            None => apply(ctx, facts, object).await?,
        });
    }
    Ok(all)
}

/// An object that was applied and waited for, as it is now; none when it is gone, or another.
async fn look(
    ctx: &Context,
    facts: &Facts,
    wanted: &ToApply,
    known: &AppliedObject,
) -> Result<Option<Applied>> {
    if known.waiting_for.is_none() {
        return Ok(Some(Applied::Done { object: known.clone() }));
    }
    let namespace = facts.app.namespace().unwrap_or_default();
    let resource = &facts.kinds[&wanted.kind_key].resource;
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &namespace, resource);
    let doing = format!("read {} {}", resource.kind, wanted.name);
    let live = api.get_opt(&wanted.name).await.during(doing)?;
    Ok(live.filter(|live| live.uid().as_ref() == Some(&known.uid)).map(|live| Applied::Done {
        object: AppliedObject { waiting_for: waiting_for(&live), ..known.clone() },
    }))
}

/// What an object waits for to become ready.
fn waiting_for(live: &DynamicObject) -> Option<String> {
    let object = serde_json::to_value(live).unwrap_or_default();
    readiness(&object).waiting_for().map(str::to_owned)
}

/// Whether this answer says something about the object, and not about the API server: trying again
/// will not help. A field that the kind does not have is answered with 500, not with 422.
fn is_about_the_object(code: u16, message: &str) -> bool {
    match code {
        429 => false,
        400..=499 => true,
        500 => message.contains("field not declared in schema") || message.contains("typed patch"),
        _ => false,
    }
}

async fn apply(ctx: &Context, facts: &Facts, wanted: &ToApply) -> Result<Applied> {
    let namespace = facts.app.namespace().unwrap_or_default();
    let resource = &facts.kinds[&wanted.kind_key].resource;
    let account = &facts.app.spec.service_account_name;
    let doing = format!("apply {} {}", resource.kind, wanted.name);
    // What the App applied before is its own, and taken back from whoever changed it; anything
    // else is not taken from its owner.
    let mut params = PatchParams::apply(names::FIELD_MANAGER);
    params.force = wanted.known.is_some();
    let request = Request::new(DynamicObject::url_path(resource, Some(&namespace)))
        .patch(&wanted.name, &params, &Patch::Apply(&wanted.object))
        .map_err(kube::Error::BuildRequest)
        .during(&doing)?;
    let (mut parts, body) = request.into_parts();
    // Impersonation: nobody can do through an App what its account may not.
    let user = format!("{}{namespace}:{account}", names::SERVICE_ACCOUNT_PREFIX);
    let Ok(user) = HeaderValue::from_str(&user) else {
        let message = format!("serviceAccountName {account:?} is no account's name");
        return Ok(Applied::Failed { index: wanted.index, message });
    };
    parts.headers.insert("Impersonate-User", user);
    let request = http::Request::from_parts(parts, body);
    match ctx.client.request::<DynamicObject>(request).await {
        Ok(live) => Ok(Applied::Done {
            object: AppliedObject {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                name: wanted.name.clone(),
                uid: live.uid().unwrap_or_default(),
                waiting_for: waiting_for(&live),
            },
        }),
        Err(kube::Error::Api(status)) if is_about_the_object(status.code, &status.message) => {
            Ok(Applied::Failed { index: wanted.index, message: status.message })
        }
        Err(error) => Err(error).during(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_told_and_a_sick_server_is_waited_for() {
        let typo = "failed to create typed patch object (a/shop; /v1, Kind=ConfigMap): .dta: field not declared in schema";
        assert!(is_about_the_object(500, typo));
        assert!(is_about_the_object(422, "spec.replicas: Invalid value"));
        assert!(!is_about_the_object(500, "etcdserver: leader changed"));
        assert!(!is_about_the_object(429, "too many requests"));
        assert!(!is_about_the_object(503, "service unavailable"));
    }
}
