//! The programs of the control plane: found in a folder that the environment names, or built once
//! with Go from the pinned module in `tools/` and kept in the user's cache folder.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, io};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::progress::Progress;

/// Where the pinned module lies: in the checkout from which this program was built.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tools");

/// What `go build` is told: smaller files, and the version that the API server reports (without it
/// kubectl and the storage version of some resources see "v0.0.0-master").
const LDFLAGS: &str = "-s -w \
    -X k8s.io/component-base/version.gitVersion=v1.37.2 \
    -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=37 \
    -X k8s.io/component-base/version.gitTreeState=clean";

/// A program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The store of the API server.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers: garbage collector, namespace controller, Deployments and so on.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The nodes: kwok makes pods Ready without running them.
    Kwok,
    /// The command line.
    Kubectl,
}

impl Program {
    /// Every program, the quick builds first so that the line of progress moves early.
    pub const ALL: [Self; 6] = [
        Self::Etcd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubectl,
        Self::Kwok,
    ];

    /// The name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kwok => "kwok",
            Self::Kubectl => "kubectl",
        }
    }

    /// The Go package, one of the `tool` directives of `tools/go.mod`.
    fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::ApiServer => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::ControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Scheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::Kwok => "sigs.k8s.io/kwok/cmd/kwok",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
        }
    }
}

/// A folder that holds every [`Program`].
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The path of a program.
    pub fn path(&self, program: Program) -> PathBuf {
        self.folder.join(program.name())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The folder of this project below the user's cache folder: `$XDG_CACHE_HOME/reprieve`, or
/// `~/.cache/reprieve`.
///
/// # Errors
/// Neither variable is set.
pub fn cache_folder() -> Result<PathBuf> {
    // An XDG path that is not absolute must be ignored, says the specification.
    let xdg = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = xdg.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("reprieve"))
}

/// Why no sandbox can start on this machine, or nothing if one can: for tests, that then say why
/// they are skipped. Builds nothing.
pub fn unavailable() -> Option<String> {
    match find() {
        Err(error) => Some(format!("{error:#}")),
        Ok(Found::Folder(_)) => None,
        Ok(Found::Absent(_)) => go().err().map(|error| format!("{error:#}")),
    }
}

/// Finds the programs, and builds them where they are not there yet. Blocks for minutes when it
/// builds: not for an async thread.
///
/// # Errors
/// `REPRIEVE_ASSETS` lacks a program; Go is missing; the build fails.
pub fn locate(progress: Progress) -> Result<Binaries> {
    match find()? {
        Found::Folder(folder) => Ok(Binaries { folder }),
        Found::Absent(folder) => build(&folder, progress),
    }
}

/// The programs, if they need not be built.
pub(super) fn unbuilt() -> Result<Option<Binaries>> {
    Ok(match find()? {
        Found::Folder(folder) => Some(Binaries { folder }),
        Found::Absent(_) => None,
    })
}

/// Where the programs are, or are to be.
enum Found {
    Folder(PathBuf),
    Absent(PathBuf),
}

fn find() -> Result<Found> {
    if let Some(folder) = env_folder("REPRIEVE_ASSETS") {
        let missing = missing(&folder);
        if !missing.is_empty() {
            bail!(
                "REPRIEVE_ASSETS names {}, where these programs are missing: {}",
                folder.display(),
                missing.join(", ")
            );
        }
        return Ok(Found::Folder(folder));
    }
    // Usually this one holds only etcd, kube-apiserver and kubectl, for other projects' tests: no
    // error then.
    if let Some(folder) = env_folder("KUBEBUILDER_ASSETS").filter(|f| missing(f).is_empty()) {
        return Ok(Found::Folder(folder));
    }
    let folder = cache_folder()?.join("control-plane").join(key()?);
    Ok(if missing(&folder).is_empty() { Found::Folder(folder) } else { Found::Absent(folder) })
}

fn env_folder(variable: &str) -> Option<PathBuf> {
    let value: OsString = env::var_os(variable).filter(|value| !value.is_empty())?;
    Some(std::path::absolute(&value).unwrap_or_else(|_| value.into()))
}

fn missing(folder: &Path) -> Vec<&'static str> {
    let names = Program::ALL.iter().map(|program| program.name());
    names.filter(|name| !folder.join(name).is_file()).collect()
}

/// The name of the cached folder: everything that decides what the build gives, but for Go itself.
fn key() -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = Path::new(TOOLS).join(file);
        let content = fs::read(&path).with_context(|| {
            format!(
                "cannot read {}, which pins the control plane (set REPRIEVE_ASSETS to a folder \
                 with its programs when this program runs without its checkout)",
                path.display()
            )
        })?;
        hash.update(content);
    }
    hash.update(LDFLAGS);
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// The Go command.
fn go() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join("go")).find(|go| go.is_file()).with_context(|| {
        let names = Program::ALL.map(Program::name).join(", ");
        format!(
            "the sandbox needs Go (1.26 or later) to build its control plane once, and there is \
             no `go` in PATH; install it, or set REPRIEVE_ASSETS to a folder that holds {names}"
        )
    })
}

fn build(folder: &Path, progress: Progress) -> Result<Binaries> {
    let go = go()?;
    let parent = folder.parent().context("the cache folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let _lock = lock(&parent.join("lock"), progress)?;
    let binaries = Binaries { folder: folder.to_owned() };
    // Whoever held the lock may have built it.
    if missing(folder).is_empty() {
        return Ok(binaries);
    }

    // Under a temporary name until complete: a build that is interrupted leaves nothing that looks
    // whole. The next one removes what it left; Go's own cache keeps it from starting over.
    let partial = folder.with_extension("partial");
    remove(&partial)?;
    remove(folder)?;
    fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    progress.note(&format!(
        "building the control plane, once, into {} (7 to 10 minutes on 2 cores)",
        folder.display()
    ));
    for (i, program) in Program::ALL.into_iter().enumerate() {
        let what = format!("building {} ({} of {})", program.name(), i + 1, Program::ALL.len());
        let step = progress.step(&what);
        compile(&go, program, &partial.join(program.name()))?;
        step.done(&format!("built {}", program.name()));
    }
    fs::rename(&partial, folder)
        .with_context(|| format!("cannot move the build to {}", folder.display()))?;
    Ok(binaries)
}

fn compile(go: &Path, program: Program, output: &Path) -> Result<()> {
    let result = Command::new(go)
        .args(["build", "-trimpath", "-ldflags", LDFLAGS, "-o"])
        .arg(output)
        .arg(program.package())
        .current_dir(TOOLS)
        // What the user has set for his own modules must not change what is built here.
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", go.display()))?;
    if result.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&result.stderr);
    let lines: Vec<&str> = output.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
    bail!("`go build {}` failed ({}):\n  {tail}", program.package(), result.status)
}

/// Takes the lock, so that two tests don't build at once. It goes with the process.
fn lock(path: &Path, progress: Progress) -> Result<File> {
    let context = || format!("cannot lock {}", path.display());
    let file = File::create(path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // Told even where progress is not: this can take minutes.
            progress.note("waiting for another process that builds the control plane");
            file.lock().with_context(context)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(context),
    }
    Ok(file)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
