//! Kubeconfigs with everything embedded, so that one file is all that a user needs.

use std::path::Path;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::certs::{Identity, write_private};
use super::der::base64;

/// The API server, as a kubeconfig needs it.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// Its address, with scheme and port.
    pub server: String,
    /// The certificate of the authority that it is trusted by, PEM.
    pub authority: String,
    /// What the cluster and the context are called.
    pub cluster: String,
}

/// By what a user proves who they are.
pub(super) enum Credential<'a> {
    /// A client certificate.
    Certificate(&'a Identity),
    /// A bearer token.
    Token(&'a str),
}

impl Endpoint {
    /// Writes a kubeconfig for the user, readable by its owner alone.
    pub fn write(&self, path: &Path, user: &str, credential: &Credential<'_>) -> Result<()> {
        let credential: Value = match credential {
            Credential::Certificate(Identity { certificate, key }) => json!({
                "client-certificate-data": base64(certificate.as_bytes())?,
                "client-key-data": base64(key.as_bytes())?,
            }),
            Credential::Token(token) => json!({ "token": token }),
        };
        let cluster = json!({
            "server": self.server,
            "certificate-authority-data": base64(self.authority.as_bytes())?,
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": self.cluster, "cluster": cluster }],
            "users": [{ "name": user, "user": credential }],
            "contexts": [{
                "name": self.cluster,
                "context": { "cluster": self.cluster, "user": user },
            }],
            "current-context": self.cluster,
        });
        // JSON is YAML, and nobody breaks its lines.
        write_private(path, &serde_json::to_string_pretty(&config)?)
    }
}

/// Copies a kubeconfig that [`Endpoint::write`] wrote, for the same user at another server.
///
/// # Errors
/// The file is none of those, or the new one cannot be written.
pub(super) fn copy(from: &Path, to: &Path, server: &str) -> Result<()> {
    let context = || format!("cannot use the kubeconfig {}", from.display());
    let text = std::fs::read_to_string(from).with_context(context)?;
    let mut config: Value = serde_json::from_str(&text).with_context(context)?;
    let cluster = config.pointer_mut("/clusters/0/cluster/server").with_context(context)?;
    *cluster = json!(server);
    write_private(to, &serde_json::to_string_pretty(&config)?)
}

/// A client for this kubeconfig.
///
/// # Errors
/// The file cannot be read, or is no kubeconfig.
pub async fn client(path: &Path) -> Result<kube::Client> {
    let context = || format!("cannot use the kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(context)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    kube::Client::try_from(config.with_context(context)?).with_context(context)
}
