//! One step of the hooks of a backup or restore, carried out; and the dry run of a Site's hooks.

use std::time::Duration;

use http::Method;
use kube::Client;
use kube::core::Status;
use serde_json::{Value, json};

use super::decide::{Step, Turn, in_words, next, too_long, turn};
use super::job::{self, Live};
use super::metrics::HookOutcome;
use crate::api::{Hook, HookState, HookStatus, OnHookError, Reason, Time, names};
use crate::cluster::account::{HOW_TO_GIVE, lacks_right, request_as};
use crate::cluster::{During, Error, Metrics, Note, Result, is_conflict, is_not_found};

/// How often a right that was perhaps just given is waited for, and how long each time.
const RIGHTS: usize = 10;
const RIGHTS_WAIT: Duration = Duration::from_millis(200);
/// Characters of an API server's message that are kept.
const MESSAGE: usize = 600;

/// The hooks of one backup or restore of a site.
pub struct Run<'a> {
    /// The way to the cluster.
    pub client: &'a Client,
    /// Where the outcomes are counted.
    pub metrics: &'a Metrics,
    /// `beforeBackup`, `afterRestore` or `drill`.
    pub when: &'static str,
    /// In which namespace.
    pub namespace: &'a str,
    /// The label, and its value, by which the namespace is that of the site, or of the drill.
    pub owner: (&'static str, &'a str),
    /// For what, with a UID: no other backup or restore says the same.
    pub of: &'a str,
    /// Which.
    pub hooks: &'a [Hook],
}

impl Run<'_> {
    /// Counts a hook that ended, once that is written down.
    pub fn count(&self, record: &HookStatus) {
        if record.state.has_ended() {
            let outcome = record.state.reason().as_str();
            let label = HookOutcome { when: self.when, outcome };
            self.metrics.hooks.ended.get_or_create(&label).inc();
        }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// To be written down before the next step; and what to tell.
    Record(HookStatus, Option<Note>),
    /// A hook is under way.
    Wait(String),
    /// All of them ended, and none that matters badly.
    Done,
    /// One did not end well, and nothing goes on after it.
    Failed(Reason, String),
}

/// Puts what was said of a hook among the records, in the place of what was said before.
pub fn note(records: &mut Vec<HookStatus>, new: HookStatus) {
    match records.iter_mut().find(|old| old.name == new.name) {
        Some(old) => *old = new,
        None => records.push(new),
    }
}

/// Carries out one step of these hooks. Each answer [`Progress::Record`] must be in `records` the
/// next time.
///
/// # Errors
/// A request that got no answer, or one that says nothing about the hook.
pub async fn step(run: &Run<'_>, records: &[HookStatus], now: Time) -> Result<Progress> {
    let (hook, record) = match turn(run.hooks, records) {
        Turn::Done => return Ok(Progress::Done),
        Turn::Stopped(record) => {
            return Ok(Progress::Failed(record.state.reason(), in_words(record)));
        }
        Turn::Of(hook, record) => (hook, record),
    };
    let one = One { run, hook, record, now };
    let live = one.read().await?;
    match next(hook, record, live.as_ref(), run.of, now) {
        Step::Create => one.create().await,
        Step::Begin { uid } => Ok(one.begin(uid)),
        Step::Resume { uid } => one.resume(&uid).await,
        Step::Wait => one.look().await,
        Step::Stop { uid } => one.stop(&uid).await,
        Step::End(state, message) => one.end(state, message).await,
    }
}

/// One hook, and what is needed for its step.
struct One<'a> {
    run: &'a Run<'a>,
    hook: &'a Hook,
    record: Option<&'a HookStatus>,
    now: Time,
}

/// How a request as the site's account ended.
enum Sent {
    Done(Value),
    Conflict,
    Refused(String),
}

impl One<'_> {
    fn name(&self) -> String {
        job::name(&self.hook.name, self.run.of)
    }

    fn path(&self) -> String {
        format!("{}/{}", jobs(self.run.namespace), self.name())
    }

    fn waits(&self) -> Progress {
        let (name, namespace) = (self.name(), self.run.namespace);
        let what = format!("waits for the hook {}", self.hook.name);
        let see = format!("see kubectl describe job {name} -n {namespace}");
        Progress::Wait(match self.record.and_then(|record| record.message.as_deref()) {
            Some(why) => format!("{what}: {why}; {see}"),
            None => format!("{what}; {see}"),
        })
    }

    /// Waits, and notes what keeps it from getting on: once its deadline has passed, its Pods are
    /// gone.
    async fn look(&self) -> Result<Progress> {
        let trouble = job::trouble(&self.pods().await?);
        match self.record {
            Some(record) if trouble.is_some() && trouble != record.message => {
                Ok(Progress::Record(HookStatus { message: trouble, ..record.clone() }, None))
            }
            _ => Ok(self.waits()),
        }
    }

    async fn read(&self) -> Result<Option<Live>> {
        let live = get(self.run.client, self.path()).await?;
        Ok(live.as_ref().map(job::read))
    }

    async fn create(&self) -> Result<Progress> {
        let namespace = self.run.namespace;
        let live = get(self.run.client, format!("/api/v1/namespaces/{namespace}")).await?;
        let (label, value) = self.run.owner;
        if !live.is_some_and(|live| live["metadata"]["labels"][label] == value) {
            let why = format!("the namespace {namespace} has not the label {label}={value}");
            return Ok(self.ended(HookState::Refused, why));
        }
        let job = job::job(self.hook, self.run.namespace, self.run.of);
        let path = jobs(self.run.namespace);
        match send(self.run.client, self.run.namespace, Method::POST, &path, &job).await? {
            Sent::Done(live) => Ok(self.begin(job::read(&live).uid)),
            // Somebody was faster; what that is, the next look says.
            Sent::Conflict => Ok(self.waits()),
            Sent::Refused(why) => Ok(self.ended(HookState::Refused, why)),
        }
    }

    fn begin(&self, uid: String) -> Progress {
        let record = HookStatus {
            job_uid: Some(uid),
            start_time: Some(self.now),
            ..self.status(HookState::Running, None)
        };
        let note = format!("the hook {} of {} has begun", self.hook.name, self.run.when);
        Progress::Record(record, Some(Note::normal(Reason::HookRunning, note)))
    }

    /// The record of it, in this state now.
    fn status(&self, state: HookState, message: Option<String>) -> HookStatus {
        let old = self.record;
        HookStatus {
            name: self.hook.name.clone(),
            state,
            job: Some(format!("{}/{}", self.run.namespace, self.name())),
            job_uid: old.and_then(|old| old.job_uid.clone()),
            start_time: old.and_then(|old| old.start_time),
            completion_time: state.has_ended().then_some(self.now),
            message,
        }
    }

    /// Changes the Job, if it is still this one. A conflict is found out by the next look.
    async fn patch(&self, uid: &str, spec: Value) -> Result<Sent> {
        let patch = json!({ "metadata": { "uid": uid }, "spec": spec });
        let path = self.path();
        send(self.run.client, self.run.namespace, Method::PATCH, &path, &patch).await
    }

    async fn resume(&self, uid: &str) -> Result<Progress> {
        match self.patch(uid, json!({ "suspend": false })).await? {
            Sent::Done(_) | Sent::Conflict => Ok(self.waits()),
            Sent::Refused(why) => Ok(self.ended(HookState::Refused, why)),
        }
    }

    async fn stop(&self, uid: &str) -> Result<Progress> {
        // Asked first: a Job that is over its deadline has no Pods.
        let pods = self.pods().await?;
        let noted = self.record.and_then(|record| record.message.clone());
        let why = job::trouble(&pods).or(noted).unwrap_or_else(|| job::standing(&pods));
        // Its own deadline may be later, and ends it by itself where this is refused.
        self.patch(uid, json!({ "activeDeadlineSeconds": 1 })).await?;
        Ok(self.ended(HookState::TimedOut, too_long(self.hook, &why)))
    }

    async fn end(&self, state: HookState, message: String) -> Result<Progress> {
        let why = match state {
            HookState::Failed => job::trouble(&self.pods().await?),
            HookState::TimedOut => self.record.and_then(|record| record.message.clone()),
            _ => None,
        };
        Ok(self.ended(state, why.map_or(message.clone(), |why| format!("{message}; {why}"))))
    }

    fn ended(&self, state: HookState, message: String) -> Progress {
        let message: String = message.chars().take(MESSAGE).collect();
        let record = self.status(state, Some(message));
        let goes_on = state.is_error() && self.hook.on_error == OnHookError::Continue;
        let more = if goes_on { "; its onError is Continue" } else { "" };
        let note = format!("{}{more}", in_words(&record));
        let note = match state.is_error() {
            true => Note::warning(state.reason(), note),
            false => Note::normal(state.reason(), note),
        };
        Progress::Record(record, Some(note))
    }

    async fn pods(&self) -> Result<Vec<Value>> {
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector=batch.kubernetes.io%2Fjob-name%3D{}",
            self.run.namespace,
            self.name()
        );
        let pods = get(self.run.client, path).await?;
        Ok(pods.and_then(|list| list["items"].as_array().cloned()).unwrap_or_default())
    }
}

fn jobs(namespace: &str) -> String {
    format!("/apis/batch/v1/namespaces/{namespace}/jobs")
}

async fn get(client: &Client, path: String) -> Result<Option<Value>> {
    let doing = format!("read {path}");
    let request = http::Request::get(path).body(vec![]);
    let request = request.map_err(|error| Error::answer(&doing, error))?;
    match client.request::<Value>(request).await {
        Ok(live) => Ok(Some(live)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).during(doing),
    }
}

/// Sends a request as the site's account.
async fn send(
    client: &Client,
    namespace: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Sent> {
    let doing = format!("write the Job of a hook in namespace {namespace}");
    let type_ = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let and = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{and}fieldManager={}&fieldValidation=Strict", names::FIELD_MANAGER);
    let mut tried = 0;
    loop {
        let request = request_as(namespace, names::APP_ACCOUNT)
            .ok_or_else(|| Error::answer(&doing, "no account can have that name"))?
            .method(&method)
            .uri(&path)
            .header(http::header::CONTENT_TYPE, type_)
            .body(body.to_string().into_bytes())
            .map_err(|error| Error::answer(&doing, error))?;
        let error = match client.request::<Value>(request).await {
            Ok(live) => return Ok(Sent::Done(live)),
            Err(error) => error,
        };
        let gone = method == Method::PATCH && is_not_found(&error);
        if gone || is_conflict(&error) {
            return Ok(Sent::Conflict);
        }
        let kube::Error::Api(status) = &error else { return Err(error).during(doing) };
        // The account may have been bound a moment ago.
        if lacks_right(status) && tried < RIGHTS {
            tried += 1;
            tokio::time::sleep(RIGHTS_WAIT).await;
            continue;
        }
        return match refusal(status) {
            Some(why) => Ok(Sent::Refused(why)),
            None => Err(error).during(doing),
        };
    }
}

/// What an answer says about the Job. None: it says something about the API server, and trying
/// again may help.
fn refusal(status: &Status) -> Option<String> {
    let message = &status.message;
    match status.code {
        429 => None,
        403 if lacks_right(status) => Some(format!("{message}; {HOW_TO_GIVE}")),
        400..=499 => Some(message.clone()),
        _ => None,
    }
}

/// What a dry run of a hook showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The hook, as `beforeBackup/dump`.
    pub hook: String,
    /// What the API server said.
    pub why: String,
}

/// Tries by a dry run whether the Jobs of these hooks can be created in this namespace as its
/// account. Gives those that cannot.
///
/// # Errors
/// A request that got no answer, or one that says nothing about the hook.
pub async fn check(
    client: &Client,
    namespace: &str,
    hooks: &[(&'static str, Hook)],
) -> Result<Vec<Checked>> {
    let path = format!("{}?dryRun=All", jobs(namespace));
    let mut wrong = vec![];
    for (when, hook) in hooks {
        let job = job::job(hook, namespace, "a dry run");
        if let Sent::Refused(why) = send(client, namespace, Method::POST, &path, &job).await? {
            let why = why.chars().take(MESSAGE).collect();
            wrong.push(Checked { hook: format!("{when}/{}", hook.name), why });
        }
    }
    Ok(wrong)
}
