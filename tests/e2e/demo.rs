//! `reprieve demo`, as a user runs it: every claim comes true, and nothing is left.

use std::path::Path;
use std::process::Command;

#[test]
fn every_claim_comes_true_and_nothing_is_left() {
    let tmp = tempfile::tempdir().expect("a folder");
    // The sandbox goes into this folder: what it leaves would be seen.
    let output = Command::new(env!("CARGO_BIN_EXE_reprieve"))
        .args(["demo", "--sites", "6"])
        .env("TMPDIR", tmp.path())
        .output()
        .expect("the demo runs");
    let (story, progress) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{story}\n{progress}");
    for line in [
        "EntityTypeMismatch, all 6 of the ids",
        "A forged approval bounces, 403",
        "Approved by alice and bob, backed up, verified and held",
        "the five are released and Active again",
        "The five are gone, with their namespaces, one by one",
        "5 of 5 sites",
        "every UID new",
        "claims, each checked, all true",
    ] {
        assert!(story.contains(line), "no {line:?} in:\n{story}");
    }
    assert!(!story.contains('\u{1b}'), "colours where there is no terminal:\n{story}");
    let left: Vec<_> = std::fs::read_dir(tmp.path()).expect("the folder").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(running_with(tmp.path()), Vec::<String>::new());
}

/// The processes that have this folder in their environment, as all of the sandbox's have.
fn running_with(folder: &Path) -> Vec<String> {
    let name = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let environments = processes.map(|process| process.path().join("environ"));
    let found = environments.filter(|path| {
        let environment = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&name)
    });
    found.map(|path| path.display().to_string()).collect()
}
