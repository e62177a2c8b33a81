use super::*;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn sample(objects: u64, create: f64, ready: f64, verify: f64) -> Sample {
    Sample { objects, create: secs(create), ready: secs(ready), verify: secs(verify) }
}

fn queued(objects: u64) -> Pending {
    Pending { objects, stage: Stage::Queued }
}

#[test]
fn no_basis_no_number() {
    assert_eq!(estimate(&Known::default(), &[queued(10)], 4), None);
    let known = Known { this_run: vec![sample(10, 1.0, 0.0, 1.0)], ..Default::default() };
    assert_eq!(estimate(&known, &[], 4), None);
    let estimate = estimate(&known, &[queued(10)], 4).unwrap();
    assert_eq!(estimate.basis(), "1 sites of this run, 0 of earlier runs");
}

/// Where all sites are alike, the queue is what counts.
#[test]
fn the_queue_runs_off_by_its_slots() {
    let known = Known { this_run: vec![sample(10, 8.0, 0.0, 2.0)], ..Default::default() };
    let all = vec![queued(10); 12];
    for (slots, expected) in [(1, 120.0), (4, 30.0), (12, 10.0), (100, 10.0)] {
        let estimate = estimate(&known, &all, slots).unwrap();
        let p50 = estimate.all.p50.as_secs_f64();
        assert!((p50 - expected).abs() < expected * 0.03, "{slots}: {p50}");
        assert!(estimate.all.p90 > estimate.all.p50);
        // Whoever is earlier in the queue is done earlier.
        assert!(estimate.sites.is_sorted_by_key(|left| left.p50), "{estimate:?}");
    }
}

#[test]
fn what_is_left_depends_on_the_stage() {
    let sample = sample(100, 50.0, 20.0, 10.0);
    let rows = [
        (100, Stage::Queued, 80.0),
        (200, Stage::Queued, 140.0),
        (100, Stage::Creating(50), 55.0),
        (100, Stage::Creating(500), 30.0),
        (100, Stage::WaitingForReady(secs(5.0)), 25.0),
        (100, Stage::WaitingForReady(secs(60.0)), 70.0),
        (100, Stage::Verifying, 10.0),
    ];
    for (objects, stage, expected) in rows {
        let left = seconds_left(&Pending { objects, stage }, sample);
        assert_eq!(left.busy + left.waiting, expected, "{stage:?}");
    }
}

#[test]
fn nothing_that_runs_has_no_time_left() {
    let known = Known { this_run: vec![sample(10, 0.0, 0.0, 0.0)], ..Default::default() };
    let verifying = Pending { objects: 10, stage: Stage::Verifying };
    let estimate = estimate(&known, &[verifying], 4).unwrap();
    assert_eq!(estimate.all, Left { p50: secs(1.0), p90: secs(1.0) });
}

/// Sites that only wait for their workloads do not keep others from their turn.
#[test]
fn waiting_takes_no_slot() {
    let known = Known { this_run: vec![sample(10, 1.0, 100.0, 0.0)], ..Default::default() };
    let estimate = estimate(&known, &[queued(10), queued(10), queued(10)], 1).unwrap();
    assert!(estimate.sites[2].p50 < secs(110.0), "{estimate:?}");
}

#[test]
fn it_is_told_again_when_it_has_moved_by_a_tenth() {
    let left = |p50: f64, p90: f64| Left { p50: secs(p50), p90: secs(p90) };
    let told = left(100.0, 150.0);
    // Time that has passed as expected is no news.
    assert!(!has_moved(told, secs(50.0), left(50.0, 100.0)));
    assert!(!has_moved(told, secs(50.0), left(54.0, 100.0)));
    assert!(has_moved(told, secs(50.0), left(60.0, 100.0)));
    assert!(has_moved(told, secs(50.0), left(50.0, 150.0)));
    assert!(has_moved(told, secs(100.0), left(10.0, 50.0)));
}

/// Runs of 100 sites of very different sizes on an API server with good and bad days: the end must
/// lie before the p90 in about nine of ten, and about the p50 in half.
#[test]
fn the_p90_holds_in_nine_of_ten_runs() {
    let mut random = Random(7);
    let mut errors = vec![];
    let (mut held, mut half, mut runs) = (0, 0, 0);
    for run in 0..400 {
        let day = (0.2 * normal(random.fraction())).exp();
        let sizes: Vec<u64> =
            (0..100).map(|_| (20.0 * normal(random.fraction()).exp()) as u64 + 1).collect();
        let done: Vec<Sample> = sizes
            .iter()
            .map(|n| {
                let noise = (0.3 * normal(random.fraction())).exp();
                let n_f = *n as f64;
                sample(*n, n_f * 0.1 * noise, random.fraction() * 5.0, n_f * 0.02)
            })
            .collect();
        let known =
            Known { this_run: done[..30].to_vec(), earlier: vec![], errors: errors.clone() };
        let pending: Vec<Pending> = sizes[30..].iter().map(|n| queued(*n)).collect();
        let expected = estimate(&known, &pending, 8).unwrap().all;
        // The truth: the same queue, with what the sites really take, and a day that turns.
        let truth = truth_of(&done[30..], 8) * day;
        errors.push(truth / expected.p50.as_secs_f64());
        if run >= 20 {
            runs += 1;
            held += u32::from(truth <= expected.p90.as_secs_f64());
            half += u32::from(truth <= expected.p50.as_secs_f64());
        }
    }
    let (held, half) = (f64::from(held) / f64::from(runs), f64::from(half) / f64::from(runs));
    assert!((0.85..=0.96).contains(&held), "p90 held in {held}");
    assert!((0.4..=0.65).contains(&half), "p50 held in {half}");
}

fn truth_of(sites: &[Sample], slots: usize) -> f64 {
    let (mut free, mut end) = (vec![0.0; slots], 0.0_f64);
    for site in sites {
        free.sort_by(f64::total_cmp);
        free[0] += (site.create + site.verify).as_secs_f64();
        end = end.max(free[0] + site.ready.as_secs_f64());
    }
    end
}
