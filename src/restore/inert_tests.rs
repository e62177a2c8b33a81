//! The table, kind by kind.

use super::*;

fn inert() -> Inert {
    let part = DrillPart { site: "acme".to_owned(), drill_uid: "d-1".to_owned() };
    let mut inert = Inert::new(&part, "r-1", "acme");
    let site = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "acme"}, "spec": {"namespaces": ["acme", "acme-jobs"]}});
    assert!(inert.turn(entry(&site, "Ready")).is_some(), "the archive is known by it");
    inert
}

fn entry(object: &Value, state: &str) -> RawEntry {
    let line = json!({
        "key": ObjectKey::of(object).unwrap(), "digest": object_digest(object),
        "state": state, "object": object,
    });
    serde_json::from_str(&line.to_string()).unwrap()
}

fn object(api_version: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "namespace": "acme"}, "spec": spec})
}

/// What is made of it.
fn made(inert: &mut Inert, object: &Value) -> Option<Value> {
    let turned = inert.turn(entry(object, "Ready"))?;
    assert_eq!(turned.digest, object_digest(&turned.object()), "it is known by what it is");
    assert_eq!(turned.key, ObjectKey::of(&turned.object()).unwrap());
    assert_eq!(turned.state, ObjectState::NotReady);
    Some(turned.object())
}

#[test]
fn nothing_that_could_act_is_made() {
    let rows = [
        ("v1", "Pod"),
        ("v1", "PersistentVolumeClaim"),
        ("apps/v1", "DaemonSet"),
        ("networking.k8s.io/v1", "Ingress"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("reprieve.dev/v1alpha1", "App"),
        ("example.com/v1", "Database"),
        ("argoproj.io/v1alpha1", "Rollout"),
        ("batch.volcano.sh/v1alpha1", "Job"),
        // Of a group of Kubernetes, and of a later version than this table.
        ("apps/v2", "Fleet"),
        ("resource.k8s.io/v1", "ResourceClaim"),
    ];
    for (api_version, kind) in rows {
        let mut inert = inert();
        assert_eq!(made(&mut inert, &object(api_version, kind, json!({}))), None, "{kind}");
        let told = inert.not_proved();
        assert_eq!((told.len(), told[0].objects), (1, 1), "{kind}: {told:?}");
        assert!(told[0].what.starts_with(kind), "{told:?}");
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "x"}});
    assert_eq!(made(&mut inert(), &role), None);
    let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "acme"}, "type": "kubernetes.io/service-account-token"});
    assert_eq!(made(&mut inert(), &token), None);
    let ended = object("batch/v1", "Job", json!({}));
    assert!(inert().turn(entry(&ended, "Finished")).is_none());
}

#[test]
fn nothing_runs_and_nothing_leads_in() {
    for (api_version, kind) in [
        ("v1", "ReplicationController"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "ReplicaSet"),
    ] {
        for spec in [json!({"replicas": 3}), json!({})] {
            let made = made(&mut inert(), &object(api_version, kind, spec)).unwrap();
            assert_eq!(made["spec"]["replicas"], 0, "{kind}");
        }
    }
    for kind in ["Job", "CronJob"] {
        for spec in [json!({"suspend": false}), json!({})] {
            let made = made(&mut inert(), &object("batch/v1", kind, spec)).unwrap();
            assert_eq!(made["spec"]["suspend"], true, "{kind}");
        }
    }
    let mut all = inert();
    let balancer = json!({
        "type": "LoadBalancer", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
        "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
        "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "x", "loadBalancerIP": "192.0.2.2",
        "loadBalancerSourceRanges": ["192.0.2.0/24"], "selector": {"app": "web"},
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let service = made(&mut all, &object("v1", "Service", balancer)).unwrap();
    let plain = json!({"type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"port": 80}]});
    assert_eq!(service["spec"], plain);
    assert_eq!(all.not_proved().len(), 1);
    for spec in [
        json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "db.example"}),
    ] {
        let same = made(&mut all, &object("v1", "Service", spec.clone())).unwrap();
        assert_eq!(same["spec"], spec);
    }
    assert_eq!(all.not_proved().len(), 1);
}

#[test]
fn it_is_made_elsewhere_and_nobody_acts_on_it() {
    let mut inert = inert();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "s", "namespace": "acme", "finalizers": ["example.com/keep"],
        "annotations": {"replicator.example/replicate-to": ".*"},
        "labels": {"reprieve.dev/app": "shop", "app": "shop"},
    }, "data": {"a": "Yg=="}});
    let scratch = inert.scratch("acme");
    let expected = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "s", "namespace": scratch, "labels": {"app": "shop"},
    }, "data": {"a": "Yg=="}});
    assert_eq!(made(&mut inert, &secret), Some(expected));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme",
        "labels": {"reprieve.dev/site": "acme", "team": "a"}, "annotations": {"x": "y"}}});
    let expected = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": scratch,
        "labels": {"reprieve.dev/drill": "d-1", "team": "a"},
        "annotations": {"reprieve.dev/drill-of": "acme/acme"}}});
    assert_eq!(made(&mut inert, &namespace), Some(expected));
    let told = inert.not_proved();
    assert!(told.iter().all(|n| n.why.contains("annotations")) && told.len() == 2, "{told:?}");
}

#[test]
fn scratch_namespaces_have_names_of_their_own() {
    let inert = inert();
    let long = "n".repeat(63);
    let names = [inert.scratch("acme"), inert.scratch("acme-jobs"), inert.scratch(&long)];
    assert!(names.iter().all(|n| n.len() <= 63 && n.starts_with("drill-")), "{names:?}");
    assert_eq!(names[0], inert.scratch("acme"), "the same in every pass");
    let part = DrillPart { site: "acme".to_owned(), drill_uid: "d-1".to_owned() };
    for (restore, job) in [("r-2", "acme"), ("r-1", "acme (b)")] {
        assert_ne!(Inert::new(&part, restore, job).scratch("acme"), names[0]);
    }
}

#[test]
fn owners_and_subjects_are_those_of_the_drill() {
    let mut inert = inert();
    let mut map = object("v1", "ConfigMap", json!({}));
    let owner = |api_version: &str, kind: &str, name: &str| json!({"apiVersion": api_version, "kind": kind, "name": name});
    map["metadata"]["ownerReferences"] = json!([
        owner("v1", "ConfigMap", "parent"),
        owner("v1", "Namespace", "acme-jobs"),
        owner("v1", "Namespace", "kube-system"),
        owner("v1", "Node", "node-0"),
        owner("example.com/v1", "Database", "db"),
        owner("reprieve.dev/v1alpha1", "Site", "acme"),
    ]);
    let made_of = made(&mut inert, &map).unwrap();
    let inside = json!([
        owner("v1", "ConfigMap", "parent"),
        owner("v1", "Namespace", &inert.scratch("acme-jobs"))
    ]);
    assert_eq!(made_of["metadata"]["ownerReferences"], inside);
    assert!(inert.not_proved().iter().any(|n| n.why == OWNERS));
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
    "metadata": {"name": "b", "namespace": "acme"}, "subjects": [
        {"kind": "ServiceAccount", "name": "a", "namespace": "acme"},
        {"kind": "ServiceAccount", "name": "a", "namespace": "acme-jobs"},
        {"kind": "ServiceAccount", "name": "a", "namespace": "kube-system"},
        {"kind": "User", "name": "alice"},
    ]});
    let subjects = made(&mut inert, &binding).unwrap()["subjects"].clone();
    let namespaces: Vec<&Value> =
        subjects.as_array().unwrap().iter().map(|s| &s["namespace"]).collect();
    let (own, other) = (json!(inert.scratch("acme")), json!(inert.scratch("acme-jobs")));
    assert_eq!(namespaces, [&own, &other, &json!("kube-system"), &Value::Null]);
}

#[test]
fn only_hooks_that_say_that_they_are_safe_are_run() {
    let hook = |name: &str, safe: Value| json!({"name": name, "template": {"spec": {}}, "safeInDrills": safe});
    let hooks = json!({
        "beforeBackup": [hook("dump", json!(true))],
        "afterRestore": [hook("safe", json!(true)), hook("unsafe", json!(false)), {"name": "unsaid", "template": {"spec": {}}}, hook("broken", json!("yes"))],
    });
    let site = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": "acme"}, "spec": {"namespaces": ["acme-jobs", "acme"], "hooks": hooks}});
    let part = DrillPart { site: "acme".to_owned(), drill_uid: "d-1".to_owned() };
    let mut inert = Inert::new(&part, "r-1", "acme");
    assert_eq!(inert.hooks(), None);
    inert.turn(entry(&site, "Ready"));
    let wanted = inert.hooks().unwrap();
    // In the first namespace, as in the site.
    assert_eq!(wanted.namespace, inert.scratch("acme-jobs"));
    assert_eq!(wanted.hooks.iter().map(|hook| &*hook.name).collect::<Vec<_>>(), ["safe"]);
    let told: Vec<(String, String)> =
        inert.not_proved().into_iter().map(|one| (one.what, one.why)).collect();
    let line = |name: &str, why: &str| (format!("afterRestore hook {name}"), why.to_owned());
    assert_eq!(told, [line("broken", NO_HOOK), line("unsafe", HOOK), line("unsaid", HOOK)]);
}
