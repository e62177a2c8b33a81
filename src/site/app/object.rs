//! What a live object tells of itself: whose it is, whether somebody has changed what the App owns
//! of it, and who. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::{Value, json};

use crate::api::{AppliedObject, Time, names};
use crate::cluster::form::{archived_form, digest_of};

/// Differing fields that are named.
const NAMED: usize = 5;

/// What is remembered of a live object that carries an App's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The App that its label names.
    pub app: String,
    /// UID.
    pub uid: String,
    /// resourceVersion, as a number.
    pub version: u64,
    /// Digest of the fields that the App owns.
    pub fields: String,
    /// What the object waits for to become ready.
    pub waiting_for: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Seen {
    /// What is seen of an object of this metadata.
    pub fn of(metadata: &ObjectMeta, waiting_for: Option<String>) -> Self {
        Self {
            app: label(metadata).unwrap_or_default().to_owned(),
            uid: metadata.uid.clone().unwrap_or_default(),
            version: version(metadata),
            fields: fields(metadata),
            waiting_for,
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

/// The resourceVersion as a number; 0 where it is none.
pub fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn label(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref()?.get(names::LABEL_APP).map(String::as_str)
}

fn entries(metadata: &ObjectMeta) -> impl Iterator<Item = &ManagedFieldsEntry> {
    metadata.managed_fields.iter().flatten()
}

fn is_apps(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(names::APP_MANAGER) && entry.subresource.is_none()
}

/// Digest of what the App owns of an object. Whoever changes or removes one of these fields takes
/// it out of the entry; whoever adds others, or writes the status, does not.
fn fields(metadata: &ObjectMeta) -> String {
    let own: Vec<Value> = entries(metadata)
        .filter(|entry| is_apps(entry))
        .map(|entry| json!([entry.operation, entry.time, entry.fields_v1]))
        .collect();
    short_digest(&json!(own))
}

/// The first 16 digits of the digest of this.
pub fn short_digest(value: &Value) -> String {
    digest_of(value.to_string().as_bytes()).chars().skip("sha256:".len()).take(16).collect()
}

/// Who has written the object last, the App and status writers aside.
pub fn last_writer(metadata: &ObjectMeta) -> Option<String> {
    entries(metadata)
        .filter(|entry| {
            entry.manager.as_deref() != Some(names::APP_MANAGER)
                && entry.subresource.as_deref() != Some("status")
        })
        .max_by_key(|entry| entry.time.as_ref().map(Time::from))
        .and_then(|entry| entry.manager.clone())
}

/// Whose a live object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The App's.
    Own,
    /// Somebody else's: whose, and what to do.
    Foreign(String),
    /// On its way out.
    Going,
}

/// Whether this live object is the App's: by the UID that was recorded when it was applied; by the
/// App's label, where the operator put it (it was applied and the record was lost, or it was
/// restored); or by the object's own consent. A label that somebody else put does not make it so.
pub fn standing(metadata: &ObjectMeta, app: &str, record: Option<&AppliedObject>) -> Standing {
    if metadata.deletion_timestamp.is_some() {
        return Standing::Going;
    }
    let consent = metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_ADOPT));
    let ours = |manager: &str| manager == names::APP_MANAGER || manager == names::FIELD_MANAGER;
    let by_us = entries(metadata).any(|e| e.manager.as_deref().is_some_and(ours));
    match label(metadata) {
        Some(other) if other != app => {
            return Standing::Foreign(format!("it is App {other}'s: give it another name"));
        }
        Some(_) if by_us => return Standing::Own,
        _ => {}
    }
    let known = record.is_some_and(|record| Some(&record.uid) == metadata.uid.as_ref());
    if known || consent.is_some_and(|name| name == app) {
        return Standing::Own;
    }
    let who = last_writer(metadata).unwrap_or_else(|| "somebody".to_owned());
    Standing::Foreign(format!(
        "it lives and was made by {who}, not by this App: give it another name, or let the App take it over by its annotation {}: {app}",
        names::ANNOTATION_ADOPT
    ))
}

/// The field managers with what was created by the App counted as applied by it, so that a field
/// that leaves the manifest leaves the object. None: it is so already.
pub fn as_applied(metadata: &ObjectMeta) -> Option<Vec<ManagedFieldsEntry>> {
    let mut all = metadata.managed_fields.clone()?;
    let applied = all.iter().any(|e| is_apps(e) && e.operation.as_deref() == Some("Apply"));
    let created =
        all.iter_mut().find(|e| is_apps(e) && e.operation.as_deref() == Some("Update"))?;
    created.operation = Some("Apply".to_owned());
    if applied {
        all.retain(|e| !(is_apps(e) && e.operation.as_deref() == Some("Update")));
    }
    Some(all)
}

/// The fields in which two states of an object differ, in words; none when they are equal.
pub fn differing(before: Value, after: Value) -> Option<String> {
    let (before, after) = (archived_form(before), archived_form(after));
    let mut found = vec![];
    walk(&before, &after, &mut vec![], &mut found);
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!found.is_empty()).then(|| format!("{}{more}", found.join(", ")))
}

/// Lists are one field.
fn walk(before: &Value, after: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    if before == after {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        found.push(path.join("."));
        return;
    };
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        path.push(key.clone());
        walk(
            old.get(key).unwrap_or(&Value::Null),
            new.get(key).unwrap_or(&Value::Null),
            path,
            found,
        );
        path.pop();
    }
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
