//! A clock that tests set.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::clock::Clock;
use crate::time::Timestamp;

/// A [`Clock`] that stands still until it is told otherwise.
///
/// ```
/// use subscription_core::{Clock, Timestamp, testkit::ManualClock};
/// let clock = ManualClock::new(Timestamp::from_millis(1_000));
/// clock.advance_millis(500);
/// assert_eq!(clock.now(), Timestamp::from_millis(1_500));
/// assert_eq!(clock.monotonic_nanos(), 500_000_000);
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    millis: AtomicI64,
    nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now`; its monotonic time begins at 0.
    pub fn new(now: Timestamp) -> Self {
        Self { millis: AtomicI64::new(now.millis()), nanos: AtomicU64::new(0) }
    }

    /// Moves both times on.
    pub fn advance_millis(&self, millis: u64) {
        self.millis.fetch_add(millis as i64, Ordering::SeqCst);
        self.nanos.fetch_add(millis * 1_000_000, Ordering::SeqCst);
    }

    /// Sets the wall clock, forwards or back, as operators and time servers do; monotonic time stays.
    pub fn set(&self, now: Timestamp) {
        self.millis.store(now.millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.load(Ordering::SeqCst))
    }

    fn monotonic_nanos(&self) -> u64 {
        self.nanos.load(Ordering::SeqCst)
    }
}
