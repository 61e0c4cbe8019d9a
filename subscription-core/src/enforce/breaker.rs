//! A circuit breaker: after some failures in a row nobody asks, but for one call now and then (Nygard, "Release It!").

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Closed, open or half open; of one part of a store.
#[derive(Default)]
pub(super) struct Breaker {
    /// In a row.
    failures: AtomicU32,
    /// While it is open, when the next call may try, in monotonic nanoseconds; 0 while it is closed.
    next_probe: AtomicU64,
}

impl Breaker {
    /// Whether a call may be made at `now`. While the breaker is open one may every `pause`.
    pub(super) fn lets_pass(&self, now: u64, pause: u64) -> bool {
        let next = self.next_probe.load(Ordering::Acquire);
        next == 0
            || now >= next
                && self
                    .next_probe
                    .compare_exchange(next, (now + pause).max(1), Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        self.next_probe.load(Ordering::Acquire) != 0
    }

    /// Whether the last call had no answer, as far as is known.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0 || self.is_open()
    }

    /// A call had an answer; says whether that closed the breaker.
    pub(super) fn succeeded(&self) -> bool {
        // Nearly always nothing is written, so that threads share the line. A breaker may be open without failures: where the one
        // that opened it was overtaken by a success.
        if !self.is_in_doubt() {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.next_probe.swap(0, Ordering::AcqRel) != 0
    }

    /// A call had none; says whether that opened the breaker, which `most` in a row do.
    pub(super) fn failed(&self, now: u64, pause: u64, most: u32) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < most {
            return false;
        }
        self.next_probe.swap((now + pause).max(1), Ordering::AcqRel) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            assert!(breaker.lets_pass(0, 100));
            assert!(!breaker.failed(10, 100, 3));
        }
        assert!(breaker.is_in_doubt() && !breaker.is_open());
        assert!(!breaker.succeeded(), "it was closed");
        assert!(!breaker.is_in_doubt());
        assert!(!breaker.failed(20, 100, 3) && !breaker.failed(20, 100, 3), "successes end a row");
        assert!(breaker.failed(20, 100, 3) && breaker.is_open());
        assert!(!breaker.failed(20, 100, 3), "it is open already");
        assert!(!breaker.lets_pass(119, 100));
        assert!(breaker.lets_pass(120, 100), "a probe");
        assert!(!breaker.lets_pass(120, 100) && !breaker.lets_pass(219, 100), "one at a time");
        assert!(breaker.lets_pass(220, 100), "the next, though nothing was heard of the first");
        assert!(breaker.succeeded() && !breaker.is_open());
        assert!(breaker.lets_pass(221, 100));
    }

    /// The last of a row of failures is counted, a success forgets them, and only then the failure opens the breaker.
    #[test]
    fn a_success_closes_it_though_no_failure_is_counted() {
        let breaker = Breaker::default();
        breaker.next_probe.store(100, Ordering::Release);
        assert!(breaker.is_open() && breaker.lets_pass(100, 100));
        assert!(breaker.succeeded() && !breaker.is_open());
    }
}
