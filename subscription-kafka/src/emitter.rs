//! What a gateway uses to report usage: events into a topic, through a broker that may be away.

mod deliveries;
mod message;
mod sender;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use subscription_core::{
    ApiUsageEvent, Clock, EmitterCounts, EmitterStamp, Error, ErrorKind, EventEmitter, Result, Spool, SpoolConfig,
    SystemClock, Timestamp,
};

use crate::config::KafkaConfig;
use crate::error::Doing;
use deliveries::{Deliveries, Place};
use message::Message;
use sender::Sender;

type Producer = BaseProducer<Deliveries>;

/// Told of what goes wrong behind [`EventEmitter::emit`]'s back.
type OnProblem = Arc<dyn Fn(&Error) + Send + Sync>;

/// How a [`KafkaEmitter`] works.
#[derive(Clone)]
pub struct EmitterConfig {
    kafka: KafkaConfig,
    name: String,
    spool: Option<SpoolConfig>,
    write_ahead: bool,
    on_problem: OnProblem,
}

impl EmitterConfig {
    /// An emitter into a topic, with a buffer in memory alone. A message waits 10 ms for others of its partition, unless
    /// `linger.ms` is set.
    pub fn new(kafka: KafkaConfig) -> Self {
        Self { kafka, name: "emitter".to_owned(), spool: None, write_ahead: false, on_problem: Arc::new(|_| ()) }
    }

    /// The name that tells this process from others, such as its host's: the beginning of `emitter_id`. Default `emitter`.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where the buffer in memory is full, events go to this spool and are sent when the broker is back; what is there at
    /// the start is sent first.
    pub fn with_spool(mut self, spool: SpoolConfig) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Every event goes to this spool before `emit` returns, so that none is lost with the process: about a microsecond
    /// an event. What is there at the start is sent first.
    pub fn with_write_ahead(mut self, spool: SpoolConfig) -> Self {
        self.write_ahead = true;
        self.with_spool(spool)
    }

    /// Whom to tell of what no call answers: brokers that are away, events that the broker refused, a damaged spool. Called
    /// on the emitter's own thread; must not wait.
    pub fn on_problem(mut self, tell: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_problem = Arc::new(tell);
        self
    }
}

/// An emitter into a Kafka topic.
///
/// Each event is a record with the key `tenant_id`. The producer is idempotent, asks for the acknowledgement of all
/// in-sync replicas, compresses with snappy, and puts keys where a Java producer does (`murmur2_random`).
///
/// `emit` puts the event into librdkafka's buffer (128 MiB by default, `queue.buffering.max.kbytes`) and returns. That buffer
/// gives nothing up by time: it empties, in order, when the broker is back. What happens when it is full, or the process
/// dies, is the [configuration](EmitterConfig)'s choice:
///
/// | | buffer full | process killed | closed while the broker is away |
/// |---|---|---|---|
/// | memory alone | refused | buffer lost | buffer lost |
/// | [spool](EmitterConfig::with_spool) | to the spool | buffer lost, spool sent by the next start | buffer to the spool |
/// | [write-ahead](EmitterConfig::with_write_ahead) | stays in the spool | nothing lost: sent by the next start | stays in the spool |
///
/// A spool that is full refuses. A spool whose disk fails in write-ahead mode does too: what is accepted is safe.
///
/// A producer that has failed for good is replaced by a new one, which is given all that the old one had.
///
/// One tenant's events arrive in the order of their numbers, copies left out; with two exceptions, where the topic (not the
/// event) is refused for a time, and where a buffer goes to a spool that has events already at the close. What is sent
/// twice, after a crash, has the ids that it had, and is deduplicated by (`tenant_id`, `event_id`).
///
/// The topic is not looked at: a gateway must be able to start before its broker. A missing one is told to
/// [`EmitterConfig::on_problem`].
///
/// ```no_run
/// use std::time::Duration;
/// use subscription_core::{EventEmitter, SpoolConfig};
/// use subscription_kafka::{EmitterConfig, KafkaConfig, KafkaEmitter};
///
/// # fn example(event: subscription_core::ApiUsageEvent<'_>) -> subscription_core::Result<()> {
/// let kafka = KafkaConfig::new("localhost:9092", "api-usage-events.v1")?;
/// let config = EmitterConfig::new(kafka)
///     .with_name("gateway-3")
///     .with_write_ahead(SpoolConfig::new("/var/spool/gateway"))
///     .on_problem(|error| eprintln!("usage events: {error}"));
/// let emitter = KafkaEmitter::open(config)?;
/// emitter.emit(&event)?;
/// emitter.close(Duration::from_secs(10))?;
/// # Ok(())
/// # }
/// ```
pub struct KafkaEmitter {
    shared: Arc<Shared>,
    sender: Mutex<Option<JoinHandle<()>>>,
}

/// What callers of `emit` and the sending thread share.
struct Shared {
    stamp: EmitterStamp,
    config: EmitterConfig,
    state: Mutex<State>,
    counts: Arc<Counts>,
    /// A delivery failed for a reason that will pass: nothing is to overtake the events that came back.
    holding: Arc<AtomicBool>,
    /// The sending thread is to end.
    stopping: AtomicBool,
    /// Signalled by the sending thread now and then.
    progress: Condvar,
    clock: SystemClock,
}

/// Under one lock, so that events are in the producer and in the spool in the order of their numbers.
struct State {
    producer: Arc<Producer>,
    spool: Option<Spool>,
    next_sequence: u64,
    /// Records at the end of the spool that the producer has not been given.
    backlog: u64,
    closed: bool,
    /// A message as it is written to the spool.
    encoded: Vec<u8>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    recovered: AtomicU64,
    refused: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
}

impl KafkaEmitter {
    /// Opens the emitter. Needs no broker.
    ///
    /// # Errors
    /// `Configuration`, where a property is wrong; `Fenced`, where another process has the spool; else what the file system
    /// says about the spool.
    pub fn open(config: EmitterConfig) -> Result<Self> {
        let stamp = EmitterStamp::new(&config.name)?;
        let counts = Arc::new(Counts::default());
        let holding = Arc::new(AtomicBool::new(false));
        let (spool, reader) = config.spool.clone().map(Spool::open).transpose()?.unzip();
        let recovered = reader.as_ref().map_or(0, |reader| reader.remaining());
        counts.recovered.store(recovered, Ordering::Relaxed);
        let first = reader.as_ref().map_or(0, |reader| reader.position());
        let deliveries = Deliveries::new(config.clone(), counts.clone(), holding.clone(), first);
        let producer = Arc::new(producer(&config, deliveries)?);
        let state = Mutex::new(State {
            producer: producer.clone(),
            spool,
            next_sequence: 0,
            backlog: recovered,
            closed: false,
            encoded: Vec::new(),
        });
        let shared = Arc::new(Shared {
            stamp,
            config,
            state,
            counts,
            holding,
            stopping: AtomicBool::new(false),
            progress: Condvar::new(),
            clock: SystemClock::new(),
        });
        let sender = Sender::new(shared.clone(), producer, reader);
        let thread = std::thread::Builder::new().name("usage-emitter".to_owned()).spawn(move || sender.run());
        let thread =
            thread.map_err(|e| Error::new(ErrorKind::Other, "cannot start the emitter's thread").with_source(e))?;
        Ok(Self { shared, sender: Mutex::new(Some(thread)) })
    }

    /// Sends a payload as it is, without stamp, for those who bring records from elsewhere: with this key, and this record
    /// timestamp where the topic does not set its own (now, if none is given).
    ///
    /// # Errors
    /// As [`EventEmitter::emit`].
    pub fn forward(&self, key: Option<&[u8]>, payload: &[u8], timestamp: Option<Timestamp>) -> Result<()> {
        let timestamp = timestamp.map(|timestamp| timestamp.millis());
        let mut state = self.shared.state();
        let taken = self.shared.take(&mut state, Message { timestamp, key, payload });
        drop(state);
        self.shared.counts.took(&taken);
        taken
    }

    /// Bytes of the spool on disk; `None` without one, and once it is closed.
    pub fn spool_bytes(&self) -> Option<u64> {
        self.shared.state().spool.as_ref().map(Spool::bytes)
    }

    fn wait(&self, deadline: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until =
            self.shared.clock.monotonic_nanos().saturating_add(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX));
        let mut state = self.shared.state();
        while !done(self) {
            if self.shared.clock.monotonic_nanos() >= until {
                return false;
            }
            let step = Duration::from_millis(10);
            state = self.shared.progress.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn undelivered(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "not all usage events were delivered in time")
            .with("events", self.counts().pending())
            .with("topic", self.shared.config.kafka.topic())
            .with("brokers", self.shared.config.kafka.brokers())
            .retryable()
    }
}

impl EventEmitter for KafkaEmitter {
    fn id(&self) -> &str {
        self.shared.stamp.id()
    }

    fn emit(&self, event: &ApiUsageEvent<'_>) -> Result<()> {
        let shared = &*self.shared;
        let draft = shared.stamp.draft(event);
        let mut state = shared.state();
        let payload = draft.numbered(state.next_sequence);
        state.next_sequence += 1;
        let message = Message { timestamp: None, key: Some(event.tenant_id.as_bytes()), payload: payload.as_bytes() };
        let taken = shared.take(&mut state, message);
        drop(state);
        shared.counts.took(&taken);
        taken
    }

    fn is_durable(&self) -> bool {
        self.shared.config.write_ahead
    }

    fn flush(&self, deadline: Duration) -> Result<()> {
        let counts = self.counts();
        let wanted = counts.accepted + counts.recovered;
        let done = |emitter: &Self| {
            let counts = emitter.counts();
            counts.delivered + counts.lost >= wanted
        };
        if self.wait(deadline, done) { Ok(()) } else { Err(self.undelivered()) }
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        self.shared.state().closed = true;
        let flushed = self.flush(deadline);
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(sender) = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of its is one of ours; there is nothing left to be saved.
            let _ = sender.join();
        }
        // Another emitter may have it from now on.
        self.shared.state().spool = None;
        if flushed.is_ok() {
            return Ok(());
        }
        let pending = self.counts().pending();
        if self.shared.config.spool.is_some() && pending > 0 {
            return Err(self.undelivered().with_help("they are in the spool, and are sent by the next start"));
        }
        let lost = &self.shared.counts.lost;
        lost.fetch_add(pending, Ordering::Relaxed);
        match lost.load(Ordering::Relaxed) {
            // The last ones were delivered meanwhile.
            0 => Ok(()),
            lost => Err(Error::new(ErrorKind::Unavailable, "usage events were lost: they were not delivered in time")
                .with("events", lost)
                .with("brokers", self.shared.config.kafka.brokers())
                .with_help("give the emitter a spool, which keeps them for the next start")),
        }
    }

    fn counts(&self) -> EmitterCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Acquire);
        let counts = &self.shared.counts;
        let mut answer = EmitterCounts::default();
        // What is done first, so that it is never more than what was taken.
        (answer.delivered, answer.lost) = (of(&counts.delivered), of(&counts.lost));
        (answer.accepted, answer.recovered, answer.refused) =
            (of(&counts.accepted), of(&counts.recovered), of(&counts.refused));
        answer
    }
}

impl Drop for KafkaEmitter {
    fn drop(&mut self) {
        // Who wants to know, or to wait, calls `close`.
        let _ = self.close(Duration::ZERO);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a message to the producer, or to the spool where others wait before it or the producer is full.
    fn take(&self, state: &mut State, message: Message<'_>) -> Result<()> {
        if state.closed {
            return Err(Error::new(ErrorKind::Unavailable, "the emitter of usage events is closed"));
        }
        let mut number = None;
        if self.config.write_ahead {
            number = Some(state.spool(message)?);
        }
        if state.backlog == 0 && !self.holding.load(Ordering::Acquire) {
            let place = state.producer.context().next(number);
            match send(&state.producer, self.config.kafka.topic(), message, place) {
                Ok(()) => return Ok(()),
                Err(KafkaError::MessageProduction(code)) if deliveries::is_for_good(code) => {
                    if let Some(number) = number {
                        state.producer.context().acknowledge(number);
                    }
                    return Err(Doing { what: "emit a usage event", config: &self.config.kafka }
                        .code(code, None)
                        .with("bytes", message.payload.len()));
                }
                // No room; or the producer is broken, and about to be replaced.
                Err(_) => {}
            }
        }
        if number.is_none() {
            state.spool(message)?;
        }
        state.backlog += 1;
        Ok(())
    }
}

impl State {
    fn spool(&mut self, message: Message<'_>) -> Result<u64> {
        let Some(spool) = &mut self.spool else {
            return Err(Error::new(ErrorKind::StorageFull, "the buffer of usage events is full")
                .with_help("is the broker away? give the emitter a spool, or raise `queue.buffering.max.kbytes`")
                .retryable());
        };
        message.encode(&mut self.encoded);
        spool.append(&self.encoded)
    }
}

impl Counts {
    fn took(&self, taken: &Result<()>) {
        let count = if taken.is_ok() { &self.accepted } else { &self.refused };
        count.fetch_add(1, Ordering::Release);
    }
}

/// A new producer; `deliveries` hears of what becomes of its messages.
fn producer(config: &EmitterConfig, deliveries: Deliveries) -> Result<Producer> {
    let client = config.kafka.client(
        &[
            ("client.id", &config.name),
            ("partitioner", "murmur2_random"),
            ("compression.type", "snappy"),
            // A request has the messages of one partition, and a broker takes up one request of a connection at a time: with 64
            // partitions and 5 ms they wait for each other longer than this.
            ("linger.ms", "10"),
            ("queue.buffering.max.kbytes", "131072"),
            ("queue.buffering.max.messages", "250000"),
            ("reconnect.backoff.max.ms", "1000"),
        ],
        // No message is given up by time: it would be overtaken.
        &[("enable.idempotence", "true"), ("acks", "all"), ("message.timeout.ms", "0")],
    )?;
    let doing = Doing { what: "open the emitter", config: &config.kafka };
    BaseProducer::from_config_and_context(&client, deliveries).map_err(|error| doing.failed(error))
}

/// Hands a message to the producer, which copies it.
fn send(producer: &Producer, topic: &str, message: Message<'_>, place: Place) -> Result<(), KafkaError> {
    let mut record = BaseRecord::with_opaque_to(topic, Box::new(place)).payload(message.payload);
    record.key = message.key;
    record.timestamp = message.timestamp;
    producer.send(record).map_err(|(error, _)| error)
}
