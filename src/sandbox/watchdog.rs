//! The watchdog: a process that outlives whoever holds a sandbox, by the moment that it takes to
//! end the sandbox too. No destructor runs when a test is killed (SIGKILL, out of memory, Ctrl-C).
//!
//! Its standard input is a pipe that the holder keeps open. When the holder ends, in whatever way,
//! the kernel closes the pipe; then the watchdog kills what is marked with the sandbox's folder and
//! removes the folder. One byte in the pipe tells it to leave without doing so.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::process::kill_marked;

/// A file that says that this folder is a sandbox: nothing else is ever removed.
const MARKER: &str = ".reprieve-sandbox";

/// Marks a folder as a sandbox.
pub(super) fn mark(folder: &Path) -> Result<()> {
    let path = folder.join(MARKER);
    // Never one that is there already: of two that start in one folder, the second must fail.
    let text = b"Removed by `cargo sandbox down` or when its holder ends.\n";
    fs::File::create_new(&path)
        .and_then(|mut file| file.write_all(text))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The holder's end.
#[derive(Debug)]
pub(super) struct Watchdog {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts a watchdog for the sandbox in this folder. `reprieve` is the program of that name.
    pub fn start(reprieve: &Path, folder: &Path) -> Result<Self> {
        let mut child = Command::new(reprieve)
            .args(["sandbox", "watchdog", "--dir"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C and the end of the terminal must not reach it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run the watchdog, {}", reprieve.display()))?;
        // It says when it watches: one that cannot run must be noticed now, not after a crash.
        let mut ready = [0];
        let mut stdout = child.stdout.take().context("the watchdog's output is piped")?;
        if stdout.read(&mut ready).unwrap_or(0) == 0 {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{} does not know `sandbox watchdog`", reprieve.display());
        }
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Sends it away: the sandbox lives on.
    pub fn dismiss(mut self) -> Result<()> {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(b".").context("the watchdog has gone")?;
        }
        self.child.wait().context("cannot wait for the watchdog")?;
        Ok(())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // It has ended when nothing is left, and only then has the sandbox.
        let _ = self.child.wait();
    }
}

/// Carries `reprieve sandbox watchdog` out.
///
/// # Errors
/// The folder is no sandbox.
pub(super) fn main(folder: &Path) -> Result<()> {
    let folder = PathBuf::from(folder);
    if !folder.join(MARKER).is_file() {
        bail!("{} is no sandbox", folder.display());
    }
    let mut out = std::io::stdout();
    out.write_all(b".").and_then(|()| out.flush()).context("cannot say that it watches")?;
    let mut byte = [0];
    loop {
        match std::io::stdin().read(&mut byte) {
            Ok(0) => return end(&folder),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return end(&folder),
        }
    }
}

/// Kills what is marked with the folder and removes it. A folder that is no sandbox is left alone.
///
/// # Errors
/// The folder cannot be removed.
pub(super) fn end(folder: &Path) -> Result<()> {
    kill_marked(folder);
    if !folder.join(MARKER).is_file() {
        return Ok(());
    }
    // A killed process may finish a write after its end is reported: try for a moment.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match remove(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                if Instant::now() > deadline {
                    let context = format!("cannot remove {}", folder.display());
                    return Err(error).context(context);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => return Ok(()),
        }
    }
}

/// Removes the folder, the marker last: what an interrupted removal leaves is still a sandbox.
fn remove(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(MARKER))?;
    fs::remove_dir(folder)
}
