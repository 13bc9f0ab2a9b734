//! `coldstream replication status` and `coldstream failover check|switchover|promote|…`.
//!
//! A switchover is driven from here, step by step: look at both regions, do the next step, look again. Nothing
//! of it is kept: after any crash the same command goes on from what it finds.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use replication::failover::{self, AcceptLoss, Behind, Outlook, Promote, Promoted, RegionAdmin, Step};
use replication::{PeerClient, Standing};
use serde::Serialize;

use super::Context;
use super::client::{self, read_token};
use super::output::{CliError, confirm, say, table};

/// While a follower catches up, both regions are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Clocks that differ by more stop appends and prunes.
const CLOCK_DIFFERENCE_MAX_SECONDS: i64 = 60;

#[derive(Debug, Subcommand)]
pub(super) enum ReplicationCommand {
    /// Where both regions stand
    Status(OtherArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum FailoverCommand {
    /// Go or no-go for a switchover, or for going on with one that was interrupted. Exit 3: no-go
    Check(OtherArgs),
    /// Planned: the other region takes over, nothing is lost. --server names the region that is active now
    Switchover {
        #[command(flatten)]
        other: OtherArgs,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Forced: the region that --server names takes over without the other one's consent
    Promote {
        /// The most events that may be lost; refused where that is not certain
        #[arg(long, value_name = "EVENTS", conflicts_with = "accept_unknown_loss")]
        accept_loss: Option<u64>,
        /// Go on though nobody knows how much the other region acknowledged since it was last heard of
        #[arg(long)]
        accept_unknown_loss: bool,
        /// Say that this is meant
        #[arg(long)]
        force: bool,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Take back a switchover that has only stopped appends: the region that --server names takes them again
    Resume {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Say that no newer epoch exists: a region that could ask nobody at its start takes appends
    ConfirmEpoch {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct OtherArgs {
    /// URL of the other region; without it, replication.peer_url of the configuration
    #[arg(long, value_name = "URL")]
    other: Option<String>,
    /// File with a token for the other region, of role operator where it is to act; without it,
    /// replication.token_file of the configuration, which is enough to look
    #[arg(long, value_name = "FILE")]
    other_token_file: Option<PathBuf>,
}

impl OtherArgs {
    fn client(&self, context: &Context) -> Result<PeerClient, CliError> {
        let url = self.other.clone().or_else(|| context.config.replication.peer_url.clone());
        let url =
            url.ok_or_else(|| CliError::Usage("--other is needed: replication.peer_url is not set".to_owned()))?;
        let file = self.other_token_file.as_ref().or(context.config.replication.token_file.as_ref());
        let file = file.ok_or_else(|| CliError::Usage("--other-token-file is needed".to_owned()))?;
        peer_client(context, &url, &read_token(file)?)
    }
}

fn peer_client(context: &Context, url: &str, token: &str) -> Result<PeerClient, CliError> {
    Ok(PeerClient::new(client::http(&context.config, |client| client)?, url, token))
}

fn own_client(context: &Context) -> Result<PeerClient, CliError> {
    let (url, token) = context.server.address(&context.config)?;
    peer_client(context, &url, &token)
}

#[derive(Debug, Serialize)]
struct Standings {
    own: Option<Standing>,
    other: Option<Standing>,
    /// The switchover that was begun and not finished; `null` if none is under way.
    under_way: Option<String>,
    /// What speaks against a switchover, or against going on with the one under way.
    doubts: Vec<String>,
}

pub(super) async fn replication(context: &Context, command: ReplicationCommand) -> Result<(), CliError> {
    let ReplicationCommand::Status(other) = command;
    let standings = look(context, &other).await?;
    context.output.data(&standings, people)
}

pub(super) async fn failover(context: &Context, command: FailoverCommand) -> Result<(), CliError> {
    match command {
        FailoverCommand::Check(other) => {
            let standings = look(context, &other).await?;
            context.output.data(&standings, people)?;
            if standings.doubts.is_empty() { Ok(()) } else { Err(CliError::NotProven(standings.doubts.join("; "))) }
        }
        FailoverCommand::Switchover { other, yes } => {
            let plan = [
                "the active region takes no more appends and seals nothing more",
                "the other region fetches what it lacks of the log and of the archive; `failover resume` takes it back",
                "heads, roots and last manifests are compared",
                "the other region claims the next epoch and takes appends",
                "the old region follows it",
            ];
            confirm(&plan.map(str::to_owned), yes)?;
            switch_over(context, &own_client(context)?, &other.client(context)?).await
        }
        FailoverCommand::Promote { accept_loss, accept_unknown_loss, force, yes } => {
            let accept = match (force, accept_loss, accept_unknown_loss) {
                (false, ..) => return Err(CliError::Usage("a promotion without consent needs --force".to_owned())),
                (true, _, true) => AcceptLoss::Unknown,
                (true, events, false) => AcceptLoss::Events(events.unwrap_or(0)),
            };
            promote(context, accept, yes).await
        }
        FailoverCommand::Resume { yes } => {
            confirm(&["the draining region claims the next epoch and takes appends again".to_owned()], yes)?;
            act(context, own_client(context)?.resume().await)
        }
        FailoverCommand::ConfirmEpoch { yes } => {
            confirm(&["the read-only region takes appends in its own epoch".to_owned()], yes)?;
            act(context, own_client(context)?.confirm().await)
        }
    }
}

fn act(context: &Context, stands: Result<Standing, failover::FailoverError>) -> Result<(), CliError> {
    context.output.data(&stands.map_err(CliError::failed("the act"))?, standing_line)
}

async fn look(context: &Context, other: &OtherArgs) -> Result<Standings, CliError> {
    let (own, other) = (own_client(context)?, other.client(context)?);
    let (own, other) = tokio::join!(RegionAdmin::standing(&own), RegionAdmin::standing(&other));
    let mut doubts = Vec::new();
    let mut keep = |name: &str, standing: Result<Standing, failover::FailoverError>| match standing {
        Ok(standing) => Some(standing),
        Err(error) => {
            doubts.push(format!("{name}: {}", crate::chain::chain(&error)));
            None
        }
    };
    let (own, other) = (keep("the own region", own), keep("the other region", other));
    let mut under_way = None;
    if let (Some(own), Some(other)) = (&own, &other) {
        let (found, about) = judge(own, other);
        under_way = found;
        doubts.extend(about);
    }
    Ok(Standings { own, other, under_way, doubts })
}

/// Whether a switchover is under way, and what speaks against one between two regions as they stand. Pure.
fn judge(own: &Standing, other: &Standing) -> (Option<String>, Vec<String>) {
    let mut doubts = Vec::new();
    let mut under_way = None;
    match failover::outlook(own, other) {
        Ok(Outlook::Ready { from, to }) => doubts.extend(lacks(&from, &to)),
        // What is still to be fetched is no doubt: appends have stopped, and going on fetches it.
        Ok(Outlook::UnderWay { from, to, next }) => under_way = Some(unfinished(&from, &to, &next)),
        Err(error) => doubts.push(error.to_string()),
    }
    if own.head == other.head && own.root != other.root {
        doubts.push(format!("the roots at {} differ", own.head));
    }
    let seconds = own.clock.micros_since(other.clock) / 1_000_000;
    if seconds.abs() > CLOCK_DIFFERENCE_MAX_SECONDS {
        doubts.push(format!("the clocks differ by {seconds} s"));
    }
    (under_way, doubts)
}

/// What a follower would have to fetch after appends have stopped.
fn lacks(active: &Standing, follower: &Standing) -> Vec<String> {
    let mut doubts = Vec::new();
    let behind = active.head.get().saturating_sub(follower.head.get());
    if behind > 0 {
        doubts.push(format!("{} has {}", follower.region, Behind::Events(behind)));
    }
    if follower.manifest != active.manifest && follower.mirrors {
        let behind = Behind::Archive { has: follower.manifest, needs: active.manifest };
        doubts.push(format!("{} has {behind}", follower.region));
    }
    doubts
}

fn unfinished(from: &Standing, to: &Standing, next: &Step) -> String {
    let next = match next {
        Step::Drain => "appends have to stop".to_owned(),
        Step::CatchUp { behind } => format!("{} has {behind}", to.region),
        Step::Promote { .. } => format!("{} has everything and has to take over", to.region),
        Step::StepDown => format!("{} has taken over and {} has to follow", to.region, from.region),
    };
    format!(
        "a switchover from {} to {} was begun and not finished: {next}; \
         coldstream failover switchover, with --server naming {}, finishes it",
        from.region, to.region, from.region
    )
}

async fn switch_over(context: &Context, old: &PeerClient, new: &PeerClient) -> Result<(), CliError> {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut last = None;
    loop {
        look.tick().await;
        let (old_stands, new_stands) = tokio::join!(RegionAdmin::standing(old), RegionAdmin::standing(new));
        let old_stands = old_stands.map_err(CliError::failed("asking the region that is active"))?;
        let new_stands = new_stands.map_err(CliError::failed("asking the region that takes over"))?;
        let step = failover::plan(&old_stands, &new_stands).map_err(CliError::failed("the switchover"))?;
        let Some(step) = step else { return context.output.data(&new_stands, standing_line) };
        if last.as_ref() != Some(&step) {
            say(describe(&step));
        }
        failover::execute(&step, old, new).await.map_err(CliError::failed("a step of the switchover"))?;
        last = Some(step);
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Drain => "appends stop".to_owned(),
        Step::CatchUp { behind } => format!("the other region has {behind}"),
        Step::Promote { head, .. } => format!("both end at {head} with the same root; the other region takes over"),
        Step::StepDown => "the old region follows".to_owned(),
    }
}

async fn promote(context: &Context, accept: AcceptLoss, yes: bool) -> Result<(), CliError> {
    let region = own_client(context)?;
    let stands = RegionAdmin::standing(&region).await.map_err(CliError::failed("asking the region"))?;
    let heard = stands.heard.as_ref().map_or_else(
        || "it never heard of the other region".to_owned(),
        |heard| format!("it heard of head {} ({}) at {}", heard.head, heard.role.as_str(), heard.at),
    );
    let plan = [
        format!("{} is {} in epoch {} and ends at {}", stands.region, stands.role.as_str(), stands.epoch, stands.head),
        heard,
        format!("it claims the next epoch and takes appends; {}", accepted(accept)),
    ];
    confirm(&plan, yes)?;
    let promoted = RegionAdmin::promote(&region, &Promote::Forced { accept }).await;
    let promoted = promoted.map_err(CliError::failed("the promotion"))?;
    context.output.data(&promoted, promoted_line)
}

fn accepted(accept: AcceptLoss) -> String {
    match accept {
        AcceptLoss::Events(most) => format!("refused if more than {most} events may be lost"),
        AcceptLoss::Unknown => "whatever the other region acknowledged and this one never heard of is lost".to_owned(),
    }
}

fn promoted_line(promoted: &Promoted) -> String {
    let loss = promoted.loss.as_ref().map_or_else(|| "it had been promoted before".to_owned(), ToString::to_string);
    format!("epoch {} begins after {}; {loss}", promoted.epoch, promoted.fork)
}

fn standing_line(standing: &Standing) -> String {
    let Standing { region, epoch, role, head, .. } = standing;
    format!("{region} is {} in epoch {epoch} and ends at {head}", role.as_str())
}

fn people(standings: &Standings) -> String {
    let name = |text: &str| text.to_owned();
    let mut rows = Vec::new();
    for standing in [&standings.own, &standings.other].into_iter().flatten() {
        rows.push((name("region"), standing_line(standing)));
        rows.push((name("root"), standing.root.map_or_else(String::new, |root| root.to_string())));
    }
    rows.extend(standings.under_way.iter().map(|state| (name("under way"), state.clone())));
    rows.extend(standings.doubts.iter().map(|doubt| (name("doubt"), doubt.clone())));
    rows.push((name("switchover"), name(if standings.doubts.is_empty() { "go" } else { "no-go" })));
    table(&rows)
}
