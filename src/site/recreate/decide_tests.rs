//! Every way that a delete past the guard can go: a small world of one entity, its request, its
//! records and its kind, walked through exhaustively, with everything that others can do at every
//! point, also between a decision and its write. A crash is no event of its own: each look decides
//! on what is there alone.

use std::collections::HashSet;

use serde_json::json;

use super::*;
use crate::site::recreate::observe::Key;

/// An entity, as far as it matters.
#[derive(Clone, Debug)]
struct Entity {
    uid: u32,
    version: u32,
    spec: u32,
    terminating: bool,
    mark: Option<String>,
    in_deletion: bool,
    told: Option<UnexpectedDelete>,
    has_status: bool,
}

#[derive(Clone, Debug)]
struct World {
    kind: TargetKind,
    live: Option<Entity>,
    uids: u32,
    /// Of which UID the request is, and how it stands.
    request: Option<(u32, RequestFacts)>,
    records: Vec<Record>,
    closed: Vec<String>,
    annotation: Option<String>,
    namespace: bool,
    crd: CrdState,
    requests_crd: CrdState,
    site: SiteStands,
    /// The spec that must survive.
    spec: u32,
    /// It went by an approved request, or somebody else made one of the name.
    purged: bool,
    foreign: bool,
    /// How often what may still happen.
    deletes: u32,
    edits: u32,
    crds: u32,
    creates: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Delete,
    Edit,
    Cancel,
    RemoveRequest,
    Hold,
    Release,
    Purge,
    DeleteCrd,
    CrdGoes,
    CrdComes,
    RequestsCrdGoes,
    RequestsCrdComes,
    SomebodyCreates,
    SiteBusy,
    SiteComing,
    SiteSteady,
    NamespaceGoes,
}

const EVENTS: [Event; 17] = [
    Event::Delete,
    Event::Edit,
    Event::Cancel,
    Event::RemoveRequest,
    Event::Hold,
    Event::Release,
    Event::Purge,
    Event::DeleteCrd,
    Event::CrdGoes,
    Event::CrdComes,
    Event::RequestsCrdGoes,
    Event::RequestsCrdComes,
    Event::SomebodyCreates,
    Event::SiteBusy,
    Event::SiteComing,
    Event::SiteSteady,
    Event::NamespaceGoes,
];

fn now() -> Time {
    serde_json::from_value(json!("2026-11-22T17:00:00Z")).unwrap()
}

fn object(spec: u32) -> Value {
    json!({ "metadata": { "name": "acme" }, "spec": { "n": spec } })
}

impl World {
    fn new(kind: TargetKind) -> Self {
        Self {
            kind,
            live: Some(Entity {
                uid: 1,
                version: 1,
                spec: 1,
                terminating: false,
                mark: None,
                in_deletion: false,
                told: None,
                has_status: true,
            }),
            uids: 1,
            request: None,
            records: vec![],
            closed: vec![],
            annotation: None,
            namespace: true,
            crd: CrdState::Served,
            requests_crd: CrdState::Served,
            site: SiteStands::Steady,
            spec: 1,
            purged: false,
            foreign: false,
            deletes: 2,
            // An App has more around it that can change; an edit is the same for both.
            edits: u32::from(kind == TargetKind::Site),
            crds: 1,
            creates: 1,
        }
    }

    fn open_record(&self) -> Option<&Record> {
        let open = self.records.iter().filter(|r| !self.closed.contains(&r.uid));
        open.max_by_key(|r| (r.uid.clone(), r.number))
    }

    fn facts(&self) -> Facts {
        let live = self.live.as_ref().map(|e| {
            let uid = e.uid.to_string();
            Live {
                exact: Exact {
                    name: "acme".into(),
                    uid: uid.clone(),
                    resource_version: e.version.to_string(),
                },
                uid,
                terminating: e.terminating.then(now),
                fenced: true,
                finalizers: vec!["else/where".into(), names::FINALIZER.into()],
                mark: e.mark.clone(),
                in_deletion: e.in_deletion,
                told: e.told.clone(),
                id: "site-1".into(),
                object: object(e.spec),
                status: if e.has_status { json!({ "objects": ["o"] }) } else { json!({}) },
                managed_fields: vec![],
            }
        });
        let request = match (&self.request, self.requests_crd, &self.live) {
            (_, CrdState::Terminating | CrdState::Absent, _) => RequestFacts::Unavailable,
            (Some((uid, request)), _, Some(live)) if *uid == live.uid => *request,
            _ => RequestFacts::Absent,
        };
        let namespace = NamespaceFacts {
            exact: Exact { name: "acme".into(), uid: "n".into(), resource_version: "1".into() },
            terminating: false,
            record: self.annotation.clone(),
        };
        let app = self.kind == TargetKind::App;
        Facts {
            key: Key {
                kind: self.kind,
                namespace: app.then(|| "acme".to_owned()),
                name: "acme".to_owned(),
            },
            live,
            request,
            record: self.open_record().cloned(),
            namespaces: if self.namespace { vec![namespace] } else { vec![] },
            crd: self.crd,
            site: self.site,
        }
    }

    fn exact(&mut self, exact: &Exact) -> Option<&mut Entity> {
        let live = self.live.as_mut()?;
        let same =
            live.uid.to_string() == exact.uid && live.version.to_string() == exact.resource_version;
        live.version += u32::from(same);
        same.then_some(live)
    }

    /// Carries a step out that was decided on these facts, now or later.
    fn act(&mut self, facts: &Facts, step: &Step) {
        match step {
            Step::OpenRequest(name) => {
                let uid = facts.live.as_ref().expect("what is asked for").uid.parse().unwrap();
                assert_eq!(
                    *name,
                    request_name(self.kind, "acme", &facts.live.as_ref().unwrap().uid)
                );
                if self.requests_crd == CrdState::Served {
                    self.request.get_or_insert((uid, RequestFacts::Open));
                    if self.request.is_some_and(|(of, _)| of != uid) {
                        self.request = Some((uid, RequestFacts::Open));
                    }
                }
            }
            Step::Tell(told) => {
                if let Some(live) = self.of(facts) {
                    live.told = Some(told.clone());
                    live.version += 1;
                }
            }
            Step::Record(record) => {
                let same = |r: &&Record| r.uid == record.uid && r.number == record.number;
                // Created only, never written over.
                if self.records.iter().find(same).is_none() {
                    self.records.push((**record).clone());
                }
            }
            Step::Annotate(_, record) => {
                if self.namespace {
                    self.annotation = Some(record.seal());
                }
            }
            Step::Release(exact, left, record) => {
                assert_eq!(*left, ["else/where"], "others' finalizers stay");
                assert!(self.records.contains(record), "let go without a record: {self:#?}");
                if self.exact(exact).is_some() {
                    // Whoever has the other finalizer lets it go as well.
                    self.live = None;
                }
            }
            Step::Create(record) => {
                if self.live.is_none() && self.crd == CrdState::Served {
                    self.uids += 1;
                    self.live = Some(Entity {
                        uid: self.uids,
                        version: 1,
                        spec: record.object["spec"]["n"].as_u64().unwrap().try_into().unwrap(),
                        terminating: false,
                        mark: Some(record.uid.clone()),
                        in_deletion: false,
                        told: None,
                        has_status: false,
                    });
                }
            }
            Step::PutBack(exact, status) => {
                assert_eq!(*status, json!({ "objects": ["o"] }));
                let same = self.live.as_mut().filter(|e| e.uid.to_string() == exact.uid);
                if let Some(live) = same {
                    live.has_status = true;
                    live.version += 1;
                }
            }
            Step::ClearNamespaces(_) => self.annotation = None,
            Step::Close(record, _) => self.closed.push(record.uid.clone()),
            Step::Unmark(exact) => {
                if let Some(live) = self.exact(exact) {
                    live.mark = None;
                }
            }
            Step::Wait(_) | Step::Forget => {}
        }
        self.closed.sort();
        self.closed.dedup();
    }

    fn of(&mut self, facts: &Facts) -> Option<&mut Entity> {
        let uid = &facts.live.as_ref()?.uid;
        self.live.as_mut().filter(|e| e.uid.to_string() == *uid)
    }

    /// What others do; none when it cannot happen now.
    fn happens(&self, event: Event) -> Option<Self> {
        let mut world = self.clone();
        let w = &mut world;
        let own = w.live.as_ref().map(|e| e.uid);
        let request = w.request.filter(|(uid, _)| Some(*uid) == own).map(|(_, r)| r);
        let set = |w: &mut Self, request| w.request = own.map(|uid| (uid, request));
        let touch = |w: &mut Self, touch: &dyn Fn(&mut Entity)| {
            let live = w.live.as_mut()?;
            touch(live);
            live.version += 1;
            Some(())
        };
        match event {
            Event::Delete => {
                let fine = w.deletes > 0 && w.live.as_ref().is_some_and(|e| !e.terminating);
                fine.then_some(())?;
                w.deletes -= 1;
                touch(w, &|e| e.terminating = true)?;
            }
            Event::Edit => {
                (w.edits > 0 && w.live.is_some()).then_some(())?;
                w.edits -= 1;
                w.spec = 7;
                touch(w, &|e| e.spec = 7)?;
            }
            Event::Cancel => {
                let held = w.live.as_ref().is_some_and(|e| e.in_deletion);
                (request == Some(RequestFacts::Open) && !held).then_some(())?;
                set(w, RequestFacts::Kept);
            }
            Event::RemoveRequest => {
                (request == Some(RequestFacts::Kept)).then_some(())?;
                w.request = None;
            }
            Event::Hold => {
                // Gate 1: not what is being created anew; and only the operator's own request.
                let fine = w.live.as_ref().is_some_and(|e| !e.in_deletion && e.mark.is_none());
                (request == Some(RequestFacts::Open) && fine).then_some(())?;
                touch(w, &|e| e.in_deletion = true)?;
            }
            Event::Release => {
                w.live.as_ref().is_some_and(|e| e.in_deletion).then_some(())?;
                touch(w, &|e| e.in_deletion = false)?;
                set(w, RequestFacts::Kept);
            }
            Event::Purge => {
                w.live.as_ref().is_some_and(|e| e.in_deletion).then_some(())?;
                set(w, RequestFacts::Completed);
                w.live = None;
                w.purged = true;
            }
            Event::DeleteCrd => {
                (w.crds > 0 && w.crd == CrdState::Served).then_some(())?;
                w.crds -= 1;
                w.crd = CrdState::Terminating;
                touch(w, &|e| e.terminating = true);
            }
            Event::CrdGoes => {
                (w.crd == CrdState::Terminating && w.live.is_none()).then_some(())?;
                w.crd = CrdState::Absent;
            }
            Event::CrdComes => {
                (w.crd == CrdState::Absent).then_some(())?;
                w.crd = CrdState::Served;
            }
            Event::RequestsCrdGoes => {
                let held = w.live.as_ref().is_some_and(|e| e.in_deletion);
                (w.requests_crd == CrdState::Served && !held).then_some(())?;
                w.requests_crd = CrdState::Absent;
                w.request = None;
            }
            Event::RequestsCrdComes => {
                (w.requests_crd == CrdState::Absent).then_some(())?;
                w.requests_crd = CrdState::Served;
            }
            Event::SomebodyCreates => {
                let fine = w.live.is_none() && w.crd == CrdState::Served;
                (w.creates > 0 && fine && !w.purged).then_some(())?;
                w.creates -= 1;
                w.uids += 1;
                w.foreign = true;
                w.spec = 9;
                w.live = Some(Entity {
                    uid: w.uids,
                    version: 1,
                    spec: 9,
                    terminating: false,
                    mark: None,
                    in_deletion: false,
                    told: None,
                    has_status: true,
                });
            }
            Event::SiteBusy => {
                let app = w.kind == TargetKind::App && w.site == SiteStands::Steady;
                app.then_some(())?;
                w.site = SiteStands::Busy;
            }
            Event::SiteComing => {
                (w.site == SiteStands::Busy).then_some(())?;
                w.site = SiteStands::Coming;
            }
            Event::SiteSteady => {
                (w.site != SiteStands::Steady).then_some(())?;
                w.site = SiteStands::Steady;
            }
            Event::NamespaceGoes => {
                // Only with its Site's purge, which takes the App with it.
                let fine = w.kind == TargetKind::App && w.namespace && w.live.is_none();
                (fine && w.site == SiteStands::Busy).then_some(())?;
                w.namespace = false;
                w.purged = true;
            }
        }
        Some(world)
    }

    /// Nothing is lost: it lives as it should, or the store can give it back as it should be.
    fn check(&self) {
        if self.purged {
            assert!(self.live.is_none(), "created anew though it was purged: {self:#?}");
            return;
        }
        let lives = self.live.as_ref().is_some_and(|e| e.spec == self.spec);
        let recorded = self.open_record().is_some_and(|r| r.object == object(self.spec));
        assert!(lives || self.live.is_none() && recorded, "lost: {self:#?}");
    }

    /// When everything that was asked for is decided, and the kinds are there: the end.
    fn check_end(&self) {
        let mut world = self.clone();
        for _ in 0..60 {
            for event in [
                Event::CrdGoes,
                Event::CrdComes,
                Event::RequestsCrdComes,
                Event::SiteSteady,
                Event::Release,
                Event::Cancel,
            ] {
                world = world.happens(event).unwrap_or(world);
            }
            let facts = world.facts();
            let step = decide(&facts, now());
            world.act(&facts, &step);
            world.check();
            if step == Step::Forget && world.crd == CrdState::Served {
                let open = world.open_record();
                assert!(open.is_none(), "a record stays open: {world:#?}");
                assert_eq!(world.annotation, None, "{world:#?}");
                match &world.live {
                    Some(live) => {
                        assert!(!live.terminating && live.mark.is_none(), "{world:#?}");
                        assert!(live.has_status, "its status was not put back: {world:#?}");
                    }
                    None => assert!(world.purged, "it did not come back: {world:#?}"),
                }
                return;
            }
        }
        panic!("it comes to no end: from {self:#?} to {world:#?}");
    }
}

/// Every state that can be reached; how many there are, and by which steps.
fn explore(kind: TargetKind) -> (usize, HashSet<String>) {
    let mut seen = HashSet::new();
    let mut steps = HashSet::new();
    let mut open = vec![World::new(kind)];
    while let Some(world) = open.pop() {
        // Versions only tell one state from the next.
        let mut normal = world.clone();
        if let Some(live) = &mut normal.live {
            live.version = 0;
        }
        if !seen.insert(format!("{normal:?}")) {
            continue;
        }
        world.check();
        world.check_end();
        let facts = world.facts();
        let step = decide(&facts, now());
        steps.insert(format!("{step:?}").split('(').next().unwrap_or_default().to_owned());
        let mut next = world.clone();
        next.act(&facts, &step);
        open.push(next);
        for event in EVENTS {
            let Some(after) = world.happens(event) else { continue };
            // The step was decided before, and is carried out after.
            let mut late = after.clone();
            late.act(&facts, &step);
            open.extend([after, late]);
        }
    }
    (seen.len(), steps)
}

#[test]
fn a_site_is_never_lost_and_comes_back_from_everywhere() {
    let (states, steps) = explore(TargetKind::Site);
    println!("{states} states");
    assert!(states > 500, "{states}");
    assert_eq!(steps.len(), 12, "every step was taken: {steps:?}");
}

#[test]
fn an_app_is_never_lost_and_comes_back_from_everywhere() {
    let (states, steps) = explore(TargetKind::App);
    println!("{states} states");
    assert!(states > 500, "{states}");
    // Its record is on no namespace.
    assert_eq!(steps.len(), 10, "every step was taken: {steps:?}");
}

#[test]
fn what_is_too_large_for_a_namespace_is_in_the_store_alone() {
    let mut world = World::new(TargetKind::Site);
    world = world.happens(Event::Delete).unwrap();
    for _ in 0..2 {
        let facts = world.facts();
        world.act(&facts, &decide(&facts, now()));
    }
    world = world.happens(Event::Cancel).unwrap();
    let mut facts = world.facts();
    let live = facts.live.as_mut().unwrap();
    live.object["metadata"]["annotations"] = json!({ "large": "x".repeat(200_000) });
    let Step::Record(record) = decide(&facts, now()) else { panic!("it is not recorded") };
    facts.record = Some(*record);
    assert!(matches!(decide(&facts, now()), Step::Release(..)));
}

#[test]
fn a_restored_etcd_does_not_create_a_second_one() {
    let world = World::new(TargetKind::Site);
    let mut facts = world.facts();
    let live = facts.live.clone().unwrap();
    facts.record = Some(record(&facts, &live, 1, now()));
    assert!(matches!(decide(&facts, now()), Step::Close(_, Closing::Exists)));
}

#[test]
fn the_message_says_what_to_do() {
    let told = |request: Option<&str>| UnexpectedDelete {
        request_ref: request.map(|name| ObjectRef { name: name.to_owned() }),
        observed_time: now(),
    };
    let message = |kind, told: Option<&UnexpectedDelete>| {
        stands_still(kind, "acme", false, true, told).expect("it stands still").1
    };
    let asked = message(TargetKind::Site, Some(&told(Some("unexpected-delete-x"))));
    assert!(asked.contains("kubectl delete dreq unexpected-delete-x"), "{asked}");
    assert!(asked.contains("nothing of the tenant is touched"), "{asked}");
    let app = message(TargetKind::App, Some(&told(Some("unexpected-delete-y"))));
    assert!(app.contains("kubectl delete dreq unexpected-delete-y"), "{app}");
    assert!(message(TargetKind::Site, None).contains("is being opened"));
    assert_eq!(stands_still(TargetKind::Site, "acme", false, false, None), None);
    let text = reason(TargetKind::App, &"a".repeat(253), now());
    assert!(text.len() <= 1024, "{}", text.len());
}
