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
    Run(run::Args),
    /// Write the files that are generated from the code (crds/, deploy/), or check them.
    Generate(generate::Args),
    /// A throw-away cluster of real components on this machine, to try things in.
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::cli::Args),
}

fn main() -> ExitCode {
    // First of all, before any connection: see Cargo.toml on TLS providers.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match Cli::parse().command {
        Command::Run(args) => run::main(&args),
        Command::Generate(args) => generate::main(&args),
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox::cli::main(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
