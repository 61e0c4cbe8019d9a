//! Dead letters into a topic, each once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use subscription_core::{
    Clock as _, DeadLetter, DeadLetterSink, DeadLetters, Error, ErrorKind, Record, Result, SystemClock,
};

use crate::config::KafkaConfig;
use crate::error::Doing;

/// How long the brokers may take for one step of a transaction.
const STEP: Duration = Duration::from_secs(30);

/// How many partitions keep their producer, with its threads and connections.
const MAX_PRODUCERS: usize = 16;

/// A position is written again after so long without dead letters, and at the start: brokers forget those of a group that is
/// silent for a week (`offsets.retention.minutes`).
const REFRESH: Duration = Duration::from_secs(24 * 3_600);

/// Where dead letters go.
#[derive(Debug, Clone)]
pub struct DeadLetterConfig {
    kafka: KafkaConfig,
    pipeline: String,
}

impl DeadLetterConfig {
    /// Into the topic of `kafka`. The name of the pipeline is part of the transactional ids and of the group that holds the
    /// positions, so that two pipelines do not disturb each other.
    ///
    /// # Errors
    /// `Configuration`, where the name is empty.
    pub fn new(kafka: KafkaConfig, pipeline: impl Into<String>) -> Result<Self> {
        let pipeline = pipeline.into();
        if pipeline.trim().is_empty() {
            return Err(Error::new(ErrorKind::Configuration, "no pipeline is named")
                .with_help("name it, so that its dead letters are told from another's"));
        }
        Ok(Self { kafka, pipeline })
    }

    fn group(&self) -> String {
        format!("{}.dead-letters", self.pipeline)
    }
}

/// A [`DeadLetterSink`] into a Kafka topic.
///
/// A message is the record as it came: its bytes (of one above 16 MiB the first 4 KiB), its key, its headers, its timestamp.
/// Further headers say where it is from and why it is here:
///
/// | header | value |
/// |---|---|
/// | `dead_letter.topic`, `dead_letter.partition`, `dead_letter.offset` | where the record is |
/// | `dead_letter.timestamp` | its ingestion time, RFC 3339 |
/// | `dead_letter.code`, `dead_letter.error` | what is wrong, as in the table `dead_letter` |
/// | `dead_letter.length` | how long its payload was, in bytes |
///
/// Messages and the position behind them are one transaction: the position is the offset that the group
/// `{pipeline}.dead-letters` has in the record's own topic, which must be on the same cluster. There is a transactional id for each
/// partition, so that its next owner fences the one before. **A consumer that reads committed messages has each record once**,
/// whatever crashes. One exception is left: a pipeline that does not run for longer than the brokers keep a silent group's offsets
/// (7 days) begins anew; the coordinates in the headers then tell the copies.
///
/// ```no_run
/// use std::sync::Arc;
/// use subscription_core::DeadLetterSink;
/// use subscription_kafka::{DeadLetterConfig, KafkaConfig, KafkaDeadLetters};
///
/// # fn main() -> subscription_core::Result<()> {
/// let kafka = KafkaConfig::new("localhost:9092", "api-usage-events.dead-letters")?;
/// let letters: Arc<dyn DeadLetterSink> = Arc::new(KafkaDeadLetters::new(DeadLetterConfig::new(kafka, "metering")?)?);
/// # Ok(())
/// # }
/// ```
pub struct KafkaDeadLetters {
    shared: Arc<Shared>,
}

struct Shared {
    config: DeadLetterConfig,
    /// Reads positions; no member of the group.
    positions: BaseConsumer,
    partitions: Mutex<Partitions>,
    clock: SystemClock,
}

type Producer = BaseProducer<Undelivered>;

/// Why the first message that was not delivered was not.
#[derive(Default)]
struct Undelivered(Mutex<Option<RDKafkaErrorCode>>);

impl ClientContext for Undelivered {}

impl ProducerContext for Undelivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            lock(&self.0).get_or_insert(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
        }
    }
}

/// By topic of records and partition.
type Partitions = BTreeMap<(String, u32), Arc<Mutex<Partition>>>;

/// One partition of a topic of records.
#[derive(Default)]
struct Partition {
    producer: Option<Producer>,
    /// Where the sink stands; what is beyond the position that brokers have had no dead letters.
    position: Option<u64>,
    /// Whether the brokers have one.
    is_kept: bool,
    /// When this process last wrote it, on the monotonic clock.
    written: Option<u64>,
}

impl KafkaDeadLetters {
    /// A sink. Asks no broker yet.
    ///
    /// # Errors
    /// `Configuration`, where a property is wrong.
    pub fn new(config: DeadLetterConfig) -> Result<Self> {
        let doing = Doing { what: "open the topic of dead letters", config: &config.kafka };
        let group = config.group();
        let client = config.kafka.client(
            &[("client.id", "dead-letters")],
            &[("group.id", &group), ("enable.auto.commit", "false"), ("isolation.level", "read_committed")],
        )?;
        let positions = client.create::<BaseConsumer>().map_err(|error| doing.failed(error))?;
        let shared = Shared { config, positions, partitions: Mutex::default(), clock: SystemClock::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Calls of librdkafka wait, so they are made on a thread that may.
    async fn blocking<T: Send + 'static>(&self, call: impl FnOnce(&Shared) -> Result<T> + Send + 'static) -> Result<T> {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || call(&shared)).await;
        done.map_err(|error| Error::new(ErrorKind::Invariant, "writing dead letters panicked").with_source(error))?
    }
}

#[async_trait]
impl DeadLetterSink for KafkaDeadLetters {
    fn name(&self) -> &str {
        "kafka-dead-letters"
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        let topic = topic.to_owned();
        self.blocking(move |shared| {
            let state = shared.partition(&topic, partition);
            let mut state = lock(&state);
            // Who asks has been given the partition. A producer of when it last had it was fenced by owners since then.
            *state = Partition::default();
            shared.ask(&mut state, &topic, partition)?;
            Ok(state.position)
        })
        .await
    }

    async fn write(&self, letters: &DeadLetters) -> Result<()> {
        let letters = letters.clone();
        self.blocking(move |shared| shared.write(&letters)).await
    }
}

impl Shared {
    fn partition(&self, topic: &str, partition: u32) -> Arc<Mutex<Partition>> {
        lock(&self.partitions).entry((topic.to_owned(), partition)).or_default().clone()
    }

    fn doing(&self, what: &'static str) -> Doing<'_> {
        Doing { what, config: &self.config.kafka }
    }

    /// Asks the brokers for the position.
    fn ask(&self, state: &mut Partition, topic: &str, partition: u32) -> Result<()> {
        let kept = self.position(topic, partition)?;
        state.is_kept = kept.is_some();
        state.position = state.position.max(kept);
        Ok(())
    }

    /// The position that the brokers have.
    fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition as i32);
        let found = self.positions.committed_offsets(list, STEP);
        let found = found.map_err(|error| self.doing("read the position of the dead letters").failed(error))?;
        match found.find_partition(topic, partition as i32).map(|found| (found.error(), found.offset())) {
            Some((Err(error), _)) => Err(self.doing("read the position of the dead letters").failed(error)),
            Some((Ok(()), Offset::Offset(offset))) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }

    fn write(&self, letters: &DeadLetters) -> Result<()> {
        let records = &letters.records;
        let (topic, partition, from, to) = (&**records.topic(), records.partition(), records.from(), records.to());
        let state = self.partition(topic, partition);
        let mut state = lock(&state);
        let now = self.clock.monotonic_nanos();
        if state.position.is_none() {
            self.ask(&mut state, topic, partition)?;
        }
        let position = state.position.unwrap_or(from);
        if from > position {
            return Err(Error::new(ErrorKind::Gap, "dead letters that do not follow the last ones")
                .with("topic", topic)
                .with("partition", partition)
                .with("position", position)
                .with("from", from));
        }
        if to <= position {
            return Ok(());
        }
        let is_fresh = state.written.is_some_and(|written| u128::from(now - written) < REFRESH.as_nanos());
        if letters.letters.is_empty() && (is_fresh || !state.is_kept) {
            state.position = Some(to);
            return Ok(());
        }
        let written = self.transact(&mut state, letters);
        if written.is_err() {
            // Whether it was done is asked of the brokers the next time, when a new producer has settled it.
            *state = Partition::default();
        } else {
            *state =
                Partition { position: Some(to), is_kept: true, written: Some(now), producer: state.producer.take() };
        }
        drop(state);
        self.close_idle((topic, partition));
        written
    }

    fn transact(&self, state: &mut Partition, letters: &DeadLetters) -> Result<()> {
        let records = &letters.records;
        let (topic, partition) = (&**records.topic(), records.partition());
        let doing = self.doing("write dead letters");
        if state.producer.is_none() {
            let producer = self.producer(topic, partition)?;
            // From here on no other owner of the partition can commit; what the last one did is settled.
            producer.init_transactions(STEP).map_err(|error| transaction(doing, error, None))?;
            state.producer = Some(producer);
            self.ask(state, topic, partition)?;
        }
        let Some(producer) = &state.producer else { return Ok(()) };
        let position = state.position.unwrap_or(records.from());
        if records.to() <= position {
            return Ok(());
        }
        let failed = |error| transaction(doing, error, *lock(&producer.context().0));
        producer.begin_transaction().map_err(failed)?;
        for (record, letter) in letters.iter().filter(|(record, _)| record.offset() >= position) {
            self.send(producer, topic, partition, &record, letter)?;
        }
        let mut offsets = TopicPartitionList::new();
        let offset = i64::try_from(records.to()).unwrap_or(i64::MAX);
        let added = offsets.add_partition_offset(topic, partition as i32, Offset::Offset(offset));
        added.map_err(|error| doing.failed(error))?;
        let group = self.positions.group_metadata().ok_or_else(|| doing.code(RDKafkaErrorCode::UnknownGroup, None))?;
        producer.send_offsets_to_transaction(&offsets, &group, STEP).map_err(failed)?;
        producer.commit_transaction(STEP).map_err(failed)
    }

    fn producer(&self, topic: &str, partition: u32) -> Result<Producer> {
        let id = format!("{}.dead-letters.{topic}.{partition}", self.config.pipeline);
        let client = self.config.kafka.client(
            &[
                ("client.id", "dead-letters"),
                ("partitioner", "murmur2_random"),
                ("compression.type", "snappy"),
                ("message.max.bytes", "20000000"),
                ("topic.metadata.propagation.max.ms", "5000"),
            ],
            &[("transactional.id", &id), ("transaction.timeout.ms", "60000")],
        )?;
        let producer = Producer::from_config_and_context(&client, Undelivered::default());
        producer.map_err(|error| self.doing("write dead letters").failed(error))
    }

    fn send(
        &self,
        producer: &Producer,
        topic: &str,
        partition: u32,
        record: &Record<'_>,
        letter: &DeadLetter,
    ) -> Result<()> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers() {
            headers = headers.insert(Header { key, value });
        }
        for (key, value) in [
            ("dead_letter.topic", topic),
            ("dead_letter.partition", &partition.to_string()),
            ("dead_letter.offset", &record.offset().to_string()),
            ("dead_letter.timestamp", &record.timestamp().to_string()),
            ("dead_letter.code", letter.code),
            ("dead_letter.error", &letter.error),
            ("dead_letter.length", &record.payload_len().to_string()),
        ] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut message = BaseRecord::<[u8], [u8]>::to(self.config.kafka.topic()).headers(headers);
        message.key = record.key();
        message.payload = record.payload();
        message.timestamp = Some(record.timestamp().millis());
        let started = self.clock.monotonic_nanos();
        while let Err((error, back)) = producer.send(message) {
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !full || u128::from(self.clock.monotonic_nanos() - started) > STEP.as_nanos() {
                return Err(self.doing("write dead letters").failed(error).with("offset", record.offset()));
            }
            producer.poll(Duration::from_millis(10));
            message = back;
        }
        Ok(())
    }

    /// Closes producers beyond the most that are kept, but for the one that was just used.
    fn close_idle(&self, used: (&str, u32)) {
        let partitions = lock(&self.partitions);
        let mut open: Vec<_> = partitions
            .iter()
            .filter(|((topic, partition), _)| (&**topic, *partition) != used)
            .filter_map(|(_, state)| state.try_lock().ok().filter(|state| state.producer.is_some()))
            .collect();
        open.sort_by_key(|state| state.written);
        let surplus = (open.len() + 1).saturating_sub(MAX_PRODUCERS);
        open.iter_mut().take(surplus).for_each(|state| state.producer = None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What failed in a transaction, and why a message was not delivered, where that is why. Nothing of it is seen by others, so
/// it may be tried again, unless another has the partition.
fn transaction(doing: Doing<'_>, error: KafkaError, undelivered: Option<RDKafkaErrorCode>) -> Error {
    let told = match undelivered {
        Some(code) if !matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {
            doing.code(code, None)
        }
        _ => doing.failed(error),
    };
    match told.kind() {
        ErrorKind::Fenced | ErrorKind::PermissionDenied | ErrorKind::Configuration | ErrorKind::NotFound => told,
        _ => told.retryable(),
    }
}
