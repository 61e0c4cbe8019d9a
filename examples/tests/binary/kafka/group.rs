//! Several processes of one group: partitions that move, processes that die or sleep, brokers that die, while the lake is
//! maintained. The tables come out as the reference model says, whatever happens.
//!
//! `FAULTS=100 FAULT_SEED=7 cargo test -p subscription-examples --test binary group -- --nocapture` is a campaign.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use serde_json::Value;
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{Clock as _, RecordBatch, SystemClock, Table, murmur2_partition};

use super::broker::Broker;
use super::{Kafka, runtime};

const PARTITIONS: u32 = 6;

/// Sessions that time out in seconds, and commits that are small.
const FLAGS: &str = "--commit-interval 100ms --gold-interval 400ms --workers 1 -X session.timeout.ms=3000 \
                     -X heartbeat.interval.ms=500 -X max.poll.interval.ms=12000";

/// Between two batches of records.
const PAUSE: Duration = Duration::from_millis(10);

/// What can happen. A session lasts 3 s, so of the second and the third others take over.
const KINDS: [&str; 4] = ["kill and restart", "kill, 4 s away", "5 s asleep", "broker"];

pub(super) fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status();
    assert!(sent.expect("kill").success(), "SIG{name} to {}", process.id());
}

/// Waits until every thread of it is stopped, so that nothing of it is on its way any more.
fn wait_until_stopped(process: &Child) {
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat")).unwrap_or_default();
        // A thread that has ended meanwhile has no state. The name before the state may have spaces.
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    };
    let tasks = format!("/proc/{}/task", process.id());
    while !std::fs::read_dir(&tasks).expect("threads").all(is_stopped) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process of the group, with what it says in a file.
struct Member {
    process: Child,
    says: PathBuf,
}

impl Member {
    fn start(kafka: &Kafka, number: usize) -> Self {
        Self::start_with(kafka, number, FLAGS)
    }

    fn start_with(kafka: &Kafka, number: usize, flags: &str) -> Self {
        let says = kafka.bench.path(&format!("member-{number}.txt"));
        let process = kafka
            .bench
            .command(&kafka.line("lake", flags))
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

/// Sends a batch every `pause` until all is sent or it is enough.
fn load(kafka: &Kafka, batches: &[RecordBatch], pause: Duration, enough: &AtomicBool, sent: &AtomicUsize) {
    let producer = kafka.producer();
    for batch in batches {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        batch.iter().for_each(|record| kafka.send(&producer, batch.partition(), &record));
        sent.fetch_add(batch.len(), Ordering::Relaxed);
        std::thread::sleep(pause);
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

/// A version of a table: who wrote it, and the partitions whose position it moves.
struct Version {
    number: u64,
    writer: String,
    moves: Vec<u32>,
}

/// The versions of a table from a number on, by its Delta log.
fn versions(lake: &Path, table: &str, from: u64) -> Vec<Version> {
    let entry = |number: u64| {
        let path = lake.join(table).join(format!("_delta_log/{number:020}.json"));
        let text = std::fs::read_to_string(path).ok()?;
        let actions = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut version = Version { number, writer: String::new(), moves: Vec::new() };
        for action in actions {
            if let Some(writer) = action["commitInfo"]["subscriptionWriter"].as_str() {
                version.writer = writer.to_owned();
            }
            // Positions are named pipeline/topic/partition; what has a fourth part is a counter.
            let app = action["txn"]["appId"].as_str().unwrap_or_default().split('/').collect::<Vec<_>>();
            if let [_, _, partition] = app[..] {
                version.moves.push(partition.parse().expect("a number"));
            }
        }
        Some(version)
    };
    (from..).map_while(entry).collect()
}

/// How long partitions stand still in the lake, by what Silver's log says of their positions.
struct Progress {
    lake: PathBuf,
    clock: SystemClock,
    version: u64,
    /// When each partition moved last.
    moved: BTreeMap<u32, Duration>,
}

impl Progress {
    fn new(kafka: &Kafka) -> Self {
        Self { lake: kafka.bench.path("lake"), clock: SystemClock::new(), version: 1, moved: BTreeMap::new() }
    }

    /// The longest that a partition which has moved now stood still before.
    fn look(&mut self) -> Duration {
        let now = Duration::from_nanos(self.clock.monotonic_nanos());
        let mut longest = Duration::ZERO;
        for version in versions(&self.lake, "silver_api_usage", self.version) {
            self.version = version.number + 1;
            for partition in version.moves {
                if let Some(before) = self.moved.insert(partition, now) {
                    longest = longest.max(now - before);
                }
            }
        }
        longest
    }
}

/// Maintains the lake again and again, and kills every other attempt; answers how many ended by themselves.
fn maintain(kafka: &Kafka, seed: u64, enough: &AtomicBool) -> usize {
    let (mut random, mut ended) = (Random(!seed), 0);
    while !enough.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(500 + random.below(1_500)));
        let mut command = kafka.bench.command("maintain --lake lake");
        if random.below(2) == 0 {
            let mut process = command.stdout(Stdio::null()).spawn().expect("the binary");
            std::thread::sleep(Duration::from_millis(random.below(400)));
            process.kill().expect("killed");
            process.wait().expect("an end");
        } else {
            let output = command.output().expect("the binary");
            assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
            ended += 1;
        }
    }
    ended
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
        scope.spawn(|| load(&kafka, &batches, PAUSE, &enough, &sent));
        // Ends the load whatever happens, so that a failure is told.
        let _end = End(&enough);
        let mut random = Random(seed);
        let mut members: Vec<_> = (0..3).map(|number| Member::start(&kafka, number)).collect();
        // Work has begun, so that there is something to disturb.
        while !kafka.bench.path("lake/silver_api_usage/_delta_log").exists() {
            members.iter_mut().for_each(|member| member.assert_runs("at the start"));
            std::thread::sleep(Duration::from_millis(100));
        }
        let maintaining = scope.spawn(|| maintain(&kafka, seed, &enough));
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
        println!("the lake was maintained {} times", maintaining.join().expect("it is maintained"));
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
fn held(said: &str) -> BTreeSet<u32> {
    let mut held = BTreeSet::new();
    for line in said.lines() {
        let Some((what, list)) = line.strip_prefix("partitions ").and_then(|line| line.split_once(": [")) else {
            continue;
        };
        let partitions = list.trim_end_matches(']').split(", ").filter_map(|number| number.parse().ok());
        match what {
            "assigned" => held.extend(partitions),
            _ => partitions.for_each(|partition| {
                held.remove(&partition);
            }),
        }
    }
    held
}

/// Waits until the members have so many partitions, in ascending order.
fn wait_for(members: &mut [Member], wanted: &[usize], context: &str) {
    loop {
        members.iter_mut().for_each(|member| member.assert_runs(context));
        let mut have: Vec<_> = members.iter().map(|member| held(&member.said()).len()).collect();
        have.sort_unstable();
        if have == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn members_come_and_go() {
    let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
    let batches = records(3, 40_000);
    let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| load(&kafka, &batches, PAUSE, &enough, &sent));
        let _end = End(&enough);
        // Two at once: they agree on the lake's settings.
        let mut members = vec![Member::start(&kafka, 0), Member::start(&kafka, 1)];
        wait_for(&mut members, &[3, 3], "members come and go");
        members.push(Member::start(&kafka, 2));
        wait_for(&mut members, &[2, 2, 2], "members come and go");
        members.remove(0).stop("the first leaves");
        wait_for(&mut members, &[3, 3], "members come and go");
        members.remove(0).stop("the second leaves");
        wait_for(&mut members, &[6], "members come and go");
        enough.store(true, Ordering::Relaxed);
        members.remove(0).stop("the last leaves");
    });
    kafka.run("lake", "").ok();
    kafka.assert_is_reference("lake", "members come and go");
}

/// A process that sleeps for longer than its session, until another has its partitions and has committed to every table. It wakes with
/// rows that are not committed; by the logs of all tables, which name the writer, no version is its from when it fell asleep until it
/// has given up all that it had.
#[test]
fn a_zombie_commits_nothing() {
    let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
    let batches = records(5, 120_000);
    let (enough, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| load(&kafka, &batches, 3 * PAUSE, &enough, &sent));
        let _end = End(&enough);
        let mut members = vec![Member::start(&kafka, 0)];
        wait_for(&mut members, &[PARTITIONS as usize], "the first alone");
        let lake = kafka.bench.path("lake");
        let writer = loop {
            // Version 0 is that which made the table.
            if let Some(first) = versions(&lake, Table::Silver.name(), 1).first() {
                break first.writer.clone();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        members.push(Member::start(&kafka, 1));
        let mut shown = false;
        for round in 1.. {
            wait_for(&mut members, &[3, 3], "both");
            let (zombie, other) = (&members[0], &members[1]);
            let before = zombie.said().len();
            signal(&zombie.process, "STOP");
            wait_until_stopped(&zombie.process);
            let its = held(&zombie.said());
            let asleep = Table::ALL.map(|table| versions(&lake, table.name(), 0).len() as u64);
            let since = |at: usize| versions(&lake, Table::ALL[at].name(), asleep[at]);
            let taken_over = |at: usize| {
                let moved: BTreeSet<u32> = since(at).into_iter().flat_map(|version| version.moves).collect();
                its.is_subset(&moved)
            };
            while held(&other.said()).len() < PARTITIONS as usize || !(0..Table::ALL.len()).all(taken_over) {
                std::thread::sleep(Duration::from_millis(50));
            }
            signal(&zombie.process, "CONT");
            let said = || zombie.said()[before..].to_owned();
            let is_refused = || said().contains("another process took over");
            // What it is given after that, it may commit.
            let is_given_more = || said().contains("partitions assigned");
            let assert_nothing_is_its = || {
                let versions: Vec<Vec<Version>> = (0..Table::ALL.len()).map(since).collect();
                // Looked at after the versions were: then they are all from before.
                let shows = !is_given_more();
                for (table, version) in
                    Table::ALL.iter().zip(&versions).flat_map(|(table, of)| of.iter().map(move |v| (table, v)))
                {
                    let its = version.writer == writer && shows;
                    assert!(!its, "version {} of {} is the zombie's: {}", version.number, table.name(), said());
                }
                shows
            };
            while !said().contains("partitions released") {
                std::thread::sleep(Duration::from_millis(1));
            }
            shown |= assert_nothing_is_its();
            // A commit that it began as it woke is refused; often it is told that its partitions are lost before it begins one.
            while !is_given_more() && !is_refused() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let refused = is_refused() && assert_nothing_is_its();
            println!("round {round}, {its:?}: {}", if refused { "it was refused" } else { "it was not seen to try" });
            if shown && (refused || round >= 3) {
                break;
            }
            assert!(round < 6, "each time it had others before we could look");
        }
        wait_for(&mut members, &[3, 3], "both in the end");
        enough.store(true, Ordering::Relaxed);
        members.into_iter().for_each(|member| member.stop("zombie"));
    });
    kafka.run("lake", "").ok();
    kafka.assert_is_reference("lake", "zombie");
}

/// Partitions that are added while processes run: each of them ends and says why, and what is not in the lake is still in the topic.
#[test]
fn partitions_added_meanwhile_are_refused() {
    const BEFORE: u32 = 4;
    let Some(kafka) = Kafka::shared(BEFORE) else { return };
    let place = |partitions| move |tenant: &str| murmur2_partition(tenant.as_bytes(), partitions);
    kafka.produce_events(0..200, place(BEFORE));
    let flags = format!("{FLAGS} -X topic.metadata.refresh.interval.ms=500");
    let mut members: Vec<_> = (0..2).map(|number| Member::start_with(&kafka, number, &flags)).collect();
    wait_for(&mut members, &[2, 2], "before");
    let read = || kafka.bench.column("bronze_api_usage", "offset").len();
    while read() < 200 {
        std::thread::sleep(Duration::from_millis(100));
    }
    let more = NewPartitions::new(&kafka.topic, BEFORE as usize + 2);
    runtime().block_on(kafka.admin().create_partitions([&more], &AdminOptions::new())).expect("partitions");
    // Some producers know of them already, and some do not.
    kafka.produce_events(200..300, place(BEFORE));
    kafka.produce_events(300..400, place(BEFORE + 2));
    for mut member in members {
        let code = member.process.wait().expect("an end").code();
        let said = member.said();
        assert_eq!(code, Some(5), "{said}");
        for word in ["partitions were added", "would be in two", "lake: 4", "now: 6", "make a new topic"] {
            assert!(said.contains(word), "no `{word}` in: {said}");
        }
    }
    kafka.bench.pipeline("verify --lake lake").ok();
    let mut offsets = vec![BTreeSet::new(); BEFORE as usize];
    let coordinates = kafka.bench.column("bronze_api_usage", "partition");
    for (partition, offset) in coordinates.iter().zip(kafka.bench.column("bronze_api_usage", "offset")) {
        let partition = partition.as_u64().expect("a number") as usize;
        assert!(offsets[partition].insert(offset.as_u64().expect("a number")), "{partition}, {offset} twice");
    }
    // The topic goes on where the lake ends.
    let topic = kafka.records();
    for (partition, offsets) in offsets.iter().enumerate() {
        assert!(offsets.iter().copied().eq(0..offsets.len() as u64), "partition {partition}: {offsets:?}");
        assert!(offsets.len() <= topic[partition].len());
    }
    assert_eq!(topic.iter().map(RecordBatch::len).sum::<usize>(), 400);
}

/// A run to the end is not at it while another has partitions that it has not committed, dead or alive: it waits for the other, and
/// does its part where that leaves.
#[test]
fn a_run_to_the_end_waits_for_what_others_hold() {
    let Some(kafka) = Kafka::shared(PARTITIONS) else { return };
    kafka.produce(&records(7, 6_000));
    let mut other = kafka.client();
    other.set("group.id", format!("{}-lake", kafka.topic)).set("partition.assignment.strategy", "cooperative-sticky");
    let other: BaseConsumer = other.set("enable.auto.commit", "false").create().expect("a consumer");
    other.subscribe(&[&kafka.topic]).expect("a member");
    let held = || other.assignment().expect("what it has").count();
    // It reads, and commits nothing anywhere.
    let take_part = || drop(other.poll(Duration::from_millis(20)));
    while held() < PARTITIONS as usize {
        take_part();
    }
    let mut member = Member::start_with(&kafka, 0, "--until-end");
    while !member.said().contains("others of the group still have partitions") {
        assert_eq!(member.process.try_wait().expect("a child"), None, "{}", member.said());
        take_part();
    }
    assert!(held() > 0, "the other has lost all: {}", member.said());
    drop(other);
    assert!(member.process.wait().expect("a child").success(), "{}", member.said());
    kafka.assert_is_reference("lake", "another member");
}
