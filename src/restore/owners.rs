//! The second pass over an object: its owners with their new UIDs, and its field owners as they
//! were, in one patch.

use http::Method;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::object::{Live, Made, Maker, later, may_pass};
use super::rewrite;
use crate::api::Reason;
use crate::cluster::discover::Kind;
use crate::cluster::form::ObjectKey;
use crate::cluster::{describe, is_conflict};

/// How often an object is read again because a controller has written into it meanwhile.
const TRIES: usize = 8;

/// What is added to an object once it is there.
#[derive(Default)]
pub struct Added {
    /// Its owner references, with UIDs.
    pub owners: Option<Vec<Value>>,
    /// Its field owners.
    pub fields: Option<Vec<Value>>,
}

impl Maker<'_> {
    /// Adds it, if the object is still the one that was read.
    pub async fn add(&self, kind: &Kind, key: &ObjectKey, live: &Live, added: &Added) -> Made {
        let mut version = live.resource_version.clone();
        let mut fields = added.fields.clone();
        let path = self.path(kind, key);
        for _ in 0..TRIES {
            let mut metadata = json!({ "uid": live.uid, "resourceVersion": version });
            if let Some(owners) = &added.owners {
                metadata["ownerReferences"] = json!(owners);
            }
            if let Some(fields) = &fields {
                metadata["managedFields"] = json!(fields);
            }
            let patch = json!({ "metadata": metadata }).to_string().into_bytes();
            let sent = self.send::<DynamicObject>(Method::PATCH, &path, patch);
            let error = match sent.await {
                Ok(now) => return done(live, &now.metadata, added),
                Err(error) if is_conflict(&error) => error,
                Err(error) if may_pass(&error) => return later(Reason::Progressing, &error),
                Err(error) => {
                    let why = format!("its owners: {}", describe(&error));
                    return Made::Failed(Reason::CreateFailed, why);
                }
            };
            // A controller was faster: what it has written stays its own.
            match self.read(kind, key).await {
                Ok(Some(now)) if now["metadata"]["uid"] == live.uid.as_str() => {
                    let text = now["metadata"]["resourceVersion"].as_str();
                    version = text.unwrap_or_default().to_owned();
                    let all = |archived| rewrite::with_later_writers(archived, &now);
                    fields = added.fields.as_deref().map(all);
                }
                Ok(_) => return later(Reason::Progressing, &error),
                Err(error) => return later(Reason::Progressing, &error),
            }
        }
        let why = format!("{key} changes faster than its owners can be set");
        Made::Later(Reason::Progressing, why)
    }
}

/// What was added. The API server drops field owners that it cannot read without a word.
fn done(live: &Live, now: &ObjectMeta, added: &Added) -> Made {
    let live = Live {
        resource_version: now.resource_version.clone().unwrap_or_default(),
        lacks_owners: live.lacks_owners && added.owners.is_none(),
        lacks_fields: live.lacks_fields && added.fields.is_none(),
        ..live.clone()
    };
    let there = |wanted: &Value| {
        let mut all = now.managed_fields.iter().flatten();
        all.any(|entry| {
            entry.manager.as_deref() == wanted["manager"].as_str()
                && entry.operation.as_deref() == wanted["operation"].as_str()
        })
    };
    let missing: Vec<&str> = added
        .fields
        .iter()
        .flatten()
        .filter(|wanted| !there(wanted))
        .filter_map(|wanted| wanted["manager"].as_str())
        .collect();
    if missing.is_empty() {
        return Made::There(live);
    }
    let why = format!(
        "the API server does not take back that {} owns fields of it: the next server-side apply meets a conflict",
        missing.join(", ")
    );
    Made::Differently(live, Reason::FieldOwnersLost, why)
}
