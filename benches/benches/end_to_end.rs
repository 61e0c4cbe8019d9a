//! File → all layers, by the real binary: events a second, CPU an event, peak memory, by kind of traffic; beside the sum of
//! what the parts of an event's way take alone.
//!
//! `cargo build --release --bins && cargo bench -p subscription-benches --bench end_to_end [-- EVENTS]`

use std::io::{BufWriter, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use subscription_benches::{Parts, Usage, heading, lake, pipeline, touch_memory, usage};
use subscription_core::testkit::traffic::{Traffic, TrafficConfig};
use subscription_core::{Clock as _, SystemClock, Table};

struct Measured {
    seconds: f64,
    used: Usage,
}

/// Times that each kind of traffic is run; the table has medians.
const RUNS: usize = 3;

fn run(input: &Path, lake: &Path, flags: &[&str]) -> Measured {
    touch_memory();
    let clock = SystemClock::new();
    let mut child = pipeline()
        .args(["run", "--quiet", "--input"])
        .arg(input)
        .arg("--lake")
        .arg(lake)
        .args(flags)
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    // What the system told last before the end, to a fiftieth of a second.
    let mut used = Usage::default();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        used = usage(child.id()).unwrap_or(used);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "the run failed: {status}");
    Measured { seconds: clock.monotonic_nanos() as f64 / 1e9, used }
}

/// The processor time that some work takes, in seconds.
fn cpu_of(work: impl FnOnce()) -> f64 {
    let own = || usage(std::process::id()).unwrap_or_default().cpu;
    let before = own();
    work();
    own() - before
}

/// Microseconds of processor that an event takes in each part alone.
fn parts() -> Vec<(&'static str, f64)> {
    let parts = Parts::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The clock of processors has ticks of 10 ms, so a single pass tells little.
    const PASSES: u32 = 16;
    let mean = |pass: &dyn Fn() -> f64| {
        (0..PASSES).map(|_| pass()).sum::<f64>() / f64::from(PASSES) * 1e6 / parts.events() as f64
    };
    let committed = |table| {
        let folder = tempfile::tempdir().expect("a folder");
        let store = runtime.block_on(lake(folder.path())).expect("a lake");
        cpu_of(|| runtime.block_on(parts.commit(&store, table)).expect("a commit"))
    };
    vec![
        ("read: find key and time", mean(&|| cpu_of(|| parts.read()))),
        ("parse and validate", mean(&|| cpu_of(|| drop(parts.parse())))),
        ("deduplicate", {
            mean(&|| {
                let (mut engine, prepared) = (parts.admit_engine(), parts.parse());
                cpu_of(|| parts.deduplicate(&mut engine, prepared))
            })
        }),
        ("windows", {
            mean(&|| {
                let mut engine = parts.aggregate_engine().expect("an engine");
                cpu_of(|| parts.windows(&mut engine).expect("events in order"))
            })
        }),
        ("Bronze: encode and commit", mean(&|| committed(Table::Bronze))),
        ("Silver: encode and commit", mean(&|| committed(Table::Silver))),
    ]
}

/// How many lines a file has.
fn lines(path: &Path) -> usize {
    let (mut file, mut block, mut lines) = (std::fs::File::open(path).expect("the input"), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut block).expect("the input") {
            0 => return lines,
            len => lines += block[..len].iter().filter(|byte| **byte == b'\n').count(),
        }
    }
}

fn main() {
    let events = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(2_000_000u64);
    heading();
    touch_memory();
    let parts = parts();
    let sum: f64 = parts.iter().map(|(_, micros)| micros).sum();
    println!("| part, alone | CPU µs/event |\n|---|--:|");
    parts.iter().for_each(|(name, micros)| println!("| {name} | {micros:.2} |"));
    println!("| sum | {sum:.2} |\n");

    let folder = tempfile::tempdir().expect("a folder");
    let of = |config: TrafficConfig| TrafficConfig { events, ..config };
    let steady = of(TrafficConfig::steady(1));
    let scenarios: [(&str, TrafficConfig, &[&str]); 7] = [
        ("steady, 10,000 tenants", steady.clone(), &["--commit-interval", "10s"]),
        ("the same, `--commit-interval 1s`", steady.clone(), &["--commit-interval", "1s"]),
        ("20 % late", of(TrafficConfig::late_heavy(1)), &[]),
        ("every event twice", of(TrafficConfig::twice(1)), &[]),
        ("500,000 tenants", of(TrafficConfig::many_tenants(1)), &[]),
        ("one tenant has half", of(TrafficConfig::hot_tenant(1)), &[]),
        (
            "steady, 2.5 times as long",
            TrafficConfig { events: events * 5 / 2, ..steady },
            &["--commit-interval", "10s"],
        ),
    ];
    println!(
        "Medians of {RUNS} runs:\n\n| {events} events | events/s | of the first | CPU µs/event | of the parts | peak MiB |\n|---|--:|--:|--:|--:|--:|"
    );
    let mut first = None;
    for (name, config, flags) in scenarios {
        let input = folder.path().join("in.ndjson");
        let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(&input).expect("a file"));
        Traffic::new(config).write_ndjson(&mut file).expect("written");
        // Else the system writes it to the disk while it is read.
        file.into_inner().expect("written").sync_all().expect("written");
        let records = lines(&input) as f64;
        let lake = folder.path().join("lake");
        let runs: Vec<Measured> = (0..RUNS)
            .map(|_| {
                let done = run(&input, &lake, flags);
                std::fs::remove_dir_all(&lake).expect("removed");
                done
            })
            .collect();
        let median = |of: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[RUNS / 2]
        };
        let rate = records / median(|run| run.seconds);
        let cpu = median(|run| run.used.cpu) * 1e6 / records;
        println!(
            "| {name} | {rate:.0} | {:.0} % | {cpu:.2} | {:.2} | {:.0} |",
            100.0 * rate / *first.get_or_insert(rate),
            cpu / sum,
            median(|run| run.used.peak_mib)
        );
    }
}
