//! Deciding requests by a store that may be slow, dead or wrong.

mod breaker;
mod near;
mod owed;
mod stats;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::counter::{Addition, Check, CounterStore, MemoryCounters, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::{Decision, Limits, Reason};
use crate::plan::FailurePolicy;
use crate::time::Timestamp;

use breaker::Breaker;
use near::Near;
use owed::{Debt, Owed};
use stats::Stats;

pub use near::NearCacheConfig;
pub use stats::EnforcerStats;

/// Parts of a store that fail apart; see [`CounterStore::shard`].
const SHARDS: usize = 64;

/// Additions in one call.
const BATCH: usize = 256;

/// How an [`Enforcer`] decides.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct EnforcerConfig {
    /// How long a request may wait for the store. Default 5 ms.
    pub deadline: Duration,
    /// How many gateways share the limits, this one included: under the policy `local` each admits its share. Default 1.
    pub replicas: u32,
    /// Failures in a row after which the store is asked no more. Default 5.
    pub breaker_failures: u32,
    /// How long it is not asked, and how often one request tries it then. Default 250 ms.
    pub breaker_pause: Duration,
    /// Decides tenants far below their limits in this process. Default `None`: the store decides all.
    pub near_cache: Option<NearCacheConfig>,
}

impl Default for EnforcerConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(5),
            replicas: 1,
            breaker_failures: 5,
            breaker_pause: Duration::from_millis(250),
            near_cache: None,
        }
    }
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecidedBy {
    /// The store's counters.
    Store,
    /// A share of what they said the tenant had left.
    NearCache,
    /// The failure policy, as the store did not answer.
    Policy(FailurePolicy),
}

impl DecidedBy {
    /// `store`, `near_cache`, or the policy's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::NearCache => "near_cache",
            Self::Policy(policy) => policy.as_str(),
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub decision: Decision,
    /// Whose it is.
    pub by: DecidedBy,
    /// Why the store did not decide; `None` where it did, and where it was not asked: because its circuit breaker is open,
    /// or as the answer was known.
    pub error: Option<Error>,
}

/// Decides requests by a [`CounterStore`], and by each plan's [`FailurePolicy`] where that does not answer in time.
///
/// A circuit breaker for each part of the store sees to it that a dead store costs no request more than the deadline,
/// and soon nothing: after [some failures](EnforcerConfig::breaker_failures) in a row requests are decided by policy at
/// once, and one of them tries the store every [pause](EnforcerConfig::breaker_pause).
///
/// * `open`: all are allowed, and counted.
/// * `closed`: all are denied, with the reason [`Reason::StoreUnavailable`].
/// * `local`: this gateway admits up to its share, limit ÷ replicas, of each window, in which it counts all that it has
///   admitted itself, before the failure too.
///
/// What was admitted so is added to the store's counters when it is back, by [`Enforcer::flush`], which the host MUST
/// call at [intervals](Enforcer::flush_interval). A call of that whose answer is lost is not made again: metering puts the
/// counters right. So it is made only where the last one was answered.
///
/// # How much may pass
/// Let L be a limit and n the number of gateways, at most [`EnforcerConfig::replicas`]. In one window are admitted, at
/// most, by the fixed algorithm:
///
/// | | |
/// |---|---|
/// | the store answers | L |
/// | with the near cache of share f | L + n·⌊f·L ÷ n⌋ ≤ (1 + f)·L |
/// | it fails, policy `local` | L + n·⌊L ÷ n⌋ ≤ 2·L, if all load goes to the store before and to the shares afterwards; L where it is even; L + [`maybe_lost`](EnforcerStats::maybe_lost) where n = 1 |
/// | it fails, policy `open` | anything |
///
/// A store that lost its memory counts from 0 until metering has put the floor back, and so does a gateway that was
/// started anew count its share.
///
/// The near cache grants a tenant with half of its tightest limit left the share f of what it has left, divided by n,
/// for an [interval](NearCacheConfig::interval) within one minute, and no other before the store was told what was spent of it. It
/// decides requests without narrower scopes only.
///
/// ```
/// use std::sync::Arc;
/// use subscription_core::{
///     Catalog, Check, DecidedBy, Enforcer, EnforcerConfig, FailurePolicy, Limits, MemoryCounters, SystemClock, Timestamp,
/// };
///
/// # async fn example() -> subscription_core::Result<()> {
/// let clock = Arc::new(SystemClock::new());
/// let enforcer = Enforcer::new(Arc::new(MemoryCounters::new()), clock, EnforcerConfig::default())?;
/// let plan = Catalog::default().plan("acme", "free", Timestamp::EPOCH).unwrap();
/// let check = Check { tenant: "acme", limits: Limits::from(plan), scopes: &[], cost: 1, at: None };
/// let outcome = enforcer.decide(check, FailurePolicy::Local).await;
/// assert!(outcome.decision.allowed && outcome.by == DecidedBy::Store);
/// # Ok(())
/// # }
/// ```
pub struct Enforcer {
    store: Arc<dyn CounterStore>,
    clock: Arc<dyn Clock>,
    config: EnforcerConfig,
    breakers: Box<[Breaker; SHARDS]>,
    /// What this gateway has admitted.
    own: MemoryCounters,
    owed: Owed,
    near: Option<Near>,
    stats: Stats,
    /// The store's time less this process's, in milliseconds, as of the last decision.
    offset: AtomicI64,
}

impl Enforcer {
    /// Decides by `store`.
    ///
    /// # Errors
    /// `Configuration`, where a figure of the configuration makes no sense.
    pub fn new(store: Arc<dyn CounterStore>, clock: Arc<dyn Clock>, config: EnforcerConfig) -> Result<Self> {
        let wrong = |setting: &'static str, why: &str| {
            Err(Error::new(ErrorKind::Configuration, format!("{setting} {why}")).with("setting", setting))
        };
        if config.replicas == 0 {
            return wrong("replicas", "is 0, but this gateway is one");
        }
        if config.breaker_failures == 0 {
            return wrong("breaker_failures", "is 0, so that the store would never be asked");
        }
        if config.near_cache.is_some_and(|near| !(near.share > 0.0 && near.share <= 1.0)) {
            return wrong("near_cache.share", "is not above 0 and at most 1");
        }
        Ok(Self {
            breakers: Box::new(std::array::from_fn(|_| Breaker::default())),
            own: MemoryCounters::with_clock(clock.clone()),
            owed: Owed::default(),
            near: config.near_cache.map(|near| Near::new(near, config.replicas)),
            stats: Stats::default(),
            offset: AtomicI64::new(0),
            store,
            clock,
            config,
        })
    }

    /// Decides a request and counts it if it is allowed.
    ///
    /// A cancelled call may have been counted.
    pub async fn decide(&self, check: Check<'_>, policy: FailurePolicy) -> Outcome {
        let outcome = self.outcome(check, policy).await;
        self.stats.decided(&outcome);
        outcome
    }

    async fn outcome(&self, check: Check<'_>, policy: FailurePolicy) -> Outcome {
        let near = self.near.as_ref().filter(|_| check.scopes.is_empty());
        if let Some(near) = near
            && let Some(decision) = near.decide(check.tenant, &check.limits, check.cost, self.now(&check))
        {
            self.count(&check, policy, decision.at);
            return Outcome { decision, by: DecidedBy::NearCache, error: None };
        }
        // While the store has not been told all, this gateway's own count says more.
        if policy == FailurePolicy::Local && self.owed.has(check.tenant) {
            let now = self.now(&check);
            let decision =
                crate::limit::decide(&check.limits, &self.own.counters_at(check.tenant, now).usage(), check.cost, now);
            if !decision.allowed {
                return Outcome { decision, by: DecidedBy::Policy(policy), error: None };
            }
        }
        if !self.lets_pass(check.tenant) {
            return self.by_policy(&check, policy, None);
        }
        match self.store.check_and_add(check, self.config.deadline).await {
            Ok(decision) => {
                self.answered(check.tenant);
                if check.at.is_none() {
                    self.offset.store(decision.at.millis() - self.clock.now().millis(), Ordering::Relaxed);
                }
                if decision.allowed {
                    self.count(&check, policy, decision.at);
                    // What the store has not been told yet is not in its answer.
                    if let Some(near) = near.filter(|_| !self.owed.has(check.tenant)) {
                        near.grant(check.tenant, &check.limits, &decision);
                    }
                }
                Outcome { decision, by: DecidedBy::Store, error: None }
            }
            Err(error) => {
                self.failed(check.tenant, &error);
                self.by_policy(&check, policy, Some(error))
            }
        }
    }

    fn breaker(&self, tenant: &str) -> &Breaker {
        &self.breakers[self.store.shard(tenant) % SHARDS]
    }

    /// Whether the store may be asked about a tenant.
    fn lets_pass(&self, tenant: &str) -> bool {
        self.breaker(tenant).lets_pass(self.clock.monotonic_nanos(), nanos(self.config.breaker_pause))
    }

    fn answered(&self, tenant: &str) {
        if self.breaker(tenant).succeeded() {
            self.stats.breaker_closed();
        }
    }

    fn failed(&self, tenant: &str, error: &Error) {
        self.stats.failed(error);
        self.count_failure(self.breaker(tenant), error);
    }

    fn count_failure(&self, breaker: &Breaker, error: &Error) {
        let (now, pause) = (self.clock.monotonic_nanos(), nanos(self.config.breaker_pause));
        // What concerns some tenant's keys alone is no failure of the store.
        if error.is_retryable() && breaker.failed(now, pause, self.config.breaker_failures) {
            self.stats.breaker_opened();
        }
    }

    /// Counts what this gateway has admitted, for its share under `local`.
    fn count(&self, check: &Check<'_>, policy: FailurePolicy, at: Timestamp) {
        if policy == FailurePolicy::Local {
            self.own.count(check.tenant, check.scopes, check.cost, at);
        }
    }

    fn by_policy(&self, check: &Check<'_>, policy: FailurePolicy, error: Option<Error>) -> Outcome {
        let now = self.now(check);
        let scopes: Vec<Scope<'_>> = check
            .scopes
            .iter()
            .map(|scope| Scope { limits: share(&scope.limits, self.config.replicas), ..*scope })
            .collect();
        let limits = share(&check.limits, self.config.replicas);
        let decision = match policy {
            FailurePolicy::Local => match self.own.decide_scopes(check.tenant, &limits, &scopes, check.cost, now) {
                // More than this gateway's share as a whole, but not than the limit: the store may allow it.
                decision if decision.reason == Reason::CostAboveLimit && fits(check, now) => {
                    unavailable(&check.limits, now, false)
                }
                decision => decision,
            },
            FailurePolicy::Open => unavailable(&check.limits, now, true),
            FailurePolicy::Closed => unavailable(&check.limits, now, false),
        };
        if decision.allowed && check.cost > 0 {
            for scope in std::iter::once("").chain(check.scopes.iter().map(|scope| scope.name)) {
                self.owed.push(check.tenant, scope, now, i64::from(check.cost));
            }
        }
        Outcome { decision, by: DecidedBy::Policy(policy), error }
    }

    /// The store's clock, as far as its last answer tells; the caller's where that decides.
    fn now(&self, check: &Check<'_>) -> Timestamp {
        check.at.unwrap_or_else(|| self.clock.now().plus_millis(self.offset.load(Ordering::Relaxed)))
    }

    /// How often [`Enforcer::flush`] wants to be called.
    pub fn flush_interval(&self) -> Duration {
        self.config.near_cache.map_or(Duration::from_millis(100), |near| near.interval)
    }

    /// Tells the store what was admitted without it, as far as it can be reached. Call it at intervals, and before the
    /// process ends.
    pub async fn flush(&self) {
        // A store that did not answer last is asked a question first, which changes nothing: what is lost with that is not in
        // doubt. It also finds out that the store is back where no request does: those of tenants at their limit by what it
        // does not know yet do not ask it.
        for tenant in self.owed.tenants(|tenant| self.breaker(tenant).is_in_doubt()) {
            if self.breaker(&tenant).is_in_doubt() && self.lets_pass(&tenant) {
                match self.store.counters(&tenant, self.config.deadline).await {
                    Ok(_) => self.answered(&tenant),
                    Err(error) => self.failed(&tenant, &error),
                }
            }
        }
        self.tell(&self.owed.take(|tenant| !self.breaker(tenant).is_in_doubt())).await;
        if let Some(near) = &self.near {
            let spent = near.take(self.clock.now().plus_millis(self.offset.load(Ordering::Relaxed)));
            // Shares are granted again even where this call is cancelled.
            let _told = OnDrop(|| spent.iter().for_each(|debt| near.told(&debt.tenant)));
            self.tell(&spent).await;
        }
    }

    /// Adds them to the store's counters; those of a part of it that is in doubt stay owed.
    async fn tell(&self, debts: &[Debt]) {
        for batch in debts.chunks(BATCH) {
            let (kept, told): (Vec<_>, Vec<_>) =
                batch.iter().partition(|debt| self.breaker(&debt.tenant).is_in_doubt());
            kept.iter().for_each(|debt| self.owed.push(&debt.tenant, &debt.scope, debt.at, debt.cost));
            if told.is_empty() {
                continue;
            }
            let additions: Vec<Addition<'_>> = told.iter().map(|debt| debt.addition()).collect();
            // No request waits for it, so it may take its time.
            match self.store.add(&additions, self.config.deadline.max(Duration::from_secs(1))).await {
                Ok(()) => self.stats.added(&additions),
                Err(error) => {
                    self.stats.lost(&additions);
                    self.stats.failed(&error);
                    // Which part it was is not told.
                    let mut parts: Vec<_> = told.iter().map(|debt| self.store.shard(&debt.tenant) % SHARDS).collect();
                    parts.sort_unstable();
                    parts.dedup();
                    parts.into_iter().for_each(|part| self.count_failure(&self.breakers[part], &error));
                }
            }
        }
    }

    /// Whether a part of the store is not asked now, because it did not answer.
    pub fn is_degraded(&self) -> bool {
        self.breakers.iter().any(Breaker::is_open)
    }

    /// What was decided so far.
    pub fn stats(&self) -> EnforcerStats {
        self.stats.snapshot(self.breakers.iter().filter(|breaker| breaker.is_open()).count())
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn CounterStore> {
        &self.store
    }
}

impl fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enforcer").field("config", &self.config).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// One gateway's share of limits.
fn share(limits: &Limits, replicas: u32) -> Limits {
    let part = |limit: i64| limit / i64::from(replicas);
    let Limits { per_minute, per_hour, per_month, window } = *limits;
    Limits { per_minute: part(per_minute), per_hour: part(per_hour), per_month: part(per_month), window }
}

/// Whether the request costs no more than each of its limits as a whole.
fn fits(check: &Check<'_>, now: Timestamp) -> bool {
    let fits = |limits| crate::limit::decide(limits, &Default::default(), check.cost, now).allowed;
    fits(&check.limits) && check.scopes.iter().all(|scope| fits(&scope.limits))
}

/// The answer where nobody counts.
fn unavailable(limits: &Limits, now: Timestamp, allowed: bool) -> Decision {
    let mut decision = crate::limit::decide(limits, &Default::default(), 0, now);
    decision.allowed = allowed;
    decision.remaining = if allowed { decision.remaining } else { 0 };
    decision.retry_after_seconds = Some(if allowed { 0 } else { 1 });
    decision.reason = Reason::StoreUnavailable;
    decision
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
