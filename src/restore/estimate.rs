//! When the sites of a Restore will be back: how long each stage took for the sites that are done,
//! in this run and in earlier ones, drawn again and again for those that are not. Pure.
//!
//! The method is a bootstrap (Efron 1979) through the queue as it stands: each of many trials gives
//! every site the measured rates of some site that is done, and lets the queue run off. What all
//! sites of a run have in common (a slow day of the API server) does not average out over many
//! sites; a trial therefore also has a factor of its own, as wide as earlier estimates were wrong.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Trials of one estimate.
const TRIALS: u32 = 200;
/// With so many sites of this run done, half of what is drawn comes from this run; with many more,
/// nearly all.
const TRUST: f64 = 3.0;
/// How wrong estimates are until it was measured: the standard deviation of the logarithm of what
/// a run took to what was expected.
const FIRST_SPREAD: f64 = 0.25;
/// Past errors that are needed before their own spread counts.
const ENOUGH_ERRORS: usize = 5;
/// The least spread: no number of sites makes the future certain.
const LEAST_SPREAD: f64 = 0.05;
/// While anything runs, at least so much is left.
const LEAST: Duration = Duration::from_secs(1);
/// By how much an estimate must have moved before it is told again.
const MOVED: f64 = 0.1;

/// What a site that is done has taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Objects of the site.
    pub objects: u64,
    /// From its first object to its last one.
    pub create: Duration,
    /// From then until what was ready in the backup was ready again.
    pub ready: Duration,
    /// To read back and compare.
    pub verify: Duration,
}

/// What is known of how long things take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Sites of this run.
    pub this_run: Vec<Sample>,
    /// Sites of earlier runs and drills.
    pub earlier: Vec<Sample>,
    /// For runs that have ended, what was left at some time, divided by what was expected (p50).
    pub errors: Vec<f64>,
}

/// A site that is not done, in the order in which they get their turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pending {
    /// Objects of the site.
    pub objects: u64,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a site stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Its turn has not come.
    Queued,
    /// So many of its objects are there.
    Creating(u64),
    /// Everything is there; it has waited so long for its workloads.
    WaitingForReady(Duration),
    /// It is being read back.
    Verifying,
}

/// How long something still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// In half of the trials it took no longer.
    pub p50: Duration,
    /// In nine of ten trials it took no longer.
    pub p90: Duration,
}

/// What is expected of a Restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Until every site is done.
    pub all: Left,
    /// Until each pending site is done, in their order.
    pub sites: Vec<Left>,
    /// Sites of this run on which it rests.
    pub this_run: usize,
    /// Sites of earlier runs and drills on which it rests.
    pub earlier: usize,
}

impl Estimate {
    /// What the estimate rests on, in words.
    pub fn basis(&self) -> String {
        format!("{} sites of this run, {} of earlier runs", self.this_run, self.earlier)
    }
}

/// How long the pending sites still take, when so many are worked on at a time. None: nothing is
/// known that it could rest on, or nothing is pending.
pub fn estimate(known: &Known, pending: &[Pending], slots: usize) -> Option<Estimate> {
    let nothing = known.this_run.is_empty() && known.earlier.is_empty();
    if nothing || pending.is_empty() {
        return None;
    }
    let mut random = Random(0x5eed);
    let spread = spread(&known.errors);
    let mut of_sites = vec![Vec::with_capacity(TRIALS as usize); pending.len()];
    let mut of_all = Vec::with_capacity(TRIALS as usize);
    for trial in 0..TRIALS {
        // One trial from each slice of the distribution, so that few trials cover all of it.
        let common = (spread * normal((f64::from(trial) + 0.5) / f64::from(TRIALS))).exp();
        let ends = trial_of(known, pending, slots.max(1), common, &mut random);
        of_all.push(ends.iter().copied().fold(0.0, f64::max));
        for (all, end) in of_sites.iter_mut().zip(ends) {
            all.push(end);
        }
    }
    Some(Estimate {
        all: left(&mut of_all),
        sites: of_sites.iter_mut().map(|ends| left(ends)).collect(),
        this_run: known.this_run.len(),
        earlier: known.earlier.len(),
    })
}

/// When each pending site is done, in seconds from now, in one trial.
fn trial_of(
    known: &Known,
    pending: &[Pending],
    slots: usize,
    common: f64,
    random: &mut Random,
) -> Vec<f64> {
    // The times at which a slot becomes free, the soonest on top. Whole microseconds, because
    // fractions have no order.
    let mut free: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut ends = vec![0.0; pending.len()];
    let begun = |site: &Pending| site.stage != Stage::Queued;
    let (running, queued): (Vec<_>, Vec<_>) =
        pending.iter().enumerate().partition(|(_, site)| begun(site));
    for (index, site) in running.into_iter().chain(queued) {
        let SecondsLeft { busy, waiting } = seconds_left(site, draw(known, random));
        let soonest = if free.len() < slots { 0 } else { free.pop().map_or(0, |Reverse(at)| at) };
        let start = soonest as f64 / 1e6;
        ends[index] = start + common * (busy + waiting);
        free.push(Reverse(((start + common * busy) * 1e6) as u64));
    }
    ends
}

/// The measured times of one site that is done.
fn draw(known: &Known, random: &mut Random) -> Sample {
    let (own, earlier) = (&known.this_run, &known.earlier);
    let trust = own.len() as f64 / (own.len() as f64 + TRUST);
    let from = if earlier.is_empty() || (!own.is_empty() && random.fraction() < trust) {
        own
    } else {
        earlier
    };
    from[(random.fraction() * from.len() as f64) as usize % from.len()]
}

/// What a site still takes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SecondsLeft {
    /// With one of the slots.
    busy: f64,
    /// For its workloads, which takes no slot from others.
    waiting: f64,
}

/// What a site still takes if it goes as it went for the sample.
fn seconds_left(site: &Pending, sample: Sample) -> SecondsLeft {
    let of = sample.objects.max(1) as f64;
    let create = sample.create.as_secs_f64() / of;
    let verify = sample.verify.as_secs_f64() / of * site.objects as f64;
    let ready = sample.ready.as_secs_f64();
    let (create, waiting) = match site.stage {
        Stage::Queued => (create * site.objects as f64, ready),
        Stage::Creating(done) => (create * site.objects.saturating_sub(done) as f64, ready),
        Stage::WaitingForReady(waited) => {
            let waited = waited.as_secs_f64();
            // What has waited longer than the sample is expected to wait as long again.
            (0.0, if ready > waited { ready - waited } else { waited })
        }
        Stage::Verifying => (0.0, 0.0),
    };
    SecondsLeft { busy: create + verify, waiting }
}

/// The spread of past errors, about an expectation that is right on average: an estimate that was
/// always too short by half is as wrong as one that scatters.
fn spread(errors: &[f64]) -> f64 {
    let logs: Vec<f64> = errors.iter().filter(|e| **e > 0.0).map(|e| e.ln()).collect();
    if logs.len() < ENOUGH_ERRORS {
        return FIRST_SPREAD;
    }
    let square: f64 = logs.iter().map(|l| l * l).sum::<f64>() / logs.len() as f64;
    square.sqrt().max(LEAST_SPREAD)
}

fn left(seconds: &mut [f64]) -> Left {
    seconds.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let index = ((seconds.len() as f64 * part).ceil() as usize).clamp(1, seconds.len()) - 1;
        Duration::from_secs_f64(seconds[index]).max(LEAST)
    };
    Left { p50: at(0.5), p90: at(0.9) }
}

/// Whether an estimate differs so much from the one that was told, which is `age` old, that it is
/// to be told again.
pub fn has_moved(told: Left, age: Duration, new: Left) -> bool {
    let moved = |told: Duration, new: Duration| {
        let expected = told.saturating_sub(age).max(LEAST).as_secs_f64();
        (new.as_secs_f64() - expected).abs() > MOVED * expected.max(new.as_secs_f64())
    };
    moved(told.p50, new.p50) || moved(told.p90, new.p90)
}

/// splitmix64 (Steele, Lea, Flood 2014): the same facts give the same estimate.
struct Random(u64);

impl Random {
    /// A fraction from 0 to below 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The quantile of the standard normal distribution, to about 0.003 (Abramowitz and Stegun
/// 26.2.22, which is good to that).
fn normal(part: f64) -> f64 {
    let tail = part.min(1.0 - part).max(1e-9);
    let t = (-2.0 * tail.ln()).sqrt();
    let x = t - (2.30753 + 0.27061 * t) / (1.0 + 0.99229 * t + 0.04481 * t * t);
    if part < 0.5 { -x } else { x }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
