//! What an enforcer has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{DecidedBy, Outcome};
use crate::counter::Addition;
use crate::error::{Error, ErrorKind};

/// Counts since the start; all of them only grow, but for [`open_breakers`](Self::open_breakers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EnforcerStats {
    /// Requests allowed.
    pub allowed: u64,
    /// Requests denied.
    pub denied: u64,
    /// Of both, those that the near cache decided.
    pub by_near_cache: u64,
    /// Of both, those that a failure policy decided.
    pub by_policy: u64,
    /// Calls that the store did not answer within their deadline, or at all.
    pub unavailable: u64,
    /// Calls that it answered with another error.
    pub failed: u64,
    /// How often a circuit breaker opened.
    pub breaker_opened: u64,
    /// How often one closed.
    pub breaker_closed: u64,
    /// How many parts of the store are not asked now, of [64](crate::CounterStore::shard).
    pub open_breakers: u64,
    /// Units admitted without the store that it was told afterwards.
    pub added: u64,
    /// Those that it was told without an answer; it may have missed them.
    pub maybe_lost: u64,
}

#[derive(Default)]
pub(super) struct Stats {
    allowed: AtomicU64,
    denied: AtomicU64,
    by_near_cache: AtomicU64,
    by_policy: AtomicU64,
    unavailable: AtomicU64,
    failed: AtomicU64,
    breaker_opened: AtomicU64,
    breaker_closed: AtomicU64,
    added: AtomicU64,
    maybe_lost: AtomicU64,
}

impl Stats {
    pub(super) fn decided(&self, outcome: &Outcome) {
        add(if outcome.decision.allowed { &self.allowed } else { &self.denied }, 1);
        match outcome.by {
            DecidedBy::Store => {}
            DecidedBy::NearCache => add(&self.by_near_cache, 1),
            DecidedBy::Policy(_) => add(&self.by_policy, 1),
        }
    }

    pub(super) fn failed(&self, error: &Error) {
        add(if error.kind() == ErrorKind::Unavailable { &self.unavailable } else { &self.failed }, 1);
    }

    pub(super) fn breaker_opened(&self) {
        add(&self.breaker_opened, 1);
    }

    pub(super) fn breaker_closed(&self) {
        add(&self.breaker_closed, 1);
    }

    pub(super) fn added(&self, additions: &[Addition<'_>]) {
        add(&self.added, sum(additions));
    }

    pub(super) fn lost(&self, additions: &[Addition<'_>]) {
        add(&self.maybe_lost, sum(additions));
    }

    pub(super) fn snapshot(&self, open_breakers: usize) -> EnforcerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EnforcerStats {
            allowed: read(&self.allowed),
            denied: read(&self.denied),
            by_near_cache: read(&self.by_near_cache),
            by_policy: read(&self.by_policy),
            unavailable: read(&self.unavailable),
            failed: read(&self.failed),
            breaker_opened: read(&self.breaker_opened),
            breaker_closed: read(&self.breaker_closed),
            open_breakers: open_breakers as u64,
            added: read(&self.added),
            maybe_lost: read(&self.maybe_lost),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Units of the tenants themselves; those of their scopes are the same ones.
fn sum(additions: &[Addition<'_>]) -> u64 {
    additions.iter().filter(|addition| addition.scope.is_empty()).map(|addition| addition.cost.max(0) as u64).sum()
}
