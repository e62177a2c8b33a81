//! What is written for an App: its objects, as the App's own account.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::core::Status;
use serde_json::{Value, json};

use super::Room;
use super::conclude::Applied;
use super::decide::{Steps, Todo};
use super::manifest::ToApply;
use super::object::{Standing, as_applied, differing, last_writer, standing};
use super::observe::Facts;
use crate::api::{AppliedObject, Reason, names};
use crate::cluster::account::{HOW_TO_GIVE, lacks_right, request_as};
use crate::cluster::discover::Kind;
use crate::cluster::{During, Error, Result, is_conflict, is_not_found};
use crate::site::rows::Account;

/// Objects of one App in flight at a time.
const IN_FLIGHT: usize = 8;
/// How often a right that was just given is waited for, and how long each time.
const RIGHTS: usize = 10;
const RIGHTS_WAIT: Duration = Duration::from_millis(200);
/// How long ago it was given at most, in seconds.
const RIGHTS_NEW: i64 = 10;
/// Characters of an API server's message that are kept: there may be many of them.
const MESSAGE: usize = 400;

/// How a request ended that says something about its object.
enum Sent {
    Done(Box<DynamicObject>),
    /// One of that name is there already, or it has just changed.
    Conflict(String),
    Refused(Reason, String),
}

/// Carries the steps out and tells what became of each object. An object that the API server
/// refuses does not stop the others.
///
/// # Errors
/// A request that got no answer, or one that says nothing about the object.
pub async fn act(room: &Room, facts: &Facts, steps: &Steps) -> Result<Vec<Applied>> {
    let mut all = vec![];
    let ranks: std::collections::BTreeSet<u8> =
        steps.steps.iter().map(|(object, _)| object.rank()).collect();
    for rank in ranks {
        let at_rank = steps.steps.iter().filter(|(object, _)| object.rank() == rank);
        // Collected before they are run: the compiler cannot tell the lifetimes otherwise.
        let futures: Vec<_> = at_rank
            .map(|(object, todo)| async move {
                let done = Target { room, facts, wanted: object }.step(todo).await?;
                Ok::<_, Error>((object.index, done))
            })
            .collect();
        let done: Vec<(usize, Applied)> =
            stream::iter(futures).buffer_unordered(IN_FLIGHT).try_collect().await?;
        all.extend(done);
    }
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, applied)| applied).collect())
}

/// One object, and what is needed to write it.
struct Target<'a> {
    room: &'a Room,
    facts: &'a Facts,
    wanted: &'a ToApply,
}

impl Target<'_> {
    async fn step(&self, todo: &Todo) -> Result<Applied> {
        match todo {
            Todo::Keep(object) => Ok(Applied::Done { object: object.clone(), put_back: None }),
            Todo::Wait(record) => Ok(self.going(Some(record))),
            Todo::LeaveAlone { record, until, what } => {
                Ok(Applied::LeftAlone { object: record.clone(), until: *until, what: what.clone() })
            }
            Todo::Create { was_there } => self.create(*was_there).await,
            Todo::Apply { record, drifted } => self.apply(record.as_ref(), *drifted).await,
        }
    }

    fn kind(&self) -> &Kind {
        &self.facts.kinds[&self.wanted.kind_key]
    }

    fn path(&self, named: bool) -> String {
        let namespace = self.facts.app.namespace();
        let path = self.kind().path(namespace.as_deref());
        if named { format!("{path}/{}", self.wanted.name) } else { path }
    }

    fn going(&self, record: Option<&AppliedObject>) -> Applied {
        match record {
            Some(record) => Applied::Done {
                object: AppliedObject {
                    waiting_for: Some("is being deleted; it is made anew then".to_owned()),
                    ..record.clone()
                },
                put_back: None,
            },
            None => self.failed(Reason::ApplyFailed, "one of its name is being deleted".to_owned()),
        }
    }

    fn failed(&self, reason: Reason, message: String) -> Applied {
        let what = format!("{} {}", self.wanted.kind, self.wanted.name);
        let mut message: String = message.chars().take(MESSAGE).collect();
        if !message.contains(&self.wanted.name) {
            message = format!("{what}: {message}");
        }
        Applied::Failed(self.wanted.failure(reason, message))
    }

    fn done(&self, live: &DynamicObject, put_back: Option<String>) -> Applied {
        let seen = self.room.objects.note(&self.wanted.kind_key, live);
        if let Some(what) = &put_back {
            self.room.contests.note(&seen.uid, what, self.room.ctx.now());
        }
        let object = AppliedObject {
            api_version: self.wanted.api_version.clone(),
            kind: self.wanted.kind.clone(),
            name: self.wanted.name.clone(),
            uid: seen.uid,
            waiting_for: seen.waiting_for,
            orphaned: false,
            manifest: Some(self.wanted.digest.clone()),
            fields: Some(seen.fields),
        };
        Applied::Done { object, put_back }
    }

    /// A create never takes what is somebody else's: what is there is answered with a conflict.
    async fn create(&self, was_there: bool) -> Result<Applied> {
        let path = format!(
            "{}?fieldManager={}&fieldValidation=Strict",
            self.path(false),
            names::APP_MANAGER
        );
        match self.send(Method::POST, &path, "application/json", &self.wanted.object).await? {
            Sent::Done(live) => {
                let put_back = was_there.then(|| "somebody deleted it".to_owned());
                Ok(self.done(&live, put_back))
            }
            Sent::Conflict(_) => {
                let record = self.record();
                self.apply(record.as_ref(), was_there).await
            }
            Sent::Refused(reason, message) => Ok(self.failed(reason, message)),
        }
    }

    fn record(&self) -> Option<AppliedObject> {
        let wanted = self.wanted;
        let is_it = |o: &&AppliedObject| {
            (&o.api_version, &o.kind, &o.name) == (&wanted.api_version, &wanted.kind, &wanted.name)
        };
        self.facts.app.status.as_ref()?.objects.iter().find(is_it).cloned()
    }

    /// Applies the manifest to what lives, if that is the App's.
    async fn apply(&self, record: Option<&AppliedObject>, drifted: bool) -> Result<Applied> {
        let Some(live) = self.read().await? else {
            // It has just gone: the next look creates it.
            return Ok(self.going(record));
        };
        match standing(&live.metadata, &self.facts.app.name_any(), record) {
            Standing::Own => {}
            Standing::Going => return Ok(self.going(record)),
            Standing::Foreign(why) => {
                let message = format!("{} {}: {why}", self.wanted.kind, self.wanted.name);
                return Ok(self.failed(Reason::NotOwned, message));
            }
        }
        if let Some(entries) = as_applied(&live.metadata) {
            let patch = json!([
                {"op": "replace", "path": "/metadata/managedFields", "value": entries},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": live.resource_version()},
            ]);
            let path = format!("{}?fieldManager={}", self.path(true), names::APP_MANAGER);
            match self.send(Method::PATCH, &path, "application/json-patch+json", &patch).await? {
                Sent::Done(_) => {}
                Sent::Conflict(why) => return Err(self.changed(&why)),
                Sent::Refused(reason, message) => return Ok(self.failed(reason, message)),
            }
        }
        // The UID goes along: what took the object's place meanwhile is not applied to.
        let mut object = self.wanted.object.clone();
        object["metadata"]["uid"] = json!(live.uid());
        let path = format!(
            "{}?fieldManager={}&force=true&fieldValidation=Strict",
            self.path(true),
            names::APP_MANAGER
        );
        match self.send(Method::PATCH, &path, "application/apply-patch+yaml", &object).await? {
            Sent::Done(new) => {
                let who = last_writer(&live.metadata);
                let value = |object: &DynamicObject| json!(object);
                let put_back = drifted.then(|| differing(value(&live), value(&new))).flatten();
                let put_back = put_back.map(|fields| {
                    let who = who.as_deref().unwrap_or("somebody");
                    format!("{fields} changed by {who}")
                });
                Ok(self.done(&new, put_back))
            }
            Sent::Conflict(why) => Err(self.changed(&why)),
            Sent::Refused(reason, message) => Ok(self.failed(reason, message)),
        }
    }

    fn changed(&self, why: &str) -> Error {
        Error::answer(format!("apply {} {}", self.wanted.kind, self.wanted.name), why)
    }

    async fn read(&self) -> Result<Option<DynamicObject>> {
        let doing = format!("read {} {}", self.wanted.kind, self.wanted.name);
        let request = Request::get(self.path(true)).body(vec![]);
        let request = request.map_err(|error| Error::answer(&doing, error))?;
        match self.room.ctx.client.request::<DynamicObject>(request).await {
            Ok(live) => Ok(Some(live)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error).during(doing),
        }
    }

    /// Sends a request as the App's account: nobody can do through an App what that may not.
    async fn send(&self, method: Method, path: &str, type_: &str, body: &Value) -> Result<Sent> {
        let doing = format!("apply {} {}", self.wanted.kind, self.wanted.name);
        let account = &self.facts.app.spec.service_account_name;
        let namespace = self.facts.app.namespace().unwrap_or_default();
        let bytes = body.to_string().into_bytes();
        let mut tried = 0;
        loop {
            let Some(request) = request_as(&namespace, account) else {
                let message = format!("serviceAccountName {account:?} is no account's name");
                return Ok(Sent::Refused(Reason::AccountMissing, message));
            };
            let request = request
                .method(&method)
                .uri(path)
                .header(http::header::CONTENT_TYPE, type_)
                .body(bytes.clone())
                .map_err(|error| Error::answer(&doing, error))?;
            let error = match self.room.ctx.client.request::<DynamicObject>(request).await {
                Ok(live) => return Ok(Sent::Done(Box::new(live))),
                Err(error) => error,
            };
            if is_conflict(&error) {
                return Ok(Sent::Conflict(crate::cluster::describe(&error)));
            }
            let kube::Error::Api(status) = &error else { return Err(error).during(doing) };
            if lacks_right(status) && self.rights_are_new() && tried < RIGHTS {
                tried += 1;
                tokio::time::sleep(RIGHTS_WAIT).await;
                continue;
            }
            return match refusal(status, account, &namespace) {
                Some((reason, message)) => Ok(Sent::Refused(reason, message)),
                None => Err(error).during(doing),
            };
        }
    }

    /// Whether the account was bound a moment ago: the API server may not know it yet.
    fn rights_are_new(&self) -> bool {
        match &self.facts.account {
            Account::There(Some(made)) => self.room.ctx.now().seconds_since(*made) < RIGHTS_NEW,
            Account::There(None) => true,
            Account::Missing | Account::Unbound | Account::WrongRole(_) => false,
        }
    }
}

/// What an answer says about the object. None: it says something about the API server, and trying
/// again may help. A field that the kind does not have may be answered with 500.
fn refusal(status: &Status, account: &str, namespace: &str) -> Option<(Reason, String)> {
    let message = status.message.clone();
    match status.code {
        429 => None,
        403 if lacks_right(status) => {
            let help = if account == names::APP_ACCOUNT {
                HOW_TO_GIVE.to_owned()
            } else {
                format!("give it to ServiceAccount {namespace}/{account}")
            };
            Some((Reason::Forbidden, format!("{message}; {help}")))
        }
        400..=499 => Some((Reason::ApplyFailed, message)),
        500 if message.contains("field not declared in schema")
            || message.contains("typed patch")
            || message.contains("request is too large") =>
        {
            Some((Reason::ApplyFailed, message))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_told_and_a_sick_server_is_waited_for() {
        let of = |code: u16, message: &str| {
            let status: Status =
                serde_json::from_value(json!({"code": code, "message": message})).unwrap();
            refusal(&status, "reprieve-app", "a").map(|(reason, _)| reason)
        };
        let typo = "failed to create typed patch object (a/shop; /v1, Kind=ConfigMap): .dta: field not declared in schema";
        assert_eq!(of(500, typo), Some(Reason::ApplyFailed));
        assert_eq!(of(422, "spec.replicas: Invalid value"), Some(Reason::ApplyFailed));
        let right = "configmaps is forbidden: User \"system:serviceaccount:a:x\" cannot create";
        assert_eq!(of(403, right), Some(Reason::Forbidden));
        assert_eq!(of(403, "exceeded quota"), Some(Reason::ApplyFailed));
        assert_eq!(of(500, "etcdserver: leader changed"), None);
        assert_eq!(of(429, "too many requests"), None);
        assert_eq!(of(503, "service unavailable"), None);
    }
}
