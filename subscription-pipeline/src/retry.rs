//! Trying again.

use std::future::Future;
use std::time::Duration;

use subscription_core::{Clock, Error, Result};

use crate::config::RetryPolicy;
use crate::events::{Events, PipelineEvent};

/// What a retried call needs besides itself.
#[derive(Clone)]
pub(crate) struct Retry {
    pub(crate) policy: RetryPolicy,
    pub(crate) clock: std::sync::Arc<dyn Clock>,
    pub(crate) events: Events,
}

impl Retry {
    /// Calls until it succeeds, fails for good, or the policy gives up.
    pub(crate) async fn run<T, F>(&self, what: &'static str, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tries = self.tries(what);
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(error) => tries.failed(error).await?,
            }
        }
    }

    /// For a call that cannot be given to [`Retry::run`]: to be told of each failure.
    pub(crate) fn tries(&self, what: &'static str) -> Tries {
        Tries { retry: self.clone(), what, longest: self.policy.first, first_failure: None }
    }
}

/// The failures of one call so far.
pub(crate) struct Tries {
    retry: Retry,
    what: &'static str,
    longest: Duration,
    first_failure: Option<u64>,
}

impl Tries {
    /// Waits until the call may be made again; answers the error where it is final or the policy gives up.
    pub(crate) async fn failed(&mut self, error: Error) -> Result<()> {
        tokio::time::sleep(self.pause(error)?).await;
        Ok(())
    }

    /// How long to wait until the call may be made again; answers the error where it is final or the policy gives up.
    pub(crate) fn pause(&mut self, error: Error) -> Result<Duration> {
        let Retry { policy, clock, events } = &self.retry;
        let now = clock.monotonic_nanos();
        let since = Duration::from_nanos(now - *self.first_failure.get_or_insert(now));
        if !error.is_retryable() || since >= policy.give_up {
            return Err(error);
        }
        let pause = jitter(self.longest, now);
        events.send(PipelineEvent::Retrying { what: self.what, error: format!("{error:?}"), pause });
        self.longest = (self.longest * 2).min(policy.longest);
        Ok(pause)
    }
}

/// A pause between nothing and `longest`. The clock's low digits are random enough to keep processes apart.
fn jitter(longest: Duration, seed: u64) -> Duration {
    // The finaliser of splitmix64 (Steele, Lea, Flood 2014).
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    longest.mul_f64(((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64)
}
