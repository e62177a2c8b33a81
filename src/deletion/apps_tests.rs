//! The steps of the purge of one App.

use serde_json::json;

use super::*;
use crate::deletion::fixtures::{app_facts, at, claim};
use crate::deletion::observe::Facts;
use crate::deletion::purge::{self, Step};

fn object(name: &str, uid: &str) -> OwnObject {
    OwnObject {
        kind: "Deployment".into(),
        path: "/apis/apps/v1/namespaces/a/deployments".into(),
        exact: Exact { name: name.into(), uid: uid.into(), resource_version: "1".into() },
        deleting: false,
        finalizers: vec![],
    }
}

fn app(facts: &mut Facts) -> &mut AppFacts {
    facts.apps.values_mut().next().unwrap()
}

fn step(facts: &Facts) -> Next {
    let live = facts.app("a", "wiki").unwrap();
    purge::next(&live.planned(), live, "r", "ru")
}

fn steps(facts: &Facts) -> Vec<Step> {
    match step(facts) {
        Next::Steps(steps) => steps,
        other => panic!("{other:?}"),
    }
}

fn purging() -> Facts {
    let mut facts = app_facts("a", json!({}));
    let app = app(&mut facts);
    let mark = mark("r", "ru", DeletionPhase::Purging);
    app.app.status.get_or_insert_default().deletion = Some(mark);
    app.objects = vec![object("web", "wu-a-web")];
    facts
}

fn going() -> Facts {
    let mut facts = purging();
    app(&mut facts).app.metadata.deletion_timestamp = serde_json::from_value(json!(at(0))).unwrap();
    facts
}

#[test]
fn marked_then_its_own_delete_then_its_objects_then_let_go() {
    let facts = app_facts("a", json!({}));
    assert!(matches!(steps(&facts).as_slice(), [Step::MarkApp(..)]));
    let facts = purging();
    let all = steps(&facts);
    let [first @ Step::DeleteApp(..)] = all.as_slice() else { panic!("{all:?}") };
    // The store is not told that it is gone while all of it lives.
    assert!(!first.is_last_of("au-a-wiki"));
    let live = facts.app("a", "wiki").unwrap();
    assert!(!live.has_started(&live.planned()));
    let mut facts = going();
    let live = facts.app("a", "wiki").unwrap();
    assert!(live.has_started(&live.planned()));
    let all = steps(&facts);
    let [Step::DeleteObject(object, user)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(object.exact.uid, "wu-a-web");
    assert_eq!(user, "system:serviceaccount:a:reprieve-app");
    app(&mut facts).objects[0].deleting = true;
    app(&mut facts).objects[0].finalizers = vec!["x/y".into()];
    assert!(matches!(step(&facts), Next::Wait(why) if why.contains("x/y")));
    app(&mut facts).objects.clear();
    let all = steps(&facts);
    let [last @ Step::FinishApp(_, _, left)] = all.as_slice() else { panic!("{all:?}") };
    assert!(left.is_empty() && last.is_last_of("au-a-wiki"));
    assert!(!last.is_last_of("another"), "an App that goes with its Site");
}

#[test]
fn without_our_finalizer_or_a_look_at_its_objects_nothing_of_it_goes() {
    let mut bare = purging();
    app(&mut bare).app.metadata.finalizers = None;
    assert!(matches!(step(&bare), Next::Stalled(why) if why.contains("lacks the finalizer")));
    // Its objects are unknown, not gone.
    for mut facts in [purging(), going()] {
        app(&mut facts).objects.clear();
        app(&mut facts).unread = Some("no such kind".into());
        assert!(matches!(step(&facts), Next::Stalled(why) if why == "no such kind"));
        app(&mut facts).past_guard = true;
        let live = facts.app("a", "wiki").unwrap();
        assert!(!live.has_started(&live.planned()), "it can still be created anew");
    }
}

fn owner(uid: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": uid,
    }))
    .unwrap()
}

#[test]
fn claims_are_disowned_before_their_stateful_set_goes_and_disks_hold_it() {
    let mut facts = going();
    let mut data = claim("a", "data-web-0", "Retain");
    data.owners = vec![owner("wu-a-web"), owner("other")];
    facts.sites.get_mut("a").unwrap().claims = vec![data];
    app(&mut facts).objects[0].kind = "StatefulSet".into();
    let all = steps(&facts);
    let [Step::Disown(_, exact, left)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((exact.name.as_str(), left.as_slice()), ("data-web-0", &[owner("other")][..]));
    facts.sites.get_mut("a").unwrap().claims[0].owners = vec![];
    assert!(matches!(steps(&facts).as_slice(), [Step::DeleteObject(..)]));

    let mut facts = purging();
    let mut data = claim("a", "data-web-0", "Delete");
    data.owners = vec![owner("wu-a-web")];
    facts.sites.get_mut("a").unwrap().claims = vec![data];
    assert!(matches!(step(&facts), Next::Stalled(why) if why.contains("a/data-web-0")));
    // A claim of somebody else in the site is none of the App's.
    facts.sites.get_mut("a").unwrap().claims = vec![claim("a", "other", "Delete")];
    assert!(matches!(steps(&facts).as_slice(), [Step::DeleteApp(..)]));
}

/// T19: what is the App's is known by UID.
#[test]
fn only_what_is_its_own_is_held() {
    let mut facts = app_facts("a", json!({}));
    let site = facts.sites.get_mut("a").unwrap();
    let mut other = site.held[0].clone();
    other.exact.uid = "somebody-elses".into();
    site.held.push(other);
    let live = facts.app("a", "wiki").unwrap();
    let held: Vec<&str> = live.workloads().map(|w| w.exact.uid.as_str()).collect();
    assert_eq!(held, ["wu-a-web"]);
}

#[test]
fn claims_that_its_stateful_sets_made_are_its_own() {
    let mut facts = app_facts("a", json!({}));
    let site = facts.sites.get_mut("a").unwrap();
    site.held[0].claim_templates = vec!["data".into()];
    let names = ["data-web-0", "data-web-12", "data-web-x", "data-web-", "data-webs-0", "data"];
    site.claims = names.iter().map(|n| claim("a", n, "Delete")).collect();
    site.claims.push(claim("other", "data-web-0", "Delete"));
    let live = facts.app("a", "wiki").unwrap();
    let own: Vec<&str> = live.claims().map(|c| c.name.as_str()).collect();
    assert_eq!(own, ["a/data-web-0", "a/data-web-12"]);
}
