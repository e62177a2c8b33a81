//! How many requests may be in flight at a time: the decision. It grows while answers come about as
//! fast as they do when little is asked, shrinks when they come slower, and halves when the API
//! server says that it is too much. How fast answers come when little is asked is found out every
//! few seconds, by asking a quarter for a moment. Pure: times are handed in.

use std::time::Duration;

/// Where it begins.
const FIRST: f64 = 8.0;
/// It never falls below.
const LEAST: f64 = 2.0;
/// It never rises above.
const MOST: f64 = 128.0;
/// Answers after which is decided anew, at the earliest.
const ANSWERS: u32 = 40;
/// Time after which is decided anew, at the earliest.
const WINDOW: Duration = Duration::from_millis(250);
/// An answer may take this many times as long as when little was asked.
const SLOWER: f64 = 3.0;
/// What is faster than this is never too slow.
const FAST: Duration = Duration::from_millis(60);
/// What is slower than this is always too slow: others wait as long.
const SLOW: Duration = Duration::from_millis(400);
/// Of a limit that shrinks for slowness, this much is left.
const SHRINK: f64 = 0.8;
/// Decisions between two looks at how fast the API server is when little is asked.
const LOOK_AFTER: u32 = 30;
/// What is asked then, as a part of the limit.
const LITTLE: f64 = 0.25;
/// Answers that are measured then, once those to what was sent before have come.
const MEASURED: u32 = 15;
/// Between two halvings: what was in flight at the first is answered in the same way.
const BETWEEN_HALVINGS: Duration = Duration::from_secs(1);
/// The longest pause that the API server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer, after this time.
    After(Duration),
    /// 429 or 503: the API server has too much to do, and says for how long, where it does.
    TooMuch(Option<Duration>),
    /// None, or one that says nothing about how busy the API server is.
    Other,
}

/// The limit, and what it is decided from.
#[derive(Clone, Debug)]
pub struct Limit {
    limit: f64,
    /// Seconds that an answer takes when little is asked.
    fast: Option<f64>,
    window: Window,
    /// Decisions since the last look.
    decisions: u32,
    /// During a look: answers to what was sent before it, which do not count.
    look: Option<usize>,
    halved: Option<Duration>,
    paused_until: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    begun: Duration,
    answers: u32,
    seconds: f64,
    /// Whether the limit was reached.
    full: bool,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            limit: FIRST,
            fast: None,
            window: Window::default(),
            decisions: 0,
            look: None,
            halved: None,
            paused_until: Duration::ZERO,
        }
    }
}

impl Limit {
    /// Requests that may be in flight at a time, at least 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 to 128")]
    pub fn get(&self) -> usize {
        match self.look {
            Some(_) => (self.limit * LITTLE).max(LEAST) as usize,
            None => self.limit as usize,
        }
    }

    /// For how long, from this time on, nothing may be sent.
    pub fn pause(&self, now: Duration) -> Duration {
        self.paused_until.saturating_sub(now)
    }

    /// Takes an answer into account. `in_flight` were under way, that one included; `now` is the
    /// time since some beginning.
    pub fn answered(&mut self, answer: Answer, in_flight: usize, now: Duration) {
        self.window.full |= self.look.is_none() && in_flight >= self.get();
        match answer {
            Answer::TooMuch(retry_after) => return self.too_much(retry_after, now),
            Answer::Other => {}
            Answer::After(time) => {
                if let Some(old @ 1..) = &mut self.look {
                    *old -= 1;
                    return;
                }
                self.window.answers += 1;
                self.window.seconds += time.as_secs_f64();
            }
        }
        let Window { begun, answers, .. } = self.window;
        if self.look.is_some() {
            if answers >= MEASURED {
                self.fast = Some(self.mean());
                self.look = None;
                self.window = Window { begun: now, ..Window::default() };
            }
        } else if answers >= ANSWERS && now.saturating_sub(begun) >= WINDOW {
            self.decide(in_flight);
            self.window = Window { begun: now, ..Window::default() };
        }
    }

    /// Seconds that an answer took, in this window.
    fn mean(&self) -> f64 {
        self.window.seconds / f64::from(self.window.answers.max(1))
    }

    fn too_much(&mut self, retry_after: Option<Duration>, now: Duration) {
        let pause = retry_after.unwrap_or_default().min(LONGEST_PAUSE);
        self.paused_until = self.paused_until.max(now + pause);
        if self.halved.is_none_or(|at| now.saturating_sub(at) >= BETWEEN_HALVINGS) {
            self.halved = Some(now);
            self.limit = (self.limit / 2.0).max(LEAST);
            self.look = None;
            self.window = Window { begun: now, ..Window::default() };
        }
    }

    fn decide(&mut self, in_flight: usize) {
        let mean = self.mean();
        let fast = self.fast.map_or(mean, |fast| mean.min(fast));
        self.fast = Some(fast);
        let slow = (fast * SLOWER).clamp(FAST.as_secs_f64(), SLOW.as_secs_f64());
        if mean > slow {
            self.limit = (self.limit * SHRINK).max(LEAST);
        } else if self.window.full {
            self.limit = (self.limit + (self.limit / 8.0).max(1.0)).min(MOST);
        }
        self.decisions += 1;
        if self.decisions >= LOOK_AFTER {
            self.decisions = 0;
            self.look = Some(in_flight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A server that answers so many requests at a time in 10 ms each, and lets others wait.
    fn serve(limit: &mut Limit, at_a_time: usize, seconds: u64, mut now: Duration) -> Duration {
        let end = now + Duration::from_secs(seconds);
        while now < end {
            let in_flight = limit.get();
            let time = ms(10) * u32::try_from(in_flight.div_ceil(at_a_time)).unwrap();
            now += time;
            for _ in 0..in_flight {
                limit.answered(Answer::After(time), in_flight, now);
            }
        }
        now
    }

    #[test]
    fn it_grows_to_what_the_server_takes_and_no_further() {
        for (at_a_time, from, to) in [(1, 2, 12), (4, 12, 32), (16, 48, 112), (1000, 96, 128)] {
            let mut limit = Limit::default();
            let now = serve(&mut limit, at_a_time, 60, Duration::ZERO);
            let got = limit.get();
            assert!((from..=to).contains(&got), "{at_a_time} at a time: limit {got}");
            // And comes back to it when the server changes.
            let now = serve(&mut limit, 1, 60, now);
            assert!(limit.get() <= 20, "a slower server: limit {}", limit.get());
            serve(&mut limit, 1000, 60, now);
            assert!(limit.limit > 120.0, "a faster server: limit {}", limit.limit);
        }
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let mut limit = Limit::default();
        for i in 0..10_000 {
            limit.answered(Answer::After(ms(5)), 1, ms(i * 10));
        }
        assert!(limit.limit < 9.0, "{}", limit.limit);
    }

    #[test]
    fn too_much_halves_once_and_waits_as_told() {
        let mut limit = Limit::default();
        let now = ms(1000);
        for _ in 0..16 {
            limit.answered(Answer::TooMuch(Some(ms(3000))), 16, now);
        }
        assert_eq!(limit.get(), 4, "what was in flight together is one sign");
        assert_eq!(limit.pause(now), ms(3000));
        assert_eq!(limit.pause(ms(4000)), Duration::ZERO);
        limit.answered(Answer::TooMuch(None), 4, ms(4100));
        assert_eq!(limit.get(), 2);
        assert_eq!(limit.pause(ms(4100)), Duration::ZERO);
        for i in 0..20 {
            limit.answered(Answer::TooMuch(Some(ms(3_600_000))), 4, ms(10_000 + i * 1100));
        }
        assert_eq!(limit.get(), 2);
        assert!(limit.pause(ms(31_000)) <= LONGEST_PAUSE);
        // It recovers.
        serve(&mut limit, 1000, 60, ms(100_000));
        assert!(limit.limit > 120.0, "{}", limit.limit);
    }

    #[test]
    fn no_answer_is_no_sign() {
        let mut limit = Limit::default();
        for i in 0..1000 {
            limit.answered(Answer::Other, 8, ms(i * 10));
        }
        assert_eq!(limit.get(), 8);
    }
}
