//! What went wrong with a request, and what it was for.

use kube::core::Status;

/// A request to the cluster that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or could not be reached.
    #[error("failed to {doing}: {}", describe(source))]
    Kube {
        /// What the request was for, to be read after "failed to".
        doing: String,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// The API server's answer is not what was asked for.
    #[error("failed to {doing}: {what}")]
    Answer {
        /// What the request was for, to be read after "failed to".
        doing: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// It took too long.
    #[error("gave up after {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
}

/// The result of a request to the cluster.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An answer that cannot be used; `doing` is read after "failed to".
    pub fn answer(doing: impl Into<String>, what: impl ToString) -> Self {
        Self::Answer { doing: doing.into(), what: what.to_string() }
    }

    /// The API server's answer, where it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Answer { .. } | Self::Timeout { .. } => None,
        }
    }
}

/// Says what a request was for.
pub trait During<T> {
    /// `doing` is read after "failed to": `during("list the Apps of site acme")`.
    ///
    /// # Errors
    /// The request's own, with what it was for.
    fn during(self, doing: impl Into<String>) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, kube::Error> {
    fn during(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Kube { doing: doing.into(), source: Box::new(source) })
    }
}

/// The message of an API error without the Rust around it; the whole chain of any other.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => chain(error),
    }
}

/// An error with its causes, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Whether the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the object is not (or no longer) what the request said it was.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
