//! Which archives may be taken out of the store. Pure. In doubt everything is kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{BackupPurpose, Time};
use crate::cluster::clock_skew;
use crate::store::{ArchiveFile, CatalogueEntry, Shelf};

/// How old an archive without a catalogue entry must be, in seconds: nobody is at it any more.
const LEFT_OVER: i64 = 86_400;

/// What is known of the site whose backups these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The Site with this id, by UID, and for how long it wants its backups kept.
    pub lives: Option<(String, Option<i64>)>,
    /// The UIDs of Sites that DeletionRequests have purged.
    pub purged: BTreeSet<String>,
}

/// What keeps archives, whatever their time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The archives that open DeletionRequests depend on, by location.
    pub locations: BTreeSet<String>,
    /// The ids of what open DeletionRequests are about.
    pub ids: BTreeSet<String>,
    /// The Backups that are there, and until when each is to be kept, by the archive's location.
    pub backups: BTreeMap<String, Option<Time>>,
    /// A Restore that runs: what it reads is not for others to tell.
    pub restore: Option<String>,
}

/// What of a site's part of the store may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Backups that have expired.
    pub expired: Vec<CatalogueEntry>,
    /// Archives that are no backups: of attempts that failed, or half taken away.
    pub left_over: Vec<String>,
}

/// The time by which backups expire. None, in words: nobody can tell.
///
/// # Errors
/// The operator's clock and the API server's disagree.
pub fn time(own: Time, api_server: Time) -> Result<Time, String> {
    if clock_skew(own, api_server).is_some() {
        return Err(format!(
            "the operator's clock says {own}, the API server's {api_server}: no backup expires until they agree"
        ));
    }
    Ok(own.min(api_server))
}

/// What may go of this part of the store.
pub fn decide(shelf: &Shelf, owner: &Owner, needed: &Needed, now: Time) -> Verdict {
    // What cannot be read might be the newest one.
    if !shelf.listing.refused.is_empty() || needed.restore.is_some() {
        return Verdict::default();
    }
    let entries = &shelf.listing.entries;
    if entries.iter().any(|entry| needed.ids.contains(&entry.site.id)) {
        return Verdict::default();
    }
    let last = last_ones(shelf, owner);
    let expired: Vec<CatalogueEntry> = entries
        .iter()
        .filter(|entry| !needed.locations.contains(&entry.location))
        .filter(|entry| !last.contains(entry.location.as_str()))
        .filter(|entry| kept_until(entry, owner, needed).is_some_and(|until| until < now))
        .cloned()
        .collect();
    let left_over = shelf.archives.iter().filter(|file| is_left_over(file, shelf, now));
    let left_over = left_over.map(|file| file.location.clone()).collect();
    Verdict { expired, left_over }
}

/// The last backup of each Site that may live: the newest whose archive is there in full.
fn last_ones<'a>(shelf: &'a Shelf, owner: &Owner) -> BTreeSet<&'a str> {
    let whole = |entry: &CatalogueEntry| {
        let same = |f: &ArchiveFile| f.location == entry.location && f.size == entry.bytes;
        shelf.archives.iter().any(same)
    };
    let mut last: BTreeMap<&str, &CatalogueEntry> = BTreeMap::new();
    for entry in shelf.listing.entries.iter().filter(|entry| whole(entry)) {
        let newest = last.entry(&entry.site.uid).or_insert(entry);
        if newest.time <= entry.time {
            *newest = entry;
        }
    }
    last.retain(|uid, _| !owner.purged.contains(*uid));
    let mut last: BTreeSet<&str> = last.values().map(|entry| entry.location.as_str()).collect();
    // A Site that has lost every archive keeps whatever is said of it.
    for entry in &shelf.listing.entries {
        let gone = !owner.purged.contains(&entry.site.uid);
        let of_site = |other: &&CatalogueEntry| other.site.uid == entry.site.uid;
        if gone && !shelf.listing.entries.iter().filter(of_site).any(whole) {
            last.insert(&entry.location);
        }
    }
    last
}

/// Until when a backup is kept: the latest that anybody said. None: for ever.
fn kept_until(entry: &CatalogueEntry, owner: &Owner, needed: &Needed) -> Option<Time> {
    let backup = needed.backups.get(&entry.location);
    // How long it is kept past the purge stands in its Backup alone.
    if entry.purpose == BackupPurpose::BeforeDeletion && backup.is_none() {
        return None;
    }
    let keep = owner.lives.as_ref().and_then(|(_, keep)| *keep);
    let by_site = keep.map(|seconds| entry.time.plus_seconds(seconds));
    [entry.keep_until_time, backup.copied().flatten(), by_site].into_iter().flatten().max()
}

/// Whether this is an archive that was never a backup, or is half taken away.
fn is_left_over(file: &ArchiveFile, shelf: &Shelf, now: Time) -> bool {
    let listed = |location: &str| shelf.listing.entries.iter().any(|e| e.location == location);
    if listed(&file.location) || now.seconds_since(file.modified) < LEFT_OVER {
        return false;
    }
    // An entry may have been lost: only where another attempt was good is it known to be none.
    let again = shelf.archives.iter().any(|other| {
        other.backup().is_some() && other.backup() == file.backup() && listed(&other.location)
    });
    again || shelf.expired.contains(&file.location)
}

#[cfg(test)]
#[path = "expire_tests.rs"]
mod tests;
