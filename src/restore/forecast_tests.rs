use serde_json::json;

use super::*;
use crate::api::PlanBackup;
use crate::restore::estimate::End;

fn job(name: &str, objects: i64) -> Job {
    let backup = PlanBackup {
        name: "b".into(),
        location: "l".into(),
        digest: "d".into(),
        objects,
        keep_until_time: None,
    };
    Job {
        name: name.into(),
        old_uid: "u".into(),
        id: "i".into(),
        backup,
        verified: None,
        app: None,
        drill: None,
    }
}

fn took(seconds: u64) -> Sample {
    let time = Duration::from_secs(seconds);
    Sample {
        objects: 10,
        create: time,
        ready: Some(Duration::ZERO),
        verify: Duration::ZERO,
        hooks: None,
    }
}

fn restore() -> Restore {
    serde_json::from_value(json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": { "name": "r" },
        "spec": { "source": { "store": "All" } },
        "status": { "startTime": "2026-11-23T07:00:00Z" },
    }))
    .unwrap()
}

fn run(seconds: u64, drill: bool) -> RunTimings {
    serde_json::from_value(json!({
        "format": FORMAT, "restore": "r", "restoreUid": "u", "drill": drill,
        "startTime": "2026-11-22T10:00:00Z", "parallelism": 16,
        "sites": [{ "objects": 10, "createMilliseconds": seconds * 1000,
                    "readyMilliseconds": 0, "verifyMilliseconds": 0 }],
        "estimates": [
            { "atPercent": 10, "earlierSites": 30, "modelMilliseconds": 100_000, "expectedMilliseconds": 110_000, "noLaterMilliseconds": 150_000,
              "actualMilliseconds": 120_000 },
            { "atPercent": 90, "earlierSites": 30, "modelMilliseconds": 10_000, "expectedMilliseconds": 10_000, "noLaterMilliseconds": 15_000,
              "actualMilliseconds": 90_000 },
            // It rested on nothing earlier, and is no measure of those that do.
            { "atPercent": 90, "modelMilliseconds": 10_000, "expectedMilliseconds": 10_000, "noLaterMilliseconds": 15_000,
              "actualMilliseconds": 1_000 },
        ],
    }))
    .unwrap()
}

fn p50(forecast: &Forecast) -> Option<u64> {
    let latest = forecast.latest()?;
    let End { all, .. } = latest.end.as_ref()?;
    Some((*all)?.p50.as_secs())
}

/// Everyone has a number from the first second where the store knows earlier runs, and it follows
/// this run once sites are done.
#[test]
fn it_begins_with_earlier_runs_and_follows_this_one() {
    let jobs = ["a", "b", "c"].map(|name| job(name, 10));
    let (mut memories, stages) = (Memories::new(), Stages::default());
    let mut nothing = Forecast::from(&[], false);
    nothing.look(&jobs, &memories, &stages, 1);
    assert_eq!(nothing.latest(), None);

    let mut forecast = Forecast::from(&[run(20, false)], false);
    assert_eq!(forecast.errors_at(0), [1.2]);
    assert_eq!(forecast.errors_at(80), [9.0]);
    let drills = Forecast::from(&[run(20, true)], false);
    assert!(drills.errors.is_empty(), "drills wait for nothing: {drills:?}");
    forecast.look(&jobs, &memories, &stages, 1);
    assert!(p50(&forecast).unwrap().abs_diff(66) < 3, "a tenth more, as it was: {forecast:?}");

    let done = Memory { took: Some(took(100)), ended: Some(Err(vec![])), ..Memory::default() };
    memories.insert("a".into(), done);
    forecast.look(&jobs, &memories, &stages, 1);
    assert!(p50(&forecast).unwrap().abs_diff(66) < 3, "not so soon");
    forecast.look_again(&jobs, &memories, &stages, 1);
    let now = p50(&forecast).unwrap();
    assert!((45..=200).contains(&now), "two sites of 20 s or 100 s each: {now}");
}

#[test]
fn a_site_is_told_once_until_it_has_moved() {
    let jobs = ["a", "b"].map(|name| job(name, 10));
    let (memories, stages) = (Memories::new(), Stages::default());
    let now: Time = serde_json::from_value(json!("2026-11-23T07:00:00Z")).unwrap();
    let mut forecast = Forecast::from(&[run(100, false)], false);
    forecast.look(&jobs, &memories, &stages, 1);
    let first = forecast.first(&["a"], now)[0].unwrap();
    assert!(first.no_later > first.expected && first.expected > now);
    let told = forecast.news(now);
    assert_eq!(told.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(forecast.news(now), []);
    // Later than was told, and it was told long ago.
    let late = now.plus_seconds(1000);
    assert_eq!(forecast.news(late), [], "each is told every ten seconds at most");
    for (_, at) in forecast.told.values_mut() {
        *at -= TELL_EVERY;
    }
    assert_eq!(forecast.news(late).len(), 2);
}

#[test]
fn what_was_expected_is_kept_with_what_came_of_it() {
    let jobs = ["a", "b"].map(|name| job(name, 10));
    let mut memories = Memories::new();
    let mut forecast = Forecast::from(&[run(100, false)], false);
    let half = Memory { took: Some(took(60)), ended: Some(Err(vec![])), ..Memory::default() };
    half.done.store(10, std::sync::atomic::Ordering::Relaxed);
    memories.insert("a".into(), half);
    memories.get_mut("a").unwrap().prepared = Some(super::super::prepare::Prepared {
        priority: 0,
        since: serde_json::from_value(json!("2026-11-23T07:00:00Z")).unwrap(),
        total: 10,
        fresh: false,
        hooks: false,
        index: None,
        place: Some((1, 2)),
    });
    forecast.look(&jobs, &memories, &Stages::default(), 1);
    let noted: Vec<u8> = forecast.noted.iter().map(|noted| noted.at_percent).collect();
    assert_eq!(noted, [50], "half of the objects");
    let kept = forecast.end(&restore(), "u", &memories).unwrap();
    assert_eq!((kept.sites.len(), kept.estimates.len()), (1, 1));
    assert!(kept.estimates[0].actual_milliseconds < 1000, "{kept:?}");
    assert_eq!(forecast.end(&restore(), "u", &Memories::new()), None);
    let metrics = Metrics::new();
    check(&metrics, &kept);
    let text = metrics.encode();
    assert!(text.contains("reprieve_restore_estimates_total{at=\"50\",held=\"true\"} 1"), "{text}");
}

/// A site whose hooks run is not done: what is left of it is what hooks took in earlier restores.
#[test]
fn a_site_whose_hooks_run_is_not_done() {
    let jobs = [job("a", 10)];
    let with_hooks = |seconds: u64, drill| {
        let mut run = run(0, drill);
        run.sites[0].hooks_milliseconds = Some(seconds * 1000);
        run.estimates.clear();
        run
    };
    let (mut memories, stages) = (Memories::new(), Stages::default());
    let begun = Some(Instant::now());
    memories.insert("a".into(), Memory { begun, ..Memory::default() });
    stages.set("a", "RunningHooks");
    let mut forecast = Forecast::from(&[with_hooks(300, false), with_hooks(3, true)], false);
    forecast.look(&jobs, &memories, &stages, 1);
    assert!(p50(&forecast).unwrap().abs_diff(300) < 10, "{forecast:?}");
    // Drills run other hooks, and records of old say nothing of hooks.
    for runs in [vec![with_hooks(3, true)], vec![run(20, false)]] {
        let mut forecast = Forecast::from(&runs, false);
        forecast.look(&jobs, &memories, &stages, 1);
        assert!(forecast.latest().is_some() && p50(&forecast).is_none(), "{forecast:?}");
        let now: Time = serde_json::from_value(json!("2026-11-23T07:00:00Z")).unwrap();
        assert_eq!((forecast.first(&["a"], now), forecast.news(now)), (vec![None], vec![]));
    }
    let took = Sample { hooks: Some(Duration::from_secs(7)), ..took(1) };
    memories.insert("a".into(), Memory { took: Some(took), ..Memory::default() });
    let kept = forecast.end(&restore(), "u", &memories).unwrap();
    assert_eq!(kept.sites[0].hooks_milliseconds, Some(7000));
}
