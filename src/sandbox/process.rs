//! Processes of a sandbox: started with its mark, killed, paused, doubled, and found again.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The environment variable that marks a process of a sandbox; its value is the sandbox's folder.
/// Children inherit it, and unlike a look for the folder in the command line it neither misses a
/// process nor finds somebody's editor that has a log open.
pub const MARK: &str = "REPRIEVE_SANDBOX";

/// A program to start, and to start again.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What the process is called, and its log after it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Spec {
    /// Starts the process, marked as one of the sandbox in this folder; it logs to
    /// `logs/NAME.log`.
    ///
    /// # Errors
    /// The log cannot be opened, or the program cannot be run.
    pub fn start(&self, sandbox: &Path) -> Result<Process> {
        let log = sandbox.join("logs").join(format!("{}.log", self.name));
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("cannot open {}", log.display()))?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .env(MARK, sandbox)
            // Nobody's ~/.kwok or ~/.kube may change what a sandbox does.
            .env("HOME", sandbox)
            .env_remove("KUBECONFIG")
            .current_dir(sandbox)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log")?)
            .stderr(output)
            // A group of its own: Ctrl-C is for whoever holds the sandbox, who then ends it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let (pid, child) = (child.id(), Some(child));
        Ok(Process { spec: self.clone(), sandbox: sandbox.to_owned(), log, pid, child })
    }
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It runs.
    Running,
    /// It was stopped in its tracks ([`Process::pause`]).
    Paused,
    /// It has ended, or never began.
    Stopped,
}

/// A process of a sandbox. It is killed when this is dropped, unless it was left to itself.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    sandbox: PathBuf,
    log: PathBuf,
    pid: u32,
    /// Nothing for a process that was left to itself, or that another process started.
    child: Option<Child>,
}

impl Process {
    /// A process that somebody else started, or that ended. It is not killed when this is dropped.
    pub(super) fn adopt(spec: Spec, pid: u32, sandbox: &Path) -> Self {
        let log = sandbox.join("logs").join(format!("{}.log", spec.name));
        Self { spec, sandbox: sandbox.to_owned(), log, pid, child: None }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it was started: change it and start it to have a second one.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs; a paused one does.
    pub fn is_running(&mut self) -> bool {
        match self.child.as_mut() {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => is_marked(self.pid, &self.sandbox),
        }
    }

    /// Whether it runs, is paused, or has ended.
    pub fn condition(&mut self) -> Condition {
        if !self.is_running() {
            return Condition::Stopped;
        }
        match stat(self.pid).first().map(String::as_str) {
            Some("T") => Condition::Paused,
            _ => Condition::Running,
        }
    }

    /// The memory that it holds (the resident set), in bytes; 0 when it has ended.
    pub fn memory(&self) -> u64 {
        self.memory_by("VmRSS:")
    }

    /// The most memory that it ever held, or since [`Process::forget_peak`], in bytes; 0 when it has
    /// ended.
    pub fn peak_memory(&self) -> u64 {
        self.memory_by("VmHWM:")
    }

    /// Sets the peak back to what it holds now.
    ///
    /// # Errors
    /// It does not run.
    pub fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5")
            .with_context(|| format!("cannot set back the peak of {}", self.spec.name))
    }

    fn memory_by(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// How long ago it was started; nothing when it has ended.
    pub fn age(&self) -> Option<Duration> {
        // In hundredths of a second since the machine's start, whatever the kernel's own clock:
        // field 22, and `stat` begins with the third.
        let started: u64 = stat(self.pid).get(19)?.parse().ok()?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        Duration::try_from_secs_f64(uptime)
            .ok()?
            .checked_sub(Duration::from_millis(started.checked_mul(10)?))
    }

    /// Kills it (SIGKILL) and waits for its end. One that has ended already is left as it is.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<()> {
        let name = &self.spec.name;
        if let Some(child) = self.child.as_mut() {
            child.kill().with_context(|| format!("cannot kill {name}"))?;
            child.wait().with_context(|| format!("cannot wait for {name}"))?;
            return Ok(());
        }
        while is_marked(self.pid, &self.sandbox) {
            let pid = pid(self.pid).with_context(|| format!("{name} has no process id"))?;
            let _ = kill_process(pid, Signal::KILL);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), also when it is paused, and kills it when it takes longer than
    /// `patience`. One that has ended already is left as it is.
    ///
    /// # Errors
    /// The system refuses.
    pub fn stop(&mut self, patience: Duration) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        self.terminate()?;
        // A paused process would not see the first signal.
        let _ = self.resume();
        let deadline = Instant::now() + patience;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()
    }

    /// Starts it anew, with the same arguments and ports, if it has ended.
    ///
    /// # Errors
    /// As [`Spec::start`].
    pub fn start(&mut self) -> Result<()> {
        if !self.is_running() {
            *self = self.spec.start(&self.sandbox)?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// The system refuses.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Stops it in its tracks (SIGSTOP): it holds its connections and its locks, and does nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // The system gets to it in a moment; until then it would still answer.
        while self.condition() == Condition::Running {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `timeout`.
    pub async fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let child = self.child.as_mut().context("another process started this one")?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {timeout:?}", self.spec.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it if it runs, and starts it anew with the same arguments and ports.
    ///
    /// # Errors
    /// As [`Process::kill`] and [`Spec::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// As [`Process::restart`], with these arguments more, from now on.
    pub(super) fn restart_with(&mut self, args: impl IntoIterator<Item = OsString>) -> Result<()> {
        self.spec.args.extend(args);
        self.restart()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }

    /// Lets it live on after this is dropped.
    pub(super) fn detach(mut self) {
        drop(self.child.take());
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let name = self.spec.name.clone();
        // An ended child that nobody waited for keeps its number, so this hits no stranger.
        if !self.is_running() {
            bail!("{name} does not run");
        }
        let pid = pid(self.pid()).with_context(|| format!("{name} has no process id"))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {name}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
    }
}

/// The fields of `/proc/PID/stat` after the name, which may hold blanks: the state comes first.
fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().map(str::to_owned).collect()
}

/// The last lines of a log file, indented.
pub(super) fn log_tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let tail = all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}\n"));
    format!("{}:\n{}", path.display(), tail.collect::<String>())
}

/// The living processes that are marked with this folder.
pub fn marked(sandbox: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| is_marked(pid, sandbox)).collect()
}

/// Whether this process lives and is marked with this folder.
pub(super) fn is_marked(pid: u32, sandbox: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", sandbox.as_os_str().as_bytes()].concat();
    // Of a zombie nothing can be read, nor of another user's process.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| variable == mark)
}

/// Kills every process that is marked with this folder, and whatever they start meanwhile.
pub fn kill_marked(sandbox: &Path) {
    let mut quiet = 0;
    // A process that was just forked shows its parent's environment for a moment, so look twice.
    while quiet < 2 {
        let pids = marked(sandbox);
        quiet = if pids.is_empty() { quiet + 1 } else { 0 };
        for pid in pids.into_iter().filter_map(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks these processes, one after another, to end, and kills each that takes longer than
/// `patience`. Processes that are not marked with this folder are left alone: the number may have
/// passed to a stranger.
pub(super) fn stop_in_order(pids: &[u32], sandbox: &Path, patience: Duration) {
    for &number in pids {
        let Some(pid) = pid(number).filter(|_| is_marked(number, sandbox)) else { continue };
        let _ = kill_process(pid, Signal::TERM);
        // A paused process would not see the first signal.
        let _ = kill_process(pid, Signal::CONT);
        let deadline = Instant::now() + patience;
        while is_marked(number, sandbox) {
            if Instant::now() > deadline {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// `--NAME=VALUE`, for values that need not be Unicode.
pub(super) fn flag(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let value = value.as_ref().as_bytes();
    OsString::from_vec([b"--", name.as_bytes(), b"=", value].concat())
}
