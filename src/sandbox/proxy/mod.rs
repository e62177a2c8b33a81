//! A proxy between the operator and the API server (or an S3 store) that fails on demand: what a
//! network, a load balancer or a busy API server does once in a thousand times, now and exactly.
//!
//! ```no_run
//! # async fn example(sandbox: reprieve::sandbox::Sandbox) -> anyhow::Result<()> {
//! use std::time::Duration;
//! use reprieve::sandbox::proxy::{Fault, Rule, Verb};
//!
//! let proxy = sandbox.start_proxy()?;
//! let kubeconfig = proxy.kubeconfig(&sandbox.operator_kubeconfig())?;
//! let operator = sandbox.start_operator_as(&kubeconfig, &[]).await?;
//! // The second create of a Backup is carried out, and its answer is lost.
//! proxy.add(Rule::new(Fault::AnswerAfter(504)).verb(Verb::Create).resource("backups").nth(2));
//! // Nothing passes once the 17th write from now on was carried out.
//! proxy.add(Rule::new(Fault::Freeze).writes().nth(17));
//! let write = proxy.until_held(Duration::from_secs(30)).await?;
//! # Ok(()) }
//! ```
//!
//! Requests go through as they come, with their credentials (so that it serves users with tokens,
//! not with client certificates), over HTTP/1.1 as the operator's client speaks it; watches are
//! streamed. It runs on a thread of its own: a test may block.

mod answer;
mod call;
mod rule;
mod serve;
mod state;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use tokio::sync::oneshot;

pub use self::call::{Call, Verb};
pub use self::rule::{Fault, Rule};

use self::state::{Mode, State};
use super::Sandbox;
use super::certs::Authority;
use super::components::{Layout, listener};
use super::kubeconfig::{self, Endpoint};

/// A running proxy. It ends when this is dropped, and breaks all its connections.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    layout: Option<Layout>,
    /// The thread ends when this is gone.
    _alive: oneshot::Sender<()>,
}

impl Proxy {
    /// A proxy for a server without TLS: an S3 server on loopback, for example.
    ///
    /// # Errors
    /// There is no free port.
    pub fn plain(upstream: SocketAddr) -> Result<Self> {
        let client = serve::Upstream::plain(upstream);
        Self::start(None, client)
    }

    pub(super) fn of(sandbox: &Sandbox) -> Result<Self> {
        let Sandbox { layout, authority, endpoint, .. } = sandbox;
        let mut proxy = Self::start(Some(authority), upstream(endpoint)?)?;
        proxy.layout = Some(layout.clone());
        Ok(proxy)
    }

    fn start(authority: Option<&Authority>, upstream: serve::Upstream) -> Result<Self> {
        let listener = listener().context("no free port on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = match authority {
            Some(authority) => {
                let names = ["127.0.0.1", "localhost"];
                Some(serve::acceptor(&authority.server("fault-proxy", &names)?)?)
            }
            None => None,
        };
        let state = Arc::new(State::new(upstream.speaks_kubernetes()));
        let (alive, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of = state.clone();
        std::thread::Builder::new().name("fault-proxy".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve::serve(listener, tls, upstream, of) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { state, address, layout: None, _alive: alive })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        debug_assert_eq!(self.address.ip(), Ipv4Addr::LOCALHOST);
        self.address
    }

    /// A kubeconfig for the same user through this proxy. The user must have a token: a client
    /// certificate ends at the proxy.
    ///
    /// # Errors
    /// The file is none that the sandbox wrote; the new one cannot be written; this proxy stands
    /// before no API server.
    pub fn kubeconfig(&self, of: &Path) -> Result<PathBuf> {
        let layout = self.layout.as_ref().context("no proxy of an API server")?;
        let stem = of.file_stem().and_then(|stem| stem.to_str()).context("no kubeconfig")?;
        let path = layout.kubeconfig(&format!("{stem}-proxy-{}", self.address.port()));
        kubeconfig::copy(of, &path, &format!("https://{}", self.address))?;
        Ok(path)
    }

    /// Adds a rule; it counts the requests from now on. The first rule that applies to a request
    /// is carried out, and those after it neither see nor count the request.
    pub fn add(&self, rule: Rule) {
        self.state.rules.lock().push(rule);
    }

    /// Takes all rules away. What is held stays held.
    pub fn clear(&self) {
        self.state.rules.lock().clear();
    }

    /// How many rules have not yet been carried out as often as they should be.
    pub fn pending(&self) -> usize {
        self.state.rules.lock().iter().filter(|rule| !rule.is_spent()).count()
    }

    /// Every request that came to it so far, in the order of their arrival.
    pub fn log(&self) -> Vec<Call> {
        self.state.log.lock().clone()
    }

    /// The writes among them: see [`Call::is_write`].
    pub fn writes(&self) -> Vec<Call> {
        self.state.log.lock().iter().filter(|call| call.is_write()).cloned().collect()
    }

    /// Adds this to every `Date` header from now on.
    pub fn shift_date(&self, by: TimeDelta) {
        *self.state.shift.lock() = by;
    }

    /// Cuts the way, as a firewall that drops packets: connections stay, nothing passes, nothing is
    /// answered.
    pub fn freeze(&self) {
        self.state.mode.send_replace(Mode::Frozen);
    }

    /// Cuts the way, as a server that is gone: every connection is reset, new ones too.
    pub fn refuse(&self) {
        self.state.mode.send_replace(Mode::Refusing);
        self.state.break_all();
    }

    /// Opens the way again. All connections are reset, so that nothing that was stuck is carried
    /// out late; rules stay.
    pub fn heal(&self) {
        self.state.forget_held();
        self.state.break_all();
        self.state.mode.send_replace(Mode::Open);
    }

    /// Resets every connection once: watches end, requests lose their answers.
    pub fn reset_all(&self) {
        self.state.break_all();
    }

    /// Waits until a request is held, by [`Fault::Hold`], [`Fault::HoldAnswer`] or
    /// [`Fault::Freeze`], and gives the first.
    ///
    /// # Errors
    /// None is within this time.
    pub async fn until_held(&self, timeout: Duration) -> Result<Call> {
        self.state.until_held(timeout).await
    }

    /// Lets what is held go on.
    pub fn release(&self) {
        self.state.release();
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

fn upstream(endpoint: &Endpoint) -> Result<serve::Upstream> {
    let url: url::Url = endpoint.server.parse().context("no address of an API server")?;
    let address = url.socket_addrs(|| None)?;
    let address = *address.first().context("no address of an API server")?;
    serve::Upstream::secure(address, &endpoint.authority)
}
