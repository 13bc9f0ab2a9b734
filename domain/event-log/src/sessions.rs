//! The pool of sessions for reads and the catalog. A server, or a network, that is gone without a word holds up none of it
//! for ever: what is asked has an answer within [`ANSWER_LIMIT`], and a session whose server says nothing any more is
//! closed, where the driver would wait for it, and keep its place in the pool, until TCP gives up.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::poll;
use futures::stream::{BoxStream, StreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection, Describe, Either, Execute, Executor, Postgres, Transaction};
use tokio::time::timeout;

use crate::PgConfig;
use crate::error::EventLogError;
use crate::session::{Purpose, look_at, options, silent};

/// Longer than a statement of these sessions may take (`statement_timeout`).
const ANSWER_LIMIT: Duration = Duration::from_secs(65);
/// How long a session that has rested may take to say that it is still there: longer than a busy server needs for nothing, and
/// short enough for several of them in the time in which a caller is given one.
const REST_LIMIT: Duration = Duration::from_secs(2);
/// The same when it comes back, and has to end what was asked of it by somebody who is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// A session that has rested for less is believed to be there: it spoke when it came back.
const JUST_NOW: Duration = Duration::from_millis(50);

/// Awaits what asks a session of the pool, and no longer than it can take. What is there already, such as most rows of a
/// COPY, needs no clock.
pub(crate) async fn answered<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let mut asked = pin!(asked);
    if let Poll::Ready(answer) = poll!(asked.as_mut()) {
        return answer;
    }
    timeout(ANSWER_LIMIT, asked).await.unwrap_or_else(|_| Err(silent()))
}

/// Whether the server answers in this session; an error closes it without another word.
async fn speaks(connection: &mut PgConnection, limit: Duration) -> Result<bool, sqlx::Error> {
    timeout(limit, connection.ping()).await.unwrap_or_else(|_| Err(silent()))?;
    Ok(true)
}

/// The sessions.
#[derive(Debug, Clone)]
pub(crate) struct Sessions(PgPool);

impl Sessions {
    /// A connection made later to a standby, after the primary has moved, is refused.
    pub(crate) fn of(config: &PgConfig) -> Result<Self, EventLogError> {
        let allow_superuser = config.allow_superuser;
        let pool = PgPoolOptions::new()
            .max_connections(config.connections)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let looked = look_at(connection, allow_superuser).await?;
                    looked.map(drop).map_err(|reason| sqlx::Error::Configuration(reason.into()))
                })
            })
            .test_before_acquire(false)
            .before_acquire(|connection, was| {
                Box::pin(async move {
                    if was.idle_for < JUST_NOW { Ok(true) } else { speaks(connection, REST_LIMIT).await }
                })
            })
            .after_release(|connection, _| Box::pin(speaks(connection, RELEASE_LIMIT)))
            .connect_lazy_with(options(config, Purpose::Serve)?);
        Ok(Self(pool))
    }

    /// A session; what is asked of it is to be [`answered`].
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.0.acquire().await
    }

    /// Begins a transaction, also if whoever asked for it is gone before it has begun: the driver would put its session
    /// back into the pool with a transaction open, and what comes next in that session would never be committed. A task
    /// that nobody waits for ends, and what it has begun is rolled back.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let pool = self.0.clone();
        let begun = tokio::spawn(async move { pool.begin().await });
        let begun = timeout(ANSWER_LIMIT, begun).await.map_err(|_| silent())?;
        begun.unwrap_or_else(|ended| Err(sqlx::Error::Io(std::io::Error::other(ended))))
    }

    /// How many there are, and how many of them do nothing.
    pub(crate) fn count(&self) -> (u32, u32) {
        (self.0.size(), u32::try_from(self.0.num_idle()).unwrap_or(u32::MAX))
    }
}

/// As the pool itself, within the limit.
impl<'p> Executor<'p> for &'_ Sessions {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        limited(self.0.fetch_many(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(answered(self.0.fetch_optional(query)))
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement<'q>, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(answered(self.0.prepare_with(sql, parameters)))
    }

    fn describe<'e, 'q: 'e>(self, sql: &'q str) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(answered(self.0.describe(sql)))
    }
}

/// Each item of `answer` comes within the limit of the one before it, or an error does.
fn limited<'e, T: Send + 'e>(answer: BoxStream<'e, Result<T, sqlx::Error>>) -> BoxStream<'e, Result<T, sqlx::Error>> {
    futures::stream::unfold(Some(answer), |answer| async {
        let mut answer = answer?;
        match timeout(ANSWER_LIMIT, answer.next()).await {
            Ok(item) => item.map(|item| (item, Some(answer))),
            Err(_) => Some((Err(silent()), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stops_in_the_middle_ends_in_an_error() {
        let answer = stream::iter([Ok(1), Ok(2)]).chain(stream::pending()).boxed();
        let mut answer = limited(answer);
        assert_eq!(answer.try_next().await.expect("there"), Some(1));
        assert_eq!(answer.try_next().await.expect("there"), Some(2));
        let error = answer.try_next().await.expect_err("nothing comes");
        assert!(matches!(&error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut));
        assert_eq!(answer.try_next().await.expect("the end"), None);
        answered(std::future::pending::<Result<(), _>>()).await.expect_err("nothing comes");
        assert_eq!(limited(stream::iter([Ok(1)]).boxed()).try_collect::<Vec<_>>().await.expect("whole"), [1]);
    }
}
