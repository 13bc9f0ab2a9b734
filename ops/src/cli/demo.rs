//! `coldstream demo`: one history goes all the way through two regions on this machine.

use std::path::PathBuf;

use super::output::CliError;
use crate::demo::{self, DemoOptions};

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// A history: CloudEvents 1.0, one a line, oldest first; plain or zstd. NAME.oracle.json beside it is checked.
    /// Without one, a year and a half is generated
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Folder for what an outsider can check: both buckets, public keys, journals, figures
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The outsider's script, tests/outsider.py, to run at the end
    #[arg(long, value_name = "FILE")]
    outsider: Option<PathBuf>,
    /// Seed of the generated history
    #[arg(long, default_value_t = 20_260_501)]
    seed: u64,
}

pub(super) async fn demo(args: DemoArgs) -> Result<(), CliError> {
    let DemoArgs { history, keep, outsider, seed } = args;
    demo::run(&DemoOptions { history, keep, outsider, seed }).await.map_err(CliError::failed("the demo"))
}
