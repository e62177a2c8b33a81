//! Who changes a field again and again that an App puts back: after a few times it is left alone
//! for a while, and said so. Two that correct each other would otherwise never end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::Time;

/// Corrections of one object within [`WINDOW`] that are made before it is left alone.
pub const LIMIT: usize = 5;
/// Seconds in which they are counted, and for which the object is left alone.
pub const WINDOW: i64 = 300;

/// The corrections of each object, by UID. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Contests(Arc<Mutex<HashMap<String, Corrections>>>);

/// When an object was put back, and what had been changed by whom, in words.
type Corrections = Vec<(Time, String)>;

impl Contests {
    /// Remembers that the object was put back, and what was changed by whom, in words.
    pub fn note(&self, uid: &str, what: &str, now: Time) {
        let mut all = self.all();
        all.retain(|_, made| made.iter().any(|(at, _)| now.seconds_since(*at) < WINDOW));
        let made = all.entry(uid.to_owned()).or_default();
        made.retain(|(at, _)| now.seconds_since(*at) < WINDOW);
        made.push((now, what.to_owned()));
    }

    /// Until when the object is left alone, and what was changed last, if it is.
    pub fn until(&self, uid: &str, now: Time) -> Option<(Time, String)> {
        let all = self.all();
        let made = all.get(uid)?;
        let recent = made.iter().filter(|(at, _)| now.seconds_since(*at) < WINDOW).count();
        let (last, what) = made.last()?;
        (recent >= LIMIT).then(|| (last.plus_seconds(WINDOW), what.clone()))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Corrections>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_again_and_again_is_left_alone_for_a_while() {
        let at = |s| Time::from(chrono::DateTime::from_timestamp(s, 0).unwrap());
        let all = Contests::default();
        for t in 0..4 {
            all.note("u", "spec.replicas by hpa", at(t));
            assert_eq!(all.until("u", at(t)), None, "{t}");
        }
        all.note("u", "spec.replicas by hpa", at(4));
        let until = all.until("u", at(5)).map(|(until, _)| until);
        assert_eq!(until, Some(at(304)));
        assert_eq!(all.until("v", at(5)), None);
        assert_eq!(all.until("u", at(305)), None, "then it is tried again");
    }
}
