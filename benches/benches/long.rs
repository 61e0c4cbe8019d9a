//! What does not grow with time: the cost of a commit after thousands of others, and that of an hour of events after others.
//!
//! `cargo build --release --bins && cargo bench -p subscription-benches --bench long [-- hours|rows|paced]`
//!
//! `paced` takes eleven minutes: 48 minutes of event time as fast as they are taken, and then 5,000 events a second, of event
//! time too, for 6,000 commits of 100 ms. So windows begin and end at the same rate all the time, and the hour's windows are
//! there from the beginning, as they are on most of a day: what is compared is commits after others, not an hour that
//! fills. `rows`, as long, is the same from an empty lake on and without Gold. `hours` hands over four hours of event time, 500 events a
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
    fn start(events: u64, rate: u64, options: &[&str]) -> Self {
        touch_memory();
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = pipeline()
            .args(["run", "--quiet", "--input", "-", "--format", "events"])
            .args(options)
            .arg("--lake")
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

/// Milliseconds of processor that a commit's tenth of a second takes, by thousands of commits.
fn paced(filled: u64, what: &str, options: &[&str]) {
    const RATE: u64 = 5_000;
    const COMMITS: u64 = 6_000;
    // What is measured at a time; what is on its way at first is in none.
    const SPAN: u64 = 100;
    let options = [&["--commit-interval", "100ms"], options].concat();
    let mut running = Running::start(filled * RATE + (COMMITS + 3 * SPAN) * RATE / 10, RATE, &options);
    running.send(filled * RATE);
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
    println!("{RATE} events/s, --commit-interval 100ms, {what}: ms of processor a commit, of its hundreds\n");
    println!("| commits | mean | median | least | most |\n|---|--:|--:|--:|--:|");
    // The first is nothing yet, the next two have what was still on its way.
    let thousands: Vec<f64> = (1..)
        .zip(spans[3..].chunks_mut(10))
        .map(|(thousand, spans)| {
            let mean = spans.iter().sum::<f64>() / spans.len() as f64;
            spans.sort_by(f64::total_cmp);
            let (least, median, most) = (spans[0], spans[spans.len() / 2], spans[spans.len() - 1]);
            println!("| the {thousand}. thousand | {mean:.1} | {median:.1} | {least:.1} | {most:.1} |");
            mean
        })
        .collect();
    println!("\nmean of the last thousand / of the first: {:.2}\n", thousands[thousands.len() - 1] / thousands[0]);
}

/// Seconds that each hour of events takes.
fn hours() {
    const RATE: u64 = 500;
    const HOUR: u64 = RATE * 3_600;
    let mut running = Running::start(4 * HOUR, RATE, &["--commit-interval", "10s"]);
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
        let mut named = std::env::args().filter(|arg| ["hours", "rows", "paced"].contains(&arg.as_str())).peekable();
        named.peek().is_none() || named.any(|arg| arg == name)
    };
    heading();
    if wanted("hours") {
        hours();
    }
    if wanted("rows") {
        // No Gold is due, nor does it fill its memory, before the end.
        paced(0, "Bronze and Silver only", &["--gold-interval", "30m", "--max-gold-bytes", "2GiB"]);
    }
    if wanted("paced") {
        paced(48 * 60, "all layers, from minute 48 of an hour on", &[]);
    }
}
