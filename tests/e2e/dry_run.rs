//! What people read before they approve: the plan, its digest computed again by the script of
//! `docs/digest.md`, the refusals, the events; and what Prometheus reads. T14 of the fault list.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::user::{User, expect_condition, http, request, sample};
use reprieve::cli::rules::rules;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

const REPRIEVE: &str = env!("CARGO_BIN_EXE_reprieve");
const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
const DIGEST: &str = include_str!("../../docs/digest.md");
/// The limit of a status, in bytes.
const LARGEST: usize = 256 << 10;
/// How long a dry run may take on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(20);

/// The code block of this language in the page.
fn block(language: &str) -> &'static str {
    let (_, rest) = DIGEST.split_once(&format!("```{language}\n")).expect("a code block");
    rest.split_once("```").expect("an end").0
}

/// What the script of the page prints for this request, and whether it agrees. None: no Python.
fn by_script(request: &Value) -> Option<(String, bool)> {
    let child = Command::new("python3")
        .args(["-c", block("python")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        reprieve::sandbox::skipped("no python3 here");
        return None;
    };
    let text = request.to_string();
    child.stdin.take().expect("an input").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let printed = String::from_utf8(output.stdout).expect("text");
    Some((printed.trim().to_owned(), output.status.success()))
}

#[test]
fn the_script_of_the_page_computes_its_example() {
    let example: Value = serde_json::from_str(block("json")).expect("JSON");
    let digest = example["status"]["plan"]["digest"].as_str().expect("a digest").to_owned();
    assert!(DIGEST.contains(&format!("the script prints `{digest}`")), "the page names {digest}");
    let Some(printed) = by_script(&example) else { return };
    assert_eq!(printed, (digest.clone(), true));
    // Whatever the digest covers makes another one, and the script says so.
    let mut other = example;
    other["status"]["plan"]["entities"][0]["tenant"] = json!("Baeckerei");
    let (seen, agrees) = by_script(&other).expect("Python is here");
    assert!(!agrees && seen != digest, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_go() {
    let Some(sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let admin = User::admin(&sandbox);
    let alice = User::person(&sandbox, "alice", "reprieve-requester");
    let bob = User::person(&sandbox, "bob", "reprieve-approver");

    for (n, site) in ["acme", "bolt"].into_iter().enumerate() {
        let n = u32::try_from(n).expect("a small number");
        let yaml =
            sample(SITE, site, n + 1).replace("name: Acme Corp", "name: 'Müller \"&\" Söhne'");
        admin.apply(&yaml).worked();
        admin.kubectl(&format!("wait --for=condition=Ready site {site} --timeout=60s")).worked();
        admin.apply(&sample(APP, site, n + 1)).worked();
    }
    admin.kubectl("wait --for=condition=Ready app shop -n acme --timeout=60s").worked();
    admin.until("site acme", "its inventory", |site| {
        site["status"]["inventory"]["apps"] == 1 && site["status"]["inventory"]["objects"] != 0
    });
    let backup = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "acme-now"},
        "spec": {"siteRef": {"name": "acme"}},
    });
    admin.create(&backup).worked();
    admin.kubectl("wait --for=condition=Verified bkp/acme-now --timeout=60s").worked();
    admin.until("site acme", "its last backup", |site| !site["status"]["lastBackup"].is_null());
    let drill = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "RestoreDrill", "metadata": {"name": "tried"},
        "spec": {"sample": {"backupRefs": [{"name": "acme-now"}]}},
    });
    admin.create(&drill).worked();
    let site = admin.until("site acme", "its last drill", |s| !s["status"]["lastDrill"].is_null());
    let last = &site["status"]["lastDrill"];
    assert_eq!((&last["name"], &last["backup"]), (&json!("tried"), &json!("acme-now")), "{last}");
    assert_eq!(last["outcome"], "Succeeded", "{last}");

    what_the_plan_says(&admin, &alice, &bob);
    of_two_policies_or_none(&admin, &alice);
    windows_and_overrides(&alice, &bob);
    ids_of_every_sort(&alice);
    the_largest_refusal(&alice);
    // One that is open: it has gates that are closed.
    alice.create(&request("open", "Site", &["site-2".to_owned()])).worked();
    alice.until_state("open", "AwaitingApproval");
    what_prometheus_reads(&admin, &operator);
}

fn what_the_plan_says(admin: &User, alice: &User, bob: &User) {
    let ids = ["site-1", "site-2"].map(str::to_owned);
    alice.create(&request("both", "Site", &ids)).worked();
    let live = alice.until_state("both", "AwaitingApproval");
    let plan = &live["status"]["plan"];
    let site = admin.get("site acme");
    let entity = &plan["entities"][0];
    assert_eq!(entity["name"], "acme", "{entity}");
    for (field, expected) in [
        ("kind", json!("Site")),
        ("id", json!("site-1")),
        ("uid", site["metadata"]["uid"].clone()),
        ("tenant", site["spec"]["tenant"]["name"].clone()),
        ("priority", site["spec"]["priority"].clone()),
        ("namespaces", site["status"]["namespaces"].clone()),
        ("objects", site["status"]["inventory"]["objects"].clone()),
        ("bytes", site["status"]["inventory"]["bytes"].clone()),
        ("lastBackup", site["status"]["lastBackup"].clone()),
        ("lastDrill", site["status"]["lastDrill"].clone()),
    ] {
        assert!(!expected.is_null(), "the Site has no {field}");
        assert_eq!(entity[field], expected, "{field} of {entity}");
    }
    let app = admin.get("app shop -n acme");
    let planned = json!([{
        "id": "app-1", "name": "shop", "namespace": "acme", "uid": app["metadata"]["uid"],
    }]);
    assert_eq!(entity["apps"], planned);
    assert!(plan["entities"][1]["lastBackup"].is_null(), "bolt was never backed up: {plan}");
    assert!(plan["entities"][1]["lastDrill"].is_null(), "nor drilled: {plan}");
    assert_eq!(plan["totals"]["entities"], 2);
    assert_eq!(plan["totals"]["namespaces"], 2);
    assert_eq!(plan["totals"]["apps"], 2);

    // Anybody can compute the digest again from what kubectl prints.
    if let Some(printed) = by_script(&live) {
        assert_eq!(printed, (plan["digest"].as_str().expect("a digest").to_owned(), true));
    }

    bob.approve("both", "bob").worked();
    alice.until("dreq both", "an approval", |live| !live["status"]["approvals"][0].is_null());
    alice.kubectl("patch dreq both --type=merge -p {\"spec\":{\"cancel\":true}}").worked();
    alice.until_state("both", "Cancelled");
    let begun = Instant::now();
    let events = loop {
        let said = admin.kubectl("describe dreq both");
        let events = said.worked().split("Events:").nth(1).unwrap_or_default().to_owned();
        // The last event is written right after the status.
        if events.contains("CancelledByUser") || begun.elapsed() > SOON {
            break events;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    for (type_, reason, words) in [
        ("Normal", "Planned", "would delete 2 Sites with 2 namespaces, 2 Apps"),
        ("Normal", "Approved", "approved by bob"),
        ("Warning", "CancelledByUser", "cancelled by spec.cancel"),
    ] {
        let line = events.lines().find(|line| line.contains(reason));
        let line = line.unwrap_or_else(|| panic!("no event {reason}: {events}"));
        assert!(line.contains(type_) && line.contains(words), "{line}");
    }
}

fn of_two_policies_or_none(admin: &User, alice: &User) {
    let policy = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionPolicy", "metadata": {"name": "strict"},
        "spec": {"environment": "Production"},
    });
    admin.create(&policy).worked();
    for (name, id, policy) in [("cato", "site-3", "strict"), ("dune", "site-4", "nowhere")] {
        let site = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
            "spec": {"id": id, "tenant": {"name": name}, "policyRef": {"name": policy}},
        });
        admin.create(&site).worked();
    }
    admin.kubectl("wait --for=jsonpath={.status.state} site cato dune --timeout=60s").worked();
    admin.kubectl("wait --for=condition=Ready site cato --timeout=60s").worked();
    let has_namespace = |live: &Value| live["status"]["namespaces"][0]["uid"].is_string();
    admin.until("site dune", "its namespace", has_namespace);
    for (name, ids, words) in [
        (
            "two",
            &["site-1", "site-3"][..],
            ["SeveralPolicies", "default, strict", "split the request"],
        ),
        ("none", &["site-4"], ["PolicyNotFound", "Site dune", "\"nowhere\""]),
    ] {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        alice.create(&request(name, "Site", &ids)).worked();
        let live = alice.until_state(name, "Refused");
        expect_condition(&live, "ScopeValid", &[&["False"], &words[..]].concat());
    }
    // Its policy goes midway.
    let mut midway = request("midway", "Site", &["site-3".to_owned()]);
    midway["spec"]["retentionSeconds"] = json!(86_400);
    alice.create(&midway).worked();
    alice.until_state("midway", "AwaitingApproval");
    admin.kubectl("delete dpol strict").worked();
    let live = alice.until_state("midway", "Refused");
    let words = ["False PolicyNotFound", "Site cato", "\"strict\""];
    expect_condition(&live, "ScopeValid", &words);
}

fn windows_and_overrides(alice: &User, bob: &User) {
    let of = |name: &str, fields: Value| {
        let mut object = request(name, "Site", &["site-2".to_owned()]);
        let spec = object["spec"].as_object_mut().expect("a spec");
        spec.extend(fields.as_object().expect("fields").clone());
        object
    };
    // The schema: no window, or more than any policy can allow, or what is no number of seconds.
    for seconds in [json!(0), json!(-1), json!(7_776_001), json!(9.3e18), json!("10"), json!(1.5)] {
        let said = alice.create(&of("window", json!({"retentionSeconds": seconds})));
        said.failed(&["retentionSeconds"]);
    }
    // The policy: its floor.
    alice.create(&of("short", json!({"retentionSeconds": 9}))).worked();
    let live = alice.until_state("short", "Refused");
    expect_condition(&live, "WithinBlastRadius", &["False RetentionOutOfBounds", "10"]);
    // A justification of nothing, and one without need.
    let said = alice.create(&of("why", json!({"override": {"justification": " "}})));
    said.failed(&["spec.override.justification"]);
    alice.create(&of("needless", json!({"override": {"justification": "to be sure"}}))).worked();
    let live = alice.until_state("needless", "Refused");
    let words = ["False OverrideNotNeeded", "more than 10 Sites", "make it again without"];
    expect_condition(&live, "WithinBlastRadius", &words);
    alice.create(&of("why", json!({}))).worked();
    alice.until_state("why", "AwaitingApproval");
    // The schema's bounds of the list, and edits of what is immutable.
    let many: Vec<String> = (0..1001).map(|n| format!("site-{n}")).collect();
    alice.create(&request("many", "Site", &many)).failed(&["must have at most 1000 items"]);
    for patch in [r#"{"spec":{"reason":"other"}}"#, r#"{"spec":{"target":{"ids":["site-1"]}}}"#] {
        let said = alice.run(&["patch", "dreq", "why", "--type=merge", "-p", patch], "");
        said.failed(&["immutable"]);
    }
    let cancel = |value: bool| format!(r#"{{"spec":{{"cancel":{value}}}}}"#);
    alice.run(&["patch", "dreq", "why", "--type=merge", "-p", &cancel(true)], "").worked();
    let said = alice.run(&["patch", "dreq", "why", "--type=merge", "-p", &cancel(false)], "");
    said.failed(&["cancel cannot be taken back"]);
    let live = alice.until_state("why", "Cancelled");
    // Too late.
    let digest = live["status"]["plan"]["digest"].as_str().expect("a digest");
    let said = bob.annotate("why", &format!("approval.reprieve.dev/bob={digest} bob"));
    said.failed(&["has ended (Cancelled)", "make a new one"]);
}

/// An id is compared to the letter, whichever way it is looked up: a few are asked for one by one,
/// more of them by lists of everything.
fn ids_of_every_sort(alice: &User) {
    for id in ["site-\u{430}", "s\u{131}te-1", "site-1\u{200b}", "site\u{2010}1", "site-1\n", "\t"]
    {
        alice.create(&request("odd", "Site", &[id.to_owned()])).failed(&["spec.target.ids[0]"]);
    }
    let long = "s".repeat(253);
    let odd =
        ["SITE-1", "site-01", "site-1,site-2", "site-1=x", "site\\-1", "$(id)", "site-1;", &long];
    for (name, ids) in [("odd-few", &odd[..4]), ("odd-many", &odd[..])] {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        alice.create(&request(name, "Site", &ids)).worked();
        let live = alice.until_state(name, "Refused");
        let plan = &live["status"]["plan"];
        let expected = json!([{"reason": "UnknownId", "count": ids.len()}]);
        assert_eq!(plan["refusalCounts"], expected, "{plan}");
    }
    alice.create(&request("longer", "Site", &["s".repeat(254)])).failed(&["spec.target.ids[0]"]);
    // Ids of Apps for a request about Sites, the two ways.
    let mixed = ["site-1", "app-1", "app-2", "site-2", "site-99"].map(str::to_owned);
    for (name, ids, count) in [("mix-few", &mixed[..3], 2), ("mix-many", &mixed[..], 2)] {
        alice.create(&request(name, "Site", ids)).worked();
        let live = alice.until_state(name, "Refused");
        let words = ["False EntityTypeMismatch", "\"app-1\" is no Site", "App acme/shop"];
        expect_condition(&live, "ScopeValid", &words);
        let counts =
            live["status"]["plan"]["refusalCounts"].as_array().cloned().unwrap_or_default();
        let mismatches = counts.iter().find(|c| c["reason"] == "EntityTypeMismatch");
        assert_eq!(mismatches.expect("a count")["count"], count, "{counts:?}");
    }
}

fn the_largest_refusal(alice: &User) {
    let ids: Vec<String> = (0..1000).map(|n| format!("{n:0>253}")).collect();
    let begun = Instant::now();
    alice.create(&request("thousand", "App", &ids)).worked();
    let live = alice.until_state("thousand", "Refused");
    assert!(begun.elapsed() < SOON, "expected a refusal within {SOON:?}");
    let status = &live["status"];
    assert_eq!(status["plan"]["refusals"].as_array().map(Vec::len), Some(20));
    assert_eq!(status["plan"]["refusalCounts"], json!([{"reason": "UnknownId", "count": 1000}]));
    let size = status.to_string().len();
    eprintln!("1000 long ids refused: a status of {size} bytes");
    assert!(size < LARGEST, "expected less than {LARGEST} bytes; seen: {size}");
}

/// The rules of `deploy/monitoring` name metrics that there are, with labels that there are.
fn what_prometheus_reads(admin: &User, operator: &Operator) {
    let (_, text) = http(operator.listen(), "/metrics").expect("an answer");
    for rule in rules() {
        let part = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        for metric in rule.expr.split(part).filter(|word| word.starts_with("reprieve_")) {
            let sample = |line: &str| {
                line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            // Those of drills are there once one has run: tests/e2e/drill.rs. That of kept disks is
            // there once they were looked at, some minutes after the start: tests/e2e/disks.
            let later = metric.starts_with("reprieve_drill_") || metric == "reprieve_kept_disks";
            let seen = later || text.lines().any(sample);
            assert!(seen, "{}: {metric} is not there", rule.alert);
        }
    }
    let requested = text.lines().find(|l| l.contains("requested_entities_total{kind=\"App\"}"));
    assert!(requested.is_some_and(|line| line.ends_with(" 1000")), "{requested:?}");
    // The guard's denials, as the API server counts them: the operator's probes are among them.
    let said = admin.kubectl("get --raw /metrics");
    let wanted = [
        "apiserver_validating_admission_policy_check_total{",
        "policy=\"reprieve-delete-entities\"",
        "enforcement_action=\"deny\"",
    ];
    let line = said.worked().lines().find(|line| wanted.iter().all(|word| line.contains(word)));
    let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
    let denied = line.and_then(count).expect("a count of denials");
    let probes = text.lines().find(|line| {
        line.starts_with("reprieve_guard_probes_total{policy=\"reprieve-delete-entities\"}")
    });
    let probes = probes.and_then(count).expect("a count of probes");
    eprintln!("denials by reprieve-delete-entities: {denied}, of which probes: {probes}");
    // Nobody else tried. A probe may have been sent between the two looks.
    assert!(probes > 0.0 && (denied - probes).abs() <= 2.0, "{denied} denials, {probes} probes");
}
