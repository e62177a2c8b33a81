//! The purge, wave by wave: the first one small, then a share of the request each, with a pause in
//! between. Every gate is asked again before each wave, and for each entity of it. Pure.

use kube::ResourceExt;

use super::decide::{Decision, Effect, Ending, LOOK_AGAIN, end, short};
use super::gates::{Case, finish, permit, reserve, stricter};
use super::hold::{
    BLOCKED, NEXT, SOON, backups, first_closed, held, out_of_service, target, working,
};
use super::live::{Live, words};
use super::observe::next_entity;
use super::purge::{Next, next};
use crate::api::{
    ConditionType, Conditions, DeletionPhase, DeletionRequestStatus, EntityPhase, Plan, PlanEntity,
    Reason, RequestState, Time, Wave,
};
use crate::cluster::Note;

/// What an entity that is not begun waits for.
enum Turn {
    /// It is in the wave that is under way.
    Now,
    /// For the end of the pause after the wave before.
    Pause(Time),
    /// For a wave to begin.
    Begin,
}

/// Purges the next entity, or goes on with the one that was begun.
pub(super) fn purge(case: &Case<'_>, mut status: DeletionRequestStatus) -> Decision {
    let kind = case.facts.request.spec.target.kind;
    follow(case, &mut status);
    let Some(entity) = next_entity(&case.plan.entities) else {
        let purged = status.progress.as_ref().map_or(0, |p| p.purged);
        let message = format!(
            "{purged} {kind}s deleted; to bring them back, create a Restore with spec.source.deletionRequestRef.name: {}",
            case.facts.request.name_any()
        );
        let ending = Ending { state: RequestState::Completed, reason: Reason::Purged, message };
        return end(case.facts, status, ending, case.now);
    };
    let mut notes = vec![];
    // The others are still held.
    let backed_up = status.conditions.is_true(ConditionType::BackedUp);
    let mut effects = out_of_service(case, backed_up, &mut notes);
    let mut stalled = None;
    let mut message = None;
    let mut wait = SOON;
    match case.facts.live(entity) {
        None => {
            stalled = Some("its namespace, or its Site, is not as planned any more".to_owned());
        }
        Some(live) if live.has_started(entity) => {
            let (more, waits, held) = go_on(case, entity, live);
            effects.extend(more);
            (message, stalled) = (waits, held);
        }
        Some(live) => {
            effects.extend(backups(case));
            match (first_closed(&status), turn(case, &status, entity)) {
                (Some((reason, why)), _) => {
                    let full = reason == Reason::RollingLimitReached;
                    wait = if full { LOOK_AGAIN } else { BLOCKED };
                    message = Some(why);
                }
                (None, Turn::Pause(until)) => {
                    message = Some(format!("the next wave begins at {until}"));
                }
                (None, Turn::Begin) => {
                    let wave = begin(case, &mut status);
                    let what = format!("wave {} of {} {kind}s begins", wave.number, wave.entities);
                    notes.push(Note::normal(Reason::WaveBegun, what.clone()));
                    message = Some(what);
                    status.wave = Some(wave);
                }
                (None, Turn::Now) => {}
            }
            let waits = message.is_some();
            match permit(case, entity).filter(|_| !waits) {
                Some(token) => match step_after(case, entity, live) {
                    Next::Steps(steps) => {
                        // What begins is recorded before anything goes: an entity that is gone and
                        // was never recorded as begun was taken by somebody else.
                        let recorded = entity.phase == EntityPhase::Purging;
                        let steps = steps.into_iter().filter(|s| recorded || !s.is_delete());
                        effects.extend(steps.map(|step| Effect::Purge(token.clone(), step)));
                        set_phase(&mut status, entity, EntityPhase::Purging);
                    }
                    Next::Wait(why) => message = Some(why),
                    Next::Stalled(why) => stalled = Some(why),
                },
                None if !waits && let Some(place) = reserve(case, entity) => effects.push(place),
                None => {
                    let uid = case.facts.request_uid();
                    let begun =
                        live.deletion_by(&uid).is_some_and(|d| d.phase == DeletionPhase::Purging);
                    if begun {
                        // A gate closed before the point of no return: back to held, as which the
                        // site can also be backed up anew.
                        effects = vec![Effect::Hold(target(live), held(case))];
                        set_phase(&mut status, entity, EntityPhase::Held);
                    }
                }
            }
        }
    }
    let progress = status.progress.clone().unwrap_or_default();
    let doing =
        format!("{} of {} {kind}s purged; {}", progress.purged, progress.total, words(entity));
    status.message = Some(match stalled.as_ref().or(message.as_ref()) {
        Some(why) => format!("{doing}: {}", short(why)),
        None => doing,
    });
    working(case, &mut status, true, stalled);
    let requeue = if effects.is_empty() { wait } else { NEXT };
    Decision { effects, status, notes, requeue: Some(requeue) }
}

/// Brings the wave's own record up to what is seen.
fn follow(case: &Case<'_>, status: &mut DeletionRequestStatus) {
    let Some(wave) = &mut status.wave else { return };
    let of_wave = |e: &&PlanEntity| e.wave == Some(wave.number);
    let purged = |e: &PlanEntity| e.phase == EntityPhase::Purged;
    let all: Vec<&PlanEntity> = case.plan.entities.iter().filter(of_wave).collect();
    wave.purged = count(all.iter().filter(|e| purged(e)).count());
    if wave.end_time.is_none() && all.iter().all(|e| purged(e)) {
        wave.end_time = Some(case.now);
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Whether it is this entity's turn. One that was begun with and put back to held stays in its wave.
fn turn(case: &Case<'_>, status: &DeletionRequestStatus, entity: &PlanEntity) -> Turn {
    match &status.wave {
        Some(wave) if entity.wave == Some(wave.number) => Turn::Now,
        Some(Wave { end_time: Some(end), .. }) => {
            let pause = stricter(case).iter().map(|p| p.waves.pause_seconds).max().unwrap_or(0);
            let until = end.plus_seconds(pause);
            // Both clocks, as for the window.
            if case.now >= until && case.facts.api_time >= until {
                Turn::Begin
            } else {
                Turn::Pause(until)
            }
        }
        Some(_) | None => Turn::Begin,
    }
}

/// Begins the next wave: takes the next entities into it. This is the one place where that
/// happens; every gate was open in this very look, and nothing of the wave is purged before what
/// is returned here was written down.
fn begin(case: &Case<'_>, status: &mut DeletionRequestStatus) -> Wave {
    let number = status.wave.as_ref().map_or(1, |w| w.number + 1);
    let size = size(case, number);
    let mut entities = 0;
    let plan: Option<&mut Plan> = status.plan.as_mut();
    for entity in plan.into_iter().flat_map(|p| &mut p.entities) {
        let over = matches!(entity.phase, EntityPhase::Purged | EntityPhase::Released);
        if !over && entities < size {
            entity.wave = Some(number);
            entities += 1;
        }
    }
    Wave { number, entities, purged: 0, start_time: case.now, end_time: None }
}

/// How many entities a wave takes, by the stricter of the policy as planned and as it is now.
fn size(case: &Case<'_>, number: i64) -> i64 {
    let policies = stricter(case);
    if number == 1 {
        return policies.iter().map(|p| p.waves.first).min().unwrap_or(1).max(1);
    }
    let percent = policies.iter().map(|p| p.waves.max_percent).min().unwrap_or(1);
    (count(case.plan.entities.len()).saturating_mul(percent) / 100).max(1)
}

fn step_after(case: &Case<'_>, entity: &PlanEntity, live: Live<'_>) -> Next {
    next(entity, live, &case.facts.request.name_any(), &case.facts.request_uid())
}

type Progressed = (Vec<Effect>, Option<String>, Option<String>);

/// The next steps of an entity past its point of no return: effects, what is waited for, and what
/// holds it.
pub(super) fn go_on(case: &Case<'_>, entity: &PlanEntity, live: Live<'_>) -> Progressed {
    let Some(token) = finish(case, entity) else {
        let why =
            format!("something of {} is being deleted, and not by this request", words(entity));
        return (vec![], None, Some(why));
    };
    match step_after(case, entity, live) {
        Next::Steps(steps) => {
            let effects = steps.into_iter().map(|step| Effect::Purge(token.clone(), step));
            (effects.collect(), None, None)
        }
        Next::Wait(why) => (vec![], Some(why), None),
        Next::Stalled(why) => (vec![], None, Some(why)),
    }
}

pub(super) fn set_phase(
    status: &mut DeletionRequestStatus,
    entity: &PlanEntity,
    phase: EntityPhase,
) {
    let entities = status.plan.iter_mut().flat_map(|plan| &mut plan.entities);
    for found in entities.filter(|e| e.uid == entity.uid) {
        found.phase = phase;
    }
}

#[cfg(test)]
#[path = "waves_tests.rs"]
mod tests;
