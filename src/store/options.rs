//! How a store is opened, and the flags that say so.

use std::time::Duration;

use super::connect::{self, Setting};
use super::{Store, StoreError};

/// The flags of the store, for every command that uses one.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// The object store for backups, as a URL: file:///PATH, s3://BUCKET/PREFIX,
    /// gs://BUCKET/PREFIX or az://CONTAINER/PREFIX. Credentials come by the environment variables
    /// of its cloud (AWS_…, GOOGLE_…, AZURE_…) or by workload identity, never in the URL. It must
    /// be there when the operator starts. With several operators, all need the same one.
    #[arg(long, env = "REPRIEVE_STORE_URL", value_name = "URL")]
    pub store_url: String,

    /// How long to wait for an answer of the store, or for more of it. A request sends up to
    /// 5 MiB, so this also says how slow the way to the store may be.
    #[arg(
        long,
        env = "REPRIEVE_STORE_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub store_timeout_seconds: u64,
}

impl StoreArgs {
    /// What the flags say.
    ///
    /// # Errors
    /// A URL that names no store.
    pub fn options(&self) -> Result<Options, StoreError> {
        connect::parse(&self.store_url)?;
        Ok(Options {
            timeout: Duration::from_secs(self.store_timeout_seconds),
            ..Options::new(&self.store_url)
        })
    }

    /// Opens the store, and proves that it can be written and read.
    ///
    /// # Errors
    /// Flags that cannot be used, and a store that cannot be written or read.
    pub async fn open(&self) -> Result<Store, StoreError> {
        Store::open_with(self.options()?).await
    }
}

/// How a store is opened.
#[derive(Debug)]
pub struct Options {
    /// The URL.
    pub url: String,
    /// Settings of the backend in the words of its environment variables (`AWS_ENDPOINT`), which
    /// go before the environment: for a process that opens several stores.
    pub settings: Vec<Setting>,
    /// How long to wait for an answer, or for more of it.
    pub timeout: Duration,
}

impl Options {
    /// The store at this URL, with what the environment says.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), settings: vec![], timeout: Duration::from_secs(30) }
    }
}
