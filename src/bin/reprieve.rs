//! The operator, and everything that it brings along.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reprieve::cli::{generate, run};
#[cfg(feature = "sandbox")]
use reprieve::sandbox;

/// A Kubernetes operator that gives every deletion of a tenant site a reprieve.
#[derive(Debug, Parser)]
#[command(name = "reprieve", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator until SIGTERM or SIGINT.
    Run(Box<run::Args>),
    /// Write the files that are generated from the code (crds/, deploy/), or check them.
    Generate(generate::Args),
    /// A throw-away cluster of real components on this machine, to try things in.
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::cli::Args),
    /// Play the road of a deletion on a throw-away cluster, and check every claim on the way.
    ///
    /// Starts a sandbox with a fleet of tenants, each with an application of several tiers. Then the
    /// script of April 2022 is refused; an honest request for five sites is planned, approved by
    /// two people, held, cancelled; asked for again, purged, and restored.
    ///
    /// Each line with a tick was checked against the cluster in that moment. The exit code is 0 when
    /// all were true, and 1 when one was not: then it says what was expected and what was seen, and
    /// where the logs are. Afterwards, and on Ctrl-C, everything is gone, unless --keep is given.
    ///
    /// The first run builds the control plane with Go, which takes minutes; see `reprieve sandbox
    /// up --help`. NO_COLOR is honoured.
    #[cfg(feature = "sandbox")]
    Demo(sandbox::demo::Args),
}

fn main() -> ExitCode {
    // First of all, before any connection: see Cargo.toml on TLS providers.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(&args),
        Command::Generate(args) => generate::main(&args),
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox::cli::main(&args),
        #[cfg(feature = "sandbox")]
        Command::Demo(args) => sandbox::demo::main(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
