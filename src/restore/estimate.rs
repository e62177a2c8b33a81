//! When the sites of a Restore will be back: how long each stage took for the sites that are done,
//! in this run and in earlier ones, drawn again and again for those that are not. Pure.
//!
//! The method is a bootstrap (Efron 1979) through the queue as it stands. How long a site takes to
//! be created and to be read back is a line over its number of objects, fitted to what was
//! measured; each of many trials gives every site the line's value times the error of some site
//! that is done, the wait of some site for its workloads, and what the `afterRestore` hooks of some
//! site took where it has such, and lets the queue run off. What all
//! sites of a run have in common (a slow day of the API server) does not average out over many
//! sites, nor does what the model leaves out; a trial therefore also has a factor of its own, about
//! what earlier runs took of what the model said. How far these scattered is all that is known of
//! how wide the truth lies: the factor is as wide as the trials themselves fall short of it, and
//! where they lie wider, they are drawn together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::statistics::{Line, Random, Waits, normal};
use crate::api::Time;

/// Trials of one estimate.
const TRIALS: u32 = 200;
/// All earlier runs together count as so many sites of this run: with so many done, half of what is
/// drawn comes from this run; with many more, nearly all.
const TRUST: f64 = 3.0;
/// How wrong estimates are until it was measured: the standard deviation of the logarithm of what
/// a run took to what was expected.
const FIRST_SPREAD: f64 = 0.3;
/// Errors are averaged as if so many runs had been without any.
const DOUBT: f64 = 1.0;
/// Past errors that are needed before their own spread counts.
const ENOUGH_ERRORS: usize = 5;
/// The standard normal distribution's quantile for 0.9.
const NINE_OF_TEN: f64 = 1.2816;
/// The least spread: no number of sites makes the future certain.
const LEAST_SPREAD: f64 = 0.05;
/// While anything runs, at least so much is left.
const LEAST: Duration = Duration::from_secs(5);
/// By which part an estimate must have moved before it is told again.
const MOVED: f64 = 0.1;
/// A move by fewer seconds is no news.
const MOVED_SECONDS: f64 = 2.0;

/// What a site that is done has taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Objects of the site.
    pub objects: u64,
    /// From its first object to its last one.
    pub create: Duration,
    /// From then until what was ready in the backup was ready again. None: it was not waited for.
    pub ready: Option<Duration>,
    /// To read back and compare.
    pub verify: Duration,
    /// From then until its hooks had ended well. None: it has none, or not such as count here.
    pub hooks: Option<Duration>,
}

/// What is known of how long things take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Sites of this run.
    pub this_run: Vec<Sample>,
    /// Sites of earlier runs and drills.
    pub earlier: Vec<Sample>,
    /// For runs that have ended, what was left when as much was back as is now, divided by what the
    /// model said: [`End::model`].
    pub errors: Vec<f64>,
    /// The longest wait for workloads: then a site has failed. None: nothing is waited for.
    pub patience: Option<Duration>,
}

/// A site that is not done, in the order in which they get their turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pending {
    /// Objects of the site.
    pub objects: u64,
    /// Where it stands.
    pub stage: Stage,
    /// For how long it has been held up by something that may pass: it is expected to last as long
    /// again.
    pub stuck: Duration,
    /// Whether it has hooks that are run once it was read back.
    pub hooks: bool,
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
    /// Everything was read back; its hooks are under way for so long.
    RunningHooks(Duration),
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
    /// Until the last site has its turn.
    pub queue: Left,
    /// Until every object is created.
    pub create: Left,
    /// What comes then. None: no run has shown how long workloads take to become ready.
    pub end: Option<End>,
    /// Sites of this run on which it rests.
    pub this_run: usize,
    /// Sites of earlier runs and drills on which it rests.
    pub earlier: usize,
}

/// What is expected of the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Until the workloads of every site are ready.
    pub ready: Left,
    /// Until every site is done. None: some have hooks, and no run has shown how long hooks take.
    pub all: Option<Left>,
    /// The same (p50), as it is before it is corrected by what earlier runs took.
    pub model: Duration,
    /// Until each pending site is done, in their order. None: as of `all`.
    pub sites: Vec<Option<Left>>,
}

/// How long the pending sites still take, when so many are worked on at a time. None: nothing is
/// known that it could rest on, or nothing is pending.
pub fn estimate(known: &Known, pending: &[Pending], slots: usize) -> Option<Estimate> {
    let basis = Basis::of(known)?;
    if pending.is_empty() {
        return None;
    }
    let mut random = Random(0x5eed);
    let mut of_sites = vec![Vec::with_capacity(TRIALS as usize); pending.len()];
    let (mut queue, mut create, mut ready, mut all) = (vec![], vec![], vec![], vec![]);
    for _ in 0..TRIALS {
        let ways = trial_of(&basis, pending, slots.max(1), &mut random);
        let last = |of: fn(&Way) -> f64| ways.iter().map(of).fold(0.0, f64::max);
        queue.push(last(|way| way.begun));
        create.push(last(|way| way.created));
        ready.push(last(|way| way.ready));
        all.push(last(|way| way.done));
        for (all, way) in of_sites.iter_mut().zip(ways) {
            all.push(way.done);
        }
    }
    let model = Spread::of(&all);
    let wide = Widening::of(&model, &known.errors);
    let known_end = |site: &Pending| !site.hooks || !basis.hooks.is_empty();
    let end = || {
        let sites = of_sites.iter().zip(pending);
        End {
            ready: wide.left(&ready),
            all: pending.iter().all(known_end).then(|| wide.left(&all)),
            model: Duration::from_secs_f64(model.middle),
            sites: sites.map(|(ends, site)| known_end(site).then(|| wide.left(ends))).collect(),
        }
    };
    Some(Estimate {
        queue: wide.left(&queue),
        create: wide.left(&create),
        end: basis.knows_the_end().then(end),
        this_run: known.this_run.len(),
        earlier: known.earlier.len(),
    })
}

/// When a site passes its stages in one trial, in seconds from now.
struct Way {
    begun: f64,
    created: f64,
    ready: f64,
    done: f64,
}

fn trial_of(basis: &Basis, pending: &[Pending], slots: usize, random: &mut Random) -> Vec<Way> {
    // The times at which a slot becomes free, the soonest on top. Whole microseconds, because
    // fractions have no order.
    let mut free: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut ways: Vec<Option<Way>> = pending.iter().map(|_| None).collect();
    let begun = |site: &Pending| site.stage != Stage::Queued;
    let (running, queued): (Vec<_>, Vec<_>) =
        pending.iter().enumerate().partition(|(_, site)| begun(site));
    for (index, site) in running.into_iter().chain(queued) {
        let SecondsLeft { create, waiting, verify, hooks } = basis.draw(site, random);
        let soonest = if free.len() < slots { 0 } else { free.pop().map_or(0, |Reverse(at)| at) };
        let start = soonest as f64 / 1e6;
        let created = start + create;
        let ready = created + waiting;
        ways[index] = Some(Way { begun: start, created, ready, done: ready + verify + hooks });
        // Who waits for its workloads, or its hooks, keeps nobody from his turn.
        free.push(Reverse(((start + create + verify) * 1e6) as u64));
    }
    ways.into_iter().flatten().collect()
}

/// What a site still takes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SecondsLeft {
    create: f64,
    waiting: f64,
    verify: f64,
    hooks: f64,
}

/// What a drawn site has to say of the others.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    /// Of all weights up to and with this one, the sum.
    up_to: f64,
    /// What it took to be created, divided by what the line says.
    create: f64,
    /// The same of reading it back.
    verify: f64,
}

/// What estimates are drawn from.
struct Basis {
    create: Line,
    verify: Line,
    drawn: Vec<Drawn>,
    /// Waits for workloads.
    waits: Waits,
    patience: Option<f64>,
    /// Waits for hooks.
    hooks: Waits,
}

impl Basis {
    /// None: nothing is known.
    fn of(known: &Known) -> Option<Self> {
        let earlier = match (known.this_run.is_empty(), known.earlier.len()) {
            (true, _) => 1.0,
            (false, many) => (TRUST / many as f64).min(1.0),
        };
        let all: Vec<(&Sample, f64)> = known.this_run.iter().map(|sample| (sample, 1.0)).collect();
        let all = [all, known.earlier.iter().map(|sample| (sample, earlier)).collect()].concat();
        if all.is_empty() {
            return None;
        }
        let line = |of: fn(&Sample) -> Duration| {
            let point = |(sample, weight): &(&Sample, f64)| {
                (sample.objects.max(1) as f64, of(sample).as_secs_f64(), *weight)
            };
            Line::through(&all.iter().map(point).collect::<Vec<_>>())
        };
        let (create, verify) = (line(|sample| sample.create), line(|sample| sample.verify));
        let to = |line: Line, sample: &Sample, took: Duration| match line.at(sample.objects.max(1))
        {
            expected if expected > 0.0 => took.as_secs_f64() / expected,
            _ => 1.0,
        };
        let mut up_to = 0.0;
        let mut drawn = vec![];
        for (sample, weight) in &all {
            up_to += weight;
            let (create, verify) =
                (to(create, sample, sample.create), to(verify, sample, sample.verify));
            drawn.push(Drawn { up_to, create, verify });
        }
        let waits = |of: fn(&Sample) -> Option<Duration>| {
            let wait =
                |(sample, weight): &(&Sample, f64)| Some((of(sample)?.as_secs_f64(), *weight));
            Waits::of(all.iter().filter_map(wait).collect())
        };
        let (waits, hooks) = (waits(|sample| sample.ready), waits(|sample| sample.hooks));
        let patience = known.patience.map(|patience| patience.as_secs_f64());
        Some(Self { create, verify, drawn, waits, patience, hooks })
    }

    /// Whether it is known how long workloads take, where they are waited for.
    fn knows_the_end(&self) -> bool {
        self.patience.is_none() || !self.waits.is_empty()
    }

    /// What a site still takes if it goes as it went for some other.
    fn draw(&self, site: &Pending, random: &mut Random) -> SecondsLeft {
        let total = self.drawn.last().map_or(0.0, |last| last.up_to);
        let at = random.fraction() * total;
        let drawn =
            self.drawn[self.drawn.partition_point(|d| d.up_to <= at).min(self.drawn.len() - 1)];
        let whole = self.create.at(site.objects.max(1)) * drawn.create;
        let verify = self.verify.at(site.objects.max(1)) * drawn.verify;
        let stuck = site.stuck.as_secs_f64();
        let (create, waiting) = match site.stage {
            Stage::Queued => (whole, self.wait(0.0, random)),
            Stage::Creating(done) => {
                let left = site.objects.saturating_sub(done) as f64 / site.objects.max(1) as f64;
                (whole * left, stuck + self.wait(0.0, random))
            }
            Stage::WaitingForReady(waited) => (0.0, self.wait(waited.as_secs_f64(), random)),
            Stage::Verifying | Stage::RunningHooks(_) => (0.0, stuck),
        };
        let (verify, hooks) = match site.stage {
            Stage::RunningHooks(waited) => (0.0, self.hooks.left(waited.as_secs_f64(), random)),
            _ if site.hooks => (verify, self.hooks.left(0.0, random)),
            _ => (verify, 0.0),
        };
        SecondsLeft { create, waiting, verify, hooks }
    }

    /// How long the workloads of a site still take that has waited so long.
    fn wait(&self, waited: f64, random: &mut Random) -> f64 {
        let Some(patience) = self.patience else { return 0.0 };
        self.waits.left(waited, random).min((patience - waited).max(0.0))
    }
}

/// Where trials lie.
struct Spread {
    /// Half of them are no longer, in seconds.
    middle: f64,
    /// The standard deviation of their logarithms, as far as the longer half shows it.
    width: f64,
}

impl Spread {
    fn of(trials: &[f64]) -> Self {
        let mut sorted = trials.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (middle, longer) = (quantile(&sorted, 0.5), quantile(&sorted, 0.9));
        let width = if middle > 0.0 { (longer / middle).ln() / NINE_OF_TEN } else { 0.0 };
        Self { middle, width }
    }
}

/// What makes of trials an estimate: past errors.
struct Widening {
    /// The factor that each trial has for itself.
    common: Vec<f64>,
    /// By which power what is longer than the middle is drawn to it.
    together: f64,
}

impl Widening {
    fn of(model: &Spread, errors: &[f64]) -> Self {
        let logs: Vec<f64> = errors.iter().filter(|e| **e > 0.0).map(|e| e.ln()).collect();
        let n = logs.len() as f64;
        let center = logs.iter().sum::<f64>() / (n + DOUBT);
        let (width, together) = if logs.len() < ENOUGH_ERRORS {
            (FIRST_SPREAD, 1.0)
        } else {
            let square = logs.iter().map(|l| (l - center) * (l - center)).sum::<f64>() / n;
            // What few have shown is wider in truth.
            let seen = (square.sqrt() * (1.0 + 2.0 / n)).max(LEAST_SPREAD);
            let more = (seen * seen - model.width * model.width).max(0.0).sqrt();
            (more, if model.width > seen { seen / model.width } else { 1.0 })
        };
        let factor = |trial: u32| {
            // One trial from each slice of the distribution, so that few trials cover all of it.
            let part = (f64::from(trial) + 0.5) / f64::from(TRIALS);
            (center + width * normal(part)).exp()
        };
        Self { common: (0..TRIALS).map(factor).collect(), together }
    }

    /// What trials, in their order, say of how long something takes.
    fn left(&self, trials: &[f64]) -> Left {
        let mut seconds: Vec<f64> = trials.iter().zip(&self.common).map(|(t, c)| t * c).collect();
        seconds.sort_by(f64::total_cmp);
        let (p50, p90) = (quantile(&seconds, 0.5), quantile(&seconds, 0.9));
        let p90 = if p50 > 0.0 { p50 * (p90 / p50).powf(self.together) } else { p90 };
        let least = |seconds: f64| Duration::from_secs_f64(seconds).max(LEAST);
        Left { p50: least(p50), p90: least(p90) }
    }
}

/// Of these, sorted, the one below which this part of them lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len()) - 1]
}

/// What was told of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// When it is expected: p50.
    pub expected: Time,
    /// When at the latest: p90.
    pub no_later: Time,
}

impl Promise {
    /// What to tell now: what was told, unless it has moved by a tenth. Time that passes as expected
    /// is no news; what was told and has passed while it runs is.
    pub fn of(left: Left, told: Option<Self>, now: Time) -> Self {
        let at = |left: Duration| {
            now.plus_seconds(i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX))
        };
        let fresh = Self { expected: at(left.p50), no_later: at(left.p90) };
        let moved = |told: Time, new: Time| {
            let (told, new) = (told.seconds_since(now) as f64, new.seconds_since(now) as f64);
            let by = (new - told).abs();
            told < 1.0 || (by > MOVED_SECONDS && by > MOVED * told.max(new))
        };
        match told {
            Some(told)
                if !moved(told.expected, fresh.expected)
                    && !moved(told.no_later, fresh.no_later) =>
            {
                told
            }
            _ => fresh,
        }
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
