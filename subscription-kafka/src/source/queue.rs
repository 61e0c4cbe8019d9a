//! What the polling thread has for the pipeline: events, then records, bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use subscription_core::{Error, RecordBatch, SourceEvent};
use tokio::sync::Notify;

/// Bytes of batches that wait for the pipeline before the thread stops reading.
const FULL: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// For the pipeline: there is something.
    filled: Notify,
    /// For the thread: there is room.
    drained: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Of the group, and errors: they come before records, so that nobody works on what is to be given up.
    events: VecDeque<Result<SourceEvent, Error>>,
    records: VecDeque<RecordBatch>,
    bytes: usize,
    /// The input has an end and all before it is in `records`.
    ended: bool,
}

impl Waiting {
    fn purge(&mut self, keep: impl Fn(u32) -> bool) {
        self.records.retain(|batch| keep(batch.partition()));
        self.bytes = self.records.iter().map(RecordBatch::memory).sum();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self, event: SourceEvent) {
        let mut waiting = self.lock();
        if let SourceEvent::Revoked { partitions, .. } | SourceEvent::Lost(partitions) = &event {
            waiting.purge(|partition| !partitions.contains(&partition));
        }
        waiting.ended = false;
        waiting.events.push_back(Ok(event));
        self.filled.notify_one();
    }

    /// Tells an error, unless one waits to be told already: a broker that is away is away for every partition.
    pub(super) fn error(&self, error: Error) {
        let mut waiting = self.lock();
        if !waiting.events.iter().any(Result::is_err) {
            waiting.events.push_back(Err(error));
            self.filled.notify_one();
        }
    }

    pub(super) fn records(&self, batch: RecordBatch) {
        let mut waiting = self.lock();
        waiting.bytes += batch.memory();
        waiting.records.push_back(batch);
        self.filled.notify_one();
    }

    /// After the records that wait comes the end of the input.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_one();
    }

    /// Forgets the records of a partition.
    pub(super) fn forget(&self, partition: u32) {
        let mut waiting = self.lock();
        waiting.purge(|p| p != partition);
        waiting.ended = false;
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.lock() = Waiting::default();
        self.drained.notify_one();
    }

    /// Waits for what comes next. Given up, nothing is lost.
    pub(super) async fn next(&self) -> Result<SourceEvent, Error> {
        loop {
            let filled = self.filled.notified();
            if let Some(next) = self.pop() {
                return next;
            }
            filled.await;
        }
    }

    fn pop(&self) -> Option<Result<SourceEvent, Error>> {
        let mut waiting = self.lock();
        if let Some(event) = waiting.events.pop_front() {
            return Some(event);
        }
        if let Some(batch) = waiting.records.pop_front() {
            waiting.bytes -= batch.memory();
            if waiting.bytes < FULL {
                self.drained.notify_one();
            }
            return Some(Ok(SourceEvent::Records(batch)));
        }
        std::mem::take(&mut waiting.ended).then_some(Ok(SourceEvent::End))
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().bytes >= FULL
    }

    /// Waits until there is room, at most this long.
    pub(super) fn wait_for_room(&self, at_most: Duration) {
        let full = |waiting: &mut Waiting| waiting.bytes >= FULL;
        // Whoever waited looks again.
        drop(self.drained.wait_timeout_while(self.lock(), at_most, full));
    }
}
