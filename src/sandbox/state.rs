//! What is known of a sandbox that lives on without a holder: `state.json` in its folder.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::process::{Process, Spec};

/// A process, with all that is needed to start it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What it is called.
    pub name: String,
    /// Its process id; of a process that has ended, maybe a stranger's by now.
    pub pid: u32,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Entry {
    /// What is to be kept of a process.
    pub fn of(process: &Process) -> Result<Self> {
        let Spec { name, program, args } = process.spec();
        let text = |arg: &OsString| arg.to_str().map(str::to_owned);
        let args: Option<Vec<String>> = args.iter().map(text).collect();
        Ok(Self {
            name: name.clone(),
            pid: process.pid(),
            program: program.clone(),
            args: args.with_context(|| format!("an argument of {name} is not Unicode"))?,
        })
    }

    /// The process of the sandbox in this folder.
    pub fn process(&self, folder: &Path) -> Process {
        let args = self.args.iter().map(OsString::from).collect();
        let spec = Spec { name: self.name.clone(), program: self.program.clone(), args };
        Process::adopt(spec, self.pid, folder)
    }
}

/// The state: written when a sandbox is complete and left to itself, and when one of its processes
/// is started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// The API server's address.
    pub server: String,
    /// What the cluster is called in kubeconfigs.
    pub cluster: String,
    /// How many nodes it pretends.
    #[serde(default)]
    pub nodes: usize,
    /// Where the operator listens, if there is one.
    pub operator: Option<SocketAddr>,
    /// Every process, in the order of their start.
    pub processes: Vec<Entry>,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

impl State {
    /// The state of the sandbox in this folder, if it is complete.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = file(folder);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is broken", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Forgets it: whoever holds the sandbox knows better now.
    pub fn remove(folder: &Path) -> Result<()> {
        let path = file(folder);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = file(folder);
        let partial = path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
