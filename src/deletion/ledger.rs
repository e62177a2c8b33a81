//! What is written into the store's ledger when an entity was purged, so that the store alone tells
//! what was lost from what people wanted to go.

use super::gates::first_requester;
use super::live::{Live, words};
use super::observe::{Executed, Facts};
use crate::api::{EntityPhase, PlanEntity};
use crate::cluster::{Context, Error, Result};
use crate::store::{Identity, Purge, Store, ledger};
use kube::ResourceExt;

/// Whether the ledger has it that this request has purged this entity, of which nothing is gone.
/// After a restore of etcd an executed request looks as if it were pending, and must not purge a
/// second time what somebody has just brought back.
pub async fn executed(
    store: &Store,
    request_uid: &str,
    entity: &PlanEntity,
    live: Live<'_>,
) -> Executed {
    // What was begun with is finished; and the note comes before the last DELETE, which may have
    // failed.
    if live.has_started(entity) || (entity.phase == EntityPhase::Purging && live.is_bare()) {
        return Executed::No;
    }
    let found = match store.purges_of(&entity.id).await {
        Ok(found) => found,
        Err(error) => return Executed::Unknown(error.to_string()),
    };
    let own = |purge: &&Purge| purge.uid == entity.uid && purge.request_uid == request_uid;
    if let Some(purge) = found.good.iter().find(own) {
        return Executed::Yes(format!(
            "the ledger in the store has it that this request purged {} (UID {}) at {}, and it lives: the cluster was set back to an earlier state, and nothing is purged a second time. If it is to go, ask anew",
            words(entity),
            entity.uid,
            purge.time
        ));
    }
    match found.refused.first() {
        Some(error) => Executed::Unknown(error.to_string()),
        None => Executed::No,
    }
}

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
        requested_by: first_requester(facts).unwrap_or_default(),
        approved_by: status.approvals.iter().map(|approval| approval.user.clone()).collect(),
        backup: entity.backup.as_ref().map(|backup| backup.name.clone()),
        site: entity.site.as_ref().and_then(|site| {
            let live = facts.sites.get(&site.name).filter(|live| live.uid() == site.uid)?;
            let (name, uid) = (site.name.clone(), site.uid.clone());
            Some(Identity { name, uid, id: live.site.spec.id.clone() })
        }),
    };
    let noted = store.note_purge(&purge).await;
    noted.map_err(|error| Error::answer(format!("note the purge of {}", entity.name), error))
}
