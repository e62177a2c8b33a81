//! A gate before the requests of one Restore: once it is closed, nothing more is sent. What is on
//! its way is answered, so that everybody knows what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use kube::Client;
use kube::client::Body;
use tower::BoxError;

/// Open until it is closed, for good. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not sent: the Restore was stopped")]
struct Closed;

impl Gate {
    /// Closes it.
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// A client that sends through this gate.
    pub fn client(&self, inner: &Client) -> Client {
        let (gate, namespace) = (self.clone(), inner.default_namespace().to_owned());
        let inner = inner.clone();
        let through = move |request: Request<Body>| {
            let (gate, inner) = (gate.clone(), inner.clone());
            async move {
                if gate.is_closed() {
                    return Err(BoxError::from(Closed));
                }
                inner.send(request).await.map_err(BoxError::from)
            }
        };
        Client::new(tower::service_fn(through), namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_on_its_way_is_answered_and_nothing_follows() {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let server = move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, BoxError>(http::Response::new(Body::from(b"{}".to_vec())))
            }
        };
        let gate = Gate::default();
        let client = gate.client(&Client::new(tower::service_fn(server), "default"));
        let send = || async {
            let request = Request::post("/x").body(Vec::new()).unwrap();
            client.request_text(request).await
        };
        let close = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            gate.close();
        };
        let (answer, ()) = tokio::join!(send(), close);
        answer.unwrap();
        let error = send().await.unwrap_err();
        assert!(crate::cluster::describe(&error).contains("the Restore was stopped"), "{error}");
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }
}
