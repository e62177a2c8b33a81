//! Values by number, each of them once: states of the model are then small, and equal exactly when
//! what they stand for is.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// The number of a value in its pool.
pub type Id = u32;

/// Values by number. Two are the same when they are written the same by `Debug`; what is compared
/// of that text is 128 bits of a hash.
pub struct Pool<T> {
    all: Vec<Rc<T>>,
    ids: HashMap<(u64, u64), Id>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { all: vec![], ids: HashMap::new() }
    }
}

impl<T: Debug> Pool<T> {
    /// The number of this value.
    pub fn put(&mut self, value: T) -> Id {
        let mut text = String::with_capacity(4096);
        write!(text, "{value:?}").expect("it can be written");
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, &text).hash(&mut hasher);
            hasher.finish()
        };
        let next = Id::try_from(self.all.len()).expect("fewer values");
        let id = *self.ids.entry((hash(0), hash(1))).or_insert(next);
        if id == next {
            self.all.push(Rc::new(value));
        }
        id
    }

    /// The value of this number.
    pub fn get(&self, id: Id) -> Rc<T> {
        self.all[id as usize].clone()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }
}
