//! The CLI as a client of a running server. Nothing here waits for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::ErrorKind;
use futures::StreamExt;
use reqwest::{ClientBuilder, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::output::{CliError, write_stdout};
use crate::config::{self, Config};
use crate::tls;

/// Until a connection stands.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Until the answer to a question is there, or the next piece of a long one. A server answers within 60 s or says why
/// not, if it is not configured to take longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// Until an act is done: a server gives up after 300 s.
const ACT_LIMIT: Duration = Duration::from_secs(330);

/// Which server, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServerArgs {
    /// URL of the server; without it, where the configuration says that it listens
    #[arg(long, global = true, env = "COLDSTREAM_SERVER", value_name = "URL")]
    server: Option<String>,
    /// File with the token
    #[arg(long, global = true, env = "COLDSTREAM_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The token itself (better in the environment or in a file than on the command line)
    #[arg(long, global = true, env = "COLDSTREAM_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

impl ServerArgs {
    /// URL and token.
    ///
    /// # Errors
    /// `Usage` without a token, or for a server that is no URL.
    pub(super) fn address(&self, config: &Config) -> Result<(String, String), CliError> {
        let scheme = if config.http.tls.is_some() { "https" } else { "http" };
        let url = self.server.clone().unwrap_or_else(|| format!("{scheme}://{}", config.http.bind));
        if !config::is_http_url(&url) {
            return Err(CliError::Usage(format!("--server {url} is no URL: write http://HOST:PORT or https://HOST")));
        }
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok((url, token.trim().to_owned())),
            (None, Some(file)) => Ok((url, read_token(file)?)),
            (None, None) => {
                let advice = "a token is needed: --token-file, COLDSTREAM_TOKEN_FILE or COLDSTREAM_TOKEN \
                              (coldstream token create makes one)";
                Err(CliError::Usage(advice.to_owned()))
            }
        }
    }
}

/// A server that is spoken to.
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    /// The server that `args` name.
    ///
    /// # Errors
    /// `Usage` without a token.
    pub(super) fn new(args: &ServerArgs, config: &Config) -> Result<Self, CliError> {
        let (url, token) = args.address(config)?;
        Self::at(config, &url, token)
    }

    /// The other region, as the configuration names it; `None` without one.
    ///
    /// # Errors
    /// `Usage` if the token cannot be read.
    pub(super) fn peer(config: &Config) -> Result<Option<Self>, CliError> {
        match (&config.replication.peer_url, &config.replication.token_file) {
            (Some(url), Some(file)) => Self::at(config, url, read_token(file)?).map(Some),
            _ => Ok(None),
        }
    }

    /// The server at `url`.
    fn at(config: &Config, url: &str, token: String) -> Result<Self, CliError> {
        let http = http(config, |client| client.connect_timeout(CONNECT_LIMIT))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// `GET path`, read as JSON.
    ///
    /// # Errors
    /// What the server refuses, or that there is none.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, CliError> {
        let response = self.answer(self.request(Method::GET, path).query(query).timeout(ANSWER_LIMIT)).await?;
        response.json().await.map_err(|error| self.no_answer(error))
    }

    /// `POST path` with a JSON body, read as JSON.
    ///
    /// # Errors
    /// What the server refuses, or that there is none.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, CliError> {
        let response = self.answer(self.request(Method::POST, path).json(body).timeout(ACT_LIMIT)).await?;
        response.json().await.map_err(|error| self.no_answer(error))
    }

    /// `GET path`, copied to stdout as it comes.
    ///
    /// # Errors
    /// What the server refuses, or an answer that breaks off.
    pub(super) async fn copy(&self, path: &str, query: &[(&str, &str)]) -> Result<(), CliError> {
        let late = |_| CliError::Refused {
            kind: ErrorKind::Unavailable.to_string(),
            detail: format!("{} said nothing for {} s", self.url, ANSWER_LIMIT.as_secs()),
        };
        // A long answer has no limit as a whole, but each piece of it has.
        let asked = self.answer(self.request(Method::GET, path).query(query));
        let mut body = timeout(ANSWER_LIMIT, asked).await.map_err(late)??.bytes_stream();
        while let Some(chunk) = timeout(ANSWER_LIMIT, body.next()).await.map_err(late)? {
            write_stdout(&chunk.map_err(CliError::failed("reading the answer to its end"))?)?;
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    fn no_answer(&self, error: reqwest::Error) -> CliError {
        if error.is_connect() {
            let advice = "start it, or name another one with --server or COLDSTREAM_SERVER";
            return CliError::Unreachable { what: format!("no server answers at {}", self.url), advice, source: error };
        }
        let advice = "ask again, and look at the server's log";
        CliError::Unreachable { what: format!("{} did not answer to the end", self.url), advice, source: error }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|error| self.no_answer(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // What is no problem document comes from something between us and the server.
        let problem: Value = response.json().await.unwrap_or_default();
        let text = |member: &str| problem.get(member).and_then(Value::as_str).map(str::to_owned);
        Err(CliError::Refused {
            kind: text("kind").unwrap_or_else(|| ErrorKind::Unavailable.to_string()),
            detail: text("detail").unwrap_or_else(|| format!("{} answered {status}", self.url)),
        })
    }
}

/// An HTTP client that believes the authorities which the configuration names.
///
/// # Errors
/// `Failed` where they are none, or this machine cannot speak HTTP.
pub(super) fn http(
    config: &Config,
    with: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> Result<reqwest::Client, CliError> {
    let client = tls::client(&config.peer).map_err(CliError::failed("reading the certificates of peer"))?;
    with(client).build().map_err(CliError::failed("making an HTTP client"))
}

/// The token in a file.
///
/// # Errors
/// `Usage` if it cannot be read.
pub(super) fn read_token(file: &Path) -> Result<String, CliError> {
    let text = std::fs::read_to_string(file);
    let text =
        text.map_err(|error| CliError::Usage(format!("cannot read the token in {}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}
