//! Whose queue it is: a state that was copied to another machine must not push under the labels of the original.

use std::fmt;

use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// 128 random bits, which a queue has from its first tick on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity([u8; 16]);

impl Identity {
    /// Creates one.
    pub(super) fn random() -> Self {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
        Self(bytes)
    }

    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns a number that is spread evenly over identities: a fleet's ticks do not march in step.
    pub fn hash(&self) -> u64 {
        let [first, second] = [0, 8].map(|begin| {
            let mut half = [0; 8];
            half.copy_from_slice(&self.0[begin..begin + 8]);
            u64::from_le_bytes(half)
        });
        first ^ second
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// A hash of the machine: its host name, and its machine id where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostHash(pub(super) i64);

impl HostHash {
    /// Returns the hash of this machine.
    pub fn of_this_machine() -> Self {
        let machine_id = std::fs::read("/etc/machine-id").unwrap_or_default();
        Self::of(rustix::system::uname().nodename().to_bytes(), &machine_id)
    }

    /// Returns the hash of a machine.
    pub fn of(host_name: &[u8], machine_id: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        // A length keeps the two apart.
        context.update(&(host_name.len() as u64).to_le_bytes());
        context.update(host_name);
        context.update(machine_id.trim_ascii());
        let mut first = [0; 8];
        first.copy_from_slice(&context.finish().as_ref()[..8]);
        Self(i64::from_le_bytes(first))
    }
}

/// The labels that each receiver's series are pushed under, in a canonical spelling: `name="value",...`, sorted by name.
pub type LabelSets = std::collections::BTreeSet<String>;

/// What a queue's identity is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identified {
    /// The queue is of this machine.
    Known(Identity),
    /// There was none: it is created.
    Created(Identity),
    /// The state was copied from another machine, and its labels differ: what was queued there is dropped.
    Copied(Identity),
    /// The state was copied from another machine, and would push under the same labels as the original. Nothing was changed.
    Refused,
}

impl Identified {
    /// Returns the identity to push with; `None` where pushing is refused.
    pub fn identity(self) -> Option<Identity> {
        match self {
            Self::Known(identity) | Self::Created(identity) | Self::Copied(identity) => Some(identity),
            Self::Refused => None,
        }
    }
}

/// Decides what the identity of a queue is that `stored` describes, on a machine that pushes under `label_sets`.
pub(super) fn identify(
    stored: Option<(Identity, HostHash, &LabelSets)>,
    host: HostHash,
    label_sets: &LabelSets,
    create: impl FnOnce() -> Identity,
) -> Identified {
    match stored {
        None => Identified::Created(create()),
        Some((identity, known, _)) if known == host => Identified::Known(identity),
        Some((_, _, labels)) if !labels.is_disjoint(label_sets) => Identified::Refused,
        Some(_) => Identified::Copied(create()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity = Identity::from_bytes([1; 16]);
    const OTHER: Identity = Identity::from_bytes([2; 16]);

    fn labels(sets: &[&str]) -> LabelSets {
        sets.iter().map(|set| (*set).to_owned()).collect()
    }

    #[test]
    fn a_copied_state_pushes_under_other_labels_only() {
        let (here, there) = (HostHash::of(b"laptop", b"1\n"), HostHash::of(b"laptop", b"2\n"));
        assert_ne!(here, there);
        assert_eq!(here, HostHash::of(b"laptop", b"1"), "the end of the line is no part of the id");
        let (a, b) = (labels(&["instance=\"a\""]), labels(&["instance=\"b\""]));
        let both = labels(&["instance=\"a\"", "instance=\"b\""]);
        let new = || OTHER;
        assert_eq!(identify(None, here, &a, new), Identified::Created(OTHER));
        assert_eq!(identify(Some((ONE, here, &a)), here, &a, new), Identified::Known(ONE));
        assert_eq!(identify(Some((ONE, here, &a)), here, &b, new), Identified::Known(ONE), "labels may change");
        assert_eq!(identify(Some((ONE, there, &a)), here, &a, new), Identified::Refused);
        assert_eq!(identify(Some((ONE, there, &both)), here, &a, new), Identified::Refused, "one receiver is enough");
        assert_eq!(identify(Some((ONE, there, &a)), here, &b, new), Identified::Copied(OTHER));
    }

    #[test]
    fn identities_are_random_and_written_in_hexadecimal() {
        let text = Identity::random().to_string();
        assert_eq!(text.len(), 32);
        assert_ne!(text, Identity::random().to_string());
        assert_eq!(ONE.to_string(), "01".repeat(16));
    }
}
