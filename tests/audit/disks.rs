//! I6 of disks: what the operator may change in a volume that is kept, by the log.

use chrono::{DateTime, Utc};
use reprieve::sandbox::AuditRecord;
use serde_json::Value;

use super::{Log, OPERATOR, all, before, histories, text, time};

const KEPT: &str = "reprieve.dev/kept";

/// Whether a volume bears the label, and no disk goes with it.
fn is_kept(volume: &Value) -> bool {
    volume["metadata"]["labels"][KEPT].is_string()
        && volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
}

/// What is wrong with the writes by which kept disks stopped to be kept: each must be the release of
/// what was not purged, or have been announced for an earlier time, with no backup left.
pub fn check(log: &Log<'_>) -> Vec<String> {
    let volumes = histories(log.records, "persistentvolumes", "/metadata/uid");
    let mut wrong = vec![];
    for record in log.records.iter().filter(|r| r.resource == "persistentvolumes") {
        let uid = text(&record.response["metadata"]["uid"]);
        let was = volumes.get(uid).and_then(|history| before(history, record.time));
        let Some(was) = was.filter(|was| is_kept(was)) else { continue };
        if !record.is_write() || !record.is_carried_out() || is_kept(&record.response) {
            continue;
        }
        let name = text(&was["metadata"]["name"]);
        if record.user.name != OPERATOR {
            wrong.push(format!("I6: {} ended that {name} is kept", record.user.name));
            continue;
        }
        let former = text(&was["metadata"]["annotations"]["reprieve.dev/former"]);
        let former: Value = serde_json::from_str(former).unwrap_or_default();
        if all(&former["requests"]).count() == 0 {
            wrong
                .push(format!("I6: {name} is not kept any more, and nobody knows for what it was"));
        }
        let site = text(&was["metadata"]["labels"][KEPT]);
        for request in all(&former["requests"]).map(text) {
            let why = by_request(log, record, request, site, &former);
            wrong.extend(why.map(|why| format!("I6: {name} is not kept any more, {why}")));
        }
    }
    wrong
}

fn by_request(
    log: &Log<'_>,
    record: &AuditRecord,
    uid: &str,
    site: &str,
    former: &Value,
) -> Option<String> {
    let at = record.time;
    let Some(request) = log.requests.get(uid).and_then(|history| before(history, at)) else {
        return Some(format!("and of its request {uid} nothing is known"));
    };
    let status = &request["status"];
    let of_site = |entity: &&Value| {
        let inside = text(&entity["site"]["name"]);
        text(&entity["name"]) == site && inside.is_empty() || inside == site
    };
    let purged = all(&status["plan"]["entities"]).filter(of_site).any(|e| e["phase"] == "Purged");
    if !purged {
        let ends =
            all(&status["conditions"]).any(|c| c["type"] == "Succeeded" && c["status"] == "False");
        return (!ends).then(|| format!("while its request was {}", status["state"]));
    }
    match time(&former["releaseTime"]) {
        Some(announced) if announced <= at => {}
        announced => return Some(format!("at {at}, and announced for {announced:?}")),
    }
    let left = log.backups.iter().find(|(name, history)| {
        let ours =
            |live: &Value| text(&live["metadata"]["labels"]["reprieve.dev/request-uid"]) == uid;
        before(history, at).is_some_and(ours) && !is_deleted(log.records, name, at)
    });
    left.map(|(name, _)| format!("and its backup {name} had not expired"))
}

fn is_deleted(records: &[AuditRecord], backup: &str, at: DateTime<Utc>) -> bool {
    records.iter().any(|r| {
        r.is_delete()
            && r.is_carried_out()
            && r.resource == "backups"
            && r.name == backup
            && r.time < at
    })
}
