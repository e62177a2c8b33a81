//! A cancel in the very moment of the purge, and policies that are made weaker while a request is
//! open: C4 and T16 of the fault list, I7. The oracle is the API server's audit log and what lives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::alerts::Stage;
use crate::user::{Snapshot, User, condition};
use chrono::{DateTime, Utc};
use kube::Api;
use kube::api::{Patch, PatchParams};
use reprieve::api::{DeletionRequest, EntityPhase, RequestState};
use reprieve::sandbox::{AuditRecord, Sandbox, audit};
use serde_json::{Value, json};

/// Requests, and Sites of each.
const REQUESTS: usize = 14;
const SITES: usize = 3;
/// For how long a request is waited for: until the last one is held, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between the beginning of a purge and its cancel, from one request to the next.
const STEP: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_or_a_weaker_policy_in_the_last_moment() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let stage = Stage::with(&sandbox);
    let carol = User::person(&sandbox, "carol", "reprieve-approver");
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());

    let held = open_requests(&stage, &carol);
    step("held, and their policies made weaker");
    cancels_meet_the_purge(&stage, &sandbox).await;
    step("cancelled in the moment of the purge");
    for (name, site, end) in &held {
        let live = stage.admin.get(&format!("dreq {name}"));
        assert_eq!(live["status"]["state"], "Held", "{name}: {live}");
        assert_eq!(live["status"]["retention"]["endTime"], *end, "{name}: its window");
        let window = condition(&live, "RetentionElapsed");
        assert!(window.starts_with("False WindowRunning"), "{name}: {window}");
        let sites = [site.clone()];
        stage.expect_intact(&sites);
        let patch = r#"{"spec":{"cancel":true}}"#;
        stage.alice.run(&["patch", "dreq", name, "--type=merge", "-p", patch], "").worked();
        stage.alice.until_state(name, "Cancelled");
        stage.until_active(&sites);
    }
    step("released");
    drop(operator);
    assert!(crate::audit::expect_invariants(&sandbox) > 0, "something was purged");
    sandbox.stop().expect("nothing is left");
}

/// T16: requests that are held under a policy which is then weakened, replaced by a weaker one of
/// the same name, or not named by the Site any more. Each with its Site and the end of its window.
fn open_requests(stage: &Stage, carol: &User) -> Vec<(String, String, Value)> {
    let long = json!({"retention": {"minimumSeconds": 600, "defaultSeconds": 600}});
    let production = json!({
        "environment": "Production", "quorum": {"approvals": 2, "overrideApprovals": 2},
        "retention": {"minimumSeconds": 86400, "defaultSeconds": 86400},
    });
    let soft = stage.prepare("soft", &long, 1).remove(0);
    let [strict, moved] = stage.prepare("strict", &production, 2).try_into().expect("two Sites");
    let mut held = vec![];
    for (name, site, window) in
        [("soft", soft, 600), ("strict", strict, 86_400), ("moved", moved.clone(), 86_400)]
    {
        stage.hold(name, std::slice::from_ref(&site), &json!({"retentionSeconds": window}));
        if name != "soft" {
            carol.approve(name, "carol").worked();
        }
        let live = stage.alice.until(&format!("dreq {name}"), "its window", |live| {
            !live["status"]["retention"].is_null()
        });
        held.push((name.to_owned(), site, live["status"]["retention"]["endTime"].clone()));
    }
    let admin = &stage.admin;
    let weak = json!({"spec": {
        "retention": {"minimumSeconds": 10, "defaultSeconds": 10},
        "blastRadius": {"maxEntities": 50},
    }});
    let weak = weak.to_string();
    admin.run(&["patch", "dpol", "soft", "--type=merge", "-p", &weak], "").worked();
    let patch = r#"{"spec":{"policyRef":{"name":"soft"}}}"#;
    admin.run(&["patch", "site", &moved, "--type=merge", "-p", patch], "").worked();
    admin.kubectl("delete dpol strict").worked();
    let development = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionPolicy",
        "metadata": {"name": "strict"}, "spec": {
            "environment": "Development", "quorum": {"approvals": 1},
            "retention": {"minimumSeconds": 10, "defaultSeconds": 10},
        },
    });
    admin.create(&development).worked();
    held
}

/// C4: what was not begun is as it was, what was begun is gone, and nothing in between; after the
/// cancel nothing else is begun than what was decided in that moment.
async fn cancels_meet_the_purge(stage: &Stage, sandbox: &Sandbox) {
    let sites = stage.prepare("race", &json!({}), REQUESTS * SITES);
    let mut before = BTreeMap::new();
    for site in &sites {
        before.insert(site.clone(), Snapshot::take(sandbox, site).await);
    }
    let mut races = vec![];
    for (n, of) in sites.chunks(SITES).enumerate() {
        let name = format!("race-{n}");
        stage.hold(&name, of, &json!({}));
        // Every second one from the first Site on, so that a slow machine does not lose every race.
        let (since, after) = match n % 2 {
            0 => (Since::Purging, STEP * u32::try_from(n).expect("a small number")),
            _ => (Since::FirstGone, STEP * u32::try_from(n).expect("a small number") / 10),
        };
        races.push(tokio::spawn(race(sandbox.admin(), name, since, after)));
    }
    let mut ended = vec![];
    for race in races {
        ended.push(race.await.expect("it ends"));
    }
    let records = sandbox.audit().read().expect("the audit log");
    let (mut intact, mut gone) = (0, 0);
    for (request, of) in ended.iter().zip(sites.chunks(SITES)) {
        let name = request.metadata.name.clone().unwrap_or_default();
        let plan = request.status.as_ref().and_then(|s| s.plan.as_ref()).expect("a plan");
        let cancelled = cancel_of(&records, &name);
        let mut late = vec![];
        for site in of {
            let planned = plan.entities.iter().find(|e| e.name == *site).expect("it is planned");
            let first = first_delete(&records, site);
            late.extend(first.filter(|first| *first > cancelled).map(|_| site));
            let lives = stage.admin.kubectl(&format!("get site {site}")).ok;
            assert_eq!(lives, first.is_none(), "{name}: {site} lives or is deleted");
            if lives {
                intact += 1;
                stage.until_active(std::slice::from_ref(site));
                let now = Snapshot::take(sandbox, site).await;
                before[site].expect_untouched(&now, "I7: cancelled in the moment of the purge");
            } else {
                gone += 1;
                assert_eq!(planned.phase, EntityPhase::Purged, "{name}: {site}");
            }
        }
        assert!(late.len() <= 1, "{name}: {late:?} begun after the cancel at {cancelled}");
    }
    eprintln!("         {gone} Sites gone, {intact} as they were");
    assert!(gone > 0 && intact > 0, "a race with one end only proves nothing: {gone} {intact}");
}

/// From when on a race counts.
#[derive(Clone, Copy)]
enum Since {
    /// The request says that it purges.
    Purging,
    /// It says that the first Site is gone.
    FirstGone,
}

/// Cancels a request so long after that; answers with how it ended.
async fn race(
    client: kube::Client,
    name: String,
    since: Since,
    after: Duration,
) -> DeletionRequest {
    let api: Api<DeletionRequest> = Api::all(client);
    let state = |live: &DeletionRequest| live.status.as_ref().and_then(|s| s.state);
    let is_final = |live: &DeletionRequest| state(live).is_some_and(RequestState::is_final);
    let until = async |what: &str, holds: &(dyn Fn(&DeletionRequest) -> bool + Sync)| {
        let begun = Instant::now();
        loop {
            let live = api.get(&name).await.expect("the request");
            if holds(&live) {
                return live;
            }
            let seen = live.status.and_then(|s| s.message);
            assert!(begun.elapsed() < PATIENCE, "{name}: expected {what}; seen: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until("a purge", &|live| {
        let plan = live.status.as_ref().and_then(|s| s.plan.as_ref());
        let mut entities = plan.into_iter().flat_map(|plan| &plan.entities);
        let begun = match since {
            Since::Purging => state(live) == Some(RequestState::Purging),
            Since::FirstGone => entities.any(|entity| entity.phase == EntityPhase::Purged),
        };
        begun || is_final(live)
    })
    .await;
    tokio::time::sleep(after).await;
    let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
    api.patch(&name, &PatchParams::default(), &patch).await.expect("it can be cancelled");
    until("an end", &is_final).await
}

/// When the API server received the cancel of a request.
fn cancel_of(records: &[AuditRecord], name: &str) -> DateTime<Utc> {
    let of = |r: &&AuditRecord| {
        r.resource == "deletionrequests"
            && r.verb == "patch"
            && r.name == name
            && r.request["spec"]["cancel"] == true
            && r.is_carried_out()
    };
    records.iter().find(of).expect("its cancel").time
}

/// When the first of anything of a Site was deleted.
fn first_delete(records: &[AuditRecord], site: &str) -> Option<DateTime<Utc>> {
    let of = |r: &&AuditRecord| {
        let named = ["sites", "namespaces"].contains(&r.resource.as_str()) && r.name == site;
        r.user.name == reprieve::api::names::OPERATOR_USER && (named || r.namespace == site)
    };
    audit::deletes(records).filter(of).map(|r| r.time).min()
}
