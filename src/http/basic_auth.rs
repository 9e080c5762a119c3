//! Basic authentication (RFC 7617) against bcrypt hashes.

use std::collections::BTreeMap;

use bcrypt::{BcryptError, HashParts};
use data_encoding::BASE64;
use thiserror::Error;
use warp::http::HeaderValue;

/// bcrypt's own limits; a cost of one more takes twice as long.
const COST_MIN: u32 = 4;
const COST_MAX: u32 = 31;

/// Why a hash cannot be used.
#[derive(Debug, Error)]
pub(super) enum HashError {
    #[error("is not a bcrypt hash")]
    Malformed(#[source] BcryptError),
    #[error("has the cost {0}")]
    Cost(u32),
}

/// A bcrypt hash of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PasswordHash {
    text: String,
    cost: u32,
}

impl PasswordHash {
    pub fn new(text: String) -> Result<Self, HashError> {
        let cost = text.parse::<HashParts>().map_err(HashError::Malformed)?.get_cost();
        if !(COST_MIN..=COST_MAX).contains(&cost) {
            return Err(HashError::Cost(cost));
        }
        Ok(Self { text, cost })
    }
}

/// The users of a web configuration.
#[derive(Debug, Default)]
pub(super) struct Users(BTreeMap<String, PasswordHash>);

impl Users {
    pub fn insert(&mut self, user: String, hash: PasswordHash) {
        self.0.insert(user, hash);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what the verification of `credentials` needs.
    pub fn claim(&self, credentials: Credentials) -> Claim {
        let Credentials { user, password } = credentials;
        let cost_max = self.0.values().map(|hash| hash.cost).max().unwrap_or(COST_MIN);
        let hash = self.0.get(&user).cloned();
        Claim { user, password, hash, cost_max }
    }
}

/// A user and a password, as a client gives them.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Credentials {
    user: String,
    password: Vec<u8>,
}

impl Credentials {
    /// Reads a value of `Authorization`; `None` if there are no credentials of this scheme in it.
    pub fn read(authorization: &HeaderValue) -> Option<Self> {
        let (scheme, credentials) = authorization.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = BASE64.decode(credentials.trim().as_bytes()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
        Some(Self { user, password: decoded[colon + 1..].to_vec() })
    }
}

/// A user, a password, and the hash that it must have.
#[derive(Clone)]
pub(super) struct Claim {
    user: String,
    password: Vec<u8>,
    /// `None` for an unknown user.
    hash: Option<PasswordHash>,
    /// The highest cost of any user.
    cost_max: u32,
}

impl Claim {
    /// Returns the name that the client gives, whether there is such a user or not.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The parts that tell two claims apart, each with its length. A changed hash is another claim.
    pub fn parts(&self) -> [&[u8]; 3] {
        let hash = self.hash.as_ref().map_or("", |hash| hash.text.as_str());
        [self.user.as_bytes(), hash.as_bytes(), &self.password]
    }

    /// Returns whether the password is right. A wrong one takes the time of the highest cost, whether the user is known and
    /// whatever the cost of its hash is. Blocks for as long as bcrypt takes.
    pub fn is_right(&self) -> bool {
        let is_right =
            self.hash.as_ref().is_some_and(|hash| bcrypt::verify(&self.password, &hash.text).unwrap_or(false));
        if !is_right {
            for cost in padding(self.hash.as_ref().map(|hash| hash.cost), self.cost_max) {
                let _ = bcrypt::hash_with_salt_bytes(&self.password, cost, [0; 16]);
            }
        }
        is_right
    }
}

/// Returns the costs of the hashes that make up for a cost below `cost_max`: the work of a cost is twice that of the one below,
/// so that c and c, c + 1, ... up to m - 1 are together as much as m.
fn padding(cost: Option<u32>, cost_max: u32) -> std::ops::Range<u32> {
    match cost {
        Some(cost) => cost..cost_max,
        None => cost_max..cost_max + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_password_is_the_same_work_whatever_the_costs_are() {
        let work = |cost: u32| 1_u64 << cost;
        for cost_max in COST_MIN..=COST_MAX {
            for cost in (COST_MIN..=cost_max).map(Some).chain([None]) {
                let own = cost.map_or(0, work);
                assert_eq!(own + padding(cost, cost_max).map(work).sum::<u64>(), work(cost_max), "{cost:?} {cost_max}");
            }
        }
    }

    #[test]
    fn costs_that_bcrypt_does_not_have_are_refused() {
        let hash =
            |cost: &str| PasswordHash::new(format!("$2y${cost}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"));
        for (cost, refused) in [("00", 0), ("03", 3), ("32", 32), ("99", 99)] {
            assert!(matches!(hash(cost), Err(HashError::Cost(cost)) if cost == refused), "{cost}");
        }
        for cost in ["04", "10", "31"] {
            hash(cost).unwrap();
        }
        assert!(matches!(PasswordHash::new("secret".to_owned()), Err(HashError::Malformed(_))));
    }

    #[test]
    fn credentials_are_read_as_they_are_written() {
        let read = |text: &str| Credentials::read(&HeaderValue::from_str(text).unwrap());
        let credentials =
            |user: &str, password: &[u8]| Some(Credentials { user: user.to_owned(), password: password.to_vec() });
        assert_eq!(read("Basic YTpi"), credentials("a", b"b"));
        assert_eq!(read("basic  YTpiOmM="), credentials("a", b"b:c"));
        for wrong in ["Basic", "Basic YQ==", "Basic ?", "Digest YTpi", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
