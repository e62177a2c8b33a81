//! The API server's clock.

use chrono::DateTime;
use kube::Client;
use kube::client::Body;

use super::{During, Error, Result};
use crate::api::Time;

/// By how much the operator's clock and the API server's may differ, in seconds.
const TOLERANCE: i64 = 60;

/// By how many seconds the operator's clock is ahead of the API server's, if the two disagree.
/// Pure.
pub fn clock_skew(own: Time, api_server: Time) -> Option<i64> {
    let skew = own.seconds_since(api_server);
    (skew.abs() > TOLERANCE).then_some(skew)
}

/// The time by the API server's clock: the `Date` header (RFC 9110, 6.6.1) of a small request.
///
/// # Errors
/// No answer, or one without a readable date.
pub async fn api_server_time(client: &Client) -> Result<Time> {
    let doing = "read the API server's clock";
    let request = http::Request::get("/version")
        .body(Body::empty())
        .map_err(|e| Error::Answer { doing: doing.to_owned(), what: e.to_string() })?;
    let response = client.send(request).await.during(doing)?;
    response
        .headers()
        .get(http::header::DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(|date| DateTime::parse_from_rfc2822(date).ok())
        .map(|date| Time::from(date.to_utc()))
        .ok_or_else(|| Error::Answer {
            doing: doing.to_owned(),
            what: "the answer has no readable Date header".to_owned(),
        })
}
