//! What is read, live, before a drill is decided on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};

use super::choose::{self, Candidate, Unchosen};
use super::decide::{Facts, Scratch};
use super::timing;
use crate::api::{
    Backup, ConditionType, Conditions, DrillStage, DrillStrategy, DrilledArchive, NamespaceRef,
    Reason, Restore, RestoreDrill, Time, names,
};
use crate::cluster::readiness::waits_for;
use crate::cluster::{Context, During, Result};
use crate::store::{Store, StoreError};

/// Reads the drill and what a decision on it needs. None: it is gone.
///
/// # Errors
/// What the API server said.
pub async fn observe(ctx: &Context, store: &Store, name: &str, now: Time) -> Result<Option<Facts>> {
    let drills: Api<RestoreDrill> = Api::all(ctx.client.clone());
    let doing = format!("read the RestoreDrill {name}");
    let Some(drill) = drills.get_opt(name).await.during(doing)? else { return Ok(None) };
    let mut facts = Facts {
        scratch: scratch(ctx, &drill.uid().unwrap_or_default()).await?,
        restore: None,
        others: vec![],
        candidates: None,
        drill,
    };
    match facts.drill.status.as_ref().and_then(|status| status.run.clone()) {
        Some(run) => {
            let restores: Api<Restore> = Api::all(ctx.client.clone());
            let doing = format!("read the Restore {}", run.name);
            facts.restore = restores.get_opt(&run.name).await.during(doing)?;
            if run.stage == DrillStage::Choosing && facts.restore.is_none() {
                facts.candidates = Some(candidates(ctx, store, &facts.drill).await?);
            }
        }
        None => {
            let table = timing::timetable(&facts.drill).unwrap_or_default();
            if timing::due(&facts.drill, table.as_ref(), now).is_some() {
                facts.others = others(ctx, name).await?;
            }
        }
    }
    Ok(Some(facts))
}

/// The scratch namespaces of this drill, by the label that only the operator can have set.
async fn scratch(ctx: &Context, uid: &str) -> Result<Vec<Scratch>> {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let of_drill = ListParams::default().labels(&format!("{}={uid}", names::LABEL_DRILL));
    let live = api.list(&of_drill).await.during("list the scratch namespaces of a drill")?;
    let scratch = |namespace: Namespace| Scratch {
        going: namespace.metadata.deletion_timestamp.is_some().then(|| waits_for(&namespace)),
        namespace: NamespaceRef {
            name: namespace.name_any(),
            uid: namespace.uid().unwrap_or_default(),
        },
    };
    Ok(live.into_iter().map(scratch).collect())
}

/// The other drills of which a run is under way.
async fn others(ctx: &Context, name: &str) -> Result<Vec<String>> {
    let api: Api<DeserializeGuard<RestoreDrill>> = Api::all(ctx.client.clone());
    let all = api.list(&ListParams::default()).await.during("list the RestoreDrills")?;
    let runs = |drill: &DeserializeGuard<RestoreDrill>| {
        let drill = drill.0.as_ref().ok()?;
        drill.status.as_ref()?.run.as_ref()?;
        Some(drill.name_any())
    };
    Ok(all.iter().filter_map(runs).filter(|other| other != name).collect())
}

/// What can be tried.
async fn candidates(
    ctx: &Context,
    store: &Store,
    drill: &RestoreDrill,
) -> Result<std::result::Result<Vec<Candidate>, Unchosen>> {
    if let Some(references) = &drill.spec.sample.backup_refs {
        let mut all = vec![];
        for reference in references {
            let api: Api<Backup> = Api::all(ctx.client.clone());
            let doing = format!("read the Backup {}", reference.name);
            let backup = api.get_opt(&reference.name).await.during(doing)?;
            match named(&reference.name, backup) {
                Ok(candidate) => all.push(candidate),
                Err(unchosen) => return Ok(Err(unchosen)),
            }
        }
        return Ok(Ok(all));
    }
    Ok(in_catalogue(store, drill.spec.sample.strategy).await.map_err(stopped))
}

fn stopped(error: StoreError) -> Unchosen {
    if error.may_pass() {
        Unchosen::Waits(Reason::StoreUnavailable, error.to_string())
    } else {
        Unchosen::Refused(Reason::ArchiveInvalid, error.to_string())
    }
}

async fn in_catalogue(
    store: &Store,
    strategy: DrillStrategy,
) -> std::result::Result<Vec<Candidate>, StoreError> {
    let listing = store.catalogue().await?;
    for error in &listing.refused {
        tracing::warn!("left out of the drill: {error}");
    }
    let mut drilled: BTreeMap<String, Time> = BTreeMap::new();
    if strategy == DrillStrategy::Oldest {
        for noted in store.drilled().await?.good {
            let last = drilled.entry(noted.site.id).or_insert(noted.time);
            *last = noted.time.max(*last);
        }
    }
    Ok(choose::newest(&listing.entries, &drilled))
}

/// A Backup that is named.
fn named(name: &str, backup: Option<Backup>) -> std::result::Result<Candidate, Unchosen> {
    let Some(backup) = backup else {
        let message = format!(
            "there is no Backup {name}: name another in spec.sample.backupRefs, see kubectl get backups"
        );
        return Err(Unchosen::Refused(Reason::BackupNotFound, message));
    };
    let status = backup.status.clone().unwrap_or_default();
    let site = status.site.clone().unwrap_or_else(|| backup.spec.site_ref.clone());
    let (true, Some(site_uid), Some(site_id), Some(location), Some(digest)) =
        (backup.is_verified(), site.uid, site.id, status.location, status.digest)
    else {
        let message =
            format!("the Backup {name} is not verified: name another in spec.sample.backupRefs");
        let failed = status.conditions.is_true(ConditionType::Stalled);
        return Err(match failed {
            true => Unchosen::Refused(Reason::BackupNotVerified, message),
            // It may still be under way.
            false => Unchosen::Waits(Reason::BackupNotVerified, message),
        });
    };
    Ok(Candidate {
        archive: DrilledArchive {
            site: site.name,
            site_uid,
            site_id,
            backup: name.to_owned(),
            location,
            digest,
            objects: status.objects.unwrap_or_default(),
        },
        bytes: 0,
        drilled: None,
    })
}
