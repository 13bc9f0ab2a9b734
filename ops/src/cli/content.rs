//! `coldstream content now|history|list`.

use clap::Subcommand;

use super::Context;
use super::output::{CliError, table};
use crate::http::content::ContentItem;

#[derive(Debug, Subcommand)]
pub(super) enum ContentCommand {
    /// What an item is now
    Now {
        /// The item's id
        id: String,
        /// Leave it in the archive if it is there
        #[arg(long)]
        no_recall: bool,
        /// Wait until the view has this position, such as that of an append
        #[arg(long, value_name = "POSITION")]
        at_least: Option<String>,
    },
    /// All that happened to an item, live and archived: CloudEvents, one a line
    History {
        /// The item's id
        id: String,
        /// Newest first
        #[arg(long)]
        backward: bool,
        /// At most so many
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Items by id, one a line: those of the live window
    List {
        /// After this id
        #[arg(long)]
        after: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: u32,
        /// Those that have left the live window
        #[arg(long)]
        archived: bool,
    },
}

pub(super) async fn run(context: &Context, command: ContentCommand) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        ContentCommand::Now { id, no_recall, at_least } => {
            let recall = if no_recall { "false" } else { "true" };
            let mut query = vec![("id", id.as_str()), ("recall", recall)];
            query.extend(at_least.as_deref().map(|position| ("at_least", position)));
            let item: ContentItem = client.get("/v1/content", &query).await?;
            context.output.data(&item, people)
        }
        ContentCommand::History { id, backward, limit } => {
            let limit = limit.map(|limit| limit.to_string());
            let mut query = vec![("id", id.as_str())];
            query.extend(backward.then_some(("direction", "backward")));
            query.extend(limit.as_deref().map(|limit| ("limit", limit)));
            client.copy("/v1/content/history", &query).await
        }
        ContentCommand::List { after, limit, archived } => {
            let limit = limit.to_string();
            let archived = archived.to_string();
            let mut query = vec![("limit", limit.as_str()), ("archived", archived.as_str())];
            query.extend(after.as_deref().map(|after| ("after", after)));
            client.copy("/v1/content/list", &query).await
        }
    }
}

fn people(item: &ContentItem) -> String {
    let place = if item.live { "live" } else { "archived" };
    let mut rows = vec![
        ("id".to_owned(), item.id.clone()),
        ("state".to_owned(), format!("{} ({place})", item.state)),
        ("last change".to_owned(), format!("version {} at position {}", item.version, item.position)),
        ("recorded".to_owned(), item.recordedat.clone()),
        ("revisions".to_owned(), item.revisions.clone()),
    ];
    let optional = [
        ("oid", &item.oid),
        ("mode", &item.mode),
        ("size", &item.size),
        ("author", &item.author),
        ("time", &item.time),
    ];
    rows.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    table(&rows)
}
