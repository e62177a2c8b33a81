//! Which site comes next: the order of a Restore's sites. Pure.

use crate::api::Time;

/// Every so many places, one goes to whoever has waited longest.
const TURN: usize = 4;

/// A site in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Name of the Site.
    pub name: String,
    /// `spec.priority` of the Site.
    pub priority: i32,
    /// Since when it waits: since the Restore was created, or since an earlier Restore created the
    /// Site and did not finish it.
    pub since: Time,
}

/// The order in which sites are begun. Places 4, 8, 12 and so on go to whoever has waited longest,
/// and of those who have waited equally long, to the one with the lowest priority: it would be the
/// last. Every other place goes to the highest priority, then to whoever has waited longest, then
/// by name. So the i-th of those who have waited longest has at the latest place 4 i.
///
/// `before` places are taken already. Each Site says its place, so that after a restart of the
/// operator, or another one's taking over, the order is the same and goes on where it was.
pub fn order(mut sites: Vec<Waiting>, before: usize) -> Vec<Waiting> {
    // The next by priority is the last of these, and the one that has waited longest the last of
    // those; what was taken from one is skipped in the other.
    sites.sort_by(|a, b| {
        let by_priority = a.priority.cmp(&b.priority);
        by_priority.then(b.since.cmp(&a.since)).then(b.name.cmp(&a.name))
    });
    let mut longest: Vec<usize> = (0..sites.len()).collect();
    longest.sort_by_key(|&site| (std::cmp::Reverse(sites[site].since), std::cmp::Reverse(site)));
    let mut first: Vec<usize> = (0..sites.len()).collect();
    let mut taken = vec![false; sites.len()];
    let mut places = Vec::with_capacity(sites.len());
    while places.len() < sites.len() {
        let next = if (before + places.len() + 1).is_multiple_of(TURN) {
            &mut longest
        } else {
            &mut first
        };
        while let Some(site) = next.pop() {
            if !std::mem::replace(&mut taken[site], true) {
                places.push(site);
                break;
            }
        }
    }
    let mut sites: Vec<Option<Waiting>> = sites.into_iter().map(Some).collect();
    places.into_iter().filter_map(|site| sites[site].take()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn site(name: impl Into<String>, priority: i32, since: i64) -> Waiting {
        let since = DateTime::from_timestamp(since, 0).unwrap().into();
        Waiting { name: name.into(), priority, since }
    }

    fn names(sites: &[Waiting]) -> Vec<&str> {
        sites.iter().map(|site| site.name.as_str()).collect()
    }

    #[test]
    fn the_important_first_and_every_fourth_who_waited_longest() {
        let sites = vec![
            site("small", 0, 9),
            site("early", 1, 5),
            site("b", 100, 9),
            site("a", 100, 9),
            site("c", 100, 9),
            site("vip", 900, 9),
            site("d", 100, 9),
            site("e", 100, 9),
            site("f", 100, 9),
        ];
        let expected = ["vip", "a", "b", "early", "c", "d", "e", "small", "f"];
        assert_eq!(names(&order(sites, 0)), expected);
    }

    /// The same everywhere: splitmix64.
    fn next(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// Many sets of sites, small ones and those with many equal sites among them.
    fn many() -> impl Iterator<Item = (Vec<Waiting>, usize)> {
        (0..2000_u64).map(|seed| {
            let mut state = seed;
            let number = next(&mut state, 60);
            let (priorities, times) = (1 + next(&mut state, 5), 1 + next(&mut state, 4));
            let mut one = |i| {
                let priority = i32::try_from(next(&mut state, priorities)).unwrap();
                let since = i64::try_from(next(&mut state, times)).unwrap();
                site(format!("s{i}"), priority, since)
            };
            ((0..number).map(&mut one).collect(), usize::try_from(seed % 5).unwrap())
        })
    }

    #[test]
    fn everybody_has_one_place_whatever_the_order_was() {
        for (sites, before) in many() {
            let ordered = order(sites.clone(), before);
            let mut other = sites.clone();
            other.reverse();
            other.rotate_left(sites.len() / 3);
            assert_eq!(ordered, order(other, before));
            let (mut all, mut placed) = (sites, ordered);
            all.sort_by(|a, b| a.name.cmp(&b.name));
            placed.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(all, placed);
        }
    }

    #[test]
    fn every_place_goes_to_whom_it_belongs() {
        for (sites, before) in many() {
            let ordered = order(sites, before);
            for (at, site) in ordered.iter().enumerate() {
                for later in &ordered[at..] {
                    if (before + at + 1) % 4 == 0 {
                        assert!(site.since <= later.since);
                        assert!(site.since < later.since || site.priority <= later.priority);
                    } else {
                        assert!(site.priority >= later.priority);
                        assert!(site.priority > later.priority || site.since <= later.since);
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_is_left_to_the_end() {
        for (sites, before) in many() {
            let mut longest = sites.clone();
            longest.sort_by(|a, b| {
                a.since.cmp(&b.since).then(a.priority.cmp(&b.priority)).then(b.name.cmp(&a.name))
            });
            let ordered = order(sites, before);
            for (i, site) in longest.iter().enumerate() {
                let place = ordered.iter().position(|s| s == site).unwrap() + 1;
                assert!(place <= 4 * (i + 1), "{} waits for place {place}", site.name);
            }
        }
    }
}
