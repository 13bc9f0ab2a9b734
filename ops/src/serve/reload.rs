//! What may change while a region serves, told by SIGHUP: who comes in by an identity provider, and how much each caller may
//! ask for. Either all of a new configuration that can change is in force afterwards, or nothing of it; what cannot change is
//! named. The authorities of an issuer are read again too. Certificates and the other region's token are read from their files
//! again by those who use them.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use domain::merkle::Hash;

use super::StartError;
use crate::config::{Config, changed};
use crate::http::ApiState;
use crate::http::auth::{Presented, Tokens};
use crate::http::problem::Problem;
use crate::oidc::{self, OidcTokens};
use crate::tls;

/// Who may come in; the configuration may change while they do.
pub(super) struct ChangingTokens {
    /// Those that the database knows.
    own: Arc<dyn Tokens>,
    all: RwLock<AllTokens>,
}

/// Our own tokens, and those of an issuer.
#[derive(Clone)]
struct AllTokens {
    tokens: Arc<dyn Tokens>,
    /// Of the authorities that the issuer is believed by.
    authorities: Option<Hash>,
}

impl AllTokens {
    fn of(config: &Config, own: &Arc<dyn Tokens>) -> Result<Self, StartError> {
        let Some(oidc) = &config.http.oidc else { return Ok(Self { tokens: own.clone(), authorities: None }) };
        // First: what is written between the two reads is new to the next SIGHUP.
        let authorities = authorities(config)?;
        Ok(Self { tokens: Arc::new(OidcTokens::new(oidc, own.clone())?), authorities })
    }
}

fn authorities(config: &Config) -> Result<Option<Hash>, StartError> {
    let ca = config.http.oidc.as_ref().and_then(|oidc| oidc.ca.as_ref());
    Ok(ca.map(|file| tls::hash_of(oidc::CA, file)).transpose()?)
}

impl ChangingTokens {
    /// Our own tokens, and those of the issuer that the configuration names.
    ///
    /// # Errors
    /// `Tls` if the issuer's `ca` names no authorities.
    pub(super) fn new(config: &Config, own: Arc<dyn Tokens>) -> Result<Self, StartError> {
        let all = RwLock::new(AllTokens::of(config, &own)?);
        Ok(Self { own, all })
    }

    fn current(&self) -> AllTokens {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Tokens for ChangingTokens {
    async fn presented(&self, token: &str) -> Result<Presented, Problem> {
        self.current().tokens.presented(token).await
    }

    fn is_known(&self, token: &str) -> bool {
        self.current().tokens.is_known(token)
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
        let same = new.http.oidc == self.config.http.oidc && authorities(&new)? == self.tokens.current().authorities;
        if !same {
            let tokens = AllTokens::of(&new, &self.tokens.own)?;
            *self.tokens.all.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        }
        self.state.change_rates(new.http.rates);
        self.config.take_changeable(&new);
        Ok(changed(&self.config, &new))
    }
}
