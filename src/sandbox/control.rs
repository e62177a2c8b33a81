//! `reprieve sandbox status`, `logs`, `stop`, `kill`, `pause`, `resume` and `start`: faults by hand
//! in a cluster that lives on by itself.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::components::Layout;
use super::lifecycle::{self, PATIENCE};
use super::process::{self, Condition, Process};
use super::state::{Entry, State};
use super::{Program, kubeconfig, start};

/// The exit code of `status` when a component does not run.
const NOT_ALL_RUN: u8 = 3;
/// The exit code of `status` when there is no sandbox.
const NO_SANDBOX: u8 = 4;
/// How the log of what the API server was asked is called beside those of the components.
const AUDIT: &str = "audit";

/// A sandbox that lives by itself.
pub(super) struct Target<'a> {
    /// Its name, and ` --name NAME` where that is not the default.
    pub name: &'a str,
    pub suffix: String,
    pub dir: PathBuf,
}

impl Target<'_> {
    fn state(&self) -> Result<State> {
        let Self { name, suffix, dir } = self;
        match State::read(dir)? {
            Some(state) => Ok(state),
            None if dir.exists() => bail!(
                "sandbox {name:?} is being started by another process, or incomplete: wait for it, \
                 or take it down with `cargo sandbox down{suffix}`"
            ),
            None => bail!("no sandbox {name:?} is up; start it with `cargo sandbox up{suffix}`"),
        }
    }

    /// The components of these names; all of them if there are none.
    fn components<'s>(&self, state: &'s State, names: &[String]) -> Result<Vec<&'s Entry>> {
        if names.is_empty() {
            return Ok(state.processes.iter().collect());
        }
        let found = |name: &String| {
            let full = format!("kube-{name}");
            let entry = state.processes.iter().find(|e| e.name == *name || e.name == full);
            entry.with_context(|| {
                let all: Vec<&str> = state.processes.iter().map(|e| e.name.as_str()).collect();
                format!("sandbox {:?} has no {name:?}; it has {}", self.name, all.join(", "))
            })
        };
        names.iter().map(found).collect()
    }
}

/// Prints what each component does.
pub(super) fn status(target: &Target<'_>) -> Result<ExitCode> {
    if !target.dir.exists() {
        println!("No sandbox {:?} is up. Start it: cargo sandbox up{}", target.name, target.suffix);
        return Ok(ExitCode::from(NO_SANDBOX));
    }
    let state = target.state()?;
    let layout = Layout { root: target.dir.clone() };
    let mut down = Vec::new();
    println!(
        "{:<24} {:<8} {:>8} {:>10} {:>7}  ADDRESS",
        "COMPONENT", "STATE", "PID", "MEMORY", "AGE"
    );
    for entry in &state.processes {
        let mut process = entry.process(&target.dir);
        let condition = process.condition();
        if condition != Condition::Running {
            down.push(entry.name.as_str());
        }
        println!("{}", line(entry, &process, condition, &address(entry, &state)));
    }
    println!("\nkubeconfig    {}", layout.admin().display());
    println!("logs          {}", layout.logs().display());
    println!("audit log     {}", layout.audit_log().display());
    println!("backup store  {}", layout.store().display());
    if down.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\nNot running: {}. Let them run: cargo sandbox start{}",
        down.join(", "),
        target.suffix
    );
    Ok(ExitCode::from(NOT_ALL_RUN))
}

fn line(entry: &Entry, process: &Process, condition: Condition, address: &str) -> String {
    let state = match condition {
        Condition::Running => "running",
        Condition::Paused => "paused",
        Condition::Stopped => {
            return format!(
                "{:<24} {:<8} {:>8} {:>10} {:>7}  {address}",
                entry.name, "stopped", "-", "-", "-"
            );
        }
    };
    let memory = format!("{} MiB", process.memory() >> 20);
    let age = process.age().map_or_else(|| "-".to_owned(), age);
    format!("{:<24} {state:<8} {:>8} {memory:>10} {age:>7}  {address}", entry.name, entry.pid)
}

/// Where a component listens.
fn address(entry: &Entry, state: &State) -> String {
    let given = entry.args.iter().find_map(|arg| arg.strip_prefix("--listen-client-urls="));
    match entry.name.as_str() {
        "kube-apiserver" => state.server.clone(),
        "operator" => state.operator.map_or_else(String::new, |listen| format!("http://{listen}")),
        _ => given.unwrap_or("-").to_owned(),
    }
}

/// As kubectl writes ages.
fn age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// What to do to a component.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
}

/// Stops, kills, pauses or resumes components: all if none is named.
///
/// # Errors
/// There is no such sandbox, or no such component; one that is to be paused does not run.
pub(super) fn fault(target: &Target<'_>, fault: Fault, names: &[String]) -> Result<()> {
    let state = target.state()?;
    let again = |name: &str| format!("cargo sandbox start {name}{}", target.suffix);
    // First those that write, last what they write to.
    for entry in target.components(&state, names)?.into_iter().rev() {
        let (name, mut process) = (&entry.name, entry.process(&target.dir));
        match fault {
            Fault::Stop => process.stop(PATIENCE)?,
            Fault::Kill => process.kill()?,
            Fault::Pause | Fault::Resume if process.condition() == Condition::Stopped => {
                bail!("{name} does not run; start it with `{}`", again(name))
            }
            Fault::Pause => process.pause()?,
            Fault::Resume => process.resume()?,
        }
        match fault {
            Fault::Stop => println!("{name} has ended. Start it again: {}", again(name)),
            Fault::Kill => println!("{name} was killed. Start it again: {}", again(name)),
            Fault::Pause => println!(
                "{name} is paused. Let it go on: cargo sandbox resume {name}{}",
                target.suffix
            ),
            Fault::Resume => println!("{name} goes on."),
        }
    }
    Ok(())
}

/// Starts what has ended, on the same data and ports, and lets go on what is paused: all if none
/// is named. Waits until the API server is ready, if it and etcd run now.
///
/// # Errors
/// There is no such sandbox, or no such component; one ends at once.
pub(super) fn start_again(target: &Target<'_>, names: &[String]) -> Result<()> {
    let mut state = target.state()?;
    let which: Vec<String> =
        target.components(&state, names)?.into_iter().map(|entry| entry.name.clone()).collect();
    for entry in state.processes.iter().filter(|entry| which.contains(&entry.name)) {
        let mut process = entry.process(&target.dir);
        match process.condition() {
            Condition::Running => println!("{} runs.", entry.name),
            Condition::Paused => {
                process.resume()?;
                println!("{} goes on.", entry.name);
            }
            Condition::Stopped => println!("{} is started.", entry.name),
        }
    }
    lifecycle::revive(&target.dir, &mut state, &which)?;
    let runs = |name: &str| {
        let entry = state.processes.iter().find(|entry| entry.name == name);
        entry.is_some_and(|e| e.process(&target.dir).condition() == Condition::Running)
    };
    if runs(Program::Etcd.name()) && runs(Program::ApiServer.name()) {
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(wait_until_ready(&target.dir))?;
        println!("kube-apiserver is ready.");
    }
    Ok(())
}

async fn wait_until_ready(dir: &Path) -> Result<()> {
    let layout = Layout { root: dir.to_owned() };
    let client = kubeconfig::client(&layout.admin()).await?;
    let deadline = Instant::now() + start::PATIENCE;
    while !start::is_ready(&client).await {
        if Instant::now() > deadline {
            let log = process::log_tail(&layout.logs().join("kube-apiserver.log"), 10);
            bail!(
                "kube-apiserver is not ready after {} s. The end of {log}",
                start::PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Prints the last lines of the logs, and with `follow` what is added until the sandbox is gone.
///
/// # Errors
/// There is no such sandbox, or no such component.
pub(super) fn logs(
    target: &Target<'_>,
    component: Option<&str>,
    follow: bool,
    lines: usize,
) -> Result<()> {
    let layout = Layout { root: target.dir.clone() };
    let state = target.state()?;
    let mut logs: Vec<(String, PathBuf)> = Vec::new();
    if component == Some(AUDIT) {
        logs.push((AUDIT.to_owned(), layout.audit_log()));
    } else {
        let names: Vec<String> = component.map(str::to_owned).into_iter().collect();
        for entry in target.components(&state, &names)? {
            logs.push((entry.name.clone(), entry.process(&target.dir).log().to_owned()));
        }
    }
    // Of several, each line says whose it is.
    let several = logs.len() > 1;
    let mut out = std::io::stdout().lock();
    let mut print = |name: &str, text: &str| -> std::io::Result<()> {
        for line in text.lines() {
            match several {
                true => writeln!(out, "{name:<24} {line}")?,
                false => writeln!(out, "{line}")?,
            }
        }
        out.flush()
    };
    let mut at = Vec::new();
    for (name, path) in &logs {
        let (text, end) = read_from(path, 0)?;
        let all: Vec<&str> = text.lines().collect();
        let tail = all[all.len().saturating_sub(lines)..].join("\n");
        if ended(print(name, &tail))? {
            return Ok(());
        }
        at.push(end);
    }
    while follow && target.dir.exists() {
        std::thread::sleep(Duration::from_millis(200));
        for ((name, path), at) in logs.iter().zip(&mut at) {
            let Ok((text, end)) = read_from(path, *at) else { continue };
            *at = end;
            if ended(print(name, &text))? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether nobody reads any more, which is no error: `logs | head`.
fn ended(printed: std::io::Result<()>) -> Result<bool> {
    match printed {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        other => other.map(|()| false).context("cannot print"),
    }
}

/// The whole lines of a file from there on, and where they end.
fn read_from(path: &Path, at: u64) -> Result<(String, u64)> {
    let context = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    file.seek(SeekFrom::Start(at)).with_context(context)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(context)?;
    bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1));
    let end = at + bytes.len() as u64;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}
