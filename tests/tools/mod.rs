//! Programs that tests need and that are built here with Go, once, from a pinned module of a folder
//! of `tools/`, and kept in the user's cache folder, as the control plane is.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use reprieve::sandbox::binaries::cache_folder;
use sha2::{Digest as _, Sha256};

/// Builds `package` of the module in `tools/<folder>` with these tags, unless that very module was
/// built before. Gives the program's path, or why it cannot be built.
pub fn go_program(folder: &str, package: &str, tags: &str) -> Result<PathBuf, String> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(folder);
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        hash.update(fs::read(module.join(file)).map_err(|e| format!("{file}: {e}"))?);
    }
    hash.update(tags);
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let base = cache_folder().map_err(|error| format!("{error:#}"))?.join(folder);
    let name = package.rsplit('/').next().unwrap_or(package);
    let path = base.join(key).join(name);
    if path.is_file() {
        return Ok(path);
    }
    let folder = path.parent().expect("it has a folder");
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    // Two tests must not build at once.
    let lock = File::create(base.join("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    if path.is_file() {
        return Ok(path);
    }
    let partial = folder.join("partial");
    let built = Command::new("go")
        .args(["build", "-trimpath", "-ldflags", "-s -w", "-tags", tags, "-o"])
        .arg(&partial)
        .arg(package)
        .current_dir(module)
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .output()
        .map_err(|error| format!("go cannot be run: {error}"))?;
    if !built.status.success() {
        return Err(format!("go build: {}", String::from_utf8_lossy(&built.stderr)));
    }
    fs::rename(&partial, &path).map_err(|e| e.to_string())?;
    Ok(path)
}
