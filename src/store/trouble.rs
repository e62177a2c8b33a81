//! What the answer of a backend means, in one line.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::{Error, path};

/// Words by which backends say that there is no such bucket, container or folder.
const NO_BUCKET: [&str; 4] =
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist", "bucket not found"];
/// Words by which they say that they are full.
const FULL: [&str; 6] = [
    "QuotaExceeded",
    "InsufficientStorage",
    "StorageFull",
    "507 Insufficient",
    "No space left",
    "Disk quota exceeded",
];
/// Words by which they say that they don't know or trust the caller; most come with a status of
/// 401 or 403, not all.
const DENIED: [&str; 5] = [
    "AccessDenied",
    "InvalidAccessKeyId",
    "XAdminUserNotFound",
    "403 Forbidden",
    "401 Unauthorized",
];
/// Where the clouds' machines answer who they are; asked when nothing else gives credentials.
const METADATA_SERVERS: [&str; 3] =
    ["169.254.169.254", "metadata.google.internal", "metadata/identity"];

/// What went wrong, and what to do about it. `url` is the store's.
pub(super) fn describe(error: &Error, url: &str) -> String {
    // From the outside to the inside; each repeats what is within it, and has more around it.
    let mut causes: Vec<&(dyn StdError + 'static)> = vec![error];
    while let Some(inner) = causes[causes.len() - 1].source() {
        causes.push(inner);
    }
    let all = causes.iter().map(|cause| cause.to_string()).collect::<Vec<_>>().join(" ");
    let innermost = one_line(&causes.last().map_or_else(|| error.to_string(), |c| c.to_string()));
    let has = |words: &[&str]| words.iter().any(|word| all.contains(word));
    let io = causes.iter().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let http = causes.iter().find_map(|cause| cause.downcast_ref::<HttpError>());
    let io_kind = io.map(std::io::Error::kind);
    let cloud = !url.starts_with("file:");

    if has(&METADATA_SERVERS) || cloud && has(&["credential", "Credential"]) && !has(&["<Code>"]) {
        return "no credentials were found: give them by environment variables or workload \
                identity (docs/archive-format.md, \"Where it lies\")"
            .to_owned();
    }
    if has(&NO_BUCKET) {
        return format!(
            "there is no such bucket or container: create it, or correct the URL{}",
            code(&all)
        );
    }
    if has(&FULL) || io_kind == Some(std::io::ErrorKind::StorageFull) {
        return format!("it is full: make room, then it goes on by itself{}", code(&all));
    }
    let denied = matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
        || io_kind == Some(std::io::ErrorKind::PermissionDenied)
        || has(&DENIED);
    if denied {
        return if cloud {
            format!(
                "permission denied: the credentials must be allowed to list, get, put and delete there{}",
                code(&all)
            )
        } else {
            format!("permission denied: {innermost}")
        };
    }
    match http.map(HttpError::kind) {
        Some(HttpErrorKind::Timeout) => return "it does not answer in time".to_owned(),
        Some(_) => return format!("it cannot be reached: {innermost}"),
        None => {}
    }
    if let Error::InvalidPath { source: path::Error::InvalidPath { .. } } = error {
        return one_line(&error.to_string());
    }
    if let Error::AlreadyExists { path, .. } = error {
        return format!("{path} is there already, and nothing is written over");
    }
    // The answer of a server is a page of XML.
    match code(&all) {
        code if code.is_empty() => innermost,
        code => format!("it answers with an error{code}"),
    }
}

/// ` (NoSuchBucket)`: the code in a server's answer, if there is one.
fn code(text: &str) -> String {
    let found = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let status = || text.split_once("status code: ").and_then(|(_, rest)| rest.split_once(':'));
    let code = found.map(|(code, _)| code).or_else(|| status().map(|(status, _)| status));
    match code.map(one_line) {
        Some(code) if !code.is_empty() && code.len() < 80 => format!(" ({code})"),
        _ => String::new(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
