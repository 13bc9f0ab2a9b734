//! `coldstream token create|list|revoke`: on the database itself, so that the first token needs none.

use clap::Subcommand;
use domain::merkle::Hash;
use domain::{Category, Timestamp};
use event_log::{PgLog, StoredToken, TokenLimits, TokenState};
use serde::Serialize;

use super::Context;
use super::output::{CliError, confirm, say, table};
use crate::clock::SystemClock;
use crate::http::auth::{TokenHash, TokenRole, new_token};
use crate::oidc;

const NAME_CHARS_MAX: usize = 64;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, once: the database keeps its hash alone
    Create {
        /// What it allows
        #[arg(long, value_enum)]
        role: TokenRole,
        /// Its name, in logs and lists
        #[arg(long)]
        name: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// All tokens, also revoked ones, and when they were last used
    List,
    /// Make a token allow nothing; servers refuse it within 5 seconds. To change a token without a pause: create another
    /// one, hand it out, see in the list that nobody uses the old one any more, and revoke that
    Revoke {
        /// Its name
        name: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// What narrows a token beside its role.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct LimitArgs {
    /// When it ends: an instant (2027-01-31T00:00:00Z) or a time from now (90d, 12h, 30m); without it, never
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// The only category whose streams it opens, several times for several; for appenders and readers
    #[arg(long, value_name = "CATEGORY")]
    category: Vec<String>,
    /// Requests that it may send a second, 0 for no limit; without it, what http.rates says of its role
    #[arg(long, value_name = "COUNT")]
    requests_per_second: Option<u32>,
    /// Bytes that it may append a second, 0 for no limit; without it, what http.rates says of its role
    #[arg(long, value_name = "BYTES")]
    append_bytes_per_second: Option<u32>,
}

impl LimitArgs {
    /// Reads them, for a token of `role` that is made `now`.
    fn read(&self, role: TokenRole, now: Timestamp) -> Result<TokenLimits, CliError> {
        if !self.category.is_empty() && !role.can_be_limited() {
            return Err(CliError::Usage(format!("what the role {role} opens has no category: leave --category out")));
        }
        for category in &self.category {
            let wrong = |error| CliError::Usage(format!("--category {category:?}: {error}"));
            Category::parse(category).map_err(wrong)?;
        }
        let expires_at = self.expires.as_deref().map(|text| end(text, now)).transpose()?;
        let categories = (!self.category.is_empty()).then(|| self.category.clone());
        let Self { requests_per_second, append_bytes_per_second, .. } = *self;
        Ok(TokenLimits { expires_at, categories, requests_per_second, append_bytes_per_second })
    }
}

/// An instant, or a time from `now`. It lies ahead.
fn end(text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    let wrong = || CliError::Usage(format!("--expires {text:?}: write 2027-01-31T00:00:00Z, 90d, 12h or 30m"));
    let span = text.char_indices().last().and_then(|(last, unit)| {
        let seconds = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            _ => return None,
        };
        text[..last].parse::<i64>().ok()?.checked_mul(seconds * 1_000_000)
    });
    let end = match span {
        Some(micros) => {
            let micros = now.unix_micros().checked_add(micros).ok_or_else(wrong)?;
            Timestamp::from_unix_micros(micros).map_err(|_| wrong())?
        }
        None => Timestamp::parse_rfc3339(text).map_err(|_| wrong())?,
    };
    if end <= now {
        return Err(CliError::Usage(format!("--expires {text:?}: that is over already")));
    }
    Ok(end)
}

#[derive(Debug, Serialize)]
struct Created {
    name: String,
    role: TokenRole,
    expires_at: Option<String>,
    categories: Option<Vec<String>>,
    token: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    role: String,
    state: &'static str,
    categories: Option<Vec<String>>,
    requests_per_second: Option<u32>,
    append_bytes_per_second: Option<u32>,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    last_used_at: Option<String>,
}

impl From<StoredToken> for Listed {
    fn from(token: StoredToken) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            name: token.id,
            role: token.role,
            state: match token.state {
                TokenState::Valid => "valid",
                TokenState::Expired => "expired",
                TokenState::Revoked => "revoked",
            },
            categories: token.limits.categories,
            requests_per_second: token.limits.requests_per_second,
            append_bytes_per_second: token.limits.append_bytes_per_second,
            created_at: token.created_at.to_string(),
            expires_at: text(token.limits.expires_at),
            revoked_at: text(token.revoked_at),
            last_used_at: text(token.last_used_at),
        }
    }
}

pub(super) async fn run(context: &Context, command: TokenCommand) -> Result<(), CliError> {
    let log = context.log().await?;
    let done = act(context, command, &log).await;
    log.shut_down().await;
    done
}

async fn act(context: &Context, command: TokenCommand, log: &PgLog) -> Result<(), CliError> {
    match command {
        TokenCommand::Create { role, name, limits } => {
            check_name(&name)?;
            let now = SystemClock::read().map_err(CliError::failed("reading the clock"))?;
            let limits = limits.read(role, now)?;
            let token = create(log, &name, role, &limits).await?;
            say("this token is shown once; the database keeps its hash alone");
            let (expires_at, categories) = (limits.expires_at.map(|at| at.to_string()), limits.categories);
            let created = Created { name, role, expires_at, categories, token };
            context.output.data(&created, |created| created.token.clone())
        }
        TokenCommand::List => {
            let tokens = log.tokens().await.map_err(CliError::failed("listing tokens"))?;
            let listed: Vec<Listed> = tokens.into_iter().map(Listed::from).collect();
            context.output.data(&listed, |listed| people(listed))
        }
        TokenCommand::Revoke { name, yes } => {
            confirm(&[format!("revoke the token {name:?}")], yes)?;
            match log.revoke_token(&name).await.map_err(CliError::failed("revoking the token"))? {
                true => Ok(()),
                false => Err(CliError::Usage(format!("there is no token {name:?}"))),
            }
        }
    }
}

/// A name stands in logs and lists: it is there, and it is one short line.
fn check_name(name: &str) -> Result<(), CliError> {
    if name.starts_with(oidc::NAME_PREFIX) {
        return Err(CliError::Usage(format!("names that begin with {} are those of the issuer's", oidc::NAME_PREFIX)));
    }
    if (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && !name.contains(char::is_control) && name.trim() == name {
        return Ok(());
    }
    Err(CliError::Usage(format!("a token's name has 1 to {NAME_CHARS_MAX} characters, and no white space around them")))
}

/// Makes a token in the log's database.
///
/// # Errors
/// `Failed` if there is one of that name.
pub(super) async fn create(log: &PgLog, name: &str, role: TokenRole, limits: &TokenLimits) -> Result<String, CliError> {
    let token = new_token();
    let created = log.create_token(name, &Hash(TokenHash::of(&token).0), role.as_str(), limits).await;
    created.map_err(CliError::failed("creating the token"))?;
    Ok(token)
}

fn people(listed: &[Listed]) -> String {
    let rows: Vec<(String, String)> = listed
        .iter()
        .map(|token| {
            let mut said = format!("{}, created {}", token.role, token.created_at);
            let named = token.categories.as_ref().map(|named| named.join(" "));
            let rate = |rate: Option<u32>| rate.map(|rate| rate.to_string());
            let parts = [
                ("categories", &named),
                ("requests a second", &rate(token.requests_per_second)),
                ("appended bytes a second", &rate(token.append_bytes_per_second)),
                (if token.state == "expired" { "expired" } else { "expires" }, &token.expires_at),
                ("revoked", &token.revoked_at),
                ("last used", &token.last_used_at),
            ];
            for (what, value) in parts.into_iter().filter_map(|(what, value)| Some((what, value.as_ref()?))) {
                said.push_str(&format!(", {what} {value}"));
            }
            (token.name.clone(), said)
        })
        .collect();
    if rows.is_empty() { "no tokens".to_owned() } else { table(&rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_line() {
        for good in ["a", "billing service", &"ä".repeat(NAME_CHARS_MAX)] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a ", "a\nb", "oidc:ann", &"a".repeat(NAME_CHARS_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_ends_at_an_instant_or_after_a_time_and_always_ahead() {
        let at = |text: &str| Timestamp::parse_rfc3339(text).expect("an instant");
        let now = at("2026-11-24T12:00:00Z");
        for (text, expected) in [
            ("90d", "2027-02-22T12:00:00Z"),
            ("12h", "2026-11-25T00:00:00Z"),
            ("30m", "2026-11-24T12:30:00Z"),
            ("2027-01-31T01:00:00+01:00", "2027-01-31T00:00:00Z"),
        ] {
            assert_eq!(end(text, now).expect("a time"), at(expected), "{text}");
        }
        for wrong in ["", "d", "0d", "-1d", "1y", "soon", "2026-11-24T12:00:00Z", "9223372036854775807d", "9ä"] {
            assert!(end(wrong, now).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_who_appends_or_reads_is_limited_to_categories() {
        let now = Timestamp::parse_rfc3339("2026-11-24T12:00:00Z").expect("an instant");
        let args = |category: &str| LimitArgs { category: vec![category.to_owned()], ..LimitArgs::default() };
        let read = args("order").read(TokenRole::Reader, now).expect("a reader may");
        assert_eq!(read.categories, Some(vec!["order".to_owned()]));
        for role in [TokenRole::Operator, TokenRole::Auditor, TokenRole::Replicator] {
            assert!(args("order").read(role, now).is_err(), "{role}");
            assert!(LimitArgs::default().read(role, now).is_ok(), "{role}");
        }
        assert!(args("Order").read(TokenRole::Reader, now).is_err(), "no category is called so");
    }
}
