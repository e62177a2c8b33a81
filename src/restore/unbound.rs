//! Claims that came back and get no disk: what each lacks, and what to do.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use serde_json::Value;

use super::object::Maker;
use super::plan::Plan;
use crate::cluster::form::ObjectKey;

/// At most this many claims of a site are looked at: one is enough to know what to do.
const MOST: usize = 10;

impl Maker<'_> {
    /// What the first claim lacks that is not bound, in words. What cannot be read says nothing: it
    /// only explains why something is waited for.
    pub async fn unbound_claim(&self, plan: &Plan) -> Option<String> {
        let claims = plan.items().filter(|(key, _)| key.is("", "PersistentVolumeClaim"));
        let claims: Vec<(ObjectKey, String)> = claims
            .take(MOST)
            .map(|(key, item)| (key.clone(), item.api_version.to_string()))
            .collect();
        for (key, api_version) in claims {
            let kind = self.kind(&api_version, &key).ok()?;
            let live = self.read(kind, &key).await.ok().flatten()?;
            let phase = live["status"]["phase"].as_str().unwrap_or("Pending");
            if phase != "Bound" {
                let namespace = key.namespace.as_deref().unwrap_or_default();
                let why = self.why_unbound(&live, namespace, &key.name).await;
                return Some(format!("claim {namespace}/{} is {phase}: {why}", key.name));
            }
        }
        None
    }

    async fn why_unbound(&self, claim: &Value, namespace: &str, name: &str) -> String {
        let spec = &claim["spec"];
        if let Some(volume) = spec["volumeName"].as_str().filter(|name| !name.is_empty()) {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let live = api.get_opt(volume).await.ok().flatten();
            let phase = live.and_then(|live| live.status?.phase);
            let phase = phase.unwrap_or_else(|| "not there".to_owned());
            return format!("its disk {volume} is {phase} (kubectl describe pv {volume})");
        }
        let make =
            format!("make a PersistentVolume with spec.claimRef {namespace}/{name} and that class");
        let Some(class) = spec["storageClassName"].as_str().filter(|class| !class.is_empty())
        else {
            return format!("it has no disk and no StorageClass that makes one: {make}");
        };
        let api: Api<StorageClass> = Api::all(self.client.clone());
        match api.get_opt(class).await {
            Ok(None) => format!(
                "it has no disk, and there is no StorageClass {class} to make one: create that class, or {make}"
            ),
            _ => format!(
                "it has no disk yet, of the StorageClass {class} (kubectl describe pvc {name} -n {namespace})"
            ),
        }
    }
}
