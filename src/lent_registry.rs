//! A registry that knows whether it was lent, and its text.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::Registry;

use crate::exposition::RegistryText;

/// The registry behind `/metrics`. Its own collectors never block; those of a program that it was lent to may.
#[derive(Debug)]
pub struct LentRegistry {
    text: RegistryText,
    is_lent: AtomicBool,
}

impl LentRegistry {
    /// Creates one from a registry that has only collectors that never block.
    pub fn new(registry: Registry) -> Self {
        Self { text: RegistryText::new(registry), is_lent: AtomicBool::new(false) }
    }

    /// Returns the registry, for gathering.
    pub fn own(&self) -> &Registry {
        self.text.registry()
    }

    /// Returns its text, for scrapes.
    pub fn text(&self) -> &RegistryText {
        &self.text
    }

    /// Returns the registry to a program that may register any collector, now or later: a registry is a shared handle.
    pub fn lend(&self) -> &Registry {
        self.is_lent.store(true, Ordering::Release);
        self.text.registry()
    }

    /// Returns whether it may have collectors that block.
    pub fn is_lent(&self) -> bool {
        self.is_lent.load(Ordering::Acquire)
    }
}
