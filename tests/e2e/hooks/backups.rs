//! Hooks before backups.

use std::time::Duration;

use reprieve::api::names;
use reprieve::sandbox::proxy::Rule;
use reprieve::store::{CatalogueEntry, Expected, Store};
use serde_json::{Value, json};

use super::{Stage, created_job, good, hook, let_run, states, waits, written};
use crate::user::{Snapshot, User, condition, expect_condition, request};

const HOOKS: &str = "/status/hooks";

fn before(hooks: &[Value]) -> Value {
    json!({ "beforeBackup": hooks })
}

impl Stage {
    pub fn a_bad_template_is_told_before_it_is_needed(&self) {
        // A Job's Pods must not be restarted for ever, as Pods are by default.
        let bad = hook("dump", json!({"restartPolicy": "Always"}), json!({}));
        self.site("wrong", 1, &json!({"beforeBackup": [good("fine")], "afterRestore": [bad]}));
        let says = |words: &'static str| {
            self.admin
                .until("site wrong", words, |live| condition(live, "HooksValid").starts_with(words))
        };
        let live = says("False InvalidHook");
        expect_condition(&live, "HooksValid", &["spec.hooks.afterRestore/dump", "restartPolicy"]);
        // The site is in service all the same.
        expect_condition(&live, "Ready", &["True Ready"]);
        assert!(self.event("InvalidHook", "wrong").contains("restartPolicy"));
        assert_eq!(self.created("wrong").len(), 0, "a dry run makes nothing");
        self.hooks("wrong", &before(&[hook("dump", json!({"containers": []}), json!({}))]));
        let live = says("False InvalidHook: spec.hooks.beforeBackup/dump");
        expect_condition(&live, "HooksValid", &["containers"]);
        // A backup ends with what the API server says.
        self.back_up("wrong-1", "wrong");
        let live = self.backed_up("wrong-1");
        expect_condition(&live, "Succeeded", &["False HookRefused", "hook dump", "containers"]);
        self.hooks("wrong", &before(&[good("dump")]));
        says("True HooksValid");
        let none = r#"[{"op":"remove","path":"/spec/hooks"}]"#;
        self.admin.run(&["patch", "site", "wrong", "--type=json", "-p", none], "").worked();
        self.admin.until("site wrong", "no word of hooks", |live| {
            condition(live, "HooksValid") == "absent"
        });
    }

    pub fn one_after_the_other(&self) {
        self.site("acme", 2, &before(&[good("first"), good("second")]));
        self.back_up("acme-1", "acme");
        let live = self.backed_up("acme-1");
        expect_condition(&live, "Verified", &["True Verified"]);
        let hooks = &live["status"]["hooks"];
        assert_eq!(states(hooks), ["first Succeeded", "second Succeeded"]);
        assert!(hooks[0]["completionTime"].as_str() <= hooks[1]["startTime"].as_str(), "{hooks}");
        // As the site's account, and found by their label.
        let account = "system:serviceaccount:acme:reprieve-app";
        let created = self.created("acme");
        let by = created.iter().map(|r| r.impersonated.as_ref().map(|user| user.name.as_str()));
        assert_eq!(by.collect::<Vec<_>>(), [Some(account); 2]);
        let jobs = self.jobs("acme");
        assert_eq!(jobs.len(), 2);
        for job in &jobs {
            let spec = &job["spec"];
            let kept = [
                &spec["backoffLimit"],
                &spec["activeDeadlineSeconds"],
                &spec["ttlSecondsAfterFinished"],
            ];
            assert_eq!(kept, [&json!(0), &json!(120), &json!(86_400)]);
            assert_eq!(spec["template"]["spec"]["serviceAccountName"], "reprieve-app");
        }
        self.metric("reprieve_hooks_total{when=\"beforeBackup\",outcome=\"HookSucceeded\"} 2");
        assert!(self.event("HookSucceeded", "acme-1").contains("hook first"));
    }

    pub fn what_goes_wrong(&self) {
        let goes_on = |seconds: i64| json!({"onError": "Continue", "timeoutSeconds": seconds});
        let nowhere = json!({"nodeSelector": {"nowhere": "true"}});
        self.hooks(
            "acme",
            &before(&[
                hook("fails", json!({"schedulerName": super::WAITS}), goes_on(120)),
                hook("hangs", json!({"schedulerName": super::WAITS}), goes_on(2)),
                hook("nowhere", nowhere, goes_on(6)),
                good("last"),
            ]),
        );
        self.back_up("acme-2", "acme");
        let job = self.waiting_pod("bkp acme-2", HOOKS, "fails");
        let live = self.admin.until("bkp acme-2", "what it waits for", |live| {
            condition(live, "Succeeded").starts_with("Unknown HookRunning")
        });
        expect_condition(
            &live,
            "Reconciling",
            &["waits for the hook fails", "kubectl describe job"],
        );
        self.end_pod(&job, 3);
        let live = self.backed_up("acme-2");
        expect_condition(&live, "Verified", &["True Verified", "3 hooks did not end well"]);
        let hooks = &live["status"]["hooks"];
        assert_eq!(
            states(hooks),
            ["fails Failed", "hangs TimedOut", "nowhere TimedOut", "last Succeeded"]
        );
        let message = |n: usize| hooks[n]["message"].as_str().unwrap_or_default();
        assert!(message(0).contains("exit code 3"), "{hooks}");
        assert!(message(2).contains("no pod was scheduled: "), "{hooks}");
        for reason in ["HookFailed", "HookTimedOut"] {
            assert!(self.event(reason, "acme-2").contains("onError is Continue"), "{reason}");
        }
        self.metric("reprieve_hooks_total{when=\"beforeBackup\",outcome=\"HookTimedOut\"} 2");

        // Without Continue it ends there, and says so.
        self.hooks("acme", &before(&[waits("fails"), good("never")]));
        self.back_up("acme-3", "acme");
        let job = self.waiting_pod("bkp acme-3", HOOKS, "fails");
        self.end_pod(&job, 1);
        let live = self.backed_up("acme-3");
        expect_condition(
            &live,
            "Succeeded",
            &["False HookFailed", "hook fails", "make another Backup"],
        );
        expect_condition(&live, "Stalled", &["True HookFailed"]);
        assert_eq!(states(&live["status"]["hooks"]), ["fails Failed"]);
        assert_eq!(live["status"]["location"], Value::Null, "nothing was written");
    }

    pub fn a_job_that_vanished(&self) {
        self.hooks("acme", &before(&[waits("gone")]));
        self.back_up("acme-4", "acme");
        let job = self.waiting_pod("bkp acme-4", HOOKS, "gone");
        let before = self.created("acme").len();
        let (namespace, name) = job.split_once('/').expect("namespace and name");
        self.admin.kubectl(&format!("delete job {name} -n {namespace}")).worked();
        let live = self.backed_up("acme-4");
        expect_condition(&live, "Succeeded", &["False HookLost", "not run again"]);
        assert_eq!(self.created("acme").len(), before, "no other Job was made");
    }

    pub fn what_cannot_be_created(&self) {
        self.hooks("acme", &before(&[good("dump")]));
        self.admin.kubectl("create quota none --hard=count/jobs.batch=0 -n acme").worked();
        // The quota counts once its controller has looked.
        self.admin.until("quota none -n acme", "counted", |live| {
            live["status"]["hard"]["count/jobs.batch"] == "0"
        });
        self.back_up("acme-5", "acme");
        let live = self.backed_up("acme-5");
        expect_condition(&live, "Succeeded", &["False HookRefused", "exceeded quota"]);
        self.admin.kubectl("delete quota none -n acme").worked();

        let rules = self.admin.get("clusterrole reprieve-app")["aggregationRule"].clone();
        let set = |rules: &Value| {
            let patch = json!([
                {"op": "replace", "path": "/aggregationRule", "value": rules},
                {"op": "replace", "path": "/rules", "value": []},
            ]);
            let patch = patch.to_string();
            let role = ["patch", "clusterrole", "reprieve-app", "--type=json", "-p", &patch];
            self.admin.run(&role, "").worked();
        };
        let none = json!({"clusterRoleSelectors": [{"matchLabels": {"nothing": "true"}}]});
        set(&none);
        let may = "auth can-i create jobs -n acme --as=system:serviceaccount:acme:reprieve-app";
        let until_may = |expected: bool| {
            let begun = std::time::Instant::now();
            while self.admin.kubectl(may).ok != expected {
                assert!(begun.elapsed() < crate::user::PATIENCE, "may create Jobs: not {expected}");
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        until_may(false);
        self.hooks("acme", &before(&[hook("dump", json!({}), json!({"onError": "Continue"}))]));
        self.back_up("acme-6", "acme");
        let live = self.backed_up("acme-6");
        expect_condition(&live, "Verified", &["True Verified", "1 hooks did not end well"]);
        let said = live["status"]["hooks"][0]["message"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains("cannot create resource \"jobs\""), "{said}");
        assert!(said.contains("aggregate-to-app"), "{said}");
        let live = self.admin.until("site acme", "what is missing", |live| {
            condition(live, "HooksValid").starts_with("False InvalidHook")
        });
        expect_condition(&live, "HooksValid", &["cannot create resource \"jobs\""]);
        set(&rules);
        until_may(true);
    }

    /// Of the Backups of one request the first alone runs them, also where the Site is not held:
    /// of a request for Apps, whose workloads are out of service by then.
    pub fn the_second_of_a_request(&self) {
        let operator = User::new(&self.sandbox, self.sandbox.operator_kubeconfig());
        self.hooks("acme", &before(&[good("dump")]));
        let jobs = self.created("acme").len();
        let uid = self.admin.get("site acme")["metadata"]["uid"].clone();
        for (name, expected) in [("asked-1", "dump Succeeded"), ("asked-2", "dump Skipped")] {
            let label = json!({ (names::LABEL_REQUEST_UID): "asked" });
            operator
                .create(&json!({
                    "apiVersion": names::API_VERSION, "kind": "Backup",
                    "metadata": {"name": name, "labels": label},
                    "spec": {"siteRef": {"name": "acme", "uid": uid, "id": "site-2"}, "purpose": "BeforeDeletion"},
                }))
                .worked();
            let live = self.backed_up(name);
            expect_condition(&live, "Verified", &["True Verified"]);
            assert_eq!(states(&live["status"]["hooks"]), [expected], "{name}");
        }
        assert_eq!(self.created("acme").len(), jobs + 1, "one Job for both");
    }

    /// I8: one Job for each hook, whatever write the operator was killed after.
    pub async fn killed_at_each_write_of_a_backup(&mut self) {
        self.hooks("acme", &before(&[waits("dump"), good("after")]));
        let jobs = self.created("acme").len();
        self.proxy.add(created_job());
        self.back_up("acme-7", "acme");
        self.kill_after(written("backups", HOOKS, "Running")).await;
        self.kill_after(let_run()).await;
        let job = self.waiting_pod("bkp acme-7", HOOKS, "dump");
        self.kill_after(written("backups", HOOKS, "Succeeded")).await;
        self.end_pod(&job, 0);
        self.kill_after(Rule::new(reprieve::sandbox::proxy::Fault::Reset).times(0)).await;
        let live = self.backed_up("acme-7");
        expect_condition(&live, "Verified", &["True Verified"]);
        assert_eq!(states(&live["status"]["hooks"]), ["dump Succeeded", "after Succeeded"]);
        let made: Vec<String> =
            self.created("acme").into_iter().skip(jobs).map(|r| r.name).collect();
        assert_eq!(made.len(), 2, "each Job was made once: {made:?}");
    }

    /// The first backup of a request runs them, before anything is out of service; then none does.
    pub fn held_and_purged(&self) {
        let [alice, bob, carol] = &self.people;
        let hooks = json!({"beforeBackup": [good("dump")], "afterRestore": [waits("reconnect"), good("check")]});
        self.hooks("acme", &hooks);
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "acme"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "example.com/web:1"}]}}},
        });
        self.admin.create(&deployment).worked();
        self.admin.kubectl("rollout status deployment web -n acme --timeout=60s").worked();
        let jobs = self.created("acme").len();
        let mut gone = request("gone", "Site", &["site-2".to_owned()]);
        gone["spec"]["retentionSeconds"] = json!(20);
        alice.create(&gone).worked();
        alice.until_state("gone", "AwaitingApproval");
        bob.approve("gone", "bob").worked();
        carol.approve("gone", "carol").worked();
        self.admin.until("deployment web -n acme", "out of service", |live| {
            live["spec"]["replicas"] == 0
        });
        let created = self.created("acme");
        assert_eq!(created.len(), jobs + 1, "the first backup of the request has run its hook");
        let scaled = self.sandbox.audit().read().expect("an audit log");
        let scaled = scaled.iter().find(|r| {
            r.resource == "deployments"
                && r.verb == "patch"
                && r.namespace == "acme"
                && r.is_carried_out()
        });
        assert!(created[jobs].time < scaled.expect("it was scaled").time);
        self.back_up("acme-held", "acme");
        let live = self.backed_up("acme-held");
        expect_condition(&live, "Verified", &["True Verified"]);
        assert_eq!(states(&live["status"]["hooks"]), ["dump Skipped"]);
        alice.until_state("gone", "Completed");
        let backups: Vec<String> = self
            .sandbox
            .audit()
            .read()
            .expect("an audit log")
            .into_iter()
            .filter(|r| r.resource == "backups" && r.verb == "create" && r.is_carried_out())
            .filter(|r| r.request["spec"]["purpose"] == "BeforeDeletion")
            .map(|r| r.name)
            .collect();
        assert_eq!(self.created("acme").len(), jobs + 1, "{backups:?}");
    }

    /// No Job of a hook is in any archive of the site with this id, nor in what a backup would hold
    /// now.
    pub async fn no_hook_is_in(&self, site: &str, id: &str) {
        let all = Snapshot::take(&self.sandbox, site).await;
        assert!(!self.jobs(site).is_empty(), "there are Jobs of hooks");
        let jobs: Vec<_> = all.objects.iter().filter(|o| o.0.starts_with("Job.")).collect();
        assert_eq!(jobs.len(), 0, "{jobs:?}");
        let store = Store::open(&self.sandbox.store_url()).await.expect("the store");
        let backups = store.backups_of(id).await.expect("the catalogue");
        assert!(backups.len() > 3, "{backups:?}");
        for CatalogueEntry { site, location, .. } in backups {
            let archive = store.load(&location, Expected { site, digest: None }).await;
            let entries = archive.expect("an archive").entries;
            let jobs: Vec<_> = entries.iter().filter(|e| e.key.is("batch", "Job")).collect();
            assert!(!entries.is_empty() && jobs.is_empty(), "{location}: {jobs:?}");
        }
    }
}
