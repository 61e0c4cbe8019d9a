//! The contract of [`Source`].

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::memory::StoredRecord;
use crate::record::RecordBatch;
use crate::source::{Source, SourceEvent};
use crate::time::Timestamp;

/// Records to fill a source with for [`source`]: `records` of them in each partition, from offset 0 on, with keys.
pub fn source_records(topic: &str, partitions: u32, records: u64) -> Vec<RecordBatch> {
    let batch = |partition: u32| {
        let mut batch = RecordBatch::builder(topic.into(), partition, 0);
        for offset in 0..records {
            let payload = format!("{{\"partition\": {partition}, \"offset\": {offset}}}");
            let time = Timestamp::from_millis(1_700_000_000_000 + offset as i64);
            batch.push(offset, time, Some(format!("key-{partition}").as_bytes()), Some(payload.as_bytes()));
        }
        batch.finish(records)
    };
    (0..partitions).map(batch).collect()
}

/// Runs all checks of a [`Source`]. `fresh` opens the source anew, each time with the same `records`, one batch a
/// partition.
///
/// # Panics
/// If the source breaks the contract, or holds other records. A source that delivers too little may keep the suite
/// waiting for ever.
pub async fn source<S: Source>(fresh: impl AsyncFn() -> S, records: &[RecordBatch]) {
    let mut first = fresh().await;
    let identity = first.identity().await.expect("an identity");
    assert!(identity.partitions as usize >= records.len(), "fewer partitions than records were given for");
    assert!(identity.settings.is_sorted(), "settings that are not sorted");
    assert_eq!(first.identity().await.expect("an identity"), identity, "asked twice");
    assert_eq!(fresh().await.identity().await.expect("an identity"), identity, "opened twice");
    drop(first);

    delivers(fresh().await, records, |_| 0, false).await;
    // From the middle, from the end, and with calls that are given up.
    delivers(fresh().await, records, |batch| batch.get(batch.len() / 2).offset(), false).await;
    delivers(fresh().await, records, |batch| batch.get(batch.len() - 1).offset() + 1, false).await;
    delivers(fresh().await, records, |_| 0, true).await;
}

/// Reads all records of the partitions from the offsets that `from` chooses.
async fn delivers<S: Source>(mut source: S, records: &[RecordBatch], from: impl Fn(&RecordBatch) -> u64, cancel: bool) {
    let topic = source.topic().to_owned();
    let wanted: BTreeMap<u32, (&RecordBatch, u64)> = records
        .iter()
        .filter(|batch| !batch.is_empty())
        .map(|batch| (batch.partition(), (batch, from(batch))))
        .collect();
    let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
    let mut delivered: BTreeMap<u32, Vec<StoredRecord>> = BTreeMap::new();
    let missing = |delivered: &BTreeMap<u32, Vec<StoredRecord>>, positions: &BTreeMap<u32, u64>| {
        wanted.iter().any(|(partition, (batch, from))| {
            let count = batch.iter().filter(|record| record.offset() >= *from).count();
            !positions.contains_key(partition) || delivered.get(partition).map_or(0, Vec::len) < count
        })
    };
    while missing(&delivered, &positions) {
        match next(&mut source, cancel).await {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    assert!(!positions.contains_key(&partition), "partition {partition} was assigned twice");
                    let from = wanted.get(&partition).map_or(0, |(_, from)| *from);
                    source.start(partition, from).await.expect("a start");
                    positions.insert(partition, from);
                }
            }
            SourceEvent::Records(batch) => {
                assert_eq!(**batch.topic(), *topic);
                let partition = batch.partition();
                let Some(position) = positions.get_mut(&partition) else {
                    panic!("records of partition {partition}, which was not started");
                };
                assert_eq!(batch.from(), *position, "a span of partition {partition} that does not follow");
                *position = batch.to();
                let rows = batch.iter().map(|record| StoredRecord::new(partition, &record));
                delivered.entry(partition).or_default().extend(rows);
                source.acknowledge(&[(partition, batch.to())]).await.expect("an acknowledgement");
            }
            SourceEvent::End => panic!("the end before all records were delivered"),
            event => panic!("{event:?} without a reason"),
        }
    }
    for (partition, (batch, from)) in &wanted {
        let records = batch.iter().filter(|record| record.offset() >= *from);
        let records: Vec<_> = records.map(|record| StoredRecord::new(*partition, &record)).collect();
        assert_eq!(delivered.remove(partition).unwrap_or_default(), records, "partition {partition}");
    }
    let progress = source.progress();
    assert!(progress.total.is_none_or(|total| progress.done <= total), "more done than there is");
    let started: Vec<u32> = positions.into_keys().collect();
    source.release(&started).await.expect("a release");
}

/// The next event; with `cancel`, a first call is given up before it is done.
async fn next<S: Source>(source: &mut S, cancel: bool) -> SourceEvent {
    if cancel {
        let mut given_up = pin!(source.next());
        if let Poll::Ready(event) = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return event.expect("an event");
        }
    }
    source.next().await.expect("an event")
}
