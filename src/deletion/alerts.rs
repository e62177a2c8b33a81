//! Gate 7: no alert that nobody expected, and a source of alerts that is alive. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use regex::Regex;

use super::gates::{Case, Verdict, stricter};
use super::live::Live;
use crate::api::{
    Alertmanager, Alerts, Environment, PlanEntity, Reason, RequestState, TargetKind, Time,
};

/// How old the alert that always fires may be, in seconds. Prometheus tells it again every minute.
const WATCHDOG_SECONDS: i64 = 300;
/// How old an answer may be when it is judged, in seconds.
const ANSWER_SECONDS: i64 = 30;
/// By how much the clocks of the source and of the operator may differ, in seconds.
const CLOCK_SECONDS: i64 = 60;
/// How much of an alert's labels a message shows, in bytes.
const LABELS_SHOWN: usize = 300;

/// An alert that fires, silenced and inhibited ones too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its labels; its name is `alertname`.
    pub labels: BTreeMap<String, String>,
    /// When the source was last told of it, by the source's clock.
    pub updated: Time,
}

/// What a source of alerts answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every alert that fires.
    Alerts {
        /// The alerts.
        all: Vec<Alert>,
        /// When it was asked, by the operator's clock.
        asked: Time,
        /// When it answered, by its own clock, if it said so.
        answered: Option<Time>,
    },
    /// Nothing: why.
    Down(String),
    /// Something that cannot be read: why.
    Invalid(String),
}

/// The answers of the sources that were asked.
pub type Answers = Vec<(Alertmanager, Arc<Answer>)>;

/// The sources that a request must be clear by: that of its policy as planned, and as it is now.
pub(super) fn sources<'a>(policies: impl Iterator<Item = Option<&'a Alerts>>) -> Vec<Alertmanager> {
    let mut all: Vec<Alertmanager> = vec![];
    for alerts in policies.flatten() {
        if !all.contains(&alerts.alertmanager) {
            all.push(alerts.alertmanager.clone());
        }
    }
    all
}

/// Gate 7, by every policy that binds.
pub(super) fn alerts_clear(case: &Case<'_>) -> Verdict {
    let policies = stricter(case);
    let verdicts: Vec<Verdict> =
        policies.iter().filter_map(|p| Some(clear_by(case, p.alerts.as_ref()?))).collect();
    // An alert that fires is worse news than a source that is silent.
    let unexpected = verdicts.iter().find(|v| v.reason == Reason::UnexpectedAlert);
    if let Some(verdict) = unexpected {
        return verdict.clone();
    }
    let missing =
        policies.iter().find(|p| p.environment == Environment::Production && p.alerts.is_none());
    if missing.is_some() {
        return Verdict::closed(
            Reason::NotConfigured,
            format!(
                "Production purges only with a source of alerts: set spec.alerts of DeletionPolicy {}, and make the request anew",
                case.head.policy_name
            ),
        );
    }
    if let Some(verdict) = verdicts.iter().find(|v| !v.is_open()) {
        return verdict.clone();
    }
    verdicts.into_iter().next().unwrap_or_else(|| {
        Verdict::open(Reason::NotConfigured, "no source of alerts; Development goes without")
    })
}

/// The alert that cancels a request that is held or purged.
pub(super) fn cancels(case: &Case<'_>) -> Option<String> {
    let verdict = alerts_clear(case);
    (verdict.reason == Reason::UnexpectedAlert).then_some(verdict.message)
}

fn clear_by(case: &Case<'_>, alerts: &Alerts) -> Verdict {
    let source = &alerts.alertmanager;
    let url = &source.url;
    let matchers = match matchers(&alerts.matchers) {
        Ok(matchers) => matchers,
        Err(why) => return Verdict::closed(Reason::InvalidMatcher, why),
    };
    let answer = case.facts.alerts.iter().find(|(of, _)| of == source);
    let Some((_, answer)) = answer else {
        // Before it is held, a request need not wait for a source.
        return match case.state {
            RequestState::Held | RequestState::Purging => {
                Verdict::closed(Reason::AlertSourceDown, format!("{url} was not asked for alerts"))
            }
            _ => Verdict::later(),
        };
    };
    let (all, asked, answered) = match &**answer {
        Answer::Alerts { all, asked, answered } => (all, *asked, *answered),
        Answer::Down(why) => {
            let message = format!("the source of alerts gives no answer: {why}");
            return Verdict::closed(Reason::AlertSourceDown, message);
        }
        Answer::Invalid(why) => {
            let message = format!("what the source of alerts answers cannot be read: {why}");
            return Verdict::closed(Reason::AlertSourceInvalid, message);
        }
    };
    let unexpected = all.iter().find_map(|a| Some((a, about(a, case, alerts, &matchers)?)));
    if let Some((alert, what)) = unexpected {
        return Verdict::closed(
            Reason::UnexpectedAlert,
            format!("alert {} fires{what}: {}", name(alert), describe(alert)),
        );
    }
    if case.now.seconds_since(asked).abs() > ANSWER_SECONDS {
        let message = format!("the last answer of {url} is of {asked}");
        return Verdict::closed(Reason::AlertSourceDown, message);
    }
    let by_its_clock = answered.unwrap_or(asked);
    let skew = by_its_clock.seconds_since(asked);
    if skew.abs() > CLOCK_SECONDS {
        return Verdict::closed(
            Reason::AlertSourceInvalid,
            format!(
                "the answer of {url} bears a date that is {skew} s from the operator's clock: its clock is wrong, or the answer is an old one"
            ),
        );
    }
    let told = all.iter().filter(|a| name(a) == alerts.watchdog).map(|a| a.updated).max();
    let how = "it must always fire, and be told again every minute";
    match told.map(|told| by_its_clock.seconds_since(told)) {
        None => Verdict::closed(
            Reason::WatchdogMissing,
            format!("{url} does not have the alert {}: {how}", alerts.watchdog),
        ),
        Some(age) if !(-CLOCK_SECONDS..=WATCHDOG_SECONDS).contains(&age) => Verdict::closed(
            Reason::WatchdogMissing,
            format!("{url} was last told of the alert {} {age} s ago: {how}", alerts.watchdog),
        ),
        Some(_) => Verdict::open(
            Reason::AlertsClear,
            format!("no unexpected alert among the {} of {url}", all.len()),
        ),
    }
}

fn name(alert: &Alert) -> &str {
    alert.labels.get("alertname").map_or("", String::as_str)
}

/// What of the request an alert is about, to be read after `fires`; none when it does not count.
fn about(alert: &Alert, case: &Case<'_>, alerts: &Alerts, matchers: &[Matcher]) -> Option<String> {
    let name = name(alert);
    let expected = case.head.expected_alerts.iter().any(|e| e == name);
    if name == alerts.watchdog || expected || alerts.ignore.iter().any(|i| i == name) {
        return None;
    }
    if let Some(entity) = case.plan.entities.iter().find(|e| is_about(alert, e, case)) {
        return Some(format!(" for {} {}", entity.kind, entity.name));
    }
    let fits = !matchers.is_empty() && matchers.iter().all(|m| m.fits(alert));
    fits.then(|| " and fits the policy's matchers".to_owned())
}

fn is_about(alert: &Alert, entity: &PlanEntity, case: &Case<'_>) -> bool {
    let label = |label: &str| alert.labels.get(label);
    // Of an App, its Site's as well: what people miss of it is noticed there.
    let named = |site: &String| match entity.kind {
        TargetKind::Site => *site == entity.name || *site == entity.id,
        TargetKind::App => case.facts.live(entity).is_some_and(|live| {
            let of = live.site();
            *site == of.site.name_any() || *site == of.site.spec.id
        }),
    };
    let site = label("site").is_some_and(named);
    let namespace = label("namespace").is_some_and(|namespace| {
        entity.namespaces.iter().any(|n| n.name == *namespace)
            // Of an App those of its plan alone: the rest of its Site is not what goes.
            || case.facts.live(entity).is_some_and(|live| match live {
                Live::Site(site) => {
                    site.namespaces.iter().any(|n| n.metadata.name.as_ref() == Some(namespace))
                }
                Live::App(..) => false,
            })
    });
    site || namespace
}

/// An alert's labels, as Prometheus writes them.
fn describe(alert: &Alert) -> String {
    let labels: Vec<String> = alert.labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    let mut text = labels.join(", ");
    if text.len() > LABELS_SHOWN {
        let end = (0..=LABELS_SHOWN).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    format!("{{{text}}}")
}

/// A matcher as Alertmanager has it. A label that is not there is as an empty one.
#[derive(Clone, Debug)]
pub struct Matcher {
    label: String,
    wants: Wants,
    negated: bool,
}

#[derive(Clone, Debug)]
enum Wants {
    Equal(String),
    Pattern(Regex),
}

impl Matcher {
    fn fits(&self, alert: &Alert) -> bool {
        let value = alert.labels.get(&self.label).map_or("", String::as_str);
        let fits = match &self.wants {
            Wants::Equal(wanted) => value == wanted,
            Wants::Pattern(pattern) => pattern.is_match(value),
        };
        fits != self.negated
    }
}

/// The matchers of these texts.
///
/// # Errors
/// The first that is none, and why.
pub fn matchers(texts: &[String]) -> Result<Vec<Matcher>, String> {
    texts
        .iter()
        .map(|text| {
            matcher(text).map_err(|why| format!("{text:?} of spec.alerts.matchers is none: {why}"))
        })
        .collect()
}

fn matcher(text: &str) -> Result<Matcher, String> {
    // The first operator counts; `=~` before the `=` that it begins with.
    let at = text.find(['=', '!']).ok_or("it has no operator, =, !=, =~ or !~")?;
    let (label, rest) = text.split_at(at);
    let operator = ["=~", "!~", "!=", "="].into_iter().find(|o| rest.starts_with(o));
    let operator = operator.ok_or("its operator must be =, !=, =~ or !~")?;
    let value = rest[operator.len()..].trim();
    let value = if value.starts_with('"') {
        serde_json::from_str(value).map_err(|_| "its value is not quoted as it should be")?
    } else {
        value.to_owned()
    };
    let wants = if operator.ends_with('~') {
        // Anchored, as in Alertmanager.
        let pattern = Regex::new(&format!("^(?s:{value})$"));
        Wants::Pattern(pattern.map_err(|_| "its value is no regular expression")?)
    } else {
        Wants::Equal(value)
    };
    let label = label.trim().to_owned();
    Ok(Matcher { label, wants, negated: operator.starts_with('!') })
}

#[cfg(test)]
#[path = "alerts_tests.rs"]
mod tests;
