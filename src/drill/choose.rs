//! Which backups a run tries. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::api::{DrillStrategy, DrilledArchive, Reason, Time};
use crate::cluster::cron::hash;
use crate::store::CatalogueEntry;

/// A backup that can be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its archive.
    pub archive: DrilledArchive,
    /// Size of the archive, in bytes.
    pub bytes: u64,
    /// When a backup of its site was drilled last.
    pub drilled: Option<Time>,
}

/// Why there is nothing to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchosen {
    /// It can never be.
    Refused(Reason, String),
    /// Not yet.
    Waits(Reason, String),
}

/// The newest backup of each site, out of a catalogue that is sorted by time; `drilled` is when a
/// backup of a site, by its id, was drilled last.
pub fn newest(entries: &[CatalogueEntry], drilled: &BTreeMap<String, Time>) -> Vec<Candidate> {
    let mut newest: BTreeMap<&str, &CatalogueEntry> = BTreeMap::new();
    for entry in entries {
        newest.insert(&entry.site.id, entry);
    }
    let candidate = |entry: &CatalogueEntry| Candidate {
        archive: DrilledArchive {
            site: entry.site.name.clone(),
            site_uid: entry.site.uid.clone(),
            site_id: entry.site.id.clone(),
            backup: entry.backup.clone(),
            location: entry.location.clone(),
            digest: entry.digest.clone(),
            objects: i64::try_from(entry.objects).unwrap_or(i64::MAX),
        },
        bytes: entry.bytes,
        drilled: drilled.get(&entry.site.id).copied(),
    };
    newest.into_values().map(candidate).collect()
}

/// So many of them, by this strategy; `seed` decides where it is to be chance, and between equals.
pub fn sample(
    mut all: Vec<Candidate>,
    sites: i64,
    strategy: DrillStrategy,
    seed: i64,
) -> Vec<DrilledArchive> {
    let lot = |candidate: &Candidate| hash(&format!("{seed}/{}", candidate.archive.site_id));
    all.sort_by_cached_key(lot);
    match strategy {
        DrillStrategy::Random => {}
        // Never drilled comes before any time.
        DrillStrategy::Oldest => all.sort_by_key(|candidate| candidate.drilled),
        DrillStrategy::Largest => all.sort_by_key(|candidate| Reverse(candidate.bytes)),
    }
    all.truncate(usize::try_from(sites).unwrap_or_default());
    all.into_iter().map(|candidate| candidate.archive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(id: &str, bytes: u64, drilled: Option<i64>) -> Candidate {
        let archive = DrilledArchive {
            site: id.into(),
            site_uid: "u".into(),
            site_id: id.into(),
            backup: "b".into(),
            location: format!("sites/{id}/b"),
            digest: "d".into(),
            objects: 1,
        };
        let time = |s| chrono::DateTime::from_timestamp(s, 0).unwrap().into();
        Candidate { archive, bytes, drilled: drilled.map(time) }
    }

    fn ids(sample: &[DrilledArchive]) -> Vec<&str> {
        sample.iter().map(|archive| archive.site_id.as_str()).collect()
    }

    #[test]
    fn who_is_drilled() {
        let all = vec![
            candidate("a", 5, Some(30)),
            candidate("b", 9, Some(10)),
            candidate("c", 1, None),
            candidate("d", 7, Some(20)),
        ];
        let by = |sites, strategy, seed| sample(all.clone(), sites, strategy, seed);
        assert_eq!(ids(&by(3, DrillStrategy::Oldest, 1)), ["c", "b", "d"]);
        assert_eq!(ids(&by(2, DrillStrategy::Largest, 1)), ["b", "d"]);
        assert_eq!(by(9, DrillStrategy::Random, 1).len(), 4, "no more than there are");
        // Anybody can draw it again, and everybody is drawn some time.
        assert_eq!(by(2, DrillStrategy::Random, 7), by(2, DrillStrategy::Random, 7));
        let mut drawn: Vec<String> = (0..40)
            .flat_map(|seed| by(1, DrillStrategy::Random, seed))
            .map(|archive| archive.site_id)
            .collect();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn, ["a", "b", "c", "d"]);
    }

    #[test]
    fn of_each_site_the_newest() {
        let entry = |id: &str, backup: &str, time: &str| -> CatalogueEntry {
            serde_json::from_value(json!({
                "format": crate::store::catalogue::FORMAT, "backup": backup,
                "site": {"name": id, "uid": "u", "id": id}, "purpose": "Manual", "time": time,
                "location": format!("sites/{id}/{backup}.jsonl.zst"), "digest": "d", "objects": 3, "bytes": 9,
            }))
            .unwrap()
        };
        let entries = [
            entry("a", "a-1", "2026-01-01T00:00:00Z"),
            entry("b", "b-1", "2026-01-02T00:00:00Z"),
            entry("a", "a-2", "2026-01-03T00:00:00Z"),
        ];
        let time: Time = serde_json::from_value(json!("2026-01-04T00:00:00Z")).unwrap();
        let found = newest(&entries, &BTreeMap::from([("b".to_owned(), time)]));
        let short: Vec<_> =
            found.iter().map(|c| (c.archive.backup.as_str(), c.drilled.is_some())).collect();
        assert_eq!(short, [("a-2", false), ("b-1", true)]);
    }
}
