//! The operator, and everything that it brings along.

use std::process::ExitCode;

fn main() -> ExitCode {
    reprieve::cli::main()
}
