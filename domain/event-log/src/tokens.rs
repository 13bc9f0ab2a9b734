//! Bearer tokens as the database knows them: by their hash. What a role may do is the API's business.

use domain::Timestamp;
use domain::merkle::Hash;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::error::EventLogError;
use crate::instant::Instant;
use crate::log::PgLog;

/// A token, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Its name.
    pub id: String,
    /// The word for what it allows.
    pub role: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when it allows nothing.
    pub revoked_at: Option<Timestamp>,
}

impl PgLog {
    /// Stores a token's hash.
    ///
    /// # Errors
    /// `Refused` if there is a token of that name, also a revoked one; `Database`.
    pub async fn create_token(&self, id: &str, sha256: &Hash, role: &str) -> Result<(), EventLogError> {
        let statement = "INSERT INTO coldstream.tokens (id, sha256, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = sqlx::query(statement).bind(id).bind(&sha256.0[..]).bind(role);
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
        let query = sqlx::query("SELECT id, role, created_at, revoked_at FROM coldstream.tokens ORDER BY id");
        let rows = query.fetch_all(&self.shared().pool).await.map_err(EventLogError::database("listing tokens"))?;
        rows.iter().map(stored).collect::<Result<_, _>>().map_err(EventLogError::database("listing tokens"))
    }

    /// Makes a token allow nothing. Returns whether there is one of that name.
    ///
    /// # Errors
    /// `Database`.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, EventLogError> {
        let statement =
            "UPDATE coldstream.tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1";
        let query = sqlx::query(statement).bind(id).execute(&self.shared().pool).await;
        Ok(query.map_err(EventLogError::database("revoking a token"))?.rows_affected() == 1)
    }

    /// The token with this hash; `None` if it is unknown or revoked.
    ///
    /// # Errors
    /// `Database`.
    pub async fn find_token(&self, sha256: &Hash) -> Result<Option<StoredToken>, EventLogError> {
        let statement = "SELECT id, role, created_at, revoked_at FROM coldstream.tokens
            WHERE sha256 = $1 AND revoked_at IS NULL";
        let query = sqlx::query(statement).bind(&sha256.0[..]).fetch_optional(&self.shared().pool).await;
        let row = query.map_err(EventLogError::database("looking up a token"))?;
        row.as_ref().map(stored).transpose().map_err(EventLogError::database("looking up a token"))
    }
}

fn stored(row: &PgRow) -> Result<StoredToken, sqlx::Error> {
    Ok(StoredToken {
        id: row.try_get("id")?,
        role: row.try_get("role")?,
        created_at: row.try_get::<Instant, _>("created_at")?.0,
        revoked_at: row.try_get::<Option<Instant>, _>("revoked_at")?.map(|at| at.0),
    })
}
