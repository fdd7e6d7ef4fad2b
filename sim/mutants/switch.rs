//! Which planted bug is on; part of the copy of the tree that `cargo sim mutants` builds.

use std::sync::LazyLock;

static ON: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("IMGW_MUTANT").ok());

/// Whether the mutant of this name is on.
pub fn on(name: &str) -> bool {
    ON.as_deref() == Some(name)
}
