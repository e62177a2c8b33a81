//! Disks, on a real cluster with the real volume binder: a fleet whose disks were made by hand goes
//! through hold, purge and restore, and is drilled; what is wrong with a claim is told; and a kept
//! disk gets its former reclaim policy back when its backups have expired. The oracle is what lives
//! and the API server's audit log.

mod bad;
mod expiry;
mod fleet;

use std::time::{Duration, Instant};

use crate::people::People;
use crate::user::sample;
use serde_json::{Value, json};

const SITE: &str = include_str!("../../../deploy/samples/site.yaml");
/// How many sites the fleet of the normal suite has. `hold` has every combination of policies in one
/// site, and so has the large fleet.
const FEW: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn disks_stay_are_told_of_and_go_only_when_announced() {
    let Some(stage) = People::start().await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    fleet::there_and_back(&stage, FEW, 1, 2).await;
    step("a fleet there and back, and a drill");
    bad::told(&stage);
    step("claims without their disks");
    expiry::announced_then_done(&stage).await;
    step("kept disks of a site whose backups expired");
    assert!(crate::audit::expect_invariants(&stage.sandbox) > 0, "something was purged");
    stage.sandbox.stop().expect("nothing is left");
}

/// A large fleet: `cargo test --test e2e fifty -- --ignored --nocapture`. Its purge waits most of the
/// time for namespaces: five requests of ten, one site in each wave.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn fifty_sites_with_disks_there_and_back_and_a_drill_of_ten() {
    let Some(stage) = People::start().await else { return };
    fleet::there_and_back(&stage, 50, 10, 10).await;
    assert_eq!(crate::audit::expect_invariants(&stage.sandbox), 50);
    stage.sandbox.stop().expect("nothing is left");
}

/// A volume that was made by hand for this claim, of this class and reclaim policy.
fn volume(name: &str, claim: (&str, &str), class: &str, reclaim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": reclaim, "storageClassName": class,
            "hostPath": {"path": format!("/tmp/reprieve-no-such-disk-{name}")},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.0, "name": claim.1},
        },
    })
}

fn claim_spec(class: &str) -> Value {
    json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": "1Gi"}},
    })
}

fn claim(namespace: &str, name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace}, "spec": claim_spec(class),
    })
}

impl People {
    /// Makes these sites, by name and number, and waits until they are ready.
    fn make_sites(&self, sites: &[(String, u32)]) {
        let all: Vec<String> = sites.iter().map(|(name, n)| sample(SITE, name, *n)).collect();
        self.admin.apply(&all.join("\n---\n")).worked();
        self.admin.kubectl("wait --for=condition=Ready site --all --timeout=120s").worked();
    }

    fn make(&self, items: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.admin.with_input("create --validate=false -f -", &list.to_string()).worked();
    }

    /// Asks again and again, longer than a step takes otherwise.
    fn wait_long(&self, what: &str, expected: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let live = self.admin.get(what);
            if holds(&live) {
                return live;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(400),
                "{what}: expected {expected}; seen: {}",
                live.to_string().chars().take(3000).collect::<String>()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn uid(&self, what: &str) -> Value {
        self.admin.get(what)["metadata"]["uid"].clone()
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}
