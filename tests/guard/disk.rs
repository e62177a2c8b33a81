//! The guard from the API server's disk: `system:masters` cannot take it away.

use std::fs;
use std::path::Path;

use kube::api::{Api, DeleteParams};
use reprieve::api::Site;
use reprieve::guard::{self, policy};
use reprieve::sandbox::{Options, Sandbox};

use super::{Cluster, REPRIEVE, denied, guard_api};

/// The table, T7 and T8 without any API object of the guard.
#[tokio::test(flavor = "multi_thread")]
async fn the_guard_holds_from_the_api_servers_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["validating", "mutating"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/admission/static").join(part);
        for file in fs::read_dir(from).expect("a folder") {
            let file = file.expect("a file");
            fs::copy(file.path(), folder.path().join(file.file_name())).expect("a copy");
        }
    }
    let mut options = Options::new(REPRIEVE);
    options.static_manifests = Some(folder.path().to_owned());
    let Some(sandbox) = Sandbox::for_test_with(options).await else { return };
    super::user::User::admin(&sandbox).apply(super::fixtures::CONTENTS_CRD).worked();
    sandbox.install().await.expect("it can be installed under the guard");
    let mut c = Cluster::of(sandbox).await.expect("everybody");

    // Both are in force, and the API server names the one on its disk.
    super::entities::site(&c, "both").await;
    let sites: Api<Site> = Api::all(c.admin.clone());
    let message =
        denied(policy::DELETE_ENTITIES, sites.delete("both", &DeleteParams::default()).await);
    assert!(message.contains("'reprieve-delete-entities.static.k8s.io'"), "{message}");
    super::live_objects_are_equal_and_clean(&c).await;

    // What is on disk is not in the API, and cannot be taken away through it.
    for object in guard::objects() {
        let api = guard_api(&c, object.kind);
        let on_disk = format!("{}{}", object.name, guard::STATIC_SUFFIX);
        let answer = api.delete(&on_disk, &DeleteParams::default()).await;
        assert!(matches!(answer, Err(kube::Error::Api(s)) if s.code == 404), "{on_disk}");
        api.delete(&object.name, &DeleteParams::default()).await.expect("an administrator may");
    }
    // So that what is tried below is not refused by policies that are still remembered.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let table = super::rows::all(&c).await;
    println!("From the API server's disk alone:\n\n{table}");
    super::restart::delete_across_a_restart(&mut c).await;
    c.sandbox.stop().expect("an end");
}
