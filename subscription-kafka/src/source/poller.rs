//! The thread that polls the consumer. Rebalance callbacks run inside `poll`, so all that concerns the group happens
//! on it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use subscription_core::{Clock, Error, ErrorKind, SourceEvent, SystemClock, Timestamp};
use tokio::sync::oneshot;

use super::queue::Queue;
use super::reading::Readings;
use crate::client::{Said, topic_metadata};
use crate::config::KafkaConfig;
use crate::error::Doing;

/// How long records wait for others to share a batch with.
const LINGER: Duration = Duration::from_millis(5);
/// How long the thread sleeps where there is nothing to read: commands wait as long.
const IDLE: Duration = Duration::from_millis(20);
/// Records taken before commands and the clock are looked at again.
const AT_ONCE: usize = 64;
/// How long a full queue is waited for before fetching is paused, so that the group is served all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the pipeline asks of the thread.
pub(super) enum Command {
    /// Deliver a partition from an offset on.
    Start { partition: u32, from: u64 },
    /// Tell the group how far the lake is.
    Acknowledge(Vec<(u32, u64)>),
    /// The pipeline is done with revoked partitions.
    Release(Vec<u32>),
    /// Give up all partitions and ask for new ones; answers once none of the old is left.
    Rejoin(oneshot::Sender<()>),
}

/// The thread's state. Its callbacks have no other place than the consumer's context.
pub(super) struct Context {
    pub(super) config: KafkaConfig,
    pub(super) said: Said,
    pub(super) queue: Arc<Queue>,
    pub(super) readings: Mutex<Readings>,
    pub(super) closing: AtomicBool,
    /// The pipeline asks for events. Errors before that are those of its questions, which answer them.
    pub(super) subscribed: AtomicBool,
    /// Where the partitions end, as the brokers said last.
    pub(super) ends: Mutex<Vec<(u32, u64)>>,
    commands: Mutex<Receiver<Command>>,
    /// Commands that came while a revocation was waited for.
    postponed: Mutex<Vec<Command>>,
    rejoining: AtomicBool,
    /// How long the pipeline may take to release partitions.
    deadline: Duration,
    clock: SystemClock,
}

impl Context {
    pub(super) fn new(
        config: KafkaConfig,
        queue: Arc<Queue>,
        readings: Readings,
        commands: Receiver<Command>,
        deadline: Duration,
    ) -> Self {
        Self {
            config,
            said: Said::default(),
            queue,
            readings: Mutex::new(readings),
            closing: AtomicBool::new(false),
            subscribed: AtomicBool::new(false),
            ends: Mutex::default(),
            commands: Mutex::new(commands),
            postponed: Mutex::default(),
            rejoining: AtomicBool::new(false),
            deadline,
            clock: SystemClock::new(),
        }
    }

    pub(super) fn readings(&self) -> MutexGuard<'_, Readings> {
        lock(&self.readings)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Nothing that concerns the group is told to the pipeline: it does not know these partitions any more.
    fn is_silent(&self) -> bool {
        self.is_closing() || self.rejoining.load(Ordering::Relaxed)
    }

    fn list(&self, partitions: impl IntoIterator<Item = (u32, Offset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            // Only an offset below 0 is refused.
            let _ = list.add_partition_offset(self.config.topic(), partition as i32, offset);
        }
        list
    }

    fn doing(&self, what: &'static str) -> Doing<'_> {
        Doing { what, config: &self.config }
    }

    /// Waits until the pipeline is done with `partitions`, at most as long as it was told.
    fn wait_for_release(&self, consumer: &BaseConsumer<Self>, partitions: &[u32]) {
        let mut left: BTreeSet<u32> = partitions.iter().copied().collect();
        let until = self.clock.monotonic_nanos() + self.deadline.as_nanos() as u64;
        let commands = lock(&self.commands);
        while !left.is_empty() && !self.is_closing() {
            let rest = until.saturating_sub(self.clock.monotonic_nanos());
            if rest == 0 {
                return;
            }
            match commands.recv_timeout(Duration::from_nanos(rest).min(Duration::from_millis(100))) {
                Ok(Command::Release(done)) => left.retain(|partition| !done.contains(partition)),
                Ok(Command::Acknowledge(positions)) => self.acknowledge(consumer, &positions),
                Ok(rejoin @ Command::Rejoin(_)) => {
                    lock(&self.postponed).push(rejoin);
                    return;
                }
                Ok(other) => lock(&self.postponed).push(other),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Only information for tools that show how far a group is, so a failure is none.
    fn acknowledge(&self, consumer: &BaseConsumer<Self>, positions: &[(u32, u64)]) {
        let list =
            self.list(positions.iter().map(|&(partition, position)| (partition, Offset::Offset(position as i64))));
        if list.count() > 0 {
            let _ = consumer.commit(&list, CommitMode::Async);
        }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        self.said.error(&error, reason);
    }

    fn log(&self, _level: RDKafkaLogLevel, _fac: &str, _message: &str) {}

    /// The ends of the partitions, from librdkafka's statistics.
    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<serde_json::Value>(statistics) else { return };
        let partitions = &statistics["topics"][self.config.topic()]["partitions"];
        let Some(partitions) = partitions.as_object() else { return };
        let end = |(partition, figures): (&String, &serde_json::Value)| {
            Some((partition.parse().ok()?, u64::try_from(figures["ls_offset"].as_i64()?).ok()?))
        };
        *lock(&self.ends) = partitions.iter().filter_map(end).collect();
    }
}

impl ConsumerContext for Context {
    /// librdkafka is given a partition only when the pipeline starts it, at an offset of the lake: until then the
    /// group's protocol is answered with no partition at all.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let elements = list.elements_for_topic(self.config.topic());
        let partitions: Vec<u32> = elements.iter().filter_map(|e| u32::try_from(e.partition()).ok()).collect();
        let answered = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                if !self.is_closing() && !partitions.is_empty() {
                    self.readings().assign(&partitions);
                    self.queue.event(SourceEvent::Assigned(partitions));
                }
                consumer.incremental_assign(&TopicPartitionList::new())
            }
            _ => {
                let fetched = self.readings().take_away(&partitions);
                if !self.is_silent() && !partitions.is_empty() {
                    if consumer.assignment_lost() {
                        self.queue.event(SourceEvent::Lost(partitions));
                    } else {
                        let revoked = SourceEvent::Revoked { partitions: partitions.clone(), deadline: self.deadline };
                        self.queue.event(revoked);
                        self.wait_for_release(consumer, &partitions);
                    }
                }
                consumer.incremental_unassign(&self.list(fetched.into_iter().map(|p| (p, Offset::Invalid))))
            }
        };
        if let (Err(error), false) = (answered, self.is_closing()) {
            self.queue.error(self.doing("take part in the consumer group").failed(error));
        }
    }
}

/// Runs until the source is dropped.
pub(super) fn run(consumer: &BaseConsumer<Context>) {
    let context = consumer.context();
    let mut full_since = None;
    let mut paused = false;
    while !context.is_closing() {
        take_commands(consumer);
        let full = context.queue.is_full();
        if full && !paused {
            context.readings().flush(&context.queue);
            let now = context.clock.monotonic_nanos();
            if now - *full_since.get_or_insert(now) < PATIENCE.as_nanos() as u64 {
                context.queue.wait_for_room(IDLE);
                continue;
            }
        }
        full_since = full_since.filter(|_| full);
        if full != paused {
            let fetched = context.readings().fetched();
            let list = context.list(fetched.into_iter().map(|partition| (partition, Offset::Invalid)));
            // Librdkafka goes on after the last record that it delivered.
            let _ = if full { consumer.pause(&list) } else { consumer.resume(&list) };
            paused = full;
        }
        let oldest = context.readings().oldest();
        let now = context.clock.monotonic_nanos();
        let wait = match oldest {
            Some(oldest) => (oldest + LINGER.as_nanos() as u64).saturating_sub(now),
            None => IDLE.as_nanos() as u64,
        };
        if wait == 0 {
            context.readings().flush(&context.queue);
            continue;
        }
        // Whole milliseconds are what librdkafka waits.
        let mut next = consumer.poll(Duration::from_nanos(wait).max(Duration::from_millis(1)));
        // Records that wait behind the first are taken without a look at the clock, which costs more than they do.
        let mut more = AT_ONCE;
        while let Some(Ok(message)) = next {
            take_message(context, &message, now);
            more -= 1;
            next = if more > 0 && !context.queue.is_full() { consumer.poll(Duration::ZERO) } else { None };
        }
        match next {
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                context.readings().at_end(partition as u32, &context.queue);
            }
            Some(Err(error)) => failed(consumer, error),
            _ => {}
        }
    }
    // What is durable is told before the group is left.
    for command in lock(&context.commands).try_iter() {
        if let Command::Acknowledge(positions) = command {
            context.acknowledge(consumer, &positions);
        }
    }
}

fn take_commands(consumer: &BaseConsumer<Context>) {
    let context = consumer.context();
    let mut postponed = std::mem::take(&mut *lock(&context.postponed)).into_iter();
    loop {
        let command = match postponed.next() {
            Some(command) => Ok(command),
            None => lock(&context.commands).try_recv(),
        };
        match command {
            Ok(Command::Start { partition, from }) => start(consumer, partition, from),
            Ok(Command::Acknowledge(positions)) => context.acknowledge(consumer, &positions),
            // Nobody waits for it: the deadline has passed.
            Ok(Command::Release(_)) => {}
            Ok(Command::Rejoin(done)) => {
                rejoin(consumer);
                let _ = done.send(());
            }
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => {
                context.closing.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
}

fn start(consumer: &BaseConsumer<Context>, partition: u32, from: u64) {
    let context = consumer.context();
    let Some(was_fetched) = context.readings().start(partition, from, &context.queue) else { return };
    let at = |offset| context.list([(partition, offset)]);
    let result = if was_fetched { consumer.incremental_unassign(&at(Offset::Invalid)) } else { Ok(()) };
    let to_fetch = context.readings().fetch(partition);
    let result = result.and_then(|()| match to_fetch {
        true => consumer.incremental_assign(&at(Offset::Offset(from as i64))),
        false => Ok(()),
    });
    if let Err(error) = result {
        context.queue.error(context.doing("begin to read a partition").failed(error).with("partition", partition));
    }
}

/// Leaves the group and joins it again.
fn rejoin(consumer: &BaseConsumer<Context>) {
    let context = consumer.context();
    context.rejoining.store(true, Ordering::Relaxed);
    consumer.unsubscribe();
    // The callback takes the partitions away. A broker that does not answer is no reason to wait for ever.
    let until = context.clock.monotonic_nanos() + Duration::from_secs(10).as_nanos() as u64;
    while context.readings().has_assigned() && !context.is_closing() && context.clock.monotonic_nanos() < until {
        let _ = consumer.poll(IDLE);
    }
    context.queue.clear();
    context.rejoining.store(false, Ordering::Relaxed);
    if let Err(error) = consumer.subscribe(&[context.config.topic()]) {
        context.queue.error(context.doing("join the consumer group").failed(error));
    }
}

fn take_message(context: &Context, message: &BorrowedMessage<'_>, now: u64) {
    let mut readings = context.readings();
    let (partition, offset) = (message.partition() as u32, message.offset() as u64);
    let Some(batch) = readings.room_for(partition, offset, now, &context.queue) else { return };
    let timestamp = Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default());
    batch.push(offset, timestamp, message.key(), message.payload());
    if let Some(headers) = message.headers() {
        for i in 0..headers.count() {
            // A name that is not UTF-8 makes the client library panic, and gives no way to read its value.
            match catch_unwind(AssertUnwindSafe(|| headers.get(i))) {
                Ok(header) => batch.push_header(header.key, header.value),
                Err(_) => batch.push_header("\u{fffd}", None),
            }
        }
    }
    readings.pushed(partition, offset, &context.queue);
}

fn failed(consumer: &BaseConsumer<Context>, error: KafkaError) {
    use RDKafkaErrorCode as C;
    let context = consumer.context();
    if !context.subscribed.load(Ordering::Relaxed) {
        return;
    }
    let doing = context.doing("read the topic");
    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    let Some(code) = error.rdkafka_error_code() else { return context.queue.error(doing.failed(error)) };
    let error = match code {
        // One broker of several; where it is all of them, that is told too.
        C::BrokerTransportFailure | C::DestroyBroker | C::Resolve | C::OperationTimedOut | C::NodeUpdate if !fatal => {
            return;
        }
        // The partitions are taken away next, which is told by itself.
        C::PollExceeded => return,
        C::AutoOffsetReset | C::OffsetOutOfRange => {
            Error::new(ErrorKind::Gap, "records that were to be read are gone from the topic")
                .with("topic", context.config.topic())
        }
        // A broker that has not heard of a new topic yet says so, too: the cluster decides.
        C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownPartition => {
            match topic_metadata(consumer.client(), &context.config, &context.said) {
                Err(error) if error.kind() == ErrorKind::NotFound => error,
                _ => return,
            }
        }
        code => {
            let said = context.said.last();
            doing.code(code, said.as_ref().map(|(_, reason)| &**reason))
        }
    };
    context.queue.error(error);
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
