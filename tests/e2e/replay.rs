//! Approvals and requests that are used again: T15, T17 and T18 of the fault list. An approval of an
//! earlier plan or of another request counts nothing; a request that has done its work does nothing
//! when a pipeline applies it again; and DELETE of a request, in whatever state, only ever keeps
//! what is not gone. The oracle is what lives and the API server's audit log.

use chrono::{DateTime, TimeDelta, Utc};
use reprieve::api::names::OPERATOR_USER;
use reprieve::sandbox::{Sandbox, audit};
use serde_json::{Value, json};

use crate::alerts::Stage;
use crate::user::{Snapshot, User, condition, request};

/// The field manager of Flux.
const FLUX: &str = "kustomize-controller";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_approved_once_is_not_approved_again() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let stage = Stage::with(&sandbox);
    let waves = json!({"waves": {"first": 1, "maxPercent": 1, "pauseSeconds": 3600}});
    let sites = stage.prepare("again", &waves, 5);
    let [one, two, three, four, five] = &sites[..] else { panic!("five sites") };
    let pair = stage.prepare("pair", &json!({"quorum": {"approvals": 2}}), 1);
    let late =
        stage.prepare("late", &json!({"quorum": {"approvals": 1, "expiresAfterSeconds": 60}}), 1);
    expires_begin(&stage, &late[0]);
    let lost = stage.prepare("lost", &json!({}), 2);
    policy_goes(&stage, &lost);
    approvals_of_something_else(&stage, &pair[0]);
    approvals_survive_syncs(&stage, &sandbox, &pair[0]);
    finished_requests(&stage, &sandbox, two).await;
    policy_comes_back(&stage, &lost);
    deleted_in_each_state(&stage, &sandbox, &[one, three, four, five]).await;
    deleted_when_it_has_ended(&stage, &sandbox, &late[0]).await;
    let records = sandbox.audit().read().expect("the audit log");
    let gone: Vec<&str> = audit::deletes(&records)
        .filter(|r| r.user.name == OPERATOR_USER && r.resource == "sites")
        .map(|r| r.name.as_str())
        .collect();
    assert_eq!(gone, [two, &lost[1], three], "Sites that were deleted, in that order");
    drop(operator);
    assert!(crate::audit::expect_invariants(&sandbox) > 0, "something was purged");
    sandbox.stop().expect("nothing is left");
}

fn digest(live: &Value) -> String {
    live["status"]["plan"]["digest"].as_str().expect("a digest").to_owned()
}

/// Bob writes an approval of this digest, which is not that of the plan, and is told so.
fn cannot_approve(stage: &Stage, request: &str, digest: &str) {
    let annotation = format!("approval.reprieve.dev/bob={digest} bob");
    let said = stage.bob.run(&["annotate", "--overwrite", "dreq", request, &annotation], "");
    let told = said.err.contains("but the digest of the plan is") && said.err.contains(digest);
    assert!(!said.ok && told, "an approval of {digest}: {}{}", said.out, said.err);
}

/// T15: of another request for the very same Site, and of a plan that has changed since.
fn approvals_of_something_else(stage: &Stage, site: &str) {
    let ids = [format!("id-{site}")];
    stage.alice.create(&request("first", "Site", &ids)).worked();
    let first = digest(&stage.alice.until_state("first", "AwaitingApproval"));
    stage.alice.kubectl("delete dreq first --timeout=60s").worked();
    stage.alice.create(&request("second", "Site", &ids)).worked();
    let before = digest(&stage.alice.until_state("second", "AwaitingApproval"));
    assert_ne!(first, before, "the digest names the request");
    cannot_approve(stage, "second", &first);
    stage.bob.approve("second", "bob").worked();
    let one = |live: &Value| live["status"]["approvals"].as_array().is_some_and(|a| a.len() == 1);
    stage.alice.until("dreq second", "one approval of two", one);
    // What was approved is not what is planned any more.
    let tenant = r#"{"spec":{"tenant":{"name":"Somebody else"}}}"#;
    stage.admin.run(&["patch", "site", site, "--type=merge", "-p", tenant], "").worked();
    let live = stage.alice.until("dreq second", "another plan", |live| {
        live["status"]["plan"]["digest"].as_str().is_some_and(|digest| digest != before)
    });
    assert!(live["status"]["approvals"].is_null(), "none counts: {}", live["status"]);
    let said = condition(&live, "Approved");
    assert!(said.contains("bob approved another digest"), "{said}");
    assert_eq!(live["status"]["state"], "AwaitingApproval", "{}", live["status"]);
    stage.alice.kubectl("delete dreq second --timeout=60s").worked();
}

/// A request that lies in git, synced while people approve it. Flux takes over what any manager
/// named `kubectl…` has written and applies without it, so that an approval that was made with
/// kubectl is wiped from the request; Argo CD's server-side apply leaves it. What the status has
/// recorded counts. Who asked is wiped as well, and put back by the guard.
fn approvals_survive_syncs(stage: &Stage, sandbox: &Sandbox, site: &str) {
    let carol = User::person(sandbox, "carol", "reprieve-approver");
    let mut manifest = request("synced", "Site", &[format!("id-{site}")]);
    manifest["spec"]["retentionSeconds"] = json!(300);
    let apply = |manager: &str| {
        let args = format!("apply --server-side --force-conflicts --field-manager={manager} -f -");
        stage.alice.with_input(&args, &manifest.to_string()).worked();
    };
    let flux = || {
        take_over(&stage.alice, "synced");
        apply(FLUX);
    };
    let bobs = |live: &Value| live["metadata"]["annotations"]["approval.reprieve.dev/bob"].clone();
    let said = |live: &Value| live["status"]["approvals"].as_array().map_or(0, Vec::len);
    apply(FLUX);
    stage.alice.until_state("synced", "AwaitingApproval");
    stage.bob.approve("synced", "bob").worked();
    let live = stage.alice.until("dreq synced", "one approval of two", |live| said(live) == 1);
    assert!(bobs(&live).is_string(), "{}", live["metadata"]);
    flux();
    let live = stage.alice.get("dreq synced");
    assert!(bobs(&live).is_null(), "Flux wipes it: {}", live["metadata"]);
    apply("argocd-controller");
    // It was looked at since: the condition speaks of what is missing, and of one alone.
    let live = stage.alice.until("dreq synced", "one approval of two", |live| {
        condition(live, "Approved").contains("1 of 2 approvals")
    });
    assert_eq!(live["status"]["approvals"][0]["user"], "bob", "{}", live["status"]);
    carol.approve("synced", "carol").worked();
    stage.alice.until_state("synced", "Held");
    flux();
    apply("argocd-controller");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let live = stage.alice.get("dreq synced");
    assert_eq!((&live["status"]["state"], said(&live)), (&json!("Held"), 2), "{}", live["status"]);
    assert!(condition(&live, "Approved").starts_with("True"), "{}", condition(&live, "Approved"));
    stage.alice.kubectl("delete dreq synced --timeout=60s").worked();
    stage.until_active(&[site.to_owned()]);
}

/// As Flux does before each apply (fluxcd/pkg/ssa, `PatchReplaceFieldsManagers`): what managers
/// named `kubectl…` own is Flux's own from now on.
fn take_over(user: &User, request: &str) {
    // The operator writes as well: a conflict is met by reading again.
    let taken = (0..20).any(|_| try_to_take_over(user, request));
    assert!(taken, "a conflict each time");
}

fn try_to_take_over(user: &User, request: &str) -> bool {
    let live = user.kubectl(&format!("get dreq {request} -o json --show-managed-fields"));
    let live: Value = serde_json::from_str(live.worked()).expect("JSON");
    let all = live["metadata"]["managedFields"].as_array().expect("field managers").clone();
    let is_kubectl = |entry: &&Value| {
        entry["manager"].as_str().is_some_and(|manager| manager.starts_with("kubectl"))
    };
    let taken: Vec<&Value> = all.iter().filter(is_kubectl).collect();
    let mut left: Vec<Value> = all.iter().filter(|e| !is_kubectl(e)).cloned().collect();
    let own = left.iter_mut().find(|e| e["manager"] == FLUX && e["operation"] == "Apply");
    let own = own.expect("Flux has applied it");
    for entry in taken {
        union(&mut own["fieldsV1"], &entry["fieldsV1"]);
    }
    let version = &live["metadata"]["resourceVersion"];
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": left},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
    ]);
    let said = user.run(&["patch", "dreq", request, "--type=json", "-p", &patch.to_string()], "");
    assert!(
        said.ok
            || said.err.contains("(Conflict)")
            || said.err.contains("the object has been modified"),
        "{}",
        said.err
    );
    said.ok
}

/// All fields of both.
fn union(into: &mut Value, from: &Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(into), Some(from)) => {
            for (key, value) in from {
                union(into.entry(key).or_insert_with(|| json!({})), value);
            }
        }
        _ => *into = from.clone(),
    }
}

/// T17: a pipeline applies a request that has done its work, when it was deleted, and when the site
/// is back.
async fn finished_requests(stage: &Stage, sandbox: &Sandbox, site: &str) {
    let ids = [format!("id-{site}")];
    let manifest = request("done", "Site", &ids);
    let apply = |what: &str| {
        let applied = stage.alice.with_input("apply -f -", &manifest.to_string());
        assert!(applied.ok, "{what}: {}", applied.err);
    };
    apply("at first");
    let first = digest(&stage.alice.until_state("done", "AwaitingApproval"));
    stage.bob.approve("done", "bob").worked();
    let done = stage.alice.until_state("done", "Completed");
    apply("while it is there");
    assert_eq!(stage.admin.get("dreq done")["status"], done["status"], "nothing happens");

    let back = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "again"},
        "spec": {"source": {"deletionRequestRef": {"name": "done"}}},
    });
    stage.admin.create(&back).worked();
    stage.admin.kubectl("wait --for=condition=Succeeded rst/again --timeout=120s").worked();
    stage.until_active(&[site.to_owned()]);
    let before = Snapshot::take(sandbox, site).await;
    apply("when the site is back");
    let still = stage.admin.get("dreq done");
    assert_eq!(still["status"]["completionTime"], done["status"]["completionTime"]);

    // As if it had never been there: another request, which nobody has approved.
    stage.admin.kubectl("delete dreq done --timeout=60s").worked();
    apply("when it was deleted");
    let live = stage.alice.until_state("done", "AwaitingApproval");
    assert_ne!(digest(&live), first);
    cannot_approve(stage, "done", &first);
    stage.alice.kubectl("delete dreq done --timeout=60s").worked();
    before.expect_untouched(&Snapshot::take(sandbox, site).await, "T17");
}

/// A policy is deleted while two requests under it are held.
fn policy_goes(stage: &Stage, sites: &[String]) {
    for (request, site) in ["lost-cancel", "lost-wait"].into_iter().zip(sites) {
        stage.hold(request, std::slice::from_ref(site), &json!({}));
    }
    for request in ["lost-cancel", "lost-wait"] {
        stage.alice.until(&format!("dreq {request}"), "its window", |live| {
            !live["status"]["retention"].is_null()
        });
    }
    stage.admin.kubectl("delete dpol lost").worked();
}

/// Nothing of them goes when the windows that were planned have passed: until there is a policy of
/// that name again, the built-in one binds as well. One is cancelled. The other goes on when the
/// policy is back, and that is right: what people approved are the values in the plan, which bind
/// whatever the new one allows, so that it can only be stricter.
fn policy_comes_back(stage: &Stage, sites: &[String]) {
    for request in ["lost-cancel", "lost-wait"] {
        let live = stage.alice.until(&format!("dreq {request}"), "past its window", |live| {
            let end = live["status"]["retention"]["endTime"].as_str().and_then(|t| t.parse().ok());
            end.is_some_and(|end: DateTime<Utc>| Utc::now() > end + TimeDelta::seconds(2))
                && condition(live, "WithinBlastRadius").starts_with("False PolicyNotFound")
        });
        let said = condition(&live, "WithinBlastRadius");
        let cancel = format!("kubectl patch dreq {request}");
        assert!(said.contains("DeletionPolicy lost") && said.contains(&cancel), "{said}");
        assert_eq!(live["status"]["state"], "Held", "{}", live["status"]);
    }
    stage.expect_intact(sites);
    let cancel = r#"{"spec":{"cancel":true}}"#;
    let patch = ["patch", "dreq", "lost-cancel", "--type=merge", "-p", cancel];
    stage.alice.run(&patch, "").worked();
    stage.alice.until_state("lost-cancel", "Cancelled");
    stage.admin.until(&format!("site {}", sites[0]), "released", |live| {
        live["status"]["deletion"].is_null()
    });
    let again = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionPolicy", "metadata": {"name": "lost"},
        "spec": {
            "environment": "Development", "retention": {"minimumSeconds": 10, "defaultSeconds": 10},
            "quorum": {"approvals": 1},
            "blastRadius": {"rolling": {"maxEntities": 1000, "maxPercent": 100}},
        },
    });
    stage.admin.create(&again).worked();
    stage.alice.until_state("lost-wait", "Completed");
    stage.until_active(&sites[..1]);
    stage.expect_intact(&sites[..1]);
}

/// A request that nobody approves.
fn expires_begin(stage: &Stage, site: &str) {
    stage.alice.create(&request("late", "Site", &[format!("id-{site}")])).worked();
    stage.alice.until_state("late", "AwaitingApproval");
}

/// T18: DELETE of a request that was refused, of one that has expired, and of one that was
/// cancelled: it goes at once, and is the end of nothing else.
async fn deleted_when_it_has_ended(stage: &Stage, sandbox: &Sandbox, site: &String) {
    let before = Snapshot::take(sandbox, site).await;
    let delete = |name: &str| {
        // Whatever has to be released would take more than one look.
        let begun = std::time::Instant::now();
        stage.alice.kubectl(&format!("delete dreq {name} --timeout=20s")).worked();
        eprintln!("         {name} deleted in {:?}", begun.elapsed());
        stage.admin.kubectl(&format!("get dreq {name}")).failed(&["(NotFound)"]);
        let live = stage.admin.get(&format!("site {site}"));
        assert_eq!(live["status"]["state"], "Active", "{name}: {}", live["status"]);
        assert!(live["status"]["deletion"].is_null(), "{name}: {}", live["status"]);
    };
    let live = stage.alice.until_state("late", "Expired");
    assert!(condition(&live, "Succeeded").starts_with("False Expired"), "{}", live["status"]);
    delete("late");

    let wrong = [format!("id-{site}"), "id-of-nothing".to_owned()];
    stage.alice.create(&request("refused", "Site", &wrong)).worked();
    stage.alice.until_state("refused", "Refused");
    delete("refused");

    stage.hold("undone", std::slice::from_ref(site), &json!({"retentionSeconds": 600}));
    stage.alice.until("dreq undone", "its window", |live| !live["status"]["retention"].is_null());
    let cancel = r#"{"spec":{"cancel":true}}"#;
    stage.alice.run(&["patch", "dreq", "undone", "--type=merge", "-p", cancel], "").worked();
    stage.alice.until_state("undone", "Cancelled");
    stage.until_active(std::slice::from_ref(site));
    delete("undone");
    before.expect_untouched(&Snapshot::take(sandbox, site).await, "T18: of what has ended");
}

/// T18: DELETE of a request that waits for approvals, of one that is held, of one in the middle of
/// its purge, and of one that has ended.
async fn deleted_in_each_state(stage: &Stage, sandbox: &Sandbox, sites: &[&String; 4]) {
    let [waits, goes, stays, held] = sites.map(Clone::clone);
    let mut before = vec![];
    for site in [&waits, &stays, &held] {
        before.push(Snapshot::take(sandbox, site).await);
    }
    let delete = |name: &str| {
        stage.alice.kubectl(&format!("delete dreq {name} --timeout=120s")).worked();
        assert!(!stage.admin.kubectl(&format!("get dreq {name}")).ok, "{name} is gone");
    };
    stage.alice.create(&request("waits", "Site", &[format!("id-{waits}")])).worked();
    stage.alice.until_state("waits", "AwaitingApproval");
    delete("waits");

    stage.hold("held", std::slice::from_ref(&held), &json!({"retentionSeconds": 600}));
    stage.alice.until("dreq held", "its window", |live| !live["status"]["retention"].is_null());
    delete("held");

    stage.hold("goes", &[goes.clone(), stays.clone()], &json!({}));
    let live = stage.alice.until("dreq goes", "the first Site gone", |live| {
        live["status"]["progress"]["purged"] == 1
    });
    assert_eq!(live["status"]["state"], "Purging", "{}", live["status"]);
    delete("goes");

    let back = [waits, stays, held];
    stage.until_active(&back);
    for (site, before) in back.iter().zip(before) {
        before.expect_untouched(&Snapshot::take(sandbox, site).await, "T18");
    }
    assert!(!stage.admin.kubectl(&format!("get site {goes}")).ok, "past its point of no return");
}
