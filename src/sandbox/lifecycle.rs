//! What becomes of a cluster: it is left to itself, closed and opened again on the same data, and
//! waited for after one of its components was killed or paused.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::certs::Authority;
use super::components::{AUTHORITY, Layout};
use super::kubeconfig::{self, Endpoint};
use super::process::{self, Process};
use super::state::{Entry, State};
use super::watchdog::{self, Watchdog};
use super::{Operator, Options, Program, Sandbox, binaries, start};

/// How long a process may take to end before it is killed.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

impl Sandbox {
    /// Lets the cluster live on, with this operator if there is one, until
    /// `reprieve sandbox down` finds what is written here in its folder.
    ///
    /// # Errors
    /// The state cannot be written; the sandbox ends then.
    pub fn detach(mut self, operator: Option<Operator>) -> Result<()> {
        self.state(operator.as_ref())?.write(&self.layout.root)?;
        let watchdog = self.watchdog.take().context("a sandbox has a watchdog")?;
        watchdog.dismiss()?;
        if let Some(operator) = operator {
            operator.into_process().detach();
        }
        for (_, process) in self.processes.drain(..) {
            process.detach();
        }
        Ok(())
    }

    /// Ends every process of the cluster and leaves its folder, for [`Sandbox::reopen`]. Operators
    /// and further API servers end as well, whoever holds them.
    ///
    /// # Errors
    /// The state cannot be written; the sandbox ends then, and its folder goes.
    pub fn close(mut self) -> Result<()> {
        self.state(None)?.write(&self.layout.root)?;
        // First those that write, last what they write to.
        let own: Vec<u32> = self.processes().map(Process::pid).collect();
        let dir = self.layout.root.clone();
        let others = process::marked(&dir).into_iter().filter(|pid| !own.contains(pid));
        // The watchdog is none of the marked.
        process::stop_in_order(&others.collect::<Vec<_>>(), &dir, PATIENCE);
        for (_, process) in self.processes.iter_mut().rev() {
            process.stop(PATIENCE)?;
        }
        self.watchdog.take().context("a sandbox has a watchdog")?.dismiss()
    }

    /// Starts a cluster again on the folder in which one was closed, with the same data, ports,
    /// certificates and kubeconfigs. It is then as any other: the folder goes when it ends, unless
    /// it is closed again. Of the options only `dir`, `reprieve` and `progress` count.
    ///
    /// # Errors
    /// No cluster was closed there, or it still runs; a component does not start, because another
    /// program has its port for example. The folder stays then.
    pub async fn reopen(options: Options) -> Result<Self> {
        let Options { dir, reprieve, progress, .. } = options;
        let dir = dir.context("a sandbox is opened again in the folder of the former one")?;
        let dir = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
        let state = State::read(&dir)?;
        let state = state.with_context(|| format!("no sandbox was closed in {}", dir.display()))?;
        ensure!(process::marked(&dir).is_empty(), "the sandbox in {} still runs", dir.display());
        start::tls();
        let binaries = tokio::task::spawn_blocking(move || binaries::locate(progress))
            .await
            .context("the search for the control plane panicked")??;

        let layout = Layout { root: dir.clone() };
        let authority = Authority::read(&layout.pki(), "ca", AUTHORITY)?;
        let endpoint = Endpoint {
            server: state.server.clone(),
            authority: authority.certificate().to_owned(),
            cluster: state.cluster.clone(),
        };
        let admin = kubeconfig::client(&layout.admin()).await?;
        let mut sandbox = Self {
            watchdog: Some(Watchdog::start(&reprieve, &dir)?),
            layout,
            binaries,
            reprieve,
            progress,
            authority,
            endpoint,
            admin,
            nodes: state.nodes,
            processes: Vec::new(),
        };
        match sandbox.start_again(&state).await {
            Ok(()) => {
                State::remove(&dir)?;
                Ok(sandbox)
            }
            Err(error) => {
                process::kill_marked(&dir);
                if let Some(watchdog) = sandbox.watchdog.take() {
                    watchdog.dismiss()?;
                }
                Err(error)
            }
        }
    }

    async fn start_again(&mut self, state: &State) -> Result<()> {
        for entry in &state.processes {
            // An operator is started by whoever wants one.
            let program = Program::ALL.into_iter().find(|p| p.name() == entry.name);
            let Some(program) = program else { continue };
            let mut process = entry.process(&self.layout.root);
            process.start()?;
            self.processes.push((program, process));
        }
        self.wait_until_ready().await?;
        let (admin, nodes) = (self.admin(), self.nodes);
        let ready = || start::nodes_are_ready(&admin, nodes);
        start::wait_until("the nodes", &mut self.processes, ready).await
    }

    /// Waits until the API server says that it is ready: after it, or etcd, was started again or
    /// resumed.
    ///
    /// # Errors
    /// One of the two ended, or it is not ready within 90 s: with the last lines of the logs.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let admin = self.admin();
        let ready = || start::is_ready(&admin);
        // Those two are the first; of the others any may be dead, on purpose.
        let two = self.processes.len().min(2);
        start::wait_until("kube-apiserver", &mut self.processes[..two], ready).await
    }

    /// Ends the cluster: what dropping it does, and tells whether something is left.
    ///
    /// # Errors
    /// The folder could not be removed.
    pub fn stop(self) -> Result<()> {
        let dir = self.layout.root.clone();
        drop(self);
        ensure!(!dir.exists(), "{} could not be removed", dir.display());
        Ok(())
    }

    fn state(&self, operator: Option<&Operator>) -> Result<State> {
        let own = self.processes().chain(operator.map(Operator::process));
        Ok(State {
            server: self.endpoint.server.clone(),
            cluster: self.endpoint.cluster.clone(),
            nodes: self.nodes,
            operator: operator.map(Operator::listen),
            processes: own.map(Entry::of).collect::<Result<_>>()?,
        })
    }
}

/// Ends the processes of the sandbox in this folder, in order, and leaves its data.
pub(super) fn halt(dir: &Path, state: &State) -> Result<()> {
    // First those that write, last what they write to.
    for entry in state.processes.iter().rev() {
        entry.process(dir).stop(PATIENCE)?;
    }
    Ok(())
}

/// Starts what does not run of the sandbox in this folder, in order, and writes down the new
/// process ids; the processes live on.
///
/// # Errors
/// One does not start, or ends at once, because another program has its port for example.
pub(super) fn revive(dir: &Path, state: &mut State, which: &[String]) -> Result<()> {
    for i in 0..state.processes.len() {
        let entry = &state.processes[i];
        if !which.is_empty() && !which.contains(&entry.name) {
            continue;
        }
        let mut process = entry.process(dir);
        process.start()?;
        state.processes[i].pid = process.pid();
        state.write(dir)?;
        std::thread::sleep(Duration::from_millis(200));
        if !process.is_running() {
            bail!("{} ended at once. The end of {}", process.name(), process.log_tail(15));
        }
        process.detach();
    }
    Ok(())
}

/// Ends whatever is left of the sandbox in this folder and removes it.
pub(super) fn remove(dir: &Path) -> Result<()> {
    // A state that cannot be read must not keep anybody from taking the sandbox down.
    if let Ok(Some(state)) = State::read(dir) {
        halt(dir, &state)?;
    }
    watchdog::end(dir)
}
