//! Events handed to another thread of the same process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{EmitterCounts, EmitterStamp, EventEmitter};
use crate::error::{Error, ErrorKind, Result};
use crate::event::ApiUsageEvent;

/// An event as it was emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Its tenant: the key of its record.
    pub tenant_id: String,
    /// Its payload, stamped.
    pub payload: String,
}

/// An emitter into a bounded channel: for tests, and for programs that bring events to their destination themselves.
///
/// An event counts as delivered when it is in the channel. A full channel refuses.
#[derive(Debug)]
pub struct ChannelEmitter {
    stamp: EmitterStamp,
    /// The next number, and the channel, so that the order in it is that of the numbers.
    next: Mutex<(u64, SyncSender<Emitted>)>,
    closed: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl ChannelEmitter {
    /// An emitter, and the end from which its events are taken. `name` tells it from others, see [`EmitterStamp::new`].
    ///
    /// # Errors
    /// Those of [`EmitterStamp::new`].
    pub fn new(name: &str, capacity: usize) -> Result<(Self, Receiver<Emitted>)> {
        let (sender, receiver) = sync_channel(capacity);
        let emitter = Self {
            stamp: EmitterStamp::new(name)?,
            next: Mutex::new((0, sender)),
            closed: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Ok((emitter, receiver))
    }

    fn send(&self, event: &ApiUsageEvent<'_>) -> Result<()> {
        let draft = self.stamp.draft(event);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let payload = draft.numbered(next.0);
        next.0 += 1;
        if self.closed.load(Ordering::Acquire) {
            return Err(super::closed());
        }
        next.1.try_send(Emitted { tenant_id: event.tenant_id.clone().into_owned(), payload }).map_err(|error| {
            match error {
                TrySendError::Full(_) => {
                    Error::new(ErrorKind::StorageFull, "the channel of usage events is full").retryable()
                }
                TrySendError::Disconnected(_) => {
                    Error::new(ErrorKind::Unavailable, "nobody takes usage events any longer")
                }
            }
        })
    }
}

impl EventEmitter for ChannelEmitter {
    fn id(&self) -> &str {
        self.stamp.id()
    }

    fn emit(&self, event: &ApiUsageEvent<'_>) -> Result<()> {
        let sent = self.send(event);
        let count = if sent.is_ok() { &self.accepted } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        sent
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn flush(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn counts(&self) -> EmitterCounts {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed);
        EmitterCounts { accepted, delivered: accepted, refused, ..EmitterCounts::default() }
    }
}
