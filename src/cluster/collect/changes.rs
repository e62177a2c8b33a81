//! What became of a site while it was read: a second look at everything, by its metadata alone.

use futures::stream::{self, StreamExt, TryStreamExt};
use kube::Client;

use super::lists::{Listed, RESTARTS, is_expired};
use super::walk::{Seen, Walk, get, get_namespace, get_site};
use super::{CollectError, Collected, Freshness, is_derived};
use crate::api::{ChangedObjects, ReadVersions};
use crate::cluster::form::ObjectKey;
use crate::cluster::is_not_found;

/// Objects per page: metadata alone is small.
const PAGE: u32 = 250;
/// Lists in flight at a time.
const AT_ONCE: usize = 8;
/// How many objects with another resourceVersion are read again, to tell what concerns a backup
/// from a new status. Any more count as changed.
const READ_AGAIN: usize = 100;
/// How many that changed are named.
const NAMED: usize = 10;

/// Takes the version of a list in. Other API servers than the core's count in their own way.
pub(super) fn note(versions: &mut ReadVersions, listed: &Listed, version: &str) {
    let number = |text: &str| text.parse::<u64>().ok();
    let Some(new) = number(version).filter(|_| listed.kind.resource.group.is_empty()) else {
        return;
    };
    if number(&versions.first).is_none_or(|first| new < first) {
        version.clone_into(&mut versions.first);
    }
    if number(&versions.last).is_none_or(|last| new > last) {
        version.clone_into(&mut versions.last);
    }
}

impl Walk {
    /// Looks at everything a second time, once all of it was given: what is not told to have
    /// changed was as it was given during all of the time in between, so that the whole is the
    /// site at one moment but for that.
    ///
    /// # Errors
    /// As [`Walk::next`].
    pub async fn changes(mut self) -> Result<(ReadVersions, ChangedObjects), CollectError> {
        let mut changed = self.changed_around().await?;
        let mut again = vec![];
        let lists: Vec<Listed> = std::mem::take(&mut self.listed);
        let client = self.client.clone();
        let mut lists =
            stream::iter(lists).map(|listed| second_look(client.clone(), listed)).buffered(AT_ONCE);
        while let Some((listed, versions, found)) = lists.try_next().await? {
            versions.iter().for_each(|version| note(&mut self.versions, &listed, version));
            for (key, version, derived) in found {
                match self.seen.remove(&key.to_string()) {
                    Some(Seen { version: old, .. }) if old == version => {}
                    Some(Seen { digest: None, .. }) => {}
                    None if derived => {}
                    seen => again.push((listed.clone(), key, seen.and_then(|seen| seen.digest))),
                }
            }
        }
        drop(lists);
        for (at, (listed, key, digest)) in again.into_iter().enumerate() {
            if at >= READ_AGAIN || differs(&client, &listed, &key, digest).await? {
                changed.push(key.to_string());
            }
        }
        // What is left was not there any more.
        let gone = self.seen.into_iter().filter(|(_, seen)| seen.digest.is_some());
        changed.extend(gone.map(|(key, _)| key));
        changed.sort();
        let count = changed.len().try_into().unwrap_or(i64::MAX);
        changed.truncate(NAMED);
        Ok((self.versions, ChangedObjects { count, first: changed }))
    }

    /// The Site and its namespaces.
    async fn changed_around(&mut self) -> Result<Vec<String>, CollectError> {
        let mut around = vec![get_site(&self.client, &self.site).await?];
        for namespace in &self.namespaces {
            around.push(get_namespace(&self.client, &namespace.name).await?);
        }
        let mut changed = vec![];
        for live in around {
            let object = Collected::of(live)?;
            let key = object.key.to_string();
            let before = self.seen.remove(&key).and_then(|seen| seen.digest);
            if before.as_ref() != Some(&object.digest) {
                changed.push(key);
            }
        }
        Ok(changed)
    }
}

/// What a second look at a list gives: the versions of its pages, and of each object its version
/// and whether it is derived, as far as its metadata tell.
type Look = (Listed, Vec<String>, Vec<(ObjectKey, String, bool)>);

async fn second_look(client: Client, listed: Listed) -> Result<Look, CollectError> {
    let mut restarts = 0;
    let mut params = listed.params(Freshness::Live, PAGE);
    let (mut versions, mut found) = (vec![], vec![]);
    loop {
        match listed.page(&client, &params, false).await {
            Ok(page) => {
                versions.push(page.version);
                for item in page.items {
                    let Some(key) = ObjectKey::of(&item) else {
                        return Err(CollectError::Nameless(item["kind"].to_string()));
                    };
                    let version = item["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                    found.push((key, version.to_owned(), is_derived(&item)));
                }
                match page.next {
                    Some(token) => params = params.continue_token(&token),
                    None => return Ok((listed, versions, found)),
                }
            }
            Err(error) if is_expired(&error) && restarts < RESTARTS => {
                restarts += 1;
                found.clear();
                params = listed.params(Freshness::Live, PAGE);
            }
            Err(error) => return Err(listed.failed(error)),
        }
    }
}

/// Whether an object with another resourceVersion is another one for a backup as well.
async fn differs(
    client: &Client,
    listed: &Listed,
    key: &ObjectKey,
    digest: Option<String>,
) -> Result<bool, CollectError> {
    let path = format!("{}/{}", listed.kind.path(key.namespace.as_deref()), key.name);
    let mut live = match get(client, &key.kind, &key.name, path).await {
        Ok(live) => live,
        Err(CollectError::Get { source, .. }) if is_not_found(&source) => {
            return Ok(digest.is_some());
        }
        Err(error) => return Err(error),
    };
    live["apiVersion"] = listed.kind.resource.api_version.clone().into();
    live["kind"] = listed.kind.resource.kind.clone().into();
    if is_derived(&live) {
        return Ok(digest.is_some());
    }
    Ok(Some(Collected::of(live)?.digest) != digest)
}
