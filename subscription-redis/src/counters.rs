//! [`RedisCounters`]: what a call says to the server, and what its answer means.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use subscription_core::{
    Addition, Check, Clock, CounterStore, Decision, Error, ErrorKind, Limits, Result, Scope, Settled, SystemClock,
    TenantCounters, Timestamp, WindowAlgorithm, WindowCounter, WindowKind, decide,
};

use crate::config::RedisConfig;
use crate::connection::Link;
use crate::keys;
use crate::script::{CHECK, Call, RAISE};

const MINUTE: i64 = 60_000;
/// How long windows are kept: minutes from their start, longer ones from their end.
const KEPT: i64 = 2 * MINUTE;
/// How long a connection may be silent while calls wait, before another one is made.
const SILENCE: i64 = 1_000;
/// Parts of a cluster that are taken to fail apart, as `CounterStore::shard` numbers them.
const SHARDS: u16 = 64;

/// A [`CounterStore`] in Redis or Valkey, shared by all gateways and the pipeline.
///
/// All calls share one connection, by which those of the same moment are pipelined. It is made in the background, and
/// made again where it breaks; meanwhile calls fail at once. Dropping the value ends it.
///
/// ```no_run
/// use std::time::Duration;
/// use subscription_core::{Catalog, Check, CounterStore, Limits, Timestamp};
/// use subscription_redis::{RedisConfig, RedisCounters};
///
/// # async fn example() -> subscription_core::Result<()> {
/// let counters = RedisCounters::connect(RedisConfig::new("redis://localhost:6379")?).await?;
/// let plan = Catalog::default().plan("acme", "free", Timestamp::EPOCH).unwrap();
/// let check = Check { tenant: "acme", limits: Limits::from(plan), scopes: &[], cost: 1, at: None };
/// let decision = counters.check_and_add(check, Duration::from_millis(5)).await?;
/// println!("{} of {} left", decision.remaining, decision.limit);
/// # Ok(())
/// # }
/// ```
pub struct RedisCounters {
    link: Link,
    prefix: String,
    /// The clock to decide by, where it is not the server's.
    callers: Option<std::sync::Arc<dyn Clock>>,
    own: SystemClock,
    /// The server's time less this process's monotonic time, in milliseconds, as of the last answer.
    offset: AtomicI64,
    /// When the server last answered, or was first asked after it had, by monotonic time in milliseconds.
    heard: AtomicI64,
}

impl RedisCounters {
    /// Counters that are connected to in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Configuration`, where the configuration is wrong. That the server cannot be reached is told by
    /// [`RedisCounters::ready`] and by every call.
    pub fn new(config: RedisConfig) -> Result<Self> {
        config.check()?;
        let own = SystemClock::new();
        let offset = own.now().millis() - millis(&own);
        Ok(Self {
            prefix: config.prefix.clone(),
            callers: config.clock.clone(),
            link: Link::new(config),
            offset: AtomicI64::new(offset),
            heard: AtomicI64::new(millis(&own)),
            own,
        })
    }

    /// As [`RedisCounters::new`], once the server has answered.
    ///
    /// # Errors
    /// Those of [`RedisCounters::ready`] besides.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        let counters = Self::new(config)?;
        counters.ready().await?;
        Ok(counters)
    }

    /// Waits for the first attempt to connect; answers how the last one ended.
    ///
    /// # Errors
    /// `Unavailable`, where nobody answered; `PermissionDenied`, where user or password are wrong.
    pub async fn ready(&self) -> Result<()> {
        self.link.ready().await
    }

    /// Runs a script, once.
    async fn run(&self, call: &Call, deadline: Duration) -> Result<Vec<i64>> {
        self.bounded(self.link.run(call), deadline).await
    }

    /// Waits for an answer of the server.
    async fn bounded<T>(&self, answer: impl Future<Output = Result<T>>, deadline: Duration) -> Result<T> {
        match tokio::time::timeout(deadline, answer).await {
            Ok(answer) => {
                self.heard.store(millis(&self.own), Ordering::Relaxed);
                answer
            }
            Err(_) => {
                if millis(&self.own) - self.heard.load(Ordering::Relaxed) > SILENCE {
                    self.heard.store(millis(&self.own), Ordering::Relaxed);
                    self.link.give_up_current();
                }
                Err(Error::new(ErrorKind::Unavailable, "the counter store did not answer in time")
                    .with("deadline", format!("{deadline:?}"))
                    .retryable())
            }
        }
    }

    /// Runs the check for the minute in which the deciding clock stands.
    async fn check(&self, tenant: &str, rest: &Rest<'_>, deadline: Duration) -> Result<(bool, Answer)> {
        let at = rest.at.or_else(|| self.callers.as_ref().map(|clock| clock.now()));
        let asked = self.own.monotonic_nanos();
        let left = || deadline.saturating_sub(Duration::from_nanos(self.own.monotonic_nanos().saturating_sub(asked)));
        // A wrong guess has no effect but to tell the time. Twice in a row it is only wrong if the clock is moved.
        for _ in 0..3 {
            let guess = at.unwrap_or_else(|| self.server_time());
            let answer = self.run(&rest.call(&self.prefix, tenant, at, guess), left()).await?;
            let [status, now, counters @ ..] = &*answer else { return Err(malformed(&answer)) };
            let now = Timestamp::from_millis(*now);
            if at.is_none() {
                self.offset.store(now.millis() - millis(&self.own), Ordering::Relaxed);
            }
            if *status >= 0 {
                return Ok((*status == 1, Answer { at: now, counters: counters.to_vec() }));
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the counter store's clock jumps").retryable())
    }

    /// What the server's clock shows, as far as its last answer tells.
    fn server_time(&self) -> Timestamp {
        Timestamp::from_millis(self.offset.load(Ordering::Relaxed).saturating_add(millis(&self.own)))
    }

    /// Raises counters, those of all tenants at the same time: a call for windows of one tenant that follow each other.
    async fn raise<'a>(
        &self,
        field: &str,
        windows: impl Iterator<Item = (&'a str, &'a str, WindowKind, Timestamp, i64)>,
        deadline: Duration,
    ) -> Result<()> {
        let at = self.callers.as_ref().map(|clock| clock.now());
        let (mut calls, mut last) = (Vec::new(), None);
        for (tenant, scope, kind, time, value) in windows {
            if last.replace(tenant) != Some(tenant) {
                let mut call = Call::new(&RAISE);
                call.opt_arg(at.map(Timestamp::millis)).arg(field);
                calls.push(call);
            }
            let Some(call) = calls.last_mut() else { continue };
            let start = kind.start(time);
            call.key(|key| keys::write(key, &self.prefix, tenant, scope, kind, start));
            call.arg(value).arg(start.millis()).arg(kept_until(kind, start));
        }
        if calls.is_empty() { Ok(()) } else { self.bounded(self.link.run_all(&calls), deadline).await }
    }
}

/// A check without its tenant.
struct Rest<'a> {
    limits: Limits,
    scopes: &'a [Scope<'a>],
    /// `None` to count nothing and only tell.
    cost: Option<u32>,
    at: Option<Timestamp>,
}

impl Rest<'_> {
    fn call(&self, prefix: &str, tenant: &str, at: Option<Timestamp>, guess: Timestamp) -> Call {
        let [minute, hour, month] = WindowKind::ALL.map(|kind| kind.start(guess));
        let mut call = Call::new(&CHECK);
        call.opt_arg(at.map(Timestamp::millis)).arg(minute.millis());
        call.arg(WindowKind::Hour.end(hour).millis()).arg(WindowKind::Month.end(month).millis());
        call.opt_arg(self.cost);
        let own = Scope { name: "", limits: self.limits };
        for scope in std::iter::once(&own).chain(self.scopes) {
            let mut key = |kind, start| call.key(|key| keys::write(key, prefix, tenant, scope.name, kind, start));
            key(WindowKind::Minute, minute);
            key(WindowKind::Minute, minute.plus_millis(-MINUTE));
            key(WindowKind::Hour, hour);
            key(WindowKind::Month, month);
            let Limits { per_minute, per_hour, per_month, window } = scope.limits;
            call.arg(u8::from(window == WindowAlgorithm::Sliding)).arg(per_minute).arg(per_hour).arg(per_month);
        }
        call
    }
}

/// Counters as they were before a decision, of the tenant and of each scope.
struct Answer {
    at: Timestamp,
    counters: Vec<i64>,
}

impl Answer {
    fn of(&self, place: usize) -> Result<TenantCounters> {
        let Some([m, ms, p, ps, h, hs, n, ns]) = self.counters.get(8 * place..8 * place + 8) else {
            return Err(malformed(&self.counters));
        };
        let counter = |live: &i64, settled: &i64| WindowCounter { live: *live, settled: *settled };
        Ok(TenantCounters {
            at: self.at,
            minute: counter(m, ms),
            previous_minute: counter(p, ps),
            hour: counter(h, hs),
            month: counter(n, ns),
        })
    }
}

fn malformed(answer: &[i64]) -> Error {
    Error::new(ErrorKind::Invariant, "the counter store's script answered something else").with("fields", answer.len())
}

fn kept_until(kind: WindowKind, start: Timestamp) -> i64 {
    let from = if kind == WindowKind::Minute { start } else { kind.end(start) };
    from.plus_millis(KEPT).millis()
}

fn millis(clock: &SystemClock) -> i64 {
    (clock.monotonic_nanos() / 1_000_000) as i64
}

#[async_trait]
impl CounterStore for RedisCounters {
    async fn check_and_add(&self, check: Check<'_>, deadline: Duration) -> Result<Decision> {
        let Check { tenant, limits, scopes, cost, at } = check;
        let (counted, answer) = self.check(tenant, &Rest { limits, scopes, cost: Some(cost), at }, deadline).await?;
        let mut decision = decide(&limits, &answer.of(0)?.usage(), cost, answer.at);
        for (place, scope) in scopes.iter().enumerate() {
            let narrower = decide(&scope.limits, &answer.of(place + 1)?.usage(), cost, answer.at);
            decision = decision.tighter(Decision { scope: Some(place), ..narrower });
        }
        // The script decides, and this says why: they are the same rule, which a test compares.
        if decision.allowed != counted {
            return Err(Error::new(ErrorKind::Invariant, "the counter store's script decided otherwise")
                .with("tenant", format!("{tenant:?}"))
                .with("script", counted));
        }
        Ok(decision)
    }

    async fn add(&self, additions: &[Addition<'_>], deadline: Duration) -> Result<()> {
        let windows = additions.iter().flat_map(|addition| {
            WindowKind::ALL.map(|kind| (addition.tenant, addition.scope, kind, addition.at, addition.cost))
        });
        self.raise("add", windows, deadline).await
    }

    async fn settle(&self, values: &[Settled<'_>], deadline: Duration) -> Result<()> {
        let windows = values.iter().map(|value| (value.tenant, "", value.kind, value.window_start, value.quota_used));
        self.raise("settle", windows, deadline).await
    }

    async fn counters(&self, tenant: &str, deadline: Duration) -> Result<TenantCounters> {
        let limits = Limits { per_minute: 0, per_hour: 0, per_month: 0, window: WindowAlgorithm::Fixed };
        let (_, answer) = self.check(tenant, &Rest { limits, scopes: &[], cost: None, at: None }, deadline).await?;
        answer.of(0)
    }

    fn shard(&self, tenant: &str) -> usize {
        usize::from(keys::slot(tenant) / (16_384 / SHARDS))
    }
}

impl fmt::Debug for RedisCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCounters").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
