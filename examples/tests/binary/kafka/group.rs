//! Several processes of one group: partitions that move, processes that die or sleep, brokers that die. The tables come out
//! as the reference model says, whatever happens.
//!
//! `FAULTS=100 FAULT_SEED=7 cargo test -p subscription-examples --test binary group -- --nocapture` is a campaign.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::producer::Producer;
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{Clock as _, RecordBatch, SystemClock};

use super::Kafka;
use super::broker::Broker;

const PARTITIONS: u32 = 6;

/// Sessions that time out in seconds, and commits that are small.
const FLAGS: &str = "--commit-interval 100ms --gold-interval 400ms --workers 1 -X session.timeout.ms=3000 \
                     -X heartbeat.interval.ms=500 -X max.poll.interval.ms=12000";

/// What can happen. A session lasts 3 s, so of the second and the third others take over.
const KINDS: [&str; 4] = ["kill and restart", "kill, 4 s away", "5 s asleep", "broker"];

pub(super) fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status();
    assert!(sent.expect("kill").success(), "SIG{name} to {}", process.id());
}

/// A process of the group, with what it says in a file.
struct Member {
    process: Child,
    says: std::path::PathBuf,
}

impl Member {
    fn start(kafka: &Kafka, number: usize) -> Self {
        let says = kafka.bench.path(&format!("member-{number}.txt"));
        let process = kafka
            .bench
            .command(&kafka.line("lake", FLAGS))
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&says).expect("a file"))
            .spawn()
            .expect("the binary");
        Self { process, says }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.says).expect("text")
    }

    /// It runs: nothing but us ends it.
    #[track_caller]
    fn assert_runs(&mut self, context: &str) {
        if let Some(status) = self.process.try_wait().expect("a status") {
            panic!("{context}: ended by itself with {status}: {}", self.said());
        }
    }

    /// Asks it to stop, which commits what it has read.
    #[track_caller]
    fn stop(mut self, context: &str) {
        signal(&self.process, "TERM");
        let status = self.process.wait().expect("an end");
        // One that has only just been started may not listen to signals yet.
        let stopped = status.code() == Some(143) || status.signal() == Some(15);
        assert!(stopped, "{context}: {status}: {}", self.said());
    }

    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("an end");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Records to send, as a topic has them, without those that only take long to send.
fn records(seed: u64, events: u64) -> Vec<RecordBatch> {
    let traffic = Traffic::new(TrafficConfig { events, tenants: 500, ..TrafficConfig::trouble(seed) });
    let batches = traffic.to_batches(PARTITIONS, Framing::Topic { gaps: 0.0 }, 20);
    let small = |batch: RecordBatch| {
        let mut kept = RecordBatch::builder(batch.topic().clone(), batch.partition(), batch.from());
        batch.iter().filter(|record| record.payload_len() < 1 << 20).for_each(|record| kept.push_record(&record));
        kept.finish(batch.to())
    };
    batches.into_iter().map(small).collect()
}

/// Sends at a steady rate until all is sent or it is enough.
fn load(kafka: &Kafka, batches: &[RecordBatch], enough: &AtomicBool, sent: &AtomicUsize) {
    let producer = kafka.producer();
    for batch in batches {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        batch.iter().for_each(|record| kafka.send(&producer, batch.partition(), &record));
        sent.fetch_add(batch.len(), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
    producer.flush(Duration::from_secs(300)).expect("delivered");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// How long partitions stand still in the lake, by what Silver's log says of their positions.
struct Progress {
    log: std::path::PathBuf,
    clock: SystemClock,
    version: u64,
    /// When each partition moved last.
    moved: BTreeMap<String, Duration>,
}

impl Progress {
    fn new(kafka: &Kafka) -> Self {
        let log = kafka.bench.path("lake/silver_api_usage/_delta_log");
        Self { log, clock: SystemClock::new(), version: 1, moved: BTreeMap::new() }
    }

    /// The longest that a partition which has moved now stood still before.
    fn look(&mut self) -> Duration {
        let now = Duration::from_nanos(self.clock.monotonic_nanos());
        let mut longest = Duration::ZERO;
        while let Ok(commit) = std::fs::read_to_string(self.log.join(format!("{:020}.json", self.version))) {
            self.version += 1;
            let actions = commit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
            for action in actions {
                let app = action["txn"]["appId"].as_str().unwrap_or_default();
                // Positions are named pipeline/topic/partition.
                if app.split('/').count() == 3
                    && let Some(before) = self.moved.insert(app.to_owned(), now)
                {
                    longest = longest.max(now - before);
                }
            }
        }
        longest
    }
}

#[test]
fn faults_change_no_row() {
    let (faults, seed) = (setting("FAULTS", 8), setting("FAULT_SEED", 1));
    println!("FAULTS={faults} FAULT_SEED={seed}");
    let Some(broker) = Broker::start(3, &[]) else { return };
    let kafka = Kafka::on(&broker.address());
    kafka.create(PARTITIONS, 3);
    let batches = records(seed, 20_000 + 8_000 * faults);
    let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut counts = [0; KINDS.len()];
    // The kind of the last fault; none before the first.
    let last = AtomicUsize::new(KINDS.len());
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut progress, mut longest) = (Progress::new(&kafka), [Duration::ZERO; KINDS.len()]);
            while !enough.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                let stood = progress.look();
                if let Some(longest) = longest.get_mut(last.load(Ordering::Relaxed)) {
                    *longest = stood.max(*longest);
                }
            }
            longest
        });
        scope.spawn(|| load(&kafka, &batches, &enough, &sent));
        // Ends the load whatever happens, so that a failure is told.
        let _end = End(&enough);
        let mut random = Random(seed);
        let mut members: Vec<_> = (0..3).map(|number| Member::start(&kafka, number)).collect();
        // Work has begun, so that there is something to disturb.
        while !kafka.bench.path("lake/silver_api_usage/_delta_log").exists() {
            members.iter_mut().for_each(|member| member.assert_runs("at the start"));
            std::thread::sleep(Duration::from_millis(100));
        }
        for fault in 0..faults {
            std::thread::sleep(Duration::from_millis(500 + random.below(2_500)));
            let context = format!("seed {seed}, fault {fault}");
            members.iter_mut().for_each(|member| member.assert_runs(&context));
            let victim = random.below(3) as usize;
            let kind = random.below(4) as usize;
            counts[kind] += 1;
            last.store(kind, Ordering::Relaxed);
            println!("{context}: {} of {victim}", KINDS[kind]);
            match kind {
                0 => {
                    members[victim].kill();
                    members[victim] = Member::start(&kafka, victim);
                }
                // Away for longer than a session.
                1 => {
                    members[victim].kill();
                    std::thread::sleep(Duration::from_millis(4_000));
                    members[victim] = Member::start(&kafka, victim);
                }
                // Asleep for longer than a session: when it wakes, its partitions are others'.
                2 => {
                    signal(&members[victim].process, "STOP");
                    std::thread::sleep(Duration::from_millis(5_000));
                    signal(&members[victim].process, "CONT");
                }
                _ => {
                    broker.kill(victim as u16 + 1);
                    std::thread::sleep(Duration::from_millis(random.below(2_000)));
                    broker.restart(victim as u16 + 1);
                }
            }
        }
        // One broker for good; what comes after is read from the others.
        broker.kill(1 + random.below(3) as u16);
        let before = sent.load(Ordering::Relaxed);
        while sent.load(Ordering::Relaxed) < (before + 2_000).min(batches.iter().map(RecordBatch::len).sum()) {
            std::thread::sleep(Duration::from_millis(100));
        }
        enough.store(true, Ordering::Relaxed);
        for (kind, longest) in KINDS.iter().zip(watching.join().expect("it looks")) {
            println!("{kind}: a partition stood still for {:.1} s at most", longest.as_secs_f64());
        }
        members.into_iter().for_each(|member| member.stop(&format!("seed {seed}")));
    });
    kafka.run("lake", "").ok();
    let [restarts, kills, sleeps, brokers] = counts;
    println!("{restarts} restarts, {kills} kills, {sleeps} sleeps, {brokers} broker restarts, {sent:?} records");
    kafka.assert_is_reference("lake", &format!("seed {seed}"));
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Partitions a member says that it has.
fn held(said: &str) -> i64 {
    let count = |list: &str| list.split(',').filter(|n| !n.trim().is_empty()).count() as i64;
    said.lines()
        .filter_map(|line| {
            let (what, list) = line.strip_prefix("partitions ")?.split_once(": [")?;
            let n = count(list.trim_end_matches(']'));
            Some(if what == "assigned" { n } else { -n })
        })
        .sum()
}

#[test]
fn members_come_and_go() {
    let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
    let batches = records(3, 40_000);
    let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| load(&kafka, &batches, &enough, &sent));
        let _end = End(&enough);
        let wait = |members: &mut Vec<Member>, wanted: &[i64]| loop {
            members.iter_mut().for_each(|member| member.assert_runs("members come and go"));
            let mut have: Vec<_> = members.iter().map(|member| held(&member.said())).collect();
            have.sort_unstable();
            if have == wanted {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        // Two at once: they agree on the lake's settings.
        let mut members = vec![Member::start(&kafka, 0), Member::start(&kafka, 1)];
        wait(&mut members, &[3, 3]);
        members.push(Member::start(&kafka, 2));
        wait(&mut members, &[2, 2, 2]);
        members.remove(0).stop("the first leaves");
        wait(&mut members, &[3, 3]);
        members.remove(0).stop("the second leaves");
        wait(&mut members, &[6]);
        enough.store(true, Ordering::Relaxed);
        members.remove(0).stop("the last leaves");
    });
    kafka.run("lake", "").ok();
    kafka.assert_is_reference("lake", "members come and go");
}
