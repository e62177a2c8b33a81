//! Leader election by a Lease, in the manner of client-go: one of several operators works, the
//! others stand by. [`decide`] is pure; [`Elector`] sends what it says.
//!
//! Another's lease has expired when it was seen unchanged for its whole duration, by this
//! process's own monotonic clock: the holder's timestamps are never compared with any clock here.
//! A Lease is no fence by itself: see [`Term`](super::fence::Term).

use std::time::{Duration, Instant};

use chrono::Utc;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::fence::{Moment, Term};
use super::{During, Error, Result, is_conflict, is_not_found};
use crate::api::names;

/// How long a lease lasts and how it is kept. Each is shorter than the one before.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long the others wait after they have last seen the lease change. Whole seconds.
    pub duration: Duration,
    /// How long the holder goes on without having renewed the lease.
    pub renew_deadline: Duration,
    /// Pause between two attempts to acquire or renew.
    pub retry_period: Duration,
}

impl Terms {
    /// What is wrong with them, in words.
    ///
    /// # Errors
    /// The holder could go on when another one has taken the lease, or has no second attempt.
    pub fn check(&self) -> Result<(), String> {
        let Self { duration, renew_deadline, retry_period } = *self;
        if duration < Duration::from_secs(1) || duration.subsec_nanos() > 0 {
            return Err(format!("the lease duration, {duration:?}, must be whole seconds"));
        }
        if renew_deadline >= duration {
            return Err(format!(
                "the renew deadline, {renew_deadline:?}, must be shorter than the lease duration, {duration:?}"
            ));
        }
        if retry_period.is_zero() || retry_period * 2 > renew_deadline {
            return Err(format!(
                "the retry period, {retry_period:?}, must be above zero and at most half of the renew deadline, {renew_deadline:?}"
            ));
        }
        Ok(())
    }
}

/// What to do about the lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// There is none: create it.
    Create,
    /// It is free, expired, or one's own: take it. The spec is what to write.
    Write(LeaseSpec),
    /// It is another's.
    Wait {
        /// Who holds it.
        holder: String,
    },
}

/// What to do about the lease as it is, which has not changed since `since`. Pure.
pub fn decide(
    lease: Option<&LeaseSpec>,
    since: Instant,
    now: Instant,
    me: &str,
    terms: &Terms,
) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let theirs = lease.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    let theirs = theirs.filter(|s| *s > 0).map_or(terms.duration, Duration::from_secs);
    if !holder.is_empty() && holder != me && now.saturating_duration_since(since) < theirs {
        return Step::Wait { holder: holder.to_owned() };
    }
    let mut next = lease.clone();
    next.lease_duration_seconds = Some(seconds(terms.duration));
    if holder != me {
        next.holder_identity = Some(me.to_owned());
        next.acquire_time = None;
        next.lease_transitions = Some(lease.lease_transitions.unwrap_or_default() + 1);
    }
    Step::Write(next)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    /// The lease is held, from the moment at which the request was sent.
    Held,
    /// Somebody else holds it.
    Other {
        /// Who.
        holder: String,
    },
}

/// One candidate for the lease.
pub struct Elector {
    api: Api<Lease>,
    me: String,
    terms: Terms,
    /// The lease as it was last seen, and since when it is so.
    seen: Option<(Lease, Instant)>,
}

impl Elector {
    /// A candidate of this name, which must be another one at each start of a process. The client
    /// must not be a fenced one.
    pub fn new(client: Client, me: String, terms: Terms) -> Self {
        let api = Api::namespaced(client, names::OPERATOR_NAMESPACE);
        Self { api, me, terms, seen: None }
    }

    /// Tries once to acquire or renew the lease.
    ///
    /// # Errors
    /// No answer, or one that says nothing of who holds it.
    pub async fn attempt(&mut self) -> Result<Attempt> {
        let limit = self.terms.renew_deadline / 2;
        let doing = format!("acquire the lease {}", name());
        tokio::time::timeout(limit, self.try_once())
            .await
            .unwrap_or_else(|_| Err(Error::answer(doing, "no answer in time")))
    }

    async fn try_once(&mut self) -> Result<Attempt> {
        // The holder renews what it wrote, and reads only when somebody else has written.
        let held = |lease: &Lease| self.holds(lease);
        if !self.seen.as_ref().is_some_and(|(lease, _)| held(lease)) {
            self.read().await?;
        }
        let lease = self.seen.as_ref().map(|(lease, _)| lease.clone());
        let since = self.seen.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let spec = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let step = decide(spec.as_ref(), since, Instant::now(), &self.me, &self.terms);
        let written = match step {
            Step::Wait { holder } => return Ok(Attempt::Other { holder }),
            Step::Create => {
                let spec = LeaseSpec {
                    holder_identity: Some(self.me.clone()),
                    lease_duration_seconds: Some(seconds(self.terms.duration)),
                    lease_transitions: Some(0),
                    ..Default::default()
                };
                self.write(None, spec).await
            }
            Step::Write(spec) => self.write(lease.as_ref(), spec).await,
        };
        match written {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(Attempt::Held)
            }
            // Somebody was faster. It may even be an earlier, unanswered attempt of this process.
            Err(error) if is_conflict(&error) => {
                self.read().await?;
                let lease = self.seen.as_ref().map(|(lease, _)| lease);
                let holder = lease.and_then(|l| l.spec.as_ref()?.holder_identity.clone());
                match holder {
                    Some(holder) if holder != self.me => Ok(Attempt::Other { holder }),
                    _ => Err(error).during(format!("acquire the lease {}", name())),
                }
            }
            Err(error) => {
                if is_not_found(&error) {
                    self.seen = None;
                }
                Err(error).during(format!("acquire the lease {}", name()))
            }
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().is_some_and(|s| s.holder_identity.as_ref() == Some(&self.me))
    }

    async fn read(&mut self) -> Result<()> {
        let live = self.api.get_opt(names::LEASE).await;
        let live = live.during(format!("read the lease {}", name()))?;
        let spec_of = |lease: &Lease| lease.spec.clone().unwrap_or_default();
        self.seen = live.map(|live| match self.seen.take() {
            Some((seen, since)) if spec_of(&seen) == spec_of(&live) => (live, since),
            _ => (live, Instant::now()),
        });
        Ok(())
    }

    async fn write(&self, old: Option<&Lease>, mut spec: LeaseSpec) -> kube::Result<Lease> {
        // For people: no decision compares them.
        let now = Timestamp::from_microsecond(Utc::now().timestamp_micros());
        let now = MicroTime(now.unwrap_or(Timestamp::UNIX_EPOCH));
        spec.acquire_time.get_or_insert(now.clone());
        spec.renew_time = Some(now);
        let mut metadata =
            ObjectMeta { name: Some(names::LEASE.to_owned()), ..ObjectMeta::default() };
        let params = PostParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..Default::default()
        };
        let Some(old) = old else {
            return self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await;
        };
        metadata.clone_from(&old.metadata);
        metadata.managed_fields = None;
        metadata.resource_version = old.resource_version();
        self.api.replace(names::LEASE, &params, &Lease { metadata, spec: Some(spec) }).await
    }

    /// Tries until the lease is held, and begins a term. `say` is told each attempt that failed.
    pub async fn acquire(&mut self, mut say: impl FnMut(Result<Attempt>)) -> Term {
        loop {
            let sent = Moment::now();
            match self.attempt().await {
                Ok(Attempt::Held) => {
                    let term = Term::begin(sent, self.terms.renew_deadline);
                    // An answer that was too long under way is worth nothing.
                    if term.check().is_ok() {
                        return term;
                    }
                }
                other => say(other),
            }
            tokio::time::sleep(self.terms.retry_period).await;
        }
    }

    /// Renews the lease for as long as it can be. Ends when the term is over, and says why.
    pub async fn keep(&mut self, term: &Term) -> String {
        let mut last = "it was not renewed in time".to_owned();
        loop {
            let pause = self.terms.retry_period.min(term.remaining());
            tokio::time::sleep(pause).await;
            let sent = Moment::now();
            // A pause of the whole process: whatever the answer would be, it comes too late.
            if term.check().is_err() {
                return last;
            }
            tokio::select! {
                attempt = self.attempt() => match attempt {
                    Ok(Attempt::Held) => {
                        if term.extend(sent, self.terms.renew_deadline).is_err() {
                            return last;
                        }
                    }
                    Ok(Attempt::Other { holder }) => {
                        term.end();
                        return format!("{holder} has taken it");
                    }
                    Err(error) => last = error.to_string(),
                },
                () = tokio::time::sleep(term.remaining()) => {}
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait for it to expire. To be called
    /// when nothing is under way any more.
    ///
    /// # Errors
    /// Any answer but success; the lease then expires by itself.
    pub async fn release(&mut self) -> Result<()> {
        let Some((lease, _)) = self.seen.take().filter(|(lease, _)| self.holds(lease)) else {
            return Ok(());
        };
        let mut spec = lease.spec.clone().unwrap_or_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let written = self.write(Some(&lease), spec).await;
        written.during(format!("release the lease {}", name())).map(drop)
    }
}

/// Namespace and name of the lease, for people.
pub fn name() -> String {
    format!("{}/{}", names::OPERATOR_NAMESPACE, names::LEASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn of(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    #[track_caller]
    fn after(lease: Option<&LeaseSpec>, seconds: f64) -> Step {
        let since = Instant::now();
        decide(lease, since, since + Duration::from_secs_f64(seconds), "me", &TERMS)
    }

    #[track_caller]
    fn takes(step: Step, transitions: i32) {
        let Step::Write(spec) = step else { panic!("expected a write; seen: {step:?}") };
        assert_eq!(spec.holder_identity.as_deref(), Some("me"));
        assert_eq!(spec.lease_transitions, Some(transitions));
        assert_eq!(spec.lease_duration_seconds, Some(15));
    }

    #[test]
    fn anothers_lease_is_waited_for_until_it_was_seen_unchanged_for_its_duration() {
        let wait = Step::Wait { holder: "other".to_owned() };
        assert_eq!(after(Some(&of("other", 15)), 0.0), wait);
        assert_eq!(after(Some(&of("other", 15)), 14.9), wait);
        takes(after(Some(&of("other", 15)), 15.0), 4);
        // The duration that its holder counts on, not one's own.
        assert_eq!(after(Some(&of("other", 60)), 59.0), wait);
        takes(after(Some(&of("other", 60)), 60.0), 4);
        // One that says nothing is given the usual one.
        for nothing in [0, -5] {
            assert_eq!(after(Some(&of("other", nothing)), 14.0), wait);
            takes(after(Some(&of("other", nothing)), 15.0), 4);
        }
    }

    #[test]
    fn a_free_lease_and_ones_own_are_taken_at_once() {
        assert_eq!(after(None, 0.0), Step::Create);
        takes(after(Some(&of("", 1)), 0.0), 4);
        takes(after(Some(&of("me", 15)), 0.0), 3);
        takes(after(Some(&LeaseSpec::default()), 0.0), 1);
    }

    #[test]
    fn terms_under_which_two_could_work_are_refused() {
        let with = |duration: u64, deadline: u64, retry: u64| {
            let seconds = Duration::from_secs;
            let terms = Terms {
                duration: seconds(duration),
                renew_deadline: seconds(deadline),
                retry_period: seconds(retry),
            };
            terms.check().err().unwrap_or_default()
        };
        assert_eq!(with(15, 10, 2), "");
        assert!(with(10, 10, 2).contains("must be shorter than the lease duration, 10s"));
        assert!(with(15, 10, 0).contains("above zero"));
        assert!(with(15, 10, 6).contains("at most half"));
        assert!(with(0, 10, 2).contains("whole seconds"));
    }
}
