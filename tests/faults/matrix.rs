//! F4: each verb × each fault, while a Site and its App become ready, while it is backed up,
//! deleted and restored. Each fault has sites of its own, and happens once to each verb in each of
//! these courses; all of them run side by side. Watches, and lists of the whole cluster, belong to
//! no site: each fault happens to one of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use reprieve::api::{Site, names};
use reprieve::sandbox::proxy::{Call, Fault, Rule, Verb};

use crate::stage::Stage;

/// What a request does, as far as faults are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Does {
    Create,
    Patch,
    Apply,
    Status,
    Delete,
    Get,
    List,
}

use Does::{Apply, Create, Delete, Get, List, Patch, Status};

const ALL: [Does; 7] = [Create, Patch, Apply, Status, Delete, Get, List];

impl Does {
    fn is(self, call: &Call) -> bool {
        let status = call.subresource == "status";
        !call.dry_run
            && match self {
                Create => call.verb == Verb::Create,
                Patch => call.verb == Verb::Patch && !status,
                Apply => call.verb == Verb::Apply,
                Status => call.verb == Verb::Patch && status,
                Delete => call.verb == Verb::Delete,
                Get => call.verb == Verb::Get,
                List => call.verb == Verb::List,
            }
    }
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::Answer(409),
        Fault::Answer(429),
        Fault::Answer(500),
        Fault::Answer(503),
        Fault::Answer(504),
        Fault::AnswerAfter(504),
        Fault::Reset,
        Fault::ResetAfter,
        Fault::Truncate,
        Fault::Delay(Duration::from_secs(2)),
        Fault::Trickle(200, Duration::from_millis(2)),
    ]
}

/// A site, and what happens there: this fault, once to each of these.
struct Case {
    site: String,
    does: Vec<Does>,
    fault: Fault,
}

impl Case {
    /// Two sites for each fault, so that what fails there does not only fail in a row.
    fn all() -> Vec<Self> {
        let halves = [vec![Create, Status, List], vec![Patch, Apply, Delete, Get]];
        let pairs = faults()
            .into_iter()
            .flat_map(|fault| halves.clone().into_iter().map(move |does| (does, fault.clone())));
        pairs
            .enumerate()
            .map(|(index, (does, fault))| Self { site: format!("case-{index:02}"), does, fault })
            .collect()
    }

    /// Whether a request is about this site.
    fn is_about(&self) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
        let site = self.site.clone();
        move |call| {
            let Call { name, namespace, .. } = call;
            *namespace == site
                || *name == site
                || name.starts_with(&format!("{site}-"))
                || name.ends_with(&format!("-{site}"))
        }
    }

    /// Once, to the first request of each kind that is about this site.
    fn rules(&self) -> impl Iterator<Item = Rule> {
        self.does.iter().map(|does| {
            let does = *does;
            let rule = Rule::new(self.fault.clone()).when(move |call| does.is(call));
            rule.when(self.is_about()).times(1)
        })
    }
}

impl Case {
    /// Once, to the last request of a restore, which takes the mark off the Site: when the answer
    /// is lost, it must not be taken for somebody else's doing.
    fn release(&self) -> Rule {
        let unmarks = |call: &Call| {
            let annotations = call.body["metadata"]["annotations"].as_object();
            call.resource == "sites"
                && annotations
                    .and_then(|all| all.get(names::ANNOTATION_RESTORE))
                    .is_some_and(serde_json::Value::is_null)
        };
        Rule::new(self.fault.clone()).when(unmarks).when(self.is_about()).times(1)
    }
}

/// A list of the whole cluster.
fn is_whole(call: &Call) -> bool {
    call.namespace.is_empty() && call.name.is_empty()
}

/// Whether a request is the first one to its path.
fn fresh() -> impl Fn(&Call) -> bool + Clone + Send + Sync + 'static {
    let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    move |call| {
        let path = call.uri.split('?').next().unwrap_or_default().to_owned();
        seen.lock().unwrap().insert(path)
    }
}

/// Arms everything once more, and makes all watches begin anew, some of them badly.
fn arm(stage: &Stage, cases: &[Case]) {
    stage.proxy.clear();
    for case in cases {
        case.rules().for_each(|rule| stage.proxy.add(rule));
    }
    // At most one to each path: a watch that fails several times in a row waits half a minute.
    let once = fresh();
    for fault in faults() {
        stage
            .proxy
            .add(Rule::new(fault).verb(Verb::List).when(is_whole).when(once.clone()).times(1));
    }
    let fresh = fresh();
    let gone = [Fault::Answer(410), Fault::GoneAfter(0), Fault::GoneAfter(3)];
    let merged = [Fault::MergeEvents(Duration::from_millis(300))];
    for fault in faults().into_iter().chain(gone).chain(merged) {
        stage.proxy.add(Rule::new(fault).verb(Verb::Watch).when(fresh.clone()).times(1));
    }
    stage.proxy.reset_all();
}

/// For these kinds of requests each fault has happened to its site.
fn expect_all_happened(stage: &Stage, cases: &[Case], from: usize, course: &str, does: &[Does]) {
    let log = stage.proxy.log();
    let log = &log[from..];
    let mut not = BTreeSet::new();
    for case in cases {
        let (about, fault) = (case.is_about(), Some(format!("{:?}", case.fault)));
        let of_it: Vec<&Call> = log.iter().filter(|c| c.fault == fault && about(c)).collect();
        not.extend(case.does.iter().filter(|d| !of_it.iter().any(|call| d.is(call))).copied());
    }
    let expected: BTreeSet<Does> = ALL.into_iter().filter(|d| !does.contains(d)).collect();
    assert_eq!(not, expected, "{course}: of which some faults did not happen");
    let watches = log.iter().filter(|c| c.verb == Verb::Watch && c.fault.is_some());
    let watches = watches.count();
    assert!(watches >= 8, "{course}: faults of watches: {watches}");
}

/// Does something for every site, some of them at a time.
async fn for_each<T>(cases: &[Case], one: impl AsyncFn(&str) -> T) -> Vec<T> {
    stream::iter(cases).map(|case| one(&case.site)).buffered(40).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_with_each_fault() {
    let Some(stage) = Stage::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    let cases = Case::all();
    stage.make_site("plain").await;
    let expected = stage.forms("plain").await;
    let kinds = stage.kinds().await;
    let mut at = 0;
    let mut next = |stage: &Stage| std::mem::replace(&mut at, stage.proxy.log().len());
    next(&stage);

    arm(&stage, &cases);
    for_each(&cases, async |site| stage.make_site(site).await).await;
    stage.until_nothing_fails().await;
    let from = next(&stage);
    step("sites are ready");
    expect_all_happened(&stage, &cases, from, "ready", &[Create, Patch, Status, Get]);
    for forms in for_each(&cases, async |site| stage.forms_of(&kinds, site).await).await {
        assert_eq!(forms, expected);
    }
    step("and equal");

    arm(&stage, &cases);
    for_each(&cases, async |site| {
        stage.back_up(&format!("by-hand-{site}"), site).await;
        stage.until_verified(&format!("by-hand-{site}")).await;
    })
    .await;
    stage.until_nothing_fails().await;
    let from = next(&stage);
    step("backed up");
    expect_all_happened(&stage, &cases, from, "backup", &[Status, Get, List]);

    arm(&stage, &cases);
    for_each(&cases, async |site| {
        let request = format!("gone-{site}");
        stage.ask(&request, site).await;
        stage.approve(&request).await;
        stage.until_state(&request, "Completed").await;
        assert!(stage.get::<Site>("", site).await.is_none(), "{site} is still there");
    })
    .await;
    stage.until_nothing_fails().await;
    let from = next(&stage);
    step("deleted");
    expect_all_happened(
        &stage,
        &cases,
        from,
        "deletion",
        &[Create, Patch, Status, Delete, Get, List],
    );
    let sites: Vec<&str> = cases.iter().map(|case| case.site.as_str()).collect();
    stage.expect_deleted_only(&sites);
    assert_eq!(stage.deleted().len(), 3 * sites.len(), "an App, a namespace, a Site each");

    arm(&stage, &cases);
    for case in &cases {
        stage.proxy.add(case.release());
    }
    for_each(&cases, async |site| {
        stage.bring_back(&format!("back-{site}"), &format!("gone-{site}")).await;
        stage.until_restored(&format!("back-{site}")).await;
        stage.until_settled(site).await;
    })
    .await;
    stage.until_nothing_fails().await;
    let from = next(&stage);
    step("restored");
    expect_all_happened(
        &stage,
        &cases,
        from,
        "restore",
        &[Create, Patch, Apply, Status, Get, List],
    );
    for forms in for_each(&cases, async |site| stage.forms_of(&kinds, site).await).await {
        assert_eq!(forms, expected);
    }
    assert_eq!(stage.deleted().len(), 3 * sites.len(), "a restore deletes nothing");
    assert_eq!(stage.forms("plain").await, expected, "the site that nothing happened to");
    step("and equal");
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}
