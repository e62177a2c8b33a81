//! etcd of a sandbox, asked by its own HTTP interface.

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use reprieve::sandbox::{Program, Sandbox};
use serde_json::{Value, json};

/// A client of etcd, as the API server is one.
pub struct Etcd(kube::Client);

impl Etcd {
    pub async fn of(sandbox: &Sandbox) -> Self {
        let process = sandbox.processes().find(|p| p.name() == Program::Etcd.name());
        let args = &process.expect("it is one").spec().args;
        let url = args
            .iter()
            .find_map(|arg| arg.to_str()?.strip_prefix("--listen-client-urls=").map(str::to_owned));
        let pki = sandbox.dir().join("pki");
        let file = |name: &str| pki.join(name).display().to_string();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "etcd",
            "clusters": [{"name": "etcd", "cluster": {
                "server": url.expect("an address"), "certificate-authority": file("etcd-ca.crt"),
            }}],
            "users": [{"name": "etcd", "user": {
                "client-certificate": file("etcd-client.crt"), "client-key": file("etcd-client.key"),
            }}],
            "contexts": [{"name": "etcd", "context": {"cluster": "etcd", "user": "etcd"}}],
        });
        let config: Kubeconfig = serde_json::from_value(config).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
        Self(kube::Client::try_from(config.expect("a configuration")).expect("a client"))
    }

    async fn ask(&self, path: &str, body: Value) -> kube::Result<Value> {
        let request = http::Request::post(path).body(body.to_string().into_bytes());
        self.0.request(request.expect("a request")).await
    }

    /// Forgets all history.
    pub async fn compact(&self) {
        // Any key will do, in base64: the answer's header has the revision.
        let now = self.ask("/v3/kv/range", json!({"key": "YQ=="})).await.expect("an answer");
        let revision = now["header"]["revision"].clone();
        let compaction = json!({"revision": revision, "physical": true});
        match self.ask("/v3/kv/compaction", compaction).await {
            Ok(_) => {}
            // Nothing was written since.
            Err(error) if error.to_string().contains("compacted") => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Raises, or ends, the alarm that it has no space left: it then takes no writes.
    pub async fn full(&self, full: bool) {
        let status = self.ask("/v3/maintenance/status", json!({})).await.expect("an answer");
        let member = status["header"]["member_id"].clone();
        let action = if full { "ACTIVATE" } else { "DEACTIVATE" };
        let alarm = json!({"action": action, "memberID": member, "alarm": "NOSPACE"});
        self.ask("/v3/maintenance/alarm", alarm).await.expect("an answer");
    }
}
