//! Bearer tokens as the door asks for them: from the database, kept in memory for some seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::ErrorKind;
use domain::merkle::Hash;
use event_log::PgLog;

use crate::chain::chain;
use crate::clock::Stopwatch;
use crate::http::auth::{Caller, TokenHash, TokenRole, Tokens};
use crate::http::problem::Problem;

/// A revoked token is refused after this time at the latest. Shorter costs the database a look-up more often.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Tokens that are kept at a time.
const KEPT_MAX: usize = 1024;

/// The tokens of a log's database.
pub struct PgTokens {
    log: Arc<PgLog>,
    kept: Mutex<HashMap<TokenHash, (Stopwatch, Caller)>>,
}

impl PgTokens {
    /// The tokens in the database of `log`.
    #[must_use]
    pub fn new(log: Arc<PgLog>) -> Self {
        Self { log, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<TokenHash, (Stopwatch, Caller)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tokens for PgTokens {
    async fn caller(&self, hash: TokenHash) -> Result<Option<Caller>, Problem> {
        if let Some((since, caller)) = self.kept().get(&hash)
            && since.elapsed() < KEPT_FOR
        {
            return Ok(Some(caller.clone()));
        }
        let found = self.log.find_token(&Hash(hash.0)).await.map_err(|error| {
            tracing::warn!(error = %chain(&error), "a token was not looked up");
            Problem::new(ErrorKind::Unavailable, "the token cannot be checked at the moment")
        })?;
        // A role of a later version allows nothing here.
        let caller = found.and_then(|token| Some(Caller { role: TokenRole::parse(&token.role)?, name: token.id }));
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
        }
        match &caller {
            Some(caller) if kept.len() < KEPT_MAX => drop(kept.insert(hash, (Stopwatch::start(), caller.clone()))),
            // Unknown ones are not kept: whoever sends many of them fills no memory.
            _ => drop(kept.remove(&hash)),
        }
        Ok(caller)
    }
}
