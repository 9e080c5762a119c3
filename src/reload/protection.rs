//! Whether a reload may replace what is accepted.

use std::fmt;

use thiserror::Error;

/// What a configuration can have and a reload must not take away. One of several users or feeds may go.
///
/// ```
/// use session_buddy_bridge::settings::Protection;
///
/// assert_eq!(Protection::Users.to_string(), "users (basic_auth_users)");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// At least one user with a password.
    Users,
    /// Connections are encrypted.
    Tls,
    /// Clients need a certificate.
    ClientCertificates,
    /// The certificate of a client must have one of the allowed names.
    ClientNames,
    /// At least one feed is configured: without any, the default feed would join.
    Feeds,
}

impl Protection {
    const ALL: [Self; 5] = [Self::Users, Self::Tls, Self::ClientCertificates, Self::ClientNames, Self::Feeds];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Users => "users (basic_auth_users)",
            Self::Tls => "TLS (tls_server_config)",
            Self::ClientCertificates => "required client certificates (client_auth_type)",
            Self::ClientNames => "allowed names of client certificates (client_allowed_sans)",
            Self::Feeds => "feeds",
        })
    }
}

/// A set of protections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Protections(u8);

impl Protections {
    /// Returns this set, with `protection` in it if `is_present`.
    pub fn with(self, protection: Protection, is_present: bool) -> Self {
        if is_present { Self(self.0 | protection.bit()) } else { self }
    }

    fn without(self, other: Self) -> Vec<Protection> {
        let lost = self.0 & !other.0;
        Protection::ALL.into_iter().filter(|protection| lost & protection.bit() != 0).collect()
    }
}

/// Why a reload was refused although the file is valid: a file that lacks everything is what a copy or a full disk leaves.
///
/// ```
/// use session_buddy_bridge::settings::{Protection, ProtectionRemoved};
///
/// let error = ProtectionRemoved { removed: vec![Protection::Users, Protection::Tls] };
/// assert_eq!(
///     error.to_string(),
///     "there are no more users (basic_auth_users), TLS (tls_server_config); to remove a protection, restart the bridge"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there are no more {}; to remove a protection, restart the bridge", list(.removed))]
pub struct ProtectionRemoved {
    /// What the accepted configuration has and the new one lacks; at least one.
    pub removed: Vec<Protection>,
}

fn list(removed: &[Protection]) -> String {
    removed.iter().map(Protection::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns whether a candidate may replace the accepted configuration: if it has each protection that that has.
///
/// # Errors
/// The protections that it lacks.
pub(crate) fn check(accepted: Protections, candidate: Protections) -> Result<(), ProtectionRemoved> {
    match accepted.without(candidate) {
        removed if removed.is_empty() => Ok(()),
        removed => Err(ProtectionRemoved { removed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_set() -> impl Iterator<Item = Protections> {
        (0..1 << Protection::ALL.len()).map(Protections)
    }

    fn has(set: Protections, protection: Protection) -> bool {
        set.with(protection, true) == set
    }

    #[test]
    fn a_candidate_is_refused_if_and_only_if_it_lacks_a_protection_and_each_is_named() {
        for accepted in every_set() {
            for candidate in every_set() {
                let lost = Protection::ALL.into_iter().filter(|one| has(accepted, *one) && !has(candidate, *one));
                let removed: Vec<_> = lost.collect();
                let expected = if removed.is_empty() { Ok(()) } else { Err(ProtectionRemoved { removed }) };
                assert_eq!(check(accepted, candidate), expected);
            }
        }
    }

    #[test]
    fn each_protection_is_in_a_set_of_its_own() {
        for protection in Protection::ALL {
            let alone = Protections::default().with(protection, true);
            assert_eq!(alone.without(Protections::default()), [protection]);
            assert_eq!(Protections::default().with(protection, false), Protections::default());
        }
    }
}
