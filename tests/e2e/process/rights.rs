//! The rights of the operator's account: enough, and no more.

use std::collections::BTreeSet;

use reprieve::guard::{Need, operator_needs};
use serde_json::{Value, json};

use super::{Stage, audit};
use crate::user::{User, request};

/// A Backup too many, a purge and a restore; everything else has been done by the steps before.
pub fn everything_once(stage: &Stage) {
    for n in 1..=4 {
        let backup = json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": format!("trim-{n}")},
            "spec": {"siteRef": {"name": "acme"}},
        });
        stage.admin.create(&backup).worked();
        let wait = format!("wait --for=condition=Verified bkp/trim-{n} --timeout=60s");
        stage.admin.kubectl(&wait).worked();
    }
    stage.admin.kubectl("wait --for=delete bkp/trim-1 --timeout=60s").worked();
    stage.alice.create(&request("gone", "Site", &["site-1".to_owned()])).worked();
    stage.alice.until_state("gone", "AwaitingApproval");
    stage.approve("gone");
    stage.alice.until_state("gone", "Completed");
    let restore = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "back"},
        "spec": {"source": {"deletionRequestRef": {"name": "gone"}}},
    });
    stage.admin.create(&restore).worked();
    stage.admin.kubectl("wait --for=condition=Succeeded restore/back --timeout=60s").worked();
    stage.admin.kubectl("wait --for=condition=Ready site acme --timeout=60s").worked();
}

/// T10: with the operator's own token.
pub fn what_is_not_in_the_list_is_refused(stage: &Stage) {
    let operator = User::new(&stage.sandbox, stage.sandbox.operator_kubeconfig());
    let pod = stage.admin.get("pod -n acme");
    let pod = pod["items"][0]["metadata"]["name"].as_str().expect("a pod").to_owned();
    let mut passed = vec![];
    for args in [
        format!("delete pod {pod} -n acme"),
        "delete pods none -n acme".to_owned(),
        "delete secret none -n acme".to_owned(),
        "delete configmap kube-root-ca.crt -n acme".to_owned(),
        "delete pvc none -n acme".to_owned(),
        "delete deployment none -n acme".to_owned(),
        "delete serviceaccount reprieve-app -n acme".to_owned(),
        "delete pv none".to_owned(),
        "delete crd sites.reprieve.dev".to_owned(),
        "delete clusterrole reprieve-operator".to_owned(),
        "delete clusterrolebinding reprieve-operator".to_owned(),
        "delete validatingadmissionpolicy reprieve-delete-entities".to_owned(),
        "delete validatingadmissionpolicybinding reprieve-delete-entities".to_owned(),
        "delete node none".to_owned(),
        "delete lease reprieve -n reprieve-system".to_owned(),
        "delete dreq none".to_owned(),
        "delete dpol default".to_owned(),
        "delete restore none".to_owned(),
        "delete namespace kube-system --dry-run=server".to_owned(),
        "delete site acme".to_owned(),
        "delete namespace acme".to_owned(),
        // What RBAC cannot leave out of the right to create every kind: the guard does.
        format!("exec {pod} -n acme -- true"),
        format!("attach {pod} -n acme"),
        "create token reprieve-app -n acme".to_owned(),
        "create token default -n kube-system".to_owned(),
        format!("get --raw /api/v1/namespaces/acme/pods/{pod}/proxy/"),
        "get --raw /api/v1/nodes/node-0/proxy/pods".to_owned(),
        "get pods --as=system:admin".to_owned(),
        "get pods --as=alice".to_owned(),
        "get pods --as=x --as-group=system:masters".to_owned(),
    ] {
        let said = operator.kubectl(&args);
        let refused = !said.ok && (said.err.contains("orbidden") || said.err.contains("cannot"));
        if !refused {
            passed.push(format!("{args}: {}{}", said.out, said.err));
        }
    }
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "acme"},
    });
    let path = format!("create --raw /api/v1/namespaces/acme/pods/{pod}/eviction -f -");
    operator.with_input(&path, &eviction.to_string()).denied(&["reprieve-operator-limits"]);
    // PUT, which kubectl replace sends: whatever is written is a create or a patch.
    for what in ["configmap kube-root-ca.crt -n acme", "site acme", "deployment --all -n acme"] {
        let live = stage.admin.kubectl(&format!("get {what} -o json").replace("--all", ""));
        let said = operator.with_input("replace -f -", &live.out);
        if !(said.err.contains("orbidden") && said.err.contains("update")) {
            passed.push(format!("replace {what}: {}{}", said.out, said.err));
        }
    }
    assert_eq!(passed, [""; 0], "expected 403");
}

/// What of the list cannot be seen in an audit log, and why it is needed all the same.
const UNSEEN: [(&str, &str, &str); 3] = [
    // Asked by the API server while it admits a Role or RoleBinding; the restore has made both.
    ("bind", "clusterroles", "create rolebindings"),
    ("bind", "roles", "create rolebindings"),
    ("escalate", "roles", "create roles"),
];

/// Compares the list with what the audit log has seen used.
pub fn every_right_was_used(stage: &Stage) {
    let events = audit(&stage.sandbox);
    let mut used = BTreeSet::new();
    let mut denied = vec![];
    for event in &events {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        if event["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl")) {
            continue;
        }
        if event["impersonatedUser"].is_object() {
            used.insert((String::new(), "serviceaccounts".to_owned(), "impersonate".to_owned()));
            continue;
        }
        let key = (word(&object["apiGroup"]), word(&object["resource"]), word(&event["verb"]));
        // Probes of the guard are dry runs that must bounce.
        let dry = event["requestURI"].as_str().is_some_and(|uri| uri.contains("dryRun=All"))
            || event["requestObject"]["dryRun"].is_array();
        if dry {
            continue;
        }
        if event["responseStatus"]["code"] == 403 {
            denied.push(format!("{} {}", event["verb"], event["requestURI"]));
        }
        used.insert(key);
    }
    assert_eq!(denied, [""; 0], "the operator was refused what it tried");
    let seen = |verb: &str, resource: &str| used.iter().any(|(_, r, v)| r == resource && v == verb);
    let mut unused = vec![];
    for Need { group, resource, verb, .. } in operator_needs() {
        let by_itself = used.iter().any(|(g, r, v)| {
            (group == "*" || g == group) && (resource == "*" || r == resource) && v == verb
        });
        let implied = UNSEEN.iter().find(|(v, r, _)| *v == verb && *r == resource);
        let implied = implied.is_some_and(|(_, _, by)| {
            let (verb, resource) = by.split_once(' ').expect("a verb and a resource");
            seen(verb, resource)
        });
        if !(by_itself || implied) {
            unused.push(format!("{verb} {resource} in group {group:?}"));
        }
    }
    assert_eq!(unused, [""; 0], "rights that nothing has used: take them away, or say why not");
    eprintln!("every right was used, {} kinds of requests, none refused", used.len());
}
