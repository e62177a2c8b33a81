//! Admission policies that the API server loads from its disk (manifest-based admission control,
//! on by default from 1.37): nobody sees or removes them through the API, `system:masters`
//! included.
//!
//! The API server wants validating and mutating policies in folders of their own and fails over
//! anything else in them. Whoever uses the sandbox names one folder with all of them; here they are
//! sorted into the two.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::certs::write_private;
use super::components::Layout;
use crate::guard::STATIC_SUFFIX;

/// How long the API server may take to load what was written: it watches the folder.
const PATIENCE: Duration = Duration::from_secs(90);
/// The plugins of the API server that load policies; the kinds of their objects begin with them.
const PLUGINS: [&str; 2] = ["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"];

/// Where one plugin's policies are.
fn file(layout: &Layout, plugin: &str) -> PathBuf {
    layout.admission().join(plugin).join("policies.json")
}

/// Writes the policies of the folder to where the API server looks for them, and the configuration
/// that says where that is. A folder without policies takes away what was there.
///
/// # Errors
/// A file cannot be read or is not YAML; an object is neither an admission policy nor a binding of
/// `admissionregistration.k8s.io/v1`; a name does not end with [`STATIC_SUFFIX`].
pub(super) fn write(layout: &Layout, folder: &Path) -> Result<()> {
    let objects = read(folder)?;
    let mut plugins = Vec::new();
    for plugin in PLUGINS {
        let mine: Vec<&Value> = objects.iter().filter(|object| belongs(object, plugin)).collect();
        let path = file(layout, plugin);
        let dir = path.parent().context("the file is in a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // Under another name first: the API server must never read half a list. It looks at
        // .yaml, .yml and .json alone.
        let partial = path.with_extension("partial");
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": mine });
        fs::write(&partial, serde_json::to_vec_pretty(&list)?)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        plugins.push(json!({
            "name": plugin,
            "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": format!("{plugin}Configuration"),
                "staticManifestsDir": dir,
            },
        }));
    }
    let configuration = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": plugins,
    });
    write_private(&layout.admission_configuration(), &configuration.to_string())
}

/// Waits until the API server says that it has loaded what was written last: its metrics tell the
/// digest of what it reads.
///
/// # Errors
/// It has not within 90 s: its log says why, a policy that does not compile for example. The former
/// policies are in force then.
pub(super) async fn wait_until_loaded(layout: &Layout, client: &kube::Client) -> Result<()> {
    let mut expected = Vec::new();
    for plugin in PLUGINS {
        let mut hash = Sha256::new();
        hash.update(fs::read(file(layout, plugin)).context("the policies were written")?);
        hash.update([0]);
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        expected.push(format!("hash=\"sha256:{hash}\",plugin=\"{plugin}\""));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = http::Request::get("/metrics").body(Vec::new()).expect("a plain request");
        let metrics = client.request_text(request).await.unwrap_or_default();
        if expected.iter().all(|labels| metrics.contains(labels)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "kube-apiserver has not loaded the admission policies of {} within {} s; {} says \
                 why",
                layout.admission().display(),
                PATIENCE.as_secs(),
                layout.logs().join("kube-apiserver.log").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The objects of the YAML and JSON files of a folder, lists taken apart.
fn read(folder: &Path) -> Result<Vec<Value>> {
    let context = || format!("cannot read {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["yaml", "yml", "json"].contains(&extension) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let whose = || format!("cannot load {}", path.display());
        let text = fs::read_to_string(&path).with_context(whose)?;
        for document in super::install::documents(&text).with_context(whose)? {
            let objects = match document["items"].as_array() {
                Some(items) if document["kind"] == "List" => items.clone(),
                _ => vec![document],
            };
            objects.iter().try_for_each(check).with_context(whose)?;
            all.extend(objects);
        }
    }
    Ok(all)
}

fn check(object: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    ensure!(
        object["apiVersion"] == "admissionregistration.k8s.io/v1"
            && PLUGINS.iter().any(|plugin| belongs(object, plugin)),
        "{kind} {name} is no admission policy or binding of admissionregistration.k8s.io/v1"
    );
    ensure!(
        name.ends_with(STATIC_SUFFIX),
        "the name of {kind} {name} must end with {STATIC_SUFFIX}"
    );
    Ok(())
}

/// Whether this is a policy or a binding of that plugin.
fn belongs(object: &Value, plugin: &str) -> bool {
    let kind = object["kind"].as_str().unwrap_or_default();
    kind.strip_prefix(plugin).is_some_and(|rest| rest.is_empty() || rest == "Binding")
}
