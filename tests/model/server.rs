//! The API server and the store, as a write meets them: preconditions, the guard, and what is
//! checked at each step that destroys.

use kube::{Resource, ResourceExt};
use reprieve::api::{
    Backup, BackupPurpose, BackupSpec, DeletionPhase, DeletionRequest, SiteRef, names,
};
use reprieve::cluster::Exact;
use reprieve::deletion::SiteFacts;
use reprieve::deletion::decide::Effect;
use reprieve::deletion::held::Disk;
use reprieve::deletion::purge::Step;
use reprieve::deletion::rolling;
use serde_json::json;

use crate::invariants::{I1, I6, I8};
use crate::mutants::Mutant;
use crate::objects::{SITES, at, patch};
use crate::state::{LEDGER_BIT, NEVER, Part, State, Work, Write, bit, request_bit};
use crate::world::{Answer, Model};

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

impl Model {
    /// Whether what a write names is still what was read.
    fn is_same(&self, exact: &Exact, live: &str, bit: u32, written: u32) -> bool {
        self.scope.mutant == Some(Mutant::NoPreconditions)
            || (exact.uid == live && exact.resource_version == "1" && written & bit == 0)
    }

    /// Carries one write out.
    pub fn carry_out(
        &self,
        state: &mut State,
        of: usize,
        next: u8,
        work: &Work,
        written: u32,
        bad: u16,
    ) -> Answer {
        match &work.writes[usize::from(next)] {
            Write::Status => self.write_status(state, of, work, written),
            Write::Note => match state.env.store {
                true => Answer::Nothing,
                false => Answer::No,
            },
            Write::Effect(Effect::AddFinalizer) => self.finalizer(state, of, written, true),
            Write::Effect(Effect::RemoveFinalizer) => self.finalizer(state, of, written, false),
            Write::Effect(Effect::Reserve { ledger, text }) => {
                let same =
                    written & LEDGER_BIT == 0 && ledger.is_some() == state.env.ledger.is_some();
                if !same && self.scope.mutant != Some(Mutant::LedgerOverwritten) {
                    return Answer::No;
                }
                let entries = rolling::read(text).expect("a ledger");
                state.env.ledger = Some(self.put_ledger(entries));
                Answer::Done(LEDGER_BIT)
            }
            write => self.on_site(state, write, written, bad),
        }
    }

    fn write_status(&self, state: &mut State, of: usize, work: &Work, written: u32) -> Answer {
        let Some(id) = state.requests[of] else { return Answer::No };
        if written & request_bit(of) != 0 && self.scope.mutant != Some(Mutant::StatusOverwritten) {
            return Answer::No;
        }
        let mut request = (*self.request(id)).clone();
        let was = request.status.as_ref().and_then(|s| s.state);
        if was.is_some_and(|s| s.is_final()) && was != work.decision.status.state {
            state.ghost.broken |= I8;
        }
        request.status = Some(work.decision.status.clone());
        state.requests[of] = Some(self.put_request(request));
        Answer::Done(request_bit(of))
    }

    fn finalizer(&self, state: &mut State, of: usize, written: u32, present: bool) -> Answer {
        let Some(id) = state.requests[of] else { return Answer::No };
        if written & request_bit(of) != 0 {
            return Answer::No;
        }
        let mut request: DeletionRequest = (*self.request(id)).clone();
        if present {
            request.finalizers_mut().push(names::FINALIZER.to_owned());
        } else {
            request.metadata.finalizers = None;
        }
        let gone = !present && request.meta().deletion_timestamp.is_some();
        state.requests[of] = (!gone).then(|| self.put_request(request));
        Answer::Done(request_bit(of))
    }

    /// A write to one of the objects of a Site.
    fn on_site(&self, state: &mut State, write: &Write, written: u32, bad: u16) -> Answer {
        for (index, name) in SITES.iter().enumerate() {
            let Some(id) = state.sites[index] else { continue };
            if !concerns(write, name, &self.site(id)) {
                continue;
            }
            let mut live = (*self.site(id)).clone();
            let exact = |exact: &Exact, live: &Meta, part: Part| {
                let uid = live.uid.as_deref().unwrap_or_default();
                self.is_same(exact, uid, bit(index, part), written)
            };
            let done = match write {
                Write::Unmark(kind, wanted) => match find(&mut live, *kind, &wanted.name, name) {
                    Found::None => continue,
                    Found::Meta(part, meta) if !exact(wanted, meta, part) => return Answer::No,
                    Found::Meta(part, _) => {
                        unmark(&mut live, *kind, &wanted.name);
                        part
                    }
                },
                Write::Effect(Effect::CreateBackup { name: backup, site, keep_until }) => {
                    if site != name {
                        continue;
                    }
                    if live.backups.iter().any(|b| b.name_any() == *backup) {
                        return Answer::Nothing;
                    }
                    live.backups.push(new_backup(&live, backup, *keep_until));
                    // A new object: nobody has read it.
                    state.sites[index] = Some(self.put_site(live));
                    return Answer::Done(0);
                }
                Write::Effect(Effect::KeepLonger { backup, until }) => {
                    let found = live.backups.iter_mut().find(|b| b.name_any() == backup.name);
                    let Some(found) = found else { continue };
                    if !exact(backup, &found.metadata, Part::Backup) {
                        return Answer::No;
                    }
                    found.spec.keep_until_time = Some(*until);
                    Part::Backup
                }
                Write::Effect(Effect::Hold(entity, deletion)) => {
                    if entity.exact.name != *name {
                        continue;
                    }
                    if !exact(&entity.exact, &live.site.metadata, Part::Site) {
                        return Answer::No;
                    }
                    live.site.status.get_or_insert_default().deletion = Some(deletion.clone());
                    Part::Site
                }
                Write::Effect(Effect::Edit(edit)) => {
                    if edit.exact.name != *name {
                        continue;
                    }
                    let volumes = live.claims.iter_mut().filter_map(|c| match &mut c.disk {
                        Disk::Volume(volume) => Some(&mut **volume),
                        Disk::Unbound | Disk::Lost => None,
                    });
                    let mut all = live.held.iter_mut().chain(volumes);
                    let Some(held) = all.find(|h| h.kind == edit.kind) else { continue };
                    let part = if edit.kind.is_workload() { Part::Workload } else { Part::Volume };
                    if !self.is_same(&edit.exact, &held.exact.uid, bit(index, part), written) {
                        return Answer::No;
                    }
                    patch(&mut held.value, &edit.patch);
                    if self.scope.mutant == Some(Mutant::RecordLost) && edit.kind.is_workload() {
                        patch(&mut held.value, &json!({ "metadata": { "annotations": null } }));
                    }
                    part
                }
                Write::Effect(Effect::Purge(_, step)) => {
                    let namespaced = live.apps.iter().any(|a| a.name_any() == step_name(step));
                    if step_name(step) != *name && !namespaced {
                        continue;
                    }
                    match self.purge(state, index, &mut live, step, written, bad) {
                        Some(part) => part,
                        None => return Answer::No,
                    }
                }
                Write::Effect(
                    Effect::AddFinalizer
                    | Effect::RemoveFinalizer
                    | Effect::Release(_)
                    | Effect::Reserve { .. },
                )
                | Write::Note
                | Write::Status => return Answer::No,
            };
            let gone = live.site.metadata.name.is_none();
            state.sites[index] = (!gone).then(|| self.put_site(live));
            return Answer::Done(bit(index, done));
        }
        Answer::No
    }

    /// A step of a purge; none: it is refused.
    fn purge(
        &self,
        state: &mut State,
        index: usize,
        live: &mut SiteFacts,
        step: &Step,
        written: u32,
        bad: u16,
    ) -> Option<Part> {
        let same = |exact: &Exact, meta: &Meta, part| {
            let uid = meta.uid.as_deref().unwrap_or_default();
            self.is_same(exact, uid, bit(index, part), written)
        };
        let guard = state.env.guard;
        // When does not matter.
        let time = serde_json::from_value(json!(at(0))).ok();
        let purging = |d: Option<&reprieve::api::Deletion>| {
            !guard || d.is_some_and(|d| d.phase == DeletionPhase::Purging)
        };
        let part = match step {
            Step::MarkSite(exact, mark) => {
                same(exact, &live.site.metadata, Part::Site).then_some(())?;
                live.site.status.get_or_insert_default().deletion = Some(mark.clone());
                return Some(Part::Site);
            }
            Step::MarkApp(_, exact, mark) => {
                let app = live.apps.iter_mut().find(|a| a.name_any() == exact.name)?;
                same(exact, &app.metadata, Part::App).then_some(())?;
                app.status.get_or_insert_default().deletion = Some(mark.clone());
                return Some(Part::App);
            }
            Step::MarkNamespace(exact, request) => {
                let found = live.namespaces.iter_mut().find(|n| n.name_any() == exact.name)?;
                same(exact, &found.metadata, Part::Namespace).then_some(())?;
                found.annotations_mut().insert(names::ANNOTATION_PURGE.to_owned(), request.clone());
                return Some(Part::Namespace);
            }
            Step::DeleteApp(_, exact) => {
                let app = live.apps.iter_mut().find(|a| a.name_any() == exact.name)?;
                same(exact, &app.metadata, Part::App).then_some(())?;
                purging(app.status.as_ref()?.deletion.as_ref()).then_some(())?;
                app.metadata.deletion_timestamp = time;
                Part::App
            }
            Step::FinishApp(_, exact, _) => {
                let at = live.apps.iter().position(|a| a.name_any() == exact.name)?;
                same(exact, &live.apps[at].metadata, Part::App).then_some(())?;
                live.apps.remove(at);
                Part::App
            }
            Step::DeleteNamespace(exact) => {
                let found = live.namespaces.iter_mut().find(|n| n.name_any() == exact.name)?;
                same(exact, &found.metadata, Part::Namespace).then_some(())?;
                let marked = found.annotations().contains_key(names::ANNOTATION_PURGE);
                (marked || !guard).then_some(())?;
                found.metadata.deletion_timestamp = time;
                Part::Namespace
            }
            Step::DeleteSite(exact) => {
                same(exact, &live.site.metadata, Part::Site).then_some(())?;
                purging(live.deletion()).then_some(())?;
                live.site.metadata.deletion_timestamp = time;
                Part::Site
            }
            Step::FinishSite(exact, _) => {
                same(exact, &live.site.metadata, Part::Site).then_some(())?;
                Part::Site
            }
            Step::Disown(..) | Step::DeleteObject(..) => return None,
        };
        self.judge_delete(state, index, live, step, bad);
        if matches!(step, Step::FinishSite(..)) {
            live.site.metadata.name = None;
        }
        Some(part)
    }

    /// The invariants at a step that was carried out and destroys.
    fn judge_delete(
        &self,
        state: &mut State,
        index: usize,
        live: &SiteFacts,
        step: &Step,
        bad: u16,
    ) {
        // What a decision was made on counts at the first DELETE of an entity; at each, that the
        // plan has it.
        let first = state.ghost.begun[index] == NEVER;
        state.ghost.broken |= if first { bad } else { bad & I1 };
        if first {
            state.ghost.begun[index] = state.env.time;
        }
        // I1: what goes is what the decision was about, not what bears its name by now.
        let uid = match step {
            Step::DeleteApp(_, e) | Step::FinishApp(_, e, _) => &e.uid,
            Step::DeleteNamespace(e) | Step::DeleteSite(e) | Step::FinishSite(e, _) => &e.uid,
            _ => return,
        };
        let age = format!("-{}", state.ghost.age[index]);
        if !uid.ends_with(&age) {
            state.ghost.broken |= I1;
        }
        // I6: no disk goes with its claim.
        if matches!(step, Step::DeleteNamespace(_)) && live.claims.iter().any(|c| !c.is_retained())
        {
            state.ghost.broken |= I6 * u16::from(state.env.generation == 0);
        }
    }
}

/// Whether a write may be one to this Site, or to a part of it.
fn concerns(write: &Write, site: &str, live: &SiteFacts) -> bool {
    let exact = match write {
        Write::Unmark(_, exact) => exact,
        Write::Effect(Effect::CreateBackup { site: of, .. }) => return of == site,
        Write::Effect(Effect::KeepLonger { backup, .. }) => {
            return live.backups.iter().any(|b| b.name_any() == backup.name);
        }
        Write::Effect(Effect::Hold(entity, _)) => &entity.exact,
        Write::Effect(Effect::Edit(edit)) => &edit.exact,
        Write::Effect(Effect::Purge(_, step)) => return is_of(step_name(step), site),
        _ => return false,
    };
    is_of(&exact.name, site)
}

/// Whether an object of this name is of this Site: it bears its name, or ends with it.
fn is_of(name: &str, site: &str) -> bool {
    name == site || name.strip_suffix(site).is_some_and(|rest| rest.ends_with('-'))
}

enum Found<'a> {
    None,
    Meta(Part, &'a Meta),
}

fn find<'a>(live: &'a mut SiteFacts, kind: u8, wanted: &str, site: &str) -> Found<'a> {
    match kind {
        0 => live
            .apps
            .iter()
            .find(|a| a.name_any() == wanted)
            .map_or(Found::None, |a| Found::Meta(Part::App, &a.metadata)),
        1 => live
            .namespaces
            .iter()
            .find(|n| n.name_any() == wanted)
            .map_or(Found::None, |n| Found::Meta(Part::Namespace, &n.metadata)),
        _ if wanted == site => Found::Meta(Part::Site, &live.site.metadata),
        _ => Found::None,
    }
}

fn unmark(live: &mut SiteFacts, kind: u8, wanted: &str) {
    match kind {
        0 => {
            for app in live.apps.iter_mut().filter(|a| a.name_any() == wanted) {
                app.status.get_or_insert_default().deletion = None;
            }
        }
        1 => {
            for namespace in live.namespaces.iter_mut().filter(|n| n.name_any() == wanted) {
                namespace.annotations_mut().remove(names::ANNOTATION_PURGE);
            }
        }
        _ => live.site.status.get_or_insert_default().deletion = None,
    }
}

fn new_backup(live: &SiteFacts, name: &str, keep_until: reprieve::api::Time) -> Backup {
    let site = live.site.name_any();
    let site_ref = SiteRef { name: site, uid: Some(live.uid()), id: None };
    let spec = BackupSpec {
        site_ref,
        purpose: BackupPurpose::BeforeDeletion,
        keep_until_time: Some(keep_until),
    };
    let mut backup = Backup::new(name, spec);
    backup.metadata.uid = Some(format!("uid-{name}"));
    backup.metadata.resource_version = Some("1".to_owned());
    backup
}

fn step_name(step: &Step) -> &str {
    match step {
        Step::MarkSite(e, _)
        | Step::MarkApp(_, e, _)
        | Step::DeleteApp(_, e)
        | Step::FinishApp(_, e, _)
        | Step::Disown(_, e, _)
        | Step::MarkNamespace(e, _)
        | Step::DeleteNamespace(e)
        | Step::DeleteSite(e)
        | Step::FinishSite(e, _) => &e.name,
        Step::DeleteObject(object, _) => &object.exact.name,
    }
}
