//! Claims that came back and get no disk: what each lacks, and what to do.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::ListParams;

use super::object::Maker;
use super::plan::Plan;
use crate::cluster::collect::ObjectState;

impl Maker<'_> {
    /// What the first claim lacks that is not bound, by namespace and name, in words: the same one
    /// until it is bound, so that what is said does not jump about. What cannot be read says
    /// nothing: it only explains why something is waited for.
    pub async fn unbound_claim(&self, plan: &Plan) -> Option<String> {
        let mut of_plan: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        // One that had no disk in the backup is waited for by nobody.
        let claims = plan.items().filter(|(key, item)| {
            key.is("", "PersistentVolumeClaim") && item.state == ObjectState::Ready
        });
        for (key, _) in claims {
            let namespace = key.namespace.as_deref().unwrap_or_default();
            of_plan.entry(namespace).or_default().insert(&key.name);
        }
        for (namespace, names) in of_plan {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
            let live = api.list(&ListParams::default()).await.ok()?.items.into_iter();
            let named = live.filter_map(|claim| Some((claim.metadata.name.clone()?, claim)));
            let live: BTreeMap<String, PersistentVolumeClaim> = named.collect();
            for name in names {
                let Some(claim) = live.get(name) else { continue };
                let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                let phase = phase.unwrap_or("Pending");
                if phase != "Bound" {
                    let why = self.why_unbound(claim, namespace, name).await;
                    return Some(format!("claim {namespace}/{name} is {phase}: {why}"));
                }
            }
        }
        None
    }

    async fn why_unbound(
        &self,
        claim: &PersistentVolumeClaim,
        namespace: &str,
        name: &str,
    ) -> String {
        let spec = claim.spec.as_ref();
        let volume = spec.and_then(|spec| spec.volume_name.as_deref());
        if let Some(volume) = volume.filter(|name| !name.is_empty()) {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let live = api.get_opt(volume).await.ok().flatten();
            let phase = live.and_then(|live| live.status?.phase);
            let phase = phase.unwrap_or_else(|| "not there".to_owned());
            return format!("its disk {volume} is {phase} (kubectl describe pv {volume})");
        }
        let make =
            format!("make a PersistentVolume with spec.claimRef {namespace}/{name} and that class");
        let class = spec.and_then(|spec| spec.storage_class_name.as_deref());
        let Some(class) = class.filter(|class| !class.is_empty()) else {
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
