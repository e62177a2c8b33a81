//! One cluster for all tests of a test binary: a start takes seconds, and the machine has few cores.

use anyhow::Context as _;
use tokio::sync::{OnceCell, oneshot};

use super::Sandbox;

/// The cluster; nothing where none can start. It is never dropped, as no static is: the watchdog
/// ends it when the process of the tests ends.
static SHARED: OnceCell<Option<Sandbox>> = OnceCell::const_new();

impl Sandbox {
    /// The cluster that all tests of this binary share, with everything of [`Sandbox::install`];
    /// the first caller starts it. Nothing where no sandbox can start: the test is skipped.
    ///
    /// Its tests run side by side: each takes names of its own, kills nothing, and makes its
    /// clients with [`Sandbox::client_for`], because a client belongs to the runtime of one test.
    ///
    /// # Panics
    /// It should start, and does not.
    pub async fn shared(reprieve: &str) -> Option<&'static Self> {
        let start = || async {
            let reprieve = reprieve.to_owned();
            let (send, receive) = oneshot::channel();
            // On a runtime that outlives the first test's.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
                let _ = send.send(runtime.block_on(start(&reprieve)));
                runtime.block_on(std::future::pending::<()>());
            });
            receive.await.context("see above").expect("the shared sandbox starts")
        };
        SHARED.get_or_init(start).await.as_ref()
    }
}

async fn start(reprieve: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::for_test(reprieve).await?;
    sandbox.install().await.unwrap_or_else(|error| panic!("cannot install: {error:#}"));
    Some(sandbox)
}
