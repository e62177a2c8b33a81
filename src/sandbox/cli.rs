//! `reprieve sandbox`, in a checkout `cargo sandbox`: a cluster that lives on until it is taken
//! down. Progress goes to standard error, answers to standard output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, Subcommand};

use super::certs::Authority;
use super::components::{AUTHORITY, Layout};
use super::control::{self, Fault, Target};
use super::kubeconfig::Endpoint;
use super::state::State;
use super::{
    Options, Program, Progress, Sandbox, binaries, lifecycle, operator, process, watchdog,
};

/// How long the operator may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `reprieve sandbox`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a throw-away cluster with Reprieve in it.
    ///
    /// Starts etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok (pretended
    /// nodes, on which pods become Ready at once) as processes on this machine, on loopback only;
    /// installs the CRDs, the guard and a default policy with a window of 20 seconds; and runs the
    /// operator in the background, with a backup store and an audit log in the sandbox's folder.
    ///
    /// The programs come from the folder that REPRIEVE_ASSETS or KUBEBUILDER_ASSETS names. Without
    /// one they are built with Go, once (minutes), into the user's cache folder.
    Up(Up),
    /// End the cluster and remove everything that it wrote.
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Say what each component does, and where everything is.
    ///
    /// Prints state (running, paused or stopped), process, memory, age and address of each
    /// component. Exit code: 0 when all run, 3 when one is stopped or paused, 4 when no such
    /// sandbox is up, 1 for any other failure.
    Status {
        #[command(flatten)]
        name: Name,
    },
    /// Print the last lines of the components' logs.
    ///
    /// Without a component those of all, each line with the component's name. `audit` is the log
    /// of every request to the API server, one JSON object a line.
    Logs(Logs),
    /// End components in good order (SIGTERM), or all of them; the data stays.
    ///
    /// A component is named as `status` names it; `kube-` may be left out. `cargo sandbox start`
    /// starts them again on the same data, also after the machine was restarted.
    Stop(Components),
    /// Kill components at once (SIGKILL), or all of them; the data stays.
    Kill(Components),
    /// Stop components in their tracks (SIGSTOP), or all of them.
    ///
    /// They hold their connections, ports and leases, and do nothing: what a hung process looks
    /// like from outside.
    Pause(Components),
    /// Let paused components go on (SIGCONT), or all of them.
    Resume(Components),
    /// Start components that have ended, or all of them, on the same data and ports.
    ///
    /// Those that are paused go on; those that run are left as they are.
    Start(Components),
    /// Print the path of the administrator's kubeconfig.
    ///
    /// export KUBECONFIG=$(cargo sandbox kubeconfig)
    Kubeconfig(Kubeconfig),
    /// End the sandbox in a folder when standard input closes.
    #[command(hide = true)]
    Watchdog {
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
struct Name {
    /// Which sandbox: several run side by side under different names.
    #[arg(long, default_value = "default", value_parser = name)]
    name: String,
}

#[derive(Debug, ClapArgs)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// Only the cluster: no CRDs, no guard, no operator.
    #[arg(long)]
    bare: bool,
    /// How many nodes to pretend.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,
}

#[derive(Debug, ClapArgs)]
struct Kubeconfig {
    #[command(flatten)]
    name: Name,
    /// Make a kubeconfig with a certificate for this user, and print its path instead.
    #[arg(long)]
    user: Option<String>,
    /// A group of that user; may be given several times.
    #[arg(long = "group", requires = "user")]
    groups: Vec<String>,
}

#[derive(Debug, ClapArgs)]
struct Logs {
    #[command(flatten)]
    name: Name,
    /// Whose log: a component as `status` names it, or `audit`. Default: all components.
    component: Option<String>,
    /// Go on with what is added, until the sandbox is taken down.
    #[arg(short, long)]
    follow: bool,
    /// How many lines of each log.
    #[arg(long, value_name = "N", default_value_t = 50)]
    tail: usize,
}

#[derive(Debug, ClapArgs)]
struct Components {
    #[command(flatten)]
    name: Name,
    /// Which: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok, operator.
    /// Default: all.
    #[arg(value_name = "COMPONENT")]
    components: Vec<String>,
}

fn name(text: &str) -> Result<String, String> {
    let label = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if label && (1..=40).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-') {
        Ok(text.to_owned())
    } else {
        Err("a name is 1 to 40 lower-case letters, digits and inner dashes".to_owned())
    }
}

/// Carries `reprieve sandbox` out.
///
/// # Errors
/// What was asked for cannot be done; nothing is left half done then.
pub fn main(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Up(args) => up(args)?,
        Command::Down { name } => down(&name.name)?,
        Command::Status { name } => return control::status(&target(&name.name)?),
        Command::Logs(Logs { name, component, follow, tail }) => {
            control::logs(&target(&name.name)?, component.as_deref(), *follow, *tail)?;
        }
        Command::Stop(args) => fault(Fault::Stop, args)?,
        Command::Kill(args) => fault(Fault::Kill, args)?,
        Command::Pause(args) => fault(Fault::Pause, args)?,
        Command::Resume(args) => fault(Fault::Resume, args)?,
        Command::Start(args) => control::start_again(&target(&args.name.name)?, &args.components)?,
        Command::Kubeconfig(args) => println!("{}", print_kubeconfig(args)?.display()),
        Command::Watchdog { dir } => watchdog::main(dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn folder(name: &str) -> Result<PathBuf> {
    let sandboxes = binaries::cache_folder()?.join("sandboxes");
    // The processes are marked with the path that has no links in it.
    Ok(sandboxes.canonicalize().unwrap_or(sandboxes).join(name))
}

fn target(name: &str) -> Result<Target<'_>> {
    Ok(Target { name, suffix: suffix(name), dir: folder(name)? })
}

fn fault(fault: Fault, args: &Components) -> Result<()> {
    control::fault(&target(&args.name.name)?, fault, &args.components)
}

/// `--name NAME`, where it is not the default.
fn suffix(name: &str) -> String {
    if name == "default" { String::new() } else { format!(" --name {name}") }
}

fn up(Up { name: Name { name }, bare, nodes }: &Up) -> Result<()> {
    let begin = Instant::now();
    let dir = folder(name)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if dir.exists() {
        let state = runtime.block_on(check(&dir, name))?;
        println!("Sandbox {name:?} is up already.\n");
        print_summary(&dir, name, &state, &find_kubectl());
        return Ok(());
    }
    let options = Options {
        dir: Some(dir),
        nodes: usize::from(*nodes),
        name: if name == "default" { "sandbox".into() } else { format!("sandbox-{name}") },
        progress: Progress::Visible,
        ..Options::new(std::env::current_exe().context("cannot find this program")?)
    };
    let (dir, kubectl) = runtime.block_on(async {
        // Whatever fails in here ends the sandbox: it is dropped.
        let sandbox = Sandbox::start(options).await?;
        let operator = if *bare {
            None
        } else {
            sandbox.install().await?;
            let step = Progress::Visible.step("starting the operator");
            let operator = sandbox.start_operator(&[]).await?;
            step.done("the operator is ready");
            Some(operator)
        };
        let (dir, kubectl) = (sandbox.dir().to_owned(), sandbox.kubectl());
        sandbox.detach(operator)?;
        anyhow::Ok((dir, kubectl))
    })?;
    let state = State::read(&dir)?.context("the sandbox has just been taken down")?;
    println!("Sandbox {name:?} is up, in {:.1} s.\n", begin.elapsed().as_secs_f64());
    print_summary(&dir, name, &state, &Some(kubectl));
    Ok(())
}

/// The state of a sandbox whose folder is there, if all of it runs.
async fn check(dir: &Path, name: &str) -> Result<State> {
    let down = format!("take it down with `cargo sandbox down{}`", suffix(name));
    let start = format!("start it with `cargo sandbox start{}`", suffix(name));
    let Some(state) = State::read(dir)? else {
        if process::marked(dir).is_empty() {
            bail!("sandbox {name:?} is incomplete; {down}");
        }
        bail!("sandbox {name:?} is being started by another process; wait for it, or {down}");
    };
    let ended = state.processes.iter().filter(|p| !process::is_marked(p.pid, dir));
    let ended: Vec<&str> = ended.map(|process| process.name.as_str()).collect();
    if !ended.is_empty() {
        bail!(
            "sandbox {name:?} is broken: {} no longer runs; {start}, or {down}",
            ended.join(", ")
        );
    }
    let client = super::kubeconfig::client(&Layout { root: dir.to_owned() }.admin()).await?;
    if !super::start::is_ready(&client).await {
        bail!("sandbox {name:?} is broken: kube-apiserver is not ready; {down}");
    }
    if let Some(address) = state.operator {
        let answer = operator::get(address, "/readyz");
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        if !matches!(answer, Ok(Ok(answer)) if operator::is_ok(&answer)) {
            bail!("sandbox {name:?} is broken: the operator is not ready; {down}");
        }
    }
    Ok(state)
}

fn find_kubectl() -> Option<PathBuf> {
    binaries::unbuilt().ok().flatten().map(|found| found.path(Program::Kubectl))
}

fn print_summary(dir: &Path, name: &str, state: &State, kubectl: &Option<PathBuf>) {
    let layout = Layout { root: dir.to_owned() };
    println!("  export KUBECONFIG={}\n", layout.admin().display());
    println!("  API server    {}", state.server);
    if let Some(address) = state.operator {
        println!("  operator      http://{address} (/livez, /readyz, /metrics)");
        println!("  backup store  {}", layout.store().display());
    }
    println!("  audit log     {}", layout.audit_log().display());
    println!("  logs          {}", layout.logs().display());
    if let Some(kubectl) = kubectl {
        println!("  kubectl       {}", kubectl.display());
    }
    println!("\nTake it down: cargo sandbox down{}", suffix(name));
}

fn down(name: &str) -> Result<()> {
    let dir = folder(name)?;
    // Processes may have outlived a folder that somebody removed by hand.
    if !dir.exists() && process::marked(&dir).is_empty() {
        println!("No sandbox {name:?} is up.");
        return Ok(());
    }
    lifecycle::remove(&dir)?;
    // What is left without being a sandbox goes only if it is empty.
    match fs::remove_dir(&dir) {
        Err(error) if dir.exists() => {
            return Err(error).with_context(|| format!("{} is no sandbox", dir.display()));
        }
        _ => println!("Sandbox {name:?} is down."),
    }
    Ok(())
}

fn print_kubeconfig(args: &Kubeconfig) -> Result<PathBuf> {
    let name = &args.name.name;
    let dir = folder(name)?;
    let Some(state) = State::read(&dir)? else {
        bail!("no sandbox {name:?} is up; start it with `cargo sandbox up{}`", suffix(name));
    };
    let layout = Layout { root: dir };
    let Some(user) = &args.user else { return Ok(layout.admin()) };
    let authority = Authority::read(&layout.pki(), "ca", AUTHORITY)?;
    let certificate = authority.certificate().to_owned();
    let endpoint =
        Endpoint { server: state.server, authority: certificate, cluster: state.cluster };
    let groups: Vec<&str> = args.groups.iter().map(String::as_str).collect();
    super::write_user(&layout, &authority, &endpoint, user, &groups)
}
