//! Credentials that are not configured: found as AWS's own tools find them, when the first request needs them, and asked
//! for again before they end.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::Region;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::sync::OnceCell;

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
        future::ProvideCredentials::new(async {
            self.chain.get_or_init(|| self.chain()).await.provide_credentials().await
        })
    }
}
