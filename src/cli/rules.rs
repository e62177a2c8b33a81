//! The alert rules for Prometheus, as data: a plain file of rules and a PrometheusRule are made of
//! them, and the index of the runbooks.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::api::names::OPERATOR_NAMESPACE;

/// Where the runbooks lie, in the sources of this very version: nobody serves them for us.
const RUNBOOKS: &str = "docs/runbooks";
/// The guard's denials by rule, over ten minutes: a policy may be there twice, through the API and
/// on the API server's disk, and then both count.
const DENIALS: &str = concat!(
    "max by (rule) (label_replace(sum by (policy) (increase(",
    r#"apiserver_validating_admission_policy_check_total{policy=~"reprieve-.+",enforcement_action="deny"}[10m]"#,
    r#")), "rule", "$1", "policy", "(reprieve-[a-z-]+).*"))"#
);
/// Those of them that are the operator's own probes.
const PROBES: &str = concat!(
    "sum by (rule) (label_replace(increase(reprieve_guard_probes_total[10m]), ",
    r#""rule", "$1", "policy", "(.*)"))"#
);

/// One alert.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name.
    pub alert: &'static str,
    /// When it fires, in PromQL.
    pub expr: String,
    /// For how long that must be so; empty: at once.
    pub pending: &'static str,
    /// `critical`: somebody must look now. `warning`: today.
    pub severity: &'static str,
    /// What is so, in a line.
    pub summary: &'static str,
    /// What it means, and what to look at first.
    pub description: &'static str,
    /// The page in `docs/runbooks` with what to do, without `.md`.
    pub runbook: &'static str,
}

/// Every rule.
pub fn rules() -> Vec<Rule> {
    vec![
        Rule {
            alert: "ReprieveUnexpectedDelete",
            expr: "sum by (kind) (increase(reprieve_unexpected_deletes_total[1h])) > 0".to_owned(),
            pending: "",
            severity: "critical",
            summary: "A {{ $labels.kind }} was deleted past the guard",
            description: "A DELETE that nobody asked for reached a {{ $labels.kind }} although the guard refuses it. The finalizer holds it: nothing of the tenant is lost yet. See who did it, and keep what was deleted.",
            runbook: "unexpected-delete",
        },
        Rule {
            alert: "ReprieveInventoriesShrinking",
            expr: "max(reprieve_sites_shrunk) >= 3".to_owned(),
            pending: "",
            severity: "critical",
            summary: "{{ $value }} sites lost much of what they held within minutes",
            description: "Each of these sites lost more than a quarter of its objects within the last 15 minutes, and no request purges them: somebody deletes inside of living sites, where no DeletionRequest is asked for.",
            runbook: "inventories-shrinking",
        },
        Rule {
            alert: "ReprievePurgedYetAlive",
            expr: "max(reprieve_purged_yet_alive) > 0".to_owned(),
            pending: "",
            severity: "critical",
            summary: "{{ $value }} entities live that were purged",
            description: "The ledger in the store has them as purged, under the UIDs with which they live: etcd was restored from an older snapshot. No request runs twice, but the cluster and the store tell different stories.",
            runbook: "purged-yet-alive",
        },
        Rule {
            alert: "ReprieveGuardMissing",
            expr: "reprieve_guard_in_place == 0 and reprieve_lease_held == 1".to_owned(),
            pending: "1m",
            severity: "critical",
            summary: "The admission policies that protect Sites are not in force",
            description: "An admission policy or binding of Reprieve is absent, changed, or lets through what it must refuse. Until it is back, `kubectl delete site` is not refused. No request purges anything meanwhile.",
            runbook: "guard-missing",
        },
        Rule {
            alert: "ReprieveDown",
            expr: "absent(reprieve_lease_held == 1)".to_owned(),
            pending: "3m",
            severity: "critical",
            summary: "No operator of Reprieve works",
            description: "No operator holds the lease, or none can be scraped. Nothing is deleted, backed up or restored, and no cancel is heard. The guard goes on: it is the API server's.",
            runbook: "operator-down",
        },
        Rule {
            alert: "ReprieveBulkRequest",
            expr: "sum(increase(reprieve_requested_entities_total[1h])) > 20".to_owned(),
            pending: "",
            severity: "warning",
            summary: "DeletionRequests asked for {{ $value | humanize }} entities within an hour",
            description: "More entities than usual were asked to be deleted, whatever became of the requests. If nobody expects that, reject or cancel them: each is a dry run until people approve it.",
            runbook: "bulk-request",
        },
        Rule {
            alert: "ReprieveGuardDenials",
            expr: format!("({DENIALS} - on (rule) ({PROBES} or 0 * {DENIALS})) > 20"),
            pending: "",
            severity: "warning",
            summary: "The policy {{ $labels.rule }} refused {{ $value | humanize }} requests within 10 minutes",
            description: "Somebody, or a script, tries again and again what the guard refuses. The operator's own probes are taken off. The audit log of the API server says who it is.",
            runbook: "guard-denials",
        },
        Rule {
            alert: "ReprieveAlertSourceDown",
            expr: concat!(
                r#"sum by (reason) (reprieve_closed_gates{gate="AlertsClear","#,
                r#"reason=~"AlertSourceDown|AlertSourceInvalid|WatchdogMissing"}) > 0"#
            )
            .to_owned(),
            pending: "5m",
            severity: "warning",
            summary: "The source of alerts of {{ $value }} open DeletionRequests is silent: {{ $labels.reason }}",
            description: "It gives no answer, none that can be read, or lacks the alert that always fires. None of these requests can purge anything: nobody could tell whether an alert fires for what it deletes. What is held stays held.",
            runbook: "alert-source-down",
        },
        Rule {
            alert: "ReprieveBackupsFailing",
            expr: concat!(
                r#"sum by (reason) (increase(reprieve_warnings_total{kind="Backup"}[1h])) > 0 "#,
                r#"or (sum by (reason) (reprieve_warnings_total{kind="Backup"}) "#,
                r#"unless sum by (reason) (reprieve_warnings_total{kind="Backup"} offset 1h)) > 0"#
            )
            .to_owned(),
            pending: "",
            severity: "warning",
            summary: "Backups fail: {{ $labels.reason }}",
            description: "A Backup could not be made or did not verify within the last hour. Without a verified backup nothing is purged, and what is lost now comes back as it was at the last one that verified.",
            runbook: "backups-failing",
        },
        Rule {
            alert: "ReprieveDisksToBeReleased",
            expr: r#"max(reprieve_kept_disks{state="announced"}) > 0"#.to_owned(),
            pending: "",
            severity: "warning",
            summary: "{{ $value }} kept disks of purged sites are to get their former reclaim policy back",
            description: "The last backup that needed them has expired. Where the former policy is Delete, the disk is then gone for good. The time is in the events and annotations of each volume, at least a week ahead.",
            runbook: "disks-to-be-released",
        },
        Rule {
            alert: "ReprieveDrillFailed",
            expr: "max by (drill) (reprieve_drill_last_run_failed) == 1".to_owned(),
            pending: "",
            severity: "warning",
            summary: "The last run of the RestoreDrill {{ $labels.drill }} failed",
            description: "A sample of sites could not be restored into scratch namespaces, or was not equal to its backup. Those very backups may be of no use on the day when they are needed.",
            runbook: "drills",
        },
        Rule {
            alert: "ReprieveDrillOverdue",
            expr: "max by (drill) (reprieve_drill_overdue) == 1".to_owned(),
            pending: "",
            severity: "warning",
            summary: "The RestoreDrill {{ $labels.drill }} has not succeeded since it was due",
            description: "Its time has come and passed without a run that succeeded. Nobody has seen lately that a restore works; where a policy asks for that, nothing is purged.",
            runbook: "drills",
        },
        Rule {
            alert: "ReprieveObjectsFailing",
            expr: "sum by (room) (reprieve_backing_off_objects) > 0".to_owned(),
            pending: "15m",
            severity: "warning",
            summary: "{{ $value }} objects fail again and again in the room {{ $labels.room }}",
            description: "The operator tries them again with a growing pause; the others are not held up. Its log says for each what went wrong.",
            runbook: "objects-failing",
        },
        Rule {
            alert: "ReprieveObjectsUnreadable",
            expr: "sum by (room) (reprieve_unparsable_objects) > 0".to_owned(),
            pending: "5m",
            severity: "warning",
            summary: "{{ $value }} objects cannot be read in the room {{ $labels.room }}",
            description: "The operator leaves them alone: what they ask for is not done, and what they protect is not looked after. An event on each says which field.",
            runbook: "objects-failing",
        },
    ]
}

fn groups() -> Value {
    let all = rules().into_iter().map(|rule| {
        let mut value = json!({
            "alert": rule.alert,
            "expr": rule.expr,
            "labels": {"severity": rule.severity},
            "annotations": {
                "summary": rule.summary,
                "description": rule.description,
                "runbook": format!("{RUNBOOKS}/{}.md", rule.runbook),
            },
        });
        if !rule.pending.is_empty() {
            value["for"] = json!(rule.pending);
        }
        value
    });
    json!([{ "name": "reprieve", "rules": all.collect::<Vec<_>>() }])
}

/// The rules as Prometheus loads them from a file.
pub fn rules_file() -> Value {
    json!({ "groups": groups() })
}

/// The rules as the Prometheus operator takes them.
pub fn prometheus_rule() -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": { "name": "reprieve", "namespace": OPERATOR_NAMESPACE },
        "spec": { "groups": groups() },
    })
}

/// The index of the runbooks.
pub fn index() -> String {
    let mut text = concat!(
        "# Runbooks\n\n",
        "One page for each alert of [rules.yaml](../../deploy/monitoring/rules.yaml), which\n",
        "`deploy/monitoring/prometheusrule.yaml` has for the Prometheus operator. `critical`: somebody\n",
        "must look now; `warning`: today. Generated by `cargo generate`.\n\n",
        "| alert | severity | after | what it says |\n|---|---|---|---|\n"
    )
    .to_owned();
    for rule in rules() {
        let after = if rule.pending.is_empty() { "at once" } else { rule.pending };
        let summary = rule.summary.replace("{{ $value | humanize }}", "N");
        let summary =
            summary.replace("{{ $value }}", "N").replace("{{ $labels.", "`").replace(" }}", "`");
        let _ = writeln!(
            text,
            "| [{}]({}.md) | {} | {after} | {summary} |",
            rule.alert, rule.runbook, rule.severity
        );
    }
    text
}
