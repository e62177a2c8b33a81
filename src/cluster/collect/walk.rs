//! A site's objects as a stream, in the order of a restore.

use std::collections::{HashMap, VecDeque};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::Request;
use kube::Client;
use serde_json::Value;

use super::changes::note;
use super::lists::{Listed, Page, RESTARTS, is_expired};
use super::{CollectError, Collected, Freshness, is_derived};
use crate::api::{NamespaceRef, ReadVersions, names};
use crate::cluster::discover::{Kind, Kinds};
use crate::cluster::form::ObjectKey;
use crate::cluster::order::rank;

/// Objects per page. Small: an object may have 1.5 MB, and pages of several kinds are in memory.
const PAGE: u32 = 20;
/// First pages of the next kinds that are asked for ahead of their turn.
const AHEAD: usize = 8;

/// A site that is being read.
///
/// Its objects come in the order of [`rank`], within a rank by kind and namespace, and then as the
/// API server lists them. What controllers derive is left out, by the table in `left_out.rs`. It
/// takes memory for a few pages, and about 300 bytes for each object that was listed.
pub struct Walk {
    pub(super) client: Client,
    pub(super) site: String,
    pub(super) namespaces: Vec<NamespaceRef>,
    pub(super) listed: Vec<Listed>,
    pub(super) seen: HashMap<String, Seen>,
    pub(super) versions: ReadVersions,
    freshness: Freshness,
    ahead: BoxStream<'static, Result<(Listed, Page), CollectError>>,
    current: Option<Current>,
    ready: VecDeque<Value>,
}

/// What is known of an object that was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its resourceVersion then.
    pub version: String,
    /// Its digest. None: it is derived from others, and left out.
    pub digest: Option<String>,
}

/// The list whose pages are being read.
struct Current {
    listed: Listed,
    next: Option<String>,
    restarts: usize,
}

impl Walk {
    /// Reads the Site and its namespaces, and begins to list what is in them, and what has the
    /// site's label outside of them.
    ///
    /// # Errors
    /// A Site or a namespace that is not there, and a namespace that is on its way out.
    pub async fn begin(
        client: &Client,
        kinds: &Kinds,
        site: &str,
        namespaces: &[String],
        freshness: Freshness,
    ) -> Result<Self, CollectError> {
        let mut ready = VecDeque::from([get_site(client, site).await?]);
        let mut sorted = namespaces.to_vec();
        sorted.sort();
        let mut own = vec![];
        for name in &sorted {
            let live = get_namespace(client, name).await?;
            if !live["metadata"]["deletionTimestamp"].is_null() {
                return Err(CollectError::NamespaceTerminating(name.clone()));
            }
            let uid = live["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            own.push(NamespaceRef { name: name.clone(), uid });
            ready.push_back(live);
        }
        let listed = in_order(kinds, site, &sorted);
        let first = move |client: Client, listed: Listed| async move {
            let params = listed.params(freshness, PAGE);
            match listed.page(&client, &params, true).await {
                Ok(page) => Ok((listed, page)),
                Err(error) => Err(listed.failed(error)),
            }
        };
        let (pool, all) = (client.clone(), listed.clone());
        let ahead = stream::iter(all).map(move |listed| first(pool.clone(), listed));
        Ok(Self {
            client: client.clone(),
            site: site.to_owned(),
            namespaces: own,
            listed,
            seen: HashMap::new(),
            versions: ReadVersions::default(),
            freshness,
            ahead: ahead.buffered(AHEAD).boxed(),
            current: None,
            ready,
        })
    }

    /// The namespaces of the site, with the UIDs that they have.
    pub fn namespaces(&self) -> &[NamespaceRef] {
        &self.namespaces
    }

    /// The resourceVersion of the Site when it was read, before anything else.
    pub fn begun_at(&self) -> Option<&str> {
        self.ready.front()?["metadata"]["resourceVersion"].as_str()
    }

    /// The next object. None: that was all of the site.
    ///
    /// # Errors
    /// Any kind that cannot be listed: half a site is no collection.
    pub async fn next(&mut self) -> Result<Option<Collected>, CollectError> {
        loop {
            while let Some(live) = self.ready.pop_front() {
                if let Some(object) = self.take(live)? {
                    return Ok(Some(object));
                }
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Takes a listed object in. None: it is left out, or was there before.
    fn take(&mut self, live: Value) -> Result<Option<Collected>, CollectError> {
        let Some(key) = ObjectKey::of(&live) else {
            return Err(CollectError::Nameless(live["kind"].to_string()));
        };
        let key = key.to_string();
        // A list that was begun anew has what it had.
        if self.seen.contains_key(&key) {
            return Ok(None);
        }
        let version = live["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let object = if is_derived(&live) { None } else { Some(Collected::of(live)?) };
        let digest = object.as_ref().map(|object| object.digest.clone());
        self.seen.insert(key, Seen { version, digest });
        Ok(object)
    }

    /// Reads the next page of anything. False: there is none.
    async fn more(&mut self) -> Result<bool, CollectError> {
        let Some(mut current) = self.current.take() else {
            let Some((listed, page)) = self.ahead.try_next().await? else { return Ok(false) };
            self.page(Current { listed, next: None, restarts: 0 }, page);
            return Ok(true);
        };
        let mut params = current.listed.params(self.freshness, PAGE);
        params.continue_token.clone_from(&current.next);
        match current.listed.page(&self.client, &params, true).await {
            Ok(page) => self.page(current, page),
            Err(error) if is_expired(&error) && current.restarts < RESTARTS => {
                current.restarts += 1;
                current.next = None;
                self.current = Some(current);
            }
            Err(error) => return Err(current.listed.failed(error)),
        }
        Ok(true)
    }

    fn page(&mut self, mut current: Current, page: Page) {
        note(&mut self.versions, &current.listed, &page.version);
        self.ready.extend(page.items);
        if page.next.is_some() {
            current.next = page.next;
            self.current = Some(current);
        }
    }
}

/// Every kind in every namespace, in the order in which a restore wants them.
fn in_order(kinds: &Kinds, site: &str, namespaces: &[String]) -> Vec<Listed> {
    let inside = kinds.of_a_site().flat_map(|kind| {
        namespaces.iter().map(move |namespace| Listed {
            kind: kind.clone(),
            namespace: Some(namespace.clone()),
            labels: None,
        })
    });
    let outside = kinds.beside_sites().map(|kind| Listed {
        kind: kind.clone(),
        namespace: None,
        labels: Some(format!("{}={site}", names::LABEL_SITE)),
    });
    let mut all: Vec<Listed> = inside.chain(outside).collect();
    all.sort_by_cached_key(|listed| {
        let key = a_key(&listed.kind, listed.namespace.as_deref());
        (rank(&key), key.to_string())
    });
    all
}

/// A key as the objects of this kind have it, before all of theirs.
fn a_key(kind: &Kind, namespace: Option<&str>) -> ObjectKey {
    ObjectKey {
        group: kind.resource.group.clone(),
        kind: kind.resource.kind.clone(),
        namespace: namespace.map(str::to_owned),
        name: String::new(),
    }
}

pub(super) async fn get_site(client: &Client, site: &str) -> Result<Value, CollectError> {
    get(client, "Site", site, format!("/apis/{}/sites/{site}", names::API_VERSION)).await
}

pub(super) async fn get_namespace(client: &Client, name: &str) -> Result<Value, CollectError> {
    get(client, "Namespace", name, format!("/api/v1/namespaces/{name}")).await
}

pub(super) async fn get(
    client: &Client,
    kind: &str,
    name: &str,
    path: String,
) -> Result<Value, CollectError> {
    let error = |source| CollectError::Get {
        kind: kind.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    };
    let request = Request::get(path).body(vec![]).map_err(kube::Error::HttpError);
    client.request(request.map_err(error)?).await.map_err(error)
}
