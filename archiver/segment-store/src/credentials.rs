//! Credentials that are not configured: found as AWS's own tools find them, when the first request needs them, and asked
//! for again before they end.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::config::Region;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Less than the 5 s after which the SDK gives up: it asks no shared provider for what that has to fall back on.
const LIMIT: Duration = Duration::from_secs(4);

/// Environment, profile, web identity, container, instance: the first that knows.
#[derive(Debug)]
pub(crate) struct Found {
    /// In which temporary ones are asked for.
    region: Region,
    chain: OnceCell<DefaultCredentialsChain>,
}

impl Found {
    pub(crate) fn new(region: &str) -> Self {
        Self { region: Region::new(region.to_owned()), chain: OnceCell::new() }
    }

    async fn chain(&self) -> DefaultCredentialsChain {
        // Of its own: whoever gives credentials out is not behind the bucket's private authority.
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let asking = ProviderConfig::without_region().with_http_client(http);
        // The builder's own region: that of the configuration would be looked for anew.
        DefaultCredentialsChain::builder().region(self.region.clone()).configure(asking).build().await
    }
}

impl ProvideCredentials for Found {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { in_time(self.chain.get_or_init(|| self.chain()).await).await })
    }
}

/// What `chain` gives in time, or else what it gave before and keeps for that: an instance whose service is slow works on
/// with it.
async fn in_time(chain: &impl ProvideCredentials) -> provider::Result {
    match timeout(LIMIT, chain.provide_credentials()).await {
        Ok(given) => given,
        Err(_) => chain.fallback_on_interrupt().ok_or_else(|| CredentialsError::provider_timed_out(LIMIT)),
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;

    /// Gives nothing any more.
    #[derive(Debug)]
    struct Slow {
        before: Option<Credentials>,
    }

    impl ProvideCredentials for Slow {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(std::future::pending())
        }

        fn fallback_on_interrupt(&self) -> Option<Credentials> {
            self.before.clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_are_late_are_those_that_were_given_before() {
        let before = Credentials::from_keys("id", "secret", None);
        let given = in_time(&Slow { before: Some(before.clone()) }).await;
        assert_eq!(given.expect("what it keeps"), before);
        let late = in_time(&Slow { before: None }).await.expect_err("it keeps nothing");
        assert!(matches!(late, CredentialsError::ProviderTimedOut(_)), "{late:?}");
    }
}
