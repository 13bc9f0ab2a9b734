//! UmaDB's own server as it is, built from its crate so that the benchmark starts the version that it names. It must
//! never set what UmaDB's command line leaves at its default.

use std::process::ExitCode;

use umadb::{parse_cli_options, start_server_with_cli_options};

fn main() -> ExitCode {
    match parse_cli_options(std::env::args()).and_then(start_server_with_cli_options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
