//! Table tests of the gate of alerts, and of what it does to a request.

use serde_json::{Value, json};

use super::*;
use crate::api::{ConditionType, DeletionPolicySpec, EntityPhase};
use crate::deletion::decide::{Effect, decide};
use crate::deletion::fixtures::*;

/// A request for the Sites `a` and `b` at its last gate, under a policy with this source of alerts.
fn gated(extra: Value) -> Gated {
    let mut gated = Gated::new(&["a", "b"]);
    gated.head.policy.alerts = Some(alerts(extra));
    policy(&mut gated.facts).alerts = gated.head.policy.alerts.clone();
    gated.approved_by(&["ann", "bob"]);
    gated.reserved(&["a", "b"], 990);
    answers(&mut gated, vec![watchdog(5)]);
    gated
}

fn alert(labels: Value, age: i64) -> Alert {
    Alert { labels: serde_json::from_value(labels).unwrap(), updated: at(1000 - age) }
}

fn watchdog(age: i64) -> Alert {
    alert(json!({"alertname": "Watchdog", "severity": "none"}), age)
}

/// The source answers this, at `at(1000)`.
fn answers(gated: &mut Gated, all: Vec<Alert>) {
    let answer = Answer::Alerts { all, asked: at(1000), answered: Some(at(1000)) };
    answers_with(gated, answer);
}

fn answers_with(gated: &mut Gated, answer: Answer) {
    let source = gated.head.policy.alerts.as_ref().unwrap().alertmanager.clone();
    gated.facts.alerts = vec![(source, Arc::new(answer))];
}

fn gate(gated: &Gated) -> (bool, Reason) {
    let verdict = gated.gate(ConditionType::AlertsClear);
    (verdict.is_open(), verdict.reason)
}

#[test]
fn a_source_that_lives_and_tells_of_nothing_opens_it() {
    assert_eq!(gate(&gated(json!({}))), (true, Reason::AlertsClear));
}

/// What counts for a request for the Sites `a` and `b`.
#[test]
fn alerts_are_matched_by_namespace_by_site_and_by_the_matchers() {
    let critical = json!({"matchers": ["severity=\"critical\"", "team=~\"plat.*|db\""]});
    let ignored = json!({"ignore": ["Noise"]});
    for (policy, labels, counts) in [
        (json!({}), json!({"alertname": "Down", "namespace": "a"}), true),
        (json!({}), json!({"alertname": "Down", "namespace": "b", "pod": "x"}), true),
        (json!({}), json!({"alertname": "Down", "namespace": "ab"}), false),
        (json!({}), json!({"alertname": "Down", "site": "a"}), true),
        (json!({}), json!({"alertname": "Down", "site": "site-b"}), true),
        (json!({}), json!({"alertname": "Down", "site": "c"}), false),
        (json!({}), json!({"alertname": "Down"}), false),
        (json!({}), json!({"namespace": "a"}), true),
        (json!({}), json!({"alertname": "Watchdog", "namespace": "a"}), false),
        (json!({}), json!({"alertname": "InfoInhibitor", "namespace": "a"}), false),
        (ignored.clone(), json!({"alertname": "Noise", "namespace": "a"}), false),
        (ignored.clone(), json!({"alertname": "InfoInhibitor", "namespace": "a"}), true),
        (ignored, json!({"alertname": "Noises", "namespace": "a"}), true),
        (critical.clone(), json!({"severity": "critical", "team": "platform"}), true),
        (critical.clone(), json!({"severity": "critical", "team": "db"}), true),
        (critical.clone(), json!({"severity": "critical", "team": "dbs"}), false),
        (critical.clone(), json!({"severity": "critical"}), false),
        (critical, json!({"severity": "warning", "team": "db"}), false),
        (json!({"matchers": ["team!=x"]}), json!({"alertname": "Any"}), true),
        (json!({"matchers": ["team!~\"x|y\""]}), json!({"team": "y"}), false),
    ] {
        let mut gated = gated(policy.clone());
        answers(&mut gated, vec![watchdog(5), alert(labels.clone(), 10)]);
        let expected =
            if counts { (false, Reason::UnexpectedAlert) } else { (true, Reason::AlertsClear) };
        assert_eq!(gate(&gated), expected, "{policy} {labels}");
    }
}

/// Whoever looks at a site is told of the site, not of the App that goes.
#[test]
fn for_an_app_the_alerts_of_its_site_count_by_name() {
    let mut facts = app_facts("a", json!({}));
    step(&mut facts, at(0));
    let plan = facts.request.status.as_ref().unwrap().plan.clone().unwrap();
    let gated = Gated { facts, plan, ..Gated::new(&["a"]) };
    let entity = &gated.plan.entities[0];
    assert_eq!(entity.kind, TargetKind::App);
    for (labels, counts) in [
        (json!({"site": "a"}), true),
        (json!({"site": "site-a"}), true),
        (json!({"site": "wiki"}), false),
        (json!({"site": "b"}), false),
        (json!({"namespace": "a"}), true),
        (json!({"namespace": "b"}), false),
    ] {
        assert_eq!(is_about(&alert(labels.clone(), 10), entity, &gated.case()), counts, "{labels}");
    }
}

#[test]
fn alerts_that_the_plan_expects_do_not_count() {
    let mut gated = gated(json!({}));
    gated.head.expected_alerts = vec!["SiteDown".into()];
    gated.approved_by(&["ann", "bob"]);
    let down = alert(json!({"alertname": "SiteDown", "namespace": "a"}), 10);
    answers(&mut gated, vec![watchdog(5), down]);
    assert_eq!(gate(&gated), (true, Reason::AlertsClear));
    // What the request's spec says now does not count, but what people approved.
    gated.head.expected_alerts.clear();
    gated.facts.request.spec.expected_alerts = vec!["SiteDown".into()];
    assert_eq!(gate(&gated), (false, Reason::UnexpectedAlert));
}

/// No answer, and every answer that proves nothing, blocks; and never cancels.
#[test]
fn without_a_proof_of_life_it_is_closed_and_nothing_is_cancelled() {
    let list = |all, asked, answered| Answer::Alerts { all, asked, answered };
    let live = || vec![watchdog(5)];
    let (now, old) = (at(1000), at(900));
    for (i, (answer, reason)) in [
        (Answer::Down("connection refused".into()), Reason::AlertSourceDown),
        (Answer::Invalid("EOF".into()), Reason::AlertSourceInvalid),
        (list(vec![], now, Some(now)), Reason::WatchdogMissing),
        (list(vec![watchdog(301)], now, Some(now)), Reason::WatchdogMissing),
        (list(vec![watchdog(-61)], now, Some(now)), Reason::WatchdogMissing),
        (list(live(), old, Some(old)), Reason::AlertSourceDown),
        (list(live(), now, Some(at(900))), Reason::AlertSourceInvalid),
        (list(live(), now, Some(at(1100))), Reason::AlertSourceInvalid),
    ]
    .into_iter()
    .enumerate()
    {
        let mut gated = gated(json!({}));
        answers_with(&mut gated, answer);
        assert_eq!(gate(&gated), (false, reason), "row {i}");
        let decision = decide(&gated.into_facts(), now);
        assert_eq!(state(&decision), RequestState::Purging, "row {i}");
        // What is held is kept out of service.
        let acts = |e: &Effect| !matches!(e, Effect::KeepLonger { .. } | Effect::Edit(_));
        assert!(!decision.effects.iter().any(acts), "row {i}: {:?}", decision.effects);
    }
}

#[test]
fn a_watchdog_without_the_source_s_clock_is_measured_by_ours() {
    for (age, open) in [(300, true), (301, false)] {
        let mut gated = gated(json!({}));
        let all = vec![watchdog(age)];
        answers_with(&mut gated, Answer::Alerts { all, asked: at(1000), answered: None });
        assert_eq!(gate(&gated).0, open, "{age}");
    }
    let mut gated = gated(json!({"watchdog": "Heartbeat"}));
    assert_eq!(gate(&gated), (false, Reason::WatchdogMissing));
    answers(&mut gated, vec![alert(json!({"alertname": "Heartbeat"}), 5)]);
    assert_eq!(gate(&gated), (true, Reason::AlertsClear));
}

/// The first step of a release: what the hold has changed, marks last.
fn puts_back(effect: &Effect, site: &str) -> bool {
    let own = format!("wu-{site}-");
    matches!(effect, Effect::Edit(edit) if edit.last && edit.exact.uid.starts_with(&own))
}

/// From Held to the last wave; what has begun is finished, the rest released.
#[test]
fn an_alert_cancels_whatever_was_not_begun() {
    let down = || vec![watchdog(5), alert(json!({"alertname": "Down", "namespace": "b"}), 1)];
    for state_before in [RequestState::Held, RequestState::Purging] {
        let mut gated = gated(json!({}));
        gated.state = state_before;
        answers(&mut gated, down());
        let mut facts = gated.into_facts();
        let decision = step(&mut facts, at(1000));
        assert_eq!(reason(&decision.status, ConditionType::Succeeded), "CancelledByAlert");
        let said = decision.status.message.unwrap();
        assert!(said.contains("alert Down fires for Site b: {alertname=\"Down\""), "{said}");
        let decision = step(&mut facts, at(1001));
        let released = |site: &str| decision.effects.iter().any(|e| puts_back(e, site));
        assert!(released("a") && released("b"), "{:?}", decision.effects);
        // The alert has ended meanwhile; the ending stays.
        for live in facts.sites.values_mut() {
            live.site.status = None;
            live.held.clear();
            live.claims.clear();
        }
        facts.alerts.clear();
        let decision = step(&mut facts, at(1002));
        assert_eq!(state(&decision), RequestState::Cancelled);
        assert_eq!(reason(&decision.status, ConditionType::Succeeded), "CancelledByAlert");
    }
    // `a` is past its point of no return: it is finished, and `b` released.
    let mut begun = gated(json!({}));
    begun.plan.entities[0].phase = EntityPhase::Purging;
    hold(begun.live("a"), "ru", "Purging");
    begun.live("a").apps.clear();
    answers(&mut begun, down());
    let mut facts = begun.into_facts();
    step(&mut facts, at(1000));
    let decision = step(&mut facts, at(1001));
    let purges = |e: &&Effect| matches!(e, Effect::Purge(token, _) if token.entity_uid() == "su-a");
    assert!(decision.effects.iter().any(|e| purges(&e)), "{:?}", decision.effects);
    assert!(decision.effects.iter().any(|e| puts_back(e, "b")), "{:?}", decision.effects);
}

#[test]
fn an_alert_before_the_quorum_is_told_and_cancels_nothing() {
    let mut gated = gated(json!({}));
    gated.state = RequestState::AwaitingApproval;
    gated.approvals.clear();
    answers(&mut gated, vec![alert(json!({"alertname": "Down", "namespace": "a"}), 1)]);
    let mut facts = gated.into_facts();
    let decision = step(&mut facts, at(1000));
    assert_eq!(state(&decision), RequestState::AwaitingApproval);
    assert_eq!(reason(&decision.status, ConditionType::AlertsClear), "UnexpectedAlert");
    // Nobody waits for a source before that.
    facts.alerts.clear();
    let decision = step(&mut facts, at(1001));
    assert_eq!(reason(&decision.status, ConditionType::AlertsClear), "WaitingForEarlierGate");
}

/// Stricter at once, weaker never: both, the policy as planned and as it is now, must be clear.
#[test]
fn a_change_of_the_policy_hides_no_alert() {
    type Change = fn(&mut DeletionPolicySpec);
    let table: &[(Change, bool)] = &[
        (|p| p.alerts = None, false),
        (|p| p.alerts.as_mut().unwrap().ignore.push("Down".into()), false),
        (|p| p.alerts.as_mut().unwrap().alertmanager.url = "http://other".into(), false),
        (|p| p.alerts.as_mut().unwrap().matchers.push("severity=x".into()), true),
    ];
    for (i, (change, stricter)) in table.iter().enumerate() {
        // Weaker: what it was planned under still binds.
        let mut now_weaker = gated(json!({}));
        let about_a = if *stricter {
            alert(json!({"alertname": "Down", "severity": "x"}), 1)
        } else {
            alert(json!({"alertname": "Down", "namespace": "a"}), 1)
        };
        answers(&mut now_weaker, vec![watchdog(5), about_a]);
        let mut now_stricter = now_weaker.clone();
        change(policy(&mut now_weaker.facts));
        assert_eq!(gate(&now_weaker), (false, Reason::UnexpectedAlert), "row {i}");
        change(&mut now_stricter.head.policy);
        now_stricter.approved_by(&["ann", "bob"]);
        assert_eq!(gate(&now_stricter), (false, Reason::UnexpectedAlert), "row {i}");
    }
    // A source that is only there now has to answer as well.
    let mut gated = gated(json!({}));
    policy(&mut gated.facts).alerts.as_mut().unwrap().alertmanager.url = "http://other".into();
    assert_eq!(gate(&gated), (false, Reason::AlertSourceDown));
    let both = [gated.head.policy.alerts.as_ref(), policy(&mut gated.facts).alerts.as_ref()];
    let urls: Vec<String> = sources(both.into_iter()).into_iter().map(|s| s.url).collect();
    assert_eq!(urls, ["http://am:9093", "http://other"]);
}

#[test]
fn production_without_a_source_is_closed_and_says_what_to_do() {
    let mut gated = Gated::new(&["a"]);
    policy(&mut gated.facts).environment = Environment::Production;
    let verdict = gated.gate(ConditionType::AlertsClear);
    assert_eq!((verdict.is_open(), verdict.reason), (false, Reason::NotConfigured));
    assert!(verdict.message.contains("spec.alerts of DeletionPolicy default"), "{verdict:?}");
}

#[test]
fn matchers_are_those_of_alertmanager() {
    let fits = |matcher: &str, labels: Value| {
        let matchers = matchers(&[matcher.to_owned()]).unwrap_or_else(|e| panic!("{e}"));
        matchers[0].fits(&alert(labels, 0))
    };
    for (matcher, yes, no) in [
        ("a=b", json!({"a": "b"}), json!({"a": "bb"})),
        ("a = \"b c\" ", json!({"a": "b c"}), json!({})),
        ("a=\"\"", json!({}), json!({"a": "x"})),
        ("a=\"\\\"\"", json!({"a": "\""}), json!({"a": "x"})),
        ("a!=b", json!({}), json!({"a": "b"})),
        ("a=~\"b.\"", json!({"a": "bx"}), json!({"a": "xbx"})),
        ("a=~\"b|c\"", json!({"a": "c"}), json!({"a": "cc"})),
        ("a!~\"b|c\"", json!({"a": "cc"}), json!({"a": "c"})),
        ("a=b=c", json!({"a": "b=c"}), json!({"a": "b"})),
    ] {
        assert!(fits(matcher, yes) && !fits(matcher, no), "{matcher}");
    }
    for bad in ["a", "", "a!b", "a=\"b", "a=~\"(\"", "a=~[", "a=\"b\" c"] {
        let said = matchers(&[bad.to_owned()]).expect_err(bad);
        assert!(said.contains("spec.alerts.matchers"), "{said}");
    }
    let mut gated = gated(json!({}));
    policy(&mut gated.facts).alerts.as_mut().unwrap().matchers.push("a=~(".into());
    assert_eq!(gate(&gated), (false, Reason::InvalidMatcher));
}

#[test]
fn labels_are_shown_in_part_only() {
    let long = alert(json!({"alertname": "Down", "x": "ü".repeat(400)}), 0);
    let said = describe(&long);
    assert!(said.len() <= LABELS_SHOWN + 8 && said.ends_with("…}"), "{said}");
}
