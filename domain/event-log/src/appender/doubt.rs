//! A commit whose reply was lost: stored or not? Whoever looks once the session that was to commit it is gone knows:
//! until then it may be at it, or have a statement before it that it has not read yet.

use std::time::Duration;

use domain::arbiter::{Placement, Ruling};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::error::{EventLogError, chain};
use crate::instant::Instant;
use crate::log::Shared;
use crate::session::{self, Backend, Purpose};
use crate::writer::{Writer, uuid_of};

/// For so long the server is asked, one pause apart: it may be starting again after a crash. Whoever waits behind the group
/// waits as long.
const DOUBT_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);
/// A server that accepts a connection and then says nothing.
const SERVER_LIMIT: Duration = Duration::from_secs(10);

/// A group whose fate is not known.
pub(super) struct Doubt {
    pub(super) ruling: Ruling,
    /// The session that was to commit it.
    pub(super) session: Backend,
}

/// What became of the group.
pub(super) enum Fate {
    Stored,
    NotStored,
    Unknown(String),
}

/// Finds out, and returns the session that did, for the next group.
pub(super) async fn resolve(shared: &Shared, doubt: &Doubt) -> (Fate, Option<Writer>) {
    let mut pause = interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::from("the server does not answer");
    let asking = async {
        loop {
            pause.tick().await;
            match timeout(SERVER_LIMIT, ask(shared, doubt)).await {
                Ok(Ok(Answer::Settled(fate, writer))) => return (fate, writer.map(|writer| *writer)),
                Ok(Ok(Answer::Later(reason))) => last = reason,
                Ok(Err(error)) => last = chain(&error),
                Err(_) => last = "the server says nothing".into(),
            }
        }
    };
    if let Ok(known) = timeout(DOUBT_LIMIT, asking).await {
        return known;
    }
    (Fate::Unknown(format!("the commit's reply was lost, and what became of it is not to be had: {last}")), None)
}

enum Answer {
    Settled(Fate, Option<Box<Writer>>),
    Later(String),
}

impl Answer {
    fn settled(fate: Fate, writer: Writer) -> Self {
        Self::Settled(fate, Some(Box::new(writer)))
    }
}

async fn ask(shared: &Shared, doubt: &Doubt) -> Result<Answer, sqlx::Error> {
    let (connection, server) = match session::open(&shared.config, Purpose::Append).await {
        Ok(opened) => opened,
        // A standby answers in the primary's place: that is no answer.
        Err(error @ EventLogError::Unsafe { .. }) => {
            return Ok(Answer::Settled(Fate::Unknown(chain(&error)), None));
        }
        Err(error) => return Ok(Answer::Later(chain(&error))),
    };
    if server.system_identifier != shared.system_identifier {
        let reason = "the commit's reply was lost, and another server answers".into();
        return Ok(Answer::Settled(Fate::Unknown(reason), None));
    }
    let mut writer = Writer::new(connection, server.backend);
    if writer.end_session(doubt.session).await? {
        return Ok(Answer::Later("the session that was to commit it is still there".into()));
    }
    let stored = is_there(&mut writer, &doubt.ruling.placed).await?;
    if stored {
        // It is seen before a synchronous standby has it, if its session ended while it waited for that one.
        writer.commit_something().await?;
    }
    Ok(Answer::settled(if stored { Fate::Stored } else { Fate::NotStored }, writer))
}

/// Whether exactly this group is stored. One of its events at its place proves nothing: it may have come again through
/// another process, whose group then stands where this one was to.
async fn is_there(writer: &mut Writer, placed: &[Placement]) -> Result<bool, sqlx::Error> {
    let found: i64 = sqlx::query_scalar(include_str!("../sql/group_is_there.sql"))
        .bind(placed.iter().map(|place| uuid_of(&place.key)).collect::<Vec<_>>())
        .bind(placed.iter().map(|place| place.position.as_i64()).collect::<Vec<_>>())
        .bind(placed.iter().map(|place| Instant(place.recorded_at)).collect::<Vec<_>>())
        .fetch_one(writer.connection())
        .await?;
    Ok(!placed.is_empty() && usize::try_from(found) == Ok(placed.len()))
}
