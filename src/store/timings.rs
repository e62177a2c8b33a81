//! How long the sites of each Restore took, and how wrong its estimates were: what later estimates
//! rest on, also in another cluster.

use serde::{Deserialize, Serialize};

use super::{Documents, Store, StoreError, layout};
use crate::api::Time;

/// The format of what is kept of a run.
pub const FORMAT: &str = "reprieve.dev/timings/v1";

/// What is kept of a Restore that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunTimings {
    /// The format: [`FORMAT`].
    pub format: String,
    /// Name of the Restore.
    pub restore: String,
    /// UID of the Restore.
    pub restore_uid: String,
    /// Whether it was a drill: then no workloads were waited for.
    pub drill: bool,
    /// When its work began.
    pub start_time: Time,
    /// How many sites were restored at the same time.
    pub parallelism: i32,
    /// Sites that were verified: all of them, or as many drawn evenly from all.
    pub sites: Vec<SiteTiming>,
    /// What was expected at some times of the run, and what came of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub estimates: Vec<CheckedEstimate>,
}

/// How long a site took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteTiming {
    /// Objects of the site.
    pub objects: u64,
    /// From its first object to its last one, in milliseconds.
    pub create_milliseconds: u64,
    /// From then until its workloads were ready, in milliseconds. Absent: they were not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_milliseconds: Option<u64>,
    /// To read everything back and compare it, in milliseconds.
    pub verify_milliseconds: u64,
    /// From then until its hooks had ended well, in milliseconds. Absent: none was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks_milliseconds: Option<u64>,
}

/// An estimate, and the truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedEstimate {
    /// When so much of the objects was back, in percent.
    pub at_percent: u8,
    /// Sites of earlier runs on which it rested. None: how wrong it was says nothing of estimates
    /// that rest on some.
    #[serde(default)]
    pub earlier_sites: u64,
    /// What the model said, before it was corrected by what earlier runs took, in milliseconds.
    pub model_milliseconds: u64,
    /// What was expected to be left (p50), in milliseconds.
    pub expected_milliseconds: u64,
    /// What was expected to be left at most (p90), in milliseconds.
    pub no_later_milliseconds: u64,
    /// What was left, in milliseconds.
    pub actual_milliseconds: u64,
}

impl Store {
    /// Writes down how long the sites of a Restore took; once for each.
    ///
    /// # Errors
    /// A store that cannot be written or read.
    pub async fn note_timings(&self, run: &RunTimings) -> Result<(), StoreError> {
        let place = layout::timings(run.start_time, &run.restore_uid);
        self.put_once(&place, run).await.map(drop)
    }

    /// The newest of these, at most so many, the newest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn last_timings(&self, most: usize) -> Result<Documents<RunTimings>, StoreError> {
        let mut places = self.places(layout::TIMINGS).await?;
        // Each begins with its time.
        places.sort_by(|a, b| b.cmp(a));
        places.truncate(most);
        self.documents_at(places).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::memory;
    use super::*;

    fn run(uid: &str, start: &str) -> RunTimings {
        RunTimings {
            format: FORMAT.to_owned(),
            restore: "r".into(),
            restore_uid: uid.into(),
            drill: false,
            start_time: serde_json::from_value(json!(start)).unwrap(),
            parallelism: 16,
            sites: vec![],
            estimates: vec![],
        }
    }

    #[tokio::test]
    async fn the_newest_are_read() {
        let store = memory();
        assert!(store.last_timings(2).await.unwrap().good.is_empty());
        for (uid, start) in [("c", "2026-11-22T09:00:00Z"), ("a", "2026-11-22T10:00:00Z")] {
            store.note_timings(&run(uid, start)).await.unwrap();
        }
        store.note_timings(&run("b", "2025-11-22T17:00:00Z")).await.unwrap();
        // The first that was written counts.
        let again = RunTimings { parallelism: 1, ..run("a", "2026-11-22T10:00:00Z") };
        store.note_timings(&again).await.unwrap();
        let found = store.last_timings(2).await.unwrap();
        let uids: Vec<(&str, i32)> =
            found.good.iter().map(|run| (&*run.restore_uid, run.parallelism)).collect();
        assert_eq!(uids, [("a", 16), ("c", 16)]);
    }
}
