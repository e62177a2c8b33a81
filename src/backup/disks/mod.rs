//! Kept disks of what was purged: once the last backup that needs one has expired, it is announced
//! that the volume gets its former reclaim policy back, and a week later that is done. With the
//! policy `Delete` the disk is then gone for good, so that in doubt it stays kept.

mod act;
pub mod decide;
mod observe;

use crate::cluster::metrics::KeptDisk;
use crate::cluster::{Context, Result};
use crate::store::Store;

/// How long before it is done it is announced, in seconds: 7 days.
pub const NOTICE_SECONDS: i64 = 7 * 86_400;

/// What a look at the kept disks came to: names of PersistentVolumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Those that are to get their former policy back, announced at this look.
    pub announced: Vec<String>,
    /// Those of which that is not so any more.
    pub withdrawn: Vec<String>,
    /// Those that got it back.
    pub released: Vec<String>,
    /// How many are kept, and nothing is announced of them.
    pub kept: i64,
    /// How many are announced.
    pub waiting: i64,
}

impl Looked {
    /// Counts a disk that is kept, by whether it is announced.
    fn count(&mut self, announced: Option<bool>) {
        match announced {
            Some(true) => self.waiting += 1,
            Some(false) => self.kept += 1,
            None => {}
        }
    }
}

/// Looks at every kept disk once. `notice_seconds` is how long before it is done it is announced.
///
/// # Errors
/// Clocks that disagree, and anything that cannot be read: then nothing more is done.
pub async fn look(ctx: &Context, store: &Store, notice_seconds: i64) -> Result<Looked> {
    let mut looked = Looked::default();
    let groups = observe::groups(ctx).await?;
    let ledger = observe::ledger(store, &groups).await?;
    for disks in groups {
        // Read anew for the disks of each site: what is needed now must not come from a memory.
        let facts = observe::observe(ctx, store, &ledger, disks).await?;
        for disk in &facts.disks {
            let decision = decide::decide(disk, &facts, notice_seconds);
            act::act(ctx, disk, decision, &mut looked).await;
        }
    }
    for (state, number) in [("kept", looked.kept), ("announced", looked.waiting)] {
        ctx.metrics.kept_disks.get_or_create(&KeptDisk { state }).set(number);
    }
    Ok(looked)
}
