//! The purge by waves on a real cluster: the sizes, the pause, every gate again before each wave,
//! a cancel in the middle of one, and Sites that live under the name of one that was planned. I1,
//! I7, T6 and T12 of the design. The oracle is the API server's audit log and what lives.
//!
//! One cluster serves all steps, because it takes seconds to start.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::people::People;
use crate::user::{PATIENCE, Snapshot, condition, expect, expect_condition};
use chrono::{DateTime, Utc};
use reprieve::api::names;
use reprieve::sandbox::audit;
use serde_json::{Value, json};

const SITES: usize = 20;
/// Between two waves, in seconds.
const PAUSE: i64 = 6;
const FINALIZER: &str = "example.com/holds";

fn site(n: usize) -> String {
    format!("w-{n:02}")
}

fn id(n: usize) -> String {
    format!("wave-{n:02}")
}

fn build(stage: &People) {
    let waves = json!({"first": 1, "maxPercent": 10, "pauseSeconds": PAUSE});
    policy(stage, &json!({"blastRadius": {"maxEntities": SITES}, "waves": waves}));
    let sites = (1..=SITES).map(|n| {
        json!({
            "apiVersion": names::API_VERSION, "kind": "Site", "metadata": {"name": site(n)},
            "spec": {"id": id(n), "tenant": {"name": format!("Tenant {n}")}},
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": sites.collect::<Vec<_>>()});
    stage.admin.with_input("create -f -", &list.to_string()).worked();
    stage.admin.kubectl("wait --for=condition=Ready site --all --timeout=60s").worked();
    let notes = (1..=SITES).map(|n| {
        // One namespace stays for as long as this is wanted.
        let finalizers: &[&str] = if n == 4 { &[FINALIZER] } else { &[] };
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"n": n.to_string()},
            "metadata": {"name": "note", "namespace": site(n), "finalizers": finalizers},
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": notes.collect::<Vec<_>>()});
    stage.admin.with_input("create -f -", &list.to_string()).worked();
}

fn policy(stage: &People, spec: &Value) {
    let patch = json!({ "spec": spec }).to_string();
    stage.admin.run(&["patch", "dpol", "default", "--type=merge", "-p", &patch], "").worked();
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no time: {value}"))
}

async fn snapshots(
    stage: &People,
    of: impl IntoIterator<Item = usize>,
) -> BTreeMap<usize, Snapshot> {
    let mut all = BTreeMap::new();
    for n in of {
        all.insert(n, stage.snapshot(&site(n)).await);
    }
    all
}

fn wave(live: &Value, number: i64) -> bool {
    live["status"]["wave"]["number"] == number
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wave_asks_again_and_a_cancel_stops_before_the_next_entity() {
    let Some(stage) = People::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    build(&stage);
    let mut before = snapshots(&stage, 1..=SITES).await;
    step("built");
    let ids: Vec<String> = (1..=SITES).map(id).collect();
    stage.hold("waves", "Site", &ids.iter().map(String::as_str).collect::<Vec<_>>(), 10);
    step("held");
    gates_are_asked_again(&stage, &mut before).await;
    step("a gate closed between two waves, and opened");
    cancelled_within_a_wave(&stage, &before).await;
    step("cancelled in the middle of the third wave");
    let source = json!({"deletionRequestRef": {"name": "waves"}});
    let live = stage.try_restore("back", &source);
    // The one that was restored meanwhile is let be.
    let failures = live["status"]["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.len(), 1, "{}", live["status"]);
    expect("site", &site(1), &failures[0]["site"], &live);
    expect("reason", "SiteLives", &failures[0]["reason"], &live);
    assert_eq!(live["status"]["sites"]["verified"], 3, "{}", live["status"]);
    before[&1].expect_untouched(&stage.snapshot(&site(1)).await, "restored before");
    for (n, now) in snapshots(&stage, 1..=4).await {
        before[&n].expect_equal(&now, &format!("{} brought back", site(n)));
    }
    step("brought back");
    made_anew_under_the_same_name(&stage).await;
    step("made anew under the name of one that is held");
    assert!(
        crate::audit::expect_invariants_but(&stage.sandbox, &[&format!("sites//{}", site(20))]) > 0,
        "something was purged"
    );
    stage.sandbox.stop().expect("nothing is left");
}

/// In the pause after the first wave the policy asks for a longer window: nothing more goes until
/// it does not any more. What is purged already is restored meanwhile, and is not the request's any
/// more; what changes meanwhile is backed up anew.
async fn gates_are_asked_again(stage: &People, before: &mut BTreeMap<usize, Snapshot>) {
    let live = stage.admin.until("dreq waves", "the end of the first wave", |live| {
        wave(live, 1) && !live["status"]["wave"]["endTime"].is_null()
    });
    let first = live["status"]["wave"].clone();
    assert_eq!((&first["entities"], &first["purged"]), (&json!(1), &json!(1)), "{first}");
    policy(stage, &json!({"retention": {"minimumSeconds": 600, "defaultSeconds": 600}}));
    let live = stage.admin.until("dreq waves", "a longer window", |live| {
        condition(live, "RetentionElapsed").starts_with("False WindowRunning")
    });
    assert!(wave(&live, 1), "the gate was to be closed in the pause: {}", live["status"]["wave"]);
    stage.restore("early", &json!({"sites": {"ids": [id(1)]}}));
    before.insert(1, stage.snapshot(&site(1)).await);
    let patch = r#"{"data":{"n":"changed while it is held"}}"#;
    stage.admin.run(&["patch", "configmap", "note", "-n", &site(2), "-p", patch], "").worked();
    before.insert(2, stage.snapshot(&site(2)).await);
    let waits = Duration::from_secs(2 * PAUSE.unsigned_abs());
    std::thread::sleep(waits);
    let live = stage.admin.get("dreq waves");
    assert!(wave(&live, 1), "no wave may begin: {}", live["status"]["wave"]);
    for n in 2..=SITES {
        stage.admin.get(&format!("namespace {}", site(n)));
    }
    policy(stage, &json!({"retention": {"minimumSeconds": 10, "defaultSeconds": 20}}));

    let live = stage.admin.until("dreq waves", "the second wave", |live| wave(live, 2));
    let second = &live["status"]["wave"];
    assert_eq!(second["entities"], 2, "10 % of {SITES}: {second}");
    let pause = time(&second["startTime"]) - time(&first["endTime"]);
    assert!(pause.num_seconds() >= PAUSE, "a pause of {pause}");
}

async fn cancelled_within_a_wave(stage: &People, before: &BTreeMap<usize, Snapshot>) {
    let going = stage.admin.until("namespaces", "one of the third wave going", |all| {
        let mut all = all["items"].as_array().into_iter().flatten();
        all.any(|n| {
            n["metadata"]["name"] == site(4) && !n["metadata"]["deletionTimestamp"].is_null()
        })
    });
    drop(going);
    stage.say_cancel("waves");
    // What was begun is finished; the next one of this wave is released at once.
    stage.admin.until(&format!("site {}", site(5)), "released", |live| {
        live["status"]["deletion"].is_null() && live["status"]["state"] == "Active"
    });
    let live = stage.admin.get("dreq waves");
    assert!(wave(&live, 3), "{}", live["status"]["wave"]);
    let fifth = &live["status"]["plan"]["entities"][4];
    assert_eq!((&fifth["name"], &fifth["wave"]), (&json!(site(5)), &json!(3)), "{fifth}");
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    stage.admin.run(&["patch", "configmap", "note", "-n", &site(4), "-p", patch], "").worked();
    let live = stage.alice.until_state("waves", "Cancelled");
    expect_condition(
        &live,
        "Succeeded",
        &["False CancelledByUser", "16 Sites released", "4 Sites had been deleted"],
    );
    let entities = live["status"]["plan"]["entities"].as_array().cloned().unwrap_or_default();
    for (entity, n) in entities.iter().zip(1..) {
        let phase = if n <= 4 { "Purged" } else { "Released" };
        expect(&format!("phase of {n}"), phase, &entity["phase"], &live);
    }
    let backup = entities[1]["backup"]["name"].as_str().unwrap_or_default();
    assert!(backup.ends_with("-2"), "{}: backed up anew after its change: {backup}", site(2));
    // The one that was restored meanwhile is as it was restored, and the rest was never touched.
    for (n, now) in snapshots(stage, (1..=1).chain(5..=SITES)).await {
        before[&n].expect_untouched(&now, &site(n));
    }
    let records = stage.sandbox.audit().read().expect("the audit log");
    let mut deleted: Vec<String> = audit::deletes(&records)
        .filter(|r| r.is_carried_out() && r.user.name == names::OPERATOR_USER)
        .filter(|r| ["namespaces", "sites"].contains(&r.resource.as_str()))
        .map(|r| format!("{}/{}", r.resource, r.name))
        .collect();
    let expected =
        (1..=4).flat_map(|n| [format!("namespaces/{}", site(n)), format!("sites/{}", site(n))]);
    let mut expected: Vec<String> = expected.collect();
    deleted.sort();
    expected.sort();
    assert_eq!(deleted, expected, "what the operator deleted");
}

/// A Site that is held loses its finalizer with the guard away, is deleted, and made anew under its
/// name and id. The request is not about this one.
async fn made_anew_under_the_same_name(stage: &People) {
    let (old, other) = (site(SITES), site(SITES - 1));
    let ids = [id(SITES - 1), id(SITES)];
    stage.hold("old", "Site", &ids.each_ref().map(String::as_str), 20);
    let label = "-l app.kubernetes.io/part-of=reprieve";
    stage.admin.kubectl(&format!("delete validatingadmissionpolicybinding {label}")).worked();
    let begun = Instant::now();
    // Policies load within a second, not all at once.
    while !stage.admin.kubectl(&format!("delete site {old} --wait=false")).ok {
        assert!(begun.elapsed() < PATIENCE, "the guard is still there");
        std::thread::sleep(Duration::from_millis(200));
    }
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    while !stage.admin.run(&["patch", "site", &old, "--type=merge", "-p", patch], "").ok {
        assert!(begun.elapsed() < PATIENCE, "the finalizer is still guarded");
        std::thread::sleep(Duration::from_millis(200));
    }
    let anew = json!({
        "apiVersion": names::API_VERSION, "kind": "Site",
        "metadata": {"name": old, "annotations": {(names::ANNOTATION_START_EMPTY): "true"}},
        "spec": {"id": id(SITES), "tenant": {"name": "Tenant anew"}},
    });
    stage.admin.kubectl(&format!("wait --for=delete site {old} --timeout=30s")).worked();
    stage.admin.create(&anew).worked();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/admission");
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", folder];
    stage.admin.run(&apply, "").worked();
    stage.admin.kubectl(&format!("wait --for=condition=Ready site {old} --timeout=60s")).worked();
    let before = stage.snapshot(&old).await;
    let live = stage.alice.until_state("old", "Cancelled");
    expect_condition(&live, "Succeeded", &["False PlanChanged", &old]);
    // Past the end of what was its window.
    std::thread::sleep(Duration::from_secs(20));
    before.expect_untouched(&stage.snapshot(&old).await, "the Site made anew");
    for name in [&old, &other] {
        let live = stage.admin.get(&format!("site {name}"));
        expect("state", "Active", &live["status"]["state"], &live);
        assert_eq!(live["status"]["deletion"], Value::Null, "{name}");
    }
}
