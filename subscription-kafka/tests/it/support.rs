//! What the tests share: one broker, topics of their own, a producer.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::util::Timeout;
use subscription_core::{Placement, RecordBatch, Result, Source, SourceEvent};
use subscription_kafka::{KafkaConfig, KafkaSource, SourceOptions, TopicAdmin, TopicSpec};
use tokio::runtime::Runtime;

use crate::broker::Broker;

pub(crate) type TestProducer = ThreadedProducer<DefaultProducerContext>;

static SHARED: LazyLock<Option<Broker>> =
    LazyLock::new(|| Broker::start(1, &["--sasl", "--set", "message.max.bytes=50000000"]));

/// The broker that most tests share; `None` where there is none to be had.
pub(crate) fn shared() -> Option<&'static Broker> {
    SHARED.as_ref()
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// A name that no other test has.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A topic with timestamps of the producer, so that a test can choose them.
pub(crate) async fn topic(address: &str, name: &str, partitions: u32) -> KafkaConfig {
    let mut spec = TopicSpec { partitions, ..TopicSpec::default().with_replication(1) };
    spec.config.insert("message.timestamp.type".to_owned(), "CreateTime".to_owned());
    spec.config.insert("retention.ms".to_owned(), "-1".to_owned());
    spec.config.insert("max.message.bytes".to_owned(), "50000000".to_owned());
    let name = unique(name);
    let config = KafkaConfig::new(address, &name).unwrap().with_group(&name).unwrap();
    TopicAdmin::new(config.clone()).unwrap().create(&spec).await.expect("a topic");
    config
}

pub(crate) fn open(config: &KafkaConfig, until_end: bool) -> KafkaSource {
    let options = SourceOptions { until_end, placement: Some(Placement::Unchecked) };
    KafkaSource::open(config.clone(), options).expect("a source")
}

pub(crate) fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", config.brokers()).set("message.max.bytes", "50000000").set("linger.ms", "5");
    client
}

pub(crate) fn producer(config: &KafkaConfig) -> TestProducer {
    client(config).create().expect("a producer")
}

/// Writes the records as they are, to the partitions that they say, and waits until the broker has them.
pub(crate) fn produce(config: &KafkaConfig, producer: &TestProducer, batches: &[RecordBatch]) {
    for batch in batches {
        for record in batch.iter() {
            let mut headers = OwnedHeaders::new();
            for (key, value) in record.headers() {
                headers = headers.insert(Header { key, value });
            }
            let mut wanted = BaseRecord::<[u8], [u8]>::to(config.topic())
                .partition(batch.partition() as i32)
                .timestamp(record.timestamp().millis());
            if record.headers().len() > 0 {
                wanted = wanted.headers(headers);
            }
            wanted.key = record.key();
            wanted.payload = record.payload();
            while let Err((error, back)) = producer.send(wanted) {
                assert_eq!(error.rdkafka_error_code(), Some(rdkafka::error::RDKafkaErrorCode::QueueFull), "{error}");
                wanted = back;
                std::thread::yield_now();
            }
        }
    }
    producer.flush(Timeout::After(Duration::from_secs(60))).expect("delivered");
}

pub(crate) fn admin(config: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    client(config).create().expect("an admin client")
}

/// Removes the records of a partition before an offset, as retention does.
pub(crate) async fn forget(config: &KafkaConfig, partition: u32, before: u64) {
    let mut list = rdkafka::TopicPartitionList::new();
    let offset = rdkafka::Offset::Offset(before as i64);
    list.add_partition_offset(config.topic(), partition as i32, offset).unwrap();
    admin(config).delete_records(&list, &AdminOptions::new()).await.expect("removed");
}

/// The next event, within a time that only a broken source takes.
pub(crate) async fn next(source: &mut KafkaSource) -> Result<SourceEvent> {
    tokio::time::timeout(Duration::from_secs(60), source.next()).await.expect("an event within a minute")
}

/// Waits for partitions and starts them at 0; answers which.
pub(crate) async fn start_assigned(source: &mut KafkaSource) -> Vec<u32> {
    match next(source).await.expect("an event") {
        SourceEvent::Assigned(partitions) => {
            for &partition in &partitions {
                source.start(partition, 0).await.expect("a start");
            }
            partitions
        }
        event => panic!("{event:?} before partitions"),
    }
}
