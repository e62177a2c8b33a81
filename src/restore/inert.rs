//! What a drill makes of an archive, so that it has no effect outside of its scratch namespaces. Pure.
//!
//! | object | in a drill |
//! |---|---|
//! | every object | in a scratch namespace; without annotations and finalizers, by which other controllers act; without our labels; owned by objects of the drill alone |
//! | Deployment, StatefulSet, ReplicaSet, ReplicationController | no replicas |
//! | Job, CronJob | suspended; Jobs that had ended are left out |
//! | Service | a ClusterIP, without addresses and ports of nodes |
//! | RoleBinding | subjects of the site's own namespaces are those of the scratch namespaces |
//! | `afterRestore` hooks | run where they say that they are safe in drills |
//! | everything that is not named here, all that is cluster-scoped | left out |
//!
//! What is left out or changed is counted, and told as not proved.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::hooks::DrillHooks;
use super::part::DrillPart;
use crate::api::{AfterRestoreHook, NotProved, names};
use crate::cluster::collect::ObjectState;
use crate::cluster::form::{ObjectKey, archived_form, digest_of, group_of, object_digest};
use crate::store::RawEntry;

/// The longest part of a site's namespace that the name of its scratch namespace repeats.
const LONGEST: usize = 44;

const NO_PODS: &str = "made with no replicas: that its Pods start was not tried";
const ANNOTATIONS: &str = "made without annotations, by which other controllers act";
const HOOK: &str = "not run: it does not say that it is safe in drills";
const NO_HOOK: &str = "not run: it cannot be read";
const OWNERS: &str = "made without the owners that are not in the drill";

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// It is made as it is.
    Keep,
    /// It is made without replicas.
    NoReplicas,
    /// It is made suspended.
    Suspend,
    /// It is made as a ClusterIP.
    Service,
    /// It is made for the accounts of the scratch namespaces.
    Binding,
    /// It is left out, for this reason.
    LeaveOut(&'static str),
}

/// The table. What is not in it is left out: a kind that is new or custom may act on the world.
fn rule(key: &ObjectKey) -> Rule {
    use Rule::{Binding, Keep, LeaveOut, NoReplicas, Service, Suspend};
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "Namespace") => Keep,
        _ if key.namespace.is_none() => LeaveOut("nothing cluster-scoped is made in a drill"),
        (
            "",
            "ConfigMap" | "Secret" | "ServiceAccount" | "ResourceQuota" | "LimitRange"
            | "Endpoints" | "PodTemplate",
        )
        | ("apps", "ControllerRevision")
        | ("autoscaling", "HorizontalPodAutoscaler")
        | ("discovery.k8s.io", "EndpointSlice")
        | ("networking.k8s.io", "NetworkPolicy")
        | ("policy", "PodDisruptionBudget")
        | ("rbac.authorization.k8s.io", "Role") => Keep,
        ("rbac.authorization.k8s.io", "RoleBinding") => Binding,
        ("", "ReplicationController") | ("apps", "Deployment" | "StatefulSet" | "ReplicaSet") => {
            NoReplicas
        }
        ("batch", "Job" | "CronJob") => Suspend,
        ("", "Service") => Service,
        ("", "Pod") => LeaveOut("it would run"),
        ("apps", "DaemonSet") => LeaveOut("it would run on every node, whatever its replicas"),
        ("", "PersistentVolumeClaim") => {
            LeaveOut("it would take or make a disk; what is on disks is not in backups")
        }
        ("networking.k8s.io", "Ingress")
        | ("gateway.networking.k8s.io" | "route.openshift.io", _) => {
            LeaveOut("it would take the site's traffic")
        }
        (names::GROUP, "App") => {
            LeaveOut("the App's objects are made, and not the App, which would apply them again")
        }
        _ => LeaveOut("a controller outside of the drill might act on it"),
    }
}

/// What makes the objects of one archive inert.
#[derive(Clone, Debug)]
pub struct Inert {
    drill_uid: String,
    /// What the names of the scratch namespaces depend on.
    seed: String,
    site: String,
    /// The namespaces of the site.
    namespaces: BTreeSet<String>,
    not_proved: BTreeMap<(String, &'static str), i64>,
    /// The hooks that are run, once the Site was read.
    hooks: Option<DrillHooks>,
}

impl Inert {
    /// For a job of this name of the Restore with this UID.
    pub fn new(part: &DrillPart, restore_uid: &str, job: &str) -> Self {
        Self {
            drill_uid: part.drill_uid.clone(),
            seed: format!("{restore_uid}/{job}"),
            site: part.site.clone(),
            namespaces: BTreeSet::new(),
            not_proved: BTreeMap::new(),
            hooks: None,
        }
    }

    /// What was left out or changed so far, and why.
    pub fn not_proved(&self) -> Vec<NotProved> {
        let all = self.not_proved.iter();
        all.map(|((what, why), objects)| NotProved {
            what: what.clone(),
            objects: *objects,
            why: (*why).to_owned(),
        })
        .collect()
    }

    /// The scratch namespace of a namespace of the site: the same in every pass and after a crash,
    /// and another one in every other restore.
    pub fn scratch(&self, namespace: &str) -> String {
        let digest = digest_of(format!("{}/{namespace}", self.seed).as_bytes());
        let word = digest.get(7..17).unwrap_or_default();
        let readable: String = namespace.chars().take(LONGEST).collect();
        format!("drill-{word}-{}", readable.trim_end_matches('-'))
    }

    /// An entry of the archive as the drill takes it. None: it is left out. The Site goes through as
    /// it is: the archive is known by it, and it is never made.
    pub fn turn(&mut self, entry: RawEntry) -> Option<RawEntry> {
        if entry.key.is(names::GROUP, "Site") {
            let site = entry.object();
            let listed = site["spec"]["namespaces"].as_array().into_iter().flatten();
            self.namespaces.extend(listed.filter_map(Value::as_str).map(str::to_owned));
            self.namespaces.insert(entry.key.name.clone());
            self.take_hooks(&entry.key.name, &site);
            return Some(entry);
        }
        let rule = match rule(&entry.key) {
            _ if entry.state == ObjectState::Finished => {
                Rule::LeaveOut("it had run to its end, and no restore runs it again")
            }
            rule => rule,
        };
        if let Rule::LeaveOut(why) = rule {
            self.count(&entry.key, why);
            return None;
        }
        let mut object = entry.object();
        if object["type"] == "kubernetes.io/service-account-token" {
            self.count(&entry.key, "it would be a token for the cluster");
            return None;
        }
        self.clean(&entry.key, &mut object);
        self.apply(rule, &entry.key, &mut object);
        let object = archived_form(object);
        let object_text = serde_json::value::to_raw_value(&object).ok()?;
        Some(RawEntry {
            key: ObjectKey::of(&object)?,
            digest: object_digest(&object),
            // Without Pods nothing becomes ready as it was.
            state: ObjectState::NotReady,
            owners: entry.owners,
            object: object_text,
        })
    }

    /// The hooks that are run, and where. None: the Site has not been read yet.
    pub fn hooks(&self) -> Option<DrillHooks> {
        self.hooks.clone()
    }

    /// Takes those hooks of the Site that are safe in drills, and counts the others.
    fn take_hooks(&mut self, name: &str, site: &Value) {
        let first = site["spec"]["namespaces"][0].as_str().unwrap_or(name);
        let mut wanted = DrillHooks { namespace: self.scratch(first), hooks: vec![] };
        let all = site["spec"]["hooks"]["afterRestore"].as_array().cloned().unwrap_or_default();
        for hook in all {
            let name = hook["name"].as_str().unwrap_or_default().to_owned();
            let why = match serde_json::from_value::<AfterRestoreHook>(hook) {
                Ok(hook) if hook.safe_in_drills => {
                    wanted.hooks.push(hook.hook);
                    continue;
                }
                Ok(_) => HOOK,
                Err(_) => NO_HOOK,
            };
            *self.not_proved.entry((format!("afterRestore hook {name}"), why)).or_default() += 1;
        }
        self.hooks = Some(wanted);
    }

    fn count(&mut self, key: &ObjectKey, why: &'static str) {
        let kind = match key.group.as_str() {
            "" => key.kind.clone(),
            group => format!("{}.{group}", key.kind),
        };
        *self.not_proved.entry((kind, why)).or_default() += 1;
    }

    /// Whether a namespace is the site's; `own` is the one of the object that names it.
    fn is_of_site(&self, namespace: &str, own: Option<&str>) -> bool {
        own == Some(namespace) || self.namespaces.contains(namespace)
    }

    /// What every object of a drill loses, and where it goes.
    fn clean(&mut self, key: &ObjectKey, object: &mut Value) {
        let own = key.namespace.clone();
        let metadata = &mut object["metadata"];
        if metadata["annotations"].as_object().is_some_and(|all| !all.is_empty()) {
            self.count(key, ANNOTATIONS);
        }
        if let Some(owners) = metadata["ownerReferences"].as_array().cloned() {
            let inside: Vec<Value> =
                owners.iter().filter_map(|owner| self.owner(owner, own.as_deref())).collect();
            if inside.len() < owners.len() {
                self.count(key, OWNERS);
            }
            metadata["ownerReferences"] = json!(inside);
        }
        let Some(fields) = metadata.as_object_mut() else { return };
        for field in ["annotations", "finalizers", "generateName"] {
            fields.remove(field);
        }
        let ours = format!("{}/", names::GROUP);
        if let Some(labels) = fields.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|label, _| !label.starts_with(&ours));
        }
        match own {
            Some(namespace) => {
                let scratch = self.scratch(&namespace);
                fields.insert("namespace".to_owned(), json!(scratch));
            }
            None => {
                let scratch = self.scratch(&key.name);
                fields.insert("name".to_owned(), json!(scratch));
                metadata["labels"][names::LABEL_DRILL] = json!(self.drill_uid);
                metadata["annotations"][names::ANNOTATION_DRILL_OF] =
                    json!(format!("{}/{}", self.site, key.name));
            }
        }
    }

    /// An owner as it is in the drill. None: it is not in it. Of what is of a kind that a drill
    /// makes and not in the archive, the restore drops the reference, as ever.
    fn owner(&self, owner: &Value, own: Option<&str>) -> Option<Value> {
        let name = owner["name"].as_str()?;
        let key = |namespace: Option<&str>| ObjectKey {
            group: group_of(owner).to_owned(),
            kind: owner["kind"].as_str().unwrap_or_default().to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        if key(None).is("", "Namespace") {
            let mut owner = owner.clone();
            owner["name"] = json!(self.scratch(name));
            return self.is_of_site(name, own).then_some(owner);
        }
        let made = !matches!(rule(&key(own)), Rule::LeaveOut(_));
        made.then(|| owner.clone())
    }

    fn apply(&mut self, rule: Rule, key: &ObjectKey, object: &mut Value) {
        match rule {
            Rule::Keep | Rule::LeaveOut(_) => {}
            Rule::NoReplicas => {
                self.count(key, NO_PODS);
                object["spec"]["replicas"] = json!(0);
            }
            Rule::Suspend => {
                self.count(key, "made suspended: that it runs was not tried");
                object["spec"]["suspend"] = json!(true);
            }
            Rule::Service => self.service(key, object),
            Rule::Binding => {
                let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
                for subject in subjects.into_iter().flatten() {
                    let Some(namespace) = subject["namespace"].as_str() else { continue };
                    if self.is_of_site(namespace, key.namespace.as_deref()) {
                        subject["namespace"] = json!(self.scratch(namespace));
                    }
                }
            }
        }
    }

    fn service(&mut self, key: &ObjectKey, object: &mut Value) {
        // A name for something elsewhere has no address of its own.
        let Some(spec) = object["spec"].as_object_mut() else { return };
        if spec.get("type").is_some_and(|type_| type_ == "ExternalName") {
            return;
        }
        let outside = spec.get("type").is_some_and(|t| t == "LoadBalancer" || t == "NodePort")
            || spec.contains_key("externalIPs");
        spec.insert("type".to_owned(), json!("ClusterIP"));
        for field in [
            "allocateLoadBalancerNodePorts",
            "externalIPs",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
        ] {
            spec.remove(field);
        }
        // A headless one has no address, and says so.
        if spec.get("clusterIP").is_none_or(|ip| ip != "None") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
        if outside {
            self.count(key, "made as a ClusterIP: its way in from outside was not tried");
        }
    }
}

#[cfg(test)]
#[path = "inert_tests.rs"]
mod tests;
