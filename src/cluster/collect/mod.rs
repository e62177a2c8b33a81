//! Everything that a site holds, listed live, in its archived form: page by page in the order of a
//! restore, so that what it takes of the memory does not grow with the site.

mod changes;
mod left_out;
mod lists;
mod walk;

use kube::Client;
use serde_json::Value;

use super::discover::Kinds;
use super::error::describe;
use super::form::{ObjectKey, RootDigest, archived_form, field_owners, object_digest, root_digest};
use super::readiness::{is_finished, readiness};

pub use left_out::{is_data, is_derived};
pub use lists::{for_each, list};
pub use walk::Walk;

/// Why a site could not be collected. There is no partial collection.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A kind cannot be listed.
    #[error("failed to list {kind} in {}: {}", namespace.as_deref().unwrap_or("the cluster"), describe(source))]
    List {
        /// Kind, with its API version.
        kind: String,
        /// Namespace. None: the whole cluster.
        namespace: Option<String>,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// An object cannot be read.
    #[error("failed to read {kind} {name}: {}", describe(source))]
    Get {
        /// Kind.
        kind: String,
        /// Name.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// A namespace of the site is on its way out: what is left in it is not the site.
    #[error("the namespace {0} is being deleted")]
    NamespaceTerminating(String),
    /// What the API server gave is no object.
    #[error("a listed {0} has no name")]
    Nameless(String),
}

/// How an object stood when it was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ObjectState {
    /// It did what its spec says.
    Ready,
    /// It did not.
    NotReady,
    /// It had run to its end: a Job or a Pod that must not run again.
    Finished,
}

impl ObjectState {
    /// How this live object stands.
    pub fn of(live: &Value) -> Self {
        if is_finished(live) {
            Self::Finished
        } else if readiness(live).is_ready() {
            Self::Ready
        } else {
            Self::NotReady
        }
    }
}

/// One object of a site.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// Which object.
    pub key: ObjectKey,
    /// UID of the live object.
    pub uid: String,
    /// How it stood.
    pub state: ObjectState,
    /// The object in its archived form.
    pub form: Value,
    /// Digest of the form.
    pub digest: String,
    /// Who owns which field, where server-side apply depends on it.
    pub owners: Option<Vec<Value>>,
}

impl Collected {
    /// A live object in its archived form.
    fn of(live: Value) -> Result<Self, CollectError> {
        let Some(key) = ObjectKey::of(&live) else {
            return Err(CollectError::Nameless(live["kind"].to_string()));
        };
        let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let state = ObjectState::of(&live);
        let owners = field_owners(&live);
        let form = archived_form(live);
        let digest = object_digest(&form);
        Ok(Self { key, uid, state, form, digest, owners })
    }
}

/// Everything that a site holds, sorted by key. In memory: for what is small, and for tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collection {
    /// The objects.
    pub objects: Vec<Collected>,
}

impl Collection {
    /// The digest over all objects: equal content has an equal digest.
    pub fn root_digest(&self) -> String {
        root_digest(self.objects.iter().map(|o| (&o.key, o.digest.as_str())))
    }
}

/// How fresh a list must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As the storage has it now. For backups and everything before an irreversible step.
    Live,
    /// As the API server's cache has it: faster, and may be a moment old. For counting.
    Cached,
}

/// All that [`Walk`] gives, in memory.
///
/// # Errors
/// As [`Walk::begin`] and [`Walk::next`].
pub async fn collect(
    client: &Client,
    kinds: &Kinds,
    site: &str,
    namespaces: &[String],
    freshness: Freshness,
) -> Result<Collection, CollectError> {
    let mut walk = Walk::begin(client, kinds, site, namespaces, freshness).await?;
    let mut objects = vec![];
    while let Some(object) = walk.next().await? {
        objects.push(object);
    }
    objects.sort_by_cached_key(|o: &Collected| o.key.to_string());
    Ok(Collection { objects })
}

/// The root digest over everything that a site holds now, as a backup of it would have it. Takes
/// memory for keys and digests alone.
///
/// # Errors
/// As [`Walk::begin`] and [`Walk::next`].
pub async fn live_digest(
    client: &Client,
    kinds: &Kinds,
    site: &str,
    namespaces: &[String],
) -> Result<String, CollectError> {
    let mut walk = Walk::begin(client, kinds, site, namespaces, Freshness::Live).await?;
    let mut root = RootDigest::default();
    while let Some(object) = walk.next().await? {
        root.add(&object.key, &object.digest);
    }
    Ok(root.finish())
}
