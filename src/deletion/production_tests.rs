//! A full window of Production on an injected clock: C1, C2, and an alert in the middle.

use std::sync::Arc;

use serde_json::json;

use super::alerts::{Alert, Answer};
use super::fixtures::*;
use super::world::{Crash, World};
use crate::api::{ConditionType, DeletionPolicySpec, RequestState, Time};

const HOUR: i64 = 3600;

/// Two Sites under Production with the defaults and a source of alerts, asked for and approved.
fn held() -> World {
    let mut world = World::new(&["a", "b"]);
    let spec = &mut world.policies.get_mut("default").unwrap().spec;
    *spec = DeletionPolicySpec { alerts: Some(alerts(json!({}))), ..production() };
    look(&mut world, None);
    look(&mut world, None);
    world.vote("ann");
    world.vote("bob");
    for _ in 0..6 {
        look(&mut world, None);
    }
    assert_eq!(world.state(), RequestState::Held);
    assert!(world.facts.request.status.as_ref().unwrap().retention.is_some());
    world
}

/// One look of the operator, with this alert about the Site `b`.
fn look(world: &mut World, name: Option<&str>) {
    let updated = at(world.time);
    let alert = |labels| Alert { labels: serde_json::from_value(labels).unwrap(), updated };
    let mut all = vec![alert(json!({"alertname": "Watchdog"}))];
    all.extend(name.map(|name| alert(json!({"alertname": name, "namespace": "b"}))));
    let answer = Answer::Alerts { all, asked: world.now(), answered: Some(updated) };
    world.facts.alerts = vec![(alerts(json!({})).alertmanager, Arc::new(answer))];
    world.step(Crash::Never);
    world.others_act();
}

fn reason_of(world: &World, type_: ConditionType) -> String {
    reason(world.facts.request.status.as_ref().unwrap(), type_).to_owned()
}

/// Looks every half hour until so many hours after all were held; nothing may go.
fn wait_until(world: &mut World, hours: i64) {
    while world.time - world.all_held.unwrap() < hours * HOUR {
        look(world, None);
        assert!(world.deletes.is_empty(), "{:?} at {} s", world.deletes, world.time);
        world.time += HOUR / 2;
    }
}

fn end(world: &mut World) -> RequestState {
    for _ in 0..100 {
        look(world, None);
        world.time += 5;
    }
    world.state()
}

/// The approvals are good for a day, and the window lasts for three: they count to the quorum only.
#[test]
fn approvals_do_not_expire_in_the_window() {
    let mut world = held();
    let head = world.facts.request.status.as_ref().unwrap().plan.clone().unwrap().head.unwrap();
    assert!(head.policy.quorum.expires_after_seconds < head.retention_seconds);
    wait_until(&mut world, 72);
    assert_eq!(end(&mut world), RequestState::Completed);
    assert!(!world.deletes.is_empty());
}

#[test]
fn a_window_that_is_shortened_after_the_approval_stays_and_one_that_is_longer_binds() {
    let retention = |world: &mut World, seconds: i64| {
        let spec = &mut world.policies.get_mut("default").unwrap().spec.retention;
        (spec.minimum_seconds, spec.default_seconds) = (seconds, seconds);
    };
    let mut shorter = held();
    retention(&mut shorter, 10);
    wait_until(&mut shorter, 72);
    assert_eq!(end(&mut shorter), RequestState::Completed);
    let mut longer = held();
    wait_until(&mut longer, 71);
    retention(&mut longer, 120 * HOUR);
    wait_until(&mut longer, 120);
    assert_eq!(end(&mut longer), RequestState::Completed);
    // Asked for in the request itself, it is in the digest, and the schema lets nobody change it;
    // what the spec says later does not count.
    let mut spec = held();
    spec.facts.request.spec.retention_seconds = Some(10);
    wait_until(&mut spec, 72);
}

/// C1: ten years ahead, or back, or by a little more than a minute.
#[test]
fn with_a_wrong_clock_nothing_goes() {
    for skew in [10 * 365 * 86_400, -10 * 365 * 86_400, 90, -90] {
        let mut world = held();
        world.skew = skew;
        wait_until(&mut world, 100);
        assert_eq!(reason_of(&world, ConditionType::RetentionElapsed), "ClocksDisagree", "{skew}");
        assert_eq!(world.state(), RequestState::Held, "{skew}");
        world.skew = 0;
        assert_eq!(end(&mut world), RequestState::Completed, "{skew}");
    }
}

/// Neither clock alone ends a window, nor both when they do not agree.
#[test]
fn both_clocks_must_have_advanced() {
    for (now, api, open) in [
        (160, 160, true),
        (160, 159, false),
        (159, 160, false),
        (220, 160, true),
        (221, 160, false),
        (160, 220, true),
        (160, 221, false),
        (99_999, 120, false),
        (120, 99_999, false),
    ] {
        let mut gated = Gated::new(&["a"]);
        gated.now = at(now);
        gated.facts.api_time = at(api);
        let verdict = gated.gate(ConditionType::RetentionElapsed);
        assert_eq!(verdict.is_open(), open, "{now} {api}: {}", verdict.message);
    }
}

/// I4, I7.
#[test]
fn an_alert_in_the_middle_of_the_window_leaves_everything_as_it_was() {
    for hours in [0, 1, 50, 71] {
        let mut world = held();
        wait_until(&mut world, hours);
        let begun: Time = world.now();
        for _ in 0..4 {
            look(&mut world, Some("SiteDown"));
            world.time += 5;
        }
        assert_eq!(world.state(), RequestState::Cancelled, "after {hours} h");
        assert!(world.now().seconds_since(begun) <= 30);
        assert_eq!(reason_of(&world, ConditionType::Succeeded), "CancelledByAlert");
        assert!(world.deletes.is_empty() && world.is_untouched("a") && world.is_untouched("b"));
    }
}
