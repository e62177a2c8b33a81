//! The ledger of purges: a ConfigMap in the operator's namespace that the guard keeps everybody
//! else from, and that is written by compare and swap.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PartialObjectMeta};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::rolling::{self, Ledger, RollingFacts};
use crate::api::{App, DeletionRequest, Site, TargetKind, Time, names};
use crate::cluster::{Context, During, Error, Exact, Result, create_if_absent, patch_exact};

/// The key of the ConfigMap under which the entries stand.
const ENTRIES: &str = "entries";

fn api(ctx: &Context) -> Api<ConfigMap> {
    Api::namespaced(ctx.client.clone(), names::OPERATOR_NAMESPACE)
}

/// Reads the ledger, and counts the entities of a kind.
///
/// # Errors
/// Any read that fails.
pub(super) async fn observe(ctx: &Context, kind: TargetKind, now: Time) -> Result<RollingFacts> {
    let fleet = match kind {
        TargetKind::Site => count::<Site>(ctx).await?,
        TargetKind::App => count::<App>(ctx).await?,
    };
    let doing = format!("read ConfigMap {}", names::LEDGER);
    let ledger = match api(ctx).get_opt(names::LEDGER).await.during(doing)? {
        Some(map) => match map.data.as_ref().and_then(|data| data.get(ENTRIES)) {
            _ if map.meta().deletion_timestamp.is_some() => {
                Ledger::Unreadable(format!("ConfigMap {} is being deleted", names::LEDGER))
            }
            Some(text) => match rolling::read(text) {
                Ok(entries) => Ledger::Read(Exact::of(&map), entries),
                Err(why) => Ledger::Unreadable(why),
            },
            None => Ledger::Unreadable(format!("ConfigMap {} has no {ENTRIES}", names::LEDGER)),
        },
        // It is there from the first purge on. Where a request tells of one, it was lost.
        None => {
            let requests: Api<DeletionRequest> = Api::all(ctx.client.clone());
            let all = requests.list(&ListParams::default()).await;
            let all = all.during("list every DeletionRequest")?;
            Ledger::Missing(rolling::trace(all.iter(), now))
        }
    };
    Ok(RollingFacts { ledger, fleet })
}

/// How many there are of a kind: of one page, and what the API server says is left.
async fn count<K>(ctx: &Context) -> Result<i64>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let doing = format!("count every {}", K::kind(&()));
    let api: Api<PartialObjectMeta<K>> = Api::all(ctx.client.clone());
    let page = api.list_metadata(&ListParams::default().limit(1)).await.during(&doing)?;
    let seen = i64::try_from(page.items.len()).unwrap_or(i64::MAX);
    match (page.metadata.remaining_item_count, page.metadata.continue_) {
        (Some(left), _) => Ok(seen.saturating_add(left)),
        (None, next) if next.as_deref().unwrap_or_default().is_empty() => Ok(seen),
        (None, _) => {
            let all = api.list_metadata(&ListParams::default()).await.during(&doing)?;
            Ok(i64::try_from(all.items.len()).unwrap_or(i64::MAX))
        }
    }
}

/// Writes the ledger, if it is still the one that was read; none: if there is none yet.
///
/// # Errors
/// A conflict when somebody else has written it since; any other answer but success.
pub(super) async fn write(ctx: &Context, ledger: Option<&Exact>, text: &str) -> Result<()> {
    match ledger {
        Some(exact) => {
            let patch = json!({ "metadata": {}, "data": { (ENTRIES): text } });
            patch_exact(&api(ctx), exact, patch).await.map(drop)
        }
        None => {
            let mut map = ConfigMap::default();
            map.metadata.name = Some(names::LEDGER.to_owned());
            map.metadata.namespace = Some(names::OPERATOR_NAMESPACE.to_owned());
            map.data = Some(BTreeMap::from([(ENTRIES.to_owned(), text.to_owned())]));
            if create_if_absent(&api(ctx), &map).await? {
                return Ok(());
            }
            let what = format!("ConfigMap {} was made meanwhile", map.name_any());
            Err(Error::answer("begin the ledger of purges", what))
        }
    }
}
