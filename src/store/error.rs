//! What can be wrong with a store, or with an archive in it: one line each.

use super::archive::{FORMAT, Identity};

/// Why the store, or an archive in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no store.
    #[error("the store URL {url:?} cannot be used: {why}")]
    BadUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store cannot be written.
    #[error("the store {url} cannot be written: {why}")]
    Unwritable {
        /// The store.
        url: String,
        /// What it said.
        why: String,
    },
    /// The store cannot be read.
    #[error("the store {url} cannot be read: {why}")]
    Unreadable {
        /// The store.
        url: String,
        /// What it said.
        why: String,
    },
    /// A key cannot be used.
    #[error("{flag} {file} cannot be used: {why}")]
    BadKey {
        /// The flag that gives it.
        flag: &'static str,
        /// The file, or what else was given.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A catalogue entry is not what it should be.
    #[error("the catalogue entry {location} {damage}")]
    Entry {
        /// Where the entry lies.
        location: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A document is not what it should be.
    #[error("the file {location} of the store {damage}")]
    Document {
        /// Where it lies.
        location: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The archive is not what it should be.
    #[error("the archive {location} {damage}")]
    Archive {
        /// Where the archive lies.
        location: String,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// What is wrong with an archive, to be read after its location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// There is none.
    #[error("is not in the store")]
    Missing,
    /// It ends too early.
    #[error("is cut off: it ends before its manifest does")]
    Cut,
    /// Its bytes are not those that were written.
    #[error("is damaged: {0}")]
    Corrupt(String),
    /// It goes on after its end.
    #[error("is damaged: something follows its manifest")]
    Trailing,
    /// It is of a format that this version does not read.
    #[error("is of the format {0:?}; this version reads {FORMAT:?}")]
    Format(String),
    /// It is a catalogue entry of a format that this version does not read.
    #[error("is of the format {0:?}; this version reads {entry:?}", entry = super::catalogue::FORMAT)]
    UnknownEntry(String),
    /// It is of another site.
    #[error("is of {found}, not of {expected}")]
    ForeignSite {
        /// Whose archive was expected.
        expected: Box<Identity>,
        /// Whose it is.
        found: Box<Identity>,
    },
    /// An object is not the one that was written.
    #[error("is damaged: the object {0} does not match its digest")]
    Object(String),
    /// Nobody signed it.
    #[error(
        "is not signed, and only what is signed is taken: if it is yours all the same, \
         --allow-unsigned-archives takes it"
    )]
    Unsigned,
    /// Somebody signed it whose key is not trusted.
    #[error(
        "is signed with the key {0}, which is not trusted: if it is yours, give its public half by \
         --trusted-key-file"
    )]
    UnknownKey(String),
    /// It says that a trusted key signed it, which is not so.
    #[error("is not what was signed: its signature does not fit to the trusted key {0}")]
    Forged(String),
    /// It does not lie where it says.
    #[error("is of another place: it belongs to {0}")]
    Misplaced(String),
    /// Archive and catalogue entry don't fit together.
    #[error("is not the one of its catalogue entry: its {what} is {found}, not {expected}")]
    Unlisted {
        /// In what they differ.
        what: &'static str,
        /// What the entry says.
        expected: String,
        /// What the archive says.
        found: String,
    },
    /// It is encrypted to others.
    #[error(
        "is encrypted to {}, and no identity here fits: give one of theirs by --age-identity-file",
        .0.join(", ")
    )]
    NoIdentity(Vec<String>),
    /// It has another number of objects than it says.
    #[error("is damaged: it holds {found} objects, its manifest says {expected}")]
    Count {
        /// What the manifest says.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// Its objects are each whole, but not together what was written.
    #[error("is damaged: the digest over its {0} does not match its manifest")]
    Digest(&'static str),
    /// It is whole, but another one than was expected.
    #[error("is another one: its digest is {found}, not {expected}")]
    Other {
        /// The digest that was expected.
        expected: String,
        /// The digest that it has.
        found: String,
    },
}

impl StoreError {
    /// Whether trying again may help: it is the store that is at fault, not the archive.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unwritable { .. } | Self::Unreadable { .. } => true,
            Self::BadUrl { .. }
            | Self::BadKey { .. }
            | Self::Entry { .. }
            | Self::Document { .. }
            | Self::Archive { .. } => false,
        }
    }

    /// What to look at, for whoever starts the operator.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::BadUrl { .. } | Self::Unwritable { .. } | Self::Unreadable { .. } => {
                ": check --store-url and its volume or bucket"
            }
            Self::BadKey { .. }
            | Self::Entry { .. }
            | Self::Document { .. }
            | Self::Archive { .. } => "",
        }
    }

    pub(super) fn unwritable(url: &str, error: object_store::Error) -> Self {
        Self::Unwritable { url: url.to_owned(), why: super::trouble::describe(&error, url) }
    }

    pub(super) fn unreadable(url: &str, error: object_store::Error) -> Self {
        Self::Unreadable { url: url.to_owned(), why: super::trouble::describe(&error, url) }
    }
}
