//! What is written into the store's ledger when an entity was purged, so that the store alone tells
//! what was lost from what people wanted to go.

use super::observe::Facts;
use crate::api::names;
use crate::cluster::{Context, Error, Result};
use crate::store::{Purge, Store, ledger};
use kube::ResourceExt;

/// Notes the purge of this entity, once. Before the last of it goes: a store that does not answer
/// keeps the entity where it is.
///
/// # Errors
/// A store that cannot be written.
pub async fn note(ctx: &Context, store: &Store, facts: &Facts, uid: &str) -> Result<()> {
    let request = &facts.request;
    let status = request.status.clone().unwrap_or_default();
    let plan = status.plan.unwrap_or_default();
    let Some(entity) = plan.entities.iter().find(|entity| entity.uid == uid) else {
        let what = "it is in no plan";
        return Err(Error::answer(format!("note the purge of {uid}"), what));
    };
    let purge = Purge {
        format: ledger::FORMAT.to_owned(),
        kind: entity.kind,
        id: entity.id.clone(),
        name: entity.name.clone(),
        uid: entity.uid.clone(),
        time: ctx.now(),
        request: request.name_any(),
        request_uid: facts.request_uid(),
        digest: plan.digest.clone().unwrap_or_default(),
        requested_by: request
            .annotations()
            .get(names::ANNOTATION_REQUESTED_BY)
            .cloned()
            .unwrap_or_default(),
        approved_by: status.approvals.iter().map(|approval| approval.user.clone()).collect(),
        backup: entity.backup.as_ref().map(|backup| backup.name.clone()),
    };
    let noted = store.note_purge(&purge).await;
    noted.map_err(|error| Error::answer(format!("note the purge of {}", entity.name), error))
}
