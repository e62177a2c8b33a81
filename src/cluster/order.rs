//! In which order the objects of a site come back. Archives are written in it as well. Pure.

use super::form::ObjectKey;
use crate::api::names;

/// Place of an object in the order of a restore.
pub fn rank(key: &ObjectKey) -> u8 {
    match (key.group.as_str(), key.kind.as_str()) {
        (names::GROUP, "Site") => 0,
        ("", "Namespace") => 1,
        ("", "ServiceAccount") => 2,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => 3,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => 4,
        ("", "ConfigMap" | "Secret") => 5,
        ("", "PersistentVolumeClaim") => 6,
        ("", "Service") => 7,
        // What begins to run needs everything above, custom resources included.
        ("apps" | "batch", _) | ("", "Pod" | "ReplicationController") => 9,
        // Limits would refuse, or change, what is restored before them.
        ("", "ResourceQuota" | "LimitRange") => 10,
        // Last, so that an App finds its objects.
        (names::GROUP, "App") => 11,
        // Classes and the like, which claims and workloads name.
        _ if key.namespace.is_none() => 5,
        _ => 8,
    }
}

/// What is restored at the same time: the places of one stage do not need each other. It grows with
/// the place, so that a stream in the order of the places is one in the order of the stages.
pub fn stage(rank: u8) -> u8 {
    match rank {
        // A binding asks for the role that it binds, and a token for its account.
        2 | 3 => 2,
        4..=7 => 4,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let order = [
            "Namespace/a",
            "ServiceAccount/a/x",
            "Role.rbac.authorization.k8s.io/a/x",
            "ClusterRoleBinding.rbac.authorization.k8s.io/x",
            "StorageClass.storage.k8s.io/x",
            "PersistentVolumeClaim/a/x",
            "Service/a/x",
            "Database.example.com/a/x",
            "Deployment.apps/a/x",
            "ResourceQuota/a/x",
            "App.reprieve.dev/a/x",
        ];
        let ranks: Vec<u8> =
            order.iter().map(|text| rank(&text.parse::<ObjectKey>().unwrap())).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        let stages: Vec<u8> = ranks.into_iter().map(stage).collect();
        assert_eq!(stages, [1, 2, 2, 4, 4, 4, 4, 8, 9, 10, 11]);
    }
}
