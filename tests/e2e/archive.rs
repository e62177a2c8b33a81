//! B3 of the fault list, and what is in a backup, in which order, and what it says of what it could
//! not read: on a real control plane, seen in the archive's own bytes.

use std::path::Path;

use reprieve::api::names;
use reprieve::cluster::collect::{CollectError, Freshness, Walk};
use reprieve::cluster::discover::discover;
use reprieve::cluster::order::rank;
use reprieve::sandbox::{Operator, Sandbox};
use reprieve::store::{Archive, Expected, Identity, Options, Store};
use serde_json::{Value, json};

use crate::user::{User, expect_condition, http, sample};

/// What must be found nowhere: part of a Secret.
const CANARY: &str = "kaRnickel-7f3b9e";
const IDENTITY: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/keys/test-age-identity.txt");
const SITE: &str = include_str!("../../deploy/samples/site.yaml");

struct Stage {
    sandbox: Sandbox,
    operator: Operator,
    admin: User,
}

impl Stage {
    fn backup(&self, name: &str) {
        let backup = json!({
            "apiVersion": names::API_VERSION, "kind": "Backup", "metadata": {"name": name},
            "spec": {"siteRef": {"name": "acme"}},
        });
        self.admin.create(&backup).worked();
    }

    fn verified(&self, name: &str) -> Value {
        self.admin
            .kubectl(&format!("wait --for=condition=Verified bkp/{name} --timeout=60s"))
            .worked();
        self.admin.get(&format!("bkp {name}"))
    }

    async fn store(&self) -> Store {
        let mut options = Options::new(&self.sandbox.store_url());
        options.encryption.read_with(Path::new(IDENTITY)).unwrap();
        Store::open_with(options).await.unwrap()
    }

    async fn archive(&self, backup: &Value) -> Archive {
        let store = self.store().await;
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let status = &backup["status"];
        let site = Identity {
            name: word(&status["site"]["name"]),
            uid: word(&status["site"]["uid"]),
            id: word(&status["site"]["id"]),
        };
        let expected = Expected { site, digest: Some(word(&status["digest"])) };
        store.load(&word(&status["location"]), expected).await.unwrap()
    }

    async fn walk(&self) -> Walk {
        let client = self.sandbox.admin();
        let kinds = discover(&client).await.unwrap();
        Walk::begin(&client, &kinds, "acme", &["acme".to_owned()], Freshness::Live).await.unwrap()
    }

    fn serves(&self, kind: &str) {
        self.admin
            .kubectl(&format!("wait --for=condition=Established crd/{kind} --timeout=30s"))
            .worked();
        let begun = std::time::Instant::now();
        while !self.admin.kubectl(&format!("get {kind}")).ok {
            assert!(begun.elapsed() < crate::user::PATIENCE, "{kind} is not served");
        }
    }
}

fn crd(kind: &str, scope: &str) -> Value {
    let singular = kind.to_lowercase();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{singular}s.example.com")},
        "spec": {
            "group": "example.com", "scope": scope,
            "names": {"kind": kind, "plural": format!("{singular}s"), "singular": singular},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    })
}

/// What belongs to the site and lies outside of its namespaces, and what looks like it.
fn build(stage: &Stage) {
    stage.admin.create(&crd("Planet", "Cluster")).worked();
    stage.admin.create(&crd("Moon", "Namespaced")).worked();
    stage.serves("planets.example.com");
    stage.serves("moons.example.com");
    let labelled = |kind: &str, api_version: &str, name: &str, site: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": {"reprieve.dev/site": site}}});
    let rbac = "rbac.authorization.k8s.io/v1";
    let mut role = labelled("ClusterRole", rbac, "acme-reads-nodes", "acme");
    role["rules"] = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]);
    let mut binding = labelled("ClusterRoleBinding", rbac, "acme-reads-nodes", "acme");
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "acme-reads-nodes"});
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "a-disk", "labels": {"reprieve.dev/site": "acme"}},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "manual", "hostPath": {"path": "/tmp/none"}},
    });
    for object in [
        role,
        binding,
        labelled("Planet", "example.com/v1", "mars", "acme"),
        labelled("Planet", "example.com/v1", "venus", "another"),
        volume,
    ] {
        stage.admin.create(&object).worked();
    }
    let mut many = String::new();
    for i in 0..65 {
        many += &format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: many-{i:02}, namespace: acme}}\ndata: {{k: \"{i}\"}}\n---\n"
        );
    }
    many +=
        "apiVersion: example.com/v1\nkind: Moon\nmetadata: {name: phobos, namespace: acme}\n---\n";
    many += "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: quota, namespace: acme}\nspec: {hard: {pods: \"50\"}}\n";
    stage.admin.with_input("create -f -", &many).worked();
    let secret = format!("create secret generic canary -n acme --from-literal=password={CANARY}");
    stage.admin.kubectl(&secret).worked();
    let applied = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, namespace: acme}\ndata: {a: \"1\"}\n";
    stage.admin.with_input("apply --server-side --field-manager=flux -f -", applied).worked();
}

async fn what_is_in_and_in_which_order(stage: &Stage) {
    stage.backup("whole");
    let backup = stage.verified("whole");
    let archive = stage.archive(&backup).await;
    let keys: Vec<String> = archive.entries.iter().map(|e| e.key.to_string()).collect();
    let ranks: Vec<u8> = archive.entries.iter().map(|e| rank(&e.key)).collect();
    assert!(ranks.is_sorted(), "expected the order of a restore; seen: {keys:?}");
    assert_eq!(keys[0], "Site.reprieve.dev/acme");
    assert_eq!(*keys.last().unwrap(), "ResourceQuota/acme/quota");
    for i in 0..65 {
        let key = format!("ConfigMap/acme/many-{i:02}");
        assert_eq!(keys.iter().filter(|k| **k == key).count(), 1, "{key} in {keys:?}");
    }
    for key in [
        "ClusterRole.rbac.authorization.k8s.io/acme-reads-nodes",
        "ClusterRoleBinding.rbac.authorization.k8s.io/acme-reads-nodes",
        "Planet.example.com/mars",
        "Moon.example.com/acme/phobos",
    ] {
        assert!(keys.iter().any(|k| k == key), "expected {key} in {keys:?}");
    }
    for absent in ["Planet.example.com/venus", "PersistentVolume/a-disk"] {
        assert!(keys.iter().all(|k| k != absent), "expected no {absent}");
    }
    assert_eq!(backup["status"]["objects"], json!(keys.len()));

    let of = |key: &str| archive.entries.iter().find(|e| e.key.to_string() == key).unwrap();
    let owners = json!(of("ConfigMap/acme/applied").owners);
    let live = stage.admin.get("configmap applied -n acme --show-managed-fields");
    let mut expected = live["metadata"]["managedFields"].clone();
    expected[0].as_object_mut().unwrap().remove("time");
    assert_eq!(owners, expected, "the field owners of what was applied");
    assert_eq!(owners[0]["manager"], "flux");
    assert_eq!(of("ConfigMap/acme/many-00").owners, None, "nobody applied it");

    // Nothing moved, and it says when.
    assert_eq!(backup["status"]["changedObjects"], Value::Null);
    let version = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let versions = &backup["status"]["resourceVersions"];
    assert!(version(&versions["first"]) <= version(&versions["last"]), "{versions}");
    let site = stage.admin.get("site acme");
    let begun = archive.header.resource_version.unwrap().parse::<u64>().unwrap();
    assert!(begun <= version(&site["metadata"]["resourceVersion"]), "{begun}");
    let listed = stage.store().await.all_backups().await.unwrap();
    let entry = listed.iter().find(|e| e.backup == "whole").unwrap();
    assert_eq!(json!(entry.resource_versions), *versions);
    assert_eq!(json!(entry.location), backup["status"]["location"]);
}

/// B3: the store's bytes, the operator's log, events, metrics and every status.
fn b3_no_secret_is_told_to_anybody(stage: &Stage) {
    let backup = stage.admin.get("bkp whole");
    expect_condition(&backup, "Encrypted", &["True Encrypted", "1 recipients"]);
    let secret = stage.admin.kubectl("get secret canary -n acme -o jsonpath={.data.password}");
    // What kubectl shows of it, in the form that an archive has, and as it was given.
    let encoded = secret.worked().trim_matches('\'').to_owned();
    assert!(encoded.len() > 10, "{encoded}");
    let log = std::fs::read(stage.operator.process().log()).expect("a log");
    assert!(log.len() > 100, "the log is not there");
    let mut places = vec![
        ("the log".to_owned(), log),
        ("events".to_owned(), stage.admin.kubectl("get events -A -o yaml").out.into_bytes()),
        ("objects".to_owned(), stage.admin.kubectl("get reprieve -A -o yaml").out.into_bytes()),
        (
            "metrics".to_owned(),
            http(stage.operator.listen(), "/metrics").expect("metrics").1.into_bytes(),
        ),
    ];
    let mut folders = vec![stage.sandbox.store_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                places.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    assert!(places.iter().any(|(name, _)| name.ends_with(".jsonl.zst")), "no archive");
    for (name, bytes) in places {
        for word in [CANARY, &encoded] {
            let found = bytes.windows(word.len()).any(|bytes| bytes == word.as_bytes());
            assert!(!found, "{word} in {name}");
        }
    }
}

/// Objects that come, go and change while a site is read.
async fn what_changes_meanwhile(stage: &Stage) {
    let mut walk = stage.walk().await;
    while walk.next().await.unwrap().is_some() {}
    let patch = |what: &str, patch: &str| {
        stage.admin.run(&["patch", what, "-n", "acme", "--type=merge", "-p", patch], "").worked();
    };
    patch("configmap/many-07", r#"{"data":{"k":"other"}}"#);
    stage.admin.kubectl("delete configmap many-08 -n acme").worked();
    stage.admin.kubectl("create configmap newcomer -n acme").worked();
    stage.admin.kubectl("annotate namespace acme note=new").worked();
    // Changed and put back: equal. Status: no part of a backup. Another site's: none of ours.
    patch("configmap/many-09", r#"{"data":{"k":"other"}}"#);
    patch("configmap/many-09", r#"{"data":{"k":"9"}}"#);
    stage.admin.run(
        &[
            "patch",
            "site/acme",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"state":"Active"}}"#,
        ],
        "",
    );
    stage.admin.kubectl("annotate planet venus note=new").worked();
    let (versions, changed) = walk.changes().await.unwrap();
    assert_eq!(
        changed.first,
        [
            "ConfigMap/acme/many-07",
            "ConfigMap/acme/many-08",
            "ConfigMap/acme/newcomer",
            "Namespace/acme",
        ]
    );
    assert_eq!(changed.count, 4);
    let number = |text: &str| text.parse::<u64>().unwrap();
    assert!(number(&versions.first) < number(&versions.last), "{versions:?}");
}

/// An API that cannot be listed is an error that names it, and heals by itself.
async fn what_cannot_be_listed(stage: &Stage) {
    let down = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.down.example.org"},
        "spec": {"group": "down.example.org", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "insecureSkipTLSVerify": true, "service": {"name": "nobody", "namespace": "default", "port": 443}},
    });
    stage.admin.create(&down).worked();
    // The API server takes a moment to tell of it.
    let client = stage.sandbox.admin();
    let begun = std::time::Instant::now();
    while discover(&client).await.is_ok() {
        assert!(begun.elapsed() < crate::user::PATIENCE, "expected discovery to fail");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    stage.backup("blind");
    let seen = stage.admin.until("bkp blind", "an error", |live| {
        live["status"]["conditions"].as_array().is_some_and(|all| !all.is_empty())
    });
    expect_condition(&seen, "Succeeded", &["False DiscoveryFailed", "down.example.org/v1"]);
    stage.admin.kubectl("delete apiservice v1.down.example.org").worked();
    stage.verified("blind");

    // A kind that goes while the site is read: half a site is no backup.
    let mut walk = stage.walk().await;
    stage.admin.kubectl("delete crd planets.example.com").worked();
    while walk.next().await.is_ok_and(|next| next.is_some()) {}
    let error = walk.changes().await.unwrap_err();
    assert!(
        matches!(&error, CollectError::List { kind, .. } if kind == "example.com/v1 Planet"),
        "{error}"
    );
    // The next one knows that there is none.
    stage.backup("without");
    let archive = stage.archive(&stage.verified("without")).await;
    assert!(archive.entries.iter().all(|e| e.key.kind != "Planet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_holds_all_of_a_site_in_order() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    sandbox.install().await.expect("it can be installed");
    let identity = std::fs::read_to_string(IDENTITY).unwrap();
    let recipient = identity.lines().find_map(|l| l.strip_prefix("# public key: ")).unwrap();
    let flags = [format!("--age-recipient={recipient}"), format!("--age-identity-file={IDENTITY}")];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let operator = sandbox.start_operator(&flags).await.expect("the operator starts");
    let stage = Stage { admin: User::admin(&sandbox), sandbox, operator };
    stage.admin.apply(&sample(SITE, "acme", 4711)).worked();
    stage.admin.kubectl("wait --for=condition=Ready site/acme --timeout=60s").worked();
    build(&stage);
    what_is_in_and_in_which_order(&stage).await;
    b3_no_secret_is_told_to_anybody(&stage);
    what_changes_meanwhile(&stage).await;
    what_cannot_be_listed(&stage).await;
    drop(stage.operator);
    stage.sandbox.stop().unwrap();
}
