//! A registry that knows whether it was lent.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::Registry;

/// The registry behind `/metrics`. Its own collectors never block; those of a program that it was lent to may.
#[derive(Debug)]
pub(crate) struct LentRegistry {
    registry: Registry,
    is_lent: AtomicBool,
}

impl LentRegistry {
    /// Creates one from a registry that has only collectors that never block.
    pub fn new(registry: Registry) -> Self {
        Self { registry, is_lent: AtomicBool::new(false) }
    }

    /// Returns the registry, for gathering.
    pub fn own(&self) -> &Registry {
        &self.registry
    }

    /// Returns the registry to a program that may register any collector, now or later: a registry is a shared handle.
    pub fn lend(&self) -> &Registry {
        self.is_lent.store(true, Ordering::Release);
        &self.registry
    }

    /// Returns whether it may have collectors that block.
    pub fn is_lent(&self) -> bool {
        self.is_lent.load(Ordering::Acquire)
    }
}
