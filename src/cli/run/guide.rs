//! `docs/operating.md`: prose, and the tables that follow from the code.

use std::fmt::Write as _;

use clap::Args as _;

use super::args::Args;
use crate::cluster::Metrics;
use crate::cluster::metrics::{
    Counts, KeptDisk, Kind, Policy, Reconciled, RequestCounts, Room, Source, Warned,
};
use crate::guard;

/// The page, with `$FLAGS`, `$METRICS`, `$RIGHTS` and `$ROLES` in place of the tables.
const PAGE: &str = include_str!("operating.md");

/// The content of `docs/operating.md`.
pub fn operating() -> String {
    PAGE.replace("$FLAGS", &flags())
        .replace("$METRICS", &metrics())
        .replace("$RIGHTS", &rights())
        .replace("$ROLES", &roles())
}

fn flags() -> String {
    let mut table = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    let command = Args::augment_args(clap::Command::new("run"));
    for flag in command.get_arguments() {
        let name = flag.get_long().unwrap_or_default();
        let env = flag.get_env().unwrap_or_default().to_string_lossy();
        let default = flag.get_default_values().first().map(|v| format!("`{}`", v.display()));
        let default = default.unwrap_or_else(|| {
            if flag.is_required_set() { "must be given" } else { "" }.to_owned()
        });
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(table, "| `--{name}` | `{env}` | {default} | {help} |");
    }
    table.trim_end().to_owned()
}

/// From the help texts that Prometheus is shown.
fn metrics() -> String {
    let metrics = Metrics::new();
    // One that has no value yet is not shown.
    drop(metrics.reconciliations.get_or_create(&Reconciled { room: "", result: "" }));
    drop(metrics.reconcile_seconds.get_or_create(&Room { room: "" }));
    drop(metrics.kept_disks.get_or_create(&KeptDisk { state: "" }));
    drop(metrics.purged.get_or_create(&Kind { kind: String::new() }));
    drop(metrics.alert_source_up.get_or_create(&Source { url: String::new() }));
    metrics.told_requests.example();
    let one = || ((String::new(), String::new()), 1);
    metrics.count_requests(move || RequestCounts {
        states: [(String::new(), 1)].into(),
        gates: [one()].into(),
        open: 1,
    });
    drop(metrics.guard_probes.get_or_create(&Policy { policy: "" }));
    drop(metrics.warnings.get_or_create(&Warned { kind: String::new(), reason: "" }));
    drop(metrics.unexpected_deletes_open.get_or_create(&Kind { kind: String::new() }));
    metrics.drills.example();
    metrics.restores.example();
    metrics.count("", Counts::default);
    let text = metrics.encode();
    let line = |name: &str, word: &str| {
        let prefix = format!("# {word} {name} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    };
    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let Some((name, help)) = help.split_once(' ') else { continue };
        let type_ = line(name, "TYPE");
        // What OpenMetrics adds to the name of a sample.
        let suffix = match &*type_ {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let _ = writeln!(table, "| `{name}{suffix}` | {type_} | {} |", help.trim_end_matches('.'));
    }
    table.trim_end().to_owned()
}

fn rights() -> String {
    let mut table = "| verbs | on | why |\n|---|---|---|\n".to_owned();
    for (verbs, on, why) in guard::explained_rights() {
        let on = on.replace('*', "every kind");
        let _ = writeln!(table, "| {verbs} | {on} | {why} |");
    }
    table.trim_end().to_owned()
}

fn roles() -> String {
    let mut table = "| ClusterRole | what it is for |\n|---|---|\n".to_owned();
    for role in guard::people_roles() {
        let name = role.metadata.name.unwrap_or_default();
        let about = role.metadata.annotations.unwrap_or_default();
        let about = about.values().next().cloned().unwrap_or_default();
        let _ = writeln!(table, "| `{name}` | {about} |");
    }
    table.trim_end().to_owned()
}
