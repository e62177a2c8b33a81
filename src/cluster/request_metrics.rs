//! What Prometheus reads of DeletionRequests, besides how many there are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::api::{ConditionType, Conditions, DeletionRequestStatus, Time};

/// Labels of requests that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    /// The state in which it ended.
    state: String,
    /// Why, as the condition `Succeeded` has it.
    reason: String,
}

/// Labels of what people said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Said {
    /// `approval` or `rejection`.
    what: &'static str,
}

/// Labels of the time in a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Left {
    /// The state that was left.
    state: String,
}

/// The metrics of DeletionRequests.
#[derive(Debug)]
pub struct RequestMetrics {
    ended: Family<Ended, Counter>,
    said: Family<Said, Counter>,
    state_seconds: Family<Left, Histogram>,
}

impl RequestMetrics {
    /// Metrics that were never touched.
    pub fn new(registry: &mut Registry) -> Self {
        // From a second to about 18 days.
        let seconds = || Histogram::new(exponential_buckets(1.0, 5.0, 10));
        let new = Self {
            ended: Family::default(),
            said: Family::default(),
            state_seconds: Family::new_with_constructor(seconds),
        };
        registry.register(
            "requests_ended",
            "DeletionRequests that ended, by state and reason",
            new.ended.clone(),
        );
        registry.register(
            "approvals",
            "Approvals and rejections that counted when they were first seen",
            new.said.clone(),
        );
        registry.register_with_unit(
            "request_state",
            "How long DeletionRequests were in each state, told when they left it",
            Unit::Seconds,
            new.state_seconds.clone(),
        );
        new
    }

    /// Touches each, so that a table can be made of them.
    pub fn example(&self) {
        drop(self.ended.get_or_create(&Ended::default()));
        drop(self.said.get_or_create(&Said { what: "" }));
        drop(self.state_seconds.get_or_create(&Left { state: String::new() }));
    }

    /// Tells what a status that was just written says that the one before it did not.
    pub fn tell(&self, before: Option<&DeletionRequestStatus>, now: &DeletionRequestStatus) {
        let new = |count: usize, what: &'static str| {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.said.get_or_create(&Said { what }).inc_by(count);
        };
        let approvals = before.map_or(&[][..], |before| &before.approvals);
        new(now.approvals.iter().filter(|a| !approvals.contains(a)).count(), "approval");
        let rejections = before.map_or(&[][..], |before| &before.rejections);
        new(now.rejections.iter().filter(|r| !rejections.contains(r)).count(), "rejection");
        let Some(state) = now.state else { return };
        let left = before.and_then(|before| Some((before.state?, before.state_time?)));
        if let (Some((left, since)), Some(at)) = (left.filter(|(l, _)| *l != state), now.state_time)
        {
            let label = Left { state: format!("{left:?}") };
            let seconds = at.seconds_since(since).max(0) as f64;
            self.state_seconds.get_or_create(&label).observe(seconds);
        }
        if now.has_ended() && !before.is_some_and(DeletionRequestStatus::has_ended) {
            let reason = now.conditions.get(ConditionType::Succeeded);
            let reason = reason.map_or_else(String::new, |c| c.reason.clone());
            self.ended.get_or_create(&Ended { state: format!("{state:?}"), reason }).inc();
        }
    }
}

/// Notes since when a request is in its state.
pub fn note_state(
    before: Option<&DeletionRequestStatus>,
    now: &mut DeletionRequestStatus,
    at: Time,
) {
    let same = |before: &&DeletionRequestStatus| before.state == now.state;
    now.state_time = match before.filter(same).and_then(|before| before.state_time) {
        Some(since) => Some(since),
        None => now.state.map(|_| at),
    };
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::api::{Approval, RequestState};

    fn at(seconds: i64) -> Time {
        chrono::DateTime::from_timestamp(seconds, 0).unwrap().into()
    }

    #[test]
    fn what_is_new_is_told_once() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::new(&mut registry);
        let mut all: Vec<DeletionRequestStatus> = vec![];
        let approval = |user: &str| Approval { user: user.into(), digest: "d".into(), time: at(5) };
        let (ann, bob) = (approval("ann"), approval("bob"));
        for (state, approvals, time) in [
            (RequestState::AwaitingApproval, vec![], 0),
            (RequestState::AwaitingApproval, vec![ann.clone()], 40),
            (RequestState::Held, vec![ann.clone(), bob.clone()], 70),
            (RequestState::Held, vec![ann.clone(), bob.clone()], 80),
            (RequestState::Cancelled, vec![ann, bob], 100),
        ] {
            let mut now =
                DeletionRequestStatus { state: Some(state), approvals, ..Default::default() };
            note_state(all.last(), &mut now, at(time));
            metrics.tell(all.last(), &now);
            all.push(now);
        }
        let since: Vec<Option<Time>> = all.iter().map(|status| status.state_time).collect();
        assert_eq!(since, [0, 0, 70, 70, 100].map(|time| Some(at(time))));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "approvals_total{what=\"approval\"} 2",
            "approvals_total{what=\"rejection\"} 0",
            "request_state_seconds_sum{state=\"AwaitingApproval\"} 70.0",
            "request_state_seconds_count{state=\"AwaitingApproval\"} 1",
            "request_state_seconds_sum{state=\"Held\"} 30.0",
            "requests_ended_total{state=\"Cancelled\",reason=\"\"} 1",
        ] {
            assert!(text.contains(line), "expected {line} in {text}");
        }
    }
}
