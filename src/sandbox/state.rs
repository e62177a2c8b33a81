//! What is known of a sandbox that lives on without a holder: `state.json` in its folder.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What it is called.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// The state, written once when the sandbox is complete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// The API server's address.
    pub server: String,
    /// What the cluster is called in kubeconfigs.
    pub cluster: String,
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

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = file(folder);
        let partial = path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
