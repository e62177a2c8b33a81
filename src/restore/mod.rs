//! Restores: deleted sites brought back from their archives, read back and compared.
//!
//! This room must not overwrite or delete anything that lives.
