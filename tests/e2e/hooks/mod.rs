//! Hooks of Sites around backups, restores and drills, and what may go wrong with one. The operator
//! runs under its own account with the guard in force, behind the fault proxy. The oracles are the
//! API server's audit log and the Jobs that are there.
//!
//! kwok's Pods complete at once. Those that no scheduler takes wait until the test says how they
//! ended: it is a small stand-in for the kubelet then. One cluster serves all steps.

mod backups;
mod restores;

use std::time::Instant;

use crate::user::{PATIENCE, PEOPLE, User, condition, http, sample};
use reprieve::api::names;
use reprieve::sandbox::audit::AuditRecord;
use reprieve::sandbox::proxy::{Fault, Rule, Verb};
use reprieve::sandbox::{Operator, Proxy, Sandbox};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../../deploy/samples/site.yaml");
/// Of a hook whose Pods nobody schedules: they wait for the test.
const WAITS: &str = "nobody";

struct Stage {
    sandbox: Sandbox,
    proxy: Proxy,
    operator: Operator,
    admin: User,
    people: [User; 3],
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_run_once_and_tell_how_they_ended() {
    let Some(mut stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    stage.a_bad_template_is_told_before_it_is_needed();
    step("a bad template");
    stage.one_after_the_other();
    step("a good backup");
    stage.what_goes_wrong();
    step("hooks that fail, hang and find no node");
    stage.a_job_that_vanished();
    step("a Job that vanished");
    stage.what_cannot_be_created();
    step("hooks that cannot be created");
    stage.the_second_of_a_request();
    step("two backups of one request");
    stage.killed_at_each_write_of_a_backup().await;
    step("kills in a backup");
    stage.held_and_purged();
    step("a Site that is held, and purged");
    stage.a_restore_that_fails_and_one_that_waits().await;
    step("restores");
    stage.drilled();
    step("a drill");
    stage.killed_while_drilled().await;
    step("kills in a drill");
    assert_eq!(crate::audit::expect_invariants(&stage.sandbox), 1, "purged");
    stage.sandbox.stop().expect("nothing is left");
}

/// A hook whose Pods have this spec beside their container.
fn hook(name: &str, pods: Value, rest: Value) -> Value {
    let mut spec = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/hook:1"}]});
    spec.as_object_mut().unwrap().extend(pods.as_object().unwrap().clone());
    let mut hook = json!({"name": name, "timeoutSeconds": 120, "template": {"spec": {"template": {"spec": spec}}}});
    hook.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    hook
}

fn good(name: &str) -> Value {
    hook(name, json!({}), json!({}))
}

fn waits(name: &str) -> Value {
    hook(name, json!({"schedulerName": WAITS}), json!({}))
}

/// How the hooks of a status stand: `dump Succeeded`.
fn states(of: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = of.as_array().into_iter().flatten();
    all.map(|hook| format!("{} {}", word(&hook["name"]), word(&hook["state"]))).collect()
}

impl Stage {
    async fn start() -> Option<Self> {
        let sandbox = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await?;
        sandbox.install().await.expect("it can be installed");
        let proxy = sandbox.start_proxy().expect("a proxy");
        let kubeconfig = proxy.kubeconfig(&sandbox.operator_kubeconfig()).expect("a kubeconfig");
        let operator = sandbox.start_operator_as(&kubeconfig, &[]).await.expect("it starts");
        let people = PEOPLE.map(|(name, role)| User::person(&sandbox, name, role));
        Some(Self { admin: User::admin(&sandbox), people, operator, proxy, sandbox })
    }

    fn site(&self, name: &str, number: u32, hooks: &Value) {
        let hooks = format!("  hooks: {hooks}\n  priority:");
        self.admin.apply(&sample(SITE, name, number).replace("  priority:", &hooks)).worked();
        self.admin
            .kubectl(&format!("wait --for=condition=Ready site/{name} --timeout=60s"))
            .worked();
    }

    /// Gives a Site other hooks.
    fn hooks(&self, site: &str, hooks: &Value) {
        let patch = json!([{"op": "add", "path": "/spec/hooks", "value": hooks}]).to_string();
        self.admin.run(&["patch", "site", site, "--type=json", "-p", &patch], "").worked();
    }

    fn back_up(&self, name: &str, site: &str) {
        let backup = json!({
            "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": name},
            "spec": {"siteRef": {"name": site}},
        });
        self.admin.create(&backup).worked();
    }

    /// Waits until a Backup has ended, well or not.
    fn backed_up(&self, name: &str) -> Value {
        self.admin.until(&format!("bkp {name}"), "an end", |live| {
            ["Verified", "Stalled"].iter().any(|of| condition(live, of).starts_with("True"))
        })
    }

    /// Waits until a hook of this object is under way with a Pod that waits for the test.
    fn waiting_pod(&self, what: &str, hooks: &str, name: &str) -> String {
        let live = self.admin.until(what, "a hook under way", |live| {
            let all = live.pointer(hooks).and_then(Value::as_array);
            all.into_iter().flatten().any(|h| h["name"] == name && h["state"] == "Running")
        });
        let all = live.pointer(hooks).and_then(Value::as_array).expect("hooks");
        let hook = all.iter().find(|hook| hook["name"] == name).expect("the hook");
        hook["job"].as_str().expect("a Job").to_owned()
    }

    /// The stand-in for the kubelet: the Pod of this Job ends so.
    fn end_pod(&self, job: &str, code: i32) {
        let (namespace, job) = job.split_once('/').expect("namespace and name");
        let of = format!("pod -n {namespace} -l batch.kubernetes.io/job-name={job}");
        let live = self.admin.until(&of, "a Pod", |live| {
            live["items"].as_array().is_some_and(|all| !all.is_empty())
        });
        let pod = live["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let container = json!({
            "name": "main", "image": "example.com/hook:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code}},
        });
        let status =
            json!({"status": {"phase": phase, "containerStatuses": [container]}}).to_string();
        let patch = [
            "patch",
            "pod",
            &pod,
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        self.admin.run(&patch, "").worked();
    }

    fn event(&self, reason: &str, of: &str) -> String {
        let events = format!(
            "get events -A --field-selector=reason={reason},involvedObject.name={of} -o jsonpath={{.items[*].message}}"
        );
        let begun = Instant::now();
        loop {
            let said = self.admin.kubectl(&events).worked().to_owned();
            if !said.is_empty() {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "no event {reason} of {of}");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    fn metric(&self, line: &str) {
        let (_, metrics) = http(self.operator.listen(), "/metrics").expect("metrics");
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    /// Jobs of hooks that were created in this namespace.
    fn created(&self, namespace: &str) -> Vec<AuditRecord> {
        self.created_where(|created_in| created_in == namespace)
    }

    /// Jobs that were created in scratch namespaces.
    fn created_in_drills(&self) -> Vec<AuditRecord> {
        self.created_where(|namespace| namespace.starts_with("drill-"))
    }

    fn created_where(&self, wanted: impl Fn(&str) -> bool) -> Vec<AuditRecord> {
        let mut all = self.sandbox.audit().read().expect("an audit log");
        all.retain(|r| {
            r.resource == "jobs" && r.verb == "create" && wanted(&r.namespace) && r.is_carried_out()
        });
        all
    }

    fn jobs(&self, namespace: &str) -> Vec<Value> {
        let all = self.admin.get(&format!("job -n {namespace} -l {}", names::LABEL_HOOK));
        all["items"].as_array().cloned().unwrap_or_default()
    }

    /// Kills the operator right after this write, whose answer never comes, and starts it again.
    async fn kill_after(&mut self, rule: Rule) {
        let call = self.proxy.until_held(PATIENCE).await.expect("the write");
        eprintln!("         killed after {}", call.brief());
        self.operator.process_mut().kill().expect("it is killed");
        self.proxy.clear();
        self.proxy.heal();
        // The next kill must be in place before it goes on.
        self.proxy.add(rule);
        self.operator.process_mut().restart().expect("it starts");
        self.operator.wait_until_ready().await.expect("it is ready");
    }
}

/// After the Job of a hook was created.
fn created_job() -> Rule {
    let job = Rule::new(Fault::Freeze).verb(Verb::Create).resource("jobs");
    job.when(|call| !call.dry_run).nth(1)
}

/// After it was let run.
fn let_run() -> Rule {
    let job = Rule::new(Fault::Freeze).verb(Verb::Patch).resource("jobs");
    job.when(|call| call.body["spec"]["suspend"] == false).nth(1)
}

/// After the hooks were written down with this one in this state.
fn written(resource: &str, field: &'static str, state: &'static str) -> Rule {
    let status = Rule::new(Fault::Freeze).verb(Verb::Patch).subresource(resource, "status");
    let says = move |call: &reprieve::sandbox::proxy::Call| {
        let hooks = call.body.pointer(field).and_then(Value::as_array);
        hooks.into_iter().flatten().any(|hook| hook["state"] == state)
    };
    status.when(says).nth(1)
}
