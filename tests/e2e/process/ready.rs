//! What the operator says of a cluster that lacks something it needs, or holds something that it
//! cannot read.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use reprieve::sandbox::{Operator, Process, process};
use serde_json::json;

use super::{REPRIEVE, Stage, grant, metric, until_ready};
use crate::user::{PATIENCE, http};

/// An operator that need not become ready. It is killed when this is dropped.
struct Early {
    process: Process,
    listen: SocketAddr,
}

fn start(stage: &Stage, name: &str, kubeconfig: &Path) -> Early {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let listen = listener.local_addr().expect("an address");
    drop(listener);
    let args = [
        "run".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--store-url={}", stage.sandbox.store_url()),
        format!("--listen={listen}"),
    ];
    let spec = process::Spec {
        name: name.to_owned(),
        program: REPRIEVE.into(),
        args: args.map(Into::into).to_vec(),
    };
    Early { process: spec.start(stage.sandbox.dir()).expect("it starts"), listen }
}

pub async fn rights_that_are_missing_are_named(stage: &Stage) {
    let nobody = stage.sandbox.user("nobody", &[]).expect("a kubeconfig");
    let mut early = start(stage, "no-rights", &nobody);
    let command = "kubectl apply --server-side -f deploy/rbac/operator.yaml";
    let words = ["lacks", "of the rights it needs", "get *, list *", command, "serviceaccount"];
    until_ready(early.listen, 503, &words, PATIENCE);
    // All but one.
    grant(&stage.sandbox, "nobody", "reprieve-operator");
    let words = ["lacks 1 of", "update leases.coordination.k8s.io/reprieve -n reprieve-system"];
    until_ready(early.listen, 503, &words, PATIENCE);
    assert!(early.process.is_running(), "expected no restart");
    stage.admin.kubectl("delete clusterrolebinding reprieve-operator-nobody").worked();
    early.process.kill().expect("it runs");

    // Credentials that the API server does not know.
    let operator = stage.sandbox.operator_kubeconfig();
    let text = std::fs::read_to_string(&operator).expect("a kubeconfig");
    let forged = stage.sandbox.dir().join("forged-kubeconfig");
    // A token is a JWT, and begins as one.
    let at = text.find("eyJ").expect("a token");
    let end = text[at..].find(|c: char| !(c.is_alphanumeric() || "._-".contains(c)));
    let token = &text[at..at + end.expect("more after the token")];
    std::fs::write(&forged, text.replace(token, "forged")).expect("a file");
    let early = start(stage, "forged", &forged);
    until_ready(early.listen, 503, &["does not know these credentials", "token"], PATIENCE);
}

pub fn crds_of_an_older_version_are_named(stage: &Stage) {
    let crd = "crd/restores.reprieve.dev";
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let change = |patch: serde_json::Value| {
        stage.admin.run(&["patch", crd, "--type=json", "-p", &patch.to_string()], "").worked();
    };
    change(json!([
        {"op": "remove", "path": format!("{properties}/status/properties/sites")},
        {"op": "remove", "path": format!("{properties}/spec/properties/parallelism")},
    ]));
    let early = start(stage, "older-crds", &stage.sandbox.operator_kubeconfig());
    let words = [
        "the CRD restores.reprieve.dev is of an older version",
        "field .spec.parallelism, field .status.sites",
        "kubectl apply --server-side -f crds/",
    ];
    until_ready(early.listen, 503, &words, PATIENCE);
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/restores.yaml");
    let args = ["apply", "--server-side", "--force-conflicts", "-f", &crds.display().to_string()];
    stage.admin.run(&args, "").worked();
    until_ready(early.listen, 200, &["ok"], PATIENCE);
    drop(early);
    // It was killed with the lease: nobody else need wait for it.
    stage.admin.kubectl("delete lease reprieve -n reprieve-system").worked();

    // A newer one has a field more: said in the log, and no obstacle.
    let more = format!("{properties}/spec/properties/colour");
    change(json!([{"op": "add", "path": more, "value": {"type": "string"}}]));
    let early = start(stage, "newer-crds", &stage.sandbox.operator_kubeconfig());
    until_ready(early.listen, 200, &["ok"], PATIENCE);
    let log = early.process.log_tail(20);
    assert!(log.contains("newer than this operator") && log.contains(".spec.colour"), "{log}");
    drop(early);
    change(json!([{"op": "remove", "path": more}]));
    stage.admin.kubectl("delete lease reprieve -n reprieve-system").worked();
}

/// A policy that was stored under another version of its CRD.
pub fn an_object_that_does_not_parse_stops_nobody(stage: &Stage, operator: &Operator) {
    let crd = "crd/deletionpolicies.reprieve.dev";
    let path =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/environment/enum";
    let remove = json!([{"op": "remove", "path": path}]).to_string();
    stage.admin.run(&["patch", crd, "--type=json", "-p", &remove], "").worked();
    let policy = |name: &str, environment: &str| {
        json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionPolicy",
            "metadata": {"name": name}, "spec": {"environment": environment},
        })
    };
    // The API server takes the change into force within a second or so.
    let begun = Instant::now();
    while !stage.admin.create(&policy("odd", "Staging")).ok {
        assert!(begun.elapsed() < PATIENCE, "expected the API server to take another value");
        std::thread::sleep(Duration::from_millis(200));
    }
    let begun = Instant::now();
    let name = r#"reprieve_unparsable_objects{room="policy"}"#;
    while metric(operator, name) != Some(1.0) {
        let text = http(operator.listen(), "/metrics");
        assert!(begun.elapsed() < PATIENCE, "expected {name} 1; seen: {text:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let events = "events --field-selector=involvedObject.name=odd";
    let told = stage.admin.until(events, "an event", |list| {
        list["items"].as_array().is_some_and(|items| !items.is_empty())
    });
    let event = &told["items"][0];
    assert_eq!((&event["reason"], &event["type"]), (&json!("Unparsable"), &json!("Warning")));
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.contains("cannot read this object") && message.contains("Staging"), "{event}");
    // The others go on.
    stage.admin.create(&policy("even", "Production")).worked();
    stage.admin.kubectl("wait --for=condition=Ready dpol even --timeout=30s").worked();

    stage.admin.kubectl("delete dpol odd even").worked();
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/deletionpolicies.yaml");
    let args = ["apply", "--server-side", "--force-conflicts", "-f", &crds.display().to_string()];
    stage.admin.run(&args, "").worked();
    let begun = Instant::now();
    while metric(operator, name) != Some(0.0) {
        assert!(begun.elapsed() < PATIENCE, "expected {name} 0 once it is gone");
        std::thread::sleep(Duration::from_millis(100));
    }
}
