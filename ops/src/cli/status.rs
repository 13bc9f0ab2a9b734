//! `coldstream status`: both regions on one screen.

use serde::Serialize;

use super::Context;
use super::client::Client;
use super::output::{CliError, table};
use crate::http::status::Status;

/// What `coldstream status --json` prints.
#[derive(Debug, Serialize)]
struct Statuses {
    /// The region that was asked.
    own: Status,
    /// The other one, if the configuration names it and it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Status>,
    /// Why the other one did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_error: Option<String>,
}

pub(super) async fn status(context: &Context) -> Result<(), CliError> {
    let own: Status = context.client()?.get("/v1/status", &[]).await?;
    let peer = match Client::peer(&context.config)? {
        Some(peer) => Some(peer.get::<Status>("/v1/status", &[]).await),
        None => None,
    };
    // A region that is away is what a status is read for: it is said, and no failure.
    let (peer, peer_error) = match peer {
        Some(Ok(peer)) => (Some(peer), None),
        Some(Err(error)) => (None, Some(error.line())),
        None => (None, None),
    };
    context.output.data(&Statuses { own, peer, peer_error }, people)
}

fn people(statuses: &Statuses) -> String {
    let mut text = region(&statuses.own);
    match (&statuses.peer, &statuses.peer_error) {
        (Some(peer), _) => text.push_str(&format!("\n{}", region(peer))),
        (None, Some(error)) => text.push_str(&format!("\nthe other region does not answer: {error}\n")),
        (None, None) => text.push_str("\nno other region is configured\n"),
    }
    text
}

fn region(status: &Status) -> String {
    let simulated = if status.simulated { ", simulated time" } else { "" };
    let mut rows = vec![
        ("region".to_owned(), format!("{}: {} in epoch {}", status.region, status.role, status.epoch)),
        ("head".to_owned(), format!("{}, recorded {}{simulated}", status.head, status.recordedat)),
        ("pruned".to_owned(), format!("up to {}", status.pruned)),
    ];
    rows.extend(status.warnings.iter().map(|warning| ("warning".to_owned(), warning.clone())));
    for (name, worker) in &status.workers {
        let error = worker.error.as_ref().filter(|_| worker.state != "working");
        let text = match error {
            Some(error) => format!("{}: {error}", worker.state),
            None => format!("{} {}", worker.state, worker.note),
        };
        rows.push((name.clone(), text));
    }
    table(&rows)
}
