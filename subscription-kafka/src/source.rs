//! A topic as a source: one member of a consumer group.

mod poller;
mod queue;
mod reading;
mod survey;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use subscription_core::{
    Error, ErrorKind, OffsetRange, Placement, Result, Source, SourceEvent, SourceIdentity, SourceProgress, Survey,
};
use tokio::sync::oneshot;

use crate::client::{Asker, topic_metadata};
use crate::config::KafkaConfig;
use crate::error::Doing;
use poller::{Command, Context, lock};
use queue::Queue;
use reading::Readings;

/// How a topic is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceOptions {
    /// Whether to end where the topic ended when the source was first asked for its identity. Default: never.
    pub until_end: bool,
    /// How producers place records, where it is not to be found out from the records.
    pub placement: Option<Placement>,
}

/// A topic of Kafka as a [`Source`]: one member of a consumer group.
///
/// Where reading begins is the lake's word; the group's committed offsets follow it for tools that show lag, and are
/// never read. The group distributes the partitions with the assignor `cooperative-sticky`: while partitions move, a
/// process goes on with those that it keeps, and keeps as many as it can, since each one that moves has to catch up with
/// the lake. Records of transactions that were aborted, or are still open, are not delivered (`read_committed`).
///
/// Everything that concerns the client happens on one thread of its own. At most 16 MiB of records wait there for the
/// pipeline, and at most 32 MiB in librdkafka (`queued.max.messages.kbytes`), whatever the number of partitions.
///
/// Properties for a process that comes back under its own name without a rebalance (static membership):
/// `group.instance.id`, and `session.timeout.ms` for how long it may be away. `max.poll.interval.ms` (default here: one
/// minute) is how long a rebalance waits for a process; half of it is what a pipeline has to commit what is pending.
///
/// ```no_run
/// use subscription_kafka::{KafkaConfig, KafkaSource, SourceOptions};
/// # fn main() -> subscription_core::Result<()> {
/// let config = KafkaConfig::new("localhost:9092", "api-usage-events.v1")?.with_group("metering")?;
/// let source = KafkaSource::open(config, SourceOptions::default())?;
/// # Ok(())
/// # }
/// ```
pub struct KafkaSource {
    topic: Arc<str>,
    options: SourceOptions,
    client: ClientConfig,
    queue: Arc<Queue>,
    /// Taken when the source is dropped.
    consumer: Option<Arc<BaseConsumer<Context>>>,
    /// For questions about offsets, on connections of its own: behind a fetch that waits for records each would wait along.
    asker: Arc<Asker>,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<AtomicBool>,
}

/// What exactly-once rests on.
const FIXED: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("isolation.level", "read_committed"),
    // Records that are gone are an error, not a reason to begin elsewhere.
    ("auto.offset.reset", "error"),
    ("partition.assignment.strategy", "cooperative-sticky"),
];

const DEFAULTS: [(&str, &str); 9] = [
    // At moderate rates the broker would answer each fetch with a record or two, and most of the client's and the broker's
    // work would be asking; and each record would be a batch of its own. Records wait for others for 100 ms at most.
    ("fetch.min.bytes", "262144"),
    ("fetch.wait.max.ms", "100"),
    ("max.poll.interval.ms", "60000"),
    ("queued.max.messages.kbytes", "32768"),
    // How long a full queue is left alone. At full speed it is empty again long before the second that librdkafka would wait.
    ("fetch.queue.backoff.ms", "5"),
    // How often lag is learnt.
    ("statistics.interval.ms", "5000"),
    ("allow.auto.create.topics", "false"),
    // A broker that is back is found soon: librdkafka would wait ten seconds between two looks.
    ("reconnect.backoff.max.ms", "1000"),
    // How soon partitions that are added are noticed.
    ("topic.metadata.refresh.interval.ms", "10000"),
];

impl KafkaSource {
    /// A source that joins the group when it is first asked for records; the cluster is not asked for anything yet.
    ///
    /// # Errors
    /// `Configuration`, where no group is given or a property is wrong.
    pub fn open(config: KafkaConfig, options: SourceOptions) -> Result<Self> {
        let Some(group) = config.group() else {
            return Err(Error::new(ErrorKind::Configuration, "a source needs a consumer group")
                .with("topic", config.topic())
                .with_help("name the group that the processes of this pipeline share (--group)"));
        };
        let mut client = config.client(&DEFAULTS, &FIXED)?;
        client.set("group.id", group);
        // The session may be no longer than what a rebalance waits for.
        let interval = client.get("max.poll.interval.ms").and_then(|ms| ms.parse().ok()).unwrap_or(60_000);
        if config.property("session.timeout.ms").is_none() {
            client.set("session.timeout.ms", interval.min(45_000).to_string());
        }
        if options.until_end {
            client.set("enable.partition.eof", "true");
        }
        let topic: Arc<str> = config.topic().into();
        let queue = Arc::new(Queue::default());
        let (commands, inbox) = channel();
        let deadline = Duration::from_millis(interval / 2);
        let context = Context::new(config.clone(), queue.clone(), Readings::new(topic.clone()), inbox, deadline);
        let doing = Doing { what: "make a Kafka client", config: &config };
        let consumer: BaseConsumer<Context> = client.create_with_context(context).map_err(|e| doing.failed(e))?;
        let consumer = Arc::new(consumer);
        let asker = Arc::new(Asker::new(&config)?);
        let polled = consumer.clone();
        let thread = std::thread::Builder::new()
            .name("usage-kafka".to_owned())
            .spawn(move || poller::run(&polled))
            .map_err(|e| Error::new(ErrorKind::Other, "cannot start a thread").with_source(e))?;
        Ok(Self {
            topic,
            options,
            client,
            queue,
            consumer: Some(consumer),
            asker,
            commands: Some(commands),
            thread: Some(thread),
            failed: Arc::default(),
        })
    }

    /// Whether the source has answered an error that is final, for who wants to tell it from one of the lake after the
    /// source was given away.
    pub fn failed(&self) -> Arc<AtomicBool> {
        self.failed.clone()
    }

    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(|error| !error.is_retryable()) {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn consumer(&self) -> Result<&Arc<BaseConsumer<Context>>> {
        self.consumer.as_ref().ok_or_else(gone)
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.as_ref().and_then(|commands| commands.send(command).ok()).ok_or_else(gone)
    }

    /// Asks the cluster something, which blocks.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Context>, &Asker) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (consumer, asker) = (self.consumer()?.clone(), self.asker.clone());
        let answer = tokio::task::spawn_blocking(move || question(&consumer, &asker));
        let given_up = |e| Error::new(ErrorKind::Other, "a question to Kafka was given up").with_source(e);
        self.noted(answer.await.map_err(given_up).flatten())
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Invariant, "the thread that reads the topic has ended")
}

/// The number of partitions of the topic.
fn partitions(consumer: &BaseConsumer<Context>) -> Result<u32> {
    let context = consumer.context();
    let metadata = topic_metadata(consumer.client(), &context.config, &context.said)?;
    Ok(metadata.topics().first().map_or(0, |topic| topic.partitions().len() as u32))
}

#[async_trait]
impl Source for KafkaSource {
    fn topic(&self) -> &str {
        &self.topic
    }

    async fn identity(&mut self) -> Result<SourceIdentity> {
        let until_end = self.options.until_end;
        let partitions = self
            .ask(move |consumer, asker| {
                let partitions = partitions(consumer)?;
                let context = consumer.context();
                if until_end && context.readings().ends().is_none() {
                    let end = |p| Ok(asker.offsets(p)?.end);
                    let ends = (0..partitions).map(end).collect::<Result<Vec<_>>>()?;
                    context.readings().set_ends(ends);
                }
                Ok(partitions)
            })
            .await?;
        Ok(SourceIdentity { partitions, settings: Vec::new(), placement: self.options.placement })
    }

    async fn survey(&mut self) -> Result<Survey> {
        let (set, client) = (self.options.placement, self.client.clone());
        self.ask(move |consumer, asker| {
            let context = consumer.context();
            let partitions = partitions(consumer)?;
            let placement = match set {
                Some(placement) => Some(placement),
                None => survey::placement(&context.config, client, partitions)?,
            };
            let mut starts = Vec::new();
            for partition in 0..partitions {
                let first = asker.offsets(partition)?.first;
                if first > 0 {
                    starts.push((partition, first));
                }
            }
            Ok(Survey { placement, starts })
        })
        .await
    }

    async fn offsets(&mut self, partition: u32) -> Result<Option<OffsetRange>> {
        self.ask(move |_, asker| asker.offsets(partition).map(Some)).await
    }

    fn ends(&self) -> Option<Vec<u64>> {
        self.consumer.as_ref()?.context().readings().ends().map(<[u64]>::to_vec)
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        let consumer = self.consumer()?;
        let context = consumer.context();
        if !context.subscribed.load(Ordering::Relaxed) {
            let doing = Doing { what: "join the consumer group", config: &context.config };
            consumer.subscribe(&[&*self.topic]).map_err(|e| doing.failed(e))?;
            context.subscribed.store(true, Ordering::Relaxed);
        }
        let event = self.queue.next().await;
        self.noted(event)
    }

    async fn start(&mut self, partition: u32, from: u64) -> Result<()> {
        // What was read from elsewhere is forgotten before the thread hears of it.
        self.consumer()?.context().readings().stop(partition);
        self.queue.forget(partition);
        self.send(Command::Start { partition, from })
    }

    async fn acknowledge(&mut self, positions: &[(u32, u64)]) -> Result<()> {
        self.send(Command::Acknowledge(positions.to_vec()))
    }

    async fn release(&mut self, partitions: &[u32]) -> Result<()> {
        self.send(Command::Release(partitions.to_vec()))
    }

    async fn rejoin(&mut self) -> Result<bool> {
        let (done, left) = oneshot::channel();
        self.send(Command::Rejoin(done))?;
        left.await.map_err(|_| gone())?;
        Ok(true)
    }

    fn progress(&self) -> SourceProgress {
        let Some(consumer) = &self.consumer else { return SourceProgress::default() };
        let readings = consumer.context().readings();
        let mut progress = SourceProgress::default();
        progress.done = readings.delivered();
        progress
    }

    fn lag(&self) -> Vec<(u32, u64)> {
        let Some(consumer) = &self.consumer else { return Vec::new() };
        let context = consumer.context();
        let ends = lock(&context.ends).clone();
        let positions: Vec<_> = context.readings().positions().collect();
        let lag = |(partition, position): (u32, u64)| {
            let (_, end) = ends.iter().find(|(p, _)| *p == partition)?;
            Some((partition, end.saturating_sub(position)))
        };
        positions.into_iter().filter_map(lag).collect()
    }
}

impl Drop for KafkaSource {
    /// Leaves the group, so that others need not wait until the session times out.
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            consumer.context().closing.store(true, Ordering::Relaxed);
        }
        self.commands = None;
        self.queue.clear();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
