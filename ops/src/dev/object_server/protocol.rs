//! The S3 operations over the store. Translates, checks conditions of reads, streams; whatever is promised about
//! durability and conditional writes is kept by `store`. Must never do disk work on a runtime thread, except for the
//! removal of an upload that its client has abandoned.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as TOKEN_BASE64;
use bytes::Bytes;
use futures::StreamExt as _;
use s3s::dto::*;
use s3s::stream::ByteStream as _;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tokio_util::task::TaskTracker;

use super::digests::{Algorithm, Checksums, ClaimError, Claims};
use super::listing::{self, After, KEYS_MAX, Query};
use super::store::{Condition, Headers, Meta, Opened, Sealed, Staged, Store, StoreError};

/// How much of an upload is gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// How much of a body is read at once; a smaller body is one read and one frame.
const READ_BYTES: u64 = 4 << 20;
const _: () = assert!(READ_BYTES <= usize::MAX as u64, "a read fits into memory");

/// The trailer's announcement of what it will carry.
const TRAILER_HEADER: &str = "x-amz-trailer";

/// The operations; everything not listed here answers `NotImplemented`.
#[derive(Debug, Clone)]
pub(super) struct Protocol {
    pub(super) store: Arc<Store>,
    /// All disk work, so that the server can wait for it before it gives the folder back.
    pub(super) work: TaskTracker,
}

impl Protocol {
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> S3Result<T> {
        let store = Arc::clone(&self.store);
        let done = self.work.spawn_blocking(move || act(&store)).await;
        done.map_err(S3Error::internal_error)?.map_err(refusal)
    }

    /// Takes the bytes in and brings them to disk, without a key yet.
    async fn take_in(&self, body: Option<StreamingBlob>, mut upload: Upload) -> S3Result<Sealed> {
        let claims = Arc::clone(&upload.claims);
        let mut staged = self.blocking(move |store| store.stage(&claims)).await?;
        let mut gathered = Vec::new();
        let mut body = body.unwrap_or_else(|| StreamingBlob::from(Body::empty()));
        let mut size = 0;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(broken_body)?;
            size += piece.len();
            gathered.push(piece);
            if size >= WRITE_BYTES {
                let pieces = std::mem::take(&mut gathered);
                staged = self.blocking(move |_| write_all(staged, &pieces)).await?;
                size = 0;
            }
        }
        upload.add_trailers()?;
        let (claims, headers) = (Arc::clone(&upload.claims), std::mem::take(&mut upload.headers));
        let sealed = self.blocking(move |_| write_all(staged, &gathered)?.seal(&claims, headers)).await?;
        Ok(sealed)
    }
}

fn write_all(mut staged: Staged, pieces: &[Bytes]) -> Result<Staged, StoreError> {
    pieces.iter().try_for_each(|piece| staged.write(piece))?;
    Ok(staged)
}

/// What a PUT says beside its bytes.
struct Upload {
    claims: Arc<Claims>,
    headers: Headers,
    trailers: Option<s3s::TrailingHeaders>,
}

impl Upload {
    fn new(request: &mut S3Request<PutObjectInput>) -> S3Result<Self> {
        let announced = request.headers.get(TRAILER_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let names: Vec<String> = announced.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        let announced =
            Algorithm::ALL.into_iter().filter(|one| names.iter().any(|name| name == one.header())).collect();
        let input = &mut request.input;
        let checksums = [
            (Algorithm::Crc32, input.checksum_crc32.take()),
            (Algorithm::Crc32c, input.checksum_crc32c.take()),
            (Algorithm::Crc64Nvme, input.checksum_crc64nvme.take()),
            (Algorithm::Sha1, input.checksum_sha1.take()),
            (Algorithm::Sha256, input.checksum_sha256.take()),
        ];
        let declared = input.content_length.and_then(|length| u64::try_from(length).ok());
        // What the body itself knows is the length without the chunks' envelopes.
        let decoded = input.body.as_ref().and_then(|body| body.remaining_length().exact()).map(|length| length as u64);
        let claims = Claims {
            content_md5: input.content_md5.take(),
            checksums: checksums.into_iter().filter_map(|(algorithm, value)| Some((algorithm, value?))).collect(),
            announced,
            length: decoded.or(declared),
        };
        claims.check_form().map_err(|error| refusal(error.into()))?;
        Ok(Self { claims: Arc::new(claims), headers: headers(input), trailers: request.trailing_headers.take() })
    }

    /// The trailer is there once the body has been read to its end.
    fn add_trailers(&mut self) -> S3Result<()> {
        let came = self.trailers.as_ref().and_then(s3s::TrailingHeaders::take).unwrap_or_default();
        let claims = Arc::get_mut(&mut self.claims).ok_or_else(|| s3_error!(InternalError, "claims are in use"))?;
        for algorithm in claims.announced.clone() {
            if let Some(value) = came.get(algorithm.header()).and_then(|value| value.to_str().ok()) {
                claims.checksums.insert(algorithm, value.to_owned());
            }
        }
        claims.check_form().map_err(|error| refusal(error.into()))
    }
}

fn headers(input: &mut PutObjectInput) -> Headers {
    // `aws-chunked` is about the transfer, not about the object.
    let encoding = input.content_encoding.take().map(|all| {
        let kept: Vec<&str> = all.split(',').map(str::trim).filter(|one| *one != "aws-chunked").collect();
        kept.join(",")
    });
    Headers {
        content_type: input.content_type.take(),
        content_encoding: encoding.filter(|kept| !kept.is_empty()),
        content_disposition: input.content_disposition.take(),
        content_language: input.content_language.take(),
        cache_control: input.cache_control.take(),
        user: input.metadata.take().unwrap_or_default().into_iter().collect(),
    }
}

/// A promise that we would not keep must not be taken in silence.
fn refuse_unkept(input: &PutObjectInput) -> S3Result<()> {
    let retention = input.object_lock_mode.is_some()
        || input.object_lock_retain_until_date.is_some()
        || input.object_lock_legal_hold_status.is_some();
    let encryption = input.server_side_encryption.is_some() || input.sse_customer_algorithm.is_some();
    if retention || encryption || input.write_offset_bytes.is_some() {
        return Err(s3_error!(NotImplemented, "object lock, encryption and appending are not implemented"));
    }
    Ok(())
}

fn write_condition(input: &PutObjectInput) -> S3Result<Condition> {
    match (&input.if_none_match, &input.if_match) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::Absent),
        (None, Some(condition)) => Ok(Condition::Matches(condition.clone())),
        _ => Err(s3_error!(NotImplemented, "a PUT takes `If-None-Match: *` or `If-Match`, one of them")),
    }
}

/// RFC 9110 §13.2.2: an ETag condition that is given outranks the one on the time.
fn check_read(meta: &Meta, conditions: &ReadConditions) -> S3Result<()> {
    let etag = ETag::Strong(meta.etag.clone());
    let matches = |condition: &ETagCondition| condition.as_etag().is_none_or(|wanted| wanted.weak_cmp(&etag));
    // HTTP dates have no fractions.
    let modified = Timestamp::from(std::time::UNIX_EPOCH + whole_seconds(meta));
    let precondition = match (&conditions.if_match, &conditions.if_unmodified_since) {
        (Some(condition), _) => matches(condition),
        (None, Some(limit)) => modified <= *limit,
        (None, None) => true,
    };
    if !precondition {
        return Err(s3_error!(PreconditionFailed));
    }
    let unchanged = match (&conditions.if_none_match, &conditions.if_modified_since) {
        (Some(condition), _) => matches(condition),
        (None, Some(limit)) => modified <= *limit,
        (None, None) => false,
    };
    if unchanged { Err(s3_error!(NotModified)) } else { Ok(()) }
}

struct ReadConditions {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
}

fn whole_seconds(meta: &Meta) -> std::time::Duration {
    let since_epoch = meta.modified().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    std::time::Duration::from_secs(since_epoch.as_secs())
}

/// The checksums of the whole object, for a client that asks for them and does not read a part.
fn told_checksums(meta: &Meta, mode: Option<&ChecksumMode>, partial: bool) -> Checksums {
    let asked = mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    if asked && !partial { meta.checksums.clone() } else { Checksums::new() }
}

/// Reads the bytes of `range` now; `read_exact_at` fails if the file has shrunk since it was measured.
fn read_range(file: &File, range: &std::ops::Range<u64>) -> std::io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(Bytes::from(bytes))
}

/// A small range is in memory when the answer begins; a large one is read block by block as the client takes it.
fn stream(work: TaskTracker, file: File, first: Bytes, rest: std::ops::Range<u64>) -> StreamingBlob {
    if rest.is_empty() {
        return StreamingBlob::from(Body::from(first));
    }
    let file = Arc::new(file);
    let blocks = futures::stream::unfold(rest, move |rest| {
        let (work, file) = (work.clone(), Arc::clone(&file));
        async move {
            if rest.is_empty() {
                return None;
            }
            let end = rest.end.min(rest.start + READ_BYTES);
            let block = rest.start..end;
            let read = work.spawn_blocking(move || read_range(&file, &block)).await;
            Some((read.unwrap_or_else(|error| Err(std::io::Error::other(error))), end..rest.end))
        }
    });
    StreamingBlob::wrap(futures::stream::iter([Ok(first)]).chain(blocks))
}

/// An answer that describes an object. GET and HEAD say the same of it, in two types that share nothing but the names.
macro_rules! described {
    ($answer:ident, $meta:expr, $checksums:expr, { $($own:tt)* }) => {{
        let (meta, mut checksums) = ($meta, $checksums);
        $answer {
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(meta.modified().into()),
            e_tag: Some(ETag::Strong(meta.etag)),
            checksum_crc32: checksums.remove(&Algorithm::Crc32),
            checksum_crc32c: checksums.remove(&Algorithm::Crc32c),
            checksum_crc64nvme: checksums.remove(&Algorithm::Crc64Nvme),
            checksum_sha1: checksums.remove(&Algorithm::Sha1),
            checksum_sha256: checksums.remove(&Algorithm::Sha256),
            content_type: meta.headers.content_type,
            content_encoding: meta.headers.content_encoding,
            content_disposition: meta.headers.content_disposition,
            content_language: meta.headers.content_language,
            cache_control: meta.headers.cache_control,
            metadata: Some(meta.headers.user.into_iter().collect()),
            $($own)*
            ..$answer::default()
        }
    }};
}

#[async_trait::async_trait]
impl S3 for Protocol {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        refuse_unkept(&req.input)?;
        let condition = write_condition(&req.input)?;
        let upload = Upload::new(&mut req)?;
        let PutObjectInput { bucket, key, body, .. } = req.input;
        let sealed = self.take_in(body, upload).await?;
        // `sealed` is used up on the thread that commits: dropping it removes what was replaced.
        let commit =
            move |store: &Store| store.commit(&bucket, &key, &sealed, &condition).map(|()| sealed.meta.clone());
        let meta = self.blocking(commit).await?;
        let mut checksums = meta.checksums;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(meta.etag)),
            checksum_crc32: checksums.remove(&Algorithm::Crc32),
            checksum_crc32c: checksums.remove(&Algorithm::Crc32c),
            checksum_crc64nvme: checksums.remove(&Algorithm::Crc64Nvme),
            checksum_sha1: checksums.remove(&Algorithm::Sha1),
            checksum_sha256: checksums.remove(&Algorithm::Sha256),
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput {
            bucket,
            key,
            range,
            checksum_mode,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            ..
        } = req.input;
        let conditions = ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
        let Opened { body, length, meta } = self.blocking(move |store| store.open_object(&bucket, &key)).await?;
        check_read(&meta, &conditions)?;
        let wanted = range.as_ref().map_or(Ok(0..length), |range| range.check(length))?;
        let content_range = range.map(|_| format!("bytes {}-{}/{length}", wanted.start, wanted.end - 1));
        let first_end = wanted.end.min(wanted.start + READ_BYTES);
        let block = wanted.start..first_end;
        let (body, first) = self.blocking(move |_| Ok(read_range(&body, &block).map(|first| (body, first))?)).await?;
        let checksums = told_checksums(&meta, checksum_mode.as_ref(), content_range.is_some());
        Ok(S3Response::new(described!(GetObjectOutput, meta, checksums, {
            content_length: i64::try_from(wanted.end - wanted.start).ok(),
            body: Some(stream(self.work.clone(), body, first, first_end..wanted.end)),
            content_range,
        })))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput {
            bucket,
            key,
            checksum_mode,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            ..
        } = req.input;
        let conditions = ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
        let Opened { length, meta, .. } = self.blocking(move |store| store.open_object(&bucket, &key)).await?;
        check_read(&meta, &conditions)?;
        let checksums = told_checksums(&meta, checksum_mode.as_ref(), false);
        let content_length = i64::try_from(length).ok();
        Ok(S3Response::new(described!(HeadObjectOutput, meta, checksums, { content_length, })))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, if_match, .. } = req.input;
        let condition = if_match.map_or(Condition::Always, Condition::Matches);
        self.blocking(move |store| store.delete_object(&bucket, &key, &condition)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input {
            bucket,
            continuation_token,
            delimiter,
            encoding_type,
            max_keys,
            prefix,
            start_after,
            ..
        } = req.input;
        let after = match (&continuation_token, &start_after) {
            (Some(token), _) => {
                read_token(token).ok_or_else(|| s3_error!(InvalidArgument, "unknown continuation token"))?
            }
            (None, Some(key)) => After::Key(key.clone()),
            (None, None) => After::Start,
        };
        let keys_max = max_keys.map_or(Ok(KEYS_MAX), usize::try_from).map_err(|_| s3_error!(InvalidArgument))?;
        let query = Query {
            prefix: prefix.clone().unwrap_or_default(),
            delimiter: delimiter.clone(),
            after,
            keys_max: keys_max.min(KEYS_MAX),
        };
        let name = bucket.clone();
        let page = self.blocking(move |store| listing::list(&store.bucket(&name)?, &query)).await?;
        let url = encoding_type.as_ref().is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        let shown = |key: String| if url { url_encoded(&key) } else { key };
        let contents: Vec<Object> = page
            .objects
            .into_iter()
            .map(|found| Object {
                key: Some(shown(found.key)),
                e_tag: Some(ETag::Strong(found.etag)),
                size: i64::try_from(found.length).ok(),
                last_modified: Some(found.modified.into()),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Object::default()
            })
            .collect();
        let common: Vec<CommonPrefix> =
            page.common_prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(shown(prefix)) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket),
            key_count: i32::try_from(contents.len() + common.len()).ok(),
            max_keys: i32::try_from(keys_max).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(token),
            contents: Some(contents),
            common_prefixes: Some(common),
            prefix: prefix.map(shown),
            delimiter: delimiter.map(shown),
            start_after: start_after.map(shown),
            continuation_token,
            encoding_type,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        if req.input.object_lock_enabled_for_bucket == Some(true) {
            return Err(s3_error!(NotImplemented, "object lock is not implemented"));
        }
        let bucket = req.input.bucket;
        let location = Some(format!("/{bucket}"));
        self.blocking(move |store| store.create_bucket(&bucket)).await?;
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let bucket = req.input.bucket;
        self.blocking(move |store| store.bucket(&bucket)).await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = req.input.bucket;
        self.blocking(move |store| store.delete_bucket(&bucket)).await?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn list_buckets(&self, _req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let found = self.blocking(|store| store.list_buckets()).await?;
        let bucket = |(name, created): (String, std::time::SystemTime)| Bucket {
            name: Some(name),
            creation_date: Some(created.into()),
            ..Bucket::default()
        };
        let buckets = Some(found.into_iter().map(bucket).collect());
        Ok(S3Response::new(ListBucketsOutput { buckets, ..ListBucketsOutput::default() }))
    }
}

/// A continuation token is opaque to clients: `k` or `p`, then the last key or prefix, in base64.
fn token(next: &After) -> String {
    let (mark, last) = match next {
        After::Start => ("k", ""),
        After::Key(last) => ("k", last.as_str()),
        After::Prefix(last) => ("p", last.as_str()),
    };
    TOKEN_BASE64.encode(format!("{mark}{last}"))
}

fn read_token(token: &str) -> Option<After> {
    let text = String::from_utf8(TOKEN_BASE64.decode(token).ok()?).ok()?;
    match text.split_at_checked(1)? {
        ("k", last) => Some(After::Key(last.to_owned())),
        ("p", last) => Some(After::Prefix(last.to_owned())),
        _ => None,
    }
}

/// `encoding-type=url`: for keys that XML cannot carry.
fn url_encoded(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/');
    key.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The S3 error of a refusal by the store.
fn refusal(error: StoreError) -> S3Error {
    let code = match &error {
        StoreError::NoBucket => S3ErrorCode::NoSuchBucket,
        StoreError::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
        StoreError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
        StoreError::NoObject => S3ErrorCode::NoSuchKey,
        StoreError::Precondition => S3ErrorCode::PreconditionFailed,
        StoreError::Claim(ClaimError::Malformed(_)) => S3ErrorCode::InvalidDigest,
        StoreError::Claim(ClaimError::Mismatch(_)) => S3ErrorCode::BadDigest,
        StoreError::Claim(ClaimError::Missing(_)) => S3ErrorCode::InvalidRequest,
        StoreError::Claim(ClaimError::Length { .. }) => S3ErrorCode::IncompleteBody,
        StoreError::Meta(_) | StoreError::Io(_) => S3ErrorCode::InternalError,
    };
    let mut refusal = S3Error::with_message(code, error.to_string());
    refusal.set_source(Box::new(error));
    refusal
}

/// The body ended early, or its signature does not hold; either way nothing of it is stored.
fn broken_body(error: s3s::StdError) -> S3Error {
    let text = error.to_string();
    let code = match () {
        () if text.contains("Sha256Mismatch") => S3ErrorCode::BadDigest,
        () if text.contains("SignatureMismatch") => S3ErrorCode::SignatureDoesNotMatch,
        () => S3ErrorCode::IncompleteBody,
    };
    S3Error::with_source(code, error)
}
