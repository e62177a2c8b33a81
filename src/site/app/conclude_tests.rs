//! Table tests of what is said of an App.

use serde_json::json;

use super::super::decide::plan;
use super::super::decide::tests::{config, facts};
use super::*;

fn at(seconds: i64) -> Time {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap().into()
}

fn object(name: &str) -> AppliedObject {
    AppliedObject {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        ..Default::default()
    }
}

fn done(name: &str, waiting_for: Option<&str>) -> Applied {
    let object = AppliedObject { waiting_for: waiting_for.map(str::to_owned), ..object(name) };
    Applied::Done { object, put_back: None }
}

fn failed(index: i64, name: &str, reason: Reason) -> Applied {
    Applied::Failed(ManifestFailure {
        index,
        kind: "ConfigMap".into(),
        name: name.into(),
        reason: reason.to_string(),
        message: format!("{name}: no"),
    })
}

#[test]
fn ready_follows_the_objects() {
    let facts = facts(json!([config("a"), config("b")]));
    let plan = plan(&facts);
    let left_alone = Applied::LeftAlone {
        object: object("b"),
        until: at(300),
        what: "data changed by hpa".into(),
    };
    let cases = [
        (vec![done("a", None), done("b", None)], "Ready", "2 objects applied and ready"),
        (
            vec![done("a", None), done("b", Some("1 of 2 replicas"))],
            "ObjectsNotReady",
            "1 of 2 objects not ready; ConfigMap b: 1 of 2 replicas",
        ),
        (
            vec![failed(0, "a", Reason::NotOwned), failed(1, "b", Reason::ApplyFailed)],
            "NotOwned",
            "2 of 2 objects not applied; manifests[0]: a: no; manifests[1]: b: no",
        ),
        (vec![done("a", None), left_alone], "FieldContested", "data changed by hpa, 5 times"),
    ];
    for (applied, reason, words) in cases {
        let decision = conclude(&facts, &plan, &applied, at(0));
        let condition = decision.status.conditions.get(ConditionType::Ready).unwrap();
        assert_eq!(condition.reason, reason);
        assert_eq!(condition.status == ConditionStatus::True, reason == "Ready");
        assert!(condition.message.contains(words), "{}", condition.message);
        // Said again, it is no news.
        let mut again = facts.clone();
        again.app.status = Some(decision.status.clone());
        let second = conclude(&again, &plan, &applied, at(99));
        assert_eq!(second.status, decision.status);
        assert_eq!(second.notes, []);
    }
}

#[test]
fn an_object_that_could_not_be_applied_is_still_the_apps() {
    let before = [object("a"), object("b"), object("c")];
    let applied =
        [done("a", None), failed(1, "b", Reason::ApplyFailed), failed(2, "c", Reason::NotOwned)];
    let names: Vec<String> =
        record(&before, &applied, &[], &[]).into_iter().map(|o| o.name).collect();
    assert_eq!(names, ["a", "b"], "what somebody else made in the place of c is not");
}

#[test]
fn what_was_put_back_and_what_left_is_told() {
    let mut facts = facts(json!([config("a")]));
    facts.app.status = Some(AppStatus { objects: vec![object("b")], ..Default::default() });
    facts.complete.clear();
    let plan = plan(&facts);
    let applied =
        [Applied::Done { object: object("a"), put_back: Some("data changed by kubectl".into()) }];
    let decision = conclude(&facts, &plan, &applied, at(0));
    let told: Vec<(Reason, &str)> =
        decision.notes.iter().map(|n| (n.reason, n.note.as_str())).collect();
    assert_eq!(told[0].0, Reason::DriftCorrected, "{told:?}");
    assert!(told[0].1.contains("ConfigMap a: data changed by kubectl"), "{told:?}");
    assert_eq!(told[1].0, Reason::Orphaned, "{told:?}");
    assert!(told[1].1.contains("ConfigMap b"), "{told:?}");
    let condition = decision.status.conditions.get(ConditionType::Ready).unwrap();
    assert!(condition.message.ends_with("left spec.manifests and stay: ConfigMap b"));
}

#[test]
fn the_status_stays_small() {
    let facts = facts(json!([config("a")]));
    let failures: Vec<Applied> = (0..500).map(|i| failed(i, "x", Reason::ApplyFailed)).collect();
    let decision = conclude(&facts, &plan(&facts), &failures, at(0));
    assert_eq!(decision.status.failures.len(), 50);
    let condition = decision.status.conditions.get(ConditionType::Ready).unwrap();
    assert!(condition.message.contains("500 of 500"), "{}", condition.message);
    assert!(condition.message.ends_with("and 497 more"), "{}", condition.message);
}
