//! From an event to what gateways decide by: a steady rate of events through a real broker and the real `pipeline` into a
//! real Redis, all on this machine; and how long each event of some tenants takes from its own time until the settled counter
//! has it.
//!
//! `cargo build --release --bins && cargo bench -p subscription-benches --bench enforceable [-- EVENTS_A_SECOND SECONDS PARTITIONS WARM_SECONDS]`
//!
//! Default 10,000, 30, 64 and 30: seconds are counted from so long after the first event was settled, until when processes start and
//! the broker compiles what it runs. `EMITTER_PROPERTIES` are properties of the producer, as in
//! `linger.ms=1`, `PIPELINE_OPTIONS` further options of the run. The broker's data and the lake are among the temporary files; a lake in
//! `LAKE_FOLDER` is on another disk than the broker's data, where `TMPDIR` is, as it would be with machines of their own.

#[path = "../../subscription-kafka/tests/it/broker.rs"]
mod broker;
#[path = "../../subscription-redis/tests/it/server.rs"]
mod server;

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::Broker;
use server::Servers;
use subscription_benches::{Times, heading, pipeline, usage};
use subscription_core::testkit::samples;
use subscription_core::{Clock as _, EventEmitter as _, SystemClock, WindowKind};
use subscription_kafka::{EmitterConfig, KafkaConfig, KafkaEmitter};
use uuid::Uuid;

const TENANTS: u64 = 1_000;
/// Those whose counters are watched.
const WATCHED: u64 = 20;
const TOPIC: &str = "enforceable";

/// How many events a second, for how many seconds, and after how many that do not count.
#[derive(Clone, Copy)]
struct Pace {
    rate: u64,
    seconds: u64,
    warm: u64,
}

/// By watched tenant: when events were made, in nanoseconds, that its counter did not have yet.
type Waiting = Arc<Mutex<Vec<VecDeque<u64>>>>;

fn main() {
    let arguments: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default| arguments.get(at).copied().unwrap_or(default);
    let pace = Pace { rate: number(0, 10_000), seconds: number(1, 30), warm: number(3, 30) };
    let Pace { rate, seconds, .. } = pace;
    let partitions = number(2, 64);
    let (Some(broker), Some(redis)) = (Broker::start(1, &[]), Servers::up(&[])) else { return };
    heading();
    let folder =
        std::env::var_os("LAKE_FOLDER").map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("a folder");
    let created = pipeline()
        .args(["topic", "create", "--replication", "1", "--partitions", &partitions.to_string()])
        .args(["--kafka", &broker.address(), "--topic", TOPIC])
        .status();
    assert!(created.expect("the binary").success());
    let options = std::env::var("PIPELINE_OPTIONS").unwrap_or_default();
    let mut run = pipeline()
        .args(["run", "--quiet", "--kafka", &broker.address(), "--topic", TOPIC, "--redis", redis.url(), "--lake"])
        .arg(folder.path().join("lake"))
        .args(options.split_whitespace())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary");

    let clock = SystemClock::new();
    let waiting: Waiting = Arc::new(Mutex::new(vec![VecDeque::new(); WATCHED as usize]));
    let (first, stop) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicBool::new(false)));
    let watcher = {
        let (waiting, first, stop, url) = (waiting.clone(), first.clone(), stop.clone(), redis.url().to_owned());
        std::thread::spawn(move || watch(&clock, &waiting, &first, &stop, &url))
    };
    let started = clock.monotonic_nanos();
    let (began, made, cpu) = emit(&clock, &waiting, &first, &broker, &mut run, pace);
    let ended = clock.monotonic_nanos();
    // What is on its way, for a while.
    for _ in 0..1_000 {
        if lock(&waiting).iter().all(VecDeque::is_empty) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let missing: usize = lock(&waiting).iter().map(VecDeque::len).sum();
    stop.store(true, Ordering::Relaxed);
    let mut times = Times::default();
    let (covered, polls) = watcher.join().expect("the watcher");
    times.extend(covered.iter().filter(|(made, _)| *made >= began).map(|(made, at)| at - made));
    let _ = Command::new("kill").arg(run.id().to_string()).status();
    let _ = run.wait();

    println!(
        "{rate} events/s asked for {seconds} s in {partitions} partitions, {:.0} made; {} events of {WATCHED} tenants watched, a poll every {:.1} ms",
        made as f64 * 1e9 / (ended - began) as f64,
        times.len(),
        (ended - started) as f64 / 1e6 / polls as f64
    );
    println!(
        "from the event's time until its settled counter has it: p50 {:.1} ms, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, at most {:.1}",
        times.at(0.5),
        times.at(0.9),
        times.at(0.99),
        times.at(0.999),
        times.at(1.0)
    );
    println!("pipeline: {:.0} % of one core", 100.0 * cpu / seconds as f64);
    assert_eq!(missing, 0, "events that no counter ever had");
}

/// Emits at the rate; answers from when on it counts, how many were emitted since, and what the pipeline used of processors
/// meanwhile, in seconds.
fn emit(
    clock: &SystemClock,
    waiting: &Waiting,
    first: &AtomicU64,
    broker: &Broker,
    run: &mut Child,
    Pace { rate, seconds, warm }: Pace,
) -> (u64, u64, f64) {
    let properties = std::env::var("EMITTER_PROPERTIES").unwrap_or_default();
    let kafka = KafkaConfig::new(broker.address(), TOPIC).expect("a name");
    let kafka = properties
        .split(',')
        .filter_map(|property| property.split_once('='))
        .fold(kafka, |kafka, (name, value)| kafka.with_property(name, value).expect("a property"));
    let config = EmitterConfig::new(kafka).with_name("bench").on_problem(|error| eprintln!("{error}"));
    let emitter = KafkaEmitter::open(config).expect("an emitter");
    let tenants: Vec<String> = (0..TENANTS).map(|n| format!("tenant-{n}")).collect();
    let started = clock.monotonic_nanos();
    // When it counts from, how many were made by then, and what was used.
    let mut counts: Option<(u64, u64, f64)> = None;
    let mut n = 0;
    while counts.is_none_or(|(_, made, _)| n < made + rate * seconds) {
        let due = started + n * 1_000_000_000 / rate;
        // What is due within a millisecond is sent together, so that this takes little of the processors.
        if due > clock.monotonic_nanos() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if n % rate == 0 {
            assert!(run.try_wait().expect("a child").is_none(), "the pipeline ended");
        }
        let warm = first.load(Ordering::Relaxed).saturating_add(warm * 1_000_000_000);
        if counts.is_none() && clock.monotonic_nanos() > warm {
            counts = Some((due, n, usage(run.id()).expect("a running pipeline").cpu));
        }
        let tenant = n * 7_919 % TENANTS;
        let mut event = samples::usage_event(n, &tenants[tenant as usize]);
        event.event_id = Uuid::new_v4();
        event.event_timestamp = clock.now();
        let made = clock.monotonic_nanos();
        if tenant < WATCHED {
            lock(waiting)[tenant as usize].push_back(made);
        }
        emitter.emit(&event).expect("room");
        n += 1;
    }
    let (began, made, used) = counts.expect("a loop that ends");
    let used = usage(run.id()).expect("a running pipeline").cpu - used;
    emitter.close(Duration::from_secs(60)).expect("delivered");
    (began, n - made, used)
}

/// Polls the month's settled counters; answers when each event was made and covered, and how often it polled.
fn watch(
    clock: &SystemClock,
    waiting: &Waiting,
    first: &AtomicU64,
    stop: &AtomicBool,
    url: &str,
) -> (Vec<(u64, u64)>, u64) {
    let month = WindowKind::Month.start(clock.now()).millis() / 1_000;
    let mut ask = redis::pipe();
    for tenant in 0..WATCHED {
        ask.hget(format!("usage:{{tenant-{tenant}}}:1month:{month}"), "settled");
    }
    let mut server = redis::Client::open(url).and_then(|client| client.get_connection()).expect("a connection");
    let (mut covered, mut polls) = (Vec::new(), 0);
    let mut told = vec![0; WATCHED as usize];
    while !stop.load(Ordering::Relaxed) {
        let settled: Vec<Option<u64>> = ask.query(&mut server).expect("counters");
        let now = clock.monotonic_nanos();
        polls += 1;
        let mut waiting = lock(waiting);
        for ((waiting, told), settled) in waiting.iter_mut().zip(&mut told).zip(settled) {
            let settled = settled.unwrap_or_default();
            if settled > 0 {
                first.fetch_min(now, Ordering::Relaxed);
            }
            // Each costs 1, and a tenant's are in one partition, so in order.
            covered.extend(waiting.drain(..(settled - *told) as usize).map(|made| (made, now)));
            *told = settled;
        }
        drop(waiting);
        std::thread::sleep(Duration::from_millis(1));
    }
    (covered, polls)
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, Vec<VecDeque<u64>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
