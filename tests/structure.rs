//! The shape of the house, as `src/lib.rs` has it: who may import whom, what the pure files must
//! not name, and what every room says of itself.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in order. Who stands later may import who stands earlier; those on one line do not
/// import each other.
const ORDER: [&[&str]; 7] = [
    &["api"],
    &["guard"],
    &["cluster"],
    &["store"],
    &["site", "deletion", "backup", "restore", "drill"],
    &["cli"],
    &["sandbox"],
];

/// The files of each room that decide: they get facts and the time, and give effects.
const PURE: [&str; 20] = [
    "alerts.rs",
    "apps.rs",
    "backups.rs",
    "decide.rs",
    "digest.rs",
    "drilled.rs",
    "expire.rs",
    "gates.rs",
    "held.rs",
    "hold.rs",
    "limit.rs",
    "live.rs",
    "plan.rs",
    "purge.rs",
    "queue.rs",
    "release.rs",
    "rolling.rs",
    "schedule.rs",
    "trim.rs",
    "waves.rs",
];

/// What gives a file a way to the cluster, a runtime or a clock.
const IMPURE: [&str; 15] = [
    "kube::Client",
    "kube::client",
    "Client",
    "Api",
    "Context",
    "tokio",
    "async",
    "await",
    "futures",
    "SystemTime",
    "Utc",
    "now()",
    "ctx",
    "std::fs",
    "std::net",
];

struct Source {
    room: String,
    name: String,
    path: PathBuf,
    /// Without comments and texts: line by line.
    code: Vec<String>,
    text: String,
}

fn level(room: &str) -> usize {
    ORDER
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("src/{room} has no place in tests/structure.rs"))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

/// Every file of every room, tests left out: they may import what they need.
fn sources() -> Vec<Source> {
    let mut paths = vec![];
    files(&src(), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| {
            let below = path.strip_prefix(src()).unwrap().to_owned();
            let mut parts = below.iter().map(|p| p.to_str().unwrap().to_owned());
            let room = parts.next().unwrap();
            let name = parts.next_back()?;
            (room != "bin").then(|| {
                let text = fs::read_to_string(&path).unwrap();
                Source { room, name, code: code_of(&text), path, text }
            })
        })
        .collect()
}

/// The code of a file up to its tests, each line without comment and without what is in quotes.
fn code_of(text: &str) -> Vec<String> {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .lines()
        .map(|line| {
            let line = without_texts(line);
            line.split("//").next().unwrap().to_owned()
        })
        .collect()
}

fn without_texts(line: &str) -> String {
    let mut quoted = false;
    let mut before = ' ';
    let mut left = String::new();
    for c in line.chars() {
        if c == '"' && before != '\\' && before != '\'' {
            quoted = !quoted;
        } else if !quoted {
            left.push(c);
        }
        before = c;
    }
    left
}

/// Whether `word` stands in `line` by itself.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let ends_in_word = word.ends_with(part);
        !(line[..at].ends_with(part) || ends_in_word && line[at + word.len()..].starts_with(part))
    })
}

fn is_test(source: &Source) -> bool {
    let of_tests = ["fixtures.rs", "world.rs", "tests.rs"];
    source.name.ends_with("_tests.rs") || of_tests.contains(&source.name.as_str())
}

/// The rooms that a file imports: `crate::room::…`, and each of `crate::{room::…, room::…}`.
fn imports(source: &Source) -> Vec<String> {
    let code = source.code.join("\n");
    let mut all = vec![];
    let rooms = || ORDER.iter().flat_map(|rooms| rooms.iter());
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut top = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ if depth == 1 => top.push(c),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            for item in top.split(',') {
                all.extend(item.trim().split("::").next().map(str::to_owned));
            }
        } else {
            let part = |c: char| !(c.is_alphanumeric() || c == '_');
            all.extend(rest.split(part).next().map(str::to_owned));
        }
    }
    all.retain(|name| rooms().any(|room| room == name));
    all
}

#[test]
fn imports_point_upwards_only_and_rooms_do_not_know_each_other() {
    let mut bad = vec![];
    let mut seen = 0;
    for source in sources().iter().filter(|s| !is_test(s)) {
        for imported in imports(source) {
            seen += 1;
            let allowed = imported == source.room || level(&imported) < level(&source.room);
            if !allowed {
                bad.push(format!("{} imports crate::{imported}", source.path.display()));
            }
        }
        // The way around `crate::`.
        let depth = source.path.strip_prefix(src()).unwrap().iter().count();
        if depth == 2 && source.name == "mod.rs" && source.code.join("\n").contains("super::super")
        {
            bad.push(format!("{} leaves its room by super::super", source.path.display()));
        }
    }
    assert!(seen > 60, "the imports were not found: {seen}");
    assert_eq!(bad, [""; 0]);
}

#[test]
fn what_decides_knows_no_client_no_runtime_and_no_clock() {
    let mut bad = vec![];
    let mut seen = 0;
    for source in sources() {
        let of_deletion = source.room == "deletion" && PURE.contains(&source.name.as_str());
        let of_drill = source.room == "drill"
            && ["choose.rs", "outcome.rs", "timing.rs"].contains(&source.name.as_str());
        let pure = ["decide.rs", "estimate.rs", "inert.rs", "statistics.rs"];
        if !(of_deletion || of_drill || pure.contains(&source.name.as_str())) {
            continue;
        }
        seen += 1;
        for (i, line) in source.code.iter().enumerate() {
            for word in IMPURE.iter().filter(|word| has_word(line, word)) {
                bad.push(format!("{}:{} names {word}", source.path.display(), i + 1));
            }
        }
    }
    assert!(seen >= 8, "the pure files were not found: {seen}");
    assert_eq!(bad, [""; 0]);
}

#[test]
fn the_guard_and_the_kinds_do_no_io() {
    let mut bad = vec![];
    let io = [
        "Client",
        "Api",
        "tokio",
        "async",
        "await",
        "SystemTime",
        "Instant",
        "Utc::now",
        "std::fs",
        "std::net",
    ];
    for source in sources().iter().filter(|s| ["guard", "api"].contains(&s.room.as_str())) {
        if is_test(source) {
            continue;
        }
        for (i, line) in source.code.iter().enumerate() {
            for word in io.iter().filter(|word| has_word(line, word)) {
                bad.push(format!("{}:{} names {word}", source.path.display(), i + 1));
            }
        }
    }
    assert_eq!(bad, [""; 0]);
}

/// DELETE of tenants' objects is sent from one file alone; and dry runs, which the guard is probed with.
#[test]
fn only_one_file_deletes() {
    let mut who = vec![];
    for source in sources().iter().filter(|s| !is_test(s) && s.room != "sandbox") {
        let code = source.code.join("\n");
        let deletes = [".delete(", "delete_collection(", "delete_exact(", "Request::delete"];
        if deletes.iter().any(|word| code.contains(word)) {
            let path = source.path.strip_prefix(src()).unwrap();
            who.push(path.to_str().unwrap().to_owned());
        }
    }
    // Probes are dry runs; `write` has the function; the store deletes what it could not finish.
    who.retain(|path| !path.starts_with("store/"));
    // Of the cluster's objects `sweep` deletes Backups alone, and `drill` scratch namespaces and the
    // Restores of drills.
    let expected = [
        "backup/sweep.rs",
        "cluster/guard.rs",
        "cluster/write.rs",
        "deletion/act.rs",
        "drill/act.rs",
    ];
    assert_eq!(who, expected);
}

#[test]
fn every_room_says_what_it_is_for_and_what_it_must_not_do() {
    let mut seen = 0;
    for entry in fs::read_dir(src()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if !folder.is_dir() || name == "bin" {
            continue;
        }
        seen += 1;
        level(&name);
        let text = fs::read_to_string(folder.join("mod.rs")).expect("a room has a mod.rs");
        let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let comment = comment.join(" ");
        let words = comment.split_whitespace().count();
        assert!(words >= 12, "src/{name}/mod.rs does not say its role: {comment:?}");
        let one_line = comment.split_whitespace().collect::<Vec<_>>().join(" ");
        let limits =
            ["must not", "must never", "must have no"].iter().any(|m| one_line.contains(m));
        assert!(limits, "src/{name}/mod.rs does not say what it must not do: {comment:?}");
    }
    let rooms: usize = ORDER.iter().map(|rooms| rooms.len()).sum();
    assert_eq!(seen, rooms);
}

#[test]
fn every_file_says_what_it_has() {
    for source in sources().iter().filter(|s| !is_test(s)) {
        assert!(source.text.starts_with("//!"), "{} has no comment", source.path.display());
    }
}
