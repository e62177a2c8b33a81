//! The stage: the cluster, the people, and what they do on the road of a deletion.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::fleet::{Snapshot, Tenant};
use super::show::{Look, Show};
use crate::api::{
    ConditionType, Conditions as _, DeletionRequest, DeletionRequestStatus, EntityPhase,
    RequestState, Site, SiteState, names,
};
use crate::cluster::discover::Kinds;
use crate::sandbox::Sandbox;

/// Everybody who plays, each with a client certificate of their own.
pub(super) struct People {
    /// Asks for deletions.
    pub rita: Client,
    /// Approves.
    pub alice: Client,
    /// Approves.
    pub bob: Client,
    /// May approve, and writes another's name.
    pub mallory: Client,
    /// Restores.
    pub carol: Client,
}

/// The cluster, the people and the fleet.
pub(super) struct Stage<'a> {
    pub show: &'a mut Show,
    pub admin: Client,
    pub people: People,
    pub kinds: Kinds,
    pub tenants: Vec<Tenant>,
    /// Names of the five sites.
    pub five: BTreeSet<String>,
    /// Everything, as it was when the fleet was up.
    pub before: Snapshot,
}

/// Who may do what.
const ROLES: [(&str, &str); 5] = [
    ("rita", "reprieve-requester"),
    ("alice", "reprieve-approver"),
    ("bob", "reprieve-approver"),
    ("mallory", "reprieve-approver"),
    ("carol", "reprieve-restorer"),
];

impl People {
    /// Makes their certificates, and binds them to their roles.
    pub async fn arrive(sandbox: &Sandbox) -> Result<Self> {
        let bindings: Api<ClusterRoleBinding> = Api::all(sandbox.admin());
        for (user, role) in ROLES {
            let binding: ClusterRoleBinding = serde_json::from_value(json!({
                "metadata": { "name": format!("demo-{user}") },
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
                },
                "subjects": [{
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user,
                }],
            }))?;
            let created = bindings.create(&PostParams::default(), &binding).await;
            created.with_context(|| format!("cannot give {user} the role {role}"))?;
        }
        let client = async |user: &str| sandbox.client_for(&sandbox.user(user, &[])?).await;
        Ok(Self {
            rita: client("rita").await?,
            alice: client("alice").await?,
            bob: client("bob").await?,
            mallory: client("mallory").await?,
            carol: client("carol").await?,
        })
    }
}

impl Stage<'_> {
    /// Everything that every site holds, now.
    pub async fn look(&self) -> Result<Snapshot> {
        Snapshot::take(&self.admin, &self.kinds).await
    }

    /// The tenants of the five sites, in the order of their names.
    pub fn five_tenants(&self) -> Vec<&Tenant> {
        self.five.iter().filter_map(|site| self.tenants.iter().find(|t| t.site == *site)).collect()
    }

    /// Rita asks for a deletion.
    pub async fn ask(&self, name: &str, spec: serde_json::Value) -> Result<()> {
        let request: DeletionRequest = serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "DeletionRequest",
            "metadata": { "name": name }, "spec": spec,
        }))?;
        let requests: Api<DeletionRequest> = Api::all(self.people.rita.clone());
        let created = requests.create(&PostParams::default(), &request).await;
        created.map(drop).with_context(|| format!("rita cannot create DeletionRequest {name}"))
    }

    /// Somebody writes an approval of this digest, in this name.
    pub async fn approve(
        &self,
        by: &Client,
        name: &str,
        digest: &str,
        in_name_of: &str,
    ) -> kube::Result<()> {
        let key = format!("{}{in_name_of}", names::APPROVAL_PREFIX);
        let value = format!("{digest} {in_name_of}");
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        let requests: Api<DeletionRequest> = Api::all(by.clone());
        requests.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// The status of a request, read now.
    pub async fn status(&self, name: &str) -> Result<DeletionRequestStatus> {
        let requests: Api<DeletionRequest> = Api::all(self.admin.clone());
        let request = requests.get(name).await;
        let request = request.with_context(|| format!("cannot read DeletionRequest {name}"))?;
        Ok(request.status.unwrap_or_default())
    }

    /// Waits until a request's status is so. `done` tells how much of how many.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&DeletionRequestStatus) -> bool,
        mut done: impl FnMut(&DeletionRequestStatus) -> (usize, usize),
    ) -> Result<DeletionRequestStatus> {
        self.show
            .wait(what, limit, async || {
                let status = self.status(name).await?;
                if is_so(&status) {
                    return Ok(Look::Done(status));
                }
                let seen = describe(name, &status);
                if status.has_ended() {
                    return Ok(Look::Never(seen));
                }
                let (done, total) = done(&status);
                Ok(Look::NotYet(done, total, seen))
            })
            .await
    }

    /// Waits for the plan of a request, and gives its digest.
    pub async fn planned(&self, name: &str) -> Result<(String, DeletionRequestStatus)> {
        let is_so = |s: &DeletionRequestStatus| {
            s.state == Some(RequestState::AwaitingApproval) && digest(s).is_some()
        };
        let limit = Duration::from_secs(30);
        let status = self.until(name, "the plan is there", limit, is_so, |_| (0, 1)).await?;
        Ok((digest(&status).unwrap_or_default(), status))
    }

    /// Waits until every entity is backed up and held.
    pub async fn held(&self, name: &str) -> Result<DeletionRequestStatus> {
        let is_so = |s: &DeletionRequestStatus| {
            s.retention.is_some() && phases(s, EntityPhase::Held) == self.five.len()
        };
        let backed_up = |s: &DeletionRequestStatus| {
            let all = s.plan.iter().flat_map(|p| &p.entities);
            (all.filter(|e| e.backup.is_some()).count(), self.five.len())
        };
        let limit = Duration::from_secs(120);
        self.until(name, "sites backed up and held", limit, is_so, backed_up).await
    }

    /// Waits until the five Sites are in this state.
    pub async fn sites_are(&self, state: SiteState) -> Result<()> {
        let sites: Api<Site> = Api::all(self.admin.clone());
        let what = format!("the {} Sites are {state:?}", self.five.len());
        self.show
            .wait(&what, Duration::from_secs(60), async || {
                let mut done = 0;
                let mut last = String::new();
                for name in &self.five {
                    let site = sites.get_opt(name).await?;
                    let seen = site.and_then(|s| s.status).and_then(|s| s.state);
                    if seen == Some(state) {
                        done += 1;
                    } else {
                        last = format!("Site {name}: {seen:?}");
                    }
                }
                let total = self.five.len();
                Ok(if done == total { Look::Done(()) } else { Look::NotYet(done, total, last) })
            })
            .await
    }

    /// Alice and bob approve, each once they have read the plan.
    pub async fn approved_by_two(&self, name: &str, digest: &str) -> Result<()> {
        for (client, user) in [(&self.people.alice, "alice"), (&self.people.bob, "bob")] {
            let answer = self.approve(client, name, digest, user).await;
            answer.with_context(|| format!("{user} cannot approve DeletionRequest {name}"))?;
        }
        Ok(())
    }

    /// Somebody takes a request back.
    pub async fn cancel(&self, by: &Client, name: &str) -> Result<()> {
        let requests: Api<DeletionRequest> = Api::all(by.clone());
        let patch = Patch::Merge(json!({ "spec": { "cancel": true } }));
        let answer = requests.patch(name, &PatchParams::default(), &patch).await;
        answer.map(drop).with_context(|| format!("cannot cancel DeletionRequest {name}"))
    }
}

/// The digest of the plan.
pub(super) fn digest(status: &DeletionRequestStatus) -> Option<String> {
    status.plan.as_ref()?.digest.clone()
}

/// How many entities of the plan are in this phase.
pub(super) fn phases(status: &DeletionRequestStatus, phase: EntityPhase) -> usize {
    status.plan.iter().flat_map(|p| &p.entities).filter(|e| e.phase == phase).count()
}

/// A request in one line: its state, and what it says.
pub(super) fn describe(name: &str, status: &DeletionRequestStatus) -> String {
    let state = status.state.map_or("without a state".to_owned(), |state| format!("{state:?}"));
    let message = status.message.clone().unwrap_or_default();
    let stalled = status.conditions.get(ConditionType::Stalled);
    let stalled = stalled.map(|c| format!(" (Stalled: {})", c.message)).unwrap_or_default();
    format!("DeletionRequest {name} {state}: {message}{stalled}")
}

/// Whether an answer is the guard's 403 by this policy; and what it said.
pub(super) fn bounced<T>(answer: kube::Result<T>, policy: &str) -> (bool, String) {
    match answer {
        Ok(_) => (false, "it was let through".to_owned()),
        Err(kube::Error::Api(status)) => {
            let by_guard = crate::guard::is_denied_by(&status.message, policy);
            (status.code == 403 && by_guard, status.message.clone())
        }
        Err(error) => (false, error.to_string()),
    }
}
