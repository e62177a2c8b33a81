//! What the digest covers, and how.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::deletion::fixtures::*;
use crate::deletion::plan::scope;

fn planned(sites: &[&str]) -> (PlanHead, Vec<PlanEntity>) {
    let gated = Gated::new(sites);
    (gated.head, gated.plan.entities)
}

fn sha(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The canonical form as the documents have it, by hand: a script must be able to do the same.
#[test]
fn a_script_can_compute_it_again() {
    let (mut head, entities) = planned(&["b", "a"]);
    head.policy_uid = None;
    let policy = concat!(
        r#"{"backup":{"drillBeforePurge":false,"keepSeconds":2592000},"blastRadius":{"hardMaxEntities":100,"maxEntities":10,"#,
        r#""rolling":{"maxEntities":1000,"maxPercent":100,"windowSeconds":86400}},"#,
        r#""environment":"Development","quarantine":"ScaleDown","quorum":{"approvals":2,"expiresAfterSeconds":86400,"#,
        r#""overrideApprovals":3},"retention":{"defaultSeconds":60,"maximumSeconds":1000,"minimumSeconds":10},"#,
        r#""waves":{"first":1,"maxPercent":10,"pauseSeconds":60}}"#
    );
    let head_line = format!(
        r#"{{"guard":"g1","maxEntities":10,"policy":{policy},"policyName":"default","requestUid":"ru","requestedBy":"rita","retentionSeconds":60}}"#
    );
    let line = |name: &str| {
        format!(
            r#"{{"apps":[{{"id":"app-{name}-wiki","name":"wiki","namespace":"{name}","uid":"au-{name}-wiki"}}],"id":"site-{name}","kind":"Site","name":"{name}","namespaces":[{{"name":"{name}","uid":"nu-{name}"}}],"tenant":"Tenant {name}","uid":"su-{name}"}}"#
        )
    };
    let prefixed = |line: &str| format!("sha256:{}", sha(line));
    let mut leaves = [prefixed(&line("a")), prefixed(&line("b"))];
    leaves.sort();
    let text = format!("{}\n{}\n{}\n", prefixed(&head_line), leaves[0], leaves[1]);
    assert_eq!(digest(&head, &entities), prefixed(&text));
}

#[test]
fn what_changes_by_itself_is_not_in_it() {
    let (head, mut entities) = planned(&["a", "b"]);
    let before = digest(&head, &entities);
    entities.reverse();
    for entity in &mut entities {
        entity.objects += 7;
        entity.bytes += 1000;
        entity.claims += 1;
        entity.unprotected += 1;
        entity.disks.clear();
        entity.runs_on = vec!["DaemonSet/a/agent".into()];
        entity.scratch = vec!["Deployment/a/web".into()];
        entity.wave = Some(1);
        entity.phase = crate::api::EntityPhase::Held;
        entity.purged_time = Some(at(5));
        entity.backup = Some(crate::api::PlanBackup {
            name: "b".into(),
            location: "l".into(),
            digest: "d".into(),
            objects: 1,
            keep_until_time: None,
        });
    }
    assert_eq!(digest(&head, &entities), before);
}

#[test]
fn the_order_in_which_things_are_read_is_not_in_it() {
    let mut facts = facts(&["a"]);
    let site = facts.sites.get_mut("a").unwrap();
    site.site.spec.namespaces = Some(vec!["a".into(), "a-jobs".into()]);
    site.namespaces.push(namespace("a", "a-jobs"));
    site.apps.push(app("a-jobs", "mail"));
    site.apps.push(app("a", "chat"));
    let before = scope(&facts).unwrap().entities;
    let site = facts.sites.get_mut("a").unwrap();
    site.namespaces.reverse();
    site.apps.reverse();
    assert_eq!(scope(&facts).unwrap().entities, before);
}

/// Every leaf of a JSON document, as a pointer.
fn pointers(value: &Value, path: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(k, v)| pointers(v, &format!("{path}/{k}"), all));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{path}/{i}"), all));
        }
        _ => all.push(path.to_owned()),
    }
}

fn other_value(pointer: &str, value: &Value) -> Value {
    match value {
        Value::Bool(b) => json!(!b),
        Value::Number(n) => json!(n.as_i64().unwrap() + 1),
        Value::String(s) if pointer.ends_with("/environment") && s == "Development" => {
            json!("Production")
        }
        Value::String(s) if s == "ScaleDown" => json!("None"),
        Value::String(s) if pointer.ends_with("/kind") && s == "Site" => json!("App"),
        Value::String(s) => json!(format!("{s}x")),
        other => panic!("{pointer} is {other}"),
    }
}

/// Destructive: each single field of head and leaf is changed in turn.
#[test]
fn each_field_of_the_plan_is_covered() {
    let (mut head, entities) = planned(&["a"]);
    head.expected_alerts = vec!["SiteDown".into()];
    head.round = Some(1);
    head.policy.alerts = Some(alerts(json!({
        "alertmanager": { "secretRef": { "name": "token" } }, "matchers": ["a=b"],
    })));
    let before = digest(&head, &entities);

    let whole = json!(head);
    let mut fields = vec![];
    pointers(&whole, "", &mut fields);
    assert_eq!(fields.len(), 33, "{fields:?}");
    for field in fields {
        let mut changed = whole.clone();
        let value = changed.pointer_mut(&field).unwrap();
        *value = other_value(&field, value);
        let head: PlanHead = serde_json::from_value(changed).unwrap();
        assert_ne!(digest(&head, &entities), before, "{field} of the head is not covered");
    }

    let whole = json!(entities[0]);
    let mut fields = vec![];
    pointers(&whole, "", &mut fields);
    let uncovered =
        ["/objects", "/bytes", "/claims", "/unprotected", "/disks", "/phase", "/wave", "/priority"];
    fields.retain(|f| !uncovered.iter().any(|u| f.starts_with(u)));
    assert_eq!(fields.len(), 11, "{fields:?}");
    for field in fields {
        let mut changed = whole.clone();
        let value = changed.pointer_mut(&field).unwrap();
        *value = other_value(&field, value);
        let entity: PlanEntity = serde_json::from_value(changed).unwrap();
        assert_ne!(digest(&head, &[entity]), before, "{field} of an entity is not covered");
    }
}

#[test]
fn more_and_fewer_are_covered() {
    let (head, entities) = planned(&["a", "b"]);
    let all = digest(&head, &entities);
    assert_ne!(digest(&head, &entities[..1]), all);
    assert_ne!(digest(&head, &[]), all);
    let twice = [&entities[..], &entities[..1]].concat();
    assert_ne!(digest(&head, &twice), all);
    let mut fewer = entities.clone();
    fewer[0].apps.clear();
    assert_ne!(digest(&head, &fewer), all);
    fewer = entities.clone();
    fewer[0].namespaces.clear();
    assert_ne!(digest(&head, &fewer), all);
}
