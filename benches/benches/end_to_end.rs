//! File → all layers, by the real binary: events a second, CPU an event, peak memory, by kind of traffic; beside the sum of
//! what the parts of an event's way take alone.
//!
//! `cargo build --release --bin pipeline && cargo bench -p subscription-benches --bench end_to_end [-- EVENTS]`

use std::io::{BufWriter, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use subscription_benches::{Parts, lake};
use subscription_core::testkit::traffic::{Traffic, TrafficConfig};
use subscription_core::{Clock as _, SystemClock, Table};

struct Measured {
    seconds: f64,
    cpu: f64,
    peak_mib: f64,
}

/// The release binary beside this benchmark, or the one that `PIPELINE_BIN` names.
fn binary() -> PathBuf {
    std::env::var_os("PIPELINE_BIN").map_or_else(
        || {
            let here = std::env::current_exe().expect("a path");
            here.ancestors().nth(2).expect("target/release/deps").join("pipeline")
        },
        PathBuf::from,
    )
}

fn run(input: &Path, lake: &Path, flags: &[&str]) -> Measured {
    let clock = SystemClock::new();
    let mut child = Command::new(binary())
        .args(["run", "--quiet", "--input"])
        .arg(input)
        .arg("--lake")
        .arg(lake)
        .args(flags)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{}: {e}; build it with `cargo build --release --bin pipeline`", binary().display())
        });
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let mut last = Measured { seconds: 0.0, cpu: 0.0, peak_mib: 0.0 };
    // What the system told last before the end, to a fiftieth of a second.
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if let (Ok(stat), Ok(status)) =
            (std::fs::read_to_string(proc.join("stat")), std::fs::read_to_string(proc.join("status")))
        {
            let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
            last.cpu = ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok());
            last.peak_mib = kib.map_or(last.peak_mib, |kib| kib / 1024.0);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "the run failed: {status}");
    last.seconds = clock.monotonic_nanos() as f64 / 1e9;
    last
}

/// The processor time of this process so far, in seconds, to the tick of the clock.
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The processor time that some work takes, in seconds.
fn cpu_of(work: impl FnOnce()) -> f64 {
    let before = own_cpu();
    work();
    own_cpu() - before
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

/// The machine and what was measured.
fn heading() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let revision = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let revision = revision.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    println!("{cores} cores of {model}; revision {revision}\n");
}

fn main() {
    let events = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(2_000_000u64);
    heading();
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
        "| {events} events | events/s | of the first | CPU µs/event | of the parts | peak MiB |\n|---|--:|--:|--:|--:|--:|"
    );
    let mut first = None;
    for (name, config, flags) in scenarios {
        let input = folder.path().join("in.ndjson");
        let file = BufWriter::with_capacity(1 << 20, std::fs::File::create(&input).expect("a file"));
        Traffic::new(config).write_ndjson(&mut { file }).expect("written");
        let records = lines(&input) as f64;
        let lake = folder.path().join("lake");
        let done = run(&input, &lake, flags);
        let (rate, cpu) = (records / done.seconds, done.cpu * 1e6 / records);
        println!(
            "| {name} | {rate:.0} | {:.0} % | {cpu:.2} | {:.2} | {:.0} |",
            100.0 * rate / *first.get_or_insert(rate),
            cpu / sum,
            done.peak_mib
        );
        std::fs::remove_dir_all(&lake).expect("removed");
    }
}
