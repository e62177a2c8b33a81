//! The audit log as typed records.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, PostParams};
use reprieve::sandbox::{AuditLog, Sandbox, audit};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(10);

pub async fn tells_who_did_what(sandbox: &Sandbox) {
    let mut log = sandbox.audit_from_now().expect("an audit log");
    let mallory = sandbox.user("mallory", &["outsiders"]).expect("a kubeconfig");
    let mallory = sandbox.client_for(&mallory).await.expect("a client");
    let admin = sandbox.admin();
    let maps: Api<ConfigMap> = Api::default_namespaced(admin.clone());
    let map = json!({ "metadata": { "name": "audited" } });
    let map: ConfigMap = serde_json::from_value(map).expect("a ConfigMap");
    maps.create(&PostParams::default(), &map).await.expect("it can be created");
    let theirs: Api<ConfigMap> = Api::default_namespaced(mallory);
    theirs.delete("audited", &DeleteParams::default()).await.expect_err("no rights");
    let dry = DeleteParams { dry_run: true, ..Default::default() };
    maps.delete("audited", &dry).await.expect("a dry run");
    maps.delete("audited", &DeleteParams::default()).await.expect("it can be deleted");
    let secrets: Api<Secret> = Api::default_namespaced(admin);
    let secret = json!({ "metadata": { "name": "quiet" }, "stringData": { "key": "unspoken" } });
    let secret: Secret = serde_json::from_value(secret).expect("a Secret");
    secrets.create(&PostParams::default(), &secret).await.expect("it can be created");
    secrets.delete("quiet", &dry).await.expect("a dry run");
    secrets.delete("quiet", &DeleteParams::default()).await.expect("it can be deleted");

    // Tailing: the first that fits, and the rest with the next read.
    let denied = log.find(PATIENCE, |record| record.code == 403).await.expect("it was refused");
    assert_eq!(
        (&*denied.user.name, &*denied.verb, &*denied.name),
        ("mallory", "delete", "audited")
    );
    assert_eq!((&*denied.resource, &*denied.namespace), ("configmaps", "default"));
    assert!(denied.user.groups.contains(&"outsiders".to_owned()) && !denied.is_carried_out());
    assert!(denied.user.credential.starts_with("X509SHA256="), "{denied:?}");
    assert_eq!(denied.annotations["authorization.k8s.io/decision"], "forbid");
    let secret = |record: &audit::AuditRecord| {
        record.name == "quiet" && record.is_delete() && !record.dry_run
    };
    let last = log.find(PATIENCE, secret).await.expect("it was deleted");
    assert!(last.is_carried_out() && last.user.name == "admin");

    // Who deleted what: neither dry runs nor what was refused.
    let all = sandbox.audit().read().expect("the log can be read");
    let whose = |name: &'static str| audit::deletes(&all).filter(move |record| record.name == name);
    assert_eq!(whose("audited").count(), 1);
    assert!(whose("audited").all(|record| record.user.name == "admin"));
    assert_eq!(whose("quiet").count(), 1);
    let text = fs::read_to_string(sandbox.audit_log()).expect("the log can be read");
    assert!(!text.contains("unspoken") && !text.contains("dW5zcG9rZW4"), "a Secret's content");

    let counts = audit::requests_per_minute(&all);
    let kwok = counts.iter().filter(|((agent, _), _)| agent == "kube-controller-manager");
    assert!(kwok.map(|(_, count)| count).sum::<usize>() > 10, "{counts:?}");
}

fn line(n: u32) -> String {
    let event = json!({
        "auditID": n.to_string(), "stage": "ResponseComplete", "verb": "get",
        "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
    });
    format!("{event}\n")
}

fn ids(log: &mut AuditLog) -> Vec<String> {
    log.read().expect("it can be read").into_iter().map(|record| record.id).collect()
}

#[tokio::test]
async fn a_growing_log_is_read_line_by_line_across_rotation() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("audit.log");
    let append = |text: &str| {
        let file = fs::File::options().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("it can be written");
    };
    let mut log = AuditLog::open(&path);
    assert_eq!(ids(&mut log), [""; 0], "it is not there yet");

    // Half a line is left for later.
    let (begin, end) = (line(2)[..20].to_owned(), line(2)[20..].to_owned());
    append(&line(1));
    append(&begin);
    assert_eq!(ids(&mut log), ["1"]);
    assert_eq!(ids(&mut log), [""; 0]);
    append(&end);
    assert_eq!(ids(&mut log), ["2"]);

    // Renamed, with something unread, and begun anew.
    append(&line(3));
    fs::rename(&path, folder.path().join("audit-1.log")).expect("it can be renamed");
    append(&line(4));
    assert_eq!(ids(&mut log), ["3", "4"]);
    // Truncated.
    fs::write(&path, "").expect("it can be written");
    assert_eq!(ids(&mut log), [""; 0]);
    append(&line(5));
    assert_eq!(ids(&mut log), ["5"]);

    // As a stream, which goes on.
    let mut from_end = Box::pin(AuditLog::open_at_end(&path).expect("it is there").follow());
    append(&line(6));
    let next = tokio::time::timeout(PATIENCE, from_end.next()).await.expect("there is one");
    assert_eq!(next.expect("no end").expect("an event").id, "6");
    assert_eq!(ids(&mut log), ["6"]);

    append("no event\n");
    let error = format!("{:#}", log.read().expect_err("no event"));
    assert!(error.contains("audit.log: no event"), "{error}");
}
