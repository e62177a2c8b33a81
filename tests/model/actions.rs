//! What can happen next: an operator goes on or dies, people and controllers act, time passes, and
//! something goes wrong.

use kube::{Resource, ResourceExt};
use reprieve::api::{
    BackupStatus, ConditionStatus, ConditionType, Conditions, DeletionPhase, DeletionRequest,
    Reason, names,
};
use reprieve::deletion::SiteFacts;
use reprieve::deletion::digest::digest;
use reprieve::site::app::late_mark::came_late;
use serde_json::json;

use crate::objects::{Policy, SITES, Source, app, at, site};
use crate::state::{At, NEVER, Part, State, as_people_have_it, bit, bits, request_bit, values};
use crate::world::Model;

/// Who may vote. Rita asked.
pub const PEOPLE: [&str; 4] = ["ann", "bob", "eve", "rita"];

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An operator looks at a request, or reads the next part.
    Look(usize, usize),
    /// The next write of an operator.
    Write(usize),
    /// An operator dies, or the API server answers its next write with an error: what it had in
    /// mind is lost.
    Crash(usize),
    /// The API server refuses the next write of an operator, which stands alone: the rest goes on.
    Refuse(usize),
    /// A person approves the plan as it is.
    Vote(usize, usize),
    /// Time passes.
    Tick,
    /// The Backups of a Site are made and read back.
    BackedUp(usize),
    /// The namespace controller has emptied the namespace of a Site.
    Emptied(usize),
    /// The room of Apps has taken the marks off a Site's Apps that came late.
    Unmarked(usize),
    /// Something goes wrong, or somebody changes his mind.
    Fault(Fault, usize),
}

/// What can go wrong. The number that goes with it is of a request, a Site or an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Cancel,
    Delete,
    Reject,
    /// A GitOps tool wipes the approvals.
    Wipe,
    /// Rita approves her own request, and a service account does.
    OwnVote,
    /// The guard is taken away.
    GuardOff,
    /// The guard is put back, or changed.
    GuardOn,
    /// The guard is taken away, approvals of the digest are forged, also of the one that will be
    /// there when it is back, and the guard is put back: nobody looks in between.
    Forge,
    /// The guard is taken away, Rita is replaced as the requester, and the guard is put back.
    Requester,
    Alert(Source),
    Store(bool),
    Policy(Policy),
    /// An operator's clock jumps.
    Clock(i32),
    /// The API server's clock jumps.
    ApiClock(i32),
    /// A Site is deleted past everything and made anew under the same name.
    Recreate,
    /// The tenant writes.
    Write,
    /// The tenant gets one more App.
    App,
    /// A user scales the workload up.
    Scale,
    /// Somebody sets the disk's reclaim policy to Delete, with the guard away for that if need be.
    Reclaim,
}

impl Model {
    /// Everything that can happen next.
    pub fn actions(&self, state: &State, all: &mut Vec<Action>) {
        let requests = 0..self.scope.requests.len();
        for i in 0..self.scope.operators {
            // Two that are alike do alike.
            if i > 0 && state.operators[i] == state.operators[i - 1] {
                continue;
            }
            match state.operators[i].at {
                At::Idle => {
                    let there = requests.clone().filter(|of| state.requests[*of].is_some());
                    all.extend(there.map(|of| Action::Look(i, of)));
                }
                At::Objects { of, .. } | At::Gates { of, .. } => {
                    all.extend([Action::Look(i, of.into()), Action::Crash(i)]);
                }
                At::Work { .. } => {
                    all.extend([Action::Write(i), Action::Crash(i), Action::Refuse(i)]);
                }
            }
        }
        for of in requests.clone() {
            all.extend(self.scope.voters.iter().map(|who| Action::Vote(of, *who)));
            if state.env.policy == Policy::Stricter {
                all.push(Action::Vote(of, 2));
            }
        }
        if state.env.time < self.last_tick.get() {
            all.push(Action::Tick);
        }
        for site in (0..SITES.len()).filter(|s| state.sites[*s].is_some()) {
            all.extend([Action::BackedUp(site), Action::Emptied(site), Action::Unmarked(site)]);
        }
        if state.faults == 0 {
            return;
        }
        for fault in self.scope.kinds {
            let over = match fault {
                Fault::Cancel
                | Fault::Delete
                | Fault::Reject
                | Fault::Wipe
                | Fault::OwnVote
                | Fault::Forge
                | Fault::Requester => self.scope.requests.len(),
                Fault::Clock(_) => self.scope.operators,
                Fault::Recreate | Fault::Write | Fault::App | Fault::Scale | Fault::Reclaim => {
                    self.scope.requests.iter().map(Vec::len).sum()
                }
                _ => 1,
            };
            all.extend((0..over).map(|index| Action::Fault(*fault, index)));
        }
    }

    /// The state after an action; none: nothing came of it.
    pub fn next(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        match action {
            Action::Look(i, of) => self.look(&mut state, i, of),
            Action::Write(i) => self.write(&mut state, i),
            Action::Crash(i) => state.operators[i].at = At::Idle,
            Action::Refuse(i) => self.refuse(&mut state, i),
            Action::Vote(of, who) => self.vote(&mut state, of, PEOPLE[who])?,
            Action::Tick => self.tick(&mut state),
            Action::BackedUp(site) => self.backed_up(&mut state, site)?,
            Action::Emptied(site) => self.emptied(&mut state, site)?,
            Action::Unmarked(site) => self.unmarked(&mut state, site)?,
            Action::Fault(fault, index) => {
                state.faults -= 1;
                self.fault(&mut state, fault, index)?;
            }
        }
        self.settle_ghosts(&mut state);
        (state != *before).then_some(state)
    }

    fn refuse(&self, state: &mut State, i: usize) {
        let At::Work { work, next, .. } = &mut state.operators[i].at else { return };
        let work = self.get_work(*work);
        let alone = crate::world::stands_alone(&work.writes[usize::from(*next)]);
        *next += 1;
        if !alone || usize::from(*next) == work.writes.len() {
            state.operators[i].at = At::Idle;
        }
    }

    /// Time passes. An operator gives a look up after 120 s, and its fence lets nothing pass that
    /// is older than its term.
    pub fn tick(&self, state: &mut State) {
        state.env.time += 1;
        for operator in &mut state.operators {
            operator.at = match operator.at {
                At::Work { age: 0, of, work, next, written, bad } => {
                    At::Work { age: 1, of, work, next, written, bad }
                }
                At::Work { .. } => At::Idle,
                other => other,
            };
        }
    }

    /// A person approves what the status shows.
    pub fn vote(&self, state: &mut State, of: usize, who: &'static str) -> Option<()> {
        let request = self.request(state.requests[of]?);
        let status = request.status.as_ref()?;
        let digest = status.plan.as_ref()?.digest.clone()?;
        if status.state?.is_final() || !state.env.guard {
            return None;
        }
        // The guard lets nobody approve what he has asked for himself.
        if crate::look::annotation(&request, names::ANNOTATION_REQUESTED_BY) == Some(who) {
            return None;
        }
        let key = format!("{}{who}", names::APPROVAL_PREFIX);
        let value = format!("{digest} {who}");
        let counted = status.approvals.iter().any(|a| a.user == who && a.digest == digest);
        if counted || crate::look::annotation(&request, &key) == Some(&value) {
            return None;
        }
        let mut request = (*request).clone();
        request.annotations_mut().insert(key, value);
        let mut votes = (*self.votes(state.ghost.votes)).clone();
        votes.insert((who, digest));
        state.ghost.votes = self.put_votes(votes);
        self.put_back(state, of, request);
        Some(())
    }

    fn put_back(&self, state: &mut State, of: usize, request: DeletionRequest) {
        state.requests[of] = Some(self.put_request(request));
        self.touched(state, request_bit(of));
    }

    /// The room of Backups: what it makes shows what lives.
    pub fn backed_up(&self, state: &mut State, site: usize) -> Option<()> {
        let live = self.site(state.sites[site]?);
        let purging = live.deletion().is_some_and(|d| d.phase == DeletionPhase::Purging);
        if !state.env.store || purging || live.backups.iter().all(|b| b.status.is_some()) {
            return None;
        }
        let mut live = (*live).clone();
        let content = state.env.content[site];
        for backup in live.backups.iter_mut().filter(|b| b.status.is_none()) {
            let mut status = BackupStatus {
                location: Some("there".to_owned()),
                digest: Some(format!("c{content}")),
                ..Default::default()
            };
            let holds = ConditionStatus::True;
            let type_ = ConditionType::Verified;
            status.conditions.set(type_, holds, Reason::Verified, "", None, at(0));
            backup.status = Some(status);
        }
        state.sites[site] = Some(self.put_site(live));
        self.touched(state, bit(site, Part::Backup));
        Some(())
    }

    /// The namespace controller: everything in a namespace that is being deleted goes.
    pub fn emptied(&self, state: &mut State, site: usize) -> Option<()> {
        let live = self.site(state.sites[site]?);
        let going =
            |n: &k8s_openapi::api::core::v1::Namespace| n.metadata.deletion_timestamp.is_some();
        if !live.namespaces.iter().any(going) || !live.apps.is_empty() {
            return None;
        }
        let mut live = (*live).clone();
        live.namespaces.clear();
        live.claims.clear();
        live.held.clear();
        state.sites[site] = Some(self.put_site(live));
        self.touched(state, bits(site));
        Some(())
    }

    /// By what the room of Apps asks itself.
    pub fn unmarked(&self, state: &mut State, site: usize) -> Option<()> {
        let requests: Vec<_> =
            state.requests.iter().flatten().map(|id| self.request(*id)).collect();
        let late = |app: &reprieve::api::App| {
            let named = app.status.as_ref()?.deletion.as_ref()?.request_ref.name.clone();
            let live = requests.iter().find(|r| r.metadata.name.as_ref() == Some(&named));
            came_late(app, live.map(|live| &**live)).then_some(())
        };
        let live = self.site(state.sites[site]?);
        live.apps.iter().find_map(late)?;
        let mut live = (*live).clone();
        for app in live.apps.iter_mut().filter(|app| late(app).is_some()) {
            app.status.get_or_insert_default().deletion = None;
        }
        state.sites[site] = Some(self.put_site(live));
        self.touched(state, bits(site));
        Some(())
    }

    fn fault(&self, state: &mut State, fault: Fault, index: usize) -> Option<()> {
        match fault {
            Fault::Cancel | Fault::Delete | Fault::Reject | Fault::Wipe | Fault::OwnVote => {
                self.people(state, fault, index)
            }
            Fault::GuardOff => {
                state.env.guard.then_some(())?;
                state.env.guard = false;
                state.env.generation += 1;
                Some(())
            }
            Fault::GuardOn => {
                state.env.guard = true;
                state.env.generation += 1;
                Some(())
            }
            Fault::Forge => self.forge(state, index),
            Fault::Requester => {
                let mut request = (*self.request(state.requests[index]?)).clone();
                // Who asked before there is a plan is known from the annotation alone.
                request.status.as_ref()?.plan.as_ref()?;
                let key = names::ANNOTATION_REQUESTED_BY.to_owned();
                request.annotations_mut().insert(key, "mallory".to_owned());
                state.env.generation += 2;
                self.put_back(state, index, request);
                Some(())
            }
            Fault::Alert(_)
            | Fault::Store(_)
            | Fault::Policy(_)
            | Fault::Clock(_)
            | Fault::ApiClock(_)
            | Fault::Write => {
                match fault {
                    Fault::Alert(source) => state.env.source = source,
                    Fault::Store(answers) => state.env.store = answers,
                    Fault::Policy(policy) => state.env.policy = policy,
                    Fault::Clock(skew) => state.operators[index].skew = skew,
                    Fault::ApiClock(skew) => state.env.skew = skew,
                    _ => state.env.content[index] += 1,
                }
                Some(())
            }
            Fault::Recreate => {
                let age = state.ghost.age[index] + 1;
                state.sites[index] = Some(self.put_site(site(index, age)));
                state.ghost.age[index] = age;
                state.ghost.begun[index] = NEVER;
                state.ghost.wanted[index] = self.put_site(as_people_have_it(&site(index, age)));
                self.touched(state, bits(index));
                Some(())
            }
            Fault::App | Fault::Scale | Fault::Reclaim => self.user(state, fault, index),
        }
    }

    fn people(&self, state: &mut State, fault: Fault, of: usize) -> Option<()> {
        let mut request = (*self.request(state.requests[of]?)).clone();
        match fault {
            Fault::Cancel => request.spec.cancel = true,
            Fault::Delete => {
                if request.finalizers().is_empty() {
                    state.requests[of] = None;
                    self.touched(state, request_bit(of));
                    return Some(());
                }
                let time = serde_json::from_value(json!(at(0))).ok();
                request.meta_mut().deletion_timestamp = time;
            }
            Fault::Reject => {
                let key = format!("{}eve", names::REJECTION_PREFIX);
                request.annotations_mut().insert(key, "sha256:any eve".to_owned());
            }
            Fault::OwnVote => {
                let digest = request.status.as_ref()?.plan.as_ref()?.digest.clone()?;
                for who in ["rita", "system:serviceaccount:a:b"] {
                    let key = format!("{}{}", names::APPROVAL_PREFIX, who.replace(':', "-"));
                    request.annotations_mut().insert(key, format!("{digest} {who}"));
                }
            }
            _ => request.annotations_mut().retain(|k, _| k == names::ANNOTATION_REQUESTED_BY),
        }
        self.put_back(state, of, request);
        Some(())
    }

    fn forge(&self, state: &mut State, of: usize) -> Option<()> {
        let mut request = (*self.request(state.requests[of]?)).clone();
        let plan = request.status.as_ref()?.plan.clone()?;
        let mut head = plan.head.clone()?;
        state.env.guard = true;
        state.env.generation += 2;
        let mut forged = vec![("ann", plan.digest.clone()?), ("bob", plan.digest.clone()?)];
        head.guard = format!("g{}", state.env.generation);
        for (round, people) in [(None, ["cid", "dan"]), (Some(1), ["fay", "guy"])] {
            head.round = round;
            let predicted = digest(&head, &plan.entities);
            forged.extend(people.map(|who| (who, predicted.clone())));
        }
        for (who, digest) in forged {
            let key = format!("{}{who}", names::APPROVAL_PREFIX);
            request.annotations_mut().insert(key, format!("{digest} {who}"));
        }
        self.put_back(state, of, request);
        Some(())
    }

    /// What somebody changes in a Site, and would have changed without a hold as well.
    fn user(&self, state: &mut State, fault: Fault, index: usize) -> Option<()> {
        let change = |live: &mut SiteFacts| {
            if fault == Fault::App {
                live.apps.push(app(index, "late", state.ghost.age[index]));
                return;
            }
            for value in values(live) {
                let volume = value["kind"] == "PersistentVolume";
                if volume && fault == Fault::Reclaim {
                    value["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
                } else if !volume && fault == Fault::Scale {
                    value["spec"]["replicas"] = json!(3);
                }
            }
        };
        let mut live = (*self.site(state.sites[index]?)).clone();
        if live.namespaces.iter().all(|n| n.metadata.deletion_timestamp.is_some()) {
            return None;
        }
        change(&mut live);
        let mut wanted = (*self.site(state.ghost.wanted[index])).clone();
        change(&mut wanted);
        state.sites[index] = Some(self.put_site(live));
        state.ghost.wanted[index] = self.put_site(wanted);
        match fault {
            Fault::Reclaim => {
                // Of what is kept nobody may change that while the guard is in force.
                state.env.generation += 2;
                self.touched(state, bit(index, Part::Volume));
            }
            Fault::Scale => self.touched(state, bit(index, Part::Workload)),
            _ => {}
        }
        Some(())
    }
}
