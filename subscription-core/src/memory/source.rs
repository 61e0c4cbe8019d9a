//! Records in memory as a source.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordBatch;
use crate::source::{Placement, Source, SourceEvent, SourceIdentity, SourceProgress};

/// A [`Source`] of a fixed list of records a partition, delivered in batches of a chosen size.
///
/// It assigns all partitions at once, delivers the started ones in turn, and ends once all were started and delivered.
pub struct MemorySource {
    topic: Arc<str>,
    partitions: Vec<Partition>,
    cut: Box<dyn FnMut() -> usize + Send>,
    /// Events to deliver before records.
    events: VecDeque<SourceEvent>,
    turn: usize,
    ended: bool,
    acknowledged: Arc<Mutex<Vec<u64>>>,
}

struct Partition {
    records: RecordBatch,
    /// The next offset, where the partition was started.
    position: Option<u64>,
}

impl MemorySource {
    /// A source of the records of each partition, from 0 on. The batches' own partition numbers do not matter.
    pub fn new(topic: impl Into<Arc<str>>, records: Vec<RecordBatch>) -> Self {
        let partitions: Vec<u32> = (0..records.len() as u32).collect();
        let acknowledged = Arc::new(Mutex::new(vec![0; records.len()]));
        Self {
            topic: topic.into(),
            partitions: records.into_iter().map(|records| Partition { records, position: None }).collect(),
            cut: Box::new(|| 1_000),
            events: [SourceEvent::Assigned(partitions)].into(),
            turn: 0,
            ended: false,
            acknowledged,
        }
    }

    /// Chooses how many records each next batch has, at least one (1,000 if this is not called).
    pub fn with_cuts(mut self, cut: impl FnMut() -> usize + Send + 'static) -> Self {
        self.cut = Box::new(cut);
        self
    }

    /// Delivers `event` before any further record. Revoked and lost partitions are delivered no longer.
    pub fn push(&mut self, event: SourceEvent) {
        if let SourceEvent::Revoked { partitions, .. } | SourceEvent::Lost(partitions) = &event {
            for partition in partitions {
                if let Some(partition) = self.partitions.get_mut(*partition as usize) {
                    partition.position = None;
                }
            }
        }
        self.events.push_back(event);
    }

    /// The positions acknowledged so far, by partition; stays readable when the source was given away.
    pub fn acknowledged(&self) -> Arc<Mutex<Vec<u64>>> {
        self.acknowledged.clone()
    }

    fn partition(&mut self, partition: u32) -> Result<&mut Partition> {
        self.partitions
            .get_mut(partition as usize)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such partition").with("partition", partition))
    }
}

impl Partition {
    /// The index of the next record, where the partition was started and there is more.
    fn next(&self) -> Option<(u64, usize)> {
        let position = self.position.filter(|position| *position < self.records.to())?;
        let index = self.records.iter().position(|record| record.offset() >= position).unwrap_or(self.records.len());
        Some((position, index))
    }
}

#[async_trait]
impl Source for MemorySource {
    fn topic(&self) -> &str {
        &self.topic
    }

    async fn identity(&mut self) -> Result<SourceIdentity> {
        Ok(SourceIdentity {
            partitions: self.partitions.len() as u32,
            settings: Vec::new(),
            placement: Some(Placement::Unchecked),
        })
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let count = self.partitions.len();
        for step in 0..count {
            let number = (self.turn + step) % count;
            let partition = &mut self.partitions[number];
            if let Some((from, first)) = partition.next() {
                self.turn = number + 1;
                let mut batch = RecordBatch::builder(self.topic.clone(), number as u32, from);
                let size = (self.cut)().max(1);
                for record in partition.records.iter().skip(first).take(size) {
                    batch.push_record(&record);
                }
                let rest = partition.records.len() - first - batch.len();
                let to = if rest == 0 { partition.records.to() } else { batch.position() };
                partition.position = Some(to);
                return Ok(SourceEvent::Records(batch.finish(to)));
            }
        }
        if self.ended || self.partitions.iter().any(|partition| partition.position.is_none()) {
            return pending().await;
        }
        self.ended = true;
        Ok(SourceEvent::End)
    }

    async fn start(&mut self, partition: u32, from: u64) -> Result<()> {
        self.partition(partition)?.position = Some(from);
        self.ended = false;
        Ok(())
    }

    async fn acknowledge(&mut self, positions: &[(u32, u64)]) -> Result<()> {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, position) in positions {
            if let Some(known) = acknowledged.get_mut(*partition as usize) {
                *known = (*known).max(*position);
            }
        }
        Ok(())
    }

    async fn release(&mut self, partitions: &[u32]) -> Result<()> {
        for partition in partitions {
            self.partition(*partition)?.position = None;
        }
        Ok(())
    }

    fn progress(&self) -> SourceProgress {
        let done = |partition: &Partition| match partition.next() {
            Some((_, index)) => index as u64,
            None => partition.position.map_or(0, |_| partition.records.len() as u64),
        };
        SourceProgress {
            done: self.partitions.iter().map(done).sum(),
            total: Some(self.partitions.iter().map(|partition| partition.records.len() as u64).sum()),
        }
    }
}
