//! Kafka → all layers, by the real binary, beside a consumer that does nothing but consume; and how long an event waits for its
//! row in Silver at a steady rate. Broker, consumer and pipeline share the machine.
//!
//! `cargo build --release --bins && cargo bench -p subscription-benches --bench kafka [-- EVENTS | steady MINUTES [AFTER]]`
//!
//! The broker is started by `dev/services`; `KAFKA_BENCH_SECONDS` is how long the steady rate lasts (default 30). `steady` is that
//! part alone, after so many minutes of the same traffic that are sent and taken up at once, and says every minute what the
//! process holds: its memory (the median of the minute), the ids that deduplication must hold (those of the last hour of event
//! time), and the memory that came with each since the minute before.

#[path = "../../subscription-kafka/tests/it/broker.rs"]
mod broker;

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Broker;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use subscription_benches::{Usage, heading, pipeline, touch_memory, usage};
use subscription_core::testkit::traffic::{Traffic, TrafficConfig, TrafficRecord};
use subscription_core::{Clock as _, SystemClock, Table, TableStore as _, Timestamp, murmur2_partition};
use subscription_delta::{DeltaConfig, DeltaStore};

fn seconds(clock: &SystemClock) -> f64 {
    clock.monotonic_nanos() as f64 / 1e9
}

struct Topic {
    brokers: String,
    name: String,
    partitions: u32,
}

impl Topic {
    fn create(brokers: &str, name: &str, partitions: u32) -> Self {
        let created = pipeline()
            .args(["topic", "create", "--replication", "1", "--set", "retention.ms=-1"])
            // Timestamps of the producer in traffic that is read at once, or all would be too old.
            .args(["--set", "message.timestamp.type=CreateTime", "--partitions", &partitions.to_string()])
            .args(["--kafka", brokers, "--topic", name])
            .status();
        assert!(created.expect("the binary").success());
        Self { brokers: brokers.to_owned(), name: name.to_owned(), partitions }
    }

    fn producer(&self) -> ThreadedProducer<DefaultProducerContext> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers).set("compression.type", "snappy").set("linger.ms", "5");
        client.set("queue.buffering.max.messages", "1000000").create().expect("a producer")
    }

    fn send(&self, producer: &ThreadedProducer<DefaultProducerContext>, record: &TrafficRecord) -> u32 {
        let key = record.key.as_deref().unwrap_or_default();
        let partition = murmur2_partition(key, self.partitions);
        let mut wanted = BaseRecord::<[u8], [u8]>::to(&self.name)
            .partition(partition as i32)
            .timestamp(record.timestamp.millis())
            .key(key)
            .payload(&record.payload);
        while let Err((_, back)) = producer.send(wanted) {
            std::thread::sleep(Duration::from_millis(1));
            wanted = back;
        }
        partition
    }

    /// Reads all there is and does nothing with it; answers records and seconds.
    fn consume(&self, clock: &SystemClock) -> (u64, f64) {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers).set("group.id", "limit").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = client.set("enable.auto.commit", "false").create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.name, partition as i32, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("an assignment");
        let (began, mut open, mut records, mut bytes) = (seconds(clock), self.partitions, 0, 0);
        while open > 0 {
            match consumer.poll(Duration::from_secs(10)).expect("records or their end") {
                Ok(message) => {
                    records += 1;
                    bytes += message.payload().map_or(0, <[u8]>::len);
                }
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(bytes > 0);
        (records, seconds(clock) - began)
    }

    /// How many records are in Bronze.
    fn committed(&self, runtime: &tokio::runtime::Runtime, store: &DeltaStore) -> u64 {
        let partitions: Vec<u32> = (0..self.partitions).collect();
        let states = runtime.block_on(store.state(&self.name, &partitions)).expect("positions");
        states.iter().map(|state| state.position(Table::Bronze)).sum()
    }

    /// All of the topic to all layers by so many processes; answers records a second from the first commit on, which is when
    /// all have joined, seconds of processors, and MiB at most of one.
    fn run(&self, processes: usize, clock: &SystemClock) -> (f64, f64, f64) {
        touch_memory();
        let folder = tempfile::tempdir().expect("a folder");
        let group = format!("{}-{processes}", self.name);
        let start = |_| {
            let mut command = pipeline();
            command.args(["run", "--quiet", "--until-end", "--commit-interval", "10s", "--kafka", &self.brokers]);
            command.args(["--topic", &self.name, "--group", &group, "--lake"]).arg(folder.path().join("lake"));
            command.stdout(Stdio::null()).spawn().expect("the binary")
        };
        let mut children: Vec<_> = (0..processes).map(start).collect();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (store, first) = loop {
            std::thread::sleep(Duration::from_millis(20));
            let config = DeltaConfig::new(&folder.path().join("lake").to_string_lossy()).expect("a path");
            if let Ok(store) = runtime.block_on(DeltaStore::open_existing(config)) {
                let first = self.committed(&runtime, &store);
                if first > 0 {
                    break (store, first);
                }
            }
        };
        let began = seconds(clock);
        let mut last = vec![Usage::default(); processes];
        while !children.is_empty() {
            for i in (0..children.len()).rev() {
                last[i] = usage(children[i].id()).unwrap_or(last[i]);
                if let Some(status) = children[i].try_wait().expect("a child") {
                    assert!(status.success(), "the run failed: {status}");
                    children.remove(i).wait().expect("a child");
                    let ended = last.remove(i);
                    last.push(ended);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = seconds(clock) - began;
        let cpu = last.iter().map(|used| used.cpu).sum();
        (
            (self.committed(&runtime, &store) - first) as f64 / took,
            cpu,
            last.iter().map(|used| used.peak_mib).fold(0.0, f64::max),
        )
    }
}

fn throughput(brokers: &str, events: u64, clock: &SystemClock) {
    println!("| {events} events | events/s | of the limit | CPU µs/event | peak MiB |\n|---|--:|--:|--:|--:|");
    for partitions in [8, 64] {
        let topic = Topic::create(brokers, &format!("throughput-{partitions}"), partitions);
        let producer = topic.producer();
        let mut traffic = Traffic::new(TrafficConfig { events, ..TrafficConfig::steady(1) });
        let mut record = TrafficRecord::default();
        while traffic.next_into(&mut record) {
            topic.send(&producer, &record);
        }
        producer.flush(Duration::from_secs(120)).expect("delivered");
        let (consumed, took) = topic.consume(clock);
        assert_eq!(consumed, events);
        let limit = events as f64 / took;
        println!("| {partitions} partitions, consumed only | {limit:.0} | 100 % | | |");
        for processes in [1, 3] {
            let (rate, cpu, peak) = topic.run(processes, clock);
            let (share, per_event) = (100.0 * rate / limit, cpu * 1e6 / events as f64);
            println!(
                "| {partitions} partitions, to all layers, {processes} processes | {rate:.0} | {share:.0} % | {per_event:.2} | {peak:.0} |"
            );
        }
    }
}

/// What a process holds, minute by minute.
struct Minutes {
    /// Ids that came with each minute of event time, the newest last, and that minute.
    ids: VecDeque<(i64, u64)>,
    next: f64,
    /// What was resident at each look of this minute, in MiB: a commit takes some for a moment.
    resident: Vec<f64>,
    before: Option<(f64, u64)>,
    /// What the process says that it holds.
    held: Arc<Mutex<String>>,
}

impl Minutes {
    fn new() -> Self {
        println!(
            "| minute | events | ids, million | resident MiB | MiB more | bytes an id more | it says that it holds | CPU s |\n|--:|--:|--:|--:|--:|--:|--:|--:|"
        );
        Self { ids: VecDeque::new(), next: 60.0, resident: Vec::new(), before: None, held: Arc::default() }
    }

    /// Reads what the process says, to its end.
    fn listen(&self, says: ChildStderr) {
        let held = self.held.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(says).lines().map_while(Result::ok) {
                if let Some(at) = line.rfind("ids ") {
                    line[at..].clone_into(&mut held.lock().expect("no reader panics"));
                }
            }
        });
    }

    /// An event at a time of its own.
    fn note(&mut self, event_time: Timestamp) {
        let minute = event_time.millis().div_euclid(60_000);
        match self.ids.back_mut() {
            Some((last, count)) if *last == minute => *count += 1,
            _ => self.ids.push_back((minute, 1)),
        }
        while self.ids.front().is_some_and(|(first, _)| *first < minute - 60) {
            self.ids.pop_front();
        }
    }

    fn tell(&mut self, since: f64, events: u64, used: Usage) {
        self.resident.push(used.resident_mib);
        if since < self.next {
            return;
        }
        self.resident.sort_by(f64::total_cmp);
        let resident = self.resident[self.resident.len() / 2];
        self.resident.clear();
        let ids: u64 = self.ids.iter().map(|(_, count)| count).sum();
        let (mib, ids_before) = self.before.replace((resident, ids)).unwrap_or_default();
        let more = resident - mib;
        let each =
            if ids > ids_before { format!("{:.0}", more * 1_048_576.0 / (ids - ids_before) as f64) } else { "".into() };
        println!(
            "| {:.0} | {events} | {:.2} | {:.0} | {more:+.0} | {each} | {} | {:.1} |",
            self.next / 60.0,
            ids as f64 / 1e6,
            resident,
            self.held.lock().expect("no listener panics"),
            used.cpu
        );
        self.next += 60.0;
    }
}

/// Events at a steady rate, in event time as on the clock: how long from sending one to its row in Silver. `after`: seconds of
/// the same traffic that are in the lake before.
fn latency(brokers: &str, clock: &SystemClock, lasts: u64, after: u64, mut minutes: Option<Minutes>) {
    const RATE: u64 = 5_000;
    let topic = Topic::create(brokers, "latency", 64);
    let folder = tempfile::tempdir().expect("a folder");
    let lake = folder.path().join("lake");
    let mut child = pipeline()
        .args(["run", "--commit-interval", "1s", "--kafka", brokers, "--topic", &topic.name, "--lake"])
        .arg(&lake)
        .args(if minutes.is_some() { None } else { Some("--quiet") })
        .stdout(Stdio::null())
        .stderr(if minutes.is_some() { Stdio::piped() } else { Stdio::inherit() })
        .spawn()
        .expect("the binary");
    if let (Some(minutes), Some(says)) = (&minutes, child.stderr.take()) {
        minutes.listen(says);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let partitions: Vec<u32> = (0..topic.partitions).collect();
    let config = DeltaConfig::new(&lake.to_string_lossy()).expect("a path");
    let store = loop {
        match runtime.block_on(DeltaStore::open_existing(config.clone())) {
            Ok(store) => break store,
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    // A few seconds to warm up, which do not count.
    let (before, warm) = (after * RATE, 5 * RATE);
    let events = before + warm + lasts * RATE;
    let mut traffic = Traffic::new(TrafficConfig { events, rate: RATE as f64, ..TrafficConfig::steady(2) });
    let mut record = TrafficRecord::default();
    let producer = topic.producer();
    let mut sent: Vec<Vec<f64>> = vec![Vec::new(); partitions.len()];
    let mut seen = vec![0; partitions.len()];
    let mut waits = Vec::new();
    let (mut n, mut cpu_began, mut looked) = (0, 0.0, 0.0);
    let look = |began: f64, sent: &[Vec<f64>], seen: &mut [usize], waits: &mut Vec<f64>| {
        let states = runtime.block_on(store.state(&topic.name, &partitions)).expect("positions");
        let now = seconds(clock);
        for (partition, state) in states.iter().enumerate() {
            let to = (state.position(Table::Silver) as usize).min(sent[partition].len());
            let times = sent[partition][seen[partition]..to].iter();
            waits.extend(times.filter(|at| **at - began > 5.0).map(|at| now - at));
            seen[partition] = to;
        }
        now
    };
    while n < before && traffic.next_into(&mut record) {
        minutes.iter_mut().for_each(|minutes| minutes.note(record.timestamp));
        sent[topic.send(&producer, &record) as usize].push(f64::NEG_INFINITY);
        n += 1;
    }
    while seen.iter().sum::<usize>() < before as usize {
        look(0.0, &sent, &mut seen, &mut waits);
        std::thread::sleep(Duration::from_millis(100));
    }
    n = 0;
    let began = seconds(clock);
    while traffic.next_into(&mut record) {
        while (seconds(clock) - began) * (RATE as f64) < n as f64 {
            std::thread::sleep(Duration::from_millis(1));
            if seconds(clock) - looked > 0.1 {
                looked = look(began, &sent, &mut seen, &mut waits);
                if let Some(minutes) = &mut minutes {
                    minutes.tell(looked - began, n, usage(child.id()).expect("a running pipeline"));
                }
            }
        }
        // Steady traffic is on time: a record is as old as its event.
        minutes.iter_mut().for_each(|minutes| minutes.note(record.timestamp));
        let partition = topic.send(&producer, &record);
        sent[partition as usize].push(seconds(clock));
        n += 1;
        if n == warm {
            cpu_began = usage(child.id()).expect("a running pipeline").cpu;
        }
    }
    let Usage { cpu, peak_mib: peak, .. } = usage(child.id()).expect("a running pipeline");
    producer.flush(Duration::from_secs(60)).expect("delivered");
    while seen.iter().sum::<usize>() < events as usize {
        look(began, &sent, &mut seen, &mut waits);
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize] * 1e3;
    println!(
        "\n{RATE} events/s for {lasts} s, --commit-interval 1s: from sent to readable in Silver p50 {:.0} ms, p99 {:.0} ms, at most \
         {:.0} ms; {:.1} % of one core; {peak:.0} MiB",
        at(0.5),
        at(0.99),
        at(1.0),
        100.0 * (cpu - cpu_began) / lasts as f64
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u64>().ok());
    // Processes that start together shall share the partitions from the beginning, as with Kafka's own default.
    let Some(broker) = Broker::start(1, &["--set", "group.initial.rebalance.delay.ms=3000"]) else { return };
    let clock = SystemClock::new();
    heading();
    if arguments.iter().any(|argument| argument == "steady") {
        let [lasts, after] = [numbers.next().unwrap_or(20), numbers.next().unwrap_or(0)].map(|minutes| minutes * 60);
        return latency(&broker.address(), &clock, lasts, after, Some(Minutes::new()));
    }
    throughput(&broker.address(), numbers.next().unwrap_or(3_000_000), &clock);
    let lasts = std::env::var("KAFKA_BENCH_SECONDS").map_or(30, |text| text.parse().expect("a number"));
    latency(&broker.address(), &clock, lasts, 0, None);
}
