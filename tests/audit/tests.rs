//! The checker seen red: a log of a deletion that is as it must be, and the same log with one thing
//! changed.

use reprieve::sandbox::AuditRecord;
use serde_json::{Value, json};

use super::{OPERATOR, check};

/// One line of a log, so many seconds after noon.
fn line(
    at: i64,
    user: &str,
    verb: &str,
    of: (&str, &str),
    request: Value,
    response: Value,
) -> Value {
    let (resource, name) = of;
    let ours = ["sites", "backups", "deletionrequests"].contains(&resource);
    let time = format!("2026-11-23T12:{:02}:{:02}Z", at / 60, at % 60);
    json!({
        "auditID": format!("{at}"), "stage": "ResponseComplete", "verb": verb,
        "requestURI": format!("/{resource}/{name}"), "requestReceivedTimestamp": time,
        "user": {"username": user},
        "objectRef": {"resource": resource, "name": name, "apiGroup": if ours { "reprieve.dev" } else { "" }},
        "responseStatus": {"code": 200}, "requestObject": request, "responseObject": response,
    })
}

/// Alice's request, in the purge of one Site.
fn request() -> Value {
    let approval = |user: &str| json!({"user": user, "digest": "sha256:d"});
    json!({
        "metadata": {"uid": "ru", "name": "r", "annotations": {"reprieve.dev/requested-by": "alice"}},
        "status": {
            "state": "Purging", "approvalsRequired": 2, "approvals": [approval("bob"), approval("carol")],
            "retention": {"startTime": "2026-11-23T12:01:00Z", "endTime": "2026-11-23T12:02:00Z"},
            "conditions": [{"type": "AlertsClear", "status": "True"}],
            "plan": {
                "digest": "sha256:d",
                "head": {"retentionSeconds": 60, "maxEntities": 10, "policy": {
                    "environment": "Production", "alerts": {}, "quorum": {"approvals": 2},
                    "backup": {"keepSeconds": 60},
                    "blastRadius": {"hardMaxEntities": 100, "rolling": {"windowSeconds": 600, "maxEntities": 5}},
                }},
                "entities": [{
                    "kind": "Site", "name": "acme", "uid": "su", "namespaces": [{"name": "acme", "uid": "nu"}],
                    "apps": [], "backup": {"name": "b"},
                }],
            },
        },
    })
}

fn backup() -> Value {
    json!({
        "metadata": {"name": "b"},
        "spec": {"siteRef": {"uid": "su"}, "keepUntilTime": "2026-11-23T12:10:00Z"},
        "status": {"conditions": [{"type": "Verified", "status": "True"}]},
    })
}

/// A deletion as it must be.
fn log() -> Vec<Value> {
    let approve = |at, user: &str| {
        let key = format!("approval.reprieve.dev/{user}");
        let annotations = json!({ (key): format!("sha256:d {user}") });
        let patch = json!({"metadata": {"annotations": annotations}});
        line(at, user, "patch", ("deletionrequests", "r"), patch, json!(null))
    };
    let delete = |at, of: (&str, &str), uid: &str, labels: Value| {
        let options = json!({"preconditions": {"uid": uid, "resourceVersion": "7"}});
        line(at, OPERATOR, "delete", of, options, json!({"metadata": {"labels": labels}}))
    };
    vec![
        approve(10, "bob"),
        approve(11, "carol"),
        line(20, OPERATOR, "patch", ("backups", "b"), json!({}), backup()),
        line(121, OPERATOR, "patch", ("deletionrequests", "r"), json!({}), request()),
        delete(122, ("namespaces", "acme"), "nu", json!({"reprieve.dev/site": "acme"})),
        delete(123, ("sites", "acme"), "su", json!({})),
    ]
}

/// A kept disk of that deletion that gets its policy back when all is over.
fn log_of_a_disk() -> Vec<Value> {
    let volume = |policy: &str, record: Value, label: Value| {
        json!({
            "metadata": {"name": "disk", "uid": "vu", "labels": {"reprieve.dev/kept": label},
                "annotations": {"reprieve.dev/former": record.to_string()}},
            "spec": {"persistentVolumeReclaimPolicy": policy},
        })
    };
    let record = json!({"uid": "vu", "requests": ["ru"], "reclaimPolicy": "Delete"});
    let mut announced = record.clone();
    announced["releaseTime"] = json!("2026-11-23T12:05:00Z");
    let mut ended = request();
    ended["status"]["state"] = json!("Completed");
    ended["status"]["plan"]["entities"][0]["phase"] = json!("Purged");
    let mut of_request = backup();
    of_request["metadata"]["labels"] = json!({"reprieve.dev/request-uid": "ru"});
    let of = ("persistentvolumes", "disk");
    let mut all = log();
    all[2]["responseObject"] = of_request;
    all.extend([
        line(124, OPERATOR, "patch", of, json!({}), volume("Retain", record, json!("acme"))),
        line(125, OPERATOR, "patch", ("deletionrequests", "r"), json!({}), ended),
        line(126, OPERATOR, "delete", ("backups", "b"), json!({}), json!({})),
        line(127, OPERATOR, "patch", of, json!({}), volume("Retain", announced, json!("acme"))),
        line(310, OPERATOR, "patch", of, json!({}), volume("Delete", json!(null), json!(null))),
    ]);
    all
}

#[test]
fn a_disk_is_given_back_as_announced_when_its_backup_has_expired() {
    assert_eq!(broken(&log_of_a_disk()), [""; 0]);
    // Of what was not purged it is a release.
    let mut released = log_of_a_disk();
    let status = &mut released[7]["responseObject"]["status"];
    status["plan"]["entities"][0]["phase"] = json!("Held");
    status["conditions"] = json!([{"type": "Succeeded", "status": "False"}]);
    released.drain(8..10);
    assert_eq!(broken(&released), [""; 0]);
    type Change = fn(&mut Vec<Value>);
    let table: &[Change] = &[
        |log| drop(log.remove(9)),
        |log| log[10]["requestReceivedTimestamp"] = json!("2026-11-23T12:04:59Z"),
        |log| drop(log.remove(8)),
        |log| drop(log.remove(7)),
        |log| log[10]["user"]["username"] = json!("mallory"),
        |log| {
            log[7]["responseObject"]["status"]["plan"]["entities"][0]["phase"] = json!("Held");
        },
        |log| {
            let other = json!({"uid": "vu", "requests": ["unknown"]}).to_string();
            log[9]["responseObject"]["metadata"]["annotations"]["reprieve.dev/former"] =
                json!(other);
        },
        |log| {
            log[9]["responseObject"]["metadata"]["annotations"]["reprieve.dev/former"] = json!("");
        },
    ];
    for (row, change) in table.iter().enumerate() {
        let mut log = log_of_a_disk();
        change(&mut log);
        let broken = broken(&log);
        assert!(broken.iter().any(|why| why.starts_with("I6")), "row {row}: {broken:?}");
    }
}

fn broken(log: &[Value]) -> Vec<String> {
    let records: Vec<AuditRecord> =
        log.iter().map(|line| AuditRecord::parse(&line.to_string()).expect("a line")).collect();
    check(&records).broken
}

#[test]
fn a_log_of_a_deletion_as_it_must_be() {
    assert_eq!(broken(&log()), [""; 0]);
    let records: Vec<AuditRecord> =
        log().iter().map(|line| AuditRecord::parse(&line.to_string()).unwrap()).collect();
    let found = check(&records);
    assert_eq!((found.deletes, found.purged), (2, 1));
}

#[test]
fn each_breach_is_seen() {
    // In the request as it was when the namespace was deleted, in the Backup, or in a line.
    type Change = fn(&mut Vec<Value>);
    let table: &[(&str, Change)] = &[
        ("I1", |log| {
            log[3]["responseObject"]["status"]["plan"]["entities"][0]["uid"] = json!("other")
        }),
        ("I1", |log| log[3]["responseObject"]["status"]["state"] = json!("Held")),
        ("I1", |log| log[5]["requestObject"] = json!({})),
        ("I1", |log| log[5]["requestObject"]["preconditions"]["uid"] = json!("later")),
        ("I2", |log| drop(log.remove(0))),
        ("I2", |log| log[0]["user"]["username"] = json!("mallory")),
        ("I2", |log| log[0]["impersonatedUser"] = json!({"username": "bob"})),
        ("I2", |log| log[0]["requestReceivedTimestamp"] = json!("2026-11-23T12:05:00Z")),
        ("I2", |log| {
            log[3]["responseObject"]["metadata"]["annotations"]["reprieve.dev/requested-by"] =
                json!("bob");
        }),
        ("I2", |log| log[3]["responseObject"]["status"]["approvalsRequired"] = json!(3)),
        ("I2", |log| log[3]["responseObject"]["status"]["plan"]["digest"] = json!("sha256:new")),
        ("I3", |log| log[4]["requestReceivedTimestamp"] = json!("2026-11-23T12:01:59Z")),
        ("I3", |log| {
            log[3]["responseObject"]["status"]["plan"]["head"]["retentionSeconds"] = json!(61)
        }),
        ("I3", |log| log[3]["responseObject"]["status"]["retention"] = json!(null)),
        ("I4", |log| {
            log[3]["responseObject"]["status"]["conditions"][0]["status"] = json!("False")
        }),
        ("I4", |log| {
            let policy = &mut log[3]["responseObject"]["status"]["plan"]["head"]["policy"];
            policy["alerts"] = json!(null);
        }),
        ("I5", |log| log[3]["responseObject"]["status"]["plan"]["head"]["maxEntities"] = json!(0)),
        ("I5", |log| {
            let policy = &mut log[3]["responseObject"]["status"]["plan"]["head"]["policy"];
            policy["blastRadius"]["rolling"]["maxEntities"] = json!(0);
        }),
        ("I6", |log| drop(log.remove(2))),
        ("I6", |log| log[2]["responseObject"]["status"]["conditions"] = json!([])),
        ("I6", |log| {
            log[2]["responseObject"]["spec"]["keepUntilTime"] = json!("2026-11-23T12:03:00Z")
        }),
        ("I6", |log| log[2]["responseObject"]["spec"]["siteRef"]["uid"] = json!("other")),
        ("I6", |log| log[5]["objectRef"]["resource"] = json!("persistentvolumes")),
        ("I9", |log| log[5]["user"]["username"] = json!("mallory")),
    ];
    for (row, (invariant, change)) in table.iter().enumerate() {
        let mut log = log();
        change(&mut log);
        // The time of a request is not later than what is written of it.
        if *invariant == "I3" && row == 11 {
            log[3]["requestReceivedTimestamp"] = json!("2026-11-23T12:01:58Z");
        }
        let broken = broken(&log);
        assert!(broken.iter().any(|why| why.starts_with(invariant)), "row {row}: {broken:?}");
    }
}
