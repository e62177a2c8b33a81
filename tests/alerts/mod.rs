//! A real Alertmanager for tests, built once with Go from the pinned module in `tools/alertmanager`
//! and kept in the user's cache folder, as the control plane is; and a server that answers in its
//! place what no Alertmanager would.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta, Utc};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[path = "../tools/mod.rs"]
mod tools;

const PACKAGE: &str = "github.com/prometheus/alertmanager/cmd/alertmanager";
/// Nobody is told of anything; what is critical mutes what is only a warning.
const CONFIG: &str = "
route: {receiver: nobody}
receivers: [{name: nobody}]
inhibit_rules: [{source_matchers: ['severity=\"critical\"'], target_matchers: ['severity=\"warning\"']}]
";

/// The program, built if need be. None, and why is said: it cannot be built here.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| match tools::go_program("alertmanager", PACKAGE, "") {
        Ok(path) => Some(path),
        Err(why) => {
            reprieve::sandbox::skipped(&format!("no Alertmanager: {why}"));
            None
        }
    });
    found.as_deref()
}

/// A running Alertmanager. It ends with this value.
pub struct Alertmanager {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Alertmanager {
    /// Starts one that knows of no alert. None: it cannot be built here.
    pub fn start() -> Option<Self> {
        program()?;
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("config.yaml"), CONFIG).expect("a file");
        let address = free_address();
        let process = spawn(folder.path(), address);
        Some(Self { folder, address, process })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tells of the alert that always fires, as Prometheus does every minute.
    pub fn live(&self) {
        self.fire(&json!({"alertname": "Watchdog", "severity": "none"}));
    }

    /// Tells of an alert.
    pub fn fire(&self, labels: &Value) {
        self.fire_for(labels, Duration::from_secs(600));
    }

    /// Tells of an alert that is over by itself after this time.
    pub fn fire_for(&self, labels: &Value, time: Duration) {
        let ends = after(time);
        self.post("/api/v2/alerts", &json!([{"labels": labels, "endsAt": ends}]));
    }

    /// Silences everything of a namespace.
    pub fn silence(&self, namespace: &str) {
        let matcher =
            json!({"name": "namespace", "value": namespace, "isRegex": false, "isEqual": true});
        self.post(
            "/api/v2/silences",
            &json!({
                "matchers": [matcher], "createdBy": "eve", "comment": "quiet, please",
                "startsAt": after(Duration::ZERO), "endsAt": after(Duration::from_secs(600)),
            }),
        );
    }

    /// What it answers by default, as `state` by `namespace`.
    pub fn states(&self, namespace: &str) -> Vec<String> {
        let all = send(self.address, "GET", "/api/v2/alerts", "").expect("an answer");
        let all: Value = serde_json::from_str(&all).expect("JSON");
        let all = all.as_array().cloned().unwrap_or_default();
        let of = all.iter().filter(|a| a["labels"]["namespace"] == namespace);
        of.map(|a| a["status"]["state"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn post(&self, path: &str, body: &Value) {
        send(self.address, "POST", path, &body.to_string())
            .unwrap_or_else(|why| panic!("POST {path}: {why}"));
    }

    /// Stops it without ending it: connections are taken and never answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("it runs");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again. It forgot its alerts, which Prometheus would tell it again.
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.folder.path(), self.address);
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, address: SocketAddr) -> Child {
    let child = Command::new(program().expect("it was there"))
        .arg(format!("--config.file={}", folder.join("config.yaml").display()))
        .arg(format!("--storage.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--cluster.listen-address=")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Alertmanager can be run");
    let begin = Instant::now();
    while send(address, "GET", "/-/ready", "").is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "Alertmanager is not ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// A server in the place of an Alertmanager.
pub struct Stub {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
}

/// How the stub answers.
#[derive(Clone, Debug)]
pub enum Mode {
    /// With this status line, these headers and this body, and then the end.
    Raw { status: &'static str, headers: String, body: String },
    /// A byte of the body every half second.
    Slow,
    /// A list without an end.
    Huge,
}

impl Mode {
    /// A body as it should be sent.
    pub fn body(body: &str) -> Self {
        let headers = format!("Content-Length: {}\r\n", body.len());
        Self::Raw { status: "200 OK", headers, body: body.to_owned() }
    }

    /// An answer that proves that the source is alive.
    pub fn live() -> Self {
        Self::body(&Self::watchdog())
    }

    pub fn watchdog() -> String {
        json!([{
            "labels": {"alertname": "Watchdog"}, "updatedAt": after(Duration::ZERO),
            "status": {"state": "active"},
        }])
        .to_string()
    }
}

impl Stub {
    pub fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let mode = Arc::new(Mutex::new(mode));
        let shared = mode.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mode = shared.lock().expect("a mode").clone();
                std::thread::spawn(move || drop(answer(stream, mode)));
            }
        });
        Self { address, mode }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().expect("a mode") = mode;
    }
}

fn answer(mut stream: TcpStream, mode: Mode) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request)?;
    match mode {
        Mode::Raw { status, headers, body } => {
            write!(stream, "HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n{body}")
        }
        Mode::Slow => {
            let body = Mode::watchdog();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
            for byte in body.bytes() {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(500));
            }
            Ok(())
        }
        Mode::Huge => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[")?;
            loop {
                stream.write_all(&[b' '; 65536])?;
            }
        }
    }
}

/// A port on which nothing listens.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

fn after(time: Duration) -> String {
    let time = Utc::now() + TimeDelta::from_std(time).expect("a short time");
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The body of a good answer.
fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<String, String> {
    let timeout = Duration::from_secs(10);
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(text)?;
    stream.set_read_timeout(Some(timeout)).map_err(text)?;
    let length = body.len();
    // 1.0: the answer is not in chunks.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let good = head.split_whitespace().nth(1) == Some("200");
    if good { Ok(body.to_owned()) } else { Err(answer) }
}
