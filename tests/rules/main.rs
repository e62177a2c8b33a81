//! The alert rules, as Prometheus takes them: checked and tried with the real promtool, which is
//! built once with Go from the pinned module in `tools/prometheus`.
#![cfg(feature = "sandbox")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use reprieve::cli::rules::rules;
use serde_json::Value;

// Shared by the tests that need a program of `tools/`.
#[path = "../tools/mod.rs"]
mod tools;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// promtool. None, and why is said: it cannot be built here.
fn promtool() -> Option<PathBuf> {
    // The service discoveries are most of its code, and rules need none.
    let package = "github.com/prometheus/prometheus/cmd/promtool";
    match tools::go_program("prometheus", package, "remove_all_sd") {
        Ok(path) => Some(path),
        Err(why) => {
            reprieve::sandbox::skipped(&format!("no promtool: {why}"));
            None
        }
    }
}

#[track_caller]
fn run(promtool: &Path, args: &[&str]) {
    let output = Command::new(promtool).args(args).current_dir(root()).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    eprintln!("{said}");
    assert!(output.status.success(), "promtool {args:?}: {said}");
}

#[test]
fn prometheus_takes_the_rules_and_each_fires_when_it_should() {
    let Some(promtool) = promtool() else { return };
    run(
        &promtool,
        &["check", "rules", "--lint=all", "--lint-fatal", "deploy/monitoring/rules.yaml"],
    );
    run(&promtool, &["test", "rules", "tests/rules/unit.yaml"]);
}

#[test]
fn each_alert_is_tried_both_ways() {
    let unit = yaml("tests/rules/unit.yaml");
    let (mut fires, mut rests) = (BTreeSet::new(), BTreeSet::new());
    let mut note = |alert: &str, expected: &Value| {
        let seen = if expected.as_array().is_some_and(|e| !e.is_empty()) {
            &mut fires
        } else {
            &mut rests
        };
        seen.insert(alert.to_owned());
    };
    for test in unit["tests"].as_array().expect("tests") {
        for rule in test["alert_rule_test"].as_array().into_iter().flatten() {
            note(rule["alertname"].as_str().expect("a name"), &rule["exp_alerts"]);
        }
        for expr in test["promql_expr_test"].as_array().into_iter().flatten() {
            let text = expr["expr"].as_str().expect("an expression");
            let name = text.split("alertname=\"").nth(1).and_then(|t| t.split('"').next());
            note(name.expect("an alert's name"), &expr["exp_samples"]);
        }
    }
    let all: BTreeSet<String> = rules().iter().map(|rule| rule.alert.to_owned()).collect();
    assert_eq!(fires, all, "each alert is seen firing");
    assert_eq!(rests, all, "each alert is seen at rest");
}

#[test]
fn the_prometheus_rule_has_the_same_rules() {
    let plain = yaml("deploy/monitoring/rules.yaml");
    let of_operator = yaml("deploy/monitoring/prometheusrule.yaml");
    assert_eq!(of_operator["spec"], plain);
    assert_eq!(plain["groups"][0]["rules"].as_array().map(Vec::len), Some(rules().len()));
}

/// Each alert says how bad it is and leads to a page that says what to do.
#[test]
fn each_alert_has_a_runbook() {
    let mut pages = BTreeSet::from(["README".to_owned()]);
    for rule in rules() {
        assert!(["critical", "warning"].contains(&rule.severity), "{}", rule.alert);
        assert!(!rule.summary.is_empty() && rule.description.ends_with('.'), "{}", rule.alert);
        let page = read(&format!("docs/runbooks/{}.md", rule.runbook));
        let title = page.lines().next().unwrap_or_default();
        assert!(title.starts_with("# ") && title.contains(rule.alert), "{}: {title}", rule.runbook);
        assert!(page.contains("\n## What to do\n"), "{} lacks what to do", rule.runbook);
        pages.insert(rule.runbook.to_owned());
    }
    let found: BTreeSet<String> = fs::read_dir(root().join("docs/runbooks"))
        .expect("runbooks")
        .map(|entry| {
            entry.expect("a file").path().file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(found, pages, "a page for each alert, and no other");
}

/// Metrics of the operator in an expression.
fn metrics_in(expr: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    expr.split(part).filter(|word| word.starts_with("reprieve_"))
}

/// `docs/operating.md` lists the metrics that the code registers. `tests/e2e/dry_run.rs` compares
/// with those of a running operator.
#[test]
fn every_metric_in_a_rule_exists() {
    let page = read("docs/operating.md");
    let mut seen = 0;
    for rule in rules() {
        for metric in metrics_in(&rule.expr) {
            seen += 1;
            assert!(page.contains(&format!("| `{metric}` |")), "{}: {metric}", rule.alert);
        }
    }
    assert!(seen >= rules().len(), "the metrics were not found");
}
