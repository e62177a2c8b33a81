//! What the proxy's connections share with whoever holds it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use tokio::sync::watch;

use super::call::Call;
use super::rule::{Fault, Rule};

/// A lock that a panic of another test's assertion does not spoil.
pub(super) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anything passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Open,
    Frozen,
    Refusing,
}

/// What waits to be let go on.
#[derive(Default)]
struct Held {
    calls: Vec<Call>,
    /// Grows when what waits may go on.
    released: u64,
}

pub(super) struct State {
    pub rules: Lock<Vec<Rule>>,
    pub log: Lock<Vec<Call>>,
    pub shift: Lock<TimeDelta>,
    pub mode: watch::Sender<Mode>,
    /// Grows when all connections are to be reset.
    pub epoch: watch::Sender<u64>,
    held: watch::Sender<Held>,
    /// Whether failures are told as the Kubernetes API tells them.
    pub kubernetes: bool,
}

impl State {
    pub fn new(kubernetes: bool) -> Self {
        Self {
            rules: Lock::new(vec![]),
            log: Lock::new(vec![]),
            shift: Lock::new(TimeDelta::zero()),
            mode: watch::Sender::new(Mode::Open),
            epoch: watch::Sender::new(0),
            held: watch::Sender::new(Held::default()),
            kubernetes,
        }
    }

    /// Numbers a request, and says what happens to it. A freeze begins here, so that no later
    /// request passes.
    pub fn arrive(&self, call: &mut Call) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let fault = rules.iter_mut().find_map(|rule| rule.applies(call).then(|| rule.fault()));
        if fault == Some(Fault::Freeze) {
            self.mode.send_replace(Mode::Frozen);
        }
        call.fault = fault.as_ref().map(|fault| format!("{fault:?}"));
        let mut log = self.log.lock();
        call.number = log.len() + 1;
        log.push(call.clone());
        fault
    }

    /// Notes what the server answered.
    pub fn answered(&self, call: &Call, code: u16) {
        if let Some(logged) = self.log.lock().get_mut(call.number - 1) {
            logged.code = code;
        }
    }

    /// Waits until requests pass.
    pub async fn until_open(&self) {
        let _ = self.mode.subscribe().wait_for(|mode| *mode == Mode::Open).await;
    }

    pub fn break_all(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Waits, as one that is held, until it may go on.
    pub async fn hold(&self, call: &Call) {
        let mut changes = self.held.subscribe();
        let mut from = 0;
        self.held.send_modify(|held| {
            held.calls.push(call.clone());
            from = held.released;
        });
        let _ = changes.wait_for(|held| held.released > from).await;
    }

    /// Notes that this request froze everything. It does not go on.
    pub fn note_frozen(&self, call: &Call) {
        self.held.send_modify(|held| held.calls.push(call.clone()));
    }

    pub async fn until_held(&self, timeout: Duration) -> Result<Call> {
        let mut changes = self.held.subscribe();
        let found = changes.wait_for(|held| !held.calls.is_empty());
        let found = tokio::time::timeout(timeout, found);
        let found =
            found.await.with_context(|| format!("no request was held in {timeout:?}"))??;
        found.calls.first().cloned().context("what was held was released meanwhile")
    }

    pub fn release(&self) {
        self.held.send_modify(|held| {
            held.calls.clear();
            held.released += 1;
        });
    }

    /// Forgets what is held without letting it go on: its connection is about to be reset.
    pub fn forget_held(&self) {
        self.held.send_modify(|held| held.calls.clear());
    }
}
