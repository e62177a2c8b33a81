//! The end of a state: every operator dies, everything is set right, and one operator goes on alone
//! until nothing changes any more.

use reprieve::api::RequestState;

use crate::actions::PEOPLE;
use crate::invariants::I8;
use crate::objects::{Policy, SITES, Source};
use crate::state::{At, NEVER, Operator, State, values};
use crate::world::Model;

/// How many rounds it may take until people give up and cancel, and then again.
const ROUNDS: usize = 40;

impl Model {
    /// The invariants that the end of this state breaks, a bit each.
    pub fn end_of(&self, state: &State) -> u16 {
        let begin = self.set_right(state);
        if let Some(broken) = self.ends.borrow().get(&begin) {
            return *broken;
        }
        let (mut state, mut over) = self.run(begin);
        if !over {
            for of in 0..self.scope.requests.len() {
                if let Some(id) = state.requests[of] {
                    let mut request = (*self.request(id)).clone();
                    request.spec.cancel = true;
                    state.requests[of] = Some(self.put_request(request));
                }
            }
            (state, over) = self.run(state);
        }
        let broken = self.judge_end(&begin, &state) | if over { 0 } else { I8 };
        self.ends.borrow_mut().insert(begin, broken);
        broken
    }

    /// The operators are gone, and what was wrong is right.
    fn set_right(&self, state: &State) -> State {
        let mut state = *state;
        state.operators = [Operator { at: At::Idle, skew: 0 }; 2];
        state.faults = 0;
        // When it was does not matter for the end.
        state.ghost.votes = self.put_votes(Default::default());
        state.ghost.held = [0; 2];
        state.ghost.begun = state.ghost.begun.map(|t| if t == NEVER { NEVER } else { 0 });
        state.ghost.broken = 0;
        let env = &mut state.env;
        if !env.guard {
            env.guard = true;
            env.generation += 1;
        }
        (env.skew, env.store, env.source) = (0, true, Source::Clear);
        if env.policy != Policy::Stricter {
            env.policy = Policy::Base;
        }
        // Who makes something in a Site that is being purged is told, and takes it away.
        for site in 0..SITES.len() {
            let Some(id) = state.sites[site] else { continue };
            if state.ghost.begun[site] != NEVER {
                let mut live = (*self.site(id)).clone();
                let late = |a: &reprieve::api::App| a.spec.product == "late";
                live.apps.retain(|a| !late(a));
                for value in values(&mut live).filter(|v| v["kind"] == "PersistentVolume") {
                    value["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into();
                }
                state.sites[site] = Some(self.put_site(live));
            }
        }
        state
    }

    /// Lets one operator go on, and everybody help it: where that ends, and whether it stays so.
    fn run(&self, begin: State) -> (State, bool) {
        let mut state = begin;
        let mut way = vec![];
        let mut end = None;
        while end.is_none() {
            if let Some(known) = self.runs.borrow().get(&state) {
                end = Some(*known);
                break;
            }
            way.push(state);
            let before = state;
            self.round(&mut state);
            let over = |of: usize| self.state_of(&state, of).is_none_or(RequestState::is_final);
            if before == state && (0..self.scope.requests.len()).all(over) {
                end = Some((state, true));
            } else if way.len() == ROUNDS {
                end = Some((state, false));
            }
            state.env.time += 1;
        }
        let end = end.expect("an end");
        // Of what was cut off it is not known whether a later begin would have come to an end.
        if end.1 {
            self.runs.borrow_mut().extend(way.into_iter().map(|state| (state, end)));
        }
        end
    }

    /// Lets one operator work until every request is to be purged, and nothing is yet.
    pub fn until_purging(&self, state: &mut State) {
        let purging = Some(RequestState::Purging);
        let all = 0..self.scope.requests.len();
        while !all.clone().all(|of| self.state_of(state, of) == purging) {
            let before = *state;
            self.round(state);
            if *state == before {
                state.env.time += 1;
            }
        }
    }

    fn round(&self, state: &mut State) {
        for of in 0..self.scope.requests.len() {
            self.look(state, 0, of);
            while !matches!(state.operators[0].at, At::Idle) {
                if matches!(state.operators[0].at, At::Work { .. }) {
                    self.write(state, 0);
                } else {
                    self.look(state, 0, of);
                }
            }
            for who in PEOPLE {
                self.vote(state, of, who);
            }
        }
        for site in 0..SITES.len() {
            self.backed_up(state, site);
            self.emptied(state, site);
            self.unmarked(state, site);
        }
        self.settle_ghosts(state);
    }
}
