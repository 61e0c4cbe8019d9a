//! The topic of dead letters: each once to who reads committed messages, whatever happens to who writes.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use subscription_core::testkit::{conformance, samples};
use subscription_core::{DeadLetterSink, DeadLetters, ErrorKind};
use subscription_kafka::{DeadLetterConfig, KafkaConfig, KafkaDeadLetters, TopicAdmin, TopicSpec};

use crate::support::{client, runtime, shared, topic, unique};

/// A committed message.
struct Got {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl Got {
    fn header(&self, name: &str) -> String {
        let (_, value) = self.headers.iter().rfind(|(header, _)| header == name).expect("a header");
        String::from_utf8(value.clone().expect("a value")).unwrap()
    }

    fn coordinates(&self) -> (String, u32, u64) {
        let number = |name: &str| self.header(name).parse::<u64>().unwrap();
        (self.header("dead_letter.topic"), number("dead_letter.partition") as u32, number("dead_letter.offset"))
    }
}

/// All committed messages of the first partition.
fn all(config: &KafkaConfig) -> Vec<Got> {
    const LONG: Duration = Duration::from_secs(60);
    let mut client = client(config);
    client.set("group.id", "test").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(config.topic(), 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut got = Vec::new();
    // The end, to who reads committed messages, is before the first transaction that is open.
    while let Ok(message) = consumer.poll(LONG).expect("something within a minute") {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        got.push(Got {
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
            timestamp: message.timestamp().to_millis(),
        });
    }
    got
}

/// A topic of dead letters, and topics of records with these names, which the positions are of.
async fn topics(address: &str, records: &[&str]) -> KafkaConfig {
    for name in records {
        let spec = TopicSpec { partitions: 4, ..TopicSpec::default().with_replication(1) };
        let config = KafkaConfig::new(address, *name).unwrap();
        match TopicAdmin::new(config).unwrap().create(&spec).await {
            Err(error) if error.kind() != ErrorKind::Mismatch => panic!("{error:?}"),
            _ => {}
        }
    }
    let config = topic(address, "dead-letters", 1).await;
    KafkaConfig::new(config.brokers(), config.topic()).unwrap()
}

async fn open(kafka: &KafkaConfig, pipeline: &str) -> KafkaDeadLetters {
    let sink = KafkaDeadLetters::new(DeadLetterConfig::new(kafka.clone(), pipeline).unwrap()).unwrap();
    // A broker that has just started may not know yet where groups are: that passes.
    while sink.position("usage", 0).await.is_err_and(|error| error.is_retryable()) {}
    sink
}

fn letters(topic: &str, partition: u32, from: u64) -> DeadLetters {
    DeadLetters::of(&samples::admitted(topic, partition, from), from)
}

#[test]
fn keeps_the_contract() {
    let Some(broker) = shared() else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let kafka = topics(&broker.address(), &["usage", "other"]).await;
        let pipeline = unique("contract");
        let fresh = async || {
            let (kafka, pipeline) = (kafka.clone(), pipeline.clone());
            async move || open(&kafka, &pipeline).await
        };
        let count = |_: &KafkaDeadLetters, topic: &str| {
            Some(all(&kafka).iter().filter(|got| got.coordinates().0 == topic).count())
        };
        conformance::dead_letter_sink(fresh, count).await;
    });
}

#[test]
fn a_message_is_the_record_and_says_where_it_is_from() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let kafka = topics(&broker.address(), &["usage"]).await;
        let written = letters("usage", 2, 0);
        open(&kafka, &unique("messages")).await.write(&written).await.unwrap();
        let got = all(&kafka);
        assert_eq!(got.len(), written.letters.len());
        for ((record, letter), got) in written.iter().zip(&got) {
            assert_eq!((got.key.as_deref(), got.payload.as_deref()), (record.key(), record.payload()));
            assert_eq!(got.timestamp, Some(record.timestamp().millis()));
            let own = record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
            assert!(got.headers.iter().cloned().zip(own).all(|(got, own)| got == own), "headers of its own first");
            assert_eq!(got.coordinates(), ("usage".to_owned(), 2, record.offset()));
            assert_eq!(got.header("dead_letter.code"), letter.code);
            assert_eq!(got.header("dead_letter.error"), letter.error);
            assert_eq!(got.header("dead_letter.length"), record.payload_len().to_string());
            assert_eq!(got.header("dead_letter.timestamp"), record.timestamp().to_string());
        }
    });
}

/// Owners that take a partition from each other at any moment, and die within a write: dropped futures go on in the background,
/// as a process does that was stopped and wakes up.
#[test]
fn each_once_whoever_writes() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let kafka = topics(&broker.address(), &["usage"]).await;
        let pipeline = unique("owners");
        let mut owners = vec![open(&kafka, &pipeline).await];
        let mut wanted = 0;
        for round in 0..20u64 {
            let owner = owners.last().unwrap();
            let position = owner.position("usage", 1).await.unwrap().unwrap_or(0);
            let next = letters("usage", 1, position);
            match round % 4 {
                // Given up at some moment.
                1 => drop(tokio::time::timeout(Duration::from_millis(round * 5), owner.write(&next)).await),
                // Two owners at once: one of them, or both of them one after the other, get through.
                2 => {
                    let later = open(&kafka, &pipeline).await;
                    let (first, second) = tokio::join!(owner.write(&next), later.write(&next));
                    assert!(second.is_ok() || first.is_ok(), "{first:?} {second:?}");
                    for error in [first, second].into_iter().filter_map(Result::err) {
                        assert!(error.kind() == ErrorKind::Fenced || error.is_retryable(), "{error:?}");
                    }
                    owners.push(later);
                }
                3 => owners.push(open(&kafka, &pipeline).await),
                _ => owner.write(&next).await.unwrap(),
            }
            wanted = wanted.max(position);
        }
        let last = open(&kafka, &pipeline).await;
        let position = last.position("usage", 1).await.unwrap().unwrap();
        last.write(&letters("usage", 1, position)).await.unwrap();
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for got in all(&kafka) {
            *seen.entry(got.coordinates().2).or_default() += 1;
        }
        assert!(seen.values().all(|count| *count == 1), "{seen:?}");
        let spans = (position + samples::SAMPLE_SPAN) / samples::SAMPLE_SPAN;
        assert_eq!(seen.len() as u64, 4 * spans, "none is missing");
        assert!(position >= wanted && spans > 5);
    });
}

/// A producer that another has fenced has failed for good. The sink that had it makes a new one, and goes on where the other is;
/// a partition that comes back is written to without being refused first.
#[test]
fn a_producer_that_was_fenced_is_replaced() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let kafka = topics(&broker.address(), &["usage"]).await;
        let pipeline = unique("fenced");
        let sinks = [open(&kafka, &pipeline).await, open(&kafka, &pipeline).await];
        let rounds = 8;
        for round in 0..rounds {
            let (owner, before) = (&sinks[round % 2], &sinks[(round + 1) % 2]);
            let at = round as u64 * samples::SAMPLE_SPAN;
            assert_eq!(owner.position("usage", 3).await.unwrap().unwrap_or(0), at);
            owner.write(&letters("usage", 3, at)).await.unwrap();
            // The one that had the partition before does not know yet, unless it never had it.
            let late = before.write(&letters("usage", 3, at)).await;
            assert_eq!(late.err().map(|error| error.kind()), (round > 0).then_some(ErrorKind::Fenced));
            before.write(&letters("usage", 3, at)).await.expect("by now it knows that these are written");
        }
        let mut offsets: Vec<u64> = all(&kafka).iter().map(|got| got.coordinates().2).collect();
        let count = offsets.len();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!((offsets.len(), count), (4 * rounds, 4 * rounds), "each once");
    });
}

#[test]
fn what_is_wrong_is_told() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = KafkaConfig::new(broker.address(), "no-such-topic-of-dead-letters").unwrap();
        assert!(DeadLetterConfig::new(config.clone(), " ").unwrap_err().help().is_some());
        let owned = config.clone().with_property("transactional.id", "mine").unwrap();
        topics(&broker.address(), &["usage"]).await;
        let error = KafkaDeadLetters::new(DeadLetterConfig::new(owned, "wrong").unwrap())
            .unwrap()
            .write(&letters("usage", 0, 0))
            .await
            .expect_err("fixed");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let error = open(&config, "missing").await.write(&letters("usage", 0, 0)).await.expect_err("no topic");
        assert!(error.help().is_some_and(|help| help.contains("topic create")), "{error:?} {:?}", error.help());
    });
}
