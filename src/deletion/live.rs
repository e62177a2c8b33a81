//! What lives of a planned entity, Sites and Apps alike. Pure.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use super::held::{Claim, Held, HeldKind};
use super::observe::{AppFacts, SiteFacts};
use crate::api::{
    AppliedObject, Deletion, DeletionPhase, EntityPhase, NamespaceRef, PlanApp, PlanApplied,
    PlanEntity, PlanSite, TargetKind, names,
};
use crate::cluster::Exact;
use crate::cluster::form::digest_of;

/// A living entity.
#[derive(Clone, Copy, Debug)]
pub enum Live<'a> {
    /// A Site.
    Site(&'a SiteFacts),
    /// An App, and the Site that it is in.
    App(&'a AppFacts, &'a SiteFacts),
}

impl<'a> Live<'a> {
    /// Its Site: the one that is backed up.
    pub fn site(self) -> &'a SiteFacts {
        match self {
            Self::Site(site) | Self::App(_, site) => site,
        }
    }

    /// UID of the entity.
    pub fn uid(self) -> String {
        self.meta().uid.clone().unwrap_or_default()
    }

    /// Its metadata.
    pub fn meta(self) -> &'a ObjectMeta {
        match self {
            Self::Site(site) => site.site.meta(),
            Self::App(app, _) => app.app.meta(),
        }
    }

    /// What a write to it is decided on.
    pub fn exact(self) -> Exact {
        match self {
            Self::Site(site) => Exact::of(&site.site),
            Self::App(app, _) => Exact::of(&app.app),
        }
    }

    /// Its namespace; none for a Site.
    pub fn namespace(self) -> Option<String> {
        self.meta().namespace.clone()
    }

    /// The deletion that it tells of.
    pub fn deletion(self) -> Option<&'a Deletion> {
        match self {
            Self::Site(site) => site.deletion(),
            Self::App(app, _) => app.app.status.as_ref()?.deletion.as_ref(),
        }
    }

    /// The deletion that it tells of, if it is this request's.
    pub fn deletion_by(self, request_uid: &str) -> Option<&'a Deletion> {
        self.deletion().filter(|deletion| deletion.request_uid == request_uid)
    }

    /// Whether its DELETE got past the guard, and the request is the operator's own for that.
    pub fn past_guard(self) -> bool {
        match self {
            Self::Site(site) => site.past_guard,
            Self::App(app, _) => app.past_guard,
        }
    }

    /// Why it cannot be asked to be deleted now, to be read after its name.
    pub fn not_active(self, request_uid: &str) -> Option<String> {
        match self {
            Self::Site(site) => site.not_active(request_uid),
            Self::App(app, site) => app.not_active(site, request_uid),
        }
    }

    /// The entity as a plan has it.
    pub fn planned(self) -> PlanEntity {
        match self {
            Self::Site(site) => site.planned(),
            Self::App(app, site) => app.planned(site),
        }
    }

    /// The workloads that its hold takes out of service.
    pub fn workloads(self) -> impl Iterator<Item = &'a Held> {
        let own = self.own();
        let all = self.site().held.iter().filter(|h| h.kind.is_workload());
        all.filter(move |h| own.as_ref().is_none_or(|own| own.contains(h.exact.uid.as_str())))
    }

    /// What goes on while it is held.
    pub fn runs_on(self) -> impl Iterator<Item = &'a Held> {
        let own = self.own();
        let all = self.site().held.iter().filter(|h| h.kind == HeldKind::RunsOn);
        all.filter(move |h| own.as_ref().is_none_or(|own| own.contains(h.exact.uid.as_str())))
    }

    /// The claims whose disks its hold keeps. Of an App: its own, those that its StatefulSets made,
    /// and those that have it, or in doubt somebody unknown, for an owner.
    pub fn claims(self) -> impl Iterator<Item = &'a Claim> {
        let own = self.own();
        let namespace = self.namespace().unwrap_or_default();
        let prefixes: Vec<String> = self
            .workloads()
            .flat_map(|w| w.claim_templates.iter().map(|t| format!("{t}-{}-", w.exact.name)))
            .collect();
        let site = self.site();
        site.claims.iter().filter(move |claim| {
            let Some(own) = &own else { return true };
            let made = |name: &str| {
                let ordinal = |p: &String| name.strip_prefix(p.as_str()).is_some_and(is_number);
                prefixes.iter().any(ordinal)
            };
            let others = |uid: &str| site.held.iter().any(|h| h.exact.uid == uid);
            let owns = |uid: &str| own.contains(uid) || !others(uid);
            claim.namespace() == namespace
                && (own.contains(claim.exact.uid.as_str())
                    || claim.owners.iter().any(|o| owns(&o.uid))
                    || made(claim.short_name()))
        })
    }

    /// The volumes, and contents of snapshots, that its hold keeps.
    pub fn disks(self) -> impl Iterator<Item = &'a Held> {
        let own = self.own();
        let contents = self.site().held.iter().filter(|h| h.kind == HeldKind::SnapshotContent);
        let namespace = self.namespace();
        let contents =
            contents.filter(move |h| own.is_none() || h.namespace.as_ref() == namespace.as_ref());
        self.claims().filter_map(Claim::volume).chain(contents)
    }

    /// Everything that bears, or may come to bear, a record of its hold.
    pub fn held(self) -> impl Iterator<Item = &'a Held> {
        self.workloads().chain(self.disks())
    }

    /// Copies that controllers have made of records of a hold.
    pub fn copies(self) -> impl Iterator<Item = &'a Held> {
        self.site().held.iter().filter(|h| h.kind == HeldKind::Copy)
    }

    /// What would be lost with it of disks, and of snapshots in the storage, in words, and what to do
    /// about the first of it.
    pub fn unretained(self) -> Option<String> {
        if let Some(claim) = self.claims().find(|c| !c.is_retained()) {
            return Some(format!(
                "the disk of claim {} would be deleted: set its volume's persistentVolumeReclaimPolicy to Retain",
                claim.name
            ));
        }
        let content = self.disks().find(|h| !h.is_retained())?;
        Some(format!(
            "{} would be deleted, and the snapshot with it: set its deletionPolicy to Retain",
            content.describe()
        ))
    }

    /// UIDs of the objects that are an App's own; none for a Site, of which everything is its own.
    fn own(self) -> Option<BTreeSet<&'a str>> {
        match self {
            Self::Site(_) => None,
            Self::App(app, _) => Some(app.applied().map(|o| o.uid.as_str()).collect()),
        }
    }

    /// Whether it, or a part of it, bears a mark of this request.
    pub fn is_marked(self, request_uid: &str) -> bool {
        let purge = names::ANNOTATION_PURGE;
        let Self::Site(site) = self else { return self.deletion_by(request_uid).is_some() };
        let of_request = |d: Option<&Deletion>| d.is_some_and(|d| d.request_uid == request_uid);
        site.deletion_by(request_uid).is_some()
            || site
                .namespaces
                .iter()
                .any(|n| n.annotations().get(purge).is_some_and(|u| u == request_uid))
            || site
                .apps
                .iter()
                .any(|a| of_request(a.status.as_ref().and_then(|s| s.deletion.as_ref())))
    }

    /// Why it cannot be compared with its backup.
    pub fn unread(self) -> Option<&'a str> {
        match self {
            Self::App(app, _) => app.unread.as_deref(),
            Self::Site(site) => site.unread.as_deref(),
        }
    }

    /// Whether nothing is left of it but itself.
    pub fn is_bare(self) -> bool {
        match self {
            Self::App(app, _) => app.objects.is_empty(),
            Self::Site(live) => live.namespaces.is_empty(),
        }
    }

    /// Whether a DELETE of something of it was seen: its point of no return. Of an App, its own
    /// DELETE comes first. An entity that was deleted past the guard, and the Apps of such a Site,
    /// can still be created anew while they are held by their finalizers: of these only what is
    /// gone counts, and what is inside.
    pub fn has_started(self, entity: &PlanEntity) -> bool {
        let terminating = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
        let is = |uid: &str, meta: &ObjectMeta| meta.uid.as_deref() == Some(uid);
        let itself = terminating(self.meta()) && !self.past_guard();
        match self {
            Self::App(app, _) => itself || (app.past_guard && app.objects_went()),
            Self::Site(live) => {
                // What is gone and what is on its way: neither is there any more as planned.
                let namespace = |n: &NamespaceRef| {
                    let mut all = live.namespaces.iter();
                    all.any(|l| is(&n.uid, &l.metadata) && !terminating(&l.metadata))
                };
                let app = |a: &PlanApp| {
                    let held = |meta| live.past_guard || !terminating(meta);
                    live.apps.iter().any(|l| is(&a.uid, &l.metadata) && held(&l.metadata))
                };
                itself || !entity.namespaces.iter().all(namespace) || !entity.apps.iter().all(app)
            }
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl AppFacts {
    /// The objects that go with the App: those that it applied and still describes.
    pub fn applied(&self) -> impl Iterator<Item = &AppliedObject> {
        self.app.status.iter().flat_map(|s| &s.objects).filter(|o| !o.orphaned)
    }

    /// Whether one of its objects is known to be gone or on its way.
    fn objects_went(&self) -> bool {
        if self.unread.is_some() {
            return false;
        }
        self.objects.len() < self.applied().count() || self.objects.iter().any(|o| o.deleting)
    }

    fn not_active(&self, site: &SiteFacts, request_uid: &str) -> Option<String> {
        let deletion = self.app.status.as_ref().and_then(|s| s.deletion.as_ref());
        if let Some(deletion) = deletion.filter(|d| d.request_uid != request_uid) {
            return Some(format!("is held by DeletionRequest {}", deletion.request_ref.name));
        }
        if self.app.annotations().contains_key(names::ANNOTATION_RECREATE) {
            return Some("is being created anew after a delete past the gates".to_owned());
        }
        let own = deletion.is_some_and(|d| d.phase == DeletionPhase::Purging);
        if self.app.meta().deletion_timestamp.is_some() && !own && !self.past_guard {
            return Some("is being deleted past the gates".to_owned());
        }
        let why = site.not_active(request_uid)?;
        Some(format!("cannot be taken out: its Site {} {why}", site.site.name_any()))
    }

    fn planned(&self, site: &SiteFacts) -> PlanEntity {
        let namespace = self.app.namespace().unwrap_or_default();
        let lines = {
            let line =
                |o: &AppliedObject| format!("{} {} {} {}\n", o.api_version, o.kind, o.name, o.uid);
            let mut lines: Vec<String> = self.applied().map(line).collect();
            lines.sort();
            lines
        };
        let count = i64::try_from(lines.len()).unwrap_or(i64::MAX);
        let status = site.site.status.as_ref();
        let uid = site.namespaces.iter().find(|n| n.name_any() == namespace).and_then(|n| n.uid());
        let mut entity = PlanEntity {
            kind: TargetKind::App,
            id: self.app.spec.id.clone(),
            name: self.app.name_any(),
            uid: self.app.uid().unwrap_or_default(),
            tenant: site.site.spec.tenant.name.clone(),
            priority: site.site.spec.priority,
            namespaces: vec![NamespaceRef { name: namespace, uid: uid.unwrap_or_default() }],
            apps: vec![],
            site: Some(PlanSite { name: site.site.name_any(), uid: site.uid() }),
            applied: Some(PlanApplied { count, digest: digest_of(lines.concat().as_bytes()) }),
            objects: count,
            bytes: 0,
            claims: 0,
            unprotected: 0,
            disks: vec![],
            runs_on: vec![],
            scratch: vec![],
            last_backup: status.and_then(|s| s.last_backup.clone()),
            last_drill: status.and_then(|s| s.last_drill.clone()),
            phase: EntityPhase::Planned,
            wave: None,
            backup: None,
            purged_time: None,
        };
        super::plan::name_disks(&mut entity, Live::App(self, site));
        entity
    }
}

/// The name of a planned entity in words: `Site acme`, `App acme/wiki`.
pub fn words(entity: &PlanEntity) -> String {
    match (entity.kind, entity.namespaces.first()) {
        (TargetKind::App, Some(namespace)) => format!("App {}/{}", namespace.name, entity.name),
        (kind, _) => format!("{kind} {}", entity.name),
    }
}
