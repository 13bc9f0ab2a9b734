//! The binary `coldstream`: reads the command line, runs it, ends with its exit code.

use std::process::ExitCode;

use clap::Parser;
use ops::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    rustls::crypto::ring::default_provider().install_default().expect("nothing was installed before");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => {
            eprintln!("coldstream: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
