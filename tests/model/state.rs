//! The state of the model, and what a scope has in it.

use reprieve::deletion::SiteFacts;
use reprieve::deletion::decide::{Decision, Effect};
use serde_json::Value;

use crate::actions::Fault;
use crate::mutants::Mutant;
use crate::objects::{Policy, Source, TICK};
use crate::pool::Id;

/// Of a time: never.
pub const NEVER: u8 = u8::MAX;

/// What one exploration is about.
#[derive(Clone)]
pub struct Scope {
    /// Its name, for people.
    pub name: &'static str,
    /// Each request with the Sites that it asks for.
    pub requests: Vec<Vec<usize>>,
    /// How many operators there are that all hold themselves for the leader.
    pub operators: usize,
    /// Whether an operator's reads of the objects, of what its gates ask and of the clocks are
    /// three moments.
    pub torn: bool,
    /// Who votes, besides Eve where the policy became stricter: numbers in `PEOPLE`.
    pub voters: &'static [usize],
    /// Whether it begins when all requests are held and their windows have just passed.
    pub late: bool,
    /// How many ticks pass at most.
    pub ticks: u8,
    /// How many faults happen at most on one path.
    pub faults: u8,
    /// Which.
    pub kinds: &'static [Fault],
    /// What is different in the policy from the first.
    pub policy: Value,
    /// The state of the store, and of the source of alerts, at first.
    pub begin: (bool, Source),
    /// Whether the end of every state is worked out (I7, I8).
    pub ends: bool,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
}

/// The world and the operators, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The requests; none: gone.
    pub requests: [Option<Id>; 2],
    /// The Sites; none: gone.
    pub sites: [Option<Id>; 2],
    /// What is around them.
    pub env: Env,
    /// The operators, in no order.
    pub operators: [Operator; 2],
    /// How many faults may still happen.
    pub faults: u8,
    /// What really happened.
    pub ghost: Ghost,
}

/// What is around the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Env {
    /// Ticks since the begin, by a clock that nobody can set.
    pub time: u8,
    /// By how many seconds the API server's clock is wrong.
    pub skew: i32,
    /// The source of alerts.
    pub source: Source,
    /// Whether the guard is in force.
    pub guard: bool,
    /// How often it was changed.
    pub generation: u8,
    /// The policy `default`.
    pub policy: Policy,
    /// Whether the store answers.
    pub store: bool,
    /// What each Site holds, as a number.
    pub content: [u8; 2],
    /// The ledger of purges; none: it is not there.
    pub ledger: Option<Id>,
}

impl Env {
    /// The time in seconds.
    pub fn seconds(&self) -> i64 {
        i64::from(self.time) * TICK
    }
}

/// One operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operator {
    /// What it is at.
    pub at: At,
    /// By how many seconds its clock is wrong.
    pub skew: i32,
}

/// What an operator is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// Nothing: at first, after a crash, and between two looks.
    Idle,
    /// It has read the objects, and not yet what else its gates ask.
    Objects { of: u8, request: Id, sites: [Option<Id>; 2], written: u32 },
    /// It has read everything but the clock and the ledger.
    Gates { of: u8, request: Id, sites: [Option<Id>; 2], written: u32, env: Id, asked: i32 },
    /// It carries out what it has decided.
    Work {
        /// The request.
        of: u8,
        /// What it does.
        work: Id,
        /// The next write.
        next: u8,
        /// The objects that were written since it has read them, a bit each.
        written: u32,
        /// The invariants that a first DELETE of this decision breaks, a bit each.
        bad: u16,
        /// Ticks since the decision.
        age: u8,
    },
}

/// What really happened, whatever the objects say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The votes that were really given.
    pub votes: Id,
    /// By request: when all of its plan was held and backed up for the first time.
    pub held: [u8; 2],
    /// By Site: when the first of it was deleted.
    pub begun: [u8; 2],
    /// By Site: how often it was made anew.
    pub age: [u8; 2],
    /// By Site: what it would be if only its people acted.
    pub wanted: [Id; 2],
    /// The invariants that were broken on the way, a bit each.
    pub broken: u16,
}

/// One write, as the API server or the store sees it.
#[derive(Clone, Debug)]
pub enum Write {
    /// One that is an effect itself.
    Effect(Effect),
    /// The mark of a deletion off an App, an annotation off a namespace, the mark off a Site: the
    /// parts of a release. The number is the kind: 0, 1, 2.
    Unmark(u8, reprieve::cluster::Exact),
    /// The store's ledger: this entity is purged.
    Note,
    /// The status.
    Status,
}

/// What an operator does after a look.
#[derive(Debug)]
pub struct Work {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// The decision, with a status as `plain` leaves it.
    pub decision: Decision,
    /// Whether something of an entity goes.
    pub deletes: bool,
}

/// The bit of a request among those that were written.
pub fn request_bit(request: usize) -> u32 {
    1 << request
}

/// The bit of the ledger.
pub const LEDGER_BIT: u32 = 4;

/// The parts of a Site that have a resourceVersion of their own.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Site,
    Namespace,
    App,
    Backup,
    Volume,
    Workload,
}

/// The bit of a part of a Site.
pub fn bit(site: usize, part: Part) -> u32 {
    1 << (4 + 8 * site + part as usize)
}

/// Every part of a Site.
pub fn bits(site: usize) -> u32 {
    0xff << (4 + 8 * site)
}

/// Whether something of an entity goes with this step.
pub fn deletes(effect: &Effect) -> bool {
    matches!(effect, Effect::Purge(_, step) if step.is_delete())
}

/// A Site as its people have it: without what the operator leaves in it that means nothing.
pub fn as_people_have_it(site: &SiteFacts) -> SiteFacts {
    let mut site = site.clone();
    site.backups.clear();
    site.site.status = site.site.status.take().filter(|s| s.deletion.is_some());
    for app in &mut site.apps {
        app.status = app.status.take().filter(|s| s.deletion.is_some());
    }
    for namespace in &mut site.namespaces {
        let all = &mut namespace.metadata.annotations;
        *all = all.take().filter(|all| !all.is_empty());
    }
    for value in values(&mut site) {
        let metadata = value["metadata"].as_object_mut().expect("metadata");
        metadata.retain(|_, v| v.as_object().is_none_or(|v| !v.is_empty()));
    }
    site
}

/// The volumes and workloads of a Site.
pub fn values(site: &mut SiteFacts) -> impl Iterator<Item = &mut Value> {
    use reprieve::deletion::held::Disk;
    let volumes = site.claims.iter_mut().filter_map(|c| match &mut c.disk {
        Disk::Volume(volume) => Some(&mut volume.value),
        Disk::Unbound | Disk::Lost => None,
    });
    site.held.iter_mut().map(|h| &mut h.value).chain(volumes)
}
