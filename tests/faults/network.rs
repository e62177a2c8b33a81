//! F2, F3, F5, F6, B5 and C1: an old leader that wakes up, watches that lose and merge, what is cut
//! off, killed, paused or full, and a create that never was. What destroys stands still; what
//! restores goes on.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use k8s_openapi::api::core::v1::Namespace;
use reprieve::api::{Backup, DeletionRequest, Restore, Site, names};
use reprieve::sandbox::Program;
use reprieve::sandbox::proxy::{Fault, Rule, Verb};
use serde_json::json;

use crate::etcd::Etcd;
use crate::stage::{PATIENCE, Stage};
use crate::user::{Snapshot, condition};

/// The resources of which one create is swallowed, each for a site of its own.
const SWALLOWED: [&str; 6] =
    ["sites", "namespaces", "secrets", "configmaps", "deployments", "apps"];

#[tokio::test(flavor = "multi_thread")]
async fn the_network_and_the_control_plane_fail() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    lossy_watches(&stage).await;
    step("sites are ready, over watches that lose and merge");
    an_old_leader_wakes_up(&mut stage).await;
    step("an old leader woke up");
    the_store_is_away(&stage).await;
    step("the store was away");
    let before = purge_while_nothing_can_be_written(&mut stage).await;
    step("purged, though etcd was full and nothing was collected for a while");
    swallowed_creates(&stage, &before).await;
    step("creates that never were");
    restore_while_the_api_server_comes_and_goes(&mut stage, &before).await;
    step("restored");
    assert_eq!(crate::audit::expect_invariants(&stage.sandbox), SWALLOWED.len(), "purged");
    stage.sandbox.stop().expect("nothing is left");
}

fn swallower(resource: &str) -> String {
    format!("no-{resource}")
}

/// F3: of the changes that are told, every second is lost, or several come together, until every
/// watch says that its place is too old, because history was compacted; again and again.
async fn lossy_watches(stage: &Stage) {
    let etcd = Etcd::of(&stage.sandbox).await;
    let sites = async {
        futures::future::join_all(SWALLOWED.map(|r| async move {
            stage.make_site(&swallower(r)).await;
        }))
        .await;
        stage.make_site("leader").await;
    };
    let disturbed = async {
        // A watch that fails again and again waits for half a minute each time.
        for _ in 0..2 {
            for resource in ["sites", "namespaces", "rolebindings"] {
                let lossy = Rule::new(Fault::DropEvents(2)).verb(Verb::Watch);
                stage.proxy.add(lossy.resource(resource));
            }
            let merged = Fault::MergeEvents(Duration::from_millis(500));
            stage.proxy.add(Rule::new(merged).verb(Verb::Watch).resource("apps"));
            stage.proxy.add(Rule::new(Fault::GoneAfter(2)).verb(Verb::Watch));
            stage.proxy.reset_all();
            tokio::time::sleep(Duration::from_secs(3)).await;
            // Whoever lost something is told that there is a gap: only then it can know.
            stage.proxy.clear();
            stage.proxy.add(Rule::new(Fault::GoneAfter(0)).verb(Verb::Watch).times(30));
            etcd.compact().await;
            stage.proxy.reset_all();
            tokio::time::sleep(Duration::from_secs(3)).await;
            stage.proxy.clear();
        }
    };
    tokio::join!(sites, disturbed);
    stage.until_nothing_fails().await;
}

/// F2: the leader is stopped with its first DELETE on the way. Another one takes over, the request
/// is cancelled, and then the DELETE arrives and the old leader wakes up.
async fn an_old_leader_wakes_up(stage: &mut Stage) {
    let before = stage.snapshot("leader").await;
    let proxy = stage.sandbox.start_proxy().expect("a proxy");
    let kubeconfig = proxy.kubeconfig(&stage.sandbox.operator_kubeconfig()).expect("it is written");
    let other = stage.sandbox.start_operator_as(&kubeconfig, &[]).await.expect("it starts");
    stage.proxy.add(Rule::new(Fault::Hold).verb(Verb::Delete).when(|c| !c.dry_run).times(1));
    stage.ask("woken", "leader").await;
    stage.approve("woken").await;
    let held = stage.proxy.until_held(PATIENCE).await.expect("a DELETE");
    assert_eq!(held.brief(), "Delete apps/leader/shop");
    let preconditions = &held.body["preconditions"];
    assert!(preconditions["uid"].is_string() && preconditions["resourceVersion"].is_string());
    stage.operator.process_mut().pause().expect("it runs");
    let old = std::mem::replace(&mut stage.operator, other);
    let old_proxy = std::mem::replace(&mut stage.proxy, proxy);
    stage.cancel("woken").await;
    stage.until_state("woken", "Cancelled").await;
    stage.until_settled("leader").await;
    old_proxy.release();
    let begun = Instant::now();
    let code = loop {
        let code = old_proxy.log()[held.number - 1].code;
        if code != 0 {
            break code;
        }
        assert!(begun.elapsed() < PATIENCE, "the DELETE does not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!([403, 409, 422].contains(&code), "the DELETE was answered with {code}");
    let mut old = old;
    let from = old_proxy.log().len();
    old.process_mut().resume().expect("it was paused");
    let begun = Instant::now();
    while !old.process().log_tail(20).contains("lost the lease") {
        assert!(begun.elapsed() < PATIENCE, "{}", old.process().log_tail(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = old_proxy.log().split_off(from);
    let wrote: Vec<String> = after
        .iter()
        .filter(|c| c.is_write())
        .map(|c| format!("{} {}", c.brief(), c.code))
        .collect();
    assert_eq!(wrote, [""; 0], "of the old leader");
    before.expect_untouched(&stage.snapshot("leader").await, "after the old leader woke up");
    assert_eq!(stage.deleted().len(), 0);
}

/// F5: without the store no backup is made, and nothing goes without one; a restore waits.
async fn the_store_is_away(stage: &Stage) {
    let (folder, away) = (stage.sandbox.store_dir(), stage.sandbox.dir().join("store-away"));
    std::fs::rename(&folder, &away).expect("it is there");
    // A folder would be made anew.
    std::fs::write(&folder, "").expect("it can be written");
    stage.ask("no-store", "leader").await;
    stage.approve("no-store").await;
    let uid =
        stage.get::<DeletionRequest>("", "no-store").await.expect("it")["metadata"]["uid"].clone();
    let live = stage
        .until::<DeletionRequest>("", "no-store", "what is missing told", |live| {
            condition(live, "BackedUp").starts_with("False")
        })
        .await;
    assert_ne!(live["status"]["state"], "Purging");
    let find = async || {
        let api = <Backup as crate::stage::Ours>::api(&stage.admin, "");
        let all = api.list(&Default::default()).await.expect("a list").items;
        let of = all.into_iter().map(|b| json!(b)).find(|b| {
            b["spec"]["purpose"] == "BeforeDeletion"
                && b["spec"]["siteRef"]["name"] == "leader"
                && b["metadata"]["labels"].to_string().contains(uid.as_str().unwrap_or("-"))
        });
        of.unwrap_or_default()
    };
    let begun = Instant::now();
    while !condition(&find().await, "Succeeded").contains("StoreUnavailable") {
        assert!(begun.elapsed() < PATIENCE, "the backup: {}", find().await["status"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Longer than the window.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(stage.deleted().len(), 0, "nothing goes without a backup");
    std::fs::remove_file(&folder).expect("it is there");
    std::fs::rename(&away, &folder).expect("it is there");
    stage
        .until::<DeletionRequest>("", "no-store", "backed up", |live| {
            condition(live, "BackedUp").starts_with("True")
        })
        .await;
    stage.cancel("no-store").await;
    stage.until_state("no-store", "Cancelled").await;
    stage.until_settled("leader").await;
}

/// F5, F6: several sites are held. When their window ends, etcd takes no writes: nothing goes.
/// Later nothing empties namespaces: the requests wait, and do not say that it is done.
async fn purge_while_nothing_can_be_written(stage: &mut Stage) -> Vec<Snapshot> {
    let etcd = Etcd::of(&stage.sandbox).await;
    let mut before = vec![];
    for resource in SWALLOWED {
        before.push(stage.snapshot(&swallower(resource)).await);
    }
    for resource in SWALLOWED {
        let (request, site) = (format!("gone-{resource}"), swallower(resource));
        stage.ask(&request, &site).await;
        stage.approve(&request).await;
    }
    for resource in SWALLOWED {
        let request = format!("gone-{resource}");
        stage
            .until::<DeletionRequest>("", &request, "a window", |live| {
                live["status"]["retention"]["endTime"].is_string()
            })
            .await;
    }
    let deleted = stage.deleted().len();
    // C1: the API server seems to live ten years from now, in which every window has passed.
    stage.proxy.shift_date(TimeDelta::days(3650));
    for resource in SWALLOWED {
        let request = format!("gone-{resource}");
        stage
            .until::<DeletionRequest>("", &request, "the clocks told", |live| {
                condition(live, "RetentionElapsed").contains("ClocksDisagree")
            })
            .await;
    }
    assert_eq!(stage.deleted().len(), deleted, "nothing goes while nobody knows the time");
    etcd.full(true).await;
    stage.proxy.shift_date(TimeDelta::zero());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(stage.deleted().len(), deleted, "nothing goes while nothing can be noted");
    let manager = stage.sandbox.process(Program::ControllerManager).expect("it is one");
    manager.pause().expect("it runs");
    etcd.full(false).await;
    for resource in SWALLOWED {
        stage
            .until::<Namespace>("", &swallower(resource), "deleted", |live| {
                live["metadata"]["deletionTimestamp"].is_string()
            })
            .await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for resource in SWALLOWED {
        let request = format!("gone-{resource}");
        let live = stage.get::<DeletionRequest>("", &request).await.expect("it is there");
        assert_eq!(live["status"]["state"], "Purging", "{request}: {}", live["status"]);
        assert!(stage.get::<Site>("", &swallower(resource)).await.is_some(), "the Site goes last");
    }
    let manager = stage.sandbox.process(Program::ControllerManager).expect("it is one");
    manager.resume().expect("it was paused");
    for resource in SWALLOWED {
        stage.until_state(&format!("gone-{resource}"), "Completed").await;
    }
    let sites = SWALLOWED.map(swallower);
    stage.expect_deleted_only(&sites.iter().map(String::as_str).collect::<Vec<_>>());
    before
}

/// B5: one create of each Restore is answered, and never was. It must not be called restored.
async fn swallowed_creates(stage: &Stage, before: &[Snapshot]) {
    stage.proxy.clear();
    for resource in SWALLOWED {
        let site = swallower(resource);
        let rule = Rule::new(Fault::Swallow).verb(Verb::Create).resource(resource);
        let rule = rule.when(move |call| call.namespace == site || call.name == site);
        stage.proxy.add(rule.times(1));
        stage.bring_back(&format!("lost-{resource}"), &format!("gone-{resource}")).await;
    }
    for (resource, before) in SWALLOWED.iter().zip(before) {
        let restore = format!("lost-{resource}");
        let live = stage
            .until::<Restore>("", &restore, "an end", |live| {
                live["status"]["completionTime"].is_string()
            })
            .await;
        let said = condition(&live, "Succeeded");
        let site = swallower(resource);
        if said.starts_with("True") {
            // It noticed, and made it after all.
            stage.until_settled(&site).await;
            before.expect_equal(&stage.snapshot(&site).await, &restore);
            eprintln!("    {restore} was repaired: {said}");
        } else {
            let failures = &live["status"]["failures"];
            assert!(!failures.as_array().is_none_or(Vec::is_empty), "{restore}: {said}");
            eprintln!("    {restore}: {said}");
            let site = stage.get::<Site>("", &site).await.unwrap_or_default();
            assert_ne!(site["status"]["state"], "Active", "{restore}: {said}; {}", site["status"]);
        }
    }
    assert_eq!(stage.proxy.pending(), 0, "each was swallowed");
}

/// F5: the API server is killed again and again, then etcd is killed and paused, while the sites
/// of before are restored for good.
async fn restore_while_the_api_server_comes_and_goes(stage: &mut Stage, before: &[Snapshot]) {
    // Slow enough to last for several of them.
    let slow = Fault::Delay(Duration::from_millis(700));
    stage.proxy.add(Rule::new(slow).verb(Verb::Create));
    let etcd = Etcd::of(&stage.sandbox).await;
    for resource in SWALLOWED {
        stage.bring_back(&format!("again-{resource}"), &format!("gone-{resource}")).await;
    }
    let begun = Instant::now();
    for program in [Program::ApiServer, Program::Etcd, Program::ApiServer] {
        let process = stage.sandbox.process(program).expect("it is one");
        process.kill().expect("it runs");
        process.start().expect("it starts");
        stage.sandbox.wait_until_ready().await.expect("it is ready");
        // What a watch asks for is then not remembered any more.
        etcd.compact().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let process = stage.sandbox.process(Program::Etcd).expect("it is one");
    process.pause().expect("it runs");
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.sandbox.process(Program::Etcd).expect("it is one").resume().expect("it was paused");
    stage.sandbox.wait_until_ready().await.expect("it is ready");
    // A cut that nobody notices, as long as nothing is answered.
    stage.proxy.freeze();
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.proxy.heal();
    eprintln!("    disturbed for {:?}", begun.elapsed());
    stage.proxy.clear();
    for (resource, before) in SWALLOWED.iter().zip(before) {
        let live = stage
            .until::<Restore>("", &format!("again-{resource}"), "an end", |live| {
                live["status"]["completionTime"].is_string()
            })
            .await;
        let said = condition(&live, "Succeeded");
        let lives = said.contains("SiteLives") || said.contains("has all its namespaces");
        assert!(said.starts_with("True Verified") || lives, "{resource}: {said}");
        let site = swallower(resource);
        stage.until_settled(&site).await;
        before.expect_equal(&stage.snapshot(&site).await, &site);
    }
    stage.until_nothing_fails().await;
    let deleted = stage.deleted().len();
    assert_eq!(deleted, 3 * SWALLOWED.len(), "a restore deletes nothing");
    let mark = names::ANNOTATION_RESTORE;
    for resource in SWALLOWED {
        let site = stage.get::<Site>("", &swallower(resource)).await.expect("it is there");
        assert!(site["metadata"]["annotations"][mark].is_null(), "{}", site["metadata"]);
    }
}
