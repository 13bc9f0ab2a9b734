//! `coldstream token create|list|revoke`: on the database itself, so that the first token needs none.

use clap::Subcommand;
use domain::merkle::Hash;
use event_log::PgLog;
use serde::Serialize;

use super::Context;
use super::output::{CliError, confirm, say, table};
use crate::http::auth::{TokenHash, TokenRole, new_token};

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
    },
    /// All tokens, also revoked ones
    List,
    /// Make a token allow nothing; servers refuse it within seconds
    Revoke {
        /// Its name
        name: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Serialize)]
struct Created {
    name: String,
    role: TokenRole,
    token: String,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    role: String,
    created_at: String,
    revoked_at: Option<String>,
}

pub(super) async fn run(context: &Context, command: TokenCommand) -> Result<(), CliError> {
    let log = context.log().await?;
    let done = act(context, command, &log).await;
    log.shut_down().await;
    done
}

async fn act(context: &Context, command: TokenCommand, log: &PgLog) -> Result<(), CliError> {
    match command {
        TokenCommand::Create { role, name } => {
            check_name(&name)?;
            let token = create(log, &name, role).await?;
            say("this token is shown once; the database keeps its hash alone");
            context.output.data(&Created { name, role, token }, |created| created.token.clone())
        }
        TokenCommand::List => {
            let tokens = log.tokens().await.map_err(CliError::failed("listing tokens"))?;
            let listed: Vec<Listed> = tokens
                .into_iter()
                .map(|token| Listed {
                    name: token.id,
                    role: token.role,
                    created_at: token.created_at.to_string(),
                    revoked_at: token.revoked_at.map(|at| at.to_string()),
                })
                .collect();
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
    if (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && !name.contains(char::is_control) && name.trim() == name {
        return Ok(());
    }
    Err(CliError::Usage(format!("a token's name has 1 to {NAME_CHARS_MAX} characters, and no white space around them")))
}

/// Makes a token in the log's database.
///
/// # Errors
/// `Failed` if there is one of that name.
pub(super) async fn create(log: &PgLog, name: &str, role: TokenRole) -> Result<String, CliError> {
    let token = new_token();
    let created = log.create_token(name, &Hash(TokenHash::of(&token).0), role.as_str()).await;
    created.map_err(CliError::failed("creating the token"))?;
    Ok(token)
}

fn people(listed: &[Listed]) -> String {
    let rows: Vec<(String, String)> = listed
        .iter()
        .map(|token| {
            let state = token.revoked_at.as_ref().map_or(String::new(), |at| format!(", revoked {at}"));
            (token.name.clone(), format!("{}, created {}{state}", token.role, token.created_at))
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
        for bad in ["", " ", "a ", "a\nb", &"a".repeat(NAME_CHARS_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
