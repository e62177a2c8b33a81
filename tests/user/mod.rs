//! What a user has: kubectl, a kubeconfig, and eyes. Shared by the tests that see the operator
//! only from outside.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reprieve::cluster::collect::{Freshness, collect};
use reprieve::cluster::discover::discover;
use reprieve::cluster::form::{ObjectKey, root_digest};
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

/// How long anything may take, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Who takes part in most stories, each with a role: a requester and two approvers.
pub const PEOPLE: [(&str, &str); 3] =
    [("alice", "reprieve-requester"), ("bob", "reprieve-approver"), ("carol", "reprieve-approver")];

/// Somebody with kubectl.
#[derive(Clone)]
pub struct User {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    mark: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
    what: String,
}

impl User {
    pub fn new(sandbox: &Sandbox, kubeconfig: PathBuf) -> Self {
        let dir = sandbox.dir().to_owned();
        Self { kubectl: sandbox.kubectl(), kubeconfig, home: dir.clone(), mark: dir }
    }

    pub fn admin(sandbox: &Sandbox) -> Self {
        Self::new(sandbox, sandbox.admin_kubeconfig())
    }

    /// A person with one of our roles.
    pub fn person(sandbox: &Sandbox, name: &str, role: &str) -> Self {
        let kubeconfig = sandbox.user(name, &[]).expect("a kubeconfig");
        grant(sandbox, name, role);
        Self::new(sandbox, kubeconfig)
    }

    /// Runs kubectl, with this on its standard input.
    pub fn with_input(&self, args: &str, input: &str) -> Said {
        let words: Vec<&str> = args.split_whitespace().collect();
        self.run(&words, input)
    }

    /// Runs kubectl; the arguments are separated by spaces.
    pub fn kubectl(&self, args: &str) -> Said {
        self.with_input(args, "")
    }

    /// Runs kubectl with these arguments.
    pub fn run(&self, args: &[&str], input: &str) -> Said {
        let mut child = std::process::Command::new(&self.kubectl)
            // Whatever hangs must end.
            .arg("--request-timeout=30s")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env(reprieve::sandbox::process::MARK, &self.mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("an input").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("kubectl ends");
        Said {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            what: format!("kubectl {}", args.join(" ")),
        }
    }

    /// `kubectl get … -o json`, which must work.
    pub fn get(&self, what: &str) -> Value {
        let said = self.kubectl(&format!("get {what} -o json"));
        serde_json::from_str(said.worked()).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// Applies these objects, as `kubectl apply --server-side -f -` does.
    pub fn apply(&self, yaml: &str) -> Said {
        self.with_input("apply --server-side -f -", yaml)
    }

    /// Creates this object.
    pub fn create(&self, object: &Value) -> Said {
        self.with_input("create -f -", &object.to_string())
    }

    /// Approves the plan of a request as it is now.
    pub fn approve(&self, request: &str, name: &str) -> Said {
        let digest = self.get(&format!("dreq {request}"))["status"]["plan"]["digest"].clone();
        let digest = digest.as_str().expect("a digest").to_owned();
        self.annotate(request, &format!("approval.reprieve.dev/{name}={digest} {name}"))
    }

    /// Sets an annotation of a request; it may hold spaces.
    pub fn annotate(&self, request: &str, annotation: &str) -> Said {
        self.run(&["annotate", "--overwrite", "dreq", request, annotation], "")
    }

    /// Asks kubectl again and again until what it shows is as it should be.
    pub fn until(&self, what: &str, expected: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let live = self.get(what);
            if holds(&live) {
                return live;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: expected {expected} within {PATIENCE:?}; seen: {}",
                brief(&live)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a request's state; fails at once when it has ended in another one.
    pub fn until_state(&self, request: &str, state: &str) -> Value {
        let live = self.until(&format!("dreq {request}"), &format!("state {state}"), |live| {
            let seen = live["status"]["state"].as_str().unwrap_or_default();
            seen == state || ["Completed", "Refused", "Expired", "Cancelled"].contains(&seen)
        });
        expect(&format!("state of dreq {request}"), state, &live["status"]["state"], &live);
        live
    }
}

/// A cluster with the operator in it, and those that most stories need.
pub struct Stage {
    pub sandbox: Sandbox,
    pub operator: Operator,
    pub admin: User,
    /// Requester.
    pub alice: User,
    /// Approvers.
    pub bob: User,
    pub carol: User,
}

impl Stage {
    /// None: this machine cannot have a cluster.
    pub async fn start() -> Option<Self> {
        let sandbox = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await?;
        sandbox.install().await.expect("it can be installed");
        let operator = sandbox.start_operator(&[]).await.expect("the operator starts");
        let [alice, bob, carol] = PEOPLE.map(|(name, role)| User::person(&sandbox, name, role));
        Some(Self { admin: User::admin(&sandbox), alice, bob, carol, operator, sandbox })
    }
}

/// Binds a user, or a service account by its user name, to a ClusterRole.
pub fn grant(sandbox: &Sandbox, user: &str, role: &str) {
    let name = format!("{role}-{}", user.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    let binding = format!("create clusterrolebinding {name} --clusterrole={role} --user={user}");
    User::admin(sandbox).kubectl(&binding).worked();
}

impl Said {
    /// What it printed; it must have worked.
    #[track_caller]
    pub fn worked(&self) -> &str {
        assert!(self.ok, "{}: expected to work; seen: {}{}", self.what, self.out, self.err);
        &self.out
    }

    /// It must have been refused with a 403 that says all of this.
    #[track_caller]
    pub fn denied(&self, words: &[&str]) {
        self.failed(&[&["(Forbidden)"], words].concat());
    }

    /// It must have failed, and have said all of this on standard error.
    #[track_caller]
    pub fn failed(&self, words: &[&str]) {
        assert!(!self.ok, "{}: expected to fail with {words:?}; seen: {}", self.what, self.out);
        for word in words {
            let err = &self.err;
            assert!(err.contains(word), "{}: expected to say {word:?}; seen: {err}", self.what);
        }
    }
}

/// Compares a field with a string.
#[track_caller]
pub fn expect(what: &str, expected: &str, seen: &Value, of: &Value) {
    let seen = seen.as_str().unwrap_or_default();
    assert_eq!(seen, expected, "{what}: expected {expected}; seen: {seen}; all: {}", brief(of));
}

/// A condition as `status reason: message`.
pub fn condition(object: &Value, type_: &str) -> String {
    let all = object["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == type_);
    found.map_or("absent".to_owned(), |c| {
        let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", text("status"), text("reason"), text("message"))
    })
}

/// A condition must say all of this.
#[track_caller]
pub fn expect_condition(object: &Value, type_: &str, words: &[&str]) {
    let seen = condition(object, type_);
    for word in words {
        assert!(seen.contains(word), "condition {type_}: expected {word:?}; seen: {seen}");
    }
    assert!(!seen.contains('\n'), "condition {type_}: expected one line; seen: {seen}");
}

/// Status without the plan's bulk, to be read in a failed test.
fn brief(object: &Value) -> String {
    let mut status = object["status"].clone();
    if let Some(plan) = status["plan"].as_object_mut() {
        plan.remove("head");
    }
    let mut text = status.to_string();
    if let Some(items) = object["items"].as_array() {
        for item in items {
            let _ = write!(text, "\n{}: {}", item["metadata"]["name"], item["status"]);
        }
    }
    text
}

/// What must be found nowhere: the content of a Secret.
const CANARY: &str = "kaRnickel-7f3b9e";

/// Puts the Secret `canary` into a namespace.
pub fn make_canary(admin: &User, namespace: &str) {
    let make = "create secret generic canary --from-literal=password=";
    admin.kubectl(&format!("{make}{CANARY} -n {namespace}")).worked();
}

/// B3: the content of the Secret `canary` stands neither in the operator's log, nor in events,
/// objects of ours and metrics, nor in any file below this folder. Gives the files' names.
pub fn expect_canary_untold(
    operator: &Operator,
    admin: &User,
    namespace: &str,
    folder: Option<PathBuf>,
) -> Vec<String> {
    let secret = format!("get secret canary -n {namespace} -o jsonpath={{.data.password}}");
    // As it lies in an object, and as it was given.
    let encoded = admin.kubectl(&secret).worked().trim_matches('\'').to_owned();
    assert!(encoded.len() > 10, "{encoded}");
    let log = std::fs::read(operator.process().log()).expect("a log");
    assert!(log.len() > 100, "the log is not there");
    let said = |what: &str| admin.kubectl(what).worked().to_owned().into_bytes();
    let mut places = vec![
        ("the log".to_owned(), log),
        ("events".to_owned(), said("get events -A -o yaml")),
        ("objects".to_owned(), said("get reprieve -A -o yaml")),
        (
            "metrics".to_owned(),
            http(operator.listen(), "/metrics").expect("metrics").1.into_bytes(),
        ),
    ];
    let (mut folders, mut files) = (Vec::from_iter(folder), vec![]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.display().to_string());
                places.push((path.display().to_string(), std::fs::read(&path).expect("a file")));
            }
        }
    }
    for (name, bytes) in places {
        for word in [CANARY, &encoded] {
            let found = bytes.windows(word.len()).any(|bytes| bytes == word.as_bytes());
            assert!(!found, "{word} in {name}");
        }
    }
    files
}

/// Everything that a site holds: UID and digest of each object, by key.
#[derive(Clone, PartialEq)]
pub struct Snapshot {
    pub root: String,
    pub objects: Vec<(String, String, String)>,
    forms: Vec<Value>,
}

impl Snapshot {
    /// Of a site with one namespace, of its own name.
    pub async fn take(sandbox: &Sandbox, site: &str) -> Self {
        Self::of(sandbox, site, &[site.to_owned()]).await
    }

    /// Of a site with these namespaces.
    pub async fn of(sandbox: &Sandbox, site: &str, namespaces: &[String]) -> Self {
        let client = sandbox.admin();
        let kinds = discover(&client).await.expect("discovery");
        let all = collect(&client, &kinds, site, namespaces, Freshness::Live)
            .await
            .unwrap_or_else(|error| panic!("site {site}: {error}"));
        Self {
            root: all.root_digest(),
            forms: all.objects.iter().map(|o| o.form.clone()).collect(),
            objects: all
                .objects
                .into_iter()
                .map(|o| (o.key.to_string(), o.uid, o.digest))
                .collect(),
        }
    }

    /// The UID of an object.
    #[track_caller]
    pub fn uid(&self, key: &str) -> String {
        let found = self.objects.iter().find(|o| o.0 == key);
        found.unwrap_or_else(|| panic!("no {key} among {:?}", self.objects)).1.clone()
    }

    /// The same without these objects.
    pub fn without(&self, keys: &[&str]) -> Self {
        let stays = |o: &(String, String, String)| !keys.contains(&o.0.as_str());
        let all = self.objects.iter().zip(&self.forms).filter(|(o, _)| stays(o));
        let (objects, forms): (Vec<_>, Vec<_>) = all.map(|(o, f)| (o.clone(), f.clone())).unzip();
        let parsed: Vec<ObjectKey> =
            objects.iter().map(|o| o.0.parse().expect("the key of an object")).collect();
        let root = root_digest(parsed.iter().zip(&objects).map(|(key, o)| (key, o.2.as_str())));
        Self { root, objects, forms }
    }

    /// Everything is untouched: the same objects, by UID, with the same content.
    #[track_caller]
    pub fn expect_untouched(&self, now: &Self, when: &str) {
        self.expect_equal(now, when);
        for (before, now) in self.objects.iter().zip(&now.objects) {
            assert_eq!(before.1, now.1, "{when}: {} expected with the same UID", before.0);
        }
    }

    /// The content is the same.
    #[track_caller]
    pub fn expect_equal(&self, now: &Self, when: &str) {
        let keys = |all: &Self| all.objects.iter().map(|o| o.0.clone()).collect::<Vec<_>>();
        assert_eq!(keys(self), keys(now), "{when}: expected the same objects");
        for (index, (before, after)) in self.objects.iter().zip(&now.objects).enumerate() {
            assert_eq!(
                before.2, after.2,
                "{when}: {} expected as it was: {}; seen: {}",
                before.0, self.forms[index], now.forms[index]
            );
        }
        assert_eq!(self.root, now.root, "{when}: expected the same root digest");
    }

    /// Nothing of it is the same object.
    #[track_caller]
    pub fn expect_new(&self, now: &Self, when: &str) {
        for (key, uid, _) in &now.objects {
            assert!(self.objects.iter().all(|o| o.1 != *uid), "{when}: {key} expected anew");
        }
    }
}

/// A sample of deploy/samples for another site. Its Pods end quickly: the namespace controller
/// waits for half of their grace period, 16 s by default, before it looks again.
pub fn sample(file: &str, site: &str, number: u32) -> String {
    file.replace("acme", site)
        .replace("site-4711", &format!("site-{number}"))
        .replace("app-0815", &format!("app-{number}"))
        .replace(
            "            serviceAccountName: shop\n",
            "            serviceAccountName: shop\n            terminationGracePeriodSeconds: 1\n",
        )
}

/// A DeletionRequest.
pub fn request(name: &str, kind: &str, ids: &[String]) -> Value {
    json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest", "metadata": {"name": name},
        "spec": {"target": {"kind": kind, "ids": ids}, "reason": "a test", "retentionSeconds": 10},
    })
}

/// The status code and the body of a plain GET.
pub fn http(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let timeout = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
