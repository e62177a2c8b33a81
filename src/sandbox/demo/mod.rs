//! `reprieve demo`, in a checkout `cargo demo`: the road of a deletion, played on a sandbox.
//!
//! - `show` prints, waits, and counts the claims.
//! - `fleet` makes the tenants, and knows what all of them hold.
//! - `stage` has the people, and what they do.
//! - `acts` and `ending` are the story.
//!
//! Nothing is printed as true that was not checked in that moment, from outside: on what the API
//! server answers, not on what the operator says of itself alone.

mod acts;
mod ending;
mod fleet;
mod show;
mod stage;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::fleet::{Snapshot, Tenant};
use self::show::{Broken, Show, seconds};
use self::stage::{People, Stage};
use super::cli::folder;
use super::{Operator, Options, Progress, Sandbox};
use crate::cluster::discover::discover;

/// How many sites are deleted and come back.
const DOOMED: usize = 5;
/// The name of a sandbox that is kept.
const NAME: &str = "demo";
/// The exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Arguments of `reprieve demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many tenants the fleet has; five of them are deleted and restored.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(6..=1000))]
    sites: u16,
    /// Leave the cluster running afterwards, as the sandbox `demo`, to look around in it.
    #[arg(long)]
    keep: bool,
}

/// Carries `reprieve demo` out: 0 when every claim came true, 1 when one did not.
///
/// # Errors
/// The sandbox cannot be started, or somebody cannot do what they may.
pub fn main(args: &Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = play(args) => result,
            // Whatever runs ends with what holds it: the sandbox is dropped.
            signal = interrupted() => signal.map(|()| None),
        }
    });
    // A build of the control plane may still be on its way to its end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    Ok(match result? {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            eprintln!("interrupted: the sandbox is gone, nothing is left running");
            ExitCode::from(INTERRUPTED)
        }
    })
}

/// Waits for Ctrl-C, or another signal to end.
async fn interrupted() -> Result<()> {
    let mut int = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut term = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
    Ok(())
}

/// Plays it all; tells whether every claim came true.
async fn play(args: &Args) -> Result<Option<bool>> {
    let mut show = Show::new();
    let dir = if args.keep { Some(free_folder()?) } else { None };
    let total = usize::from(args.sites);
    show.title(&format!("The road of a deletion, on a real control plane, with {total} sites"));
    let options = Options {
        dir,
        name: if args.keep { format!("sandbox-{NAME}") } else { NAME.to_owned() },
        progress: Progress::Visible,
        ..Options::new(std::env::current_exe().context("cannot find this program")?)
    };
    let sandbox = Sandbox::start(options).await?;
    let (operator, result) = match set_up(&sandbox).await {
        Ok(operator) => (Some(operator), acts(&sandbox, &mut show, total).await),
        Err(error) => (None, Err(error)),
    };
    match result {
        Ok(Times { purge, restore }) => {
            let (claims, took) = (show.claims(), seconds(show.elapsed()));
            let kept = end(sandbox, operator, args.keep)?;
            show.summary(&format!("{claims} claims, each checked, all true, in {took}."));
            show.line(format!(
                "{DOOMED} sites of {total} purged in {}, restored and verified in {}.",
                seconds(purge),
                seconds(restore)
            ));
            how_to_go_on(&show, kept.as_deref());
            Ok(Some(true))
        }
        Err(error) => {
            // What never came up is of no use to anybody.
            let keep = args.keep && operator.is_some();
            let logs = keep_logs(&sandbox, keep);
            let kept = end(sandbox, operator, keep)?;
            match error.downcast_ref::<Broken>() {
                Some(broken) => {
                    show.broken(broken);
                    if kept.is_some() {
                        how_to_go_on(&show, kept.as_deref());
                    }
                    eprintln!("error: a claim did not come true; the logs are in {}", logs?);
                    Ok(Some(false))
                }
                None => Err(error.context(format!("the demo cannot go on, see {}", logs?))),
            }
        }
    }
}

/// Installs Reprieve and starts it.
async fn set_up(sandbox: &Sandbox) -> Result<Operator> {
    sandbox.install().await?;
    let step = Progress::Visible.step("starting the operator");
    let operator = sandbox.start_operator(&[]).await?;
    step.done("the operator is ready");
    Ok(operator)
}

/// What was measured.
struct Times {
    purge: Duration,
    restore: Duration,
}

/// The story.
async fn acts(sandbox: &Sandbox, show: &mut Show, total: usize) -> Result<Times> {
    let admin = sandbox.admin();
    let tenants = fleet::tenants(total);
    let mut stage = Stage {
        people: People::arrive(sandbox).await?,
        kinds: discover(&admin).await?,
        five: spread(&tenants),
        admin,
        show,
        tenants,
        before: Snapshot::default(),
    };
    acts::fleet(&mut stage).await?;
    acts::april(&mut stage).await?;
    acts::honest_request(&mut stage, "contracts-ended").await?;
    acts::cancel(&mut stage, "contracts-ended").await?;
    let purge = ending::purge(&mut stage, "contracts-ended-2").await?;
    let restore = ending::restore(&mut stage, "contracts-ended-2").await?;
    Ok(Times { purge, restore })
}

/// Five sites from all over the fleet.
fn spread(tenants: &[Tenant]) -> BTreeSet<String> {
    let step = tenants.len() / DOOMED;
    tenants.iter().skip(step / 2).step_by(step).take(DOOMED).map(|t| t.site.clone()).collect()
}

/// The folder of the sandbox that is kept, if there is none yet.
fn free_folder() -> Result<PathBuf> {
    let dir = folder(NAME)?;
    if dir.exists() {
        bail!(
            "sandbox {NAME:?} is up already; take it down with `cargo sandbox down --name {NAME}`"
        );
    }
    Ok(dir)
}

/// Takes the cluster down, or lets it live on: then the administrator's kubeconfig.
fn end(sandbox: Sandbox, operator: Option<Operator>, keep: bool) -> Result<Option<PathBuf>> {
    if keep {
        let kubeconfig = sandbox.admin_kubeconfig();
        sandbox.detach(operator)?;
        return Ok(Some(kubeconfig));
    }
    drop(operator);
    sandbox.stop()?;
    Ok(None)
}

fn how_to_go_on(show: &Show, kept: Option<&Path>) {
    let Some(kubeconfig) = kept else {
        show.line("Everything is cleaned up. A cluster of your own to try it in: cargo sandbox up");
        return;
    };
    show.line(format!(
        "\nThe cluster lives on. To look around in it:\n  export KUBECONFIG={}",
        kubeconfig.display()
    ));
    show.line("  kubectl get sites,dreq,bkp,rst");
    show.line(format!(
        "  export KUBECONFIG=$(cargo sandbox kubeconfig --name {NAME} --user alice)"
    ));
    show.line(format!("Take it down: cargo sandbox down --name {NAME}"));
}

/// Copies the logs of a sandbox that will be removed, and says where they are.
fn keep_logs(sandbox: &Sandbox, kept: bool) -> Result<String> {
    let logs = sandbox.layout.logs();
    if kept {
        return Ok(logs.display().to_string());
    }
    let to = std::env::temp_dir().join(format!("reprieve-demo-logs-{}", std::process::id()));
    copy_logs(&logs, &sandbox.audit_log(), &to)
        .with_context(|| format!("cannot copy the logs to {}", to.display()))?;
    Ok(to.display().to_string())
}

fn copy_logs(logs: &Path, audit: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    let files = fs::read_dir(logs)?.map(|entry| entry.map(|entry| entry.path()));
    for file in files.chain([Ok(audit.to_owned())]) {
        let file = file?;
        if let Some(name) = file.file_name().filter(|_| file.is_file()) {
            fs::copy(&file, to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_sites_of_any_fleet() {
        for total in [6, 11, 40, 1000] {
            assert_eq!(spread(&fleet::tenants(total)).len(), DOOMED, "{total}");
        }
    }
}
