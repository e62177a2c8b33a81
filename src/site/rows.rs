//! What is known of the fleet from its watches, and who has to look again when a part of it
//! changes. Pure: the watches are in `fleet`.

use std::collections::{BTreeSet, HashMap};

use super::table::{Change, Table};
use crate::api::{
    App, ConditionType, Conditions, Deletion, NamespaceRef, Site, SiteState, TargetKind, Time,
    names,
};
use crate::cluster::Holder;

/// What concerns others of a Site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteRow {
    uid: String,
    id: String,
    namespaces: Vec<String>,
    policy: String,
    deletion: Option<Deletion>,
    restore: Option<String>,
    awaiting: bool,
    recreating: bool,
    deleted: bool,
    recorded: Vec<NamespaceRef>,
}

/// What concerns others of an App.
#[derive(Clone, Debug, PartialEq)]
pub struct AppRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    uid: String,
    id: String,
    /// Whether it is ready.
    pub ready: bool,
}

/// What is known of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRow {
    /// UID.
    pub uid: String,
    /// The Site that owns it, by its label.
    pub site: Option<String>,
    /// The Site by which it consents to be taken in, by its annotation.
    pub adopt: Option<String>,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// What is known of the binding of the account for Apps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingRow {
    /// What it binds to, in words, where that is not the ClusterRole that it should be.
    pub wrong_role: Option<String>,
    /// Whether the account is bound by it.
    pub binds_account: bool,
    /// When it was made.
    pub made: Option<Time>,
}

/// The account for Apps in a namespace, and its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// As they should be; since when.
    There(Option<Time>),
    /// One of the two is not there.
    Missing,
    /// The binding names somebody else.
    Unbound,
    /// The binding is to something else, in words.
    WrongRole(String),
}

/// All of it.
#[derive(Debug, Default)]
pub struct Rows {
    /// By name.
    pub sites: Table<SiteRow>,
    /// By `namespace/name`.
    pub apps: Table<AppRow>,
    /// By name.
    pub namespaces: Table<NamespaceRow>,
    /// The accounts for Apps, by namespace.
    pub accounts: Table<String>,
    /// Their bindings, by namespace.
    pub bindings: Table<BindingRow>,
    /// The ClusterRole of these accounts, by name.
    pub roles: Table<()>,
    /// The policies, by name.
    pub policies: Table<()>,
    ids: HashMap<String, BTreeSet<Holder>>,
    claims: HashMap<String, BTreeSet<String>>,
    apps_in: HashMap<String, BTreeSet<String>>,
}

/// Who has to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Again {
    /// Sites, by name.
    pub sites: BTreeSet<String>,
    /// Apps, by namespace and name.
    pub apps: BTreeSet<(String, String)>,
    /// Sites that have a moment, because more of the same will follow.
    pub sites_later: BTreeSet<String>,
}

impl SiteRow {
    /// The row of this Site.
    pub fn of(site: &Site) -> Self {
        let status = site.status.as_ref();
        let annotations = site.metadata.annotations.as_ref();
        Self {
            uid: site.metadata.uid.clone().unwrap_or_default(),
            id: site.spec.id.clone(),
            namespaces: site.namespace_names(),
            policy: site.spec.policy_ref.name.clone(),
            deletion: status.and_then(|s| s.deletion.clone()),
            restore: annotations.and_then(|a| a.get(names::ANNOTATION_RESTORE).cloned()),
            awaiting: status.is_some_and(|s| s.state == Some(SiteState::AwaitingRestore)),
            recreating: annotations.is_some_and(|a| a.contains_key(names::ANNOTATION_RECREATE)),
            deleted: site.metadata.deletion_timestamp.is_some(),
            recorded: status.map(|s| s.namespaces.clone()).unwrap_or_default(),
        }
    }

    fn holder(&self, name: &str) -> Holder {
        let (name, uid) = (name.to_owned(), self.uid.clone());
        Holder { kind: TargetKind::Site, name, namespace: None, uid }
    }
}

impl AppRow {
    /// The row of this App.
    pub fn of(app: &App) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let conditions = app.status.as_ref().map(|s| &s.conditions);
        Self {
            namespace: text(&app.metadata.namespace),
            name: text(&app.metadata.name),
            uid: text(&app.metadata.uid),
            id: app.spec.id.clone(),
            ready: conditions.is_some_and(|c| c.is_true(ConditionType::Ready)),
        }
    }

    fn holder(&self) -> Holder {
        Holder {
            kind: TargetKind::App,
            name: self.name.clone(),
            namespace: Some(self.namespace.clone()),
            uid: self.uid.clone(),
        }
    }
}

impl Rows {
    /// Whether every watch has told all that there is.
    pub fn is_complete(&self) -> bool {
        self.sites.is_complete()
            && self.apps.is_complete()
            && self.namespaces.is_complete()
            && self.accounts.is_complete()
            && self.bindings.is_complete()
            && self.roles.is_complete()
            && self.policies.is_complete()
    }

    /// Every entity that has this id.
    pub fn holders(&self, id: &str) -> Vec<Holder> {
        self.ids.get(id).into_iter().flatten().cloned().collect()
    }

    /// The Apps in this namespace.
    pub fn apps_in(&self, namespace: &str) -> impl Iterator<Item = &AppRow> {
        let names = self.apps_in.get(namespace).into_iter().flatten();
        names.filter_map(move |name| self.apps.get(&format!("{namespace}/{name}")))
    }

    /// The Site that names this namespace and awaits its restore.
    pub fn awaiting(&self, namespace: &str) -> Option<String> {
        let mut claims = self.claims.get(namespace).into_iter().flatten();
        claims.find(|name| self.sites.get(name).is_some_and(|site| site.awaiting)).cloned()
    }

    /// The account for Apps in this namespace.
    pub fn account(&self, namespace: &str) -> Account {
        match (self.accounts.get(namespace), self.bindings.get(namespace)) {
            (Some(_), Some(binding)) => match &binding.wrong_role {
                Some(role) => Account::WrongRole(role.clone()),
                None if binding.binds_account => Account::There(binding.made),
                None => Account::Unbound,
            },
            _ => Account::Missing,
        }
    }

    /// A Site has changed.
    pub fn site_changed(&mut self, change: &Change<SiteRow>) -> Again {
        let mut again = Again::default();
        let name = &change.key;
        if let Some(old) = &change.old {
            self.forget_id(&old.id, &old.holder(name), &mut again);
            for namespace in &old.namespaces {
                remove(&mut self.claims, namespace, name);
            }
        }
        if let Some(new) = &change.new {
            self.note_id(&new.id, new.holder(name), &mut again);
            for namespace in &new.namespaces {
                self.claims.entry(namespace.clone()).or_default().insert(name.clone());
            }
        }
        // Who is refused a namespace may get it when the owner goes, and an App its Site.
        let rows = change.old.iter().chain(&change.new);
        for namespace in rows.flat_map(|row| &row.namespaces) {
            again.sites.extend(self.claims.get(namespace).into_iter().flatten().cloned());
            self.apps_of(namespace, &mut again);
        }
        again.sites.remove(name);
        again
    }

    /// An App has changed.
    pub fn app_changed(&mut self, change: &Change<AppRow>) -> Again {
        let mut again = Again::default();
        if let Some(old) = &change.old {
            self.forget_id(&old.id, &old.holder(), &mut again);
            remove(&mut self.apps_in, &old.namespace, &old.name);
        }
        if let Some(new) = &change.new {
            self.note_id(&new.id, new.holder(), &mut again);
            self.apps_in.entry(new.namespace.clone()).or_default().insert(new.name.clone());
        }
        if let Some(row) = change.new.as_ref().or(change.old.as_ref()) {
            again.apps.remove(&(row.namespace.clone(), row.name.clone()));
            let owner = self.namespaces.get(&row.namespace).and_then(|n| n.site.clone());
            again.sites_later.extend(owner);
        }
        again
    }

    /// A namespace has changed.
    pub fn namespace_changed(&self, change: &Change<NamespaceRow>) -> Again {
        let mut again = Again::default();
        again.sites.extend(self.claims.get(&change.key).into_iter().flatten().cloned());
        self.apps_of(&change.key, &mut again);
        again
    }

    /// The account of this namespace, or its binding, has changed.
    pub fn account_changed(&self, namespace: &str) -> Again {
        let mut again = Again::default();
        again.sites.extend(self.namespaces.get(namespace).and_then(|n| n.site.clone()));
        self.apps_of(namespace, &mut again);
        again
    }

    /// The policy of this name came or went.
    pub fn policy_changed(&self, policy: &str) -> Again {
        let named = self.sites.iter().filter(|(_, site)| site.policy == policy);
        Again { sites: named.map(|(name, _)| name.clone()).collect(), ..Again::default() }
    }

    /// The role of the accounts came or went.
    pub fn role_changed(&self) -> Again {
        let sites = self.sites.iter().map(|(name, _)| name.clone()).collect();
        Again { sites, ..Again::default() }
    }

    fn apps_of(&self, namespace: &str, again: &mut Again) {
        for name in self.apps_in.get(namespace).into_iter().flatten() {
            again.apps.insert((namespace.to_owned(), name.clone()));
        }
    }

    fn forget_id(&mut self, id: &str, holder: &Holder, again: &mut Again) {
        if let Some(holders) = self.ids.get_mut(id) {
            holders.remove(holder);
            again.holders(holders);
            if holders.is_empty() {
                self.ids.remove(id);
            }
        }
    }

    fn note_id(&mut self, id: &str, holder: Holder, again: &mut Again) {
        let holders = self.ids.entry(id.to_owned()).or_default();
        again.holders(holders);
        holders.insert(holder);
    }
}

impl Again {
    fn holders(&mut self, holders: &BTreeSet<Holder>) {
        for holder in holders {
            match &holder.namespace {
                Some(namespace) => {
                    self.apps.insert((namespace.clone(), holder.name.clone()));
                }
                None => {
                    self.sites.insert(holder.name.clone());
                }
            }
        }
    }
}

fn remove(all: &mut HashMap<String, BTreeSet<String>>, key: &str, item: &str) {
    if let Some(items) = all.get_mut(key) {
        items.remove(item);
        if items.is_empty() {
            all.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
