//! A program beside the servers that keeps a view of your own. To copy, with the view itself:
//!
//! - `own_view install` once, and after each change of its fold; as an administrator (`COLDSTREAM_ADMIN_URL`);
//! - `own_view run` for ever, in as many processes as you like: one of them moves it, the others take over;
//! - `own_view rebuild` where the fold has grown: beside the rows that are served, which it then takes the place of;
//! - `coldstream projection status`, the metrics of the server and its alerts know the view as they know their own;
//! - `coldstream projection uninstall view_changes_by_author` when it is not wanted any more.
//!
//! The configuration is the server's (`COLDSTREAM_CONFIG`). What you serve to your own clients, you read from
//! `view_changes_by_author.changes` in the database, after [`Runner::at_least`] where it has to be new enough.

#[path = "../../projections/examples/changes_by_author.rs"]
pub mod changes_by_author;

use std::path::Path;
use std::sync::Arc;

use changes_by_author::ChangesByAuthor;
use event_log::Admin;
use ops::config::{Config, Overrides};
use ops::node::Node;
use projections::rebuild::{Differences, Rebuild, Rebuilt, Unwatched};
use projections::runner::Runner;
use tokio::signal::unix::{SignalKind, signal};

/// Whatever ends the program.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Creates its tables, or notes that its fold has grown.
///
/// # Errors
/// What the database said; nothing was changed then.
pub async fn install(admin_url: &str) -> Result<(), Failed> {
    let mut admin = Admin::connect(admin_url).await?;
    Ok(projections::install(admin.as_owner().await?, &ChangesByAuthor).await?)
}

/// What moves it, over live log and archive.
pub fn runner(node: &Node, config: &Config) -> Runner<ChangesByAuthor> {
    let (pool, reader, clock) = (node.views.clone(), node.reader.clone(), node.clock.clone());
    Runner::new(pool, reader, clock, config.live_window(), ChangesByAuthor)
}

/// Builds the next version beside, compares, and swaps; after a kill, again from where it was.
///
/// # Errors
/// As [`Rebuild::run`] says.
pub async fn rebuild(node: &Node) -> Result<Rebuilt, Failed> {
    let (pool, reader) = (node.views.clone(), node.reader.clone());
    Ok(Rebuild::new(pool, reader, ChangesByAuthor, Arc::new(Unwatched)).run(Differences::Refused).await?)
}

/// Ready once SIGTERM or SIGINT has come: a supervisor sends the one, a terminal the other.
///
/// # Errors
/// If signals cannot be listened for.
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The program.
///
/// # Errors
/// What ended it.
pub async fn program(command: &str) -> Result<(), Failed> {
    if command == "install" {
        return install(&std::env::var("COLDSTREAM_ADMIN_URL")?).await;
    }
    // Before anything is started: a signal that comes meanwhile is not lost.
    let ending = asked_to_end()?;
    let overrides = Overrides { environment: std::env::vars().collect(), flags: Vec::new() };
    let config = Config::load(Some(Path::new(&std::env::var("COLDSTREAM_CONFIG")?)), &overrides)?;
    let node = Node::open(&config).await?;
    match command {
        "run" => runner(&node, &config).run(ending).await?,
        "rebuild" => println!("version {} is live", rebuild(&node).await?.version),
        _ => return Err("install, run or rebuild".into()),
    }
    node.log.shut_down().await;
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "a test has this file as a module")]
async fn main() -> Result<(), Failed> {
    program(&std::env::args().nth(1).unwrap_or_default()).await
}
