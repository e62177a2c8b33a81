//! A real S3 server for tests: versitygw on a folder, built once with Go from the pinned module in
//! `tools/s3` and kept in the user's cache folder, as the control plane is.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use reprieve::store::{Options, Store, StoreError};

#[path = "../tools/mod.rs"]
mod tools;

const PACKAGE: &str = "github.com/versity/versitygw/cmd/versitygw";
/// The key of the server's one user, made up for tests.
const ACCESS: &str = "reprieve-test";
const SECRET: &str = "a-key-for-tests-alone";

/// The program, built if need be. None, and why is said: it cannot be built here.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| match tools::go_program("s3", PACKAGE, "") {
        Ok(path) => Some(path),
        Err(why) => {
            reprieve::sandbox::skipped(&format!("no S3 server: {why}"));
            None
        }
    });
    found.as_deref()
}

/// A running server with one bucket, `backups`. It ends with this value.
pub struct S3 {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl S3 {
    /// Starts a server. None: it cannot be built here.
    pub fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().expect("a folder");
        for sub in ["data/backups", "meta"] {
            fs::create_dir_all(folder.path().join(sub)).expect("a folder");
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let process = spawn(program, folder.path(), address);
        Some(Self { folder, address, process })
    }

    /// How this store is opened, over `address`: the server's own, or a proxy's.
    pub fn options_over(&self, url: &str, address: SocketAddr) -> Options {
        let mut options = Options::new(url);
        // Builds of others can slow the server down by much.
        options.timeout = Duration::from_secs(30);
        options.settings = self.settings(address);
        options
    }

    /// How this store is opened.
    pub fn options(&self, url: &str) -> Options {
        self.options_over(url, self.address)
    }

    /// The settings of the backend, as environment variables name them.
    pub fn settings(&self, address: SocketAddr) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://{address}").as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The store at `s3://backups/PREFIX`.
    pub async fn store(&self, prefix: &str) -> Result<Store, StoreError> {
        Store::open_with(self.options(&format!("s3://backups/{prefix}"))).await
    }

    /// The folder in which the bucket's objects lie as files.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("data/backups")
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again on the same data.
    pub fn restart(&mut self) {
        self.kill();
        let program = program().expect("it was there");
        self.process = spawn(program, self.folder.path(), self.address);
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, folder: &Path, address: SocketAddr) -> Child {
    let child = Command::new(program)
        .args(["--access", ACCESS, "--secret", SECRET, "--quiet"])
        .args(["--port", &address.to_string()])
        .arg("posix")
        .arg("--sidecar")
        .arg(folder.join("meta"))
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the S3 server can be run");
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the S3 server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
