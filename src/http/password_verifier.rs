//! The verification of passwords: one at a time, off the event loop, in turns.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::basic_auth::Claim;
use super::fair_queue::FairQueue;

/// Valid claims that are cached. All are dropped when there are more.
const CACHED_MAX: usize = 100;

/// Claims that wait. Beyond it the oldest of whoever has the most is refused.
const WAITING_MAX: usize = 64;

/// Claims that wait in one lane. Beyond it the oldest of them is refused.
const WAITING_OF_ONE_MAX: usize = 8;

/// Lanes of one network.
const NAMES: u8 = 8;

/// What the verification of a claim led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// It was given up for others, because too many wait.
    Busy,
}

/// Verifies claims, and caches valid ones. A hash takes some 60 ms of CPU at the usual cost: more than one at a time would let
/// strangers occupy every CPU. The work and its result belong to no connection: a client that has disconnected meanwhile gets in
/// at its next attempt.
pub(super) struct PasswordVerifier(Arc<Shared>);

struct Shared {
    /// Random for each process: what is cached is useless elsewhere.
    key: hmac::Key,
    state: Mutex<State>,
}

struct State {
    valid: HashSet<Tag>,
    waiting: FairQueue<Lane, Check>,
    /// The tag of the check that a thread works on, and who waits for it.
    running: Option<(Tag, Waiters)>,
}

/// What identifies a claim without containing it.
type Tag = [u8; 32];
type Waiters = Vec<oneshot::Sender<Verdict>>;

/// Whose turn it is. Names of users share a few lanes, since strangers can make up any number of them, and whether they exist
/// or not, so that nobody learns from waiting which do.
#[derive(Debug, PartialEq, Eq)]
struct Lane {
    network: Option<IpAddr>,
    /// Below [`NAMES`].
    name: u8,
}

struct Check {
    tag: Tag,
    claim: Claim,
    waiters: Waiters,
}

impl Lane {
    fn new(peer: Option<IpAddr>, name: u8) -> Self {
        // One host commonly has 2^64 addresses of IPv6.
        let network = peer.map(|peer| match peer.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        });
        Self { network, name }
    }
}

impl fmt::Debug for PasswordVerifier {
    /// Contains no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordVerifier").finish_non_exhaustive()
    }
}

impl PasswordVerifier {
    pub fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has randomness");
        let waiting = FairQueue::new(WAITING_OF_ONE_MAX, WAITING_MAX);
        let state = Mutex::new(State { valid: HashSet::new(), waiting, running: None });
        Self(Arc::new(Shared { key, state }))
    }

    /// Verifies a claim of `peer`. Must be called on a runtime.
    pub async fn verify(&self, claim: Claim, peer: Option<IpAddr>) -> Verdict {
        let tag = self.0.tag(&claim);
        let (waiter, verdict) = oneshot::channel();
        {
            let mut state = self.0.lock();
            if state.valid.contains(&tag) {
                return Verdict::Right;
            }
            let lane = Lane::new(peer, self.0.name(claim.user()));
            state.add(lane, Check { tag, claim, waiters: vec![waiter] });
        }
        work_on_next(&self.0, &Handle::current());
        verdict.await.unwrap_or(Verdict::Busy)
    }
}

impl State {
    /// Adds a check, to that of the same claim if there is one.
    fn add(&mut self, lane: Lane, check: Check) {
        if let Some((_, waiters)) = self.running.as_mut().filter(|(tag, _)| *tag == check.tag) {
            waiters.extend(check.waiters);
        } else if let Some(same) = self.waiting.iter_mut().find(|waiting| waiting.tag == check.tag) {
            same.waiters.extend(check.waiters);
        } else if let Some(given_up) = self.waiting.push(lane, check) {
            answer(given_up.waiters, Verdict::Busy);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the lane of a name, which depends on the key: nobody can choose names that share one with a certain user.
    fn name(&self, user: &str) -> u8 {
        hmac::sign(&self.key, user.as_bytes()).as_ref()[0] % NAMES
    }

    fn tag(&self, claim: &Claim) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in claim.parts() {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// Starts the next check on a thread of `runtime`, unless one is running.
fn work_on_next(shared: &Arc<Shared>, runtime: &Handle) {
    let claim = {
        let mut state = shared.lock();
        if state.running.is_some() {
            return;
        }
        let Some(Check { tag, claim, waiters }) = state.waiting.pop() else { return };
        state.running = Some((tag, waiters));
        claim
    };
    let turn = Turn { shared: Arc::downgrade(shared), runtime: runtime.clone(), verdict: Verdict::Busy };
    // Without the lock: a runtime that is shutting down drops the turn at once.
    runtime.spawn_blocking(move || {
        turn.end(if claim.is_right() { Verdict::Right } else { Verdict::Wrong });
    });
}

/// The turn of a check. When it ends, in whatever way, its verdict is given and the next turn begins.
struct Turn {
    shared: Weak<Shared>,
    runtime: Handle,
    verdict: Verdict,
}

impl Turn {
    fn end(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        {
            let mut state = shared.lock();
            let Some((tag, waiters)) = state.running.take() else { return };
            if self.verdict == Verdict::Right {
                if state.valid.len() >= CACHED_MAX {
                    state.valid.clear();
                }
                state.valid.insert(tag);
            }
            answer(waiters, self.verdict);
        }
        work_on_next(&shared, &self.runtime);
    }
}

fn answer(waiters: Waiters, verdict: Verdict) {
    for waiter in waiters {
        // A client that has disconnected receives it at its next attempt.
        let _ = waiter.send(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::super::basic_auth::{Credentials, PasswordHash, Users};
    use super::*;
    use data_encoding::BASE64;
    use futures::FutureExt as _;
    use futures::future::join_all;
    use warp::http::HeaderValue;

    const COST_MIN: u32 = 4;
    const PEER: Option<IpAddr> = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));

    fn users(passwords: &[(&str, &str)]) -> Users {
        let mut users = Users::default();
        for (user, password) in passwords {
            let hash = PasswordHash::new(bcrypt::hash(password, COST_MIN).unwrap()).unwrap();
            users.insert((*user).to_owned(), hash);
        }
        users
    }

    fn claim(users: &Users, user: &str, password: &str) -> Claim {
        let credentials = BASE64.encode(format!("{user}:{password}").as_bytes());
        let value = HeaderValue::from_str(&format!("Basic {credentials}")).unwrap();
        users.claim(Credentials::read(&value).unwrap())
    }

    /// As if a check were running, so that what comes next waits.
    fn hold(verifier: &PasswordVerifier) {
        verifier.0.lock().running = Some(([0; 32], Vec::new()));
    }

    /// As if that check had ended.
    fn release(verifier: &PasswordVerifier) {
        drop(Turn { shared: Arc::downgrade(&verifier.0), runtime: Handle::current(), verdict: Verdict::Wrong });
    }

    #[tokio::test]
    async fn claims_are_right_or_wrong() {
        let users = users(&[("alice", "secret"), ("bob", "")]);
        let verifier = PasswordVerifier::new();
        for _ in 0..2 {
            for (user, password, verdict) in [
                ("alice", "secret", Verdict::Right),
                ("bob", "", Verdict::Right),
                ("alice", "", Verdict::Wrong),
                ("carol", "secret", Verdict::Wrong),
            ] {
                assert_eq!(verifier.verify(claim(&users, user, password), PEER).await, verdict, "{user}:{password}");
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_disconnects_before_the_verdict_gets_in_at_its_next_attempt() {
        let users = users(&[("alice", "secret")]);
        let verifier = PasswordVerifier::new();
        hold(&verifier);
        // Polled once, as by a connection that ends then.
        assert_eq!(verifier.verify(claim(&users, "alice", "secret"), PEER).now_or_never(), None);
        let mut attempt = Box::pin(verifier.verify(claim(&users, "alice", "secret"), PEER));
        assert_eq!((&mut attempt).now_or_never(), None);
        assert_eq!(verifier.0.lock().waiting.iter_mut().count(), 1, "the same claim waits once");
        release(&verifier);
        assert_eq!(attempt.await, Verdict::Right);
        let cached = verifier.verify(claim(&users, "alice", "secret"), PEER).now_or_never();
        assert_eq!(cached, Some(Verdict::Right));
    }

    #[tokio::test]
    async fn clients_that_disconnect_leave_no_more_work_than_one_of_them_may_have_waiting() {
        let users = users(&[("alice", "secret")]);
        let verifier = PasswordVerifier::new();
        hold(&verifier);
        for number in 0..60 {
            let wrong = claim(&users, "alice", &format!("wrong {number}"));
            assert_eq!(verifier.verify(wrong, PEER).now_or_never(), None);
        }
        assert_eq!(verifier.0.lock().waiting.iter_mut().count(), WAITING_OF_ONE_MAX);
    }

    #[tokio::test]
    async fn wrong_logins_that_wait_keep_nobody_out() {
        let users = users(&[("alice", "secret"), ("bob", "secret")]);
        for (user, peer) in [
            // The same user at the same address, another user, and another address.
            ("alice", PEER),
            ("bob", PEER),
            ("alice", Some("192.0.2.1".parse().unwrap())),
        ] {
            let verifier = PasswordVerifier::new();
            hold(&verifier);
            let wrong: Vec<Claim> = (0..200).map(|number| claim(&users, "alice", &format!("wrong {number}"))).collect();
            let mut wrong: Vec<_> = wrong.into_iter().map(|wrong| Box::pin(verifier.verify(wrong, PEER))).collect();
            let polled: Vec<_> = wrong.iter_mut().map(|wrong| wrong.now_or_never()).collect();
            let mut right = Box::pin(verifier.verify(claim(&users, user, "secret"), peer));
            assert_eq!((&mut right).now_or_never(), None);
            release(&verifier);
            assert_eq!(right.await, Verdict::Right, "{user} at {peer:?}");
            let waiting = wrong.into_iter().zip(polled).filter(|(_, polled)| polled.is_none()).map(|(wrong, _)| wrong);
            let verdicts = join_all(waiting).await;
            let refused = verdicts.iter().filter(|verdict| **verdict == Verdict::Busy).count();
            let checked = verdicts.iter().filter(|verdict| **verdict == Verdict::Wrong).count();
            assert!(checked <= WAITING_OF_ONE_MAX && checked + refused == 200, "{checked} {refused}");
        }
    }

    #[test]
    fn addresses_of_one_network_share_their_lanes() {
        let lane = |address: &str| Lane::new(Some(address.parse().unwrap()), 0);
        assert_eq!(lane("2001:db8::1"), lane("2001:db8::ffff:1"));
        assert_ne!(lane("2001:db8::1"), lane("2001:db8:0:1::1"));
        assert_eq!(lane("::ffff:192.0.2.1"), lane("192.0.2.1"));
        assert_ne!(lane("192.0.2.1"), lane("192.0.2.2"));
    }

    #[tokio::test]
    async fn users_that_exist_wait_in_the_same_lanes_as_users_that_do_not() {
        let users = users(&[("alice", "secret")]);
        let verifier = PasswordVerifier::new();
        hold(&verifier);
        // Of one lane, by their names alone.
        let shared = verifier.0.name("alice");
        let unknown: Vec<_> = (0..)
            .map(|number| format!("user {number}"))
            .filter(|name| verifier.0.name(name) == shared)
            .take(8)
            .collect();
        for user in ["alice"].into_iter().chain(unknown.iter().map(String::as_str)) {
            assert_eq!(verifier.verify(claim(&users, user, "wrong"), PEER).now_or_never(), None);
        }
        assert_eq!(verifier.0.lock().waiting.iter_mut().count(), WAITING_OF_ONE_MAX);
    }
}
