//! An object of each kind, and for each rule a change that passes and one that does not.

use serde_json::{Value, json};

/// An object with every field of its kind, as good as can be.
pub fn base(kind: &str) -> Value {
    let mut after = hook("reconnect");
    after["safeInDrills"] = json!(true);
    let spec = match kind {
        "Site" => json!({
            "id": "site-1",
            "tenant": {"name": "Acme", "contacts": ["ops@acme.example"]},
            "priority": 100,
            "namespaces": ["base", "base-jobs"],
            "policyRef": {"name": "default"},
            "backup": {"schedule": "0 3 * * *", "timeZone": "Europe/Berlin", "suspend": false, "keepSeconds": 2_592_000},
            "hooks": {
                "beforeBackup": [hook("dump")],
                "afterRestore": [after],
            },
        }),
        "App" => json!({
            "id": "app-1",
            "product": "wiki",
            "manifests": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}],
            "serviceAccountName": "reprieve-app",
        }),
        "DeletionRequest" => json!({
            "target": {"kind": "Site", "ids": ["site-1"]},
            "reason": "contract ended",
            "ticket": "OPS-1",
            "maxEntities": 1,
            "retentionSeconds": 86400,
            "override": {"justification": "agreed with the tenant"},
            "expectedAlerts": ["SiteDown"],
            "cancel": false,
        }),
        "DeletionPolicy" => json!({
            "environment": "Production",
            "retention": {"minimumSeconds": 86400, "defaultSeconds": 259_200, "maximumSeconds": 7_776_000},
            "blastRadius": {
                "maxEntities": 10, "hardMaxEntities": 100,
                "rolling": {"windowSeconds": 86400, "maxEntities": 50, "maxPercent": 5},
            },
            "quorum": {"approvals": 2, "overrideApprovals": 3, "expiresAfterSeconds": 86400},
            "backup": {"keepSeconds": 2_592_000, "drillBeforePurge": true, "drilledWithinSeconds": 2_764_800},
            "quarantine": "ScaleDown",
            "waves": {"first": 1, "maxPercent": 10, "pauseSeconds": 60},
            "alerts": {
                "alertmanager": {
                    "url": "https://alertmanager.monitoring.svc:9093/prefix",
                    "timeoutSeconds": 5,
                    "secretRef": {"name": "alertmanager"},
                },
                "matchers": ["severity=\"critical\""],
                "ignore": ["InfoInhibitor"],
                "watchdog": "Watchdog",
            },
        }),
        "Backup" => json!({
            "siteRef": {"name": "acme", "uid": "a", "id": "site-1"},
            "purpose": "Manual",
            "keepUntilTime": "2030-01-02T00:00:00Z",
        }),
        "Restore" => json!({
            "source": {"deletionRequestRef": {"name": "contract-ended"}},
            "parallelism": 4,
            "onConflict": "Fail",
            "cancel": false,
        }),
        "RestoreDrill" => json!({
            "schedule": "0 4 1 * *",
            "timeZone": "Europe/Berlin",
            "suspend": false,
            "sample": {"sites": 10, "strategy": "Oldest", "backupRefs": [{"name": "acme-1"}]},
            "timeoutSeconds": 3600,
        }),
        other => panic!("{other} has no object in this test"),
    };
    let group = "reprieve.dev/v1alpha1";
    json!({"apiVersion": group, "kind": kind, "metadata": {"name": "base"}, "spec": spec})
}

/// A hook with every field that both lists know.
fn hook(name: &str) -> Value {
    let pods = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/dump:1"}]}});
    json!({
        "name": name,
        "template": {
            "metadata": {"labels": {"team": "a"}, "annotations": {"note": "ours"}},
            "spec": {"backoffLimit": 1, "template": pods},
        },
        "timeoutSeconds": 60,
        "onError": "Continue",
    })
}

/// As [`base`], with what a rule keeps from standing together: it has every field.
pub fn full(kind: &str) -> Value {
    let mut object = base(kind);
    if kind == "Restore" {
        let time = "2030-01-02T00:00:00Z";
        object["spec"]["source"] = json!({
            "deletionRequestRef": {"name": "contract-ended"},
            "backupRefs": [{"name": "acme-1"}],
            "sites": {"ids": ["site-1"], "atTime": time},
            "apps": {"ids": ["app-1"], "atTime": time},
            "store": "All",
            "drill": drill(),
        });
    }
    object
}

/// A rule with what it lets through and what it refuses, as changes to [`base`]: pointers to fields
/// with their values, null for a field that is to be absent.
pub struct Case {
    pub kind: &'static str,
    pub path: &'static str,
    pub message: &'static str,
    /// Tried by changing an object that is there, not by creating one.
    pub update: bool,
    pub good: Value,
    pub bad: Value,
}

pub fn rules() -> Vec<Case> {
    let case = |update| {
        move |kind, path, message, good, bad| Case { kind, path, message, update, good, bad }
    };
    let (create, update) = (case(false), case(true));
    vec![
        create(
            "Site",
            "",
            "a Site's name must be a DNS label of at most 63 characters: it is also the name of \
             its namespace",
            json!({"/metadata/name": "a".repeat(63)}),
            json!({"/metadata/name": "acme.example"}),
        ),
        create(
            "Site",
            "",
            "default, reprieve-system and kube-* belong to the system: name another namespace in \
             spec.namespaces",
            json!({"/metadata/name": "default", "/spec/namespaces": ["acme"]}),
            json!({"/spec/namespaces": ["base", "kube-public"]}),
        ),
        create(
            "Site",
            "",
            "default, reprieve-system and kube-* belong to the system: name another namespace in \
             spec.namespaces",
            json!({"/metadata/name": "kubernetes", "/spec/namespaces": null}),
            json!({"/metadata/name": "reprieve-system", "/spec/namespaces": null}),
        ),
        create(
            "App",
            "",
            "an App's name has at most 63 characters: it is the value of a label on its objects",
            json!({"/metadata/name": "a".repeat(63)}),
            json!({"/metadata/name": "a".repeat(64)}),
        ),
        update(
            "Site",
            "",
            "namespaces may only grow: a namespace leaves a Site through a DeletionRequest alone",
            json!({"/spec/namespaces": ["more", "base", "base-jobs"]}),
            json!({"/spec/namespaces": ["base"]}),
        ),
        update(
            "Site",
            "",
            "namespaces may only grow: a namespace leaves a Site through a DeletionRequest alone",
            json!({"/spec/tenant/name": "Acme Ltd"}),
            json!({"/spec/namespaces": null}),
        ),
        update(
            "Site",
            ".spec.id",
            "id is immutable",
            json!({"/spec/priority": 1}),
            json!({"/spec/id": "site-2"}),
        ),
        update(
            "App",
            ".spec.id",
            "id is immutable",
            json!({"/spec/product": "forum"}),
            json!({"/spec/id": "app-2"}),
        ),
        request("/spec/target/ids", json!(["site-1", "site-2"])),
        request("/spec/target/kind", json!("App")),
        request("/spec/reason", json!("another")),
        request("/spec/ticket", json!(null)),
        request("/spec/ticket", json!("OPS-2")),
        request("/spec/maxEntities", json!(null)),
        request("/spec/maxEntities", json!(2)),
        request("/spec/retentionSeconds", json!(null)),
        request("/spec/retentionSeconds", json!(10)),
        request("/spec/override", json!(null)),
        request("/spec/override/justification", json!("another")),
        request("/spec/expectedAlerts", json!(null)),
        request("/spec/expectedAlerts", json!(["SiteDown", "SiteSlow"])),
        Case {
            kind: "DeletionRequest",
            path: ".spec",
            message: "cancel cannot be taken back: make another DeletionRequest",
            update: true,
            good: json!({"/metadata/name": "cancelled", "/metadata/labels": {"a": "b"}, "/spec/cancel": true}),
            bad: json!({"/metadata/name": "cancelled", "/spec/cancel": false}),
        },
        create(
            "DeletionPolicy",
            ".spec",
            "retention.minimumSeconds must be at least 86400 (24 h) in Production",
            json!({"/spec/environment": "Development", "/spec/retention/minimumSeconds": 10}),
            json!({"/spec/retention/minimumSeconds": 86399}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "retention must have minimumSeconds <= defaultSeconds <= maximumSeconds",
            json!({"/spec/retention/defaultSeconds": 86400, "/spec/retention/maximumSeconds": 86400}),
            json!({"/spec/retention/defaultSeconds": 86399}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "retention must have minimumSeconds <= defaultSeconds <= maximumSeconds",
            json!({"/spec/retention/defaultSeconds": 7_776_000}),
            json!({"/spec/retention/maximumSeconds": 259_199}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "blastRadius.maxEntities must not exceed hardMaxEntities",
            json!({"/spec/blastRadius/maxEntities": 100}),
            json!({"/spec/blastRadius/maxEntities": 101}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "blastRadius.hardMaxEntities must be at most 100 in Production",
            json!({"/spec/environment": "Development", "/spec/blastRadius/hardMaxEntities": 1000}),
            json!({"/spec/blastRadius/hardMaxEntities": 101}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "blastRadius.rolling.windowSeconds must be at least 86400 (24 h) in Production",
            json!({"/spec/environment": "Development", "/spec/blastRadius/rolling": {"windowSeconds": 10}}),
            json!({"/spec/blastRadius/rolling": {"windowSeconds": 86399}}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "quorum.approvals must be at least 2 in Production",
            json!({"/spec/environment": "Development", "/spec/quorum/approvals": 1}),
            json!({"/spec/quorum/approvals": 1}),
        ),
        create(
            "DeletionPolicy",
            ".spec",
            "quorum.overrideApprovals must be at least quorum.approvals",
            json!({"/spec/quorum/overrideApprovals": 2}),
            json!({"/spec/quorum/overrideApprovals": 1}),
        ),
        update(
            "DeletionPolicy",
            ".spec.environment",
            "environment is immutable: make another policy",
            json!({"/spec/quorum/approvals": 3}),
            json!({"/spec/environment": "Development"}),
        ),
        backup("/spec/siteRef/name", "bolt"),
        backup("/spec/siteRef/uid", "b"),
        backup("/spec/siteRef/id", "site-2"),
        backup("/spec/purpose", "BeforeDeletion"),
        update(
            "Backup",
            ".spec",
            "keepUntilTime may only grow",
            json!({"/spec/keepUntilTime": "2030-01-02T00:00:01Z"}),
            json!({"/spec/keepUntilTime": "2030-01-01T23:59:59Z"}),
        ),
        update(
            "Backup",
            ".spec",
            "keepUntilTime may only grow",
            json!({"/spec/keepUntilTime": "2031-01-02T00:00:00Z"}),
            json!({"/spec/keepUntilTime": null}),
        ),
        create(
            "Restore",
            ".spec.source",
            ONE_SOURCE,
            json!({"/spec/source": {"backupRefs": [{"name": "acme-1"}]}}),
            json!({"/spec/source": {}}),
        ),
        source(
            json!({"deletionRequestRef": {"name": "another"}}),
            json!({"deletionRequestRef": {"name": "another"}, "backupRefs": [{"name": "acme-1"}]}),
        ),
        Case {
            kind: "Restore",
            path: ".spec",
            message: "cancel cannot be taken back: make another Restore",
            update: true,
            good: json!({"/metadata/name": "cancelled", "/metadata/labels": {"a": "b"}, "/spec/cancel": true}),
            bad: json!({"/metadata/name": "cancelled", "/spec/cancel": false}),
        },
        source(
            json!({"sites": {"ids": ["site-1"]}}),
            json!({"sites": {"ids": ["site-1"]}, "apps": {"ids": ["app-1"]}}),
        ),
        source(
            json!({"apps": {"ids": ["app-1"], "atTime": "2030-01-02T00:00:00Z"}}),
            json!({"apps": {"ids": ["app-1"]}, "deletionRequestRef": {"name": "another"}}),
        ),
        source(json!({"store": "All"}), json!({"store": "All", "sites": {"ids": ["site-1"]}})),
        source(json!({"drill": drill()}), json!({"drill": drill(), "store": "All"})),
        update(
            "Restore",
            ".spec.onConflict",
            "onConflict is immutable: make another Restore",
            json!({"/spec/parallelism": 1}),
            json!({"/spec/onConflict": "Skip"}),
        ),
        update(
            "Restore",
            ".spec.source",
            "source is immutable: make another Restore",
            json!({"/spec/parallelism": 1}),
            json!({"/spec/source/deletionRequestRef/name": "another"}),
        ),
        update(
            "Restore",
            ".spec.source",
            "source is immutable: make another Restore",
            json!({"/spec/parallelism": 2}),
            json!({"/spec/source": {"backupRefs": [{"name": "acme-1"}]}}),
        ),
    ]
}

const ONE_SOURCE: &str =
    "source must name exactly one of: deletionRequestRef, backupRefs, sites, apps, store, drill";

/// What a RestoreDrill has restored.
fn drill() -> Value {
    json!({
        "drillRef": {"name": "monthly"},
        "drillUid": "0f",
        "archives": [{
            "site": "acme", "siteUid": "a", "siteId": "site-1", "backup": "acme-1",
            "location": "sites/site-1/acme-1.0f.1.jsonl.zst", "digest": "sha256:00", "objects": 9,
        }],
    })
}

fn source(good: Value, bad: Value) -> Case {
    Case {
        kind: "Restore",
        path: ".spec.source",
        message: ONE_SOURCE,
        update: false,
        good: json!({ "/spec/source": good }),
        bad: json!({ "/spec/source": bad }),
    }
}

fn request(pointer: &str, value: Value) -> Case {
    Case {
        kind: "DeletionRequest",
        path: ".spec",
        message: "a DeletionRequest is immutable but for cancel: cancel it and make another",
        update: true,
        good: json!({"/spec/cancel": true}),
        bad: json!({pointer: value}),
    }
}

fn backup(pointer: &str, value: &str) -> Case {
    Case {
        kind: "Backup",
        path: ".spec",
        message: "a Backup is of one site for one purpose: only keepUntilTime may change",
        update: true,
        good: json!({"/spec/keepUntilTime": "2031-01-01T00:00:00Z"}),
        bad: json!({pointer: value}),
    }
}
