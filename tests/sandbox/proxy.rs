//! The fault proxy: each fault is what it says, and everything else goes through unchanged.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reprieve::sandbox::Sandbox;
use reprieve::sandbox::proxy::{Fault, Proxy, Rule, Verb};
use serde_json::json;

use crate::REPRIEVE;

const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy, somebody behind it, and what is really there.
struct Stage {
    proxy: Proxy,
    /// Through the proxy, without retries.
    maps: Api<ConfigMap>,
    client: kube::Client,
    /// Past the proxy.
    real: Api<ConfigMap>,
}

impl Stage {
    async fn start(sandbox: &Sandbox) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("proxy-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = sandbox.client_for(&sandbox.admin_kubeconfig()).await.expect("a client");
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("one");
        let post = PostParams::default();
        Api::all(admin.clone()).create(&post, &object).await.expect("it is created");
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": "edit"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        }))
        .expect("one");
        let bindings = Api::namespaced(admin.clone(), &namespace);
        bindings.create(&post, &binding).await.expect("it is created");

        let proxy = sandbox.start_proxy().expect("it starts");
        let kubeconfig = sandbox.service_account_kubeconfig("default", "default").await;
        let kubeconfig = proxy.kubeconfig(&kubeconfig.expect("a token")).expect("it is written");
        let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let mut config = config.expect("a configuration");
        config.default_retry = false;
        let client = kube::Client::try_from(config).expect("a client");
        let stage = Self {
            proxy,
            maps: Api::namespaced(client.clone(), &namespace),
            client,
            real: Api::namespaced(admin, &namespace),
        };
        // The binding is in force a moment later.
        let begun = Instant::now();
        while stage.maps.list(&ListParams::default()).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the account gets no rights");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage
    }

    async fn create(&self, name: &str) -> kube::Result<ConfigMap> {
        let map = json!({"metadata": {"name": name}, "data": {"a": "1".repeat(2000)}});
        let map = serde_json::from_value(map).expect("a ConfigMap");
        self.maps.create(&PostParams::default(), &map).await
    }

    async fn is_there(&self, name: &str) -> bool {
        self.real.get_opt(name).await.expect("an answer").is_some()
    }
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

#[tokio::test]
async fn a_proxy_fails_on_demand() {
    let Some(sandbox) = Sandbox::shared(REPRIEVE).await else { return };
    let stage = Stage::start(sandbox).await;
    goes_through(&stage).await;
    each_fault_of_a_write(&stage).await;
    counts_and_choices(&stage).await;
    slow_answers(&stage).await;
    holds_and_freezes(&stage).await;
    cuts(&stage).await;
    the_clock(&stage).await;
}

#[tokio::test]
async fn a_proxy_edits_watches() {
    let Some(sandbox) = Sandbox::shared(REPRIEVE).await else { return };
    let stage = Stage::start(sandbox).await;
    // Each tells the names of the events of one watch, in which two are created and one changed.
    assert_eq!(stage.watched(None).await, ["+a", "+b", "*a", "*b"]);
    assert_eq!(stage.watched(Some(Fault::DropEvents(2))).await, ["+b", "*b"]);
    let merged = stage.watched(Some(Fault::MergeEvents(Duration::from_millis(1200)))).await;
    assert_eq!(merged, ["+a", "+b"]);
    assert_eq!(stage.watched(Some(Fault::GoneAfter(3))).await, ["+a", "+b", "*a", "410"]);
    assert_eq!(stage.watched(Some(Fault::Truncate)).await, ["broken"]);
    let slow = Fault::Trickle(400, Duration::from_millis(5));
    assert_eq!(stage.watched(Some(slow)).await, ["+a", "+b", "*a", "*b"]);
    assert_eq!(stage.watched(Some(Fault::Answer(410))).await, ["refused 410"]);
}

impl Stage {
    async fn watched(&self, fault: Option<Fault>) -> Vec<String> {
        let now = self.real.list(&ListParams::default()).await.expect("a list");
        self.proxy.clear();
        if let Some(fault) = fault {
            self.proxy.add(Rule::new(fault).verb(Verb::Watch));
        }
        let version = now.metadata.resource_version.expect("a version");
        let params = WatchParams::default().labels("watched");
        let stream = match self.maps.watch(&params, &version).await {
            Ok(stream) => stream,
            Err(error) => return vec![format!("refused {}", code(&error))],
        };
        let changes = async {
            for name in ["a", "b"] {
                let map = json!({"metadata": {"name": name, "labels": {"watched": "yes"}}});
                let map = serde_json::from_value(map).expect("a ConfigMap");
                self.real.create(&PostParams::default(), &map).await.expect("it is created");
            }
            for name in ["a", "b"] {
                let patch = Patch::Merge(json!({"data": {"x": "y"}}));
                let params = PatchParams::default();
                self.real.patch(name, &params, &patch).await.expect("it is changed");
            }
            tokio::time::sleep(Duration::from_millis(2000)).await;
        };
        let mut seen = vec![];
        {
            let mut stream = std::pin::pin!(stream);
            let mut changes = std::pin::pin!(changes);
            loop {
                let event = tokio::select! {
                    event = stream.next() => event,
                    () = &mut changes => break,
                };
                seen.push(match event {
                    Some(Ok(WatchEvent::Added(map))) => format!("+{}", map.metadata.name.unwrap()),
                    Some(Ok(WatchEvent::Modified(map))) => {
                        format!("*{}", map.metadata.name.unwrap())
                    }
                    Some(Ok(WatchEvent::Error(status))) => status.code.to_string(),
                    Some(Ok(other)) => format!("{other:?}"),
                    Some(Err(_)) => "broken".to_owned(),
                    None => break,
                });
                if seen.last().is_some_and(|last| last == "broken" || last == "410") {
                    changes.await;
                    break;
                }
            }
        }
        for name in ["a", "b"] {
            self.real.delete(name, &Default::default()).await.expect("it is deleted");
        }
        seen
    }
}

async fn goes_through(stage: &Stage) {
    let made = stage.create("plain").await.expect("it is created");
    let real = stage.real.get("plain").await.expect("it is there");
    assert_eq!(made.metadata.uid, real.metadata.uid);
    assert_eq!(stage.maps.get("plain").await.expect("it is there").data, real.data);
    let error = stage.maps.get("absent").await.expect_err("it is not there");
    assert_eq!(code(&error), 404);
    let writes = stage.proxy.writes();
    let last = writes.last().expect("a write");
    assert_eq!((last.verb, last.name.as_str(), last.code), (Verb::Create, "plain", 201));
    assert!(last.number > 1 && last.fault.is_none(), "{last:?}");
    assert!(last.brief().starts_with("Create configmaps/proxy-"), "{}", last.brief());
}

async fn each_fault_of_a_write(stage: &Stage) {
    // Fault, the code that the client sees (0: no answer), whether it was carried out.
    for (index, (fault, expected, applied)) in [
        (Fault::Answer(409), 409, false),
        (Fault::Answer(429), 429, false),
        (Fault::Answer(500), 500, false),
        (Fault::Answer(503), 503, false),
        (Fault::Answer(504), 504, false),
        (Fault::AnswerAfter(504), 504, true),
        (Fault::Reset, 0, false),
        (Fault::ResetAfter, 0, true),
        (Fault::Truncate, 0, true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("fault-{index}");
        stage.proxy.clear();
        let rule = Rule::new(fault.clone()).verb(Verb::Create).resource("configmaps");
        stage.proxy.add(rule.name(&name).times(1));
        assert_eq!(stage.proxy.pending(), 1);
        let begun = Instant::now();
        let error = stage.create(&name).await.expect_err("it fails");
        assert_eq!(code(&error), expected, "{fault:?}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", begun.elapsed());
        assert_eq!(stage.is_there(&name).await, applied, "{fault:?}");
        assert_eq!(stage.proxy.pending(), 0, "{fault:?}");
        let logged = stage.proxy.writes().pop().expect("a write");
        assert_eq!(logged.fault, Some(format!("{fault:?}")));
        assert_eq!(logged.code, if applied { 201 } else { 0 }, "{fault:?}");
    }
    // A create that never was, with everything that the server would have said.
    stage.proxy.clear();
    stage.proxy.add(Rule::new(Fault::Swallow).verb(Verb::Create).name("never").times(1));
    let said = stage.create("never").await.expect("it is answered");
    assert!(said.metadata.uid.is_some() && said.metadata.creation_timestamp.is_some(), "{said:?}");
    assert!(!stage.is_there("never").await);
    // Lists are cut as well.
    stage.proxy.add(Rule::new(Fault::Truncate).verb(Verb::List).times(1));
    let error = stage.maps.list(&ListParams::default()).await.expect_err("it is cut");
    assert_eq!(code(&error), 0, "{error}");
    // The waiting time is said.
    stage.proxy.add(Rule::new(Fault::Answer(429)).verb(Verb::Get).times(1));
    let request = http::Request::get("/version").body(kube::client::Body::empty()).expect("one");
    let answer = stage.client.send(request).await.expect("an answer");
    assert_eq!(answer.headers()["retry-after"], "1");
}

async fn counts_and_choices(stage: &Stage) {
    stage.proxy.clear();
    let second = Rule::new(Fault::Answer(500)).writes().nth(2);
    stage.proxy.add(second);
    stage.proxy.add(Rule::new(Fault::Answer(409)).writes().when(|c| c.name == "n-1").times(1));
    let mut seen = vec![];
    for name in ["n-1", "n-2", "n-3"] {
        stage.maps.get_opt(name).await.expect("no write");
        seen.push(stage.create(name).await.map_or_else(|error| code(&error), |_| 201));
    }
    assert_eq!(seen, [409, 500, 201]);
}

async fn slow_answers(stage: &Stage) {
    stage.proxy.clear();
    let delay = Duration::from_millis(400);
    stage.proxy.add(Rule::new(Fault::Delay(delay)).verb(Verb::Create).times(1));
    let begun = Instant::now();
    stage.create("late").await.expect("it is created");
    assert!(begun.elapsed() >= delay);
    let trickle = Fault::Trickle(100, Duration::from_millis(20));
    stage.proxy.add(Rule::new(trickle).verb(Verb::Get).times(1));
    let begun = Instant::now();
    let map = stage.maps.get("late").await.expect("it comes");
    assert_eq!(map.data, stage.real.get("late").await.expect("it is there").data);
    assert!(begun.elapsed() >= delay, "2 kB in pieces of 100 take {:?}", begun.elapsed());
}

async fn holds_and_freezes(stage: &Stage) {
    stage.proxy.clear();
    for (fault, name, there) in [(Fault::Hold, "held", false), (Fault::HoldAnswer, "done", true)] {
        stage.proxy.add(Rule::new(fault).verb(Verb::Create).name(name));
        let watcher = async {
            let call = stage.proxy.until_held(PATIENCE).await.expect("it is held");
            assert_eq!(call.name, name);
            assert_eq!(stage.is_there(name).await, there, "while it is held");
            // Others pass meanwhile.
            stage.maps.get("plain").await.expect("it passes");
            stage.proxy.release();
        };
        let (made, ()) = tokio::join!(stage.create(name), watcher);
        made.expect("it is created in the end");
    }
    let nobody = stage.proxy.until_held(Duration::from_millis(50)).await;
    assert!(nobody.is_err(), "{nobody:?}");

    // After a freeze nothing passes, and what waited is not carried out later.
    stage.proxy.add(Rule::new(Fault::Freeze).writes().nth(1));
    let (first, late, frozen) = tokio::join!(
        stage.create("first"),
        async {
            stage.proxy.until_held(PATIENCE).await.expect("it froze");
            stage.create("too-late").await
        },
        async {
            let call = stage.proxy.until_held(PATIENCE).await.expect("it froze");
            let get = tokio::time::timeout(Duration::from_millis(300), stage.maps.get("plain"));
            assert!(get.await.is_err(), "nothing passes");
            stage.proxy.heal();
            call
        }
    );
    assert_eq!(frozen.name, "first");
    assert_eq!(code(&first.expect_err("no answer")), 0);
    assert_eq!(code(&late.expect_err("no answer")), 0);
    assert!(stage.is_there("first").await && !stage.is_there("too-late").await);
    stage.maps.get("plain").await.expect("it passes again");
}

async fn cuts(stage: &Stage) {
    stage.proxy.clear();
    stage.proxy.refuse();
    assert_eq!(code(&stage.maps.get("plain").await.expect_err("refused")), 0);
    stage.proxy.heal();
    stage.maps.get("plain").await.expect("it passes again");
    stage.proxy.freeze();
    let get = tokio::time::timeout(Duration::from_millis(300), stage.maps.get("plain"));
    assert!(get.await.is_err(), "nothing passes");
    stage.proxy.heal();
    stage.maps.get("plain").await.expect("it passes again");
}

async fn the_clock(stage: &Stage) {
    for days in [3650, -3650] {
        stage.proxy.shift_date(TimeDelta::days(days));
        let request = http::Request::get("/version").body(kube::client::Body::empty()).unwrap();
        let answer = stage.client.send(request).await.expect("an answer");
        let date = answer.headers()["date"].to_str().expect("text");
        let date = DateTime::parse_from_rfc2822(date).expect("a date").to_utc();
        let off = (date - Utc::now() - TimeDelta::days(days)).num_seconds().abs();
        assert!(off < 10, "{date}");
    }
}
