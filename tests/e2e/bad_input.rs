//! What people get wrong: each mistake gives one clear line, or one condition, that says what is
//! wrong, where, and what to do; and nothing is lost by it.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::user::{Snapshot, User, expect_condition, http, request, sample};
use reprieve::sandbox::{Process, Sandbox, process};
use serde_json::json;

const REPRIEVE: &str = env!("CARGO_BIN_EXE_reprieve");
const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");
/// How long the operator may take to say what is wrong.
const SOON: Duration = Duration::from_secs(20);

/// `reprieve run`, without a sandbox. It is killed when this is dropped.
struct Run {
    child: Child,
    listen: SocketAddr,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port on which nothing listens.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

impl Run {
    fn start(kubeconfig: &Path, store: &str, more: &[&str]) -> Self {
        let listen = free_address();
        let child = Command::new(REPRIEVE)
            .arg("run")
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args([format!("--store-url={store}"), format!("--listen={listen}")])
            .args(more)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be run");
        Self { child, listen }
    }

    fn end(&mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let mut err = String::new();
                let pipe = self.child.stderr.as_mut().expect("standard error");
                pipe.read_to_string(&mut err).expect("text");
                return (status, err);
            }
            assert!(begun.elapsed() < SOON, "expected it to end within {SOON:?}; seen: it runs");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// It must end at once, with exit code 1 and one line that says all of this.
    #[track_caller]
    fn fails_with(self, what: &str, words: &[&str]) {
        self.fails_as(what, 1, words);
    }

    /// It must end at once, with this exit code and one line that says all of this.
    #[track_caller]
    fn fails_as(mut self, what: &str, code: i32, words: &[&str]) {
        let (status, err) = self.end();
        eprintln!("{what}: {err}");
        assert_eq!(status.code(), Some(code), "{what}: expected exit code {code}; seen: {err}");
        assert_eq!(err.lines().count(), 1, "{what}: expected one line; seen: {err}");
        assert!(err.starts_with("error: "), "{what}: expected an error; seen: {err}");
        for word in words {
            assert!(err.contains(word), "{what}: expected {word:?}; seen: {err}");
        }
    }
}

/// Waits for an answer of `/readyz` that says all of this, on one line.
#[track_caller]
fn readyz(listen: SocketAddr, code: u16, words: &[&str]) {
    let begun = Instant::now();
    loop {
        let seen = http(listen, "/readyz");
        let fits = |(c, body): &(u16, String)| {
            *c == code && words.iter().all(|w| body.contains(w)) && body.lines().count() == 1
        };
        if seen.as_ref().is_some_and(fits) {
            eprintln!("/readyz: {seen:?}");
            return;
        }
        assert!(
            begun.elapsed() < SOON,
            "/readyz: expected {code} and one line with {words:?}; seen: {seen:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{token: t}}}}]\n"
    )
}

/// A folder with a kubeconfig of a server that is not there, and a store.
struct Desk {
    dir: tempfile::TempDir,
    kubeconfig: PathBuf,
    server: String,
    store: String,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let kubeconfig_path = dir.path().join("kubeconfig");
        let server = format!("http://{}", free_address());
        fs::write(&kubeconfig_path, kubeconfig(&server)).expect("a file");
        let store = dir.path().join("store");
        fs::create_dir(&store).expect("a store");
        let store = format!("file://{}", store.display());
        Self { dir, kubeconfig: kubeconfig_path, server, store }
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_one_line() {
    let desk = Desk::new();
    let missing = desk.dir.path().join("none");
    let broken = desk.file("broken", "clusters: [unclosed\n  - {");
    let no_kubeconfig = desk.file("prose", "this is no kubeconfig\n");
    let empty = desk.file("empty", "");
    let other =
        kubeconfig("https://127.0.0.1:1").replace("current-context: c", "current-context: x");
    let no_context = desk.file("no-context", &other);
    let no_server = desk.file("no-server", &kubeconfig("not a url"));
    for (what, path, words) in [
        ("no such file", &missing, "No such file"),
        ("a folder", &desk.dir.path().to_owned(), "directory"),
        ("broken YAML", &broken, "--kubeconfig"),
        ("no kubeconfig", &no_kubeconfig, "--kubeconfig"),
        ("an empty file", &empty, "context"),
        ("a context that is not there", &no_context, "context: x"),
        ("a server that is no URL", &no_server, "cluster url"),
    ] {
        let run = Run::start(path, &desk.store, &[]);
        run.fails_with(what, &["--kubeconfig", &path.display().to_string(), words]);
    }
}

#[test]
fn a_store_that_cannot_be_used_is_one_line() {
    let desk = Desk::new();
    let file = desk.file("file", "");
    let (file, missing) = (file.display(), desk.dir.path().join("none"));
    for (url, words) in [
        (format!("file://{file}/below"), "is not a folder"),
        (format!("file://{file}"), "is not a folder"),
        (format!("file://{}", missing.display()), "is not a folder"),
        // A folder that nobody, not even root, can write.
        ("file:///proc".to_owned(), "cannot be written"),
        ("ftp://example.invalid/x".to_owned(), "use file://"),
        ("backups".to_owned(), "relative URL"),
        (String::new(), "relative URL"),
    ] {
        let run = Run::start(&desk.kubeconfig, &url, &[]);
        run.fails_with(&format!("the store {url:?}"), &["check --store-url", &url, words]);
    }
    assert!(!missing.exists(), "expected no folder to be made in place of a lost mount");
}

#[test]
fn an_address_or_log_filter_that_cannot_be_used_is_one_line() {
    let desk = Desk::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut run = Command::new(REPRIEVE);
    run.args(["run", &format!("--store-url={}", desk.store), &format!("--listen={address}")])
        .arg(format!("--kubeconfig={}", desk.kubeconfig.display()))
        .stderr(Stdio::piped());
    let run = Run { child: run.spawn().expect("it can be run"), listen: free_address() };
    let words = ["cannot listen on", &address, "--listen", "whether the operator runs already"];
    run.fails_with("an address that is taken", &words);
    let run = Run::start(&desk.kubeconfig, &desk.store, &["--log=reprieve=loud"]);
    run.fails_as("a log filter", 2, &["--log", "reprieve=loud"]);
}

#[test]
fn an_api_server_that_is_not_there_is_waited_for() {
    let desk = Desk::new();
    let mut run = Run::start(&desk.kubeconfig, &desk.store, &[]);
    let words = ["the API server", &desk.server, "does not answer: Connection refused"];
    readyz(run.listen, 503, &words);
    let live = http(run.listen, "/livez").map(|(code, _)| code);
    assert_eq!(live, Some(200), "/livez: expected 200: to be restarted would not help");
    let pid = i32::try_from(run.child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let signal = rustix::process::Signal::TERM;
    rustix::process::kill_process(pid.expect("a process"), signal).expect("it runs");
    let (status, err) = run.end();
    assert_eq!(status.code(), Some(0), "SIGTERM: expected exit code 0; seen: {status}: {err}");
    let waiting = |l: &&str| l.contains("\"WARN\"") && l.contains("does not answer");
    let warnings = err.lines().filter(waiting).count();
    assert_eq!(warnings, 1, "expected one line in the log, not one a second; seen: {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_get_wrong_in_a_cluster() {
    let Some(sandbox) = Sandbox::for_test(REPRIEVE).await else { return };
    missing_crds_are_waited_for(&sandbox);
    sandbox.install().await.expect("it can be installed");
    let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
    let admin = User::admin(&sandbox);
    let alice = User::person(&sandbox, "alice", "reprieve-requester");
    let bob = User::person(&sandbox, "bob", "reprieve-approver");
    for number in 1..=12 {
        admin.apply(&sample(SITE, &format!("s{number}"), number)).worked();
    }
    admin.kubectl("wait --for=condition=Ready site --all --timeout=60s").worked();
    admin.apply(&sample(APP, "s1", 1)).worked();
    admin.kubectl("wait --for=condition=Ready app shop -n s1 --timeout=60s").worked();
    let mut before = vec![];
    for number in 1..=12 {
        before.push(Snapshot::take(&sandbox, &format!("s{number}")).await);
    }

    typing_errors_change_nothing(&admin);
    apps_that_are_empty_or_large(&admin);
    lists_that_are_refused_by_the_schema(&alice);
    requests_that_are_refused(&alice);
    an_id_of_both_kinds(&admin, &alice);
    too_many(&alice);
    another_digest(&alice, &bob);
    store_that_goes_away(&sandbox, &admin);

    for (number, before) in (1..=12).zip(before) {
        let now = Snapshot::take(&sandbox, &format!("s{number}")).await;
        before.expect_untouched(&now, "after everything that people got wrong");
    }
    drop(operator);
    sandbox.stop().expect("nothing is left");
}

/// The operator was started before its CRDs, with an administrator's kubeconfig.
fn missing_crds_are_waited_for(sandbox: &Sandbox) {
    let listen = free_address();
    let args = [
        "run".to_owned(),
        format!("--kubeconfig={}", sandbox.admin_kubeconfig().display()),
        format!("--store-url={}", sandbox.store_url()),
        format!("--listen={listen}"),
    ];
    let spec = process::Spec {
        name: "too-early".to_owned(),
        program: REPRIEVE.into(),
        args: args.map(Into::into).to_vec(),
    };
    let mut early: Process = spec.start(sandbox.dir()).expect("it starts");
    let command = "kubectl apply --server-side -f crds/";
    readyz(listen, 503, &["lacks the CRDs", "sites", "deletionrequests", "restores", command]);
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let admin = User::admin(sandbox);
    let one = fs::read_to_string(crds.join("sites.yaml")).expect("a CRD");
    admin.apply(&one).worked();
    readyz(listen, 503, &["lacks the CRDs apps, ", "backups", command]);
    // As the operator says, and as whoever installs it does: the folder as a whole.
    let folder = crds.display().to_string();
    admin.run(&["apply", "--server-side", "-f", &folder], "").worked();
    let command = "kubectl apply --server-side -f deploy/rbac/operator.yaml";
    readyz(listen, 503, &["lacks the namespace reprieve-system", command]);
    let rbac = crds.with_file_name("deploy/rbac/operator.yaml").display().to_string();
    admin.run(&["apply", "--server-side", "-f", &rbac], "").worked();
    // An administrator has every right, and is not the operator.
    let words = ["these credentials are those of", "the guard takes only", "docs/operating.md"];
    readyz(listen, 503, &words);
    assert!(early.is_running(), "expected no restart");
    early.kill().expect("it is killed");
}

fn typing_errors_change_nothing(admin: &User) {
    let site = sample(SITE, "typo", 77);
    for (what, yaml, words) in [
        ("an unknown field", site.replace("tenant:", "tennant:"), "tennant"),
        ("a brace too few", site.replace("spec:", "spec: {"), "line"),
        ("a wrong kind", site.replace("kind: Site", "kind: Sit"), "Sit"),
        ("a blank in an id", site.replace("site-77", "'site 77'"), "spec.id"),
        ("a number too large", site.replace("priority: 100", "priority: 1001"), "spec.priority"),
        ("no id", site.replace("  id: site-77\n", ""), "spec.id"),
        ("an empty id", site.replace("site-77", "''"), "spec.id"),
        ("an id that looks like another", site.replace("site-77", "sitе-77"), "spec.id"),
        ("a long id", site.replace("site-77", &"7".repeat(300)), "spec.id"),
        ("a system's name", site.replace("name: typo", "name: kube-typo"), "belong to the system"),
        (
            "a long name",
            site.replace("name: typo", &format!("name: {}", "t".repeat(64))),
            "DNS label",
        ),
        ("a dotted name", site.replace("name: typo", "name: typo.example"), "DNS label"),
    ] {
        admin.apply(&yaml).failed(&[words]);
        let seen = admin.kubectl("get site,namespace typo -o name --ignore-not-found");
        assert_eq!(seen.worked(), "", "{what}: expected nothing to be created");
    }
    // The id of a site is for ever.
    admin.apply(&sample(SITE, "s1", 78)).failed(&["id is immutable"]);

    // Typing errors in an App's manifests: the App says which manifest, and keeps what it had.
    let app = sample(APP, "s1", 1);
    for (yaml, words) in [
        (
            app.replace("kind: ConfigMap\n", "kind: ConfigMpa\n"),
            ["InvalidManifest", "manifests[3]", "ConfigMpa"],
        ),
        (app.replace("      data:\n", "      dta:\n"), ["ApplyFailed", "manifests[3]", "dta"]),
    ] {
        assert_ne!(yaml, app, "the sample has changed");
        admin.apply(&yaml).worked();
        let live = admin.until("app shop -n s1", words[0], |live| {
            crate::user::condition(live, "Ready").starts_with(&format!("False {}", words[0]))
        });
        expect_condition(&live, "Ready", &words);
        assert_eq!(live["status"]["objects"].as_array().map(Vec::len), Some(10), "{live}");
        admin.kubectl("get configmap shop -n s1").worked();
    }
    admin.apply(&app).worked();
    admin.kubectl("wait --for=condition=Ready app shop -n s1 --timeout=60s").worked();

    // The id of another one: refused in words that name it, and nothing is set up for it.
    admin.apply(&sample(SITE, "twin", 1)).worked();
    let live = admin.until("site twin", "DuplicateId", |live| {
        crate::user::condition(live, "Ready").starts_with("False DuplicateId")
    });
    expect_condition(&live, "Ready", &["site-1", "Site s1"]);
    let seen = admin.kubectl("get namespace twin -o name --ignore-not-found");
    assert_eq!(seen.worked(), "", "expected no namespace for a duplicate");
}

/// An App of the site `large` with this many ConfigMaps of this many bytes each.
fn large(name: &str, count: usize, bytes: usize) -> String {
    let map = |n: usize| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-{n}")},
            "data": {"text": "x".repeat(bytes)},
        })
    };
    let manifests: Vec<_> = (0..count).map(map).collect();
    json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "App",
        "metadata": {"name": name, "namespace": "large"},
        "spec": {"id": format!("app-{name}"), "product": "shop", "manifests": manifests},
    })
    .to_string()
}

fn apps_that_are_empty_or_large(admin: &User) {
    admin.apply(&sample(SITE, "large", 113)).worked();
    admin.kubectl("wait --for=condition=Ready site large --timeout=60s").worked();
    let app =
        sample(APP, "large", 78).replace("name: shop\n  namespace", "name: typo\n  namespace");
    let (head, _) = app.split_once("  manifests:").expect("the sample has manifests");
    let missing = format!("{head}  manifests: [{{apiVersion: v1, metadata: {{name: x}}}}]\n");
    for (what, yaml, words) in [
        ("no manifests", head.to_owned(), "spec.manifests"),
        ("empty manifests", format!("{head}  manifests: []\n"), "spec.manifests"),
        ("a manifest that is none", format!("{head}  manifests: [hello]\n"), "spec.manifests[0]"),
        ("a manifest without a kind", missing, "spec.manifests[0].kind"),
        ("an unknown field", app.replace("  product:", "  prodcut:"), "prodcut"),
        ("a long name", app.replace("name: typo", &format!("name: {}", "t".repeat(64))), "63"),
        ("a long id", app.replace("app-78", &"7".repeat(300)), "spec.id"),
        ("larger than an object can be", large("typo", 20, 100_000), "request is too large"),
    ] {
        admin.apply(&yaml).failed(&[words]);
        let seen = admin.kubectl("get app typo -n large -o name --ignore-not-found");
        assert_eq!(seen.worked(), "", "{what}: expected nothing to be created");
    }
    // 1 MB of manifests is an App like any other.
    admin.apply(&large("large", 10, 100_000)).worked();
    admin.kubectl("wait --for=condition=Ready app large -n large --timeout=60s").worked();
    let live = admin.get("configmap large-9 -n large");
    assert_eq!(live["data"]["text"].as_str().map(str::len), Some(100_000));
    // Every number of objects that the schema allows.
    admin.apply(&large("many", 500, 10)).worked();
    admin.kubectl("wait --for=condition=Ready app many -n large --timeout=120s").worked();
    let live = admin.get("app many -n large");
    assert_eq!(live["status"]["objects"].as_array().map(Vec::len), Some(500));
    // A single object that is too large is named; nothing of the App is lost by it.
    admin.apply(&large("heavy", 1, 1_100_000)).worked();
    let live = admin.until("app heavy -n large", "ApplyFailed", |live| {
        crate::user::condition(live, "Ready").starts_with("False ApplyFailed")
    });
    expect_condition(&live, "Ready", &["manifests[0]", "heavy-0", "Too long"]);
    // An App that was just small enough to be written: what cannot be a condition is an event.
    let mut sizes = (103_000..104_800).rev().step_by(50);
    let fits = sizes.find(|bytes| admin.apply(&large("full", 15, *bytes)).ok);
    eprintln!("15 ConfigMaps of {fits:?} bytes are the largest App");
    admin.until("events.events.k8s.io -n large", "an event TooLarge", |all| {
        let all = all["items"].as_array().cloned().unwrap_or_default();
        all.iter().any(|e| e["reason"] == "TooLarge" && e["regarding"]["name"] == "full")
    });
}

fn lists_that_are_refused_by_the_schema(alice: &User) {
    let of = |ids: &[&str]| ids.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (ids, words) in [
        (of(&[]), "should have at least 1 items"),
        (of(&[""]), "spec.target.ids[0]"),
        (of(&[" "]), "spec.target.ids[0]"),
        (of(&["site-1 "]), "spec.target.ids[0]"),
        (of(&["site-1", "site-1"]), "Duplicate value"),
    ] {
        alice.create(&request("nothing", "Site", &ids)).failed(&["is invalid", words]);
    }
    let site = of(&["site-1"]);
    alice.create(&request("nothing", "Tenant", &site)).failed(&["spec.target.kind", "\"App\""]);
    let mut without = request("nothing", "Site", &site);
    without["spec"]["reason"] = json!("  ");
    alice.create(&without).failed(&["spec.reason"]);
    let mut typo = request("nothing", "Site", &site);
    typo["spec"]["retentionSecond"] = json!(10);
    alice.create(&typo).failed(&["unknown field", "retentionSecond"]);
    let seen = alice.kubectl("get dreq -o name");
    assert_eq!(seen.worked(), "", "expected no request to be created");
}

/// One string as the id of a Site and of an App: it can mean neither.
fn an_id_of_both_kinds(admin: &User, alice: &User) {
    let app = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "App",
        "metadata": {"name": "both", "namespace": "large"},
        "spec": {"id": "site-113", "product": "wiki", "manifests": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "both"}},
        ]},
    });
    admin.create(&app).worked();
    let uids = || {
        ["site large", "app both -n large"].map(|what| admin.get(what)["metadata"]["uid"].clone())
    };
    let before = uids();
    for kind in ["Site", "App"] {
        let name = format!("both-{}", kind.to_lowercase());
        alice.create(&request(&name, kind, &["site-113".to_owned()])).worked();
        let live = alice.until_state(&name, "Refused");
        let words = ["False AmbiguousId", "\"site-113\"", "Site large", "App large/both"];
        expect_condition(&live, "ScopeValid", &words);
        assert_eq!(live["status"]["plan"]["refusals"][0]["reason"], "AmbiguousId", "{live}");
        assert!(live["status"]["plan"]["digest"].is_null(), "expected nothing to approve: {live}");
    }
    assert_eq!(uids(), before, "both are there");
}

fn requests_that_are_refused(alice: &User) {
    let sites: Vec<String> = (2..=11).map(|n| format!("site-{n}")).collect();
    let with = |id: &str| [&sites[..2], &[id.to_owned()]].concat();
    for (name, kind, ids, gate, words) in [
        (
            "no-app",
            "App",
            sites.clone(),
            "ScopeValid",
            &["EntityTypeMismatch", "10 of 10", "Site s10"][..],
        ),
        ("no-site", "Site", with("app-1"), "ScopeValid", &["EntityTypeMismatch", "App s1/shop"]),
        ("unknown", "Site", with("site-99"), "ScopeValid", &["UnknownId", "\"site-99\""]),
        ("case", "Site", with("SITE-4"), "ScopeValid", &["UnknownId", "\"SITE-4\""]),
        ("wild", "Site", with("*"), "ScopeValid", &["UnknownId", "\"*\""]),
        ("twins", "Site", with("site-1"), "ScopeValid", &["AmbiguousId", "Site s1", "Site twin"]),
    ] {
        alice.create(&request(name, kind, &ids)).worked();
        let live = alice.until_state(name, "Refused");
        expect_condition(&live, gate, &[&["False"], words].concat());
    }
}

fn too_many(alice: &User) {
    let eleven: Vec<String> = (2..=12).map(|n| format!("site-{n}")).collect();
    alice.create(&request("eleven", "Site", &eleven)).worked();
    let live = alice.until_state("eleven", "Refused");
    let words =
        ["False OverrideRequired", "11 Sites", "allows 10", "spec.override.justification", "split"];
    expect_condition(&live, "WithinBlastRadius", &words);
}

/// Two requests, and the approval of one used for the other.
fn another_digest(alice: &User, bob: &User) {
    for (name, id) in [("one", "site-2"), ("other", "site-3")] {
        alice.create(&request(name, "Site", &[id.to_owned()])).worked();
        alice.until_state(name, "AwaitingApproval");
    }
    let digest = |name: &str| {
        let live = alice.get(&format!("dreq {name}"));
        live["status"]["plan"]["digest"].as_str().expect("a digest").to_owned()
    };
    let (one, other) = (digest("one"), digest("other"));
    assert_ne!(one, other, "expected a digest for each request");
    let approval = format!("approval.reprieve.dev/bob={other} bob");
    bob.annotate("one", &approval).denied(&[&other, &one, "kubectl get dreq one"]);
    // The same site in a younger request: the older one wins.
    alice.create(&request("again", "Site", &["site-2".to_owned()])).worked();
    let live = alice.until_state("again", "Refused");
    expect_condition(&live, "ScopeValid", &["False InOtherRequest", "Site s2", "one"]);
    for name in ["one", "other"] {
        alice.kubectl(&format!("delete dreq {name} --timeout=30s")).worked();
    }
}

/// A store that cannot be written while the operator runs: the Backup says so, and is made once
/// the store is back.
fn store_that_goes_away(sandbox: &Sandbox, admin: &User) {
    let store = sandbox.store_dir();
    let away = store.with_extension("away");
    fs::rename(&store, &away).expect("it can be moved");
    fs::write(&store, "a file where the store was").expect("a file");
    admin
        .create(&json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "hard"},
            "spec": {"siteRef": {"name": "s1"}},
        }))
        .worked();
    let live = admin.until("bkp hard", "StoreUnavailable", |live| {
        crate::user::condition(live, "Succeeded").starts_with("False StoreUnavailable")
    });
    expect_condition(&live, "Succeeded", &["cannot be read", &sandbox.store_url()]);
    fs::remove_file(&store).expect("a file");
    fs::rename(&away, &store).expect("it can be moved back");
    admin.kubectl("wait --for=condition=Verified bkp/hard --timeout=60s").worked();
}
