//! Acts 1 to 4: the fleet, April 2022, an honest request, a change of mind. Nothing is deleted.

use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use super::fleet::{self, Uids};
use super::show::{Look, number, seconds, short_digest};
use super::stage::{Stage, bounced, describe, phases};
use crate::api::{
    ConditionStatus, ConditionType, Conditions as _, DeletionPolicy, EntityPhase, Environment,
    Reason, RequestState, Site, SiteState, names,
};
use crate::guard::policy;

/// The window of the request that is cancelled: long enough to look around in it.
const WINDOW_SECONDS: i64 = 60;

/// The fleet comes up.
pub(super) async fn fleet(stage: &mut Stage<'_>) -> Result<()> {
    let total = stage.tenants.len();
    stage.show.act(1, &format!("A fleet of {total} tenants"));
    stage.show.command("admin", "kubectl apply --server-side -f deploy/samples/   # each tenant");
    let begin = Instant::now();
    let sites = stage.tenants.iter().map(|t| t.site.clone()).collect();
    let limit = Duration::from_secs(60 + 3 * total as u64);
    let create = fleet::create(&stage.admin, &stage.tenants);
    let ready = stage.show.wait("sites ready", limit, async || {
        let (done, seen) = fleet::ready(&stage.admin, &sites).await?;
        Ok(if done == total { Look::Done(()) } else { Look::NotYet(done, total, seen) })
    });
    tokio::try_join!(create, ready)?;
    let took = begin.elapsed();
    stage.before = stage.look().await?;
    let (sites, objects) = (stage.before.sites(), stage.before.objects());
    stage.show.claim(
        sites == total,
        format!(
            "{total} Sites Active, {total} Apps of three tiers Ready, {} objects, in {}",
            number(objects),
            seconds(took)
        ),
        total,
        sites,
    )
}

/// The script that deletes an app is handed the ids of sites.
pub(super) async fn april(stage: &mut Stage<'_>) -> Result<()> {
    let total = stage.tenants.len();
    let name = "april-2022";
    stage.show.act(2, "April 2022: the script that deletes an app is handed the ids of sites");
    let ids: Vec<&str> = stage.tenants.iter().map(|t| t.id.as_str()).collect();
    let shown = format!("kind: App, ids: [{}, {}, \u{2026} {} more]", ids[0], ids[1], total - 2);
    stage.show.command("rita", &format!("kubectl create -f {name}.yaml   # {shown}"));
    let begin = Instant::now();
    let spec = json!({
        "target": { "kind": "App", "ids": ids },
        "reason": "remove the legacy app from the sites that have it",
    });
    stage.ask(name, spec).await?;
    let limit = Duration::from_secs(60);
    let is_so = |s: &crate::api::DeletionRequestStatus| s.state == Some(RequestState::Refused);
    let status = stage.until(name, "the request is refused", limit, is_so, |_| (0, 1)).await?;
    let took = begin.elapsed();
    let scope = status.conditions.get(ConditionType::ScopeValid);
    let mismatch = Reason::EntityTypeMismatch.as_str();
    let plan = status.plan.clone().unwrap_or_default();
    let counted = plan.refusal_counts.iter().find(|c| c.reason == mismatch).map_or(0, |c| c.count);
    stage.show.claim(
        scope.is_some_and(|c| c.status == ConditionStatus::False && c.reason == mismatch)
            && counted == total as i64,
        format!("Refused in {}: {mismatch}, all {total} of the ids", seconds(took)),
        format!("ScopeValid=False, {mismatch} for {total} ids"),
        describe(name, &status),
    )?;
    let first = plan.refusals.first().map(|r| r.message.clone()).unwrap_or_default();
    let named = stage.tenants.iter().any(|t| first.contains(&t.id) && first.contains(&t.site));
    stage.show.claim(
        named && first.contains("Site"),
        "It says what the ids really are:",
        "an id and its Site",
        &first,
    )?;
    stage.show.quote(&first);
    untouched(stage, "Every site is as it was").await?;

    let site = stage.tenants[0].site.clone();
    stage
        .show
        .command("admin", &format!("kubectl delete site {site}; kubectl delete namespace {site}"));
    let sites: Api<Site> = Api::all(stage.admin.clone());
    let answer = sites.delete(&site, &DeleteParams::default()).await;
    let (denied, said) = bounced(answer, policy::DELETE_ENTITIES);
    stage.show.claim(
        denied,
        "403 for the Site, though the administrator is in system:masters:",
        "403 by the guard",
        &said,
    )?;
    stage.show.quote(&said);
    let namespaces: Api<Namespace> = Api::all(stage.admin.clone());
    let answer = namespaces.delete(&site, &DeleteParams::default()).await;
    let (denied, said) = bounced(answer, policy::DELETE_NAMESPACES);
    stage.show.claim(denied, "403 for its namespace", "403 by the guard", &said)?;
    untouched(stage, "Every site is as it was").await
}

/// Nothing at all differs from what the fleet was, by UID and content.
pub(super) async fn untouched(stage: &mut Stage<'_>, what: &str) -> Result<()> {
    let now = stage.look().await?;
    let text = format!("{what}: {} objects, the same UIDs, equal", number(now.objects()));
    stage.show.no_difference(stage.before.difference(&now, Uids::Same), text)
}

/// What rita asks for.
pub(super) fn honest(stage: &Stage<'_>, retention_seconds: i64) -> Value {
    let ids: Vec<&str> = stage.five_tenants().into_iter().map(|t| t.id.as_str()).collect();
    json!({
        "target": { "kind": "Site", "ids": ids },
        "reason": "contracts ended on 31 March", "ticket": "OPS-1234",
        "retentionSeconds": retention_seconds,
    })
}

/// An honest request: planned, approved by two, held.
pub(super) async fn honest_request(stage: &mut Stage<'_>, name: &str) -> Result<()> {
    let five = stage.five.len();
    stage.show.act(3, "An honest request for five sites");
    stage
        .show
        .command("rita", &format!("kubectl create -f {name}.yaml   # kind: Site, {five} ids"));
    stage.ask(name, honest(stage, WINDOW_SECONDS)).await?;
    let (digest, status) = stage.planned(name).await?;
    let plan = status.plan.clone().unwrap_or_default();
    let mut planned: Vec<(&str, &str)> =
        plan.entities.iter().map(|e| (e.id.as_str(), e.name.as_str())).collect();
    planned.sort_unstable();
    let mut asked: Vec<(&str, &str)> =
        stage.five_tenants().into_iter().map(|t| (t.id.as_str(), t.site.as_str())).collect();
    asked.sort_unstable();
    let (expected, seen) = (format!("{asked:?}"), format!("{planned:?}"));
    let claim =
        format!("Planned, and nothing else happens: the five, digest {}", short_digest(&digest));
    stage.show.claim(planned == asked, claim, expected, seen)?;
    let row = |id: &str, site: &str, tenant: &str, namespaces: &str, apps: &str, objects: &str| {
        format!("{id:<10} {site:<18} {tenant:<18} {namespaces:>10} {apps:>5} {objects:>8}")
    };
    stage.show.table_head(&row("ID", "SITE", "TENANT", "NAMESPACES", "APPS", "OBJECTS"));
    for e in &plan.entities {
        let (namespaces, apps) = (e.namespaces.len().to_string(), e.apps.len().to_string());
        let objects = e.objects.to_string();
        stage
            .show
            .line(format!("     {}", row(&e.id, &e.name, &e.tenant, &namespaces, &apps, &objects)));
    }

    let forged = format!("{}bob=\"{} bob\"", names::APPROVAL_PREFIX, short_digest(&digest));
    stage.show.command("mallory", &format!("kubectl annotate dreq {name} {forged}"));
    let answer = stage.approve(&stage.people.mallory, name, &digest, "bob").await;
    let (denied, said) = bounced(answer, policy::APPROVALS);
    stage.show.claim(denied, "A forged approval bounces, 403:", "403 by the guard", &said)?;
    stage.show.quote(&said);
    let answer = stage.approve(&stage.people.rita, name, &digest, "rita").await;
    let (denied, said) = bounced(answer, policy::APPROVALS);
    stage.show.claim(
        denied,
        "So does rita's own: who asks cannot approve",
        "403 by the guard",
        &said,
    )?;

    let own = format!("{}alice=\"{} alice\"", names::APPROVAL_PREFIX, short_digest(&digest));
    stage.show.command("alice", &format!("kubectl annotate dreq {name} {own}   # then bob"));
    let alice = stage.approve(&stage.people.alice, name, &digest, "alice").await;
    alice.map_err(|e| anyhow::anyhow!("alice cannot approve: {e}"))?;
    let limit = Duration::from_secs(30);
    let counted = |n: usize| move |s: &crate::api::DeletionRequestStatus| s.approvals.len() >= n;
    let what = "the approval is counted";
    let status = stage.until(name, what, limit, counted(1), |s| (s.approvals.len(), 2)).await?;
    stage.show.claim(
        status.state == Some(RequestState::AwaitingApproval)
            && status.approvals_required == Some(2),
        "One approval is not enough: 1 of 2, still AwaitingApproval",
        "AwaitingApproval, 1 of 2",
        describe(name, &status),
    )?;
    let begin = Instant::now();
    stage.approved_by_two(name, &digest).await?;
    let status = stage.held(name).await?;
    stage.sites_are(SiteState::PendingDeletion).await?;
    let mut users: Vec<&str> = status.approvals.iter().map(|a| a.user.as_str()).collect();
    users.sort_unstable();
    stage.show.claim(
        users == ["alice", "bob"] && status.conditions.is_true(ConditionType::BackedUp),
        format!(
            "Approved by alice and bob, backed up, verified and held, in {}",
            seconds(begin.elapsed())
        ),
        "approved by alice and bob, BackedUp=True",
        format!("approvals by {users:?}; {}", describe(name, &status)),
    )?;
    untouched(stage, "The five are PendingDeletion and intact, and so is all else").await?;
    window(stage, &status).await
}

/// What the window is here, and what it would be in Production.
async fn window(stage: &mut Stage<'_>, status: &crate::api::DeletionRequestStatus) -> Result<()> {
    let policies: Api<DeletionPolicy> = Api::all(stage.admin.clone());
    let live = policies.get(names::DEFAULT_POLICY).await?;
    let length = status.retention.as_ref().map_or(0, |w| w.end_time.seconds_since(w.start_time));
    let environment = live.spec.environment;
    stage.show.claim(
        environment == Environment::Development && length == WINDOW_SECONDS,
        format!("The window is {length} s, because the sandbox's policy is a Development one"),
        format!("Development, {WINDOW_SECONDS} s"),
        format!("{environment:?}, {length} s"),
    )?;
    let production: DeletionPolicy = serde_json::from_value(json!({
        "apiVersion": names::API_VERSION, "kind": "DeletionPolicy",
        "metadata": { "name": "too-short" },
        "spec": { "environment": "Production", "retention": { "minimumSeconds": 86_399 } },
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let said = match policies.create(&dry, &production).await {
        Ok(_) => "it was let through".to_owned(),
        Err(error) => error.to_string(),
    };
    stage.show.claim(
        said.contains("at least 86400 (24 h) in Production"),
        "In Production it is 24 h at least: a policy with less is refused",
        "retention.minimumSeconds refused",
        said,
    )
}

/// A change of mind: cancelled, and released.
pub(super) async fn cancel(stage: &mut Stage<'_>, name: &str) -> Result<()> {
    stage.show.act(4, "A change of mind");
    let patch = r#"'{"spec":{"cancel":true}}'"#;
    stage.show.command("rita", &format!("kubectl patch dreq {name} --type=merge -p {patch}"));
    let begin = Instant::now();
    stage.cancel(&stage.people.rita, name).await?;
    let five = stage.five.len();
    let limit = Duration::from_secs(60);
    let is_so = |s: &crate::api::DeletionRequestStatus| s.state == Some(RequestState::Cancelled);
    let released = |s: &crate::api::DeletionRequestStatus| (phases(s, EntityPhase::Released), five);
    let status = stage.until(name, "sites released", limit, is_so, released).await?;
    stage.sites_are(SiteState::Active).await?;
    let released = status.progress.clone().unwrap_or_default().released;
    stage.show.claim(
        released == five as i64,
        format!(
            "Cancelled; the five are released and Active again, in {}",
            seconds(begin.elapsed())
        ),
        format!("{five} released"),
        describe(name, &status),
    )?;
    untouched(stage, "Every site is as it was").await
}
