//! How far each partition was read, and the batches that are being filled.

use std::sync::Arc;

use subscription_core::{RecordBatch, RecordBatchBuilder};

use super::queue::Queue;

/// Bytes at which a batch is handed over.
const BATCH_BYTES: usize = 512 << 10;

/// The partitions of this member of the group.
pub(super) struct Readings {
    topic: Arc<str>,
    partitions: Vec<Partition>,
    /// When the oldest record that waits in a batch was read, on the monotonic clock, in nanoseconds.
    oldest: Option<u64>,
    /// Where each partition ended when the source was opened, where it is to end there.
    ends: Option<Vec<u64>>,
    /// Records read and not yet acknowledged do not count: what was delivered.
    delivered: u64,
}

#[derive(Default)]
struct Partition {
    /// The group has it with this member.
    assigned: bool,
    /// Librdkafka fetches it.
    fetched: bool,
    reading: Option<Reading>,
    /// Bytes of its last batch: a guess at the next.
    size: (usize, usize),
}

struct Reading {
    /// The end of what was handed over.
    from: u64,
    /// The next offset.
    next: u64,
    batch: Option<RecordBatchBuilder>,
    /// Where the partition is to end, and whether it is there.
    end: Option<u64>,
    ended: bool,
}

impl Readings {
    pub(super) fn new(topic: Arc<str>) -> Self {
        Self { topic, partitions: Vec::new(), oldest: None, ends: None, delivered: 0 }
    }

    /// The input is to end where the partitions end now.
    pub(super) fn set_ends(&mut self, ends: Vec<u64>) {
        self.ends = Some(ends);
    }

    pub(super) fn ends(&self) -> Option<&[u64]> {
        self.ends.as_deref()
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.oldest
    }

    /// The group gave these to this member.
    pub(super) fn assign(&mut self, partitions: &[u32]) {
        for &number in partitions {
            let number = number as usize;
            if self.partitions.len() <= number {
                self.partitions.resize_with(number + 1, Partition::default);
            }
            self.partitions[number].assigned = true;
        }
    }

    /// The group takes these; answers those that librdkafka fetches.
    pub(super) fn take_away(&mut self, partitions: &[u32]) -> Vec<u32> {
        let mut fetched = Vec::new();
        for &number in partitions {
            if let Some(partition) = self.partitions.get_mut(number as usize) {
                if partition.fetched {
                    fetched.push(number);
                }
                *partition = Partition::default();
            }
        }
        fetched
    }

    pub(super) fn has_assigned(&self) -> bool {
        self.partitions.iter().any(|partition| partition.assigned)
    }

    pub(super) fn fetched(&self) -> Vec<u32> {
        self.numbered().filter(|(_, partition)| partition.fetched).map(|(number, _)| number).collect()
    }

    /// Delivers nothing more of a partition until it is started.
    pub(super) fn stop(&mut self, partition: u32) {
        if let Some(partition) = self.partitions.get_mut(partition as usize) {
            partition.reading = None;
        }
    }

    /// Begins a partition at an offset; answers whether librdkafka fetches it already, from elsewhere, and `None` where
    /// it is not this member's.
    pub(super) fn start(&mut self, number: u32, from: u64, queue: &Queue) -> Option<bool> {
        let end = self.ends.as_ref().map(|ends| ends.get(number as usize).copied().unwrap_or_default());
        let partition = self.partitions.get_mut(number as usize).filter(|partition| partition.assigned)?;
        let ended = end.is_some_and(|end| from >= end);
        partition.reading = Some(Reading { from, next: from, batch: None, end, ended });
        let fetched = std::mem::take(&mut partition.fetched);
        self.end_if_all_ended(queue);
        Some(fetched)
    }

    /// Marks a started partition as fetched; answers whether there is anything to fetch.
    pub(super) fn fetch(&mut self, number: u32) -> bool {
        let Some(partition) = self.partitions.get_mut(number as usize) else { return false };
        partition.fetched = partition.reading.as_ref().is_some_and(|reading| !reading.ended);
        partition.fetched
    }

    /// The batch that a record belongs to; `None` where it is not to be delivered.
    pub(super) fn room_for(
        &mut self,
        number: u32,
        offset: u64,
        now: u64,
        queue: &Queue,
    ) -> Option<&mut RecordBatchBuilder> {
        let partition = self.partitions.get(number as usize)?;
        let reading = partition.reading.as_ref().filter(|reading| !reading.ended && offset >= reading.next)?;
        if reading.end.is_some_and(|end| offset >= end) {
            // All before the end has come, though it may have had gaps.
            self.at_end(number, queue);
            return None;
        }
        self.oldest.get_or_insert(now);
        let partition = &mut self.partitions[number as usize];
        let reading = partition.reading.as_mut()?;
        let (topic, from, size) = (&self.topic, reading.from, partition.size);
        Some(reading.batch.get_or_insert_with(|| {
            let mut batch = RecordBatch::builder(topic.clone(), number, from);
            batch.reserve(size.0, size.1);
            batch
        }))
    }

    /// A record was pushed to the batch of its partition.
    pub(super) fn pushed(&mut self, number: u32, offset: u64, queue: &Queue) {
        self.delivered += 1;
        let Some(partition) = self.partitions.get_mut(number as usize) else { return };
        let Some(reading) = &mut partition.reading else { return };
        reading.next = offset + 1;
        if reading.end.is_some_and(|end| reading.next >= end) {
            self.at_end(number, queue);
        } else if reading.batch.as_ref().is_some_and(|batch| batch.bytes() >= BATCH_BYTES) {
            partition.hand_over(queue);
        }
    }

    /// The partition has nothing more up to where it ended when the source was opened: what is left there are records of
    /// transactions' own.
    pub(super) fn at_end(&mut self, number: u32, queue: &Queue) {
        let Some(partition) = self.partitions.get_mut(number as usize) else { return };
        let Some(reading) = &mut partition.reading else { return };
        let Some(end) = reading.end.filter(|_| !reading.ended) else { return };
        reading.ended = true;
        if reading.next < end {
            reading.next = end;
            let (topic, from) = (&self.topic, reading.from);
            reading.batch.get_or_insert_with(|| RecordBatch::builder(topic.clone(), number, from));
        }
        partition.hand_over(queue);
        self.end_if_all_ended(queue);
    }

    /// Hands over all that was read.
    pub(super) fn flush(&mut self, queue: &Queue) {
        self.oldest = None;
        for partition in &mut self.partitions {
            partition.hand_over(queue);
        }
    }

    /// How far each started partition is.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, u64)> {
        self.numbered().filter_map(|(number, partition)| Some((number, partition.reading.as_ref()?.next)))
    }

    fn end_if_all_ended(&self, queue: &Queue) {
        let mut mine = self.partitions.iter().filter(|partition| partition.assigned).peekable();
        let ended = |partition: &Partition| partition.reading.as_ref().is_some_and(|reading| reading.ended);
        // A member without partitions waits: others may be done before it and leave it theirs.
        if mine.peek().is_some() && mine.all(ended) {
            queue.end();
        }
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Partition)> {
        self.partitions.iter().enumerate().map(|(number, partition)| (number as u32, partition))
    }
}

impl Partition {
    fn hand_over(&mut self, queue: &Queue) {
        let Some(reading) = &mut self.reading else { return };
        if let Some(batch) = reading.batch.take() {
            self.size = (batch.len(), batch.bytes());
            reading.from = reading.next;
            queue.records(batch.finish(reading.next));
        }
    }
}
