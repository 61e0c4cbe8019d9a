//! What does not grow with time: the cost of a commit after thousands of others, and that of an hour of events after others.
//!
//! `cargo build --release --bins && cargo bench -p subscription-benches --bench long [-- paced|hours]`
//!
//! `paced` takes eleven minutes: 48 minutes of event time as fast as they are taken, and then 5,000 events a second, of event
//! time too, for 6,000 commits of 100 ms. So windows begin and end at the same rate all the time, and the hour's windows are
//! there from the beginning, as they are on most of a day: what is compared is commits after others, not an hour that
//! fills. `hours` hands over four hours of event time, 500 events a
//! second, as fast as they are taken. Both through standard input, so what lies between the hand-over and the tables (some
//! 200 MB at most) is the same at the beginning and at the end of a span.

use std::io::{BufWriter, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use subscription_benches::{heading, pipeline, touch_memory, usage};
use subscription_core::testkit::traffic::{Traffic, TrafficConfig, TrafficRecord};
use subscription_core::{Clock as _, SystemClock};

struct Running {
    child: Child,
    lines: BufWriter<ChildStdin>,
    traffic: Traffic,
    record: TrafficRecord,
    clock: SystemClock,
    _lake: tempfile::TempDir,
}

impl Running {
    /// The pipeline, and traffic of `rate` events a second of event time for it.
    fn start(events: u64, rate: u64, commit_interval: &str) -> Self {
        touch_memory();
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = pipeline()
            .args([
                "run",
                "--quiet",
                "--input",
                "-",
                "--format",
                "events",
                "--commit-interval",
                commit_interval,
                "--lake",
            ])
            .arg(folder.path().join("lake"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let lines = BufWriter::with_capacity(1 << 16, child.stdin.take().expect("its input"));
        let traffic = Traffic::new(TrafficConfig { events, rate: rate as f64, ..TrafficConfig::steady(1) });
        Self { child, lines, traffic, record: TrafficRecord::default(), clock: SystemClock::new(), _lake: folder }
    }

    /// Hands over so many further events.
    fn send(&mut self, events: u64) {
        for _ in 0..events {
            assert!(self.traffic.next_into(&mut self.record), "the traffic ends early");
            self.lines.write_all(&self.record.payload).and_then(|()| self.lines.write_all(b"\n")).expect("it reads");
        }
        self.lines.flush().expect("it reads");
    }

    fn seconds(&self) -> f64 {
        self.clock.monotonic_nanos() as f64 / 1e9
    }

    fn cpu(&self) -> f64 {
        usage(self.child.id()).expect("it runs").cpu
    }

    fn finish(mut self) {
        drop(self.lines);
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the run failed: {status}");
    }
}

/// Milliseconds of processor that a commit's tenth of a second takes, by hundreds of commits.
fn paced() {
    const RATE: u64 = 5_000;
    const COMMITS: u64 = 6_000;
    // Of event time, handed over before.
    const FILLED: u64 = 48 * 60 * RATE;
    // So many commits to a line of the table; what was still on its way at first is in none.
    const SPAN: u64 = 100;
    let mut running = Running::start(FILLED + (COMMITS + 3 * SPAN) * RATE / 10, RATE, "100ms");
    running.send(FILLED);
    let (begun, mut before) = (running.seconds(), running.cpu());
    let mut spans = Vec::new();
    for tenth in 0..COMMITS + 3 * SPAN {
        if tenth % SPAN == 0 {
            let now = running.cpu();
            spans.push((now - before) * 1e3 / SPAN as f64);
            before = now;
        }
        while running.seconds() - begun < tenth as f64 / 10.0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        running.send(RATE / 10);
    }
    running.finish();
    // The first is nothing yet, the next two have what was still on its way.
    let spans = &spans[3..];
    println!("{RATE} events/s, --commit-interval 100ms, {COMMITS} commits: processor a commit, means of {SPAN}\n");
    println!("| commits | ms |\n|---|--:|");
    for (i, ms) in spans.iter().enumerate().filter(|(i, _)| i % 6 == 0 || i + 1 == spans.len()) {
        println!("| {} to {} | {ms:.1} |", (i as u64 + 1) * SPAN, (i as u64 + 2) * SPAN);
    }
    // What else the machine does moves a span by a half: the middle of ten.
    let middle = |spans: &[f64]| {
        let mut spans = spans.to_vec();
        spans.sort_by(f64::total_cmp);
        spans[spans.len() / 2]
    };
    let (first, last) = (middle(&spans[..10]), middle(&spans[spans.len() - 10..]));
    println!("\nmedian of the first ten hundreds {first:.1}, of the last ten {last:.1}: {:.2}\n", last / first);
}

/// Seconds that each hour of events takes.
fn hours() {
    const RATE: u64 = 500;
    const HOUR: u64 = RATE * 3_600;
    let mut running = Running::start(4 * HOUR, RATE, "10s");
    println!("| hour of event time ({RATE} events/s) | seconds | of processors |\n|---|--:|--:|");
    let mut hours = Vec::new();
    for hour in 1..=4 {
        let before = (running.seconds(), running.cpu());
        running.send(HOUR);
        let took = (running.seconds() - before.0, running.cpu() - before.1);
        println!("| {hour} | {:.2} | {:.2} |", took.0, took.1);
        hours.push(took);
    }
    println!("\nhour 4 / hour 2: {:.2}, of processors {:.2}\n", hours[3].0 / hours[1].0, hours[3].1 / hours[1].1);
    running.finish();
}

fn main() {
    let wanted = |name: &str| {
        let mut named = std::env::args().filter(|arg| ["paced", "hours"].contains(&arg.as_str())).peekable();
        named.peek().is_none() || named.any(|arg| arg == name)
    };
    heading();
    if wanted("hours") {
        hours();
    }
    if wanted("paced") {
        paced();
    }
}
