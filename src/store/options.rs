//! How a store is opened, and the flags that say so.

use std::path::PathBuf;
use std::time::Duration;

use super::connect::{self, Setting};
use super::encryption::Encryption;
use super::signing::Keys;
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

    /// The private key that signs what is written to the store: Ed25519, PEM (PKCS #8), as
    /// `openssl genpkey -algorithm ed25519` makes it. Keep it outside of the store. With it, only
    /// archives that it or a trusted key has signed are read.
    #[arg(long, env = "REPRIEVE_SIGNING_KEY_FILE", value_name = "PATH")]
    pub signing_key_file: Option<PathBuf>,

    /// Public keys, PEM, whose archives are read as well: of former signing keys, or of another
    /// cluster's. May be given several times.
    #[arg(long, env = "REPRIEVE_TRUSTED_KEY_FILES", value_name = "PATH", value_delimiter = ',')]
    pub trusted_key_file: Vec<PathBuf>,

    /// Read archives that nobody has signed, or somebody unknown. Whoever can write to the store
    /// can then make a restore create what he likes.
    #[arg(long, env = "REPRIEVE_ALLOW_UNSIGNED_ARCHIVES")]
    pub allow_unsigned_archives: bool,

    /// Encrypt archives with age to this public key, age1… May be given several times: each can
    /// read them. Without it, Secrets lie readable in the store.
    #[arg(long, env = "REPRIEVE_AGE_RECIPIENTS", value_name = "KEY", value_delimiter = ',')]
    pub age_recipient: Vec<String>,

    /// Identities of age, AGE-SECRET-KEY-1…, to read encrypted archives with. Needed with
    /// --age-recipient: a backup counts only once it was read back. May be given several times.
    #[arg(long, env = "REPRIEVE_AGE_IDENTITY_FILES", value_name = "PATH", value_delimiter = ',')]
    pub age_identity_file: Vec<PathBuf>,
}

impl StoreArgs {
    /// What the flags say.
    ///
    /// # Errors
    /// A URL that names no store.
    pub fn options(&self) -> Result<Options, StoreError> {
        connect::parse(&self.store_url)?;
        let mut keys = Keys::default();
        if let Some(file) = &self.signing_key_file {
            keys.sign_with(file)?;
        }
        for file in &self.trusted_key_file {
            keys.trust(file)?;
        }
        if self.allow_unsigned_archives {
            keys.allow_unsigned();
        }
        let mut encryption = Encryption::default();
        for recipient in &self.age_recipient {
            encryption.encrypt_to(recipient)?;
        }
        for file in &self.age_identity_file {
            encryption.read_with(file)?;
        }
        encryption.can_read_back()?;
        Ok(Options {
            keys,
            encryption,
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
    /// Who signs, and whom to trust.
    pub keys: Keys,
    /// To whom archives are encrypted, and which can be read.
    pub encryption: Encryption,
}

impl Options {
    /// The store at this URL, with what the environment says.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            settings: vec![],
            timeout: Duration::from_secs(30),
            keys: Keys::default(),
            encryption: Encryption::default(),
        }
    }
}
