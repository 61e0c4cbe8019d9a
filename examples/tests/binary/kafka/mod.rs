//! The command on topics of a real Apache Kafka, which the tests start themselves.

#[path = "../../../../subscription-kafka/tests/it/broker.rs"]
mod broker;
mod emit;
mod gaps;
mod group;
mod routing;
mod same_rows;
mod wrong;

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use broker::Broker;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use subscription_core::testkit::reference::{Comparison, Reference, Snapshot};
use subscription_core::{Catalog, RecordBatch, Routing, Rules, Timestamp};
use subscription_delta::{DeltaConfig, DeltaStore};

use super::{Bench, Ran};

static SHARED: LazyLock<Option<Broker>> =
    LazyLock::new(|| Broker::start(1, &["--sasl", "--set", "message.max.bytes=50000000"]));

/// A topic on a broker, and a folder with the binary.
struct Kafka {
    bench: Bench,
    brokers: String,
    topic: String,
}

/// Settings of topics whose records have the timestamps that the test gives them.
const SETTINGS: &str = "--set message.timestamp.type=CreateTime --set retention.ms=-1 --set max.message.bytes=50000000";

impl Kafka {
    /// A topic on the broker that the tests share; `None` where no Kafka is to be had.
    fn shared(partitions: u32) -> Option<Self> {
        let kafka = Self::on(&SHARED.as_ref()?.address());
        kafka.create(partitions, 1);
        Some(kafka)
    }

    fn on(brokers: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let topic = format!("usage-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { bench: Bench::new(), brokers: brokers.to_owned(), topic }
    }

    fn create(&self, partitions: u32, replication: u32) {
        self.topic(&format!("create --partitions {partitions} --replication {replication} {SETTINGS}")).ok();
    }

    /// `pipeline topic …` of this topic.
    fn topic(&self, line: &str) -> Ran {
        self.bench.pipeline(&format!("topic {line} --kafka {} --topic {}", self.brokers, self.topic))
    }

    /// The words of `pipeline run` from the topic to a lake.
    fn line(&self, lake: &str, more: &str) -> String {
        let (brokers, topic) = (&self.brokers, &self.topic);
        format!("run --kafka {brokers} --topic {topic} --group {topic}-{lake} --lake {lake} {more}")
    }

    /// Reads the topic to where it ends now.
    fn run(&self, lake: &str, more: &str) -> Ran {
        self.bench.pipeline(&self.line(lake, &format!("--until-end {more}")))
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("message.max.bytes", "50000000")
            .set("enable.idempotence", "true")
            .set("delivery.timeout.ms", "600000");
        client
    }

    fn producer(&self) -> ThreadedProducer<DefaultProducerContext> {
        self.client().create().expect("a producer")
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("a client")
    }

    /// Writes records to the partitions that their batches say.
    fn produce(&self, batches: &[RecordBatch]) {
        let producer = self.producer();
        batches
            .iter()
            .for_each(|batch| batch.iter().for_each(|record| self.send(&producer, batch.partition(), &record)));
        producer.flush(Duration::from_secs(120)).expect("delivered");
    }

    fn send(
        &self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        partition: u32,
        record: &subscription_core::Record<'_>,
    ) {
        // What a batch keeps of a payload that is too large is its beginning.
        let payload = record.payload().map(|payload| {
            let mut payload = payload.to_vec();
            payload.resize(record.payload_len() as usize, b' ');
            payload
        });
        let mut wanted = BaseRecord::<[u8], [u8]>::to(&self.topic)
            .partition(partition as i32)
            .timestamp(record.timestamp().millis());
        (wanted.key, wanted.payload) = (record.key(), payload.as_deref());
        while let Err((error, back)) = producer.send(wanted) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            std::thread::sleep(Duration::from_millis(1));
            wanted = back;
        }
    }

    /// Writes events with a key to the partitions that `place` says.
    fn produce_events(&self, numbers: impl IntoIterator<Item = u64>, place: impl Fn(&str) -> u32) {
        let producer = self.producer();
        for n in numbers {
            let tenant = format!("tenant-{}", n % 17);
            let mut batch = RecordBatch::builder("".into(), 0, 0);
            batch.push(0, TIME, Some(tenant.as_bytes()), Some(super::event(n).as_bytes()));
            self.send(&producer, place(&tenant), &batch.finish(1).get(0));
        }
        producer.flush(Duration::from_secs(60)).expect("delivered");
    }

    /// Removes the records of a partition before an offset, as retention does.
    fn forget(&self, partition: u32, before: u64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(before as i64)).expect("an offset");
        runtime().block_on(self.admin().delete_records(&list, &AdminOptions::new())).expect("removed");
    }

    /// Deletes the topic and waits until it is gone.
    fn delete(&self) {
        runtime().block_on(self.admin().delete_topics(&[&self.topic], &AdminOptions::new())).expect("deleted");
        while self.topic("describe").code != Some(3) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// All committed records of the topic, read without any of our code.
    fn records(&self) -> Vec<RecordBatch> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "a reader of its own")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(30)).expect("metadata");
        let partitions = metadata.topics()[0].partitions().len() as u32;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition as i32, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("an assignment");
        let mut batches: Vec<_> =
            (0..partitions).map(|partition| RecordBatch::builder(self.topic.as_str().into(), partition, 0)).collect();
        let mut open = partitions;
        while open > 0 {
            match consumer.poll(Duration::from_secs(60)).expect("records or their end") {
                Ok(message) => {
                    let batch = &mut batches[message.partition() as usize];
                    let time = Timestamp::from_millis(message.timestamp().to_millis().expect("a time"));
                    batch.push(message.offset() as u64, time, message.key(), message.payload());
                    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                    headers.for_each(|header| batch.push_header(header.key, header.value));
                }
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                // A broker may be dead for good: the others have the records. And connections end and are made anew; where none
                // is, the poll above gives up.
                Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                )) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let finish = |batch: subscription_core::RecordBatchBuilder| {
            let to = batch.position();
            batch.finish(to)
        };
        batches.into_iter().map(finish).collect()
    }

    /// The lake has exactly the rows that the reference model makes of the topic's records.
    #[track_caller]
    fn assert_is_reference(&self, lake: &str, context: &str) {
        let records = self.records();
        let routing = Routing::murmur2(records.len() as u32);
        let reference = Reference::of(&records, &Rules::default(), &Catalog::default(), Some(routing));
        let got = snapshot(&self.bench.path(lake), &self.topic, records.len() as u32);
        Comparison::with_reference()
            .compare(&got, &reference.tables)
            .unwrap_or_else(|differences| panic!("{context}: {differences}"));
        self.bench.pipeline(&format!("verify --lake {lake}")).ok();
        let page = self.bench.pipeline(&format!("tables --lake {lake} --json")).ok().json();
        let read: usize = records.iter().map(RecordBatch::len).sum();
        assert_eq!(page["ledger"]["read"], read, "{context}");
        assert_eq!(page["ledger"]["balanced"], true, "{context}");
    }
}

/// The time of `event`s, and so of the records that they come in.
const TIME: Timestamp = Timestamp::from_millis(1_767_630_000_000); // 2026-01-05T16:20:00Z

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// All rows of a lake.
fn snapshot(lake: &Path, topic: &str, partitions: u32) -> Snapshot {
    let partitions: Vec<u32> = (0..partitions).collect();
    runtime().block_on(async {
        let config = DeltaConfig::new(&lake.to_string_lossy()).expect("a path");
        let store = DeltaStore::open_existing(config).await.expect("a lake");
        Snapshot::read(&store, topic, &partitions).await.expect("rows")
    })
}
