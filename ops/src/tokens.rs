//! Bearer tokens as the door asks for them: from the database, kept in memory for some seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::ErrorKind;
use domain::merkle::Hash;
use event_log::{PgLog, StoredToken, TokenLimits, TokenState};

use crate::chain::chain;
use crate::clock::Stopwatch;
use crate::http::auth::{Caller, OwnRates, Presented, TokenHash, TokenRole, Tokens};
use crate::http::problem::Problem;
use crate::http::scope::Scope;

/// A token that is revoked, or whose time is over, opens nothing after this time at the latest. Shorter costs the database a look-up more often.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Tokens that are kept at a time.
const KEPT_MAX: usize = 1024;

/// The tokens of a log's database.
pub struct PgTokens {
    log: Arc<PgLog>,
    kept: Mutex<HashMap<TokenHash, (Stopwatch, Arc<Caller>)>>,
}

impl PgTokens {
    /// The tokens in the database of `log`.
    #[must_use]
    pub fn new(log: Arc<PgLog>) -> Self {
        Self { log, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<TokenHash, (Stopwatch, Arc<Caller>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, hash: TokenHash, presented: &Presented) {
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
        }
        match presented {
            Presented::Opens(caller) if kept.len() < KEPT_MAX => {
                kept.insert(hash, (Stopwatch::start(), caller.clone()));
            }
            // What opens nothing is not kept: whoever sends many of them fills no memory.
            _ => drop(kept.remove(&hash)),
        }
    }

    /// For who looks whether a token is still needed. A database that takes no writes lets its readers in all the same.
    async fn note_use(&self, presented: &Presented) {
        let Presented::Opens(caller) = presented else { return };
        if let Err(error) = self.log.token_used(&caller.name).await {
            tracing::debug!(error = %chain(&error), token = caller.name, "the use of a token was not noted");
        }
    }
}

#[async_trait]
impl Tokens for PgTokens {
    fn is_known(&self, token: &str) -> bool {
        self.kept().contains_key(&TokenHash::of(token))
    }

    async fn presented(&self, token: &str) -> Result<Presented, Problem> {
        let hash = TokenHash::of(token);
        if let Some((since, caller)) = self.kept().get(&hash)
            && since.elapsed() < KEPT_FOR
        {
            return Ok(Presented::Opens(caller.clone()));
        }
        let found = self.log.find_token(&Hash(hash.0)).await.map_err(|error| {
            tracing::warn!(error = %chain(&error), "a token was not looked up");
            Problem::new(ErrorKind::Unavailable, "the token cannot be checked at the moment")
        })?;
        let presented = found.map_or(Presented::Unknown, of_stored);
        self.keep(hash, &presented);
        self.note_use(&presented).await;
        Ok(presented)
    }
}

fn of_stored(token: StoredToken) -> Presented {
    let spent = |name, why| Presented::Spent { name, why };
    match (token.state, TokenRole::parse(&token.role)) {
        (TokenState::Revoked, _) => spent(token.id, "is revoked"),
        (TokenState::Expired, _) => spent(token.id, "has expired"),
        (TokenState::Valid, None) => spent(token.id, "has a role of a later version"),
        (TokenState::Valid, Some(role)) => {
            let TokenLimits { categories, requests_per_second, append_bytes_per_second, .. } = token.limits;
            let scope = categories.map_or(Scope::Everything, |named| Scope::Categories(named.into_iter().collect()));
            let rates = OwnRates { requests_per_second, append_bytes_per_second };
            Presented::Opens(Arc::new(Caller { name: token.id, role, scope, rates }))
        }
    }
}
