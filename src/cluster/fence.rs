//! The fence of a term of leadership: a client that sends no write once the term is over.
//!
//! Every write of the operator passes here, so none can forget to look at the lease. What the
//! fence cannot see is a process that is paused between its last look and the wire; the lease is
//! kept for some seconds longer than the fence is open for that, and every irreversible write
//! names UID and resourceVersion.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Request};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, Layer, Service};

use super::limiter::{LimitLayer, Limiter};

/// Requests that may wait for the connection's own queue.
const QUEUE: usize = 1024;

/// One term of leadership. It ends once and for all: a later term is another one, so that nothing
/// that was decided in this one can be sent in that.
#[derive(Clone, Debug)]
pub struct Term(Arc<Mutex<Option<Until>>>);

/// The end of a term by both clocks; the earlier one counts. The monotonic clock is never set, but
/// stands still while a machine is suspended; the wall clock goes on then, but may be set back.
#[derive(Clone, Copy, Debug)]
struct Until {
    monotonic: Instant,
    wall: SystemTime,
}

impl Until {
    fn is_past(&self) -> bool {
        Instant::now() >= self.monotonic || SystemTime::now() >= self.wall
    }
}

/// When something began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment(Instant, SystemTime);

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn plus(self, length: Duration) -> Until {
        Until { monotonic: self.0 + length, wall: self.1 + length }
    }
}

/// Why a write was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not sent: this process does not hold the lease any more")]
pub struct TermOver;

impl Term {
    /// A term from then on, of this length.
    pub fn begin(at: Moment, length: Duration) -> Self {
        Self(Arc::new(Mutex::new(Some(at.plus(length)))))
    }

    /// Prolongs the term: it now ends `length` after `at`.
    ///
    /// # Errors
    /// It is over.
    pub fn extend(&self, at: Moment, length: Duration) -> Result<(), TermOver> {
        self.check()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at.plus(length));
        Ok(())
    }

    /// Ends the term now.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a write may be sent at this moment.
    ///
    /// # Errors
    /// The term is over.
    pub fn check(&self) -> Result<(), TermOver> {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none_or(|until| until.is_past()) {
            *until = None;
            return Err(TermOver);
        }
        Ok(())
    }

    /// How long it still lasts if nobody prolongs it.
    pub fn remaining(&self) -> Duration {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        until.map_or(Duration::ZERO, |until| until.monotonic.saturating_duration_since(now))
    }
}

/// A client whose writes are sent in this term only: each is checked right before it is sent, each
/// repetition of it too, and given up when the term ends before its answer has come.
///
/// # Errors
/// A configuration of which no client can be made.
pub fn fenced_client(mut config: Config, term: &Term) -> kube::Result<Client> {
    // The client's own retries would be outside the fence.
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&FenceLayer(term.clone()))
        .with_layer(&BufferLayer::new(QUEUE))
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .build())
}

/// As [`fenced_client`], for mass work: each request, and each repetition of it, waits for its turn,
/// on connections of its own.
///
/// # Errors
/// As [`fenced_client`].
pub fn limited_client(mut config: Config, term: &Term, limiter: Limiter) -> kube::Result<Client> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&FenceLayer(term.clone()))
        .with_layer(&LimitLayer(limiter))
        .with_layer(&BufferLayer::new(QUEUE))
        .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
        .build())
}

struct FenceLayer(Term);

impl<S> Layer<S> for FenceLayer {
    type Service = Fence<S>;

    fn layer(&self, inner: S) -> Fence<S> {
        Fence { inner, term: self.0.clone() }
    }
}

struct Fence<S> {
    inner: S,
    term: Term,
}

impl<S> Service<Request<Body>> for Fence<S>
where
    S: Service<Request<Body>, Error = BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Box::pin(self.inner.call(request));
        }
        if let Err(over) = self.term.check() {
            return Box::pin(async move { Err(over.into()) });
        }
        let mut answer = Box::pin(self.inner.call(request));
        let term = self.term.clone();
        Box::pin(async move {
            let over = async {
                loop {
                    tokio::time::sleep(term.remaining()).await;
                    if term.check().is_err() {
                        return;
                    }
                }
            };
            tokio::pin!(over);
            // Looked at before each step of the request: after a pause, the clock comes first.
            std::future::poll_fn(|cx| {
                if term.check().is_err() || over.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(TermOver.into()));
                }
                answer.as_mut().poll(cx)
            })
            .await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::Response;
    use kube::client::Body;

    use super::*;

    /// A server that counts what it gets, and answers with `code` after a while.
    fn client(term: &Term, code: u16, after: Duration) -> (Client, Arc<AtomicU32>) {
        let seen = Arc::new(AtomicU32::new(0));
        let counted = seen.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            if request.method() != Method::GET {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            async move {
                tokio::time::sleep(after).await;
                let body = r#"{"metadata": {"name": "x"}}"#;
                let answer = Response::builder().status(code);
                Ok::<_, BoxError>(answer.body(Body::from(body.as_bytes().to_vec())).unwrap())
            }
        });
        let client = ClientBuilder::new(server, "default")
            .with_layer(&FenceLayer(term.clone()))
            .with_layer(&BufferLayer::new(QUEUE))
            .with_layer(&RetryLayer::new(RetryPolicy::server_retry()))
            .build();
        (client, seen)
    }

    async fn send(client: &Client, method: Method) -> Result<String, kube::Error> {
        let request = Request::builder().method(method).uri("/x").body(Vec::new()).unwrap();
        client.request_text(request).await
    }

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn writes_pass_within_the_term_and_never_after_it() {
        let term = Term::begin(Moment::now(), LONG);
        let (client, seen) = client(&term, 200, Duration::ZERO);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            send(&client, method).await.unwrap();
        }
        assert_eq!(seen.load(Ordering::SeqCst), 4);
        term.end();
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = send(&client, method).await.unwrap_err();
            assert!(super::super::describe(&error).contains("does not hold the lease"), "{error}");
        }
        assert_eq!(seen.load(Ordering::SeqCst), 4);
        send(&client, Method::GET).await.unwrap();
        assert!(term.extend(Moment::now(), LONG).is_err(), "a term that is over stays over");
        assert!(send(&client, Method::DELETE).await.is_err());
    }

    #[tokio::test]
    async fn repetitions_of_a_write_end_with_the_term() {
        let term = Term::begin(Moment::now(), SHORT);
        let (client, seen) = client(&term, 503, Duration::ZERO);
        let error = send(&client, Method::DELETE).await.unwrap_err();
        assert!(super::super::describe(&error).contains("does not hold the lease"), "{error}");
        let sent = seen.load(Ordering::SeqCst);
        assert!(sent > 1, "expected repetitions; seen: {sent}");
    }

    #[tokio::test]
    async fn a_write_without_an_answer_is_given_up_when_the_term_ends() {
        let term = Term::begin(Moment::now(), SHORT);
        let (client, _) = client(&term, 200, LONG);
        let begun = Instant::now();
        send(&client, Method::DELETE).await.unwrap_err();
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_renewal_prolongs_what_is_under_way() {
        let term = Term::begin(Moment::now(), SHORT);
        let (client, _) = client(&term, 200, SHORT * 2);
        term.extend(Moment::now(), LONG).unwrap();
        send(&client, Method::DELETE).await.unwrap();
    }

    #[test]
    fn the_earlier_of_both_clocks_counts() {
        let now = Moment::now();
        let suspended = Moment(now.0, now.1 - Duration::from_secs(60));
        assert!(Term::begin(suspended, Duration::from_secs(10)).check().is_err());
        let set_back = Moment(now.0 - Duration::from_secs(60), now.1 + Duration::from_secs(60));
        assert!(Term::begin(set_back, Duration::from_secs(10)).check().is_err());
        assert!(Term::begin(now, Duration::from_secs(10)).check().is_ok());
    }
}
