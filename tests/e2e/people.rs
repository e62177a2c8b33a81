//! A cluster with the operator in it, somebody who asks for deletions, and two who approve them.

use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

use crate::user::{Snapshot, User, request};

/// The cluster and everybody in it.
pub struct People {
    pub sandbox: Sandbox,
    _operator: Operator,
    pub admin: User,
    /// Requester.
    pub alice: User,
    /// Approvers.
    pub bob: User,
    pub carol: User,
}

impl People {
    pub async fn start() -> Option<Self> {
        let sandbox = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await?;
        sandbox.install().await.expect("it can be installed");
        let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
        Some(Self {
            admin: User::admin(&sandbox),
            alice: User::person(&sandbox, "alice", "reprieve-requester"),
            bob: User::person(&sandbox, "bob", "reprieve-approver"),
            carol: User::person(&sandbox, "carol", "reprieve-approver"),
            _operator: operator,
            sandbox,
        })
    }

    /// Alice asks; gives the request once it is planned, or refused.
    pub fn ask(&self, name: &str, kind: &str, ids: &[&str], seconds: i64) -> Value {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let mut asked = request(name, kind, &ids);
        asked["spec"]["retentionSeconds"] = json!(seconds);
        self.alice.create(&asked).worked();
        self.alice.until(&format!("dreq {name}"), "planned", |live| {
            let state = live["status"]["state"].as_str().unwrap_or_default();
            ["AwaitingApproval", "Refused"].contains(&state)
        })
    }

    /// Bob and Carol approve.
    pub fn approve(&self, name: &str) {
        self.bob.approve(name, "bob").worked();
        self.carol.approve(name, "carol").worked();
    }

    /// Asks, approves, and waits until the window has begun.
    pub fn hold(&self, name: &str, kind: &str, ids: &[&str], seconds: i64) -> Value {
        self.ask(name, kind, ids, seconds);
        self.approve(name);
        self.alice.until(&format!("dreq {name}"), "the window begun", |live| {
            !live["status"]["retention"].is_null()
        })
    }

    /// Asks for a cancel, and nothing more.
    pub fn say_cancel(&self, name: &str) {
        let patch = r#"{"spec":{"cancel":true}}"#;
        self.alice.run(&["patch", "dreq", name, "--type=merge", "-p", patch], "").worked();
    }

    /// Cancels, and waits until everything is released.
    pub fn cancel(&self, name: &str) -> Value {
        self.say_cancel(name);
        self.alice.until_state(name, "Cancelled")
    }

    /// Restores from this source, all of it.
    pub fn restore(&self, name: &str, source: &Value) -> Value {
        let live = self.try_restore(name, source);
        crate::user::expect_condition(&live, "Succeeded", &["True"]);
        live
    }

    /// Restores from this source, whatever comes of it.
    pub fn try_restore(&self, name: &str, source: &Value) -> Value {
        let restore = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": name},
            "spec": {"source": source},
        });
        self.admin.create(&restore).worked();
        self.admin.until(&format!("restore {name}"), "an end", |live| {
            let all = live["status"]["conditions"].as_array();
            let ended = |c: &Value| c["type"] == "Succeeded" && c["status"] != "Unknown";
            all.is_some_and(|all| all.iter().any(ended))
        })
    }

    pub async fn snapshot(&self, site: &str) -> Snapshot {
        Snapshot::take(&self.sandbox, site).await
    }
}
