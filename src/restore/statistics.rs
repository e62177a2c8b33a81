//! The little statistics that estimates need. Pure.

/// A line: seconds over the number of objects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Seconds for a site without objects.
    pub fixed: f64,
    /// Seconds more for each object.
    pub per_object: f64,
}

impl Line {
    /// Seconds for so many objects.
    pub fn at(self, objects: u64) -> f64 {
        self.fixed + self.per_object * objects as f64
    }

    /// The line nearest to these `(objects, seconds, weight)`, by weighted least squares with a
    /// variance that grows with the size; neither part is below zero.
    pub fn through(points: &[(f64, f64, f64)]) -> Self {
        let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
            points.iter().map(|&(n, t, w)| w / n * of(n, t)).sum()
        };
        let (one, n, t) = (sum(&|_, _| 1.0), sum(&|n, _| n), sum(&|_, t| t));
        let (nn, nt) = (sum(&|n, _| n * n), sum(&|n, t| n * t));
        let determinant = one * nn - n * n;
        if determinant > 1e-9 * one * nn {
            let per_object = (one * nt - n * t) / determinant;
            let fixed = (t - per_object * n) / one;
            if per_object >= 0.0 && fixed >= 0.0 {
                return Self { fixed, per_object };
            }
            if per_object < 0.0 {
                return Self { fixed: t / one, per_object: 0.0 };
            }
        }
        Self { fixed: 0.0, per_object: nt / nn }
    }
}

/// How long some have waited for something, the shortest first, in seconds, with the sum of the
/// weights up to it.
#[derive(Debug)]
pub struct Waits(Vec<(f64, f64)>);

impl Waits {
    /// Of these, each with its weight.
    pub fn of(mut waits: Vec<(f64, f64)>) -> Self {
        waits.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut up_to = 0.0;
        for (_, weight) in &mut waits {
            up_to += *weight;
            *weight = up_to;
        }
        Self(waits)
    }

    /// Whether nobody has waited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How long somebody still waits who has waited so long, in seconds.
    pub fn left(&self, waited: f64, random: &mut Random) -> f64 {
        let Self(waits) = self;
        // Whose wait was longer than that.
        let first = match waited > 0.0 {
            true => waits.partition_point(|(wait, _)| *wait <= waited),
            false => 0,
        };
        let before = first.checked_sub(1).map_or(0.0, |before| waits[before].1);
        let total = waits.last().map_or(0.0, |last| last.1);
        let at = before + random.fraction() * (total - before);
        let longer = &waits[first..];
        let drawn = longer.get(longer.partition_point(|(_, up_to)| *up_to <= at)).or(longer.last());
        // What has waited longer than all others is expected to wait as long again.
        drawn.map_or(waited, |(wait, _)| wait - waited)
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): the same facts give the same estimate.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A fraction from 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The quantile of the standard normal distribution, to about 0.003 (Abramowitz and Stegun
/// 26.2.22, which is good to that).
pub fn normal(part: f64) -> f64 {
    let tail = part.min(1.0 - part).max(1e-9);
    let t = (-2.0 * tail.ln()).sqrt();
    let x = t - (2.30753 + 0.27061 * t) / (1.0 + 0.99229 * t + 0.04481 * t * t);
    if part < 0.5 { -x } else { x }
}
