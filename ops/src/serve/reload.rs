//! What may change while a region serves, told by SIGHUP: who comes in by an identity provider, and how much each caller may
//! ask for. Either all of a new configuration that can change is in force afterwards, or nothing of it; what cannot change is
//! named. Certificates and the other region's token are read from their files again by those who use them.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use super::StartError;
use crate::config::{Config, changed};
use crate::http::ApiState;
use crate::http::auth::{Presented, Tokens};
use crate::http::problem::Problem;
use crate::oidc::OidcTokens;

/// Who may come in; the configuration may change while they do.
pub(super) struct ChangingTokens {
    /// Those that the database knows.
    own: Arc<dyn Tokens>,
    all: RwLock<Arc<dyn Tokens>>,
}

impl ChangingTokens {
    /// Our own tokens, and those of the issuer that the configuration names.
    ///
    /// # Errors
    /// `Tls` if the issuer's `ca` names no authorities.
    pub(super) fn new(config: &Config, own: Arc<dyn Tokens>) -> Result<Self, StartError> {
        let all = RwLock::new(Self::all(config, &own)?);
        Ok(Self { own, all })
    }

    fn all(config: &Config, own: &Arc<dyn Tokens>) -> Result<Arc<dyn Tokens>, StartError> {
        match &config.http.oidc {
            None => Ok(own.clone()),
            Some(oidc) => Ok(Arc::new(OidcTokens::new(oidc, own.clone())?)),
        }
    }

    fn current(&self) -> Arc<dyn Tokens> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Tokens for ChangingTokens {
    async fn presented(&self, token: &str) -> Result<Presented, Problem> {
        self.current().presented(token).await
    }

    fn is_known(&self, token: &str) -> bool {
        self.current().is_known(token)
    }
}

/// The configuration in force, and those who follow it.
pub(super) struct Changing {
    pub(super) config: Config,
    pub(super) state: Arc<ApiState>,
    pub(super) tokens: Arc<ChangingTokens>,
}

impl Changing {
    /// Lets all of `new` hold that can, and gives the names of the settings that cannot. The filter of the log is its
    /// owner's, who has found it good.
    ///
    /// # Errors
    /// `Tls` for an issuer whose `ca` names no authorities; nothing has changed then.
    pub(super) fn reload(&mut self, new: Config) -> Result<Vec<String>, StartError> {
        // Keys that the issuer has shown are known on where nothing is new.
        let tokens = match new.http.oidc == self.config.http.oidc {
            true => None,
            false => Some(ChangingTokens::all(&new, &self.tokens.own)?),
        };
        if let Some(tokens) = tokens {
            *self.tokens.all.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        }
        self.state.change_rates(new.http.rates);
        self.config.take_changeable(&new);
        Ok(changed(&self.config, &new))
    }
}
