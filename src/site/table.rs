//! What a watch has told so far, as rows by key: complete after the first list, kept while it is
//! listed anew. Pure.

use std::collections::{HashMap, HashSet};

/// Rows of one watch.
#[derive(Debug)]
pub struct Table<T> {
    rows: HashMap<String, T>,
    /// What the list that is under way has shown so far.
    listed: Option<HashSet<String>>,
    complete: bool,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Told<T> {
    /// A list begins.
    ListBegins,
    /// A row of that list.
    Listed(String, T),
    /// The list is complete: what it did not show is gone.
    ListEnds,
    /// A row is new or was changed.
    Changed(String, T),
    /// A row is gone.
    Gone(String),
}

/// A row that is not as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<T> {
    /// Key of the row.
    pub key: String,
    /// The row as it was. None: it was not there.
    pub old: Option<T>,
    /// The row as it is. None: it is gone.
    pub new: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), listed: None, complete: false }
    }
}

impl<T: Clone + PartialEq> Table<T> {
    /// Whether the first list is complete: before, an absent row means nothing.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The row of this key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.rows.get(key)
    }

    /// Every row.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.rows.iter()
    }

    /// Takes in what the watch tells; answers what has changed by it.
    pub fn take(&mut self, told: Told<T>) -> Vec<Change<T>> {
        match told {
            Told::ListBegins => {
                self.listed = Some(HashSet::new());
                vec![]
            }
            Told::Listed(key, row) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.set(key, row)
            }
            Told::Changed(key, row) => self.set(key, row),
            Told::Gone(key) => self.remove(key),
            Told::ListEnds => {
                self.complete = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> =
                    self.rows.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.into_iter().flat_map(|key| self.remove(key)).collect()
            }
        }
    }

    /// Sets a row that was learned otherwise: from the answer to a write.
    pub fn set(&mut self, key: String, row: T) -> Vec<Change<T>> {
        let old = self.rows.insert(key.clone(), row.clone());
        if old.as_ref() == Some(&row) {
            return vec![];
        }
        vec![Change { key, old, new: Some(row) }]
    }

    fn remove(&mut self, key: String) -> Vec<Change<T>> {
        let Some(old) = self.rows.remove(&key) else { return vec![] };
        vec![Change { key, old: Some(old), new: None }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_second_list_does_not_show_is_gone() {
        let mut table = Table::default();
        let key = |k: &str| k.to_owned();
        table.take(Told::ListBegins);
        for k in ["a", "b"] {
            assert_eq!(table.take(Told::Listed(key(k), 1)).len(), 1);
        }
        assert!(!table.is_complete());
        assert_eq!(table.take(Told::ListEnds), []);
        assert!(table.is_complete());
        assert_eq!(table.take(Told::Changed(key("a"), 1)), [], "nothing new");
        table.take(Told::Changed(key("c"), 3));
        table.take(Told::ListBegins);
        assert_eq!(table.get("b"), Some(&1), "it stays while the list goes on");
        table.take(Told::Listed(key("a"), 2));
        // An event of the same watch, between two pages of its list.
        let changes = table.take(Told::ListEnds);
        assert_eq!(changes.len(), 2);
        assert!(changes.iter().all(|c| c.new.is_none()), "{changes:?}");
        assert_eq!(table.get("a"), Some(&2));
        assert_eq!(table.take(Told::Gone(key("a"))).len(), 1);
        assert_eq!(table.take(Told::Gone(key("a"))), []);
    }
}
