//! `reprieve sandbox`, as somebody types it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reprieve::sandbox::{Progress, binaries, process};

use crate::{REPRIEVE, wait_for};

/// A user's machine: a cache folder of its own.
struct Machine {
    cache: tempfile::TempDir,
    assets: PathBuf,
}

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Machine {
    /// None, with a word why, where no sandbox can be started.
    fn new() -> Option<Self> {
        if let Some(reason) = binaries::unavailable() {
            reprieve::sandbox::skipped(&reason);
            return None;
        }
        let binaries = binaries::locate(Progress::Quiet).expect("they can be built");
        let cache = tempfile::tempdir().expect("a folder for temporary files");
        Some(Self { cache, assets: binaries.folder().to_owned() })
    }

    fn dir(&self, name: &str) -> PathBuf {
        let cache = self.cache.path().canonicalize().expect("it is there");
        cache.join("reprieve/sandboxes").join(name)
    }

    /// `reprieve sandbox …`; the arguments are separated by spaces.
    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(REPRIEVE);
        command
            .arg("sandbox")
            .args(args.split_whitespace())
            .env("XDG_CACHE_HOME", self.cache.path())
            .env("REPRIEVE_ASSETS", &self.assets);
        command
    }

    fn run(&self, args: &str) -> Said {
        let output = self.command(args).output().expect("reprieve runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Drop for Machine {
    /// A failed test must leave nothing either.
    fn drop(&mut self) {
        for name in ["one", "two"] {
            process::kill_marked(&self.dir(name));
        }
    }
}

impl Said {
    /// It ended with this code and said all of this, on either output.
    #[track_caller]
    fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(
                self.out.contains(word) || self.err.contains(word),
                "{word:?} is not in {self:?}"
            );
        }
    }

    /// The line of `status` about this component.
    #[track_caller]
    fn line(&self, component: &str) -> Vec<&str> {
        let mut lines = self.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = lines.find(|fields| fields.first() == Some(&component));
        found.unwrap_or_else(|| panic!("{component} is not in {self:?}"))
    }
}

#[test]
fn the_command_line_takes_clusters_up_and_down() {
    let Some(machine) = Machine::new() else { return };
    machine.run("down").expect(0, &["No sandbox"]);
    machine.run("status").expect(4, &["No sandbox", "cargo sandbox up"]);
    for command in ["kubeconfig", "logs", "stop", "kill etcd", "pause", "resume", "start"] {
        let said = machine.run(command);
        said.expect(1, &["no sandbox \"default\" is up", "cargo sandbox up"]);
        assert!(said.out.is_empty(), "{said:?}");
    }

    // Two at once, under two names.
    let up = |name: &str| {
        let mut command = machine.command(&format!("up --bare --nodes 1 --name {name}"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("reprieve runs")
    };
    for child in [up("one"), up("two")] {
        let output = child.wait_with_output().expect("it ends");
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && out.contains("export KUBECONFIG="), "{out}{err}");
    }
    assert_eq!(process::marked(&machine.dir("one")).len(), 5);
    machine.run("up --bare --name one").expect(0, &["already"]);
    let said = machine.run("kubeconfig --name one");
    let line = said.out.trim_end();
    assert!(said.code == Some(0) && line.lines().count() == 1 && Path::new(line).is_file());

    faults_by_hand(&machine);

    // What happened to the one, and its end, did not touch the other.
    machine.run("down --name one").expect(0, &["is down"]);
    assert_eq!(process::marked(&machine.dir("one")), Vec::<u32>::new());
    assert!(!machine.dir("one").exists());
    machine.run("status --name two").expect(0, &["running"]);
    machine.run("down --name two").expect(0, &["is down"]);
    assert_eq!(process::marked(&machine.dir("two")), Vec::<u32>::new());
}

fn faults_by_hand(machine: &Machine) {
    let status = machine.run("status --name one");
    let server = "https://127.0.0.1:";
    status.expect(0, &["running", "MiB", server, "admin.kubeconfig", "audit.log"]);
    let etcd = status.line("etcd");
    assert!(etcd[1] == "running" && etcd[2].parse::<u32>().is_ok(), "{etcd:?}");

    machine.run("pause scheduler --name one").expect(0, &["kube-scheduler is paused", "resume"]);
    let status = machine.run("status --name one");
    status.expect(3, &["Not running: kube-scheduler", "cargo sandbox start --name one"]);
    assert_eq!(status.line("kube-scheduler")[1], "paused");
    machine.run("resume kube-scheduler --name one").expect(0, &["goes on"]);

    machine.run("kill etcd --name one").expect(0, &["was killed", "start etcd --name one"]);
    assert_eq!(machine.run("status --name one").line("etcd")[1..3], ["stopped", "-"]);
    machine.run("pause etcd --name one").expect(1, &["does not run", "start etcd --name one"]);
    machine.run("up --name one").expect(1, &["etcd no longer runs", "cargo sandbox start"]);
    machine.run("stop nonesuch --name one").expect(1, &["\"nonesuch\"", "etcd, kube-apiserver"]);
    machine.run("start etcd --name one").expect(0, &["etcd is started"]);
    machine.run("start etcd --name one").expect(0, &["etcd runs"]);

    // All of it, and again on the same data.
    let marker = |args: &str| {
        let kubectl = machine.assets.join("kubectl");
        let kubeconfig = machine.dir("one").join("kubeconfigs/admin.kubeconfig");
        let mut command = Command::new(kubectl);
        command.args(args.split_whitespace()).env("KUBECONFIG", kubeconfig);
        command.env("HOME", machine.cache.path()).output().expect("kubectl runs").status.success()
    };
    wait_for("etcd to serve again", || marker("create namespace kept"));
    machine.run("stop --name one").expect(0, &["etcd has ended", "kwok has ended"]);
    assert_eq!(process::marked(&machine.dir("one")), Vec::<u32>::new());
    machine.run("start --name one").expect(0, &["etcd is started", "kwok is started"]);
    wait_for("the cluster to serve again", || marker("get namespace kept"));
    machine.run("up --bare --name one").expect(0, &["already"]);

    logs(machine);
}

fn logs(machine: &Machine) {
    let said = machine.run("logs kube-apiserver --tail 3 --name one");
    said.expect(0, &[]);
    assert_eq!(said.out.lines().count(), 3, "{said:?}");
    machine.run("logs --tail 1 --name one").expect(0, &["kube-apiserver ", "kwok "]);
    machine.run("logs nonesuch --name one").expect(1, &["\"nonesuch\"", "kwok"]);

    // With -f it goes on with what is added, and ends with the sandbox, or with its reader.
    let mut command = machine.command("logs etcd -f --tail 0 --name one");
    let mut child = Follower(command.stdout(Stdio::piped()).spawn().expect("reprieve runs"));
    let output = BufReader::new(child.0.stdout.take().expect("an output"));
    let log = machine.dir("one").join("logs/etcd.log");
    // It begins where the log ends, but when that is, it does not say.
    let deadline = Instant::now() + Duration::from_secs(20);
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    loop {
        let mut file = fs::File::options().append(true).open(&log).expect("the log is there");
        std::io::Write::write_all(&mut file, b"added by a test\n").expect("it can be written to");
        match lines.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => break assert_eq!(line, "added by a test"),
            Err(_) => assert!(Instant::now() < deadline, "what was added is not shown"),
        }
    }
}

/// Killed with the test.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
