//! zstd on the wire (RFC 8878): answers in lines and in JSON to who accepts it, and bodies of appends. What is inside is
//! not touched. Events over SSE are as they are: what they say is small, and what stands between likes to see it.

use std::io::{self, Read, Write};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use domain::append::REQUEST_BYTES_MAX;
use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::append::too_large;
use super::problem::Problem;
use super::route::{JSON, NDJSON};

const ZSTD: &str = "zstd";
/// A higher level costs time for each reader.
const LEVEL: i32 = 3;
/// What a compressed answer needs to look back at: so much memory for each reader, as a power of two.
const ANSWER_WINDOW_LOG: u32 = 20;
/// A body may ask for so much to look back at, as a power of two: no more than the largest body has.
const BODY_WINDOW_LOG_MAX: u32 = 24;
const _: () = assert!(1 << BODY_WINDOW_LOG_MAX == REQUEST_BYTES_MAX, "a window is at most a whole body");
/// So much of a body is unpacked at first: doubled eight times, it is more than a body may be and no step is left over.
const UNPACK_BYTES_FIRST: usize = (REQUEST_BYTES_MAX >> 8) + 1;
/// An answer that is known to be shorter is sent as it is.
const ANSWER_BYTES_MIN: u64 = 1024;

/// Compresses answers in lines and in JSON for who accepts zstd.
pub(super) async fn compress(request: Request, next: Next) -> Response {
    let wanted = accepts_zstd(request.headers());
    let response = next.run(request).await;
    let is_packed = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == NDJSON || value == JSON);
    if !is_packed {
        return response;
    }
    let (mut head, body) = response.into_parts();
    head.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !wanted || body.size_hint().upper().is_some_and(|bytes| bytes < ANSWER_BYTES_MIN) {
        return Response::from_parts(head, body);
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(ZSTD));
    Response::from_parts(head, Body::from_stream(compressed(body)))
}

fn accepts_zstd(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(ZSTD));
        // A weight of zero says "not this one".
        let refused = parts.filter_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).any(|q| q <= 0.0);
        named && !refused
    })
}

type Encoder = zstd::stream::write::Encoder<'static, Vec<u8>>;

/// Each piece of `body` leaves at once: the news of a tail must not wait in the encoder for more. Where the body breaks
/// off, so does this, without the end of its frame: no part can be taken for the whole.
fn compressed(body: Body) -> impl stream::Stream<Item = Result<Bytes, axum::Error>> {
    stream::try_unfold((None, Some(body)), |(encoder, body): (Option<Encoder>, _)| async move {
        let Some(mut body) = body else { return Ok(None) };
        let mut encoder = match encoder {
            Some(encoder) => encoder,
            None => new_encoder(body.size_hint().exact()).map_err(axum::Error::new)?,
        };
        match body.frame().await.transpose()? {
            None => {
                let rest = encoder.finish().map_err(axum::Error::new)?;
                Ok(Some((Bytes::from(rest), (None, None))))
            }
            Some(frame) => {
                let piece = frame.into_data().unwrap_or_default();
                encoder.write_all(&piece).and_then(|()| encoder.flush()).map_err(axum::Error::new)?;
                let out = std::mem::take(encoder.get_mut());
                Ok(Some((Bytes::from(out), (Some(encoder), Some(body)))))
            }
        }
    })
}

/// For an answer of so many bytes, if that is known: a short one takes little memory.
fn new_encoder(bytes: Option<u64>) -> io::Result<Encoder> {
    let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
    encoder.window_log(ANSWER_WINDOW_LOG)?;
    encoder.set_pledged_src_size(bytes)?;
    Ok(encoder)
}

/// Whether the body is compressed.
///
/// # Errors
/// 415 for a coding other than zstd.
pub(super) fn is_zstd(headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    if coding.as_bytes().eq_ignore_ascii_case(ZSTD.as_bytes()) {
        return Ok(true);
    }
    Err(Problem::invalid("zstd is the only content encoding").with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// What is in a compressed body. Of one that would be larger than a body may be, no more than that is unpacked.
///
/// # Errors
/// 413 if it is too large; 400 if it is no zstd, is cut off, or wants to look back further than a body is long.
pub(super) fn unpacked(body: &[u8]) -> Result<Bytes, Problem> {
    let unpack = || {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
        decoder.window_log_max(BODY_WINDOW_LOG_MAX)?;
        let mut bytes = Vec::new();
        // It doubles, and no further than what is refused: a vector left to itself would take twice as much.
        while bytes.len() <= REQUEST_BYTES_MAX {
            let more = bytes.len().max(UNPACK_BYTES_FIRST).min(REQUEST_BYTES_MAX + 1 - bytes.len());
            bytes.reserve_exact(more);
            let end = u64::try_from(more).expect("16 MiB");
            if decoder.by_ref().take(end).read_to_end(&mut bytes)? < more {
                break;
            }
        }
        Ok(bytes)
    };
    let bytes: Vec<u8> =
        unpack().map_err(|error: io::Error| Problem::invalid(format!("the body is no whole zstd frame: {error}")))?;
    if bytes.len() > REQUEST_BYTES_MAX { Err(too_large()) } else { Ok(bytes.into()) }
}
