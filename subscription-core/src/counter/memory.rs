//! Counters in the memory of this process.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::limit::{Decision, Limits, Usage, decide_in};
use crate::time::{MINUTE, Timestamp, WindowKind};

use super::{Addition, Check, CounterStore, Scope, Settled, TenantCounters, WindowCounter};

/// A power of two, well above the threads that decide at once.
const SHARDS: usize = 64;

/// A [`CounterStore`] in the memory of this process: for a single gateway, for tests, and for a gateway's share while
/// the common store cannot be reached.
///
/// [`MemoryCounters::decide`] answers without any waiting for I/O, in some tens of nanoseconds, and allocates only for
/// a tenant's first admitted request. Memory is bounded by the tenants that were admitted in a calendar month (about 300
/// bytes each): those whose windows are all over make room before any table grows, and denied requests leave nothing.
///
/// ```
/// use subscription_core::{Limits, MemoryCounters, WindowAlgorithm};
///
/// let counters = MemoryCounters::new();
/// let limits = Limits { per_minute: 2, per_hour: 100, per_month: 100, window: WindowAlgorithm::Sliding };
/// assert!(counters.decide("acme", &limits, 1).allowed);
/// assert!(counters.decide("acme", &limits, 1).allowed);
/// assert!(!counters.decide("acme", &limits, 1).allowed);
/// assert!(counters.decide("other", &limits, 1).allowed);
/// ```
pub struct MemoryCounters {
    clock: Arc<dyn Clock>,
    /// Seeded at random, so that nobody can choose tenants that collide.
    hasher: DefaultHashBuilder,
    shards: Box<[Shard]>,
}

/// On cache lines of its own, so that one shard's lock does not slow its neighbours'.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Tenants>);

#[derive(Default)]
struct Tenants {
    table: HashTable<Tenant>,
    /// The month last asked for: the calendar is slow.
    month: Option<(Timestamp, Timestamp)>,
}

/// The counters of a tenant, or of one of its scopes. They live in the tenant's shard, under one lock.
struct Tenant {
    id: Box<str>,
    /// Empty for the tenant itself.
    scope: Box<str>,
    /// The current window, the one before (of minutes), the next one where the caller's or metering's clock is ahead.
    minutes: [Cell; 4],
    hours: [Cell; 2],
    months: [Cell; 2],
}

/// The counters of one window.
#[derive(Debug, Clone, Copy)]
struct Cell {
    start: Timestamp,
    counter: WindowCounter,
}

/// The starts of the windows that hold a time, and the month's end.
#[derive(Clone, Copy)]
struct Windows {
    minute: Timestamp,
    hour: Timestamp,
    month: Timestamp,
    month_end: Timestamp,
}

impl MemoryCounters {
    /// No counters yet, on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// No counters yet, on another clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        Self { clock, hasher: DefaultHashBuilder::default(), shards }
    }

    /// Decides a request of `cost` units now, and counts it if it is allowed, in one atomic step.
    pub fn decide(&self, tenant: &str, limits: &Limits, cost: u32) -> Decision {
        self.decide_at(tenant, limits, cost, self.clock.now())
    }

    /// As [`MemoryCounters::decide`], at the caller's time.
    pub fn decide_at(&self, tenant: &str, limits: &Limits, cost: u32, now: Timestamp) -> Decision {
        let (hash, mut tenants) = self.shard(tenant);
        let windows = tenants.windows(now);
        let Some(entry) = tenants.table.find_mut(hash, |entry| entry.is(tenant, "")) else {
            let decision = decide_in(limits, &Usage::default(), cost, now, || windows.month_end);
            if decision.allowed && cost > 0 {
                tenants.of(hash, tenant, "", now, &self.hasher).add(windows, i64::from(cost));
            }
            return decision;
        };
        let usage = entry.counters(windows, now).usage();
        let decision = decide_in(limits, &usage, cost, now, || windows.month_end);
        if decision.allowed {
            entry.add(windows, i64::from(cost));
        }
        decision
    }

    /// As [`MemoryCounters::decide_at`], with the limits of narrower scopes as well.
    pub fn decide_scopes(
        &self,
        tenant: &str,
        limits: &Limits,
        scopes: &[Scope<'_>],
        cost: u32,
        now: Timestamp,
    ) -> Decision {
        if scopes.is_empty() {
            return self.decide_at(tenant, limits, cost, now);
        }
        let (hash, mut tenants) = self.shard(tenant);
        let windows = tenants.windows(now);
        let decide = |hash, scope: &str, limits: &Limits| {
            let entry = tenants.table.find(hash, |entry| entry.is(tenant, scope));
            let usage = entry.map_or_else(Usage::default, |entry| entry.counters(windows, now).usage());
            decide_in(limits, &usage, cost, now, || windows.month_end)
        };
        let mut decision = decide(hash, "", limits);
        for (place, scope) in scopes.iter().enumerate() {
            let narrower = decide(self.hash(tenant, scope.name), scope.name, &scope.limits);
            decision = decision.tighter(Decision { scope: Some(place), ..narrower });
        }
        if decision.allowed {
            self.count_in(&mut tenants, tenant, scopes, cost, now);
        }
        decision
    }

    /// Counts a request of a tenant, and of scopes of it, that was admitted elsewhere at `at`.
    pub(crate) fn count(&self, tenant: &str, scopes: &[Scope<'_>], cost: u32, at: Timestamp) {
        self.count_in(&mut self.shard(tenant).1, tenant, scopes, cost, at);
    }

    fn count_in(&self, tenants: &mut Tenants, tenant: &str, scopes: &[Scope<'_>], cost: u32, at: Timestamp) {
        if cost == 0 {
            return;
        }
        let windows = tenants.windows(at);
        for name in std::iter::once("").chain(scopes.iter().map(|scope| scope.name)) {
            tenants.of(self.hash(tenant, name), tenant, name, at, &self.hasher).add(windows, i64::from(cost));
        }
    }

    /// Counts what was admitted elsewhere; see [`CounterStore::add`].
    pub fn add(&self, addition: &Addition<'_>) {
        let now = self.clock.now();
        let (_, mut tenants) = self.shard(addition.tenant);
        let hash = self.hash(addition.tenant, addition.scope);
        for kind in WindowKind::ALL {
            let (start, name) = (kind.start(addition.at), (addition.tenant, addition.scope));
            if let Some(counter) = tenants.counter(hash, name, kind, start, now, &self.hasher) {
                counter.add(addition.cost.max(0));
            }
        }
    }

    /// Raises `settled` of a window; see [`CounterStore::settle`].
    pub fn settle(&self, settled: &Settled<'_>) {
        let now = self.clock.now();
        let start = settled.kind.start(settled.window_start);
        let (hash, mut tenants) = self.shard(settled.tenant);
        if let Some(counter) = tenants.counter(hash, (settled.tenant, ""), settled.kind, start, now, &self.hasher) {
            counter.settled = counter.settled.max(settled.quota_used);
        }
    }

    /// The counters of a tenant now; see [`CounterStore::counters`].
    pub fn counters(&self, tenant: &str) -> TenantCounters {
        self.counters_at(tenant, self.clock.now())
    }

    /// As [`MemoryCounters::counters`], at the caller's time.
    pub fn counters_at(&self, tenant: &str, now: Timestamp) -> TenantCounters {
        let (hash, mut tenants) = self.shard(tenant);
        let windows = tenants.windows(now);
        match tenants.table.find(hash, |entry| entry.is(tenant, "")) {
            Some(entry) => entry.counters(windows, now),
            None => TenantCounters { at: now, ..TenantCounters::default() },
        }
    }

    /// How many tenants, and scopes of tenants, have counters.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().table.len()).sum()
    }

    /// Whether no tenant has counters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the tenants whose windows are all over. Done by itself before memory grows; worth calling only to give
    /// memory back after a month with far more tenants.
    pub fn evict_expired(&self) {
        let now = self.clock.now();
        for shard in &self.shards {
            let mut tenants = shard.lock();
            tenants.table.retain(|entry| !entry.expired(now));
            tenants.table.shrink_to_fit(|entry| hash(&self.hasher, &entry.id, &entry.scope));
        }
    }

    fn shard(&self, tenant: &str) -> (u64, MutexGuard<'_, Tenants>) {
        let hash = self.hash(tenant, "");
        // The table takes the lowest bits for the place and the highest for the tag.
        (hash, self.shards[(hash >> 32) as usize % SHARDS].lock())
    }

    fn hash(&self, tenant: &str, scope: &str) -> u64 {
        hash(&self.hasher, tenant, scope)
    }
}

fn hash(hasher: &DefaultHashBuilder, tenant: &str, scope: &str) -> u64 {
    if scope.is_empty() { hasher.hash_one(tenant) } else { hasher.hash_one((tenant, scope)) }
}

impl Default for MemoryCounters {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCounters").field("tenants", &self.len()).finish_non_exhaustive()
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Tenants> {
        // Counters are whole after every step: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tenants {
    fn windows(&mut self, now: Timestamp) -> Windows {
        let (month, month_end) = match self.month {
            Some((start, end)) if start <= now && now < end => (start, end),
            _ => {
                let start = WindowKind::Month.start(now);
                *self.month.insert((start, WindowKind::Month.end(start)))
            }
        };
        Windows { minute: WindowKind::Minute.start(now), hour: WindowKind::Hour.start(now), month, month_end }
    }

    /// The counters of a window, unless no decision will look at it any more, or not for long.
    fn counter(
        &mut self,
        hash: u64,
        (tenant, scope): (&str, &str),
        kind: WindowKind,
        start: Timestamp,
        now: Timestamp,
        hasher: &DefaultHashBuilder,
    ) -> Option<&mut WindowCounter> {
        let current = kind.start(now);
        // Only minutes are looked at after their end, and only in the minute that follows.
        let oldest = if kind == WindowKind::Minute { current.plus_millis(-MINUTE) } else { current };
        if start < oldest || start > kind.end(current) {
            return None;
        }
        Cell::newer(self.of(hash, tenant, scope, now, hasher).cells(kind), start)
    }

    /// The counters of a tenant or scope, new ones if there are none.
    fn of(&mut self, hash: u64, tenant: &str, scope: &str, now: Timestamp, hasher: &DefaultHashBuilder) -> &mut Tenant {
        let table = match self.table.find_entry(hash, |entry| entry.is(tenant, scope)) {
            Ok(entry) => return entry.into_mut(),
            Err(absent) => absent.into_table(),
        };
        if table.len() == table.capacity() {
            table.retain(|entry| !entry.expired(now));
        }
        let none = Cell { start: Timestamp::MIN, counter: WindowCounter::default() };
        let (id, scope) = (tenant.into(), scope.into());
        let tenant = Tenant { id, scope, minutes: [none; 4], hours: [none; 2], months: [none; 2] };
        table.insert_unique(hash, tenant, |entry| self::hash(hasher, &entry.id, &entry.scope)).into_mut()
    }
}

impl Tenant {
    fn is(&self, tenant: &str, scope: &str) -> bool {
        *self.id == *tenant && *self.scope == *scope
    }

    fn cells(&mut self, kind: WindowKind) -> &mut [Cell] {
        match kind {
            WindowKind::Minute => &mut self.minutes,
            WindowKind::Hour => &mut self.hours,
            WindowKind::Month => &mut self.months,
        }
    }

    fn counters(&self, windows: Windows, at: Timestamp) -> TenantCounters {
        TenantCounters {
            at,
            minute: Cell::get(&self.minutes, windows.minute),
            previous_minute: Cell::get(&self.minutes, windows.minute.plus_millis(-MINUTE)),
            hour: Cell::get(&self.hours, windows.hour),
            month: Cell::get(&self.months, windows.month),
        }
    }

    fn add(&mut self, windows: Windows, cost: i64) {
        Cell::of(&mut self.minutes, windows.minute).add(cost);
        Cell::of(&mut self.hours, windows.hour).add(cost);
        Cell::of(&mut self.months, windows.month).add(cost);
    }

    fn expired(&self, now: Timestamp) -> bool {
        let over = |kind: WindowKind, cell: &Cell| kind.end(cell.start).plus_millis(2 * MINUTE) <= now;
        self.months.iter().all(|cell| over(WindowKind::Month, cell))
            && self.hours.iter().all(|cell| over(WindowKind::Hour, cell))
            && self.minutes.iter().all(|cell| over(WindowKind::Minute, cell))
    }
}

impl Cell {
    fn get(cells: &[Self], start: Timestamp) -> WindowCounter {
        cells.iter().find(|cell| cell.start == start).map(|cell| cell.counter).unwrap_or_default()
    }

    /// The counters of the window that begins at `start`, in place of the oldest if they are not there.
    fn of(cells: &mut [Self], start: Timestamp) -> &mut WindowCounter {
        let index = Self::place(cells, start);
        let cell = &mut cells[index];
        if cell.start != start {
            *cell = Self { start, counter: WindowCounter::default() };
        }
        &mut cell.counter
    }

    /// As [`Cell::of`], but never in place of a window that is newer.
    fn newer(cells: &mut [Self], start: Timestamp) -> Option<&mut WindowCounter> {
        let oldest = cells[Self::place(cells, start)].start;
        (oldest <= start).then(|| Self::of(cells, start))
    }

    fn place(cells: &[Self], start: Timestamp) -> usize {
        let mut oldest = 0;
        for (index, cell) in cells.iter().enumerate() {
            if cell.start == start {
                return index;
            }
            if cell.start < cells[oldest].start {
                oldest = index;
            }
        }
        oldest
    }
}

impl WindowCounter {
    fn add(&mut self, cost: i64) {
        self.live = self.used().saturating_add(cost);
    }
}

/// Every call answers at once, whatever its deadline.
#[async_trait]
impl CounterStore for MemoryCounters {
    async fn check_and_add(&self, check: Check<'_>, _deadline: Duration) -> Result<Decision> {
        let now = check.at.unwrap_or_else(|| self.clock.now());
        Ok(self.decide_scopes(check.tenant, &check.limits, check.scopes, check.cost, now))
    }

    async fn add(&self, additions: &[Addition<'_>], _deadline: Duration) -> Result<()> {
        additions.iter().for_each(|addition| Self::add(self, addition));
        Ok(())
    }

    async fn settle(&self, values: &[Settled<'_>], _deadline: Duration) -> Result<()> {
        values.iter().for_each(|settled| Self::settle(self, settled));
        Ok(())
    }

    async fn counters(&self, tenant: &str, _deadline: Duration) -> Result<TenantCounters> {
        Ok(Self::counters(self, tenant))
    }
}
