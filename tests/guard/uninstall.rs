//! docs/uninstall.md, done as it is written there.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reprieve::sandbox::{Operator, Sandbox};

use super::user::User;

/// The blocks of commands of the page, in order.
fn blocks() -> Vec<String> {
    let page = include_str!("../../docs/uninstall.md");
    let parts = page.split("```sh\n").skip(1);
    parts.map(|part| part.split("```").next().expect("an end").to_owned()).collect()
}

/// With one open request, `open`, and one Site, `acme`, whose namespace stays.
pub async fn as_documented(sandbox: &Sandbox, mut operator: Operator) {
    let admin = User::admin(sandbox);
    let uid = admin.get("namespace acme")["metadata"]["uid"].clone();
    for block in blocks() {
        run(sandbox, &block.replace("NAME", "open")).await;
        if block.contains("patch dreq") {
            admin.until_state("open", "Cancelled");
            operator.process_mut().terminate().expect("it runs");
            operator.process_mut().wait(Duration::from_secs(10)).await.expect("it ends");
        }
    }
    let left = admin.kubectl("get crd -o name");
    assert!(!left.worked().contains("reprieve.dev"), "left: {left:?}");
    admin.kubectl("get namespace reprieve-system").failed(&["(NotFound)"]);
    let namespace = admin.get("namespace acme");
    assert_eq!(namespace["metadata"]["uid"], uid, "the tenant's namespace stays");
    assert_eq!(namespace["metadata"]["labels"]["reprieve.dev/site"], "acme");
}

/// Runs a block as a person would: again after a second where a removed policy still refuses.
async fn run(sandbox: &Sandbox, block: &str) {
    let kubectl = sandbox.kubectl();
    let folder = kubectl.parent().expect("a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let begun = Instant::now();
    loop {
        let mut command = sandbox.command("bash", &sandbox.admin_kubeconfig());
        command.args(["-euc", block]).env("PATH", &path).stdin(Stdio::null());
        let output =
            command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).output().expect("bash runs");
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(begun.elapsed() < Duration::from_secs(20), "{block}\n{said}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
