//! The port to object storage over S3. Every write is conditional or repeatable, every reply's length is checked.
//!
//! Bodies are sent whole, with their length, payload signature and CRC-32 in headers: never as an `aws-chunked`
//! stream with trailers, which Ceph's gateway and others refuse. The payload signature (SHA-256) already ties the
//! bytes to the request on the way there; the CRC-32 is what the store itself may keep and compare.

use std::num::NonZeroU32;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};

use crate::attempt::{Failure, Limits};
use crate::config::{StoreConfig, StoreConfigError};
use crate::credentials::Found;
use crate::probe::{Probed, WrongChecksum};

/// S3 returns at most this many keys at a time.
const LIST_PAGE_MAX: usize = 1000;

/// The condition of a write.
#[derive(Clone, Copy)]
enum Only<'a> {
    /// If there is no object.
    IfAbsent,
    /// If this version is in force.
    IfVersion(&'a str),
}

/// Objects in one bucket, below one prefix, on any endpoint that speaks S3. Cheap to clone.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    prefix: String,
    limits: Limits,
}

/// Says the same address for every name.
#[cfg(feature = "conformance")]
#[derive(Debug, Clone)]
struct Everywhere(std::net::IpAddr);

#[cfg(feature = "conformance")]
impl aws_smithy_runtime_api::client::dns::ResolveDns for Everywhere {
    fn resolve_dns<'a>(&'a self, _name: &'a str) -> aws_smithy_runtime_api::client::dns::DnsFuture<'a> {
        aws_smithy_runtime_api::client::dns::DnsFuture::ready(Ok(vec![self.0]))
    }
}

impl S3Store {
    /// The store that `config` describes. No connection is made before the first request.
    ///
    /// # Errors
    /// [`StoreConfigError`] for what can be seen to be wrong without asking the endpoint.
    pub fn connect(config: &StoreConfig) -> Result<Self, StoreConfigError> {
        let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
        Self::over(config, http.tls_context(config.tls()?).build_https())
    }

    /// The same, where every host's name is that of `address`: for tests of names that no resolver knows.
    ///
    /// # Errors
    /// As [`S3Store::connect`].
    #[cfg(feature = "conformance")]
    pub fn connect_to(config: &StoreConfig, address: std::net::IpAddr) -> Result<Self, StoreConfigError> {
        let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
        Self::over(config, http.tls_context(config.tls()?).build_with_resolver(Everywhere(address)))
    }

    fn over(config: &StoreConfig, http: SharedHttpClient) -> Result<Self, StoreConfigError> {
        config.check()?;
        let credentials = match config.credentials(|name| std::env::var(name).ok())? {
            Some(configured) => SharedCredentialsProvider::new(configured),
            None => SharedCredentialsProvider::new(Found::new(&config.region)),
        };
        // Repeating is done here, where a body that ends early and a write that may have happened are known too.
        let mut sdk = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .force_path_style(config.path_style)
            .credentials_provider(credentials)
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(config.connect_timeout()).build())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            // A flipped byte has to reach the reader, who heals it; the SDK would call it a failed request.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        sdk.set_endpoint_url(config.endpoint.clone());
        Ok(Self {
            client: Client::from_conf(sdk.build()),
            bucket: config.bucket.clone(),
            prefix: config.key_prefix(),
            limits: Limits { attempt: config.attempt_timeout(), attempts: config.attempts },
        })
    }

    /// Makes the bucket, for development services and tests; one that is there is fine. Real buckets are made by
    /// whoever decides on their versioning, locks and lifecycle.
    ///
    /// # Errors
    /// `Unavailable`, `Refused`.
    pub async fn create_bucket(&self) -> Result<(), StoreError> {
        let create = || async {
            self.client.create_bucket().bucket(&self.bucket).send().await?;
            Ok(())
        };
        let created = self.limits.repeat(create).await.map_err(|failure| failure.of(&self.bucket));
        match created {
            // Whoever made it: it is there if it can be listed.
            Err(_) if self.list("", None, 1).await.is_ok() => Ok(()),
            created => created,
        }
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn put(&self, key: &str, bytes: &Bytes, crc32: u32, only: Only<'_>) -> Result<(), Failure> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full_key(key))
            .checksum_crc32(STANDARD.encode(crc32.to_be_bytes()))
            .body(ByteStream::from(bytes.clone()));
        let request = match only {
            Only::IfAbsent => request.if_none_match("*"),
            Only::IfVersion(etag) => request.if_match(etag),
        };
        request.send().await?;
        Ok(())
    }

    async fn put_repeatedly(&self, key: &str, bytes: &[u8], only: Only<'_>) -> Result<(), Failure> {
        let (crc32, bytes) = (crc32fast::hash(bytes), Bytes::copy_from_slice(bytes));
        self.limits.repeat(|| self.put(key, &bytes, crc32, only)).await
    }

    async fn get_once(&self, key: &str, range: Option<&str>) -> Result<Object, Failure> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.full_key(key));
        let reply = request.set_range(range.map(str::to_owned)).send().await?;
        let announced = length(reply.content_length)?;
        let body = reply.body.collect().await;
        let bytes =
            Vec::from(body.map_err(|error| Failure::Again(format!("the reply broke off: {error}")))?.into_bytes());
        if announced != bytes.len() as u64 {
            return Err(Failure::Again(format!("the reply has {} of {announced} bytes", bytes.len())));
        }
        let etag = reply.e_tag.unwrap_or_default();
        Ok(Object { meta: ObjectMeta { key: key.into(), bytes: announced, etag }, bytes })
    }

    async fn head_once(&self, key: &str) -> Result<ObjectMeta, Failure> {
        let reply = self.client.head_object().bucket(&self.bucket).key(self.full_key(key)).send().await?;
        let bytes = length(reply.content_length)?;
        Ok(ObjectMeta { key: key.into(), bytes, etag: reply.e_tag.unwrap_or_default() })
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Failure> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full_key(prefix))
            .set_start_after(after.map(|key| self.full_key(key)))
            .max_keys(i32::try_from(limit.min(LIST_PAGE_MAX)).expect("at most 1000"));
        let reply = request.send().await?;
        let mut objects = Vec::with_capacity(reply.contents().len());
        for object in reply.contents() {
            let key = object.key().and_then(|key| key.strip_prefix(&self.prefix));
            let key = key.ok_or_else(|| Failure::Again("the listing names a key outside of its prefix".into()))?;
            let etag = object.e_tag().unwrap_or_default().to_owned();
            objects.push(ObjectMeta { key: key.into(), bytes: length(object.size())?, etag });
        }
        let keys = after.into_iter().chain(objects.iter().map(|object| object.key.as_str()));
        if !keys.is_sorted_by(|earlier, later| earlier < later) {
            // The next page starts after the last key: out of order, some would be left out or come for ever.
            return Err(Failure::Again("the listing is out of order".into()));
        }
        let more = reply.is_truncated().unwrap_or(false);
        if more && objects.is_empty() {
            // Without a last key there is no next page: to end here would leave out what follows.
            return Err(Failure::Again("the listing has an empty page and says that it goes on".into()));
        }
        Ok(Page { objects, more })
    }

    /// What is there under `key` decides a write whose condition did not hold: our own bytes mean that an
    /// earlier reply was lost.
    async fn holds(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key).await?.bytes == bytes)
    }
}

/// Part of a listing.
struct Page {
    objects: Vec<ObjectMeta>,
    more: bool,
}

fn length(announced: Option<i64>) -> Result<u64, Failure> {
    let length = announced.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| Failure::Again("the reply says no length".into()))
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        match self.put_repeatedly(key, bytes, Only::IfAbsent).await {
            Ok(()) => Ok(Created::New),
            Err(Failure::Precondition) => match self.holds(key, bytes).await {
                Ok(true) => Ok(Created::Same),
                Ok(false) => Err(StoreError::Different { key: key.into() }),
                // Refused because it was there, and gone when we looked: somebody deleted it in between.
                Err(StoreError::NotFound { .. }) => {
                    Err(StoreError::Unavailable { key: key.into(), reason: "it was deleted meanwhile".into() })
                }
                Err(error) => Err(error),
            },
            Err(failure) => Err(failure.of(key)),
        }
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        // An ETag is quoted in HTTP. Ceph's gateway gives it with quotes and compares it without, so where the
        // version in force is refused under its own name it is named the other way: never a weaker condition.
        for name in [etag, etag.trim_matches('"')] {
            match self.put_repeatedly(key, bytes, Only::IfVersion(name)).await {
                Err(Failure::Precondition) => {}
                outcome => return outcome.map_err(|failure| failure.of(key)),
            }
            // A store may answer 412 for an object that is not there; reading it says which.
            let there = self.get(key).await?;
            if there.bytes == bytes {
                return Ok(());
            }
            if there.meta.etag != etag {
                break;
            }
        }
        Err(StoreError::Different { key: key.into() })
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        self.limits.repeat(|| self.get_once(key, None)).await.map_err(|failure| failure.of(key))
    }

    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let different = || StoreError::Different { key: key.into() };
        let end = offset.checked_add(bytes).ok_or_else(different)?;
        if bytes == 0 {
            // HTTP has no empty range.
            let meta = self.head(key).await?.ok_or_else(|| StoreError::NotFound { key: key.into() })?;
            return if end <= meta.bytes { Ok(Vec::new()) } else { Err(different()) };
        }
        let range = format!("bytes={offset}-{}", end - 1);
        let part = self.limits.repeat(|| self.get_once(key, Some(&range))).await.map_err(|failure| failure.of(key))?;
        // Shorter: the object ends inside the range. Longer: the store does not know ranges.
        match part.meta.bytes.cmp(&bytes) {
            std::cmp::Ordering::Equal => Ok(part.bytes),
            std::cmp::Ordering::Less => Err(different()),
            std::cmp::Ordering::Greater => {
                Err(StoreError::Refused { key: key.into(), reason: "the store does not serve ranges".into() })
            }
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        match self.limits.repeat(|| self.head_once(key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(Failure::NotFound) => Ok(None),
            Err(failure) => Err(failure.of(key)),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut listed = Vec::new();
        let mut after = after.map(str::to_owned);
        while listed.len() < limit {
            let wanted = limit - listed.len();
            let page = self.limits.repeat(|| self.list_page(prefix, after.as_deref(), wanted)).await;
            let page = page.map_err(|failure| failure.of(prefix))?;
            after = page.objects.last().map(|object| object.key.clone()).or(after);
            listed.extend(page.objects);
            if !page.more {
                break;
            }
        }
        Ok(listed)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let delete = || async {
            self.client.delete_object().bucket(&self.bucket).key(self.full_key(key)).send().await?;
            Ok(())
        };
        match self.limits.repeat(delete).await {
            Ok(()) | Err(Failure::NotFound) => Ok(()),
            Err(failure) => Err(failure.of(key)),
        }
    }
}

#[async_trait]
impl Probed for S3Store {
    async fn put_with_wrong_checksum(&self, key: &str, bytes: &[u8]) -> Result<WrongChecksum, StoreError> {
        let wrong = !crc32fast::hash(bytes);
        let bytes = Bytes::copy_from_slice(bytes);
        // Once: elsewhere this answer means "damaged on the way", and the request is repeated.
        let once = Limits { attempts: NonZeroU32::MIN, ..self.limits };
        match once.repeat(|| self.put(key, &bytes, wrong, Only::IfAbsent)).await {
            Ok(()) => Ok(WrongChecksum::Accepted),
            // Endpoints have several words for it. That the credentials are good, earlier checks have shown.
            Err(Failure::Damaged(_) | Failure::Refused(_)) => Ok(WrongChecksum::Refused),
            Err(failure) => Err(failure.of(key)),
        }
    }
}

#[cfg(test)]
mod tests;
