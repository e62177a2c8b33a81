//! One request: forwarded, or what its fault makes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use super::call::{Call, Verb};
use super::rule::Fault;
use super::serve::Upstream;
use super::state::{Mode, State};
use super::watch;

/// What is answered.
pub(super) type Body = UnsyncBoxBody<Bytes, Broken>;
/// The pieces of a body.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, Broken>>;

/// The connection is to be reset.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("broken off by the proxy")]
pub(super) struct Broken;

/// The answer to this request.
pub(super) async fn answer(
    upstream: &Upstream,
    state: &Arc<State>,
    parts: Parts,
    body: Bytes,
) -> Result<Response<Body>, Broken> {
    if *state.mode.borrow() == Mode::Refusing {
        return Err(Broken);
    }
    state.until_open().await;
    let mut call = Call::of(&parts, &body);
    let fault = state.arrive(&mut call);
    match fault {
        Some(Fault::Answer(code)) => return Ok(failure(state, &call, code)),
        Some(Fault::Reset) => return Err(Broken),
        Some(Fault::Swallow) => return Ok(swallowed(&call)),
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::Hold) => state.hold(&call).await,
        _ => {}
    }
    // A server that is gone breaks connections; it does not answer that it is gone.
    let response = upstream.send(&parts, body).await.map_err(|_| Broken)?;
    state.answered(&call, response.status().as_u16());
    let (mut head, body) = response.into_parts();
    shift(&mut head.headers, *state.shift.lock());
    // A watch is carried out as soon as it begins; it has no end to wait for.
    let watches = call.verb == Verb::Watch;
    match fault {
        Some(Fault::AnswerAfter(code)) => {
            if !watches {
                whole(body).await?;
            }
            Ok(failure(state, &call, code))
        }
        Some(Fault::ResetAfter) => {
            if !watches {
                whole(body).await?;
            }
            Err(Broken)
        }
        Some(Fault::HoldAnswer) if !watches => {
            let body = whole(body).await?;
            state.hold(&call).await;
            Ok(Response::from_parts(head, full(body)))
        }
        Some(Fault::Freeze) => {
            if !watches {
                whole(body).await?;
            }
            state.note_frozen(&call);
            std::future::pending().await
        }
        Some(Fault::Truncate) if !watches => {
            let all = whole(body).await?;
            // As declared, so that the rest is missed.
            head.headers.remove(TRANSFER_ENCODING);
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(all.len()));
            let half = stream::iter([Ok(all.slice(..all.len() / 2))]);
            Ok(Response::from_parts(head, boxed(half.chain(broken_soon()).boxed())))
        }
        Some(Fault::Trickle(size, pause)) => {
            let slow = trickle(pieces(body), size, pause);
            Ok(Response::from_parts(head, boxed(slow)))
        }
        fault if watches && head.status.is_success() => {
            let events = watch::edit(pieces(body), fault, state.clone());
            Ok(Response::from_parts(head, boxed(events)))
        }
        _ => Ok(Response::from_parts(head, boxed(pieces(body)))),
    }
}

fn pieces(body: Incoming) -> Pieces {
    body.into_data_stream().map(|piece| piece.map_err(|_| Broken)).boxed()
}

async fn gather(mut pieces: Pieces) -> Result<Bytes, Broken> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all.into())
}

async fn whole(body: Incoming) -> Result<Bytes, Broken> {
    gather(pieces(body)).await
}

fn boxed(pieces: Pieces) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The end of a connection, once what was sent before is on its way: a reset drops what is not.
pub(super) fn broken_soon() -> Pieces {
    let soon = tokio::time::sleep(Duration::from_millis(20));
    stream::once(soon.map(|()| Err(Broken))).boxed()
}

fn trickle(pieces: Pieces, size: usize, pause: Duration) -> Pieces {
    let cut = move |piece: Result<Bytes, Broken>| -> Vec<Result<Bytes, Broken>> {
        match piece {
            Ok(piece) => {
                piece.chunks(size.max(1)).map(|chunk| Ok(piece.slice_ref(chunk))).collect()
            }
            Err(broken) => vec![Err(broken)],
        }
    };
    pieces
        .flat_map(move |piece| stream::iter(cut(piece)))
        .then(move |chunk| async move {
            tokio::time::sleep(pause).await;
            chunk
        })
        .boxed()
}

/// A failure, as the server tells them.
fn failure(state: &State, call: &Call, code: u16) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = match (code, call.verb) {
        (409, Verb::Create) => "AlreadyExists",
        (409, _) => "Conflict",
        (404, _) => "NotFound",
        (410, _) => "Expired",
        (429, _) => "TooManyRequests",
        (500, _) => "InternalError",
        (503, _) => "ServiceUnavailable",
        (504, _) => "Timeout",
        _ => "",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the fault proxy answers {code} to request {}", call.number),
        "reason": reason, "code": code,
    });
    let body = if state.kubernetes { body.to_string() } else { String::new() };
    let mut answer = json_answer(status, body);
    if code == 429 {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    shift(answer.headers_mut(), *state.shift.lock());
    answer
}

fn json_answer(status: StatusCode, body: String) -> Response<Body> {
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(DATE, date(Utc::now()));
    answer
}

/// What the server would have answered to a create.
fn swallowed(call: &Call) -> Response<Body> {
    let mut object = call.body.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let uid = format!("00000000-0000-4000-8000-{:012x}", call.number);
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("resourceVersion".to_owned(), json!("1"));
        metadata.insert("generation".to_owned(), json!(1));
        let now = Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
        metadata.insert("creationTimestamp".to_owned(), Value::String(now));
        if !call.namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(call.namespace));
        }
    }
    json_answer(StatusCode::CREATED, object.to_string())
}

fn date(time: DateTime<Utc>) -> HeaderValue {
    let text = time.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Moves the server's clock, as its header `Date` tells it.
fn shift(headers: &mut http::HeaderMap, by: TimeDelta) {
    let Some(value) = headers.get(DATE).and_then(|value| value.to_str().ok()) else { return };
    if let (false, Ok(time)) = (by.is_zero(), DateTime::parse_from_rfc2822(value)) {
        headers.insert(DATE, date(time.to_utc() + by));
    }
}
