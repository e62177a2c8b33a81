//! From a store's URL to its backend: credentials, time limits and retries.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use url::Url;

use super::error::StoreError;

/// The forms that are understood.
const FORMS: &str = "file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX";
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a request is tried again.
const RETRIES: usize = 5;

/// A setting of a backend in the words of its environment variables, as `AWS_ENDPOINT`.
pub type Setting = (String, String);

/// The URL, if it can be one of a store and holds no credentials: it is shown in messages.
pub(super) fn parse(url: &str) -> Result<Url, StoreError> {
    let parsed = Url::parse(url).map_err(|error| bad(url, format!("{error}: use {FORMS}")))?;
    if parsed.password().is_some() || parsed.query().is_some() {
        let mut bare = parsed;
        let _ = bare.set_password(None);
        bare.set_query(None);
        let why = "it must hold no password and no query: credentials come by environment \
                   variables or workload identity";
        return Err(bad(bare.as_str(), why.to_owned()));
    }
    Ok(parsed)
}

/// The backend of this URL. `settings` go before the environment; `timeout` is how long to
/// wait for an answer, or for more of it.
pub(super) fn connect(
    url: &Url,
    settings: &[Setting],
    timeout: Duration,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let text = url.as_str();
    let unusable = |error: object_store::Error| bad(text, super::trouble::describe(&error, text));
    let (scheme, prefix) = match ObjectStoreScheme::parse(url) {
        Ok((scheme, prefix)) => (scheme, prefix),
        Err(_) => return Err(bad(text, unknown(url))),
    };
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: timeout,
    };
    // `from_env` rather than the crate's own `parse_url`, which knows no workload identity.
    macro_rules! cloud {
        ($builder:ty, $prefix:literal) => {{
            let mut builder = <$builder>::from_env()
                .with_client_options(client_options($prefix, timeout))
                .with_retry(retry);
            for (key, value) in settings {
                let parsed = key.to_ascii_lowercase().parse();
                let Ok(key) = parsed else { return Err(bad(text, format!("no setting {key}"))) };
                builder = builder.with_config(key, value);
            }
            let store = builder.with_url(text).build().map_err(unusable)?;
            Ok(if prefix.as_ref().is_empty() {
                Arc::new(store) as Arc<dyn ObjectStore>
            } else {
                Arc::new(PrefixStore::new(store, prefix))
            })
        }};
    }
    match scheme {
        ObjectStoreScheme::Local => local(url),
        ObjectStoreScheme::AmazonS3 => cloud!(AmazonS3Builder, "AWS_"),
        ObjectStoreScheme::GoogleCloudStorage => cloud!(GoogleCloudStorageBuilder, "GOOGLE_"),
        ObjectStoreScheme::MicrosoftAzure => cloud!(MicrosoftAzureBuilder, "AZURE_"),
        _ => Err(bad(text, unknown(url))),
    }
}

fn local(url: &Url) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let folder = url.to_file_path().map_err(|()| {
        bad(url.as_str(), "use an absolute path, as in file:///backups".to_owned())
    })?;
    // An absent folder is more likely a volume that is not mounted than a wish for a new one.
    if !folder.is_dir() {
        return Err(bad(url.as_str(), format!("{} is not a folder", folder.display())));
    }
    let store = LocalFileSystem::new_with_prefix(&folder)
        .map_err(|error| bad(url.as_str(), super::trouble::describe(&error, url.as_str())))?
        // A purge relies on what is written here: it must survive a crash of the machine.
        .with_fsync(true);
    Ok(Arc::new(store))
}

/// Time limits, and over them what the environment says of the client (`AWS_ALLOW_HTTP`,
/// `AWS_PROXY_URL` and so on): `with_client_options` would replace what `from_env` has read of it.
fn client_options(prefix: &str, timeout: Duration) -> ClientOptions {
    // No limit of the whole request: a large archive may take as long as it needs, as long as
    // something arrives.
    let limits = ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_read_timeout(timeout)
        .with_timeout_disabled();
    std::env::vars_os().fold(limits, |options, (name, value)| {
        let key = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let key = key.and_then(|key| key.to_ascii_lowercase().parse::<ClientConfigKey>().ok());
        match (key, value.to_str()) {
            (Some(key), Some(value)) => options.with_config(key, value),
            _ => options,
        }
    })
}

fn unknown(url: &Url) -> String {
    format!("{:?} names no object store: use {FORMS}", url.scheme())
}

fn bad(url: &str, why: String) -> StoreError {
    StoreError::BadUrl { url: url.to_owned(), why }
}
