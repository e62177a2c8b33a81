//! The request that the operator opens for a Site that was deleted past the guard: it goes through
//! every gate although the Site has a deletionTimestamp, and no other request does.

use kube::{Resource, ResourceExt};

use super::decide::decide;
use super::fixtures::{Gated, annotate, at, facts};
use super::live::Live;
use super::plan::scope;
use super::world::{Crash, World};
use crate::api::{ConditionType, Conditions, EntityPhase, Reason, RequestState, names};

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn terminate(meta: &mut Meta) {
    meta.deletion_timestamp = serde_json::from_value(serde_json::json!(at(0))).unwrap();
}

/// A Site that was deleted past the guard with its App, and the operator's own request for it.
fn world() -> World {
    let mut world = World::new(&["a"]);
    annotate(&mut world.facts, names::ANNOTATION_REQUESTED_BY, names::OPERATOR_USER);
    let site = world.facts.sites.get_mut("a").unwrap();
    site.past_guard = true;
    terminate(site.site.meta_mut());
    terminate(site.apps[0].meta_mut());
    world
}

fn go_on(world: &mut World, people: &[&str], crash: Crash) {
    if world.state() == RequestState::AwaitingApproval {
        people.iter().for_each(|user| world.vote(user));
    }
    world.step(crash);
    world.others_act();
    world.time += 5;
}

const PEOPLE: [&str; 3] = ["ann", "bob", "eve"];

#[test]
fn it_is_purged_by_the_book_and_by_one_more_than_the_quorum() {
    let mut world = world();
    for _ in 0..50 {
        go_on(&mut world, &PEOPLE[..2], Crash::Never);
    }
    assert_eq!(world.state(), RequestState::AwaitingApproval);
    assert_eq!(world.facts.request.status.as_ref().unwrap().approvals_required, Some(3));
    for _ in 0..100 {
        go_on(&mut world, &PEOPLE, Crash::Never);
    }
    // The world has checked every invariant at each step.
    assert_eq!(world.state(), RequestState::Completed);
    let order: Vec<&str> =
        world.deletes.iter().map(|(_, step)| step.split('(').next().unwrap()).collect();
    assert_eq!(order, ["FinishApp", "DeleteNamespace", "FinishSite"]);
}

#[test]
fn a_crash_anywhere_comes_to_the_same_end() {
    for crash in [Crash::BeforeEffect(0), Crash::BeforeEffect(1), Crash::BeforeStatus] {
        for at in 0..40 {
            let mut world = world();
            for look in 0..150 {
                go_on(&mut world, &PEOPLE, if look == at { crash } else { Crash::Never });
            }
            assert_eq!(world.state(), RequestState::Completed, "{crash:?} in look {at}");
            assert!(world.facts.sites.is_empty());
        }
    }
}

#[test]
fn a_cancel_before_anything_went_lets_go_of_all_of_it() {
    for looks in 0..100 {
        let mut world = world();
        for _ in 0..looks {
            go_on(&mut world, &PEOPLE, Crash::Never);
        }
        if !world.deletes.is_empty() {
            assert!(looks > 10, "{looks}");
            return;
        }
        world.cancel();
        assert_eq!(world.run(50), RequestState::Cancelled, "after {looks} looks");
        assert_eq!(world.deletes, [], "after {looks} looks");
        let site = &world.facts.sites["a"];
        assert!(site.deletion().is_none() && site.namespaces.len() == 1, "after {looks} looks");
        assert!(!site.namespaces[0].annotations().contains_key(names::ANNOTATION_PURGE));
    }
    panic!("nothing was ever deleted");
}

#[test]
fn what_is_held_by_its_finalizer_has_not_begun_to_go() {
    let entity = facts(&["a"]).sites["a"].planned();
    let site = || world().facts.sites["a"].clone();
    assert!(!Live::Site(&site()).has_started(&entity));
    let mut other = site();
    other.past_guard = false;
    assert!(Live::Site(&other).has_started(&entity), "of any other request it has");
    let mut without_app = site();
    without_app.apps.clear();
    assert!(Live::Site(&without_app).has_started(&entity));
    let mut going = site();
    terminate(going.namespaces[0].meta_mut());
    assert!(Live::Site(&going).has_started(&entity));
}

#[test]
fn only_the_operators_own_request_may_mean_it() {
    let own = world().observe();
    assert_eq!(scope(&own).unwrap().entities.len(), 1);
    let mut somebodys = own.clone();
    annotate(&mut somebodys, names::ANNOTATION_REQUESTED_BY, "rita");
    somebodys.sites.get_mut("a").unwrap().past_guard = false;
    assert_eq!(scope(&somebodys).unwrap_err().reason, Reason::EntityNotActive);
    // And it means nothing else: a later Site with the same id, for example.
    let mut later = facts(&["a"]);
    annotate(&mut later, names::ANNOTATION_REQUESTED_BY, names::OPERATOR_USER);
    assert_eq!(scope(&later).unwrap_err().reason, Reason::EntityNotActive);
    let mut anew = facts(&["a"]);
    let site = &mut anew.sites.get_mut("a").unwrap().site;
    site.annotations_mut().insert(names::ANNOTATION_RECREATE.into(), "u".into());
    assert_eq!(scope(&anew).unwrap_err().reason, Reason::EntityNotActive);
}

/// A Site that people have approved to go, and that somebody deletes meanwhile past the guard.
#[test]
fn a_delete_past_the_guard_ends_a_request_that_holds_it() {
    for state in [RequestState::Held, RequestState::Purging] {
        let mut gated = Gated::new(&["a"]);
        gated.state = state;
        terminate(gated.live("a").site.meta_mut());
        let mut facts = gated.into_facts();
        for entity in &mut facts.request.status.as_mut().unwrap().plan.as_mut().unwrap().entities {
            entity.phase = EntityPhase::Held;
        }
        let decision = decide(&facts, at(1000));
        let ended = decision.status.conditions.get(ConditionType::Succeeded).unwrap();
        assert_eq!(ended.reason, "EntityNotActive", "{state:?}: {}", ended.message);
    }
}
