//! How many bytes of objects may be in memory at a time, over all Restores of this process. With it
//! the memory that a restore takes depends neither on the size of a site nor on how many sites are
//! restored at the same time.

use tokio::sync::{Semaphore, SemaphorePermit};

const KIB: usize = 1024;
/// The whole budget, in KiB.
const TOTAL: usize = 24 * KIB;
static BUDGET: Semaphore = Semaphore::const_new(TOTAL);

/// Waits until that many bytes may be taken; what is larger than the whole budget waits for all of
/// it. Who holds a permit must not wait for another one.
pub async fn take(bytes: usize) -> Option<SemaphorePermit<'static>> {
    let kib = bytes.div_ceil(KIB).clamp(1, TOTAL);
    BUDGET.acquire_many(u32::try_from(kib).unwrap_or(u32::MAX)).await.ok()
}
