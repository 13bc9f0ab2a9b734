//! Bearer tokens as the database knows them: by their hash. What a role, a category or a rate allows is the API's
//! business; here they are words and numbers.

use domain::Timestamp;
use domain::merkle::Hash;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::error::EventLogError;
use crate::instant::Instant;
use crate::log::PgLog;

/// What narrows a token, beside its role. By default, nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// From when on it opens nothing.
    pub expires_at: Option<Timestamp>,
    /// The only categories that it opens; `None`: all. The database takes them for the roles appender and reader only.
    pub categories: Option<Vec<String>>,
    /// Requests a second; `None`: as its role, 0: without limit.
    pub requests_per_second: Option<u32>,
    /// Appended bytes a second; `None`: as its role, 0: without limit.
    pub append_bytes_per_second: Option<u32>,
}

/// Whether a token opens anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Valid,
    /// Its time is over, by the database's clock.
    Expired,
    /// It was revoked.
    Revoked,
}

/// A token, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Its name.
    pub id: String,
    /// The word for what it allows.
    pub role: String,
    /// What narrows it.
    pub limits: TokenLimits,
    /// Whether it opens anything.
    pub state: TokenState,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when it allows nothing.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl PgLog {
    /// Stores a token's hash, with what the token may.
    ///
    /// # Errors
    /// `Refused` if there is a token of that name, also a revoked one; `Database`, also for categories of a role that
    /// has none.
    pub async fn create_token(
        &self,
        id: &str,
        sha256: &Hash,
        role: &str,
        limits: &TokenLimits,
    ) -> Result<(), EventLogError> {
        let query = sqlx::query(include_str!("sql/create_token.sql"))
            .bind(id)
            .bind(&sha256.0[..])
            .bind(role)
            .bind(limits.expires_at.map(Instant))
            .bind(limits.categories.as_deref())
            .bind(limits.requests_per_second.map(i64::from))
            .bind(limits.append_bytes_per_second.map(i64::from));
        let created = query.execute(&self.shared().pool).await.map_err(EventLogError::database("creating a token"))?;
        if created.rows_affected() == 1 {
            return Ok(());
        }
        Err(EventLogError::Refused { reason: format!("there is a token {id:?} already") })
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// `Database`.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, EventLogError> {
        let query = sqlx::query(include_str!("sql/tokens.sql"));
        let rows = query.fetch_all(&self.shared().pool).await.map_err(EventLogError::database("listing tokens"))?;
        rows.iter().map(stored).collect::<Result<_, _>>().map_err(EventLogError::database("listing tokens"))
    }

    /// Makes a token allow nothing, for ever. Returns whether there is one of that name.
    ///
    /// # Errors
    /// `Database`.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, EventLogError> {
        let statement =
            "UPDATE coldstream.tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1";
        let query = sqlx::query(statement).bind(id).execute(&self.shared().pool).await;
        Ok(query.map_err(EventLogError::database("revoking a token"))?.rows_affected() == 1)
    }

    /// The token with this hash, also one that opens nothing any more: its [`StoredToken::state`] says so. `None` if
    /// there has never been one.
    ///
    /// # Errors
    /// `Database`.
    pub async fn find_token(&self, sha256: &Hash) -> Result<Option<StoredToken>, EventLogError> {
        let query = sqlx::query(include_str!("sql/find_token.sql")).bind(&sha256.0[..]);
        let row = query.fetch_optional(&self.shared().pool).await;
        let row = row.map_err(EventLogError::database("looking up a token"))?;
        row.as_ref().map(stored).transpose().map_err(EventLogError::database("looking up a token"))
    }

    /// Notes that a token is used now. It costs a write once a minute.
    ///
    /// # Errors
    /// `Database`.
    pub async fn token_used(&self, id: &str) -> Result<(), EventLogError> {
        let query = sqlx::query(include_str!("sql/token_used.sql")).bind(id);
        let noted = query.execute(&self.shared().pool).await;
        noted.map(drop).map_err(EventLogError::database("noting the use of a token"))
    }
}

fn stored(row: &PgRow) -> Result<StoredToken, sqlx::Error> {
    let instant = |column: &str| {
        let at: Option<Instant> = row.try_get(column)?;
        Ok::<_, sqlx::Error>(at.map(|at| at.0))
    };
    let rate = |column: &str| {
        let rate: Option<i64> = row.try_get(column)?;
        // A larger one, which only SQL by hand can store, is no limit that could be reached.
        Ok::<_, sqlx::Error>(rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX)))
    };
    let revoked_at = instant("revoked_at")?;
    let state = match (revoked_at, row.try_get("expired")?) {
        (Some(_), _) => TokenState::Revoked,
        (None, true) => TokenState::Expired,
        (None, false) => TokenState::Valid,
    };
    Ok(StoredToken {
        id: row.try_get("id")?,
        role: row.try_get("role")?,
        limits: TokenLimits {
            expires_at: instant("expires_at")?,
            categories: row.try_get("categories")?,
            requests_per_second: rate("requests_per_second")?,
            append_bytes_per_second: rate("append_bytes_per_second")?,
        },
        state,
        created_at: row.try_get::<Instant, _>("created_at")?.0,
        revoked_at,
        last_used_at: instant("last_used_at")?,
    })
}
