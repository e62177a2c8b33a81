//! The driver that every room shares: a watch, a queue, and a reconciler for each object, with
//! what kube-runtime leaves to its user: a limit on concurrency, an outer timeout, and a back-off
//! for each object that resets.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};

use super::metrics::{Counts, Reconciled, Room};
use super::{Context, Error, Note, Result};
use crate::api::Reason;

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
/// or asked to be looked at again. An object that does not parse is told by an event on it and a
/// metric, and skipped; it never stops the others. `timeout` bounds one reconciliation, whatever
/// the client retries.
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
    let store = controller.store();
    // Whose turn it is, first come, first served. kube-runtime's own limit takes any of those that
    // wait: in a room that is busy all the time an unlucky one was not looked at for minutes.
    let turns = Arc::new(Semaphore::new(usize::from(ctx.concurrency.max(1))));
    let ends = turns.clone();
    let state = Arc::new(State { room, ctx, backoff: Backoff::default() });
    let (counted, forget) = (state.clone(), state.clone());
    state.ctx.metrics.count(room, move || Counts {
        backing_off: counted.backoff.len(),
        unparsable: store.state().into_iter().filter(|object| object.0.is_err()).count(),
    });
    controller
        .graceful_shutdown_on(async move {
            shutdown.wait().await;
            // Who still waits is not begun with.
            ends.close();
        })
        .run(
            move |object, state| {
                let (reconcile, turns) = (reconcile.clone(), turns.clone());
                async move {
                    let Ok(_turn) = turns.acquire_owned().await else {
                        return Ok(Action::await_change());
                    };
                    // Only who has a turn takes the memory of a reconciliation.
                    let once = Box::pin(state.once(&object, timeout, reconcile));
                    Ok::<_, Error>(once.await)
                }
            },
            |_, _, _| Action::requeue(BACKOFF_MOST),
            state,
        )
        .for_each(|result| {
            match result {
                Ok(_) => {}
                // It went away before its turn, which each failed try has coming.
                Err(controller::Error::ObjectNotFound(gone)) => {
                    forget.backoff.reset(&key(gone.namespace.as_deref(), &gone.name));
                }
                // A watch that broke is taken up again by the runtime, with a back-off that keeps
                // this line rare.
                Err(error) => tracing::warn!(room, %error, "a watch broke and is taken up again"),
            }
            std::future::ready(())
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
        let key = key(object.namespace().as_deref(), &name);
        let uid = object.uid().unwrap_or_default();
        let object = match &object.0 {
            Ok(object) => Arc::new(object.clone()),
            Err(error) => {
                self.backoff.reset(&key);
                let what = format!(
                    "the operator cannot read this object, and leaves it alone: {}; correct it",
                    error.error
                );
                self.ctx.tell(object, &Note::warning(Reason::Unparsable, what)).await;
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
                self.backoff.reset(&key);
                #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
                metrics.last_contact.set(chrono::Utc::now().timestamp() as f64);
                ("ok", action)
            }
            Err(error) => {
                let wait = self.backoff.next(&key, &uid);
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

/// What tells the objects of a room apart.
fn key(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

/// How long each object waits after its next error. A new object of an old name starts afresh: the
/// UID is kept as well.
#[derive(Debug, Default)]
struct Backoff(Mutex<HashMap<String, (String, Duration)>>);

impl Backoff {
    fn all(&self) -> MutexGuard<'_, HashMap<String, (String, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, key: &str, uid: &str) -> Duration {
        let mut all = self.all();
        let last = all.get(key).filter(|(of, _)| of == uid).map(|(_, wait)| *wait);
        let wait = last.map_or(BACKOFF_FIRST, |last| (last * 2).min(BACKOFF_MOST));
        all.insert(key.to_owned(), (uid.to_owned(), wait));
        wait
    }

    fn reset(&self, key: &str) {
        self.all().remove(key);
    }

    /// How many objects wait.
    fn len(&self) -> usize {
        self.all().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit_and_resets() {
        let backoff = Backoff::default();
        assert_eq!(backoff.next("/a", "1"), BACKOFF_FIRST);
        assert_eq!(backoff.next("/a", "1"), BACKOFF_FIRST * 2);
        assert_eq!(backoff.next("n/a", "2"), BACKOFF_FIRST);
        for _ in 0..20 {
            backoff.next("/a", "1");
        }
        assert_eq!(backoff.next("/a", "1"), BACKOFF_MOST);
        backoff.reset("/a");
        assert_eq!(backoff.next("/a", "1"), BACKOFF_FIRST);
        backoff.next("/a", "1");
        assert_eq!(backoff.next("/a", "3"), BACKOFF_FIRST, "a new object of that name");
    }

    #[test]
    fn nothing_is_kept_of_what_recovered_or_went_away() {
        let backoff = Backoff::default();
        backoff.next("/a", "1");
        backoff.next("/a", "2");
        assert_eq!(backoff.len(), 1);
        backoff.reset("/a");
        assert_eq!(backoff.len(), 0);
    }
}
