//! A request from its creation to its end: every gate, cancel, crash and replacement on the way.

use super::*;
use crate::api::{EntityPhase, RequestState};
use crate::deletion::decide::{Decision, Effect};
use crate::deletion::fixtures::{at, claim, namespace, production, reclaim, site, workload};
use crate::deletion::held::Disk;
use crate::deletion::world::{Crash, World};

fn deletes(decision: &Decision) -> usize {
    let destroys = |e: &&Effect| matches!(e, Effect::Purge(_, step) if step.is_delete());
    decision.effects.iter().filter(destroys).count()
}

/// One look, with the people's approvals where they are asked for, and time for others to act.
fn go_on(world: &mut World) {
    if world.state() == RequestState::AwaitingApproval {
        world.vote("ann");
        world.vote("bob");
    }
    world.step(Crash::Never);
    world.others_act();
    world.time += 5;
}

/// A world that was brought to the point at which `stop` says so.
fn until(sites: &[&str], stop: impl Fn(&World) -> bool) -> World {
    let mut world = World::new(sites);
    for _ in 0..400 {
        if stop(&world) {
            return world;
        }
        go_on(&mut world);
    }
    panic!("not reached; {:?}", world.facts.request.status);
}

fn at_purge(sites: &[&str]) -> World {
    until(sites, |w| w.state() == RequestState::Purging)
}

#[test]
fn from_the_dry_run_to_the_end() {
    let mut world = at_purge(&["a", "b"]);
    assert_eq!(world.deletes, []);
    assert!(world.time - world.all_held.unwrap() >= 60);
    assert_eq!(world.run(100), RequestState::Completed);
    assert!(world.facts.sites.is_empty());
    let order: Vec<String> = world
        .deletes
        .iter()
        .map(|(site, step)| format!("{site} {}", step.split('(').next().unwrap()))
        .collect();
    let one = ["DeleteApp", "FinishApp", "DeleteNamespace", "DeleteSite", "FinishSite"];
    let expected: Vec<String> =
        ["a", "b"].iter().flat_map(|s| one.iter().map(move |step| format!("{s} {step}"))).collect();
    assert_eq!(order, expected);
    let status = world.facts.request.status.unwrap();
    assert_eq!(status.progress.unwrap().purged, 2);
    let entities = status.plan.unwrap().entities;
    assert!(entities.iter().all(|e| e.backup.is_some() && e.purged_time.is_some()));
}

#[test]
fn nothing_is_destroyed_in_the_decision_that_records_the_beginning() {
    // An operator whose status is never written marks, and deletes nothing.
    let mut world = at_purge(&["a"]);
    for _ in 0..20 {
        assert_eq!(deletes(&world.step(Crash::BeforeStatus)), 0);
        world.others_act();
    }
    let mut world = at_purge(&["a"]);
    for _ in 0..20 {
        let before = world.phase("a");
        let decision = world.step(Crash::Never);
        if before != EntityPhase::Purging {
            assert_eq!(deletes(&decision), 0, "{:?}", decision.effects);
        } else if deletes(&decision) > 0 {
            return;
        }
        world.others_act();
    }
    panic!("nothing was deleted at all");
}

/// A site that changed after it was marked and before anything of it went: it is held again, which
/// is what the room of Backups needs to make another one, and goes then.
#[test]
fn a_site_that_changed_at_the_last_moment_is_backed_up_anew() {
    let mut world = until(&["a"], |w| {
        w.state() == RequestState::Purging && w.phase("a") == EntityPhase::Purging
    });
    assert_eq!(world.deletes, []);
    world.content.insert("a".into(), "c2".into());
    world.step(Crash::Never);
    assert_eq!(world.phase("a"), EntityPhase::Held);
    assert_eq!(world.facts.sites["a"].deletion().unwrap().phase, DeletionPhase::Held);
    assert_eq!(world.run(100), RequestState::Completed);
}

/// Destructive: each gate is taken out of the open state in turn, at the purge, before and after
/// the beginning was recorded.
#[test]
fn with_any_gate_closed_nothing_is_deleted() {
    type Change = fn(&mut World);
    let table: &[(&str, Change)] = &[
        ("scope: an App more", |w| {
            let app = crate::deletion::fixtures::app("a", "new");
            w.facts.sites.get_mut("a").unwrap().apps.push(app);
        }),
        ("scope: a namespace more", |w| {
            w.facts.sites.get_mut("a").unwrap().namespaces.push(namespace("a", "a-new"));
        }),
        ("scope: another tenant", |w| {
            w.facts.sites.get_mut("a").unwrap().site.spec.tenant.name = "other".into();
        }),
        ("limit", |w| {
            w.policies.get_mut("default").unwrap().spec.blast_radius.hard_max_entities = 1;
        }),
        ("guard gone", |w| w.set_guard(false, 1)),
        ("guard changed", |w| w.set_guard(true, 2)),
        ("quorum", |w| w.policies.get_mut("default").unwrap().spec.quorum.approvals = 3),
        ("window", |w| {
            w.policies.get_mut("default").unwrap().spec.retention.minimum_seconds = 9000;
        }),
        ("clock ahead", |w| w.skew = 10 * 365 * 86_400),
        ("clock behind", |w| w.skew = -3600),
        ("backups gone", |w| {
            w.store_works = false;
            w.facts.sites.values_mut().for_each(|s| s.backups.clear());
        }),
        ("content changed", |w| {
            w.store_works = false;
            w.content.insert("a".into(), "c2".into());
        }),
        ("disk", |w| w.facts.sites.get_mut("a").unwrap().claims[0].disk = Disk::Lost),
        ("production", |w| w.policies.get_mut("default").unwrap().spec = production()),
        ("policy gone", |w| w.policies.clear()),
        ("cancel", World::cancel),
        ("rejection", World::reject),
    ];
    for recorded in [false, true] {
        let ready = until(&["a", "b"], |w| {
            w.state() == RequestState::Purging
                && (!recorded || w.phase("a") == EntityPhase::Purging)
        });
        let mut control = ready.clone();
        assert_eq!(control.run(100), RequestState::Completed);
        for (what, change) in table {
            let mut world = ready.clone();
            change(&mut world);
            for _ in 0..30 {
                let decision = world.step(Crash::Never);
                assert_eq!(deletes(&decision), 0, "{what}, {:?}", decision.effects);
                world.others_act();
                world.time += 5;
            }
            assert_eq!(world.deletes, [], "{what}");
        }
    }
}

/// Cancel and rejection after each single look before the first DELETE, also with a crash in the
/// look that follows: everything is released, nothing deleted.
#[test]
fn an_end_before_the_first_delete_leaves_everything_as_it_was() {
    for end in [World::cancel, World::reject] {
        for crash in
            [Crash::Never, Crash::BeforeEffect(0), Crash::BeforeEffect(1), Crash::BeforeStatus]
        {
            let mut looks = 0;
            loop {
                let mut n = 0;
                let mut world = World::new(&["a", "b"]);
                while n < looks && world.deletes.is_empty() {
                    go_on(&mut world);
                    n += 1;
                }
                if !world.deletes.is_empty() {
                    assert!(looks > 15, "{looks}");
                    break;
                }
                end(&mut world);
                world.step(crash);
                let state = world.run(50);
                assert!(matches!(state, RequestState::Cancelled | RequestState::Refused));
                assert_eq!(world.deletes, [], "after {looks} looks");
                assert!(world.is_untouched("a") && world.is_untouched("b"), "after {looks} looks");
                looks += 1;
            }
        }
    }
}

#[test]
fn a_request_that_is_deleted_is_released_before_it_goes() {
    let mut world = until(&["a", "b"], |w| w.all_held.is_some());
    world.facts.request.metadata.deletion_timestamp =
        serde_json::from_value(serde_json::json!(at(0))).unwrap();
    for _ in 0..20 {
        if world.gone {
            break;
        }
        assert!(!world.facts.request.finalizers().is_empty());
        world.step(Crash::Never);
    }
    assert!(world.gone && world.is_untouched("a") && world.is_untouched("b"));
    assert_eq!(world.state(), RequestState::Cancelled);
}

#[test]
fn cancel_after_the_first_delete_finishes_that_entity_and_releases_the_others() {
    let mut world = until(&["a", "b", "c"], |w| !w.deletes.is_empty());
    world.cancel();
    assert_eq!(world.run(100), RequestState::Cancelled);
    assert!(!world.facts.sites.contains_key("a"), "finished");
    assert!(world.is_untouched("b") && world.is_untouched("c"));
    assert!(world.deletes.iter().all(|(site, _)| site == "a"));
    let phases = ["a", "b", "c"].map(|s| world.phase(s));
    assert_eq!(phases, [EntityPhase::Purged, EntityPhase::Released, EntityPhase::Released]);
}

/// GitOps wipes the annotation in the middle of the release.
#[test]
fn an_ending_that_has_begun_is_gone_through_with() {
    for looks in 1..8 {
        let mut world = until(&["a", "b"], |w| w.all_held.is_some());
        world.reject();
        for _ in 0..looks {
            world.step(Crash::Never);
        }
        world.facts.request.annotations_mut().remove("rejection.reprieve.dev/eve");
        world.version += 1;
        assert_eq!(world.run(300), RequestState::Refused, "after {looks} looks");
        assert!(world.is_untouched("a") && world.is_untouched("b"));
        let rejections = world.facts.request.status.unwrap().rejections;
        assert_eq!(rejections[0].user, "eve");
    }
    // A plan that had changed fits again.
    let mut world = until(&["a", "b"], |w| w.all_held.is_some());
    let apps = std::mem::take(&mut world.facts.sites.get_mut("b").unwrap().apps);
    world.step(Crash::Never);
    world.facts.sites.get_mut("b").unwrap().apps = apps;
    assert_eq!(world.run(300), RequestState::Cancelled);
    assert!(world.is_untouched("a") && world.is_untouched("b"));
}

/// Before the hold, in it, and at the purge.
#[test]
fn another_site_of_that_name_is_never_touched() {
    let points: [fn(&World) -> bool; 5] = [
        |w| w.state() == RequestState::AwaitingApproval,
        |w| w.state() == RequestState::Held,
        |w| w.all_held.is_some(),
        |w| w.state() == RequestState::Purging,
        |w| w.deletes.len() == 3,
    ];
    for (i, point) in points.into_iter().enumerate() {
        let mut world = until(&["a", "b"], point);
        let mut later = site("a");
        later.site.metadata.uid = Some("later".into());
        later.claims = vec![claim("a", "data", "Delete")];
        world.facts.sites.insert("a".into(), later.clone());
        world.run(300);
        let left = &world.facts.sites["a"];
        assert_eq!(left.site, later.site, "point {i}");
        assert_eq!((&left.apps, &left.namespaces), (&later.apps, &later.namespaces), "point {i}");
        assert!(world.is_untouched("a"), "point {i}");
    }
}

/// kill -9 before each effect and before each status, at every look: the same end.
#[test]
fn from_any_crash_the_same_end() {
    for crash in [
        Crash::BeforeEffect(0),
        Crash::BeforeEffect(1),
        Crash::BeforeEffect(2),
        Crash::BeforeStatus,
    ] {
        for doomed in 0..60 {
            let mut world = World::new(&["a", "b"]);
            for look in 0..400 {
                if world.state() == RequestState::AwaitingApproval {
                    world.vote("ann");
                    world.vote("bob");
                }
                world.step(if look == doomed { crash } else { Crash::Never });
                world.others_act();
                world.time += 5;
                if world.state().is_final() && world.facts.request.finalizers().is_empty() {
                    break;
                }
            }
            assert_eq!(world.state(), RequestState::Completed, "{crash:?} at {doomed}");
            assert!(world.facts.sites.is_empty());
            let plan = world.facts.request.status.unwrap().plan.unwrap();
            assert!(plan.entities.iter().all(|e| e.phase == EntityPhase::Purged));
        }
    }
}

/// The leader that was stopped before its first DELETE goes on after a cancel: every precondition
/// has changed.
#[test]
fn an_old_leader_deletes_nothing_that_was_released() {
    let mut world = at_purge(&["a"]);
    for _ in 0..30 {
        let facts = world.observe();
        let decision = crate::deletion::decide::decide(&facts, world.now());
        if deletes(&decision) > 0 {
            world.cancel();
            assert_eq!(world.run(30), RequestState::Cancelled);
            world.carry_out(&facts, &decision, Crash::Never);
            assert_eq!(world.deletes, []);
            assert!(world.is_untouched("a"));
            return;
        }
        world.carry_out(&facts, &decision, Crash::Never);
        world.others_act();
    }
    panic!("no delete was decided on");
}

#[test]
fn what_holds_a_purge_is_told() {
    type Change = fn(&mut World);
    let table: &[(Change, &str)] = &[
        (|w| reclaim(w.facts.sites.get_mut("a").unwrap(), "Delete"), "claim a/data"),
        (
            |w| {
                let spec = serde_json::json!({ "deletionPolicy": "Delete" });
                let content = workload("VolumeSnapshotContent", "a", "snap", spec);
                w.facts.sites.get_mut("a").unwrap().held.push(content);
            },
            "VolumeSnapshotContent snap would be deleted",
        ),
        (
            |w| w.facts.sites.get_mut("a").unwrap().namespaces.push(namespace("a", "a-new")),
            "namespace a-new is not in the plan",
        ),
        (
            |w| w.facts.sites.get_mut("a").unwrap().namespaces[0].labels_mut().clear(),
            "namespace a is not the Site's",
        ),
        (
            |w| {
                let mut new = crate::deletion::fixtures::app("a", "wiki");
                new.metadata.uid = Some("later".into());
                w.facts.sites.get_mut("a").unwrap().apps.push(new);
            },
            "App wiki is not in the plan",
        ),
    ];
    for (change, words) in table {
        // The App is gone, the namespace is not yet.
        let mut world = until(&["a"], |w| w.deletes.len() == 2);
        change(&mut world);
        let decision = world.step(Crash::Never);
        assert_eq!(deletes(&decision), 0, "{words}");
        let stalled = decision.status.conditions.iter().find(|c| c.type_ == "Stalled");
        let stalled = stalled.unwrap_or_else(|| panic!("not stalled: {words}"));
        assert!(stalled.message.contains(words), "{}", stalled.message);
    }
}

#[test]
fn what_others_delete_is_not_gone_on_with() {
    let mut world = until(&["a", "b"], |w| w.all_held.is_some());
    let time = serde_json::from_value(serde_json::json!(at(0))).unwrap();
    world.facts.sites.get_mut("a").unwrap().site.metadata.deletion_timestamp = Some(time);
    for _ in 0..60 {
        let decision = world.step(Crash::Never);
        assert_eq!(deletes(&decision), 0);
        world.others_act();
        world.time += 5;
    }
    world.cancel();
    assert_eq!(world.run(50), RequestState::Cancelled);
    assert!(world.is_untouched("b"));
}

#[test]
fn a_content_that_changed_is_backed_up_again_and_then_purged() {
    let mut world = at_purge(&["a"]);
    world.content.insert("a".into(), "c2".into());
    assert_eq!(world.run(100), RequestState::Completed);
    let plan = world.facts.request.status.unwrap().plan.unwrap();
    let backup = plan.entities[0].backup.clone().unwrap();
    assert_eq!(backup.digest, "c2");
    assert!(backup.name.ends_with("-2"), "{}", backup.name);
}

#[test]
fn a_backup_that_is_kept_too_short_is_kept_longer() {
    let mut world = at_purge(&["a"]);
    world.policies.get_mut("default").unwrap().spec.backup.keep_seconds = 90 * 86_400;
    let decision = world.step(Crash::Never);
    assert!(decision.effects.iter().any(|e| matches!(e, Effect::KeepLonger { .. })));
    assert_eq!(deletes(&decision), 0);
    assert_eq!(world.run(100), RequestState::Completed);
}

#[test]
fn the_window_begins_when_all_are_backed_up_and_held_and_the_clocks_agree() {
    let mut world = until(&["a", "b"], |w| w.state() == RequestState::Held);
    world.store_works = false;
    world.run(20);
    assert_eq!(world.all_held, None);
    let retention = |w: &World| w.facts.request.status.as_ref().unwrap().retention.clone();
    assert_eq!(retention(&world), None);
    world.store_works = true;
    // Three days behind: begun now, it would be over as soon as the clock is right.
    world.skew = -3 * 86_400;
    world.run(20);
    assert!(world.all_held.is_some());
    assert_eq!(retention(&world), None);
    world.skew = 0;
    let before = world.time;
    world.run(5);
    let window = retention(&world).unwrap();
    assert!(window.start_time >= at(before));
    assert_eq!(window.end_time.seconds_since(window.start_time), 60);
    assert_eq!(world.deletes, []);
}
