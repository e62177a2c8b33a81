//! The table of what the guard denies, as tried: each row is one request, sent as everybody, each
//! with every right that RBAC can give, so that what refuses is the guard.

use std::fmt::Write as _;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reprieve::guard;
use serde_json::{Value, json};

use super::{Cluster, object};

/// Somebody who sends the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// In `system:masters`.
    Masters,
    /// The operator's account, with cluster-admin.
    Operator,
    /// bob, who approves, in `system:masters` too.
    Approver,
    /// alice, who asks, in `system:masters` too.
    Requester,
    /// The garbage collector's account, in `system:masters` too.
    Collector,
    /// The namespace controller's account, in `system:masters` too.
    Namespaces,
    /// erin, who has every usual verb on everything, and none of `approve`, `weaken`, `upgrade` and
    /// `impersonate`.
    Editor,
}

pub const EVERYBODY: [Who; 7] = [
    Who::Masters,
    Who::Operator,
    Who::Approver,
    Who::Requester,
    Who::Collector,
    Who::Namespaces,
    Who::Editor,
];
/// Everybody who has every verb.
pub const WITH_VERBS: [Who; 6] =
    [Who::Masters, Who::Operator, Who::Approver, Who::Requester, Who::Collector, Who::Namespaces];

/// How a body is sent.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Delete,
    Post,
    Put,
    Merge,
    JsonPatch,
    Apply,
    /// Strategic merge.
    Patch,
}

/// One request, and who may send it.
pub struct Row {
    /// The line of the fault list.
    pub threat: &'static str,
    pub what: String,
    pub policy: &'static str,
    pub form: Form,
    pub path: String,
    pub body: Value,
    pub may: Vec<Who>,
    /// What the refusal says.
    pub says: String,
}

pub fn row(threat: &'static str, policy: &'static str, what: &str, form: Form, path: &str) -> Row {
    let (what, path) = (what.to_owned(), path.to_owned());
    let (body, may, says) = (Value::Null, vec![], String::new());
    Row { threat, what, policy, form, path, body, may, says }
}

impl Row {
    pub fn body(self, body: Value) -> Self {
        Self { body, ..self }
    }

    pub fn may(self, who: &[Who]) -> Self {
        Self { may: who.to_vec(), ..self }
    }

    pub fn says(self, words: &str) -> Self {
        Self { says: words.to_owned(), ..self }
    }
}

/// Everybody's clients.
pub struct Senders(Vec<(Who, Client)>);

impl Senders {
    pub async fn new(c: &Cluster) -> Self {
        let role: ClusterRole = object(json!({
            "metadata": {"name": "editor"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch",
                "create", "update", "patch", "delete", "deletecollection"]}],
        }));
        Api::all(c.admin.clone()).create(&PostParams::default(), &role).await.expect("a role");
        let binding: ClusterRoleBinding = object(json!({
            "metadata": {"name": "editor-erin"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "editor"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "erin"}],
        }));
        Api::all(c.admin.clone())
            .create(&PostParams::default(), &binding)
            .await
            .expect("a binding");
        let erin = c.sandbox.client_for(&c.sandbox.user("erin", &[]).expect("a user")).await;
        let erin = erin.expect("a client");
        super::eventually("RBAC", async || {
            let sites: Api<reprieve::api::Site> = Api::all(erin.clone());
            sites.list(&Default::default()).await.is_ok()
        })
        .await;
        let account = |name: &str| format!("system:serviceaccount:kube-system:{name}");
        Self(vec![
            (Who::Masters, c.admin.clone()),
            (Who::Operator, c.operator.clone()),
            (Who::Approver, impersonate(c, "bob", &["system:masters"]).await),
            (Who::Requester, impersonate(c, "alice", &["system:masters"]).await),
            (
                Who::Collector,
                impersonate(c, &account("generic-garbage-collector"), &["system:masters"]).await,
            ),
            (
                Who::Namespaces,
                impersonate(c, &account("namespace-controller"), &["system:masters"]).await,
            ),
            (Who::Editor, erin),
        ])
    }

    pub fn of(&self, who: Who) -> &Client {
        &self.0.iter().find(|(w, _)| *w == who).expect("everybody is there").1
    }

    /// Sends every row as everybody, checks each answer, and gives the table as Markdown.
    pub async fn try_all(&self, rows: &[Row]) -> String {
        let mut table = "| | request | refused by | ".to_owned();
        for who in EVERYBODY {
            let _ = write!(table, "{who:?} | ");
        }
        table.push_str("\n|---|---|---|---|---|---|---|---|---|---|\n");
        let mut wrong = vec![];
        for row in rows {
            let _ = write!(table, "| {} | {} | `{}` |", row.threat, row.what, row.policy);
            for who in EVERYBODY {
                let may = row.may.contains(&who);
                let answer = send(self.of(who), row, may).await;
                let (told, right) = judge(row, may, &answer);
                let _ = write!(table, " {told} |");
                if !right {
                    wrong.push(format!("{who:?}: {} {}: {told}: {answer:?}", row.threat, row.what));
                }
            }
            table.push('\n');
        }
        assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
        table
    }
}

/// Refused means 403, by this policy, with what to do instead. Who may passes every policy.
fn judge(row: &Row, may: bool, answer: &Result<String, kube::Error>) -> (&'static str, bool) {
    match answer {
        Ok(_) => ("passes", may),
        Err(kube::Error::Api(status)) if guard::is_denied_by(&status.message, row.policy) => {
            let helps = status.message.contains("kubectl ");
            let said = status.message.contains(&row.says);
            ("403", !may && status.code == 403 && status.reason == "Forbidden" && helps && said)
        }
        Err(_) => ("something else", false),
    }
}

/// Who may, tries it as a dry run, so that the next finds everything as it was.
async fn send(client: &Client, row: &Row, dry: bool) -> Result<String, kube::Error> {
    let (method, content) = match row.form {
        Form::Delete => ("DELETE", "application/json"),
        Form::Post => ("POST", "application/json"),
        Form::Put => ("PUT", "application/json"),
        Form::Merge => ("PATCH", "application/merge-patch+json"),
        Form::JsonPatch => ("PATCH", "application/json-patch+json"),
        Form::Apply => ("PATCH", "application/apply-patch+yaml"),
        Form::Patch => ("PATCH", "application/strategic-merge-patch+json"),
    };
    let mark = if row.path.contains('?') { '&' } else { '?' };
    let path = if dry { format!("{}{mark}dryRun=All", row.path) } else { row.path.clone() };
    let body = if row.body.is_null() { vec![] } else { row.body.to_string().into_bytes() };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(body)
        .expect("a request");
    client.request_text(request).await
}

/// The administrator as somebody else, in these groups.
pub async fn impersonate(c: &Cluster, user: &str, groups: &[&str]) -> Client {
    Client::try_from(config(c, user, groups).await).expect("a client")
}

/// As somebody else of `system:masters`, with the id of a credential made up.
pub async fn impersonate_extra(c: &Cluster, user: &str) -> Client {
    let mut config = config(c, user, &["system:masters"]).await;
    // Percent-encoded, as the header's name needs it.
    let name = "impersonate-extra-authentication.kubernetes.io%2fcredential-id";
    let name = http::HeaderName::from_static(name);
    config.headers.push((name, http::HeaderValue::from_static("JTI=forged")));
    Client::try_from(config).expect("a client")
}

async fn config(c: &Cluster, user: &str, groups: &[&str]) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(c.sandbox.admin_kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a config");
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(groups.iter().map(|g| (*g).to_owned()).collect());
    config
}
