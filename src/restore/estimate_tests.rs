use super::*;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn sample(objects: u64, create: f64, ready: f64, verify: f64) -> Sample {
    Sample {
        objects,
        create: secs(create),
        ready: Some(secs(ready)),
        verify: secs(verify),
        hooks: None,
    }
}

fn queued(objects: u64) -> Pending {
    at(objects, Stage::Queued)
}

fn at(objects: u64, stage: Stage) -> Pending {
    Pending { objects, stage, stuck: Duration::ZERO, hooks: false }
}

fn known(this_run: Vec<Sample>) -> Known {
    Known { this_run, patience: Some(secs(600.0)), ..Known::default() }
}

fn end(known: &Known, pending: &[Pending], slots: usize) -> End {
    estimate(known, pending, slots).unwrap().end.unwrap()
}

/// Until all of them are done.
fn all(known: &Known, pending: &[Pending], slots: usize) -> Left {
    end(known, pending, slots).all.unwrap()
}

#[test]
fn no_basis_no_number() {
    assert_eq!(estimate(&Known::default(), &[queued(10)], 4), None);
    let one = known(vec![sample(10, 1.0, 0.0, 1.0)]);
    assert_eq!(estimate(&one, &[], 4), None);
    let estimated = estimate(&one, &[queued(10)], 4).unwrap();
    assert_eq!((estimated.this_run, estimated.earlier), (1, 0));
    // Drills do not show how long workloads take.
    let drilled = Sample { ready: None, ..sample(10, 30.0, 0.0, 10.0) };
    let mut drills = Known { earlier: vec![drilled], ..known(vec![]) };
    let estimated = estimate(&drills, &[queued(10)], 4).unwrap();
    assert_eq!(estimated.end, None);
    assert!((estimated.create.p50.as_secs_f64() - 30.0).abs() < 1.0, "{estimated:?}");
    // Another drill does not wait for them.
    drills.patience = None;
    assert!((all(&drills, &[queued(10)], 4).p50.as_secs_f64() - 40.0).abs() < 1.0);
}

/// Where all sites are alike, the queue is what counts.
#[test]
fn the_queue_runs_off_by_its_slots() {
    let known = known(vec![sample(10, 8.0, 0.0, 2.0)]);
    let sites = vec![queued(10); 12];
    for (slots, expected) in [(1, 120.0), (4, 30.0), (12, 10.0), (100, 10.0)] {
        let end = end(&known, &sites, slots);
        let all = end.all.unwrap();
        let p50 = all.p50.as_secs_f64();
        assert!((p50 - expected).abs() < expected * 0.03, "{slots}: {p50}");
        assert!(all.p90 > all.p50);
        // Whoever is earlier in the queue is done earlier.
        assert!(end.sites.is_sorted_by_key(|left| left.unwrap().p50), "{end:?}");
    }
}

#[test]
fn a_stage_ends_before_the_next() {
    let known = known(vec![sample(10, 8.0, 30.0, 2.0)]);
    let estimate = estimate(&known, &vec![queued(10); 8], 2).unwrap();
    let end = estimate.end.unwrap();
    let p50 = [estimate.queue, estimate.create, end.ready, end.all.unwrap()]
        .map(|left| left.p50.as_secs());
    for (p50, expected) in p50.into_iter().zip([30, 38, 68, 70]) {
        assert!(p50.abs_diff(expected) <= 2, "{p50} {expected}");
    }
}

#[test]
fn what_is_left_depends_on_the_stage() {
    let known = known(vec![sample(100, 50.0, 20.0, 10.0)]);
    let basis = Basis::of(&known).unwrap();
    let rows = [
        (100, Stage::Queued, 80.0),
        (200, Stage::Queued, 140.0),
        (100, Stage::Creating(50), 55.0),
        (100, Stage::Creating(500), 30.0),
        (100, Stage::WaitingForReady(secs(5.0)), 25.0),
        (100, Stage::WaitingForReady(secs(60.0)), 70.0),
        // After ten minutes it has failed.
        (100, Stage::WaitingForReady(secs(590.0)), 20.0),
        (100, Stage::Verifying, 10.0),
    ];
    for (objects, stage, expected) in rows {
        let SecondsLeft { create, waiting, verify, hooks } =
            basis.draw(&at(objects, stage), &mut Random(1));
        let left = create + waiting + verify + hooks;
        assert!((left - expected).abs() < 1e-6, "{stage:?}: {left}");
    }
    let stuck = Pending { stuck: secs(40.0), ..at(100, Stage::Creating(50)) };
    assert_eq!(basis.draw(&stuck, &mut Random(1)).waiting, 60.0);
}

/// Who has waited longer than most is like those who waited even longer.
#[test]
fn a_long_wait_is_drawn_from_long_waits() {
    let waits = [1.0, 1.0, 1.0, 1.0, 1.0, 100.0];
    let known = known(waits.map(|ready| sample(10, 1.0, ready, 1.0)).to_vec());
    let all = all(&known, &[at(10, Stage::WaitingForReady(secs(10.0)))], 1);
    assert!((all.p50.as_secs_f64() - 91.0).abs() < 3.0, "{all:?}");
}

/// A small site has a cost of its own, and a large one is not as many small ones.
#[test]
fn size_counts_as_far_as_it_was_measured() {
    let took = |n: u64| sample(n, 2.0 + n as f64 * 0.01, 0.0, 0.0);
    let known = known(vec![took(10), took(20), took(40)]);
    let p50 = all(&known, &[queued(1000)], 1).p50.as_secs_f64();
    assert!((p50 - 12.0).abs() < 1.0, "{p50}");
}

#[test]
fn nothing_that_runs_has_no_time_left() {
    let known = known(vec![sample(10, 0.0, 0.0, 0.0)]);
    let all = all(&known, &[at(10, Stage::Verifying)], 4);
    assert_eq!(all, Left { p50: LEAST, p90: LEAST });
    // What was told and has passed is told anew.
    let now: Time = serde_json::from_str("\"2026-11-23T07:00:00Z\"").unwrap();
    let told = Promise::of(all, None, now);
    assert_eq!(told.expected, now.plus_seconds(5));
    let late = told.expected;
    assert_eq!(Promise::of(all, Some(told), late).expected, late.plus_seconds(5));
}

/// Sites that only wait for their workloads do not keep others from their turn.
#[test]
fn waiting_takes_no_slot() {
    let known = known(vec![sample(10, 1.0, 100.0, 0.0)]);
    let end = end(&known, &[queued(10), queued(10), queued(10)], 1);
    assert!(end.sites[2].unwrap().p50 < secs(110.0), "{end:?}");
}

/// The hooks of a site come last, keep nobody from his turn, and are no matter of who has none.
#[test]
fn hooks_count_for_the_sites_that_have_them() {
    let plain = sample(10, 8.0, 0.0, 2.0);
    let hooked = Sample { hooks: Some(secs(60.0)), ..plain };
    let with = |site: Pending| Pending { hooks: true, ..site };
    let known = known(vec![plain, hooked]);
    for (site, expected) in [
        (queued(10), 10.0),
        (with(queued(10)), 70.0),
        (with(at(10, Stage::Verifying)), 62.0),
        (with(at(10, Stage::RunningHooks(secs(20.0)))), 40.0),
        // Longer than any: as long again.
        (with(at(10, Stage::RunningHooks(secs(90.0)))), 90.0),
    ] {
        let p50 = all(&known, &[site], 1).p50.as_secs_f64();
        assert!((p50 - expected).abs() < expected * 0.03, "{site:?}: {p50}");
    }
    let end = end(&known, &[with(queued(10)), queued(10)], 1);
    assert!(end.sites[1].unwrap().p50 < secs(21.0), "{end:?}");
    // However long they have run, something is left.
    let late = all(&known, &[with(at(10, Stage::RunningHooks(secs(59.9))))], 1);
    assert!(late.p50 >= LEAST, "{late:?}");
}

#[test]
fn of_hooks_that_nobody_has_seen_comes_no_number() {
    let known = known(vec![sample(10, 8.0, 0.0, 2.0)]);
    let hooked = Pending { hooks: true, ..queued(10) };
    let running = Pending { hooks: true, ..at(10, Stage::RunningHooks(secs(5.0))) };
    let End { ready, all, sites, .. } = end(&known, &[running, hooked, queued(10)], 4);
    assert_eq!(all, None);
    // Whoever has none has his number all the same, and so have the stages before.
    assert_eq!(sites.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
    assert!((ready.p50.as_secs_f64() - 8.0).abs() < 1.0, "{ready:?}");
}

#[test]
fn it_is_told_again_when_it_has_moved_by_a_tenth() {
    let then: Time = serde_json::from_str("\"2026-11-23T07:00:00Z\"").unwrap();
    let left = |p50: f64, p90: f64| Left { p50: secs(p50), p90: secs(p90) };
    let told = Promise::of(left(100.0, 150.0), None, then);
    let again = |after: i64, p50, p90| {
        let now = then.plus_seconds(after);
        let promise = Promise::of(left(p50, p90), Some(told), now);
        assert!(promise == told || promise.expected == now.plus_seconds(p50 as i64));
        promise != told
    };
    // Time that has passed as expected is no news.
    assert!(!again(50, 50.0, 100.0));
    assert!(!again(50, 54.0, 100.0));
    assert!(again(50, 60.0, 100.0));
    assert!(again(50, 50.0, 150.0));
    assert!(again(100, 10.0, 50.0));
}

/// What the model leaves out is learned from runs that have ended.
#[test]
fn what_was_always_too_short_is_made_longer() {
    let alike = known(vec![sample(10, 8.0, 0.0, 2.0)]);
    let wrong = Known { errors: vec![2.0; 20], ..alike.clone() };
    let (right, longer) = (end(&alike, &[queued(40)], 1), end(&wrong, &[queued(40)], 1));
    assert!((longer.model.as_secs_f64() / right.model.as_secs_f64() - 1.0).abs() < 0.02);
    let (right, longer) = (right.all.unwrap(), longer.all.unwrap());
    let factor = longer.p50.as_secs_f64() / right.p50.as_secs_f64();
    assert!((1.8..2.0).contains(&factor), "{factor}");
    let width = longer.p90.as_secs_f64() / longer.p50.as_secs_f64();
    assert!(width < 1.2, "they were all alike: {width}");
}

/// Where runs are more alike than the sites of one, they say how far the end lies, not the sites.
#[test]
fn what_earlier_runs_have_shown_is_not_made_wider_by_the_sites() {
    let mut random = Random(3);
    let took = (0..30).map(|_| (0.8 * normal(random.fraction())).exp());
    let unlike = known(took.map(|seconds| sample(10, seconds, 0.0, 0.0)).collect());
    let width = |errors: Vec<f64>| {
        let all = all(&Known { errors, ..unlike.clone() }, &[queued(100); 3], 3);
        all.p90.as_secs_f64() / all.p50.as_secs_f64()
    };
    let (first, alike) = (width(vec![]), width([1.05, 0.95].repeat(10)));
    assert!(first > 1.6, "{first}");
    assert!((1.05..1.1).contains(&alike), "{alike}");
    // And what scatters more than the sites is as wide as it scattered.
    let scattered = width([4.0, 0.25].repeat(10));
    assert!(scattered > 4.0, "{scattered}");
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
        let known = Known { errors: errors.clone(), ..known(done[..30].to_vec()) };
        let pending: Vec<Pending> = sizes[30..].iter().map(|n| queued(*n)).collect();
        let End { all, model, .. } = end(&known, &pending, 8);
        let expected = all.unwrap();
        // The truth: the same queue, with what the sites really take, and a day that turns.
        let truth = truth_of(&done[30..], 8) * day;
        errors.push(truth / model.as_secs_f64());
        if run >= 20 {
            runs += 1;
            held += u32::from(truth <= expected.p90.as_secs_f64());
            half += u32::from(truth <= expected.p50.as_secs_f64());
        }
    }
    let (held, half) = (f64::from(held) / f64::from(runs), f64::from(half) / f64::from(runs));
    assert!((0.85..=0.95).contains(&held), "p90 held in {held}");
    assert!((0.4..=0.65).contains(&half), "p50 held in {half}");
}

fn truth_of(sites: &[Sample], slots: usize) -> f64 {
    let (mut free, mut end) = (vec![0.0; slots], 0.0_f64);
    for site in sites {
        free.sort_by(f64::total_cmp);
        free[0] += (site.create + site.verify).as_secs_f64();
        end = end.max(free[0] + site.ready.unwrap().as_secs_f64());
    }
    end
}
