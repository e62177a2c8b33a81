//! Backups that are to be drilled, by a label on them: those that a deletion depends on, where its
//! policy asks for it, and whichever people label. Each gets a RestoreDrill of its own, once it is
//! verified. Its owner is the Backup, so that it goes when that does.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use crate::api::{
    Backup, ConditionType, Conditions, DrillSample, ObjectRef, RestoreDrill, RestoreDrillSpec,
    names,
};
use crate::cluster::{Context, Shutdown, create_if_absent, drive};

/// How long such a drill may take, in seconds.
const TIMEOUT_SECONDS: i64 = 3600;
/// The limit of one look at a Backup.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Makes RestoreDrills for the Backups that ask for one, until shutdown.
pub async fn run(ctx: Context, down: Shutdown) {
    let backups: Api<DeserializeGuard<Backup>> = Api::all(ctx.client.clone());
    let asked = watcher::Config::default().labels(&format!("{}=true", names::LABEL_DRILL_ASKED));
    let controller = Controller::new(backups, asked);
    let drills: Api<RestoreDrill> = Api::all(ctx.client.clone());
    drive("drill-asked", controller, ctx, TIMEOUT, down, move |backup| {
        let drills = drills.clone();
        async move {
            if let Some(drill) = drill(&backup) {
                create_if_absent(&drills, &drill).await?;
            }
            Ok(Action::await_change())
        }
    })
    .await;
}

/// The drill of a Backup. None: it is not verified yet, or was drilled, whatever came of it.
fn drill(backup: &Backup) -> Option<RestoreDrill> {
    let conditions = &backup.status.as_ref()?.conditions;
    if !backup.is_verified() || conditions.get(ConditionType::Drilled).is_some() {
        return None;
    }
    let name = backup.name_any();
    let owner = OwnerReference {
        api_version: Backup::api_version(&()).into_owned(),
        kind: Backup::kind(&()).into_owned(),
        name: name.clone(),
        uid: backup.uid()?,
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(RestoreDrill::name_of_backup(&name)),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let spec = RestoreDrillSpec {
        schedule: None,
        time_zone: None,
        suspend: false,
        sample: DrillSample {
            backup_refs: Some(vec![ObjectRef { name }]),
            ..DrillSample::default()
        },
        timeout_seconds: TIMEOUT_SECONDS,
    };
    Some(RestoreDrill { metadata, spec, status: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn backup(conditions: Value) -> Backup {
        serde_json::from_value(json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "acme-1", "uid": "b"},
            "spec": {"siteRef": {"name": "acme"}}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn each_is_drilled_once_when_it_is_verified() {
        let is = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "X", "lastTransitionTime": "2026-12-01T00:00:00Z"});
        assert_eq!(drill(&backup(json!([]))), None);
        assert_eq!(drill(&backup(json!([is("Verified", "False")]))), None);
        let made = drill(&backup(json!([is("Verified", "True")]))).unwrap();
        assert_eq!(made.name_any(), "of-acme-1");
        assert_eq!(json!(made.spec.sample.backup_refs), json!([{"name": "acme-1"}]));
        assert_eq!(made.owner_references()[0].uid, "b");
        for status in ["True", "False"] {
            let done = backup(json!([is("Verified", "True"), is("Drilled", status)]));
            assert_eq!(drill(&done), None);
        }
    }
}
