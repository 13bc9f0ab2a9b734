//! `coldstream group list|show|create|parked|replay|discard|remove`: consumer groups of a running server. Workers take and
//! settle over the API; here is what a person looks at and decides.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Context;
use super::output::{CliError, confirm, counted, table};
use crate::http::groups::{GroupInfo, GroupStatusAnswer, ParkedEvent};

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// All groups: checkpoint, lag, what is unsettled and parked
    List,
    /// One group, with its settings
    Show {
        /// The group
        group: String,
    },
    /// Create a group; with the same values again it is the same group
    Create(CreateArgs),
    /// Parked events, with the reason of the last failure
    Parked {
        /// The group
        group: String,
        /// Only those after this position
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u64,
    },
    /// Hand parked events out once more, out of their streams' order
    Replay {
        /// The group
        group: String,
        /// Their positions
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        positions: Vec<u64>,
        /// All that are parked
        #[arg(long)]
        all: bool,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Give parked events up: no worker of the group sees them again
    Discard {
        /// The group
        group: String,
        /// Their positions
        #[arg(required = true)]
        positions: Vec<u64>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Remove a group with all that it remembers; events stay as they are
    Remove {
        /// The group
        group: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Its name: a-z, 0-9, _ and -
    group: String,
    /// Only events of streams of this category; may be given several times
    #[arg(long)]
    category: Vec<String>,
    /// Only events of this type; may be given several times
    #[arg(long = "type")]
    event_type: Vec<String>,
    /// Only events of streams whose names begin so; may be given several times
    #[arg(long)]
    stream_prefix: Vec<String>,
    /// Begin with the event at this position; without it, with what is appended from now on
    #[arg(long)]
    from: Option<u64>,
    /// How long a worker has an event for itself
    #[arg(long)]
    lease_seconds: Option<u32>,
    /// Park an event after so many failed attempts
    #[arg(long)]
    attempts_max: Option<u32>,
    /// Wait so long after the first failed attempt, and twice as long after each further one
    #[arg(long)]
    retry_first_seconds: Option<u32>,
    /// But never longer than this
    #[arg(long)]
    retry_max_seconds: Option<u32>,
    /// Events that are listed and not settled, at most
    #[arg(long)]
    unsettled_max: Option<u32>,
}

/// All groups, as the API says.
#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<GroupStatusAnswer>,
}

#[derive(Debug, Deserialize)]
struct ParkedEvents {
    parked: Vec<ParkedEvent>,
}

/// How many events an act has changed.
#[derive(Debug, Serialize, Deserialize)]
struct Changed {
    events: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Removed {
    removed: bool,
}

pub(super) async fn run(context: &Context, command: GroupCommand) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        GroupCommand::List => {
            let Groups { groups } = client.get("/v1/groups", &[]).await?;
            context.output.data(&groups, |groups| groups.iter().map(line).collect())
        }
        GroupCommand::Show { group } => {
            let status: GroupStatusAnswer = client.get("/v1/group/status", &[("group", &group)]).await?;
            context.output.data(&status, |status| table(&rows(status)))
        }
        GroupCommand::Create(args) => {
            let made: GroupInfo = client.post("/v1/group/create", &args.body()).await?;
            context.output.data(&made, |made| made.group.clone())
        }
        GroupCommand::Parked { group, after, limit } => {
            let query = [("group", group), ("after", after.to_string()), ("limit", limit.to_string())];
            let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let ParkedEvents { parked } = client.get("/v1/group/parked", &query).await?;
            context.output.data(&parked, |parked| parked.iter().map(parked_line).collect())
        }
        GroupCommand::Replay { group, positions, all, yes } => {
            let (what, which) = match all {
                true => ("all parked events".to_owned(), json!({"group": group, "all": true})),
                false => (at(&positions), json!({"group": group, "positions": texts(&positions)})),
            };
            confirm(&[format!("hand {what} of {group} out once more, as if they had never failed")], yes)?;
            let changed: Changed = client.post("/v1/group/replay", &which).await?;
            context.output.data(&changed, |changed| said(changed, "ready once more"))
        }
        GroupCommand::Discard { group, positions, yes } => {
            confirm(&[format!("give {} of {group} up for good", at(&positions))], yes)?;
            let which = json!({"group": group, "positions": texts(&positions)});
            let changed: Changed = client.post("/v1/group/discard", &which).await?;
            context.output.data(&changed, |changed| said(changed, "given up"))
        }
        GroupCommand::Remove { group, yes } => {
            confirm(&[format!("remove {group}: what it has not settled and what it has parked is forgotten")], yes)?;
            let removed: Removed = client.post("/v1/group/remove", &json!({ "group": group })).await?;
            let words = |done: &Removed| if done.removed { "removed" } else { "there is no such group" }.to_owned();
            context.output.data(&removed, words)
        }
    }
}

impl CreateArgs {
    fn body(&self) -> Value {
        let mut body = json!({
            "group": self.group, "category": self.category, "type": self.event_type,
            "stream_prefix": self.stream_prefix,
        });
        if let Some(from) = self.from {
            body["from"] = Value::from(from.to_string());
        }
        let settings = [
            ("lease_seconds", self.lease_seconds),
            ("attempts_max", self.attempts_max),
            ("retry_first_seconds", self.retry_first_seconds),
            ("retry_max_seconds", self.retry_max_seconds),
            ("unsettled_max", self.unsettled_max),
        ];
        for (name, value) in settings.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            body[name] = Value::from(value);
        }
        body
    }
}

fn texts(positions: &[u64]) -> Vec<String> {
    positions.iter().map(u64::to_string).collect()
}

/// The events at those positions, in words.
fn at(positions: &[u64]) -> String {
    match positions {
        [one] => format!("the parked event at {one}"),
        many => format!("the parked events at {}", texts(many).join(", ")),
    }
}

fn said(changed: &Changed, what: &str) -> String {
    let events: u64 = changed.events.parse().unwrap_or_default();
    format!("{} {what}", counted(events, "event is", "events are"))
}

fn line(status: &GroupStatusAnswer) -> String {
    let GroupStatusAnswer { made, checkpoint, lag, unsettled, parked, .. } = status;
    let name = &made.group;
    format!("{name:<24}  at {checkpoint}, {lag} behind the head, {unsettled} unsettled, {parked} parked\n")
}

fn parked_line(event: &ParkedEvent) -> String {
    let ParkedEvent { position, stream, attempts, reason, consumer, parked_at } = event;
    let attempts = counted(*attempts, "attempt", "attempts");
    format!("{position}  {stream}  {parked_at}  {attempts}, the last by {consumer}: {reason}\n")
}

/// Name and value of all that is known of a group.
fn rows(status: &GroupStatusAnswer) -> Vec<(String, String)> {
    let made = &status.made;
    let any = |values: &[String]| if values.is_empty() { "any".to_owned() } else { values.join(", ") };
    let age = status.oldest_unsettled_seconds.as_ref().map(|seconds| format!(", the oldest for {seconds} s"));
    let retries = format!("{} to {} s", made.retry_first_seconds, made.retry_max_seconds);
    let from = made.from.clone().unwrap_or_else(|| format!("the head at {}", made.created_at));
    [
        ("group", made.group.clone()),
        ("category", any(&made.category)),
        ("type", any(&made.r#type)),
        ("stream prefix", any(&made.stream_prefix)),
        ("from", from),
        ("checkpoint", format!("{}, {} behind the head", status.checkpoint, status.lag)),
        ("listed to", status.listed_to.clone()),
        ("unsettled", format!("{} of at most {}{}", status.unsettled, made.unsettled_max, age.unwrap_or_default())),
        ("parked", format!("{}, after {} attempts", status.parked, made.attempts_max)),
        ("leases", format!("{} s each, {} ran out", made.lease_seconds, status.leases_run_out)),
        ("retries after", retries),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}
