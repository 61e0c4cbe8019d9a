//! Sinks in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::rows::{StoredDeadLetter, StoredEvent, StoredRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::gold::AlertRow;
use crate::rows::DeadLetters;
use crate::sink::{AlertSink, DeadLetterSink, Delivery, Sink};

/// A [`Sink`] that keeps what it gets. Handles made by `clone` share it.
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    partitions: Arc<Mutex<Partitions>>,
}

/// By topic and partition the position and the events before it.
type Partitions = BTreeMap<(Arc<str>, u32), (u64, Vec<StoredEvent>)>;

impl MemorySink {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events of a topic by partition and offset.
    pub fn events(&self, topic: &str) -> Vec<StoredEvent> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = partitions.iter().filter(|((t, _), _)| &**t == topic);
        of_topic.flat_map(|(_, (_, events))| events).cloned().collect()
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn name(&self) -> &str {
        "memory"
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(partitions.get(&(Arc::from(topic), partition)).map(|(position, _)| *position))
    }

    async fn write(&self, delivery: &Delivery) -> Result<()> {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (delivery.topic.clone(), delivery.partition);
        let (position, events) = partitions.entry(key).or_insert_with(|| (delivery.from, Vec::new()));
        if delivery.from > *position {
            return Err(Error::new(ErrorKind::Gap, "a delivery that does not follow the last one")
                .with("partition", delivery.partition)
                .with("position", *position)
                .with("from", delivery.from));
        }
        let new = delivery.events.rows().iter().filter(|row| row.offset >= *position);
        events.extend(new.map(|row| StoredEvent::new(delivery.partition, &delivery.events, row)));
        *position = (*position).max(delivery.to);
        Ok(())
    }
}

/// A [`DeadLetterSink`] that keeps what it gets. Handles made by `clone` share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDeadLetters {
    partitions: Arc<Mutex<LetterPartitions>>,
}

/// By topic and partition the position and the dead letters before it.
type LetterPartitions = BTreeMap<(Arc<str>, u32), (u64, Vec<StoredDeadLetter>)>;

impl MemoryDeadLetters {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// The dead letters of a topic by partition and offset.
    pub fn letters(&self, topic: &str) -> Vec<StoredDeadLetter> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = partitions.iter().filter(|((t, _), _)| &**t == topic);
        of_topic.flat_map(|(_, (_, letters))| letters).cloned().collect()
    }
}

#[async_trait]
impl DeadLetterSink for MemoryDeadLetters {
    fn name(&self) -> &str {
        "memory"
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(partitions.get(&(Arc::from(topic), partition)).map(|(position, _)| *position))
    }

    async fn write(&self, letters: &DeadLetters) -> Result<()> {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let (records, partition) = (&letters.records, letters.records.partition());
        let key = (records.topic().clone(), partition);
        let (position, kept) = partitions.entry(key).or_insert_with(|| (records.from(), Vec::new()));
        if records.from() > *position {
            return Err(Error::new(ErrorKind::Gap, "dead letters that do not follow the last ones")
                .with("partition", partition)
                .with("position", *position)
                .with("from", records.from()));
        }
        let new = letters.iter().filter(|(record, _)| record.offset() >= *position);
        kept.extend(new.map(|(record, letter)| StoredDeadLetter {
            record: StoredRecord::new(partition, &record),
            code: letter.code,
            error: letter.error.clone(),
        }));
        *position = (*position).max(records.to());
        Ok(())
    }
}

/// An [`AlertSink`] that keeps each alert once. Handles made by `clone` share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryAlerts {
    alerts: Arc<Mutex<Vec<AlertRow>>>,
}

impl MemoryAlerts {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// The alerts in the order they came.
    pub fn alerts(&self) -> Vec<AlertRow> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl AlertSink for MemoryAlerts {
    fn name(&self) -> &str {
        "memory"
    }

    async fn notify(&self, alerts: &[AlertRow]) -> Result<()> {
        let mut kept = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        for alert in alerts {
            if kept.iter().all(|known| known.alert_id != alert.alert_id) {
                kept.push(alert.clone());
            }
        }
        Ok(())
    }
}
