//! The near cache: a share of what a tenant has left, to be spent without asking.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap};

use super::owed::Debt;
use crate::limit::{Decision, Limits};
use crate::time::{Timestamp, WindowKind};

const SHARDS: usize = 16;

/// How tenants far below their limits are decided without the store; see [`Enforcer`](super::Enforcer).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct NearCacheConfig {
    /// The part of what a tenant has left that all gateways together may spend before they tell the store; at most 1.
    /// Default 0.1.
    pub share: f64,
    /// How long a share may be spent, and how often the store is told. Default 100 ms.
    pub interval: Duration,
}

impl Default for NearCacheConfig {
    fn default() -> Self {
        Self { share: 0.1, interval: Duration::from_millis(100) }
    }
}

pub(super) struct Near {
    config: NearCacheConfig,
    replicas: u32,
    hasher: DefaultHashBuilder,
    shards: Box<[Mutex<Leases>]>,
}

/// By tenant.
type Leases = HashMap<Box<str>, Lease, DefaultHashBuilder>;

/// A tenant's share at this gateway.
struct Lease {
    limits: Limits,
    /// What the store answered when it was granted.
    granted: Decision,
    until: Timestamp,
    /// May still be spent.
    left: i64,
    /// Spent since it was granted.
    spent: i64,
    /// Spent, and the store not told.
    untold: i64,
    /// The store is being told; until then nothing is granted.
    telling: bool,
}

impl Near {
    pub(super) fn new(config: NearCacheConfig, replicas: u32) -> Self {
        let hasher = DefaultHashBuilder::default();
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))).collect();
        Self { config, replicas, hasher, shards }
    }

    /// Decides from the tenant's share, if it has one.
    pub(super) fn decide(&self, tenant: &str, limits: &Limits, cost: u32, now: Timestamp) -> Option<Decision> {
        let mut shard = self.shard(tenant);
        let lease = shard.get_mut(tenant)?;
        let cost = i64::from(cost);
        if now >= lease.until || now < lease.granted.at || cost > lease.left || lease.limits != *limits {
            return None;
        }
        lease.left -= cost;
        lease.spent += cost;
        lease.untold += cost;
        let remaining = lease.granted.remaining.saturating_sub(lease.spent);
        Some(lease.granted.later(now, remaining))
    }

    /// Grants a share after the store has allowed a request, to a tenant that has half its limit left.
    pub(super) fn grant(&self, tenant: &str, limits: &Limits, decision: &Decision) {
        if !decision.allowed || decision.remaining < decision.limit / 2 {
            return;
        }
        let share = (decision.remaining as f64 * self.config.share / f64::from(self.replicas)) as i64;
        if share < 1 {
            return;
        }
        let end = WindowKind::Minute.end(WindowKind::Minute.start(decision.at));
        let interval = i64::try_from(self.config.interval.as_millis()).unwrap_or(i64::MAX);
        let until = decision.at.plus_millis(interval).min(end);
        let lease =
            Lease { limits: *limits, granted: *decision, until, left: share, spent: 0, untold: 0, telling: false };
        let mut shard = self.shard(tenant);
        match shard.get_mut(tenant) {
            Some(old) if old.untold > 0 || old.telling => {}
            Some(old) => *old = lease,
            None => {
                shard.insert(tenant.into(), lease);
            }
        }
    }

    /// What the store is to be told, and forgets the shares that are over.
    pub(super) fn take(&self, now: Timestamp) -> Vec<Debt> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            lock(shard).retain(|tenant, lease| {
                if lease.untold > 0 && !lease.telling {
                    lease.telling = true;
                    let cost = std::mem::take(&mut lease.untold);
                    // Of the minute in which it was granted, and so spent.
                    taken.push(Debt { tenant: tenant.clone(), scope: "".into(), at: lease.granted.at, cost });
                }
                lease.telling || lease.untold > 0 || now < lease.until
            });
        }
        taken
    }

    /// The store has been told, or will not be.
    pub(super) fn told(&self, tenant: &str) {
        if let Some(lease) = self.shard(tenant).get_mut(tenant) {
            lease.telling = false;
        }
    }

    fn shard(&self, tenant: &str) -> MutexGuard<'_, Leases> {
        lock(&self.shards[(self.hasher.hash_one(tenant) >> 32) as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
