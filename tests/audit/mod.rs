//! The invariants I1 to I6 and I9, checked on the API server's audit log alone: by what people and
//! the operator really wrote, in their order, and not by what the operator says of itself or by any
//! of its code. Of every DELETE by the operator it asks: which request had planned this very UID,
//! and what had been written of that request by then?
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use reprieve::sandbox::{AuditRecord, Sandbox};
use serde_json::Value;

mod disks;
#[cfg(test)]
mod tests;

const OPERATOR: &str = "system:serviceaccount:reprieve-system:reprieve";
const NAMESPACE_CONTROLLER: &str = "system:serviceaccount:kube-system:namespace-controller";
const APPROVAL: &str = "approval.reprieve.dev/";

/// Panics unless everything that was deleted in this cluster was deleted as it must be. Gives how
/// many entities were purged.
pub fn expect_invariants(sandbox: &Sandbox) -> usize {
    expect_invariants_but(sandbox, &[])
}

/// The same in a test that has taken the guard away, and has the administrator delete each of these,
/// as `resource/namespace/name`. What is named and was not deleted by them is wrong as well.
pub fn expect_invariants_but(sandbox: &Sandbox, by_admin: &[&str]) -> usize {
    let records = sandbox.audit().read().expect("the audit log");
    let mut found = check(&records);
    for what in by_admin {
        let (all, why) = (found.broken.len(), format!("I9: admin deleted {what}"));
        found.broken.retain(|broken| *broken != why);
        assert!(found.broken.len() < all, "by the audit log nobody deleted {what}");
    }
    assert!(found.broken.is_empty(), "by the audit log: {:#?}", found.broken);
    let Found { deletes, purged, .. } = found;
    eprintln!("         audit log: {deletes} deletes, {purged} entities purged, I1 to I6 hold");
    purged
}

/// What the log shows.
#[derive(Debug, Default)]
pub struct Found {
    /// Each breach of an invariant, in words.
    pub broken: Vec<String>,
    /// Deletes by the operator that a request must account for.
    pub deletes: usize,
    /// Entities that were begun with.
    pub purged: usize,
}

/// An object as it was left by each write, by the API server's own answers.
type History<'a> = BTreeMap<String, Vec<(DateTime<Utc>, &'a Value)>>;

/// Everything that the log has of what matters.
struct Log<'a> {
    records: &'a [AuditRecord],
    /// DeletionRequests, by UID.
    requests: History<'a>,
    /// Backups, by name.
    backups: History<'a>,
}

/// A deletion that a request must account for.
struct Delete<'a> {
    record: &'a AuditRecord,
    uid: &'a str,
}

/// Checks a whole log.
pub fn check(records: &[AuditRecord]) -> Found {
    let log = Log {
        records,
        requests: histories(records, "deletionrequests", "/metadata/uid"),
        backups: histories(records, "backups", "/metadata/name"),
    };
    let mut found = Found::default();
    let mut begun: BTreeMap<String, (DateTime<Utc>, String)> = BTreeMap::new();
    for record in records.iter().filter(|r| r.is_delete() && r.is_carried_out()) {
        let what = format!("{}/{}/{}", record.resource, record.namespace, record.name);
        if ["persistentvolumes", "volumesnapshotcontents"].contains(&&*record.resource)
            && record.user.name == OPERATOR
        {
            found.broken.push(format!("I6: the operator deleted {what}"));
        }
        if !counts(record) {
            continue;
        }
        if record.user.name != OPERATOR {
            found.broken.push(format!("I9: {} deleted {what}", record.user.name));
            continue;
        }
        found.deletes += 1;
        let uid = record.request["preconditions"]["uid"].as_str().unwrap_or_default();
        let version = &record.request["preconditions"]["resourceVersion"];
        if uid.is_empty() || !version.is_string() {
            found.broken.push(format!("I1: {what} was deleted without UID and resourceVersion"));
        }
        let delete = Delete { record, uid };
        let Some((request, entity)) = log.planned(&delete) else {
            found.broken.push(format!("I1: {what} ({uid}) was in no plan when it was deleted"));
            continue;
        };
        let key = text(&entity["uid"]).to_owned();
        if !begun.contains_key(&key) {
            let kind = text(&entity["kind"]).to_owned();
            let about = format!("{kind} {}", text(&entity["name"]));
            let wrong = log.first_delete(record.time, request, entity, &begun);
            found.broken.extend(wrong.into_iter().map(|why| format!("{why}: {about}")));
            begun.insert(key, (record.time, kind));
        }
    }
    found.purged = begun.len();
    found.broken.extend(disks::check(&log));
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}

fn all(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn histories<'a>(records: &'a [AuditRecord], resource: &str, key: &str) -> History<'a> {
    let mut found = History::new();
    let writes = records.iter().filter(|r| {
        r.resource == resource && r.is_carried_out() && r.is_write() && r.response.is_object()
    });
    for record in writes {
        if let Some(key) = record.response.pointer(key).and_then(Value::as_str) {
            found.entry(key.to_owned()).or_default().push((record.time, &record.response));
        }
    }
    for history in found.values_mut() {
        history.sort_by_key(|(time, _)| *time);
    }
    found
}

/// Whether a deletion is of something that only a request may take: a Site, an App, a Site's
/// namespace, or by the operator anything inside of one. A drill's scratch namespaces are its own.
fn counts(record: &AuditRecord) -> bool {
    let labels = &record.response["metadata"]["labels"];
    // It empties a namespace whose own deletion was judged.
    if record.user.name == NAMESPACE_CONTROLLER && record.verb == "deletecollection" {
        return false;
    }
    match (record.group.as_str(), record.resource.as_str()) {
        ("reprieve.dev", "sites" | "apps") => true,
        ("reprieve.dev", _) => false,
        ("", "namespaces") => labels["reprieve.dev/site"].is_string(),
        _ => record.user.name == OPERATOR && record.impersonated.is_some(),
    }
}

/// The last state before that time.
fn before<'a>(history: &[(DateTime<Utc>, &'a Value)], at: DateTime<Utc>) -> Option<&'a Value> {
    history.iter().rev().find(|(time, _)| *time < at).map(|(_, live)| *live)
}

impl<'a> Log<'a> {
    /// The request that had planned what is deleted, as it was then, and the entity of its plan.
    fn planned(&self, delete: &Delete<'_>) -> Option<(&'a Value, &'a Value)> {
        let Delete { record, uid } = delete;
        let states = self.requests.values().filter_map(|of| before(of, record.time));
        let purging = states.filter(|live| live["status"]["state"] == "Purging");
        let mut entities = purging.flat_map(|live| {
            all(&live["status"]["plan"]["entities"]).map(move |entity| (live, entity))
        });
        let of = |list: &Value| all(list).any(|part| text(&part["uid"]) == *uid);
        let inside = |entity: &Value| {
            // Objects of an App are not in the plan one by one.
            let here = all(&entity["namespaces"]).any(|n| text(&n["name"]) == record.namespace);
            record.impersonated.is_some() && entity["phase"] == "Purging" && here
        };
        entities.find(|(_, entity)| {
            text(&entity["uid"]) == *uid
                || of(&entity["apps"])
                || entity["kind"] == "Site" && of(&entity["namespaces"])
                || inside(entity)
        })
    }

    /// What is wrong with the first DELETE of an entity, by what was written before it.
    fn first_delete(
        &self,
        at: DateTime<Utc>,
        request: &Value,
        entity: &Value,
        begun: &BTreeMap<String, (DateTime<Utc>, String)>,
    ) -> Vec<String> {
        let status = &request["status"];
        let head = &status["plan"]["head"];
        let mut wrong = self.quorum(at, request);
        // I3.
        let (start, end) =
            (time(&status["retention"]["startTime"]), time(&status["retention"]["endTime"]));
        let window = head["retentionSeconds"].as_i64().unwrap_or(i64::MAX);
        match start.zip(end) {
            Some((start, end)) if at >= end && (end - start).num_seconds() >= window => {}
            _ => wrong
                .push(format!("I3: at {at} the window had not passed: {}", status["retention"])),
        }
        // I4.
        let alerts = all(&status["conditions"]).find(|c| c["type"] == "AlertsClear");
        let clear = alerts.is_some_and(|c| c["status"] == "True");
        let has_source = !head["policy"]["alerts"].is_null();
        if !clear || (!has_source && head["policy"]["environment"] != "Development") {
            wrong.push(format!("I4: the alerts were not clear: {alerts:?}"));
        }
        wrong.extend(limits(at, request, entity, begun));
        wrong.extend(self.backup(at, request, entity));
        wrong
    }

    /// I2: enough people approved that digest, each with a write of their own.
    fn quorum(&self, at: DateTime<Utc>, request: &Value) -> Vec<String> {
        let status = &request["status"];
        let digest = text(&status["plan"]["digest"]);
        let name = text(&request["metadata"]["name"]);
        let requester = text(&request["metadata"]["annotations"]["reprieve.dev/requested-by"]);
        let (mut people, mut wrong) = (BTreeSet::new(), vec![]);
        for approval in all(&status["approvals"]) {
            let user = text(&approval["user"]);
            if text(&approval["digest"]) != digest {
                continue;
            }
            let by_themselves = self.records.iter().any(|r| {
                let annotations = r.request["metadata"]["annotations"].as_object();
                let says = |(key, value): (&String, &Value)| {
                    key.starts_with(APPROVAL) && text(value) == format!("{digest} {user}")
                };
                r.resource == "deletionrequests"
                    && r.is_write()
                    && r.is_carried_out()
                    && r.name == name
                    && r.time < at
                    && r.user.name == user
                    && r.impersonated.is_none()
                    && annotations.into_iter().flatten().any(says)
            });
            if !by_themselves {
                wrong.push(format!("I2: {user} has not written that they approve {digest}"));
            }
            if user == requester || user.starts_with("system:") {
                wrong.push(format!("I2: {user} cannot approve what {requester} asked for"));
            }
            people.insert(user);
        }
        let policy = &status["plan"]["head"]["policy"]["quorum"];
        let least = policy["approvals"].as_u64().unwrap_or(u64::MAX);
        let required = status["approvalsRequired"].as_u64().unwrap_or(u64::MAX);
        if (people.len() as u64) < required.max(least) {
            wrong.push(format!("I2: approved by {people:?}, and {required} were required"));
        }
        wrong
    }

    /// I6: a backup of this very site was verified, and is kept for as long as it must be.
    fn backup(&self, at: DateTime<Utc>, request: &Value, entity: &Value) -> Vec<String> {
        let name = text(&entity["backup"]["name"]);
        let Some(backup) = self.backups.get(name).and_then(|of| before(of, at)) else {
            return vec![format!("I6: it had no backup: {}", entity["backup"])];
        };
        let mut wrong = vec![];
        let verified = all(&backup["status"]["conditions"])
            .any(|c| c["type"] == "Verified" && c["status"] == "True");
        if !verified {
            wrong.push(format!("I6: its backup {name} was not verified"));
        }
        let site = match text(&entity["kind"]) {
            "Site" => text(&entity["uid"]),
            _ => text(&entity["site"]["uid"]),
        };
        if text(&backup["spec"]["siteRef"]["uid"]) != site {
            wrong.push(format!("I6: its backup {name} is of {}", backup["spec"]["siteRef"]));
        }
        let keep = request["status"]["plan"]["head"]["policy"]["backup"]["keepSeconds"].as_i64();
        let until = time(&backup["spec"]["keepUntilTime"]);
        let must = keep.map(|keep| at + TimeDelta::seconds(keep));
        if until.is_none() || must.is_none() || until < must {
            wrong.push(format!("I6: its backup {name} is kept until {until:?} only, not {must:?}"));
        }
        wrong
    }
}

/// I5: no more than the request may take, and no more than all requests together.
fn limits(
    at: DateTime<Utc>,
    request: &Value,
    entity: &Value,
    begun: &BTreeMap<String, (DateTime<Utc>, String)>,
) -> Vec<String> {
    let head = &request["status"]["plan"]["head"];
    let own = all(&request["status"]["plan"]["entities"]).count();
    let most = head["maxEntities"].as_u64().unwrap_or(0);
    let hard = head["policy"]["blastRadius"]["hardMaxEntities"].as_u64().unwrap_or(0);
    let mut wrong = vec![];
    if own as u64 > most.min(hard) {
        wrong.push(format!(
            "I5: the request has {own} entities, and may have {most}, at most {hard}"
        ));
    }
    let rolling = &head["policy"]["blastRadius"]["rolling"];
    let seconds = rolling["windowSeconds"].as_i64().unwrap_or(0);
    let kind = text(&entity["kind"]);
    let since = at - TimeDelta::seconds(seconds);
    let lately = begun.values().filter(|(time, of)| *time > since && of == kind).count() as u64 + 1;
    let rolling = rolling["maxEntities"].as_u64().unwrap_or(0);
    if lately > rolling {
        wrong.push(format!("I5: {lately} within {seconds} s, and {rolling} may be"));
    }
    wrong
}
