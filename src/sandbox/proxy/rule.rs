//! Which requests fail, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, Verb};

/// What happens to a request instead of going through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is not asked; this code is answered. 429 comes with `Retry-After: 1`.
    Answer(u16),
    /// The server carries the request out, and this code is answered instead of its own.
    AnswerAfter(u16),
    /// The server is not asked, and the connection is reset.
    Reset,
    /// The server carries the request out, and the connection is reset before the answer.
    ResetAfter,
    /// The answer ends in the middle of its body, and the connection with it.
    Truncate,
    /// The request waits for so long before it goes on.
    Delay(Duration),
    /// The answer's body comes in pieces of so many bytes, with this pause before each.
    Trickle(usize, Duration),
    /// A create is answered as if it had been carried out. The server is not asked.
    Swallow,
    /// The request waits, until [`Proxy::release`](super::Proxy::release), before it goes on.
    Hold,
    /// The server carries the request out, and the answer waits likewise.
    HoldAnswer,
    /// The server carries the request out; no answer comes, and nothing passes any more, until
    /// [`Proxy::heal`](super::Proxy::heal).
    Freeze,
    /// Of a watch: all events but each n-th vanish.
    DropEvents(usize),
    /// Of a watch: events of such a time come together, and of each object only the last one.
    MergeEvents(Duration),
    /// Of a watch: after so many events it says that its place is too old (410), and ends.
    GoneAfter(usize),
}

type Wanted = Arc<dyn Fn(&Call) -> bool + Send + Sync>;

/// A fault, and the requests to which it happens: all, or those that every condition fits.
#[derive(Clone)]
pub struct Rule {
    fault: Fault,
    conditions: Vec<Wanted>,
    skip: usize,
    times: usize,
    seen: usize,
}

impl Rule {
    /// This fault, for every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, conditions: vec![], skip: 0, times: usize::MAX, seen: 0 }
    }

    /// Requests for which this holds.
    pub fn when(mut self, wanted: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Arc::new(wanted));
        self
    }

    /// Requests of this verb.
    pub fn verb(self, verb: Verb) -> Self {
        self.when(move |call| call.verb == verb)
    }

    /// Requests for this resource, by its plural, and not for a subresource of it.
    pub fn resource(self, resource: &str) -> Self {
        self.subresource(resource, "")
    }

    /// Requests for this subresource.
    pub fn subresource(self, resource: &str, subresource: &str) -> Self {
        let (resource, subresource) = (resource.to_owned(), subresource.to_owned());
        self.when(move |call| call.resource == resource && call.subresource == subresource)
    }

    /// Requests for an object of this name.
    pub fn name(self, name: &str) -> Self {
        let name = name.to_owned();
        self.when(move |call| call.name == name)
    }

    /// Writes: see [`Call::is_write`].
    pub fn writes(self) -> Self {
        self.when(Call::is_write)
    }

    /// The n-th such request alone, from 1.
    pub fn nth(self, n: usize) -> Self {
        self.after(n.saturating_sub(1)).times(1)
    }

    /// Not the first so many of them.
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// So many of them.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Whether it was carried out as often as it should be.
    pub(super) fn is_spent(&self) -> bool {
        self.times != usize::MAX && self.seen >= self.skip.saturating_add(self.times)
    }

    /// Counts this request if it is meant, and tells whether the fault happens to it.
    pub(super) fn applies(&mut self, call: &Call) -> bool {
        if self.is_spent() || !self.conditions.iter().all(|wanted| wanted(call)) {
            return false;
        }
        self.seen += 1;
        self.seen > self.skip && self.seen - self.skip <= self.times
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault.clone()
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("fault", &self.fault)
            .field("skip", &self.skip)
            .field("times", &self.times)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}
