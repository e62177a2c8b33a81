//! Whether the Jobs of a Site's hooks can be created: tried by a dry run, as the site's account, when
//! the Site was written, and every minute while they cannot. So a typing error is told before a
//! backup or a restore needs the hook.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::observe::Facts;
use super::rows::Account;
use crate::api::{
    ConditionStatus, ConditionType, Conditions, Hook, Reason, Site, SiteStatus, Time,
};
use crate::cluster::hooks::{Checked, check};
use crate::cluster::{Context, Note};

/// How often those that cannot be created are tried again: a right may have been given.
const AGAIN: Duration = Duration::from_secs(60);
/// How soon a Site whose namespace is not set up yet is looked at again.
const SOON: Duration = Duration::from_secs(2);

/// What a dry run of a Site's hooks showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// None was made: nothing has changed, or it cannot be made now.
    No,
    /// Those that the API server does not take.
    Wrong(Vec<Checked>),
}

/// Remembers when which Site was tried. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Checker(Arc<Mutex<HashMap<String, Instant>>>);

impl Checker {
    /// Tries the hooks of a Site, if that is due. What the API server does not answer is tried with
    /// the next look.
    pub async fn look(&self, ctx: &Context, facts: &Facts) -> Tried {
        let site = &facts.site;
        let (uid, hooks) = (site.uid().unwrap_or_default(), all(site));
        if hooks.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            return Tried::No;
        }
        let Some(namespace) = namespace(facts).filter(|_| self.is_due(site, &uid)) else {
            return Tried::No;
        };
        match check(&ctx.client, &namespace, &hooks).await {
            Ok(wrong) => Tried::Wrong(wrong),
            Err(error) => {
                tracing::warn!(site = site.name_any(), %error, "cannot try the hooks of a Site");
                Tried::No
            }
        }
    }

    fn is_due(&self, site: &Site, uid: &str) -> bool {
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let late = tried.get(uid).is_none_or(|at| at.elapsed() >= AGAIN);
        let due = match said(site) {
            // The spec was written since.
            None => true,
            Some(ConditionStatus::True) => false,
            Some(_) => late,
        };
        if due {
            tried.insert(uid.to_owned(), Instant::now());
        }
        due
    }
}

/// Every hook of a Site, each with the name of its list.
fn all(site: &Site) -> Vec<(&'static str, Hook)> {
    let hooks = site.hooks();
    let before = hooks.before_backup.into_iter().map(|hook| ("beforeBackup", hook));
    before.chain(hooks.after_restore.into_iter().map(|of| ("afterRestore", of.hook))).collect()
}

/// The namespace in which they are run, once it is the Site's and has its account.
fn namespace(facts: &Facts) -> Option<String> {
    let first = facts.namespaces.first()?;
    let live = first.live.as_ref()?;
    let own = live.site.as_deref() == Some(facts.site.name_any().as_str()) && !live.terminating;
    (own && matches!(first.account, Account::There(_))).then(|| first.name.clone())
}

/// What the Site says of its hooks as they are now.
fn said(site: &Site) -> Option<ConditionStatus> {
    let conditions = &site.status.as_ref()?.conditions;
    let condition = conditions.get(ConditionType::HooksValid)?;
    (condition.observed_generation == site.metadata.generation).then_some(condition.status)
}

/// Says on the Site what is known of its hooks. Gives what to tell, and when to look again.
pub fn say(facts: &Facts, status: &mut SiteStatus, now: Time) -> (Option<Note>, Option<Duration>) {
    let conditions = &mut status.conditions;
    let hooks = all(&facts.site).len();
    if hooks == 0 {
        conditions.unset(ConditionType::HooksValid);
        return (None, None);
    }
    let Tried::Wrong(wrong) = &facts.hooks else {
        return match said(&facts.site) {
            Some(ConditionStatus::True) => (None, None),
            Some(_) => (None, Some(AGAIN)),
            None => (None, Some(SOON)),
        };
    };
    let (holds, reason, message) = match wrong.first() {
        None => {
            let message = format!("the Jobs of {hooks} hooks can be created");
            (ConditionStatus::True, Reason::HooksValid, message)
        }
        Some(_) => {
            let all = wrong.iter().map(|one| format!("spec.hooks.{}: {}", one.hook, one.why));
            let all = all.collect::<Vec<_>>().join("; ");
            (ConditionStatus::False, Reason::InvalidHook, all)
        }
    };
    let told = conditions.get(ConditionType::HooksValid).is_some_and(|c| c.message == message);
    let bad = holds == ConditionStatus::False;
    let note = (bad && !told).then(|| Note::warning(reason, message.clone()));
    let generation = facts.site.metadata.generation;
    conditions.set(ConditionType::HooksValid, holds, reason, message, generation, now);
    (note, bad.then_some(AGAIN))
}
