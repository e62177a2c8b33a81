//! The driver that every room shares: a watch, a queue, and a reconciler for each object, with
//! what kube-runtime leaves to its user: a limit on concurrency, an outer timeout, and a back-off
//! for each object that resets.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::metrics::{Reconciled, Room};
use super::{Context, Error, Result};

/// Reconciliations of one room that may run at the same time.
const CONCURRENCY: u16 = 16;
/// Back-off after the first error of an object; it doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest back-off.
const BACKOFF_MOST: Duration = Duration::from_secs(60);

/// Tells when to stop.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A way to say stop, and what tells it.
pub fn shutdown() -> (watch::Sender<bool>, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (sender, Shutdown(receiver))
}

impl Shutdown {
    /// Ends when it is time to stop.
    pub async fn wait(mut self) {
        // An error says that the sender is gone, which is the end as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Runs a room until shutdown: `reconcile` is called for each object of `controller` that changed
/// or asked to be looked at again. An object that does not parse is told in the log and skipped;
/// it never stops the others. `timeout` bounds one reconciliation, whatever the client retries.
pub async fn drive<K, F>(
    room: &'static str,
    controller: Controller<DeserializeGuard<K>>,
    ctx: Context,
    timeout: Duration,
    shutdown: Shutdown,
    reconcile: impl Fn(Arc<K>) -> F + Clone + Send + Sync + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action>> + Send + 'static,
{
    let state = Arc::new(State { room, ctx, backoff: Backoff::default() });
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(shutdown.wait())
        .run(
            move |object, state| {
                let reconcile = reconcile.clone();
                async move { Ok::<_, Error>(state.once(&object, timeout, reconcile).await) }
            },
            |_, _, _| Action::requeue(BACKOFF_MOST),
            state,
        )
        .for_each(|result| async move {
            match result {
                // It went away between its event and its turn.
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                // A watch that broke is taken up again by the runtime, with a back-off that keeps
                // this line rare.
                Err(error) => tracing::warn!(room, %error, "a watch broke and is taken up again"),
            }
        })
        .await;
}

struct State {
    room: &'static str,
    ctx: Context,
    backoff: Backoff,
}

impl State {
    async fn once<K, F>(
        &self,
        object: &DeserializeGuard<K>,
        timeout: Duration,
        reconcile: impl Fn(Arc<K>) -> F,
    ) -> Action
    where
        K: Resource<DynamicType = ()> + Clone,
        F: Future<Output = Result<Action>>,
    {
        let (room, name) = (self.room, object.name_any());
        let uid = object.uid().unwrap_or_else(|| name.clone());
        let object = match &object.0 {
            Ok(object) => Arc::new(object.clone()),
            Err(error) => {
                tracing::error!(room, name, %error, "the object does not parse: is its CRD of another version?");
                return Action::await_change();
            }
        };
        let start = Instant::now();
        let result = tokio::time::timeout(timeout, reconcile(object))
            .await
            .unwrap_or(Err(Error::Timeout { seconds: timeout.as_secs() }));
        let metrics = &self.ctx.metrics;
        metrics
            .reconcile_seconds
            .get_or_create(&Room { room })
            .observe(start.elapsed().as_secs_f64());
        let (label, action) = match result {
            Ok(action) => {
                self.backoff.reset(&uid);
                #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
                metrics.last_contact.set(chrono::Utc::now().timestamp() as f64);
                ("ok", action)
            }
            Err(error) => {
                let wait = self.backoff.next(&uid);
                tracing::warn!(room, name, retry_in = ?wait, "{error}");
                let label =
                    if matches!(error, Error::Timeout { .. }) { "timeout" } else { "error" };
                (label, Action::requeue(wait))
            }
        };
        metrics.reconciliations.get_or_create(&Reconciled { room, result: label }).inc();
        action
    }
}

/// How long each object waits after its next error, by UID: a new object of an old name starts
/// afresh.
#[derive(Debug, Default)]
struct Backoff(Mutex<HashMap<String, Duration>>);

impl Backoff {
    fn next(&self, uid: &str) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = all.get(uid).map_or(BACKOFF_FIRST, |last| (*last * 2).min(BACKOFF_MOST));
        all.insert(uid.to_owned(), wait);
        wait
    }

    fn reset(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit_and_resets() {
        let backoff = Backoff::default();
        assert_eq!(backoff.next("a"), BACKOFF_FIRST);
        assert_eq!(backoff.next("a"), BACKOFF_FIRST * 2);
        assert_eq!(backoff.next("b"), BACKOFF_FIRST);
        for _ in 0..20 {
            backoff.next("a");
        }
        assert_eq!(backoff.next("a"), BACKOFF_MOST);
        backoff.reset("a");
        assert_eq!(backoff.next("a"), BACKOFF_FIRST);
    }
}
