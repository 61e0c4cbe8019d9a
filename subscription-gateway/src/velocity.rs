//! How often each tenant called lately, as this gateway saw it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use subscription_core::Timestamp;

const MINUTE: i64 = 60_000;
/// Minutes that are remembered: an hour, and the part of a minute before it.
const MINUTES: usize = 61;
const SHARDS: usize = 64;

/// Requests of a tenant in the last minute, five minutes and hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) minute: i64,
    pub(crate) five_minutes: i64,
    pub(crate) hour: i64,
}

/// Counts requests of each tenant by the minute.
///
/// A span that ends now begins within a minute; of that minute's requests the part is taken that the span covers, as if they
/// had come evenly: the estimate of a sliding window counter (the same as that of limits, see `docs/enforcement.md`).
pub(crate) struct Velocity {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    tenants: HashMap<String, Minutes>,
    /// The minute in which tenants that had gone quiet were last forgotten.
    swept: i64,
}

struct Minutes {
    /// By the minute since the epoch, modulo their number.
    counts: Box<[u32; MINUTES]>,
    /// The last minute that is counted.
    last: i64,
}

impl Velocity {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Counts a request of `tenant`, and answers how often it called, this request included.
    pub(crate) fn count(&self, tenant: &str, now: Timestamp) -> Rates {
        let minute = now.millis().div_euclid(MINUTE);
        let shard = &self.shards[self.hasher.hash_one(tenant) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.swept != minute {
            shard.swept = minute;
            shard.tenants.retain(|_, minutes| minute - minutes.last < MINUTES as i64);
        }
        if !shard.tenants.contains_key(tenant) {
            let new = Minutes { counts: Box::new([0; MINUTES]), last: minute };
            shard.tenants.insert(tenant.to_owned(), new);
        }
        match shard.tenants.get_mut(tenant) {
            Some(minutes) => minutes.count(now),
            None => Rates { minute: 1, five_minutes: 1, hour: 1 },
        }
    }
}

impl Minutes {
    fn count(&mut self, now: Timestamp) -> Rates {
        let minute = now.millis().div_euclid(MINUTE);
        if minute + 1 < self.last {
            // The clock had been too far ahead: what was counted then was of no minute.
            *self = Self { counts: Box::new([0; MINUTES]), last: minute };
        }
        // Of a clock that was set back a little the requests count as those of the last minute.
        for passed in (self.last + 1..=minute).rev().take(MINUTES) {
            self.counts[place(passed)] = 0;
        }
        self.last = self.last.max(minute);
        let now_in = &mut self.counts[place(self.last)];
        *now_in = now_in.saturating_add(1);
        let left = MINUTE - if minute == self.last { now.millis().rem_euclid(MINUTE) } else { MINUTE };
        let last = |minutes: i64| -> i64 {
            let whole: i64 = (0..minutes).map(|back| self.at(back)).sum();
            whole + self.at(minutes) * left / MINUTE
        };
        Rates { minute: last(1), five_minutes: last(5), hour: last(60) }
    }

    fn at(&self, back: i64) -> i64 {
        i64::from(self.counts[place(self.last - back)])
    }
}

fn place(minute: i64) -> usize {
    minute.rem_euclid(MINUTES as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_040_000 + seconds * 1_000)
    }

    #[test]
    fn a_span_takes_its_part_of_the_minute_that_it_begins_in() {
        let velocity = Velocity::new();
        for second in 0..60 {
            velocity.count("acme", at(second));
        }
        // 15 s into the next minute, three quarters of the one before are within the last 60 s.
        assert_eq!(velocity.count("acme", at(75)), Rates { minute: 1 + 45, five_minutes: 61, hour: 61 });
        assert_eq!(velocity.count("other", at(75)), Rates { minute: 1, five_minutes: 1, hour: 1 });
        // Five minutes later a quarter of the first minute is left in none but the hour.
        assert_eq!(velocity.count("acme", at(375)), Rates { minute: 1, five_minutes: 1, hour: 62 });
        // Two hours later nothing is.
        assert_eq!(velocity.count("acme", at(7_275)), Rates { minute: 1, five_minutes: 1, hour: 1 });
    }

    #[test]
    fn rates_of_longer_spans_are_never_smaller() {
        let velocity = Velocity::new();
        let mut time = 0;
        for step in 0..5_000i64 {
            // Some of the steps go back.
            time += (step * 7_919) % 23 - 3;
            let rates = velocity.count("acme", at(time));
            assert!(1 <= rates.minute && rates.minute <= rates.five_minutes && rates.five_minutes <= rates.hour);
        }
    }

    #[test]
    fn a_clock_that_ran_ahead_and_was_put_right_is_lived_down() {
        let velocity = Velocity::new();
        velocity.count("acme", at(3_600));
        for minute in 0..3 {
            let rates = velocity.count("acme", at(60 * minute));
            assert_eq!(rates, Rates { minute: 1 + minute.min(1), five_minutes: minute + 1, hour: minute + 1 });
        }
    }

    #[test]
    fn quiet_tenants_are_forgotten() {
        let velocity = Velocity::new();
        for (name, seconds) in [("tenant", 0), ("other", 2 * 3_600)] {
            for n in 0..1_000 {
                velocity.count(&format!("{name}-{n}"), at(seconds));
            }
        }
        let kept: usize = velocity.shards.iter().map(|shard| shard.lock().unwrap().tenants.len()).sum();
        assert_eq!(kept, 1_000);
    }
}
