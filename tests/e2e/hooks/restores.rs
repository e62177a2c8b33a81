//! Hooks after restores, and in drills.

use reprieve::sandbox::proxy::{Fault, Rule};
use serde_json::{Value, json};

use super::{Stage, created_job, good, let_run, states, waits, written};
use crate::sources::{ended, restore};
use crate::user::{condition, expect_condition};

const HOOKS: &str = "/status/restoreHooks/hooks";
/// The same in a drill of the Site bolt.
const DRILLED: &str = "/status/drillHooks/bolt/hooks";

impl Stage {
    pub async fn a_restore_that_fails_and_one_that_waits(&mut self) {
        let source = json!({"deletionRequestRef": {"name": "gone"}});
        self.admin.create(&restore("back-1", &source)).worked();
        // All of it is there, and the site is not in service.
        let live = self.admin.until("rst back-1", "the hook", |live| {
            condition(live, "Succeeded").starts_with("Unknown HookRunning")
        });
        let job = self.waiting_pod("site acme", HOOKS, "reconnect");
        assert_eq!(live["status"]["sites"]["verified"], 0);
        assert_ne!(self.admin.get("site acme")["status"]["state"], "Active");
        self.admin.kubectl("rollout status deployment web -n acme --timeout=60s").worked();
        self.end_pod(&job, 1);
        let live = ended(&self.admin, "back-1");
        assert_eq!(live["status"]["failures"][0]["reason"], "HookFailed", "{}", live["status"]);
        let live = self.admin.get("site acme");
        assert_eq!(live["status"]["state"], "AwaitingRestore");
        expect_condition(&live, "Ready", &["hook reconnect", "to go on"]);
        assert_eq!(states(&live["status"]["restoreHooks"]["hooks"]), ["reconnect Failed"]);
        let first = self.created("acme").len();

        // Another Restore goes on, and runs them anew: once, whatever it is killed after.
        self.proxy.add(created_job());
        self.admin.create(&restore("back-2", &source)).worked();
        self.kill_after(written("sites", HOOKS, "Running")).await;
        self.kill_after(let_run()).await;
        let job = self.waiting_pod("site acme", HOOKS, "reconnect");
        // What a hook changes is its own affair: it is not compared again.
        self.admin.kubectl("delete deployment web -n acme").worked();
        self.kill_after(written("sites", HOOKS, "Succeeded")).await;
        // What the first one took says how long everything takes but the hooks: none has ended well.
        let live = self.admin.until("rst back-2", "what nobody can tell", |live| {
            let said = live["status"]["estimateBasis"]["message"].as_str().unwrap_or_default();
            said.ends_with("no run has shown how long afterRestore hooks take")
        });
        for of in [&live, &self.admin.get("site acme")] {
            let (status, restore) = (&of["status"], &of["status"]["restore"]);
            let told = [&status["estimatedCompletionTime"], &restore["estimatedCompletionTime"]];
            assert_eq!(told, [&Value::Null; 2], "{status}");
        }
        self.end_pod(&job, 0);
        self.kill_after(Rule::new(Fault::Reset).times(0)).await;
        let live = ended(&self.admin, "back-2");
        expect_condition(&live, "Succeeded", &["True Verified"]);
        let live =
            self.admin.until("site acme", "Active", |live| live["status"]["state"] == "Active");
        let hooks = &live["status"]["restoreHooks"];
        assert_eq!(states(&hooks["hooks"]), ["reconnect Succeeded", "check Succeeded"]);
        assert_eq!(hooks["restoreRef"]["name"], "back-2");
        assert_eq!(self.created("acme").len(), first + 2, "each Job was made once");
        assert!(self.event("HookFailed", "acme").contains("hook reconnect"));
        self.no_hook_is_in("acme", "site-2").await;
    }

    pub fn drilled(&self) {
        let mut safe = good("safe");
        safe["safeInDrills"] = json!(true);
        let mut fails = waits("fails");
        fails["safeInDrills"] = json!(true);
        fails["onError"] = json!("Continue");
        fails["timeoutSeconds"] = json!(2);
        self.site("bolt", 3, &json!({"afterRestore": [good("unsafe"), safe, fails]}));
        self.back_up("bolt-1", "bolt");
        expect_condition(&self.backed_up("bolt-1"), "Verified", &["True Verified"]);
        self.drill("once", "bolt-1");
        let live = self.drill_ended("once");
        let told: Vec<String> = live["status"]["runs"][0]["notProved"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["what"].as_str().unwrap_or_default().starts_with("afterRestore hook"))
            .map(|one| format!("{}: {}", one["what"], one["why"]).replace('"', ""))
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        let has = |words: &str| told.iter().any(|line| line.contains(words));
        assert!(has("hook unsafe: not run"), "{told:?}");
        assert!(has("hook fails: TimedOut"), "{told:?}");
        // In the scratch namespace, as its account, and nowhere else.
        let all = self.created_in_drills();
        assert_eq!(all.len(), 2, "{:?}", all.iter().map(|r| &r.uri).collect::<Vec<_>>());
        for job in &all {
            let account = format!("system:serviceaccount:{}:reprieve-app", job.namespace);
            assert_eq!(job.impersonated.as_ref().map(|user| user.name.clone()), Some(account));
        }
        assert_eq!(self.created("bolt").len(), 0);
        self.metric("reprieve_hooks_total{when=\"drill\",outcome=\"HookSucceeded\"} 1");
    }

    /// I8: of a drill, too, each Job is made once, whatever the operator is killed after.
    pub async fn killed_while_drilled(&mut self) {
        let mut check = waits("check");
        check["safeInDrills"] = json!(true);
        self.hooks("bolt", &json!({"afterRestore": [check]}));
        self.back_up("bolt-2", "bolt");
        expect_condition(&self.backed_up("bolt-2"), "Verified", &["True Verified"]);
        let first = self.created_in_drills().len();
        self.proxy.add(created_job());
        self.drill("killed", "bolt-2");
        self.kill_after(let_run()).await;
        self.kill_after(written("restores", DRILLED, "Succeeded")).await;
        let run = self.admin.get("drill killed")["status"]["run"]["name"].clone();
        let run = format!("rst {}", run.as_str().expect("a run"));
        let job = self.waiting_pod(&run, DRILLED, "check");
        // It runs, and so there is something left: as long as the hooks of the drill before took.
        let live = self.admin.until(&run, "an estimate", |live| {
            live["status"]["estimatedCompletionTime"].is_string()
        });
        assert_eq!(live["status"]["completionTime"], Value::Null);
        let uid = live.pointer(DRILLED).expect("hooks")[0]["jobUid"].clone();
        let (namespace, name) = job.split_once('/').expect("namespace and name");
        let live = self.admin.get(&format!("job {name} -n {namespace}"));
        assert_eq!((&live["metadata"]["uid"], &live["spec"]["suspend"]), (&uid, &json!(false)));
        self.end_pod(&job, 0);
        self.kill_after(Rule::new(Fault::Reset).times(0)).await;
        self.drill_ended("killed");
        self.admin.kubectl(&format!("get {run}")).failed(&["NotFound"]);
        assert_eq!(self.created_in_drills().len(), first + 1, "its Job was made once");
    }

    fn drill(&self, name: &str, backup: &str) {
        let drill = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "RestoreDrill", "metadata": {"name": name},
            "spec": {"sample": {"backupRefs": [{"name": backup}]}},
        });
        self.admin.create(&drill).worked();
    }

    /// The first run of a drill has ended well, and nothing of it is left.
    fn drill_ended(&self, name: &str) -> Value {
        let live = self.admin.until(&format!("drill {name}"), "the end of a run", |live| {
            let ended = live["status"]["runs"].as_array().is_some_and(|all| !all.is_empty());
            ended && live["status"]["run"].is_null()
        });
        expect_condition(&live, "Drilled", &["True Drilled", "1 of 1"]);
        let left = self.admin.get("namespace -l reprieve.dev/drill")["items"].clone();
        assert_eq!(left.as_array().map(Vec::len), Some(0), "{left}");
        live
    }
}
