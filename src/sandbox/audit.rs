//! The audit log as typed records: what tests check the invariants on from outside.
//!
//! ```no_run
//! # async fn example(sandbox: reprieve::sandbox::Sandbox) -> anyhow::Result<()> {
//! use std::time::Duration;
//! use reprieve::sandbox::audit;
//!
//! // All until now: who deleted which namespaces?
//! let records = sandbox.audit().read()?;
//! for record in audit::deletes(&records).filter(|record| record.resource == "namespaces") {
//!     println!("{} {} deleted {}", record.time, record.user.name, record.name);
//! }
//! // From now on: the next request that is refused.
//! let mut log = sandbox.audit_from_now()?;
//! let refused = log.find(Duration::from_secs(10), |record| record.code == 403).await?;
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use serde_json::Value;

/// What is read at once of a growing log.
const CHUNK: u64 = 1 << 20;
/// Between two looks at a log to which nothing was added.
const PAUSE: Duration = Duration::from_millis(20);

/// Somebody, as the API server knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditUser {
    /// The user name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// The credential: the id of a token or the digest of a certificate; empty if it has none, as
    /// impersonated requests have not.
    pub credential: String,
}

/// One event: a request at one stage.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// The request's id: the same at each of its stages.
    pub id: String,
    /// When the API server received the request, by its clock.
    pub time: DateTime<Utc>,
    /// `ResponseComplete`; for a watch also `ResponseStarted`; `Panic`.
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, …
    pub verb: String,
    /// The path with its query.
    pub uri: String,
    /// Who sent it, by the credential.
    pub user: AuditUser,
    /// Whom the sender acted as, if anybody.
    pub impersonated: Option<AuditUser>,
    /// The header `User-Agent`.
    pub user_agent: String,
    /// The API group; empty for the core group, and for what is no resource.
    pub group: String,
    /// The resource, in plural; empty for a path like `/version`.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name; empty for collections, and where the API server makes one up.
    pub name: String,
    /// The status code; 0 before the response.
    pub code: u16,
    /// What the API server said with a code of failure: a guard's refusal for example.
    pub message: String,
    /// Nothing was to be changed. Known by the query, and for deletions by the body as well.
    pub dry_run: bool,
    /// What authorization and admission noted.
    pub annotations: BTreeMap<String, String>,
    /// The request's body, where the log has it: for deletions, and for writes of our kinds.
    pub request: Value,
    /// The response's body, where the log has it.
    pub response: Value,
}

impl AuditRecord {
    /// One line of the log.
    ///
    /// # Errors
    /// It is no audit event.
    pub fn parse(line: &str) -> Result<Self> {
        let mut event: Value = serde_json::from_str(line).context("not JSON")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let request = event["requestObject"].take();
        let uri = text(&event["requestURI"]);
        let time = text(&event["requestReceivedTimestamp"]);
        let time = DateTime::parse_from_rfc3339(&time)
            .with_context(|| format!("requestReceivedTimestamp {time:?} is no time"))?;
        let object = &event["objectRef"];
        let status = &event["responseStatus"];
        let annotations = event["annotations"].as_object();
        Ok(Self {
            id: text(&event["auditID"]),
            time: time.to_utc(),
            stage: text(&event["stage"]),
            verb: text(&event["verb"]),
            user: user(&event["user"]),
            impersonated: event["impersonatedUser"]
                .is_object()
                .then(|| user(&event["impersonatedUser"])),
            user_agent: text(&event["userAgent"]),
            group: text(&object["apiGroup"]),
            resource: text(&object["resource"]),
            subresource: text(&object["subresource"]),
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            code: status["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(0),
            message: text(&status["message"]),
            dry_run: uri.contains("dryRun=") || request["dryRun"].is_array(),
            annotations: annotations
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.clone(), text(value)))
                .collect(),
            uri,
            request,
            response: event["responseObject"].take(),
        })
    }

    /// Whether it was answered with success and was no dry run.
    pub fn is_carried_out(&self) -> bool {
        self.stage == "ResponseComplete" && (200..300).contains(&self.code) && !self.dry_run
    }

    /// Whether it asks to delete one object or many; carried out or not.
    pub fn is_delete(&self) -> bool {
        self.verb == "delete" || self.verb == "deletecollection"
    }

    /// Whether it asks to change something; carried out or not.
    pub fn is_write(&self) -> bool {
        self.is_delete() || ["create", "update", "patch"].contains(&self.verb.as_str())
    }

    /// Whether this admission policy, or its binding, refused it.
    pub fn is_denied_by(&self, policy: &str) -> bool {
        self.code >= 400 && self.message.contains(&format!("ValidatingAdmissionPolicy '{policy}'"))
    }
}

fn user(value: &Value) -> AuditUser {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let groups = value["groups"].as_array();
    AuditUser {
        name: text(&value["username"]),
        groups: groups.into_iter().flatten().map(text).collect(),
        credential: text(&value["extra"]["authentication.kubernetes.io/credential-id"][0]),
    }
}

/// The deletions that were carried out.
pub fn deletes(records: &[AuditRecord]) -> impl Iterator<Item = &AuditRecord> {
    records.iter().filter(|record| record.is_delete() && record.is_carried_out())
}

/// How many requests each user agent sent in each minute: the agent up to its first `/`, and the
/// minute's begin in seconds since 1970. A watch counts when it begins.
pub fn requests_per_minute(records: &[AuditRecord]) -> BTreeMap<(String, i64), usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        let begins = if record.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        if record.stage != begins {
            continue;
        }
        let agent = record.user_agent.split('/').next().unwrap_or_default().to_owned();
        let seconds = record.time.timestamp();
        *counts.entry((agent, seconds - seconds.rem_euclid(60))).or_default() += 1;
    }
    counts
}

/// A reader of the log: each read goes on where the last one ended. A line that is still being
/// written is left for the next time; a log that was rotated (renamed, and begun anew under the
/// same name) or truncated is read on from its new beginning, after what was left of the old one.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    /// The open file with its number, which says whether the path still names it.
    file: Option<(File, u64)>,
    at: u64,
    /// A line's beginning.
    rest: BytesMut,
}

impl AuditLog {
    /// The log at this path, from its beginning. It may be absent yet.
    pub fn open(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, at: 0, rest: BytesMut::new() }
    }

    /// The log at this path, from its end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open_at_end(path: &Path) -> Result<Self> {
        let mut log = Self::open(path);
        log.attach()?;
        if let Some((file, _)) = &mut log.file {
            log.at = file.seek(SeekFrom::End(0))?;
        }
        Ok(log)
    }

    /// What was written since the last read, in the order in which it was written: by the end of
    /// the requests, not by their time.
    ///
    /// # Errors
    /// The log cannot be read, or a whole line is no audit event.
    pub fn read(&mut self) -> Result<Vec<AuditRecord>> {
        let mut records = Vec::new();
        while let Some(record) = self.next()? {
            records.push(record);
        }
        Ok(records)
    }

    /// The next record, if a whole line of one is there now.
    ///
    /// # Errors
    /// As [`AuditLog::read`].
    fn next(&mut self) -> Result<Option<AuditRecord>> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        let what = || {
            let begin: String = line.chars().take(200).collect();
            format!("no audit event in {}: {begin}", self.path.display())
        };
        AuditRecord::parse(&line).with_context(what).map(Some)
    }

    /// Waits for a record, and gives the first; those before it are passed over, those after it
    /// are left for the next read.
    ///
    /// # Errors
    /// There is none within `timeout`; or as [`AuditLog::read`].
    pub async fn find(
        &mut self,
        timeout: Duration,
        wanted: impl Fn(&AuditRecord) -> bool,
    ) -> Result<AuditRecord> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        loop {
            while let Some(record) = self.next()? {
                if wanted(&record) {
                    return Ok(record);
                }
                seen += 1;
            }
            if Instant::now() > deadline {
                bail!("no such record within {timeout:?}, of {seen} in {}", self.path.display());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The records from here on, as they come, without end. Nothing is lost while nobody polls.
    pub fn follow(self) -> impl futures::Stream<Item = Result<AuditRecord>> {
        futures::stream::unfold(self, |mut log| async move {
            loop {
                match log.next() {
                    Ok(None) => tokio::time::sleep(PAUSE).await,
                    found => return Some((found.transpose()?, log)),
                }
            }
        })
    }

    /// Opens the file if it is not open yet and there is one.
    fn attach(&mut self) -> Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        match File::open(&self.path) {
            Ok(file) => {
                let number = file.metadata()?.ino();
                self.file = Some((file, number));
                self.at = 0;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read {}", self.path.display()))
            }
        }
    }

    fn was_rotated(&self) -> bool {
        let live = fs::metadata(&self.path).map(|live| live.ino());
        self.file.as_ref().is_some_and(|(_, number)| live.is_ok_and(|live| live != *number))
    }

    /// Adds what there is, up to a limit, to the beginning of a line; tells whether there was some.
    fn fill(&mut self) -> Result<bool> {
        let Some((file, _)) = &mut self.file else { return Ok(false) };
        if file.metadata()?.len() < self.at {
            self.at = 0;
            self.rest.clear();
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut chunk = Vec::new();
        file.take(CHUNK).read_to_end(&mut chunk)?;
        self.at += chunk.len() as u64;
        self.rest.extend_from_slice(&chunk);
        Ok(!chunk.is_empty())
    }

    /// The next whole line, if there is one.
    fn next_line(&mut self) -> Result<Option<String>> {
        loop {
            self.attach()?;
            if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.fill()? {
                continue;
            }
            if !self.was_rotated() {
                return Ok(None);
            }
            // Only after the end of the old file was read.
            self.file = None;
            self.rest.clear();
        }
    }
}
