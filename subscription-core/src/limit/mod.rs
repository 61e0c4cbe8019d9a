//! Whether a request is allowed: from limits, counters, cost and time, in whole numbers.

mod http;

use std::fmt;

use crate::plan::{Plan, WindowAlgorithm};
use crate::time::{HOUR, MINUTE, SECOND, Timestamp, WindowKind};

/// What a tenant may use: units of quota a minute, an hour and a calendar month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Units a minute.
    pub per_minute: i64,
    /// Units a clock hour.
    pub per_hour: i64,
    /// Units a calendar month.
    pub per_month: i64,
    /// How the minute's usage is measured.
    pub window: WindowAlgorithm,
}

impl From<&Plan> for Limits {
    fn from(plan: &Plan) -> Self {
        let Plan { terms, enforcement } = plan;
        Self {
            per_minute: terms.per_minute,
            per_hour: terms.per_hour,
            per_month: terms.per_month,
            window: enforcement.window,
        }
    }
}

impl From<Plan> for Limits {
    fn from(plan: Plan) -> Self {
        Self::from(&plan)
    }
}

impl Limits {
    /// The limit of a kind of window.
    pub const fn of(&self, kind: WindowKind) -> i64 {
        match kind {
            WindowKind::Minute => self.per_minute,
            WindowKind::Hour => self.per_hour,
            WindowKind::Month => self.per_month,
        }
    }
}

/// What a tenant has used in the windows that hold a time: admitted units, by the tables' clock windows in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Usage {
    /// In the clock minute.
    pub minute: i64,
    /// In the clock minute before it.
    pub previous_minute: i64,
    /// In the clock hour.
    pub hour: i64,
    /// In the calendar month.
    pub month: i64,
}

impl Usage {
    /// What counts against the limit of a kind of window at `now`.
    ///
    /// For a sliding minute that is `current + ⌊previous × (60,000 − elapsed ms) ÷ 60,000⌋`, the estimate that
    /// Cloudflare described in "How we built rate limiting capable of scaling to millions of domains" (2017).
    pub const fn of(&self, kind: WindowKind, window: WindowAlgorithm, now: Timestamp) -> i64 {
        match (kind, window) {
            (WindowKind::Minute, WindowAlgorithm::Fixed) => self.minute,
            (WindowKind::Minute, WindowAlgorithm::Sliding) => {
                self.minute.saturating_add(share(self.previous_minute, MINUTE - now.millis().rem_euclid(MINUTE)))
            }
            (WindowKind::Hour, _) => self.hour,
            (WindowKind::Month, _) => self.month,
        }
    }

    /// The usage after a request of this cost was admitted.
    #[must_use]
    pub const fn plus(&self, cost: u32) -> Self {
        let cost = cost as i64;
        Self {
            minute: self.minute.saturating_add(cost),
            previous_minute: self.previous_minute,
            hour: self.hour.saturating_add(cost),
            month: self.month.saturating_add(cost),
        }
    }
}

/// `⌊used × left ÷ 60,000⌋` for `left` of 0 to 60,000; divided first, so that nothing overflows.
const fn share(used: i64, left: i64) -> i64 {
    used / MINUTE * left + used % MINUTE * left / MINUTE
}

/// Why a request was allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It fits into every limit.
    WithinLimits,
    /// The binding limit has no room for it now.
    LimitReached,
    /// It costs more than the binding limit as a whole: no waiting helps.
    CostAboveLimit,
    /// The counters could not be reached, and the plan's [failure policy](crate::FailurePolicy) allows or denies all.
    StoreUnavailable,
}

impl Reason {
    /// `within_limits`, `limit_reached`, `cost_above_limit` or `store_unavailable`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WithinLimits => "within_limits",
            Self::LimitReached => "limit_reached",
            Self::CostAboveLimit => "cost_above_limit",
            Self::StoreUnavailable => "store_unavailable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Whether the request may pass.
    pub allowed: bool,
    /// The binding limit.
    pub limit: i64,
    /// What is left of the binding limit: after this request where it is allowed, without it where it is denied.
    /// Never below 0.
    pub remaining: i64,
    /// Whole seconds, rounded up, to the end of the binding limit's window.
    pub reset_seconds: u64,
    /// The fewest whole seconds after which this request would be allowed if no other came: 0 where it is allowed,
    /// `None` where it never would be, because it costs more than a limit as a whole.
    pub retry_after_seconds: Option<u64>,
    /// The limit that decided: of an allowed request the one with the least remaining, of a denied one the one that
    /// takes longest to make room. Of equal ones, that of the longer window.
    pub binding: WindowKind,
    /// Whose limit that is: the place in [`Check::scopes`](crate::Check::scopes) of a narrower one, `None` for the
    /// tenant's own.
    pub scope: Option<usize>,
    /// Why.
    pub reason: Reason,
    /// When the decision was made, by the clock of the counters: the time that the request's usage event must carry,
    /// so that event and counters mean the same windows.
    pub at: Timestamp,
}

impl Decision {
    /// The tighter of two decisions on one request, that on the narrower scope the second: it is allowed if both are.
    /// Of denied ones that with the longer wait is named, of allowed ones that with less remaining, of equal ones the
    /// first.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let wait = |decision: &Self| decision.retry_after_seconds.unwrap_or(u64::MAX);
        let other_is_tighter = match (self.allowed, other.allowed) {
            (true, true) => other.remaining < self.remaining,
            (false, false) => wait(&other) > wait(&self),
            (first, _) => first,
        };
        if other_is_tighter { other } else { self }
    }
}

impl Decision {
    /// This answer to a later request of the same window, of which less remains.
    pub(crate) fn later(&self, at: Timestamp, remaining: i64) -> Self {
        let month_end = || WindowKind::Month.end(WindowKind::Month.start(at));
        Self { at, remaining, reset_seconds: seconds_to_end(self.binding, at, month_end), ..*self }
    }
}

/// Decides a request that would take `cost` units of quota at `now`, from the usage before it.
///
/// It is allowed if `used + cost ≤ limit` in the minute, the hour and the month. This function counts nothing; a
/// [`CounterStore`](crate::CounterStore) decides and counts in one step.
///
/// ```
/// use subscription_core::{Catalog, Limits, Timestamp, Usage, WindowKind, decide};
///
/// let now = Timestamp::from_millis(1_700_000_130_000); // 30 s into a minute
/// let limits = Limits::from(Catalog::default().plan("acme", "free", now).unwrap());
/// let usage = Usage { minute: 40, previous_minute: 40, hour: 80, month: 80 };
/// let decision = decide(&limits, &usage, 1, now); // 40 + ⌊40 × 30,000 ÷ 60,000⌋ = 60 of 60
/// assert!(!decision.allowed);
/// assert_eq!((decision.binding, decision.limit, decision.remaining), (WindowKind::Minute, 60, 0));
/// assert_eq!(decision.retry_after_seconds, Some(1)); // 40 + ⌊40 × 29,000 ÷ 60,000⌋ = 59
/// ```
pub fn decide(limits: &Limits, usage: &Usage, cost: u32, now: Timestamp) -> Decision {
    decide_in(limits, usage, cost, now, || WindowKind::Month.end(WindowKind::Month.start(now)))
}

/// As [`decide`], for callers that know when the month ends: asking the calendar takes longer than deciding.
#[inline]
pub(crate) fn decide_in(
    limits: &Limits,
    usage: &Usage,
    cost: u32,
    now: Timestamp,
    month_end: impl Fn() -> Timestamp,
) -> Decision {
    let cost = i64::from(cost);
    let left = |kind| limits.of(kind).saturating_sub(usage.of(kind, limits.window, now)).saturating_sub(cost);
    let (mut binding, mut least) = (WindowKind::Month, left(WindowKind::Month));
    for kind in [WindowKind::Hour, WindowKind::Minute] {
        let left = left(kind);
        if left < least {
            (binding, least) = (kind, left);
        }
    }
    if least >= 0 {
        return Decision {
            allowed: true,
            limit: limits.of(binding),
            remaining: least,
            reset_seconds: seconds_to_end(binding, now, month_end),
            retry_after_seconds: Some(0),
            binding,
            scope: None,
            reason: Reason::WithinLimits,
            at: now,
        };
    }
    deny(limits, usage, cost, now, month_end())
}

/// Kept apart, and so the way of allowed requests short.
#[cold]
fn deny(limits: &Limits, usage: &Usage, cost: i64, now: Timestamp, month_end: Timestamp) -> Decision {
    // Without other requests no usage ever grows, so that what one window has room for after its wait it still has
    // room for after the longest. `None`, for ever, is longer than any other wait.
    let wait = |kind: WindowKind| {
        let room = limits.of(kind).saturating_sub(cost);
        if room < 0 {
            return None;
        }
        Some(match (kind, limits.window) {
            (WindowKind::Minute, WindowAlgorithm::Sliding) => sliding_wait(usage, room, now),
            _ if usage.of(kind, limits.window, now) <= room => 0,
            _ => seconds_to_end(kind, now, || month_end),
        })
    };
    let (mut binding, mut longest) = (WindowKind::Month, wait(WindowKind::Month));
    for kind in [WindowKind::Hour, WindowKind::Minute] {
        let wait = wait(kind);
        if wait.unwrap_or(u64::MAX) > longest.unwrap_or(u64::MAX) {
            (binding, longest) = (kind, wait);
        }
    }
    Decision {
        allowed: false,
        limit: limits.of(binding),
        remaining: limits.of(binding).saturating_sub(usage.of(binding, limits.window, now)).max(0),
        reset_seconds: seconds_to_end(binding, now, || month_end),
        retry_after_seconds: longest,
        binding,
        scope: None,
        reason: if longest.is_some() { Reason::LimitReached } else { Reason::CostAboveLimit },
        at: now,
    }
}

/// Whole seconds, rounded up, until a sliding minute's usage is at most `room`.
fn sliding_wait(usage: &Usage, room: i64, now: Timestamp) -> u64 {
    let elapsed = now.millis().rem_euclid(MINUTE);
    let millis = if usage.of(WindowKind::Minute, WindowAlgorithm::Sliding, now) <= room {
        0
    } else if usage.minute <= room {
        // The minute before fades from this one.
        fade(usage.previous_minute, room.saturating_sub(usage.minute)) - elapsed
    } else {
        // This minute fades from the next one.
        MINUTE - elapsed + fade(usage.minute, room)
    };
    millis.div_euclid(SECOND) as u64 + u64::from(millis % SECOND != 0)
}

/// How many milliseconds into a minute the share of the minute before it is at most `room` for the first time.
fn fade(used: i64, room: i64) -> i64 {
    // ⌊used × left ÷ 60,000⌋ ≤ room is used × left < (room + 1) × 60,000.
    let left = ((i128::from(room) + 1) * i128::from(MINUTE) - 1) / i128::from(used.max(1));
    MINUTE - left.min(i128::from(MINUTE)) as i64
}

/// Whole seconds, rounded up, to the end of the window that holds `now`.
fn seconds_to_end(kind: WindowKind, now: Timestamp, month_end: impl Fn() -> Timestamp) -> u64 {
    let millis = match kind {
        WindowKind::Minute => MINUTE - now.millis().rem_euclid(MINUTE),
        WindowKind::Hour => HOUR - now.millis().rem_euclid(HOUR),
        WindowKind::Month => month_end().millis().saturating_sub(now.millis()).max(0),
    };
    (millis as u64).div_ceil(SECOND as u64)
}
