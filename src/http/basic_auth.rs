//! Basic authentication (RFC 7617) against bcrypt hashes.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use data_encoding::BASE64;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use warp::http::HeaderValue;

/// A hash takes some 60 ms of CPU. More at a time would let strangers occupy every CPU.
const CHECKS_AT_ONCE: usize = 1;

/// Valid pairs of user and password that are cached. All are dropped when there are more.
const CACHED_MAX: usize = 100;

/// A hash of the usual cost, so that an unknown user takes as long as a known one.
const UNKNOWN_USER_HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// Verifies passwords on blocking threads, and caches valid ones.
pub(super) struct PasswordVerifier {
    /// Random for each process: what is cached is useless elsewhere.
    key: hmac::Key,
    right: Mutex<HashSet<[u8; 32]>>,
    checks: Semaphore,
}

impl PasswordVerifier {
    pub fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has randomness");
        Self { key, right: Mutex::default(), checks: Semaphore::new(CHECKS_AT_ONCE) }
    }

    /// Returns whether this value of `Authorization` names one of `users` with the right password.
    pub async fn verify(&self, users: &BTreeMap<String, String>, authorization: Option<&HeaderValue>) -> bool {
        let Some((user, password)) = authorization.and_then(read) else { return false };
        let known = users.get(&user);
        let hash = known.map_or(UNKNOWN_USER_HASH, String::as_str).to_owned();
        let tag = self.tag(&user, &password, &hash);
        if known.is_some() && self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(&tag) {
            return true;
        }
        let Ok(_turn) = self.checks.acquire().await else { return false };
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        let is_right = known.is_some() && checked.unwrap_or(false);
        if is_right {
            let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            if right.len() >= CACHED_MAX {
                right.clear();
            }
            right.insert(tag);
        }
        is_right
    }

    /// Returns the key of a pair in the cache. It depends on the hash, so that a changed password invalidates the old one.
    fn tag(&self, user: &str, password: &[u8], hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), hash.as_bytes(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

fn read(authorization: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, credentials) = authorization.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64.decode(credentials.trim().as_bytes()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_takes_the_time_of_a_hash() {
        let parts = UNKNOWN_USER_HASH.parse::<bcrypt::HashParts>().unwrap();
        assert_eq!(parts.get_cost(), 10);
        assert!(!bcrypt::verify("", UNKNOWN_USER_HASH).unwrap());
    }

    #[test]
    fn credentials_are_read_as_they_are_written() {
        let read = |text: &str| read(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("Basic YTpi"), Some(("a".to_owned(), b"b".to_vec())));
        assert_eq!(read("basic  YTpiOmM="), Some(("a".to_owned(), b"b:c".to_vec())));
        for wrong in ["Basic", "Basic YQ==", "Basic ?", "Digest YTpi", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
