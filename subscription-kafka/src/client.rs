//! What all clients of a cluster share: what they last said, and what they ask.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use subscription_core::{Error, ErrorKind, OffsetRange, Result};

use crate::config::KafkaConfig;
use crate::error::Doing;

/// How long a question to the cluster may take.
pub(crate) const ASK: Duration = Duration::from_secs(5);

/// What librdkafka said last of its connections: its error codes alone do not tell which broker refused what.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl Said {
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // That all brokers are down is told after why the last one is.
            if code != RDKafkaErrorCode::AllBrokersDown || said.is_none() {
                *said = Some((code, tidy(reason)));
            }
        }
    }

    /// What was said last.
    pub(crate) fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All is well again.
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A context that only remembers what was said.
#[derive(Debug, Default)]
pub(crate) struct Listening(pub(crate) Said);

impl ClientContext for Listening {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }

    fn log(&self, _level: RDKafkaLogLevel, _fac: &str, _message: &str) {}
}

impl ConsumerContext for Listening {}

/// A client for questions only.
pub(crate) struct Asker {
    consumer: BaseConsumer<Listening>,
    config: KafkaConfig,
}

impl Asker {
    pub(crate) fn new(config: &KafkaConfig) -> Result<Self> {
        let doing = Doing { what: "make a Kafka client", config };
        let client = config.client(&[("reconnect.backoff.max.ms", "1000")], &[])?;
        let consumer = client.create_with_context(Listening::default());
        Ok(Self { consumer: consumer.map_err(|e| doing.failed(e))?, config: config.clone() })
    }

    pub(crate) fn topic_metadata(&self) -> Result<Metadata> {
        self.heard(topic_metadata(self.consumer.client(), &self.config, self.said()))
    }

    pub(crate) fn offsets(&self, partition: u32) -> Result<OffsetRange> {
        self.heard(offsets(self.consumer.client(), &self.config, self.said(), partition))
    }

    fn said(&self) -> &Said {
        &self.consumer.context().0
    }

    /// Nobody polls this client, so what it has to say of a failure is heard now.
    fn heard<T>(&self, answer: Result<T>) -> Result<T> {
        let error = match answer {
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            answer => return answer,
        };
        for _ in 0..10 {
            let _ = self.consumer.poll(Duration::from_millis(10));
        }
        match self.said().last() {
            Some((code, reason)) => {
                Err(Doing { what: "reach the brokers", config: &self.config }.code(code, Some(&reason)))
            }
            None => Err(error),
        }
    }
}

/// librdkafka's reasons begin with the name of a client or broker and end in how long it took.
fn tidy(reason: &str) -> String {
    reason.split(" (after ").next().unwrap_or(reason).trim().to_owned()
}

/// The error of a question that failed: what was said of the connection tells more than that it timed out.
pub(crate) fn unanswered(doing: Doing<'_>, error: KafkaError, said: &Said) -> Error {
    use RDKafkaErrorCode as C;
    let code = match error {
        KafkaError::AdminOp(code) => Some(code),
        _ => error.rdkafka_error_code(),
    };
    let vague =
        [C::OperationTimedOut, C::BrokerTransportFailure, C::AllBrokersDown, C::TimedOutQueue, C::DestroyBroker];
    if code.is_some_and(|code| vague.contains(&code)) {
        // The thread that is told of connections may be a moment behind.
        for _ in 0..25 {
            match said.last() {
                Some((code, reason)) => return doing.code(code, Some(&reason)),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    doing.failed(error)
}

/// The cluster's description of a topic; `NotFound` where there is none of that name.
pub(crate) fn topic_metadata<C: ClientContext>(
    client: &Client<C>,
    config: &KafkaConfig,
    said: &Said,
) -> Result<Metadata> {
    let doing = Doing { what: "ask for the topic", config };
    let metadata = client.fetch_metadata(Some(config.topic()), ASK).map_err(|e| unanswered(doing, e, said))?;
    said.forget();
    match metadata.topics().first() {
        Some(topic) => match topic.error() {
            Some(error) => Err(match doing.code(error.into(), None) {
                missing if missing.kind() == ErrorKind::NotFound => no_such_topic(config),
                other => other,
            }),
            None if topic.partitions().is_empty() => Err(no_such_topic(config)),
            None => Ok(metadata),
        },
        None => Err(no_such_topic(config)),
    }
}

/// The offsets that a partition holds for a reader of committed records.
pub(crate) fn offsets<C: ClientContext>(
    client: &Client<C>,
    config: &KafkaConfig,
    said: &Said,
    partition: u32,
) -> Result<OffsetRange> {
    let doing = Doing { what: "ask for the offsets of a partition", config };
    let (first, end) = client.fetch_watermarks(config.topic(), partition as i32, ASK).map_err(|error| {
        // A broker that was just started may not have heard of the partition yet: the cluster decides.
        let unknown = error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition);
        let there = unknown && topic_metadata(client, config, said).is_ok();
        let error = unanswered(doing, error, said).with("partition", partition);
        if there { error.retryable() } else { error }
    })?;
    Ok(OffsetRange { first: first.max(0) as u64, end: end.max(0) as u64 })
}

fn no_such_topic(config: &KafkaConfig) -> Error {
    let (topic, brokers) = (config.topic(), config.brokers());
    Error::new(ErrorKind::NotFound, "there is no such topic")
        .with("topic", topic)
        .with("brokers", brokers)
        .with_help(format!("create it: pipeline topic create --kafka {brokers} --topic {topic}"))
}
