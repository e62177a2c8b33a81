//! Where things lie in the store.

use crate::api::Time;
use crate::cluster::form::digest_of;

/// The longest readable part of an encoded segment; what is longer ends in a digest instead.
const LONGEST: usize = 120;

/// One path segment for any string: lower-case letters, digits and `-` stand for themselves,
/// every other byte is `_` and two hexadecimal digits. Two strings never share a segment, not
/// even on file systems that ignore case; a long one is shortened and ends in `__` and its digest.
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("_{byte:02x}")),
        }
    }
    if encoded.len() > LONGEST {
        encoded.truncate(LONGEST);
        encoded.push_str("__");
        encoded.push_str(digest_of(text.as_bytes()).trim_start_matches("sha256:"));
    }
    encoded
}

/// The folder of all sites.
pub const SITES: &str = "sites";
/// How the name of an archive ends.
pub const ARCHIVE_SUFFIX: &str = ".jsonl.zst";

/// The folder of a site's archives.
pub fn site_folder(site_id: &str) -> String {
    format!("{SITES}/{}", segment(site_id))
}

/// Where the archive of an attempt at this Backup lies.
pub fn archive(site_id: &str, backup: &str, backup_uid: &str, attempt: &str) -> String {
    let [backup, uid, attempt] = [backup, backup_uid, attempt].map(segment);
    format!("{}/{backup}.{uid}.{attempt}{ARCHIVE_SUFFIX}", site_folder(site_id))
}

/// Where the catalogue entry of an archive lies.
pub fn catalogue_entry(archive: &str) -> String {
    format!("{}.json", archive.strip_suffix(ARCHIVE_SUFFIX).unwrap_or(archive))
}

/// The folder of the records of what was deleted past the guard.
pub const RECORDS: &str = "records";
/// How the name of a file ends that closes a record.
pub const CLOSED_SUFFIX: &str = ".closed";

/// Where the n-th record of the entity with this UID lies.
pub fn record(uid: &str, number: u32) -> String {
    format!("{RECORDS}/{}.{number}.json", segment(uid))
}

/// Where it says that the records of this UID are closed.
pub fn record_closed(uid: &str) -> String {
    format!("{RECORDS}/{}{CLOSED_SUFFIX}", segment(uid))
}

/// The folder of what was purged.
pub const PURGES: &str = "ledger/purged";

/// The folder of what was purged of this id.
pub fn purges_of(id: &str) -> String {
    format!("{PURGES}/{}", segment(id))
}

/// Where it says that the entity with this id and UID was purged.
pub fn purge(id: &str, uid: &str) -> String {
    format!("{}/{}.json", purges_of(id), segment(uid))
}

/// The folder of the DeletionPolicies.
pub const POLICIES: &str = "policies";

/// Where the DeletionPolicy of this name and UID lies.
pub fn policy(name: &str, uid: &str) -> String {
    format!("{POLICIES}/{}/{}.json", segment(name), segment(uid))
}

/// Where the choice of the Restore with this UID lies.
pub fn choice(restore_uid: &str) -> String {
    format!("restores/{}.json", segment(restore_uid))
}

/// The folder of how long Restores took.
pub const TIMINGS: &str = "timings";

/// Where it says how long the Restore with this UID took, which began then. The places are in the
/// order of time.
pub fn timings(start: Time, restore_uid: &str) -> String {
    format!("{TIMINGS}/{}.{}.json", start.utc().format("%Y%m%dt%H%M%Sz"), segment(restore_uid))
}

/// The folder of the evidence of drills, and of what they have proved.
const DRILLS: &str = "drills";

/// Where the evidence of this run of the RestoreDrill with this name and UID lies.
pub fn drill_run(drill: &str, drill_uid: &str, run: &str) -> String {
    let [drill, uid, run] = [drill, drill_uid, run].map(segment);
    format!("{DRILLS}/runs/{drill}/{uid}/{run}.json")
}

/// The folder of what was drilled of every site.
pub const DRILLED: &str = "drills/backups";

/// Where it says that this archive of the site with this id was drilled.
pub fn drilled(site_id: &str, archive: &str) -> String {
    let name = archive.rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".jsonl.zst").unwrap_or(name);
    format!("{DRILLED}/{}/{name}.json", segment(site_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_is_one_segment_of_its_own() {
        let long = "A".repeat(253);
        let ids = ["a", "A", "a/b", "a_2fb", "..", ".", "a%2fb", "ä", "-", &long, &"A".repeat(252)];
        let segments: Vec<String> = ids.iter().map(|id| segment(id)).collect();
        for (id, segment) in ids.iter().zip(&segments) {
            assert!(segment.len() < 200, "{id}");
            assert!(!segment.contains(['/', '.', '%']), "{id}: {segment}");
        }
        let unique: std::collections::BTreeSet<&String> = segments.iter().collect();
        assert_eq!(unique.len(), ids.len());
    }

    #[test]
    fn the_entry_lies_beside_the_archive() {
        let archive = archive("site-1", "acme-1", "0f-1", "b5e2");
        assert_eq!(archive, "sites/site-1/acme-1.0f-1.b5e2.jsonl.zst");
        assert_eq!(catalogue_entry(&archive), "sites/site-1/acme-1.0f-1.b5e2.json");
    }
}
