//! Bearer tokens of an identity provider: JWTs (RFC 7519) of one issuer for one audience, signed with a key that it shows
//! (RFC 7517). What is no JWT is left to those who know our own tokens. It must never believe a token in who signs it or by
//! which algorithm: issuer, audience and algorithms come from the configuration, keys from the issuer.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use domain::{Category, ErrorKind};
use jsonwebtoken::errors::ErrorKind as JwtError;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::chain::chain;
use crate::clock::Stopwatch;
use crate::config::OidcConfig;
use crate::http::auth::{Caller, OwnRates, Presented, TokenRole, Tokens};
use crate::http::problem::Problem;
use crate::http::scope::Scope;
use crate::tls::{self, TlsError};

/// Callers of the issuer are called so in logs and rates, before their subject. No token of ours has such a name.
pub(crate) const NAME_PREFIX: &str = "oidc:";
/// Names the authorities that the issuer is believed by.
pub(crate) const CA: &str = "http.oidc.ca";
/// In the claim of categories: all of them.
const ALL_CATEGORIES: &str = "*";
/// A subject is at most this long (OpenID Connect Core §2).
const SUBJECT_BYTES_MAX: usize = 255;
/// The issuer's clock and ours differ by at most this.
const LEEWAY_SECONDS: u64 = 30;
/// Keys are asked for again after this time: so long one is believed that the issuer has withdrawn.
const KEYS_FRESH_FOR: Duration = Duration::from_secs(300);
/// An issuer that does not answer is believed the keys that it showed last for this time.
const KEYS_GOOD_FOR: Duration = Duration::from_secs(3600);
/// Whoever sends keys' names that nobody knows makes us ask the issuer no more often than this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The issuer answers within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// All keys of an issuer are at most this long.
const KEYS_BYTES_MAX: usize = 1 << 20;

/// The tokens of an issuer, beside our own.
pub struct OidcTokens {
    config: OidcConfig,
    own: Arc<dyn Tokens>,
    http: reqwest::Client,
    shown: Arc<RwLock<Option<Shown>>>,
    /// When the issuer was last asked; held while it is.
    asked: Arc<Mutex<Option<Stopwatch>>>,
    ask_again_after: Duration,
}

/// What the issuer has shown.
#[derive(Clone)]
struct Shown {
    keys: Arc<[Jwk]>,
    at: Stopwatch,
}

/// Claims that are looked at by type: what is of another one is no token.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "exp")]
    _exp: u64,
    #[serde(default, rename = "nbf")]
    _nbf: Option<u64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Why a JWT opens nothing.
enum Refused {
    /// No key that the issuer showed has this name.
    Key,
    /// Something else, such as "has expired".
    For(&'static str),
    /// It is good, and this bearer has nothing here.
    Bearer { name: String, why: &'static str },
}

impl OidcTokens {
    /// The issuer's tokens beside `own`. Nothing is asked for before the first of them comes.
    ///
    /// # Errors
    /// A [`TlsError`] if `ca` names no authorities.
    pub fn new(config: &OidcConfig, own: Arc<dyn Tokens>) -> Result<Self, TlsError> {
        let (config, http) = (config.clone(), client(config)?);
        let (shown, asked) = (Arc::default(), Arc::default());
        Ok(Self { config, own, http, shown, asked, ask_again_after: ASK_AGAIN_AFTER })
    }

    fn shown(&self) -> Option<Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys that hold now. `anew`: others than those known are looked for.
    async fn keys(&self, anew: bool) -> Result<Arc<[Jwk]>, Problem> {
        let good = || self.shown().filter(|shown| shown.at.elapsed() < KEYS_GOOD_FOR);
        let known = good().filter(|_| !anew);
        if let Some(shown) = known.as_ref().filter(|shown| shown.at.elapsed() < KEYS_FRESH_FOR) {
            return Ok(shown.keys.clone());
        }
        let asked = match (self.asked.clone().try_lock_owned(), known) {
            (Ok(asked), _) => asked,
            // One request waits for the issuer; the others go on with what they have.
            (Err(_), Some(shown)) => return Ok(shown.keys),
            (Err(_), None) => self.asked.clone().lock_owned().await,
        };
        // Another request may have asked meanwhile.
        let lately = asked.is_some_and(|asked| asked.elapsed() < self.ask_again_after);
        if !lately && let Err(error) = tokio::spawn(self.ask_and_keep(asked)).await {
            tracing::error!(error = %chain(&error), "asking the issuer of http.oidc for its keys broke");
        }
        let unknown = || Problem::new(ErrorKind::Unavailable, "the issuer's keys cannot be had at the moment");
        good().map(|shown| shown.keys).ok_or_else(unknown)
    }

    /// Asks the issuer for its keys and keeps what it shows. It is for a task of its own: a client that hangs up ends
    /// its request, and an answer that was lost with it would not be asked for again for a while.
    fn ask_and_keep(&self, mut asked: OwnedMutexGuard<Option<Stopwatch>>) -> impl Future<Output = ()> + Send + use<> {
        let (http, url, kept) = (self.http.clone(), self.config.keys_url.clone(), self.shown.clone());
        async move {
            *asked = Some(Stopwatch::start());
            match ask(&http, &url).await {
                Ok(keys) => {
                    let shown = Some(Shown { keys, at: Stopwatch::start() });
                    *kept.write().unwrap_or_else(PoisonError::into_inner) = shown;
                }
                Err(error) => tracing::warn!(error, "the issuer of http.oidc does not show its keys"),
            }
        }
    }

    /// What a JWT opens, by these keys.
    fn read(&self, token: &str, keys: &[Jwk]) -> Result<Caller, Refused> {
        let header = decode_header(token).map_err(|_| Refused::For("is none of its issuer's"))?;
        if !self.config.algorithms.iter().any(|allowed| allowed.named() == header.alg) {
            return Err(Refused::For("is signed with an algorithm that is not allowed"));
        }
        let named = |key: &&Jwk| {
            let common = &key.common;
            let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
            let fits = common.key_algorithm.is_none_or(|of| of.to_string() == format!("{:?}", header.alg));
            common.key_id == header.kid && signs && fits
        };
        let key = keys.iter().find(named).ok_or(Refused::Key)?;
        let key = DecodingKey::from_jwk(key).map_err(|_| Refused::For("is signed with a key that cannot be used"))?;
        let mut rules = Validation::new(header.alg);
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_audience(&[&self.config.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.validate_nbf = true;
        rules.leeway = LEEWAY_SECONDS;
        let read = decode::<Claims>(token, &key, &rules).map_err(|error| Refused::For(reason(error.kind())))?;
        self.caller(read.claims)
    }

    fn spent(&self, why: &'static str) -> Presented {
        Presented::Spent { name: format!("JWT of {}", self.config.issuer), why }
    }

    fn caller(&self, claims: Claims) -> Result<Caller, Refused> {
        let fits = |subject: &str| !subject.is_empty() && !subject.contains(char::is_control);
        if claims.sub.len() > SUBJECT_BYTES_MAX || !fits(&claims.sub) {
            return Err(Refused::For("has a subject that cannot be one"));
        }
        let name = format!("{NAME_PREFIX}{}", claims.sub);
        let opened = self.role(&claims.rest).and_then(|role| Ok((role, self.scope(role, &claims.rest)?)));
        match opened {
            Ok((role, scope)) => Ok(Caller { name, role, scope, rates: OwnRates::default() }),
            Err(why) => Err(Refused::Bearer { name, why }),
        }
    }

    fn role(&self, claims: &Map<String, Value>) -> Result<TokenRole, &'static str> {
        let words = find(claims, &self.config.role_claim).map(words).unwrap_or_default();
        let mut roles: Vec<TokenRole> = words.iter().filter_map(|word| self.config.roles.get(*word)).copied().collect();
        roles.dedup();
        match roles[..] {
            [role] => Ok(role),
            [] => Err("names no role"),
            [..] => Err("names more than one role"),
        }
    }

    /// Where the setting is there, what is not said is not opened: a claim that an issuer forgets opens nothing.
    fn scope(&self, role: TokenRole, claims: &Map<String, Value>) -> Result<Scope, &'static str> {
        let Some(claim) = &self.config.categories_claim else { return Ok(Scope::Everything) };
        let claim = find(claims, claim).filter(|claim| !claim.is_null());
        let named = claim.map(words).unwrap_or_default();
        match named[..] {
            [ALL_CATEGORIES] => Ok(Scope::Everything),
            [] if !role.can_be_limited() && claim.is_none() => Ok(Scope::Everything),
            _ if !role.can_be_limited() => Err("names categories, and its role opens what has none"),
            [] => Err("names no category"),
            _ if named.iter().all(|name| Category::parse(name).is_ok()) => {
                Ok(Scope::Categories(named.iter().map(|&name| name.to_owned()).collect()))
            }
            _ => Err("names a category that cannot be one"),
        }
    }
}

/// The claim of this name, or else the one that it is the path of: names of claims with dots between, each of which may
/// have dots itself.
fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let inside = |(dot, _)| find(claims.get(&path[..dot])?.as_object()?, &path[dot + 1..]);
    claims.get(path).or_else(|| path.match_indices('.').find_map(inside))
}

/// What a claim says that is a text or a list of texts.
fn words(claim: &Value) -> Vec<&str> {
    match claim {
        Value::String(word) => vec![word],
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Asks the issuer for its keys, and returns how many of them can be used: for who checks a configuration.
///
/// # Errors
/// Why it shows none.
pub async fn probe(config: &OidcConfig) -> Result<usize, String> {
    let http = client(config).map_err(|error| chain(&error))?;
    let keys = ask(&http, &config.keys_url).await?;
    match keys.iter().filter(|key| DecodingKey::from_jwk(key).is_ok()).count() {
        0 => Err("none of the keys that it shows can be used".to_owned()),
        usable => Ok(usable),
    }
}

fn client(config: &OidcConfig) -> Result<reqwest::Client, TlsError> {
    let client = tls::believing(CA, config.ca.as_deref())?.timeout(ANSWER_WITHIN);
    client.build().map_err(tls::no_client(CA))
}

async fn ask(http: &reqwest::Client, url: &str) -> Result<Arc<[Jwk]>, String> {
    let failed = |error: reqwest::Error| chain(&error);
    let asked = http.get(url).send().await;
    let mut answer = asked.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > KEYS_BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
    }
    let mut document: Value = serde_json::from_slice(&bytes).map_err(|error| chain(&error))?;
    let Some(Value::Array(keys)) = document.get_mut("keys").map(Value::take) else {
        return Err("its answer has no keys".to_owned());
    };
    // A key of a kind that we do not know does not take the others away (RFC 7517 §5).
    Ok(keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
}

fn reason(error: &JwtError) -> &'static str {
    match error {
        JwtError::ExpiredSignature => "has expired",
        JwtError::ImmatureSignature => "is not good yet",
        JwtError::InvalidIssuer => "is of another issuer",
        JwtError::InvalidAudience => "is for another audience",
        JwtError::InvalidSignature => "is not signed by its issuer",
        _ => "is none of its issuer's",
    }
}

/// Whether it has the form of a JWT (RFC 7515 §7.1); a token of ours has no dots.
fn is_jwt(token: &str) -> bool {
    token.split('.').count() == 3
}

#[async_trait]
impl Tokens for OidcTokens {
    async fn presented(&self, token: &str) -> Result<Presented, Problem> {
        if !is_jwt(token) {
            return self.own.presented(token).await;
        }
        let mut read = self.read(token, &self.keys(false).await?);
        if let Err(Refused::Key) = read {
            // The issuer may have begun to sign with another one.
            read = self.read(token, &self.keys(true).await?);
        }
        Ok(match read {
            Ok(caller) => Presented::Opens(Arc::new(caller)),
            Err(Refused::Bearer { name, why }) => Presented::Barred { name, why },
            Err(Refused::Key) => self.spent("is signed with a key that its issuer does not show"),
            Err(Refused::For(why)) => self.spent(why),
        })
    }

    fn is_known(&self, token: &str) -> bool {
        if !is_jwt(token) {
            return self.own.is_known(token);
        }
        self.shown().is_some_and(|shown| self.read(token, &shown.keys).is_ok())
    }
}

#[cfg(test)]
mod tests;
