//! Whose turn it is, and what comes next for that hook. Pure.

use super::job::{Live, describe};
use crate::api::{Hook, HookState, HookStatus, OnHookError, Time};

/// How much longer than its time the Job itself may tell that it was too long: its own deadline is
/// counted from when it was let go.
pub const GRACE_SECONDS: i64 = 5;

/// Which hook is next.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn<'a> {
    /// Every hook has ended, and none that matters badly.
    Done,
    /// This one did not end well, and nothing goes on after it.
    Stopped(&'a HookStatus),
    /// This one, and what is written down of it.
    Of(&'a Hook, Option<&'a HookStatus>),
}

/// Whose turn it is: one after the other, in the order of the list.
pub fn turn<'a>(hooks: &'a [Hook], records: &'a [HookStatus]) -> Turn<'a> {
    for hook in hooks {
        match records.iter().find(|record| record.name == hook.name) {
            None => return Turn::Of(hook, None),
            Some(record) if !record.state.has_ended() => return Turn::Of(hook, Some(record)),
            Some(record) if record.state.is_error() && hook.on_error == OnHookError::Fail => {
                return Turn::Stopped(record);
            }
            Some(_) => {}
        }
    }
    Turn::Done
}

/// What to do for a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create its Job, suspended.
    Create,
    /// Write down that this Job is the one, and may run from now on.
    Begin {
        /// UID of the Job.
        uid: String,
    },
    /// Let it run, if it is still this Job.
    Resume {
        /// UID of the Job.
        uid: String,
    },
    /// Wait for it.
    Wait,
    /// It takes too long: stop the Job of this UID, and write that down.
    Stop {
        /// UID of the Job.
        uid: String,
    },
    /// Write down how it ended.
    End(HookState, String),
}

/// What comes next for a hook. `of` is what its Job must say that it is for.
pub fn next(
    hook: &Hook,
    record: Option<&HookStatus>,
    live: Option<&Live>,
    of: &str,
    now: Time,
) -> Step {
    let Some(record) = record else {
        // Whatever was made before was never let run.
        return match live {
            None => Step::Create,
            Some(live) if live.of.as_deref() == Some(of) => Step::Begin { uid: live.uid.clone() },
            Some(_) => Step::End(HookState::Refused, taken()),
        };
    };
    let same = |live: &&Live| Some(&live.uid) == record.job_uid.as_ref();
    let Some(live) = live.filter(same) else {
        let message = "its Job was deleted before it had ended; it is not run again".to_owned();
        return Step::End(HookState::Lost, message);
    };
    if let Some(end) = &live.end {
        return Step::End(end.state(), describe(end));
    }
    let limit = hook.timeout_seconds.saturating_add(GRACE_SECONDS);
    if record.start_time.is_some_and(|start| now.seconds_since(start) >= limit) {
        return Step::Stop { uid: live.uid.clone() };
    }
    // One that was stopped is suspended as well, and came by above.
    match live.suspended {
        true => Step::Resume { uid: live.uid.clone() },
        false => Step::Wait,
    }
}

/// What is said where another Job has the name.
fn taken() -> String {
    "another Job has its name; delete that one, or give the hook another name".to_owned()
}

/// What is said of a hook that took too long.
pub fn too_long(hook: &Hook, why: &str) -> String {
    format!("it had not completed after {} s: {why}", hook.timeout_seconds)
}

/// A hook and how it ended, in words: `hook dump (TimedOut): …`.
pub fn in_words(record: &HookStatus) -> String {
    let what = format!("hook {} ({:?})", record.name, record.state);
    match &record.message {
        Some(message) => format!("{what}: {message}"),
        None => what,
    }
}
