//! The rows of the table.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use reprieve::api::{Site, names};
use reprieve::guard::policy;
use serde_json::{Value, json};

use super::Cluster;
use super::fixtures::{
    APPS, BACKUPS, CRDS, DRILLS, NAMESPACES, POLICIES, REQUESTS, RESTORES, SITES, SYSTEM, app,
    development, drill, make, manifest, restore, site, uids,
};
use super::table::{EVERYBODY, Form, Row, Senders, WITH_VERBS, Who, row};

/// Tries every row as everybody; nothing of what it was tried on has changed then.
pub async fn all(c: &Cluster) -> String {
    make(c).await;
    let before = uids(c).await;
    let senders = Senders::new(c).await;
    let mut rows = vec![];
    deletes(&mut rows);
    marks(c, &mut rows).await;
    namespaces(c, &mut rows).await;
    drills(&mut rows);
    kinds(c, &mut rows).await;
    requests(&mut rows);
    policies(&mut rows);
    super::kept::rows(&mut rows);
    ledger(&mut rows);
    accounts(&mut rows);
    let table = senders.try_all(&rows).await;
    assert_eq!(before, uids(c).await, "something of what was tried on has changed");
    table
}

/// T1, T8, T10.
fn deletes(rows: &mut Vec<Row>) {
    let p = policy::DELETE_ENTITIES;
    for propagation in ["Background", "Foreground", "Orphan"] {
        for grace in ["", "&gracePeriodSeconds=0"] {
            for dry in ["", "&dryRun=All"] {
                let query = format!("?propagationPolicy={propagation}{grace}{dry}");
                for (kind, path) in
                    [("Site", format!("{SITES}/t-site")), ("App", format!("{APPS}/t-app"))]
                {
                    let what = format!("DELETE {kind} {query}");
                    rows.push(row("T1", p, &what, Form::Delete, &format!("{path}{query}")));
                }
            }
        }
    }
    for (kind, path) in [("Site", SITES), ("App", APPS)] {
        let path = format!("{path}?labelSelector=table%3Dyes");
        rows.push(row(
            "T1",
            p,
            &format!("DELETE every {kind} (deletecollection)"),
            Form::Delete,
            &path,
        ));
    }
    let purging = [(format!("{SITES}/t-purging"), "Site"), (format!("{APPS}/t-purging"), "App")];
    for (path, kind) in purging {
        let what = format!("DELETE {kind} that is being purged");
        rows.push(row("T10", p, &what, Form::Delete, &path).may(&[Who::Operator]));
    }
}

/// T2, T5: finalizers, status, owners, the mark of a restore.
async fn marks(c: &Cluster, rows: &mut Vec<Row>) {
    let p = policy::FINALIZERS;
    let (s, o) = (format!("{SITES}/t-site"), [Who::Operator]);
    let none = json!({"metadata": {"finalizers": null}});
    let sites: Api<Site> = Api::all(c.admin.clone());
    let mut put = json!(sites.get("t-site").await.expect("a Site"));
    put["apiVersion"] = json!(names::API_VERSION);
    put["kind"] = json!("Site");
    put["metadata"].as_object_mut().expect("metadata").remove("finalizers");
    let remove = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    let apply =
        json!({"apiVersion": names::API_VERSION, "kind": "Site", "metadata": {"name": "t-site"}});
    let forced = format!("{s}?fieldManager={}&force=true", names::FIELD_MANAGER);
    rows.push(row("T2", p, "finalizer off a Site, PUT", Form::Put, &s).body(put).may(&o));
    rows.push(
        row("T2", p, "finalizer off a Site, JSON patch", Form::JsonPatch, &s).body(remove).may(&o),
    );
    rows.push(
        row("T2", p, "finalizer off a Site, merge patch", Form::Merge, &s)
            .body(none.clone())
            .may(&o),
    );
    rows.push(
        row("T2", p, "finalizer off a Site, forced apply", Form::Apply, &forced)
            .body(apply)
            .may(&o),
    );
    let status = format!("{s}/status");
    rows.push(
        row("T2", policy::STATUS, "finalizer off a Site, /status", Form::Merge, &status)
            .body(none.clone())
            .may(&o),
    );
    for (what, path) in
        [("App", format!("{APPS}/t-app")), ("DeletionRequest", format!("{REQUESTS}/t-req"))]
    {
        let what = format!("finalizer off {what}");
        rows.push(row("T2", p, &what, Form::Merge, &path).body(none.clone()).may(&o));
    }
    let mut with = site("t-new");
    with["metadata"]["finalizers"] = json!([names::FINALIZER]);
    rows.push(row("T2", p, "CREATE Site with the finalizer", Form::Post, SITES).body(with).may(&o));

    let purging = json!({"status": {"deletion": {
        "requestRef": {"name": "r"}, "requestUid": "u", "phase": "Purging"}}});
    let p = policy::STATUS;
    rows.push(row("T2", p, "a Site's status", Form::Merge, &status).body(purging.clone()).may(&o));
    let status = format!("{APPS}/t-app/status");
    rows.push(row("T2", p, "an App's status", Form::Merge, &status).body(purging).may(&o));
    let held = json!({"status": {"state": "Held"}});
    let status = format!("{REQUESTS}/t-req/status");
    rows.push(row("T9", p, "a DeletionRequest's status", Form::Merge, &status).body(held).may(&o));

    let owner = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Node", "name": "absent", "uid": "0"}]}});
    let p = policy::OWNER_REFERENCES;
    for (what, path) in [
        ("Site", s.clone()),
        ("App", format!("{APPS}/t-app")),
        ("Backup", format!("{BACKUPS}/t-backup")),
    ] {
        let what = format!("absent owner for {what}");
        rows.push(row("T5", p, &what, Form::Merge, &path).body(owner.clone()));
    }
    let mark = json!({"metadata": {"annotations": {names::ANNOTATION_RESTORE: "r"}}});
    let p = policy::RESTORE_MARK;
    let app = format!("{APPS}/t-app");
    for (what, path) in [("a Site", &s), ("an App", &app)] {
        let what = format!("mark of a restore on {what}");
        rows.push(row("T2", p, &what, Form::Merge, path).body(mark.clone()).may(&o));
    }
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    rows.push(row("", p, "a label of a Site", Form::Merge, &s).body(label).may(&EVERYBODY));
}

/// T3.
async fn namespaces(c: &Cluster, rows: &mut Vec<Row>) {
    let (own, marked) = (format!("{NAMESPACES}/t-site"), format!("{NAMESPACES}/t-marked"));
    let p = policy::DELETE_NAMESPACES;
    for propagation in ["Background", "Foreground", "Orphan"] {
        let path = format!("{own}?propagationPolicy={propagation}");
        let what = format!("DELETE a site's namespace, {propagation}");
        rows.push(row("T3", p, &what, Form::Delete, &path));
    }
    let what = "DELETE a namespace that is being purged";
    rows.push(row("T3", p, what, Form::Delete, &marked).may(&[Who::Operator]));
    let p = policy::NAMESPACE_MARKS;
    let o = [Who::Operator];
    let label = |value: Value| json!({"metadata": {"labels": {names::LABEL_SITE: value}}});
    for (what, path, value) in [
        ("a site's label off its namespace", &own, Value::Null),
        ("a site's label off its namespace, /status", &format!("{own}/status"), Value::Null),
        ("a site's label changed", &own, json!("other")),
        ("a site's label on a namespace of no Site", &format!("{NAMESPACES}/default"), json!("x")),
    ] {
        rows.push(row("T3", p, what, Form::Merge, path).body(label(value)).may(&o));
    }
    let purge = json!({"metadata": {"annotations": {names::ANNOTATION_PURGE: "u"}}});
    rows.push(row("T3", p, "the mark of a purge", Form::Merge, &own).body(purge).may(&o));
    let record = json!({"metadata": {"annotations": {names::ANNOTATION_RECORD: "{}"}}});
    let what = "the record of a Site that was deleted past the guard";
    rows.push(row("T4", p, what, Form::Merge, &own).body(record).may(&o));
    let api: Api<Namespace> = Api::all(c.admin.clone());
    let mut put = json!(api.get("t-site").await.expect("a namespace"));
    put["spec"] = json!({"finalizers": []});
    let path = format!("{own}/finalize");
    rows.push(row("T3", p, "/finalize of a site's namespace", Form::Put, &path).body(put));
}

/// B11: scratch namespaces of drills, and what is put into them.
fn drills(rows: &mut Vec<Row>) {
    let (o, scratch) = ([Who::Operator], format!("{NAMESPACES}/t-drill"));
    let p = policy::DELETE_NAMESPACES;
    rows.push(row("B11", p, "DELETE a drill's namespace", Form::Delete, &scratch).may(&o));
    let p = policy::NAMESPACE_MARKS;
    let drill_label = |value: Value| json!({"metadata": {"labels": {names::LABEL_DRILL: value}}});
    let mine = format!("{NAMESPACES}/t-site");
    for (what, path, value) in [
        (
            "a drill's label on a namespace that is there",
            &format!("{NAMESPACES}/default"),
            json!("u"),
        ),
        ("a drill's label on a site's namespace", &mine, json!("u")),
        ("a drill's label off its namespace", &scratch, Value::Null),
        ("a drill's label changed", &scratch, json!("v")),
    ] {
        rows.push(row("B11", p, what, Form::Merge, path).body(drill_label(value)));
    }
    let label = json!({"metadata": {"labels": {names::LABEL_SITE: "t-site"}}});
    let what = "a site's label on a drill's namespace";
    rows.push(row("B11", p, what, Form::Merge, &scratch).body(label));
    let new = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "t-drill-2", "labels": {names::LABEL_DRILL: "u"}}});
    let what = "CREATE a drill's namespace";
    rows.push(row("B11", p, what, Form::Post, NAMESPACES).body(new).may(&o));
    let p = policy::DRILL_RESTORES;
    let made = restore("t-drill-2", drill());
    let what = "CREATE a Restore of a drill";
    rows.push(row("B11", p, what, Form::Post, RESTORES).body(made).may(&o));
    let path = format!("{RESTORES}/t-drill");
    let cancel = json!({"spec": {"cancel": true}});
    let what = "a Restore of a drill, cancelled";
    rows.push(row("", p, what, Form::Merge, &path).body(cancel).may(&EVERYBODY));
    rows.push(row("", p, "DELETE a Restore of a drill", Form::Delete, &path).may(&EVERYBODY));
    let others: Vec<Who> = EVERYBODY.into_iter().filter(|who| *who != Who::Operator).collect();
    let path = format!("{RESTORES}/t-restore");
    rows.push(row("T10", p, "DELETE a Restore", Form::Delete, &path).may(&others));
    let held = json!({"apiVersion": names::API_VERSION, "kind": "RestoreDrill",
        "metadata": {"name": "t-drill", "finalizers": [names::FINALIZER]}, "spec": {}});
    let what = "CREATE RestoreDrill with the finalizer";
    rows.push(row("B11", policy::FINALIZERS, what, Form::Post, DRILLS).body(held).may(&o));
}

/// T4.
async fn kinds(c: &Cluster, rows: &mut Vec<Row>) {
    for crd in reprieve::api::crds() {
        let name = crd.metadata.name.clone().expect("a name");
        let path = format!("{CRDS}/{name}");
        rows.push(
            row("T4", policy::DELETE_CRDS, &format!("DELETE CRD {name}"), Form::Delete, &path)
                .says("docs/uninstall.md"),
        );
        let again = json!(crd);
        let apply = format!("{path}?fieldManager=somebody&force=true");
        let what = format!("apply of CRD {name} as it is");
        rows.push(
            row("", policy::CHANGE_CRDS, &what, Form::Apply, &apply).body(again).may(&EVERYBODY),
        );
    }
    let p = policy::CHANGE_CRDS;
    let path = format!("{CRDS}/sites.reprieve.dev");
    let patches = [
        (
            "fields pruned",
            json!([{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status"}]),
        ),
        (
            "status subresource off",
            json!([{"op": "replace", "path": "/spec/versions/0/subresources", "value": {}}]),
        ),
        (
            "a conversion",
            json!([{"op": "replace", "path": "/spec/conversion", "value": {"strategy": "Webhook",
                "webhook": {"clientConfig": {"url": "https://thief.example/convert"},
                    "conversionReviewVersions": ["v1"]}}}]),
        ),
    ];
    for (what, patch) in patches {
        let what = format!("CRD changed: {what}");
        rows.push(
            row("T4", p, &what, Form::JsonPatch, &path)
                .body(patch)
                .may(&WITH_VERBS)
                .says("needs the RBAC verb upgrade"),
        );
    }
    let label = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}});
    rows.push(row("", p, "CRD labelled", Form::Merge, &path).body(label).may(&EVERYBODY));
    let crds: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(c.admin.clone());
    let live = json!(crds.get("sites.reprieve.dev").await.expect("a CRD"));
    let status = json!({"status": live["status"]});
    let path = format!("{path}/status");
    rows.push(row("", p, "CRD's status", Form::Merge, &path).body(status).may(&EVERYBODY));
}

/// T9.
fn requests(rows: &mut Vec<Row>) {
    let path = format!("{REQUESTS}/t-req");
    let annotate = |key: String, value: &str| json!({"metadata": {"annotations": {key: value}}});
    let p = policy::APPROVALS;
    let approval = || format!("{}x", names::APPROVAL_PREFIX);
    for (what, key, value, may) in [
        ("approval as bob", approval(), "sha256:d1 bob", vec![Who::Approver]),
        ("approval as alice, who asked", approval(), "sha256:d1 alice", vec![]),
        ("approval as bob of another digest", approval(), "sha256:d0 bob", vec![]),
        (
            "approval as the operator",
            approval(),
            "sha256:d1 system:serviceaccount:reprieve-system:reprieve",
            vec![],
        ),
        ("approval as erin", approval(), "sha256:d1 erin", vec![]),
        (
            "rejection as bob",
            format!("{}x", names::REJECTION_PREFIX),
            "sha256:d1 bob",
            vec![Who::Approver],
        ),
    ] {
        rows.push(row("T9", p, what, Form::Merge, &path).body(annotate(key, value)).may(&may));
    }
    let p = policy::REQUESTED_BY;
    let key = names::ANNOTATION_REQUESTED_BY;
    let changed = annotate(key.to_owned(), "mallory");
    rows.push(row("T9", p, "who asked, changed", Form::Merge, &path).body(changed));
    let removed = json!({"metadata": {"annotations": {key: null}}});
    rows.push(
        row("", p, "who asked, removed: put back", Form::Merge, &path)
            .body(removed)
            .may(&EVERYBODY),
    );
    let forged = json!({"apiVersion": names::API_VERSION, "kind": "DeletionRequest",
        "metadata": {"name": "t-forged", "annotations": {key: "carol"}},
        "spec": {"target": {"kind": "Site", "ids": ["none"]}, "reason": "a test"}});
    rows.push(row("T9", p, "request in carol's name", Form::Post, REQUESTS).body(forged));
}

/// T16.
fn policies(rows: &mut Vec<Row>) {
    let p = policy::WEAKEN;
    let path = format!("{POLICIES}/t-dev");
    let fields = [
        ("retention", "minimumSeconds", 50, 200),
        ("retention", "defaultSeconds", 999, 1001),
        ("retention", "maximumSeconds", 9999, 10001),
        ("blastRadius", "maxEntities", 6, 4),
        ("blastRadius", "hardMaxEntities", 51, 49),
        ("quorum", "approvals", 2, 4),
        ("quorum", "overrideApprovals", 4, 6),
        ("quorum", "expiresAfterSeconds", 3601, 3599),
        ("backup", "keepSeconds", 2_999_999, 3_000_001),
        ("blastRadius.rolling", "windowSeconds", 86_399, 86_401),
        ("blastRadius.rolling", "maxEntities", 51, 49),
        ("blastRadius.rolling", "maxPercent", 6, 4),
    ];
    for (group, field, weaker, stricter) in fields {
        let patch = |value: i64| {
            let parts = group.rsplit('.');
            json!({"spec": parts.fold(json!({field: value}), |below, part| json!({part: below}))})
        };
        let what = format!("DeletionPolicy {group}.{field}");
        rows.push(
            row("T16", p, &format!("{what} weaker"), Form::Merge, &path)
                .body(patch(weaker))
                .may(&WITH_VERBS)
                .says(&format!("weaker ({group}.{field})")),
        );
        rows.push(
            row("", p, &format!("{what} stricter"), Form::Merge, &path)
                .body(patch(stricter))
                .may(&EVERYBODY),
        );
    }
    let needs = "needs the RBAC verb weaken";
    let watched = format!("{POLICIES}/t-watched");
    for (what, path, alerts) in [
        ("given", &path, json!({"alertmanager": {"url": "http://other"}})),
        ("elsewhere", &watched, json!({"alertmanager": {"url": "http://other"}})),
        ("ignored", &watched, json!({"ignore": ["SiteDown"]})),
        ("taken away", &watched, Value::Null),
    ] {
        rows.push(
            row("T16", p, &format!("DeletionPolicy alerts {what}"), Form::Merge, path)
                .body(json!({"spec": {"alerts": alerts}}))
                .may(&WITH_VERBS)
                .says("weaker (alerts)"),
        );
    }
    let no_drill = json!({"spec": {"backup": {"drillBeforePurge": false}}});
    rows.push(
        row("T16", p, "DeletionPolicy without a drill before the purge", Form::Merge, &path)
            .body(no_drill)
            .may(&WITH_VERBS)
            .says("weaker (backup.drillBeforePurge)"),
    );
    rows.push(
        row("T16", p, "DELETE DeletionPolicy", Form::Delete, &path).may(&WITH_VERBS).says(needs),
    );
    let mut default = development("default");
    let create =
        |body: &Value, what: &str| row("T16", p, what, Form::Post, POLICIES).body(body.clone());
    rows.push(
        create(&default, "CREATE default as Development").may(&WITH_VERBS).says("environment"),
    );
    default["spec"] = json!({"environment": "Production", "blastRadius": {"maxEntities": 11}});
    rows.push(create(&default, "CREATE default with a larger limit").may(&WITH_VERBS).says(needs));
    default["spec"] = json!({"environment": "Production"});
    rows.push(create(&default, "CREATE default as the built-in one").may(&EVERYBODY));
    rows.push(create(&development("t-other"), "CREATE another policy").may(&EVERYBODY));
    let p = policy::POLICY_REFS;
    let site = format!("{SITES}/t-site");
    let refer = |name: &str| json!({"spec": {"policyRef": {"name": name}}});
    rows.push(
        row("T16", p, "Site's policyRef changed", Form::Merge, &site)
            .body(refer("t-dev"))
            .may(&WITH_VERBS)
            .says(needs),
    );
    rows.push(
        row("", p, "Site's policyRef as it is", Form::Merge, &site)
            .body(refer("default"))
            .may(&EVERYBODY),
    );
}

/// T13, T16: the ledger of purges.
fn ledger(rows: &mut Vec<Row>) {
    let (p, o) = (policy::PURGE_LEDGER, [Who::Operator]);
    let path = format!("{SYSTEM}/configmaps/{}", names::LEDGER);
    rows.push(row("T13", p, "DELETE the ledger of purges", Form::Delete, &path));
    let all = format!("{SYSTEM}/configmaps");
    let named = format!("{all}?fieldSelector=metadata.name%3D{}", names::LEDGER);
    rows.push(row("T13", p, "DELETE it (deletecollection)", Form::Delete, &named));
    let empty = json!({"data": {"entries": ""}});
    rows.push(row("T13", p, "ledger emptied", Form::Merge, &path).body(empty).may(&o));
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    rows.push(row("T13", p, "ledger with a label", Form::Merge, &path).body(label).may(&o));
    let mut apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"entries": ""}});
    apply["metadata"] = json!({"name": names::LEDGER});
    let forced = format!("{path}?fieldManager={}&force=true", names::FIELD_MANAGER);
    rows.push(row("T13", p, "ledger by a forced apply", Form::Apply, &forced).body(apply).may(&o));
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t-other"}});
    rows.push(row("", p, "another ConfigMap", Form::Post, &all).body(other).may(&EVERYBODY));
}

/// T10, T19.
fn accounts(rows: &mut Vec<Row>) {
    let token =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let p = policy::OPERATOR_TOKENS;
    let path = format!("{SYSTEM}/serviceaccounts/reprieve/token");
    rows.push(row("T10", p, "token of the operator", Form::Post, &path).body(token.clone()));
    let path = format!("{SYSTEM}/serviceaccounts/default/token");
    rows.push(
        row("", p, "token of another account", Form::Post, &path).body(token).may(&EVERYBODY),
    );
    let p = policy::OPERATOR_SECRETS;
    let named = |account: &str| json!({"kubernetes.io/service-account.name": account});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "t-stolen", "annotations": named("reprieve")}});
    let path = format!("{SYSTEM}/secrets");
    rows.push(row("T10", p, "token Secret of the operator", Form::Post, &path).body(secret));
    let turn = json!({"metadata": {"annotations": named("reprieve")}});
    let path = format!("{SYSTEM}/secrets/t-token");
    rows.push(
        row("T10", p, "another's token Secret turned into it", Form::Merge, &path).body(turn),
    );
    let p = policy::OPERATOR_PODS;
    for way in ["exec?command=sh", "attach", "portforward"] {
        let path = format!("{SYSTEM}/pods/t-pod/{way}");
        rows.push(row("T10", p, &format!("{way} into the operator's pod"), Form::Post, &path));
    }
    let debug =
        json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "none.example/none"}]}});
    let path = format!("{SYSTEM}/pods/t-pod/ephemeralcontainers");
    rows.push(row("T10", p, "debug container in it", Form::Patch, &path).body(debug));

    let p = policy::APP_ACCOUNTS;
    let needs = "needs the RBAC verb impersonate";
    let power = app("t-power2", "power");
    let what = "CREATE App by another account";
    rows.push(row("T19", p, what, Form::Post, APPS).body(power).may(&WITH_VERBS).says(needs));
    let own = app("t-app2", "reprieve-app");
    rows.push(row("", p, "CREATE App by reprieve-app", Form::Post, APPS).body(own).may(&EVERYBODY));
    let named = json!({"spec": {"serviceAccountName": "power"}});
    let path = format!("{APPS}/t-app");
    let what = "App changed to another account";
    rows.push(row("T19", p, what, Form::Merge, &path).body(named).may(&WITH_VERBS).says(needs));
    let changed = json!({"spec": {"manifests": [manifest("b")]}});
    let what = "manifests of an App by reprieve-app";
    rows.push(row("", p, what, Form::Merge, &path).body(changed.clone()).may(&EVERYBODY));
    let path = format!("{APPS}/t-power");
    let what = "manifests of an App by another account";
    rows.push(row("T19", p, what, Form::Merge, &path).body(changed).may(&WITH_VERBS).says(needs));
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let what = "label of an App by another account";
    rows.push(row("", p, what, Form::Merge, &path).body(label).may(&EVERYBODY));
}
