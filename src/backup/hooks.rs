//! The `beforeBackup` hooks of a Backup: carried out one step at a time, each outcome written down
//! before the next.

use kube::{Api, ResourceExt};
use serde_json::json;

use super::decide::{self, Decision, Facts, Outcome};
use crate::api::{Backup, HookState, HookStatus, Reason, names};
use crate::cluster::hooks::{Progress, Run, Turn, note, step, turn};
use crate::cluster::{Context, Exact, Result, patch_status_exact};
use crate::store::Store;

/// Runs the hooks as far as they go now. None: they have ended, and the backup may be made.
///
/// # Errors
/// A write or a read that fails.
pub async fn before(ctx: &Context, store: &Store, facts: &mut Facts) -> Result<Option<Decision>> {
    let Some(site) = facts.site.clone() else { return Ok(None) };
    let hooks = site.hooks().before_backup;
    let mut records = records(facts);
    if turn(&hooks, &records) == Turn::Done {
        return Ok(None);
    }
    if records.is_empty()
        && let Err(error) = store.is_there().await
    {
        // They are run once: not for a backup that cannot be made now.
        let failed = Outcome::Failed(Reason::StoreUnavailable, error.to_string());
        return Ok(Some(decide::report(facts, &failed, ctx.now())));
    }
    let name = site.name_any();
    let namespace = site.namespace_names().into_iter().next().unwrap_or_default();
    let of =
        format!("Backup {} ({})", facts.backup.name_any(), facts.backup.uid().unwrap_or_default());
    let run = Run {
        client: &ctx.client,
        metrics: &ctx.metrics,
        when: "beforeBackup",
        namespace: &namespace,
        owner: (names::LABEL_SITE, &name),
        of: &of,
        hooks: &hooks,
    };
    let rest = decide::hooks_rest(facts);
    loop {
        // What has begun is waited for, whatever came meanwhile.
        let (record, told) = match (turn(&hooks, &records), &rest) {
            (Turn::Of(hook, None), Some(why)) => {
                let skipped = HookStatus {
                    name: hook.name.clone(),
                    state: HookState::Skipped,
                    job: None,
                    job_uid: None,
                    start_time: None,
                    completion_time: Some(ctx.now()),
                    message: Some(why.clone()),
                };
                (skipped, None)
            }
            _ => match step(&run, &records, ctx.now()).await? {
                Progress::Record(record, told) => (record, told),
                Progress::Wait(why) => {
                    return Ok(Some(decide::hook_runs(facts, &why, ctx.now())));
                }
                Progress::Done => return Ok(None),
                Progress::Failed(reason, why) => {
                    return Ok(Some(decide::hook_failed(facts, reason, &why, ctx.now())));
                }
            },
        };
        note(&mut records, record.clone());
        let api: Api<Backup> = Api::all(ctx.client.clone());
        let doing = format!("write down the hooks of the Backup {}", facts.backup.name_any());
        let exact = Exact::of(&facts.backup);
        facts.backup = patch_status_exact(&api, &exact, json!({ "hooks": records }), doing).await?;
        run.count(&record);
        if let Some(told) = told {
            ctx.tell(&facts.backup, &told).await;
        }
    }
}

fn records(facts: &Facts) -> Vec<HookStatus> {
    facts.backup.status.as_ref().map(|status| status.hooks.clone()).unwrap_or_default()
}
