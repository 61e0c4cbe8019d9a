//! Trying again.

use std::future::Future;
use std::time::Duration;

use subscription_core::{Clock, Result};

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
        let mut longest = self.policy.first;
        let mut first_failure = None;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let now = self.clock.monotonic_nanos();
            let since = Duration::from_nanos(now - *first_failure.get_or_insert(now));
            if !error.is_retryable() || since >= self.policy.give_up {
                return Err(error);
            }
            let pause = jitter(longest, now);
            self.events.send(PipelineEvent::Retrying { what, error: format!("{error:?}"), pause });
            tokio::time::sleep(pause).await;
            longest = (longest * 2).min(self.policy.longest);
        }
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
