//! Table tests of gate 1: what a request means.

use serde_json::json;

use super::*;
use crate::api::{ConditionType, Protection, names};
use crate::cluster::snapshots::ClaimSnapshot;
use crate::deletion::fixtures::*;

fn refused_for(facts: &Facts) -> Refused {
    scope(facts).expect_err("not refused")
}

fn app_holder(id: &str) -> (String, Vec<Holder>) {
    let holder = Holder {
        kind: TargetKind::App,
        name: "wiki".to_owned(),
        namespace: Some("acme".to_owned()),
        uid: "au".to_owned(),
    };
    (id.to_owned(), vec![holder])
}

#[test]
fn what_is_asked_for_is_planned_in_order_of_name() {
    let facts = facts(&["b", "a"]);
    let scope = scope(&facts).unwrap();
    let names: Vec<&str> = scope.entities.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(scope.entities[0].uid, "su-a");
    assert_eq!(scope.entities[0].apps[0].uid, "au-a-wiki");
    assert_eq!(scope.entities[0].namespaces[0].uid, "nu-a");
    assert_eq!(totals(&scope.entities).namespaces, 2);
}

#[test]
fn nothing_means_nothing() {
    let facts = asking(TargetKind::Site, &[], json!({}));
    assert_eq!(refused_for(&facts).reason, Reason::UnknownId);
}

/// What is changed in a request for the Sites `a` and `b`, and why all of it is refused then.
#[test]
fn one_offender_refuses_the_whole_request() {
    type Change = fn(&mut Facts);
    let table: &[(&str, Change, Reason)] = &[
        ("unknown", |f| drop(f.holders.remove("site-b")), Reason::UnknownId),
        ("gone meanwhile", |f| drop(f.sites.remove("b")), Reason::UnknownId),
        (
            "another one of that name",
            |f| f.sites.get_mut("b").unwrap().site.metadata.uid = Some("later".into()),
            Reason::UnknownId,
        ),
        ("of an App", |f| f.holders.extend([app_holder("site-b")]), Reason::EntityTypeMismatch),
        (
            "of a Site and of an App",
            |f| f.holders.get_mut("site-b").unwrap().extend(app_holder("").1),
            Reason::AmbiguousId,
        ),
        (
            "of two Sites",
            |f| {
                let twin = f.holders["site-a"][0].clone();
                f.holders.get_mut("site-b").unwrap().push(twin);
            },
            Reason::AmbiguousId,
        ),
        (
            "in an older request",
            |f| f.others = vec![other("o", at(-1), TargetKind::Site, &["site-b"])],
            Reason::InOtherRequest,
        ),
        (
            "its App in an older request",
            |f| f.others = vec![other("o", at(-1), TargetKind::App, &["app-b-wiki"])],
            Reason::InOtherRequest,
        ),
        (
            "no such policy",
            |f| f.sites.get_mut("b").unwrap().site.spec.policy_ref.name = "strict".into(),
            Reason::PolicyNotFound,
        ),
        ("held", |f| hold(f.sites.get_mut("b").unwrap(), "other", "Held"), Reason::EntityNotActive),
        (
            "being restored",
            |f| {
                let site = &mut f.sites.get_mut("b").unwrap().site;
                site.annotations_mut().insert(names::ANNOTATION_RESTORE.into(), "x".into());
            },
            Reason::EntityNotActive,
        ),
        (
            "being deleted",
            |f| {
                let site = &mut f.sites.get_mut("b").unwrap().site;
                site.metadata.deletion_timestamp = site_time();
            },
            Reason::EntityNotActive,
        ),
        (
            "names a namespace of the system",
            |f| {
                let site = f.sites.get_mut("b").unwrap();
                site.site.spec.namespaces = Some(vec!["b".into(), "kube-system".into()]);
                let mut system = namespace("", "kube-system");
                system.labels_mut().clear();
                site.namespaces.push(system);
            },
            Reason::EntityNotActive,
        ),
        (
            "names a namespace of another Site",
            |f| {
                let site = f.sites.get_mut("b").unwrap();
                site.site.spec.namespaces = Some(vec!["b".into(), "a".into()]);
                site.namespaces.push(namespace("a", "a"));
            },
            Reason::EntityNotActive,
        ),
        (
            "has a namespace that no backup would have",
            |f| f.sites.get_mut("b").unwrap().namespaces.push(namespace("b", "b-old")),
            Reason::EntityNotActive,
        ),
        (
            "lacks a namespace",
            |f| f.sites.get_mut("b").unwrap().namespaces.clear(),
            Reason::EntityNotActive,
        ),
    ];
    for (what, change, expected) in table {
        let mut facts = facts(&["a", "b"]);
        change(&mut facts);
        let refused = refused_for(&facts);
        assert_eq!(refused.reason, *expected, "{what}: {}", refused.message);
        assert_eq!(refused.refusals.len(), 1, "{what}");
        assert_eq!(refused.refusals[0].id, "site-b", "{what}");
        assert_eq!(refused.counts.len(), 1, "{what}");
        assert!(refused.message.contains("1 of 2 ids refused"), "{what}: {}", refused.message);

        let decision = step(&mut facts, at(0));
        assert_eq!(state(&decision), crate::api::RequestState::Refused, "{what}");
        assert_eq!(decision.effects, [], "{what}");
        assert_eq!(decision.status.plan.unwrap().entities, [], "{what}");
    }
}

fn site_time() -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time> {
    serde_json::from_value(json!(at(0))).unwrap()
}

#[test]
fn an_app_is_planned_with_its_site_and_its_objects() {
    let facts = app_facts("a", json!({}));
    let scope = scope(&facts).unwrap();
    let [entity] = scope.entities.as_slice() else { panic!("{:?}", scope.entities) };
    assert_eq!((entity.kind, entity.uid.as_str()), (TargetKind::App, "au-a-wiki"));
    assert_eq!(entity.site.as_ref().unwrap().uid, "su-a");
    assert_eq!(entity.namespaces[0].uid, "nu-a");
    let applied = entity.applied.as_ref().unwrap();
    // What left the manifests stays, and is not in it.
    let lines = "apps/v1 Deployment web wu-a-web\nv1 ConfigMap wiki mu-wiki\n";
    assert_eq!(applied.count, 2);
    assert_eq!(applied.digest, crate::cluster::form::digest_of(lines.as_bytes()));
    assert_eq!(scope.policy.name, "default");
}

/// What is changed in a request for the App `wiki` of Site `a`, and why it is refused then.
#[test]
fn an_app_that_cannot_be_asked_for() {
    type Change = fn(&mut Facts);
    let key = || ("a".to_owned(), "wiki".to_owned());
    let table: &[(&str, Change, Reason)] = &[
        ("gone meanwhile", |f| f.apps.clear(), Reason::UnknownId),
        ("its Site is gone", |f| f.sites.clear(), Reason::EntityNotActive),
        (
            "its Site in an older request",
            |f| f.others = vec![other("o", at(-1), TargetKind::Site, &["site-a"])],
            Reason::InOtherRequest,
        ),
        (
            "in an older request",
            |f| f.others = vec![other("o", at(-1), TargetKind::App, &["app-a-wiki"])],
            Reason::InOtherRequest,
        ),
        (
            "its Site is held",
            |f| hold(f.sites.get_mut("a").unwrap(), "other", "Held"),
            Reason::EntityNotActive,
        ),
        ("its policy is not there", |f| f.policies.clear(), Reason::PolicyNotFound),
    ];
    for (what, change, expected) in table {
        let mut facts = app_facts("a", json!({}));
        change(&mut facts);
        assert_eq!(refused_for(&facts).reason, *expected, "{what}");
    }
    for (field, value) in [
        ("/metadata/deletionTimestamp", json!(at(0))),
        ("/metadata/annotations", json!({ (names::ANNOTATION_RECREATE): "u" })),
        (
            "/status/deletion",
            json!({ "requestRef": { "name": "o" }, "requestUid": "o", "phase": "Held" }),
        ),
    ] {
        let mut facts = app_facts("a", json!({}));
        let app = &mut facts.apps.get_mut(&key()).unwrap().app;
        let mut value_of = json!(app);
        let (parent, last) = field.rsplit_once('/').unwrap();
        value_of.pointer_mut(parent).unwrap()[last] = value;
        *app = serde_json::from_value(value_of).unwrap();
        assert_eq!(refused_for(&facts).reason, Reason::EntityNotActive, "{field}");
    }
}

#[test]
fn an_id_of_the_wrong_kind_says_so_first() {
    let mut facts = asking(TargetKind::App, &["site-a", "app-1"], json!({}));
    add(&mut facts, site("a"));
    facts.holders.extend([app_holder("app-1")]);
    let refused = refused_for(&facts);
    assert_eq!(refused.reason, Reason::EntityTypeMismatch);
    assert!(refused.message.contains(r#""site-a" is no App, it is the id of Site a"#));
    let reasons: Vec<&str> = refused.refusals.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(reasons, ["EntityTypeMismatch", "UnknownId"]);
}

#[test]
fn disks_and_what_goes_on_are_named_and_what_nothing_protects_asks_for_an_override() {
    let mut facts = facts(&["a"]);
    let site = facts.sites.get_mut("a").unwrap();
    let lost = Claim { disk: crate::deletion::held::Disk::Lost, ..claim("a", "z", "Delete") };
    let unbound = Claim { disk: crate::deletion::held::Disk::Unbound, ..lost.clone() };
    let of = |name: &str, snapshot| Claim { name: name.into(), snapshot, ..lost.clone() };
    let ready = ClaimSnapshot::Ready { name: "s".into(), kept: false };
    let taken = of("a/taken", ready.clone());
    let late = of("a/late", ClaimSnapshot::NotReady("never".into()));
    // The disk itself is the better one: it holds what was written last.
    site.claims[0].snapshot = ready;
    site.claims.extend([Claim { name: "a/new".into(), ..unbound }, taken, late, lost]);
    site.held[0].scratch = true;
    site.held.push(workload("DaemonSet", "a", "agent", json!({})));
    let entity = scope(&facts).unwrap().entities.remove(0);
    let disks: Vec<(&str, Protection)> =
        entity.disks.iter().map(|d| (d.claim.as_str(), d.protection)).collect();
    // A claim that never had a disk has none to lose.
    assert_eq!(
        disks,
        [
            ("a/late", Protection::None),
            ("a/z", Protection::None),
            ("a/data", Protection::RetainedDisk),
            ("a/taken", Protection::Snapshot),
        ]
    );
    let snapshots: Vec<_> = entity.disks.iter().map(|d| d.snapshot.as_deref()).collect();
    assert_eq!(snapshots, [None, None, None, Some("s")]);
    assert_eq!((entity.claims, entity.unprotected), (5, 2));
    assert_eq!(entity.runs_on, ["DaemonSet/a/agent"]);
    assert_eq!(entity.scratch, ["Deployment/a/web"]);

    let decision = step(&mut facts.clone(), at(0));
    assert_eq!(state(&decision), crate::api::RequestState::Refused);
    assert_eq!(reason(&decision.status, ConditionType::WithinBlastRadius), "OverrideRequired");
    let within = decision.status.conditions.iter().find(|c| c.type_ == "WithinBlastRadius");
    let message = &within.unwrap().message;
    assert!(
        message.contains("a/late of Site a") && message.contains("snapshot never is not ready")
    );
    facts.request.spec.r#override = Some(crate::api::Override { justification: "known".into() });
    let decision = step(&mut facts, at(0));
    assert_eq!(state(&decision), crate::api::RequestState::AwaitingApproval);
    assert_eq!(decision.status.approvals_required, Some(3));
}

#[test]
fn the_mismatch_is_named_first_among_all_reasons() {
    let mut facts = facts(&["a", "b", "z"]);
    facts.holders.remove("site-a");
    facts.holders.get_mut("site-b").unwrap().extend(app_holder("").1);
    facts.holders.extend([app_holder("site-z")]);
    let refused = refused_for(&facts);
    assert_eq!(refused.reason, Reason::EntityTypeMismatch);
    assert_eq!(refused.refusals[0].id, "site-z");
    assert!(refused.message.contains("App acme/wiki"), "{}", refused.message);
}

#[test]
fn the_older_request_wins_then_the_smaller_uid() {
    let mine = ["site-a"];
    let table = [
        (other("older", at(-1), TargetKind::Site, &mine), true),
        (other("younger", at(1), TargetKind::Site, &mine), false),
        // Of the same second; the request's own UID is `ru`.
        (OpenRequest { uid: "ra".into(), ..other("o", at(0), TargetKind::Site, &mine) }, true),
        (OpenRequest { uid: "rz".into(), ..other("o", at(0), TargetKind::Site, &mine) }, false),
        (other("older", at(-1), TargetKind::Site, &["site-b"]), false),
        (other("older", at(-1), TargetKind::App, &["site-a"]), false),
        (other("older", at(-1), TargetKind::App, &["app-b-wiki"]), false),
        (other("younger", at(1), TargetKind::App, &["app-a-wiki"]), false),
    ];
    for (other, refused) in table {
        let mut facts = facts(&["a"]);
        facts.others = vec![other.clone()];
        assert_eq!(scope(&facts).is_err(), refused, "{other:?}");
    }
}

#[test]
fn several_policies_are_to_be_split() {
    let mut facts = facts(&["a", "b"]);
    let strict = PolicyFacts { name: "strict".into(), uid: None, spec: production() };
    facts.policies.insert("strict".into(), strict);
    facts.sites.get_mut("b").unwrap().site.spec.policy_ref.name = "strict".into();
    let refused = refused_for(&facts);
    assert_eq!(refused.reason, Reason::SeveralPolicies);
    assert!(refused.message.contains("default, strict"), "{}", refused.message);
    assert!(refused.message.contains("split"), "{}", refused.message);
}

/// The case of 2022: some hundred ids of the wrong kind.
#[test]
fn four_hundred_offenders_are_counted_and_twenty_shown() {
    let ids: Vec<String> = (0..400).map(|i| format!("id-{i:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut facts = asking(TargetKind::Site, &ids, json!({}));
    for id in &ids[..390] {
        facts.holders.extend([app_holder(id)]);
    }
    let refused = refused_for(&facts);
    assert_eq!(refused.refusals.len(), 20);
    assert!(refused.refusals.iter().all(|r| r.reason == "EntityTypeMismatch"));
    assert_eq!(refused.refusals[0].id, "id-000");
    let mut counts: Vec<(&str, i64)> =
        refused.counts.iter().map(|c| (c.reason.as_str(), c.count)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [("EntityTypeMismatch", 390), ("UnknownId", 10)]);
    assert!(refused.message.contains("400 of 400"), "{}", refused.message);
}

#[test]
fn ids_mean_what_they_say_to_the_letter() {
    for id in [
        "",
        " ",
        "site-a ",
        " site-a",
        "SITE-A",
        "site-\u{430}",
        "*",
        "site-*",
        "%",
        "site-a,site-b",
    ] {
        let mut facts = facts(&["a"]);
        facts.request.spec.target.ids = vec![id.to_owned()];
        assert_eq!(refused_for(&facts).reason, Reason::UnknownId, "{id:?}");
    }
}
