//! More API servers on the same etcd, as in a cluster with several control-plane nodes: what one
//! was told the others know, though maybe a moment later.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::components::{Layout, listener};
use super::kubeconfig::{self, Endpoint};
use super::process::{Process, flag};
use super::{Program, Sandbox, start};

/// How often a start is tried when another program took its port meanwhile.
const ATTEMPTS: u32 = 5;

/// A further API server, with the certificates and the flags of the first and a port of its own.
/// It is killed when this is dropped.
pub struct ApiServer {
    layout: Layout,
    endpoint: Endpoint,
    admin: kube::Client,
    /// The last field but for its kind: [`start::wait_until`] wants a list of them.
    process: [(Program, Process); 1],
}

impl ApiServer {
    /// Its address, with scheme and port.
    pub fn server(&self) -> &str {
        &self.endpoint.server
    }

    /// A kubeconfig for the same user at this server instead of the first.
    ///
    /// # Errors
    /// The file is none that the sandbox wrote, or the new one cannot be written.
    pub fn kubeconfig(&self, of: &Path) -> Result<PathBuf> {
        let stem = of.file_stem().and_then(|stem| stem.to_str()).context("no kubeconfig")?;
        let path = self.layout.kubeconfig(&format!("{stem}-{}", self.process().name()));
        kubeconfig::copy(of, &path, &self.endpoint.server)?;
        Ok(path)
    }

    /// A client for the same user at this server.
    ///
    /// # Errors
    /// As [`ApiServer::kubeconfig`].
    pub async fn client_for(&self, kubeconfig: &Path) -> Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig(kubeconfig)?).await
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process[0].1
    }

    /// Its process, to kill, pause or restart; see [`ApiServer::wait_until_ready`] then.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process[0].1
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready within 90 s: with the last lines of its log.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        let name = self.process().name().to_owned();
        start::wait_until(&name, &mut self.process, || start::is_ready(&admin)).await
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("server", &self.server()).finish_non_exhaustive()
    }
}

pub(super) async fn start(sandbox: &Sandbox, args: &[&str]) -> Result<ApiServer> {
    let mut spec = sandbox.first(Program::ApiServer)?.spec().clone();
    spec.name = sandbox.layout.free_name(Program::ApiServer.name());
    spec.args.retain(|arg| !arg.to_string_lossy().starts_with("--secure-port="));
    spec.args.extend(args.iter().map(Into::into));
    let mut attempt = 1;
    loop {
        let port = listener().and_then(|l| l.local_addr()).context("no free port")?.port();
        let mut spec = spec.clone();
        spec.args.push(flag("secure-port", port.to_string()));
        let endpoint =
            Endpoint { server: format!("https://127.0.0.1:{port}"), ..sandbox.endpoint.clone() };
        let kubeconfig = sandbox.layout.kubeconfig(&format!("admin-{}", spec.name));
        kubeconfig::copy(&sandbox.layout.admin(), &kubeconfig, &endpoint.server)?;
        let mut server = ApiServer {
            layout: sandbox.layout.clone(),
            endpoint,
            admin: kubeconfig::client(&kubeconfig).await?,
            process: [(Program::ApiServer, spec.start(&sandbox.layout.root)?)],
        };
        match server.wait_until_ready().await {
            Ok(()) => return Ok(server),
            Err(_) if attempt < ATTEMPTS && start::port_was_taken(&server.process) => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
