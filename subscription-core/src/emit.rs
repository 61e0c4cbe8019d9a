//! How usage events leave the process that saw the calls.

mod channel;
mod file;
mod stamp;

use std::time::Duration;

pub use channel::{ChannelEmitter, Emitted};
pub use file::FileEmitter;
pub use stamp::{Draft, EmitterStamp};

use crate::error::{Error, ErrorKind, Result};
use crate::event::ApiUsageEvent;

/// What became of an emitter's events since it was opened. All of it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EmitterCounts {
    /// Events taken: [`EventEmitter::emit`] answered `Ok`.
    pub accepted: u64,
    /// Events of earlier starts that were found undelivered, and are sent by this one.
    pub recovered: u64,
    /// Events not taken: [`EventEmitter::emit`] answered an error.
    pub refused: u64,
    /// Events that the receiver has confirmed.
    pub delivered: u64,
    /// Events that were taken and never will be delivered: the receiver refused them for what they are, or they were
    /// in memory alone when the emitter was closed.
    pub lost: u64,
}

impl EmitterCounts {
    /// Events taken of which nothing is known yet.
    pub fn pending(&self) -> u64 {
        (self.accepted + self.recovered).saturating_sub(self.delivered + self.lost)
    }
}

/// Where a gateway leaves its usage events.
///
/// # Contract
/// * `emit` MUST NOT wait: not for a network, not for room, not for a receiver. It takes microseconds; at most it writes
///   to the page cache. It may be called from many threads at once.
/// * `Ok` means *accepted*: the event has been given this emitter's id and the next number (`emitter_id`,
///   `emitter_sequence`, from 0), and is delivered **at least once**, in the end. A copy has the same `event_id` and the
///   same number, so it is a duplicate to whoever counts.
/// * An error means *refused*: the event is not delivered, and is counted in [`EmitterCounts::refused`]. What is
///   retryable may be taken later. A refused event has used up its number, so that a reader of the events sees what is
///   missing, and not only the caller.
/// * One tenant's events are delivered in the order of their numbers, which is the order of the calls.
/// * An event that was accepted MUST NOT vanish unseen: it is delivered, or counted in [`EmitterCounts::lost`].
/// * Memory is bounded, whatever the receiver does.
/// * `flush` and `close` wait, so they are not for async tasks (`tokio::task::spawn_blocking`). Neither loses anything
///   by running out of time, but for what `close` says.
///
/// ```
/// use std::time::Duration;
/// use subscription_core::{ApiUsageEvent, ChannelEmitter, EventEmitter, HttpMethod, Timestamp};
///
/// # fn main() -> subscription_core::Result<()> {
/// let (emitter, events) = ChannelEmitter::new("gateway-3", 1_000)?;
/// let emitter: Box<dyn EventEmitter> = Box::new(emitter);
/// let event = ApiUsageEvent::builder()
///     .event_id("0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap())
///     .event_timestamp(Timestamp::from_millis(1_767_225_600_000))
///     .tenant_id("acme")
///     .api_key_id("key-1")
///     .endpoint("/v1/reports")
///     .http_method(HttpMethod::Get)
///     .response_status_code(200)
///     .response_time_ms(12.5)
///     .subscription_plan("pro")
///     .build()
///     .unwrap();
/// emitter.emit(&event)?;
/// emitter.close(Duration::from_secs(5))?;
/// let emitted = events.recv().unwrap();
/// assert_eq!(emitted.tenant_id, "acme");
/// assert!(emitted.payload.ends_with(r#""emitter_sequence":0}"#));
/// # Ok(())
/// # }
/// ```
pub trait EventEmitter: Send + Sync {
    /// This emitter's id: one start of one emitting process, 1 to 128 characters.
    fn id(&self) -> &str;

    /// Takes an event.
    ///
    /// # Errors
    /// `StorageFull`, retryable, where there is no room; `Unavailable` once it is closed; others as the emitter says.
    fn emit(&self, event: &ApiUsageEvent<'_>) -> Result<()>;

    /// Whether an accepted event outlives the process, `kill -9` included: the next start delivers it.
    fn is_durable(&self) -> bool;

    /// Waits until all that was accepted before is delivered or lost.
    ///
    /// # Errors
    /// `Unavailable`, retryable, where that took longer than `deadline`.
    fn flush(&self, deadline: Duration) -> Result<()>;

    /// As `flush`, and refuses all further events. What is not delivered by then is kept for the next start where the
    /// emitter has a place for that, else it is lost. May be called again.
    ///
    /// # Errors
    /// `Unavailable` where not all was delivered; says what became of the rest.
    fn close(&self, deadline: Duration) -> Result<()>;

    /// What became of its events.
    fn counts(&self) -> EmitterCounts;
}

/// What a closed emitter answers.
fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the emitter of usage events is closed")
}
