//! `coldstream archive status|run|verify|scrub|sweep`.

use clap::Subcommand;
use segment_store::S3Store;
use serde_json::json;

use super::Context;
use super::audit::{self, print_report};
use super::output::{CliError, confirm, counted, table};
use crate::http::archive::{ArchiveRun, ArchiveStatus, Orphans, ScrubRun};
use crate::node;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// What is archived, verified, confirmed, signed and live
    Status,
    /// Seal what is due and prune what is proven, now
    Run {
        /// Seal up to the head, whatever the rules say
        #[arg(long)]
        everything: bool,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Read this region's whole bucket and check every byte, without the database
    Verify,
    /// Read stored objects again, least recently verified first, and heal what is damaged
    Scrub {
        /// Bytes to read again at most; without it, all
        #[arg(long)]
        bytes: Option<u64>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Remove objects that an interrupted seal left behind; the server does so by itself, a thousand every ten minutes
    Sweep {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(context: &Context, command: ArchiveCommand) -> Result<(), CliError> {
    match command {
        ArchiveCommand::Status => {
            let status: ArchiveStatus = context.client()?.get("/v1/archive/status", &[]).await?;
            context.output.data(&status, status_for_people)
        }
        ArchiveCommand::Run { everything, yes } => {
            let what = if everything { "every event up to the head" } else { "what is due" };
            let plan = [format!("seal {what}"), "prune the months that are proven".to_owned()];
            confirm(&plan, yes)?;
            let run: ArchiveRun =
                context.client()?.post("/v1/admin/archive-run", &json!({"everything": everything})).await?;
            context.output.data(&run, run_for_people)
        }
        ArchiveCommand::Verify => verify(context).await,
        ArchiveCommand::Sweep { yes } => sweep(context, yes).await,
        ArchiveCommand::Scrub { bytes, yes } => {
            confirm(&["read stored objects again, and rewrite damaged ones from the other bucket".to_owned()], yes)?;
            let run: ScrubRun = context.client()?.post("/v1/admin/scrub", &json!({"bytes": bytes})).await?;
            context.output.data(&run, scrub_for_people)?;
            if run.lost.is_empty() { Ok(()) } else { Err(CliError::NotProven("no good copy is left".to_owned())) }
        }
    }
}

async fn sweep(context: &Context, yes: bool) -> Result<(), CliError> {
    let client = context.client()?;
    let orphans: Orphans = client.get("/v1/archive/orphans", &[]).await?;
    if !orphans.keys.is_empty() {
        confirm(&orphans.keys.iter().map(|key| format!("remove {key}")).collect::<Vec<_>>(), yes)?;
    }
    // The server looks again: what it removes is what it finds then.
    let removed: Orphans =
        if orphans.keys.is_empty() { orphans } else { client.post("/v1/admin/sweep", &json!({})).await? };
    context
        .output
        .data(&removed, |removed| table(&[("removed".to_owned(), listed(&removed.keys, "object", "objects"))]))
}

async fn verify(context: &Context) -> Result<(), CliError> {
    let config = &context.config;
    let store = config.archive.store.as_ref();
    let store = store.ok_or_else(|| CliError::Usage("archive.store is not configured".to_owned()))?;
    let store = S3Store::connect(store).map_err(CliError::failed("opening the bucket"))?;
    let keys = node::public_keys(config).map_err(CliError::failed("reading the public keys"))?;
    print_report(context, &audit::verify(&store, &keys, None).await?)
}

fn status_for_people(status: &ArchiveStatus) -> String {
    let none = || "none".to_owned();
    let mut rows = vec![
        ("archived".to_owned(), format!("up to {} in {} segments", status.archived_head, status.segments)),
        ("verified here".to_owned(), format!("{} segments", status.verified)),
        ("confirmed there".to_owned(), format!("{} segments", status.confirmed)),
        ("signed by both".to_owned(), status.cosigned_head.clone().unwrap_or_else(none)),
        ("stored".to_owned(), format!("{} bytes for {} bytes of records", status.stored_bytes, status.record_bytes)),
        ("last read".to_owned(), status.oldest_verified_at.clone().unwrap_or_else(none)),
    ];
    for month in &status.partitions {
        rows.push((format!("live {}", &month.month[..7]), format!("{} to {}", month.first, month.last)));
    }
    table(&rows)
}

fn run_for_people(run: &ArchiveRun) -> String {
    let nothing = || "nothing".to_owned();
    let sealed: Vec<String> = run.sealed.iter().map(|[first, last]| format!("{first} to {last}")).collect();
    let sealed = run.not_sealed.clone().unwrap_or_else(|| listed(&sealed, "segment", "segments"));
    let rows = [
        ("sealed", sealed),
        ("pruned", listed(&run.pruned, "month", "months")),
        ("waiting", run.waiting.clone().unwrap_or_else(nothing)),
    ];
    table(&rows.map(|(name, value)| (name.to_owned(), value)))
}

fn scrub_for_people(run: &ScrubRun) -> String {
    let rows = [
        ("segments read", run.segments.clone()),
        ("bytes read", run.bytes.clone()),
        ("damaged", run.damaged.clone()),
        ("lost", listed(&run.lost, "object", "objects")),
    ];
    table(&rows.map(|(name, value)| (name.to_owned(), value)))
}

fn listed(all: &[String], one: &str, many: &str) -> String {
    if all.is_empty() { "nothing".to_owned() } else { format!("{}: {}", counted(all.len(), one, many), all.join(", ")) }
}
