//! The model: what there is, and what becomes of it with each action.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use reprieve::api::{DeletionRequest, RequestState};
use reprieve::deletion::SiteFacts;
use reprieve::deletion::rolling::Entry;

use crate::look::Look;
use crate::objects::{Policy, request, site};
use crate::pool::{Id, Pool};
use crate::state::{
    At, Env, Ghost, LEDGER_BIT, NEVER, Operator, Scope, State, Work, Write, as_people_have_it,
    request_bit,
};

/// Who voted, and for which digest.
pub type Votes = BTreeSet<(&'static str, String)>;

/// Everything that the states name by number, and what was worked out once.
pub struct Model {
    pub scope: Scope,
    /// The last tick.
    pub last_tick: Cell<u8>,
    requests: RefCell<Pool<DeletionRequest>>,
    sites: RefCell<Pool<SiteFacts>>,
    ledgers: RefCell<Pool<Vec<Entry>>>,
    envs: RefCell<Pool<(Env, i64)>>,
    votes: RefCell<Pool<Votes>>,
    pub works: RefCell<Pool<Work>>,
    pub decided: RefCell<HashMap<Look, Id>>,
    /// What the end of a state breaks; and where a state ends, and whether it does.
    pub ends: RefCell<HashMap<State, u16>>,
    pub runs: RefCell<HashMap<State, (State, bool)>>,
    pub as_people: RefCell<HashMap<Id, Id>>,
}

impl Model {
    pub fn new(scope: Scope) -> Self {
        Self {
            last_tick: Cell::new(scope.ticks),
            scope,
            requests: RefCell::default(),
            sites: RefCell::default(),
            ledgers: RefCell::default(),
            envs: RefCell::default(),
            votes: RefCell::default(),
            works: RefCell::default(),
            decided: RefCell::default(),
            ends: RefCell::default(),
            runs: RefCell::default(),
            as_people: RefCell::default(),
        }
    }

    /// The request of this number.
    pub fn request(&self, id: Id) -> Rc<DeletionRequest> {
        self.requests.borrow().get(id)
    }

    pub fn put_request(&self, request: DeletionRequest) -> Id {
        self.requests.borrow_mut().put(request)
    }

    /// The Site of this number, with everything in it.
    pub fn site(&self, id: Id) -> Rc<SiteFacts> {
        self.sites.borrow().get(id)
    }

    pub fn put_site(&self, site: SiteFacts) -> Id {
        self.sites.borrow_mut().put(site)
    }

    /// The entries of the ledger of this number.
    pub fn ledger(&self, id: Id) -> Rc<Vec<Entry>> {
        self.ledgers.borrow().get(id)
    }

    pub fn put_ledger(&self, entries: Vec<Entry>) -> Id {
        self.ledgers.borrow_mut().put(entries)
    }

    /// The votes of this number.
    pub fn votes(&self, id: Id) -> Rc<Votes> {
        self.votes.borrow().get(id)
    }

    pub fn put_votes(&self, votes: Votes) -> Id {
        self.votes.borrow_mut().put(votes)
    }

    /// The work of this number.
    pub fn get_work(&self, id: Id) -> Rc<Work> {
        self.works.borrow().get(id)
    }

    /// How it begins.
    pub fn begin(&self) -> State {
        let mut requests = [None; 2];
        let mut sites = [None; 2];
        let mut wanted = [0; 2];
        for (index, asked) in self.scope.requests.iter().enumerate() {
            requests[index] = Some(self.put_request(request(index, asked)));
            for of in asked {
                let new = self.put_site(site(*of, 0));
                sites[*of] = Some(new);
                wanted[*of] = self.put_site(as_people_have_it(&site(*of, 0)));
            }
        }
        let (store, source) = self.scope.begin;
        let mut state = State {
            requests,
            sites,
            env: Env {
                time: 0,
                skew: 0,
                source,
                guard: true,
                generation: 0,
                policy: Policy::Base,
                store,
                content: [0; 2],
                ledger: None,
            },
            operators: [Operator { at: At::Idle, skew: 0 }; 2],
            faults: self.scope.faults,
            ghost: Ghost {
                votes: self.put_votes(Votes::new()),
                held: [NEVER; 2],
                begun: [NEVER; 2],
                age: [0; 2],
                wanted,
                broken: 0,
            },
        };
        if self.scope.late {
            self.until_purging(&mut state);
        }
        self.last_tick.set(state.env.time + self.scope.ticks);
        state
    }

    /// The state in a word of a request.
    pub fn state_of(&self, state: &State, of: usize) -> Option<RequestState> {
        let request = self.request(state.requests[of]?);
        let state = request.status.as_ref().and_then(|s| s.state);
        Some(state.unwrap_or(RequestState::Planning))
    }

    /// An operator looks at a request: at everything at once, or at a third of it.
    pub fn look(&self, state: &mut State, i: usize, of: usize) {
        let operator = state.operators[i];
        let now = state.env.seconds() + i64::from(operator.skew);
        let torn = self.scope.torn;
        state.operators[i].at = match operator.at {
            At::Idle => {
                let Some(request) = state.requests[of] else { return };
                let at = At::Objects { of: of as u8, request, sites: state.sites, written: 0 };
                if !torn {
                    state.operators[i].at = at;
                    return self.look(state, i, of);
                }
                at
            }
            At::Objects { of: of_, request, sites, written } => {
                let asked = i32::try_from(now).expect("a small time");
                let env = self.envs.borrow_mut().put((state.env, state.env.seconds()));
                let at = At::Gates { of: of_, request, sites, written, env, asked };
                if !torn {
                    state.operators[i].at = at;
                    return self.look(state, i, of);
                }
                at
            }
            At::Gates { of: of_, request, sites, written, env, asked } => {
                let (env, asked_at) = *self.envs.borrow().get(env);
                let look = Look {
                    of,
                    request,
                    sites,
                    others: state.requests,
                    env,
                    asked: i64::from(asked),
                    asked_at,
                    api_time: state.env.seconds() + i64::from(state.env.skew),
                    ledger: state.env.ledger,
                    now,
                };
                let work = self.work(look);
                let decided = self.get_work(work);
                if decided.writes.is_empty() {
                    At::Idle
                } else {
                    let bad =
                        if decided.deletes { self.basis(state, of, &look, &decided) } else { 0 };
                    let written = written & !LEDGER_BIT;
                    At::Work { of: of_, work, next: 0, written, bad, age: 0 }
                }
            }
            work @ At::Work { .. } => work,
        };
    }

    /// The next write of an operator reaches the API server, or the store.
    pub fn write(&self, state: &mut State, i: usize) {
        let At::Work { of, work: id, next, written, bad, .. } = state.operators[i].at else {
            return;
        };
        let work = self.get_work(id);
        let write = &work.writes[usize::from(next)];
        let of_ = usize::from(of);
        let mut goes_on = true;
        match self.carry_out(state, of_, next, &work, written, bad) {
            Answer::Done(bits) => self.touched(state, bits),
            Answer::Nothing => {}
            Answer::No => goes_on = stands_alone(write),
        }
        let At::Work { next, written, .. } = &mut state.operators[i].at else { return };
        // The operator knows of the finalizer that it has added itself.
        if matches!(write, Write::Effect(reprieve::deletion::decide::Effect::AddFinalizer)) {
            *written &= !request_bit(of_);
        }
        *next += 1;
        if !goes_on || usize::from(*next) == work.writes.len() {
            state.operators[i].at = At::Idle;
        }
    }

    /// The next write of an operator, in words.
    pub fn next_write(&self, state: &State, i: usize) -> String {
        let At::Work { work, next, .. } = state.operators[i].at else { return String::new() };
        let work = self.get_work(work);
        let text = match &work.writes[usize::from(next)] {
            Write::Status => {
                let status = &work.decision.status;
                let plan = status.plan.iter().flat_map(|p| &p.entities);
                let phases: Vec<_> = plan.map(|e| e.phase).collect();
                format!("Status {:?} {phases:?}", status.state)
            }
            write => format!("{write:?}"),
        };
        text.chars().take(120).collect()
    }

    /// Somebody else has written these objects.
    pub fn touched(&self, state: &mut State, bits: u32) {
        for operator in &mut state.operators {
            match &mut operator.at {
                At::Objects { written, .. }
                | At::Gates { written, .. }
                | At::Work { written, .. } => *written |= bits,
                At::Idle => {}
            }
        }
    }

    /// What follows from a state by itself: ghosts, and the order of operators that are alike.
    pub fn settle_ghosts(&self, state: &mut State) {
        for of in 0..self.scope.requests.len() {
            if state.ghost.held[of] == NEVER && self.all_held(state, of) {
                state.ghost.held[of] = state.env.time;
            }
        }
        state.operators[..self.scope.operators].sort_unstable();
    }

    fn all_held(&self, state: &State, of: usize) -> bool {
        let Some(request) = state.requests[of].map(|id| self.request(id)) else { return false };
        let plan = request.status.as_ref().and_then(|s| s.plan.as_ref());
        let entities = plan.map_or(&[][..], |plan| &plan.entities);
        let uid = request.metadata.uid.clone().unwrap_or_default();
        !entities.is_empty()
            && entities.iter().all(|entity| {
                let live = state.sites[crate::look::index(&entity.name)];
                live.map(|id| self.site(id)).is_some_and(|live| {
                    let verified = |b: &reprieve::api::Backup| b.is_verified();
                    live.uid() == entity.uid
                        && live.deletion_by(&uid).is_some()
                        && live.backups.last().is_some_and(verified)
                })
            })
    }
}

/// What became of a write.
pub enum Answer {
    /// It was carried out, and these objects are others now.
    Done(u32),
    /// There was nothing to do.
    Nothing,
    /// It was refused: a conflict, or what it names is not there.
    No,
}

/// Whether the rest is carried out when a write is not, as `act::alone` has it.
pub fn stands_alone(write: &Write) -> bool {
    matches!(write, Write::Effect(reprieve::deletion::decide::Effect::Edit(_)))
}
