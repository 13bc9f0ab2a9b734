//! `coldstream audit verify|replay`: from a bucket and public keys alone, as an outsider.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use archiver::audit::{self, AsOf, AuditReport, ReplayError};
use clap::Subcommand;
use domain::keys::KeyRing;
use domain::{Position, Timestamp};
use segment_store::{S3Store, StoreConfig};

use super::Context;
use super::output::{CliError, counted, not_printed, say, table};
use super::progress::AuditBar;
use crate::clock::Stopwatch;
use crate::{node, subject};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check every digest, leaf and signature. Exit 3: not proven
    Verify {
        #[command(flatten)]
        bucket: BucketArgs,
        /// A signed checkpoint that you kept: the bucket must reach it and agree with it
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Print the records in order, each verified before it is printed, one JSON line each: as the source spelled them,
    /// content with its id as subject
    Replay {
        #[command(flatten)]
        bucket: BucketArgs,
        /// Up to this position, event id or instant of recordedat (event:ID, with --source if need be)
        #[arg(long, value_name = "POSITION|ID|INSTANT")]
        as_of: Option<String>,
        /// The source of the event that --as-of names
        #[arg(long)]
        source: Option<String>,
        /// The records' own lines, byte for byte: what is stored, shipped and hashed
        #[arg(long)]
        raw: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct BucketArgs {
    /// The bucket; without it, archive.store of the configuration
    #[arg(long)]
    bucket: Option<String>,
    /// URL of the endpoint
    #[arg(long, value_name = "URL", requires = "bucket")]
    endpoint: Option<String>,
    /// File with public keys, one a line
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl BucketArgs {
    fn store(&self, context: &Context) -> Result<S3Store, CliError> {
        let configured = context.config.archive.store.clone();
        let config = match (&self.bucket, configured) {
            (None, Some(store)) => store,
            (None, None) => return Err(CliError::Usage("--bucket is needed: archive.store is not configured".into())),
            (Some(bucket), configured) => {
                // Credentials of the configuration, else of the environment (AWS_ACCESS_KEY_ID …).
                let mut store = configured.unwrap_or_else(|| environment_store(bucket));
                store.bucket.clone_from(bucket);
                if self.endpoint.is_some() {
                    store.endpoint.clone_from(&self.endpoint);
                    store.path_style = true;
                }
                store
            }
        };
        S3Store::connect(&config).map_err(CliError::failed("opening the bucket"))
    }

    fn keys(&self, context: &Context) -> Result<KeyRing, CliError> {
        match &self.keys {
            Some(file) => KeyRing::parse(&read(file)?)
                .map_err(|error| CliError::Usage(format!("the public keys in {}: {error}", file.display()))),
            None => node::public_keys(&context.config).map_err(CliError::failed("reading the public keys")),
        }
    }
}

fn environment_store(bucket: &str) -> StoreConfig {
    let mut store = StoreConfig::at("", bucket, "", "");
    (store.endpoint, store.path_style) = (None, false);
    (store.access_key_id, store.secret_access_key) = (None, None);
    store
}

pub(super) async fn run(context: &Context, command: AuditCommand) -> Result<(), CliError> {
    match command {
        AuditCommand::Verify { bucket, checkpoint } => {
            let (store, keys) = (bucket.store(context)?, bucket.keys(context)?);
            let kept = checkpoint.as_deref().map(read).transpose()?;
            let watch = Stopwatch::start();
            let report = verify(&store, &keys, kept.as_deref()).await?;
            let seconds = watch.elapsed().as_secs_f64();
            say(format!("{} in {seconds:.3} s", counted(report.records, "record", "records")));
            if kept.is_none() {
                say("without a checkpoint of yours (--checkpoint) nobody can know of anything newer than this bucket");
            }
            print_report(context, &report)
        }
        AuditCommand::Replay { bucket, as_of, source, raw } => {
            let (store, keys) = (bucket.store(context)?, bucket.keys(context)?);
            replay(&store, &keys, &as_of_said(as_of.as_deref(), source), raw).await
        }
    }
}

/// What `--as-of` means: digits are a position, an RFC 3339 instant is one, all else is an event's id.
fn as_of_said(text: Option<&str>, source: Option<String>) -> AsOf {
    let Some(text) = text else { return AsOf::Head };
    if let Some(id) = text.strip_prefix("event:") {
        return AsOf::Event { id: id.to_owned(), source };
    }
    if source.is_none() {
        if let Some(position) = text.parse().ok().and_then(Position::new) {
            return AsOf::Position(position);
        }
        if let Ok(instant) = Timestamp::parse_rfc3339(text) {
            return AsOf::Instant(instant);
        }
    }
    AsOf::Event { id: text.to_owned(), source }
}

async fn replay(store: &S3Store, keys: &KeyRing, as_of: &AsOf, raw: bool) -> Result<(), CliError> {
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout());
    let report = audit::replay(store, keys, as_of, &mut |_record, line| {
        if raw {
            out.write_all(line)?;
        } else {
            out.write_all(&subject::of_source(line.to_vec()))?;
        }
        out.write_all(b"\n")
    })
    .await
    .map_err(|error| match error {
        ReplayError::Sink(error) => not_printed(error),
        other => CliError::failed("the replay")(other),
    })?;
    out.flush().map_err(not_printed)?;
    say(format!("replayed up to {}; the archive ends at {}", report.replayed, report.archived));
    let beyond = matches!(as_of, AsOf::Position(position) if !report.archived.includes(*position));
    if beyond {
        return Err(CliError::NotProven("the archive ends before that position".to_owned()));
    }
    Ok(())
}

/// Verifies a bucket, and shows how far it is where somebody watches.
pub(super) async fn verify(store: &S3Store, keys: &KeyRing, kept: Option<&str>) -> Result<AuditReport, CliError> {
    let bar = AuditBar::new();
    let report = audit::verify(store, keys, kept, &|report| bar.show(report)).await;
    bar.finish();
    report.map_err(CliError::failed("reading the bucket"))
}

/// Prints a report; a finding is the verdict "not proven".
pub(super) fn print_report(context: &Context, report: &AuditReport) -> Result<(), CliError> {
    context.output.data(report, people)?;
    if !report.has_archive() {
        return Err(CliError::NotProven(
            "the bucket has no manifest: is it the right one, and was it sealed?".to_owned(),
        ));
    }
    if report.is_proven() {
        return Ok(());
    }
    Err(CliError::NotProven(counted(report.findings.len(), "finding", "findings")))
}

fn people(report: &AuditReport) -> String {
    let mut rows = vec![
        ("log", report.log.clone()),
        ("verified", format!("up to {} of {}", report.verified_head, report.archived_head)),
        ("root", report.root.clone()),
        ("segments", format!("{}, {} confirmed by another region", report.segments, report.confirmed_segments)),
        ("manifests", report.manifests.to_string()),
        ("checkpoints", format!("{} right, {} beyond the archive", report.checkpoints, report.checkpoints_beyond)),
        ("signed by both", report.cosigned_head.map_or_else(|| "none".to_owned(), |size| size.to_string())),
        ("bytes", format!("{} stored, {} of records", report.stored_bytes, report.record_bytes)),
        ("orphans", report.orphans.len().to_string()),
        ("verdict", if report.has_archive() && report.is_proven() { "proven" } else { "NOT PROVEN" }.to_owned()),
    ];
    rows.extend(report.findings.iter().map(|finding| ("finding", format!("{}: {}", finding.object, finding.reason))));
    table(&rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>())
}

fn read(file: &Path) -> Result<String, CliError> {
    let text = std::fs::read_to_string(file);
    text.map_err(|error| CliError::Usage(format!("cannot read {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_of_is_a_position_an_instant_or_an_event() {
        let event = |id: &str, source: Option<&str>| AsOf::Event { id: id.into(), source: source.map(str::to_owned) };
        assert_eq!(as_of_said(None, None), AsOf::Head);
        assert_eq!(as_of_said(Some("7"), None), AsOf::Position(Position::new(7).expect("from 1")));
        assert!(matches!(as_of_said(Some("2020-01-01T00:00:00+01:00"), None), AsOf::Instant(_)));
        assert_eq!(as_of_said(Some("restic:0000007"), None), event("restic:0000007", None));
        assert_eq!(as_of_said(Some("7"), Some("/h".into())), event("7", Some("/h")));
        assert_eq!(as_of_said(Some("event:7"), None), event("7", None));
        assert_eq!(as_of_said(Some("0"), None), event("0", None));
    }
}
