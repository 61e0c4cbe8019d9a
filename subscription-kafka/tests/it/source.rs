//! The source keeps its contract.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::producer::{BaseRecord, Producer};
use subscription_core::testkit::conformance;
use subscription_core::{
    ErrorKind, MAX_PAYLOAD_BYTES, RecordBatch, Source, SourceEvent, TOO_LARGE_KEPT_BYTES, Timestamp,
};
use subscription_kafka::KafkaConfig;

use crate::support::{client, forget, next, open, produce, producer, runtime, shared, start_assigned, topic, unique};

fn record(text: &str) -> RecordBatch {
    let mut batch = RecordBatch::builder("usage".into(), 0, 0);
    batch.push(0, Timestamp::from_millis(1_700_000_000_000), Some(b"key"), Some(text.as_bytes()));
    batch.finish(1)
}

#[test]
fn keeps_the_contract() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "contract", 3).await;
        let records = conformance::source_records(config.topic(), 3, 500);
        produce(&config, &producer(&config), &records);
        // Each source of the suite has the topic to itself.
        let groups = AtomicU32::new(0);
        let fresh = async || {
            let group = format!("{}-{}", config.topic(), groups.fetch_add(1, Ordering::Relaxed));
            open(&config.clone().with_group(group).unwrap(), false)
        };
        conformance::source(fresh, &records).await;
    });
}

#[test]
fn records_come_as_they_are() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "as-they-are", 1).await;
        let time = Timestamp::from_millis(1_700_000_000_123);
        let long = vec![b'x'; MAX_PAYLOAD_BYTES as usize + 5];
        let mut wanted = RecordBatch::builder(config.topic().into(), 0, 0);
        wanted.push(0, time, Some(b"acme"), Some(b"{}"));
        wanted.push_header("content-type", Some(b"application/json"));
        wanted.push_header("empty", Some(b""));
        wanted.push_header("none", None);
        wanted.push_header("content-type", Some(&[0xff, 0]));
        wanted.push(1, time, Some(&[0xff, 0xfe]), None); // a tombstone
        wanted.push(2, time, None, Some(b""));
        wanted.push(3, time, Some(b""), Some(&[0, 1, 2]));
        let wanted = wanted.finish(4);
        let producer = producer(&config);
        produce(&config, &producer, &[wanted.clone()]);
        producer
            .send(BaseRecord::<[u8], [u8]>::to(config.topic()).partition(0).payload(&long))
            .map_err(|e| e.0)
            .unwrap();
        producer.flush(Duration::from_secs(60)).unwrap();

        let mut source = open(&config, true);
        source.identity().await.unwrap();
        start_assigned(&mut source).await;
        let mut seen = Vec::new();
        loop {
            match next(&mut source).await.unwrap() {
                SourceEvent::Records(batch) => {
                    for record in batch.iter() {
                        let headers: Vec<_> =
                            record.headers().map(|(k, v)| (k.to_owned(), v.map(<[u8]>::to_vec))).collect();
                        seen.push((
                            record.offset(),
                            record.timestamp(),
                            record.key().map(<[u8]>::to_vec),
                            record.payload().map(<[u8]>::to_vec),
                            record.payload_len(),
                            headers,
                        ));
                    }
                }
                SourceEvent::End => break,
                event => panic!("{event:?}"),
            }
        }
        for (record, seen) in wanted.iter().zip(&seen) {
            assert_eq!(seen.0, record.offset());
            assert_eq!(seen.1, record.timestamp());
            assert_eq!(seen.2.as_deref(), record.key(), "offset {}", seen.0);
            assert_eq!(seen.3.as_deref(), record.payload(), "offset {}", seen.0);
            let headers: Vec<_> = record.headers().map(|(k, v)| (k.to_owned(), v.map(<[u8]>::to_vec))).collect();
            assert_eq!(seen.5, headers);
        }
        let (_, _, _, payload, len, _) = &seen[4];
        assert_eq!((payload.as_ref().unwrap().len(), *len), (TOO_LARGE_KEPT_BYTES, long.len() as u64));
    });
}

/// Spans cover what a reader never sees: records of aborted transactions, and the marks that end transactions.
#[test]
fn transactions_leave_gaps_that_positions_pass() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "transactions", 1).await;
        let transactional: crate::support::TestProducer =
            client(&config).set("transactional.id", unique("id")).create().unwrap();
        let wait = Duration::from_secs(60);
        transactional.init_transactions(wait).unwrap();
        let send = |text: &str| {
            let record = BaseRecord::<[u8], [u8]>::to(config.topic()).partition(0).payload(text.as_bytes());
            transactional.send(record).map_err(|e| e.0).unwrap();
        };
        // Offsets: 0 1 committed, 2 mark; 3 4 aborted, 5 mark; 6 committed, 7 mark; 8 aborted, 9 mark.
        for (texts, commits) in [(&["a", "b"][..], true), (&["x", "y"], false), (&["c"], true), (&["z"], false)] {
            transactional.begin_transaction().unwrap();
            texts.iter().for_each(|text| send(text));
            transactional.flush(wait).unwrap();
            if commits {
                transactional.commit_transaction(wait).unwrap();
            } else {
                transactional.abort_transaction(wait).unwrap();
            }
        }
        let mut source = open(&config, true);
        source.identity().await.unwrap();
        assert_eq!(source.offsets(0).await.unwrap().unwrap().end, 10);
        start_assigned(&mut source).await;
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            match next(&mut source).await.unwrap() {
                SourceEvent::Records(batch) => {
                    assert_eq!(batch.from(), at, "spans follow each other");
                    at = batch.to();
                    seen.extend(
                        batch.iter().map(|r| (r.offset(), String::from_utf8_lossy(r.payload().unwrap()).into_owned())),
                    );
                }
                SourceEvent::End => break,
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(at, 10, "the position passes what trails");
        let wanted = [(0, "a"), (1, "b"), (6, "c")].map(|(offset, text)| (offset, text.to_owned()));
        assert_eq!(seen, wanted);
    });
}

#[test]
fn an_end_is_where_the_topic_ended_at_the_start() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "end", 2).await;
        let producer = producer(&config);
        produce(&config, &producer, &[record("1"), record("2")]);
        let mut source = open(&config, true);
        source.identity().await.unwrap();
        produce(&config, &producer, &[record("3")]);
        start_assigned(&mut source).await;
        let mut seen = Vec::new();
        loop {
            match next(&mut source).await.unwrap() {
                SourceEvent::Records(batch) => seen.extend(batch.iter().map(|r| r.payload().unwrap().to_vec())),
                SourceEvent::End => break,
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(seen, [b"1", b"2"]);
    });
}

#[test]
fn partitions_move_to_a_second_member_and_back() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "move", 4).await;
        let mut first = open(&config, false);
        let mut mine = start_assigned(&mut first).await;
        assert_eq!(mine.len(), 4);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let second = tokio::spawn({
            let mut second = open(&config, false);
            async move {
                let got = start_assigned(&mut second).await;
                stopped.await.ok();
                drop(second);
                got
            }
        });
        let revoked = match next(&mut first).await.unwrap() {
            SourceEvent::Revoked { partitions, deadline } => {
                assert!(deadline > Duration::from_secs(10));
                partitions
            }
            event => panic!("{event:?} where partitions were to be revoked"),
        };
        assert_eq!(revoked.len(), 2, "those that stay are not revoked");
        mine.retain(|partition| !revoked.contains(partition));
        first.release(&revoked).await.unwrap();
        stop.send(()).unwrap();
        let got = second.await.unwrap();
        assert!(got.iter().all(|partition| revoked.contains(partition)));
        // The second one has left, and says so.
        while mine.len() < 4 {
            match next(&mut first).await.unwrap() {
                SourceEvent::Assigned(partitions) => mine.extend(partitions),
                event => panic!("{event:?}"),
            }
        }
        mine.sort_unstable();
        assert_eq!(mine, [0, 1, 2, 3]);
    });
}

#[test]
fn a_fenced_member_gives_all_up_and_begins_anew() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "fenced", 2).await;
        let batches = [record("1")];
        produce(&config, &producer(&config), &batches);
        let mut source = open(&config, false);
        for _ in 0..3 {
            assert_eq!(start_assigned(&mut source).await, [0, 1]);
            let SourceEvent::Records(batch) = next(&mut source).await.unwrap() else { panic!("no records") };
            assert_eq!((batch.partition(), batch.from(), batch.len()), (0, 0, 1));
            assert!(source.rejoin().await.unwrap());
        }
    });
}

#[test]
fn records_that_are_gone_are_told() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "gone", 1).await;
        produce(&config, &producer(&config), &vec![record("1"); 10]);
        forget(&config, 0, 4).await;
        let mut source = open(&config, false);
        assert_eq!(source.survey().await.unwrap().starts, [(0, 4)]);
        let range = source.offsets(0).await.unwrap().unwrap();
        assert_eq!((range.first, range.end), (4, 10));
        start_assigned(&mut source).await;
        let error = next(&mut source).await.expect_err("offsets out of range");
        assert_eq!(error.kind(), ErrorKind::Gap, "{error:?}");
        // Started where there are records, it goes on.
        source.start(0, 4).await.unwrap();
        let SourceEvent::Records(batch) = next(&mut source).await.unwrap() else { panic!("no records") };
        assert_eq!((batch.from(), batch.get(0).offset()), (4, 4));
    });
}

#[test]
fn a_partition_started_again_is_read_from_there() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "again", 1).await;
        produce(&config, &producer(&config), &vec![record("1"); 5_000]);
        let mut source = open(&config, false);
        start_assigned(&mut source).await;
        for from in [0, 4_000, 17, 4_999, 0] {
            source.start(0, from).await.unwrap();
            let SourceEvent::Records(batch) = next(&mut source).await.unwrap() else { panic!("no records") };
            assert_eq!((batch.from(), batch.get(0).offset()), (from, from));
        }
    });
}

/// More than all the memory that may wait: nothing is lost where the pipeline does not keep up, and the group is served.
#[test]
fn a_slow_pipeline_bounds_memory_and_loses_nothing() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "slow", 3).await;
        let text = "x".repeat(64 << 10);
        let records = |partition: u32| {
            let mut batch = RecordBatch::builder(config.topic().into(), partition, 0);
            (0..500).for_each(|offset| batch.push(offset, Timestamp::EPOCH, None, Some(text.as_bytes())));
            batch.finish(500)
        };
        produce(&config, &producer(&config), &[records(0), records(1), records(2)]);
        let mut source = open(&config, true);
        source.identity().await.unwrap();
        start_assigned(&mut source).await;
        // Longer than what the thread waits before it pauses fetching.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
        loop {
            match next(&mut source).await.unwrap() {
                SourceEvent::Records(batch) => {
                    let position = positions.entry(batch.partition()).or_default();
                    assert_eq!(batch.from(), *position);
                    assert_eq!(batch.len() as u64, batch.to() - batch.from(), "partition {}", batch.partition());
                    *position = batch.to();
                }
                SourceEvent::End => break,
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(positions.into_values().collect::<Vec<_>>(), [500, 500, 500]);
    });
}

#[test]
fn lag_is_told_and_the_group_follows_the_lake() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "lag", 1).await;
        let config: KafkaConfig = config.with_property("statistics.interval.ms", "100").unwrap();
        produce(&config, &producer(&config), &vec![record("1"); 7]);
        let mut source = open(&config, false);
        start_assigned(&mut source).await;
        let mut seen = 0;
        while seen < 7 {
            let SourceEvent::Records(batch) = next(&mut source).await.unwrap() else { panic!("no records") };
            seen += batch.len();
        }
        while source.lag() != [(0, 0)] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        source.acknowledge(&[(0, 5)]).await.unwrap();
        drop(source);
        let asking: rdkafka::consumer::BaseConsumer = client(&config).set("group.id", config.topic()).create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition(config.topic(), 0);
        let committed = rdkafka::consumer::Consumer::committed_offsets(&asking, list, Duration::from_secs(10)).unwrap();
        assert_eq!(committed.elements()[0].offset(), rdkafka::Offset::Offset(5));
    });
}
