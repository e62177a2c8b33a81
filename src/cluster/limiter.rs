//! A client for mass work, whose requests wait their turn: how many are in flight at a time,
//! [`super::limit`] decides. One such client serves all restores of a process together.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use super::limit::{Answer, Limit};
use super::metrics::Metrics;

/// Who hands out the turns. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    turn: Notify,
    begun: Instant,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    limit: Limit,
    in_flight: usize,
}

impl Limiter {
    /// One that has handed out nothing yet, and tells these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let shared =
            Shared { state: Mutex::default(), turn: Notify::new(), begun: Instant::now(), metrics };
        let limiter = Self(Arc::new(shared));
        limiter.tell(limiter.state().limit.get());
        limiter
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, limit: usize) {
        self.0.metrics.restores.request_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Waits for a turn.
    async fn turn(&self) -> Turn {
        loop {
            // In line before looking: what ends in between wakes it.
            let turn = self.0.turn.notified();
            tokio::pin!(turn);
            turn.as_mut().enable();
            let pause = {
                let mut state = self.state();
                let pause = state.limit.pause(self.0.begun.elapsed());
                if pause.is_zero() && state.in_flight < state.limit.get() {
                    state.in_flight += 1;
                    return Turn { limiter: self.clone(), answer: Answer::Other };
                }
                pause
            };
            if pause.is_zero() {
                turn.await;
            } else {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// A turn; given back when it is dropped.
struct Turn {
    limiter: Limiter,
    answer: Answer,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Limiter(shared) = &self.limiter;
        let mut state = self.limiter.state();
        let in_flight = state.in_flight;
        state.limit.answered(self.answer, in_flight, shared.begun.elapsed());
        state.in_flight -= 1;
        let (limit, free) = (state.limit.get(), state.limit.get().saturating_sub(in_flight - 1));
        drop(state);
        self.limiter.tell(limit);
        for _ in 0..free.min(in_flight + 1) {
            shared.turn.notify_one();
        }
    }
}

/// What an answer says of how busy the API server is.
fn answer<B>(response: &Response<B>, time: Duration) -> Answer {
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
            Answer::TooMuch(after.and_then(|text| text.parse().ok()).map(Duration::from_secs))
        }
        status if status.is_server_error() => Answer::Other,
        _ => Answer::After(time),
    }
}

/// Lets each request of a client wait for its turn.
#[derive(Clone, Debug)]
pub struct LimitLayer(pub Limiter);

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limiter: self.0.clone() }
    }
}

/// See [`LimitLayer`].
#[derive(Clone, Debug)]
pub struct Limited<S> {
    inner: S,
    limiter: Limiter,
}

impl<S, B> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let creates = request.method() == Method::POST;
        let limiter = self.limiter.clone();
        // Nothing is sent before this is polled.
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut turn = limiter.turn().await;
            let begun = Instant::now();
            let result = response.await;
            if let Ok(response) = &result {
                turn.answer = answer(response, begun.elapsed());
                let metrics = &limiter.0.metrics;
                if matches!(turn.answer, Answer::TooMuch(_)) {
                    metrics.restores.requests_refused.inc();
                }
                if creates && response.status() == StatusCode::CREATED {
                    metrics.restores.objects_created.inc();
                }
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::Client;
    use kube::client::ClientBuilder;

    use super::*;

    /// A server that takes 10 ms for each request, and tells how many it had at a time at most,
    /// and how many in all. The first `busy` are answered with 429 and "after 1 s".
    fn client(busy: usize) -> (Client, Limiter, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let limiter = Limiter::new(Arc::default());
        let (now, most, all) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (most_seen, all_seen) = (most.clone(), all.clone());
        let server = tower::service_fn(move |_: Request<Body>| {
            let (now, most, all) = (now.clone(), most_seen.clone(), all_seen.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let refused = all.fetch_add(1, Ordering::SeqCst) < busy;
                tokio::time::sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                let response = match refused {
                    true => Response::builder().status(429).header(RETRY_AFTER, "1"),
                    false => Response::builder().status(201),
                };
                Ok::<_, BoxError>(response.body(Body::from(b"{}".to_vec())).unwrap())
            }
        });
        let client =
            ClientBuilder::new(server, "default").with_layer(&LimitLayer(limiter.clone())).build();
        (client, limiter, most, all)
    }

    async fn send(client: &Client, number: usize) -> usize {
        let sent = (0..number).map(|_| async {
            let request = Request::post("/x").body(Vec::new()).unwrap();
            client.request_text(request).await.is_ok()
        });
        futures::future::join_all(sent).await.into_iter().filter(|good| *good).count()
    }

    #[tokio::test]
    async fn never_more_than_the_limit_and_all_have_their_turn() {
        let (client, limiter, most, all) = client(0);
        assert_eq!(send(&client, 200).await, 200);
        let seen = most.load(Ordering::SeqCst);
        assert!((8..=40).contains(&seen), "at a time: {seen}");
        assert_eq!(all.load(Ordering::SeqCst), 200);
        assert_eq!(limiter.state().in_flight, 0);
        assert_eq!(limiter.0.metrics.restores.objects_created.get(), 200);
    }

    #[tokio::test]
    async fn told_to_wait_it_waits() {
        let (client, limiter, _, all) = client(1);
        let begun = Instant::now();
        assert_eq!(send(&client, 1).await, 0);
        assert_eq!(limiter.state().limit.get(), 4);
        assert_eq!(limiter.0.metrics.restores.requests_refused.get(), 1);
        assert_eq!(send(&client, 20).await, 20);
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(all.load(Ordering::SeqCst), 21);
    }

    #[tokio::test]
    async fn what_is_given_up_gives_its_turn_back() {
        let (client, limiter, ..) = client(0);
        let many = send(&client, 100);
        assert!(tokio::time::timeout(Duration::from_millis(15), many).await.is_err());
        assert_eq!(send(&client, 100).await, 100);
        assert_eq!(limiter.state().in_flight, 0);
    }
}
