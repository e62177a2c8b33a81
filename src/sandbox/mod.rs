//! The sandbox: a throw-away cluster of real components on this machine, and the demo.
//!
//! It is the library that tests, demo and benchmarks share. The operator must not need it.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use reprieve::sandbox::{Options, Sandbox};
//!
//! let mut sandbox = Sandbox::start(Options::new("target/debug/reprieve")).await?;
//! sandbox.install().await?;
//! let operator = sandbox.start_operator(&[]).await?;
//! let alice = sandbox.user("alice", &["approvers"])?;
//! let client = sandbox.client_for(&alice).await?;
//! # Ok(()) }
//! ```
//!
//! Whoever holds a [`Sandbox`] owns it: when it is dropped, or its process ends in whatever way,
//! every process of it is killed and its folder removed ([`watchdog`]). Everything listens on
//! loopback only, on ports that the kernel says are free.

mod api_server;
pub mod audit;
pub mod binaries;
pub mod certs;
pub mod cli;
mod components;
mod control;
pub mod demo;
mod der;
mod install;
mod kubeconfig;
mod lifecycle;
pub mod manifests;
mod operator;
pub mod process;
mod progress;
pub mod proxy;
mod shared;
mod start;
mod state;
mod watchdog;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

pub use self::api_server::ApiServer;
pub use self::audit::{AuditLog, AuditRecord};
pub use self::binaries::{Binaries, Program};
pub use self::operator::Operator;
pub use self::process::Process;
pub use self::progress::Progress;
pub use self::proxy::Proxy;

use self::certs::Authority;
use self::components::Layout;
use self::kubeconfig::{Credential, Endpoint};
use self::watchdog::Watchdog;

/// How to start a [`Sandbox`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder for everything that it writes: absent or empty before, gone afterwards. Without
    /// one, a new folder in the system's folder for temporary files.
    pub dir: Option<PathBuf>,
    /// The program `reprieve`: it is the watchdog and the operator. In an integration test it is
    /// `env!("CARGO_BIN_EXE_reprieve")`.
    pub reprieve: PathBuf,
    /// How many nodes to pretend. Default 5.
    pub nodes: usize,
    /// What the cluster and the context are called in kubeconfigs. Default `sandbox`.
    pub name: String,
    /// A folder of YAML or JSON files with admission policies and bindings that the API server
    /// loads from its disk: in force from its first request on, not to be seen or removed through
    /// the API. See [`manifests`]. Default: none.
    pub static_manifests: Option<PathBuf>,
    /// Where progress goes. Default: nowhere.
    pub progress: Progress,
}

impl Options {
    /// The defaults, with this program `reprieve`.
    pub fn new(reprieve: impl Into<PathBuf>) -> Self {
        Self {
            dir: None,
            reprieve: reprieve.into(),
            nodes: 5,
            name: "sandbox".to_owned(),
            static_manifests: None,
            progress: Progress::Quiet,
        }
    }
}

/// A running cluster. It ends when this is dropped; to keep it, see [`Sandbox::detach`].
pub struct Sandbox {
    layout: Layout,
    binaries: Binaries,
    reprieve: PathBuf,
    progress: Progress,
    authority: Authority,
    endpoint: Endpoint,
    admin: kube::Client,
    nodes: usize,
    /// In the order of their start.
    processes: Vec<(Program, Process)>,
    /// The last field: it waits for the end of whatever is left.
    watchdog: Option<Watchdog>,
}

/// Says that a test is left out, and why, past the harness, which keeps what a good test prints to
/// itself.
pub fn skipped(why: &str) {
    Progress::Visible.note(&format!("SKIPPED: {why}"));
}

impl Sandbox {
    /// Starts a bare cluster: etcd, API server, controllers, scheduler, and kwok with its nodes.
    /// Ready when this returns: the nodes are, and the namespace `default` takes pods.
    ///
    /// Builds the programs first where they were never built, which takes minutes.
    ///
    /// # Errors
    /// See [`binaries::locate`]; the folder is not empty; a component does not start, with the
    /// last lines of its log. Nothing is left then.
    pub async fn start(options: Options) -> Result<Self> {
        start::start(options).await
    }

    /// As [`Sandbox::start`], for tests: where no sandbox can start (neither programs nor Go), says
    /// so on standard error, past the harness, and gives nothing: the test is skipped.
    ///
    /// # Panics
    /// It should start, and does not.
    pub async fn for_test(reprieve: &str) -> Option<Self> {
        Self::for_test_with(Options::new(reprieve)).await
    }

    /// As [`Sandbox::for_test`], with options.
    ///
    /// # Panics
    /// It should start, and does not.
    pub async fn for_test_with(options: Options) -> Option<Self> {
        if let Some(reason) = binaries::unavailable() {
            skipped(&reason);
            return None;
        }
        match Self::start(options).await {
            Ok(sandbox) => Some(sandbox),
            Err(error) => panic!("the sandbox does not start: {error:#}"),
        }
    }

    /// The folder of everything that it writes.
    pub fn dir(&self) -> &Path {
        &self.layout.root
    }

    /// The kubeconfig of the administrator, who is in `system:masters`.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.layout.admin()
    }

    /// A client of the administrator. In a test, make one per tokio runtime: this one belongs to
    /// the runtime that started the sandbox.
    pub fn admin(&self) -> kube::Client {
        self.admin.clone()
    }

    /// A kubeconfig with a client certificate for this user in these groups. It is named after the
    /// user: one for the same user in other groups takes its place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn user(&self, name: &str, groups: &[&str]) -> Result<PathBuf> {
        write_user(&self.layout, &self.authority, &self.endpoint, name, groups)
    }

    /// A kubeconfig with the identity of a kubelet: `system:node:NAME` in the group
    /// `system:nodes`. It may ask for tokens of the accounts of pods on that node.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn node(&self, name: &str) -> Result<PathBuf> {
        self.user(&format!("system:node:{name}"), &["system:nodes"])
    }

    /// A client for a kubeconfig that this sandbox wrote.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn client_for(&self, kubeconfig: &Path) -> Result<kube::Client> {
        kubeconfig::client(kubeconfig).await
    }

    /// A kubeconfig with a token of a service account that exists, good for ten years.
    ///
    /// # Errors
    /// The API server gives no token: the account does not exist, or the guard forbids tokens for
    /// this one (the operator's is made by [`Sandbox::install`], before the guard).
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = install::token(&self.admin, namespace, name).await?;
        let path = self.layout.kubeconfig(&format!("sa-{namespace}-{name}"));
        let user = format!("system:serviceaccount:{namespace}:{name}");
        self.endpoint.write(&path, &user, &Credential::Token(&token))?;
        Ok(path)
    }

    /// The program kubectl, of the cluster's own version.
    pub fn kubectl(&self) -> PathBuf {
        self.binaries.path(Program::Kubectl)
    }

    /// A command with `KUBECONFIG` set, marked as the sandbox's: it is killed with it.
    pub fn command(&self, program: impl AsRef<Path>, kubeconfig: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("KUBECONFIG", kubeconfig)
            .env(process::MARK, &self.layout.root)
            // kubectl's own cache would otherwise stay in the user's home.
            .env("HOME", &self.layout.root);
        command
    }

    /// The file of the audit log, one JSON object a line, written before the request is answered;
    /// of all API servers. It holds every request but probes and the components' leases and
    /// events, and bodies for deletions and for writes of our kinds; never a Secret's.
    pub fn audit_log(&self) -> PathBuf {
        self.layout.audit_log()
    }

    /// The audit log from its beginning, as typed records.
    pub fn audit(&self) -> AuditLog {
        AuditLog::open(&self.layout.audit_log())
    }

    /// The audit log from now on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn audit_from_now(&self) -> Result<AuditLog> {
        AuditLog::open_at_end(&self.layout.audit_log())
    }

    /// The folder of the backup store.
    pub fn store_dir(&self) -> PathBuf {
        self.layout.store()
    }

    /// The backup store as the operator's flag `--store-url` takes it.
    pub fn store_url(&self) -> String {
        url::Url::from_directory_path(self.layout.store())
            .map_or_else(|()| format!("file://{}/", self.layout.store().display()), String::from)
    }

    /// The programs of its control plane.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The kubeconfig of the operator's service account, once [`Sandbox::install`] has run.
    pub fn operator_kubeconfig(&self) -> PathBuf {
        self.layout.operator()
    }

    /// A process of the control plane, to kill, pause or restart. kubectl is none.
    pub fn process(&mut self, program: Program) -> Option<&mut Process> {
        self.processes.iter_mut().find(|(p, _)| *p == program).map(|(_, process)| process)
    }

    fn first(&self, program: Program) -> Result<&Process> {
        let found = self.processes.iter().find(|(p, _)| *p == program);
        found.map(|(_, process)| process).with_context(|| format!("there is no {}", program.name()))
    }

    /// Every process of the control plane, in the order of their start.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().map(|(_, process)| process)
    }

    /// Installs what the operator needs: CRDs, its namespace and account, RBAC, the guard, and
    /// the sandbox's default policy. Returns when the guard is in force.
    ///
    /// # Errors
    /// The API server refuses something.
    pub async fn install(&self) -> Result<()> {
        install::install(self).await
    }

    /// Puts the admission policies of this folder, instead of those that were there before, on
    /// the disk of the API server, and returns when they are in force. An API server that was
    /// started without any is started again, so that watches end and requests fail for seconds;
    /// others load the change as they run.
    ///
    /// # Errors
    /// A file is not what [`manifests`] says; the API server does not take it.
    pub async fn set_static_manifests(&mut self, folder: &Path) -> Result<()> {
        let loads = self.layout.admission_configuration().is_file();
        manifests::write(&self.layout, folder)?;
        if !loads {
            let flag = components::admission(&self.layout);
            let api_server = self.process(Program::ApiServer).context("there is an API server")?;
            api_server.restart_with([flag])?;
        }
        self.wait_until_ready().await?;
        manifests::wait_until_loaded(&self.layout, &self.admin).await
    }

    /// Starts the operator under its own service account's token, on a port of its own, with the
    /// sandbox's store, and waits until it says that it is ready. Call it twice for two of them.
    ///
    /// # Errors
    /// [`Sandbox::install`] did not run; the operator ends, or is not ready within 30 s: with the
    /// last lines of its log.
    pub async fn start_operator(&self, args: &[&str]) -> Result<Operator> {
        operator::start(self, &self.operator_kubeconfig(), args).await
    }

    /// As [`Sandbox::start_operator`], with another kubeconfig: with another user's, or with one
    /// for another API server ([`ApiServer::kubeconfig`]).
    ///
    /// # Errors
    /// As [`Sandbox::start_operator`].
    pub async fn start_operator_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<Operator> {
        operator::start(self, kubeconfig, args).await
    }

    /// Starts one more API server on the same etcd, with the same flags and these more.
    ///
    /// # Errors
    /// It ends, or is not ready within 90 s: with the last lines of its log.
    pub async fn start_api_server(&self, args: &[&str]) -> Result<ApiServer> {
        api_server::start(self, args).await
    }

    /// Starts a proxy before the (first) API server that fails on demand: see [`proxy`]. It can
    /// have several.
    ///
    /// # Errors
    /// There is no free port on loopback.
    pub fn start_proxy(&self) -> Result<Proxy> {
        Proxy::of(self)
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("dir", &self.dir()).finish_non_exhaustive()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // All at once rather than one by one; operators too, whoever holds them.
        if let Some(watchdog) = self.watchdog.take() {
            process::kill_marked(&self.layout.root);
            for (_, process) in &mut self.processes {
                let _ = process.kill();
            }
            drop(watchdog);
        }
    }
}

/// Writes a kubeconfig with a new client certificate.
fn write_user(
    layout: &Layout,
    authority: &Authority,
    endpoint: &Endpoint,
    name: &str,
    groups: &[&str],
) -> Result<PathBuf> {
    let identity = authority.client(name, groups)?;
    // A user's name may hold what a file's may not.
    let file: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || "-_.@".contains(c) { c } else { '_' })
        .collect();
    let path = layout.kubeconfig(&format!("user-{file}"));
    endpoint.write(&path, name, &Credential::Certificate(&identity))?;
    Ok(path)
}
