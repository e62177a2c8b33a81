//! A mark that came late: a write of a request that was on its way when the App was released, and
//! arrived when the request had ended. Nobody else takes it off.

use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;

use crate::api::{App, DeletionRequest, Reason};
use crate::cluster::{Context, During, Exact, Note, Result, patch_status_exact};

/// Whether the mark that an App bears came late, given the live request of the name that it bears.
/// Pure. An open request is held by its finalizer until everything is released; what is on its way
/// out is finished by who began it.
pub fn came_late(app: &App, request: Option<&DeletionRequest>) -> bool {
    let Some(deletion) = app.status.as_ref().and_then(|status| status.deletion.as_ref()) else {
        return false;
    };
    let same = |live: &&DeletionRequest| live.uid().as_ref() == Some(&deletion.request_uid);
    app.metadata.deletion_timestamp.is_none()
        && request.filter(same).is_none_or(DeletionRequest::has_ended)
}

/// Takes the mark of a request off an App, if it came late. Answers whether it did.
///
/// # Errors
/// A read or write that fails; a conflict when the App has changed.
pub async fn take_off(ctx: &Context, app: &App) -> Result<bool> {
    let Some(deletion) = app.status.as_ref().and_then(|status| status.deletion.as_ref()) else {
        return Ok(false);
    };
    // Whatever became of its request.
    if !came_late(app, None) {
        return Ok(false);
    }
    let request = &deletion.request_ref.name;
    let requests: Api<DeletionRequest> = Api::all(ctx.client.clone());
    let live = requests.get_opt(request).await.during(format!("read DeletionRequest {request}"))?;
    if !came_late(app, live.as_ref()) {
        return Ok(false);
    }
    let (namespace, name) = (app.namespace().unwrap_or_default(), app.name_any());
    let doing = format!("take the mark of DeletionRequest {request} off App {namespace}/{name}");
    let api: Api<App> = Api::namespaced(ctx.client.clone(), &namespace);
    patch_status_exact(&api, &Exact::of(app), json!({ "deletion": null }), doing).await?;
    let note =
        format!("the DeletionRequest {request} has ended: its mark, which came late, is off");
    ctx.tell(app, &Note::normal(Reason::Released, note)).await;
    Ok(true)
}
