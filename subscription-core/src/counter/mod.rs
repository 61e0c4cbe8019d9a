//! Counters of what tenants have used, by which requests are decided.

mod memory;

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::limit::{Decision, Limits, Usage};
use crate::time::{Timestamp, WindowKind};

pub use memory::MemoryCounters;

/// A request to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// What it may use.
    pub limits: Limits,
    /// Narrower limits that the request must fit into as well, under names that differ: an API key's, a route's.
    pub scopes: &'a [Scope<'a>],
    /// What the request takes, in units of quota.
    pub cost: u32,
    /// The caller's clock, which must then be the same for all callers; `None` for the store's own.
    pub at: Option<Timestamp>,
}

/// A part of a tenant's use with limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Its name among the tenant's, such as `key:k1`; not empty.
    pub name: &'a str,
    /// What may be used of it.
    pub limits: Limits,
}

/// What was admitted without asking the store: under a failure policy, or from a leased share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addition<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The name of one of its scopes; empty for the tenant itself.
    pub scope: &'a str,
    /// When it was admitted.
    pub at: Timestamp,
    /// Units of quota.
    pub cost: i64,
}

/// What metering found a tenant to have used in a window: `quota_used` of the window's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The kind of window.
    pub kind: WindowKind,
    /// The window's start.
    pub window_start: Timestamp,
    /// All of it, not what is new.
    pub quota_used: i64,
}

/// The two counters of one tenant and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct WindowCounter {
    /// Counted when requests were admitted.
    pub live: i64,
    /// Counted by metering, from usage events.
    pub settled: i64,
}

impl WindowCounter {
    /// What counts against the limit: the greater of the two.
    pub fn used(&self) -> i64 {
        self.live.max(self.settled)
    }
}

/// The counters of one tenant in the windows that hold a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TenantCounters {
    /// The time, by the store's clock.
    pub at: Timestamp,
    /// The clock minute's.
    pub minute: WindowCounter,
    /// Those of the minute before.
    pub previous_minute: WindowCounter,
    /// The clock hour's.
    pub hour: WindowCounter,
    /// The calendar month's.
    pub month: WindowCounter,
}

impl TenantCounters {
    /// What counts against the limits.
    pub fn usage(&self) -> Usage {
        Usage {
            minute: self.minute.used(),
            previous_minute: self.previous_minute.used(),
            hour: self.hour.used(),
            month: self.month.used(),
        }
    }
}

/// Where counters are kept, for all gateways together.
///
/// A tenant has two counters a window (clock minute, clock hour, calendar month; UTC). `live` is counted by gateways
/// when they admit; `settled` is what metering finds afterwards in the usage events. A store that lost its memory, or a
/// gateway that could not reach it, leaves `live` too low: `settled` is the floor that makes up for it.
///
/// # Contract
/// * [`check_and_add`](CounterStore::check_and_add) is one atomic step: it raises each `live` of the tenant to
///   `settled` (a denied request may leave that to the next one), decides as [`decide`](crate::decide()) does, and adds
///   the cost to minute, hour and month if, and only if, the request is allowed: by the tenant's limits and by those of
///   every scope, which have counters of their own. The answer is the [tightest](Decision::tighter) one. Steps of one tenant MUST be as if one came after the other, whoever calls them: in the
///   fixed window no minute, hour or month ever admits more than its limit.
/// * Time is the store's own clock, read within the step, unless the caller gives its own. [`Decision::at`] is it.
/// * `settled` is an absolute value and never goes down: a lower one has no effect, and so has one repeated.
/// * Minutes are kept for 2 minutes from their start, hours and months to their end and 2 minutes more. What is said
///   of windows that ended before, or that are after the next one, MAY be ignored.
/// * A call MUST end within its deadline: with an answer, or with a retryable
///   [`Unavailable`](crate::ErrorKind::Unavailable). The failure policy is the caller's.
/// * `check_and_add` and `add` MUST be sent once and never again by themselves: where the answer was lost, the
///   request counts at most once, and the caller may take it as denied. `settle` may be repeated at will.
/// * A cancelled call has had its whole effect for a tenant or none.
///
/// ```
/// use std::time::Duration;
/// use subscription_core::{Catalog, Check, CounterStore, Limits, MemoryCounters, Timestamp};
///
/// # async fn example() -> subscription_core::Result<()> {
/// let counters: Box<dyn CounterStore> = Box::new(MemoryCounters::new());
/// let plan = Catalog::default().plan("acme", "free", Timestamp::EPOCH).unwrap();
/// let check = Check { tenant: "acme", limits: Limits::from(plan), scopes: &[], cost: 1, at: None };
/// let decision = counters.check_and_add(check, Duration::from_millis(5)).await?;
/// assert!(decision.allowed);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait CounterStore: Send + Sync {
    /// Decides a request and counts it if it is allowed.
    async fn check_and_add(&self, check: Check<'_>, deadline: Duration) -> Result<Decision>;

    /// Counts what was admitted elsewhere, whatever the limits, in `live` of its windows.
    async fn add(&self, additions: &[Addition<'_>], deadline: Duration) -> Result<()>;

    /// Raises `settled`, for as many tenants and windows as there are in one call; each takes effect by itself.
    async fn settle(&self, values: &[Settled<'_>], deadline: Duration) -> Result<()>;

    /// What a decision on the tenant's own limits would see now.
    async fn counters(&self, tenant: &str, deadline: Duration) -> Result<TenantCounters>;

    /// In which part of the store, a number below 64, the tenant's counters are. Parts may fail
    /// apart, as the nodes of a cluster do, so each has a circuit breaker of its own.
    fn shard(&self, _tenant: &str) -> usize {
        0
    }
}
