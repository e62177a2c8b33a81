//! Whose turn it is, what comes next, and the Job that is made.

use serde_json::{Value, json};

use super::decide::{GRACE_SECONDS, Step, Turn, next, turn};
use super::job::{self, End, Live, job, name, read, standing, trouble};
use crate::api::{Hook, HookState, HookStatus, Time};

const OF: &str = "Backup acme-1 (u)";

fn hook(name: &str, rest: Value) -> Hook {
    let pods =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}});
    let mut all =
        json!({"name": name, "template": {"spec": {"template": pods}}, "timeoutSeconds": 30});
    all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn record(name: &str, state: HookState) -> HookStatus {
    HookStatus {
        name: name.to_owned(),
        state,
        job: None,
        job_uid: Some("j".to_owned()),
        start_time: Some(now()),
        completion_time: None,
        message: None,
    }
}

fn now() -> Time {
    serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap()
}

fn live() -> Live {
    Live { uid: "j".to_owned(), of: Some(OF.to_owned()), suspended: false, end: None }
}

#[test]
fn one_after_the_other_and_none_after_a_bad_end() {
    use HookState::{Failed, Lost, Refused, Running, Skipped, Succeeded, TimedOut};
    let hooks =
        [hook("a", json!({"onError": "Continue"})), hook("b", json!({})), hook("c", json!({}))];
    let of = |states: &[HookState]| {
        let names = ["a", "b", "c"];
        let records: Vec<_> = names.iter().zip(states).map(|(n, s)| record(n, *s)).collect();
        match turn(&hooks, &records) {
            Turn::Done => "done".to_owned(),
            Turn::Stopped(by) => format!("stopped by {}", by.name),
            Turn::Of(hook, record) => format!("{} {:?}", hook.name, record.map(|r| r.state)),
        }
    };
    assert_eq!(of(&[]), "a None");
    assert_eq!(of(&[Running]), "a Some(Running)");
    assert_eq!(of(&[Succeeded]), "b None");
    for bad in [Failed, TimedOut, Refused, Lost] {
        assert_eq!(of(&[bad]), "b None", "{bad:?} and Continue");
        assert_eq!(of(&[Succeeded, bad]), "stopped by b");
        assert_eq!(of(&[Succeeded, bad, Running]), "stopped by b");
    }
    assert_eq!(of(&[Skipped, Succeeded, Running]), "c Some(Running)");
    assert_eq!(of(&[Skipped, Succeeded, Succeeded]), "done");
    assert_eq!(turn(&[], &[]), Turn::Done);
    // What left the Site's list is not waited for.
    assert_eq!(turn(&[], &[record("a", Running)]), Turn::Done);
}

#[test]
fn no_job_is_let_run_before_it_is_written_down_and_none_is_made_after() {
    let hook = hook("a", json!({}));
    let next = |record: Option<&HookStatus>, live: Option<Live>, seconds| {
        next(&hook, record, live.as_ref(), OF, now().plus_seconds(seconds))
    };
    let suspended = || Live { suspended: true, ..live() };
    let uid = "j".to_owned();
    assert_eq!(next(None, None, 0), Step::Create);
    assert_eq!(next(None, Some(suspended()), 0), Step::Begin { uid: uid.clone() });
    let foreign = Live { of: Some("Backup other (v)".to_owned()), ..live() };
    assert!(matches!(next(None, Some(foreign), 0), Step::End(HookState::Refused, _)));

    let begun = record("a", HookState::Running);
    assert_eq!(next(Some(&begun), Some(suspended()), 0), Step::Resume { uid: uid.clone() });
    assert_eq!(next(Some(&begun), Some(live()), 0), Step::Wait);
    // Gone, or another one of its name: it may have run.
    assert!(matches!(next(Some(&begun), None, 0), Step::End(HookState::Lost, _)));
    let another = Live { uid: "k".to_owned(), ..live() };
    assert!(matches!(next(Some(&begun), Some(another), 0), Step::End(HookState::Lost, _)));

    let ended = |good, reason: &str| {
        let end = End { good, reason: reason.to_owned(), message: String::new() };
        let live = Live { end: Some(end), ..live() };
        match next(Some(&begun), Some(live), 3600) {
            Step::End(state, _) => state,
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(ended(true, ""), HookState::Succeeded);
    assert_eq!(ended(false, "BackoffLimitExceeded"), HookState::Failed);
    assert_eq!(ended(false, "DeadlineExceeded"), HookState::TimedOut);

    let limit = 30 + GRACE_SECONDS;
    assert_eq!(next(Some(&begun), Some(live()), limit - 1), Step::Wait);
    assert_eq!(next(Some(&begun), Some(live()), limit), Step::Stop { uid: uid.clone() });
    // One that nobody has let run in time is not let run any more.
    assert_eq!(next(Some(&begun), Some(suspended()), limit), Step::Stop { uid });
}

#[test]
fn the_job_of_a_hook() {
    let metadata = json!({"labels": {"team": "a"}, "annotations": {"note": "ours"}});
    let mut of = hook("dump", json!({}));
    of.template.metadata = serde_json::from_value(metadata).unwrap();
    let made = job(&of, "acme", OF);
    assert_eq!(made["metadata"]["name"], name("dump", OF));
    assert_ne!(name("dump", OF), name("dump", "Backup acme-2 (w)"));
    assert!(name(&"x".repeat(40), OF).len() <= 63);
    assert_eq!(made["metadata"]["labels"], json!({"team": "a", "reprieve.dev/hook": "dump"}));
    assert_eq!(
        made["metadata"]["annotations"],
        json!({"note": "ours", "reprieve.dev/hook-of": OF})
    );
    let spec = &made["spec"];
    assert_eq!(
        (&spec["suspend"], &spec["backoffLimit"], &spec["activeDeadlineSeconds"]),
        (&json!(true), &json!(0), &json!(30))
    );
    assert_eq!(spec["ttlSecondsAfterFinished"], 86_400);
    assert_eq!(spec["template"]["spec"]["serviceAccountName"], "reprieve-app");

    // What the template says counts, but for what would run it otherwise.
    for (field, value) in
        [("backoffLimit", 3), ("activeDeadlineSeconds", 5), ("ttlSecondsAfterFinished", 0)]
    {
        of.template.spec[field] = json!(value);
    }
    of.template.spec["suspend"] = json!(false);
    of.template.spec["template"]["spec"]["serviceAccountName"] = json!("dumper");
    let spec = &job(&of, "acme", OF)["spec"];
    assert_eq!((&spec["backoffLimit"], &spec["activeDeadlineSeconds"]), (&json!(3), &json!(5)));
    assert_eq!(
        (&spec["suspend"], &spec["ttlSecondsAfterFinished"]),
        (&json!(true), &json!(86_400))
    );
    assert_eq!(spec["template"]["spec"]["serviceAccountName"], "dumper");
    of.template.spec["activeDeadlineSeconds"] = json!(900);
    assert_eq!(job(&of, "acme", OF)["spec"]["activeDeadlineSeconds"], 30);
    // What is no Job at all goes to the API server as it is, which says so.
    of.template.spec = json!("no");
    assert_eq!(job(&of, "acme", OF)["spec"], "no");
}

#[test]
fn what_a_job_and_its_pods_say() {
    let made = job(&hook("a", json!({})), "acme", OF);
    let seen = read(&made);
    assert_eq!((seen.of.as_deref(), seen.suspended, seen.end), (Some(OF), true, None));
    let mut ended = made.clone();
    ended["status"] = json!({"conditions": [
        {"type": "FailureTarget", "status": "True", "reason": "x"},
        {"type": "Complete", "status": "False"},
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"},
    ]});
    let end = read(&ended).end.unwrap();
    assert_eq!(job::describe(&end), "its Job failed: BackoffLimitExceeded: too often");

    let unscheduled = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}});
    let container = |state: Value| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": state}]}});
    let rows = [
        (unscheduled, Some("no pod was scheduled: 0/3 nodes are available")),
        (json!({"metadata": {"name": "p"}, "spec": {}}), None),
        (container(json!({"running": {}})), None),
        (container(json!({"waiting": {"reason": "ContainerCreating"}})), None),
        (
            container(json!({"waiting": {"reason": "ImagePullBackOff"}})),
            Some("container main of Pod p waits: ImagePullBackOff"),
        ),
        (container(json!({"terminated": {"exitCode": 0}})), None),
        (
            container(json!({"terminated": {"exitCode": 3, "message": "a secret"}})),
            Some("container main of Pod p ended with exit code 3"),
        ),
    ];
    for (pod, expected) in rows {
        assert_eq!(trouble(std::slice::from_ref(&pod)).as_deref(), expected, "{pod}");
    }
    assert_eq!(trouble(&[]), None);
    assert!(standing(&[]).contains("no Pod"));
    assert_eq!(standing(&[container(json!({"running": {}}))]), "its Pod p is Running");
}
