//! Acts 5 and 6: the purge, and the way back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kube::api::{Api, PostParams};
use serde_json::json;

use super::acts;
use super::fleet::{self, Uids};
use super::show::{Look, number, seconds, short_digest};
use super::stage::{Stage, describe, phases};
use crate::api::{
    Backup, ConditionType, Conditions as _, DeletionRequestStatus, EntityPhase, RequestState,
    Restore, RestoreStatus, SiteState, names,
};

/// The window of the request that is let go on: the shortest that a Development policy takes.
const WINDOW_SECONDS: i64 = 10;

/// Asked for again, approved, held, purged.
pub(super) async fn purge(stage: &mut Stage<'_>, name: &str) -> Result<Duration> {
    let five = stage.five.len();
    stage.show.act(5, "Asked for again, and this time nobody stops it");
    stage.show.command(
        "rita",
        &format!("kubectl create -f {name}.yaml   # then alice and bob, as before"),
    );
    stage.ask(name, acts::honest(stage, WINDOW_SECONDS)).await?;
    let (digest, _) = stage.planned(name).await?;
    stage.approved_by_two(name, &digest).await?;
    stage.held(name).await?;
    let limit = Duration::from_secs(60);
    let begun = |s: &DeletionRequestStatus| {
        matches!(s.state, Some(RequestState::Purging | RequestState::Completed))
    };
    let passed = |s: &DeletionRequestStatus| {
        let left = s.conditions.get(ConditionType::RetentionElapsed);
        (usize::from(left.is_some() && s.retention.is_some()), 2)
    };
    stage.until(name, "the window passes", limit, begun, passed).await?;

    let begin = Instant::now();
    let mut most = 0;
    let limit = Duration::from_secs(180);
    let is_so = |s: &DeletionRequestStatus| s.state == Some(RequestState::Completed);
    let purged = |s: &DeletionRequestStatus| {
        most = phases(s, EntityPhase::Purging).max(most);
        (phases(s, EntityPhase::Purged), five)
    };
    let status = stage.until(name, "sites purged", limit, is_so, purged).await?;
    let took = begin.elapsed();
    let plan = status.plan.clone().unwrap_or_default();
    let end = status.retention.as_ref().map(|w| w.end_time);
    let first = plan.entities.iter().filter_map(|e| e.purged_time).min();
    stage.show.claim(
        end.is_some() && first.is_some() && first >= end,
        format!("Nothing was gone before its window of {WINDOW_SECONDS} s had passed"),
        format!("the first purge after {end:?}"),
        format!("{first:?}"),
    )?;
    let left = fleet::survivors(&stage.admin, &stage.five).await?;
    stage.show.claim(
        left.is_empty() && phases(&status, EntityPhase::Purged) == five && most <= 1,
        format!("The five are gone, with their namespaces, one by one, in {}", seconds(took)),
        format!("{five} purged, one at a time"),
        format!("left: {left:?}; {most} at a time; {}", describe(name, &status)),
    )?;
    let others = stage.before.part(&stage.five, false);
    let now = stage.look().await?;
    let text = format!(
        "All others are as they were: {} objects, the same UIDs, equal",
        number(others.objects())
    );
    stage.show.no_difference(others.difference(&now, Uids::Same), text)?;
    tombstone(stage, name, &status).await?;
    Ok(took)
}

/// The request stays, and tells who, what and from where it comes back.
async fn tombstone(
    stage: &mut Stage<'_>,
    name: &str,
    status: &DeletionRequestStatus,
) -> Result<()> {
    let plan = status.plan.clone().unwrap_or_default();
    let backups: Api<Backup> = Api::all(stage.admin.clone());
    let mut verified = 0;
    for recorded in plan.entities.iter().filter_map(|e| e.backup.as_ref()) {
        let live = backups.get_opt(&recorded.name).await?.and_then(|b| b.status);
        verified += usize::from(live.is_some_and(|s| {
            s.conditions.is_true(ConditionType::Verified)
                && s.digest.as_ref() == Some(&recorded.digest)
        }));
    }
    let five = stage.five.len();
    stage.show.claim(
        status.conditions.is_true(ConditionType::Succeeded)
            && status.approvals.len() == 2
            && verified == five,
        format!("The request stays, Completed: the plan, who approved, {five} verified backups"),
        format!("Succeeded=True, 2 approvals, {five} verified backups"),
        format!("{verified} verified backups; {}", describe(name, status)),
    )
}

/// The five come back.
pub(super) async fn restore(stage: &mut Stage<'_>, request: &str) -> Result<Duration> {
    let name = "bring-them-back";
    let five = stage.five.len();
    stage.show.act(6, "And all of it comes back");
    stage.show.command(
        "carol",
        &format!(
            "kubectl create -f {name}.yaml   # source: {{deletionRequestRef: {{name: {request}}}}}"
        ),
    );
    let restore: Restore = serde_json::from_value(json!({
        "apiVersion": names::API_VERSION, "kind": "Restore",
        "metadata": { "name": name },
        "spec": { "source": { "deletionRequestRef": { "name": request } } },
    }))?;
    let restores: Api<Restore> = Api::all(stage.people.carol.clone());
    let begin = Instant::now();
    let created = restores.create(&PostParams::default(), &restore).await;
    created.with_context(|| format!("carol cannot create Restore {name}"))?;
    let limit = Duration::from_secs(240);
    let status = stage
        .show
        .wait("objects restored and read back", limit, async || {
            let live = restores.get(name).await?.status.unwrap_or_default();
            let succeeded = live.conditions.get(ConditionType::Succeeded);
            let counts = live.objects.clone().unwrap_or_default();
            Ok(match succeeded.map(|c| (c.status, c.reason.as_str())) {
                Some((crate::api::ConditionStatus::True, _)) => Look::Done(live),
                _ if live.completion_time.is_some() => Look::Never(tell(name, &live)),
                _ => Look::NotYet(count(counts.done), count(counts.total), tell(name, &live)),
            })
        })
        .await?;
    let took = begin.elapsed();
    let sites = status.sites.clone().unwrap_or_default();
    let objects = status.objects.clone().unwrap_or_default();
    stage.show.claim(
        count(sites.verified) == five && count(sites.failed) == 0 && objects.done == objects.total,
        format!(
            "{five} of {five} sites, {} of {} objects restored, read back and Verified, in {}",
            objects.done,
            objects.total,
            seconds(took)
        ),
        format!("{five} sites verified, none failed"),
        tell(name, &status),
    )?;
    stage.sites_are(SiteState::Active).await?;
    let limit = Duration::from_secs(60);
    stage
        .show
        .wait("apps ready", limit, async || {
            let (done, seen) = fleet::ready(&stage.admin, &stage.five).await?;
            Ok(if done == five { Look::Done(()) } else { Look::NotYet(done, five, seen) })
        })
        .await?;
    stage.show.claim(true, "The five Sites are Active, their Apps Ready", "", "")?;

    let now = stage.look().await?;
    let (before, after) = (stage.before.part(&stage.five, true), now.part(&stage.five, true));
    let text = format!(
        "Object by object they are what they were: {} objects equal, every UID new",
        number(after.objects())
    );
    stage.show.no_difference(before.difference(&after, Uids::New), text)?;
    let roots = stage.five.iter().filter(|site| before.root(site) == after.root(site)).count();
    let example = stage.five_tenants()[0].site.clone();
    stage.show.claim(
        roots == five,
        format!("The root digests agree, {example}: {}", short_digest(&after.root(&example))),
        five,
        roots,
    )?;
    let (before, after) = (stage.before.part(&stage.five, false), now.part(&stage.five, false));
    let text = format!(
        "And the others never noticed: {} objects, the same UIDs, equal",
        number(before.objects())
    );
    stage.show.no_difference(before.difference(&after, Uids::Same), text)?;
    Ok(took)
}

fn count(n: i64) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// A Restore in one line.
fn tell(name: &str, status: &RestoreStatus) -> String {
    let sites = status.sites.clone().unwrap_or_default();
    let objects = status.objects.clone().unwrap_or_default();
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|c| format!("{}={:?} {}: {}", c.type_, c.status, c.reason, c.message))
        .collect();
    let failure = status.failures.first().map_or(String::new(), |f| {
        format!("; {} {}: {}", f.site, f.object.clone().unwrap_or_default(), f.message)
    });
    format!(
        "Restore {name}: {} of {} sites verified, {} failed, {} of {} objects; {}{failure}",
        sites.verified,
        sites.total,
        sites.failed,
        objects.done,
        objects.total,
        conditions.join("; ")
    )
}
