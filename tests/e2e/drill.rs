//! B11 of the fault list: drills of several sites while the fleet lives, with everything in them that
//! could act on the world; and what may go wrong with one. The operator runs under its own account
//! with the guard in force. The oracles are the API server's audit log, the UIDs and digests of the
//! sites that live, and the files of the store.
//!
//! One cluster serves all steps.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::sources::{back_up, ready, start};
use crate::user::{Snapshot, User, condition, expect_condition, http, request, sample};
use reprieve::api::names;
use reprieve::sandbox::audit::AuditRecord;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
const ONCE: &str = include_str!("roundtrip/once.yaml");
const CLUSTER: &str = include_str!("roundtrip/cluster.yaml");
const COMPONENT: &str = include_str!("roundtrip/component.yaml");
/// The API server refuses, to whomever, what would act from a scratch namespace.
const INERT: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: inert}
spec:
  failurePolicy: Fail
  matchConstraints: {resourceRules: [{apiGroups: ['*'], apiVersions: ['*'], operations: [CREATE, UPDATE], resources: ['*'], scope: Namespaced}]}
  matchConditions: [{name: scratch, expression: \"has(request.namespace) && request.namespace.startsWith('drill-')\"}]
  validations:
    - expression: \"!(request.resource.resource in ['deployments', 'statefulsets', 'replicasets', 'replicationcontrollers']) || (has(object.spec.replicas) && object.spec.replicas == 0)\"
      message: it would have Pods
    - expression: \"!(request.resource.resource in ['jobs', 'cronjobs']) || (has(object.spec.suspend) && object.spec.suspend)\"
      message: it would run
    - expression: \"request.resource.resource != 'services' || (object.spec.type in ['ClusterIP', 'ExternalName'] && !has(object.spec.externalIPs))\"
      message: it would lead in
    - expression: \"!(request.resource.resource in ['pods', 'daemonsets', 'ingresses', 'persistentvolumeclaims', 'databases', 'apps'])\"
      message: it would act
    - expression: \"!has(object.metadata.annotations) || !object.metadata.annotations.exists(key, key.startsWith('replicator.example/'))\"
      message: it would be replicated
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: inert}
spec: {policyName: inert, validationActions: [Deny]}
";
/// How long a run may take here.
const PATIENCE: Duration = Duration::from_secs(180);

struct Stage {
    sandbox: Sandbox,
    operator: Operator,
    admin: User,
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_prove_restores_and_touch_nothing() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    let operator = start(&sandbox).await;
    let admin = User::admin(&sandbox);
    let mut stage = Stage { sandbox, operator, admin };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    stage.sites();
    step("three sites, one of every kind");
    stage.a_good_one().await;
    step("a drill of all of them");
    stage.by_schedule();
    step("one by its schedule, and what is no schedule");
    stage.killed().await;
    step("two that were killed on their way");
    stage.two_at_once();
    step("two at once");
    stage.deleted();
    step("one that was deleted");
    stage.refused();
    step("one that the cluster does not take");
    stage.changed();
    step("one of which the cluster makes something else");
    stage.too_long();
    step("one that takes too long");
    stage.broken();
    step("one of a broken archive");
    stage.before_a_purge();
    step("one before a purge");
    assert_eq!(crate::audit::expect_invariants(&stage.sandbox), 1, "purged");
    stage.sandbox.stop().expect("nothing is left");
}

fn drill(name: &str, spec: Value) -> Value {
    json!({"apiVersion": names::API_VERSION, "kind": "RestoreDrill", "metadata": {"name": name}, "spec": spec})
}

/// The last run of a drill.
fn last(drill: &Value) -> &Value {
    &drill["status"]["runs"][0]
}

/// Panics if the operator wrote outside of scratch namespaces during a drill; gives the kinds that it
/// has made in them.
pub fn nothing_outside(log: &[AuditRecord]) -> BTreeSet<&str> {
    let writes = |r: &&AuditRecord| r.is_write() && r.is_carried_out();
    let name = |r: &AuditRecord| {
        let in_body = r.request["metadata"]["name"].as_str().unwrap_or_default();
        if r.name.is_empty() { in_body.to_owned() } else { r.name.clone() }
    };
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for r in log.iter().filter(writes).filter(|r| r.user.name == names::OPERATOR_USER) {
        let fine = match r.resource.as_str() {
            "events" | "leases" | "selfsubjectaccessreviews" => true,
            "namespaces" => name(r).starts_with("drill-"),
            _ if r.group == names::GROUP => {
                r.subresource == "status" || ["restores", "restoredrills"].contains(&&*r.resource)
            }
            _ => r.namespace.starts_with("drill-"),
        };
        assert!(fine, "{} {} by the operator", r.verb, r.uri);
        if r.verb == "create" && r.namespace.starts_with("drill-") {
            made.insert(&r.resource);
        }
    }
    made
}

impl Stage {
    fn sites(&self) {
        let admin = &self.admin;
        admin.apply(CLUSTER).worked();
        admin.apply(INERT).worked();
        admin.kubectl("wait --for=condition=Established crd/databases.example.com").worked();
        let spaces = "  namespaces: [trip, trip-data]\n  priority:";
        let trip = sample(SITE, "trip", 3).replace("  priority:", spaces);
        for site in [sample(SITE, "acme", 1), sample(SITE, "bolt", 2), trip] {
            admin.apply(&site).worked();
        }
        ready(admin, "site --all");
        admin.apply(ONCE).worked();
        for site in ["acme", "bolt"] {
            let number = if site == "acme" { 1 } else { 2 };
            admin.apply(&sample(APP, site, number)).worked();
        }
        for name in ["front", "mail", "tax"] {
            let component = COMPONENT.replace("NAME", name);
            admin.with_input("apply --server-side -n trip -f -", &component).worked();
        }
        let uid = |what: &str| admin.get(what)["metadata"]["uid"].clone();
        let database = json!({"apiVersion": "example.com/v1", "kind": "Database", "name": "main", "uid": uid("database main -n trip"), "controller": true});
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": "view", "uid": uid("clusterrole view")});
        let service = json!({"apiVersion": "v1", "kind": "Service", "name": "balanced", "uid": uid("service balanced -n trip")});
        for (name, owner) in
            [("of-custom", database), ("of-outside", role), ("of-service", service)]
        {
            let child = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
                "name": name, "namespace": "trip", "ownerReferences": [owner],
                "annotations": {"replicator.example/replicate-to": ".*"}}, "data": {"a": "b"}});
            admin.create(&child).worked();
        }
        ready(admin, "app --all -A");
        admin.kubectl("wait -n trip --timeout=120s --for=condition=Complete job/over").worked();
        for site in ["acme", "bolt", "trip"] {
            back_up(admin, &format!("{site}-1"), site);
        }
    }

    /// Polls a drill.
    fn until(&self, name: &str, expected: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let live = self.admin.get(&format!("drill {name}"));
            if holds(&live) {
                return live;
            }
            assert!(begun.elapsed() < PATIENCE, "drill {name}: expected {expected}; seen: {live}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until so many runs of a drill have ended; nothing of them is left then.
    fn ended(&self, name: &str, runs: usize) -> Value {
        let live = self.until(name, "the end of a run", |live| {
            let ended = live["status"]["runs"].as_array().is_some_and(|all| all.len() >= runs);
            ended && live["status"]["run"].is_null()
        });
        self.nothing_left(live["metadata"]["uid"].as_str().expect("a UID"));
        let run = last(&live)["name"].as_str().expect("a name").to_owned();
        let restore = self.admin.kubectl(&format!("get rst {run}"));
        restore.failed(&["NotFound"]);
        live
    }

    fn nothing_left(&self, uid: &str) {
        let left = format!("get namespace -l {}={uid} -o name", names::LABEL_DRILL);
        assert_eq!(self.admin.kubectl(&left).worked(), "", "scratch namespaces are left");
    }

    fn ask(&self, name: &str, value: &str) {
        let ask =
            format!("annotate drill {name} --overwrite {}={value}", names::ANNOTATION_RUN_NOW);
        self.admin.kubectl(&ask).worked();
    }

    fn delete(&self, name: &str) {
        self.admin.kubectl(&format!("delete drill {name} --timeout=120s")).worked();
    }

    fn evidence(&self, of: &Value) -> Value {
        let place = last(of)["evidence"].as_str().expect("a place");
        let text = fs::read(self.sandbox.store_dir().join(place)).expect("the evidence");
        let sealed: Value = serde_json::from_slice(&text).expect("JSON");
        assert!(sealed["signature"].is_object(), "it is signed");
        sealed["document"].clone()
    }

    async fn a_good_one(&mut self) {
        let spaces = ["trip".to_owned(), "trip-data".to_owned()];
        let before = Snapshot::of(&self.sandbox, "trip", &spaces).await;
        let mut audit = self.sandbox.audit_from_now().expect("an audit log");
        // The policy that watches over the scratch namespaces is in force.
        self.admin.kubectl("create namespace drill-by-hand").worked();
        let begun = Instant::now();
        while self.admin.kubectl("create job x --image=none -n drill-by-hand --dry-run=server").ok {
            assert!(begun.elapsed() < PATIENCE, "the policy is not in force");
            std::thread::sleep(Duration::from_millis(200));
        }
        // Nobody else makes what only a drill may have made.
        let forged = json!({"apiVersion": names::API_VERSION, "kind": "Restore", "metadata": {"name": "forged"},
            "spec": {"source": {"drill": {"drillRef": {"name": "x"}, "drillUid": "x", "archives": [{
                "site": "acme", "siteUid": "", "siteId": "", "backup": "", "location": "x", "digest": "", "objects": 1}]}}}});
        self.admin.create(&forged).denied(&["reprieve-drill-restores", "RestoreDrill"]);
        self.admin.create(&drill("first", json!({"sample": {"sites": 3}}))).worked();
        let live = self.ended("first", 1);
        expect_condition(&live, "Drilled", &["True Drilled", "3 of 3 sites"]);
        let run = last(&live);
        assert_eq!(
            (&run["sites"], &run["verified"], &run["trigger"]),
            (&json!(3), &json!(3), &json!("Created"))
        );
        assert!(run["objects"].as_i64() > Some(80), "{run}");
        assert!(run["recoverySeconds"].is_i64() && run["createMilliseconds"].is_i64(), "{run}");
        let told: BTreeSet<&str> = run["notProved"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["what"].as_str().unwrap())
            .collect();
        for kind in [
            "Ingress.networking.k8s.io",
            "Database.example.com",
            "PersistentVolumeClaim",
            "Pod",
            "App.reprieve.dev",
            "DaemonSet.apps",
            "Job.batch",
            "CronJob.batch",
            "Deployment.apps",
            "Service",
            "ClusterRole.rbac.authorization.k8s.io",
        ] {
            assert!(told.contains(kind), "{kind}: {told:?}");
        }
        before
            .expect_untouched(&Snapshot::of(&self.sandbox, "trip", &spaces).await, "after a drill");
        self.touched_nothing(&audit.read().expect("an audit log"));

        // The Backups say it, and the store does.
        for site in ["acme", "bolt", "trip"] {
            let backup = self.admin.get(&format!("bkp {site}-1"));
            expect_condition(&backup, "Drilled", &["True Drilled", "RestoreDrill first"]);
            assert!(backup["status"]["drilledTime"].is_string(), "{site}");
            self.last_drill(site, ("first", &format!("{site}-1"), "Succeeded"));
        }
        let evidence = self.evidence(&live);
        let sites = evidence["sites"].as_array().expect("sites");
        assert!(
            sites.len() == 3 && sites.iter().all(|site| site["verified"] == true),
            "{evidence}"
        );
        assert_eq!(evidence["run"]["name"], run["name"]);
        for id in ["site-1", "site-2", "site-3"] {
            let noted = fs::read_dir(self.sandbox.store_dir().join("drills/backups").join(id));
            assert_eq!(noted.expect("a folder").count(), 1, "{id}");
        }
        let (_, metrics) = http(self.operator.listen(), "/metrics").expect("metrics");
        for line in [
            "reprieve_drill_runs_total{outcome=\"succeeded\"} 1",
            "reprieve_drill_overdue{drill=\"monthly\"} 0",
            "reprieve_drill_last_run_failed{drill=\"first\"} 0",
            "reprieve_drill_last_success_timestamp_seconds{drill=\"first\"} 1",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
    }

    /// What the operator has written, and everybody where it has made something.
    fn touched_nothing(&self, log: &[AuditRecord]) {
        let made = nothing_outside(log);
        for kind in [
            "secrets",
            "rolebindings",
            "services",
            "cronjobs",
            "jobs",
            "statefulsets",
            "horizontalpodautoscalers",
            "replicasets",
        ] {
            assert!(made.contains(kind), "{kind} was not tried: {made:?}");
        }
        for kind in [
            "pods",
            "ingresses",
            "databases",
            "persistentvolumeclaims",
            "daemonsets",
            "apps",
            "resourceclaimtemplates",
        ] {
            assert!(!made.contains(kind), "{kind} was made");
        }
        let scratch = |r: &&AuditRecord| r.namespace.starts_with("drill-");
        let pods =
            log.iter().filter(scratch).filter(|r| r.resource == "pods" && r.verb == "create");
        assert_eq!(pods.count(), 0, "Pods were made in scratch namespaces, by whomever");
    }

    fn by_schedule(&self) {
        let wrong = [
            ("no-cron", json!({"schedule": "0 4 1 *"}), "spec.schedule \"0 4 1 *\" is no schedule"),
            (
                "no-zone",
                json!({"schedule": "@monthly", "timeZone": "Mars/Olympus"}),
                "spec.timeZone",
            ),
        ];
        self.admin
            .create(&drill(
                "minutely",
                json!({"schedule": "* * * * *", "sample": {"backupRefs": [{"name": "acme-1"}]}}),
            ))
            .worked();
        self.admin
            .create(&drill("rests", json!({"schedule": "* * * * *", "suspend": true})))
            .worked();
        for (name, spec, words) in &wrong {
            self.admin.create(&drill(name, spec.clone())).worked();
            let live = self
                .until(name, "a condition", |live| condition(live, "Ready").starts_with("False"));
            expect_condition(&live, "Ready", &["False InvalidSchedule", words]);
            expect_condition(&live, "Stalled", &["True InvalidSchedule"]);
        }
        self.admin
            .run(
                &[
                    "patch",
                    "drill",
                    "no-zone",
                    "--type=merge",
                    "-p",
                    r#"{"spec":{"timeZone":"Europe/Berlin"}}"#,
                ],
                "",
            )
            .worked();
        let live = self
            .until("no-zone", "a schedule", |live| condition(live, "Ready").starts_with("True"));
        assert!(
            condition(&live, "Stalled") == "absent" && live["status"]["nextRunTime"].is_string()
        );
        let live = self.ended("minutely", 1);
        expect_condition(&live, "Drilled", &["True Drilled", "1 of 1"]);
        assert_eq!(last(&live)["trigger"], "Schedule");
        self.delete("minutely");
        let rests = self.admin.get("drill rests");
        assert_eq!(
            (&rests["status"]["state"], &rests["status"]["runs"]),
            (&json!("Suspended"), &Value::Null)
        );
        // A run that somebody asks for begins all the same.
        self.ask("rests", "1");
        expect_condition(&self.ended("rests", 1), "Drilled", &["True Drilled"]);
        for name in ["rests", "no-cron", "no-zone"] {
            self.delete(name);
        }
    }

    /// I8: with kill -9 while it restores and while it cleans up.
    async fn killed(&mut self) {
        for (run, stage) in [(2, "Restoring"), (3, "CleaningUp")] {
            self.ask("first", stage);
            let uid = self.admin.get("drill first")["metadata"]["uid"].clone();
            let there = format!(
                "get namespace -l {}={} -o name",
                names::LABEL_DRILL,
                uid.as_str().unwrap()
            );
            self.until("first", stage, |live| {
                let seen = live["status"]["run"]["stage"] == stage;
                seen && !self.admin.kubectl(&there).worked().is_empty()
            });
            self.operator.process_mut().kill().expect("it is killed");
            assert_ne!(self.admin.kubectl(&there).worked(), "", "it was killed in the middle");
            self.operator.process_mut().restart().expect("it starts");
            self.operator.wait_until_ready().await.expect("it is ready");
            let live = self.ended("first", run);
            expect_condition(&live, "Drilled", &["True Drilled", "3 of 3"]);
            assert_eq!(self.evidence(&live)["sites"].as_array().map(Vec::len), Some(3));
        }
    }

    fn two_at_once(&self) {
        for name in ["one", "two"] {
            self.admin
                .create(&drill(name, json!({"sample": {"sites": 2, "strategy": "Oldest"}})))
                .worked();
        }
        let (one, two) = (self.ended("one", 1), self.ended("two", 1));
        let time =
            |live: &Value, field: &str| last(live)[field].as_str().unwrap_or_default().to_owned();
        let (first, second) = if time(&one, "startTime") < time(&two, "startTime") {
            (&one, &two)
        } else {
            (&two, &one)
        };
        assert!(time(first, "completionTime") <= time(second, "startTime"), "{first} {second}");
        let waited = format!(
            "get events --field-selector=reason=OtherDrillRuns,involvedObject.name={} -o name",
            second["metadata"]["name"].as_str().unwrap()
        );
        assert_ne!(self.admin.kubectl(&waited).worked(), "", "the second says that it waits");
    }

    fn deleted(&self) {
        self.admin.create(&drill("gone", json!({"sample": {"sites": 3}}))).worked();
        let live =
            self.until("gone", "a run", |live| live["status"]["run"]["stage"] == "Restoring");
        self.delete("gone");
        self.nothing_left(live["metadata"]["uid"].as_str().unwrap());
        let run = live["status"]["run"]["name"].as_str().unwrap();
        self.admin.kubectl(&format!("get rst {run}")).failed(&["NotFound"]);
    }

    /// As a quota of the cluster would: a site that is larger than what it allows.
    fn refused(&self) {
        let policy = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-room}
spec:
  failurePolicy: Fail
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]}
  validations: [{expression: \"!request.namespace.startsWith('drill-')\", message: 'exceeded quota: secrets', reason: Forbidden}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-room}
spec: {policyName: no-room, validationActions: [Deny]}
";
        self.admin.apply(policy).worked();
        let begun = Instant::now();
        while self.admin.kubectl("create secret generic x -n drill-by-hand --dry-run=server").ok {
            assert!(begun.elapsed() < PATIENCE, "the policy is not in force");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.admin
            .create(&drill("large", json!({"sample": {"backupRefs": [{"name": "acme-1"}]}})))
            .worked();
        let live = self.ended("large", 1);
        expect_condition(
            &live,
            "Drilled",
            &["False DrillFailed", "0 of 1", "exceeded quota: secrets"],
        );
        let failures = &last(&live)["failures"];
        assert!(failures.to_string().contains("CreateFailed"), "{failures}");
        let backup = self.admin.get("bkp acme-1");
        expect_condition(&backup, "Drilled", &["False DrillFailed", "exceeded quota"]);
        self.admin.kubectl("get namespace drill-by-hand").worked();
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            self.admin.kubectl(&format!("delete {kind} no-room")).worked();
        }
    }

    /// What a Site says of its last drill: by which RestoreDrill, of which Backup, and its outcome.
    fn last_drill(&self, site: &str, expected: (&str, &str, &str)) {
        let site = self.admin.get(&format!("site {site}"));
        let last = &site["status"]["lastDrill"];
        let said = [&last["name"], &last["backup"], &last["outcome"]].map(|v| v.as_str());
        let (drill, backup, outcome) = expected;
        assert_eq!(said, [Some(drill), Some(backup), Some(outcome)], "{}", site["status"]);
    }

    /// What was read back is compared: a policy makes something else of one object on its way in.
    fn changed(&self) {
        let of = |kind: &str, spec: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "prices"}, "spec": spec});
        let spec = json!({
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
            // By its name: what every such object goes through is told, and no difference.
            "matchConditions": [
                {"name": "scratch", "expression": "request.namespace.startsWith('drill-')"},
                {"name": "one", "expression": "object.metadata.name == 'shop'"},
            ],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
                "expression": r#"Object{data: {"currency": "USD"}}"#,
            }}],
        });
        self.admin.create(&of("MutatingAdmissionPolicy", spec)).worked();
        let binding = of("MutatingAdmissionPolicyBinding", json!({"policyName": "prices"}));
        self.admin.create(&binding).worked();
        let tried = "create configmap shop --from-literal=currency=EUR -n drill-by-hand --dry-run=server -o jsonpath={.data.currency}";
        let begun = Instant::now();
        while self.admin.kubectl(tried).worked() != "USD" {
            assert!(begun.elapsed() < PATIENCE, "the policy is not in force");
            std::thread::sleep(Duration::from_millis(200));
        }
        let sample = json!({"sample": {"backupRefs": [{"name": "acme-1"}]}});
        self.admin.create(&drill("changed", sample)).worked();
        let live = self.ended("changed", 1);
        let words = ["False DrillFailed", "0 of 1", "differs in data.currency"];
        expect_condition(&live, "Drilled", &words);
        let failures = &last(&live)["failures"];
        assert!(failures.to_string().contains("VerifyFailed"), "{failures}");
        assert_eq!(failures.as_array().map(Vec::len), Some(1), "{failures}");
        expect_condition(
            &self.admin.get("bkp acme-1"),
            "Drilled",
            &["False DrillFailed", "differs"],
        );
        for kind in ["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"] {
            self.admin.kubectl(&format!("delete {kind} prices")).worked();
        }
    }

    /// What may pass is tried again, until the time is up.
    fn too_long(&self) {
        let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "away"}, "webhooks": [{
            "name": "away.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 1,
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/"},
            "namespaceSelector": {"matchExpressions": [{"key": names::LABEL_DRILL, "operator": "Exists"}]},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        }]});
        self.admin.create(&hook).worked();
        self.admin
            .create(&drill(
                "slow",
                json!({"timeoutSeconds": 10, "sample": {"backupRefs": [{"name": "bolt-1"}]}}),
            ))
            .worked();
        let live = self.ended("slow", 1);
        expect_condition(
            &live,
            "Drilled",
            &["False DrillTimeout", "timeoutSeconds, 10 s", "away.example.com"],
        );
        // Nothing was found out about the backup.
        expect_condition(&self.admin.get("bkp bolt-1"), "Drilled", &["True Drilled"]);
        self.admin.kubectl("delete validatingwebhookconfiguration away").worked();
        let (_, metrics) = http(self.operator.listen(), "/metrics").expect("metrics");
        assert!(metrics.contains("reprieve_drill_last_run_failed{drill=\"slow\"} 1"), "{metrics}");
    }

    fn broken(&self) {
        back_up(&self.admin, "bolt-2", "bolt");
        let place = self.admin.get("bkp bolt-2")["status"]["location"].clone();
        let path = self.sandbox.store_dir().join(place.as_str().expect("a location"));
        let mut bytes = fs::read(&path).expect("an archive");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&path, bytes).expect("it can be written");
        let both = json!({"sample": {"backupRefs": [{"name": "bolt-2"}, {"name": "acme-1"}]}});
        self.admin.create(&drill("broken", both)).worked();
        let live = self.ended("broken", 1);
        expect_condition(&live, "Drilled", &["False DrillFailed", "1 of 2"]);
        let failures = &last(&live)["failures"];
        assert!(failures.to_string().contains("ArchiveInvalid"), "{failures}");
        expect_condition(&self.admin.get("bkp bolt-2"), "Drilled", &["False DrillFailed"]);
        assert!(self.admin.get("bkp bolt-2")["status"]["drilledTime"].is_null());
        expect_condition(&self.admin.get("bkp acme-1"), "Drilled", &["True Drilled"]);
        self.last_drill("bolt", ("broken", "bolt-2", "Failed"));
        self.last_drill("acme", ("broken", "acme-1", "Succeeded"));
        // One that is not there is told at once.
        self.admin
            .create(&drill("none", json!({"sample": {"backupRefs": [{"name": "none"}]}})))
            .worked();
        expect_condition(
            &self.ended("none", 1),
            "Drilled",
            &["False BackupNotFound", "there is no Backup none"],
        );
    }

    /// Where the policy asks for it, the very backup that a purge depends on is drilled first.
    fn before_a_purge(&self) {
        let ask = [
            "patch",
            "dpol",
            "default",
            "--type=merge",
            "-p",
            r#"{"spec":{"backup":{"drillBeforePurge":true}}}"#,
        ];
        self.admin.run(&ask, "").worked();
        let alice = User::person(&self.sandbox, "alice", "reprieve-requester");
        alice.create(&request("ended", "Site", &["site-1".to_owned()])).worked();
        alice.until_state("ended", "AwaitingApproval");
        for name in ["bob", "carol"] {
            User::person(&self.sandbox, name, "reprieve-approver").approve("ended", name).worked();
        }
        let waits = alice.until("dreq ended", "a gate that waits for the drill", |live| {
            condition(live, "BackedUp").contains("DrillPending")
        });
        expect_condition(&waits, "BackedUp", &["False DrillPending", "kubectl get drill of-"]);
        assert!(waits["status"]["retention"].is_null(), "its window has not begun");
        alice.until_state("ended", "Completed");
        let backups = self.admin.get(&format!("bkp -l {}=true", names::LABEL_DRILL_ASKED));
        let backups = backups["items"].as_array().expect("a list").clone();
        assert_eq!(backups.len(), 1);
        expect_condition(&backups[0], "Drilled", &["True Drilled", "of-"]);
        let drill = self
            .admin
            .get(&format!("drill of-{}", backups[0]["metadata"]["name"].as_str().unwrap()));
        assert_eq!(drill["metadata"]["ownerReferences"][0]["uid"], backups[0]["metadata"]["uid"]);
    }
}
