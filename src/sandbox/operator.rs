//! The operator, as a process of the sandbox.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Sandbox;
use super::components::listener;
use super::process::{Process, Spec, flag};

/// How long the operator may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// A killed operator's lease expires sooner than elsewhere: here, somebody waits for it.
const LEASE: [&str; 3] = [
    "--leader-elect-lease-duration=8s",
    "--leader-elect-renew-deadline=6s",
    "--leader-elect-retry-period=1s",
];
/// How often a start is tried when another program took its port meanwhile.
const ATTEMPTS: u32 = 5;

/// A running operator. It is killed when this is dropped.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    listen: SocketAddr,
}

impl Operator {
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to kill, pause or restart; see [`Operator::wait_until_ready`] then.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it answers `/readyz` with 200.
    ///
    /// # Errors
    /// It ends, or is not ready within 30 s: with the last lines of its log.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if !self.process.is_running() {
                bail!("the operator ended. The end of {}", self.process.log_tail(15));
            }
            let answer = get(self.listen, "/readyz");
            if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), answer).await
                && is_ok(&answer)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = PATIENCE.as_secs();
                let tail = self.process.log_tail(15);
                bail!("the operator is not ready after {seconds} s. The end of {tail}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn into_process(self) -> Process {
        self.process
    }
}

pub(super) async fn start(sandbox: &Sandbox, kubeconfig: &Path, args: &[&str]) -> Result<Operator> {
    if !kubeconfig.is_file() {
        bail!("the operator has no account yet: install first");
    }
    let mut attempt = 1;
    loop {
        let listen = free_address()?;
        let mut command: Vec<OsString> = vec![
            "run".into(),
            flag("kubeconfig", kubeconfig),
            flag("store-url", sandbox.store_url()),
            flag("listen", listen.to_string()),
        ];
        if !args.iter().any(|arg| arg.starts_with("--leader-elect")) {
            command.extend(LEASE.map(OsString::from));
        }
        command.extend(args.iter().map(OsString::from));
        let name = sandbox.layout.free_name("operator");
        let spec = Spec { name, program: sandbox.reprieve.clone(), args: command };
        let process = spec.start(&sandbox.layout.root)?;
        let mut operator = Operator { process, listen };
        match operator.wait_until_ready().await {
            Ok(()) => return Ok(operator),
            Err(_)
                if attempt < ATTEMPTS
                    && operator.process.log_tail(50).contains("Address already in use") =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn free_address() -> Result<SocketAddr> {
    listener().and_then(|l| l.local_addr()).context("no free port on loopback")
}

/// Whether an answer's status is 200.
pub(super) fn is_ok(answer: &str) -> bool {
    answer.split_whitespace().nth(1) == Some("200")
}

/// The answer to a plain GET, headers and all.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
