//! The exploration: breadth first, every state once, with the way to it. Its own, because states by
//! number need no more than a hash table, and because the checker at hand (stateright) brings a web
//! server and would have half of the dependencies built anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::actions::Action;
use crate::invariants::names_of;
use crate::state::{NEVER, State};
use crate::world::Model;

/// What an exploration has found.
pub struct Found {
    /// How many different states.
    pub states: usize,
    /// How many steps between them.
    pub steps: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// How many decisions were made, each once.
    pub decisions: usize,
    /// The invariants that are broken, with a shortest way there; none: all hold.
    pub broken: Option<(u16, Vec<Action>)>,
    /// How many states there are in which something was deleted.
    pub purged: usize,
}

/// Explores everything that can be reached, or up to the first state in which one of `asked` is
/// broken.
pub fn explore(model: &Model, asked: u16, limit: Duration) -> Found {
    let begun = Instant::now();
    let begin = model.begin();
    let mut seen: HashMap<State, u32> = HashMap::from([(begin, 0)]);
    let mut ways: Vec<(u32, Action)> = vec![(0, Action::Tick)];
    let mut frontier = vec![begin];
    let mut found = Found { states: 1, steps: 0, depth: 0, decisions: 0, broken: None, purged: 0 };
    let mut actions = vec![];
    let mut number = 0;
    while !frontier.is_empty() {
        let mut next = vec![];
        for state in frontier {
            actions.clear();
            model.actions(&state, &mut actions);
            for action in &actions {
                let Some(after) = model.next(&state, *action) else { continue };
                found.steps += 1;
                let new = u32::try_from(seen.len()).expect("fewer states");
                if *seen.entry(after).or_insert(new) != new {
                    continue;
                }
                ways.push((number, *action));
                found.purged += usize::from(after.ghost.begun != [NEVER; 2]);
                let mut broken = after.ghost.broken;
                if model.scope.ends && broken & asked == 0 {
                    broken |= model.end_of(&after);
                }
                if broken & asked != 0 {
                    found.broken = Some((broken & asked, way(&ways, new)));
                    found.states = seen.len();
                    found.decisions = model.works.borrow().len();
                    return found;
                }
                next.push(after);
            }
            number += 1;
        }
        assert!(
            begun.elapsed() < limit,
            "{} is too large: {} states",
            model.scope.name,
            seen.len()
        );
        found.depth += usize::from(!next.is_empty());
        frontier = next;
    }
    found.states = seen.len();
    found.decisions = model.works.borrow().len();
    found
}

/// The actions that lead to a state.
fn way(ways: &[(u32, Action)], mut to: u32) -> Vec<Action> {
    let mut actions = vec![];
    while to != 0 {
        let (from, action) = ways[to as usize];
        actions.push(action);
        to = from;
    }
    actions.reverse();
    actions
}

/// The way to a broken invariant in words, step by step.
pub fn tell(model: &Model, way: &[Action]) -> String {
    let mut state = model.begin();
    let mut text = String::new();
    for action in way {
        let what = match (*action, &state) {
            (Action::Write(i) | Action::Crash(i) | Action::Refuse(i), state) => {
                model.next_write(state, i)
            }
            _ => String::new(),
        };
        let Some(after) = model.next(&state, *action) else { break };
        state = after;
        text.push_str(&format!("  t{} {action:?} {what}\n", state.env.time));
    }
    text.push_str(&format!("  broken on the way: {:?}\n", names_of(state.ghost.broken)));
    text
}
